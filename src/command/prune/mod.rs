//! `stoa prune`: removes the least recently used versions, until the rest fits or no old version is left.
//!
//! Three walks. The first adds up bytes by the day of last use, and by the day of publication within one day, so that
//! memory grows with the number of days and not of versions. It decides up to which age to remove. The second counts the
//! versions that would go, for the question and the progress bar. The third removes. A version that is used or published in between is newer by then, and stays.
//!
//! In a bucket, the uses that all servers recorded count. The command also removes unreferenced objects from a bucket.

pub(super) mod place;
mod when;
mod work;

use std::fmt::{self, Display};
use std::sync::Mutex;

use clap::{ArgGroup, Args};
use indicatif::BinaryBytes;
use serde::Serialize;
use stoa_gomod::private::Patterns;
use stoa_layout::{Cancel, Exit};
use stoa_store::Day;

use super::bucket::{AT_ONCE, OnBucket, OpenBucket, SweptBucket};
use super::context::{Context, cancel_on_signals};
use super::count::versions;
use super::error::CommandError;
use super::event::date;
use super::report::{Summary, Telling, Working};
use super::verify::unreadable_error;
use super::{Command, Entry};
use crate::config::size::{self, Size};
use crate::config::{Options, parse};
use crate::lock::lock;
use crate::sources::Sources;
use place::{Contents, Remover, Stored};
use work::Work;

/// Remove the least recently used versions, or unreferenced objects from a bucket
#[derive(Debug, Args)]
#[command(
    after_help = "\
The age of a version counts from the latest of three days: the day of its last use, the day of its publication, \
and the day on which the store began to record uses. A removed version is downloaded again on the next request. \
The new download must have the hash in the checksum database, or the same hash as before if the database does \
not know the version. The hashes of private modules (GONOSUMDB, or a rule) are not recorded, because their tags \
may be moved; --record-private records them. Tombstones stay. The command asks first if the store has at least \
20 versions and more than half of them would be removed. If it would ask but has no terminal, it needs --yes. \
The command can run beside a server, and can be stopped and run again.

SIZE limits all info, mod and zip files together. It is a number with a unit, as in 500M, 1.5GiB and 20GB. K, M, \
G and T are powers of 1024. KB, MB, GB and TB are powers of 1000. Without a unit it is in bytes. WHEN is an age \
in days or weeks, as in 90d and 12w, or a date, as in 2026-01-31.

In a bucket, the age counts from the uses that all servers recorded there. A server records them every hour and \
when it stops, except with last_use.interval = 0 or --read-only. With --unreferenced the command removes only \
objects older than a day to which no version and no quarantine entry refers, for example the zip of an \
interrupted upload. Servers can run meanwhile. In a bucket, --threads is also the number of requests at the same \
time [default: 32].

Examples:
  stoa prune --max-size 50G
  stoa prune --unused-since 90d --keep 'example.org/*'
  stoa prune --max-size 50G --dry-run
  stoa prune --bucket s3://modules/go --unused-since 180d
  stoa prune --bucket s3://modules/go --unreferenced

Exit codes: 0 success; 1 the versions that --keep matches are larger than --max-size; 64 the removal was not \
confirmed; 69 the bucket cannot be reached; 74 a version cannot be read or removed; 75 a server does not record \
uses in the bucket; 130, 143 stopped.",
    group = ArgGroup::new("limit").args(["max_size", "unused_since", "unreferenced"]).required(true).multiple(true)
)]
pub(crate) struct Prune {
    /// Maximum size of the store; the least recently used versions are removed first
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<Size>,

    /// Remove versions whose last use is before this day: a date, or an age such as 90d
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    unused_since: Option<Day>,

    /// Remove objects from the bucket that no version and no quarantine entry refers to
    #[arg(long, conflicts_with_all = ["max_size", "unused_since", "keep", "record_private", "yes"])]
    unreferenced: bool,

    #[command(flatten)]
    on: OnBucket,

    /// Modules to keep: patterns as in GOPRIVATE, separated by commas
    #[arg(long, value_name = "PATTERNS", value_parser = parse::some_patterns)]
    keep: Vec<Patterns>,

    /// Record the hashes of private modules too
    #[arg(long)]
    record_private: bool,

    /// Show what would be removed, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask, even if most versions would be removed
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    working: Working,
}

inventory::submit!(Entry::new::<Prune>("prune", 90));

impl Command for Prune {
    type Summary = PruneDone;

    fn telling(&self) -> Telling {
        self.working.telling
    }

