//! The report of `stoa export`: the result for each version, and the counts.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::Exit;

use super::super::error::CommandError;
use super::super::event::VersionKeys;
use super::super::report::{Reporter, Summary};
use crate::command::count::versions;

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

#[derive(Serialize)]
struct VersionEvent<'a> {
    event: &'a str,
    #[serde(flatten)]
    version: VersionKeys<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Display for VersionEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = if self.event == "broken" { "corrupt" } else { self.event };
        write!(f, "{event} {}", self.version)?;
        self.reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Counts and reports the results of one run, from any thread.
pub(super) struct Report<'a> {
    reporter: &'a Reporter,
    exported: AtomicU64,
    kept: AtomicU64,
    differ: AtomicU64,
    corrupt: AtomicU64,
    unreadable: AtomicU64,
    bytes: AtomicU64,
}

impl<'a> Report<'a> {
    pub(super) fn new(reporter: &'a Reporter) -> Self {
        let [exported, kept, differ, corrupt, unreadable, bytes] = Default::default();
        Self { reporter, exported, kept, differ, corrupt, unreadable, bytes }
    }

    pub(super) fn version(&self, version: &ModuleVersion, result: ExportResult<'_>) {
        let (event, count, bytes, reason) = match result {
            ExportResult::Exported(bytes) => ("exported", &self.exported, Some(bytes), None),
            ExportResult::Kept(bytes) => ("kept", &self.kept, Some(bytes), None),
            ExportResult::Differs(reason) => ("differs", &self.differ, None, Some(reason)),
            ExportResult::Corrupt(reason) => ("broken", &self.corrupt, None, Some(reason)),
            ExportResult::Unreadable(reason) => ("unreadable", &self.unreadable, None, Some(reason)),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let ExportResult::Exported(bytes) = result {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let event = VersionEvent { event, version: version.into(), bytes, reason };
        if reason.is_some() {
            self.reporter.problem(&event)
        } else {
            self.reporter.detail(&event)
        }
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let done = of(&self.exported) + of(&self.kept) + of(&self.differ) + of(&self.corrupt);
        self.reporter.progress().advance(done + of(&self.unreadable), of(&self.bytes));
    }

    pub(super) fn done(&self, store: String, to: String) -> ExportDone {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ExportDone {
            store,
            to,
            exported: of(&self.exported),
            kept: of(&self.kept),
            differ: of(&self.differ),
            broken: of(&self.corrupt),
            unreadable: of(&self.unreadable),
            bytes: of(&self.bytes),
        }
    }
}

/// The number of versions by result.
#[derive(Debug, Serialize)]
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
}

impl Display for ExportDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exported, kept) = (versions(self.exported), HumanCount(self.kept));
        write!(f, "from {} to {}: {exported} exported, ", self.store, self.to)?;
        write!(f, "{}, {kept} already there", BinaryBytes(self.bytes))?;
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
