//! What the runner tells while it works, for a progress bar, a log or JSON lines.

use std::path::{Path, PathBuf};

use crate::step::{Direction, Survey};
use crate::{LayoutId, lock::Holder};

/// Something that a step leaves where it is, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes, all files below it counted.
    pub bytes: u64,
    /// Why it is left.
    pub reason: String,
}

/// One step of a plan.
#[derive(Debug, Clone)]
pub struct PlannedStep {
    /// The layout before.
    pub from: LayoutId,
    /// The layout after; the same for a regeneration.
    pub to: LayoutId,
    /// Up or back.
    pub direction: Direction,
    /// What the step says of itself.
    pub description: String,
    /// Whether it has begun already and is taken up again.
    pub resumes: bool,
    /// What there is to do. Known for the first step of a plan, the only one whose tree is there to be looked
    /// at.
    pub survey: Option<Survey>,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// What will be done.
    Plan {
        /// The folder.
        root: &'a Path,
        /// The layout that it is brought to.
        target: &'a LayoutId,
        /// Whether a folder that holds nothing yet is made a store.
        creates: Option<&'a LayoutId>,
        /// The steps in their order.
        steps: &'a [PlannedStep],
    },
    /// Another process holds the lock.
    Waiting {
        /// The processes that hold it, as far as the system tells.
        holders: &'a [Holder],
    },
    /// A step begins, or goes on.
    StepBegin(&'a PlannedStep),
    /// So much of the step is done.
    Progress {
        /// Items that are done, of those that the survey counted.
        items: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Something stays where it is.
    Leftover(&'a Leftover),
    /// Something that is not right, and does not stop the work.
    Warning(String),
    /// A step is complete and its marker is written.
    StepEnd {
        /// The layout before.
        from: &'a LayoutId,
        /// The layout now.
        to: &'a LayoutId,
        /// Items moved.
        items: u64,
        /// Their bytes.
        bytes: u64,
        /// Leftovers told.
        leftovers: u64,
    },
    /// An empty folder is a store now.
    Created(&'a LayoutId),
}

/// Takes events, from several threads at once.
pub trait Events: Sync {
    /// Takes one.
    fn event(&self, event: Event<'_>);
}

/// Takes events and drops them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn event(&self, _: Event<'_>) {}
}
