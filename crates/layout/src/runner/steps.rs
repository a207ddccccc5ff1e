//! Takes the steps under the exclusive lock, from marker to marker.

use super::next::Action;
use super::{First, Outcome, RunError, Runner, ends, joined, planned};
use crate::clock::now;
use crate::events::{Event, Events};
use crate::lock::ExclusiveLock;
use crate::marker::{self, Content, HistoryEntry, Marker};
use crate::plan::{Direction, PlannedStep, Survey};
use crate::state::State;
use crate::step::{Context, Moved, Step, StepError, Work};
use crate::{LayoutId, PathError, durable};

/// The occasion for building artefacts.
#[derive(Clone, Copy)]
enum Occasion<'a> {
    /// A person asked for it.
    Regeneration,
    /// A new store, or a step from another layout.
    Other { old: Option<&'a LayoutId> },
}

impl Runner<'_> {
    pub(super) fn act(&self, lock: &ExclusiveLock, target: &LayoutId) -> Result<Outcome, RunError> {
        let mut done = false;
        let mut regenerated = false;
        // After a step to a layout without a marker the store may be nearly empty and not recognised again.
        let mut reached: Option<State> = None;
        let mut last: Option<(Direction, Moved)> = None;
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
                marker::sweep_temporaries(lock)?;
            }
            match action {
                Action::Finished if done => return Ok(Outcome::Done(target.clone())),
                Action::Finished => return Ok(Outcome::Nothing(target.clone())),
                // The look without the lock may have failed or be outdated.
                Action::Create if self.is_left_uncreated(&state) => return Ok(Outcome::NoStore),
                Action::Create => {
                    self.events.event(Event::Plan {
                        root: self.root,
                        target,
                        creates: Some(target),
                        restores: None,
                        steps: &[],
                    });
                    self.create(lock, &state)?;
                }
                Action::Restore { layout } => {
                    self.report_plan(&state, target, First::Known(None))?;
                    self.restore(lock, &layout)?;
                }
                Action::Step { step, direction, begun } => {
                    let (from, to) = ends(step, direction);
                    let resumes = begun == Some(Marker::Migrating { from: from.clone(), to: to.clone() });
                    let (survey, mut refusals) = if resumes {
                        (None, step.resume(self.root, direction, &self.work())?)
                    } else {
                        let just_moved =
                            last.filter(|(before, _)| *before == direction).map(|(_, moved)| moved);
                        let work = Work { just_moved, ..self.work() };
                        let survey = step.prepare(self.root, direction, &work)?;
                        let refusals = survey.refusals.clone();
                        (Some(survey), refusals)
                    };
                    if !done {
                        let steps = self.report_plan(&state, target, First::Known(survey.clone()))?;
                        if refusals.is_empty() {
                            refusals = self.foresee(&state, &steps)?;
                        }
                    }
                    if let Some(refusal) = joined(&refusals) {
                        return Err(RunError::Refused(if done {
                            refusal.after_steps(&from)
                        } else {
                            refusal
                        }));
                    }
                    let is_first = survey.as_ref().is_some_and(|survey| survey.is_first);
                    let moved = self.take(lock, step, direction, begun.as_ref(), &state, survey)?;
                    last = is_first.then_some((direction, moved));
                    reached = (!self.layouts.is_tagged(&to)).then_some(State::Untagged(to));
                }
                Action::Regenerate { begun } => {
                    let layout = match &state {
                        State::Migrating { to, .. } => to.clone(),
                        _ => target.clone(),
                    };
                    if !done {
                        self.report_plan(&state, target, First::Known(None))?;
                    }
                    self.regenerate(lock, &layout, begun)?;
                    regenerated = true;
                }
            }
            done = true;
        }
    }

    fn report_plan(
        &self,
        state: &State,
        target: &LayoutId,
        first: First,
    ) -> Result<Vec<PlannedStep>, RunError> {
        let steps = self.planned_steps(state, target, first)?;
        let restores = match state {
            State::MarkerLost { layout, .. } => Some(layout),
            _ => None,
        };
        self.events.event(Event::Plan { root: self.root, target, creates: None, restores, steps: &steps });
        Ok(steps)
    }

    fn create(&self, lock: &ExclusiveLock, state: &State) -> Result<(), RunError> {
        let layout = self.layouts.current.clone();
        let creating = Marker::Creating(layout.clone());
        let started = now();
        let mut content = Content::new(&self.layouts.program);
        lock.sign();
        match state {
            State::Creating(older) if *older != layout => {
                self.warn(marker::change(lock, &Marker::Creating(older.clone()), &creating, &content)?);
            }
            State::Creating(_) => {}
            _ => marker::write_first(lock, &creating, &content)?,
        }
        self.folders(lock)?;
        self.artefacts(lock, &layout, Occasion::Other { old: None })?;
        durable::sync_file_system(self.root)?;
        content.history.push(entry("empty", &layout, started, Moved::default()));
        self.warn(marker::change(lock, &creating, &Marker::At(layout.clone()), &content)?);
        self.events.event(Event::Created(&layout));
        Ok(())
    }

    /// Creates the missing folders of a store at the current layout.
    fn folders(&self, lock: &ExclusiveLock) -> Result<(), PathError> {
        for folder in &self.layouts.folders {
            lock.durable().ensure_dir(&self.root.join(folder))?;
        }
        Ok(())
    }

    /// Checks the structure of a store whose marker is lost.
    pub(super) fn check_unmarked(&self, layout: &LayoutId) -> Result<(), RunError> {
        let Some(known) = self.layouts.unmarked.iter().find(|known| known.layout() == *layout) else {
            return Ok(());
        };
        let refusals = known.check(self.root, &self.work())?;
        joined(&refusals).map_or(Ok(()), |refusal| Err(RunError::Refused(refusal)))
    }

    /// Puts back the lost marker of a layout, after a check of the whole store.
    fn restore(&self, lock: &ExclusiveLock, layout: &LayoutId) -> Result<(), RunError> {
        let started = now();
        self.check_unmarked(layout)?;
        lock.sign();
        if *layout == self.layouts.current {
            // A backup may have left out empty folders.
            self.folders(lock)?;
        }
        self.artefacts(lock, layout, Occasion::Other { old: None })?;
        // The files may have been copied a moment ago: they must be on disk before the marker vouches for them.
        durable::sync_file_system(self.root)?;
        let mut content = Content::new(&self.layouts.program);
        content.history.push(entry("unmarked", layout, started, Moved::default()));
        marker::write_first(lock, &Marker::At(layout.clone()), &content)?;
        self.events.event(Event::Restored(layout));
        Ok(())
    }

    fn regenerate(&self, lock: &ExclusiveLock, layout: &LayoutId, begun: bool) -> Result<(), RunError> {
        let at = Marker::At(layout.clone());
        let during = Marker::Migrating { from: layout.clone(), to: layout.clone() };
        lock.sign();
        self.events.event(Event::StepBegin(&self.planned_regeneration(layout, begun)));
        let mut content = self.history(if begun { &during } else { &at });
        let started = now();
        if !begun {
            self.warn(marker::change(lock, &at, &during, &content)?);
        }
        self.artefacts(lock, layout, Occasion::Regeneration)?;
        durable::sync_file_system(self.root)?;
        content.history.push(entry(layout.as_str(), layout, started, Moved::default()));
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
        survey: Option<Survey>,
    ) -> Result<Moved, RunError> {
        let mut planned = planned(step, direction, begun.is_some());
        let leftovers_are_reported = survey.as_ref().is_some_and(|survey| !survey.is_estimate);
        planned.survey = survey;
        self.events.event(Event::StepBegin(&planned));
        let (from, to) = (planned.from, planned.to);
        let begin = Marker::Migrating { from: from.clone(), to: to.clone() };
        let started = now();
        let mut content = match state.marker() {
            Some(old) if old == begin => self.history_without(&begin, &from, &to),
            Some(old) => self.history(&old),
            None => Content::new(&self.layouts.program),
        };
        lock.sign();
        match state.marker() {
            Some(old) if old == begin => {}
            Some(old) => self.warn(marker::change(lock, &old, &begin, &content)?),
            None => marker::write_first(lock, &begin, &content)?,
        }
        let body = self.body(lock, step, direction, leftovers_are_reported);
        let moved = body.map_err(|source| RunError::Step {
            root: self.root.to_owned(),
            from: from.clone(),
            to: to.clone(),
            source,
        })?;
        if self.layouts.is_tagged(&to) {
            content.history.push(entry(from.as_str(), &to, started, moved));
            self.warn(marker::change(lock, &begin, &Marker::At(to.clone()), &content)?);
        } else {
            marker::remove(lock, &begin)?;
        }
        let Moved { items, bytes, leftovers } = moved;
        self.events.event(Event::StepEnd { from: &from, to: &to, items, bytes, leftovers });
        Ok(moved)
    }

    /// Does the work between the two markers.
    fn body(
        &self,
        lock: &ExclusiveLock,
        step: &dyn Step,
        direction: Direction,
        mut leftovers_are_reported: bool,
    ) -> Result<Moved, StepError> {
        let (from, to) = ends(step, direction);
        let but_leftovers = ButLeftovers(self.events);
        let mut context = Context { lock, work: self.work() };
        let mut all = Moved::default();
        loop {
            self.cancel.check()?;
            if leftovers_are_reported {
                context.work.events = &but_leftovers;
            }
            let pass = match direction {
                Direction::Up => step.apply(&context)?,
                Direction::Back => step.revert(&context)?,
            };
            leftovers_are_reported = true;
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
                    let text = format!("cannot build {}; a server builds it later: {error}", artefact.name());
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

    /// Returns the history in a marker. A damaged history is reported, and is empty.
    fn history(&self, marker: &Marker) -> Content {
        let (mut content, warning) = Content::read(self.root, marker, &self.layouts.program);
        if let Some(warning) = warning {
            self.events.event(Event::Warning(warning));
        }
        content.written_by.clone_from(&self.layouts.program);
        content.written_at = now();
        content
    }

    /// Returns the history in the marker of a resumed step, without the step's own entry.
    fn history_without(&self, begin: &Marker, from: &LayoutId, to: &LayoutId) -> Content {
        // A kill between writing the entry and renaming the marker leaves the entry in an unfinished step.
        let mut content = self.history(begin);
        content.history.pop_if(|last| last.from == from.as_str() && last.to == to.as_str());
        content
    }

    fn warn(&self, warning: Option<PathError>) {
        if let Some(error) = warning {
            self.events.event(Event::Warning(format!("cannot write the history in the marker: {error}")));
        }
    }
}

/// Passes on all events but leftovers, which only the first pass reports.
struct ButLeftovers<'a>(&'a dyn Events);

impl Events for ButLeftovers<'_> {
    fn event(&self, event: Event<'_>) {
        if !matches!(event, Event::Leftover(_)) {
            self.0.event(event);
        }
    }
}

fn entry(from: &str, to: &LayoutId, started: String, moved: Moved) -> HistoryEntry {
    HistoryEntry {
        from: from.to_string(),
        to: to.to_string(),
        started,
        finished: now(),
        moved: moved.items,
        leftovers: moved.leftovers,
        bytes: moved.bytes,
    }
}
