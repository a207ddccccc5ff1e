//! Publishing: the content is uploaded below a fresh name, and then one conditional write of the manifest makes it visible.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoa_gomod::{H1, ModuleVersion};

use super::{ATTEMPTS, Versions};
use crate::manifest::fresh_nonce;
use crate::{
    BucketError, Held, Manifest, Meta, Nonce, ObjectContent, Origin, Presence, Record, SmallContent, Swapped,
    Tombstone, Trouble, VersionContent, ZipContent,
};

/// The time between the upload of a content and its manifest after which a publication is given up. The sweep removes
/// contents that no manifest names only after a day.
const MAX_PUBLISH: Duration = Duration::from_secs(3600);

/// The reason why a publication is given up whose content is gone.
const DELETED: &str = "the zip was deleted before the publication ended";

/// The files of a version that is to be published.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// The version.
    pub version: ModuleVersion,
    /// The info.
    pub info: Bytes,
    /// The go.mod.
    pub modfile: Bytes,
    /// The zip.
    pub zip: Arc<File>,
    /// The size of the zip in bytes.
    pub size: u64,
    /// The hash of the zip, which is verified.
    pub h1: H1,
    /// The origin.
    pub origin: Origin,
    /// The known hashes.
    pub record: Record,
}

/// The result of a publication.
#[derive(Debug, Clone)]
pub enum PublishedThere {
    /// The version was published.
    Ours(Box<Held<Manifest>>),
    /// Another writer was first, and its version stays.
    Theirs {
        /// Its manifest.
        manifest: Box<Held<Manifest>>,
        /// Whether both zips have the same hash. `None` if theirs is not verified yet. If not, ours is in quarantine.
        same: Option<bool>,
    },
    /// The version was removed for good. Nothing was published.
    Forbidden(Tombstone),
    /// The version was removed during the publication. Start again.
    Removed,
}

impl Versions {
    /// Publishes a version. `before` is the manifest that was read before the version was downloaded: a version that
    /// was removed since then is not published.
    pub async fn publish(
        &self,
        new: &NewVersion,
        before: Option<&Held<Manifest>>,
    ) -> Result<PublishedThere, BucketError> {
        if let Some(before) = before {
            if let Some(tombstone) = &before.document.record.tombstone {
                return Ok(PublishedThere::Forbidden(tombstone.clone()));
            }
            if before.document.state == Presence::Present && self.has_content(&before.document).await? {
                return self.yield_to(new, before.clone()).await;
            }
        }
        let (content, uploaded) = self.upload(new).await?;
        self.check_state().await?;
        let key = self.keys.manifest(&new.version);
        let mut over = before.cloned();
        for _ in 0..ATTEMPTS {
            let manifest = over_other(new, content.clone(), over.as_ref().map(|over| &over.document))?;
            let other = match self.bucket.swap(&key, &manifest, over.as_ref().map(|over| &over.tag)).await? {
                Swapped::Done(tag) => {
                    self.check_state().await?;
                    if uploaded.elapsed() > MAX_PUBLISH && !self.has_content(&manifest).await? {
                        let (url, reason) = (self.bucket.url_of(&key), DELETED);
                        return Err(BucketError::new(Trouble::Late, "publish", url, reason));
                    }
                    return Ok(PublishedThere::Ours(Box::new(Held { document: manifest, tag })));
                }
                Swapped::Lost(None) => return Ok(PublishedThere::Removed),
                Swapped::Lost(Some(other)) => other,
            };
            if let Some(tombstone) = &other.document.record.tombstone {
                return Ok(PublishedThere::Forbidden(tombstone.clone()));
            }
            if other.document.state == Presence::Absent {
                return Ok(PublishedThere::Removed);
            }
            // A manifest whose content is missing may have been written again since it was read, by a sweep for example.
            // It must not win over the content that it lacks.
            let is_same = other.document.seal() == Some(&new.h1);
            if !is_same || self.has_content(&other.document).await? {
                return self.quarantine_own(new, &manifest, other).await;
            }
            // A sweep may have written that manifest again before it deletes the upload of a suspended process.
            self.check_recent(&content.zip.key).await?;
            over = Some(other);
        }
        Err(self.contended(&key))
    }

