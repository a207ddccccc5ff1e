//! `stoa prune`: removes the versions that were used least recently, until the rest fits or what is old is gone.
//!
//! Two walks. The first adds up bytes by the day of last use, and of publishing among those of one day, so that memory
//! is that of the days and not of the versions. It says through which day to remove; the second walk removes. What is
//! used or published in between is newer by then, and stays.

mod size;
mod when;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use clap::{ArgGroup, Args};
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;
use stoa_gomod::ModuleVersion;
use stoa_gomod::private::Patterns;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit};
use stoa_store::{Day, LastUseError, LastUses, Store, StoreError};
use time::OffsetDateTime;

use crate::command::error::CommandError;
use crate::command::progress::{Progress, Screen};
use crate::command::report::Format;
use crate::output;
use crate::parallel;
use crate::work_options::Working;

/// What is typed.
#[derive(Debug, Args)]
#[command(
    after_help = "A version counts as used on the latest of three days: when a server noted its last use, when it was published, and \
                  when such notes began. So on a store that nobody kept notes of, nothing is unused yet.\n\
                  SIZE is a number of bytes, or one with K, M, G or T (KiB and so on are the same; KB and so on are thousands). \
                  It is that of the info, mod and zip files. WHEN is so many days or weeks ago, as in 90d and 12w, or a date, as \
                  in 2026-01-31.\n\
                  What is removed is fetched again when it is asked for, and must be the same then: its hash is kept. Tombstones \
                  stay. It may run beside a server, and be stopped and run again.\n\
                  Exit codes: 0 done; 1 what --keep names alone is larger than --max-size; 74 something cannot be read or \
                  written; 130, 143 stopped.",
    group = ArgGroup::new("what").args(["max_size", "unused_since"]).required(true).multiple(true)
)]
pub(crate) struct Typed {
    /// Remove what was used least recently, until the rest has at most this size
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,

    /// Remove what was not used since then
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    unused_since: Option<Day>,

    /// Keep modules that match: patterns as in GOPRIVATE, with commas between
    #[arg(long, value_name = "PATTERNS")]
    keep: Vec<String>,

    /// Say what would be removed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) working: Working,
}

/// Removes what is not to be kept.
pub(crate) fn run(
    store: &Store,
    typed: &Typed,
    threads: usize,
    quiet: bool,
    cancel: &Cancel,
) -> Result<Exit, CommandError> {
    let format = typed.working.telling.format;
    let progress =
        Progress::new(Screen::default(), typed.working.telling.progress, quiet || format == Format::Json);
    let told = Told { format, quiet, dry_run: typed.dry_run, progress: &progress };
    let keep = Patterns::parse(&typed.keep.join(","));
    let prune = Prune { store, typed, keep, threads, cancel, progress: &progress, told: &told };
    let done = Mutex::new(Sum::default());
    let pruned = prune.run(&done);
    progress.end();
    let sum = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let root = store.root();
    let (total, began) = pruned.map_err(|error| unfinished(root, &sum, &error))?;
    Ok(told.end(root, &sum, total, began, typed))
}

fn unfinished(root: &Path, sum: &Sum, error: &PruneError) -> CommandError {
    let message = format!("{error}; {sum} removed from {} before that, run again to go on", root.display());
    CommandError::new(error.exit(), message)
}

/// It did not come to its end.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    LastUse(#[from] LastUseError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl PruneError {
    fn exit(&self) -> Exit {
        match self {
            Self::Store(error) | Self::LastUse(LastUseError::Store(error)) => error.exit(),
            Self::LastUse(_) => Exit::IO,
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
        }
    }
}

/// How old a version is: the day on which it counts as used last, then that of its publishing.
type Age = (Day, Day);

/// What is to be removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Plan {
    /// All that is older.
    before: Option<Age>,
    /// Of this age so many bytes, at least.
    of: Option<(Age, u64)>,
}

