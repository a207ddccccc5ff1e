//! Files in the bucket for the clients of a read-only server, which stores nothing.
//!
//! A zip goes from the bucket to the client, so its seal decides: the manifest has it, or the server reads the zip into a
//! temporary file first and remembers the hash. The object must still be the one that was verified, by its ETag. A
//! version whose content is gone or corrupt counts as absent, as if it were in quarantine.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use quick_cache::sync::Cache;
use stoa_bucket::{BucketError, ExaminedThere, Manifest, SmallContent, ZipContent};
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::SmallFile;
use tokio::sync::Semaphore;

use super::look::InBucket;
use super::turns::Turns;
use super::{KNOWN, Tier, forbidden};
use crate::byte_budget::{ByteBudget, SMALL_BODY};
use crate::tasks::Once;
use crate::unavailable::Unavailable;

/// Maximum number of zips that are verified at the same time. Each needs temporary space and memory.
const MAX_VERIFYING: usize = 2;

/// Maximum time that a client waits for the verification of a zip. The verification goes on.
const MAX_VERIFICATION_WAIT: Duration = Duration::from_secs(60);

/// Maximum number of zips whose verification is known to take longer.
const LATE: usize = 10_000;

/// The value of `Retry-After` while a zip is verified.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Maximum total size of the large infos and mods in memory.
const SMALL_BYTES: u32 = 64 << 20;

/// Maximum time that a client waits until other large mods are sent.
const MAX_SMALL_WAIT: Duration = Duration::from_secs(30);

/// The zips that a read-only server reads.
#[derive(Debug)]
pub(super) struct Reading {
    /// The zips that were verified, and their hashes. `None` for a corrupt zip.
    verified: Cache<ModuleVersion, (Arc<ZipContent>, Option<H1>)>,
    /// The running verifications, by the key and the ETag of the zip.
    running: Once<ZipId, Result<Option<H1>, Unavailable>>,
    /// The running verifications that go on without a waiting client.
    late: Cache<ZipId, ()>,
    verifying: Semaphore,
    turns: Turns,
    smalls: ByteBudget,
}

/// The key and the ETag of a zip.
type ZipId = (String, Option<String>);

impl Default for Reading {
    fn default() -> Self {
        Self {
            verified: Cache::new(KNOWN),
            // A client that cancels its request has no use for the result. After a late one, others ask again.
            running: Once::while_wanted(),
            late: Cache::new(LATE),
            verifying: Semaphore::new(MAX_VERIFYING),
            turns: Turns::default(),
            smalls: ByteBudget::new(SMALL_BYTES),
        }
    }
}

impl Reading {
    /// Returns whether this zip of a version was read and is corrupt.
    pub(super) fn is_corrupt(&self, version: &ModuleVersion, zip: &ZipContent) -> bool {
        self.verified.get(version).is_some_and(|(of, h1)| h1.is_none() && *of == *zip)
    }
}

/// The bytes of a zip, or of a range of it.
pub(crate) type ZipStream = BoxStream<'static, Result<Bytes, BucketError>>;

impl Tier {
    /// Returns the manifest of a version that the bucket has. `None` if it has no such version.
    pub(crate) async fn present(&self, version: &ModuleVersion) -> Result<Option<Manifest>, Unavailable> {
        self.check_reachable(version)?;
        match self.look(version).await? {
            InBucket::Present(held) => Ok(Some(held.document)),
            InBucket::Known(held) => match &held.document.record.tombstone {
                Some(tombstone) => Err(forbidden(version, tombstone)),
                None => Ok(None),
            },
            InBucket::Unknown => Ok(None),
        }
    }

    /// Returns the info or the mod of a version. `None` if it is gone.
    pub(crate) async fn read_small(
        &self,
        manifest: &Manifest,
        file: SmallFile,
    ) -> Result<Option<Bytes>, Unavailable> {
        self.small_within(manifest, file, MAX_SMALL_WAIT).await
    }

    async fn small_within(
        &self,
        manifest: &Manifest,
        file: SmallFile,
        limit: Duration,
    ) -> Result<Option<Bytes>, Unavailable> {
        let Some(content) = manifest.present_content() else { return Ok(None) };
        let small = match file {
            SmallFile::Info => &content.info,
            SmallFile::Mod => &content.modfile,
        };
        let size = match small {
            SmallContent::Object(object) => object.size,
            // The manifest has it.
            SmallContent::Text(_) | SmallContent::Base64(_) => 0,
        };
        let reserved = if size > SMALL_BODY as u64 {
            let reserved = tokio::time::timeout(limit, self.reading.smalls.reserve(size)).await;
            Some(reserved.map_err(|_| Unavailable::Busy(manifest.version.to_string()))?)
        } else {
            None
        };
        let read = self.note(self.versions.small(small).await);
        let read = read.map_err(|error| self.unavailable(&manifest.version, &error))?;
        if read.is_none() {
            self.note_absent(&manifest.version, "a file is missing or was replaced");
        }
        Ok(match reserved {
            Some(reserved) => read.map(|body| reserved.hold(body)),
            None => read,
        })
    }

