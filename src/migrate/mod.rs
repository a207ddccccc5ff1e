//! The program `stoa-migrate`: upgrades and downgrades stores, and knows the formats of other programs.
//!
//! [`stoa_layout::Runner`] does the work of an upgrade. This module translates the command line for it and reports
//! its events. The known layouts are passed in as a value.

mod args;
mod bucket;
mod bucket_status;
mod events;
mod import;
mod import_config;
mod leftovers;
mod seen;
mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use stoa_bucket::BucketLayouts;
use stoa_layout::events::Silent;
use stoa_layout::{
    Cancel, Exit, Layouts, Leftover, Options, Outcome, PathError, RunError, Runner, State, StepError, signals,
};

use crate::command;
use crate::command::context::{cancel_on_signals, check_exists};
use crate::command::count;
use crate::command::error::CommandError;
use crate::command::progress::Screen;
use crate::command::report::{Reporter, Telling};
use crate::command::status;
use crate::command::verify::look::Findings;
use crate::config::{Settings, World};
use crate::logging::Style;

use args::{Args, Command, LeftoversCommand};
use events::{Event, Watcher, text};
use import::Import;
use leftovers::Leftovers;
use verify::Verify;

/// Runs the program with the arguments of the process.
pub fn main(layouts: &Layouts, buckets: &BucketLayouts) -> ExitCode {
    signals::survive_file_size_limit();
    run((layouts, buckets), &World::of_process(), std::env::args_os()).into()
}

/// Returns the command line of `stoa-migrate`.
pub fn command_line() -> clap::Command {
    // Later, because the options of all commands are not yet in it.
    let import_config = |command: clap::Command| command.defer(import_config::hide_options_of_a_store);
    Args::command().mut_subcommand("import-config", import_config)
}

fn run(
    (layouts, buckets): (&Layouts, &BucketLayouts),
    world: &World,
    arguments: impl IntoIterator<Item = OsString>,
) -> Exit {
    let matches = command_line().try_get_matches_from(arguments);
    let args = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args.merged(),
        Err(error) => return command::usage(&error),
    };
    let screen = Screen::default();
    command::start_log(Style::Command, &args.common, world, &screen);
    let telling = Telling { format: args.format, progress: args.progress };
    let mut reporter = Reporter::new(&screen, telling, args.common.loudness());
    if args.auto {
        reporter = reporter.below_another();
    }
    let done = dispatch((layouts, buckets), world, &args, &reporter);
    let done = done.and_then(|exit| reporter.check().map(|()| exit));
    reporter.progress().end();
    done.unwrap_or_else(|error| reporter.error(&error))
}

fn dispatch(
    (layouts, buckets): (&Layouts, &BucketLayouts),
    world: &World,
    args: &Args,
    reporter: &Reporter,
) -> Result<Exit, CommandError> {
    // Reads no configuration of Stoa, so it runs on a machine without one.
    if let Some(Command::ImportConfig(what)) = &args.command {
        if args.bucket.is_some() {
            return Err(CommandError::new(Exit::USAGE, "import-config cannot be used with --bucket"));
        }
        return import_config::run(what, std::env::vars_os(), reporter);
    }
    let settings = Settings::new(world, args.common.config.clone());
    if args.bucket.is_some() || (args.may_use_configured_bucket() && settings.bucket(None)?.is_some()) {
        return bucket::run((layouts, buckets), (args, world), &settings, reporter);
    }
    let (root, options) = resolve(args, world)?;
    match &args.command {
        Some(Command::Status { local }) => {
            let store = status::of_any(&root, layouts, &settings).and_then(|status| reporter.finish(&status));
            if !local && let Some(bucket) = settings.bucket(None)? {
                // Also if the store of this machine cannot be read.
                let shown = bucket::status(buckets, &bucket, store.is_ok(), reporter);
                if let (Err(error), Err(_)) = (&store, &shown) {
                    reporter.error(error);
                }
                shown?;
            }
            store?;
        }
        Some(Command::Describe) => {
            let options = Options { auto: true, ..options };
            describe(layouts, &root, &options, reporter)?;
        }
        Some(Command::Leftovers { command, .. }) => {
            leftovers((layouts, world), command.as_ref(), &root, &options, reporter)?;
        }
        Some(Command::Import(what)) => {
            import(layouts, (args, world), &what.source, &root, options, reporter)?
        }
        Some(Command::ImportConfig(_)) | None => migrate(layouts, (args, world), &root, &options, reporter)?,
    }
    Ok(Exit::DONE)
}

