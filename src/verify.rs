//! `stoa verify`: reads versions whole, seals what is right and puts what is broken into quarantine.
//!
//! What is sealed is skipped, so that whoever is stopped goes on where it was; `--again` reads it too.

pub(crate) mod look;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use indicatif::{BinaryBytes, HumanCount};
use serde_json::json;
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, Exit};
use stoa_store::{Store, Which};

use crate::command::error::CommandError;
use crate::command::progress::{Progress, Screen};
use crate::command::report::Format;
use crate::output;
use crate::work_options::Working;
use look::{Fault, Found, How, Look, LookError, Named};

/// What is typed.
#[derive(Debug, Args)]
#[command(
    after_help = "A version that has its seal is skipped if its info is right and neither its mod nor its zip was written since: a \
                  few system calls. --again also finds what changed without a trace, as on a failing disk.\n\
                  What is broken goes to quarantine, and is fetched again when it is asked for; `stoa quarantine list` lists it. \
                  What has no info stays, and `stoa leftovers` lists it. It may run beside a server, and be stopped: run again, it goes on.\n\
                  Exit codes: 0 nothing is broken; 1 something is, or what was named is not there; 74 something cannot be read; \
                  130, 143 stopped."
)]
pub(crate) struct Typed {
    /// Look at these modules and versions only
    #[arg(value_name = "MODULE[@VERSION]", value_parser = Named::parse)]
    named: Vec<Named>,

    /// Read what is sealed, too
    #[arg(long)]
    again: bool,

    #[command(flatten)]
    pub(crate) working: Working,
}

/// Looks at the store.
pub(crate) fn run(
    store: &Store,
    typed: &Typed,
    threads: usize,
    quiet: bool,
    cancel: &Cancel,
) -> Result<Exit, CommandError> {
    let root = store.root();
    let format = typed.working.telling.format;
    let progress = Progress::new(Screen::default(), typed.working.telling.progress, quiet);
    let told = Told { format, progress: &progress, quiet };
    let tell = |version: &ModuleVersion, fault: Fault, reason: &str| told.fault(version, fault, reason);
    let which = if typed.again { Which::All } else { Which::Unsealed };
    let how = How::Whole(which);
    let look = Look { store, how, threads, cancel, progress: &progress, tell: &tell };
    let mut absent = 0u64;
    let (sum, ended) = look.run(&typed.named, |named| {
        absent += 1;
        told.error(Exit::FAILED, format_args!("{named} is not in {}", root.display()));
    });
    if let Err(error) = ended {
        told.error(error.exit(), unfinished(root, sum, &error));
        return Ok(error.exit());
    }
    told.done(store, sum);
    if sum.broken > 0 && format == Format::Human {
        let broken = HumanCount(sum.broken);
        let next = next_steps(sum, store.is_read_only());
        told.error(Exit::FAILED, format_args!("{broken} versions in {} are broken: {next}", root.display()));
    }
    if sum.unreadable > 0 && format == Format::Human {
        let unreadable = HumanCount(sum.unreadable);
        told.error(
            Exit::IO,
            format_args!(
                "cannot verify {unreadable} versions in {}, see above; see why, then run again",
                root.display()
            ),
        );
    }
    Ok(if sum.broken == 0 && absent > 0 { Exit::FAILED } else { sum.exit() })
}

/// Says where to look for what was found broken.
fn next_steps(sum: Found, is_read_only: bool) -> String {
    let moved = match is_read_only {
        true => "the store is read only, so they stay where they are; run it where the store can be written",
        false => {
            "`stoa quarantine list` lists what is in quarantine now; it is fetched again when it is asked for"
        }
    };
    let left = "`stoa leftovers` lists what has no info";
    match sum.leftovers {
        0 => moved.to_owned(),
        all if all == sum.broken => left.to_owned(),
        _ => format!("{moved}; {left}"),
    }
}

fn unfinished(root: &Path, sum: Found, error: &LookError) -> String {
    let (root, versions) = (root.display(), HumanCount(sum.versions()));
    match error {
        LookError::Cancelled(cancelled) => {
            format!(
                "{cancelled} after {versions} versions in {root}; run again to go on: what is sealed is skipped"
            )
        }
        _ => format!(
            "cannot verify {root} any further, after {versions} versions: {error}; run again to go on"
        ),
    }
}

/// Tells what happens, in the format that was asked for.
struct Told<'a> {
    format: Format,
    progress: &'a Progress,
    quiet: bool,
}

impl Told<'_> {
    fn fault(&self, version: &ModuleVersion, fault: Fault, reason: &str) {
        match self.format {
            Format::Human => self.line(format_args!("{} {version}: {reason}", fault.name())),
            Format::Json => {
                let (module, version) = (version.path().as_str(), version.version().as_str());
                self.line(
                    json!({ "event": fault.name(), "module": module, "version": version, "reason": reason }),
                );
            }
        }
    }

    fn done(&self, store: &Store, sum: Found) {
        let Found { verified, skipped, broken, unreadable, bytes, .. } = sum;
        let (root, is_read_only) = (store.root(), store.is_read_only());
        match self.format {
            Format::Human if self.quiet => {}
            Format::Human => {
                let kept = if is_read_only { "; the store is read only, so nothing was kept" } else { "" };
                let unread = match unreadable {
                    0 => String::new(),
                    n => format!(", {} unreadable", HumanCount(n)),
                };
                self.line(format_args!(
                    "{}: {} versions verified, {}; {} sealed before; {} broken{unread}{kept}",
                    root.display(),
                    HumanCount(verified),
                    BinaryBytes(bytes),
                    HumanCount(skipped),
                    HumanCount(broken),
                ));
            }
            Format::Json => self.line(json!({
                "event": "done", "store": root.to_string_lossy(), "verified": verified, "skipped": skipped,
                "broken": broken, "unreadable": unreadable, "bytes": bytes, "read_only": is_read_only,
            })),
        }
    }

    fn error(&self, exit: Exit, message: impl Display) {
        match self.format {
            Format::Human => self.progress.screen().suspend(|| {
                output::fail(exit, &message);
            }),
            Format::Json => {
                self.line(json!({ "event": "error", "code": exit.code(), "message": message.to_string() }));
            }
        }
    }

    fn line(&self, line: impl Display) {
        // A reader that went away must not stop the work half-way.
        self.progress.screen().suspend(|| {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        });
    }
}
