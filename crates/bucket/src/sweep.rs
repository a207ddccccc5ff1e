//! Deletes unreferenced objects: contents of publications that were interrupted or lost a race, contents of removed
//! versions, and what programs left behind that were killed.
//!
//! It runs under the lease, one process at a time. A content is deleted only if it is older than a day, and neither
//! the manifest of its version nor a quarantine entry names it. A publication gives up an hour after its upload. One that
//! was suspended for longer may still have its manifest to write, so the manifest is written again before a content is
//! deleted: then the condition of the late write does not hold any more.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use time::{Duration, OffsetDateTime};

use crate::keys::PROBES;
use crate::{BucketError, Entry, Held, HeldLease, Manifest, Trouble, VersionContent, Versions};

/// The age from which an unreferenced object is deleted.
pub const MIN_AGE: Duration = Duration::hours(24);

/// The settings of a sweep.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    /// The lease under which objects are deleted. Without it they are only reported.
    pub lease: Option<&'a HeldLease>,
    /// The age from which an object is deleted, by the clock of the service.
    pub min_age: Duration,
    /// Maximum number of requests at the same time.
    pub at_once: usize,
}

/// An event of a sweep.
#[derive(Debug, Clone)]
pub enum Swept {
    /// The contents of so many versions were looked at so far.
    LookedAt(u64),
    /// An unreferenced object was deleted, or would be.
    Deleted {
        /// Its key.
        key: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The manifest of a version is damaged. All its objects were kept, because the manifest may name them.
    Unreadable(BucketError),
}

/// The contents of a version that are old enough.
struct Contents {
    version: ModuleVersion,
    entries: Vec<Entry>,
}

/// Number of versions that are looked at together.
const BATCH: usize = 1000;

impl Versions {
    /// Deletes unreferenced objects, and reports each to `each`.
    ///
    /// A version that moves to quarantine or back is named by both its manifest and the entry for a while. So a content
    /// is deleted only after both were read twice, in turn, and none has named it.
    pub async fn sweep<E: From<BucketError>>(
        &self,
        sweep: Sweep<'_>,
        mut each: impl FnMut(Swept) -> Result<(), E>,
    ) -> Result<(), E> {
        let quarantined = self.keys_in_quarantine().await?;
        let mut listed = self.bucket().list(&self.keys().contents(), None)?;
        let (mut batch, mut looked_at, mut last) = (Vec::<Contents>::new(), 0, None);
        while let Some(entry) = listed.try_next().await? {
            let Some(version) = self.version_of_content(&entry.key) else { continue };
            // The contents of a version are listed one after the other.
            if last.as_ref() != Some(&version) {
                looked_at += 1;
                last = Some(version.clone());
            }
            if !self.is_old(&entry, sweep.min_age) || quarantined.contains(&entry.key) {
                continue;
            }
            if let Some(last) = batch.last_mut().filter(|last| last.version == version) {
                last.entries.push(entry);
                continue;
            }
            if batch.len() == BATCH {
                self.sweep_contents(sweep, std::mem::take(&mut batch), &mut each).await?;
                each(Swept::LookedAt(looked_at))?;
            }
            batch.push(Contents { version, entries: vec![entry] });
        }
        self.sweep_contents(sweep, batch, &mut each).await?;
        each(Swept::LookedAt(looked_at))?;
        self.sweep_of_processes(sweep, &mut each).await?;
        self.sweep_of_earlier_ids(sweep, &mut each).await
    }

    /// Deletes the objects of processes that have ended. Each of them is written again by a process that lives.
    async fn sweep_of_processes<E: From<BucketError>>(
        &self,
        sweep: Sweep<'_>,
        each: &mut impl FnMut(Swept) -> Result<(), E>,
    ) -> Result<(), E> {
        for folder in [self.keys().claims(), self.keys().servers(), PROBES.to_owned()] {
            self.sweep_folder(sweep, &folder, each).await?;
        }
        Ok(())
    }