fn resolve(args: &Args, world: &World) -> Result<(PathBuf, Options), CommandError> {
    let settings = Settings::new(world, args.common.config.clone());
    let root = settings.store(args.common.store.clone())?;
    let migrate = settings.migrate(args.lock_timeout.as_deref(), args.threads, args.store_mode.as_deref())?;
    settings.check_named()?;
    let options = Options {
        target: args.to.clone(),
        assumed: args.from.clone(),
        auto: args.auto,
        no_create: args.no_create,
        regenerate: args.regenerate,
        clean: args.clean,
        lock_timeout: migrate.lock_timeout,
        threads: migrate.threads,
        mode: migrate.store_mode,
    };
    Ok((root, options))
}

fn migrate(
    layouts: &Layouts,
    (args, world): (&Args, &World),
    root: &Path,
    options: &Options,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    if args.auto {
        stop_with_parent();
    }
    if args.verify.is_some() && options.target.as_ref().is_some_and(|target| *target != layouts.current) {
        let message = format!("cannot verify a store at another layout than {}", layouts.current);
        return Err(CommandError::new(Exit::USAGE, message).help("run without --to or without --verify"));
    }
    let cancel = cancel_on_signals(reporter, args.auto)?;
    let watcher = Watcher::new(reporter, args.auto, args.dry_run);
    let runner = Runner { root, layouts, options, events: &watcher, cancel: &cancel };
    if args.dry_run {
        let pending = runner.plan().map_err(|error| failure(root, &error))?;
        watcher.planned(root, pending);
        return Ok(());
    }
    let outcome = runner.run().map_err(|error| failure(root, &error))?;
    watcher.done(root, &outcome);
    match (args.verify, outcome) {
        (Some(how), Outcome::Nothing(_) | Outcome::Done(_)) => {
            let settings = Settings::new(world, args.common.config.clone());
            verify((layouts, &settings), how, root, options.threads, &cancel, reporter)
        }
        _ => Ok(()),
    }
}

/// Prints what a folder is that `stoa` does not upgrade by itself. Fails as an upgrade would.
fn describe(
    layouts: &Layouts,
    root: &Path,
    options: &Options,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let cancel = Cancel::default();
    let runner = Runner { root, layouts, options, events: &Silent, cancel: &cancel };
    let text = match runner.check().map_err(|error| failure(root, &error))? {
        State::At(layout) | State::Untagged(layout) => format!("it is a store at layout {layout}"),
        State::Migrating { from, to } => format!("it is in the middle of the step from {from} to {to}"),
        State::Creating(_) => "its creation was interrupted".to_owned(),
        _ => return Ok(()),
    };
    reporter.answer(&events::Event::Described { text })
}

fn leftovers(
    (layouts, world): (&Layouts, &World),
    command: Option<&LeftoversCommand>,
    root: &Path,
    options: &Options,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    check_exists(root)?;
    let cancel = cancel_on_signals(reporter, false)?;
    let watcher = Watcher::new(reporter, false, false);
    let runner = Runner { root, layouts, options, events: &watcher, cancel: &cancel };
    let leftovers = Leftovers { runner, world };
    let mut written = Ok(());
    let (total, is_moved) = match command {
        Some(LeftoversCommand::Move { to, paths }) => {
            let mut tell = |leftover: &Leftover, to: Option<&Path>| {
                reporter.result(&Event::leftover(leftover, to, true));
                Ok(())
            };
            let total = match paths.as_slice() {
                [] => leftovers.take_out(to, &mut tell),
                paths => leftovers.take_out_paths(to, paths, &mut tell),
            };
            (total, true)
        }
        Some(LeftoversCommand::List) | None => {
            let total = leftovers.list(&mut |leftover, _| {
                written = reporter.answer(&Event::leftover(leftover, None, true));
                // Ends the walk; the error of the reporter is returned below.
                written.clone().map_err(|_| StepError::Cancelled(stoa_layout::signals::Cancelled(0)))
            });
            (total, false)
        }
    };
    written?;
    let total = total.map_err(|error| failure(root, &error))?;
    let changed = is_moved && total.count > 0;
    let store = text(root);
    reporter.note(&Event::Leftovers { store, leftovers: total.count, bytes: total.bytes, changed });
    Ok(())
}