impl Plan {
    /// Finds out what to remove of what was counted, so that at most `max` of `total` bytes are left, and nothing
    /// that was used before a day.
    fn new(counted: &BTreeMap<Age, u64>, total: u64, max: Option<u64>, unused_since: Option<Day>) -> Self {
        let unused = unused_since.map(|day| (day, Day(i64::MIN)));
        let mut excess = max.map_or(0, |max| total.saturating_sub(max));
        for (age, bytes) in counted {
            let is_unused = unused.is_some_and(|unused| *age < unused);
            if !is_unused && excess == 0 {
                break;
            }
            if !is_unused && excess <= *bytes {
                return Self { before: Some(*age), of: Some((*age, excess)) };
            }
            excess = excess.saturating_sub(*bytes);
        }
        // More than there is: all of it goes.
        let all = (excess > 0).then_some((Day(i64::MAX), Day(i64::MAX)));
        Self { before: all.or(unused), of: None }
    }

    /// Whether a version of an age is to go; its bytes count.
    fn takes(&mut self, age: Age, bytes: u64) -> bool {
        if self.before.is_some_and(|before| age < before) {
            return true;
        }
        match &mut self.of {
            Some((of, left)) if *of == age && *left > 0 => {
                *left = left.saturating_sub(bytes);
                true
            }
            _ => false,
        }
    }
}

/// A version that is to go.
struct Chosen {
    version: ModuleVersion,
    bytes: u64,
    last_use: Day,
}

struct Prune<'a> {
    store: &'a Store,
    typed: &'a Typed,
    keep: Patterns,
    threads: usize,
    cancel: &'a Cancel,
    progress: &'a Progress,
    told: &'a Told<'a>,
}

impl Prune<'_> {
    /// Counts and removes; is what was there and the day since which uses are noted.
    fn run(&self, done: &Mutex<Sum>) -> Result<(Total, Day), PruneError> {
        let mut uses = self.store.usage().last_uses()?;
        let (counted, total) = self.count(&uses)?;
        let plan = Plan::new(&counted, total.bytes, self.typed.max_size, self.typed.unused_since);
        if plan != Plan::default() {
            self.remove(&uses, plan, done)?;
        }
        if !self.typed.dry_run
            && let Err(error) = uses.sweep(self.store)
        {
            log::warn!("what is noted of versions that are gone stays for now: {error}");
        }
        Ok((total, uses.began()))
    }

    /// Adds up what may go, by age, and everything.
    fn count(&self, uses: &LastUses<'_>) -> Result<(BTreeMap<Age, u64>, Total), PruneError> {
        self.progress.begin("counting", None);
        let (mut counted, mut total) = (BTreeMap::<Age, u64>::new(), Total::default());
        let unreadable = |error: &StoreError| {
            self.told.failed(error.exit(), format_args!("{error}; that is passed over"));
        };
        total.unreadable = self.each(uses, unreadable, |version, bytes, age| {
            total.versions += 1;
            total.bytes += bytes;
            if self.is_kept(&version) {
                total.kept += bytes;
            } else {
                *counted.entry(age).or_default() += bytes;
            }
            self.progress.advance(total.versions, total.bytes);
            ControlFlow::Continue(())
        })?;
        Ok((counted, total))
    }

    fn remove(&self, uses: &LastUses<'_>, mut plan: Plan, done: &Mutex<Sum>) -> Result<(), PruneError> {
        self.progress.begin("removing", None);
        parallel::each(
            self.threads,
            |each| {
                // They are told already.
                let walked = self.each(
                    uses,
                    |_| {},
                    |version, bytes, age| {
                        if self.is_kept(&version) || !plan.takes(age, bytes) {
                            return ControlFlow::Continue(());
                        }
                        each(Chosen { version, bytes, last_use: age.0 })
                    },
                );
                walked.map(drop)
            },
            &|chosen| self.remove_one(&chosen, done),
        )
    }

    fn remove_one(&self, chosen: &Chosen, done: &Mutex<Sum>) -> Result<(), PruneError> {
        self.cancel.check()?;
        let removed = match self.typed.dry_run {
            true => Ok(Some(chosen.bytes)),
            false => self.take(&chosen.version),
        };
        let mut sum = done.lock().unwrap_or_else(PoisonError::into_inner);
        match removed {
            Ok(Some(bytes)) => {
                sum.versions += 1;
                sum.bytes += bytes;
                self.progress.advance(sum.versions, sum.bytes);
                drop(sum);
                self.told.removed(chosen, bytes);
            }
            Ok(None) => {}
            // A matter of this version: the rest can go nevertheless.
            Err(error) if error.is_of_one_version() => {
                sum.failed += 1;
                drop(sum);
                self.told.failed(error.exit(), format_args!("cannot remove {}: {error}", chosen.version));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Removes a version. `None` if it has gone, or somebody is at it: then it is in use.
    fn take(&self, version: &ModuleVersion) -> Result<Option<u64>, StoreError> {
        match self.store.try_claim(version)? {
            Some(claim) => Ok(self.store.remove(&claim, None)?.bytes),
            None => Ok(None),
        }
    }

    /// Hands out every version with its bytes and its age, and says how many could not be read. What comes or goes
    /// meanwhile may be among them or not.
    fn each(
        &self,
        uses: &LastUses<'_>,
        unreadable: impl Fn(&StoreError),
        mut found: impl FnMut(ModuleVersion, u64, Age) -> ControlFlow<()>,
    ) -> Result<u64, PruneError> {
        let (failed, passed_over) = (Cell::new(None), Cell::new(0));
        let pass_over = |error: StoreError| {
            unreadable(&error);
            passed_over.set(passed_over.get() + 1);
        };
        let one = |version: ModuleVersion| -> Result<Option<(ModuleVersion, u64, Age)>, PruneError> {
            self.cancel.check()?;
            let footprint = match self.store.footprint(&version) {
                Ok(Some(footprint)) => footprint,
                Ok(None) => return Ok(None),
                Err(error) => {
                    pass_over(error);
                    return Ok(None);
                }
            };
            let last_use = uses.of(&version, footprint.published)?;
            let age = (last_use, Day::of(footprint.published).min(last_use));
            Ok(Some((version, footprint.bytes, age)))
        };
        let walk = |version| match one(version) {
            Ok(Some((version, bytes, age))) => found(version, bytes, age),
            Ok(None) => ControlFlow::Continue(()),
            Err(error) => {
                failed.set(Some(error));
                ControlFlow::Break(())
            }
        };
        self.store.each_folder(walk, &pass_over)?;
        match failed.take() {
            Some(error) => Err(error),
            None => Ok(passed_over.get()),
        }
    }

    fn is_kept(&self, version: &ModuleVersion) -> bool {
        self.keep.matches(version.path().as_str())
    }
}

/// What was there.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    versions: u64,
    bytes: u64,
    /// Of those, in what is never removed.
    kept: u64,
    /// What could not be looked at.
    unreadable: u64,
}

/// What was removed.
#[derive(Debug, Default)]
struct Sum {
    versions: u64,
    bytes: u64,
    failed: u64,
}

impl Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} versions, {}", HumanCount(self.versions), BinaryBytes(self.bytes))
    }
}

