//! The report of an import: the result of each version, the leftovers by reason, and the counts.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::{Exit, Leftover};

use crate::command::count::{counted, versions};
use crate::command::error::CommandError;
use crate::command::event::{CORRUPT, VersionResult};
use crate::command::report::{Reporter, Summary};
use crate::lock::lock;
use crate::migrate::events::text;

/// The result for one version.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    /// The version was imported, with this number of bytes.
    Imported(u64),
    /// The store has the same version already.
    Skipped(u64),
    /// The store has a different version, which stays.
    Differs(&'a str),
    /// The version has a tombstone.
    Forbidden(&'a str),
    /// The version is corrupt.
    Broken(&'a str),
    /// The version cannot be written. Other versions may succeed.
    Failed(&'a str),
}

/// A path of the source that belongs to no version, or cannot be read.
#[derive(Serialize)]
struct PathResult<'a> {
    event: &'static str,
    path: String,
    bytes: u64,
    reason: &'a str,
}

impl<'a> PathResult<'a> {
    fn new(event: &'static str, leftover: &'a Leftover) -> Self {
        let Leftover { path, bytes, reason } = leftover;
        Self { event, path: text(path), bytes: *bytes, reason }
    }
}

impl Display for PathResult<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = if self.event == "aside" { "skipped" } else { self.event };
        write!(f, "{event} {} ({}): {}", self.path, BinaryBytes(self.bytes), self.reason)
    }
}

/// The report of one import.
pub(in crate::migrate) struct Report<'a> {
    reporter: &'a Reporter,
    done: Mutex<Imported>,
}

impl<'a> Report<'a> {
    /// Starts the report of an import into a store or a bucket.
    pub(in crate::migrate) fn new(
        reporter: &'a Reporter,
        (source, store): (&Path, String),
        dry_run: bool,
    ) -> Self {
        let done = Imported { store, source: text(source), dry_run, ..Imported::default() };
        Self { reporter, done: Mutex::new(done) }
    }

    /// Reports the result for a version.
    pub(super) fn version(&self, version: &ModuleVersion, verdict: Verdict<'_>) {
        let mut done = lock(&self.done);
        let (event, count, bytes, reason) = match verdict {
            Verdict::Imported(bytes) => ("imported", &mut done.imported, Some(bytes), None),
            Verdict::Skipped(bytes) => ("skipped", &mut done.skipped, Some(bytes), None),
            Verdict::Differs(reason) => ("differs", &mut done.differ, None, Some(reason)),
            Verdict::Forbidden(reason) => ("forbidden", &mut done.forbidden, None, Some(reason)),
            Verdict::Broken(reason) => (CORRUPT, &mut done.broken, None, Some(reason)),
            Verdict::Failed(reason) => ("failed", &mut done.failed, None, Some(reason)),
        };
        *count += 1;
        if let Verdict::Imported(bytes) = verdict {
            done.bytes += bytes;
        }
        let all = done.imported + done.skipped + done.differ + done.forbidden + done.broken + done.failed;
        self.reporter.progress().advance(all, done.bytes);
        drop(done);
        VersionResult { event, version: version.into(), bytes, reason }.report(self.reporter);
    }

    /// Reports a leftover of the source. People see each with `--verbose`, and otherwise the numbers by reason.
    pub(super) fn leftover(&self, leftover: &Leftover) {
        let mut done = lock(&self.done);
        if leftover.reason.starts_with("unreadable") {
            done.unreadable += 1;
            drop(done);
            return self.reporter.problem(&PathResult::new("unreadable", leftover));
        }
        done.leftovers += 1;
        *done.reasons.entry(kind_of(&leftover.reason).to_owned()).or_default() += 1;
        drop(done);
        self.reporter.detail(&PathResult::new("leftover", leftover));
    }

    /// Reports a version without a zip, which is normal in a module cache.
    pub(super) fn aside(&self, leftover: &Leftover) {
        lock(&self.done).without_zip += 1;
        if self.reporter.loudness().verbose {
            self.reporter.detail(&PathResult::new("aside", leftover));
        }
    }

    /// Counts a version that is copied and not yet visible.
    pub(super) fn copied(&self) {
        lock(&self.done).waiting += 1;
    }

    /// Reports the result for a version that was counted as copied.
    pub(super) fn published(&self, version: &ModuleVersion, verdict: Verdict<'_>) {
        lock(&self.done).waiting -= 1;
        self.version(version, verdict);
    }

    /// Warns about answers of the checksum database beside the source, which a bucket has no place for.
    pub(super) fn ignored_records(&self) {
        let done = lock(&self.done);
        self.reporter.remark(format_args!(
            "the answers of the checksum database in {} are not imported into {}: servers ask for them",
            done.source, done.store
        ));
    }

