//! v2 → v3: a folder for each record, and a folder for labels.
//!
//! ```text
//! before                                 after
//! records/MODULE/@v/v1.0.0.toml          records/MODULE/@v/v1.0.0/record.toml
//!                                        labels/
//! ```

use std::fs;
use std::path::Path;

use stoa_layout::error::PathContext;
use stoa_layout::step::{Refusal, Work};
use stoa_layout::{Context, Direction, Exit, LayoutId, Leftover, Moved, StepError, Survey, durable};

use crate::records::{self, Record, Side};

/// The step.
pub(crate) struct Step;

impl stoa_layout::Step for Step {
    fn from(&self) -> LayoutId {
        LayoutId::fixed("v2")
    }

    fn to(&self) -> LayoutId {
        LayoutId::fixed("v3")
    }

    fn description(&self) -> &str {
        "create a folder for labels, and a folder for each record"
    }

    /// Counts the work and finds what forbids the step. Changes nothing.
    fn survey(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError> {
        let mut survey = Survey::default();
        let labels = root.join("labels");
        if direction == Direction::Up && labels.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            let message =
                format!("{} is not a folder, and layout v3 needs one\nhelp: move it away", labels.display());
            survey.refusals.push(Refusal { exit: Exit::CANT_CREATE, message });
        }
        records::walk(root, from_side(direction), &mut |record| {
            work.cancel.check()?;
            let bytes = fs::symlink_metadata(&record.here).at("stat", &record.here)?.len();
            match is_taken(&record) {
                false => {
                    survey.items += 1;
                    survey.bytes += bytes;
                }
                // A record that cannot move forbids a step back, because no program would find it at v2.
                true if direction == Direction::Back => {
                    let message = format!("{} exists already\nhelp: move it away", record.there.display());
                    survey.refusals.push(Refusal { exit: Exit::CANT_CREATE, message });
                }
                true => {
                    survey.leftovers += 1;
                    let reason = format!("its place is taken: {}", record.there.display());
                    work.leftover(&Leftover { path: record.here, bytes, reason });
                }
            }
            Ok(())
        })?;
        Ok(survey)
    }

    fn apply(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        context.lock.durable().ensure_dir(&context.root().join("labels"))?;
        pass(context, Direction::Up)
    }

    fn revert(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        durable::remove_empty_dir(&context.root().join("labels"))?;
        pass(context, Direction::Back)
    }

    /// Checks that nothing that can move is at its old place.
    fn check(&self, context: &Context<'_>, direction: Direction) -> Result<(), StepError> {
        records::walk(context.root(), from_side(direction), &mut |record| {
            if is_taken(&record) {
                return Ok(());
            }
            let message = format!("{} was not moved\nhelp: run again to resume", record.here.display());
            Err(StepError::Refused(Refusal { exit: Exit::IO, message }))
        })
    }
}

fn from_side(direction: Direction) -> Side {
    match direction {
        Direction::Up => Side::V2,
        Direction::Back => Side::V3,
    }
}

fn is_taken(record: &Record) -> bool {
    record.there.symlink_metadata().is_ok()
}

/// Makes one pass. A record that has moved is not found again, so the tree itself shows what is done.
fn pass(context: &Context<'_>, direction: Direction) -> Result<Moved, StepError> {
    let (root, work) = (context.root(), context.work);
    let mut moved = Moved::default();
    records::walk(root, from_side(direction), &mut |record| {
        work.cancel.check()?;
        let bytes = fs::symlink_metadata(&record.here).at("stat", &record.here)?.len();
        if is_taken(&record) {
            moved.leftovers += 1;
            return Ok(());
        }
        if let Some(folder) = record.there.parent().and_then(|folder| folder.strip_prefix(root).ok()) {
            context.lock.durable().ensure_dirs_unsynced(root, folder)?;
        }
        durable::rename_noreplace(&record.here, &record.there)?;
        if let (Direction::Back, Some(emptied)) = (direction, record.here.parent()) {
            durable::remove_empty_dir(emptied)?;
        }
        moved.items += 1;
        moved.bytes += bytes;
        Ok(())
    })?;
    Ok(moved)
}
