//! `stoa-migrate import`: copies versions from another store, a tree or the go command's cache into a store.
//!
//! The source may be in use. It is neither locked nor changed. A version is published as after a download: copied into
//! staging (sharing blocks if the file system can), read completely, sealed, and made visible with one rename. A batch of
//! versions shares one sync. The store may be in use too: the import waits for a version that another process downloads.
//!
//! A version that exists already is compared: go.mod and zip byte by byte, and different zips by their hashes. A second
//! run reads both sides once and writes nothing.
//!
//! The import into a bucket is in `bucket`.

mod bucket;
mod proofs;
mod report;
mod source;
mod work;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use stoa_layout::gate::{GateError, Mode};
use stoa_layout::inventory::Found;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit, Gate, Migrator, Outcome, Runner, StepError, parallel};
use stoa_store::Store;

use super::failure;
use crate::command::context::open_store;
use crate::command::error::CommandError;
use crate::command::overlap::overlap;
use crate::command::progress::Progress;
use crate::config::Settings;
pub(super) use bucket::BucketImport;
pub(super) use report::Report;
use source::Item;
pub(super) use source::Origin;
use work::Work;

/// An import: source, target and options.
pub(super) struct Import<'a> {
    /// Creates or upgrades the store.
    pub(super) runner: Runner<'a>,
    pub(super) source: &'a Path,
    /// Names the checksum database.
    pub(super) settings: &'a Settings<'a>,
    /// The layout of the source, named by a person.
    pub(super) assumed: Option<&'a stoa_layout::LayoutId>,
    pub(super) dry_run: bool,
    pub(super) progress: &'a Progress,
}

/// Stops a walk after a thread has failed. The error of the thread is reported instead.
const THREAD_FAILED: StepError = StepError::Cancelled(Cancelled(0));

/// A walk over the versions of a source, with several threads.
struct Walk<'a> {
    from: &'a Origin<'a>,
    threads: usize,
    cancel: &'a Cancel,
    report: &'a Report<'a>,
    progress: &'a Progress,
    /// Whether a progress bar shows the number of versions. A walk that only counts shows none.
    is_counted: bool,
}

impl Walk<'_> {
    /// Passes each version to `one`, and reports everything else. `finish` is called after the last version.
    fn run(
        &self,
        one: &(dyn Fn(Item) -> Result<(), CommandError> + Sync),
        finish: impl Fn() -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let all = || self.each(one).and_then(|()| finish());
        if !self.is_counted || !self.progress.is_bar() {
            return all();
        }
        // The count takes a fraction of the time: no file is opened for it.
        std::thread::scope(|scope| {
            parallel::start(scope, || self.progress.count(|each| self.from.count(each)));
            let done = all();
            self.progress.end();
            done
        })
    }

    fn each(&self, one: &(dyn Fn(Item) -> Result<(), CommandError> + Sync)) -> Result<(), CommandError> {
        let Self { from, threads, cancel, report, .. } = *self;
        parallel::each(
            (threads, parallel::AHEAD),
            |each| {
                from.take(&mut |found| {
                    cancel.check()?;
                    match found {
                        Found::Leftover { leftover, .. } => report.leftover(leftover),
                        Found::Aside { leftover } => report.aside(leftover),
                        Found::Whole { name, files, bytes, .. } => {
                            let item = Item::of(&name.to_string(), files, bytes);
                            if item.is_some_and(|item| each(item) == ControlFlow::Break(())) {
                                return Err(THREAD_FAILED);
                            }
                        }
                    }
                    Ok(())
                })
                .map_err(CommandError::from)
            },
            one,
        )
    }
}

impl Import<'_> {
    /// Imports all versions. Returns `false` if there is no store to import into.
    pub(super) fn run(&self, report: &Report<'_>) -> Result<bool, CommandError> {
        let from = Origin::find(self.source, self.runner.layouts, self.assumed)?;
        self.check_places()?;
        let store = if self.dry_run { self.look()? } else { self.open()? };
        let copied = match store {
            Open::Nothing => return Ok(false),
            Open::NoStore => self.copy(&from, None, report),
            Open::Store(store) => self.copy(&from, Some(&store), report).and_then(|()| match &from {
                Origin::Source(_, folder) if !self.dry_run => {
                    proofs::import(self.settings, folder, &store, self.runner.cancel, report)
                }
                _ => Ok(()),
            }),
        };
        copied.map(|()| true).map_err(|error| error.after(report.so_far()))
    }

    fn copy(
        &self,
        from: &Origin<'_>,
        store: Option<&Store>,
        report: &Report<'_>,
    ) -> Result<(), CommandError> {
        let batch = match store {
            Some(store) if !self.dry_run => Some(store.batch()?),
            _ => None,
        };
        let progress = self.progress;
        let name = if self.dry_run { "would import" } else { "import" };
        progress.begin_in_passes(name, None, work::PASSES);
        let work = Work::new(self.runner.root, store, batch, self.runner.cancel, report, progress.meter());
        let is_counted = store.is_some();
        let walk = Walk {
            from,
            threads: self.runner.options.threads,
            cancel: self.runner.cancel,
            report,
            progress,
            is_counted,
        };
        walk.run(&|item| work.one(item), || work.finish())
    }

    fn check_places(&self) -> Result<(), CommandError> {
        let Some(why) = overlap(self.source, self.runner.root) else { return Ok(()) };
        let (source, root) = (self.source.display(), self.runner.root.display());
        let message = format!(
            "cannot import {source} into {root}: {why}; nothing was changed\nhelp: set another store with --store"
        );
        Err(CommandError::new(Exit::USAGE, message))
    }

    fn gate(&self) -> Gate<'_> {
        Gate {
            root: self.runner.root,
            current: &self.runner.layouts.current,
            migrator: &Migrator::Forbidden { name: "stoa-migrate" },
        }
    }

    /// Creates or upgrades the store, and opens it.
    fn open(&self) -> Result<Open, CommandError> {
        if self.runner.run().map_err(|error| failure(self.runner.root, &error))? == Outcome::NoStore {
            return Ok(Open::Nothing);
        }
        let gate = self.gate();
        let held = gate.hold(gate.pass()?, Mode::ReadWrite)?;
        let store = open_store(held, Mode::ReadWrite, self.settings, "import")?;
        Ok(Open::Store(Arc::new(store.metered(self.progress.meter()))))
    }

    /// Opens the store for a dry run. A store at an older layout is not opened.
    fn look(&self) -> Result<Open, CommandError> {
        match self.gate().pass() {
            Ok(pass) => Ok(Open::Store(Arc::new(Store::look(&pass).metered(self.progress.meter())))),
            Err(GateError::Forbidden { .. }) => {
                let is_planned = self.runner.plan().map_err(|error| failure(self.runner.root, &error))?;
                Ok(if is_planned { Open::NoStore } else { Open::Nothing })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The target of an import.
enum Open {
    /// No store, and none was to be created.
    Nothing,
    /// No store yet, in a dry run.
    NoStore,
    Store(Arc<Store>),
}
