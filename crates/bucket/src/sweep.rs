//! Deletes contents that nothing names: of publications that were interrupted or lost a race, and of removed versions.
//!
//! It runs under the lease, one process at a time. A content is deleted only if it is older than a day, and neither
//! the manifest of its version nor a quarantine entry names it. A publication gives up an hour after its upload. One that
//! was suspended for longer may still have its manifest to write, so the manifest is written again before a content is
//! deleted: then the condition of the late write does not hold any more.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use time::{Duration, OffsetDateTime};

use crate::{BucketError, Entry, Held, HeldLease, Manifest, VersionContent, Versions};

/// The age from which a content is deleted.
pub const MIN_AGE: Duration = Duration::hours(24);

/// The deleted objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Their number.
    pub objects: u64,
    /// Their total size in bytes.
    pub bytes: u64,
}

/// Number of contents that are looked at together for the last time.
const BATCH: usize = 1000;

impl Versions {
    /// Deletes the contents that nothing names and that are older than `min_age` by the clock of the service. Without a
    /// lease it only counts them.
    ///
    /// A version that moves to quarantine or back is named by both its manifest and the entry for a while. So a content
    /// is deleted only after both were read twice, in turn, and none has named it.
    pub async fn sweep(&self, lease: Option<&HeldLease>, min_age: Duration) -> Result<Swept, BucketError> {
        let quarantined = self.keys_in_quarantine().await?;
        let mut listed = self.bucket().list(&self.keys().contents(), None)?;
        let (mut swept, mut candidates) = (Swept::default(), Vec::new());
        let mut used: (Option<ModuleVersion>, HashSet<String>) = (None, HashSet::new());
        while let Some(entry) = listed.try_next().await? {
            let now = self.bucket().service_time().unwrap_or_else(OffsetDateTime::now_utc);
            if now - entry.meta.modified <= min_age || quarantined.contains(&entry.key) {
                continue;
            }
            let Some(version) = self.version_of_content(&entry.key) else { continue };
            if used.0.as_ref() != Some(&version) {
                used = (Some(version.clone()), self.keys_in_use(&version).await?);
            }
            if !used.1.contains(&entry.key) {
                candidates.push((version, entry));
            }
            if candidates.len() == BATCH {
                self.delete_unnamed(lease, std::mem::take(&mut candidates), &mut swept).await?;
            }
        }
        self.delete_unnamed(lease, candidates, &mut swept).await?;
        Ok(swept)
    }

    async fn delete_unnamed(
        &self,
        lease: Option<&HeldLease>,
        candidates: Vec<(ModuleVersion, Entry)>,
        swept: &mut Swept,
    ) -> Result<(), BucketError> {
        if candidates.is_empty() {
            return Ok(());
        }
        let quarantined = self.keys_in_quarantine().await?;
        let mut used: (Option<ModuleVersion>, HashSet<String>) = (None, HashSet::new());
        for (version, entry) in candidates {
            if quarantined.contains(&entry.key) {
                continue;
            }
            if used.0.as_ref() != Some(&version) {
                let keys = match lease {
                    Some(lease) => {
                        lease.check()?;
                        self.touch(&version).await?.as_ref().map(keys_in).unwrap_or_default()
                    }
                    None => self.keys_in_use(&version).await?,
                };
                used = (Some(version), keys);
            }
            if used.1.contains(&entry.key) {
                continue;
            }
            if let Some(lease) = lease {
                lease.check()?;
                self.bucket().delete(&entry.key).await?;
            }
            swept.objects += 1;
            swept.bytes += entry.meta.size;
        }
        Ok(())
    }

    async fn keys_in_quarantine(&self) -> Result<HashSet<String>, BucketError> {
        let entries = self.quarantined().await?;
        Ok(entries.iter().flat_map(|entry| keys_of(&entry.content)).map(str::to_owned).collect())
    }

    async fn keys_in_use(&self, version: &ModuleVersion) -> Result<HashSet<String>, BucketError> {
        Ok(self.manifest(version).await?.as_ref().map(keys_in).unwrap_or_default())
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
    use crate::{BucketMarker, BucketState, LAYOUT, LeaseTaker, LeaseTimes, PublishedThere};

    #[tokio::test]
    async fn only_contents_that_nothing_names_are_deleted() {
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
        let held = BucketState::read(versions.bucket()).await.unwrap().unwrap();
        let taker = LeaseTaker {
            bucket: versions.bucket().clone(),
            program: "test".to_owned(),
            owner: "test".to_owned(),
            times: LeaseTimes::default(),
        };
        let lease = taker.take(Some(&held), held.document.clone(), "sweep").await.unwrap().unwrap();
        assert_eq!(versions.sweep(Some(&lease), MIN_AGE).await.unwrap(), Swept::default());
        let expected = Swept { objects: 2, bytes: 3 + 4 };
        let young = Duration::seconds(-10);
        assert_eq!(versions.sweep(None, young).await.unwrap(), expected);
        assert_eq!(versions.sweep(Some(&lease), young).await.unwrap(), expected);
        assert_eq!(versions.sweep(Some(&lease), young).await.unwrap(), Swept::default());
        lease.end(BucketMarker::At(LAYOUT), None).await.unwrap();
        let manifest = versions.manifest(&kept.version).await.unwrap().unwrap().document;
        assert!(versions.has_content(&manifest).await.unwrap());
        let entry = versions.quarantined().await.unwrap().remove(0);
        assert!(versions.restore(&entry, &moved.h1).await.unwrap());
        let manifest = versions.manifest(&moved.version).await.unwrap().unwrap().document;
        assert!(versions.has_content(&manifest).await.unwrap());
    }
}
