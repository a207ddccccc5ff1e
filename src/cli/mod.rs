//! The command line of `stoa`, as typed, and what each command does.
//!
//! What touches the store passes the gate before any thread is started, and before any config file is read
//! that finding the store does not need. What only looks (`status`, `quarantine list`, `migrate`, help) passes none,
//! and so works on every state.

mod serve;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use stoa_gomod::ModuleVersion;
use stoa_layout::gate::{GateError, Mode};
use stoa_layout::{Cancel, Exit, Gate, Migrator, Pass};
use stoa_store::{Store, VersionFile};

use crate::beside::{self, MIGRATOR};
use crate::command::context::{Context, GENERAL};
use crate::command::error::CommandError;
use crate::command::progress::Screen;
use crate::command::remove::Remove;
use crate::command::report::Format;
use crate::command::report::Reporter;
use crate::command::{self, App, Command as _, Common};
use crate::config::{ConfigError, Settings, World, parse_switch};
use crate::export;
use crate::fetch;
use crate::listen;
use crate::logging::{self, Style};
use crate::output;
use crate::prune;
use crate::quarantine;
use crate::status::{self, Leftovers};
use crate::verify;
use serve::Serve;

#[derive(Debug, Parser)]
#[command(
    name = "stoa",
    version,
    about = "A Go module proxy whose store upgrades itself",
    after_help = "An option goes before its variable, that before the config file. The variable of the key `fill.max_concurrent` is \
                  STOA_FILL_MAX_CONCURRENT. STOA_LOG says what to log, in the syntax of env_logger; -v and -q go before it.\n\
                  Exit codes: 0 done; 1 what was asked for is not so; 64 usage, configuration; 65 not a store; 69 an upstream is \
                  not available; 73 can't create; 74 input/output; 75 busy; 77 permission; 78 the store is newer, or \
                  stoa-migrate cannot or must not be run; 130, 143 stopped."
)]
struct Typed {
    #[command(flatten)]
    common: Common,

    /// Do not run stoa-migrate by itself; the same as --auto-migrate=false
    #[arg(long, global = true, help_heading = GENERAL)]
    no_migrate: bool,

