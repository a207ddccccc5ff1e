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
pub(super) mod source;
pub(super) mod tree;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::{Cancel, Exit, parallel};

use super::Command;
use super::bucket::{OnBucket, OpenBucket};
use super::context::{Context, NO_MIGRATOR, cancel_on_signals};
use super::error::CommandError;
use super::overlap::overlap;
use super::progress::Progress;
use super::report::{Telling, Working};
use report::{ExportDone, ExportResult, Report};
use source::{Source, StoreSource};
use tree::{Put, Tree};

/// Write all versions of the store or the bucket as a GOPROXY tree, for a static file server or file://
#[derive(Debug, Args)]
#[command(after_help = "\
DIR is created if it is missing. If it holds an earlier export, only missing versions are added. The export can run \
while DIR is served and while a server uses the store. If it is stopped, the next run continues. DIR also gets the \
answers of the checksum database about the confirmed versions, so that the go command verifies them without a \
network.

From a bucket, every zip is read completely before it gets its place, and nothing is written to the bucket. The answers \
of the checksum database come from the cache of the store of this machine, if there is one.

Examples:
  stoa export /srv/modules
  stoa export /srv/modules --bucket s3://modules/go
  GOPROXY=file:///srv/modules go build

Exit codes: 0 success; 1 a version is corrupt, or DIR has other content for it; 69 the bucket cannot be reached; 73 DIR is \
not an export; 74 a version cannot be read; 130, 143 stopped.")]
pub(crate) struct Export {
    /// Folder to write to
    #[arg(value_name = "DIR")]
    to: PathBuf,

    #[command(flatten)]
    on: OnBucket,

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
        if let Some(bucket) = context.bucket(&self.on)? {
            return self.run_on(&bucket, threads, context);
        }
        let (root, to) = (context.root()?, &self.to);
        let progress = context.reporter.progress();
        let store =
            Arc::new(context.open_checked(|| check_places(Some(&root), to))?.metered(progress.meter()));
        let cancel = context.cancel(&store)?;
        let source = StoreSource { store: &store, meter: progress.meter() };
        let work = Work { source: &source, name: root.display().to_string(), threads, cancel: &cancel };
        work.run(to, context, |tree, report| {
            proofs::export(context, &store, &proofs::confirmed(&store)?, tree, &cancel, report)
        })
    }
}

impl Export {
    fn run_on(
        &self,
        bucket: &OpenBucket,
        threads: usize,
        context: &Context<'_>,
    ) -> Result<ExportDone, CommandError> {
        // The files of an export must not be in a store of this machine.
        check_places(context.root().ok().as_deref(), &self.to)?;
        let cancel = cancel_on_signals(&context.reporter, false)?;
        let source = bucket.exported(context.reporter.progress().meter());
        let work = Work { source: &source, name: bucket.to_string(), threads, cancel: &cancel };
        work.run(&self.to, context, |tree, report| {
            let confirmed = source.confirmed();
            if confirmed.is_empty() {
                return Ok(());
            }
            // The export of the bucket is complete without it. An old store is not upgraded for it.
            let is_current =
                context.root().is_ok_and(|root| context.gate(&root, &NO_MIGRATOR).pass().is_ok());
            match is_current.then(|| context.open()) {
                Some(Ok(store)) => {
                    proofs::export(context, &Arc::new(store), &confirmed, tree, &cancel, report)
                }
                not_open => {
                    let error = not_open.and_then(Result::err).and_then(|error| error.message);
                    context.reporter.warning(format_args!(
                        "the answers of the checksum database are not exported: they are in the cache of a store, and {}",
                        error.as_deref().unwrap_or("there is no current store on this machine")
                    ));
                    Ok(())
                }
            }
        })
    }
}

/// An export of all versions of a place.
struct Work<'a> {
    source: &'a dyn Source,
    name: String,
    threads: usize,
    cancel: &'a Cancel,
}

