//! What a tool says about its layouts: the steps between them, how to know a folder without a marker, and
//! what is derived from the rest.

use std::fmt;
use std::path::Path;

use crate::events::{Event, Events, Leftover};
use crate::lock::ExclusiveLock;
use crate::signals::{Cancel, Cancelled};
use crate::{Exit, Inventory, LayoutId, PathError, Source};

/// Which way a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the older layout to the newer one.
    Up,
    /// From the newer layout to the older one.
    Back,
}

/// One step between two layouts, frozen: it carries its own picture of before and after and calls no code
/// that may change later.
///
/// * `apply` and `revert` move by renames within the file system and never overwrite
///   ([`crate::durable::rename_noreplace`]).
/// * Both may be interrupted at any instant and run again. What is done is known from the tree; any mixture
///   of the two sides is a valid start for both.
/// * What is not whole, foreign or odd stays where it is, and is told as a leftover.
pub trait Step: Sync {
    /// The older layout.
    fn from(&self) -> LayoutId;
    /// The newer layout.
    fn to(&self) -> LayoutId;
    /// Says in one line what going up does.
    fn description(&self) -> &str;
    /// Counts what there is to do and says what forbids it. Changes nothing.
    fn survey(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError>;
    /// Looks before a run: what forbids the step must be found, the rest may be an estimate. Leftovers are then
    /// told by the first pass, which looks at everything anyway.
    fn prepare(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError> {
        self.survey(root, direction, work)
    }
    /// Goes up, one pass. The runner calls it until a pass moves nothing more.
    fn apply(&self, context: &Context<'_>) -> Result<Moved, StepError>;
    /// Goes back, one pass, the same way.
    fn revert(&self, context: &Context<'_>) -> Result<Moved, StepError>;
    /// Checks the tree after the last pass: nothing that the step should have moved is at its old place.
    fn check(&self, context: &Context<'_>, direction: Direction) -> Result<(), StepError>;
}

/// Something derived from the rest of the store, that can be built again at any time.
pub trait Artefact: Sync {
    /// Its name, for messages.
    fn name(&self) -> &str;
    /// The layout that it belongs to.
    fn layout(&self) -> LayoutId;
    /// Whether a store without it is of no use. If not, the program heals it later and a failure to build it
    /// is a warning.
    fn is_required(&self) -> bool;
    /// Whether a new store and one that comes up do without it, because the program builds it while it works
    /// already. A regeneration builds it in any case.
    fn is_left_to_program(&self) -> bool {
        false
    }
    /// Builds it aside and swaps it in by one rename.
    fn build(&self, context: &Context<'_>) -> Result<(), StepError>;
    /// Removes it, after those of the other layout are built. What the artefact of the other layout has
    /// replaced stays.
    fn remove(&self, context: &Context<'_>) -> Result<(), StepError>;
}

/// Knows folders of a layout that has no marker.
pub trait Detect: Sync {
    /// The layout.
    fn layout(&self) -> LayoutId;
    /// Looks whether the root is of this layout. Changes nothing.
    fn detect(&self, root: &Path) -> Result<Detection, StepError>;
}

/// What a look for one layout found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detection {
    /// It is of this layout.
    Yes,
    /// It is not.
    No,
    /// It is something else that is known, and must not be touched: what it is and what to do instead.
    Refuse(String),
}

/// Everything that a tool hands to this crate: values, so that a program with one layout more is the same
/// code with one value more.
pub struct Layouts {
    /// The program and its version, for the marker.
    pub program: String,
    /// The layout that the program works with.
    pub current: LayoutId,
    /// The folders of an empty store at the current layout.
    pub folders: Vec<&'static str>,
    /// All steps, in any order.
    pub steps: Vec<Box<dyn Step>>,
    /// Those who know layouts without a marker; the first that says yes wins.
    pub detectors: Vec<Box<dyn Detect>>,
    /// What is derived, of all layouts.
    pub artefacts: Vec<Box<dyn Artefact>>,
    /// Who knows what lies in a root at each of the layouts; without one nothing is counted there.
    pub inventory: Option<Box<dyn Inventory>>,
    /// Those who know folders of others to copy items from; the first that finds one wins.
    pub sources: Vec<Box<dyn Source>>,
}

impl Layouts {
    /// Begins a value that knows the current layout alone.
    pub fn new(program: impl Into<String>, current: LayoutId, folders: Vec<&'static str>) -> Self {
        let (steps, detectors, artefacts, sources) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let program = program.into();
        Self { program, current, folders, steps, detectors, artefacts, inventory: None, sources }
    }

    /// Whether the layout is the current one or at an end of a step.
    pub fn knows(&self, layout: &LayoutId) -> bool {
        *layout == self.current
            || self.steps.iter().any(|step| step.from() == *layout || step.to() == *layout)
    }

    /// Whether stores at the layout carry a marker.
    pub fn is_tagged(&self, layout: &LayoutId) -> bool {
        !self.detectors.iter().any(|detector| detector.layout() == *layout)
    }

    /// Finds the step between two layouts, whichever way.
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

    /// Finds the shortest way from one layout to another: the layouts after `from`, in order.
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

/// How to work: how many threads, whom to tell, when to stop.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// How many threads to use, at least one.
    pub threads: usize,
    /// Whom to tell.
    pub events: &'a dyn Events,
    /// When to stop.
    pub cancel: &'a Cancel,
}

impl Work<'_> {
    /// Tells of a leftover.
    pub fn leftover(&self, leftover: &Leftover) {
        self.events.event(Event::Leftover(leftover));
    }
}

/// What a step works with: the lock that allows it, and how to work.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The lock of the store; it knows the root and writes below it.
    pub lock: &'a ExclusiveLock,
    /// How to work.
    pub work: Work<'a>,
}

impl Context<'_> {
    /// Is the root of the store.
    pub fn root(&self) -> &Path {
        self.lock.root()
    }
}

/// What a survey found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Items to move.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Leftovers told.
    pub leftovers: u64,
    /// What forbids the step; empty if nothing does.
    pub refusals: Vec<Refusal>,
    /// Whether the items are an estimate, and their bytes and the leftovers not counted.
    pub is_estimate: bool,
}

/// Why a step must not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code that the program ends with.
    pub exit: Exit,
    /// What is in the way, on which path, and what to do next.
    pub message: String,
}

/// What one pass moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Items.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Leftovers told.
    pub leftovers: u64,
}

/// A step did not get to its end. The store is as it was, or resumable.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The disk said no.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A signal asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// Something else forbids going on; the message names the path and what to do next.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl StepError {
    /// Is the code that a program ends with for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
            Self::Refused(refusal) => refusal.exit,
        }
    }
}
