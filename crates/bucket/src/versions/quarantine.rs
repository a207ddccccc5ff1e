//! The quarantine: entries that keep the content of corrupt versions, which are not served.

use serde::{Deserialize, Serialize};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::clock;

use super::Versions;
use crate::manifest::fresh_nonce;
use crate::{
    AthensFile, BucketError, Document, Manifest, Nonce, Origin, Presence, Swapped, Trouble, VersionContent,
};

/// A quarantine entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedThere {
    /// The version.
    pub version: ModuleVersion,
    nonce: Nonce,
    /// The time, RFC 3339 in UTC.
    pub at: String,
    /// The reason.
    pub reason: String,
    /// The origin of the version.
    pub origin: Origin,
    /// The content.
    pub content: VersionContent,
}

impl Document for QuarantinedThere {
    fn nonce(&self) -> &Nonce {
        &self.nonce
    }
}

impl QuarantinedThere {
    /// Returns the name of the entry.
    pub fn name(&self) -> &Nonce {
        &self.nonce
    }
}

impl Versions {
    /// Moves a version to quarantine. Returns the entry. `None` if the version does not exist, or is no longer the one
    /// with this content.
    pub async fn quarantine(
        &self,
        version: &ModuleVersion,
        zip_key: Option<&str>,
        reason: &str,
    ) -> Result<Option<QuarantinedThere>, BucketError> {
        let Some(now) = self.manifest(version).await? else { return Ok(None) };
        let is_it = |content: &&VersionContent| zip_key.is_none_or(|key| content.zip.key == key);
        let Some(content) = now.document.present_content().filter(is_it).cloned() else { return Ok(None) };
        let entry = self.add_quarantined(version, now.document.origin, content, reason).await?;
        self.announce(std::slice::from_ref(version)).await?;
        self.change(version, |now| {
            let is_same = now.and_then(Manifest::present_content) == Some(&entry.content);
            let Some(now) = now.filter(|_| is_same) else { return Ok(None) };
            // Another download must have the content that was sealed.
            let mut record = now.record.clone();
            record.h1 = record.h1.or_else(|| now.seal().cloned());
            let mut next = Manifest::absent(version.clone(), now.origin, record)?;
            next.published_at.clone_from(&now.published_at);
            Ok(Some(next))
        })
        .await?;
        self.announce_again(std::slice::from_ref(version)).await?;
        Ok(Some(entry))
    }

    /// Writes a quarantine entry, which keeps its content from being swept.
    pub(super) async fn add_quarantined(
        &self,
        version: &ModuleVersion,
        origin: Origin,
        content: VersionContent,
        reason: &str,
    ) -> Result<QuarantinedThere, BucketError> {
        let (version, reason) = (version.clone(), reason.to_owned());
        let entry =
            QuarantinedThere { version, nonce: fresh_nonce()?, at: clock::now(), reason, origin, content };
        match self.bucket.swap(&self.keys.quarantined(&entry.nonce), &entry, None).await? {
            Swapped::Done(_) => Ok(entry),
            Swapped::Lost(_) => {
                let reason = "another process has the same random number";
                Err(BucketError::new(Trouble::Local, "write", self.bucket.url(), reason))
            }
        }
    }

    /// Returns a quarantine entry. `None` if there is none with this name.
    pub async fn entry(&self, name: &Nonce) -> Result<Option<QuarantinedThere>, BucketError> {
        Ok(self.bucket.document(&self.keys.quarantined(name)).await?.map(|held| held.document))
    }

    /// Returns all quarantine entries.
    pub async fn quarantined(&self) -> Result<Vec<QuarantinedThere>, BucketError> {
        let mut entries = Vec::new();
        for entry in self.bucket.folder(&self.keys.quarantine()).await?.entries {
            if let Some(held) = self.bucket.document::<QuarantinedThere>(&entry.key).await? {
                entries.push(held.document);
            }
        }
        Ok(entries)
    }

    /// Returns the quarantine entries of versions that Athens saved and whose zip is still the corrupt one at the key
    /// of Athens. Athens serves them.
    pub async fn quarantined_at_athens(&self) -> Result<Vec<QuarantinedThere>, BucketError> {
        let mut kept = Vec::new();
        let is_adopted = |entry: &QuarantinedThere| AthensFile::parse(&entry.content.zip.key).is_some();
        for entry in self.quarantined().await?.into_iter().filter(is_adopted) {
            let zip = &entry.content.zip;
            if self.bucket.head(&zip.key).await?.is_some()
                && !self.has_other_tag(&zip.key, zip.etag.as_deref()).await?
            {
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    /// Puts the version of a quarantine entry back. Returns false if another version or a tombstone is in its place.
    pub async fn restore(&self, entry: &QuarantinedThere, h1: &H1) -> Result<bool, BucketError> {
        let mut is_restored = false;
        self.change(&entry.version, |now| {
            is_restored = false;
            if let Some(now) = now {
                if now.state == Presence::Present {
                    is_restored =
                        now.present_content().is_some_and(|content| content.zip.key == entry.content.zip.key);
                    return Ok(None);
                }
                if now.record.tombstone.is_some() {
                    return Ok(None);
                }
            }
            is_restored = true;
            let mut content = entry.content.clone();
            content.zip.h1 = Some(h1.clone());
            let record = now.map(|now| now.record.clone()).unwrap_or_default();
            let mut next = Manifest::present(entry.version.clone(), entry.origin, content, record)?;
            if let Some(now) = now {
                next.published_at.clone_from(&now.published_at);
            }
            Ok(Some(next))
        })
        .await?;
        if is_restored {
            self.bucket.delete(&self.keys.quarantined(&entry.nonce)).await?;
        }
        Ok(is_restored)
    }

    /// Deletes a quarantine entry and its content.
    pub async fn purge(&self, entry: &QuarantinedThere) -> Result<(), BucketError> {
        self.check_state().await?;
        let now = self.manifest(&entry.version).await?;
        let used = now.as_ref().and_then(|now| now.document.present_content());
        // A restore that was interrupted has left both.
        if used.is_none_or(|used| used.zip.key != entry.content.zip.key) {
            self.delete_content(&entry.content).await?;
        }
        self.bucket.delete(&self.keys.quarantined(&entry.nonce)).await
    }
}