    /// Uploads the content of a version under fresh names. Returns the time of the upload.
    async fn upload(&self, new: &NewVersion) -> Result<(VersionContent, Instant), BucketError> {
        let nonce = fresh_nonce()?;
        let key = self.keys.content(&new.version, &nonce, "zip");
        let uploaded = Instant::now();
        self.bucket.upload(&key, Arc::clone(&new.zip), new.size).await?;
        let info = self.upload_small(new, &nonce, &new.info, "info").await?;
        let modfile = self.upload_small(new, &nonce, &new.modfile, "mod").await?;
        // The answer to the last part may be lost, and a process may be suspended here for any time.
        let meta = self.check_recent(&key).await?;
        if meta.size != new.size {
            let reason = format!("its size is {} bytes, but {} bytes were written", meta.size, new.size);
            return Err(BucketError::new(Trouble::Damaged, "read", self.bucket.url_of(&key), reason));
        }
        let etag = meta.tag.e_tag().map(str::to_owned);
        let zip = ZipContent { key, size: new.size, etag, h1: Some(new.h1.clone()) };
        Ok((VersionContent { info, modfile, zip }, uploaded))
    }

    /// Returns an upload. Fails if it is missing, or so old that the sweep may delete it soon.
    async fn check_recent(&self, key: &str) -> Result<Meta, BucketError> {
        let late = |reason| BucketError::new(Trouble::Late, "publish", self.bucket.url_of(key), reason);
        let meta = self.bucket.head(key).await?.ok_or_else(|| late(DELETED))?;
        match self.bucket.service_time() {
            Some(now) if now - meta.modified > MAX_PUBLISH => {
                Err(late("the upload is more than one hour old"))
            }
            _ => Ok(meta),
        }
    }

    async fn upload_small(
        &self,
        new: &NewVersion,
        nonce: &Nonce,
        bytes: &Bytes,
        kind: &str,
    ) -> Result<SmallContent, BucketError> {
        if let Some(inline) = SmallContent::inline(bytes) {
            return Ok(inline);
        }
        let key = self.keys.content(&new.version, nonce, kind);
        self.bucket.overwrite(&key, bytes.clone()).await?;
        Ok(SmallContent::Object(ObjectContent { key, size: bytes.len() as u64, etag: None }))
    }

    /// Keeps the version of the writer that was first.
    async fn yield_to(&self, new: &NewVersion, other: Held<Manifest>) -> Result<PublishedThere, BucketError> {
        let same = other.document.seal().map(|theirs| *theirs == new.h1);
        if same == Some(false) {
            let (content, _) = self.upload(new).await?;
            let manifest = Manifest::present(new.version.clone(), new.origin, content, Record::default())?;
            return self.quarantine_own(new, &manifest, other).await;
        }
        Ok(PublishedThere::Theirs { manifest: Box::new(other), same })
    }

    /// Puts our version into quarantine if it differs from the one that was published first.
    async fn quarantine_own(
        &self,
        new: &NewVersion,
        ours: &Manifest,
        other: Held<Manifest>,
    ) -> Result<PublishedThere, BucketError> {
        let same = other.document.seal().map(|theirs| *theirs == new.h1);
        if let (Some(false), Some(theirs), Some(content)) =
            (same, other.document.seal(), ours.present_content())
        {
            let reason = format!("the zip published first has {theirs}, this zip has {}", new.h1);
            self.add_quarantined(&new.version, new.origin, content.clone(), &reason).await?;
        }
        Ok(PublishedThere::Theirs { manifest: Box::new(other), same })
    }
}

/// Returns the manifest of a publication that replaces another manifest, of which it keeps the time.
fn over_other(
    new: &NewVersion,
    content: VersionContent,
    other: Option<&Manifest>,
) -> Result<Manifest, BucketError> {
    let record = Record { tombstone: None, ..new.record.clone() };
    let mut manifest = Manifest::present(new.version.clone(), new.origin, content, record)?;
    if let Some(other) = other.filter(|other| other.state == Presence::Present) {
        manifest.published_at.clone_from(&other.published_at);
    }
    Ok(manifest)
}
