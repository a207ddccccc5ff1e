//! `stoa export --bucket`: the versions of a bucket for an export.
//!
//! Nothing is written to the bucket. A zip is downloaded to its temporary name in the tree and read completely there.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt;
use stoa_bucket::{BucketError, Manifest, Trouble, VersionContent, examine_files};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::error::PathContext;
use stoa_store::{Meter, Verdict};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::OpenBucket;
use crate::command::error::CommandError;
use crate::command::export::source::Source;
use crate::command::export::tree::{self, GivenFile, GivenVersion, PASSES, Put, Tree};
use crate::lock::lock;

/// The reason why a version is not exported whose objects are gone.
const GONE: &str = "its content is gone, Stoa downloads it again on the next request";

/// The versions of a bucket, for an export.
pub(in crate::command) struct ExportedBucket<'a> {
    bucket: &'a OpenBucket,
    meter: Meter,
    /// The versions that a database has confirmed. Only their names are held in memory.
    confirmed: Mutex<Vec<ModuleVersion>>,
}

impl OpenBucket {
    /// Returns the versions for an export.
    pub(in crate::command) fn exported(&self, meter: Meter) -> ExportedBucket<'_> {
        ExportedBucket { bucket: self, meter, confirmed: Mutex::default() }
    }
}

impl ExportedBucket<'_> {
    /// Returns the versions with a verdict of a database, as far as [`Source::put`] was called for them.
    pub(in crate::command) fn confirmed(&self) -> Vec<ModuleVersion> {
        std::mem::take(&mut *lock(&self.confirmed))
    }

    fn read(&self, version: &ModuleVersion) -> Result<Read<'_>, BucketError> {
        let versions = &self.bucket.versions;
        self.bucket.wait(async {
            let Some(held) = versions.manifest(version).await? else { return Ok(Read::Absent) };
            let manifest = held.document;
            let Some(content) = manifest.present_content().cloned() else { return Ok(Read::Absent) };
            let modfile = versions.small(&content.modfile).await?;
            let info = versions.small(&content.info).await?;
            let Some((modfile, info)) = modfile.zip(info) else { return Ok(Read::Gone) };
            let published = OffsetDateTime::parse(&manifest.published_at, &Rfc3339);
            let modified = published.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
            Ok(Read::Found(Box::new(Published { source: self, manifest, content, modfile, info, modified })))
        })
    }
}

/// A version, as the bucket has it.
enum Read<'a> {
    Absent,
    /// Its info or its mod is gone.
    Gone,
    Found(Box<Published<'a>>),
}

impl Source for ExportedBucket<'_> {
    fn each_version(
        &self,
        each: &mut dyn FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        self.bucket.each_version(each)
    }

    fn put(&self, tree: &Tree, version: &ModuleVersion) -> Result<Put, CommandError> {
        let published = match self.read(version) {
            Ok(Read::Found(published)) => published,
            Ok(Read::Absent) => return Ok(Put::Absent),
            Ok(Read::Gone) => return Ok(Put::Corrupt(GONE.to_owned())),
            Err(error) if error.trouble == Trouble::Damaged => {
                return Ok(Put::Unreadable(error.without_help()));
            }
            Err(error) => return Err(error.into()),
        };
        let put = tree.put(version, published.as_ref())?;
        let is_confirmed = published.manifest.record.verdict.as_ref().is_some_and(|verdict| {
            let stoa_bucket::Verdict { database, tree_size, at } = verdict.clone();
            !Verdict { database, tree_size, at }.is_of_go_sum()
        });
        if is_confirmed && matches!(put, Put::Kept(_) | Put::Written | Put::Full(_)) {
            lock(&self.confirmed).push(version.clone());
        }
        Ok(put)
    }
}

/// A version of a bucket.
struct Published<'a> {
    source: &'a ExportedBucket<'a>,
    manifest: Manifest,
    content: VersionContent,
    modfile: Bytes,
    info: Bytes,
    /// The time of its publication.
    modified: SystemTime,
}

impl Published<'_> {
    /// Downloads the zip into a file, and reads it completely. Returns its hash, or why the version is corrupt.
    fn download(&self, file: &File, at: &Path) -> Result<Result<H1, String>, CommandError> {
        let zip = &self.content.zip;
        let versions = &self.source.bucket.versions;
        let is_there = self.source.bucket.wait(async {
            let Some(mut content) = versions.zip(zip, None).await? else { return Ok(false) };
            let mut offset = 0;
            while let Some(part) = content.bytes.try_next().await? {
                file.write_all_at(&part, offset).at("write", at)?;
                offset += part.len() as u64;
                self.source.meter.add(part.len() as u64);
            }
            Ok::<_, CommandError>(true)
        });
        if !is_there? {
            return Ok(Err(GONE.to_owned()));
        }
        let h1 = match self.examine(file, at)? {
            Ok(h1) => h1,
            Err(reason) => return Ok(Err(reason)),
        };
        self.source.meter.add(zip.size);
        for (name, known) in [("seal", &zip.h1), ("recorded hash", &self.manifest.record.h1)] {
            if let Some(known) = known.as_ref().filter(|known| **known != h1) {
                return Ok(Err(self.corrupt(&format!("its zip has {h1}, but its {name} is {known}"))));
            }
        }
        Ok(Ok(h1))
    }

    fn examine(&self, file: &File, at: &Path) -> Result<Result<H1, String>, CommandError> {
        let examined = examine_files(&self.manifest.version, &self.info, &self.modfile, file);
        Ok(examined.at("read", at)?.map_err(|reason| self.corrupt(&reason)))
    }

    fn corrupt(&self, reason: &str) -> String {
        let (version, bucket) = (&self.manifest.version, self.source.bucket);
        format!(
            "{reason}; it is not exported, and `stoa verify --bucket {bucket} {version} --again` moves it to quarantine"
        )
    }
}

impl GivenVersion for Published<'_> {
    fn place(&self) -> String {
        "the bucket".to_owned()
    }

    fn modfile(&self) -> GivenFile<'_> {
        GivenFile { bytes: &self.modfile, modified: self.modified }
    }

    fn info(&self) -> GivenFile<'_> {
        GivenFile { bytes: &self.info, modified: self.modified }
    }

    fn zip_bytes(&self) -> u64 {
        self.content.zip.size
    }

    fn zip_modified(&self) -> SystemTime {
        self.modified
    }

    fn is_zip(&self, path: &Path) -> Result<Option<bool>, CommandError> {
        let Some((file, meta)) = tree::open(path)? else { return Ok(None) };
        let zip = &self.content.zip;
        if meta.len() != zip.size {
            return Ok(Some(false));
        }
        // A file that an export wrote, which is complete.
        if meta.modified().at("stat", path)? == self.modified {
            self.source.meter.add(zip.size * PASSES);
            return Ok(Some(true));
        }
        let Ok(theirs) = self.examine(&file, path)? else { return Ok(Some(false)) };
        let ours = match &zip.h1 {
            Some(sealed) => sealed.clone(),
            None => {
                let folder = std::env::temp_dir();
                let copy = tempfile::tempfile().at("create a file in", &folder)?;
                match self.download(&copy, &folder)? {
                    Ok(h1) => h1,
                    Err(_) => return Ok(Some(false)),
                }
            }
        };
        Ok(Some(ours == theirs))
    }

    fn write_zip(&self, file: &File, at: &Path) -> Result<Option<String>, CommandError> {
        Ok(self.download(file, at)?.err())
    }
}
