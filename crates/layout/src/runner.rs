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

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::events::{Event, Events, PlannedStep};
use crate::lock::{self, ExclusiveLock, Holder, LOCK_NAME, LockError, SharedLock};
use crate::marker::{self, Content, HistoryEntry, Marker};
use crate::signals::{Cancel, Cancelled};
use crate::state::State;
use crate::step::{Context, Direction, Layouts, Moved, Refusal, Step, StepError, Survey, Work};
use crate::{Exit, LayoutId, PathError, durable};

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

/// What artefacts are built for.
#[derive(Clone, Copy)]
enum Occasion<'a> {
    /// They were asked for.
    Regeneration,
    /// A new store, or a step from another layout.
    Other { old: Option<&'a LayoutId> },
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

/// What is to be done next, under the lock or in a plan.
enum Action<'a> {
    Finished,
    Create,
    Step { step: &'a dyn Step, direction: Direction, begun: Option<Marker> },
    Regenerate { begun: bool },
}

/// What the loop for the lock ended with.
enum Turn {
    Ours(ExclusiveLock),
    OthersDid,
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

    /// Decides what comes next from a state, or refuses it.
    fn action(&self, state: &State, target: &LayoutId, regenerated: bool) -> Result<Action<'_>, RunError> {
        let root = self.root.display();
        match state {
            State::Empty | State::Creating(_) => {
                if *target != self.layouts.current {
                    let message = format!(
                        "{root} holds no store, and a new one is made at layout {} only; run again without --to {target}",
                        self.layouts.current
                    );
                    return Err(RunError::refused(Exit::USAGE, message));
                }
                Ok(Action::Create)
            }
            State::At(layout) | State::Untagged(layout) if layout == target => {
                if self.options.regenerate && !regenerated && *target == self.layouts.current {
                    Ok(Action::Regenerate { begun: false })
                } else {
                    Ok(Action::Finished)
                }
            }
            State::At(layout) | State::Untagged(layout) => self.next_step(layout, target, None),
            State::Migrating { from, to } if from == to => Ok(Action::Regenerate { begun: true }),
            State::Migrating { from, to } => self.resume(from, to, target),
            State::Newer(_) | State::TwoMarkers(_) | State::Blocked(_) | State::Foreign(_) => {
                self.refuse(state).map(|()| Action::Finished)
            }
        }
    }

    fn resume(&self, from: &LayoutId, to: &LayoutId, target: &LayoutId) -> Result<Action<'_>, RunError> {
        let unknown = || self.no_way(from, target);
        let (step, direction) = self.layouts.between(from, to).ok_or_else(unknown)?;
        if self.options.auto && direction == Direction::Back {
            return Err(self.back_is_a_decision(from, to));
        }
        let begun = Some(Marker::Migrating { from: from.clone(), to: to.clone() });
        let onward = self.layouts.way(to, target).ok_or_else(unknown)?;
        if onward.first() == Some(from) {
            if self.options.auto {
                return Err(self.only_a_person_goes_back(to, target));
            }
            let turned = if direction == Direction::Up { Direction::Back } else { Direction::Up };
            return Ok(Action::Step { step, direction: turned, begun });
        }
        Ok(Action::Step { step, direction, begun })
    }

    fn next_step(
        &self,
        layout: &LayoutId,
        target: &LayoutId,
        begun: Option<Marker>,
    ) -> Result<Action<'_>, RunError> {
        let way = self.layouts.way(layout, target).ok_or_else(|| self.no_way(layout, target))?;
        let found = way.first().and_then(|next| self.layouts.between(layout, next));
        let (step, direction) = found.ok_or_else(|| self.no_way(layout, target))?;
        if self.options.auto && direction == Direction::Back {
            return Err(self.only_a_person_goes_back(layout, target));
        }
        Ok(Action::Step { step, direction, begun })
    }

    fn only_a_person_goes_back(&self, layout: &LayoutId, target: &LayoutId) -> RunError {
        let message = format!(
            "{} is at layout {layout} or on its way there, above {target}, and only a person takes a store back: run \
             the migrator by hand with --to {target}",
            self.root.display()
        );
        RunError::refused(Exit::NEWER, message)
    }

    fn no_way(&self, from: &LayoutId, to: &LayoutId) -> RunError {
        let message = format!(
            "{} is at layout {from}, and {} knows no steps from there to {to}; another release may",
            self.root.display(),
            self.layouts.program
        );
        RunError::refused(Exit::NEWER, message)
    }

    fn back_is_a_decision(&self, from: &LayoutId, to: &LayoutId) -> RunError {
        let message = format!(
            "{root} is in a step back from {from} to {to} that was interrupted, and which way to go is a person's \
             decision: run the migrator by hand with --to {to} to go on back, or with --to {from} to go up again",
            root = self.root.display()
        );
        RunError::refused(Exit::NEWER, message)
    }

    fn wait_for_turn(&self, target: &LayoutId, first: Option<&State>) -> Result<Turn, RunError> {
        let must_act = self.options.regenerate;
        let mut shared_since: Option<Instant> = None;
        let mut told: Option<Instant> = None;
        loop {
            self.cancel.check()?;
            if let Some(lock) = ExclusiveLock::try_acquire(self.root, &self.layouts.program)? {
                return Ok(Turn::Ours(lock));
            }
            if let Some(state) = self.look_unlocked()? {
                self.refuse_what_cannot_change(&state)?;
                if state == State::At(target.clone()) && !must_act {
                    return Ok(Turn::OthersDid);
                }
                if self.options.auto {
                    self.stop_if_going_back(first, &state)?;
                }
            }
            match SharedLock::try_acquire(self.root) {
                // Nobody changes the names while it is held, so what is refused now is refused for good.
                Ok(Some(_shared)) => {
                    self.refuse(&self.look()?)?;
                    let since = *shared_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.options.lock_timeout {
                        return Err(self.busy());
                    }
                }
                _ => shared_since = None,
            }
            if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)) {
                self.events.event(Event::Waiting { holders: &self.other_holders() });
                told = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn other_holders(&self) -> Vec<Holder> {
        let mut holders = lock::holders(self.root);
        holders.retain(|holder| holder.pid != std::process::id());
        holders
    }

    fn busy(&self) -> RunError {
        let holders: Vec<String> = self.other_holders().iter().map(ToString::to_string).collect();
        let names = if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") };
        RunError::Busy(format!(
            "{root} is in use by {names}; nothing was changed after waiting {seconds} s for {lock}. Stop it, then run \
             again, or wait longer with --lock-timeout",
            root = self.root.display(),
            seconds = self.options.lock_timeout.as_secs(),
            lock = self.root.join(LOCK_NAME).display(),
        ))
    }

    /// A waiter that the gate started makes way for a person who takes the store back.
    fn stop_if_going_back(&self, first: Option<&State>, now: &State) -> Result<(), RunError> {
        let back = match now {
            State::Migrating { from, to } => {
                matches!(self.layouts.between(from, to), Some((_, Direction::Back)))
            }
            State::At(layout) | State::Untagged(layout) => match first {
                Some(State::At(before) | State::Untagged(before)) => self.is_below(layout, before),
                Some(State::Migrating { from, to }) => {
                    self.is_below(layout, from) && self.is_below(layout, to)
                }
                _ => false,
            },
            _ => false,
        };
        if !back {
            return Ok(());
        }
        Err(RunError::Busy(format!(
            "{} is being taken back to an older layout by somebody else; start again when that is done",
            self.root.display()
        )))
    }

    fn is_below(&self, layout: &LayoutId, other: &LayoutId) -> bool {
        let up = |here: &LayoutId, there: &LayoutId| {
            matches!(self.layouts.between(here, there), Some((_, Direction::Up)))
        };
        let Some(way) = self.layouts.way(layout, other).filter(|way| !way.is_empty()) else { return false };
        std::iter::once(layout).chain(&way).zip(&way).all(|(here, there)| up(here, there))
    }

    fn act(&self, lock: &ExclusiveLock, target: &LayoutId) -> Result<Outcome, RunError> {
        let mut done = false;
        let mut regenerated = false;
        // A layout without a marker need not be known again by what it holds: that may be next to nothing.
        let mut reached: Option<State> = None;
        loop {
            let state = match reached.take() {
                Some(state) => state,
                None => self.look()?,
            };
            self.refuse(&state)?;
            if !done {
                self.refuse_assumption(&state)?;
            }
            let action = self.action(&state, target, regenerated)?;
            if !done {
                if !matches!(action, Action::Finished) {
                    lock.sign();
                }
                marker::sweep_temporaries(lock)?;
            }
            match action {
                Action::Finished if done => return Ok(Outcome::Done(target.clone())),
                Action::Finished => return Ok(Outcome::Nothing(target.clone())),
                // The look without the lock may have failed, or have seen what is gone by now.
                Action::Create if self.is_left_uncreated(&state) => return Ok(Outcome::NoStore),
                Action::Create => {
                    self.events.event(Event::Plan {
                        root: self.root,
                        target,
                        creates: Some(target),
                        steps: &[],
                    });
                    self.create(lock, &state)?;
                }
                Action::Step { step, direction, begun } => {
                    let survey = step.prepare(self.root, direction, &self.work())?;
                    if !done {
                        self.tell_plan(&state, target, Some(&survey))?;
                    }
                    self.take(lock, step, direction, begun.as_ref(), &state, survey)?;
                    let (_, to) = ends(step, direction);
                    reached = (!self.layouts.is_tagged(&to)).then_some(State::Untagged(to));
                }
                Action::Regenerate { begun } => {
                    let layout = match &state {
                        State::Migrating { to, .. } => to.clone(),
                        _ => target.clone(),
                    };
                    if !done {
                        self.tell_plan(&state, target, None)?;
                    }
                    self.regenerate(lock, &layout, begun)?;
                    regenerated = true;
                }
            }
            done = true;
        }
    }

    fn tell_plan(&self, state: &State, target: &LayoutId, survey: Option<&Survey>) -> Result<(), RunError> {
        let steps = self.planned_steps(state, target, survey.cloned())?;
        self.events.event(Event::Plan { root: self.root, target, creates: None, steps: &steps });
        Ok(())
    }

    fn create(&self, lock: &ExclusiveLock, state: &State) -> Result<(), RunError> {
        let layout = self.layouts.current.clone();
        let creating = Marker::Creating(layout.clone());
        let started = marker::now();
        let mut content = Content::new(&self.layouts.program);
        match state {
            State::Creating(older) if *older != layout => {
                self.warn(marker::change(lock, &Marker::Creating(older.clone()), &creating, &content)?);
            }
            State::Creating(_) => {}
            _ => marker::write_first(lock, &creating, &content)?,
        }
        for folder in &self.layouts.folders {
            lock.durable().ensure_dir(&self.root.join(folder))?;
        }
        self.artefacts(lock, &layout, Occasion::Other { old: None })?;
        durable::sync_file_system(self.root)?;
        content.history.push(HistoryEntry {
            from: "empty".to_owned(),
            to: layout.to_string(),
            started,
            finished: marker::now(),
            moved: 0,
            leftovers: 0,
            bytes: 0,
        });
        self.warn(marker::change(lock, &creating, &Marker::At(layout.clone()), &content)?);
        self.events.event(Event::Created(&layout));
        Ok(())
    }

    fn regenerate(&self, lock: &ExclusiveLock, layout: &LayoutId, begun: bool) -> Result<(), RunError> {
        let at = Marker::At(layout.clone());
        let during = Marker::Migrating { from: layout.clone(), to: layout.clone() };
        let (mut content, _) = self.history(if begun { &during } else { &at });
        let started = marker::now();
        self.events.event(Event::StepBegin(&self.planned_regeneration(layout, begun)));
        if !begun {
            self.warn(marker::change(lock, &at, &during, &content)?);
        }
        self.artefacts(lock, layout, Occasion::Regeneration)?;
        durable::sync_file_system(self.root)?;
        content.history.push(entry(layout, layout, started, Moved::default()));
        self.warn(marker::change(lock, &during, &at, &content)?);
        self.events.event(Event::StepEnd { from: layout, to: layout, items: 0, bytes: 0, leftovers: 0 });
        Ok(())
    }

    fn take(
        &self,
        lock: &ExclusiveLock,
        step: &dyn Step,
        direction: Direction,
        begun: Option<&Marker>,
        state: &State,
        survey: Survey,
    ) -> Result<(), RunError> {
        let mut planned = planned(step, direction, begun.is_some());
        if let Some(refusal) = survey.refusals.first() {
            return Err(RunError::Refused(joined(refusal.exit, survey.refusals.iter())));
        }
        let leftovers_are_told = !survey.is_estimate;
        planned.survey = Some(survey);
        self.events.event(Event::StepBegin(&planned));
        let (from, to) = (planned.from, planned.to);
        let begin = Marker::Migrating { from: from.clone(), to: to.clone() };
        let started = marker::now();
        let (mut content, warning) = match state.marker() {
            Some(old) if old == begin => self.history_without(&begin, &from, &to),
            Some(old) => self.history(&old),
            None => (Content::new(&self.layouts.program), None),
        };
        if let Some(warning) = warning {
            self.events.event(Event::Warning(warning));
        }
        match state.marker() {
            Some(old) if old == begin => {}
            Some(old) => self.warn(marker::change(lock, &old, &begin, &content)?),
            None => marker::write_first(lock, &begin, &content)?,
        }
        let body = self.body(lock, step, direction, leftovers_are_told);
        let moved = body.map_err(|source| RunError::Step {
            root: self.root.to_owned(),
            from: from.clone(),
            to: to.clone(),
            source,
        })?;
        if self.layouts.is_tagged(&to) {
            content.history.push(entry(&from, &to, started, moved));
            self.warn(marker::change(lock, &begin, &Marker::At(to.clone()), &content)?);
        } else {
            marker::remove(lock, &begin)?;
        }
        let Moved { items, bytes, leftovers } = moved;
        self.events.event(Event::StepEnd { from: &from, to: &to, items, bytes, leftovers });
        Ok(())
    }

    /// What lies between the two markers.
    fn body(
        &self,
        lock: &ExclusiveLock,
        step: &dyn Step,
        direction: Direction,
        mut leftovers_are_told: bool,
    ) -> Result<Moved, StepError> {
        let (from, to) = ends(step, direction);
        let but_leftovers = ButLeftovers(self.events);
        let mut context = Context { lock, work: self.work() };
        let mut all = Moved::default();
        loop {
            self.cancel.check()?;
            if leftovers_are_told {
                context.work.events = &but_leftovers;
            }
            let pass = match direction {
                Direction::Up => step.apply(&context)?,
                Direction::Back => step.revert(&context)?,
            };
            leftovers_are_told = true;
            all.items += pass.items;
            all.bytes += pass.bytes;
            all.leftovers = pass.leftovers;
            if pass.items == 0 {
                break;
            }
        }
        self.cancel.check()?;
        step.check(&context, direction)?;
        self.artefacts(lock, &to, Occasion::Other { old: Some(&from) })?;
        durable::sync_file_system(self.root)?;
        Ok(all)
    }

    fn artefacts(
        &self,
        lock: &ExclusiveLock,
        new: &LayoutId,
        occasion: Occasion<'_>,
    ) -> Result<(), StepError> {
        let context = Context { lock, work: self.work() };
        for artefact in self.layouts.artefacts.iter().filter(|artefact| artefact.layout() == *new) {
            self.cancel.check()?;
            if artefact.is_left_to_program() && !matches!(occasion, Occasion::Regeneration) {
                continue;
            }
            match artefact.build(&context) {
                Err(error @ StepError::Path(_)) if !artefact.is_required() => {
                    let text = format!(
                        "{} was not built, the program will build it later: {error}",
                        artefact.name()
                    );
                    self.events.event(Event::Warning(text));
                }
                result => result?,
            }
        }
        for artefact in &self.layouts.artefacts {
            if matches!(occasion, Occasion::Other { old: Some(old) } if artefact.layout() == *old)
                && artefact.layout() != *new
            {
                artefact.remove(&context)?;
            }
        }
        Ok(())
    }

    fn history(&self, marker: &Marker) -> (Content, Option<String>) {
        let (mut content, warning) = Content::read(self.root, marker, &self.layouts.program);
        content.written_by.clone_from(&self.layouts.program);
        content.written_at = marker::now();
        (content, warning)
    }

    /// Is the history in the marker of a step that is taken up again. Its own entry, written and then killed
    /// before the marker's name changed, is left out: it comes when the step ends.
    fn history_without(&self, begin: &Marker, from: &LayoutId, to: &LayoutId) -> (Content, Option<String>) {
        let (mut content, warning) = self.history(begin);
        content.history.pop_if(|last| last.from == from.as_str() && last.to == to.as_str());
        (content, warning)
    }

    fn warn(&self, warning: Option<PathError>) {
        if let Some(error) = warning {
            self.events.event(Event::Warning(format!("the history in the marker was not written: {error}")));
        }
    }
}

/// Hands on everything but leftovers, which are told once though every pass meets them.
struct ButLeftovers<'a>(&'a dyn Events);

impl Events for ButLeftovers<'_> {
    fn event(&self, event: Event<'_>) {
        if !matches!(event, Event::Leftover(_)) {
            self.0.event(event);
        }
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

fn entry(from: &LayoutId, to: &LayoutId, started: String, moved: Moved) -> HistoryEntry {
    HistoryEntry {
        from: from.to_string(),
        to: to.to_string(),
        started,
        finished: marker::now(),
        moved: moved.items,
        leftovers: moved.leftovers,
        bytes: moved.bytes,
    }
}

fn joined<'a>(exit: Exit, refusals: impl Iterator<Item = &'a Refusal>) -> Refusal {
    let messages: Vec<&str> = refusals.map(|refusal| refusal.message.as_str()).collect();
    Refusal { exit, message: messages.join("\n") }
}
