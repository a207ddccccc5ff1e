//! The surroundings of a command: the program, the settings, the store behind its gate, and the reporter.
//!
//! A command that touches the store passes the gate before any thread is started, and before any config file is read
//! that finding the store does not need. Commands that only look (`status`, `quarantine list`, help) do not pass the
//! gate, so they work on a store in any state.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stoa_layout::gate::{GateError, Mode, beside_this_program};
use stoa_layout::lock::LockError;
use stoa_layout::marker::Top;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit, Gate, Held, LayoutId, Migrator, Pass, PathError, StepError, parallel};
use stoa_store::{Actor, LastUseError, Store, StoreError};

use super::error::CommandError;
use super::hand_over::MIGRATOR;
use super::report::{Loudness, Reporter};
use crate::config::{ConfigError, Settings, World, parse};

/// The layout that the program was built for. A program with one more layout runs the same code.
#[derive(Debug)]
pub struct App {
    /// The layout of the stores that the program works with.
    pub layout: LayoutId,
    /// The folders of such a store.
    pub folders: &'static [&'static str],
    /// Returns the command line of `stoa-migrate`, for completions and manual pages.
    pub migrator: fn() -> clap::Command,
}

/// The heading of the options that every command has.
pub(crate) const GENERAL: &str = "General options";

/// The options of both programs.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Folder of the store [default: $XDG_DATA_HOME/stoa] [key: store] [env: STOA_STORE]
    #[arg(long, global = true, value_name = "DIR", help_heading = GENERAL)]
    pub store: Option<PathBuf>,

    /// Config file [default: $XDG_CONFIG_HOME/stoa/config.toml, or else /etc/stoa/config.toml] [env: STOA_CONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = GENERAL)]
    pub config: Option<PathBuf>,

    /// Log more (repeat for more details)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = GENERAL)]
    pub verbose: u8,

    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = GENERAL)]
    pub quiet: bool,
}

impl Common {
    pub(crate) fn loudness(&self) -> Loudness {
        Loudness { quiet: self.quiet, verbose: self.verbose > 0 }
    }

    /// Returns these options without the store, as arguments for the other program.
    pub(crate) fn handed_on_without_store(&self) -> Vec<OsString> {
        Self { store: None, ..self.clone() }.handed_on()
    }

    /// Returns these options as arguments for the other program.
    pub(crate) fn handed_on(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        for (name, value) in [("--store", &self.store), ("--config", &self.config)] {
            if let Some(value) = value {
                arguments.extend([OsString::from(name), value.clone().into()]);
            }
        }
        arguments.extend((0..self.verbose).map(|_| OsString::from("-v")));
        arguments.extend(self.quiet.then(|| OsString::from("-q")));
        arguments
    }
}

/// The options that every command of `stoa` has.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Global {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Whether to run stoa-migrate when the store needs it [default: true] [key: auto_migrate] [env: STOA_AUTO_MIGRATE]
    #[arg(long, global = true, value_name = "BOOL", value_parser = parse::switch, conflicts_with = "no_migrate", help_heading = GENERAL)]
    auto_migrate: Option<bool>,

    /// The same as --auto-migrate=false
    #[arg(long, global = true, hide = true)]
    no_migrate: bool,
}

/// Everything that a command needs besides its own arguments.
pub(crate) struct Context<'a> {
    pub(crate) app: &'a App,
    /// The name of the command, for the audit log.
    pub(crate) name: &'static str,
    pub(crate) global: &'a Global,
    pub(crate) settings: &'a Settings<'a>,
    pub(crate) reporter: Reporter,
}

/// Never changes a store.
pub(crate) const NO_MIGRATOR: Migrator = Migrator::Forbidden { name: MIGRATOR };

/// Opens a store for a command.
pub(crate) fn open_store(
    held: Held,
    mode: Mode,
    settings: &Settings<'_>,
    command: &str,
) -> Result<Store, CommandError> {
    let (patience, name) = (settings.claim_timeout()?, settings.peers_name()?);
    let store = Store::open(held, mode)?.acting_as(actor(settings.world(), command));
    Ok(store.patient_for(patience).named(name))
}

