//! Records: what must be known of a version whether it lies in the store or not, and can be derived from nothing.
//!
//! ```text
//! records/ESCAPED/@v/VERSION.toml     written aside and renamed, under the version's claim
//! ```
//!
//! A record says which content a version has had here or has by a checksum database, and whether it is forbidden by a
//! tombstone. Whatever makes a version visible goes by [`Store::objection`] first: another content than the
//! recorded one is never published, and nothing at all where there is a tombstone. What is visible is read without
//! a look at its record.
//!
//! A record that cannot be read as one is an error and never taken for none: it may hold the tombstone that somebody
//! relies on.

use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stoa_gomod::{H1, ModulePath, ModuleVersion, Version};
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, durable, marker};

use crate::list::SETTLED;
use crate::paths::Paths;
use crate::read::{Stamp, is_absent, open_file};
use crate::walk::each_module;
use crate::{Claim, Store, StoreError, staging};

/// What is recorded of a version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of its zip: of the one that was removed, or that a checksum database knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h1: Option<H1>,
    /// The hash of its go.mod, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gomod_h1: Option<H1>,
    /// What a checksum database said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// That it is forbidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
    /// Keys of other releases, which are written again as they were.
    #[serde(flatten)]
    pub other: toml::Table,
}

/// That a checksum database vouched for the hashes of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The name of the database.
    pub database: String,
    /// The size of the tree that holds them.
    pub tree_size: u64,
    /// When that was seen, RFC 3339 in UTC.
    pub at: String,
}

/// That a version is neither served nor stored any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Since when, RFC 3339 in UTC.
    pub at: String,
    /// Why, for those who ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Tombstone {
    /// Makes one of now.
    pub fn now(reason: Option<String>) -> Self {
        Self { at: marker::now(), reason }
    }
}

impl std::fmt::Display for Tombstone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "it was removed for good at {}: {reason}", self.at),
            None => write!(f, "it was removed for good at {}", self.at),
        }
    }
}

/// What a record has against publishing a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// It is forbidden.
    #[error("{0}")]
    Tombstone(Tombstone),
    /// It is another one than was here before.
    #[error("its {file} is {ours}, and what was here before, or a checksum database knows, is {recorded}")]
    Differs {
        /// Which file: "zip" or "mod".
        file: &'static str,
        /// The hash that is recorded.
        recorded: H1,
        /// The hash of the one that was to be published.
        ours: H1,
    },
}

impl Record {
    /// Says what speaks against publishing a version with these hashes, if anything does.
    pub fn objection(&self, h1: &H1, gomod_h1: Option<&H1>) -> Option<Objection> {
        if let Some(tombstone) = &self.tombstone {
            return Some(Objection::Tombstone(tombstone.clone()));
        }
        let pairs = [("zip", &self.h1, Some(h1)), ("mod", &self.gomod_h1, gomod_h1)];
        pairs.into_iter().find_map(|(file, recorded, ours)| match (recorded, ours) {
            (Some(recorded), Some(ours)) if recorded != ours => {
                Some(Objection::Differs { file, recorded: recorded.clone(), ours: ours.clone() })
            }
            _ => None,
        })
    }
}

/// The tombstones of a module, as they were when its folder of records looked like this.
#[derive(Debug, Clone)]
pub(crate) struct KnownTombstones {
    versions: Arc<[Version]>,
    folder: Stamp,
    modified: SystemTime,
}

/// More than any record has.
const LIMIT: u64 = 1 << 20;

const SUFFIX: &str = ".toml";

impl Store {
    /// Reads the record of a version. `None` if there is none.
    pub fn record(&self, version: &ModuleVersion) -> Result<Option<Record>, StoreError> {
        let path = self.paths.record(version);
        match read(&path)? {
            Some(text) => parse(&path, &text).map(Some),
            None => Ok(None),
        }
    }

