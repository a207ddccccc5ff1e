//! Brings a store to a layout: looks, waits its turn, plans, and takes step after step.
//!
//! One step, up, back or regeneration, is always:
//!
//! 1. survey; what must be refused is refused now, with nothing changed;
//! 2. begin: the marker takes the name `migrating.A-B`, the root is synced;
//! 3. `apply` or `revert`, until a pass finds nothing more to move;
//! 4. `check`;
//! 5. the artefacts of the new layout are built, then those of the old one removed;
//! 6. the file system is synced; the marker takes the name `layout.vB` (or goes, for a layout without
//!    markers); the root is synced.
//!
//! A crash before 2 leaves the old layout. One between 2 and 6 leaves `migrating.A-B`, and whoever comes next
//! goes on at 3, or turns around. One after the rename in 6 leaves the new layout, complete, because all of
//! it was synced before.

mod next;
mod steps;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::events::{Event, Events, PlannedStep};
use crate::lock::{LOCK_NAME, LockError};
use crate::signals::{Cancel, Cancelled};
use crate::state::State;
use crate::step::{Direction, Layouts, Refusal, Step, StepError, Survey, Work};
use crate::{Exit, LayoutId, PathError, durable};
use next::Action;
use wait::Turn;

/// What to do, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The layout to bring the store to; the current one if none is named.
    pub target: Option<LayoutId>,
    /// What a person says that a folder without a marker is.
    pub assumed: Option<LayoutId>,
    /// Run by the gate: go up only, and leave to a person what is a person's decision.
    pub auto: bool,
    /// Make no store where there is none.
    pub no_create: bool,
    /// Build the artefacts again even if nothing else is to be done.
    pub regenerate: bool,
    /// How long to wait for those who use the store at an older layout.
    pub lock_timeout: Duration,
    /// How many threads a step may use.
    pub threads: usize,
}

impl Default for Options {
    /// To the current layout, by hand, with one thread; half a minute for those who use the store.
    fn default() -> Self {
        Self {
            target: None,
            assumed: None,
            auto: false,
            no_create: false,
            regenerate: false,
            lock_timeout: Duration::from_secs(30),
            threads: 1,
        }
    }
}

/// How a run ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The store is at the target already; nothing was done.
    Nothing(LayoutId),
    /// There is no store, and none was to be made.
    NoStore,
    /// The store is at the target now.
    Done(LayoutId),
}

/// A run ended without reaching its target.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The folder, or what was asked for, is refused; nothing was changed.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Others use the store.
    #[error("{0}")]
    Busy(String),
    /// The lock was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A step did not get to its end; the message says that the store is resumable.
    #[error("the step from {from} to {to} stopped: {source}; {root} is resumable: run again to go on, or name {from} with --to to go back", root = root.display())]
    Step {
        /// The folder.
        root: PathBuf,
        /// The layout before.
        from: LayoutId,
        /// The layout after.
        to: LayoutId,
        /// Why.
        source: StepError,
    },
    /// Something failed outside of a step; what had begun is finished by the next run.
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
    /// Is the code that a program ends with for this error.
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
    /// The folder.
    pub root: &'a Path,
    /// What the tool knows.
    pub layouts: &'a Layouts,
    /// What to do.
    pub options: &'a Options,
    /// Whom to tell.
    pub events: &'a dyn Events,
    /// When to stop.
    pub cancel: &'a Cancel,
}

