//! `stoa remove`: takes versions out of the store, for good where that is said, and allows them again.
//!
//! It may run beside a server: a zip that is being sent is sent to its end, and the next request fetches the version
//! again, or is told that it is gone.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit};
use stoa_store::{Claim, Store, StoreError, Tombstone};

use crate::cli::Failure;
use crate::output::{self, Format};
use crate::verify::look::Named;

/// What is typed.
#[derive(Debug, Args)]
#[command(
    after_help = "A module without a version means all its versions that are in the store, and not those of modules below its path.\n\
                  What is removed is fetched again when it is asked for, and must be the same then: its hash is kept. With \
                  --tombstone it is answered with 410, and neither fetched, imported nor restored, until that is lifted.\n\
                  It may run beside a server, and be stopped and run again.\n\
                  Exit codes: 0 done; 1 what was named is not there; 74 something cannot be read or written; 130, 143 stopped."
)]
pub(crate) struct Typed {
    /// What to remove
    #[arg(value_name = "MODULE[@VERSION]", value_parser = Named::parse, required = true)]
    named: Vec<Named>,

    /// Forbid it from now on; a version that is not in the store, too
    #[arg(long)]
    tombstone: bool,

    /// Tell those who ask for it why
    #[arg(long, value_name = "TEXT", requires = "tombstone")]
    reason: Option<String>,

    /// Remove nothing, and allow again what was forbidden
    #[arg(long, visible_alias = "no-tombstone", conflicts_with = "tombstone")]
    lift: bool,

    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Write results for people, or as JSON lines
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Removes what is named, or allows it again.
pub(crate) fn run(store: &Store, typed: &Typed, quiet: bool, cancel: &Cancel) -> Result<Exit, Failure> {
    let told = Told { format: typed.format, quiet, dry_run: typed.dry_run };
    let work = Work { store, typed, told: &told, cancel };
    let (mut sum, mut exit) = (Sum::default(), Exit::DONE);
    for named in &typed.named {
        let mut met = false;
        for version in work.versions(named).map_err(|error| unfinished(store.root(), &sum, &error.into()))? {
            let done = if typed.lift { work.lift(&version) } else { work.remove(&version) };
            let done = done.map_err(|error| unfinished(store.root(), &sum, &error))?;
            sum.add(&done);
            met |= told.done(&version, &done);
        }
        if !met {
            exit = told.missing(named, store.root(), typed.lift);
        }
    }
    told.sum(store.root(), &sum);
    Ok(exit)
}

fn unfinished(root: &Path, sum: &Sum, error: &RemoveError) -> Failure {
    let message = format!("{error}; {sum} in {} before that, run again to go on", root.display());
    Failure::new(error.exit(), message)
}

/// It did not come to its end.
#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RemoveError {
    fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
        }
    }
}

/// How long to wait between two looks whether somebody else is done with a version.
const CLAIM_EVERY: Duration = Duration::from_millis(20);

/// What came of a version.
enum Done {
    /// It was removed, so many bytes; for good, perhaps.
    Removed { bytes: u64, h1: Option<String>, is_forbidden: bool },
    /// It was not there, and is forbidden now.
    Forbidden,
    /// It is allowed again.
    Lifted,
    /// There was nothing to do.
    Nothing,
}

struct Work<'a> {
    store: &'a Store,
    typed: &'a Typed,
    told: &'a Told,
    cancel: &'a Cancel,
}

impl Work<'_> {
    fn versions(&self, named: &Named) -> Result<Vec<ModuleVersion>, StoreError> {
        let module = match named {
            Named::Version(version) => return Ok(vec![version.clone()]),
            Named::Module(module) => module,
        };
        let versions = match self.typed.lift {
            true => Some(self.store.tombstones(module)?),
            false => self.store.list(module)?,
        };
        Ok(pairs(module, versions.as_deref().unwrap_or_default()))
    }

    /// Waits for the claim: somebody may be about to fill the version.
    fn claim(&self, version: &ModuleVersion) -> Result<Claim, RemoveError> {
        loop {
            if let Some(claim) = self.store.try_claim(version)? {
                return Ok(claim);
            }
            std::thread::sleep(CLAIM_EVERY);
            self.cancel.check()?;
        }
    }

    fn remove(&self, version: &ModuleVersion) -> Result<Done, RemoveError> {
        self.cancel.check()?;
        if self.told.dry_run {
            let there = self.store.footprint(version)?;
            return Ok(match there {
                Some(there) => {
                    Done::Removed { bytes: there.bytes, h1: None, is_forbidden: self.typed.tombstone }
                }
                None if self.typed.tombstone => Done::Forbidden,
                None => Done::Nothing,
            });
        }
        let tombstone = self.typed.tombstone.then(|| Tombstone::now(self.typed.reason.clone()));
        let removed = self.store.remove(&self.claim(version)?, tombstone)?;
        let h1 = removed.h1.map(|h1| h1.to_string());
        Ok(match removed.bytes {
            Some(bytes) => Done::Removed { bytes, h1, is_forbidden: self.typed.tombstone },
            None if self.typed.tombstone => Done::Forbidden,
            None => Done::Nothing,
        })
    }

    fn lift(&self, version: &ModuleVersion) -> Result<Done, RemoveError> {
        self.cancel.check()?;
        let lifted = match self.told.dry_run {
            true => self.store.tombstone(version)?.is_some(),
            false => self.store.lift(&self.claim(version)?)?,
        };
        Ok(if lifted { Done::Lifted } else { Done::Nothing })
    }
}

