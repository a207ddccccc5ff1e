//! `stoa prune`: removes the least recently used versions, until the rest fits or no old version is left.
//!
//! Three walks. The first adds up bytes by the day of last use, and by the day of publication within one day, so that
//! memory grows with the number of days and not of versions. It decides up to which age to remove. The second counts the
//! versions that would go, for the question and the progress bar. The third
//! removes. A version that is used or published in between is newer by then, and stays.

mod when;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use clap::{ArgGroup, Args};
use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_gomod::private::Patterns;
use stoa_layout::{Cancel, Exit};
use stoa_store::{Day, LastUses, Store, StoreError};
use time::OffsetDateTime;

use super::confirm::confirm;
use super::context::Context;
use super::error::CommandError;
use super::event::VersionKeys;
use super::report::{Reporter, Summary, Telling, Working};
use super::{Command, parallel};
use crate::config::parse;
use crate::config::size::{self, Size};

/// Remove the least recently used versions
#[derive(Debug, Args)]
#[command(
    after_help = "\
The age of a version counts from the latest of three days: the day of its last use, the day of its publication, and the \
day on which the store began to record uses. A removed version is downloaded again on the next request and must be \
identical: its hash is kept. Tombstones stay. If more than half of at least 20 versions would go, the command asks \
first, and without a terminal it needs --yes. It can run beside a server, and can be stopped and run again.

SIZE is the size of all info, mod and zip files: 500M, 1.5GiB and 20GB are sizes (K, M, G and T are powers of 1024, KB, \
MB, GB and TB powers of 1000). WHEN is an age in days or weeks, as in 90d and 12w, or a date, as in 2026-01-31.

Examples:
  stoa prune --max-size 50G
  stoa prune --unused-since 90d --keep 'example.org/*'
  stoa prune --max-size 50G --dry-run

Exit codes: 0 success; 1 the versions that --keep matches are larger than --max-size; 64 not confirmed; 74 a version \
cannot be read or removed; 130, 143 stopped.",
    group = ArgGroup::new("limit").args(["max_size", "unused_since"]).required(true).multiple(true)
)]
pub(crate) struct Prune {
    /// Maximum size of the store; the least recently used versions are removed first
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<Size>,

    /// Remove versions whose last use is before this day: a date, or an age such as 90d
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    unused_since: Option<Day>,

    /// Modules to keep: patterns as in GOPRIVATE, separated by commas
    #[arg(long, value_name = "PATTERNS", value_parser = parse::some_patterns)]
    keep: Vec<Patterns>,

    /// Show what would be removed, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask, even if most versions would go
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    working: Working,
}

impl Command for Prune {
    type Summary = Pruned;

    fn telling(&self) -> Telling {
        self.working.telling
    }

    fn run(self, context: &Context<'_>) -> Result<Pruned, CommandError> {
        if let Some(size) = self.max_size.filter(|size| !size.has_unit && size.bytes > 0) {
            let (number, bytes) = (size.bytes, BinaryBytes(size.bytes));
            context
                .reporter
                .warning(format_args!("--max-size {number} has no unit and is read as bytes: {bytes}"));
        }
        let threads = context.threads(self.working.threads)?;
        let store = context.open_or_look(self.dry_run)?;
        let cancel = context.cancel(&store)?;
        let removed = Mutex::default();
        let reporter = &context.reporter;
        let work = Work { store: &store, args: &self, threads, cancel: &cancel, reporter, removed: &removed };
        let worked = work.run();
        let removed = removed.lock().unwrap_or_else(PoisonError::into_inner);
        let root = store.root().display();
        let (total, began) = match worked {
            Ok(done) => done,
            Err(error) if removed.versions == 0 => return Err(error.resumable()),
            Err(error) => {
                let (versions, bytes) = (HumanCount(removed.versions), BinaryBytes(removed.bytes));
                let verb = if self.dry_run { "would be removed" } else { "were removed" };
                return Err(
                    error.after(format_args!("{versions} versions, {bytes} {verb} from {root} before that"))
                );
            }
        };
        if self.unused_since.is_some_and(|since| since <= began) {
            reporter.remark(format_args!(
                "uses are recorded only since {}, so no version counts as unused for longer",
                date(began)
            ));
        }
        Ok(Pruned {
            store: root.to_string(),
            removed: removed.versions,
            bytes: removed.bytes,
            failed: removed.failed,
            unreadable: total.unreadable,
            versions_left: total.versions.saturating_sub(removed.versions),
            bytes_left: total.bytes.saturating_sub(removed.bytes),
            noted_since: date(began),
            dry_run: self.dry_run,
            kept: total.kept,
            max_size: self.max_size.map(|size| size.bytes),
        })
    }
}

