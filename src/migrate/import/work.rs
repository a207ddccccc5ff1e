//! The work on each version of a source: compare it with the store, copy it into staging, publish it with others.

use std::path::Path;
use std::sync::Mutex;

use stoa_layout::durable::{CopyError, clone_or_copy};
use stoa_layout::{Cancel, Leftover};
use stoa_store::{
    Batch, Meter, Objection, Published, SealError, SmallFile, Store, StoreError, UnsyncedDraft,
};

use super::report::{Report, Verdict};
use super::source::{Item, Not, hash, is_stored, missing, read, unreadable};
use crate::command::error::CommandError;
use crate::lock::lock;

/// Maximum number of versions and of bytes that share a sync.
const BATCH: (usize, u64) = (256, 64 << 20);

/// How often each byte of a zip is added to the meter: once when the zip is copied, and once when the copy is examined. A
/// zip that is only compared counts twice.
pub(super) const PASSES: u64 = 2;

/// The state that all threads share.
pub(super) struct Work<'a> {
    root: &'a Path,
    /// `None` in a dry run without a store.
    store: Option<&'a Store>,
    /// `None` in a dry run.
    batch: Option<Batch<'a>>,
    /// Versions that are copied and not yet visible.
    waiting: Mutex<Waiting>,
    cancel: &'a Cancel,
    report: &'a Report<'a>,
    meter: Meter,
}

