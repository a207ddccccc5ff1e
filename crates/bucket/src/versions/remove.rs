//! Removing versions, and the objects of their content.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use stoa_gomod::{H1, ModuleVersion, h1};

use super::{ATTEMPTS, Versions};
use crate::manifest::inline_bytes;
use crate::{
    AthensFile, BucketError, Manifest, Origin, Presence, SmallContent, Tombstone, VersionContent, gone,
};

/// Number of notes that are written at the same time.
const NOTES_AT_ONCE: usize = 16;

/// The removal of a version, attempt by attempt.
struct Removal {
    tombstone: Option<Tombstone>,
    keep_hashes: bool,
    /// The content before the first attempt, and the hash of its go.mod.
    before: Option<VersionContent>,
    gomod_h1: Option<H1>,
    /// The content that the manifest named at the last attempt at which it named one.
    had: Option<VersionContent>,
    /// Whether that was the last attempt. If not, another process has removed the content or moved it to quarantine, or
    /// an earlier attempt has removed it and its answer was lost. Then the other process may take this one for the one
    /// that deletes the objects.
    is_last: bool,
}

impl Removal {
    /// Returns the manifest that replaces the present one. `None` if it is removed already.
    fn next(
        &mut self,
        version: &ModuleVersion,
        now: Option<&Manifest>,
    ) -> Result<Option<Manifest>, BucketError> {
        let content = now.and_then(Manifest::present_content);
        self.is_last = content.is_some();
        if let Some(content) = content {
            self.had = Some(content.clone());
        }
        let mut record = now.map(|now| now.record.clone()).unwrap_or_default();
        if let Some(now) = now.filter(|now| self.keep_hashes && now.state == Presence::Present) {
            record.h1 = record.h1.or_else(|| now.seal().cloned());
            if record.gomod_h1.is_none() && now.present_content() == self.before.as_ref() {
                record.gomod_h1.clone_from(&self.gomod_h1);
            }
        }
        if let Some(tombstone) = &self.tombstone
            && !record.forbid(tombstone)
        {
            // A higher mark has come first. If this removal has removed a content before, that one is deleted.
            self.had = self.had.take().filter(|had| Some(had) != content);
            return Ok(None);
        }
        let is_done = now.is_none_or(|now| now.state == Presence::Absent)
            && record == now.map(|now| now.record.clone()).unwrap_or_default();
        if is_done {
            return Ok(None);
        }
        let origin = now.map_or(Origin::Filled, |now| now.origin);
        let mut next = Manifest::absent(version.clone(), origin, record)?;
        if let Some(now) = now {
            next.published_at.clone_from(&now.published_at);
        }
        Ok(Some(next))
    }
}

impl Versions {
    /// Announces that versions go, by one write for all of them. Servers look at their manifests again.
    ///
    /// This comes before the manifests change, so that servers learn of a removal that is interrupted too. A server may look
    /// before the manifest has changed, so [`Self::announce_again`] comes afterwards.
    pub async fn announce(&self, versions: &[ModuleVersion]) -> Result<(), BucketError> {
        self.check_state().await?;
        // A list of versions reads only the manifests that have such an object.
        let keys: Vec<String> = versions.iter().map(|version| self.keys.removed(version)).collect();
        let notes = stream::iter(keys).map(async |key| self.bucket.overwrite(&key, Bytes::new()).await);
        notes.buffer_unordered(NOTES_AT_ONCE).try_collect::<()>().await?;
        self.add_to_gone(versions).await
    }

    /// Adds removals to the list. The threads of this process take turns.
    async fn add_to_gone(&self, versions: &[ModuleVersion]) -> Result<(), BucketError> {
        let _turn = self.gone_turn.lock().await;
        gone::add(&self.bucket, &self.keys, versions).await
    }

    /// Announces that the manifests of versions have changed, after they did.
    pub async fn announce_again(&self, versions: &[ModuleVersion]) -> Result<(), BucketError> {
        self.check_state().await?;
        self.add_to_gone(versions).await
    }