    /// Returns the hash of a zip: its seal, or the hash that was found when this server read it. `None` if the version is
    /// corrupt or gone.
    pub(crate) async fn seal_of(self: &Arc<Self>, manifest: &Manifest) -> Result<Option<H1>, Unavailable> {
        self.seal_within(manifest, MAX_VERIFICATION_WAIT).await
    }

    async fn seal_within(
        self: &Arc<Self>,
        manifest: &Manifest,
        limit: Duration,
    ) -> Result<Option<H1>, Unavailable> {
        let (version, Some(content)) = (&manifest.version, manifest.present_content()) else {
            return Ok(None);
        };
        let is_own = content.zip.key.starts_with(&self.versions.keys().contents());
        if content.zip.etag.is_none() && !is_own {
            self.note_absent(version, "its manifest has no ETag, so the zip may have been replaced");
            return Ok(None);
        }
        if let Some(seal) = &content.zip.h1 {
            return Ok(Some(seal.clone()));
        }
        if let Some((of, h1)) = self.reading.verified.get(version)
            && *of == content.zip
        {
            return Ok(h1);
        }
        let work = || {
            let (tier, manifest) = (Arc::clone(self), manifest.clone());
            async move { tier.verify(&manifest).await }
        };
        let zip = (content.zip.key.clone(), content.zip.etag.clone());
        let task = self.reading.running.join(&zip, work);
        let task = task.ok_or_else(|| Unavailable::Busy(version.to_string()))?;
        if !task.is_joined() {
            self.reading.late.remove(&zip);
        }
        match tokio::time::timeout(limit, task.clone().wait()).await {
            Ok(verified) => {
                verified.unwrap_or_else(|| Err(Unavailable::Broken(format!("the verification of {version}"))))
            }
            Err(_) => {
                // Once per verification, however many clients are late.
                if self.reading.late.get(&zip).is_none() {
                    self.reading.late.insert(zip, ());
                    task.keep();
                }
                Err(late(version))
            }
        }
    }

    /// Reads a zip into a temporary file, and remembers its hash.
    async fn verify(&self, manifest: &Manifest) -> Result<Option<H1>, Unavailable> {
        let (version, Some(content)) = (&manifest.version, manifest.present_content()) else {
            return Ok(None);
        };
        let turn = self.reading.verifying.acquire().await;
        let _turn = turn.map_err(|_| Unavailable::Stopping(version.to_string()))?;
        let examined = self.note(self.versions.examine(manifest).await);
        let zip = Arc::new(content.zip.clone());
        match examined.map_err(|error| self.unavailable(version, &error))? {
            ExaminedThere::Whole(h1) => {
                self.reading.verified.insert(version.clone(), (zip, Some(h1.clone())));
                Ok(Some(h1))
            }
            ExaminedThere::Corrupt(reason) => {
                log::error!(
                    version:%, bucket = self.url(), reason,
                    help = "run `stoa verify` with write access to the bucket, which moves the version to quarantine";
                    "a version in the bucket is corrupt, not serving it"
                );
                self.reading.verified.insert(version.clone(), (zip, None));
                Ok(None)
            }
            ExaminedThere::Gone => {
                self.note_absent(version, "a file is missing or was replaced");
                Ok(None)
            }
        }
    }

    /// Returns whether all files of a version are still there.
    pub(crate) async fn has_files(&self, manifest: &Manifest) -> Result<bool, Unavailable> {
        let has_files = self.note(self.versions.has_content(manifest).await);
        let has_files = has_files.map_err(|error| self.unavailable(&manifest.version, &error))?;
        if !has_files {
            self.note_absent(&manifest.version, "a file is missing or was replaced");
        }
        Ok(has_files)
    }

    /// Starts to read a zip. `None` if it is gone, or is no longer the one of the manifest.
    pub(crate) async fn open_zip(
        &self,
        version: &ModuleVersion,
        zip: &ZipContent,
        range: Range<u64>,
    ) -> Result<Option<ZipStream>, Unavailable> {
        let turn = self.reading.turns.take().await;
        let turn = turn.ok_or_else(|| Unavailable::Busy(version.to_string()))?;
        let part = (range != (0..zip.size)).then_some(range);
        let opened = self.note(self.versions.zip(zip, part).await);
        let opened = opened.map_err(|error| self.unavailable(version, &error))?;
        // Not every service honours the condition of a request.
        let is_same = |etag: &str| zip.etag.as_deref().is_none_or(|expected| expected == etag);
        let opened = opened.filter(|content| content.meta.tag.e_tag().is_none_or(is_same));
        if opened.is_none() {
            self.note_absent(version, "its zip is missing or was replaced");
        }
        Ok(opened.map(|content| turn.hold(content.bytes, self.versions.bucket().url_of(&zip.key))))
    }

