//! `stoa export`: the versions of a store as a tree of files that any static file server can serve, or `file://`.
//!
//! ```text
//! DIR/
//!   .stoa-export/lock            says that this is an export; what is being written lies beside it
//!   ESCAPED/@v/VERSION.mod
//!   ESCAPED/@v/VERSION.zip
//!   ESCAPED/@v/VERSION.info      last: with it the version is there
//!   ESCAPED/@v/list              tagged versions, one a line
//!   ESCAPED/@latest              the info of the latest, or of the newest pseudo-version
//! ```
//!
//! A file is written beside, synced together with others, and renamed, never over another one but for the last
//! two, which are derived from the rest. So whoever serves DIR meanwhile serves whole files, and an export that was
//! killed goes on where it was. Every version is sealed before: no broken zip goes out.

mod tree;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::gate::Mode;
use stoa_layout::lock::LockError;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit, Gate, Pass, PathError};
use stoa_store::{Store, StoreError};

use crate::carry::{Fate, Overlap, Report, Words, overlap};
use crate::command::error::CommandError;
use crate::command::report::Loudness;
use crate::parallel;
use crate::work_options::Working;
use tree::{Put, Tree};

/// What is typed.
#[derive(Debug, Args)]
#[command(
    after_help = "DIR is made if it is missing; else it is empty, or was exported to before: then what is there is kept, and \
                  what is missing is added. It may be served meanwhile, and stopped at any instant and run again. Exit \
                  code 1 if a version is broken, or another one is in DIR: that stands."
)]
pub(crate) struct Typed {
    /// Where to
    #[arg(value_name = "DIR")]
    to: PathBuf,

    #[command(flatten)]
    pub(crate) working: Working,
}

/// The export did not come to its end.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// Nothing was written.
    #[error("{message}")]
    Refused { exit: Exit, message: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ExportError {
    fn exit(&self) -> Exit {
        match self {
            Self::Refused { exit, .. } => *exit,
            Self::Store(error) => error.exit(),
            Self::Path(error) => error.exit(),
            Self::Lock(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
        }
    }
}

/// Exports what is in the store.
pub(crate) fn run(
    gate: &Gate<'_>,
    pass: Pass,
    typed: &Typed,
    threads: usize,
    loudness: Loudness,
) -> Result<Exit, CommandError> {
    check_places(gate.root, &typed.to)?;
    let held = gate.hold(pass, Mode::ReadWrite)?;
    let after_migration = held.pass().signals();
    let cancel = Cancel::on_signals().map_err(|error| {
        CommandError::new(Exit::IO, format!("cannot listen for signals: {error}; nothing was written"))
    })?;
    after_migration.handled_by_program();
    let store = Store::open(held, Mode::ReadWrite).map_err(|error| CommandError::new(error.exit(), error))?;
    let words = Words { work: "export", carried: "exported", kept: "kept" };
    let report = Report::new(words, typed.working.telling, loudness);
    let (to, root) = (typed.to.display(), gate.root.display());
    if let Err(error) = export(&store, &typed.to, threads, &cancel, &report) {
        report.end();
        let message = match &error {
            ExportError::Refused { .. } => error.to_string(),
            _ => format!("{error}; what was exported to {to} stays: run again to go on"),
        };
        return Err(CommandError::new(error.exit(), message));
    }
    let more = json!({ "store": gate.root.to_string_lossy(), "to": typed.to.to_string_lossy() });
    report.done(format_args!("from {root} to {to}"), more);
    match report.problems() {
        0 if report.unreadable() > 0 => {
            let message = format!(
                "cannot read {} versions of {root}, see above, so they are not in {to}; see why, then run again",
                report.unreadable()
            );
            Err(CommandError::new(Exit::IO, message))
        }
        0 => Ok(Exit::DONE),
        count => {
            let message = format!(
                "{count} versions of {root} are broken, or differ from what was exported to {to} before, see above; what \
                 is there stands: move a version that differs away, then run again"
            );
            Err(CommandError::new(Exit::FAILED, message))
        }
    }
}

/// Refuses what is no folder, and a folder that is part of the store.
fn check_places(root: &Path, to: &Path) -> Result<(), CommandError> {
    if to.metadata().is_ok_and(|meta| !meta.is_dir()) {
        let message = format!("{} is no folder; nothing was written. Name another place", to.display());
        return Err(CommandError::new(Exit::CANT_CREATE, message));
    }
    let why = match overlap(to, root) {
        None => return Ok(()),
        Some(Overlap::Same) => "it is the store itself",
        Some(Overlap::Inside) => "it lies in the store",
        Some(Overlap::Around) => "the store lies in it",
    };
    let message = format!(
        "cannot export {} to {}: {why}; nothing was written. Name another folder",
        root.display(),
        to.display()
    );
    Err(CommandError::new(Exit::CANT_CREATE, message))
}

fn export(
    store: &Store,
    to: &Path,
    threads: usize,
    cancel: &Cancel,
    report: &Report,
) -> Result<(), ExportError> {
    let tree = Tree::open(to)?;
    let one = |version: ModuleVersion| -> Result<(), ExportError> {
        cancel.check()?;
        version_to(store, &tree, &version, report)
    };
    parallel::each(threads, |each| Ok(store.each_version(each)?), &one)?;
    tree.settle(|version, bytes| report.version(version, Fate::Carried(bytes)))?;
    let lists = |module: ModulePath| -> Result<(), ExportError> {
        cancel.check()?;
        tree.list(&module)
    };
    parallel::each(threads, |each| modules(store, each), &lists)?;
    tree.settle(|_, _| {})?;
    tree.finish()
}

/// Hands out every module once.
fn modules(store: &Store, each: &mut dyn FnMut(ModulePath) -> ControlFlow<()>) -> Result<(), ExportError> {
    let mut last = None;
    // The versions of a module come one after the other.
    store.each_version(|version| {
        if last.as_ref() == Some(version.path()) {
            return ControlFlow::Continue(());
        }
        last = Some(version.path().clone());
        each(version.path().clone())
    })?;
    Ok(())
}

fn version_to(
    store: &Store,
    tree: &Tree,
    version: &ModuleVersion,
    report: &Report,
) -> Result<(), ExportError> {
    match tree.put(store, version)? {
        Put::Kept(bytes) => report.version(version, Fate::Kept(bytes)),
        Put::Differs(reason) => report.version(version, Fate::Differs(&reason)),
        Put::Unreadable(error) => report.version(version, Fate::Unreadable(&error.to_string())),
        Put::Broken => report.version(
            version,
            Fate::Broken(
                "it is not whole and is not exported; the log and stoa status say what became of it",
            ),
        ),
        // Told when it is there.
        Put::Written => {}
        Put::Full(batch) => {
            tree.publish(batch, |version, bytes| report.version(version, Fate::Carried(bytes)))?
        }
    }
    Ok(())
}
