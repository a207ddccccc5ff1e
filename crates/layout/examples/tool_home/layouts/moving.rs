//! A step that only moves. All steps of this home are of this kind.
//!
//! A step reads from the tree, for each direction, what is still at its old place and where it belongs ([`Plan`]). It does not
//! matter where an earlier run was interrupted, or in which direction it went.

use std::path::{Path, PathBuf};

use stoa_layout::step::{Refusal, Work};
use stoa_layout::{
    Context, Direction, Event, Exit, LayoutId, Leftover, Moved, PathError, Step, StepError, Survey, durable,
};

use super::scan;

/// The work to do. All paths are below the home.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The renames, from and to.
    pub(crate) moves: Vec<(PathBuf, PathBuf)>,
    /// The paths that stay.
    pub(crate) leftovers: Vec<Leftover>,
}

/// Returns the work to do.
type Look<T> = fn(&Path, Direction) -> Result<T, PathError>;

/// A step that only moves.
pub(crate) struct MoveStep {
    pub(crate) from: LayoutId,
    pub(crate) to: LayoutId,
    pub(crate) description: &'static str,
    /// Plans the remaining moves.
    pub(crate) plan: Look<Plan>,
    /// Folders that the layout has even if they are empty.
    pub(crate) folders: fn(Direction) -> &'static [&'static str],
    /// Folders that are removed if they are empty after the moves, deeper folders first.
    pub(crate) emptied: Look<Vec<PathBuf>>,
}

impl MoveStep {
    /// Plans the moves, without those whose place is taken. Nothing is ever overwritten.
    fn plan(&self, root: &Path, direction: Direction) -> Result<(Plan, Vec<Refusal>), PathError> {
        let mut plan = (self.plan)(root, direction)?;
        let mut refusals = Vec::new();
        let (taken, free) =
            std::mem::take(&mut plan.moves).into_iter().partition(|(from, to)| is_taken(root, from, to));
        plan.moves = free;
        for (from, to) in taken {
            let (from, to) = (root.join(from), root.join(to));
            match direction {
                Direction::Up => plan.leftovers.push(scan::leftover(from, "its place is taken")),
                Direction::Back => refusals.push(Refusal {
                    exit: Exit::CANT_CREATE,
                    message: format!(
                        "cannot move {from} to {to}: something is there; nothing was moved. Move {to} away, then run again",
                        from = from.display(),
                        to = to.display()
                    ),
                }),
            }
        }
        Ok((plan, refusals))
    }

    fn pass(&self, context: &Context<'_>, direction: Direction) -> Result<Moved, StepError> {
        let root = context.root();
        let durable = context.lock.durable();
        let (plan, _) = self.plan(root, direction)?;
        let mut moved = Moved { leftovers: plan.leftovers.len() as u64, ..Moved::default() };
        for folder in (self.folders)(direction) {
            durable.ensure_dir(&root.join(folder))?;
        }
        for (from, to) in &plan.moves {
            context.work.cancel.check()?;
            if let Some(folder) = to.parent() {
                durable.ensure_dirs(root, folder)?;
            }
            moved.bytes += scan::bytes_below(&root.join(from))?;
            durable::rename_noreplace(&root.join(from), &root.join(to))?;
            moved.items += 1;
            context.work.events.event(Event::Progress { items: moved.items, bytes: moved.bytes });
        }
        for folder in (self.emptied)(root, direction)? {
            durable::remove_empty_dir(&root.join(folder))?;
        }
        Ok(moved)
    }
}

impl Step for MoveStep {
    fn from(&self) -> LayoutId {
        self.from.clone()
    }

    fn to(&self) -> LayoutId {
        self.to.clone()
    }

    fn description(&self) -> &str {
        self.description
    }

    /// Counts the work and reports the leftovers. The passes only count them.
    fn survey(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError> {
        let (plan, refusals) = self.plan(root, direction)?;
        let mut survey = Survey { leftovers: plan.leftovers.len() as u64, refusals, ..Survey::default() };
        for leftover in &plan.leftovers {
            work.leftover(leftover);
        }
        for (from, _) in &plan.moves {
            work.cancel.check()?;
            survey.items += 1;
            survey.bytes += scan::bytes_below(&root.join(from))?;
        }
        Ok(survey)
    }

    fn apply(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        self.pass(context, Direction::Up)
    }

    fn revert(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        self.pass(context, Direction::Back)
    }

    fn check(&self, context: &Context<'_>, direction: Direction) -> Result<(), StepError> {
        let (plan, _) = self.plan(context.root(), direction)?;
        match plan.moves.first() {
            None => Ok(()),
            Some((from, _)) => Err(StepError::Refused(Refusal {
                exit: Exit::IO,
                message: format!(
                    "{} is still at its old place; something else moves files in there. Stop it, then run again",
                    context.root().join(from).display()
                ),
            })),
        }
    }
}

/// Returns whether a different file is at the new place. A file under both names is a move that was killed half-way on a
/// file system without a rename that refuses to overwrite.
fn is_taken(root: &Path, from: &Path, to: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let look = |path: &Path| root.join(path).symlink_metadata().map(|meta| (meta.dev(), meta.ino()));
    match (look(from), look(to)) {
        (Ok(old), Ok(new)) => old != new,
        (_, new) => new.is_ok(),
    }
}
