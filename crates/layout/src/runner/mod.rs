//! Brings a store to a layout: looks at it, waits for the lock, plans, and takes the steps.
//!
//! A step (up, back or regeneration) has six parts:
//!
//! 1. Look. What forbids the step is found here, before anything is changed: by `prepare`, or by `survey` in a dry run.
//! 2. Begin. The marker is renamed to `migrating.A-B` and the root is synced.
//! 3. `apply` or `revert`, until a pass moves nothing.
//! 4. `check`.
//! 5. The artefacts of the new layout are built, then those of the old layout are removed.
//! 6. End. The file system is synced, the marker is renamed to `layout.vB` (or removed, for a layout without markers),
//!    and the root is synced.
//!
//! A crash before 2 leaves the old layout. A crash between 2 and 6 leaves `migrating.A-B`; the next run resumes at 3 or
//! goes the other way. A crash after the rename in 6 leaves the complete new layout, because everything was synced
//! before.
//!
//! A step that has begun is resumed without a survey. The survey of a run looks at all its steps before the first begins.
//!
//! A lost marker is restored in the same way, with one rename: the structure is checked, the file system is synced,
//! the marker `layout.vN` appears, and the root is synced.

mod clean;
mod next;
mod steps;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::events::{Event, Events};
use crate::lock::{LOCK_NAME, LockError};
use crate::plan::{Direction, PlannedStep, Refusal, Survey};
use crate::signals::{Cancel, Cancelled};
use crate::state::State;
use crate::step::{Layouts, Remains, Step, StepError, Work};
use crate::{Exit, LayoutId, PathError, durable};
use next::Action;
use wait::Turn;

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The target layout. The current layout if `None`.
    pub target: Option<LayoutId>,
    /// The layout of a folder without a marker, named by a person.
    pub assumed: Option<LayoutId>,
    /// Whether the gate started the run. Such a run only goes up and leaves decisions to a person.
    pub auto: bool,
    /// Whether an empty folder is left alone instead of creating a store in it.
    pub no_create: bool,
    /// Whether the artefacts are built again even if there is nothing else to do.
    pub regenerate: bool,
    /// Whether the files of the program that a downgrade to a layout without a marker keeps are removed at the end.
    pub clean: bool,
    /// Maximum wait for processes that use the store at an older layout.
    pub lock_timeout: Duration,
    /// Number of threads of a step.
    pub threads: usize,
    /// Mode of the root, if the run creates it. An existing folder keeps its mode.
    pub mode: u32,
}

impl Default for Options {
    /// Returns the options of a manual run to the current layout, with one thread, a lock timeout of 30 s, and a new root
    /// for its owner only.
    fn default() -> Self {
        Self {
            target: None,
            assumed: None,
            auto: false,
            no_create: false,
            regenerate: false,
            clean: false,
            lock_timeout: Duration::from_secs(30),
            threads: 1,
            mode: 0o700,
        }
    }
}

/// The result of a successful run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The store was at the target already.
    Nothing(LayoutId),
    /// There is no store, and none was to be created.
    NoStore,
    /// The store is at the target now.
    Done(LayoutId),
}

/// A run that did not reach its target.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder or the options are refused. Nothing was changed.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Other processes use the store.
    #[error("{0}")]
    Busy(String),
    /// The lock could not be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A step stopped before its end. The store is resumable.
    #[error("the step from {from} to {to} stopped: {source}\nhelp: the step can be resumed in {root}: run again to continue, or use --to {from} to go back", root = root.display())]
    Step {
        /// The root of the store.
        root: PathBuf,
        /// The layout before.
        from: LayoutId,
        /// The layout after.
        to: LayoutId,
        /// The reason.
        source: StepError,
    },
    /// An error outside of a step. The next run finishes what has begun.
    #[error(transparent)]
    Outside(#[from] StepError),
}

impl From<PathError> for RunError {
    fn from(error: PathError) -> Self {
        Self::Outside(StepError::Path(error))
    }
}

impl From<Cancelled> for RunError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Outside(StepError::Cancelled(cancelled))
    }
}

impl RunError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(refusal) => refusal.exit,
            Self::Busy(_) => Exit::BUSY,
            Self::Lock(error) => error.exit(),
            Self::Step { source, .. } | Self::Outside(source) => source.exit(),
        }
    }

    fn refused(exit: Exit, message: String) -> Self {
        Self::Refused(Refusal { exit, message })
    }
}

/// Brings one store to one layout.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    /// The root of the store.
    pub root: &'a Path,
    /// The tool's layouts.
    pub layouts: &'a Layouts,
    /// The options.
    pub options: &'a Options,
    /// Receives the events.
    pub events: &'a dyn Events,
    /// Stops the run.
    pub cancel: &'a Cancel,
}

