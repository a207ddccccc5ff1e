//! Publishing: a version becomes visible by one rename, and that rename is the last thing that happens.
//!
//! Before it the draft's files and folder are synced; after it the folder of the versions is. A crash before
//! the rename leaves a draft, which is swept; one after it leaves the version, whole.

use std::path::Path;

use rustix::io::Errno;
use stoa_gomod::H1;
use stoa_layout::{PathError, durable};

use crate::paths::Paths;
use crate::{Claim, SealedDraft, Store, StoreError};

/// How a publish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The draft is the version now.
    Ours(H1),
    /// Another writer was first, and its version stands.
    Theirs {
        /// Whether it has the same files: the same hash of the zip. If not, ours is in quarantine.
        same: bool,
    },
}

/// How often something in the way is moved to quarantine before giving up.
const ATTEMPTS: usize = 4;

impl Store {
    /// Publishes a draft.
    pub fn publish(&self, draft: SealedDraft, claim: &Claim) -> Result<Published, StoreError> {
        debug_assert_eq!(draft.version(), claim.version(), "published under the claim of another version");
        let theirs = self.place_synced(&draft.folder.path, claim, || draft.stamp())?;
        self.published(draft, claim, theirs)
    }

    /// Publishes a draft, and leaves it to a later sync that it stays so.
    pub(crate) fn publish_unsynced(
        &self,
        draft: SealedDraft,
        claim: &Claim,
    ) -> Result<Published, StoreError> {
        let theirs = self.place(&draft.folder.path, claim, || draft.stamp())?;
        self.published(draft, claim, theirs)
    }

    /// Places a version, and waits until its place is on disk.
    pub(crate) fn place_synced(
        &self,
        from: &Path,
        claim: &Claim,
        stamp: impl Fn() -> Result<(), PathError>,
    ) -> Result<Option<H1>, StoreError> {
        let below = Paths::versions_below_modules(claim.version().path());
        self.durable.ensure_dirs(&self.paths.modules(), &below)?;
        let theirs = self.place(from, claim, stamp)?;
        if theirs.is_none() {
            durable::sync_dir(&self.paths.modules().join(below))?;
        }
        Ok(theirs)
    }

    /// Renames a folder that holds a version, whole and synced, to its place, and says which version stands there
    /// if another was first. `stamp` sets the time of publishing just before.
    fn place(
        &self,
        from: &Path,
        claim: &Claim,
        stamp: impl Fn() -> Result<(), PathError>,
    ) -> Result<Option<H1>, StoreError> {
        let version = claim.version();
        let target = self.paths.version(version);
        let below = Paths::versions_below_modules(version.path());
        self.durable.ensure_dirs_unsynced(&self.paths.modules(), &below)?;
        for _ in 0..ATTEMPTS {
            stamp()?;
            let error = match durable::rename(from, &target) {
                Ok(()) => {
                    self.forget(version);
                    self.index.note(version);
                    return Ok(None);
                }
                Err(error) => error,
            };
            match error.errno() {
                Some(Errno::NOTEMPTY | Errno::EXIST) => {
                    if let Some(theirs) = self.seal_claimed(claim)? {
                        return Ok(Some(theirs));
                    }
                    // One that proved broken is in quarantine by now.
                    if std::fs::symlink_metadata(&target).is_ok() {
                        self.quarantine(claim, "it was in the way of a publish, and was no version")?;
                    }
                }
                Some(Errno::NOTDIR | Errno::ISDIR) => {
                    self.quarantine(claim, "it was in the way of a publish, and was no folder")?;
                }
                _ => return Err(error.into()),
            }
        }
        Err(StoreError::Contended(target))
    }

    fn published(
        &self,
        mut draft: SealedDraft,
        claim: &Claim,
        theirs: Option<H1>,
    ) -> Result<Published, StoreError> {
        match theirs {
            None => {
                draft.folder.moved = true;
                Ok(Published::Ours(draft.h1().clone()))
            }
            Some(theirs) => self.yield_to(draft, claim, &theirs),
        }
    }

    fn yield_to(&self, mut draft: SealedDraft, claim: &Claim, theirs: &H1) -> Result<Published, StoreError> {
        let same = draft.h1() == theirs;
        if !same {
            let version = draft.version();
            log::error!(
                "{version} is published already with another content: {theirs} stands, {} goes to quarantine",
                draft.h1()
            );
            let reason = format!("{theirs} was published first, and this is {}", draft.h1());
            self.quarantine_folder(claim, &draft.folder.path, &reason)?;
            draft.folder.moved = true;
        }
        Ok(Published::Theirs { same })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{Fixture, draft, put_unsealed, quarantined, staged, version, zip};
    use crate::{SmallFile, VersionFile};

    #[test]
    fn a_published_version_is_there_whole() {
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
    fn the_first_of_two_writers_stands() {
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
    fn what_is_in_the_way_goes_to_quarantine() {
        let v = version("example.com/m@v1.0.0");
        type Put = fn(&std::path::Path);
        let cases: [(Option<&str>, Put); 4] = [
            (Some("no version"), |target| {
                fs::create_dir(target).unwrap();
                fs::write(target.join("mod"), "module x\n").unwrap();
            }),
            (Some("no folder"), |target| fs::write(target, "x").unwrap()),
            (Some("no folder"), |target| std::os::unix::fs::symlink("/", target).unwrap()),
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
    fn a_broken_version_makes_way() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        put_unsealed(&fixture.store, &v, &bytes[..bytes.len() - 9]);
        assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
        assert_eq!(quarantined(fixture.dir.path()).len(), 1);
    }

    #[test]
    fn a_dropped_draft_leaves_nothing() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let sealed = draft(&fixture.store, &v, &zip(&v, "package a\n"));
        assert_eq!(staged(fixture.dir.path()).len(), 1);
        drop(sealed);
        assert!(staged(fixture.dir.path()).is_empty());
        assert!(fixture.store.list(v.path()).unwrap().is_none());
    }
}
