//! Publishing a version in the bucket, before it is published in the store.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use stoa_bucket::{ExaminedThere, Held, Manifest, NewVersion, Origin, PublishedThere};
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::Record;

use super::Tier;
use super::record::{forbidden, record_there};
use crate::unavailable::Unavailable;

/// A downloaded version, sealed and on disk.
#[derive(Debug)]
pub(crate) struct Downloaded {
    pub(crate) version: ModuleVersion,
    pub(crate) info: Bytes,
    pub(crate) modfile: Bytes,
    pub(crate) zip: File,
    pub(crate) h1: H1,
    pub(crate) record: Record,
}

/// The result of a publication in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishedInBucket {
    /// The bucket has this version.
    Same,
    /// Another server has published another version, which stays.
    Other,
    /// The version was removed meanwhile, or is in quarantine.
    Removed,
}

impl Tier {
    /// Publishes a version. `before` is its manifest, as it was read before the download.
    pub(crate) async fn publish(
        &self,
        downloaded: Downloaded,
        before: Option<&Held<Manifest>>,
    ) -> Result<PublishedInBucket, Unavailable> {
        let Downloaded { version, info, modfile, zip, h1, record } = downloaded;
        // The content would be uploaded before the state is read.
        self.check(&version)?;
        self.probe(&version).await?;
        let size = zip.metadata().map(|found| found.len()).map_err(|error| {
            Unavailable::Upstream(format!("cannot read the downloaded zip of {version}: {error}").into())
        })?;
        let new = NewVersion {
            version: version.clone(),
            info,
            modfile,
            zip: Arc::new(zip),
            size,
            h1,
            origin: Origin::Filled,
            record: record_there(&record),
        };
        let seen = self.moment();
        let published = self.note(self.versions.publish(&new, before).await);
        let (theirs, same) = match published.map_err(|error| self.unavailable(&version, &error))? {
            PublishedThere::Ours(ours) => {
                self.note_in_index(&ours).await;
                (None, Some(true))
            }
            PublishedThere::Theirs { manifest, same } => (Some(manifest), same),
            PublishedThere::Forbidden(tombstone) => return Err(forbidden(&version, &tombstone)),
            PublishedThere::Removed => return Ok(PublishedInBucket::Removed),
        };
        let seal = match (&theirs, same) {
            (Some(theirs), Some(_)) => theirs.document.seal().cloned(),
            // A version of Athens that no server has verified yet.
            (Some(theirs), None) => {
                let verified = self.note(self.versions.verify(&theirs.document).await);
                let (examined, _) = verified.map_err(|error| self.unavailable(&version, &error))?;
                match examined {
                    ExaminedThere::Whole(theirs) => Some(theirs),
                    // It is in quarantine, or has no content.
                    ExaminedThere::Corrupt(_) | ExaminedThere::Gone => return Ok(PublishedInBucket::Removed),
                }
            }
            (None, _) => None,
        };
        match seal.filter(|seal| *seal != new.h1) {
            None => {
                self.lists.remove(version.path());
                self.know(&version, seen);
                Ok(PublishedInBucket::Same)
            }
            Some(published) => {
                log::error!(
                    version:%, published:%, downloaded:% = new.h1, quarantined = same.is_some(), bucket = self.url();
                    "the downloaded zip differs from the zip in the bucket"
                );
                Ok(PublishedInBucket::Other)
            }
        }
    }

    /// Seals a version that was read from the bucket and found intact.
    pub(crate) async fn seal(&self, manifest: &Manifest, h1: &H1) {
        let Some(content) = manifest.present_content().filter(|content| content.zip.h1.is_none()) else {
            return;
        };
        if self.has_left() {
            return;
        }
        let sealed = self.versions.seal(&manifest.version, &content.zip.key, h1).await;
        if let Err(error) = self.note(sealed) {
            log::debug!(version:% = manifest.version, reason = error.without_help(); "cannot seal a version in the bucket");
        }
    }
}
