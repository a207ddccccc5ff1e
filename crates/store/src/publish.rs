//! Publishing: a version becomes visible by one rename, which is the last step.
//!
//! The files and the folder of the draft are synced before the rename, and the folder of the versions after it. A
//! crash before the rename leaves a draft, which the next start removes. A crash after it leaves the whole version.

use std::path::Path;

use rustix::io::Errno;
use stoa_gomod::{H1, h1};
use stoa_layout::{PathError, durable};

use crate::change::Change;
use crate::files::{SMALL_LIMIT, open_file, read_bounded};
use crate::paths::VersionFile;
use crate::{Claim, Objection, SealedDraft, Store, StoreError};

/// The result of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The draft was published.
    Ours(H1),
    /// Another writer was first, and its version stays.
    Theirs {
        /// Whether both zips have the same hash. If not, our draft is in quarantine.
        same: bool,
    },
    /// The record of the version forbids it. Nothing was published, and the draft was removed.
    Refused(Objection),
}

/// When a published version is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    Now,
    /// After the next sync of the file system.
    Later,
}

/// The result of placing a version.
#[derive(Debug)]
pub(crate) enum Placed {
    Ours,
    /// A version with this hash was published first.
    Theirs(H1),
    Refused(Objection),
}

/// How often something in the way is moved to quarantine before the publish fails.
const ATTEMPTS: usize = 4;

impl Store {
    /// Publishes a draft.
    pub fn publish(&self, draft: SealedDraft, claim: &Claim) -> Result<Published, StoreError> {
        debug_assert_eq!(draft.version(), claim.version(), "published under the claim of another version");
        let placed = self.place(&draft.folder.path, draft.h1(), claim, Wait::Now, || draft.stamp())?;
        self.published(draft, claim, placed)
    }

    /// Publishes a draft. It survives a crash only after a later sync of the file system.
    pub(crate) fn publish_unsynced(
        &self,
        draft: SealedDraft,
        claim: &Claim,
    ) -> Result<Published, StoreError> {
        let placed = self.place(&draft.folder.path, draft.h1(), claim, Wait::Later, || draft.stamp())?;
        self.published(draft, claim, placed)
    }

    /// Renames a folder with a whole and synced version to its place, unless the record of the version forbids it or
    /// another writer was first. Then removes the cached pair of the version. `h1` is the hash of the zip, and `stamp` sets
    /// the time of publishing before the rename.
    ///
    /// Every version enters the store through this function.
    pub(crate) fn place(
        &self,
        from: &Path,
        h1: &H1,
        claim: &Claim,
        wait: Wait,
        stamp: impl Fn() -> Result<(), PathError>,
    ) -> Result<Placed, StoreError> {
        let placed = self.rename_to_place(from, h1, claim, wait, stamp)?;
        // The stored version is served from now on. A pair that stays is removed with the version, or evicted.
        if !matches!(placed, Placed::Refused(_))
            && let Err(error) = self.pairs().remove(claim.version())
        {
            log::warn!(
                version:% = claim.version(), reason:% = error;
                "cannot remove the cached info and go.mod of a version"
            );
        }
        Ok(placed)
    }

    fn rename_to_place(
        &self,
        from: &Path,
        h1: &H1,
        claim: &Claim,
        wait: Wait,
        stamp: impl Fn() -> Result<(), PathError>,
    ) -> Result<Placed, StoreError> {
        let version = claim.version();
        if let Some(objection) = self.objection_to(from, h1, claim)? {
            return Ok(Placed::Refused(objection));
        }
        let target = self.paths.version(version);
        let versions = self.paths.versions(version.path());
        let (root, below) = (self.root(), self.paths.relative(&versions));
        let folder = match wait {
            Wait::Now => self.durable.ensure_dirs(root, below)?,
            Wait::Later => self.durable.ensure_dirs_unsynced(root, below)?,
        };
        for _ in 0..ATTEMPTS {
            stamp()?;
            let error = match durable::rename(from, &target) {
                Ok(()) => {
                    self.changed(version, Change::Published);
                    self.note_space();
                    if wait == Wait::Now {
                        folder.sync()?;
                    }
                    return Ok(Placed::Ours);
                }
                Err(error) => error,
            };
            match error.errno() {
                Some(Errno::NOTEMPTY | Errno::EXIST) => {
                    if let Some(theirs) = self.seal_claimed(claim)? {
                        return Ok(Placed::Theirs(theirs));
                    }
                    // A corrupt version is in quarantine by now.
                    if std::fs::symlink_metadata(&target).is_ok() {
                        self.quarantine_obstacle(
                            claim,
                            "it was in the place of a version and is not a version",
                        )?;
                    }
                }
                Some(Errno::NOTDIR | Errno::ISDIR) => {
                    self.quarantine_obstacle(claim, "it was in the place of a version and is not a folder")?;
                }
                _ => return Err(error.into()),
            }
        }
        Err(StoreError::Contended(target))
    }