impl Runner<'_> {
    /// Runs to the target.
    pub fn run(&self) -> Result<Outcome, RunError> {
        let target = self.target()?;
        let first = self.look_unlocked()?;
        if let Some(first) = &first {
            self.refuse_newer(first)?;
            match first {
                State::At(layout) if *layout == target && !self.options.regenerate => {
                    return Ok(Outcome::Nothing(target));
                }
                state if self.is_left_uncreated(state) => return Ok(Outcome::NoStore),
                _ => {}
            }
            // With a lock file another process may be at work, so the look under the lock decides.
            if !self.root.join(LOCK_NAME).exists() {
                self.refuse(first)?;
                self.refuse_assumption(first)?;
                self.action(first, &target, false)?;
            }
        }
        loop {
            let created = durable::create_root(self.root, self.options.mode)?;
            match self.run_in_turn(&target, first.as_ref()) {
                // Another run that was refused took back the root that it had created.
                Err(RunError::Lock(LockError::Path(error)))
                    if error.is_not_found() && !self.root.exists() => {}
                ran => {
                    return ran.inspect_err(|_| created.undo());
                }
            }
        }
    }

    /// Waits for the lock and does the work.
    fn run_in_turn(&self, target: &LayoutId, first: Option<&State>) -> Result<Outcome, RunError> {
        let is_of_a_store = self.root.join(LOCK_NAME).exists();
        let turn = self.wait_for_turn(target, first).inspect_err(|error| {
            // Without locks no other process gets further than this one, so nobody needs the file.
            if matches!(error, RunError::Lock(LockError::Unsupported { .. })) && !is_of_a_store {
                let _ = durable::remove_file(&self.root.join(LOCK_NAME));
            }
        });
        let lock = match turn? {
            Turn::Ours(lock) => lock,
            Turn::OthersDid => return Ok(Outcome::Nothing(target.clone())),
        };
        let outcome = self.act(&lock, target)?;
        self.leave(lock, target, is_of_a_store, &outcome)?;
        Ok(outcome)
    }

    /// Reports the plan and returns whether there is anything to do. Writes nothing, not even the lock file.
    pub fn plan(&self) -> Result<bool, RunError> {
        let target = self.target()?;
        let state = self.state()?;
        self.refuse_assumption(&state)?;
        let creates = match self.action(&state, &target, false)? {
            Action::Create if self.is_left_uncreated(&state) => None,
            Action::Create => Some(&target),
            _ => None,
        };
        let restores = match &state {
            State::MarkerLost { layout, .. } => Some(layout),
            _ => None,
        };
        let steps = self.planned_steps(&state, &target, First::Survey)?;
        self.events.event(Event::Plan { root: self.root, target: &target, creates, restores, steps: &steps });
        if let Some(layout) = restores {
            self.check_unmarked(layout)?;
        }
        let surveys = steps.iter().filter_map(|step| step.survey.as_ref());
        let mut refusals: Vec<Refusal> = surveys.flat_map(|survey| survey.refusals.clone()).collect();
        if refusals.is_empty() {
            refusals = self.foresee(&state, &steps)?;
        }
        if let Some(refusal) = joined(&refusals) {
            return Err(RunError::Refused(refusal));
        }
        let is_of_a_store = !steps.is_empty() || self.root.join(LOCK_NAME).exists();
        let remains =
            if self.options.clean && is_of_a_store { self.remains(&target)? } else { Remains::default() };
        let removes = !remains.paths.is_empty();
        if self.options.clean {
            self.report_remains(&target, remains, true);
        }
        Ok(creates.is_some() || restores.is_some() || !steps.is_empty() || removes)
    }

    /// Looks at the folder as a run that was started automatically does, and returns its state unless such a run would
    /// refuse it. Writes nothing, and reads only what the state depends on.
    pub fn check(&self) -> Result<State, RunError> {
        let target = self.target()?;
        let state = self.state()?;
        self.action(&state, &target, false)?;
        Ok(state)
    }

    /// Finds what forbids the later steps of a plan, before the first begins.
    fn foresee(&self, state: &State, steps: &[PlannedStep]) -> Result<Vec<Refusal>, RunError> {
        let (State::At(at) | State::Untagged(at)) = state else { return Ok(Vec::new()) };
        let mut refusals = Vec::new();
        for planned in steps.iter().skip(1) {
            if let Some((step, direction)) = self.layouts.between(&planned.from, &planned.to) {
                refusals.extend(step.foresee(self.root, direction, at, &self.work())?);
            }
        }
        Ok(refusals)
    }

    /// Returns the steps from a state to the target.
    fn planned_steps(
        &self,
        state: &State,
        target: &LayoutId,
        mut first: First,
    ) -> Result<Vec<PlannedStep>, RunError> {
        let mut steps: Vec<PlannedStep> = Vec::new();
        let mut at = state.clone();
        loop {
            let regenerated = steps.iter().any(|step| step.from == step.to);
            let planned = match self.action(&at, target, regenerated)? {
                Action::Finished | Action::Create => return Ok(steps),
                Action::Restore { layout } => {
                    at = State::At(layout.clone());
                    continue;
                }
                Action::Regenerate { begun } => match &at {
                    State::Migrating { to, .. } => self.planned_regeneration(to, begun),
                    _ => self.planned_regeneration(target, begun),
                },
                Action::Step { step, direction, begun } => {
                    let mut planned = planned(step, direction, begun.is_some());
                    if steps.is_empty() {
                        planned.survey = match &mut first {
                            First::Survey => Some(step.survey(self.root, direction, &self.work())?),
                            First::Known(survey) => survey.take(),
                        };
                    }
                    planned
                }
            };
            at = State::At(planned.to.clone());
            steps.push(planned);
        }
    }

    fn planned_regeneration(&self, layout: &LayoutId, resumes: bool) -> PlannedStep {
        PlannedStep {
            from: layout.clone(),
            to: layout.clone(),
            direction: Direction::Up,
            description: "rebuild the derived files".to_owned(),
            resumes,
            survey: Some(Survey::default()),
        }
    }

    fn target(&self) -> Result<LayoutId, RunError> {
        let target = self.options.target.clone().unwrap_or_else(|| self.layouts.current.clone());
        if self.options.clean && self.layouts.is_tagged(&target) {
            let message = format!(
                "cannot use --clean with layout {target}: --clean needs a downgrade to a layout without a marker\n\
                 help: run again without --clean, or with --to v0"
            );
            return Err(RunError::refused(Exit::USAGE, message));
        }
        for layout in [Some(&target), self.options.assumed.as_ref()].into_iter().flatten() {
            if !self.layouts.knows(layout) {
                let message = format!(
                    "{} does not know the layout {layout} (its own layout is {})\nhelp: check the name, or use a newer release",
                    self.layouts.program, self.layouts.current
                );
                return Err(RunError::refused(Exit::NEWER, message));
            }
        }
        Ok(target)
    }

    /// Returns the state of the store, unless it is refused.
    pub fn state(&self) -> Result<State, RunError> {
        let state = self.look()?;
        self.refuse(&state)?;
        Ok(state)
    }

    fn look(&self) -> Result<State, RunError> {
        Ok(State::look_assuming(self.root, self.layouts, self.options.assumed.as_ref())?)
    }

    /// Looks without the lock. `None` if the look failed and there is a lock file.
    fn look_unlocked(&self) -> Result<Option<State>, RunError> {
        // Another process may move the files meanwhile, so the look under the lock decides.
        match self.look() {
            Err(_) if self.root.join(LOCK_NAME).exists() => Ok(None),
            result => result.map(Some),
        }
    }

    fn refuse(&self, state: &State) -> Result<(), RunError> {
        match state.refusal(self.root, self.layouts) {
            None => Ok(()),
            Some((exit, message)) => Err(RunError::refused(exit, message)),
        }
    }

    /// Refuses an unknown marker. Waiting for the lock would not help.
    fn refuse_newer(&self, state: &State) -> Result<(), RunError> {
        if matches!(state, State::Newer(_)) { self.refuse(state) } else { Ok(()) }
    }

    /// Returns whether there is no store and none is to be created. A creation that has begun is finished.
    fn is_left_uncreated(&self, state: &State) -> bool {
        self.options.no_create && *state == State::Empty
    }

    fn work(&self) -> Work<'_> {
        Work {
            threads: self.options.threads.max(1),
            events: self.events,
            cancel: self.cancel,
            just_moved: None,
        }
    }

    /// Refuses `--from` for a store that has a marker.
    fn refuse_assumption(&self, first: &State) -> Result<(), RunError> {
        let (Some(assumed), State::At(_) | State::Migrating { .. } | State::Creating(_)) =
            (&self.options.assumed, first)
        else {
            return Ok(());
        };
        let marker = first.marker().map(|marker| marker.to_string()).unwrap_or_default();
        let root = self.root.display();
        let message = format!(
            "cannot use --from {assumed}: {root} has the marker {marker}\nhelp: run again without --from {assumed}"
        );
        Err(RunError::refused(Exit::USAGE, message))
    }
}

fn ends(step: &dyn Step, direction: Direction) -> (LayoutId, LayoutId) {
    match direction {
        Direction::Up => (step.from(), step.to()),
        Direction::Back => (step.to(), step.from()),
    }
}

fn planned(step: &dyn Step, direction: Direction, resumes: bool) -> PlannedStep {
    let (from, to) = ends(step, direction);
    PlannedStep { from, to, direction, description: step.description().to_owned(), resumes, survey: None }
}

/// The survey of the first step of a plan.
enum First {
    /// It is taken now.
    Survey,
    /// It was taken before, or is left out.
    Known(Option<Survey>),
}

/// Joins refusals to one, with the exit code of the first. `None` if there are none.
fn joined(refusals: &[Refusal]) -> Option<Refusal> {
    let first = refusals.first()?;
    let messages: Vec<&str> = refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    Some(Refusal { exit: first.exit, message: messages.join("\n") })
}