    /// Whether stoa-migrate is run by itself where the store needs it [default: true] [key: auto_migrate]
    #[arg(long, global = true, value_name = "BOOL", value_parser = parse_switch, conflicts_with = "no_migrate", help_heading = GENERAL)]
    auto_migrate: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

impl Typed {
    fn auto_migrate(&self) -> Option<bool> {
        if self.no_migrate { Some(false) } else { self.auto_migrate }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve modules to the go command
    Serve(Box<Serve>),
    /// Print where a file of a module's version lies in the store; exit code 1 if it isn't there
    Path {
        /// The module and its version, as in example.org/module@v1.2.3
        #[arg(value_name = "MODULE@VERSION")]
        module: String,
        /// Which file
        #[arg(long, value_enum, default_value_t)]
        file: FileKind,
    },
    /// Say what the store is, whatever state it is in; changes nothing
    Status {
        /// Write it for people, or as JSON
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Read versions whole, seal what is right, put what is broken into quarantine
    Verify(verify::Typed),
    /// List what proved broken, publish it again once it is mended, or remove it
    Quarantine(quarantine::Typed),
    /// Take versions out of the store, or forbid them for good
    Remove(Remove),
    /// Remove the versions that were used least recently
    Prune(prune::Typed),
    /// List what the store holds that is no part of it, or move it out
    #[command(disable_help_flag = true)]
    Leftovers {
        /// Nothing or `list`, or `move DIR`
        #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Copy versions into the store from another store, a GOPROXY tree or the go command's module cache
    #[command(disable_help_flag = true)]
    Import {
        /// SOURCE, and the options of `stoa import --help`
        #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Write all versions as a tree of files that any static file server can serve, or file://
    Export(export::Typed),
    /// Fill the store ahead of time: with versions that are named, or that a go.mod or a go.sum lists
    Fetch(fetch::Typed),
    /// Print a config file for Stoa made from the configuration of Athens
    #[command(disable_help_flag = true)]
    ImportConfig {
        /// The options of `stoa import-config --help`
        #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run stoa-migrate with all further arguments
    #[command(disable_help_flag = true)]
    Migrate {
        /// Handed on as they are
        #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum FileKind {
    #[default]
    Zip,
    Mod,
    Info,
}

impl From<FileKind> for VersionFile {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Zip => Self::Zip,
            FileKind::Mod => Self::Mod,
            FileKind::Info => Self::Info,
        }
    }
}

/// Runs the program with the arguments of the process.
pub fn main(app: &App) -> ExitCode {
    run(app, &World::of_process(), std::env::args_os().collect()).into()
}

fn run(app: &App, world: &World, arguments: Vec<OsString>) -> Exit {
    let typed = match parse(arguments) {
        Ok(typed) => typed,
        Err(error) => return command::usage(&error),
    };
    let style = if matches!(typed.command, Command::Serve(_)) { Style::Service } else { Style::Command };
    let filter = world.variable("STOA_LOG");
    let filter = filter.as_deref().and_then(OsStr::to_str);
    logging::init(style, typed.common.verbose, typed.common.quiet, filter);
    let settings = Settings::new(world, typed.common.config.clone());
    let screen = Screen::default();
    let reporter = Reporter::new(&screen, Default::default(), typed.common.loudness());
    let auto_migrate = typed.auto_migrate();
    let Typed { common, command, .. } = &typed;
    if let Command::Remove(remove) = command {
        let context = Context::new((app, common, auto_migrate), &settings, (&screen, remove.telling()));
        return command::run(remove.clone(), &context);
    }
    let result = match command {
        Command::Serve(serve) => self::serve(app, &typed, &settings, serve),
        Command::Path { module, file } => path(app, &typed, &settings, module, *file),
        Command::Export(what) => export(app, &typed, &settings, what),
        Command::Fetch(what) => fetch(app, &typed, &settings, what),
        Command::Status { format } => look(app, &typed, &settings, *format),
        Command::Verify(what) => verify(app, &typed, &settings, what),
        Command::Quarantine(what) => quarantine(app, &typed, &settings, what),
        Command::Prune(what) => prune(app, &typed, &settings, what),
        Command::Remove(_) => Ok(Exit::DONE),
        Command::Migrate { arguments } => Err(become_migrator(&typed, None, arguments)),
        Command::Leftovers { arguments } => Err(become_migrator(&typed, Some("leftovers"), arguments)),
        Command::Import { arguments } => Err(become_migrator(&typed, Some("import"), arguments)),
        Command::ImportConfig { arguments } => Err(become_migrator(&typed, Some("import-config"), arguments)),
    };
    result.unwrap_or_else(|error| reporter.error(&error))
}

/// Becomes the migrator, for one of its sub-commands or for all that it does. Comes back only if that fails.
fn become_migrator(typed: &Typed, command: Option<&str>, arguments: &[OsString]) -> CommandError {
    let more = command.map(OsString::from).into_iter().chain(arguments.iter().cloned());
    let error = beside::become_migrator(typed.common.handed_on().into_iter().chain(more));
    CommandError::new(error.exit(), error)
}

/// Commands of the migrator: everything behind them is left as it is, for the migrator to parse.
const OF_THE_MIGRATOR: [&str; 4] = ["migrate", "leftovers", "import", "import-config"];

/// Parses the command line.
fn parse(arguments: Vec<OsString>) -> Result<Typed, clap::Error> {
    let is_of_the_migrator = |argument: &OsString| OF_THE_MIGRATOR.iter().any(|name| argument == name);
    for (at, _) in arguments.iter().enumerate().filter(|(_, argument)| is_of_the_migrator(argument)) {
        let (head, tail) = arguments.split_at(at + 1);
        if let Ok(mut typed) = Typed::try_parse_from(head)
            && let Command::Migrate { arguments }
            | Command::Leftovers { arguments }
            | Command::Import { arguments }
            | Command::ImportConfig { arguments } = &mut typed.command
        {
            *arguments = tail.to_vec();
            return Ok(typed);
        }
    }
    Typed::try_parse_from(arguments)
}

/// Passes the gate, with as little as possible where the store is current. `check` looks at the configuration
/// of the command: before a store is made or migrated for it, else after the gate. `migrator` says whether that may be
/// done, and is asked only where it is to be.
fn pass(
    app: &App,
    root: &Path,
    check: impl Fn() -> Result<(), CommandError>,
    migrator: impl Fn() -> Result<Migrator, CommandError>,
) -> Result<Pass, CommandError> {
    // On a current store nobody asks whether the migrator may be run, so no config file is read for it.
    match (Gate { root, current: &app.layout, migrator: &NOBODY }).pass() {
        Err(GateError::Forbidden { .. }) => {
            check()?;
            let migrator = migrator()?;
            Ok(Gate { root, current: &app.layout, migrator: &migrator }.pass()?)
        }
        passed => {
            let passed = passed?;
            check()?;
            Ok(passed)
        }
    }
}

/// Changes no store.
const NOBODY: Migrator = Migrator::Forbidden { name: MIGRATOR };

/// Says who brings a store along for a command that needs one to be there: where nothing is none is made, since its
/// path is mistyped then.
fn migrator_of_existing(
    typed: &Typed,
    settings: &Settings<'_>,
    root: &Path,
) -> Result<Migrator, CommandError> {
    let is_nothing = match std::fs::read_dir(root) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_nothing {
        let message = format!(
            "there is no store in {root}: name one with --store, or make one with `{MIGRATOR} --store {root}`",
            root = root.display()
        );
        return Err(CommandError::new(Exit::NOT_A_STORE, message));
    }
    Ok(migrator(typed, settings)?)
}

fn migrator(typed: &Typed, settings: &Settings<'_>) -> Result<Migrator, ConfigError> {
    Ok(if settings.auto_migrate(typed.auto_migrate())? {
        // The gate names the store itself.
        let common = Common { store: None, ..typed.common.clone() };
        Migrator::Beside { name: MIGRATOR, arguments: common.handed_on() }
    } else {
        Migrator::Forbidden { name: MIGRATOR }
    })
}

fn path(
    app: &App,
    typed: &Typed,
    settings: &Settings<'_>,
    module: &str,
    file: FileKind,
) -> Result<Exit, CommandError> {
    let version = ModuleVersion::parse(module).map_err(|error| CommandError::new(Exit::USAGE, error))?;
    let root = settings.store(typed.common.store.clone())?;
    let pass = pass(app, &root, || Ok(settings.check_named()?), || Ok(migrator(typed, settings)?))?;
    match Store::look(&pass).locate(&version, file.into()) {
        Ok(Some(path)) => Ok(output::path_line(&path)),
        Ok(None) => {
            let message = format!("{version} is not in {}", root.display());
            Err(CommandError::new(Exit::FAILED, message))
        }
        Err(error) => Err(CommandError::new(error.exit(), error)),
    }
}

fn export(
    app: &App,
    typed: &Typed,
    settings: &Settings<'_>,
    what: &export::Typed,
) -> Result<Exit, CommandError> {
    let root = settings.store(typed.common.store.clone())?;
    let threads = || settings.migrate(None, what.working.threads).map(|meant| meant.threads);
    let check = || Ok(threads().and_then(|_| settings.check_named())?);
    let pass = pass(app, &root, check, || migrator_of_existing(typed, settings, &root))?;
    let migrator = migrator(typed, settings)?;
    let gate = Gate { root: &root, current: &app.layout, migrator: &migrator };
    export::run(&gate, pass, what, threads()?, typed.common.loudness())
}

fn fetch(
    app: &App,
    typed: &Typed,
    settings: &Settings<'_>,
    what: &fetch::Typed,
) -> Result<Exit, CommandError> {
    let root = settings.store(typed.common.store.clone())?;
    let config = || settings.serve(what.serve());
    let wanted = what.wanted()?;
    let pass = pass(app, &root, || Ok(config().map(drop)?), || Ok(migrator(typed, settings)?))?;
    let migrator = migrator(typed, settings)?;
    let gate = Gate { root: &root, current: &app.layout, migrator: &migrator };
    fetch::run(&gate, pass, (what, wanted), &config()?, settings.world(), typed.common.loudness())
}

fn look(app: &App, typed: &Typed, settings: &Settings<'_>, format: Format) -> Result<Exit, CommandError> {
    let root = settings.store(typed.common.store.clone())?;
    settings.check_named()?;
    if let Some(exit) = status::of_current(&root, app, format, Leftovers::AreForOthers) {
        return Ok(exit);
    }
    let common = Common { store: Some(root.clone()), ..typed.common.clone() };
    let more = ["status", "--format", format.name()].map(OsString::from);
    let error = beside::become_migrator(common.handed_on().into_iter().chain(more));
    status::of_current(&root, app, format, Leftovers::AreOurs)
        .ok_or_else(|| CommandError::new(error.exit(), error))
}

fn verify(
    app: &App,
    typed: &Typed,
    settings: &Settings<'_>,
    what: &verify::Typed,
) -> Result<Exit, CommandError> {
    let threads = settings.migrate(None, what.working.threads)?.threads;
    let store = open(app, typed, settings)?;
    verify::run(&store, what, threads, typed.common.quiet, &stoppable(&store)?)
}

fn quarantine(
    app: &App,
    typed: &Typed,
    settings: &Settings<'_>,
    what: &quarantine::Typed,
) -> Result<Exit, CommandError> {
    let quiet = typed.common.quiet;
    if what.only_looks() {
        let root = settings.store(typed.common.store.clone())?;
        settings.check_named()?;
        if root.metadata().is_ok_and(|meta| !meta.is_dir()) {
            let message =
                format!("{} is no store, since it is no folder; name one with --store", root.display());
            return Err(CommandError::new(Exit::NOT_A_STORE, message));
        }
        return quarantine::list(&root, what, quiet);
    }
    quarantine::change(&open(app, typed, settings)?, what, quiet)
}

fn prune(
    app: &App,
    typed: &Typed,
    settings: &Settings<'_>,
    what: &prune::Typed,
) -> Result<Exit, CommandError> {
    let threads = settings.migrate(None, what.working.threads)?.threads;
    let store = open_or_look(app, typed, settings, what.dry_run)?;
    prune::run(&store, what, threads, typed.common.quiet, &stoppable(&store)?)
}

/// Lets signals stop a work between two versions.
fn stoppable(store: &Store) -> Result<Cancel, CommandError> {
    let cancel = Cancel::on_signals()
        .map_err(|error| CommandError::new(Exit::IO, format!("cannot listen for signals: {error}")))?;
    store.signals().handled_by_program();
    Ok(cancel)
}

/// Passes the gate and opens the store; for a dry run without the lock, so that nothing can be written.
fn open_or_look(
    app: &App,
    typed: &Typed,
    settings: &Settings<'_>,
    is_dry_run: bool,
) -> Result<Store, CommandError> {
    if !is_dry_run {
        return open(app, typed, settings);
    }
    let root = settings.store(typed.common.store.clone())?;
    // Nor is the store made, or brought along.
    Ok(Store::look(&pass(app, &root, || Ok(settings.check_named()?), || Ok(NOBODY))?))
}

/// Passes the gate and opens the store, to be held shared.
fn open(app: &App, typed: &Typed, settings: &Settings<'_>) -> Result<Store, CommandError> {
    let root = settings.store(typed.common.store.clone())?;
    let check = || Ok(settings.check_named()?);
    let pass = pass(app, &root, check, || migrator_of_existing(typed, settings, &root))?;
    let migrator = migrator(typed, settings)?;
    let gate = Gate { root: &root, current: &app.layout, migrator: &migrator };
    let held = gate.hold(pass, Mode::ReadWrite)?;
    Store::open(held, Mode::ReadWrite).map_err(|error| CommandError::new(error.exit(), error))
}

fn serve(app: &App, typed: &Typed, settings: &Settings<'_>, serve: &Serve) -> Result<Exit, CommandError> {
    let root = settings.store(typed.common.store.clone())?;
    let config = || settings.serve(serve.typed());
    let who = || -> Result<Migrator, CommandError> {
        let config = config()?;
        if config.read_only {
            return Ok(NOBODY);
        }
        // Whoever cannot serve changes nothing: the store may be that of the proxy that has the port.
        listen::check(&config, settings.world())?;
        Ok(migrator(typed, settings)?)
    };
    let pass = pass(app, &root, || Ok(config().map(drop)?), who)?;
    let config = config()?;
    let migrator = if config.read_only { NOBODY } else { migrator(typed, settings)? };
    let gate = Gate { root: &root, current: &app.layout, migrator: &migrator };
    listen::run(&gate, pass, config, settings)
}