/// The number of versions from which on the command asks before it removes more than half of them.
const ASK_FROM: u64 = 20;

/// The age of a version: the day of its last use, then the day of its publication.
type Age = (Day, Day);

/// The versions to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Plan {
    /// All older versions.
    before: Option<Age>,
    /// Versions of this age, at least this many bytes of them.
    of: Option<(Age, u64)>,
}

impl Plan {
    /// Chooses what to remove, so that at most `max` of `total` bytes are left, and no version that was last used
    /// before a day.
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
        // The excess is more than all that may go: all of it goes.
        let all = (excess > 0).then_some((Day(i64::MAX), Day(i64::MAX)));
        Self { before: all.or(unused), of: None }
    }

    /// Returns whether a version of this age goes, and counts its bytes.
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

struct Work<'a> {
    store: &'a Store,
    args: &'a Prune,
    threads: usize,
    cancel: &'a Cancel,
    reporter: &'a Reporter,
    removed: &'a Mutex<Removed>,
}

/// The number of removed versions.
#[derive(Debug, Default)]
struct Removed {
    versions: u64,
    bytes: u64,
    failed: u64,
}

/// The content of the store before.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    versions: u64,
    bytes: u64,
    /// The bytes of versions that are never removed.
    kept: u64,
    unreadable: u64,
}

