//! A plan: the steps to take, in which direction, and what stands in their way.

use crate::{Exit, LayoutId};

/// The direction of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the older layout to the newer layout.
    Up,
    /// From the newer layout to the older layout.
    Back,
}

/// One step of a plan.
#[derive(Debug, Clone)]
pub struct PlannedStep {
    /// The layout before the step.
    pub from: LayoutId,
    /// The layout after the step. Equal to `from` for a regeneration.
    pub to: LayoutId,
    /// Up or back.
    pub direction: Direction,
    /// The step's description of itself.
    pub description: String,
    /// Whether the step has begun already and is resumed.
    pub resumes: bool,
    /// The survey. Only the first step of a plan has one, because only its tree exists already. A step that is resumed
    /// has none, except in a dry run.
    pub survey: Option<Survey>,
}

/// The result of a survey.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Items to move.
    pub items: u64,
    /// Bytes of these items.
    pub bytes: u64,
    /// Reported leftovers.
    pub leftovers: u64,
    /// Reasons that forbid the step. Empty if it may begin.
    pub refusals: Vec<Refusal>,
    /// Whether `items` is an estimate, and bytes and leftovers are not counted.
    pub is_estimate: bool,
    /// Whether nothing is at the places of the other layout, so that all items there will come from this step.
    pub is_first: bool,
}

/// A reason that forbids a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The exit code of the program.
    pub exit: Exit,
    /// The message. It names the path and what to do next.
    pub message: String,
}

impl Refusal {
    /// Words of most refusals before the first change.
    const UNCHANGED: &str = "nothing was changed";

    /// Returns the refusal of a step after other steps of the same run. It says where the store is.
    pub(crate) fn after_steps(self, layout: &LayoutId) -> Self {
        let now = format!("the store is at layout {layout} now, and works at this layout");
        let message = if self.message.contains(Self::UNCHANGED) {
            self.message.replace(Self::UNCHANGED, &now)
        } else {
            let (reason, help) = self.message.split_once('\n').unwrap_or((&self.message, ""));
            format!("{reason}; {now}\n{help}").trim_end().to_owned()
        };
        Self { message, ..self }
    }
}
