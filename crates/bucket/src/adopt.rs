//! Adopting a version that Athens saved.
//!
//! The three files stay where they are. Only a manifest is written, which names them with their ETags. A version is
//! adopted if all three files are there and belong together, as far as the info, the mod and the end of the zip
//! show. The whole zip is read later, before its first use.

use std::io;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::TryStreamExt;
use stoa_gomod::zip::{ExamineError, ReadAt, check_structure};
use stoa_gomod::{ModuleVersion, info, modfile};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::manifest::MAX_SMALL;
use crate::{
    AthensFile, BucketError, Held, Manifest, Meta, Object, ObjectContent, Origin, Record, SmallContent,
    Swapped, VersionContent, Versions, ZipContent,
};

/// Size of the end of a zip that is read first. It contains the directory of most zips.
const TAIL: u64 = 64 << 10;

/// Size of the further parts of a zip that are read if the directory is larger.
const PART: u64 = 1 << 20;

/// Maximum number of parts of a zip that are read.
const MAX_PARTS: usize = 64;

/// Athens gives up a save after this time.
const SAVE_TIMEOUT: Duration = Duration::minutes(15);

/// The files of a version in the key shape of Athens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AthensFiles {
    /// The info.
    pub info: Option<Meta>,
    /// The mod.
    pub modfile: Option<Meta>,
    /// The zip.
    pub zip: Option<Meta>,
}

/// The state of the three files of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AthensVersion {
    /// A whole version.
    Whole(Box<VersionContent>, OffsetDateTime),
    /// Some of the files, and they are so young that Athens may be saving the others.
    Saving,
    /// No whole version. The text is the reason.
    Incomplete(String),
    /// None of the files.
    Absent,
}

impl AthensFiles {
    /// Adds a file of a listing.
    pub fn add(&mut self, file: AthensFile, meta: Meta) {
        match file {
            AthensFile::Info => self.info = Some(meta),
            AthensFile::Mod => self.modfile = Some(meta),
            AthensFile::Zip => self.zip = Some(meta),
        }
    }

    /// Returns the total size of the files in bytes.
    pub fn bytes(&self) -> u64 {
        self.all().map(|meta| meta.size).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Meta> {
        [&self.info, &self.modfile, &self.zip].into_iter().flatten()
    }

    /// Returns whether a file is so young that Athens may be saving the others.
    fn is_young(&self, now: OffsetDateTime) -> bool {
        self.all().any(|meta| now - meta.modified < SAVE_TIMEOUT)
    }
}

impl Versions {
    /// Looks at the files that Athens has for a version. `listed` are those in a listing.
    pub async fn look_at_athens(
        &self,
        version: &ModuleVersion,
        listed: Option<&AthensFiles>,
    ) -> Result<AthensVersion, BucketError> {
        let bucket = self.bucket();
        let mut files = listed.cloned().unwrap_or_default();
        if listed.is_none() {
            // The zip is the last file of most saves, and the one that is missing if a save was interrupted.
            for file in [AthensFile::Zip, AthensFile::Info, AthensFile::Mod] {
                if let Some(meta) = bucket.head(&file.key(version)).await? {
                    files.add(file, meta);
                }
            }
        }
        let now = bucket.service_time().unwrap_or_else(OffsetDateTime::now_utc);
        let missing = |what: &str| AthensVersion::Incomplete(format!("incomplete: it has no {what}"));
        let (info_meta, mod_meta, zip_meta) = match &files {
            AthensFiles { info: None, modfile: None, zip: None } => return Ok(AthensVersion::Absent),
            AthensFiles { info: Some(info), modfile: Some(modfile), zip: Some(zip) } => (info, modfile, zip),
            some if some.is_young(now) => return Ok(AthensVersion::Saving),
            AthensFiles { info: None, .. } => return Ok(missing("info")),
            AthensFiles { modfile: None, .. } => return Ok(missing("mod")),
            AthensFiles { zip: None, .. } => return Ok(missing("zip")),
        };
        match self.examine_files(version, info_meta, mod_meta, zip_meta).await? {
            Ok(content) => Ok(AthensVersion::Whole(Box::new(content), info_meta.modified)),
            // It may have been replaced while it was read.
            Err(_) if files.is_young(now) => Ok(AthensVersion::Saving),
            Err(reason) => Ok(AthensVersion::Incomplete(reason)),
        }
    }

