//! Publishing: a version becomes visible by one rename, and that rename is the last thing that happens.
//!
//! Before it the draft's files and folder are synced; after it the folder of the versions is. A crash before
//! the rename leaves a draft, which is swept; one after it leaves the version, whole.

use rustix::io::Errno;
use stoa_gomod::H1;
use stoa_layout::durable;

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
        let version = draft.version();
        debug_assert_eq!(version, claim.version(), "published under the claim of another version");
        let target = self.paths.version(version);
        let versions = self.paths.versions(version.path());
        self.durable.ensure_dirs(&self.paths.modules(), &Paths::versions_below_modules(version.path()))?;
        for _ in 0..ATTEMPTS {
            draft.stamp()?;
            let error = match durable::rename(&draft.folder.path, &target) {
                Ok(()) => return self.published(draft, &versions),
                Err(error) => error,
            };
            match error.errno() {
                Some(Errno::NOTEMPTY | Errno::EXIST) => {
                    if let Some(theirs) = self.seal_claimed(claim)? {
                        return self.yield_to(draft, claim, &theirs);
                    }
                    self.quarantine(claim, "it was in the way of a publish, and was no version")?;
                }
                Some(Errno::NOTDIR | Errno::ISDIR) => {
                    self.quarantine(claim, "it was in the way of a publish, and was no folder")?;
                }
                _ => return Err(error.into()),
            }
        }
        Err(StoreError::Contended(target))
    }

    fn published(&self, mut draft: SealedDraft, versions: &std::path::Path) -> Result<Published, StoreError> {
        draft.folder.moved = true;
        self.forget(draft.version());
        durable::sync_dir(versions)?;
        Ok(Published::Ours(draft.h1().clone()))
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