    /// Reports the number of records of the checksum database, and why others are missing.
    pub(super) fn records(&self, count: u64, failed: &[(String, String)]) {
        lock(&self.done).records = count;
        if let Some((name, reason)) = failed.first() {
            self.reporter.warning(format_args!(
                "cannot import {} of the checksum database: {name}: {reason}",
                counted(failed.len() as u64, "record")
            ));
        }
    }

    /// Returns the work done so far.
    pub(super) fn so_far(&self) -> String {
        lock(&self.done).so_far()
    }

    /// Returns the summary of an import that reached its end.
    pub(in crate::migrate) fn done(self) -> Imported {
        self.done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the kind of a leftover: the part of its reason before the details.
fn kind_of(reason: &str) -> &str {
    match reason.split_once(':') {
        Some((kind, _)) if !kind.contains(' ') => kind,
        _ if reason == "symlink" => "symlink",
        _ => "other",
    }
}

/// The summary of an import.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(in crate::migrate) struct Imported {
    store: String,
    source: String,
    imported: u64,
    skipped: u64,
    differ: u64,
    forbidden: u64,
    broken: u64,
    failed: u64,
    unreadable: u64,
    leftovers: u64,
    without_zip: u64,
    bytes: u64,
    /// Records of the checksum database.
    records: u64,
    dry_run: bool,
    /// The leftovers by reason.
    #[serde(skip)]
    reasons: BTreeMap<String, u64>,
    /// Versions that are copied and not yet visible.
    #[serde(skip)]
    waiting: u64,
}

impl Imported {
    /// Returns the work done by an import that stopped early.
    fn so_far(&self) -> String {
        let Self { store, source, waiting, .. } = self;
        let done = format!("imported {} from {source} into {store} before that", versions(self.imported));
        match waiting {
            0 => done,
            waiting => format!("{done}, and discarded {}", counted(*waiting, "copy")),
        }
    }
}

impl Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dry = if self.dry_run { " (dry run, nothing was written)" } else { "" };
        let done = if self.dry_run { "would import" } else { "imported" };
        let (versions, bytes) = (versions(self.imported), BinaryBytes(self.bytes));
        write!(
            f,
            "from {} into {}{dry}: {done} {versions}, {bytes}; {} already in the store",
            self.source,
            self.store,
            HumanCount(self.skipped)
        )?;
        let rest = [
            (self.without_zip, "without a zip"),
            (self.differ, "different"),
            (self.forbidden, "forbidden"),
            (self.broken, "corrupt"),
            (self.failed, "failed"),
            (self.unreadable, "unreadable"),
        ];
        for (count, word) in rest.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {} {word}", HumanCount(count))?;
        }
        if self.records > 0 {
            write!(f, ", with {} of the checksum database", counted(self.records, "record"))?;
        }
        if self.leftovers > 0 {
            let kinds: Vec<String> =
                self.reasons.iter().map(|(kind, count)| format!("{} {kind}", HumanCount(*count))).collect();
            write!(f, "\n{} not imported: {}", counted(self.leftovers, "leftover"), kinds.join(", "))?;
        }
        Ok(())
    }
}

impl Summary for Imported {
    fn report(&self, reporter: &Reporter) {
        reporter.result(self);
        if self.leftovers > 0 && !reporter.loudness().verbose {
            reporter.remark("run with -v to list the leftovers");
        }
    }

    fn verdict(&self) -> Result<(), CommandError> {
        let (source, root) = (&self.source, &self.store);
        let mut wrong = Vec::new();
        if self.differ + self.broken > 0 {
            let versions = versions(self.differ + self.broken);
            wrong.push(format!(
                "cannot import {versions} of {source}: other content than in {root}, or corrupt (listed above)"
            ));
        }
        if self.failed > 0 {
            let versions = versions(self.failed);
            wrong.push(format!("cannot write {versions} of {source} to {root} (listed above)"));
        }
        if !wrong.is_empty() {
            return Err(CommandError::new(Exit::FAILED, wrong.join("; ")));
        }
        if self.unreadable > 0 {
            let paths = counted(self.unreadable, "path");
            let message =
                format!("cannot read {paths} in {source} (listed above), so nothing was imported from there");
            return Err(CommandError::new(Exit::IO, message).help("fix the cause, then run again"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_summed_up_by_kind() {
        for (reason, kind) in [
            ("incomplete: no zip", "incomplete"),
            ("alias: main is not a canonical version", "alias"),
            ("foreign: it belongs to no version", "foreign"),
            ("symlink", "symlink"),
            ("its info already exists at /s/x", "other"),
            ("its name has 300 bytes: too long", "other"),
        ] {
            assert_eq!(kind_of(reason), kind, "{reason}");
        }
    }
}
