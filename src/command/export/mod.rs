//! `stoa export`: writes all versions as a tree of files for a static file server or `file://`.
//!
//! ```text
//! DIR/
//!   .stoa-export/lock            marks an export; temporary files lie beside it
//!   ESCAPED/@v/VERSION.mod
//!   ESCAPED/@v/VERSION.zip
//!   ESCAPED/@v/VERSION.info      the last file of a version: with it the version exists
//!   ESCAPED/@v/list              the tagged versions, one per line
//!   sumdb/NAME/                  the answers of the checksum database, see `proofs`
//!   ESCAPED/@latest              the info of the latest version, or of the newest pseudo-version
//! ```
//!
//! A file is written under a temporary name, synced together with others, and renamed. It never replaces another file,
//! except `list`, `@latest` and those below `sumdb/`, which are derived. A server of DIR therefore serves complete files only, and an
//! export that was killed continues where it was. Every version is sealed before it is exported.

mod proofs;
mod report;
mod tree;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::{Cancel, Exit, parallel};
use stoa_store::Store;

use super::Command;
use super::context::Context;
use super::error::CommandError;
use super::overlap::overlap;
use super::progress::Progress;
use super::report::{Telling, Working};
use report::{ExportDone, ExportResult, Report};
use tree::{Put, Tree};

/// Write all versions as a GOPROXY tree, for a static file server or file://
#[derive(Debug, Args)]
#[command(after_help = "\
DIR is created if it is missing. If it holds an earlier export, only missing versions are added. The export can run \
while DIR is served and while a server uses the store. If it is stopped, the next run continues. DIR also gets the \
answers of the checksum database about the confirmed versions, so that the go command verifies them without a \
network.

Examples:
  stoa export /srv/modules
  GOPROXY=file:///srv/modules go build

Exit codes: 0 success; 1 a version is corrupt, or DIR has other content for it; 73 DIR is not an export; 74 a version \
cannot be read; 130, 143 stopped.")]
pub(crate) struct Export {
    /// Folder to write to
    #[arg(value_name = "DIR")]
    to: PathBuf,

    #[command(flatten)]
    working: Working,
}

inventory::submit!(super::Entry::new::<Export>("export", 100));

impl Command for Export {
    type Summary = ExportDone;

    fn telling(&self) -> Telling {
        self.working.telling
    }

    fn run(self, context: &Context<'_>) -> Result<ExportDone, CommandError> {
        let threads = context.threads(self.working.threads)?;
        let (root, to) = (context.root()?, &self.to);
        let progress = context.reporter.progress();
        let store = Arc::new(context.open_checked(|| check_places(&root, to))?.metered(progress.meter()));
        let cancel = context.cancel(&store)?;
        let report = Report::new(&context.reporter, root.display().to_string(), to.display().to_string());
        let stay =
            |error: CommandError| error.after(format_args!("exported versions stay in {}", to.display()));
        Tree::check(to)?;
        let tree = Tree::open(to, progress.meter()).map_err(stay)?;
        progress.begin_in_passes("export", None, tree::PASSES);
        export(&store, &tree, (threads, &cancel), &report, progress).map_err(stay)?;
        proofs::export(context, &store, &tree, &cancel, &report).map_err(stay)?;
        Ok(report.done())
    }
}

/// Refuses a file, and a folder that overlaps the store.
fn check_places(root: &Path, to: &Path) -> Result<(), CommandError> {
    let refuse = |reason: &str| {
        let text = format!("cannot export to {}: {reason}; nothing was written", to.display());
        Err(CommandError::new(Exit::CANT_CREATE, text).help("choose another folder"))
    };
    if to.metadata().is_ok_and(|meta| !meta.is_dir()) {
        return refuse("it is not a folder");
    }
    overlap(to, root).map_or(Ok(()), |overlap| refuse(&overlap.to_string()))
}

fn export(
    store: &Store,
    tree: &Tree,
    (threads, cancel): (usize, &Cancel),
    report: &Report<'_>,
    progress: &Progress,
) -> Result<(), CommandError> {
    let one = |version: ModuleVersion| -> Result<(), CommandError> {
        cancel.check()?;
        export_version(store, tree, &version, report)
    };
    let lists = |module: ModulePath| -> Result<(), CommandError> {
        cancel.check()?;
        tree.list(&module)
    };
    let all = || {
        parallel::each((threads, parallel::AHEAD), |each| Ok(store.each_version(each)?), &one)?;
        tree.settle(|version, bytes| report.version(version, ExportResult::Exported(bytes)))?;
        parallel::each((threads, parallel::AHEAD), |each| each_module(store, each), &lists)?;
        tree.settle(|_, _| {})?;
        tree.finish()
    };
    std::thread::scope(|scope| {
        if progress.is_bar() {
            // The count takes a fraction of the time: no zip is opened for it.
            parallel::start(scope, || progress.count(|each| store.each_version(each)));
        }
        let done = all();
        progress.end();
        done
    })
}

/// Calls `each` once for every module.
fn each_module(
    store: &Store,
    each: &mut dyn FnMut(ModulePath) -> ControlFlow<()>,
) -> Result<(), CommandError> {
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

fn export_version(
    store: &Store,
    tree: &Tree,
    version: &ModuleVersion,
    report: &Report<'_>,
) -> Result<(), CommandError> {
    match tree.put(store, version)? {
        Put::Kept(bytes) => report.version(version, ExportResult::Kept(bytes)),
        Put::Differs(reason) => report.version(version, ExportResult::Differs(&reason)),
        Put::Unreadable(error) => report.version(version, ExportResult::Unreadable(&error.to_string())),
        Put::Corrupt => {
            let reason = "it is not exported; see the log and `stoa quarantine list`";
            report.version(version, ExportResult::Corrupt(reason));
        }
        // Reported when it is published.
        Put::Written => {}
        Put::Full(batch) => {
            tree.publish(batch, |version, bytes| report.version(version, ExportResult::Exported(bytes)))?;
        }
    }
    Ok(())
}
