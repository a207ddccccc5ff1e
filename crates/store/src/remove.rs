//! Removing a version: by one rename into staging, after its record says what it was.
//!
//! Readers that have a file of it open read it to its end. Who is killed leaves the version whole, or the rest of
//! it in staging, which the next start sweeps; its record is on disk before either. No folder of a module is removed
//! while the store is in use: another process may be about to publish into it.

use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::durable;

use crate::paths::VersionFile;
use crate::publish::hash_of_mod;
use crate::read::{Stamp, is_absent};
use crate::seal::{Verdict, examine_folder};
use crate::{Claim, Record, Store, StoreError, Tombstone};

/// What came of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// How many bytes its files had. `None` if it was not there.
    pub bytes: Option<u64>,
    /// The hash that the next one must have. `None` if it was not there or proved broken, and none was recorded.
    pub h1: Option<H1>,
}

/// What a version takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The bytes of its info, mod and zip.
    pub bytes: u64,
    /// When it was published.
    pub published: SystemTime,
}

impl Store {
    /// Removes the claimed version, and forbids it from then on if there is a tombstone to put, be it there or not.
    /// That, and the hash that it had, is recorded before.
    pub fn remove(&self, claim: &Claim, tombstone: Option<Tombstone>) -> Result<Removed, StoreError> {
        let version = claim.version();
        let footprint = self.footprint(version)?;
        let known = self.record(version)?;
        let mut record = known.clone().unwrap_or_default();
        if footprint.is_some() {
            self.record_hashes(version, &mut record)?;
        }
        if let Some(tombstone) = tombstone {
            record.tombstone = Some(joined(record.tombstone.take(), tombstone));
        }
        if known.unwrap_or_default() != record {
            self.write_record(claim, &record)?;
        }
        if footprint.is_some() {
            self.take_away(version)?;
        }
        Ok(Removed { bytes: footprint.map(|footprint| footprint.bytes), h1: record.h1 })
    }

    /// Allows the claimed version again, and says whether it was forbidden.
    pub fn lift(&self, claim: &Claim) -> Result<bool, StoreError> {
        let Some(mut record) = self.record(claim.version())? else { return Ok(false) };
        let was_forbidden = record.tombstone.take().is_some();
        if was_forbidden {
            self.write_record(claim, &record)?;
        }
        Ok(was_forbidden)
    }

    /// Looks what a version takes up, three system calls. `None` if it is not there.
    pub fn footprint(&self, version: &ModuleVersion) -> Result<Option<Footprint>, StoreError> {
        let folder = self.paths.version(version);
        if Stamp::at(&folder)?.is_none() {
            return Ok(None);
        }
        let mut found = None;
        for file in [VersionFile::Info, VersionFile::Mod, VersionFile::Zip] {
            let path = folder.join(file.name());
            let meta = match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() => meta,
                Err(error) if !is_absent(&error) => {
                    return Err(stoa_layout::PathError::new("look at", path, error).into());
                }
                // Without its info it is no version.
                _ if file == VersionFile::Info => return Ok(None),
                _ => continue,
            };
            let published = || meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.get_or_insert_with(|| Footprint { bytes: 0, published: published() }).bytes += meta.size();
        }
        Ok(found)
    }

    /// Puts the hashes of a version into its record, unless one is recorded: that counts, and this one differs.
    fn record_hashes(&self, version: &ModuleVersion, record: &mut Record) -> Result<(), StoreError> {
        if record.h1.is_some() {
            return Ok(());
        }
        let folder = self.paths.version(version);
        let reason = match self.believed_seal(version)? {
            Some((h1, _)) => Ok(h1),
            None => match examine_folder(&folder, version) {
                Ok(Verdict::Whole { h1, .. }) => Ok(h1),
                Ok(Verdict::Broken(reason)) => Err(reason),
                // It may never be read again, and must not stay for that.
                Err(error) if error.is_of_one_version() => Err(error.to_string()),
                Err(error) => return Err(error),
            },
        };
        match reason {
            Ok(h1) => {
                record.h1 = Some(h1);
                record.gomod_h1 = hash_of_mod(&folder)?;
            }
            Err(reason) => {
                log::warn!("{version} is removed without a hash to compare the next one with: {reason}");
            }
        }
        Ok(())
    }

    fn take_away(&self, version: &ModuleVersion) -> Result<(), StoreError> {
        let folder = self.paths.version(version);
        let staged = self.staging()?.fresh();
        durable::rename(&folder, &staged)?;
        self.forget(version);
        self.index.forget(version);
        if let Some(parent) = folder.parent() {
            durable::sync_dir(parent)?;
        }
        if let Err(error) = durable::remove_tree(&staged) {
            log::warn!("{version} is removed, and what it takes up is freed at the next start: {error}");
        }
        Ok(())
    }
}

