//! The versions of a bucket at the current layout: reading, publishing, removing, quarantine.
//!
//! A change of a version is one conditional write of its manifest. The state of the bucket is read before and after it,
//! and the change counts only if both times the bucket was at the current layout with the same ID. So a step back that
//! runs at the same time either sees the change, or the change is reported as failed.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use stoa_gomod::{H1, ModulePath, ModuleVersion, Version, h1};
use stoa_layout::clock;
use tokio::sync::Mutex;

use crate::document::MAX_BYTES;
use crate::keys::STATE;
use crate::manifest::{fresh_nonce, inline_bytes};
use crate::{
    AthensFile, Bucket, BucketError, BucketState, Content, Document, Held, Keys, Manifest, Nonce,
    ObjectContent, Origin, Presence, Record, SmallContent, Swapped, Tag, Tombstone, Trouble, VersionContent,
    ZipContent, gone,
};

/// The time between the upload of a content and its manifest after which a publication is given up. The sweep removes
/// contents that no manifest names only after a day.
/// Number of manifests that a list reads at the same time.
const NOTED_AT_ONCE: usize = 32;

const MAX_PUBLISH: Duration = Duration::from_secs(3600);

/// How often a change is tried again after another process was first.
const ATTEMPTS: usize = 20;

/// The versions of a bucket with one ID.
#[derive(Debug, Clone)]
pub struct Versions {
    bucket: Bucket,
    keys: Keys,
    state_tag: Arc<Mutex<Option<Tag>>>,
    has_left: Arc<AtomicBool>,
}

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

