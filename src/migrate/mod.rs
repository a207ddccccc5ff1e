//! The program `stoa-migrate`: brings a store to a layout and says what it did.
//!
//! The work is [`stoa_layout::Runner`]'s; here the command line is translated for it, and its events are told
//! to people or as JSON lines. Which layouts there are is handed in.

mod human;
mod import;
mod json;
mod leftovers;
mod options;
mod told;
mod verify;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use stoa_gomod::ModuleVersion;
use stoa_layout::{
    Cancel, Events, Exit, Layouts, Leftover, Options, Outcome, PathError, RunError, Runner, StepError,
};

use crate::carry::{Report, Words};
use crate::command::progress::Progress;
use crate::command::report::Format;
use crate::command::report::Telling;
use crate::config::{Settings, World};
use crate::logging::{self, Style};
use crate::status;
use crate::verify::look::{Fault, Found};

use human::Human;
use import::{Import, ImportError};
use json::Json;
use leftovers::{Leftovers, Sum};
use options::{Command, LeftoversCommand, Typed};
use verify::Verify;

/// Runs the program with the arguments of the process.
pub fn main(layouts: &Layouts) -> ExitCode {
    run(layouts, &World::of_process(), std::env::args_os()).into()
}

fn run(layouts: &Layouts, world: &World, arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let typed = match Typed::try_parse_from(arguments) {
        Ok(typed) => typed.gathered(),
        Err(error) => return crate::command::usage(&error),
    };
    let filter = world.variable("STOA_LOG");
    let filter = filter.as_deref().and_then(std::ffi::OsStr::to_str);
    logging::init(Style::Command, typed.common.verbose, typed.common.quiet, filter);
    let reporter = Reporter::new(&typed);
    let resolved = resolve(&typed, world);
    let result = match (resolved, &typed.command) {
        (Err(failure), _) => Err(failure),
        (Ok((root, _)), Some(Command::Status)) => {
            return status::of_any(&root, layouts, typed.format);
        }
        (Ok((root, options)), Some(Command::Leftovers { what })) => {
            leftovers(layouts, what.as_ref(), &root, &options, &reporter)
        }
        (Ok((root, options)), Some(Command::Import(what))) => {
            import(layouts, &typed, &what.source, &root, options, &reporter)
        }
        (Ok((root, options)), None) => migrate(layouts, &typed, &root, &options, &reporter),
    };
    match result {
        Ok(()) => Exit::DONE,
        Err(failure) => {
            reporter.error(&failure);
            failure.exit
        }
    }
}

/// How the program fails.
struct Failure {
    exit: Exit,
    message: String,
}

fn resolve(typed: &Typed, world: &World) -> Result<(PathBuf, Options), Failure> {
    let settings = Settings::new(world, typed.common.config.clone());
    let resolved = settings.store(typed.common.store.clone()).and_then(|root| {
        let meant = settings.migrate(typed.lock_timeout, typed.threads)?;
        settings.check_named()?;
        Ok((root, meant))
    });
    let (root, meant) =
        resolved.map_err(|error| Failure { exit: error.exit(), message: error.to_string() })?;
    let options = Options {
        target: typed.to.clone(),
        assumed: typed.from.clone(),
        auto: typed.auto,
        no_create: typed.no_create,
        regenerate: typed.regenerate,
        lock_timeout: meant.lock_timeout,
        threads: meant.threads,
    };
    Ok((root, options))
}

fn migrate(
    layouts: &Layouts,
    typed: &Typed,
    root: &Path,
    options: &Options,
    reporter: &Reporter,
) -> Result<(), Failure> {
    if typed.auto {
        follow_the_parent();
    }
    if typed.verify.is_some() && options.target.as_ref().is_some_and(|target| *target != layouts.current) {
        let message =
            format!("--verify looks at stores at layout {} only; run without --to", layouts.current);
        return Err(Failure { exit: Exit::USAGE, message });
    }
    let cancel = listen_for_signals()?;
    let runner = Runner { root, layouts, options, events: reporter.events(), cancel: &cancel };
    if typed.dry_run {
        let pending = runner.plan().map_err(|error| failure(root, &error))?;
        reporter.planned(root, pending);
    } else {
        let outcome = runner.run().map_err(|error| failure(root, &error))?;
        reporter.done(root, &outcome);
        if let (Some(how), Outcome::Nothing(_) | Outcome::Done(_)) = (typed.verify, &outcome) {
            return verify(layouts, how, root, options, &cancel, reporter);
        }
    }
    Ok(())
}

fn listen_for_signals() -> Result<Cancel, Failure> {
    Cancel::on_signals().map_err(|error| Failure {
        exit: Exit::IO,
        message: format!("cannot listen for signals: {error}; nothing was changed"),
    })
}

fn leftovers(
    layouts: &Layouts,
    what: Option<&LeftoversCommand>,
    root: &Path,
    options: &Options,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let cancel = listen_for_signals()?;
    let leftovers = Leftovers { root, layouts, options, cancel: &cancel, events: reporter.events() };
    let mut tell = |leftover: &Leftover, to: Option<&Path>| reporter.leftover(leftover, to);
    let (sum, moved) = match what {
        Some(LeftoversCommand::Move { to }) => (leftovers.take_out(to, &mut tell), true),
        Some(LeftoversCommand::List) | None => (leftovers.list(&mut tell), false),
    };
    let sum = sum.map_err(|error| failure(root, &error))?;
    reporter.leftovers(root, sum, moved);
    Ok(())
}

