//! `stoa verify`: reads versions, seals intact ones, and moves corrupt ones to quarantine.
//!
//! Sealed versions are skipped, so a run that was stopped continues where it was. `--again` reads them too.

mod checksums;
pub(crate) mod look;

use std::fmt::{self, Display};
use std::sync::Arc;

use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_layout::Exit;
use stoa_store::Which;

use super::bucket::{OnBucket, OpenBucket, VerifyBucket};
use super::context::{Context, cancel_on_signals};
use super::count::{counted, versions};
use super::error::CommandError;
use super::named::Named;
use super::report::{Reporter, Summary, Telling, Working};
use super::{Command, Entry};
use crate::sumdb::Rechecked;
use checksums::Answers;
use look::{Findings, Look};

/// Read versions completely, and move corrupt ones to quarantine
#[derive(Debug, Args)]
#[command(after_help = "\
A version that was verified before is skipped if its files have not changed since. --again reads such versions too. It \
finds silent corruption, for example on a failing disk. Corrupt versions go to quarantine and are downloaded again on \
the next request. A version without an info file stays in place; `stoa leftovers` lists it. With --checksums, the \
command then asks the checksum database about stored versions that the database has not confirmed. It also asks about \
versions whose zip is not stored, if their info and go.mod are in the cache. A stored version that differs goes to \
quarantine too. A cached go.mod that differs is removed. \
The command can run beside a server. If it is stopped, the next run continues.

Examples:
  stoa verify
  stoa verify example.org/module example.org/other@v1.2.3
  stoa verify --again --format json
  stoa verify --checksums

Exit codes: 0 all versions are intact; 1 a version is corrupt, differs from the checksum database or is not in the store; \
69 the checksum database or the bucket cannot be reached; 74 a version cannot be read; \
130, 143 stopped.")]
pub(crate) struct Verify {
    /// Modules and versions to verify [default: all]
    #[arg(value_name = "MODULE[@VERSION]", value_parser = Named::parse)]
    named: Vec<Named>,

    /// Read versions that were verified before, too
    #[arg(long)]
    again: bool,

    /// Ask the checksum database about versions that it has not confirmed
    #[arg(long)]
    checksums: bool,

    #[command(flatten)]
    on: OnBucket,

    #[command(flatten)]
    working: Working,
}

inventory::submit!(Entry::new::<Verify>("verify", 60));

impl Command for Verify {
    type Summary = VerifyDone;

    fn telling(&self) -> Telling {
        self.working.telling
    }

    fn run(self, context: &Context<'_>) -> Result<VerifyDone, CommandError> {
        let threads = context.threads(self.working.threads)?;
        if let Some(bucket) = context.bucket(&self.on)? {
            return self.run_on(&bucket, threads, context);
        }
        let store = Arc::new(context.open()?.metered(context.reporter.progress().meter()));
        let cancel = context.cancel(&store)?;
        let reporter = &context.reporter;
        let root = store.root().display();
        let which = if self.again { Which::All } else { Which::Unsealed };
        let look = Look { store: &store, which, threads, cancel: &cancel, reporter };
        let mut absent = 0u64;
        let (findings, ended) = look.run(&self.named, |named| {
            if self.checksums && checksums::is_cached(&store, named) {
                return;
            }
            absent += 1;
            reporter.error(&CommandError::new(Exit::FAILED, format!("{named} is not in {root}")));
        });
        let versions = versions(findings.versions());
        ended.map_err(|error| error.after(format_args!("{versions} in {root} verified before that")))?;
        let answers = match self.checksums {
            true => Some(checksums::ask(context, &store, &self.named, &cancel)?),
            false => None,
        };
        Ok(VerifyDone::new(store.root().display(), store.is_read_only(), findings, absent, answers))
    }
}

impl Verify {
    fn run_on(
        &self,
        bucket: &OpenBucket,
        threads: usize,
        context: &Context<'_>,
    ) -> Result<VerifyDone, CommandError> {
        if self.checksums {
            let message = format!("cannot ask the checksum database about versions in {bucket}");
            let help = "leave out --checksums; servers ask about each version that they download";
            return Err(CommandError::new(Exit::USAGE, message).help(help));
        }
        let reporter = &context.reporter;
        let cancel = cancel_on_signals(reporter, false)?;
        let what = VerifyBucket { named: &self.named, again: self.again, threads, cancel: &cancel, reporter };
        let mut absent = 0u64;
        let (findings, ended) = bucket.verify(&what, |named| {
            absent += 1;
            reporter.error(&CommandError::new(Exit::FAILED, format!("{named} is not in {bucket}")));
        });
        let versions = versions(findings.versions());
        ended.map_err(|error| error.after(format_args!("{versions} in {bucket} verified before that")))?;
        Ok(VerifyDone::new(bucket, false, findings, absent, None))
    }
}

/// The result of a verification.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct VerifyDone {
    store: String,
    verified: u64,
    skipped: u64,
    broken: u64,
    unreadable: u64,
    symlinks: u64,
    bytes: u64,
    read_only: bool,
    #[serde(flatten)]
    answers: Option<Answers>,
    #[serde(skip)]
    findings: Findings,
    #[serde(skip)]
    absent: u64,
}