    async fn examine_files(
        &self,
        version: &ModuleVersion,
        info_meta: &Meta,
        mod_meta: &Meta,
        zip_meta: &Meta,
    ) -> Result<Result<VersionContent, String>, BucketError> {
        let fault = |text: String| Ok(Err(format!("incomplete: {text}")));
        let info_key = AthensFile::Info.key(version);
        let Some(body) = self.small_file(&info_key, info_meta).await? else {
            return fault("its info changed while it was read".to_owned());
        };
        if let Err(error) = info::parse_answer(version.path(), version.version().as_str(), &body.bytes) {
            return fault(format!("its info: {error}"));
        }
        let info = small_content(info_key, &body);
        let mod_key = AthensFile::Mod.key(version);
        let Some(body) = self.small_file(&mod_key, mod_meta).await? else {
            return fault("its mod changed while it was read".to_owned());
        };
        if !modfile::has_module_directive(&body.bytes) {
            return fault("its mod has no module directive".to_owned());
        }
        let modfile = small_content(mod_key, &body);
        let zip_key = AthensFile::Zip.key(version);
        if let Some(reason) = self.fault_of_zip(version, &zip_key, zip_meta).await? {
            return fault(reason);
        }
        let etag = zip_meta.tag.e_tag().map(str::to_owned);
        let zip = ZipContent { key: zip_key, size: zip_meta.size, etag, h1: None };
        Ok(Ok(VersionContent { info, modfile, zip }))
    }

    /// Reads a small file. `None` if it is no longer the one in the listing.
    async fn small_file(&self, key: &str, meta: &Meta) -> Result<Option<Object>, BucketError> {
        if meta.size >= MAX_SMALL {
            return Ok(None);
        }
        let found = self.bucket().get(key, MAX_SMALL).await?;
        Ok(found.filter(|found| found.meta.tag.e_tag() == meta.tag.e_tag()))
    }

    /// Returns what is wrong with the structure of a zip. Reads its end.
    async fn fault_of_zip(
        &self,
        version: &ModuleVersion,
        key: &str,
        meta: &Meta,
    ) -> Result<Option<String>, BucketError> {
        let mut parts = Parts { size: meta.size, held: Vec::new(), missing: Mutex::new(None) };
        let mut next = meta.size.saturating_sub(TAIL)..meta.size;
        for _ in 0..MAX_PARTS {
            if next.is_empty() {
                return Ok(Some("its zip is empty".to_owned()));
            }
            let Some(content) = self.bucket().read(key, Some(next.clone()), Some(&meta.tag)).await? else {
                return Ok(Some("its zip changed while it was read".to_owned()));
            };
            let bytes: Vec<Bytes> = content.bytes.try_collect().await?;
            parts.held.push((next.start, bytes.concat()));
            let error = match check_structure(&parts, version) {
                Ok(_) => return Ok(None),
                Err(ExamineError::Broken(fault)) => return Ok(Some(format!("its zip: {fault}"))),
                Err(ExamineError::Read(error)) => error,
            };
            match crate::unnameable::lock(&parts.missing).take() {
                Some(offset) => next = offset..meta.size.min(offset + PART),
                None => return Ok(Some(format!("its zip: {error}"))),
            }
        }
        Ok(Some("its zip has a directory that is too large".to_owned()))
    }

    /// Adopts a version of Athens, for a process that holds the lease of the step. Its time of publication is the time
    /// at which Athens saved it. Returns its manifest, or that of another writer. `None` if the manifest is gone.
    pub async fn adopt_unchecked(
        &self,
        version: &ModuleVersion,
        content: VersionContent,
        saved: OffsetDateTime,
    ) -> Result<Option<Held<Manifest>>, BucketError> {
        let mut manifest = Manifest::present(version.clone(), Origin::Adopted, content, Record::default())?;
        if let Ok(saved) = saved.format(&Rfc3339) {
            manifest.published_at = saved;
        }
        self.put_adopted(manifest).await
    }

    /// Adopts a version that Athens has saved since the upgrade. `None` if it has none that is complete.
    ///
    /// It is published now, not when Athens saved it: clients that follow the feed have already read past that time.
    pub async fn adopt_missing(
        &self,
        version: &ModuleVersion,
    ) -> Result<Option<Held<Manifest>>, BucketError> {
        let content = match self.look_at_athens(version, None).await? {
            AthensVersion::Whole(content, _) => *content,
            AthensVersion::Saving | AthensVersion::Incomplete(_) | AthensVersion::Absent => return Ok(None),
        };
        self.check_state().await?;
        let manifest = Manifest::present(version.clone(), Origin::Adopted, content, Record::default())?;
        let adopted = self.put_adopted(manifest).await?;
        self.check_state().await?;
        Ok(adopted)
    }