/// Tells what is done, in the format that was asked for.
struct Told<'a> {
    format: Format,
    quiet: bool,
    dry_run: bool,
    progress: &'a Progress,
}

impl Told<'_> {
    fn removed(&self, chosen: &Chosen, bytes: u64) {
        let (version, last_use) = (&chosen.version, date(chosen.last_use));
        match self.format {
            Format::Human if self.quiet => {}
            Format::Human => {
                let would = if self.dry_run { "would be " } else { "" };
                let bytes = BinaryBytes(bytes);
                self.line(format_args!("{version} ({bytes}, last used {last_use}) {would}removed"));
            }
            Format::Json => self.line(json!({
                "event": "removed", "module": version.path().as_str(), "version": version.version().as_str(),
                "bytes": bytes, "last_use": last_use,
            })),
        }
    }

    fn failed(&self, exit: Exit, message: impl Display) -> Exit {
        match self.format {
            Format::Human => self.progress.screen().suspend(|| {
                output::fail(exit, &message);
            }),
            Format::Json => {
                self.line(json!({ "event": "error", "code": exit.code(), "message": message.to_string() }));
            }
        }
        exit
    }

    fn end(&self, root: &Path, sum: &Sum, total: Total, began: Day, typed: &Typed) -> Exit {
        let left = total.bytes.saturating_sub(sum.bytes);
        let versions_left = total.versions.saturating_sub(sum.versions);
        match self.format {
            Format::Human if self.quiet => {}
            Format::Human => {
                let dry = if self.dry_run { " (a dry run, nothing was changed)" } else { "" };
                self.line(format_args!(
                    "{}: {sum} removed; {} versions, {} left{dry}",
                    root.display(),
                    HumanCount(versions_left),
                    BinaryBytes(left)
                ));
                if typed.unused_since.is_some_and(|since| since <= began) {
                    output::note(format_args!(
                        "note of what is used is kept since {}, so nothing counts as unused longer than that",
                        date(began)
                    ));
                }
            }
            Format::Json => self.line(json!({
                "event": "done", "store": root.to_string_lossy(), "removed": sum.versions, "bytes": sum.bytes,
                "failed": sum.failed, "unreadable": total.unreadable, "versions_left": versions_left, "bytes_left": left, "noted_since": date(began),
                "dry_run": self.dry_run,
            })),
        }
        if sum.failed > 0 {
            return match self.format {
                Format::Human => output::fail(
                    Exit::IO,
                    format_args!(
                        "{} versions cannot be removed, see above; run again",
                        HumanCount(sum.failed)
                    ),
                ),
                Format::Json => Exit::IO,
            };
        }
        match typed.max_size {
            Some(max) if left > max && total.kept > max => self.failed(
                Exit::FAILED,
                format_args!(
                    "{} are left in {}, more than {}: what --keep names has {} alone",
                    BinaryBytes(left),
                    root.display(),
                    BinaryBytes(max),
                    BinaryBytes(total.kept)
                ),
            ),
            _ => Exit::DONE,
        }
    }

    fn line(&self, line: impl Display) {
        // A reader that went away must not stop the work half-way.
        self.progress.screen().suspend(|| {
            let _ = output::result_line(line);
        });
    }
}

