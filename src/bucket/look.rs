//! Looking for versions in the bucket, and reading their files.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use stoa_bucket::{Held, Manifest, VersionContent};
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::SmallFile;

use super::Tier;
use crate::unavailable::Unavailable;
use crate::upstream::{ByteStream, GivenFiles, OpenZip};

/// The time after which the content of a version is read again that could not be read.
const UNREADABLE: Duration = Duration::from_secs(60);

/// A version in the bucket.
#[derive(Debug)]
pub(crate) enum InBucket {
    /// It exists.
    Present(Box<Held<Manifest>>),
    /// It does not exist, and its manifest keeps what is known of it. Or its content could not be read.
    Known(Box<Held<Manifest>>),
    /// It has never existed.
    Unknown,
}

/// A stored version, compared with the bucket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The bucket has the same version, or cannot be asked.
    Same,
    /// The bucket has never had it.
    Unknown,
    /// It was removed from the bucket.
    Removed,
    /// The bucket has another one.
    Differs(H1),
}

impl Tier {
    /// Looks for a version. Adopts a version that Athens has saved since the upgrade.
    pub(crate) async fn look(&self, version: &ModuleVersion) -> Result<InBucket, Unavailable> {
        self.check(version)?;
        let looked = async {
            if let Some(held) = self.versions.manifest(version).await? {
                return Ok(Some(held));
            }
            // Adopting a version writes its manifest.
            match self.is_of_athens && !self.options.is_read_only {
                true => self.versions.adopt_missing(version).await,
                false => Ok(None),
            }
        };
        let held = self.note(looked.await).map_err(|error| self.unavailable(version, &error))?;
        Ok(match held.map(Box::new) {
            None => InBucket::Unknown,
            Some(held) if held.document.record.tombstone.is_some() => InBucket::Known(held),
            Some(held) => match held.document.present_content() {
                Some(content) if self.may_be_read(version, content) => InBucket::Present(held),
                _ => InBucket::Known(held),
            },
        })
    }

    /// Returns the info or the mod of a version. `None` if the bucket does not have it, or in an outage.
    pub(crate) async fn small(&self, version: &ModuleVersion, file: SmallFile) -> Option<Bytes> {
        if self.is_paused() {
            return None;
        }
        let held = match self.look(version).await.ok()? {
            InBucket::Present(held) => held,
            InBucket::Known(_) | InBucket::Unknown => return None,
        };
        let content = held.document.present_content()?;
        let small = match file {
            SmallFile::Info => &content.info,
            SmallFile::Mod => &content.modfile,
        };
        self.note(self.versions.small(small).await).ok()?
    }

    /// Returns whether the bucket has a version.
    pub(crate) async fn has(&self, version: &ModuleVersion) -> Result<bool, Unavailable> {
        self.check_reachable(version)?;
        Ok(matches!(self.look(version).await?, InBucket::Present(_)))
    }

    /// Returns the files of a version. The zip is requested when it is needed. `None` if the info or the mod is missing.
    pub(crate) async fn files(
        &self,
        version: &ModuleVersion,
        content: &VersionContent,
    ) -> Result<Option<GivenFiles>, Unavailable> {
        let read = async {
            let info = self.versions.small(&content.info).await?;
            let modfile = self.versions.small(&content.modfile).await?;
            Ok(info.zip(modfile))
        };
        let read = self.note(read.await).map_err(|error| self.unavailable(version, &error))?;
        let Some((info, modfile)) = read else {
            self.set_unreadable(version);
            return Ok(None);
        };
        let (versions, zip) = (self.versions.clone(), content.zip.clone());
        let open = async move {
            match versions.zip(&zip, None).await {
                Ok(Some(content)) => {
                    let parts = content.bytes.map(|part| part.map_err(|error| error.without_help()));
                    Ok(ByteStream::new(parts.boxed()))
                }
                Ok(None) => Err("its zip is missing or was replaced".to_owned()),
                Err(error) => Err(error.without_help()),
            }
        };
        Ok(Some(GivenFiles {
            origin: self.url(),
            info,
            modfile,
            size: content.zip.size,
            zip: Mutex::new(Some(OpenZip(open.boxed()))),
        }))
    }

    /// Notes that the content of a version could not be read. It counts as missing for a while. If it is downloaded from an
    /// upstream, it must be the same.
    pub(crate) fn note_unreadable(&self, version: &ModuleVersion, reason: &dyn std::fmt::Display) {
        log::warn!(version:%, bucket = self.url(), reason:%; "cannot read a version in the bucket");
        self.set_unreadable(version);
    }

    pub(super) fn set_unreadable(&self, version: &ModuleVersion) {
        self.unreadable.insert(version.clone(), Instant::now());
    }

    /// Returns whether this server knows of nothing that is wrong with the content of a version.
    fn may_be_read(&self, version: &ModuleVersion, content: &VersionContent) -> bool {
        !self.is_unreadable(version) && !self.reading.is_corrupt(version, &content.zip)
    }

    /// Returns whether the content of a version could not be read a moment ago.
    pub(super) fn is_unreadable(&self, version: &ModuleVersion) -> bool {
        self.unreadable.get(version).is_some_and(|since| since.elapsed() < UNREADABLE)
    }

    /// Compares a stored version with the bucket.
    pub(crate) async fn compare(&self, version: &ModuleVersion, seal: Option<&H1>) -> Standing {
        if self.is_paused() {
            return Standing::Same;
        }
        let seen = self.moment();
        let Ok(held) = self.note(self.versions.manifest(version).await) else { return Standing::Same };
        let Some(held) = held else { return Standing::Unknown };
        if held.document.record.tombstone.is_some() {
            return Standing::Removed;
        }
        match (held.document.present_content(), seal) {
            (None, _) => Standing::Removed,
            (Some(_), Some(seal)) if held.document.seal().is_some_and(|theirs| theirs != seal) => {
                Standing::Differs(seal.clone())
            }
            (Some(_), _) => {
                self.know(version, seen);
                Standing::Same
            }
        }
    }
}
