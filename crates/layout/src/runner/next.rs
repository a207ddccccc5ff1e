//! Decides the next action from a state, or refuses it.

use super::{RunError, Runner};
use crate::marker::Marker;
use crate::plan::Direction;
use crate::state::State;
use crate::step::Step;
use crate::{Exit, LayoutId};

/// The next action, under the lock or in a plan.
pub(super) enum Action<'a> {
    Finished,
    Create,
    /// Puts back the lost marker of this layout.
    Restore {
        layout: LayoutId,
    },
    Step {
        step: &'a dyn Step,
        direction: Direction,
        begun: Option<Marker>,
    },
    Regenerate {
        begun: bool,
    },
}

impl Runner<'_> {
    /// Decides the next action from a state, or refuses it.
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
                        "there is no store in {root}, and a new store is always created at layout {}\n\
                         help: run again without --to {target}",
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
            State::MarkerLost { layout, is_confirmed: true } => {
                Ok(Action::Restore { layout: layout.clone() })
            }
            State::Migrating { from, to } if from == to => Ok(Action::Regenerate { begun: true }),
            State::Migrating { from, to } => self.resume(from, to, target),
            State::MarkerLost { .. }
            | State::Newer(_)
            | State::TwoMarkers(_)
            | State::Blocked(_)
            | State::Foreign(_) => self.refuse(state).map(|()| Action::Finished),
        }
    }

    fn resume(&self, from: &LayoutId, to: &LayoutId, target: &LayoutId) -> Result<Action<'_>, RunError> {
        let unknown = || self.no_way(from, target);
        let (step, direction) = self.layouts.between(from, to).ok_or_else(unknown)?;
        if self.options.auto && direction == Direction::Back {
            return Err(self.back_step_needs_decision(from, to));
        }
        let begun = Some(Marker::Migrating { from: from.clone(), to: to.clone() });
        let onward = self.layouts.way(to, target).ok_or_else(unknown)?;
        if onward.first() == Some(from) {
            if self.options.auto {
                return Err(self.downgrade_needs_person(to, target));
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
            return Err(self.downgrade_needs_person(layout, target));
        }
        Ok(Action::Step { step, direction, begun })
    }

    fn downgrade_needs_person(&self, layout: &LayoutId, target: &LayoutId) -> RunError {
        let message = format!(
            "{root} is at layout {layout}, or a step to it has begun; a store is never downgraded automatically\n\
             help: run `{} --store {root} --to {target}` by hand",
            self.layouts.program_name(),
            root = self.root.display()
        );
        RunError::refused(Exit::NEWER, message)
    }

    fn no_way(&self, from: &LayoutId, to: &LayoutId) -> RunError {
        let message = format!(
            "cannot migrate {} from layout {from} to {to}: {} has no steps between them\nhelp: use a release that has them",
            self.root.display(),
            self.layouts.program
        );
        RunError::refused(Exit::NEWER, message)
    }

    fn back_step_needs_decision(&self, from: &LayoutId, to: &LayoutId) -> RunError {
        let message = format!(
            "cannot use {root}: its downgrade from {from} to {to} was interrupted\n\
             help: run `{} --store {root} --to {to}` by hand to continue, or with --to {from} to upgrade again",
            self.layouts.program_name(),
            root = self.root.display()
        );
        RunError::refused(Exit::NEWER, message)
    }
}