    fn run(self, context: &Context<'_>) -> Result<PruneDone, CommandError> {
        match context.bucket(&self.on)? {
            None => self.run_on_store(context).map(PruneDone::Pruned),
            Some(bucket) => {
                let at_once = context.set_threads(self.working.threads)?.unwrap_or(AT_ONCE);
                match self.unreferenced {
                    true => bucket.sweep(self.dry_run, at_once, context).map(PruneDone::Swept),
                    false => self.run_on_bucket(&bucket, at_once, context).map(PruneDone::Pruned),
                }
            }
        }
    }
}

fn no_bucket() -> CommandError {
    CommandError::new(Exit::USAGE, "--unreferenced needs a bucket")
        .help("name the bucket with --bucket; a store removes the files of interrupted work by itself")
}

impl Prune {
    /// Warns about a size without a unit, which is usually a mistake.
    fn check_unit(&self, context: &Context<'_>) {
        if let Some(size) = self.max_size.filter(|size| !size.has_unit && size.bytes > 0) {
            let (number, bytes) = (size.bytes, BinaryBytes(size.bytes));
            context
                .reporter
                .warning(format_args!("--max-size {number} has no unit and is read as bytes: {bytes}"));
        }
    }

    fn run_on_store(&self, context: &Context<'_>) -> Result<Pruned, CommandError> {
        if self.unreferenced {
            return Err(no_bucket());
        }
        self.check_unit(context);
        let store = context.open_or_look(self.dry_run)?;
        let cancel = context.cancel(&store)?;
        let uses = store.usage().last_uses()?;
        self.prune(&store, &mut Stored { store: &store, uses }, &cancel, context)
    }

    fn run_on_bucket(
        &self,
        bucket: &OpenBucket,
        at_once: usize,
        context: &Context<'_>,
    ) -> Result<Pruned, CommandError> {
        self.check_unit(context);
        let cancel = cancel_on_signals(&context.reporter, false)?;
        let mut contents = bucket.contents(at_once)?;
        if !self.dry_run {
            bucket.probe()?;
        }
        self.prune(bucket, &mut contents, &cancel, context)
    }

    fn prune(
        &self,
        remover: &dyn Remover,
        contents: &mut dyn Contents,
        cancel: &Cancel,
        context: &Context<'_>,
    ) -> Result<Pruned, CommandError> {
        let threads = context.threads(self.working.threads)?;
        let removed = Mutex::default();
        let private = match self.record_private || self.dry_run {
            true => None,
            false => {
                let config = context.settings.serve(&Options::default())?;
                Some(Sources::new(context.settings.world()).private_modules(&config)?)
            }
        };
        let reporter = &context.reporter;
        let private = private.as_ref();
        let work = Work { remover, args: self, private, threads, cancel, reporter, removed: &removed };
        let worked = work.run(contents);
        let removed = lock(&removed);
        let name = remover.name();
        let (total, began) = match worked {
            Ok(done) => done,
            Err(error) if removed.versions == 0 => return Err(error.resumable()),
            Err(error) => {
                let (versions, bytes) = (versions(removed.versions), BinaryBytes(removed.bytes));
                let verb = if self.dry_run { "would be removed" } else { "removed" };
                return Err(error.after(format_args!("{versions}, {bytes} {verb} from {name} before that")));
            }
        };
        if self.unused_since.is_some_and(|since| since <= began) {
            reporter.remark(format_args!(
                "uses are recorded only since {}, so --unused-since with an earlier day removes nothing",
                date(began)
            ));
        }
        Ok(Pruned {
            store: name,
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

/// The result of the command.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum PruneDone {
    Pruned(Pruned),
    Swept(SweptBucket),
}

impl Display for PruneDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pruned(pruned) => pruned.fmt(f),
            Self::Swept(swept) => swept.fmt(f),
        }
    }
}

impl Summary for PruneDone {
    fn verdict(&self) -> Result<(), CommandError> {
        match self {
            Self::Pruned(pruned) => pruned.verdict(),
            Self::Swept(swept) => swept.verdict(),
        }
    }
}

/// The result of pruning by size or use.
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
            "{}: {}, {} {removed}; {}, {} {left}",
            self.store,
            versions(self.removed),
            BinaryBytes(self.bytes),
            versions(self.versions_left),
            BinaryBytes(self.bytes_left)
        )
    }
}

impl Pruned {
    fn verdict(&self) -> Result<(), CommandError> {
        if self.failed > 0 {
            let failed = versions(self.failed);
            return Err(CommandError::new(Exit::IO, format!("cannot remove {failed} of {}", self.store))
                .help("the reasons are listed above; fix them, then run again"));
        }
        if self.unreadable > 0 {
            return Err(unreadable_error(self.unreadable, &self.store));
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
