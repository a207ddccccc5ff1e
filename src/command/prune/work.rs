//! The walks over the versions: count, ask, remove.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::ControlFlow;
use std::sync::Mutex;

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, parallel};
use stoa_store::Day;

use super::Prune;
use super::place::{Contents, Remover, Unremovable};
use crate::command::confirm::confirm;
use crate::command::count;
use crate::command::error::CommandError;
use crate::command::event::{VersionKeys, date};
use crate::command::report::Reporter;
use crate::eviction::plan::{Age, Plan};
use crate::lock::lock;
use crate::sources::PrivateModules;

/// The number of versions from which on the command asks before it removes more than half of them.
const ASK_FROM: u64 = 20;

/// A version to remove.
struct Chosen {
    version: ModuleVersion,
    bytes: u64,
    last_use: Option<Day>,
    unused_since: Day,
}

/// A version that was removed.
#[derive(Serialize)]
#[serde(tag = "event", rename = "removed")]
struct RemovedEvent<'a> {
    #[serde(flatten)]
    version: VersionKeys<'a>,
    bytes: u64,
    /// `None` if no use is recorded.
    last_use: Option<String>,
    unused_since: String,
    /// The event of that day, if no use is recorded.
    #[serde(skip)]
    since_event: &'static str,
    #[serde(skip)]
    dry_run: bool,
}

impl Display for RemovedEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let removed = if self.dry_run { "would remove" } else { "removed" };
        write!(f, "{removed} {} ({}, ", self.version, BinaryBytes(self.bytes))?;
        match &self.last_use {
            Some(day) => write!(f, "last used {day})"),
            None => write!(f, "not used since {} ({}))", self.since_event, self.unused_since),
        }
    }
}

/// The outcome for one version.
enum Outcome<'a> {
    Removed(RemovedEvent<'a>),
    Failed(CommandError),
}

pub(super) struct Work<'a> {
    pub(super) remover: &'a dyn Remover,
    pub(super) args: &'a Prune,
    /// The modules whose hashes are not recorded.
    pub(super) private: Option<&'a PrivateModules>,
    pub(super) threads: usize,
    pub(super) cancel: &'a Cancel,
    pub(super) reporter: &'a Reporter,
    pub(super) removed: &'a Mutex<Removed>,
}

/// The number of removed versions.
#[derive(Debug, Default)]
pub(super) struct Removed {
    pub(super) versions: u64,
    pub(super) bytes: u64,
    pub(super) failed: u64,
}

/// The versions before the removal.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Total {
    pub(super) versions: u64,
    pub(super) bytes: u64,
    /// The bytes of versions that are never removed.
    pub(super) kept: u64,
    pub(super) unreadable: u64,
}

