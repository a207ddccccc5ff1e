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
//! A tombstone and its lifting are marks. Marks are ranked, so that deployments that send them to each other end with the
//! same one (`mark`).
//!
//! A damaged record is an error and never counts as absent, because it may hold a tombstone.

mod mark;
mod record;
mod tombstones;

use std::fs;
use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::durable;
use stoa_layout::error::PathContext;

pub use self::mark::Mark;
pub use self::record::{FailedLookup, Lift, Objection, Record, RecordedBy, Tombstone, Verdict};
use crate::audit::Act;
use crate::change::Change;
use crate::files::{Stamp, TEXT_LIMIT, metadata, open_file, read_bounded};
use crate::paths::Paths;
use crate::{Claim, Store, StoreError, staging};

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
        let versions = store.paths.records_of(version.path());
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

    /// Removes the tombstone of the claimed version, and records the lifting. Returns whether there was a tombstone.
    pub fn lift(&self, claim: &Claim) -> Result<bool, StoreError> {
        let Some(mut record) = self.of(claim)? else { return Ok(false) };
        let was_removed = record.lift_own(self.0.origin.as_deref());
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
        let folder = self.0.paths.records_of(module);
        Ok(RecordsState(Stamp::at(&folder)?))
    }

    /// Returns the versions of a module that have a record, ordered.
    pub fn versions(&self, module: &ModulePath) -> Result<Vec<Version>, StoreError> {
        let folder = self.0.paths.records_of(module);
        if metadata(&folder)?.is_none() {
            return Ok(Vec::new());
        }
        let mut versions = versions_with_record(&folder)?;
        versions.sort();
        Ok(versions)
    }
}

/// Returns the verdict in the record of a version below a root, without opening the store. `None` if there is none.
pub fn verdict_at(root: &Path, version: &ModuleVersion) -> Result<Option<Verdict>, StoreError> {
    let path = Paths::new(root).record(version);
    let Some(text) = read(&path)? else { return Ok(None) };
    Ok(parse(&path, &text)?.verdict)
}

/// Reads the mark in a record. `None` if there is none.
pub(crate) fn mark_at(path: &Path) -> Result<Option<Mark>, StoreError> {
    match read(path)? {
        // Most records have no mark, so most are not parsed.
        Some(text) if text.trim().is_empty() || text.contains("tombstone") || text.contains("lift") => {
            Ok(parse(path, &text)?.mark())
        }
        _ => Ok(None),
    }
}

/// Lists the versions that have a record in a folder of `records/`.
pub(crate) fn versions_with_record(folder: &Path) -> Result<Vec<Version>, StoreError> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        versions.extend(version.and_then(|name| Version::unescape(name).ok()));
    }
    Ok(versions)
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
        Self::record_in(&self.records_of(version.path()), version.version())
    }

    /// Returns the folder of the records of a module.
    pub(crate) fn records_of(&self, module: &ModulePath) -> PathBuf {
        self.records().join(Self::versions_below_modules(module))
    }

    /// Returns the path of a record in the folder of its module.
    pub(crate) fn record_in(folder: &Path, version: &Version) -> PathBuf {
        folder.join(version.escaped() + SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::record::tests::{full, h1};
    use super::*;
    use crate::testing::{Fixture, staged, version};

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
}
