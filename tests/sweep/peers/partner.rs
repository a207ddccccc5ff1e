//! The peer `m` of the deployment `a`: a script that offers a log with some versions, a conflict, a tombstone and a lifting.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use stoa_gomod::zip;
use testkit::commands::run;
use testkit::server;
use testkit::signing::Signer;
use testkit::upstream::{Module, Script, Upstream};
use testkit::{STOA, client, create, transcript};

const INDEX: &str = "0123456789abcdef0123456789abcdef";

/// The index that the peer had before.
const EARLIER: &str = "fedcba9876543210fedcba9876543210";
const SECRET: &str = "the secret of m and a, which nobody else knows";

/// The number of events in an answer.
const PAGE: usize = 2;

/// The distance between the numbers of two events. A peer whose answers bring less is not asked at once again.
const STEP: usize = 20_000;

/// The peer.
#[derive(Clone)]
pub(super) struct Partner(Arc<Inner>);

struct Inner {
    upstream: Upstream,
    versions: Versions,
    log: Vec<String>,
    is_silent: Arc<AtomicBool>,
    has_earlier_index: Arc<AtomicBool>,
    has_digests: Arc<AtomicBool>,
    /// The store of the current run.
    root: Mutex<PathBuf>,
    /// The number of downloads of each new version before the disturbed run.
    before: Mutex<Vec<usize>>,
    /// The number of downloads of each new version, and whether it was stored, after the disturbed run.
    after: Mutex<Vec<(usize, bool)>>,
}

/// The versions at both ends.
struct Versions {
    /// Versions that only the peer has. The last one has a tombstone here, which the peer has lifted.
    new: Vec<Module>,
    /// A version that both have, with the same content.
    common: Module,
    /// A version that both have, with other content at each: here and there.
    conflict: [Module; 2],
    /// A version that is stored here, and has a tombstone there.
    forbidden: Module,
}

impl Versions {
    fn new() -> Self {
        Self {
            new: ["example.com/a@v1.0.0", "example.com/B/c@v0.1.0", "example.com/lifted@v1.0.0"]
                .map(|pair| Module::new(pair, 500))
                .into(),
            common: Module::new("example.com/common@v1.0.0", 100),
            conflict: [100, 200].map(|bytes| Module::new("example.com/conflict@v1.0.0", bytes)),
            forbidden: Module::new("example.com/forbidden@v1.0.0", 100),
        }
    }

    /// Returns the version whose tombstone the peer has lifted.
    fn lifted(&self) -> &Module {
        self.new.last().unwrap()
    }

