//! The commands of `stoa`, a file or a folder each, and the parts that both programs share.
//!
//! A new command is a file with a struct that implements [`Command`] and registers it by `inventory::submit!`, and its
//! `mod` line here.

pub(crate) mod bucket;
pub(crate) mod compare;
pub(crate) mod completions;
mod config;
pub(crate) mod confirm;
pub(crate) mod context;
pub(crate) mod count;
pub(crate) mod error;
pub(crate) mod event;
mod export;
mod fetch;
pub(crate) mod hand_over;
mod list;
mod man;
pub(crate) mod named;
pub(crate) mod overlap;
mod path;
mod peers;
pub(crate) mod progress;
mod prune;
mod quarantine;
mod remove;
pub(crate) mod report;
mod serve;
pub(crate) mod status;
mod token;
mod unverified;
pub(crate) mod verify;
pub(crate) mod with_sumdb;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{ArgMatches, Args as _, FromArgMatches as _};
use stoa_layout::{Exit, signals};

pub use context::{App, Common};

use crate::config::{self as configuration, Settings, World};
use crate::logging::{self, Style};
use context::{Context, Global};
use error::CommandError;
use progress::Screen;
use report::{Reporter, Summary, Telling};

/// Returns the commands, in the order of `stoa --help`.
fn entries() -> Vec<&'static Entry> {
    let mut entries: Vec<_> = inventory::iter::<Entry>().collect();
    entries.sort_by_key(|entry| (entry.order, entry.name));
    entries
}

/// A command: its arguments, and its work.
///
/// The doc comment of the struct is the text in `--help`.
pub(crate) trait Command: clap::Args {
    /// The last event of the command.
    type Summary: Summary;

    /// The form of log lines.
    const STYLE: Style = Style::Command;

    /// Returns how the command reports.
    fn telling(&self) -> Telling {
        Telling { progress: progress::When::Never, ..Telling::default() }
    }

    /// Does the work, and reports events on the way.
    fn run(self, context: &Context<'_>) -> Result<Self::Summary, CommandError>;
}

/// A registered command.
struct Entry {
    name: &'static str,
    /// The place in `stoa --help`.
    order: u32,
    /// Whether `stoa-migrate` does the work and parses all further arguments.
    is_handed_over: bool,
    build: fn(&Entry) -> clap::Command,
    about: &'static str,
    run: fn(&ArgMatches, &Start<'_>) -> Exit,
}

/// The state before a command begins.
struct Start<'a> {
    name: &'static str,
    app: &'a App,
    world: &'a World,
    global: Global,
}

inventory::collect!(Entry);

impl Entry {
    const fn new<C: Command>(name: &'static str, order: u32) -> Self {
        Self { name, order, is_handed_over: false, build: build::<C>, about: "", run: parse_and_run::<C> }
    }
}

fn build<C: Command>(entry: &Entry) -> clap::Command {
    C::augment_args(clap::Command::new(entry.name))
}

fn parse_and_run<C: Command>(matches: &ArgMatches, start: &Start<'_>) -> Exit {
    let command = match C::from_arg_matches(matches) {
        Ok(command) => command,
        Err(error) => return usage(&error),
    };
    let common = &start.global.common;
    let screen = Screen::default();
    start_log(C::STYLE, common, start.world, &screen);
    for (variable, nearest) in configuration::unknown_variables(start.world) {
        match nearest {
            Some(nearest) => {
                log::warn!(variable, help = format!("did you mean {nearest}?"); "unknown variable")
            }
            None => log::warn!(variable; "unknown variable"),
        }
    }
    let settings = Settings::new(start.world, common.config.clone());
    let reporter = Reporter::new(&screen, command.telling(), common.loudness());
    let context =
        Context { app: start.app, name: start.name, global: &start.global, settings: &settings, reporter };
    run(command, &context)
}

/// Runs a command, and returns the exit code.
fn run<C: Command>(command: C, context: &Context<'_>) -> Exit {
    let reporter = &context.reporter;
    let done = command.run(context).and_then(|summary| reporter.finish(&summary));
    let done = done.and_then(|()| reporter.check());
    reporter.progress().end();
    match done {
        Ok(()) => Exit::DONE,
        Err(error) => reporter.error(&error),
    }
}

/// Starts logging to standard error, above the progress bar.
pub(crate) fn start_log(style: Style, common: &Common, world: &World, screen: &Screen) {
    let filter = world.variable("STOA_LOG");
    let filter = filter.as_deref().and_then(OsStr::to_str);
    logging::init(style, common.verbose, common.quiet, filter, screen.clone());
}

/// Prints the message of clap about a command line, and returns the exit code.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    // The exit code reports the failure even if stderr is closed.
    let _ = error.print();
    if error.use_stderr() { Exit::USAGE } else { Exit::DONE }
}

