//! Publishing many versions with few waits for the disk.
//!
//! The order is the same as in a single publish, and so is the state after a crash: the files of a version are on
//! disk before the rename that makes it visible. Only the waits are shared. All drafts of a batch are written, then
//! the file system is synced once, then the drafts are renamed. The renames are on disk after the next sync.

use stoa_layout::durable::FileSystem;

use crate::{Claim, Published, SealedDraft, Store, StoreError, UnsyncedDraft};

/// A publisher of many drafts that are synced together.
#[derive(Debug)]
pub struct Batch<'a> {
    store: &'a Store,
    file_system: FileSystem,
}

impl Store {
    /// Starts to publish many versions. Seal the drafts after this call, because the sync reports only later errors.
    pub fn batch(&self) -> Result<Batch<'_>, StoreError> {
        self.check_writable()?;
        Ok(Batch { store: self, file_system: FileSystem::of(self.root())? })
    }
}

impl Batch<'_> {
    /// Waits until these drafts are on disk.
    pub fn settle(&self, drafts: Vec<UnsyncedDraft>) -> Result<Vec<SealedDraft>, StoreError> {
        self.file_system.sync()?;
        Ok(drafts.into_iter().map(|draft| draft.0).collect())
    }

    /// Publishes a draft. The version survives a crash only after the next [`Self::settle`] or [`Self::finish`].
    pub fn publish(&self, draft: SealedDraft, claim: &Claim) -> Result<Published, StoreError> {
        self.store.publish_unsynced(draft, claim)
    }

    /// Waits until all published versions are on disk.
    pub fn finish(&self) -> Result<(), StoreError> {
        Ok(self.file_system.sync()?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::testing::{Fixture, info, modfile, staged, version, zip};
    use crate::{Verified, Which};

    #[test]
    fn all_versions_of_a_batch_are_published_and_valid() {
        let fixture = Fixture::new();
        let batch = fixture.store.batch().unwrap();
        let pairs = ["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/B@v1.0.0"].map(version);
        let drafts = pairs.each_ref().map(|v| {
            let mut draft = fixture.store.draft(v).unwrap();
            (&**draft.zip()).write_all(&zip(v, "package a\n")).unwrap();
            draft.set_mod(modfile(v).as_bytes());
            draft.seal_unsynced(info(v).as_bytes()).unwrap()
        });
        for draft in batch.settle(drafts.into()).unwrap() {
            let claim = fixture.store.claim(draft.version()).unwrap();
            let h1 = draft.h1().clone();
            assert_eq!(batch.publish(draft, &claim).unwrap(), Published::Ours(h1));
        }
        batch.finish().unwrap();
        for v in &pairs {
            assert!(fixture.store.open_zip(v).unwrap().unwrap().seal.is_some());
            assert!(matches!(fixture.store.verify(v, Which::All).unwrap(), Verified::Whole(_)));
        }
        assert!(staged(fixture.dir.path()).is_empty());
    }
}