fn import(
    layouts: &Layouts,
    (args, world): (&Args, &World),
    source: &Path,
    root: &Path,
    options: Options,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    check_import(args)?;
    let cancel = cancel_on_signals(reporter, false)?;
    // `--from` names the layout of the source. An import never decides about an interrupted downgrade.
    let options = Options { assumed: None, auto: true, ..options };
    let watcher = Watcher::new(reporter, false, args.dry_run);
    let import = Import {
        runner: Runner { root, layouts, options: &options, events: &watcher, cancel: &cancel },
        source,
        settings: &Settings::new(world, args.common.config.clone()),
        assumed: args.from.as_ref(),
        dry_run: args.dry_run,
        progress: reporter.progress(),
    };
    let report = import::Report::new(reporter, (source, text(root)), args.dry_run);
    if import.run(&report)? {
        return reporter.finish(&report.done());
    }
    reporter.progress().end();
    watcher.done(root, &Outcome::NoStore);
    Ok(())
}

/// Refuses options that an import does not have.
fn check_import(args: &Args) -> Result<(), CommandError> {
    if args.to.is_some() || args.regenerate || args.auto || args.verify.is_some() {
        let message = "import does not support --to, --regenerate, --verify or --auto";
        return Err(CommandError::new(Exit::USAGE, message));
    }
    Ok(())
}

fn verify(
    (layouts, settings): (&Layouts, &Settings<'_>),
    how: Verify,
    root: &Path,
    threads: usize,
    cancel: &Cancel,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let found = verify::run(root, settings, &layouts.current, how, threads, cancel, reporter);
    let found = found.map_err(|mut error| {
        let reason = error.message.unwrap_or_default();
        error.message = Some(format!("cannot verify {}: {reason}", root.display()));
        error.resumable()
    })?;
    reporter.progress().end();
    let versions = found.versions();
    reporter.result(&Event::Verified { store: text(root), broken: found.corrupt, versions });
    let (count, what) = match found {
        Findings { corrupt: 0, unreadable: 0, symlinks: 0, .. } => return Ok(()),
        Findings { corrupt: 0, unreadable: 0, symlinks, .. } => {
            return Err(command::verify::symlinks_error(symlinks, root.display()));
        }
        Findings { corrupt: 0, unreadable, .. } => (unreadable, "cannot be read"),
        Findings { corrupt: 1, .. } => (1, "is corrupt"),
        Findings { corrupt, .. } => (corrupt, "are corrupt"),
    };
    let (all, root) = (count::versions(versions), root.display());
    let message = format!("{count} of {all} in {root} {what} (listed above)");
    Err(CommandError::new(found.exit(), message))
}

/// Stops this program when its parent dies. A program that waits at the gate started it, and no other program needs
/// the result.
fn stop_with_parent() {
    #[cfg(target_os = "linux")]
    if let Err(errno) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        log::debug!(reason:% = errno; "cannot watch the parent process");
    }
}

fn failure(root: &Path, error: &RunError) -> CommandError {
    let failed = CommandError::new(error.exit(), error);
    match error {
        _ if path_error(error).is_some_and(PathError::is_read_only) => failed.help(format!(
            "mount the file system writable, or copy {} to a writable place and use the copy with --store",
            root.display()
        )),
        RunError::Outside(StepError::Cancelled(_)) => failed
            .help(format!("{} is unchanged or in the middle of a step: run again to resume", root.display())),
        _ => {
            match path_error(error).filter(|error| error.is_damage()).and_then(|error| way_on(root, error)) {
                Some(way_on) => {
                    let help = failed.help.clone().map(|help| help + "; ").unwrap_or_default();
                    failed.help(help + &way_on)
                }
                None => failed,
            }
        }
    }
}

/// Returns the help to continue without a damaged path in the store.
fn way_on(root: &Path, error: &PathError) -> Option<String> {
    let path = &error.path;
    let is_in_the_store = leftovers::may_be_moved(root, path) && path.symlink_metadata().is_ok();
    is_in_the_store.then(|| {
        format!(
            "to continue without it, move it out of the store with \
             `stoa-migrate --store {} leftovers move DIR {}`",
            quoted(root),
            quoted(path)
        )
    })
}

/// Returns a path as a word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@=:,".contains(c)) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn path_error(error: &RunError) -> Option<&PathError> {
    match error {
        RunError::Lock(stoa_layout::lock::LockError::Path(error)) => Some(error),
        RunError::Step { source: StepError::Path(error), .. } => Some(error),
        RunError::Outside(StepError::Path(error)) => Some(error),
        _ => None,
    }
}