    /// Deletes what is below earlier IDs: a downgrade that was undone leaves it, and so does a process that was suspended
    /// while the ID changed.
    async fn sweep_of_earlier_ids<E: From<BucketError>>(
        &self,
        sweep: Sweep<'_>,
        each: &mut impl FnMut(Swept) -> Result<(), E>,
    ) -> Result<(), E> {
        let folders = self.bucket().folders_of_ids().await?;
        if let Some(lease) = sweep.lease {
            // Only the holder of the lease chooses an ID, and these folders were listed before this write succeeded. So
            // none of them can get in use later, also if this process is suspended from here on.
            lease.renew().await?;
            if lease.state().await.id != *self.keys().id() {
                return Ok(());
            }
        }
        let own = self.keys().root();
        for folder in folders.iter().filter(|folder| **folder != own) {
            self.sweep_folder(sweep, folder, each).await?;
        }
        Ok(())
    }

    async fn sweep_folder<E: From<BucketError>>(
        &self,
        sweep: Sweep<'_>,
        folder: &str,
        each: &mut impl FnMut(Swept) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut listed = self.bucket().list(folder, None)?;
        let mut old = Vec::new();
        while let Some(entry) = listed.try_next().await? {
            if self.is_old(&entry, sweep.min_age) {
                old.push(entry);
            }
            if old.len() == BATCH {
                self.delete_all(sweep, std::mem::take(&mut old), each).await?;
            }
        }
        self.delete_all(sweep, old, each).await
    }

    async fn sweep_contents<E: From<BucketError>>(
        &self,
        sweep: Sweep<'_>,
        batch: Vec<Contents>,
        each: &mut impl FnMut(Swept) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut candidates = self.without_used(sweep, batch, None, each).await?;
        if candidates.is_empty() {
            return Ok(());
        }
        let quarantined = self.keys_in_quarantine().await?;
        for contents in &mut candidates {
            contents.entries.retain(|entry| !quarantined.contains(&entry.key));
        }
        let unused = self.without_used(sweep, candidates, sweep.lease, each).await?;
        self.delete_all(sweep, unused.into_iter().flat_map(|contents| contents.entries).collect(), each).await
    }

    /// Returns the contents that the manifests of their versions do not name. With a lease, each manifest is written
    /// again first. Nothing is known of a version whose manifest is damaged, so its contents are left out.
    async fn without_used<E: From<BucketError>>(
        &self,
        sweep: Sweep<'_>,
        batch: Vec<Contents>,
        lease: Option<&HeldLease>,
        each: &mut impl FnMut(Swept) -> Result<(), E>,
    ) -> Result<Vec<Contents>, E> {
        let batch = batch.into_iter().filter(|contents| !contents.entries.is_empty());
        let looked = stream::iter(batch).map(|Contents { version, mut entries }| async move {
            let read = match lease {
                Some(lease) => {
                    lease.check()?;
                    self.touch(&version).await
                }
                None => self.manifest(&version).await,
            };
            let used = match read {
                Ok(held) => held.as_ref().map(keys_in).unwrap_or_default(),
                Err(error) if error.trouble == Trouble::Damaged => return Ok(Err(error)),
                Err(error) => return Err(error),
            };
            entries.retain(|entry| !used.contains(&entry.key));
            Ok::<_, BucketError>(Ok(Contents { version, entries }))
        });
        let (mut looked, mut unused) = (std::pin::pin!(looked.buffered(sweep.at_once.max(1))), Vec::new());
        while let Some(looked) = looked.try_next().await? {
            match looked {
                Ok(contents) if contents.entries.is_empty() => {}
                Ok(contents) => unused.push(contents),
                Err(error) => each(Swept::Unreadable(error))?,
            }
        }
        Ok(unused)
    }

    async fn delete_all<E: From<BucketError>>(
        &self,
        sweep: Sweep<'_>,
        entries: Vec<Entry>,
        each: &mut impl FnMut(Swept) -> Result<(), E>,
    ) -> Result<(), E> {
        let deleted = stream::iter(entries).map(|entry| async move {
            if let Some(lease) = sweep.lease {
                lease.check()?;
                self.bucket().delete(&entry.key).await?;
            }
            Ok::<_, BucketError>(entry)
        });
        let mut deleted = std::pin::pin!(deleted.buffered(sweep.at_once.max(1)));
        while let Some(entry) = deleted.try_next().await? {
            each(Swept::Deleted { key: entry.key, bytes: entry.meta.size })?;
        }
        Ok(())
    }

    fn is_old(&self, entry: &Entry, min_age: Duration) -> bool {
        let now = self.bucket().service_time().unwrap_or_else(OffsetDateTime::now_utc);
        now - entry.meta.modified > min_age
    }

