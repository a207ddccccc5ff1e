//! Records: facts about a version that outlive it and cannot be derived from anything else.
//!
//! ```text
//! records/ESCAPED/@v/VERSION.toml     written aside and renamed, under the claim of the version
//! ```
//!
//! A record holds the hashes that a version had in this store or has in a checksum database, and a tombstone if the
//! version was removed for good. Every publish checks the record first: content that differs from the recorded hash is
//! never published, and a version with a tombstone is never published at all. A stored version is nearly always read
//! without its record; docs/format.md names the exceptions.
//!
//! A damaged record is an error and never counts as absent, because it may hold a tombstone.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stoa_gomod::{H1, ModulePath, ModuleVersion, Version};
use stoa_layout::error::PathContext;
use stoa_layout::{durable, marker};

use crate::audit::Act;
use crate::change::Change;
use crate::files::{Stamp, TEXT_LIMIT, metadata, open_file, read_bounded};
use crate::list::{KnownVersions, has_settled};
use crate::paths::Paths;
use crate::walk::each_module;
use crate::{Claim, Store, StoreError, staging};

/// The record of a version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of the zip: of the version that was removed, or the hash that the verdict confirms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h1: Option<H1>,
    /// The hash of the go.mod, from the same source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gomod_h1: Option<H1>,
    /// The confirmation of the hashes. Without one they were recorded by a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The last lookup whose answer had no valid proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_lookup: Option<FailedLookup>,
    /// The tombstone, if the version was removed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
    /// Keys of other releases, which are kept as they are.
    #[serde(flatten)]
    pub other: toml::Table,
}

/// The confirmation of the hashes of a record, by a checksum database or by a go.sum that the operator gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The name of the database, or `go.sum`.
    pub database: String,
    /// The size of the tree that holds them. 0 for a go.sum.
    pub tree_size: u64,
    /// The time of the confirmation, RFC 3339 in UTC.
    pub at: String,
}

/// The name in the place of a database for the hashes of a go.sum. No database can have it, because its keys name hosts.
const GO_SUM: &str = "go.sum";

impl Verdict {
    /// Returns the verdict of a go.sum, with the current time.
    pub fn of_go_sum() -> Self {
        Self { database: GO_SUM.to_owned(), tree_size: 0, at: marker::now() }
    }

    /// Returns whether the hashes come from a go.sum and not from a database.
    pub fn is_of_go_sum(&self) -> bool {
        self.database == GO_SUM
    }
}

/// A lookup whose answer had no valid proof. Clients get no go.mod of the version before a lookup succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLookup {
    /// The time of the lookup, RFC 3339 in UTC.
    pub at: String,
}

impl FailedLookup {
    /// Returns a failed lookup with the current time.
    pub fn now() -> Self {
        Self { at: marker::now() }
    }
}

/// The origin of the hashes in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedBy {
    /// The version had them when it was removed from this store.
    Removal,
    /// The checksum database of this name has them.
    Database(String),
    /// A go.sum has them.
    GoSum,
}

impl std::fmt::Display for RecordedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Removal => f.write_str("the hash recorded when it was removed"),
            Self::Database(name) => write!(f, "the hash in the checksum database {name}"),
            Self::GoSum => f.write_str("the hash in a go.sum"),
        }
    }
}

/// A tombstone: the version was removed for good and is neither served nor stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The time of the removal, RFC 3339 in UTC.
    pub at: String,
    /// The reason, which clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Tombstone {
    /// Returns a tombstone with the current time.
    pub fn now(reason: Option<String>) -> Self {
        Self { at: marker::now(), reason }
    }
}

impl std::fmt::Display for Tombstone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "it has been forbidden since {}: {reason}", self.at),
            None => write!(f, "it has been forbidden since {}", self.at),
        }
    }
}

/// The reason why a record forbids to publish a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// The version was removed for good.
    #[error("{0}")]
    Tombstone(Tombstone),
    /// The content differs from the recorded content.
    #[error("its {file} has {ours}, but {by} is {recorded}")]
    Differs {
        /// The file: "zip" or "mod".
        file: &'static str,
        /// The origin of the recorded hash.
        by: RecordedBy,
        /// The recorded hash.
        recorded: H1,
        /// The hash of the version that was to be published.
        ours: H1,
    },
}

