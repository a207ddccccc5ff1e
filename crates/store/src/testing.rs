//! Stores and module versions for the tests of this crate.

use std::path::Path;

use stoa_gomod::ModuleVersion;
use stoa_layout::gate::Mode;
use stoa_layout::{Cancel, Gate, LayoutId, Layouts, Migrator, Options, Runner, events::Silent};

use crate::{FOLDERS, LAYOUT, Store};

/// A store in a folder of its own.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
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

pub(crate) fn create(root: &Path) {
    let layouts = Layouts::new("test 1", LAYOUT, FOLDERS.to_vec());
    let options = Options {
        target: None,
        assumed: None,
        auto: false,
        no_create: false,
        regenerate: false,
        lock_timeout: std::time::Duration::from_secs(1),
        threads: 1,
    };
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
    (&*draft.zip()).write_all(zip).unwrap();
    draft.write_mod(modfile(version).as_bytes()).unwrap();
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
