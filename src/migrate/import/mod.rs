//! `stoa-migrate import`: copies versions from another store, a tree or the go command's cache into a store.
//!
//! The source may be in use. It is neither locked nor changed. A version is published as after a download: copied into
//! staging (sharing blocks if the file system can), read completely, sealed, and made visible with one rename. A batch of
//! versions shares one sync. The store may be in use too: the import waits for a version that another process downloads.
//!
//! A version that exists already is compared: go.mod and zip byte by byte, and different zips by their hashes. A second
//! run reads both sides once and writes nothing.

mod proofs;
mod report;
mod source;
mod work;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stoa_layout::gate::{GateError, Mode};
use stoa_layout::inventory::Found;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Exit, Gate, Migrator, Outcome, PathError, Runner, State, StepError, parallel};
use stoa_store::Store;

use super::failure;
use crate::command::context::open_store;
use crate::command::error::CommandError;
use crate::command::overlap::overlap;
use crate::command::progress::Progress;
use crate::config::Settings;
pub(super) use report::Report;
use source::{Item, Origin};
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

impl Import<'_> {
    /// Imports all versions. Returns `false` if there is no store to import into.
    pub(super) fn run(&self, report: &Report<'_>) -> Result<bool, CommandError> {
        let from = self.find()?;
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
        let copy = || -> Result<(), CommandError> {
            parallel::each(
                (self.runner.options.threads, parallel::AHEAD),
                |each| {
                    from.take(&mut |found| {
                        self.runner.cancel.check()?;
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
                &|item| work.one(item),
            )?;
            work.finish()
        };
        // A dry run without a store only counts.
        if store.is_none() || !progress.is_bar() {
            return copy();
        }
        // The count takes a fraction of the time: no file is opened for it.
        std::thread::scope(|scope| {
            parallel::start(scope, || progress.count(|each| from.count(each)));
            let copied = copy();
            progress.end();
            copied
        })
    }

    /// Recognises the source.
    fn find(&self) -> Result<Origin<'_>, CommandError> {
        let (source, layouts) = (self.source, self.runner.layouts);
        let name = source.display();
        let refuse = |exit, message| Err(CommandError::new(exit, message));
        match source.metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                let message = format!(
                    "cannot import {name}: it is not a folder\nhelp: use the folder of a store, a GOPROXY tree or a module cache"
                );
                return refuse(Exit::NOT_A_STORE, message);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!(
                    "cannot import {name}: no such folder\nhelp: use the folder of a store, a GOPROXY tree or a module cache"
                );
                return refuse(Exit::NOT_A_STORE, message);
            }
            Err(error) => return Err(PathError::new("stat", source, error).into()),
        }
        let state = State::look_assuming(source, layouts, self.assumed)?;
        for known in &layouts.sources {
            match known.find(source, &state)? {
                // The command must not read a large folder because of a mistyped path.
                Some(folder) if is_far_below(source, &folder) => {
                    let message = format!(
                        "cannot import {name}: it is not a module cache\nhelp: did you mean {}?",
                        module_cache(&folder).display()
                    );
                    return refuse(Exit::NOT_A_STORE, message);
                }
                Some(folder) => return Ok(Origin::Source(known.as_ref(), folder)),
                None => {}
            }
        }
        match (state.refusal(source, layouts), layouts.inventory.as_deref()) {
            (Some((exit, _)), _) if matches!(state, State::Foreign(_)) => {
                let message = format!(
                    "cannot import {name}: it is not a store of Stoa or Athens, a GOPROXY tree or a module cache\n\
                     help: use the folder of the store itself, not a folder above or below it, or set its layout with --from"
                );
                refuse(exit, message)
            }
            (Some((exit, message)), _) => refuse(exit, message),
            (None, _) if state == State::Empty => {
                refuse(Exit::NOT_A_STORE, format!("cannot import {name}: it is empty"))
            }
            (None, Some(inventory)) => Ok(Origin::Store(inventory, state, source)),
            (None, None) => {
                refuse(Exit::NOT_A_STORE, format!("cannot import {name}: this program cannot read it"))
            }
        }
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

/// Returns whether a module cache was found below the folders that are a module cache themselves: `GOMODCACHE` and its
/// `cache/download`.
fn is_far_below(source: &Path, found: &Path) -> bool {
    found != source && found != source.join("cache/download")
}

/// Returns the module cache of its folder `cache/download`.
fn module_cache(folder: &Path) -> PathBuf {
    let cache = folder.ends_with("cache/download").then(|| folder.parent()?.parent()).flatten();
    cache.unwrap_or(folder).to_owned()
}