impl VerifyDone {
    fn new(
        store: impl Display,
        read_only: bool,
        findings: Findings,
        absent: u64,
        answers: Option<Answers>,
    ) -> Self {
        let Findings { verified, skipped, corrupt: broken, unreadable, symlinks, bytes, .. } = findings;
        Self {
            store: store.to_string(),
            verified,
            skipped,
            broken,
            unreadable,
            symlinks,
            bytes,
            read_only,
            answers,
            findings,
            absent,
        }
    }

    /// Returns the next steps for corrupt versions.
    fn help(&self) -> String {
        let moved = match self.read_only {
            true => {
                "the store is read-only, so they stay in place; run `stoa verify` where the store is writable"
            }
            false => "`stoa quarantine list` lists them; they are downloaded again on the next request",
        };
        let left = "`stoa leftovers` lists versions without an info file";
        match self.findings.leftovers {
            0 => moved.to_owned(),
            all if all == self.broken => left.to_owned(),
            _ => format!("{moved}; {left}"),
        }
    }
}

/// Returns the error about symlinks in the place of folders.
pub(crate) fn symlinks_error(symlinks: u64, store: impl Display) -> CommandError {
    let text = format!("cannot verify the versions below {} in {store}", counted(symlinks, "symlink"));
    CommandError::new(Exit::FAILED, text).help("replace each symlink by the folder that it points to")
}

impl Display for VerifyDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verified, bytes) = (versions(self.verified), BinaryBytes(self.bytes));
        let (skipped, broken) = (HumanCount(self.skipped), HumanCount(self.broken));
        let store = &self.store;
        write!(f, "{store}: {verified} verified, {bytes}; {skipped} already verified; {broken} corrupt")?;
        if self.unreadable > 0 {
            write!(f, "; {} unreadable", HumanCount(self.unreadable))?;
        }
        if let Some(Answers { stored, cached }) = self.answers {
            let counts = |by: &str, rechecked: Rechecked| {
                let Rechecked { confirmed, differ, unverified, unreachable } = rechecked;
                let [confirmed, differ, unverified] =
                    [confirmed, differ, unverified + unreachable].map(HumanCount);
                format!("{confirmed} confirmed{by}, {differ} different, {unverified} unverified")
            };
            write!(f, "; {}", counts(" by the checksum database", stored))?;
            if cached != Rechecked::default() {
                write!(f, "; of the versions without a zip, {}", counts("", cached))?;
            }
        }
        if self.read_only {
            write!(f, "; the store is read-only, so the results are not recorded")
        } else {
            Ok(())
        }
    }
}

impl Summary for VerifyDone {
    fn report(&self, reporter: &Reporter) {
        reporter.result(self);
        // Two errors if there are two kinds of faults: the exit code names the worse one.
        if self.broken > 0 && self.unreadable > 0 && !reporter.is_json() {
            reporter.error(&unreadable_error(self.unreadable, &self.store));
        }
    }

    fn verdict(&self) -> Result<(), CommandError> {
        let store = &self.store;
        if self.broken > 0 {
            let corrupt = versions(self.broken);
            let text = format!("{corrupt} in {store} {} corrupt", corrupt.verb("is", "are"));
            return Err(CommandError::new(Exit::FAILED, text).help(self.help()));
        }
        let Answers { stored, cached } = self.answers.unwrap_or_default();
        let differ = |number| {
            let all = versions(number);
            format!("{all} in {store} {} from the checksum database", all.verb("differs", "differ"))
        };
        if stored.differ > 0 {
            return Err(CommandError::new(Exit::FAILED, differ(stored.differ)).help(self.help()));
        }
        if cached.differ > 0 {
            let help = match self.read_only {
                true => {
                    "the store is read-only, so the cached go.mod stays; run `stoa verify --checksums` where the store is writable"
                }
                false => "the cached go.mod was removed; it is downloaded again on the next request",
            };
            return Err(CommandError::new(Exit::FAILED, differ(cached.differ)).help(help));
        }
        if self.absent > 0 {
            return Err(CommandError::reported(Exit::FAILED));
        }
        if self.unreadable > 0 {
            return Err(unreadable_error(self.unreadable, store));
        }
        if self.symlinks > 0 {
            return Err(symlinks_error(self.symlinks, store));
        }
        match stored.unreachable + cached.unreachable {
            0 => Ok(()),
            unreachable => {
                let text = format!("cannot verify {} in {store}", versions(unreachable));
                Err(CommandError::new(Exit::UNAVAILABLE, text).help(
                    "the reasons are listed above; run again when the checksum database can be reached",
                ))
            }
        }
    }
}

/// Returns the error about versions that cannot be read.
pub(crate) fn unreadable_error(unreadable: u64, store: impl Display) -> CommandError {
    let text = format!("cannot read {} in {store}", versions(unreadable));
    CommandError::new(Exit::IO, text).help("the reasons are listed above; fix them, then run again")
}