impl Work<'_> {
    /// Exports all versions. `more` adds to the tree afterwards.
    fn run(
        &self,
        to: &Path,
        context: &Context<'_>,
        more: impl FnOnce(&Tree, &Report<'_>) -> Result<(), CommandError>,
    ) -> Result<ExportDone, CommandError> {
        let progress = context.reporter.progress();
        let report = Report::new(&context.reporter, self.name.clone(), to.display().to_string());
        let stay =
            |error: CommandError| error.after(format_args!("exported versions stay in {}", to.display()));
        Tree::check(to)?;
        let tree = Tree::open(to).map_err(stay)?;
        progress.begin_in_passes("export", None, tree::PASSES);
        self.export(&tree, &report, progress).map_err(stay)?;
        more(&tree, &report).map_err(stay)?;
        Ok(report.done())
    }

    fn export(&self, tree: &Tree, report: &Report<'_>, progress: &Progress) -> Result<(), CommandError> {
        let Self { source, threads, cancel, .. } = *self;
        let one = |version: ModuleVersion| -> Result<(), CommandError> {
            cancel.check()?;
            export_version(source, tree, &version, report)
        };
        let lists = |module: ModulePath| -> Result<(), CommandError> {
            cancel.check()?;
            tree.list(&module)
        };
        let all = || {
            parallel::each((threads, parallel::AHEAD), |each| source.each_version(each), &one)?;
            tree.settle(|version, bytes| report.version(version, ExportResult::Exported(bytes)))?;
            parallel::each((threads, parallel::AHEAD), |each| each_module(source, each), &lists)?;
            tree.settle(|_, _| {})?;
            tree.finish()
        };
        std::thread::scope(|scope| {
            if progress.is_bar() {
                // The count takes a fraction of the time: no zip is opened for it.
                parallel::start(scope, || progress.count(|each| source.each_version(each)));
            }
            let done = all();
            progress.end();
            done
        })
    }
}

/// Refuses a file, and a folder that overlaps the store.
fn check_places(root: Option<&Path>, to: &Path) -> Result<(), CommandError> {
    let refuse = |reason: &str| {
        let text = format!("cannot export to {}: {reason}; nothing was written", to.display());
        Err(CommandError::new(Exit::CANT_CREATE, text).help("choose another folder"))
    };
    if to.metadata().is_ok_and(|meta| !meta.is_dir()) {
        return refuse("it is not a folder");
    }
    root.and_then(|root| overlap(to, root)).map_or(Ok(()), |overlap| refuse(&overlap.to_string()))
}

/// Calls `each` once for every module.
fn each_module(
    source: &dyn Source,
    each: &mut dyn FnMut(ModulePath) -> ControlFlow<()>,
) -> Result<(), CommandError> {
    let mut last = None;
    // The versions of a module come one after the other.
    source.each_version(&mut |version| {
        if last.as_ref() == Some(version.path()) {
            return ControlFlow::Continue(());
        }
        last = Some(version.path().clone());
        each(version.path().clone())
    })?;
    Ok(())
}

fn export_version(
    source: &dyn Source,
    tree: &Tree,
    version: &ModuleVersion,
    report: &Report<'_>,
) -> Result<(), CommandError> {
    match source.put(tree, version)? {
        Put::Kept(bytes) => report.version(version, ExportResult::Kept(bytes)),
        Put::Differs(reason) => report.version(version, ExportResult::Differs(&reason)),
        Put::Unreadable(reason) => report.version(version, ExportResult::Unreadable(&reason)),
        Put::Corrupt(reason) => report.version(version, ExportResult::Corrupt(&reason)),
        // A version that is written is reported when it is published.
        Put::Written | Put::Absent => {}
        Put::Full(batch) => {
            tree.publish(batch, |version, bytes| report.version(version, ExportResult::Exported(bytes)))?;
        }
    }
    Ok(())
}