    /// Removes a version, and forbids it if a tombstone is given. A tombstone without a counter gets the next one. A
    /// tombstone with a counter changes nothing if it is not higher than the mark in the manifest. Returns the content that
    /// it had: its objects can be deleted. `None` if it did not exist.
    pub async fn remove(
        &self,
        version: &ModuleVersion,
        tombstone: Option<Tombstone>,
        keep_hashes: bool,
    ) -> Result<Option<VersionContent>, BucketError> {
        let versions = std::slice::from_ref(version);
        self.announce(versions).await?;
        let had = self.remove_announced(version, tombstone, keep_hashes).await?;
        self.announce_again(versions).await?;
        Ok(had)
    }

    /// Removes a version likewise, between [`Self::announce`] and [`Self::announce_again`].
    pub async fn remove_announced(
        &self,
        version: &ModuleVersion,
        tombstone: Option<Tombstone>,
        keep_hashes: bool,
    ) -> Result<Option<VersionContent>, BucketError> {
        let mut removal = self.removal(version, tombstone, keep_hashes).await?;
        self.change(version, |now| removal.next(version, now)).await?;
        self.content_of(version, removal).await
    }

    async fn removal(
        &self,
        version: &ModuleVersion,
        tombstone: Option<Tombstone>,
        keep_hashes: bool,
    ) -> Result<Removal, BucketError> {
        let before = self.manifest(version).await?;
        let before = before.as_ref().and_then(|held| held.document.present_content()).cloned();
        let gomod_h1 = match before.as_ref().filter(|_| keep_hashes) {
            Some(content) => self.small(&content.modfile).await?.map(|body| h1::hash_mod(&body)),
            None => None,
        };
        Ok(Removal { tombstone, keep_hashes, before, gomod_h1, had: None, is_last: false })
    }

    /// Returns the content that a removal has left without a name.
    async fn content_of(
        &self,
        version: &ModuleVersion,
        removal: Removal,
    ) -> Result<Option<VersionContent>, BucketError> {
        let Some(had) = removal.had else { return Ok(None) };
        let is_ours = removal.is_last || !self.is_named(version, &had).await?;
        Ok(is_ours.then_some(had))
    }

    /// Returns whether the manifest of a version or a quarantine entry names a content.
    ///
    /// A content that moves between the two has both names for a while. So it has no name only if the manifest was the
    /// same before and after the entries were read.
    async fn is_named(&self, version: &ModuleVersion, content: &VersionContent) -> Result<bool, BucketError> {
        let is_it = |other: &VersionContent| other.zip.key == content.zip.key;
        let mut before = self.manifest(version).await?;
        for _ in 0..ATTEMPTS {
            let used = before.as_ref().and_then(|held| held.document.present_content());
            if used.is_some_and(is_it) || self.quarantined().await?.iter().any(|entry| is_it(&entry.content))
            {
                return Ok(true);
            }
            let after = self.manifest(version).await?;
            if after.as_ref().map(|held| &held.tag) == before.as_ref().map(|held| &held.tag) {
                return Ok(false);
            }
            before = after;
        }
        Err(self.contended(&self.keys.manifest(version)))
    }

    /// Deletes the objects of a content that no manifest and no quarantine entry names any more. Of a version that Athens
    /// saved, its three files, unless Athens has overwritten one of them.
    pub async fn delete_content(&self, content: &VersionContent) -> Result<(), BucketError> {
        if let Some((version, _)) = AthensFile::parse(&content.zip.key) {
            if self.is_overwritten(&version, content).await? {
                log::info!(version:%; "keeping the files of a version that Athens has saved again");
                return Ok(());
            }
            // The info first, as Athens does.
            for file in AthensFile::ALL {
                self.bucket.delete(&file.key(&version)).await?;
            }
            return Ok(());
        }
        let small = [&content.info, &content.modfile].into_iter().filter_map(SmallContent::key);
        for key in small.chain([content.zip.key.as_str()]) {
            self.bucket.delete(key).await?;
        }
        Ok(())
    }

