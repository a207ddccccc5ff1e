//! The tombstones in the records of a store. What was read stays in memory until a file changes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::error::PathContext;

use super::record::Tombstone;
use super::{Records, SUFFIX, parse, read, versions_with_record};
use crate::StoreError;
use crate::files::{Stamp, metadata};
use crate::list::{KnownVersions, has_settled};
use crate::paths::Paths;
use crate::walk::each_module;

impl Records<'_> {
    /// Returns the tombstone of a version. `None` if the version was not removed for good.
    pub fn tombstone(&self, version: &ModuleVersion) -> Result<Option<Tombstone>, StoreError> {
        Ok(self.get(version)?.and_then(|record| record.tombstone))
    }

    /// Returns the versions of a module that have a tombstone or a damaged record, which may hold a tombstone.
    ///
    /// Needs one system call while no record of the module changes. After a change, only new and changed records are
    /// opened.
    pub fn tombstones(&self, module: &ModulePath) -> Result<Arc<[Version]>, StoreError> {
        let store = self.0;
        let path = store.paths.records().join(Paths::versions_below_modules(module));
        let Some(meta) = metadata(&path)? else { return Ok(Arc::default()) };
        KnownVersions::get(&store.tombstones, module, (&path, &meta), || {
            let mut versions = Vec::new();
            for version in versions_with_record(&path)? {
                if self.may_forbid(&path.join(version.escaped() + SUFFIX))? {
                    versions.push(version);
                }
            }
            Ok(versions)
        })
    }

    /// Visits every tombstone of the store, module by module. A damaged record is handed out as its error, because it
    /// may hold a tombstone.
    ///
    /// Reads the records one at a time and holds only the names of the folders on its way in memory. A folder that
    /// cannot be read ends the walk with an error, and so does an error of `visit`.
    pub fn each_tombstone<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(ModuleVersion, Result<Tombstone, StoreError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let each = |module: ModulePath| -> Result<ControlFlow<()>, E> {
            let folder = self.0.paths.records().join(Paths::versions_below_modules(&module));
            let mut versions = versions_with_record(&folder)?;
            versions.sort();
            for version in versions {
                let Ok(version) = ModuleVersion::new(module.clone(), version) else { continue };
                match self.tombstone(&version) {
                    Ok(Some(tombstone)) => visit(version, Ok(tombstone))?,
                    Ok(None) => {}
                    Err(error) => visit(version, Err(error))?,
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        each_module(&self.0.paths.records(), each, |error| Err(StoreError::from(error).into()), |_| {})
    }

    /// Returns whether a record holds a tombstone or is damaged. A record without a tombstone is read only once.
    fn may_forbid(&self, path: &Path) -> Result<bool, StoreError> {
        let Some(meta) = metadata(path)? else { return Ok(false) };
        let stamp = Stamp::of(&meta);
        if self.0.harmless.get(&stamp).is_some() {
            return Ok(false);
        }
        let may_forbid = forbids(path)?;
        if !may_forbid && has_settled(meta.modified().at("stat", path)?) {
            self.0.harmless.insert(stamp, ());
        }
        Ok(may_forbid)
    }
}

fn forbids(path: &Path) -> Result<bool, StoreError> {
    match read(path) {
        // Most records have no tombstone, and a module may have many records, so most are not parsed.
        Ok(Some(text)) if !text.contains("tombstone") => Ok(false),
        Ok(Some(text)) => Ok(parse(path, &text).map_or(true, |record| record.tombstone.is_some())),
        Ok(None) => Ok(false),
        Err(StoreError::Record { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use super::super::record::tests::{full, h1};
    use super::*;
    use crate::Record;
    use crate::list::SETTLED;
    use crate::testing::{Fixture, version};

    #[test]
    fn tombstones_of_a_module_are_listed_and_kept_in_memory() {
        let fixture = Fixture::new();
        let module = ModulePath::new("example.com/m").unwrap();
        assert!(fixture.store.records().tombstones(&module).unwrap().is_empty());
        for (pair, is_forbidden) in [("v1.0.0", true), ("v1.1.0", false), ("v1.2.0-RC1", true)] {
            let v = version(&format!("example.com/m@{pair}"));
            let tombstone = is_forbidden.then(|| Tombstone::now(None));
            let record = Record { tombstone, h1: Some(h1('A')), ..Record::default() };
            fixture.store.records().write(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        }
        let listed = || {
            let mut listed: Vec<_> =
                fixture.store.records().tombstones(&module).unwrap().iter().map(Version::to_string).collect();
            listed.sort();
            listed
        };
        assert_eq!(listed(), ["v1.0.0", "v1.2.0-RC1"]);
        assert!(fixture.store.tombstones.get(&module).is_none(), "it changed a moment ago");
        let folder = fixture.store.paths.records().join(Paths::versions_below_modules(&module));
        fs::File::open(&folder).unwrap().set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
        assert_eq!(listed(), ["v1.0.0", "v1.2.0-RC1"]);
        assert!(fixture.store.tombstones.get(&module).is_some());
        let v = version("example.com/m@v1.0.0");
        fixture.store.records().write(&fixture.store.claim(&v).unwrap(), &Record::default()).unwrap();
        assert_eq!(listed(), ["v1.2.0-RC1"]);
    }

    #[test]
    fn every_tombstone_is_visited_with_its_reason() {
        let fixture = Fixture::new();
        for (pair, reason) in [
            ("example.com/m@v1.0.0", Some("a key is in it")),
            ("example.com/B@v2.0.0+incompatible", None),
            ("example.com/m@v1.10.0", Some("it is broken")),
            ("example.com/m@v1.9.0", Some("it is slow")),
        ] {
            let v = version(pair);
            let tombstone = Some(Tombstone::now(reason.map(str::to_owned)));
            let record = Record { tombstone, ..Record::default() };
            fixture.store.records().write(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        }
        let v = version("example.com/free@v1.0.0");
        let record = Record { h1: Some(h1('A')), ..Record::default() };
        fixture.store.records().write(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        fs::write(fixture.store.paths.record(&version("example.com/m@v1.9.0")), "").unwrap();
        fixture.store.tree_heads().replace("sum.example", None, b"a note").unwrap();
        let mut seen = Vec::new();
        fixture
            .store
            .records()
            .each_tombstone::<StoreError>(|version, tombstone| {
                let reason = tombstone.map(|tombstone| tombstone.reason);
                seen.push((version.to_string(), reason.map_err(|error| error.to_string())));
                Ok(())
            })
            .unwrap();
        seen.sort();
        let [incompatible, first, tenth, damaged] = seen.try_into().unwrap();
        assert_eq!(incompatible, ("example.com/B@v2.0.0+incompatible".to_owned(), Ok(None)));
        assert_eq!(first, ("example.com/m@v1.0.0".to_owned(), Ok(Some("a key is in it".to_owned()))));
        assert_eq!(tenth.0, "example.com/m@v1.10.0");
        assert!(damaged.1.unwrap_err().contains("v1.9.0.toml"));
    }

    #[test]
    fn a_record_without_a_tombstone_is_read_once() {
        let fixture = Fixture::new();
        let module = ModulePath::new("example.com/m").unwrap();
        let record = Record { h1: Some(h1('A')), ..Record::default() };
        let write = |number: u32, record: &Record| {
            let v = version(&format!("example.com/m@v1.{number}.0"));
            fixture.store.records().write(&fixture.store.claim(&v).unwrap(), record).unwrap();
            fixture.store.paths.record(&v)
        };
        for number in 0..20 {
            let path = write(number, &record);
            fs::File::open(path).unwrap().set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
        }
        let listed = || fixture.store.records().tombstones(&module).unwrap().len();
        // The folder is young, so each call lists it.
        assert_eq!((listed(), fixture.store.harmless.len()), (0, 20));
        write(20, &record);
        assert_eq!((listed(), fixture.store.harmless.len()), (0, 20), "a young record is not remembered");
        // A later write is noticed, by a rename or in place.
        write(3, &full());
        assert_eq!(listed(), 1);
        let in_place = toml::to_string(&full()).unwrap();
        fs::write(fixture.store.paths.record(&version("example.com/m@v1.7.0")), in_place).unwrap();
        assert_eq!(listed(), 2);
        // A record that is known to be harmless is not opened, or its tombstone would be found here.
        let forbidding = fixture.store.paths.record(&version("example.com/m@v1.3.0"));
        fixture.store.harmless.insert(Stamp::of(&metadata(&forbidding).unwrap().unwrap()), ());
        assert_eq!(listed(), 1);
    }
}