/// Returns the user who runs a command, for the audit log.
pub(crate) fn actor(world: &World, command: &str) -> Actor {
    let sudo_user = world.variable("SUDO_USER").and_then(|name| name.into_string().ok());
    Actor::of_process(command, sudo_user.filter(|name| !name.is_empty()))
}

impl Context<'_> {
    /// Returns the folder of the store, as an absolute path.
    pub(crate) fn root(&self) -> Result<PathBuf, CommandError> {
        Ok(self.settings.store(self.global.common.store.clone())?)
    }

    /// Returns the number of worker threads.
    pub(crate) fn threads(&self, typed: Option<usize>) -> Result<usize, CommandError> {
        Ok(self.settings.migrate(None, typed, None)?.threads)
    }

    /// Returns the number of worker threads, if it is set.
    pub(crate) fn set_threads(&self, typed: Option<usize>) -> Result<Option<usize>, CommandError> {
        Ok(self.settings.migrate(None, typed, None)?.set_threads)
    }

    /// Passes the gate. `check` checks the configuration of the command: before a store is created or upgraded for it,
    /// otherwise after the gate. `migrator` is called only if the store is not at the current layout.
    pub(crate) fn pass(
        &self,
        root: &Path,
        check: impl Fn() -> Result<(), CommandError>,
        migrator: impl Fn() -> Result<Migrator, CommandError>,
    ) -> Result<Pass, CommandError> {
        // On a current store no config file is read just to learn whether the migrator may run.
        match self.gate(root, &NO_MIGRATOR).pass() {
            Err(GateError::Forbidden { .. }) => {
                check()?;
                match self.gate(root, &migrator()?).pass() {
                    Err(error @ GateError::Forbidden { .. }) => Err(self.describe(root, error)),
                    passed => Ok(passed?),
                }
            }
            passed => {
                let passed = passed?;
                check()?;
                Ok(passed)
            }
        }
    }

    /// Returns the error for a folder that is not a current store and must not be upgraded. It says what the folder is.
    fn describe(&self, root: &Path, forbidden: GateError) -> CommandError {
        let folder = root.display();
        let top = Top::read(root).ok().flatten().unwrap_or_default();
        if top.is_empty() {
            let message = format!("there is no store in {folder}, and it must not be created automatically");
            return CommandError::new(forbidden.exit(), message)
                .help(format!("create it with `{MIGRATOR} --store {folder}`"));
        }
        let described = match self.run_describe(root) {
            Ok(described) if described.status.success() => described.stdout,
            Ok(refused) => match refused.status.code().and_then(|code| u8::try_from(code).ok()) {
                Some(code) => return CommandError::reported(Exit::code_of_child(code)),
                None => return forbidden.into(),
            },
            Err(_) => {
                let names: Vec<String> = top.markers.iter().map(ToString::to_string).collect();
                if names.is_empty() { Vec::new() } else { format!("it has {}", names.join(" and ")).into() }
            }
        };
        let described = String::from_utf8_lossy(&described);
        if described.trim().is_empty() {
            return forbidden.into();
        }
        let message = format!(
            "cannot use {folder}: {}, and not at layout {}; automatic upgrades are off",
            described.trim(),
            self.app.layout
        );
        CommandError::new(forbidden.exit(), message)
            .help(format!("run `{MIGRATOR} --store {folder}` to upgrade it"))
    }

    /// Runs `stoa-migrate describe`, which reads the folder and writes nothing. Only that program knows other layouts.
    fn run_describe(&self, root: &Path) -> std::io::Result<std::process::Output> {
        let mut migrator = std::process::Command::new(beside_this_program(MIGRATOR));
        let common = Common { store: Some(root.to_owned()), ..self.global.common.clone() };
        migrator.args(common.handed_on()).arg("describe");
        migrator.stderr(std::process::Stdio::inherit()).output()
    }

    /// Fails if a folder is neither empty nor a store in any state, as far as `stoa-migrate` can be asked.
    pub(crate) fn check_is_store(&self, root: &Path) -> Result<(), CommandError> {
        let top = Top::read(root)?.unwrap_or_default();
        let is_marked = !top.markers.is_empty() || !top.blocked.is_empty();
        // A store that lost its marker has its folders.
        if top.is_empty() || is_marked || root.join("quarantine").is_dir() {
            return Ok(());
        }
        let refused = self.run_describe(root).ok().filter(|described| !described.status.success());
        match refused.and_then(|refused| refused.status.code()).and_then(|code| u8::try_from(code).ok()) {
            Some(code) => Err(CommandError::reported(Exit::code_of_child(code))),
            None => Ok(()),
        }
    }

    /// Returns the gate of a store.
    pub(crate) fn gate<'g>(&'g self, root: &'g Path, migrator: &'g Migrator) -> Gate<'g> {
        Gate { root, current: &self.app.layout, migrator }
    }

    /// Returns the program that upgrades the store, as far as the configuration allows it to run.
    pub(crate) fn migrator(&self) -> Result<Migrator, CommandError> {
        if !self.may_migrate()? {
            return Ok(NO_MIGRATOR);
        }
        // The gate names the store itself.
        let common = Common { store: None, ..self.global.common.clone() };
        Ok(Migrator::Beside { name: MIGRATOR, arguments: common.handed_on() })
    }

    /// Returns whether the configuration allows to run the migrator.
    pub(crate) fn may_migrate(&self) -> Result<bool, CommandError> {
        let auto_migrate = if self.global.no_migrate { Some(false) } else { self.global.auto_migrate };
        Ok(self.settings.auto_migrate(auto_migrate)?)
    }

    /// Returns the migrator for a command that needs an existing store. An empty or missing folder is an error: its
    /// path is most likely mistyped.
    pub(crate) fn migrator_of_existing(&self, root: &Path) -> Result<Migrator, CommandError> {
        // Reads the configuration first: an error in it is the more useful message.
        let migrator = self.migrator()?;
        let is_nothing = match std::fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if is_nothing {
            return Err(no_store(root));
        }
        Ok(migrator)
    }

    /// Passes the gate and opens an existing store for reading and writing.
    pub(crate) fn open(&self) -> Result<Store, CommandError> {
        self.open_checked(|| Ok(()))
    }

    /// Like [`Context::open`], with a check of the command's own configuration.
    pub(crate) fn open_checked(
        &self,
        check: impl Fn() -> Result<(), CommandError>,
    ) -> Result<Store, CommandError> {
        let root = self.root()?;
        let check = || check().and_then(|()| Ok(self.settings.check_named()?));
        let pass = self.pass(&root, check, || self.migrator_of_existing(&root))?;
        let migrator = self.migrator()?;
        let held = self.gate(&root, &migrator).hold(pass, Mode::ReadWrite)?;
        self.store_of(held)
    }

    /// Passes the gate and opens the store for reading and writing. A missing store is created.
    pub(crate) fn open_or_create(&self) -> Result<Store, CommandError> {
        let root = self.root()?;
        let pass = self.pass(&root, || Ok(self.settings.check_named()?), || self.migrator())?;
        let migrator = self.migrator()?;
        let held = self.gate(&root, &migrator).hold(pass, Mode::ReadWrite)?;
        self.store_of(held)
    }

    fn store_of(&self, held: Held) -> Result<Store, CommandError> {
        open_store(held, Mode::ReadWrite, self.settings, self.name)
    }

    /// Passes the gate, upgrades an existing store if it needs it, and opens it without a lock.
    pub(crate) fn upgrade_and_look(&self) -> Result<Store, CommandError> {
        let root = self.root()?;
        let check = || Ok(self.settings.check_named()?);
        let pass = self.pass(&root, check, || self.migrator_of_existing(&root))?;
        self.check_markers(&root)?;
        Ok(Store::look(&pass))
    }

    /// Checks that the store at the current layout has no other marker.
    fn check_markers(&self, root: &Path) -> Result<(), CommandError> {
        Ok(self.gate(root, &NO_MIGRATOR).check_markers()?)
    }

    /// Passes the gate without creating, upgrading or locking the store: nothing can be written through it.
    pub(crate) fn look(&self) -> Result<Store, CommandError> {
        let root = self.root()?;
        let pass = self.pass(
            &root,
            || Ok(self.settings.check_named()?),
            || {
                // Its error says first if there is no store at all.
                self.migrator_of_existing(&root).map(|_| NO_MIGRATOR)
            },
        )?;
        self.check_markers(&root)?;
        Ok(Store::look(&pass))
    }

    /// Opens the store, or only looks at it for a dry run.
    pub(crate) fn open_or_look(&self, is_dry_run: bool) -> Result<Store, CommandError> {
        if is_dry_run { self.look() } else { self.open() }
    }

    /// Lets SIGINT and SIGTERM stop the work between two versions. A second Ctrl-C ends the process at once.
    pub(crate) fn cancel(&self, store: &Store) -> Result<Cancel, CommandError> {
        let cancel = cancel_on_signals(&self.reporter, false)?;
        store.signals().handled_by_program();
        Ok(cancel)
    }
}

