//! An import into a bucket.
//!
//! A version that the bucket does not have is copied into a temporary file without a name, read completely, and published
//! as after a download. A version that exists already is compared by the hash of its zip. Nothing is overwritten. A
//! second run reads the source and the manifests, and writes nothing.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use stoa_bucket::{
    BucketError, ExaminedThere, Held, Manifest, NewVersion, Origin as PublishedBy, PublishedThere, Trouble,
    Versions, examine_files,
};
use stoa_gomod::{H1, h1};
use stoa_layout::durable::{CopyError, clone_or_copy};
use stoa_layout::{Cancel, Leftover, PathError};
use stoa_store::{Meter, Record};
use tokio::runtime::Runtime;

use super::Walk;
use super::report::{Report, Verdict};
use super::source::{Item, Not, Origin, hash, missing, read, unreadable};
use super::work::{PASSES, of_one_version};
use crate::bucket::{add_to_record, local_tombstone};
use crate::command::error::CommandError;
use crate::command::progress::Progress;

/// How often a version is tried again after another process has changed it.
const ATTEMPTS: usize = 10;

/// An import into a bucket.
pub(in crate::migrate) struct BucketImport<'a> {
    /// `None` in a dry run without a bucket at the current layout.
    pub(in crate::migrate) versions: Option<Versions>,
    pub(in crate::migrate) runtime: &'a Runtime,
    pub(in crate::migrate) threads: usize,
    pub(in crate::migrate) cancel: &'a Cancel,
    pub(in crate::migrate) progress: &'a Progress,
    pub(in crate::migrate) dry_run: bool,
}

/// The comparison of a version with the bucket.
enum Compared {
    /// The bucket has it, and the comparison was reported.
    Reported,
    /// The bucket has no such version, or its content is gone. This is its manifest.
    Absent(Option<Box<Held<Manifest>>>),
    /// The version changed meanwhile.
    Again,
}

