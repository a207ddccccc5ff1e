//! What comes next from a state, and what is refused.

use super::{RunError, Runner};
use crate::marker::Marker;
use crate::state::State;
use crate::step::{Direction, Step};
use crate::{Exit, LayoutId};

/// What is to be done next, under the lock or in a plan.
pub(super) enum Action<'a> {
    Finished,
    Create,
    Step { step: &'a dyn Step, direction: Direction, begun: Option<Marker> },
    Regenerate { begun: bool },
}

impl Runner<'_> {
    /// Decides what comes next from a state, or refuses it.
    pub(super) fn action(
        &self,
        state: &State,
        target: &LayoutId,
        regenerated: bool,
    ) -> Result<Action<'_>, RunError> {
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
}