    /// Returns what the record of a version has against the version in a folder. The caller holds the claim until the
    /// version is published or refused, so that no tombstone comes in between.
    pub(crate) fn objection_to(
        &self,
        from: &Path,
        h1: &H1,
        claim: &Claim,
    ) -> Result<Option<Objection>, StoreError> {
        let Some(record) = self.records().of(claim)? else { return Ok(None) };
        let gomod_h1 = match record.gomod_h1 {
            Some(_) => hash_of_mod(from)?,
            None => None,
        };
        Ok(record.objection(h1, gomod_h1.as_ref()))
    }

    fn published(&self, draft: SealedDraft, claim: &Claim, placed: Placed) -> Result<Published, StoreError> {
        match placed {
            Placed::Ours => {
                draft.folder.keep();
                Ok(Published::Ours(draft.h1().clone()))
            }
            Placed::Theirs(theirs) => self.yield_to(draft, claim, &theirs),
            Placed::Refused(objection) => Ok(Published::Refused(objection)),
        }
    }

    fn yield_to(&self, draft: SealedDraft, claim: &Claim, theirs: &H1) -> Result<Published, StoreError> {
        let same = draft.h1() == theirs;
        if !same {
            log::error!(
                version:% = draft.version(), published:% = theirs, ours:% = draft.h1();
                "the version is already published with other content, moving the new copy to quarantine"
            );
            let reason = format!("the zip published first has {theirs}, this zip has {}", draft.h1());
            self.quarantine_folder(claim, &draft.folder.path, &reason)?;
            draft.folder.keep();
        }
        Ok(Published::Theirs { same })
    }
}