    /// Returns whether a file of Athens is another one than the content names. A missing file is not: an earlier
    /// deletion was interrupted.
    async fn is_overwritten(
        &self,
        version: &ModuleVersion,
        content: &VersionContent,
    ) -> Result<bool, BucketError> {
        for (file, small) in [(AthensFile::Info, &content.info), (AthensFile::Mod, &content.modfile)] {
            let key = file.key(version);
            let is_other = match (small, inline_bytes(small)) {
                (SmallContent::Object(object), _) => self.has_other_tag(&key, object.etag.as_deref()).await?,
                // The manifest has the bytes and no ETag.
                (_, Some(Ok(bytes))) => match self.bucket.head(&key).await? {
                    Some(found) if found.size == bytes.len() as u64 => {
                        let found = self.bucket.get(&key, found.size).await?;
                        found.is_some_and(|found| found.bytes != bytes)
                    }
                    found => found.is_some(),
                },
                // It cannot be compared, so it is kept.
                (_, Some(Err(_)) | None) => true,
            };
            if is_other {
                return Ok(true);
            }
        }
        self.has_other_tag(&content.zip.key, content.zip.etag.as_deref()).await
    }

    pub(super) async fn has_other_tag(&self, key: &str, etag: Option<&str>) -> Result<bool, BucketError> {
        let found = self.bucket.head(key).await?;
        Ok(found.is_some_and(|found| etag.is_some() && found.tag.e_tag() != etag))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use stoa_layout::clock;

    use super::*;
    use crate::Document;
    use crate::testing::{save_as_athens, versions};

    fn tombstone() -> Option<Tombstone> {
        Some(Tombstone::new(clock::now(), None))
    }

    /// Removes a version. Between the first attempt, which is written or not, and its answer, which is lost, something
    /// else happens. The bucket is in memory and answers at once.
    async fn removed_while(
        versions: &Versions,
        version: &ModuleVersion,
        is_written: bool,
        happens: impl AsyncFn(),
    ) -> Option<VersionContent> {
        let mut removal = versions.removal(version, tombstone(), true).await.unwrap();
        let mut is_first = true;
        let attempt = |now: Option<&Manifest>| {
            let next = removal.next(version, now)?;
            if let Some(next) = next.as_ref().filter(|_| std::mem::take(&mut is_first)) {
                let bytes = Bytes::from(next.to_bytes().unwrap());
                let meanwhile = async {
                    if is_written {
                        versions.bucket().overwrite(&versions.keys().manifest(version), bytes).await.unwrap();
                    }
                    happens().await;
                };
                meanwhile.now_or_never().unwrap();
            }
            Ok(next)
        };
        versions.change(version, attempt).await.unwrap();
        versions.content_of(version, removal).await.unwrap()
    }

    #[tokio::test]
    async fn of_two_removals_at_the_same_time_at_least_one_deletes_the_objects() {
        for is_written in [true, false] {
            let versions = versions().await;
            let version = save_as_athens(&versions, "example.com/m@v1.0.0", 1).await;
            let held = versions.adopt_missing(&version).await.unwrap().unwrap();
            let other = async || {
                let had = versions.remove(&version, tombstone(), true).await.unwrap();
                assert_eq!(had.is_none(), is_written);
            };
            let had = removed_while(&versions, &version, is_written, other).await;
            assert_eq!(had.as_ref(), held.document.present_content());
        }
    }

    #[tokio::test]
    async fn a_removal_keeps_content_that_moves_to_quarantine_or_back_meanwhile() {
        let versions = versions().await;
        let version = save_as_athens(&versions, "example.com/m@v1.0.0", 1).await;
        versions.adopt_missing(&version).await.unwrap().unwrap();
        let quarantine = async || drop(versions.quarantine(&version, None, "test").await.unwrap().unwrap());
        assert_eq!(removed_while(&versions, &version, false, quarantine).await, None);
        let entry = versions.quarantined().await.unwrap().remove(0);
        assert!(versions.bucket().head(&entry.content.zip.key).await.unwrap().is_some());
        // A restored version is removed by the next attempt.
        versions.record(&version, |record| record.tombstone = None).await.unwrap();
        let manifest = versions.manifest(&version).await.unwrap().unwrap().document;
        let h1 = manifest.record.h1.unwrap_or_else(|| h1::hash_mod(b"zip"));
        assert!(versions.restore(&entry, &h1).await.unwrap());
        let moves = async || {
            let entry = versions.quarantine(&version, None, "test").await.unwrap().unwrap();
            assert!(versions.restore(&entry, &h1).await.unwrap());
        };
        let had = removed_while(&versions, &version, false, moves).await.unwrap();
        assert_eq!(had.zip.key, entry.content.zip.key);
    }
}
