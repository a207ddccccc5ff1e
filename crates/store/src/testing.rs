//! Stores and module versions for the tests of this crate.

use std::path::Path;

use stoa_gomod::ModuleVersion;
use stoa_layout::gate::Mode;
use stoa_layout::{Cancel, Gate, LayoutId, Layouts, Migrator, Options, Runner, events::Silent};

use crate::{FOLDERS, LAYOUT, Store};

/// A store in its own folder.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = testkit::tempdir();
        create(dir.path());
        let store = open(dir.path(), Mode::ReadWrite);
        Self { dir, store }
    }

    pub(crate) fn publish(&self, version: &ModuleVersion, zip: &[u8]) -> crate::Published {
        let claim = self.store.claim(version).unwrap();
        let draft = draft(&self.store, version, zip);
        self.store.publish(draft, &claim).unwrap()
    }
}

/// Returns versions of a file that are cut, changed or longer.
pub(crate) fn damages(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut damages: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
    damages.extend((0..whole.len()).map(|at| {
        let mut turned = whole.to_vec();
        turned[at] ^= 1;
        turned
    }));
    damages.push(vec![0; whole.len()]);
    damages.push([whole, b"more"].concat());
    damages
}

pub(crate) fn create(root: &Path) {
    let layouts = Layouts::new("test 1", LAYOUT, FOLDERS.to_vec());
    let options = Options::default();
    let runner =
        Runner { root, layouts: &layouts, options: &options, events: &Silent, cancel: &Cancel::new() };
    runner.run().unwrap();
}

pub(crate) fn open(root: &Path, mode: Mode) -> Store {
    let current: LayoutId = LAYOUT;
    let gate = Gate { root, current: &current, migrator: &Migrator::Forbidden { name: "none" } };
    let pass = gate.pass().unwrap();
    Store::open(gate.hold(pass, mode).unwrap(), mode).unwrap()
}

pub(crate) fn draft(store: &Store, version: &ModuleVersion, zip: &[u8]) -> crate::SealedDraft {
    use std::io::Write;
    let mut draft = store.draft(version).unwrap();
    (&**draft.zip()).write_all(zip).unwrap();
    draft.set_mod(modfile(version).as_bytes());
    draft.seal(info(version).as_bytes()).unwrap()
}

pub(crate) fn version(pair: &str) -> ModuleVersion {
    ModuleVersion::parse(pair).unwrap()
}

pub(crate) fn modfile(version: &ModuleVersion) -> String {
    format!("module {}\n", version.path())
}

pub(crate) fn info(version: &ModuleVersion) -> String {
    format!("{{\"Version\":\"{}\",\"Time\":\"2024-01-02T03:04:05Z\"}}", version.version())
}

pub(crate) fn zip(version: &ModuleVersion, content: &str) -> Vec<u8> {
    let modfile = modfile(version);
    let files = [("go.mod", modfile.as_bytes()), ("a.go", content.as_bytes())];
    stoa_gomod::zip::create(version, files).unwrap()
}

/// Puts a version into a store as a migration does: whole and not sealed.
pub(crate) fn put_unsealed(store: &Store, version: &ModuleVersion, zip: &[u8]) -> std::path::PathBuf {
    let folder = store.paths.version(version);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("mod"), modfile(version)).unwrap();
    std::fs::write(folder.join("zip"), zip).unwrap();
    std::fs::write(folder.join("info"), info(version)).unwrap();
    folder
}

/// Returns the reasons in quarantine with the names of the quarantined files.
pub(crate) fn quarantined(root: &Path) -> Vec<(String, Vec<String>)> {
    let mut entries: Vec<_> =
        std::fs::read_dir(root.join("quarantine")).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    entries
        .iter()
        .map(|entry| {
            let text = std::fs::read_to_string(entry.join("reason.toml")).unwrap();
            let why: crate::Quarantined = toml::from_str(&text).unwrap();
            let content = entry.join("version");
            let mut names: Vec<String> = match std::fs::read_dir(&content) {
                Ok(files) => files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect(),
                Err(_) => vec![if content.is_symlink() { "symlink" } else { "file" }.to_owned()],
            };
            names.sort();
            (why.reason, names)
        })
        .collect()
}

/// Returns the names in the runs in staging, except their locks.
pub(crate) fn staged(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for run in std::fs::read_dir(root.join("staging")).unwrap() {
        let run = run.unwrap().path();
        if run.is_dir() && !run.ends_with("reserve") {
            names.extend(
                std::fs::read_dir(run).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()),
            );
        }
    }
    names.retain(|name| name != "lock");
    names
}