/// Returns the hash of the mod in a folder. `None` if there is no mod.
pub(crate) fn hash_of_mod(folder: &Path) -> Result<Option<H1>, StoreError> {
    let path = folder.join(VersionFile::Mod.name());
    match open_file(&path)? {
        Some((file, _)) => Ok(Some(h1::hash_mod(&read_bounded(file, &path, SMALL_LIMIT)?))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{Fixture, draft, put_unsealed, quarantined, staged, version, zip};
    use crate::{Record, SmallFile, Tombstone, VersionFile};

    #[test]
    fn a_published_version_can_be_read() {
        let fixture = Fixture::new();
        let v = version("github.com/Azure/sdk@v1.0.0-RC1");
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
        let bytes = zip(&v, "package a\n");
        let Published::Ours(h1) = fixture.publish(&v, &bytes) else { panic!("somebody else published") };
        let folder = fixture.dir.path().join("modules/github.com/!azure/sdk/@v/v1.0.0-!r!c1");
        for file in [VersionFile::Info, VersionFile::Mod, VersionFile::Zip, VersionFile::Seal] {
            assert_eq!(fixture.store.locate(&v, file).unwrap(), Some(folder.join(file.name())));
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
        assert_eq!(fs::read(folder.join("zip")).unwrap(), bytes);
        let open = fixture.store.open_zip(&v).unwrap().unwrap();
        assert_eq!((open.length, open.seal), (bytes.len() as u64, Some(h1)));
        assert_eq!(
            fixture.store.small(&v, SmallFile::Mod).unwrap().unwrap().bytes,
            "module github.com/Azure/sdk\n"
        );
        assert!(staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn the_version_of_the_first_writer_stays() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let first = zip(&v, "package one\n");
        assert!(matches!(fixture.publish(&v, &first), Published::Ours(_)));
        assert_eq!(fixture.publish(&v, &first), Published::Theirs { same: true });
        assert!(quarantined(fixture.dir.path()).is_empty());
        assert_eq!(fixture.publish(&v, &zip(&v, "package two\n")), Published::Theirs { same: false });
        let kept = quarantined(fixture.dir.path());
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].1, ["info", "mod", "zip", "ziphash"]);
        assert_eq!(fs::read(fixture.store.locate(&v, VersionFile::Zip).unwrap().unwrap()).unwrap(), first);
        assert!(staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn whatever_is_in_the_way_of_a_publish_moves_to_quarantine() {
        let v = version("example.com/m@v1.0.0");
        type Put = fn(&std::path::Path);
        let cases: [(Option<&str>, Put); 4] = [
            (Some("not a version"), |target| {
                fs::create_dir(target).unwrap();
                fs::write(target.join("mod"), "module x\n").unwrap();
            }),
            (Some("not a folder"), |target| fs::write(target, "x").unwrap()),
            (Some("not a folder"), |target| std::os::unix::fs::symlink("/", target).unwrap()),
            (None, |target| fs::create_dir(target).unwrap()),
        ];
        for (reason, put) in cases {
            let fixture = Fixture::new();
            let target = fixture.dir.path().join("modules/example.com/m/@v/v1.0.0");
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            put(&target);
            assert!(matches!(fixture.publish(&v, &zip(&v, "package a\n")), Published::Ours(_)), "{reason:?}");
            assert!(fixture.store.locate(&v, VersionFile::Seal).unwrap().is_some());
            let kept = quarantined(fixture.dir.path());
            match (reason, &kept[..]) {
                (Some(reason), [(why, _)]) => assert!(why.ends_with(reason), "{why}"),
                // A rename replaces an empty folder.
                (None, []) => {}
                _ => panic!("{reason:?}: {kept:?}"),
            }
        }
    }

    #[test]
    fn a_publish_replaces_a_corrupt_version() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        put_unsealed(&fixture.store, &v, &bytes[..bytes.len() - 9]);
        assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
        assert_eq!(quarantined(fixture.dir.path()).len(), 1);
    }

    #[test]
    fn a_version_that_its_record_forbids_is_not_published() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let Published::Ours(h1) = fixture.publish(&v, &zip(&v, "package a\n")) else {
            panic!("somebody else")
        };
        fs::remove_dir_all(fixture.store.paths.version(&v)).unwrap();
        let record = |record: Record| {
            fixture.store.records().write(&fixture.store.claim(&v).unwrap(), &record).unwrap();
        };
        record(Record { h1: Some(h1.clone()), ..Record::default() });
        let refused = fixture.publish(&v, &zip(&v, "package b\n"));
        assert!(
            matches!(&refused, Published::Refused(Objection::Differs { recorded, .. }) if *recorded == h1)
        );
        assert!(fixture.store.locate(&v, VersionFile::Zip).unwrap().is_none());
        assert!(staged(fixture.dir.path()).is_empty() && quarantined(fixture.dir.path()).is_empty());
        assert_eq!(fixture.publish(&v, &zip(&v, "package a\n")), Published::Ours(h1.clone()));
        fs::remove_dir_all(fixture.store.paths.version(&v)).unwrap();
        let gomod_h1 = Some(h1::hash_mod(b"another"));
        record(Record { gomod_h1, h1: Some(h1), ..Record::default() });
        let refused = fixture.publish(&v, &zip(&v, "package a\n"));
        assert!(matches!(refused, Published::Refused(Objection::Differs { file: "mod", .. })));
        record(Record { tombstone: Some(Tombstone::now(None)), ..Record::default() });
        let refused = fixture.publish(&v, &zip(&v, "package a\n"));
        assert!(matches!(refused, Published::Refused(Objection::Tombstone(_))));
        fs::write(fixture.store.paths.record(&v), "").unwrap();
        let claim = fixture.store.claim(&v).unwrap();
        let sealed = draft(&fixture.store, &v, &zip(&v, "package a\n"));
        assert!(matches!(fixture.store.publish(sealed, &claim), Err(StoreError::Record { .. })));
        assert!(fixture.store.locate(&v, VersionFile::Zip).unwrap().is_none());
    }

    #[test]
    fn dropping_a_draft_removes_it() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let sealed = draft(&fixture.store, &v, &zip(&v, "package a\n"));
        assert_eq!(staged(fixture.dir.path()).len(), 1);
        drop(sealed);
        assert!(staged(fixture.dir.path()).is_empty());
        assert!(fixture.store.list(v.path()).unwrap().is_none());
    }
}