    /// Replaces the record of the claimed version; an empty one is removed. It is on disk when this comes back.
    pub fn write_record(&self, claim: &Claim, record: &Record) -> Result<(), StoreError> {
        let version = claim.version();
        let path = self.paths.record(version);
        let below = Paths::versions_below_modules(version.path());
        let folder = self.paths.records().join(&below);
        if *record == Record::default() {
            return match durable::remove_file(&path) {
                Err(error) if error.is_not_found() => Ok(()),
                removed => Ok(removed.and_then(|()| durable::sync_dir(&folder))?),
            };
        }
        let damaged = |reason: String| StoreError::Record { path: path.clone(), reason };
        let text = toml::to_string(record).map_err(|error| damaged(error.to_string()))?;
        let staged = self.staging()?.fresh();
        let written = staging::write(&self.durable, &staged, text.as_bytes())
            .and_then(|_| self.durable.ensure_dirs(&self.paths.records(), &below))
            .and_then(|()| durable::rename(&staged, &path));
        if written.is_err() {
            // Ours alone; swept at the next start if this fails too.
            let _ = durable::remove_file(&staged);
        }
        Ok(written.and_then(|()| durable::sync_dir(&folder))?)
    }

    /// Says what the record of a version has against publishing it, if anything. Under its claim that stays so.
    pub fn objection(
        &self,
        version: &ModuleVersion,
        h1: &H1,
        gomod_h1: Option<&H1>,
    ) -> Result<Option<Objection>, StoreError> {
        Ok(self.record(version)?.and_then(|record| record.objection(h1, gomod_h1)))
    }

    /// Finds out whether a version is forbidden.
    pub fn tombstone(&self, version: &ModuleVersion) -> Result<Option<Tombstone>, StoreError> {
        Ok(self.record(version)?.and_then(|record| record.tombstone))
    }

    /// Lists the versions of a module that are forbidden, to be left out of what is told of it. One whose record is
    /// damaged is among them: nobody can say that it is not.
    ///
    /// Cheap while no record of the module changes: a look at one folder. When one does, the others are looked at, and
    /// not opened again.
    pub fn tombstones(&self, module: &ModulePath) -> Result<Arc<[Version]>, StoreError> {
        let path = self.paths.records().join(Paths::versions_below_modules(module));
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if is_absent(&error) => return Ok(Arc::default()),
            Err(error) => return Err(PathError::new("look at", path, error).into()),
        };
        let (folder, modified) = (Stamp::of(&meta), meta.modified().at("look at", &path)?);
        if let Some(known) = self.tombstones.get(module)
            && known.folder == folder
            && known.modified == modified
        {
            return Ok(known.versions);
        }
        let mut versions = Vec::new();
        for version in versions_with_record(&path)? {
            if self.is_forbidden(&path.join(version.escaped() + SUFFIX))? {
                versions.push(version);
            }
        }
        let versions: Arc<[Version]> = versions.into();
        // Two changes can fall into one tick of the clock.
        if SystemTime::now().duration_since(modified).is_ok_and(|age| age > SETTLED) {
            let known = KnownTombstones { versions: Arc::clone(&versions), folder, modified };
            self.tombstones.insert(module.clone(), known);
        }
        Ok(versions)
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
            let folder = self.paths.records().join(Paths::versions_below_modules(&module));
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
        each_module(&self.paths.records(), each, |error| Err(StoreError::from(error).into()))
    }

    /// Whether a record forbids its version, or may. One that does not is read once.
    fn is_forbidden(&self, path: &Path) -> Result<bool, StoreError> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(PathError::new("look at", path, error).into()),
        };
        let stamp = Stamp::of(&meta);
        if self.harmless.get(&stamp).is_some() {
            return Ok(false);
        }
        let is_forbidden = forbids(path)?;
        let is_settled = |at| SystemTime::now().duration_since(at).is_ok_and(|age| age > SETTLED);
        if !is_forbidden && is_settled(meta.modified().at("look at", path)?) {
            self.harmless.insert(stamp, ());
        }
        Ok(is_forbidden)
    }
}

/// Lists the versions that have a record in a folder of `records/`.
fn versions_with_record(folder: &Path) -> Result<Vec<Version>, StoreError> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        versions.extend(version.and_then(|name| Version::unescape(name).ok()));
    }
    Ok(versions)
}

