//! Events of the runner, for a progress bar, a log or JSON lines.

use std::path::{Path, PathBuf};

use crate::LayoutId;
use crate::lock::Holder;
use crate::plan::PlannedStep;

/// A path that a step leaves in place, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The path.
    pub path: PathBuf,
    /// Size in bytes of the file, or of all files below the folder.
    pub bytes: u64,
    /// The reason.
    pub reason: String,
}

/// One event.
#[derive(Debug)]
pub enum Event<'a> {
    /// The plan of the run.
    Plan {
        /// The root of the store.
        root: &'a Path,
        /// The target layout.
        target: &'a LayoutId,
        /// The layout of a new store, if one is created.
        creates: Option<&'a LayoutId>,
        /// The layout whose lost marker is restored first.
        restores: Option<&'a LayoutId>,
        /// The steps in order.
        steps: &'a [PlannedStep],
    },
    /// The run waits for another process that holds the lock.
    Waiting {
        /// The processes that hold the lock, as far as the system reports them.
        holders: &'a [Holder],
    },
    /// A step begins or resumes.
    StepBegin(&'a PlannedStep),
    /// Progress of the current step.
    Progress {
        /// Items moved so far.
        items: u64,
        /// Bytes of these items.
        bytes: u64,
    },
    /// Progress of the check of a store whose marker is lost. The first ones have no items.
    Check {
        /// The layout of the store.
        layout: &'a LayoutId,
        /// Items checked so far.
        items: u64,
        /// The number of all items, if it is known.
        total: Option<u64>,
    },
    /// A leftover stays in place.
    Leftover(&'a Leftover),
    /// A problem that does not stop the run.
    Warning(String),
    /// A step is complete and its marker is written.
    StepEnd {
        /// The layout before the step.
        from: &'a LayoutId,
        /// The layout after the step.
        to: &'a LayoutId,
        /// Items moved.
        items: u64,
        /// Bytes of these items.
        bytes: u64,
        /// Reported leftovers.
        leftovers: u64,
    },
    /// Files of the program at a layout without a marker, which other programs use. A downgrade keeps them, and
    /// cleaning removes them.
    Remains {
        /// The root.
        root: &'a Path,
        /// The layout.
        layout: &'a LayoutId,
        /// Their paths.
        paths: &'a [PathBuf],
        /// Whether they are removed, and not kept.
        is_removed: bool,
    },
    /// A new store is created.
    Created(&'a LayoutId),
    /// The lost marker of a store is restored.
    Restored(&'a LayoutId),
}

/// Receives events, possibly from several threads at once.
pub trait Events: Sync {
    /// Receives one event.
    fn event(&self, event: Event<'_>);

    /// Returns whether a total is worth another walk over the store.
    fn wants_totals(&self) -> bool {
        false
    }
}

/// Drops all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn event(&self, _: Event<'_>) {}
}