fn import(
    layouts: &Layouts,
    typed: &Typed,
    source: &Path,
    root: &Path,
    options: Options,
    reporter: &Reporter,
) -> Result<(), Failure> {
    if options.target.is_some() || options.regenerate || options.auto || typed.verify.is_some() {
        let message = "import takes none of --to, --regenerate, --verify and --auto".to_owned();
        return Err(Failure { exit: Exit::USAGE, message });
    }
    let cancel = listen_for_signals()?;
    // What it is that is named by hand is the source. An interrupted step back is a person's decision.
    let options = Options { assumed: None, auto: true, ..options };
    let import = Import {
        root,
        source,
        layouts,
        options: &options,
        assumed: typed.from.as_ref(),
        dry_run: typed.dry_run,
        cancel: &cancel,
        events: reporter.events(),
    };
    let words = Words { work: "import", carried: "imported", kept: "skipped" };
    let telling = Telling { format: typed.format, progress: typed.progress };
    let report = Report::new(words, telling, typed.common.loudness());
    match import.run(&report) {
        Ok(true) => import::end(&import, &report),
        Ok(false) => {
            report.end();
            reporter.done(root, &Outcome::NoStore);
            return Ok(());
        }
        Err(ImportError::Run(error)) => {
            report.end();
            return Err(failure(root, &error));
        }
        Err(error) => {
            report.end();
            let message = if error.is_resumable() {
                format!("{error}; {}: run again to go on", import::so_far(&import, &report))
            } else {
                error.to_string()
            };
            return Err(Failure { exit: error.exit(), message });
        }
    }
    match import::what_is_wrong(&import, &report) {
        None => Ok(()),
        Some((exit, message)) => Err(Failure { exit, message }),
    }
}

fn verify(
    layouts: &Layouts,
    how: Verify,
    root: &Path,
    options: &Options,
    cancel: &Cancel,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let tell = |version: &ModuleVersion, fault: Fault, reason: &str| reporter.fault(version, fault, reason);
    let threads = options.threads;
    let found = verify::run(root, &layouts.current, how, threads, cancel, reporter.progress(), &tell);
    let found = found.map_err(|error| {
        let message = format!("cannot verify {}: {error}; run again to go on", root.display());
        Failure { exit: error.exit(), message }
    })?;
    reporter.verified(root, found);
    let (count, what) = match found {
        Found { broken: 0, unreadable: 0, .. } => return Ok(()),
        Found { broken: 0, unreadable, .. } => (unreadable, "cannot be read"),
        Found { broken, .. } => (broken, "are broken"),
    };
    let message = format!("{count} of {} versions in {} {what}, see above", found.versions(), root.display());
    Err(Failure { exit: found.exit(), message })
}

/// Whoever started this under the gate waits for it: if it dies, nobody wants the result any more.
fn follow_the_parent() {
    #[cfg(target_os = "linux")]
    if let Err(errno) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        log::debug!("the end of the parent process will not be noticed: {errno}");
    }
}

fn failure(root: &Path, error: &RunError) -> Failure {
    let exit = error.exit();
    let message = match error {
        _ if path_error(error).is_some_and(PathError::is_read_only) => {
            format!(
                "{error}. If it is to stay read-only, copy {} to where it can be written, and name the copy with --store",
                root.display()
            )
        }
        RunError::Outside(StepError::Cancelled(cancelled)) => {
            format!("{cancelled}; {} is as it was or resumable: run again to resume", root.display())
        }
        _ => error.to_string(),
    };
    Failure { exit, message }
}

fn path_error(error: &RunError) -> Option<&PathError> {
    match error {
        RunError::Lock(stoa_layout::lock::LockError::Path(error)) => Some(error),
        RunError::Step { source: StepError::Path(error), .. } => Some(error),
        RunError::Outside(StepError::Path(error)) => Some(error),
        _ => None,
    }
}

/// Tells what happens, in the format that was asked for.
enum Reporter {
    Human(Human),
    Json(Json),
}

impl Reporter {
    fn new(typed: &Typed) -> Self {
        match typed.format {
            Format::Human => Self::Human(Human::new(typed)),
            Format::Json => Self::Json(Json::new(typed)),
        }
    }

    fn events(&self) -> &dyn Events {
        match self {
            Self::Human(human) => human,
            Self::Json(json) => json,
        }
    }

    fn planned(&self, root: &Path, pending: bool) {
        match self {
            Self::Human(human) => human.planned(root, pending),
            Self::Json(json) => json.planned(root, pending),
        }
    }

    fn done(&self, root: &Path, outcome: &Outcome) {
        match self {
            Self::Human(human) => human.done(root, outcome),
            Self::Json(json) => json.done(root, outcome),
        }
    }

    fn progress(&self) -> &Progress {
        match self {
            Self::Human(human) => human.progress(),
            Self::Json(json) => json.progress_shown(),
        }
    }

    fn fault(&self, version: &ModuleVersion, fault: Fault, reason: &str) {
        match self {
            Self::Human(human) => human.fault(version, fault, reason),
            Self::Json(json) => json.fault(version, fault, reason),
        }
    }

    fn verified(&self, root: &Path, found: Found) {
        match self {
            Self::Human(human) => human.verified(root, found),
            Self::Json(json) => json.verified(root, found),
        }
    }

    fn leftover(&self, leftover: &Leftover, to: Option<&Path>) -> io::Result<()> {
        match self {
            Self::Human(human) => human.listed(leftover, to),
            Self::Json(json) => json.listed(leftover, to),
        }
    }

    fn leftovers(&self, root: &Path, sum: Sum, moved: bool) {
        match self {
            Self::Human(human) => human.leftovers(root, sum, moved),
            Self::Json(json) => json.leftovers(root, sum, moved),
        }
    }

    fn error(&self, failure: &Failure) {
        match self {
            Self::Human(human) => human.error(&failure.message),
            Self::Json(json) => json.error(failure.exit, &failure.message),
        }
    }
}