/// Writes a day as people do.
fn date(day: Day) -> String {
    let time: SystemTime = day.begin();
    OffsetDateTime::from(time).date().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(last_use: i64, published: i64) -> Age {
        (Day(last_use), Day(published))
    }

    /// What goes of versions of 10 bytes each, in this order.
    fn gone(ages: &[Age], max: Option<u64>, unused_since: Option<i64>) -> Vec<usize> {
        let mut counted = BTreeMap::new();
        for age in ages {
            *counted.entry(*age).or_default() += 10;
        }
        let total = 10 * ages.len() as u64;
        let mut plan = Plan::new(&counted, total, max, unused_since.map(Day));
        (0..ages.len()).filter(|n| plan.takes(ages[*n], 10)).collect()
    }

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let ages = [age(9, 1), age(5, 1), age(5, 3), age(5, 1), age(2, 2)];
        assert!(gone(&ages, Some(50), None).is_empty());
        assert_eq!(gone(&ages, Some(49), None), [4]);
        assert_eq!(gone(&ages, Some(40), None), [4]);
        assert_eq!(gone(&ages, Some(39), None), [1, 4], "as many of one age as it takes");
        assert_eq!(gone(&ages, Some(20), None), [1, 3, 4], "those published first go first");
        assert_eq!(gone(&ages, Some(10), None), [1, 2, 3, 4]);
        assert_eq!(gone(&ages, Some(0), None), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_was_not_used_since_goes() {
        let ages = [age(9, 1), age(5, 1), age(4, 1)];
        assert!(gone(&ages, None, Some(4)).is_empty());
        assert_eq!(gone(&ages, None, Some(5)), [2]);
        assert_eq!(gone(&ages, None, Some(10)), [0, 1, 2]);
        assert_eq!(gone(&ages, Some(10), Some(5)), [1, 2], "the larger of both");
        assert_eq!(gone(&ages, Some(25), Some(9)), [1, 2]);
        assert!(gone(&[], Some(0), Some(5)).is_empty());
    }

    #[test]
    fn what_is_kept_may_be_larger_than_all_that_is_asked_for() {
        let counted = BTreeMap::from([(age(1, 1), 10)]);
        let mut plan = Plan::new(&counted, 100, Some(20), None);
        assert!(plan.takes(age(1, 1), 10));
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(date(Day(0)), "1970-01-01");
        assert_eq!(date(Day(20_484)), "2026-01-31");
    }
}
