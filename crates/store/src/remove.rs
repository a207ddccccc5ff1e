//! Removing a version: one rename into staging, after its hash is recorded.
//!
//! A reader with an open file of the version reads it to its end. A killed process leaves the whole version, or the
//! rest of it in staging, which the next start removes. The record is on disk before the rename. Folders of modules
//! are never removed while the store is in use, because another process may be about to publish into them.
//!
//! On overlayfs a folder of a lower layer cannot be renamed. Then the files are removed one by one, and the info first:
//! from then on the version is not in the store. A killed process leaves the other files as a leftover in the place of
//! the version, and the next publish of the version moves them to quarantine.

use std::fmt::Display;
use std::path::Path;
use std::time::SystemTime;

use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::durable;

use crate::audit::Act;
use crate::change::Change;
use crate::examine::{Examination, examine_folder};
use crate::files::Stamp;
use crate::metadata::Metadata;
use crate::paths::version_metadata;
use crate::publish::hash_of_mod;
use crate::{Claim, Mark, Record, Store, StoreError, Tombstone, VersionFile};

/// The result of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The size of the version in bytes, or of its pair in the cache. `None` if there was neither.
    pub bytes: Option<u64>,
    /// The hash that a later version of this name must have. `None` if no hash is recorded: the version was not in the
    /// store, or was corrupt.
    pub h1: Option<H1>,
}

/// The size and the age of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The size of its info, mod and zip in bytes.
    pub bytes: u64,
    /// The time of its publishing.
    pub published: SystemTime,
}

/// Why a removed version is forbidden.
enum Forbidding<'a> {
    /// By a tombstone of this deployment.
    Own(Tombstone),
    /// By the mark of another deployment, with a reason for the audit log.
    By(&'a Mark, &'a str),
}

impl Forbidding<'_> {
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Own(tombstone) => tombstone.reason.as_deref(),
            Self::By(_, reason) => Some(reason),
        }
    }
}

impl Store {
    /// Removes the claimed version and its pair in the cache, after recording its hash. A tombstone is recorded too, even if
    /// the version is not in the store, and forbids the version from then on. It gets the name of this deployment and a
    /// number: those in `tombstone` do not count.
    pub fn remove(&self, claim: &Claim, tombstone: Option<Tombstone>) -> Result<Removed, StoreError> {
        self.remove_recording(claim, tombstone.map(Forbidding::Own), true)
    }

    /// Applies a mark of another deployment to the claimed version, if it is higher than the known mark. A tombstone removes
    /// the version. `reason` is for the audit log. Returns whether something has changed.
    pub fn apply_mark(&self, claim: &Claim, mark: &Mark, reason: &str) -> Result<bool, StoreError> {
        let mut record = self.records().of(claim)?.unwrap_or_default();
        if !record.apply(mark) {
            if mark.counter > Mark::max_counter(record.mark().map(|known| known.counter)) {
                let version = claim.version();
                log::warn!(
                    version:%, origin = mark.origin, counter = mark.counter,
                    help = "its number is far too high; decide about the version here, with stoa remove";
                    "ignored a tombstone of another deployment, or its lifting"
                );
            }
            // A process was killed after it had recorded the tombstone.
            let is_left = !mark.is_lifted
                && record.mark().is_some_and(|known| known.rank() == mark.rank() && !known.is_lifted)
                && self.footprint(claim.version())?.is_some();
            if is_left {
                self.remove_recording(claim, Some(Forbidding::By(mark, reason)), true)?;
            }
            return Ok(is_left);
        }
        if mark.is_lifted {
            self.note(Act::of_version("lift", claim.version()).because(Some(reason)));
            self.with_reserve(|| self.records().write(claim, &record))?;
            self.fill_used_reserve();
        } else {
            self.remove_recording(claim, Some(Forbidding::By(mark, reason)), true)?;
        }
        Ok(true)
    }