impl Record {
    /// Returns why this record forbids to publish a version with these hashes. `None` if it allows it.
    pub fn objection(&self, h1: &H1, gomod_h1: Option<&H1>) -> Option<Objection> {
        if let Some(tombstone) = &self.tombstone {
            return Some(Objection::Tombstone(tombstone.clone()));
        }
        self.difference("zip", &self.h1, Some(h1)).or_else(|| self.objection_to_mod(gomod_h1))
    }

    /// Returns why this record forbids to serve or publish a mod with this hash. `None` if it allows it.
    pub fn objection_to_mod(&self, gomod_h1: Option<&H1>) -> Option<Objection> {
        self.difference("mod", &self.gomod_h1, gomod_h1)
    }

    fn difference(&self, file: &'static str, recorded: &Option<H1>, ours: Option<&H1>) -> Option<Objection> {
        match (recorded, ours) {
            (Some(recorded), Some(ours)) if recorded != ours => Some(Objection::Differs {
                file,
                by: self.recorded_by(),
                recorded: recorded.clone(),
                ours: ours.clone(),
            }),
            _ => None,
        }
    }

    /// Returns the origin of the hashes.
    pub fn recorded_by(&self) -> RecordedBy {
        match &self.verdict {
            None => RecordedBy::Removal,
            Some(verdict) if verdict.is_of_go_sum() => RecordedBy::GoSum,
            Some(verdict) => RecordedBy::Database(verdict.database.clone()),
        }
    }

    /// Adds a verdict for these hashes, unless there is a verdict. Returns whether the record changed.
    ///
    /// Hashes that were recorded by a removal are replaced: a moved tag may have been stored and removed before the
    /// database was asked.
    pub fn confirm(&mut self, h1: &H1, gomod_h1: &H1, verdict: &Verdict) -> bool {
        if self.verdict.is_some() {
            return false;
        }
        self.h1 = Some(h1.clone());
        self.gomod_h1 = Some(gomod_h1.clone());
        self.verdict = Some(verdict.clone());
        self.failed_lookup = None;
        true
    }

    /// Removes the hashes and their verdict. Returns whether there were any.
    pub fn forget(&mut self) -> bool {
        let had_any = self.h1.is_some() || self.gomod_h1.is_some() || self.verdict.is_some();
        *self = Self {
            tombstone: self.tombstone.take(),
            other: std::mem::take(&mut self.other),
            ..Self::default()
        };
        had_any
    }
}

/// Returns the verdict in the record of a version below a root, without opening the store. `None` if there is none.
pub fn verdict_at(root: &Path, version: &ModuleVersion) -> Result<Option<Verdict>, StoreError> {
    let path = Paths::new(root).record(version);
    let Some(text) = read(&path)? else { return Ok(None) };
    Ok(parse(&path, &text)?.verdict)
}

/// The state of the records of a module. It differs after any process has written or removed one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordsState(Option<Stamp>);

const SUFFIX: &str = ".toml";

/// The records of a store.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a>(&'a Store);

impl Store {
    /// Returns the records of the store.
    pub fn records(&self) -> Records<'_> {
        Records(self)
    }
}