/// Returns the command line of `stoa`.
pub(crate) fn command_line() -> clap::Command {
    let command = clap::Command::new("stoa")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    let command = Global::augment_args(command)
        .about("A Go module proxy whose store upgrades itself")
        .after_help(AFTER_HELP);
    entries().into_iter().fold(command, |command, entry| command.subcommand((entry.build)(entry)))
}

const AFTER_HELP: &str = "\
Examples:
  stoa serve                                    serve modules on 127.0.0.1:3000
  go env -w GOPROXY=http://127.0.0.1:3000       point the go command at it
  stoa fetch --from go.sum                      download everything that a project needs
  stoa status                                   show what the store holds

Precedence: command line, environment, config file, default. The variable of the key `fill.max_concurrent` is \
STOA_FILL_MAX_CONCURRENT. STOA_LOG sets the log level: error, warn, info, debug or trace. -v and -q override it.

Exit codes:
  0         success
  1         the check failed: for example, a version is missing or does not match
  64        wrong usage or configuration
  65        the folder is not a store
  69        an upstream or the bucket is unavailable
  73        a file or folder cannot be created
  74        input/output error
  75        the store is busy; try again later
  77        permission denied
  78        the store is newer than this program, or needs an upgrade and stoa-migrate did not run
  130, 143  stopped by Ctrl-C or SIGTERM";

/// Runs the program with the arguments of the process.
pub fn main(app: &App) -> ExitCode {
    signals::survive_file_size_limit();
    start(app, &World::of_process(), std::env::args_os().collect()).into()
}

fn start(app: &App, world: &World, arguments: Vec<OsString>) -> Exit {
    let (matches, tail) = match parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let global = match Global::from_arg_matches(&matches) {
        Ok(global) => global,
        Err(error) => return usage(&error),
    };
    let Some((name, matches)) = matches.subcommand() else { return Exit::USAGE };
    if let Some(tail) = tail {
        let screen = Screen::default();
        start_log(Style::Command, &global.common, world, &screen);
        let reporter = Reporter::new(&screen, Telling::default(), global.common.loudness());
        return reporter.error(&hand_over::to_migrator(&global.common, name, &tail));
    }
    match inventory::iter::<Entry>().find(|entry| entry.name == name) {
        Some(entry) => (entry.run)(matches, &Start { name: entry.name, app, world, global }),
        None => Exit::USAGE,
    }
}

/// Parses the command line. The arguments after a command of `stoa-migrate` are returned as they are.
fn parse(arguments: Vec<OsString>) -> Result<(ArgMatches, Option<Vec<OsString>>), clap::Error> {
    let is_handed_over = |argument: &OsStr| {
        inventory::iter::<Entry>().any(|entry| entry.is_handed_over && argument == entry.name)
    };
    for (at, name) in arguments.iter().enumerate().filter(|(_, argument)| is_handed_over(argument)) {
        let (head, tail) = arguments.split_at(at + 1);
        if let Ok(matches) = command_line().try_get_matches_from(head)
            && matches.subcommand_name().is_some_and(|command| name == command)
        {
            return Ok((matches, Some(tail.to_vec())));
        }
    }
    Ok((command_line().try_get_matches_from(arguments)?, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<(ArgMatches, Option<Vec<OsString>>), clap::Error> {
        super::parse(["stoa"].iter().chain(line).map(OsString::from).collect())
    }

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn every_command_has_a_short_text_in_the_imperative() {
        for command in command_line().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.ends_with('.'), "{}: {about:?}", command.get_name());
        }
    }

    #[test]
    fn arguments_after_a_command_of_stoa_migrate_are_handed_over_as_they_are() {
        let (matches, tail) = parse(&["--store", "/s", "migrate", "--to", "v1", "--help"]).unwrap();
        assert_eq!(matches.subcommand_name(), Some("migrate"));
        assert_eq!(tail.unwrap(), ["--to", "v1", "--help"]);
        let (_, tail) = parse(&["import", "/c", "-v"]).unwrap();
        assert_eq!(tail.unwrap(), ["/c", "-v"]);
        // The name of a command as the value of an option.
        let (matches, tail) = parse(&["--store", "migrate", "status"]).unwrap();
        assert_eq!((matches.subcommand_name(), tail), (Some("status"), None));
    }
}