    /// Removes the claimed version without recording its hash. An existing record stays.
    pub fn remove_unrecorded(&self, claim: &Claim) -> Result<Removed, StoreError> {
        self.remove_recording(claim, None, false)
    }

    fn remove_recording(
        &self,
        claim: &Claim,
        forbidding: Option<Forbidding<'_>>,
        records_hash: bool,
    ) -> Result<Removed, StoreError> {
        let version = claim.version();
        let footprint = self.footprint(version)?;
        if footprint.is_some() {
            // Refuses a symlink before anything is recorded.
            self.versions_to_write(version)?;
            self.with_reserve(|| self.staging())?;
        }
        if footprint.is_some() || forbidding.is_some() || self.pairs().size(version)?.is_some() {
            let act = if forbidding.is_some() { "tombstone" } else { "remove" };
            let reason = forbidding.as_ref().and_then(Forbidding::reason);
            self.note(Act::of_version(act, version).because(reason));
        }
        let known = self.records().of(claim)?;
        let mut record = known.clone().unwrap_or_default();
        if footprint.is_some() && records_hash {
            self.record_hashes(version, &mut record)?;
        }
        match forbidding {
            Some(Forbidding::Own(tombstone)) => record.forbid_own(tombstone, self.origin.as_deref()),
            Some(Forbidding::By(mark, _)) => drop(record.apply(mark)),
            None => {}
        }
        if known.unwrap_or_default() != record {
            self.with_reserve(|| self.records().write(claim, &record))?;
        }
        // After the record: a download that begins now finds a tombstone.
        let pair = self.pairs().remove(version)?;
        if footprint.is_some() {
            self.take_away(version)?;
        }
        self.fill_used_reserve();
        Ok(Removed { bytes: footprint.map(|footprint| footprint.bytes).or(pair), h1: record.h1 })
    }

    /// Returns the size and the age of a version, with four system calls. `None` if it is not in the store.
    pub fn footprint(&self, version: &ModuleVersion) -> Result<Option<Footprint>, StoreError> {
        let folder = self.paths.version(version);
        if Stamp::at(&folder)?.is_none() {
            return Ok(None);
        }
        let [Some(info), modfile, zip] = version_metadata(&folder)? else { return Ok(None) };
        let published = info.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let bytes = [Some(info), modfile, zip].iter().flatten().map(Metadata::len).sum();
        Ok(Some(Footprint { bytes, published }))
    }

    /// Puts the hashes of a version into its record. A hash that is already recorded stays.
    fn record_hashes(&self, version: &ModuleVersion, record: &mut Record) -> Result<(), StoreError> {
        if record.h1.is_some() {
            return Ok(());
        }
        let folder = self.paths.version(version);
        let result = self.hash_of_zip(version, &folder).and_then(|hash| match hash {
            Ok(h1) => {
                record.h1 = Some(h1);
                record.gomod_h1 = hash_of_mod(&folder)?;
                Ok(())
            }
            Err(reason) => {
                warn_without_hash(version, &reason);
                Ok(())
            }
        });
        match result {
            // A version that can never be read must still be removable.
            Err(error) if error.is_of_unreadable_file_in(&folder) => {
                warn_without_hash(version, &error);
                Ok(())
            }
            result => result,
        }
    }

    /// Returns the hash of the zip of a version, or why it is corrupt.
    fn hash_of_zip(&self, version: &ModuleVersion, folder: &Path) -> Result<Result<H1, String>, StoreError> {
        if let Some(stamp) = Stamp::at(folder)?
            && let Some((h1, _)) = self.valid_seal(version, stamp)?
        {
            return Ok(Ok(h1));
        }
        Ok(match examine_folder(folder, version, &self.meter)? {
            Examination::Whole { h1, .. } => Ok(h1),
            Examination::Corrupt(reason) => Err(reason),
        })
    }