    async fn put_adopted(&self, manifest: Manifest) -> Result<Option<Held<Manifest>>, BucketError> {
        match self.bucket().swap(&self.keys().manifest(&manifest.version), &manifest, None).await? {
            Swapped::Done(tag) => Ok(Some(Held { document: manifest, tag })),
            Swapped::Lost(other) => Ok(other),
        }
    }
}

fn small_content(key: String, object: &Object) -> SmallContent {
    SmallContent::inline(&object.bytes).unwrap_or_else(|| {
        SmallContent::Object(ObjectContent {
            key,
            size: object.meta.size,
            etag: object.meta.tag.e_tag().map(str::to_owned),
        })
    })
}

/// The parts of a zip that were read.
struct Parts {
    size: u64,
    held: Vec<(u64, Vec<u8>)>,
    /// The offset of a read outside of them.
    missing: Mutex<Option<u64>>,
}

impl ReadAt for Parts {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.size {
            return Ok(0);
        }
        for (start, bytes) in &self.held {
            let at = offset.checked_sub(*start).and_then(|at| usize::try_from(at).ok());
            if let Some(held) = at.and_then(|at| bytes.get(at..)).filter(|held| !held.is_empty()) {
                let count = held.len().min(buffer.len());
                buffer[..count].copy_from_slice(&held[..count]);
                return Ok(count);
            }
        }
        *crate::unnameable::lock(&self.missing) = Some(offset);
        Err(io::Error::other("a part that was not read"))
    }

    fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{save_as_athens, versions};

    async fn put(versions: &Versions, version: &ModuleVersion, files: usize) {
        save_as_athens(versions, &version.to_string(), files).await;
    }

    fn version(pair: &str) -> ModuleVersion {
        ModuleVersion::parse(pair).unwrap()
    }

    #[tokio::test]
    async fn a_whole_version_is_adopted_where_it_is() {
        let versions = versions().await;
        // The directory of the second one is larger than the end that is read first.
        for (pair, files) in [("example.com/m@v1.0.0", 1), ("example.com/m@v1.1.0", 3000)] {
            let version = version(pair);
            put(&versions, &version, files).await;
            let held = versions.adopt_missing(&version).await.unwrap().unwrap();
            let content = held.document.present_content().unwrap();
            assert_eq!(content.zip.key, AthensFile::Zip.key(&version));
            assert_eq!((held.document.origin, held.document.seal()), (Origin::Adopted, None));
            assert_eq!(versions.adopt_missing(&version).await.unwrap(), Some(held));
        }
    }

    #[tokio::test]
    async fn half_saved_versions_are_left_alone() {
        let versions = versions().await;
        let version = version("example.com/m@v1.0.0");
        for file in AthensFile::ALL {
            put(&versions, &version, 1).await;
            versions.bucket().delete(&file.key(&version)).await.unwrap();
            // The others are young: Athens may be saving it.
            assert_eq!(versions.look_at_athens(&version, None).await.unwrap(), AthensVersion::Saving);
            let mut files = AthensFiles::default();
            for other in AthensFile::ALL.into_iter().filter(|other| *other != file) {
                let mut meta = versions.bucket().head(&other.key(&version)).await.unwrap().unwrap();
                meta.modified -= SAVE_TIMEOUT;
                files.add(other, meta);
            }
            let expected = AthensVersion::Incomplete(format!("incomplete: it has no {}", file.suffix()));
            assert_eq!(versions.look_at_athens(&version, Some(&files)).await.unwrap(), expected);
            assert_eq!(versions.adopt_missing(&version).await.unwrap(), None);
        }
        assert_eq!(versions.manifest(&version).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_after_the_listing_is_not_adopted() {
        let versions = versions().await;
        let version = version("example.com/m@v1.0.0");
        put(&versions, &version, 1).await;
        let mut files = AthensFiles::default();
        for file in AthensFile::ALL {
            let mut meta = versions.bucket().head(&file.key(&version)).await.unwrap().unwrap();
            meta.modified -= SAVE_TIMEOUT;
            files.add(file, meta);
        }
        put(&versions, &version, 2).await;
        let found = versions.look_at_athens(&version, Some(&files)).await.unwrap();
        assert!(
            matches!(found, AthensVersion::Incomplete(reason) if reason.contains("changed while it was read"))
        );
    }
}