/// Keeps since when it is forbidden; a new reason counts.
fn joined(known: Option<Tombstone>, new: Tombstone) -> Tombstone {
    match known {
        Some(known) => Tombstone { at: known.at, reason: new.reason.or(known.reason) },
        None => new,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;
    use crate::testing::{Fixture, put_unsealed, quarantined, staged, version, zip};
    use crate::{Published, SmallFile};

    fn remove(fixture: &Fixture, version: &ModuleVersion, tombstone: Option<Tombstone>) -> Removed {
        fixture.store.remove(&fixture.store.claim(version).unwrap(), tombstone).unwrap()
    }

    #[test]
    fn what_is_removed_is_gone_and_its_hash_stays() {
        let fixture = Fixture::new();
        for is_sealed in [true, false] {
            let v = version(&format!("example.com/m@v1.0.{}", u8::from(is_sealed)));
            let bytes = zip(&v, "package a\n");
            if is_sealed {
                fixture.publish(&v, &bytes);
            } else {
                put_unsealed(&fixture.store, &v, &bytes);
            }
            fixture.store.small(&v, SmallFile::Info).unwrap().unwrap();
            let open = fixture.store.open_zip(&v).unwrap().unwrap();
            let removed = remove(&fixture, &v, None);
            let total = bytes.len() + crate::testing::info(&v).len() + crate::testing::modfile(&v).len();
            assert_eq!(removed.bytes, Some(total as u64));
            assert!(fixture.store.open_zip(&v).unwrap().is_none());
            assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
            let mut sent = Vec::new();
            open.file().read_to_end(&mut sent).unwrap();
            assert_eq!(sent, bytes, "who has it open reads it to its end");
            let record = fixture.store.record(&v).unwrap().unwrap();
            assert_eq!(record.h1, removed.h1);
            assert!(record.gomod_h1.is_some() && record.tombstone.is_none());
            assert_eq!(remove(&fixture, &v, None), Removed { bytes: None, h1: removed.h1.clone() });
            assert!(matches!(fixture.publish(&v, &zip(&v, "package b\n")), Published::Refused(_)));
            assert_eq!(fixture.publish(&v, &bytes), Published::Ours(removed.h1.unwrap()));
        }
        assert!(staged(fixture.dir.path()).is_empty() && quarantined(fixture.dir.path()).is_empty());
        assert!(fixture.dir.path().join("modules/example.com/m/@v").is_dir());
    }

    #[test]
    fn a_broken_version_is_removed_without_a_hash() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put_unsealed(&fixture.store, &v, b"no zip");
        let removed = remove(&fixture, &v, None);
        assert!(removed.bytes.is_some() && removed.h1.is_none());
        assert_eq!(fixture.store.record(&v).unwrap(), None);
        assert!(quarantined(fixture.dir.path()).is_empty());
        assert!(matches!(fixture.publish(&v, &zip(&v, "package a\n")), Published::Ours(_)));
    }

    #[test]
    fn what_is_no_version_is_not_touched() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, b"zip");
        fs::remove_file(folder.join("info")).unwrap();
        assert_eq!(remove(&fixture, &v, None), Removed { bytes: None, h1: None });
        assert!(folder.join("zip").is_file());
    }

    #[test]
    fn a_tombstone_holds_until_it_is_lifted() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        fixture.publish(&v, &bytes);
        let first = Tombstone { at: "2026-01-02T03:04:05Z".to_owned(), reason: None };
        assert!(remove(&fixture, &v, Some(first)).bytes.is_some());
        let again = remove(&fixture, &v, Some(Tombstone::now(Some("a key is in it".to_owned()))));
        assert_eq!(again.bytes, None);
        let tombstone = fixture.store.tombstone(&v).unwrap().unwrap();
        assert_eq!(tombstone.to_string(), "it was removed for good at 2026-01-02T03:04:05Z: a key is in it");
        assert!(matches!(fixture.publish(&v, &bytes), Published::Refused(_)));
        let claim = fixture.store.claim(&v).unwrap();
        assert!(fixture.store.lift(&claim).unwrap());
        assert!(!fixture.store.lift(&claim).unwrap());
        drop(claim);
        assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
        let never = version("example.com/never@v1.0.0");
        remove(&fixture, &never, Some(Tombstone::now(None)));
        assert!(fixture.store.tombstone(&never).unwrap().is_some());
        assert!(fixture.store.lift(&fixture.store.claim(&never).unwrap()).unwrap());
        assert_eq!(fixture.store.record(&never).unwrap(), None);
    }

    #[test]
    fn a_recorded_hash_is_not_replaced() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        let recorded = H1::new(&format!("h1:{}=", "A".repeat(43))).unwrap();
        let record = Record { h1: Some(recorded.clone()), ..Record::default() };
        fixture.store.write_record(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        // What came without a look at the record is not served either.
        assert_eq!(fixture.store.seal(&v).unwrap(), None);
        assert!(quarantined(fixture.dir.path())[0].0.contains(recorded.as_str()));
        put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        assert_eq!(remove(&fixture, &v, None).h1, Some(recorded));
    }
}