    fn take_away(&self, version: &ModuleVersion) -> Result<(), StoreError> {
        let parent = self.versions_to_write(version)?;
        let folder = self.paths.version(version);
        let staged = self.with_reserve(|| {
            let staged = self.staging()?.fresh();
            match durable::rename(&folder, &staged) {
                Err(error) if durable::is_unmovable_dir(&error, &folder) => {
                    match durable::remove_file(&folder.join(VersionFile::Info.name())) {
                        // The disk was full at the sync, and this is the next attempt.
                        Err(error) if error.is_not_found() => {}
                        removed => removed?,
                    }
                    // Before the sync, which may fail: no reader finds the version from here on.
                    self.changed(version, Change::Removed);
                    durable::sync_dir(&folder)?;
                    Ok(folder.clone())
                }
                renamed => Ok(renamed.map(|()| staged)?),
            }
        })?;
        self.changed(version, Change::Removed);
        parent.sync()?;
        if let Err(error) = durable::remove_tree(&staged) {
            log::warn!(version:% = version, reason:% = error; "removed a version, the next start frees its space");
        }
        Ok(())
    }
}

fn warn_without_hash(version: &ModuleVersion, reason: &dyn Display) {
    log::warn!(version:% = version, reason:% = reason; "removing a version without recording a hash");
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
    fn the_hash_of_a_removed_version_stays_recorded() {
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
            assert_eq!(sent, bytes, "an open file can be read to its end");
            let record = fixture.store.records().get(&v).unwrap().unwrap();
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
    fn a_corrupt_version_is_removed_without_recording_a_hash() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put_unsealed(&fixture.store, &v, b"no zip");
        let removed = remove(&fixture, &v, None);
        assert!(removed.bytes.is_some() && removed.h1.is_none());
        assert_eq!(fixture.store.records().get(&v).unwrap(), None);
        assert!(quarantined(fixture.dir.path()).is_empty());
        assert!(matches!(fixture.publish(&v, &zip(&v, "package a\n")), Published::Ours(_)));
    }

    #[test]
    fn leftovers_are_not_removed() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, b"zip");
        fs::remove_file(folder.join("info")).unwrap();
        assert_eq!(remove(&fixture, &v, None), Removed { bytes: None, h1: None });
        assert!(folder.join("zip").is_file());
    }

    #[test]
    fn a_tombstone_forbids_a_version_until_it_is_lifted() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        fixture.publish(&v, &bytes);
        let first = Tombstone::new("2026-01-02T03:04:05Z".to_owned(), None);
        assert!(remove(&fixture, &v, Some(first)).bytes.is_some());
        let again = remove(&fixture, &v, Some(Tombstone::now(Some("a key is in it".to_owned()))));
        assert_eq!(again.bytes, None);
        let tombstone = fixture.store.records().tombstone(&v).unwrap().unwrap();
        assert_eq!(tombstone.to_string(), "it has been forbidden since 2026-01-02T03:04:05Z: a key is in it");
        assert!(matches!(fixture.publish(&v, &bytes), Published::Refused(_)));
        let claim = fixture.store.claim(&v).unwrap();
        assert!(fixture.store.records().lift(&claim).unwrap());
        assert!(!fixture.store.records().lift(&claim).unwrap());
        drop(claim);
        assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
        let never = version("example.com/never@v1.0.0");
        remove(&fixture, &never, Some(Tombstone::now(None)));
        assert!(fixture.store.records().tombstone(&never).unwrap().is_some());
        assert!(fixture.store.records().lift(&fixture.store.claim(&never).unwrap()).unwrap());
        let record = fixture.store.records().get(&never).unwrap().unwrap();
        assert_eq!(record, Record { lift: record.lift.clone(), ..Record::default() });
    }

    #[test]
    fn a_mark_of_another_deployment_removes_the_version_or_allows_it_again() {
        let dir = testkit::tempdir();
        crate::testing::create(dir.path());
        let store = crate::testing::open(dir.path(), stoa_layout::gate::Mode::ReadWrite);
        let fixture = Fixture { store: store.named(Some("here".to_owned())), dir };
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        let Published::Ours(h1) = fixture.publish(&v, &bytes) else { panic!("somebody else published") };
        let mark = |is_lifted, origin: &str, counter| Mark {
            is_lifted,
            origin: origin.to_owned(),
            counter,
            at: "2026-01-02T03:04:05Z".to_owned(),
            reason: Some("a key is in it".to_owned()).filter(|_| !is_lifted),
        };
        let apply = |mark: &Mark| {
            let claim = fixture.store.claim(&v).unwrap();
            fixture.store.apply_mark(&claim, mark, "by the peer there").unwrap()
        };
        let there = mark(false, "there", 2);
        assert!(apply(&there) && !apply(&there) && !apply(&mark(true, "there", 1)));
        assert!(fixture.store.open_zip(&v).unwrap().is_none());
        let record = fixture.store.records().get(&v).unwrap().unwrap();
        assert_eq!((record.h1.as_ref(), record.mark()), (Some(&h1), Some(there)));
        assert!(matches!(fixture.publish(&v, &bytes), Published::Refused(_)));
        assert!(fixture.store.records().lift(&fixture.store.claim(&v).unwrap()).unwrap());
        let record = fixture.store.records().get(&v).unwrap().unwrap();
        assert_eq!(record.mark().unwrap().rank(), (3, "here"));
        assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
        assert!(!apply(&mark(false, "a", 3)), "the origin decides");
        assert!(apply(&mark(false, "there", 3)) && apply(&mark(true, "there", 4)));
        assert!(fixture.store.records().tombstone(&v).unwrap().is_none());
        assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
        assert_eq!(remove(&fixture, &v, Some(Tombstone::now(None))).h1, Some(h1));
        let record = fixture.store.records().get(&v).unwrap().unwrap();
        assert_eq!(record.mark().unwrap().rank(), (5, "here"));
        // A process was killed before it had removed the version.
        let left = version("example.com/left@v1.0.0");
        put_unsealed(&fixture.store, &left, &zip(&left, "package a\n"));
        let claim = fixture.store.claim(&left).unwrap();
        let mut record = Record::default();
        record.apply(&mark(false, "there", 2));
        fixture.store.records().write(&claim, &record).unwrap();
        let apply_left = |mark: &Mark| fixture.store.apply_mark(&claim, mark, "by the peer there").unwrap();
        assert!(!apply_left(&mark(true, "there", 1)) && !apply_left(&mark(false, "there", 1)));
        assert!(apply_left(&mark(false, "there", 2)) && !apply_left(&mark(false, "there", 2)));
        assert!(fixture.store.footprint(&left).unwrap().is_none());
        // A lifting that comes before its tombstone.
        let w = version("example.com/w@v1.0.0");
        let claim = fixture.store.claim(&w).unwrap();
        assert!(fixture.store.apply_mark(&claim, &mark(true, "there", 2), "by the peer there").unwrap());
        assert!(!fixture.store.apply_mark(&claim, &mark(false, "there", 1), "by the peer there").unwrap());
        let audit = fs::read_to_string(fixture.dir.path().join("records/audit/current")).unwrap();
        assert!(audit.contains("by the peer there") && !audit.contains("a key is in it"), "{audit}");
    }

    #[test]
    fn a_recorded_hash_is_not_replaced() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        let recorded = H1::new(&format!("h1:{}=", "A".repeat(43))).unwrap();
        let record = Record { h1: Some(recorded.clone()), ..Record::default() };
        fixture.store.records().write(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        // A version that came without a check of its record is not served either.
        assert_eq!(fixture.store.seal(&v).unwrap(), None);
        assert!(quarantined(fixture.dir.path())[0].0.contains(recorded.as_str()));
        put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        assert_eq!(remove(&fixture, &v, None).h1, Some(recorded));
    }
}