#[derive(Default)]
struct Waiting {
    drafts: Vec<UnsyncedDraft>,
    sizes: Vec<u64>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        root: &'a Path,
        store: Option<&'a Store>,
        batch: Option<Batch<'a>>,
        cancel: &'a Cancel,
        report: &'a Report<'a>,
        meter: Meter,
    ) -> Self {
        Self { root, store, batch, waiting: Mutex::default(), cancel, report, meter }
    }

    pub(super) fn one(&self, item: Item) -> Result<(), CommandError> {
        self.cancel.check()?;
        match self.copy(&item) {
            Ok(None) => Ok(()),
            Ok(Some(full)) => self.publish(full),
            Err(Not::Stop(error)) => {
                let reason = of_one_version(error)?;
                self.report.version(&item.version, Verdict::Failed(&reason));
                Ok(())
            }
            Err(Not::Bucket(error)) => Err(error.into()),
            Err(Not::Broken(reason)) => {
                self.report.version(&item.version, Verdict::Broken(&reason));
                Ok(())
            }
            Err(Not::Left(reason)) => {
                self.report.leftover(&Leftover { path: item.shown(), bytes: item.bytes, reason });
                Ok(())
            }
        }
    }

    /// Copies a version into staging, unless it is in the store. Returns the batch if it is full.
    fn copy(&self, item: &Item) -> Result<Option<Waiting>, Not> {
        let version = &item.version;
        if !Store::can_hold(self.root, version) {
            return Err(Not::Left("its name is too long for a file system once escaped".to_owned()));
        }
        if let Some(store) = self.store
            && let Some(tombstone) = store.records().tombstone(version)?
        {
            self.report.version(version, Verdict::Forbidden(&tombstone.to_string()));
            return Ok(None);
        }
        if let Some(store) = self.store
            && self.is_there(store, item)?
        {
            return Ok(None);
        }
        let (Some(store), Some(_)) = (self.store, &self.batch) else {
            self.report.version(version, Verdict::Imported(item.bytes));
            return Ok(None);
        };
        let info = read(item.info.as_deref().ok_or_else(|| missing("info"))?)?;
        let modfile = item.read_mod()?;
        let (zip, zip_path) = item.open_zip()?;
        let mut draft = store.draft(version)?;
        let copied = |bytes| self.meter.add(bytes);
        match clone_or_copy((&zip.file, zip_path), (&draft.zip(), &draft.zip_path()), &copied) {
            Ok(()) => {}
            Err(CopyError::Read(error)) => return Err(unreadable(zip_path, &error.source)),
            Err(CopyError::Write(error)) => return Err(error.into()),
        }
        draft.set_mod(&modfile);
        let draft = match draft.seal_unsynced(&info) {
            Ok(draft) => draft,
            Err(SealError::Broken { reason, .. }) => return Err(Not::Broken(reason)),
            Err(SealError::OtherMod { .. }) => {
                return Err(Not::Broken("its mod differs from the go.mod in its zip".to_owned()));
            }
            Err(SealError::Store(error)) => return Err(error.into()),
        };
        let mut waiting = lock(&self.waiting);
        waiting.drafts.push(draft);
        waiting.sizes.push(item.bytes);
        self.report.copied();
        let is_full = waiting.drafts.len() >= BATCH.0 || waiting.sizes.iter().sum::<u64>() >= BATCH.1;
        Ok(is_full.then(|| std::mem::take(&mut *waiting)))
    }

    /// Returns whether a version is in the store already, and reports the comparison.
    fn is_there(&self, store: &Store, item: &Item) -> Result<bool, Not> {
        let version = &item.version;
        // Opening these files quarantines a version that has an info and lacks one of them.
        let (Some(own_mod), Some(own_zip)) =
            (store.small(version, SmallFile::Mod)?, store.open_zip(version)?)
        else {
            return Ok(false);
        };
        let kept = || self.report.version(version, Verdict::Skipped(item.bytes));
        let differs = |reason: &str| self.report.version(version, Verdict::Differs(reason));
        if item.read_mod()? != own_mod.bytes {
            differs("its go.mod differs from the go.mod in the store, which is kept");
            return Ok(true);
        }
        let (zip, path) = item.open_zip()?;
        let compared = |bytes| self.meter.add(bytes * PASSES);
        if own_zip.length == zip.size && is_stored(&zip, path, &own_zip, &compared)? {
            kept();
            return Ok(true);
        }
        // The zips may only be compressed differently.
        let Some(theirs) = store.seal(version)? else { return Ok(false) };
        let ours = hash(&zip, path, version)?;
        if ours == theirs {
            kept();
        } else {
            differs(&format!("its zip has {ours}, the zip in the store has {theirs} and is kept"));
        }
        Ok(true)
    }

    /// Makes the versions of a batch visible.
    fn publish(&self, Waiting { drafts, sizes }: Waiting) -> Result<(), CommandError> {
        let (Some(store), Some(batch)) = (self.store, &self.batch) else { return Ok(()) };
        for (draft, bytes) in batch.settle(drafts)?.into_iter().zip(sizes) {
            let version = draft.version().clone();
            // Another process may work on the version.
            let claim = store.claim_while::<CommandError>(&version, || Ok(self.cancel.check()?))?;
            match batch.publish(draft, &claim) {
                Ok(Published::Ours(_)) => self.report.published(&version, Verdict::Imported(bytes)),
                Ok(Published::Theirs { same: true }) => {
                    self.report.published(&version, Verdict::Skipped(bytes))
                }
                Ok(Published::Theirs { same: false }) => {
                    let reason =
                        "a different version was stored meanwhile and is kept; this version is in quarantine";
                    self.report.published(&version, Verdict::Differs(reason));
                }
                Ok(Published::Refused(Objection::Tombstone(tombstone))) => {
                    self.report.published(&version, Verdict::Forbidden(&tombstone.to_string()));
                }
                Ok(Published::Refused(objection @ Objection::Differs { .. })) => {
                    self.report.published(&version, Verdict::Differs(&objection.to_string()));
                }
                Err(error) => self.report.published(&version, Verdict::Failed(&of_one_version(error)?)),
            }
        }
        Ok(())
    }

    /// Publishes the remaining versions and syncs.
    pub(super) fn finish(&self) -> Result<(), CommandError> {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        self.publish(waiting)?;
        match &self.batch {
            Some(batch) => Ok(batch.finish()?),
            None => Ok(()),
        }
    }
}

/// Returns the error as a reason if it concerns only one version.
pub(super) fn of_one_version(error: StoreError) -> Result<String, CommandError> {
    if error.is_of_one_version() { Ok(error.to_string()) } else { Err(error.into()) }
}