impl BucketImport<'_> {
    /// Imports all versions.
    pub(in crate::migrate) fn run(&self, from: &Origin<'_>, report: &Report<'_>) -> Result<(), CommandError> {
        let progress = self.progress;
        let name = if self.dry_run { "would import" } else { "import" };
        progress.begin_in_passes(name, None, PASSES);
        let meter = progress.meter();
        let walk = Walk {
            from,
            threads: self.threads,
            cancel: self.cancel,
            report,
            progress,
            is_counted: self.versions.is_some(),
        };
        let done = walk.run(&|item| self.one(&item, &meter, report), || Ok(()));
        done.map_err(|error| error.after(report.so_far()))?;
        if let Origin::Source(_, folder) = from
            && folder.join("sumdb").is_dir()
        {
            report.ignored_records();
        }
        Ok(())
    }

    fn one(&self, item: &Item, meter: &Meter, report: &Report<'_>) -> Result<(), CommandError> {
        self.cancel.check()?;
        let reason = match self.import(item, meter, report) {
            Ok(()) => return Ok(()),
            Err(Not::Left(reason)) => {
                report.leftover(&Leftover { path: item.shown(), bytes: item.bytes, reason });
                return Ok(());
            }
            Err(Not::Broken(reason)) => {
                report.version(&item.version, Verdict::Broken(&reason));
                return Ok(());
            }
            Err(Not::Stop(error)) => of_one_version(error)?,
            Err(Not::Bucket(error)) if is_of_one_version(&error) => error.without_help(),
            Err(Not::Bucket(error)) => return Err(error.into()),
        };
        report.version(&item.version, Verdict::Failed(&reason));
        Ok(())
    }

    fn import(&self, item: &Item, meter: &Meter, report: &Report<'_>) -> Result<(), Not> {
        let version = &item.version;
        let Some(versions) = &self.versions else {
            report.version(version, Verdict::Imported(item.bytes));
            return Ok(());
        };
        if !versions.keys().can_name(versions.bucket().url().prefix.len(), version) {
            return Err(Not::Left("its name is too long for the key of an object".to_owned()));
        }
        for _ in 0..ATTEMPTS {
            let before = match self.compare(versions, item, meter, report)? {
                Compared::Reported => return Ok(()),
                Compared::Again => continue,
                Compared::Absent(before) => before,
            };
            if self.dry_run {
                report.version(version, Verdict::Imported(item.bytes));
                return Ok(());
            }
            if self.publish(versions, item, before.as_deref(), meter, report)? {
                return Ok(());
            }
        }
        let reason = format!("other processes changed it in each of {ATTEMPTS} attempts");
        let url = versions.bucket().url_of(&versions.keys().manifest(version));
        Err(BucketError::new(Trouble::Contended, "write", url, reason).into())
    }

    /// Compares a version with the bucket, and reports the result if the bucket has it.
    fn compare(
        &self,
        versions: &Versions,
        item: &Item,
        meter: &Meter,
        report: &Report<'_>,
    ) -> Result<Compared, Not> {
        let version = &item.version;
        let Some(held) = self.runtime.block_on(versions.manifest(version))? else {
            return Ok(Compared::Absent(None));
        };
        let manifest = &held.document;
        if let Some(tombstone) = &manifest.record.tombstone {
            report.version(version, Verdict::Forbidden(&local_tombstone(tombstone).to_string()));
            return Ok(Compared::Reported);
        }
        let absent = |held| Ok(Compared::Absent(Some(Box::new(held))));
        let Some(content) = manifest.present_content() else { return absent(held) };
        let read = async {
            if !versions.has_content(manifest).await? {
                return Ok(None);
            }
            versions.small(&content.modfile).await
        };
        let Some(own_mod) = self.runtime.block_on(read)? else { return absent(held) };
        let differs = |reason: &str| {
            report.version(version, Verdict::Differs(reason));
            Ok(Compared::Reported)
        };
        if item.read_mod()? != own_mod {
            return differs("its go.mod differs from the go.mod in the bucket, which is kept");
        }
        let theirs = match &content.zip.h1 {
            Some(sealed) => sealed.clone(),
            None => match self.examine(versions, manifest)? {
                ExaminedThere::Whole(h1) => h1,
                ExaminedThere::Gone => return absent(held),
                ExaminedThere::Corrupt(_) if self.dry_run => return absent(held),
                // It is in quarantine now.
                ExaminedThere::Corrupt(_) => return Ok(Compared::Again),
            },
        };
        let (zip, path) = item.open_zip()?;
        let ours = hash(&zip, path, version)?;
        meter.add(zip.size * PASSES);
        if ours == theirs {
            report.version(version, Verdict::Skipped(item.bytes));
            return Ok(Compared::Reported);
        }
        differs(&format!("its zip has {ours}, the zip in the bucket has {theirs} and is kept"))
    }

    /// Reads a version of the bucket that nobody has verified yet, as `stoa verify --bucket` does.
    fn examine(&self, versions: &Versions, manifest: &Manifest) -> Result<ExaminedThere, BucketError> {
        self.runtime.block_on(async {
            match self.dry_run {
                true => versions.examine(manifest).await,
                false => Ok(versions.verify(manifest).await?.0),
            }
        })
    }

    /// Publishes a version. Returns false if it changed meanwhile.
    fn publish(
        &self,
        versions: &Versions,
        item: &Item,
        before: Option<&Held<Manifest>>,
        meter: &Meter,
        report: &Report<'_>,
    ) -> Result<bool, Not> {
        let version = &item.version;
        let info = read(item.info.as_deref().ok_or_else(|| missing("info"))?)?;
        let modfile = item.read_mod()?;
        let zip = copy_zip(item, meter)?;
        let failed = |error| PathError::new("read", std::env::temp_dir(), error);
        let h1 = examine_files(version, &info, &modfile, &zip).map_err(failed)?.map_err(Not::Broken)?;
        if let Some(objection) = before.and_then(|before| objection(&before.document, &h1, &modfile)) {
            report.version(version, Verdict::Differs(&objection));
            return Ok(true);
        }
        let size = zip.metadata().map_err(failed)?.len();
        let new = NewVersion {
            version: version.clone(),
            info: Bytes::from(info),
            modfile: Bytes::from(modfile),
            zip: Arc::new(zip),
            size,
            h1,
            origin: PublishedBy::Imported,
            record: before.map(|before| before.document.record.clone()).unwrap_or_default(),
        };
        match self.runtime.block_on(versions.publish(&new, before))? {
            PublishedThere::Ours(_) => {
                meter.add(size);
                report.version(version, Verdict::Imported(item.bytes));
            }
            PublishedThere::Theirs { same: Some(true), .. } => {
                report.version(version, Verdict::Skipped(item.bytes));
            }
            PublishedThere::Theirs { same: Some(false), .. } => {
                let reason =
                    "a different version was published meanwhile and is kept; this version is in quarantine";
                report.version(version, Verdict::Differs(reason));
            }
            PublishedThere::Forbidden(tombstone) => {
                report.version(version, Verdict::Forbidden(&local_tombstone(&tombstone).to_string()));
            }
            PublishedThere::Theirs { same: None, .. } | PublishedThere::Removed => return Ok(false),
        }
        Ok(true)
    }
}

/// Returns whether other versions may succeed.
fn is_of_one_version(error: &BucketError) -> bool {
    matches!(error.trouble, Trouble::Damaged | Trouble::Contended | Trouble::Late)
}

/// Copies the zip of a version into a temporary file without a name: another program may write to the source.
fn copy_zip(item: &Item, meter: &Meter) -> Result<File, Not> {
    let (zip, path) = item.open_zip()?;
    let folder = std::env::temp_dir();
    let copy = tempfile::tempfile().map_err(|error| PathError::new("create a file in", &folder, error))?;
    match clone_or_copy((&zip.file, path), (&copy, &folder), &|bytes| meter.add(bytes)) {
        Ok(()) => Ok(copy),
        Err(CopyError::Read(error)) => Err(unreadable(path, &error.source)),
        Err(CopyError::Write(error)) => Err(error.into()),
    }
}

/// Returns why the recorded hashes forbid to publish a version.
fn objection(manifest: &Manifest, h1: &H1, modfile: &[u8]) -> Option<String> {
    let mut record = Record::default();
    add_to_record(&mut record, manifest);
    record.objection(h1, Some(&h1::hash_mod(modfile))).map(|objection| objection.to_string())
}
