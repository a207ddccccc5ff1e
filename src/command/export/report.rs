//! The report of `stoa export`: the result for each version, and the counts.

use std::fmt::{self, Display};
use std::sync::{Mutex, PoisonError};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::Exit;

use super::super::error::CommandError;
use super::super::event::{CORRUPT, VersionResult};
use super::super::report::{Reporter, Summary};
use crate::command::count::{counted, versions};
use crate::lock::lock;

/// The result for one version.
#[derive(Debug, Clone, Copy)]
pub(super) enum ExportResult<'a> {
    /// The version was exported, this many bytes.
    Exported(u64),
    /// The version was in the export before.
    Kept(u64),
    /// The export has other content for the version, which stays.
    Differs(&'a str),
    /// The version is corrupt.
    Corrupt(&'a str),
    /// The version cannot be read.
    Unreadable(&'a str),
}

/// Counts and reports the results of one run, from any thread.
pub(super) struct Report<'a> {
    reporter: &'a Reporter,
    done: Mutex<ExportDone>,
}

impl<'a> Report<'a> {
    pub(super) fn new(reporter: &'a Reporter, store: String, to: String) -> Self {
        Self { reporter, done: Mutex::new(ExportDone { store, to, ..ExportDone::default() }) }
    }

    pub(super) fn version(&self, version: &ModuleVersion, result: ExportResult<'_>) {
        let mut done = lock(&self.done);
        let (event, count, bytes, reason) = match result {
            ExportResult::Exported(bytes) => ("exported", &mut done.exported, Some(bytes), None),
            ExportResult::Kept(bytes) => ("kept", &mut done.kept, Some(bytes), None),
            ExportResult::Differs(reason) => ("differs", &mut done.differ, None, Some(reason)),
            ExportResult::Corrupt(reason) => (CORRUPT, &mut done.broken, None, Some(reason)),
            ExportResult::Unreadable(reason) => ("unreadable", &mut done.unreadable, None, Some(reason)),
        };
        *count += 1;
        if let ExportResult::Exported(bytes) = result {
            done.bytes += bytes;
        }
        let count = done.exported + done.kept + done.differ + done.broken + done.unreadable;
        self.reporter.progress().advance(count, done.bytes);
        drop(done);
        VersionResult { event, version: version.into(), bytes, reason }.report(self.reporter);
    }

    /// Reports the number of records of the checksum database, and why others are missing.
    pub(super) fn records(&self, count: u64, failed: &[(String, String)]) {
        lock(&self.done).records = count;
        if let Some((name, reason)) = failed.first() {
            self.reporter.warning(format_args!(
                "cannot export {} of the checksum database: {name}: {reason}",
                counted(failed.len() as u64, "record")
            ));
        }
    }

    pub(super) fn done(self) -> ExportDone {
        self.done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of versions by result.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct ExportDone {
    store: String,
    to: String,
    exported: u64,
    kept: u64,
    differ: u64,
    broken: u64,
    unreadable: u64,
    bytes: u64,
    /// Records of the checksum database.
    records: u64,
}

impl Display for ExportDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exported, kept) = (versions(self.exported), HumanCount(self.kept));
        write!(f, "from {} to {}: {exported} exported, ", self.store, self.to)?;
        write!(f, "{}, {kept} already there", BinaryBytes(self.bytes))?;
        if self.records > 0 {
            write!(f, ", with {} of the checksum database", counted(self.records, "record"))?;
        }
        let rest = [(self.differ, "different"), (self.broken, "corrupt"), (self.unreadable, "unreadable")];
        for (count, word) in rest.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {} {word}", HumanCount(count))?;
        }
        Ok(())
    }
}

impl Summary for ExportDone {
    fn verdict(&self) -> Result<(), CommandError> {
        let (store, to) = (&self.store, &self.to);
        let problems = self.differ + self.broken;
        if problems > 0 {
            let versions = versions(problems);
            let text = format!("cannot export {versions} of {store}: corrupt, or other content in {to}");
            let help =
                "the versions are listed above; move those that differ away from the export, then run again";
            return Err(CommandError::new(Exit::FAILED, text).help(help));
        }
        if self.unreadable > 0 {
            let versions = versions(self.unreadable);
            let text = format!("cannot read {versions} of {store}, so {to} is incomplete");
            let help = "the reasons are listed above; fix them, then run again";
            return Err(CommandError::new(Exit::IO, text).help(help));
        }
        Ok(())
    }
}