impl Runner<'_> {
    /// Does it.
    pub fn run(&self) -> Result<Outcome, RunError> {
        let target = self.target()?;
        let first = self.look_unlocked()?;
        if let Some(first) = &first {
            self.refuse_what_cannot_change(first)?;
            match first {
                State::At(layout) if *layout == target && !self.options.regenerate => {
                    return Ok(Outcome::Nothing(target));
                }
                state if self.is_left_uncreated(state) => return Ok(Outcome::NoStore),
                _ => {}
            }
            // Where there is a lock file, somebody may be at it, and the look under the lock counts.
            if !self.root.join(LOCK_NAME).exists() {
                self.refuse(first)?;
                self.refuse_assumption(first)?;
                self.action(first, &target, false)?;
            }
        }
        durable::create_root(self.root)?;
        let lock = match self.wait_for_turn(&target, first.as_ref())? {
            Turn::Ours(lock) => lock,
            Turn::OthersDid => return Ok(Outcome::Nothing(target)),
        };
        self.act(&lock, &target)
    }

    /// Says what would be done, and whether it is anything. Writes nothing, not even the lock file.
    pub fn plan(&self) -> Result<bool, RunError> {
        let target = self.target()?;
        let state = self.look()?;
        self.refuse(&state)?;
        self.refuse_assumption(&state)?;
        let creates = match self.action(&state, &target, false)? {
            Action::Create if self.is_left_uncreated(&state) => None,
            Action::Create => Some(&target),
            _ => None,
        };
        let steps = self.planned_steps(&state, &target, None)?;
        self.events.event(Event::Plan { root: self.root, target: &target, creates, steps: &steps });
        let refusals =
            steps.iter().filter_map(|step| step.survey.as_ref()).flat_map(|survey| &survey.refusals);
        if let Some(refusal) = refusals.clone().next() {
            return Err(RunError::Refused(joined(refusal.exit, refusals)));
        }
        Ok(creates.is_some() || !steps.is_empty())
    }

    /// Is the steps from a state to the target. The first one is surveyed, unless that is done already.
    fn planned_steps(
        &self,
        state: &State,
        target: &LayoutId,
        mut surveyed: Option<Survey>,
    ) -> Result<Vec<PlannedStep>, RunError> {
        let mut steps: Vec<PlannedStep> = Vec::new();
        let mut at = state.clone();
        loop {
            let regenerated = steps.iter().any(|step| step.from == step.to);
            let planned = match self.action(&at, target, regenerated)? {
                Action::Finished | Action::Create => return Ok(steps),
                Action::Regenerate { begun } => match &at {
                    State::Migrating { to, .. } => self.planned_regeneration(to, begun),
                    _ => self.planned_regeneration(target, begun),
                },
                Action::Step { step, direction, begun } => {
                    let mut planned = planned(step, direction, begun.is_some());
                    if steps.is_empty() {
                        planned.survey = Some(match surveyed.take() {
                            Some(survey) => survey,
                            None => step.survey(self.root, direction, &self.work())?,
                        });
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
            description: "build the derived files again".to_owned(),
            resumes,
            survey: Some(Survey::default()),
        }
    }

    fn target(&self) -> Result<LayoutId, RunError> {
        let target = self.options.target.clone().unwrap_or_else(|| self.layouts.current.clone());
        for layout in [Some(&target), self.options.assumed.as_ref()].into_iter().flatten() {
            if !self.layouts.knows(layout) {
                let message = format!(
                    "{} does not know the layout {layout} (its own is {}); another release may know it",
                    self.layouts.program, self.layouts.current
                );
                return Err(RunError::refused(Exit::NEWER, message));
            }
        }
        Ok(target)
    }

    fn look(&self) -> Result<State, RunError> {
        Ok(State::look_assuming(self.root, self.layouts, self.options.assumed.as_ref())?)
    }

    /// Looks without the lock: what is read may change meanwhile, be moved away even. So where there is a lock
    /// file a look that fails says nothing, and the one under the lock counts.
    fn look_unlocked(&self) -> Result<Option<State>, RunError> {
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

    /// A marker that this program does not know stays unknown however long it waits.
    fn refuse_what_cannot_change(&self, state: &State) -> Result<(), RunError> {
        if matches!(state, State::Newer(_)) { self.refuse(state) } else { Ok(()) }
    }

    /// Whether there is no store and none is to be made. One whose making was begun is finished.
    fn is_left_uncreated(&self, state: &State) -> bool {
        self.options.no_create && *state == State::Empty
    }

    fn work(&self) -> Work<'_> {
        Work { threads: self.options.threads.max(1), events: self.events, cancel: self.cancel }
    }

    /// Refuses to be told what a store is that says so itself.
    fn refuse_assumption(&self, first: &State) -> Result<(), RunError> {
        let (Some(assumed), State::At(_) | State::Migrating { .. } | State::Creating(_)) =
            (&self.options.assumed, first)
        else {
            return Ok(());
        };
        let marker = first.marker().map(|marker| marker.to_string()).unwrap_or_default();
        let root = self.root.display();
        let message = format!("{root} says itself what it is, {marker}; run again without --from {assumed}");
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

fn joined<'a>(exit: Exit, refusals: impl Iterator<Item = &'a Refusal>) -> Refusal {
    let messages: Vec<&str> = refusals.map(|refusal| refusal.message.as_str()).collect();
    Refusal { exit, message: messages.join("\n") }
}