    /// Notes that the content of a version is gone. It counts as absent for a while.
    fn note_absent(&self, version: &ModuleVersion, reason: &str) {
        log::warn!(version:%, bucket = self.url(), reason; "cannot read a version in the bucket, not serving it");
        self.set_unreadable(version);
    }
}

/// Returns the error for a client that waited too long for the verification of a zip.
fn late(version: &ModuleVersion) -> Unavailable {
    let seconds = MAX_VERIFICATION_WAIT.as_secs();
    let reason = format!(
        "cannot get {version}: its verification takes longer than {seconds} s\nhelp: try again later"
    )
    .into();
    Unavailable::Limited { reason, status: 503, retry_after: RETRY_AFTER }
}

#[cfg(test)]
mod tests {
    use stoa_bucket::AthensFile;
    use stoa_gomod::zip::create;

    use super::super::testing::tier;
    use super::*;

    async fn save(tier: &Tier, version: &ModuleVersion, modfile: &str) -> Manifest {
        let zip = create(version, [("go.mod", &b"module example.com/m\n"[..])]).unwrap();
        let bodies = [br#"{"Version":"v1.0.0"}"#.to_vec(), modfile.into(), zip];
        for (file, body) in AthensFile::ALL.into_iter().zip(bodies) {
            tier.versions.bucket().overwrite(&file.key(version), Bytes::from(body)).await.unwrap();
        }
        tier.versions.adopt_missing(version).await.unwrap().unwrap().document
    }

    #[tokio::test]
    async fn large_mods_share_a_number_of_bytes() {
        let tier = tier(true).await;
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        let large = format!("module example.com/m\n{}", "// x\n".repeat(100_000));
        let manifest = save(&tier, &version, &large).await;
        let read = async |file| tier.small_within(&manifest, file, Duration::from_millis(1)).await;
        let others = tier.reading.smalls.reserve(u64::from(SMALL_BYTES)).await;
        assert!(matches!(read(SmallFile::Mod).await, Err(Unavailable::Busy(_))));
        // The info is small.
        assert!(read(SmallFile::Info).await.unwrap().is_some());
        drop(others);
        let body = read(SmallFile::Mod).await.unwrap().unwrap();
        assert_eq!(body, large.as_bytes());
        // The answer holds its part until it is sent.
        assert!(tier.reading.smalls.try_reserve(u64::from(SMALL_BYTES)).is_none());
        drop(body);
        assert!(tier.reading.smalls.try_reserve(u64::from(SMALL_BYTES)).is_some());
    }

    #[tokio::test]
    async fn a_late_verification_is_for_a_later_request() {
        let tier = tier(true).await;
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        let manifest = save(&tier, &version, "module example.com/m\n").await;
        let others =
            tier.reading.verifying.acquire_many(u32::try_from(MAX_VERIFYING).unwrap()).await.unwrap();
        for _ in 0..3 {
            let late = tier.seal_within(&manifest, Duration::from_millis(1)).await;
            assert!(matches!(late, Err(Unavailable::Limited { status: 503, .. })), "{late:?}");
        }
        drop(others);
        let verified = async {
            while tier.reading.verified.get(&version).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), verified).await.unwrap();
        assert!(tier.seal_within(&manifest, Duration::ZERO).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_corrupt_zip_stays_corrupt_until_it_is_replaced() {
        let tier = tier(true).await;
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        let manifest = save(&tier, &version, "module example.com/other\n").await;
        assert!(matches!(tier.look(&version).await.unwrap(), InBucket::Present(_)));
        assert_eq!(tier.seal_of(&manifest).await.unwrap(), None);
        // As after a minute.
        tier.unreadable.clear();
        assert!(matches!(tier.look(&version).await.unwrap(), InBucket::Known(_)));
        // Nothing is read again.
        let zip = &manifest.present_content().unwrap().zip;
        tier.versions.bucket().delete(&zip.key).await.unwrap();
        assert_eq!(tier.seal_of(&manifest).await.unwrap(), None);
        assert!(!tier.is_unreadable(&version));
        let mut replaced = zip.clone();
        replaced.etag = Some("other".to_owned());
        assert!(!tier.reading.is_corrupt(&version, &replaced));
    }
}
