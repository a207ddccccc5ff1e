//! `stoa-migrate import`: copies versions from another store, a tree or the go command's cache into a store.
//!
//! The source may be in use. It is neither locked nor changed. A version is published as after a download: copied into
//! staging (sharing blocks if the file system can), read completely, sealed, and made visible with one rename. A batch of
//! versions shares one sync. The store may be in use too: the import waits for a version that another process downloads.
//!
//! A version that exists already is compared: go.mod and zip byte by byte, and different zips by their hashes. A second
//! run reads both sides once and writes nothing.

mod report;
mod source;
mod work;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use stoa_layout::gate::{GateError, Mode};
use stoa_layout::inventory::Found;
use stoa_layout::signals::Cancelled;
use stoa_layout::{
    Cancel, Events, Exit, Gate, Layouts, Migrator, Options, Outcome, PathError, RunError, Runner, State,
    StepError,
};
use stoa_store::{Store, StoreError};

use crate::command::overlap::{Overlap, overlap};
use crate::command::parallel;
use crate::command::progress::Progress;
pub(super) use report::Report;
use source::{Item, Origin};
use work::Work;

/// An import: source, target and options.
pub(super) struct Import<'a> {
    pub(super) root: &'a Path,
    pub(super) source: &'a Path,
    pub(super) layouts: &'a Layouts,
    /// Options of the upgrade of the store.
    pub(super) options: &'a Options,
    /// The layout of the source, named by a person.
    pub(super) assumed: Option<&'a stoa_layout::LayoutId>,
    pub(super) dry_run: bool,
    pub(super) cancel: &'a Cancel,
    pub(super) events: &'a dyn Events,
    pub(super) progress: &'a Progress,
}

/// The import stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// The import was refused. Nothing was copied.
    #[error("{message}")]
    Refused { exit: Exit, message: String },
    /// The upgrade of the store failed.
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<PathError> for ImportError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

impl ImportError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Refused { exit, .. } => *exit,
            Self::Run(error) => error.exit(),
            Self::Gate(error) => error.exit(),
            Self::Store(error) => error.exit(),
            Self::Step(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
        }
    }

    /// Returns whether another run continues the import.
    pub(super) fn is_resumable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Run(_) | Self::Gate(_))
    }
}

/// Stops a walk after a thread has failed. The error of the thread is reported instead.
const THREAD_FAILED: StepError = StepError::Cancelled(Cancelled(0));

impl Import<'_> {
    /// Imports all versions. Returns `false` if there is no store to import into.
    pub(super) fn run(&self, report: &Report<'_>) -> Result<bool, ImportError> {
        let from = self.find()?;
        self.check_places()?;
        let store = if self.dry_run { self.look()? } else { self.open()? };
        match store {
            Open::Nothing => return Ok(false),
            Open::NoStore => self.copy(&from, None, report)?,
            Open::Store(store) => self.copy(&from, Some(&store), report)?,
        }
        Ok(true)
    }

    fn copy(&self, from: &Origin<'_>, store: Option<&Store>, report: &Report<'_>) -> Result<(), ImportError> {
        let batch = match store {
            Some(store) if !self.dry_run => Some(store.batch()?),
            _ => None,
        };
        let name = if self.dry_run { "would import" } else { "import" };
        self.progress.begin_in_passes(name, None, work::PASSES);
        let work = Work::new(self.root, store, batch, self.cancel, report, self.progress.meter());
        let copy = || -> Result<(), ImportError> {
            parallel::each(
                self.options.threads,
                |each| {
                    from.take(&mut |found| {
                        self.cancel.check()?;
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
                    .map_err(ImportError::from)
                },
                &|item| work.one(item),
            )?;
            work.finish()
        };
        // A dry run without a store only counts.
        if store.is_none() || !self.progress.is_bar() {
            return copy();
        }
        // The count takes a fraction of the time: no file is opened for it.
        std::thread::scope(|scope| {
            scope.spawn(|| self.progress.count(|each| from.count(each)));
            let copied = copy();
            self.progress.end();
            copied
        })
    }

    /// Recognises the source.
    fn find(&self) -> Result<Origin<'_>, ImportError> {
        let (source, layouts) = (self.source, self.layouts);
        let name = source.display();
        let refuse = |exit, message| Err(ImportError::Refused { exit, message });
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

    fn check_places(&self) -> Result<(), ImportError> {
        let why = match overlap(self.source, self.root) {
            None => return Ok(()),
            Some(Overlap::Same) => "it is the store itself",
            Some(Overlap::Inside) => "it is inside the store",
            Some(Overlap::Around) => "the store is inside it",
        };
        let (source, root) = (self.source.display(), self.root.display());
        let message = format!(
            "cannot import {source} into {root}: {why}; nothing was changed\nhelp: set another store with --store"
        );
        Err(ImportError::Refused { exit: Exit::USAGE, message })
    }

    fn runner(&self) -> Runner<'_> {
        Runner {
            root: self.root,
            layouts: self.layouts,
            options: self.options,
            events: self.events,
            cancel: self.cancel,
        }
    }

    fn gate(&self) -> Gate<'_> {
        Gate {
            root: self.root,
            current: &self.layouts.current,
            migrator: &Migrator::Forbidden { name: "stoa-migrate" },
        }
    }

    /// Creates or upgrades the store, and opens it.
    fn open(&self) -> Result<Open, ImportError> {
        if self.runner().run()? == Outcome::NoStore {
            return Ok(Open::Nothing);
        }
        let gate = self.gate();
        let held = gate.hold(gate.pass()?, Mode::ReadWrite)?;
        let store = Store::open(held, Mode::ReadWrite)?.metered(self.progress.meter());
        Ok(Open::Store(Box::new(store)))
    }

    /// Opens the store for a dry run. A store at an older layout is not opened.
    fn look(&self) -> Result<Open, ImportError> {
        match self.gate().pass() {
            Ok(pass) => Ok(Open::Store(Box::new(Store::look(&pass).metered(self.progress.meter())))),
            Err(GateError::Forbidden { .. }) => {
                let is_planned = self.runner().plan()?;
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
    Store(Box<Store>),
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
