//! `stoa-migrate import`: copies versions from another store, a tree or the go command's cache into a store.
//!
//! The source is read as it is, in use or not: nothing is locked and nothing written there. Each version is
//! published like a fill: copied into staging, by shared blocks where the file system can, read whole, sealed, and
//! made visible by one rename; the waits for the disk are shared by a batch. The store may be in use: a version
//! that another process is filling is waited for, and then it is there already.
//!
//! What is there already is compared: the go.mod and the zip byte for byte, and where the zips differ by their
//! hashes. So a second run reads both sides once and writes nothing.

mod source;
mod work;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use indicatif::HumanCount;
use serde_json::json;
use stoa_layout::gate::{GateError, Mode};
use stoa_layout::inventory::Found;
use stoa_layout::signals::Cancelled;
use stoa_layout::{
    Cancel, Events, Exit, Gate, Layouts, Migrator, Options, Outcome, PathError, RunError, Runner, State,
    StepError,
};
use stoa_store::{Store, StoreError};

use crate::command::copy::{CopyDone, CopyReport, Overlap, overlap};
use crate::command::parallel;
use source::{Item, Origin};
use work::Work;

/// What to copy, and where to.
pub(super) struct Import<'a> {
    pub(super) root: &'a Path,
    pub(super) source: &'a Path,
    pub(super) layouts: &'a Layouts,
    /// How to bring the store to the current layout first.
    pub(super) options: &'a Options,
    /// What a person says that the source is.
    pub(super) assumed: Option<&'a stoa_layout::LayoutId>,
    pub(super) dry_run: bool,
    pub(super) cancel: &'a Cancel,
    pub(super) events: &'a dyn Events,
}

/// The import did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// Nothing was copied.
    #[error("{message}")]
    Refused { exit: Exit, message: String },
    /// The store is not brought to the current layout.
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

    /// Whether it stopped in the middle, and goes on when it is run again.
    pub(super) fn is_resumable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Run(_) | Self::Gate(_))
    }
}

/// Stops a walk after a thread has failed; the thread's error is the one that is told.
const NOBODY_LISTENS: StepError = StepError::Cancelled(Cancelled(0));