/// The versions of a module in a bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedThere {
    /// The versions that exist.
    pub present: Vec<Version>,
    /// The versions that have a tombstone.
    pub forbidden: Vec<Version>,
}

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
    /// Returns the versions below an ID.
    pub fn new(bucket: Bucket, keys: Keys) -> Self {
        Self { bucket, keys, state_tag: Arc::default(), has_left: Arc::default() }
    }

    /// Returns the bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Returns the keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Returns whether [`Self::check_state`] has found that the bucket has another layout or another ID. From then on
    /// nothing below this ID is written any more.
    pub fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }

    /// Fails if the bucket is no longer at the current layout with this ID.
    pub async fn check_state(&self) -> Result<(), BucketError> {
        let mut known = self.state_tag.lock().await;
        let read = match &*known {
            Some(tag) => self.bucket.document_unless::<BucketState>(STATE, tag).await?,
            None => Some(self.bucket.document::<BucketState>(STATE).await?),
        };
        let Some(now) = read else { return Ok(()) };
        let left = |reason: String| {
            self.has_left.store(true, Ordering::Relaxed);
            Err(BucketError::new(Trouble::Left, "write to", self.bucket.url(), reason))
        };
        match now {
            Some(now) if now.document.is_current() && now.document.id == *self.keys.id() => {
                *known = Some(now.tag);
                Ok(())
            }
            Some(now) => {
                *known = None;
                left(format!("its marker is now {}, with the ID {}", now.document.marker, now.document.id))
            }
            None => {
                *known = None;
                left(format!("{STATE} is missing"))
            }
        }
    }

    /// Reads the manifest of a version. `None` if it has never existed.
    pub async fn manifest(&self, version: &ModuleVersion) -> Result<Option<Held<Manifest>>, BucketError> {
        self.bucket.document(&self.keys.manifest(version)).await
    }

    /// Reads the info or the mod of a manifest. `None` if its object is gone.
    pub async fn small(&self, content: &SmallContent, max: u64) -> Result<Option<Bytes>, BucketError> {
        match (inline_bytes(content), content) {
            (Some(Ok(bytes)), _) => Ok(Some(bytes)),
            (Some(Err(reason)), _) => {
                Err(BucketError::new(Trouble::Damaged, "read", self.bucket.url(), reason))
            }
            (None, SmallContent::Object(object)) => {
                let found = self.bucket.get(&object.key, max).await?;
                let is_same = |tag: &Tag| object.etag.is_none() || tag.e_tag() == object.etag.as_deref();
                Ok(found.filter(|found| is_same(&found.meta.tag)).map(|found| found.bytes))
            }
            (None, _) => Ok(None),
        }
    }

    /// Starts to read a zip. `None` if its object is gone or was replaced.
    pub async fn zip(
        &self,
        zip: &ZipContent,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Option<Content>, BucketError> {
        let content = self.bucket.read(&zip.key, range, zip.tag().as_ref()).await?;
        Ok(content.filter(|content| content.meta.size == zip.size))
    }

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
        let mut record = new.record.clone();
        record.tombstone = None;
        let version = new.version.clone();
        let mut manifest = Manifest::present(version, new.origin, content, record)?;
        if let Some(before) = before.filter(|before| before.document.state == Presence::Present) {
            manifest.published_at = before.document.published_at.clone();
        }
        self.check_state().await?;
        let key = self.keys.manifest(&new.version);
        match self.bucket.swap(&key, &manifest, before.map(|before| &before.tag)).await? {
            Swapped::Done(tag) => {
                self.check_state().await?;
                if uploaded.elapsed() > MAX_PUBLISH && !self.has_content(&manifest).await? {
                    let reason = "the zip was deleted before the publication ended";
                    return Err(BucketError::new(Trouble::Late, "publish", self.bucket.url_of(&key), reason));
                }
                Ok(PublishedThere::Ours(Box::new(Held { document: manifest, tag })))
            }
            Swapped::Lost(Some(other)) => match other.document.state {
                Presence::Present => self.quarantine_own(new, &manifest, other).await,
                Presence::Absent => Ok(match &other.document.record.tombstone {
                    Some(tombstone) => PublishedThere::Forbidden(tombstone.clone()),
                    None => PublishedThere::Removed,
                }),
            },
            Swapped::Lost(None) => Ok(PublishedThere::Removed),
        }
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
        let Some(meta) = self.bucket.head(&key).await? else {
            let reason = "the zip was deleted before the publication ended";
            return Err(BucketError::new(Trouble::Late, "publish", self.bucket.url_of(&key), reason));
        };
        if meta.size != new.size {
            let reason = format!("its size is {} bytes, but {} bytes were written", meta.size, new.size);
            return Err(BucketError::new(Trouble::Damaged, "read", self.bucket.url_of(&key), reason));
        }
        if self.bucket.service_time().is_some_and(|now| now - meta.modified > MAX_PUBLISH) {
            let reason = "the upload is more than one hour old";
            return Err(BucketError::new(Trouble::Late, "publish", self.bucket.url_of(&key), reason));
        }
        let etag = meta.tag.e_tag().map(str::to_owned);
        let zip = ZipContent { key, size: new.size, etag, h1: Some(new.h1.clone()) };
        Ok((VersionContent { info, modfile, zip }, uploaded))
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

    /// Returns whether all objects of a version are in the bucket.
    pub async fn has_content(&self, manifest: &Manifest) -> Result<bool, BucketError> {
        let Some(content) = manifest.present_content() else { return Ok(false) };
        let of_small = |small: &SmallContent| match small {
            SmallContent::Object(ObjectContent { key, size, etag }) => {
                Some((key.clone(), *size, etag.clone()))
            }
            SmallContent::Text(_) | SmallContent::Base64(_) => None,
        };
        let zip = &content.zip;
        let zip = Some((zip.key.clone(), zip.size, zip.etag.clone()));
        for (key, size, etag) in
            [of_small(&content.info), of_small(&content.modfile), zip].into_iter().flatten()
        {
            let found = self.bucket.head(&key).await?;
            let is_it = found.is_some_and(|found| {
                found.size == size && etag.as_deref().is_none_or(|etag| found.tag.e_tag() == Some(etag))
            });
            if !is_it {
                return Ok(false);
            }
        }
        Ok(true)
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

    /// Writes a quarantine entry, which keeps its content from being swept.
    async fn add_quarantined(
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

    /// Changes a manifest. `change` gets the present one, and returns the new one or `None` to leave it. Returns the
    /// last manifest. Tries again if another process was first.
    async fn change(
        &self,
        version: &ModuleVersion,
        mut change: impl FnMut(Option<&Manifest>) -> Result<Option<Manifest>, BucketError>,
    ) -> Result<Option<Held<Manifest>>, BucketError> {
        let key = self.keys.manifest(version);
        self.check_state().await?;
        let mut held = self.manifest(version).await?;
        for _ in 0..ATTEMPTS {
            let Some(next) = change(held.as_ref().map(|held| &held.document))? else {
                return Ok(held);
            };
            match self.bucket.swap(&key, &next, held.as_ref().map(|held| &held.tag)).await? {
                Swapped::Done(tag) => {
                    self.check_state().await?;
                    return Ok(Some(Held { document: next, tag }));
                }
                Swapped::Lost(other) => held = other,
            }
        }
        let reason = format!("other processes changed it in each of {ATTEMPTS} attempts");
        Err(BucketError::new(Trouble::Contended, "write", self.bucket.url_of(&key), reason))
    }

    /// Writes the manifest of a version again as it is, or an absent one if there is none. A publication that began
    /// before is refused from then on. Returns the manifest.
    pub(crate) async fn touch(&self, version: &ModuleVersion) -> Result<Option<Held<Manifest>>, BucketError> {
        self.note_if_new(version).await?;
        let written = self.change(version, |now| {
            Ok(Some(match now {
                Some(now) => now.rewritten()?,
                None => Manifest::absent(version.clone(), Origin::Filled, Record::default())?,
            }))
        });
        written.await
    }

    /// Writes the note that a version may have been removed, if it has no manifest yet: an absent one may be made now,
    /// and a list of versions reads only the manifests that have a note.
    async fn note_if_new(&self, version: &ModuleVersion) -> Result<(), BucketError> {
        if self.manifest(version).await?.is_none() {
            self.bucket.overwrite(&self.keys.removed(version), Bytes::new()).await?;
        }
        Ok(())
    }

    /// Announces that a version goes. Servers look at its manifest again.
    async fn announce(&self, version: &ModuleVersion) -> Result<(), BucketError> {
        self.check_state().await?;
        // A list of versions reads only the manifests that have such an object.
        self.bucket.overwrite(&self.keys.removed(version), Bytes::new()).await?;
        gone::add(&self.bucket, &self.keys, std::slice::from_ref(version)).await
    }

    /// Removes a version, and forbids it if a tombstone is given. Returns the content that it had: its objects can be
    /// deleted. `None` if it did not exist.
    pub async fn remove(
        &self,
        version: &ModuleVersion,
        tombstone: Option<Tombstone>,
        keep_hashes: bool,
    ) -> Result<Option<VersionContent>, BucketError> {
        self.announce(version).await?;
        let before = self.manifest(version).await?;
        let before = before.as_ref().and_then(|held| held.document.present_content());
        let gomod_h1 = match before.filter(|_| keep_hashes) {
            Some(content) => {
                self.small(&content.modfile, MAX_BYTES * 4).await?.map(|body| h1::hash_mod(&body))
            }
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

    async fn has_other_tag(&self, key: &str, etag: Option<&str>) -> Result<bool, BucketError> {
        let found = self.bucket.head(key).await?;
        Ok(found.is_some_and(|found| etag.is_some() && found.tag.e_tag() != etag))
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
        self.announce(version).await?;
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
        Ok(Some(entry))
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

    /// Writes the seal of a version whose zip was verified. Returns the manifest. `None` if the version is no longer
    /// the one with this content.
    pub async fn seal(
        &self,
        version: &ModuleVersion,
        zip_key: &str,
        h1: &H1,
    ) -> Result<Option<Held<Manifest>>, BucketError> {
        let changed = self.change(version, |now| {
            let Some(now) = now else { return Ok(None) };
            let is_open = now
                .present_content()
                .is_some_and(|content| content.zip.key == zip_key && content.zip.h1.is_none());
            if !is_open {
                return Ok(None);
            }
            let mut next = now.rewritten()?;
            if let Some(content) = &mut next.content {
                content.zip.h1 = Some(h1.clone());
            }
            Ok(Some(next))
        });
        let is_sealed = |held: &Held<Manifest>| {
            held.document
                .present_content()
                .is_some_and(|content| content.zip.key == zip_key && content.zip.h1.as_ref() == Some(h1))
        };
        Ok(changed.await?.filter(is_sealed))
    }

    /// Changes what is known of a version, whether it exists or not.
    pub async fn record(
        &self,
        version: &ModuleVersion,
        mut change: impl FnMut(&mut Record),
    ) -> Result<Held<Manifest>, BucketError> {
        self.note_if_new(version).await?;
        let written = self.change(version, |now| {
            let mut next = match now {
                Some(now) => now.rewritten()?,
                None => Manifest::absent(version.clone(), Origin::Filled, Record::default())?,
            };
            let before = next.record.clone();
            change(&mut next.record);
            Ok(Some(next).filter(|next| now.is_none() || next.record != before))
        });
        written.await?.ok_or_else(|| {
            let key = self.keys.manifest(version);
            BucketError::new(Trouble::Damaged, "write", self.bucket.url_of(&key), "the object is missing")
        })
    }

    /// Returns the versions of a module that exist and those that have a tombstone, in no particular order.
    pub async fn list(&self, module: &ModulePath) -> Result<ListedThere, BucketError> {
        let listed = self.bucket.folder(&self.keys.manifests_of(module)).await?;
        let removed = self.bucket.folder(&self.keys.removed_of(module)).await?;
        let removed: std::collections::HashSet<&str> =
            removed.entries.iter().filter_map(|entry| entry.key.rsplit('/').next()).collect();
        let mut found = ListedThere::default();
        let mut noted = Vec::new();
        for entry in &listed.entries {
            let Some(version) = self.keys.version_of_manifest(&entry.key) else { continue };
            let version = version.version().clone();
            match removed.contains(version.as_str()) {
                true => noted.push((version, entry.key.clone())),
                false => found.present.push(version),
            }
        }
        let read = stream::iter(noted).map(async |(version, key)| {
            let manifest = self.bucket.document::<Manifest>(&key).await?;
            Ok::<_, BucketError>((version, manifest.map(|held| held.document)))
        });
        let mut read = std::pin::pin!(read.buffered(NOTED_AT_ONCE));
        while let Some((version, manifest)) = read.try_next().await? {
            match manifest {
                Some(manifest) if manifest.record.tombstone.is_some() => found.forbidden.push(version),
                Some(manifest) if manifest.state == Presence::Present => found.present.push(version),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Returns the versions of a module that have a manifest, in no particular order.
    pub async fn all_of(&self, module: &ModulePath) -> Result<Vec<Version>, BucketError> {
        let listed = self.bucket.folder(&self.keys.manifests_of(module)).await?;
        let version =
            |entry: &crate::Entry| Some(self.keys.version_of_manifest(&entry.key)?.version().clone());
        Ok(listed.entries.iter().filter_map(version).collect())
    }

    /// Calls `each` with the manifest of every version, those that do not exist too, in the order of their keys. Reads
    /// `at_once` of them at the same time.
    pub async fn each<E: From<BucketError>>(
        &self,
        at_once: usize,
        mut each: impl AsyncFnMut(Held<Manifest>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut manifests = self.manifests(at_once)?;
        while let Some(manifest) = manifests.next().await {
            each(manifest?).await?;
        }
        Ok(())
    }

    /// Returns the manifests of all versions likewise, one by one. Others follow an error of one manifest.
    pub fn manifests(
        &self,
        at_once: usize,
    ) -> Result<BoxStream<'static, Result<Held<Manifest>, BucketError>>, BucketError> {
        let listed = self.bucket.list(&self.keys.manifests(), None)?;
        let bucket = self.bucket.clone();
        let manifests = listed.map(move |entry| {
            let bucket = bucket.clone();
            async move { bucket.document::<Manifest>(&entry?.key).await }
        });
        let manifests = manifests.buffered(at_once.max(1));
        Ok(manifests.filter_map(|manifest| std::future::ready(manifest.transpose())).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BucketMarker;
    use crate::state::LAYOUT;
    use crate::testing::{new, versions};

    async fn bytes_of(versions: &Versions, manifest: &Manifest) -> Vec<u8> {
        let zip = &manifest.present_content().unwrap().zip;
        let parts: Vec<_> = versions.zip(zip, None).await.unwrap().unwrap().bytes.collect().await;
        parts.into_iter().flat_map(|part| part.unwrap().to_vec()).collect()
    }

    #[tokio::test]
    async fn a_published_version_is_read_and_listed() {
        let versions = versions().await;
        let large = vec![7; 20 << 20];
        for (pair, zip) in [("example.com/m@v1.0.0", &b"small"[..]), ("example.com/m@v1.0.0-pre", &large)] {
            let new = new(pair, zip);
            let PublishedThere::Ours(held) = versions.publish(&new, None).await.unwrap() else { panic!() };
            assert_eq!(bytes_of(&versions, &held.document).await, zip);
            assert_eq!(versions.manifest(&new.version).await.unwrap(), Some(*held));
        }
        publish(&versions, "example.com/m/v1.0.0/sub@v0.1.0").await;
        let module = ModulePath::new("example.com/m").unwrap();
        let mut listed: Vec<String> =
            versions.list(&module).await.unwrap().present.iter().map(ToString::to_string).collect();
        listed.sort();
        assert_eq!(listed, ["v1.0.0", "v1.0.0-pre"]);
    }

    async fn publish(versions: &Versions, pair: &str) -> NewVersion {
        let new = new(pair, b"zip");
        assert!(matches!(versions.publish(&new, None).await.unwrap(), PublishedThere::Ours(_)));
        new
    }

    #[tokio::test]
    async fn the_first_writer_wins_and_other_content_goes_to_quarantine() {
        let versions = versions().await;
        let first = publish(&versions, "example.com/m@v1.0.0").await;
        let same = versions.publish(&first, None).await.unwrap();
        assert!(matches!(same, PublishedThere::Theirs { same: Some(true), .. }));
        let other = new("example.com/m@v1.0.0", b"other");
        for before in [None, versions.manifest(&first.version).await.unwrap()] {
            let lost = versions.publish(&other, before.as_ref()).await.unwrap();
            assert!(matches!(lost, PublishedThere::Theirs { same: Some(false), .. }));
        }
        assert_eq!(versions.quarantined().await.unwrap().len(), 2);
        let held = versions.manifest(&first.version).await.unwrap().unwrap();
        assert_eq!(bytes_of(&versions, &held.document).await, b"zip");
    }

    #[tokio::test]
    async fn a_fill_that_began_before_a_removal_publishes_nothing() {
        let versions = versions().await;
        let first = publish(&versions, "example.com/m@v1.0.0").await;
        let before = versions.manifest(&first.version).await.unwrap();
        let had = versions.remove(&first.version, None, true).await.unwrap().unwrap();
        versions.delete_content(&had).await.unwrap();
        assert!(versions.list(first.version.path()).await.unwrap().present.is_empty());
        for stale in [None, before.as_ref()] {
            assert!(matches!(versions.publish(&first, stale).await.unwrap(), PublishedThere::Removed));
        }
        let now = versions.manifest(&first.version).await.unwrap().unwrap();
        assert_eq!(now.document.record.h1.as_ref(), Some(&first.h1));
        assert_eq!(now.document.record.gomod_h1, Some(h1::hash_mod(&first.modfile)));
        assert!(matches!(versions.publish(&first, Some(&now)).await.unwrap(), PublishedThere::Ours(_)));
        assert_eq!(versions.list(first.version.path()).await.unwrap().present.len(), 1);
        let tombstone = Tombstone { at: clock::now(), reason: Some("bad".to_owned()) };
        versions.remove(&first.version, Some(tombstone), true).await.unwrap();
        for before in [None, versions.manifest(&first.version).await.unwrap()] {
            let forbidden = versions.publish(&first, before.as_ref()).await.unwrap();
            assert!(matches!(forbidden, PublishedThere::Forbidden(_)), "{forbidden:?}");
        }
    }

    #[tokio::test]
    async fn a_quarantined_version_is_restored_or_purged() {
        let versions = versions().await;
        let first = publish(&versions, "example.com/m@v1.0.0").await;
        let entry = versions.quarantine(&first.version, None, "test").await.unwrap().unwrap();
        assert!(versions.list(first.version.path()).await.unwrap().present.is_empty());
        assert!(versions.restore(&entry, &first.h1).await.unwrap());
        assert_eq!(versions.list(first.version.path()).await.unwrap().present.len(), 1);
        assert!(versions.quarantined().await.unwrap().is_empty());
        let entry = versions.quarantine(&first.version, None, "test").await.unwrap().unwrap();
        versions.purge(&entry).await.unwrap();
        assert!(versions.quarantined().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn files_that_athens_has_saved_again_are_not_deleted() {
        for overwritten in [None, Some(AthensFile::Info), Some(AthensFile::Mod), Some(AthensFile::Zip)] {
            for purges in [true, false] {
                let versions = versions().await;
                let pair = "example.com/m@v1.0.0";
                let version = crate::testing::save_as_athens(&versions, pair, 1).await;
                let held = versions.adopt_missing(&version).await.unwrap().unwrap();
                if let Some(file) = overwritten {
                    let key = file.key(&version);
                    let before = versions.bucket().get(&key, 1 << 20).await.unwrap().unwrap();
                    // Of the same size.
                    let other: Vec<u8> = before.bytes.iter().map(|byte| byte ^ 1).collect();
                    versions.bucket().overwrite(&key, Bytes::from(other)).await.unwrap();
                }
                if purges {
                    let entry = versions.quarantine(&version, None, "test").await.unwrap().unwrap();
                    let at_athens = versions.quarantined_at_athens().await.unwrap();
                    assert_eq!(at_athens.len(), usize::from(overwritten != Some(AthensFile::Zip)));
                    versions.purge(&entry).await.unwrap();
                    assert!(versions.quarantined().await.unwrap().is_empty());
                } else {
                    let had = versions.remove(&version, None, true).await.unwrap().unwrap();
                    assert_eq!(Some(&had), held.document.present_content());
                    versions.delete_content(&had).await.unwrap();
                }
                for file in AthensFile::ALL {
                    let found = versions.bucket().head(&file.key(&version)).await.unwrap();
                    assert_eq!(found.is_some(), overwritten.is_some(), "{overwritten:?} {file:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_manifest_that_others_change_again_and_again_is_no_outage() {
        let versions = versions().await;
        let first = publish(&versions, "example.com/m@v1.0.0").await;
        let key = versions.keys().manifest(&first.version);
        let other = |now: Option<&Manifest>| {
            let next = now.unwrap().rewritten().unwrap();
            // The bucket is in memory and answers at once.
            let write = versions.bucket().overwrite(&key, Bytes::from(next.to_bytes().unwrap()));
            futures_util::FutureExt::now_or_never(write).unwrap().unwrap();
            Ok(Some(now.unwrap().rewritten().unwrap()))
        };
        let error = versions.change(&first.version, other).await.unwrap_err();
        assert_eq!((error.trouble, error.exit()), (Trouble::Contended, stoa_layout::Exit::BUSY));
        assert!(error.to_string().ends_with("help: run the command again"), "{error}");
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_after_a_step_back_began() {
        let versions = versions().await;
        publish(&versions, "example.com/m@v1.0.0").await;
        let held = BucketState::read(versions.bucket()).await.unwrap().unwrap();
        let mut left = held.document.rewritten("test").unwrap();
        left.marker = BucketMarker::Migrating { from: LAYOUT, to: crate::ATHENS };
        versions.bucket().swap(STATE, &left, Some(&held.tag)).await.unwrap();
        let error = versions.publish(&new("example.com/m@v1.1.0", b"zip"), None).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Left);
        assert!(
            versions
                .remove(&ModuleVersion::parse("example.com/m@v1.0.0").unwrap(), None, true)
                .await
                .is_err()
        );
    }
}