    async fn keys_in_quarantine(&self) -> Result<HashSet<String>, BucketError> {
        let entries = self.quarantined().await?;
        Ok(entries.iter().flat_map(|entry| keys_of(&entry.content)).map(str::to_owned).collect())
    }

    fn version_of_content(&self, key: &str) -> Option<ModuleVersion> {
        let rest = key.strip_prefix(&self.keys().contents())?.strip_prefix('/')?;
        let (rest, _name) = rest.rsplit_once('/')?;
        let (module, version) = rest.rsplit_once("/@v/")?;
        ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()
    }
}

fn keys_in(held: &Held<Manifest>) -> HashSet<String> {
    held.document.present_content().into_iter().flat_map(keys_of).map(str::to_owned).collect()
}

fn keys_of(content: &VersionContent) -> impl Iterator<Item = &str> {
    [Some(content.zip.key.as_str()), content.info.key(), content.modfile.key()].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{new, versions};
    use crate::{BucketMarker, LAYOUT, LeaseTaker, LeaseTimes, Nonce, OWN, PublishedThere};

    #[tokio::test]
    async fn only_unreferenced_objects_are_deleted() {
        let versions = versions().await;
        let [kept, removed, moved] =
            ["a@v1.0.0", "b@v1.0.0", "c@v1.0.0"].map(|name| new(&format!("example.com/{name}"), b"zip"));
        for new in [&kept, &removed, &moved] {
            assert!(matches!(versions.publish(new, None).await.unwrap(), PublishedThere::Ours(_)));
        }
        versions.remove(&removed.version, None, true).await.unwrap();
        versions.quarantine(&moved.version, None, "test").await.unwrap();
        // Another content of the kept version, of a publication that was interrupted.
        let key = versions.keys().content(&kept.version, &crate::Nonce::random().unwrap(), "zip");
        versions.bucket().overwrite(&key, bytes::Bytes::from_static(b"left")).await.unwrap();
        let sign = format!("{}/{}", versions.keys().servers(), crate::Nonce::random().unwrap());
        versions.bucket().overwrite(&sign, bytes::Bytes::from_static(b"killed")).await.unwrap();
        let earlier = format!("{OWN}/{}/m/example.com/a/@v/v1.0.0.json", Nonce::random().unwrap());
        versions.bucket().overwrite(&earlier, bytes::Bytes::from_static(b"earlier")).await.unwrap();
        let taker = LeaseTaker {
            bucket: versions.bucket().clone(),
            program: "test".to_owned(),
            owner: "test".to_owned(),
            times: LeaseTimes::default(),
        };
        let lease = taker.take_current(versions.keys().id(), "prune", |_| {}).await.unwrap();
        let objects = async |lease: Option<&HeldLease>, min_age: Duration| {
            let (mut deleted, mut looked_at) = (Vec::new(), 0);
            let each = |swept| -> Result<(), BucketError> {
                match swept {
                    Swept::LookedAt(objects) => looked_at = objects,
                    Swept::Deleted { bytes, .. } => deleted.push(bytes),
                    Swept::Unreadable(error) => return Err(error),
                }
                Ok(())
            };
            versions.sweep(Sweep { lease, min_age, at_once: 4 }, each).await.unwrap();
            deleted.sort_unstable();
            (deleted, looked_at)
        };
        assert_eq!(objects(Some(&lease), MIN_AGE).await, (vec![], 3));
        let young = Duration::seconds(-10);
        let expected = (vec![3, 4, 6, 7], 3);
        assert_eq!(objects(None, young).await, expected);
        assert_eq!(objects(Some(&lease), young).await, expected);
        assert_eq!(objects(Some(&lease), young).await, (vec![], 2));
        lease.end(BucketMarker::At(LAYOUT), None).await.unwrap();
        let manifest = versions.manifest(&kept.version).await.unwrap().unwrap().document;
        assert!(versions.has_content(&manifest).await.unwrap());
        let entry = versions.quarantined().await.unwrap().remove(0);
        assert!(versions.restore(&entry, &moved.h1).await.unwrap());
        let manifest = versions.manifest(&moved.version).await.unwrap().unwrap().document;
        assert!(versions.has_content(&manifest).await.unwrap());
    }
}