impl Import<'_> {
    /// Copies, and tells what came of each version. Says whether there is a store to copy into.
    pub(super) fn run(&self, report: &CopyReport<'_>) -> Result<bool, ImportError> {
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

    fn copy(
        &self,
        from: &Origin<'_>,
        store: Option<&Store>,
        report: &CopyReport<'_>,
    ) -> Result<(), ImportError> {
        let batch = match store {
            Some(store) if !self.dry_run => Some(store.batch()?),
            _ => None,
        };
        let work = Work::new(self.root, store, batch, self.cancel, report);
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
                                return Err(NOBODY_LISTENS);
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
    }

    /// Finds out what the source is.
    fn find(&self) -> Result<Origin<'_>, ImportError> {
        let (source, layouts) = (self.source, self.layouts);
        let name = source.display();
        let refuse = |exit, message| Err(ImportError::Refused { exit, message });
        match source.metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                let message = format!("{name} is no folder; name a store, a tree or a module cache");
                return refuse(Exit::NOT_A_STORE, message);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return refuse(Exit::NOT_A_STORE, format!("{name} is not there; name what to import from"));
            }
            Err(error) => return Err(PathError::new("look at", source, error).into()),
        }
        let state = State::look_assuming(source, layouts, self.assumed)?;
        for known in &layouts.sources {
            if let Some(folder) = known.find(source, &state)? {
                return Ok(Origin::Source(known.as_ref(), folder));
            }
        }
        match (state.refusal(source, layouts), layouts.inventory.as_deref()) {
            (Some((exit, _)), _) if matches!(state, State::Foreign(_)) => {
                let message = format!(
                    "{name} holds nothing that is known: no whole version lies in it where an Athens store, a GOPROXY tree, \
                     the go command's module cache or a store of stoa would have it; nothing was imported. Name the \
                     store itself rather than a folder above or below it, or say with --from what it is"
                );
                refuse(exit, message)
            }
            (Some((exit, message)), _) => refuse(exit, message),
            (None, _) if state == State::Empty => {
                refuse(Exit::NOT_A_STORE, format!("{name} is empty; name what to import from"))
            }
            (None, Some(inventory)) => Ok(Origin::Store(inventory, state, source)),
            (None, None) => refuse(Exit::NOT_A_STORE, format!("{name} cannot be read by this program")),
        }
    }

    fn check_places(&self) -> Result<(), ImportError> {
        let why = match overlap(self.source, self.root) {
            None => return Ok(()),
            Some(Overlap::Same) => "it is the store itself",
            Some(Overlap::Inside) => "it lies in the store",
            Some(Overlap::Around) => "the store lies in it",
        };
        let (source, root) = (self.source.display(), self.root.display());
        let message = format!(
            "cannot import {source} into {root}: {why}; nothing was changed. Name another store with --store"
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

    /// Makes the store, or brings it to the current layout, and opens it.
    fn open(&self) -> Result<Open, ImportError> {
        if self.runner().run()? == Outcome::NoStore {
            return Ok(Open::Nothing);
        }
        let gate = self.gate();
        let held = gate.hold(gate.pass()?, Mode::ReadWrite)?;
        Ok(Open::Store(Box::new(Store::open(held, Mode::ReadWrite)?)))
    }

    /// Looks at the store as it is; where it is not at the current layout it is not looked into.
    fn look(&self) -> Result<Open, ImportError> {
        match self.gate().pass() {
            Ok(pass) => Ok(Open::Store(Box::new(Store::look(&pass)))),
            Err(GateError::Forbidden { .. }) => {
                let is_planned = self.runner().plan()?;
                Ok(if is_planned { Open::NoStore } else { Open::Nothing })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What there is to import into.
enum Open {
    /// None, and none was to be made.
    Nothing,
    /// None yet, for a dry run.
    NoStore,
    Store(Box<Store>),
}

/// What is told at the end, besides the counts.
pub(super) fn end(import: &Import<'_>, report: &CopyReport<'_>) -> CopyDone {
    let (source, root) = (import.source.display(), import.root.display());
    let dry = if import.dry_run { " (a dry run, nothing was written)" } else { "" };
    let count = |of: &std::sync::atomic::AtomicU64| of.load(std::sync::atomic::Ordering::Relaxed);
    let more = json!({
        "store": import.root.to_string_lossy(), "source": import.source.to_string_lossy(),
        "forbidden": count(&report.counts.forbidden), "leftovers": count(&report.counts.leftovers), "without_zip": count(&report.counts.aside),
        "dry_run": import.dry_run,
    });
    report.done(format_args!("from {source} into {root}{dry}"), more)
}

/// Says what was done by the time when it stopped, and what of it is undone.
pub(super) fn so_far(import: &Import<'_>, report: &CopyReport<'_>) -> String {
    let (source, root) = (import.source.display(), import.root.display());
    let carried = HumanCount(report.copied());
    let done = format!("{carried} versions were imported from {source} and stay in {root}");
    match report.waiting() {
        0 => done,
        waiting => format!("{done}, {} more were copied and are dropped again", HumanCount(waiting)),
    }
}

/// Is the code and the message for what is not as it should be, after an import that came to its end.
pub(super) fn what_is_wrong(import: &Import<'_>, report: &CopyReport<'_>) -> Option<(Exit, String)> {
    let (source, root) = (import.source.display(), import.root.display());
    let (failed, unreadable) = (HumanCount(report.failed()), HumanCount(report.unreadable()));
    let mut wrong = Vec::new();
    if report.problems() > 0 {
        let count = HumanCount(report.problems());
        wrong.push(format!(
            "{count} versions of {source} differ from those in {root} or are broken, see above; nothing of them was changed"
        ));
    }
    if report.failed() > 0 {
        wrong.push(format!(
            "{failed} versions of {source} could not be brought into {root}, see above; see why, then run again"
        ));
    }
    if wrong.is_empty() && report.unreadable() > 0 {
        let message = format!(
            "cannot read {unreadable} places in {source}, see above, so what is there is not in {root}; see why, then run again"
        );
        return Some((Exit::IO, message));
    }
    (!wrong.is_empty()).then(|| (Exit::FAILED, wrong.join("; ")))
}