impl Records<'_> {
    /// Returns the record of a version. `None` if there is no record.
    pub fn get(&self, version: &ModuleVersion) -> Result<Option<Record>, StoreError> {
        let path = self.0.paths.record(version);
        match read(&path)? {
            Some(text) => parse(&path, &text).map(Some),
            None => Ok(None),
        }
    }

    /// Returns whether a version has a record, which may be damaged.
    pub fn has(&self, version: &ModuleVersion) -> Result<bool, StoreError> {
        Ok(metadata(&self.0.paths.record(version))?.is_some())
    }

    /// Returns the record of the claimed version. It is read from the disk once for each claim.
    pub fn of(&self, claim: &Claim) -> Result<Option<Record>, StoreError> {
        if let Some(record) = &*claim.record() {
            return Ok(record.clone());
        }
        let record = self.get(claim.version())?;
        *claim.record() = Some(record.clone());
        Ok(record)
    }

    /// Replaces the record of the claimed version. An empty record is removed. The change is on disk on return.
    pub fn write(&self, claim: &Claim, record: &Record) -> Result<(), StoreError> {
        // Unknown until it is written, and also if the write fails.
        *claim.record() = None;
        self.replace(claim.version(), record)?;
        *claim.record() = Some((*record != Record::default()).then(|| record.clone()));
        self.0.changed(claim.version(), Change::Recorded);
        Ok(())
    }

    fn replace(&self, version: &ModuleVersion, record: &Record) -> Result<(), StoreError> {
        let store = self.0;
        let path = store.paths.record(version);
        let versions = store.paths.records().join(Paths::versions_below_modules(version.path()));
        let below = store.paths.relative(&versions);
        if *record == Record::default() {
            let removed = durable::Folder::open(store.root(), below)
                .and_then(|folder| durable::remove_file(&path).and_then(|()| folder.sync()));
            return match removed {
                Err(error) if error.is_not_found() => Ok(()),
                removed => Ok(removed?),
            };
        }
        let damaged = |reason: String| StoreError::Record { path: path.clone(), reason };
        let text = toml::to_string(record).map_err(|error| damaged(error.to_string()))?;
        store.staging()?.place_file(|staged| {
            staging::write(&store.durable, staged, text.as_bytes())?;
            let folder = store.durable.ensure_dirs(store.root(), below)?;
            durable::rename(staged, &path)?;
            folder.sync()
        })?;
        Ok(())
    }

    /// Removes the tombstone of the claimed version. Returns whether there was a tombstone.
    pub fn lift(&self, claim: &Claim) -> Result<bool, StoreError> {
        let Some(mut record) = self.of(claim)? else { return Ok(false) };
        let was_removed = record.tombstone.take().is_some();
        if was_removed {
            self.0.note(Act::of_version("lift", claim.version()));
            self.0.with_reserve(|| self.write(claim, &record))?;
            self.0.fill_used_reserve();
        }
        Ok(was_removed)
    }

    /// Removes the recorded hashes of the claimed version. Returns whether there were any.
    pub fn forget(&self, claim: &Claim) -> Result<bool, StoreError> {
        let Some(mut record) = self.of(claim)? else { return Ok(false) };
        let had_any = record.forget();
        if had_any {
            self.0.note(Act::of_version("forget", claim.version()));
            self.0.with_reserve(|| self.write(claim, &record))?;
            self.0.fill_used_reserve();
        }
        Ok(had_any)
    }

    /// Returns the state of the records of a module, with one system call.
    pub fn state(&self, module: &ModulePath) -> Result<RecordsState, StoreError> {
        let folder = self.0.paths.records().join(Paths::versions_below_modules(module));
        Ok(RecordsState(Stamp::at(&folder)?))
    }

    /// Returns the versions of a module that have a record, ordered.
    pub fn versions(&self, module: &ModulePath) -> Result<Vec<Version>, StoreError> {
        let folder = self.0.paths.records().join(Paths::versions_below_modules(module));
        if metadata(&folder)?.is_none() {
            return Ok(Vec::new());
        }
        let mut versions = versions_with_record(&folder)?;
        versions.sort();
        Ok(versions)
    }

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
        // Most records have no tombstone, and a module may have many records, so most are not parsed.
        Ok(Some(text)) if !text.contains("tombstone") => Ok(false),
        Ok(Some(text)) => Ok(parse(path, &text).map_or(true, |record| record.tombstone.is_some())),
        Ok(None) => Ok(false),
        Err(StoreError::Record { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Reads the text of a record. `None` only if nothing exists at the path.
fn read(path: &Path) -> Result<Option<String>, StoreError> {
    let damaged = |reason: &str| StoreError::Record { path: path.to_owned(), reason: reason.to_owned() };
    let Some((file, _)) = open_file(path)? else {
        return match metadata(path)? {
            Some(_) => Err(damaged("it is not a regular file")),
            None => Ok(None),
        };
    };
    let bytes = read_bounded(file, path, TEXT_LIMIT)?;
    if bytes.len() as u64 > TEXT_LIMIT {
        return Err(damaged("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| damaged("it is not UTF-8 text"))
}

fn parse(path: &Path, text: &str) -> Result<Record, StoreError> {
    // An empty file would parse as an empty record. Stoa never writes that, but a failing disk may leave it.
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
    use std::time::SystemTime;

    use super::*;
    use crate::list::SETTLED;
    use crate::testing::{Fixture, staged, version};

    fn h1(letter: char) -> H1 {
        H1::new(&format!("h1:{}=", letter.to_string().repeat(43))).unwrap()
    }

    fn full() -> Record {
        Record {
            h1: Some(h1('A')),
            gomod_h1: Some(h1('E')),
            verdict: Some(Verdict { database: "sum.example".into(), tree_size: 7, at: "t".into() }),
            failed_lookup: Some(FailedLookup::now()),
            tombstone: Some(Tombstone::now(Some("a secret\nin it".into()))),
            other: toml::Table::from_iter([("later".to_owned(), toml::Value::Integer(3))]),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let fixture = Fixture::new();
        let v = version("example.com/M@v1.0.0-RC1");
        assert_eq!(fixture.store.records().get(&v).unwrap(), None);
        let claim = fixture.store.claim(&v).unwrap();
        for record in
            [full(), Record { tombstone: None, ..full() }, Record { h1: Some(h1('A')), ..Record::default() }]
        {
            fixture.store.records().write(&claim, &record).unwrap();
            assert_eq!(fixture.store.records().get(&v).unwrap(), Some(record));
        }
        assert!(fixture.dir.path().join("records/example.com/!m/@v/v1.0.0-!r!c1.toml").is_file());
        fixture.store.records().write(&claim, &Record::default()).unwrap();
        fixture.store.records().write(&claim, &Record::default()).unwrap();
        assert_eq!(fixture.store.records().get(&v).unwrap(), None);
        assert!(staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn a_damaged_record_is_an_error_and_does_not_count_as_absent() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let claim = fixture.store.claim(&v).unwrap();
        fixture.store.records().write(&claim, &full()).unwrap();
        let path = fixture.store.paths.record(&v);
        let whole = fs::read(&path).unwrap();
        let mut cases: Vec<Vec<u8>> =
            vec![b"".to_vec(), b"\0\0\0".to_vec(), b"h1 = 3".to_vec(), b"\xff".to_vec()];
        cases.push(whole[..whole.len() - 4].to_vec());
        cases.push(b"h1 = 'h1:short'".to_vec());
        for damaged in cases {
            fs::write(&path, &damaged).unwrap();
            let error = fixture.store.records().get(&v).unwrap_err();
            assert!(matches!(error, StoreError::Record { .. }), "{error}");
            assert!(error.to_string().contains("v1.0.0.toml"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(matches!(fixture.store.records().get(&v), Err(StoreError::Record { .. })));
        assert_eq!(fixture.store.records().tombstones(v.path()).unwrap().len(), 1);
    }

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

    #[test]
    fn a_record_refuses_other_content_and_a_tombstone_refuses_all() {
        let record = Record { tombstone: None, ..full() };
        assert_eq!(record.objection(&h1('A'), Some(&h1('E'))), None);
        assert_eq!(record.objection(&h1('A'), None), None);
        let objection = |h1: H1, gomod: H1| record.objection(&h1, Some(&gomod)).unwrap().to_string();
        assert!(objection(h1('I'), h1('E')).starts_with("its zip has h1:III"));
        assert!(objection(h1('A'), h1('I')).starts_with("its mod has h1:III"));
        assert!(matches!(full().objection(&h1('A'), None), Some(Objection::Tombstone(_))));
        assert_eq!(Record::default().objection(&h1('A'), Some(&h1('A'))), None);
    }
}
