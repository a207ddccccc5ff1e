//! The values that describe a tool's layouts: the steps between them, how to recognise a folder without a marker,
//! and the files that are derived from the rest.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::events::{Event, Events, Leftover};
use crate::lock::ExclusiveLock;
use crate::signals::{Cancel, Cancelled};
use crate::{Exit, Inventory, LayoutId, PathError, Source};

pub use crate::plan::{Direction, Refusal, Survey};

/// One step between two layouts.
///
/// A step is frozen. It has its own picture of both layouts and calls no code that may change later.
///
/// * `apply` and `revert` move items by renames within the file system and never overwrite
///   ([`crate::durable::rename_noreplace`]).
/// * Both may be interrupted at any instant and run again. The tree itself shows what is done. Any mixture of the two
///   layouts is a valid start for both.
/// * Incomplete, foreign and odd files stay in place and are reported as leftovers.
pub trait Step: Sync {
    /// Returns the older layout.
    fn from(&self) -> LayoutId;
    /// Returns the newer layout.
    fn to(&self) -> LayoutId;
    /// Returns one line that says what going up does.
    fn description(&self) -> &str;
    /// Counts the work and finds what forbids it. Changes nothing.
    fn survey(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError>;
    /// Looks at the tree before a run. It must find what forbids the step. The counts may be an estimate; leftovers
    /// are then reported by the first pass.
    fn prepare(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError> {
        self.survey(root, direction, work)
    }
    /// Finds what forbids a step that has begun to go on in the same direction. A run that is killed again and again
    /// must come to its work, so nothing here should take longer for a larger store.
    fn resume(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Vec<Refusal>, StepError> {
        Ok(self.prepare(root, direction, work)?.refusals)
    }
    /// Finds what forbids the step while the store is still at the layout `at`, with other steps in between. Changes
    /// nothing.
    fn foresee(
        &self,
        root: &Path,
        direction: Direction,
        at: &LayoutId,
        work: &Work<'_>,
    ) -> Result<Vec<Refusal>, StepError> {
        let _ = (root, direction, at, work);
        Ok(Vec::new())
    }
    /// Returns the folders below a root at the older layout that belong to the newer layout, and that a step back keeps.
    /// Their content decides, because they may have these names for another reason.
    fn remains(&self, root: &Path) -> Result<Remains, StepError> {
        let _ = root;
        Ok(Remains::default())
    }
    /// Removes the files of the newer layout in one of these folders, and the folders that are empty then. It may be
    /// interrupted at any instant and run again.
    fn remove_remains(&self, root: &Path, folder: &Path) -> Result<(), StepError> {
        let _ = (root, folder);
        Ok(())
    }
    /// Makes one pass up. The runner calls it until a pass moves nothing.
    fn apply(&self, context: &Context<'_>) -> Result<Moved, StepError>;
    /// Makes one pass back. The runner calls it until a pass moves nothing.
    fn revert(&self, context: &Context<'_>) -> Result<Moved, StepError>;
    /// Checks the tree after the last pass: the step left nothing behind that it should have moved.
    fn check(&self, context: &Context<'_>, direction: Direction) -> Result<(), StepError>;
}

/// The folders of the newer layout that a step back keeps.
#[derive(Debug, Default)]
pub struct Remains {
    /// The folders with files of the newer layout, and the empty ones.
    pub paths: Vec<PathBuf>,
    /// Other content in folders with these names. It is never removed.
    pub foreign: Vec<PathBuf>,
}

/// Derived files that can be built again at any time.
pub trait Artefact: Sync {
    /// Returns its name, for messages.
    fn name(&self) -> &str;
    /// Returns its layout.
    fn layout(&self) -> LayoutId;
    /// Returns whether a store is unusable without it. If not, a failure to build it is a warning, and the program
    /// builds it later.
    fn is_required(&self) -> bool;
    /// Returns whether the program builds it while it runs, so that a new or an upgraded store does without. A
    /// regeneration builds it in any case.
    fn is_left_to_program(&self) -> bool {
        false
    }
    /// Builds it beside its place and swaps it in with one rename.
    fn build(&self, context: &Context<'_>) -> Result<(), StepError>;
    /// Removes it, after the artefacts of the new layout are built. Keeps what those have replaced.
    fn remove(&self, context: &Context<'_>) -> Result<(), StepError>;
}

/// Recognises stores at a layout without markers.
pub trait Detect: Sync {
    /// Returns the layout.
    fn layout(&self) -> LayoutId;
    /// Checks whether the root is a store at this layout. Changes nothing.
    fn detect(&self, root: &Path) -> Result<Detection, StepError>;
}

/// Recognises stores at a layout with markers whose marker is lost.
pub trait Unmarked: Sync {
    /// Returns the layout.
    fn layout(&self) -> LayoutId;
    /// Returns whether the content of the root is of this layout for certain. Changes nothing.
    fn recognises(&self, root: &Path) -> Result<bool, StepError>;
    /// Checks the structure of the whole store. Returns the reasons that forbid restoring the marker. Changes nothing.
    fn check(&self, root: &Path, work: &Work<'_>) -> Result<Vec<Refusal>, StepError>;
}

/// The result of a detection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detection {
    /// The root is a store at this layout.
    Yes,
    /// The root is not a store at this layout.
    No,
    /// The root is a known folder that must not be changed. The text says what it is and what to do.
    Refuse(String),
}

/// Everything that a tool passes to this crate.
pub struct Layouts {
    /// The program and its version, for the marker.
    pub program: String,
    /// The layout that the program works with.
    pub current: LayoutId,
    /// The folders of an empty store at the current layout.
    pub folders: Vec<&'static str>,
    /// All steps, in any order.
    pub steps: Vec<Box<dyn Step>>,
    /// The detectors of layouts without markers. The first that answers yes decides.
    pub detectors: Vec<Box<dyn Detect>>,
    /// The layouts that are recognised without their marker. They are asked before the detectors.
    pub unmarked: Vec<Box<dyn Unmarked>>,
    /// The artefacts of all layouts.
    pub artefacts: Vec<Box<dyn Artefact>>,
    /// The inventory of all layouts. Without it nothing is counted.
    pub inventory: Option<Box<dyn Inventory>>,
    /// The known folders of other programs. The first that finds a folder decides.
    pub sources: Vec<Box<dyn Source>>,
}

impl Layouts {
    /// Returns the name of the program, without its version.
    pub(crate) fn program_name(&self) -> &str {
        self.program.split(' ').next().unwrap_or_default()
    }

    /// Returns a value that knows only the current layout.
    pub fn new(program: impl Into<String>, current: LayoutId, folders: Vec<&'static str>) -> Self {
        Self {
            program: program.into(),
            current,
            folders,
            steps: Vec::new(),
            detectors: Vec::new(),
            unmarked: Vec::new(),
            artefacts: Vec::new(),
            inventory: None,
            sources: Vec::new(),
        }
    }

    /// Returns whether the layout is the current layout or an end of a step.
    pub fn knows(&self, layout: &LayoutId) -> bool {
        *layout == self.current
            || self.steps.iter().any(|step| step.from() == *layout || step.to() == *layout)
    }

    /// Returns whether stores at the layout have a marker.
    pub fn is_tagged(&self, layout: &LayoutId) -> bool {
        !self.detectors.iter().any(|detector| detector.layout() == *layout)
    }

    /// Returns the step between two layouts, in either direction.
    pub fn between(&self, from: &LayoutId, to: &LayoutId) -> Option<(&dyn Step, Direction)> {
        self.steps.iter().find_map(|step| {
            if step.from() == *from && step.to() == *to {
                Some((step.as_ref(), Direction::Up))
            } else if step.from() == *to && step.to() == *from {
                Some((step.as_ref(), Direction::Back))
            } else {
                None
            }
        })
    }

    /// Returns the shortest way from one layout to another: the layouts after `from`, in order.
    pub fn way(&self, from: &LayoutId, to: &LayoutId) -> Option<Vec<LayoutId>> {
        let mut ways: Vec<Vec<LayoutId>> = vec![vec![from.clone()]];
        let mut next = 0;
        while let Some(way) = ways.get(next).cloned() {
            next += 1;
            let end = way.last()?;
            if end == to {
                return Some(way[1..].to_vec());
            }
            for step in &self.steps {
                let (a, b) = (step.from(), step.to());
                for (here, there) in [(&a, &b), (&b, &a)] {
                    if here == end && !ways.iter().any(|other| other.last() == Some(there)) {
                        ways.push([way.clone(), vec![there.clone()]].concat());
                    }
                }
            }
        }
        None
    }
}

impl fmt::Debug for Layouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layouts")
            .field("program", &self.program)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

/// Settings of the work: threads, events, cancellation.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Number of threads, at least 1.
    pub threads: usize,
    /// Receives the events.
    pub events: &'a dyn Events,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// The items of the store, if the step before in this run has moved them all, in the same direction. Nothing that
    /// forbids a rename can be wrong with their files and folders then.
    pub just_moved: Option<Moved>,
}

impl Work<'_> {
    /// Reports a leftover.
    pub fn leftover(&self, leftover: &Leftover) {
        self.events.event(Event::Leftover(leftover));
    }
}

/// The context of a step: the lock that allows it, and the settings of the work.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The lock of the store. It knows the root and writes below it.
    pub lock: &'a ExclusiveLock,
    /// The settings of the work.
    pub work: Work<'a>,
}

impl Context<'_> {
    /// Returns the root of the store.
    pub fn root(&self) -> &Path {
        self.lock.root()
    }
}

/// The result of one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Items moved.
    pub items: u64,
    /// Bytes of these items.
    pub bytes: u64,
    /// Reported leftovers.
    pub leftovers: u64,
}

/// A step stopped before its end. The store is unchanged or resumable.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// An I/O error.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A signal stopped the step.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The step cannot continue. The message names the path and what to do next.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl StepError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
            Self::Refused(refusal) => refusal.exit,
        }
    }
}