impl Work<'_> {
    /// Counts and removes. Returns the content before, and the day since which uses are recorded.
    pub(super) fn run(&self, contents: &mut dyn Contents) -> Result<(Total, Day), CommandError> {
        let (counted, total) = self.count(contents)?;
        let max_size = self.args.max_size.map(|size| size.bytes);
        let plan = Plan::new(&counted, total.bytes, max_size, self.args.unused_since);
        if plan != Plan::default() {
            let going = self.going(contents, plan, total.versions)?;
            self.ask(going, total)?;
            self.remove(contents, plan, going)?;
        }
        if !self.args.dry_run {
            contents.sweep();
        }
        Ok((total, contents.began()))
    }

    /// Adds up bytes: of versions that may go, by age, and of all.
    fn count(&self, contents: &dyn Contents) -> Result<(BTreeMap<Age, u64>, Total), CommandError> {
        let progress = self.reporter.progress();
        progress.begin("count", None);
        let (mut counted, mut total) = (BTreeMap::<Age, u64>::new(), Total::default());
        let unreadable = |error: CommandError| {
            self.reporter.error(&error);
        };
        total.unreadable = contents.each(self.cancel, &unreadable, &mut |version, bytes, age| {
            total.versions += 1;
            total.bytes += bytes;
            if self.is_kept(&version) {
                total.kept += bytes;
            } else {
                *counted.entry(age).or_default() += bytes;
            }
            progress.advance(total.versions, total.bytes);
            ControlFlow::Continue(())
        })?;
        Ok((counted, total))
    }

    /// Counts the versions that a plan takes, and their bytes.
    fn going(&self, contents: &dyn Contents, mut plan: Plan, all: u64) -> Result<(u64, u64), CommandError> {
        let progress = self.reporter.progress();
        progress.begin("choose", Some(all));
        let (mut going, mut seen) = ((0, 0), 0);
        contents.each(self.cancel, &|_| {}, &mut |version, bytes, age| {
            seen += 1;
            progress.advance(seen, 0);
            if !self.is_kept(&version) && plan.takes(age, bytes) {
                going = (going.0 + 1, going.1 + bytes);
            }
            ControlFlow::Continue(())
        })?;
        Ok(going)
    }

    /// Asks first if most of the store would go: a limit without its unit is the usual cause.
    fn ask(&self, (versions, bytes): (u64, u64), total: Total) -> Result<(), CommandError> {
        let is_most = total.versions >= ASK_FROM && versions > total.versions / 2;
        if !is_most || self.args.yes || self.args.dry_run {
            return Ok(());
        }
        self.reporter.progress().end();
        confirm(&format!(
            "{} of {}, {} of {}, would be removed from {}",
            HumanCount(versions),
            count::versions(total.versions),
            BinaryBytes(bytes),
            BinaryBytes(total.bytes),
            self.remover.name()
        ))
    }

    fn remove(&self, contents: &dyn Contents, mut plan: Plan, going: (u64, u64)) -> Result<(), CommandError> {
        let name = if self.args.dry_run { "would remove" } else { "remove" };
        self.reporter.progress().begin(name, Some(going.0));
        let began = contents.began();
        // Each thread gets a part of the work.
        let share = usize::try_from(going.0).unwrap_or(usize::MAX) / self.threads.max(1);
        let size = share.clamp(1, self.remover.batch());
        parallel::each(
            (self.threads, (parallel::AHEAD / size).max(1)),
            |each| {
                let mut batch = Vec::new();
                // Unreadable versions have been reported by the count.
                let walked = contents.each(self.cancel, &|_| {}, &mut |version, bytes, age| {
                    if self.is_kept(&version) || !plan.takes(age, bytes) {
                        return ControlFlow::Continue(());
                    }
                    let last_use = contents.recorded(&version);
                    batch.push(Chosen { version, bytes, last_use, unused_since: age.0 });
                    if batch.len() < size {
                        ControlFlow::Continue(())
                    } else {
                        each(std::mem::take(&mut batch))
                    }
                });
                if walked.is_ok() && !batch.is_empty() {
                    let _ = each(batch);
                }
                walked.map(drop)
            },
            &|batch: Vec<Chosen>| self.remove_batch(&batch, began),
        )
    }

    fn remove_batch(&self, batch: &[Chosen], began: Day) -> Result<(), CommandError> {
        self.cancel.check()?;
        let versions: Vec<_> = batch.iter().map(|chosen| chosen.version.clone()).collect();
        let dry_run = self.args.dry_run;
        if !dry_run {
            self.remover.begin(&versions)?;
        }
        let mut outcomes = Vec::new();
        let removed = batch.iter().try_for_each(|chosen| {
            outcomes.extend(self.remove_one(chosen, began)?);
            Ok(())
        });
        let ended = if dry_run { Ok(()) } else { self.remover.end(&versions) };
        // Printed last, because servers wait for the end and the output may block.
        for outcome in &outcomes {
            match outcome {
                Outcome::Removed(event) => self.reporter.result(event),
                Outcome::Failed(error) => {
                    self.reporter.error(error);
                }
            }
        }
        removed.and(ended)
    }

    /// Removes a version. Returns `None` if there is nothing to report.
    fn remove_one<'c>(&self, chosen: &'c Chosen, began: Day) -> Result<Option<Outcome<'c>>, CommandError> {
        self.cancel.check()?;
        let Chosen { version, bytes, last_use, unused_since } = chosen;
        let dry_run = self.args.dry_run;
        let bytes = if dry_run { Ok(Some(*bytes)) } else { self.take(version) };
        let mut removed = lock(self.removed);
        match bytes {
            Ok(Some(bytes)) => {
                removed.versions += 1;
                removed.bytes += bytes;
                self.reporter.progress().advance(removed.versions, removed.bytes);
                Ok(Some(Outcome::Removed(RemovedEvent {
                    version: version.into(),
                    bytes,
                    last_use: last_use.map(date),
                    unused_since: date(*unused_since),
                    since_event: if *unused_since > began {
                        "it was stored"
                    } else {
                        "the recording of uses began"
                    },
                    dry_run,
                })))
            }
            Ok(None) => Ok(None),
            Err(Unremovable::One(error)) => {
                removed.failed += 1;
                Ok(Some(Outcome::Failed(error)))
            }
            Err(Unremovable::All(error)) => Err(error),
        }
    }

    /// Removes a version. Returns `None` if it is gone, or if another process works on it and so uses it.
    fn take(&self, version: &ModuleVersion) -> Result<Option<u64>, Unremovable> {
        let is_private = self.private.is_some_and(|private| private.contains(version.path()));
        self.remover.remove(version, !is_private)
    }

    fn is_kept(&self, version: &ModuleVersion) -> bool {
        self.args.keep.iter().any(|patterns| patterns.matches(version.path().as_str()))
    }
}