fn pairs(module: &ModulePath, versions: &[stoa_gomod::Version]) -> Vec<ModuleVersion> {
    let pair = |version: &stoa_gomod::Version| ModuleVersion::new(module.clone(), version.clone()).ok();
    versions.iter().filter_map(pair).collect()
}

/// Counts what was done.
#[derive(Default)]
struct Sum {
    removed: u64,
    forbidden: u64,
    lifted: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, done: &Done) {
        match done {
            Done::Removed { bytes, is_forbidden, .. } => {
                self.removed += 1;
                self.bytes += bytes;
                self.forbidden += u64::from(*is_forbidden);
            }
            Done::Forbidden => self.forbidden += 1,
            Done::Lifted => self.lifted += 1,
            Done::Nothing => {}
        }
    }
}

impl Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.lifted > 0 {
            return write!(f, "{} versions allowed again", HumanCount(self.lifted));
        }
        write!(f, "{} versions removed, {}", HumanCount(self.removed), BinaryBytes(self.bytes))?;
        match self.forbidden {
            0 => Ok(()),
            n => write!(f, "; {} forbidden", HumanCount(n)),
        }
    }
}

/// Tells what is done, in the format that was asked for.
struct Told {
    format: Format,
    quiet: bool,
    dry_run: bool,
}

impl Told {
    /// Tells of one version, and says whether anything was done to it.
    fn done(&self, version: &ModuleVersion, done: &Done) -> bool {
        let (event, bytes, h1) = match done {
            Done::Nothing => return false,
            Done::Removed { bytes, h1, .. } => ("removed", Some(*bytes), h1.as_deref()),
            Done::Forbidden => ("forbidden", None, None),
            Done::Lifted => ("lifted", None, None),
        };
        if self.format == Format::Json {
            let (module, number) = (version.path().as_str(), version.version().as_str());
            let mut value = json!({ "event": event, "module": module, "version": number });
            if let Done::Removed { is_forbidden, .. } = done {
                value["bytes"] = bytes.into();
                value["h1"] = h1.into();
                value["forbidden"] = Value::Bool(*is_forbidden);
            }
            self.line(value);
        } else if !self.quiet {
            let would = if self.dry_run { "would be " } else { "" };
            match done {
                Done::Removed { bytes, is_forbidden: false, .. } => {
                    self.line(format_args!("{version} ({}) {would}removed", BinaryBytes(*bytes)));
                }
                Done::Removed { bytes, .. } => {
                    self.line(format_args!("{version} ({}) {would}removed for good", BinaryBytes(*bytes)));
                }
                Done::Forbidden => {
                    self.line(format_args!("{version} {would}forbidden; it is not in the store"))
                }
                Done::Lifted => self.line(format_args!("{version} {would}allowed again")),
                Done::Nothing => {}
            }
        }
        true
    }

    fn missing(&self, named: &Named, root: &Path, is_lift: bool) -> Exit {
        let root = root.display();
        let message = match (is_lift, named) {
            (true, _) => format!("{named} is not forbidden in {root}"),
            (false, Named::Version(_)) => format!("{named} is not in {root}"),
            (false, Named::Module(_)) => format!(
                "no version of {named} is in {root}; to forbid one that is not there, name it as MODULE@VERSION"
            ),
        };
        match self.format {
            Format::Human => output::fail(Exit::FAILED, message),
            Format::Json => {
                self.line(json!({ "event": "error", "code": Exit::FAILED.code(), "message": message }));
                Exit::FAILED
            }
        }
    }

    fn sum(&self, root: &Path, sum: &Sum) {
        match self.format {
            Format::Human if self.quiet => {}
            Format::Human => {
                let dry = if self.dry_run { " (a dry run, nothing was changed)" } else { "" };
                output::note(format_args!("{}: {sum}{dry}", root.display()));
            }
            Format::Json => self.line(json!({
                "event": "done", "store": root.to_string_lossy(), "removed": sum.removed, "bytes": sum.bytes,
                "forbidden": sum.forbidden, "lifted": sum.lifted, "dry_run": self.dry_run,
            })),
        }
    }

    fn line(&self, line: impl Display) {
        // A reader that went away must not stop the work half-way.
        let _ = output::result_line(line);
    }
}