    /// Returns the events of the peer. Pages end between each two.
    fn log(&self) -> Vec<String> {
        let [first, second, lifted] = &self.new[..] else { panic!("three new versions") };
        // The event of the lifted version comes while the tombstone is still in force.
        let published = [first, lifted, &self.common, &self.conflict[1], second];
        let mut log: Vec<String> =
            published.into_iter().enumerate().map(|(n, module)| event((n + 1) * STEP, module)).collect();
        for (module, mark) in [
            (&self.forbidden, r#""kind":"tombstoned","counter":1,"reason":"a key""#),
            (lifted, r#""kind":"lifted","counter":2"#),
        ] {
            let (seq, path, version) =
                ((log.len() + 1) * STEP, module.version.path(), module.version.version());
            log.push(format!(
                r#"{{"seq":{seq},"module":"{path}","version":"{version}","origin":"m","at":"2026-01-02T03:04:05Z",{mark}}}"#
            ));
        }
        log
    }
}

fn event(seq: usize, module: &Module) -> String {
    let h1 = zip::examine(&module.zip, &module.version).unwrap().h1;
    let (path, version) = (module.version.path(), module.version.version());
    format!(
        r#"{{"seq":{seq},"module":"{path}","version":"{version}","kind":"published","time":1,"h1":"{h1}","bytes":1000}}"#
    )
}

impl Partner {
    pub(super) fn start() -> Self {
        let versions = Versions::new();
        let log = versions.log();
        let [is_silent, has_earlier_index, has_digests] =
            [false, false, true].map(|is_so| Arc::new(AtomicBool::new(is_so)));
        let compares = Arc::clone(&has_digests);
        let (all, may_not, is_earlier) =
            (log.clone(), Arc::clone(&is_silent), Arc::clone(&has_earlier_index));
        let upstream = Upstream::with(move |request| {
            let log = if may_not.load(Ordering::SeqCst) { &[] } else { &all[..] };
            let index = if is_earlier.load(Ordering::SeqCst) { EARLIER } else { INDEX };
            match request.path.as_str() {
                "/sync/v1/events" => Script::Body(events(index, log, &all, &request.body)),
                "/sync/v1/digests" if compares.load(Ordering::SeqCst) => Script::Body(digests(log)),
                "/sync/v1/digests" => Script::Body(digests(&[])),
                _ => Script::Status(404, "text/plain", b"not found\n"),
            }
        });
        // Also those that nobody may ask for.
        let Versions { new, common, conflict, forbidden } = &versions;
        for module in new.iter().chain([common, &conflict[1], forbidden]) {
            upstream.serve(module);
        }
        Self(Arc::new(Inner {
            upstream,
            versions,
            log,
            is_silent,
            has_earlier_index,
            has_digests,
            root: Mutex::default(),
            before: Mutex::default(),
            after: Mutex::default(),
        }))
    }

    /// Answers as a peer without any event, or with all events again. Files and the events of single modules are answered
    /// always.
    pub(super) fn be_silent(&self, is_silent: bool) {
        self.0.is_silent.store(is_silent, Ordering::SeqCst);
    }

    /// Answers from the index that the peer had before, or from its index again.
    pub(super) fn be_earlier(&self, is_earlier: bool) {
        self.0.has_earlier_index.store(is_earlier, Ordering::SeqCst);
    }

    /// Answers comparisons with all modules, or with none.
    pub(super) fn answer_digests(&self, has_digests: bool) {
        self.0.has_digests.store(has_digests, Ordering::SeqCst);
    }

    /// Puts the versions that are here at the beginning into a store, without seals.
    pub(super) fn put_all(&self, root: &Path) {
        let Versions { common, conflict, forbidden, .. } = &self.0.versions;
        for module in [common, &conflict[0], forbidden, self.lifted()] {
            module.put_unsealed(root);
        }
    }

    /// Returns the versions that only the peer has, and the version that the peer forbids.
    pub(super) fn versions(&self) -> (&[Module], &Module) {
        (&self.0.versions.new, &self.0.versions.forbidden)
    }

    /// Returns the version whose tombstone the peer has lifted.
    pub(super) fn lifted(&self) -> &Module {
        self.0.versions.lifted()
    }

    /// Returns the pointers of a deployment that has read the whole log.
    pub(super) fn last_pointer(&self) -> Value {
        serde_json::json!({ INDEX: self.0.log.len() * STEP })
    }

    /// Checks that each version was downloaded once, the lifted one too unless it is not expected.
    pub(super) fn check_each_downloaded(&self, has_lifted: bool) {
        let downloads = self.downloads();
        let (lifted, others) = downloads.split_last().unwrap();
        assert!(others.iter().all(|count| *count == 1), "{downloads:?}");
        assert!(*lifted == 1 || !has_lifted, "{downloads:?}");
    }

    /// Checks that no version was downloaded more than some times, and no version that is here already.
    pub(super) fn check_downloads(&self, most: usize, what: &str) {
        let Versions { new, common, conflict, forbidden } = &self.0.versions;
        for module in new {
            let count = self.0.upstream.count(&module.path("zip"));
            assert!(count <= most, "{what}: {} was downloaded {count} times", module.version);
        }
        for module in [common, &conflict[0], forbidden] {
            assert_eq!(self.0.upstream.count(&module.path("zip")), 0, "{what}: {}", module.version);
        }
    }

    /// Makes a folder with a store and its configuration. The store has what is here at the beginning.
    pub(super) fn template(&self) -> tempfile::TempDir {
        let folder = testkit::tempdir();
        self.configure(folder.path(), "1h");
        let root = folder.path().join("store");
        create(&root);
        self.put_all(&root);
        // Gives them seals.
        let output = run(&root, &["verify"]);
        assert!(output.status.success(), "{}", transcript(&output));
        let lifted = self.lifted().version.to_string();
        let output = stoa(&root, &["remove", "--tombstone", "--yes", &lifted]).output().unwrap();
        assert!(output.status.success(), "{}", transcript(&output));
        // Builds the index.
        self.be_silent(true);
        super::sync(&root, &super::SYNC);
        folder
    }

    /// Writes the configuration of the deployment into a folder. `interval` is the pause between two pulls.
    pub(super) fn configure(&self, folder: &Path, interval: &str) {
        fs::create_dir_all(folder).unwrap();
        let secret = folder.join("secret");
        fs::write(&secret, SECRET).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let url = self.0.upstream.url();
        // The index and the notes of last use have sweeps of their own.
        let text = format!(
            "upstream = \"off\"\ngosumdb = \"off\"\n[last_use]\ninterval = 0\n[peers]\nname = \"a\"\nmax_concurrent = 1\n\
             [[peer]]\nname = \"m\"\nurl = \"{url}\"\nsecret_file = \"secret\"\noffer = []\npush = false\n\
             accept_tombstones = true\ninterval = \"{interval}\"\n"
        );
        fs::write(folder.join("config.toml"), text).unwrap();
    }

    /// Copies a template to the folder of a run.
    pub(super) fn prepare(&self, template: &Path, folder: &Path) {
        // With the times of the files, without which seals do not count.
        let copied = Command::new("cp").arg("-a").arg(template.join(".")).arg(folder).status().unwrap();
        assert!(copied.success());
        *self.0.root.lock().unwrap() = folder.join("store");
        *self.0.before.lock().unwrap() = self.downloads();
        self.0.after.lock().unwrap().clear();
    }

    /// Notifies a server of everything. Returns whether it accepted the events.
    pub(super) fn notify(&self, url: &str) -> bool {
        // A request that is signed before the first answer may count as one to an earlier process.
        if server::get(url, "/healthz").is_err() {
            return false;
        }
        let body = format!(r#"{{"index":"{INDEX}","events":[{}]}}"#, self.0.log.join(","));
        let authorization = Signer::new("m", "a", SECRET).sign("POST", "/sync/v1/notify", body.as_bytes());
        let headers = [("Authorization", authorization.as_str())];
        let address = client::address(url);
        let sent = client::try_send(address, "POST", "/sync/v1/notify", &headers, body.as_bytes());
        sent.is_ok_and(|reply| reply.status == 202)
    }

    /// Returns whether a server on the store of the current run has work left.
    pub(super) fn has_work(&self) -> bool {
        let root = self.0.root.lock().unwrap().clone();
        if !self.is_done(&root) {
            return true;
        }
        let state = state(&root);
        let last = if self.0.is_silent.load(Ordering::SeqCst) { 0 } else { self.0.log.len() * STEP };
        // The server has pulled and compared since its start.
        state["current"] != last || state["last_comparison"].is_null() || state["queued"] != 0
    }

    fn downloads(&self) -> Vec<usize> {
        self.0.versions.new.iter().map(|module| self.0.upstream.count(&module.path("zip"))).collect()
    }

    /// Returns whether all versions are stored, and the forbidden one is gone.
    pub(super) fn is_done(&self, root: &Path) -> bool {
        let Versions { new, forbidden, .. } = &self.0.versions;
        new.iter().all(|module| folder(root, module).exists()) && !folder(root, forbidden).exists()
    }

    /// Notes the state after a disturbed run. Versions that are there are complete, and no version was downloaded twice.
    pub(super) fn note(&self, root: &Path, hit: &str) {
        let Versions { new, common, conflict, forbidden } = &self.0.versions;
        for module in [common, &conflict[0]] {
            assert!(is_whole(root, module, hit), "{} is lost after {hit}", module.version);
        }
        let is_gone = !is_whole(root, forbidden, hit);
        assert!(!is_gone || is_recorded(root, forbidden), "a tombstone without a record after {hit}");
        let before = self.0.before.lock().unwrap();
        let downloads = self.downloads();
        for ((module, before), after) in new.iter().zip(before.iter()).zip(&downloads) {
            assert!(after - before <= 1, "{} was downloaded twice before {hit}", module.version);
        }
        *self.0.after.lock().unwrap() =
            downloads.into_iter().zip(new.iter().map(|module| is_whole(root, module, hit))).collect();
    }

    /// Checks that everything is done after the second run, and that it downloaded no stored version again.
    pub(super) fn check(&self, root: &Path) {
        let Versions { new, common, conflict, forbidden } = &self.0.versions;
        for module in new.iter().chain([common, &conflict[0]]) {
            assert!(is_whole(root, module, "the end"), "{} is lost", module.version);
        }
        assert!(!folder(root, forbidden).exists() && is_recorded(root, forbidden), "the tombstone is lost");
        let downloads = self.downloads();
        let after: Vec<_> = self.0.after.lock().unwrap().drain(..).collect();
        for ((module, now), (before, was_stored)) in new.iter().zip(downloads).zip(after) {
            let expected = usize::from(!was_stored);
            assert_eq!(now - before, expected, "downloads of {} in the second run", module.version);
        }
        for module in [common, &conflict[0], forbidden] {
            assert_eq!(self.0.upstream.count(&module.path("zip")), 0, "{} was downloaded", module.version);
        }
        let state = state(root);
        let numbers = ["lag_events", "queued", "parked", "conflicts"].map(|name| state[name].as_u64());
        assert_eq!(numbers, [Some(0), Some(0), Some(0), Some(1)], "{state}");
        let output = run(root, &["verify"]);
        assert!(output.status.success(), "{}", transcript(&output));
    }
}

/// Prepares a command for the deployment.
pub(super) fn stoa(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(STOA);
    command.args(arguments).arg("--config").arg(root.with_file_name("config.toml")).arg("--store").arg(root);
    command.env_remove("GOPROXY").env_remove("STOA_STORE").env_remove("STOA_UPSTREAM").env("GOENV", "off");
    // Each program reads the roots of the system otherwise, which takes most of its time.
    command
        .env("SSL_CERT_FILE", testkit::project("crates/testkit/src/certificate.pem"))
        .env_remove("SSL_CERT_DIR");
    command
}

/// Returns what `stoa peers` says of the peer.
pub(super) fn state(root: &Path) -> Value {
    let output = stoa(root, &["peers", "--format", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

fn folder(root: &Path, module: &Module) -> PathBuf {
    let (path, version) = (module.version.path().escaped(), module.version.version().escaped());
    root.join(format!("modules/{path}/@v/{version}"))
}

/// Returns whether a version is there. Then it is complete.
fn is_whole(root: &Path, module: &Module, hit: &str) -> bool {
    let folder = folder(root, module);
    let is_there = folder.exists();
    for (name, content) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
        let has_it = fs::read(folder.join(name)).is_ok_and(|found| found == *content);
        assert!(!is_there || has_it, "the {name} of {} is wrong after {hit}", module.version);
    }
    is_there
}

/// Returns whether the record of a version has the tombstone of the peer.
fn is_recorded(root: &Path, module: &Module) -> bool {
    let (path, version) = (module.version.path().escaped(), module.version.version().escaped());
    let Ok(text) = fs::read_to_string(root.join(format!("records/{path}/@v/{version}.toml"))) else {
        return false;
    };
    let record: toml::Table = toml::from_str(&text).unwrap();
    let tombstone = record.get("tombstone").and_then(toml::Value::as_table);
    tombstone.is_some_and(|tombstone| {
        tombstone["origin"].as_str() == Some("m") && tombstone["counter"].as_integer() == Some(1)
    })
}

/// Answers a request for events.
fn events(index: &str, log: &[String], all: &[String], request: &[u8]) -> Vec<u8> {
    let request: Value = serde_json::from_slice(request).unwrap();
    if let Some(modules) = request["modules"].as_array() {
        let of_module = |module: &Value| {
            let event = format!("\"module\":{module}");
            all.iter().filter(move |line| line.contains(&event)).cloned()
        };
        return answer(index, log, true, modules.iter().flat_map(of_module), 0, false);
    }
    let Some(after) = request["pointers"][index].as_u64() else {
        return answer(index, log, false, [], 0, false);
    };
    let from = log.len().min(after as usize / STEP);
    let to = log.len().min(from + PAGE);
    answer(index, log, true, log[from..to].iter().cloned(), to * STEP, to < log.len())
}

fn answer(
    index: &str,
    log: &[String],
    known: bool,
    events: impl IntoIterator<Item = String>,
    seq: usize,
    more: bool,
) -> Vec<u8> {
    let mut lines = vec![format!(r#"{{"index":"{index}","current":{},"known":{known}}}"#, log.len() * STEP)];
    lines.extend(events);
    lines.push(format!(r#"{{"end":true,"seq":{seq},"more":{more}}}"#));
    lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
}

/// Answers with digests that differ from those of every store.
fn digests(log: &[String]) -> Vec<u8> {
    let of_line =
        |line: &String| serde_json::from_str::<Value>(line).unwrap()["module"].as_str().map(str::to_owned);
    let modules: std::collections::BTreeSet<String> = log.iter().filter_map(of_line).collect();
    let mut text = String::new();
    for module in modules {
        text.push_str(&format!("{{\"module\":\"{module}\",\"digest\":\"{:064}\"}}\n", 0));
    }
    text.push_str("{\"end\":true,\"more\":false}\n");
    text.into_bytes()
}
