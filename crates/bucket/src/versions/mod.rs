//! The versions of a bucket at the current layout.
//!
//! A change of a version is one conditional write of its manifest. The state of the bucket is read before and after it,
//! and the change counts only if both times the bucket was at the current layout with the same ID. So a step back that
//! runs at the same time either sees the change, or the change is reported as failed.

mod list;
mod publish;
mod quarantine;
mod remove;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use stoa_gomod::{H1, ModuleVersion};
use tokio::sync::Mutex;

pub use self::list::{ListedThere, ManifestBlocks};
pub use self::publish::{NewVersion, PublishedThere};
pub use self::quarantine::QuarantinedThere;
use crate::keys::STATE;
use crate::manifest::{MAX_SMALL, inline_bytes};
use crate::{
    Bucket, BucketError, BucketState, Content, Held, Keys, Manifest, ObjectContent, Origin, Record,
    SmallContent, Swapped, Tag, Trouble, ZipContent,
};

/// How often a change is tried again after another process was first.
const ATTEMPTS: usize = 20;

/// The versions of a bucket with one ID.
#[derive(Debug, Clone)]
pub struct Versions {
    bucket: Bucket,
    keys: Keys,
    state_tag: Arc<Mutex<Option<Tag>>>,
    has_left: Arc<AtomicBool>,
    /// Held while the list of removals is written, so that the threads of a process do not contend for it.
    gone_turn: Arc<tokio::sync::Mutex<()>>,
}

impl Versions {
    /// Returns the versions below an ID.
    pub fn new(bucket: Bucket, keys: Keys) -> Self {
        Self { bucket, keys, state_tag: Arc::default(), has_left: Arc::default(), gone_turn: Arc::default() }
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
    pub async fn small(&self, content: &SmallContent) -> Result<Option<Bytes>, BucketError> {
        match (inline_bytes(content), content) {
            (Some(Ok(bytes)), _) => Ok(Some(bytes)),
            (Some(Err(reason)), _) => {
                Err(BucketError::new(Trouble::Damaged, "read", self.bucket.url(), reason))
            }
            (None, SmallContent::Object(object)) => {
                let found = self.bucket.get(&object.key, MAX_SMALL).await?;
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
        Err(self.contended(&key))
    }

    fn contended(&self, key: &str) -> BucketError {
        let reason = format!("other processes changed it in each of {ATTEMPTS} attempts");
        BucketError::new(Trouble::Contended, "write", self.bucket.url_of(key), reason)
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
}
