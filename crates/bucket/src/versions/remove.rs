//! Removing versions, and the objects of their content.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use stoa_gomod::{ModuleVersion, h1};

use super::Versions;
use crate::manifest::inline_bytes;
use crate::{
    AthensFile, BucketError, Manifest, Origin, Presence, SmallContent, Tombstone, VersionContent, gone,
};

/// Number of notes that are written at the same time.
const NOTES_AT_ONCE: usize = 16;

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

    /// Removes a version, and forbids it if a tombstone is given. Returns the content that it had: its objects can be
    /// deleted. `None` if it did not exist.
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
        let before = self.manifest(version).await?;
        let before = before.as_ref().and_then(|held| held.document.present_content());
        let gomod_h1 = match before.filter(|_| keep_hashes) {
            Some(content) => self.small(&content.modfile).await?.map(|body| h1::hash_mod(&body)),
            None => None,
        };
        let mut had = None;
        self.change(version, |now| {
            had = now.and_then(|now| now.present_content()).cloned();
            let mut record = now.map(|now| now.record.clone()).unwrap_or_default();
            if let Some(now) = now.filter(|now| keep_hashes && now.state == Presence::Present) {
                record.h1 = record.h1.or_else(|| now.seal().cloned());
                if record.gomod_h1.is_none() && now.present_content() == before {
                    record.gomod_h1.clone_from(&gomod_h1);
                }
            }
            if tombstone.is_some() {
                record.tombstone.clone_from(&tombstone);
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
        })
        .await?;
        Ok(had)
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