impl Work<'_> {
    /// Counts and removes. Returns the content of the store before, and the day since which uses are recorded.
    fn run(&self) -> Result<(Total, Day), CommandError> {
        let mut uses = self.store.usage().last_uses()?;
        let (counted, total) = self.count(&uses)?;
        let max_size = self.args.max_size.map(|size| size.bytes);
        let plan = Plan::new(&counted, total.bytes, max_size, self.args.unused_since);
        if plan != Plan::default() {
            let going = self.going(&uses, plan, total.versions)?;
            self.ask(going, total)?;
            self.remove(&uses, plan, going)?;
        }
        if !self.args.dry_run
            && let Err(error) = uses.sweep(self.store)
        {
            log::warn!(reason:% = error; "cannot remove the usage data of removed versions");
        }
        Ok((total, uses.began()))
    }

    /// Adds up bytes: of versions that may go, by age, and of all.
    fn count(&self, uses: &LastUses<'_>) -> Result<(BTreeMap<Age, u64>, Total), CommandError> {
        let progress = self.reporter.progress();
        progress.begin("count", None);
        let (mut counted, mut total) = (BTreeMap::<Age, u64>::new(), Total::default());
        let unreadable = |error: &StoreError| {
            let text = format!("{error}; the version is skipped");
            self.reporter.error(&CommandError::new(error.exit(), text));
        };
        total.unreadable = self.each(uses, unreadable, |version, bytes, age| {
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
    fn going(&self, uses: &LastUses<'_>, mut plan: Plan, all: u64) -> Result<(u64, u64), CommandError> {
        let progress = self.reporter.progress();
        progress.begin("choose", Some(all));
        let (mut going, mut seen) = ((0, 0), 0);
        self.each(
            uses,
            |_| {},
            |version, bytes, age| {
                seen += 1;
                progress.advance(seen, 0);
                if !self.is_kept(&version) && plan.takes(age, bytes) {
                    going = (going.0 + 1, going.1 + bytes);
                }
                ControlFlow::Continue(())
            },
        )?;
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
            "{} of {} versions, {} of {}, would be removed from {}",
            HumanCount(versions),
            HumanCount(total.versions),
            BinaryBytes(bytes),
            BinaryBytes(total.bytes),
            self.store.root().display()
        ))
    }

    fn remove(&self, uses: &LastUses<'_>, mut plan: Plan, going: (u64, u64)) -> Result<(), CommandError> {
        let name = if self.args.dry_run { "would remove" } else { "remove" };
        self.reporter.progress().begin(name, Some(going.0));
        let began = uses.began();
        parallel::each(
            self.threads,
            |each| {
                // Unreadable versions have been reported by the count.
                let walked = self.each(
                    uses,
                    |_| {},
                    |version, bytes, age| {
                        if self.is_kept(&version) || !plan.takes(age, bytes) {
                            return ControlFlow::Continue(());
                        }
                        // An unreadable use has ended this walk before.
                        let last_use = uses.recorded(&version).ok().flatten();
                        each(Chosen { version, bytes, last_use, unused_since: age.0 })
                    },
                );
                walked.map(drop)
            },
            &|chosen| self.remove_one(&chosen, began),
        )
    }

    fn remove_one(&self, chosen: &Chosen, began: Day) -> Result<(), CommandError> {
        self.cancel.check()?;
        let Chosen { version, bytes, last_use, unused_since } = chosen;
        let dry_run = self.args.dry_run;
        let bytes = if dry_run { Ok(Some(*bytes)) } else { self.take(version) };
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes {
            Ok(Some(bytes)) => {
                removed.versions += 1;
                removed.bytes += bytes;
                self.reporter.progress().advance(removed.versions, removed.bytes);
                drop(removed);
                self.reporter.result(&RemovedEvent {
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
                });
            }
            Ok(None) => {}
            // The other versions can go all the same.
            Err(error) if error.is_of_one_version() => {
                removed.failed += 1;
                drop(removed);
                let text = format!("cannot remove {version}: {error}");
                self.reporter.error(&CommandError::new(error.exit(), text));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Removes a version. Returns `None` if it is gone, or if another process works on it and so uses it.
    fn take(&self, version: &ModuleVersion) -> Result<Option<u64>, StoreError> {
        match self.store.try_claim(version)? {
            Some(claim) => Ok(self.store.remove(&claim, None)?.bytes),
            None => Ok(None),
        }
    }

    /// Calls `found` for every version with its bytes and its age, and returns the number of unreadable versions.
    /// Versions that come or go meanwhile may be missing.
    fn each(
        &self,
        uses: &LastUses<'_>,
        unreadable: impl Fn(&StoreError),
        mut found: impl FnMut(ModuleVersion, u64, Age) -> ControlFlow<()>,
    ) -> Result<u64, CommandError> {
        let (failed, skipped) = (Cell::new(None), Cell::new(0));
        let skip = |error: StoreError| {
            unreadable(&error);
            skipped.set(skipped.get() + 1);
        };
        let one = |version: ModuleVersion| -> Result<Option<(ModuleVersion, u64, Age)>, CommandError> {
            self.cancel.check()?;
            let footprint = match self.store.footprint(&version) {
                Ok(Some(footprint)) => footprint,
                Ok(None) => return Ok(None),
                Err(error) => {
                    skip(error);
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
        self.store.each_folder(walk, &skip)?;
        match failed.take() {
            Some(error) => Err(error),
            None => Ok(skipped.get()),
        }
    }

    fn is_kept(&self, version: &ModuleVersion) -> bool {
        self.args.keep.iter().any(|patterns| patterns.matches(version.path().as_str()))
    }
}

/// The result of pruning.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct Pruned {
    store: String,
    removed: u64,
    bytes: u64,
    failed: u64,
    unreadable: u64,
    versions_left: u64,
    bytes_left: u64,
    noted_since: String,
    dry_run: bool,
    #[serde(skip)]
    kept: u64,
    #[serde(skip)]
    max_size: Option<u64>,
}

impl Display for Pruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let removed = if self.dry_run { "would be removed" } else { "removed" };
        let left = if self.dry_run { "would be left (dry run: nothing was changed)" } else { "left" };
        write!(
            f,
            "{}: {} versions, {} {removed}; {} versions, {} {left}",
            self.store,
            HumanCount(self.removed),
            BinaryBytes(self.bytes),
            HumanCount(self.versions_left),
            BinaryBytes(self.bytes_left)
        )
    }
}

impl Summary for Pruned {
    fn verdict(&self) -> Result<(), CommandError> {
        if self.failed > 0 {
            let failed = HumanCount(self.failed);
            return Err(CommandError::new(
                Exit::IO,
                format!("cannot remove {failed} versions of {}", self.store),
            )
            .help("the reasons are listed above; fix them, then run again"));
        }
        match self.max_size {
            Some(max) if self.bytes_left > max && self.kept > max => Err(CommandError::new(
                Exit::FAILED,
                format!(
                    "cannot reduce {} to {}: the versions that --keep matches have {}",
                    self.store,
                    BinaryBytes(max),
                    BinaryBytes(self.kept)
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Writes a day as `2026-01-31`.
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

    /// Returns the indices of the versions that go, of versions of 10 bytes each.
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
    fn the_oldest_versions_go_until_the_rest_fits() {
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
    fn versions_unused_since_a_day_go() {
        let ages = [age(9, 1), age(5, 1), age(4, 1)];
        assert!(gone(&ages, None, Some(4)).is_empty());
        assert_eq!(gone(&ages, None, Some(5)), [2]);
        assert_eq!(gone(&ages, None, Some(10)), [0, 1, 2]);
        assert_eq!(gone(&ages, Some(10), Some(5)), [1, 2], "the larger of both");
        assert_eq!(gone(&ages, Some(25), Some(9)), [1, 2]);
        assert!(gone(&[], Some(0), Some(5)).is_empty());
    }

    #[test]
    fn all_versions_may_go_if_the_kept_ones_exceed_the_limit() {
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