/// Fails if there is no folder of the store, for a command that works on a store in any state.
pub(crate) fn check_exists(root: &Path) -> Result<(), CommandError> {
    match root.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(no_store(root)),
        // Other errors are reported by the command when it reads the folder.
        _ => Ok(()),
    }
}

fn no_store(root: &Path) -> CommandError {
    let root = root.display();
    let error = CommandError::new(Exit::NOT_A_STORE, format!("there is no store in {root}"));
    error.help(format!(
        "set the folder of the store with --store, or create a store with `{MIGRATOR} --store {root}`"
    ))
}

/// Listens for SIGINT and SIGTERM. A second Ctrl-C ends the process at once, and the first says so on a terminal.
///
/// Below another program that waits, the second does not count: that program hands each signal on, so a single Ctrl-C
/// arrives twice.
pub(crate) fn cancel_on_signals(reporter: &Reporter, is_below_another: bool) -> Result<Cancel, CommandError> {
    let failed = |error| CommandError::new(Exit::IO, format!("cannot listen for signals: {error}"));
    if is_below_another || !std::io::stderr().is_terminal() {
        let cancel = Cancel::on_signals().map_err(failed)?;
        if !is_below_another {
            cancel.end_on_second_interrupt().map_err(failed)?;
        }
        return Ok(cancel);
    }
    let cancel = Cancel::on(&[SIGTERM]).map_err(failed)?;
    // Before the second signal is armed, so that the first one is never lost.
    let mut signals = Signals::new([SIGINT]).map_err(failed)?;
    cancel.end_on_second_interrupt().map_err(failed)?;
    let (screen, cancelled) = (reporter.progress().screen().clone(), cancel.clone());
    let tell = move || {
        if signals.forever().next().is_some() {
            let line = b"stopping; press Ctrl-C again to stop at once\n";
            let _ = screen.suspend(|| std::io::stderr().lock().write_all(line));
            // After the line, which would otherwise follow the error that ends the process.
            cancelled.cancel(SIGINT);
        }
    };
    if let Err(error) = std::thread::Builder::new().spawn(tell) {
        // Without a thread only this line is missing.
        parallel::warn(&error);
        return Cancel::on_signals().map_err(failed);
    }
    Ok(cancel)
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<GateError> for CommandError {
    fn from(error: GateError) -> Self {
        if error.is_reported() { Self::reported(error.exit()) } else { Self::new(error.exit(), error) }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<PathError> for CommandError {
    fn from(error: PathError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<StepError> for CommandError {
    fn from(error: StepError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<LockError> for CommandError {
    fn from(error: LockError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<LastUseError> for CommandError {
    fn from(error: LastUseError) -> Self {
        match error {
            LastUseError::Store(error) => error.into(),
            error => Self::new(Exit::IO, error),
        }
    }
}

impl From<Cancelled> for CommandError {
    fn from(cancelled: Cancelled) -> Self {
        Self::new(Exit::signal(cancelled.0), cancelled)
    }
}