fn forbids(path: &Path) -> Result<bool, StoreError> {
    match read(path) {
        // Most records have none, and a module may have many of them.
        Ok(Some(text)) if !text.contains("tombstone") => Ok(false),
        Ok(Some(text)) => Ok(parse(path, &text).map_or(true, |record| record.tombstone.is_some())),
        Ok(None) => Ok(false),
        Err(StoreError::Record { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Reads a record. `None` only if nothing at all is there.
fn read(path: &Path) -> Result<Option<String>, StoreError> {
    let damaged = |reason: &str| StoreError::Record { path: path.to_owned(), reason: reason.to_owned() };
    let Some((file, _)) = open_file(path)? else {
        return match fs::symlink_metadata(path) {
            Ok(_) => Err(damaged("it is no file")),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(PathError::new("look at", path, error).into()),
        };
    };
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > LIMIT {
        return Err(damaged("it is longer than any record"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| damaged("it is no text"))
}

fn parse(path: &Path, text: &str) -> Result<Record, StoreError> {
    // An empty file would be a record that says nothing: what a disk leaves, and nobody writes.
    if text.trim().is_empty() {
        return Err(StoreError::Record { path: path.to_owned(), reason: "it is empty".to_owned() });
    }
    toml::from_str(text)
        .map_err(|error| StoreError::Record { path: path.to_owned(), reason: error.message().to_owned() })
}

impl Paths {
    pub(crate) fn records(&self) -> PathBuf {
        self.root().join("records")
    }

    pub(crate) fn record(&self, version: &ModuleVersion) -> PathBuf {
        let folder = self.records().join(Self::versions_below_modules(version.path()));
        folder.join(version.version().escaped() + SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, staged, version};

    fn h1(letter: char) -> H1 {
        H1::new(&format!("h1:{}=", letter.to_string().repeat(43))).unwrap()
    }

    fn full() -> Record {
        Record {
            h1: Some(h1('A')),
            gomod_h1: Some(h1('E')),
            verdict: Some(Verdict { database: "sum.example".into(), tree_size: 7, at: "t".into() }),
            tombstone: Some(Tombstone::now(Some("a secret\nin it".into()))),
            other: toml::Table::from_iter([("later".to_owned(), toml::Value::Integer(3))]),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let fixture = Fixture::new();
        let v = version("example.com/M@v1.0.0-RC1");
        assert_eq!(fixture.store.record(&v).unwrap(), None);
        let claim = fixture.store.claim(&v).unwrap();
        for record in
            [full(), Record { tombstone: None, ..full() }, Record { h1: Some(h1('A')), ..Record::default() }]
        {
            fixture.store.write_record(&claim, &record).unwrap();
            assert_eq!(fixture.store.record(&v).unwrap(), Some(record));
        }
        assert!(fixture.dir.path().join("records/example.com/!m/@v/v1.0.0-!r!c1.toml").is_file());
        fixture.store.write_record(&claim, &Record::default()).unwrap();
        fixture.store.write_record(&claim, &Record::default()).unwrap();
        assert_eq!(fixture.store.record(&v).unwrap(), None);
        assert!(staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn a_damaged_record_is_an_error_and_no_absence() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let claim = fixture.store.claim(&v).unwrap();
        fixture.store.write_record(&claim, &full()).unwrap();
        let path = fixture.store.paths.record(&v);
        let whole = fs::read(&path).unwrap();
        let mut cases: Vec<Vec<u8>> =
            vec![b"".to_vec(), b"\0\0\0".to_vec(), b"h1 = 3".to_vec(), b"\xff".to_vec()];
        cases.push(whole[..whole.len() - 4].to_vec());
        cases.push(b"h1 = 'h1:short'".to_vec());
        for damaged in cases {
            fs::write(&path, &damaged).unwrap();
            let error = fixture.store.record(&v).unwrap_err();
            assert!(matches!(error, StoreError::Record { .. }), "{error}");
            assert!(error.to_string().contains("v1.0.0.toml"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(matches!(fixture.store.record(&v), Err(StoreError::Record { .. })));
        assert_eq!(fixture.store.tombstones(v.path()).unwrap().len(), 1);
    }

    #[test]
    fn tombstones_of_a_module_are_told_and_kept_in_memory() {
        let fixture = Fixture::new();
        let module = ModulePath::new("example.com/m").unwrap();
        assert!(fixture.store.tombstones(&module).unwrap().is_empty());
        for (pair, is_forbidden) in [("v1.0.0", true), ("v1.1.0", false), ("v1.2.0-RC1", true)] {
            let v = version(&format!("example.com/m@{pair}"));
            let tombstone = is_forbidden.then(|| Tombstone::now(None));
            let record = Record { tombstone, h1: Some(h1('A')), ..Record::default() };
            fixture.store.write_record(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        }
        let told = || {
            let mut told: Vec<_> =
                fixture.store.tombstones(&module).unwrap().iter().map(Version::to_string).collect();
            told.sort();
            told
        };
        assert_eq!(told(), ["v1.0.0", "v1.2.0-RC1"]);
        assert!(fixture.store.tombstones.get(&module).is_none(), "it was changed just now");
        let folder = fixture.store.paths.records().join(Paths::versions_below_modules(&module));
        fs::File::open(&folder).unwrap().set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
        assert_eq!(told(), ["v1.0.0", "v1.2.0-RC1"]);
        assert!(fixture.store.tombstones.get(&module).is_some());
        let v = version("example.com/m@v1.0.0");
        fixture.store.write_record(&fixture.store.claim(&v).unwrap(), &Record::default()).unwrap();
        assert_eq!(told(), ["v1.2.0-RC1"]);
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
            fixture.store.write_record(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        }
        let v = version("example.com/free@v1.0.0");
        let record = Record { h1: Some(h1('A')), ..Record::default() };
        fixture.store.write_record(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        fs::write(fixture.store.paths.record(&version("example.com/m@v1.9.0")), "").unwrap();
        fixture.store.replace_tree_head("sum.example", None, b"a note").unwrap();
        let mut seen = Vec::new();
        fixture
            .store
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
    fn a_record_that_forbids_nothing_is_read_once() {
        let fixture = Fixture::new();
        let module = ModulePath::new("example.com/m").unwrap();
        let record = Record { h1: Some(h1('A')), ..Record::default() };
        let write = |number: u32, record: &Record| {
            let v = version(&format!("example.com/m@v1.{number}.0"));
            fixture.store.write_record(&fixture.store.claim(&v).unwrap(), record).unwrap();
            fixture.store.paths.record(&v)
        };
        for number in 0..20 {
            let path = write(number, &record);
            fs::File::open(path).unwrap().set_modified(SystemTime::now() - 2 * SETTLED).unwrap();
        }
        let told = || fixture.store.tombstones(&module).unwrap().len();
        // The folder is young, so each look lists it.
        assert_eq!((told(), fixture.store.harmless.len()), (0, 20));
        write(20, &record);
        assert_eq!((told(), fixture.store.harmless.len()), (0, 20), "one is young");
        // Whatever is written over one is seen, by a rename or in its place.
        write(3, &full());
        assert_eq!(told(), 1);
        let in_place = toml::to_string(&full()).unwrap();
        fs::write(fixture.store.paths.record(&version("example.com/m@v1.7.0")), in_place).unwrap();
        assert_eq!(told(), 2);
        // What is known to be harmless is not opened: else this would be seen for what it is.
        let forbidding = fixture.store.paths.record(&version("example.com/m@v1.3.0"));
        fixture.store.harmless.insert(Stamp::of(&fs::symlink_metadata(forbidding).unwrap()), ());
        assert_eq!(told(), 1);
    }

    #[test]
    fn a_record_objects_to_another_content_and_a_tombstone_to_any() {
        let record = Record { tombstone: None, ..full() };
        assert_eq!(record.objection(&h1('A'), Some(&h1('E'))), None);
        assert_eq!(record.objection(&h1('A'), None), None);
        let objection = |h1: H1, gomod: H1| record.objection(&h1, Some(&gomod)).unwrap().to_string();
        assert!(objection(h1('I'), h1('E')).starts_with("its zip is h1:III"));
        assert!(objection(h1('A'), h1('I')).starts_with("its mod is h1:III"));
        assert!(matches!(full().objection(&h1('A'), None), Some(Objection::Tombstone(_))));
        assert_eq!(Record::default().objection(&h1('A'), Some(&h1('A'))), None);
    }
}
