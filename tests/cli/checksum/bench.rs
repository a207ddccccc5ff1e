//! A store, a site to fill it from, and what must be so.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use stoa_gomod::{H1, ModuleVersion, h1};

use testkit::server::{self, Server};
use testkit::sumdb::{self, Site};
use testkit::upstream::Module;

/// A store, a site to fill it from, and what the proxies say.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    pub(super) site: Site,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self { dir: testkit::tempdir(), site: Site::start(300) }
    }

    pub(super) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(super) fn command(&self, policy: &str, sumdb: &str) -> Command {
        let mut command = server::command(&self.store());
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        // A test heals the upstream and asks again at once.
        command.args(["--upstream", self.site.url(), "--fill-wrong-pause", "0"]);
        command.env("STOA_CHECKSUM", policy).env("STOA_GOSUMDB", sumdb).env("STOA_LOG", "info");
        command.env_remove("GONOSUMDB").env_remove("GOPRIVATE").stderr(log);
        command
    }

    pub(super) fn serve(&self, policy: &str) -> Server {
        Server::start_with(&mut self.command(policy, &sumdb::verifier_key()))
    }

    /// Returns a command of `stoa` on the store, with the configuration of a server.
    pub(super) fn stoa(&self, args: &[&str]) -> Command {
        let mut command = testkit::commands::stoa(&self.store(), args);
        command.env("STOA_UPSTREAM", self.site.url()).env("STOA_GOSUMDB", sumdb::verifier_key());
        command.env_remove("GONOSUMDB").env_remove("GOPRIVATE");
        command
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(super) fn folder(&self, version: &ModuleVersion) -> PathBuf {
        let below = format!("{}/@v/{}", version.path().escaped(), version.version().escaped());
        self.store().join("modules").join(below)
    }

    pub(super) fn record(&self, version: &ModuleVersion) -> Option<String> {
        let below = format!("{}/@v/{}.toml", version.path().escaped(), version.version().escaped());
        fs::read_to_string(self.store().join("records").join(below)).ok()
    }

    pub(super) fn heads(&self) -> PathBuf {
        self.store().join("records/sumdb").join(sumdb::NAME.replace('/', "%2F"))
    }

    /// The size of the largest head that is kept.
    pub(super) fn largest(&self) -> usize {
        let note = fs::read_to_string(self.heads().join("latest")).unwrap();
        note.lines().nth(1).unwrap().parse().unwrap()
    }

    pub(super) fn forks(&self) -> Vec<String> {
        let names = fs::read_dir(self.heads()).unwrap().map(|entry| entry.unwrap().path());
        let forks = names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("fork-"));
        forks.map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    /// Sees to it that nothing of a version is in the store, nor anything on its way, and no hash of it is recorded.
    pub(super) fn assert_absent(&self, version: &ModuleVersion) {
        // At most a failed lookup is noted.
        let record = self.record(version).unwrap_or_default();
        assert!(!record.contains("h1"), "{version}: {record}");
        self.assert_not_stored(version);
    }

    /// Sees to it that nothing of a version is in the store but a record with the verdict of the database, which knows
    /// this content of it.
    pub(super) fn assert_recorded(&self, known: &Module) {
        let record = self.record(&known.version).expect("the verdict is recorded");
        let (zip, modfile) = (h1_of_zip(known), h1::hash_mod(&known.modfile));
        for line in [
            format!("database = {:?}", sumdb::NAME),
            format!("\nh1 = {:?}", zip.as_str()),
            format!("gomod_h1 = {:?}", modfile.as_str()),
        ] {
            assert!(format!("\n{record}").contains(&line), "{line} is not in {record}");
        }
        self.assert_not_stored(&known.version);
    }

    pub(super) fn assert_not_stored(&self, version: &ModuleVersion) {
        assert!(!self.folder(version).exists(), "{version} is stored");
        assert_eq!(fs::read_dir(self.store().join("quarantine")).unwrap().count(), 0);
        // A draft that was given up while it was begun goes a moment after the answer.
        testkit::until("no draft is left", || self.drafts().is_empty());
    }

    pub(super) fn drafts(&self) -> Vec<PathBuf> {
        let runs = fs::read_dir(self.store().join("staging")).unwrap().map(|entry| entry.unwrap().path());
        let within =
            |run: PathBuf| fs::read_dir(run).into_iter().flatten().map(|entry| entry.unwrap().path());
        let is_run = |path: &PathBuf| path.is_dir() && !path.ends_with("reserve");
        runs.filter(is_run).flat_map(within).filter(|path| !path.ends_with("lock")).collect()
    }

    /// Sees to it that a version is refused with a status and these words, and nothing of it is kept.
    pub(super) fn assert_refused(
        &self,
        server: &Server,
        module: &Module,
        ending: &str,
        status: u16,
        words: &str,
    ) {
        assert_answered(server, module, ending, status, words);
        self.assert_absent(&module.version);
    }

    /// Sees to it that a version is refused, since the database knows this content of it, and that this is recorded.
    pub(super) fn assert_other(&self, server: &Server, known: &Module, ending: &str, words: &str) {
        assert_answered(server, known, ending, 403, words);
        self.assert_recorded(known);
    }

    pub(super) fn assert_filled(&self, server: &Server, module: &Module) {
        let (status, body) = get(server, module, "zip");
        assert!(status == 200 && body == module.zip, "{status} {}", String::from_utf8_lossy(&body));
        assert!(self.folder(&module.version).join("info").is_file());
    }
}

pub(super) fn assert_answered(server: &Server, module: &Module, ending: &str, status: u16, words: &str) {
    let (answered, body) = get(server, module, ending);
    let body = String::from_utf8_lossy(&body);
    assert!(answered == status && body.contains(words), "{ending}: {answered} {body}");
}

pub(super) fn h1_of_zip(module: &Module) -> H1 {
    stoa_gomod::zip::examine(&module.zip.as_slice(), &module.version).unwrap().h1
}

pub(super) fn get(server: &Server, module: &Module, ending: &str) -> (u16, Vec<u8>) {
    let version = &module.version;
    server.get(&format!("/{}/@v/{}.{ending}", version.path().escaped(), version.version().escaped()))
}

/// Another content for a version: its go.mod too, if it is told so.
pub(super) fn another(pair: &str, bytes: usize, modfile: Option<&str>) -> Module {
    let mut module = Module::new(pair, bytes);
    if let Some(modfile) = modfile {
        let files = [("go.mod", modfile.as_bytes()), ("m.go", b"package m\n".as_slice())];
        module.zip = stoa_gomod::zip::create(&module.version, files).unwrap();
        module.modfile = modfile.as_bytes().to_vec();
    }
    module
}
