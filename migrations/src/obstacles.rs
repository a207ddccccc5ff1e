//! Collects everything that would stop a step midway, before the step begins.

use std::path::Path;

use stoa_gomod::ModuleVersion;
use stoa_layout::marker::Marker;
use stoa_layout::step::Refusal;
use stoa_layout::{Direction, Exit, StepError};

use crate::flow::{Batch, Flow};
use crate::folders::{self, Chain, Folders};
use crate::listed::Listed;
use crate::picture::{Candidate, Files, metadata};
use crate::refuse;

/// The folders that layout v1 does not have.
const NOT_AT_V1: [&str; 5] = ["staging", "quarantine", "index", "cache", "records"];

/// The obstacles of one step, from all threads.
pub(crate) struct Obstacles<'a> {
    flow: &'a Flow,
    root: &'a Path,
    direction: Direction,
    folders: Folders,
    /// Whether the new names differ only in case, on a file system that ignores case.
    loses_case: bool,
    taken: Listed<String>,
    folded: Listed<String>,
}

impl<'a> Obstacles<'a> {
    pub(crate) fn new(flow: &'a Flow, root: &'a Path, direction: Direction) -> Result<Self, StepError> {
        let needs_case = direction == Direction::Back && flow.old.needs_case();
        Ok(Self {
            flow,
            root,
            direction,
            folders: Folders::below(root)?,
            loses_case: needs_case && folders::ignores_case(root, folders::identity),
            taken: Listed::default(),
            folded: Listed::default(),
        })
    }

    /// Checks the folders of a version that would move.
    pub(crate) fn moves(
        &self,
        candidate: &Candidate,
        there: &Files,
        batch: &mut Batch,
    ) -> Result<(), StepError> {
        self.leaves(&candidate.files, &mut batch.left)?;
        self.enters(&candidate.version, there, batch)
    }

    /// Checks the folders that a version would leave.
    pub(crate) fn leaves(&self, files: &Files, chain: &mut Chain) -> Result<(), StepError> {
        self.folders.leave(files, chain)
    }

    /// Checks the folders that a version would come into.
    pub(crate) fn enters(
        &self,
        version: &ModuleVersion,
        there: &Files,
        batch: &mut Batch,
    ) -> Result<(), StepError> {
        if self.loses_case
            && (version.path().escaped() != version.path().as_str()
                || version.version().escaped() != version.version().as_str())
        {
            self.folded.add(|| version.to_string());
        }
        self.folders.enter(there.folder(), &mut batch.entered)
    }

    /// Adds a version whose place on the other side is taken.
    pub(crate) fn taken(&self, candidate: &Candidate, reason: &str) {
        self.taken.add(|| format!("{}: {reason}", candidate.version));
    }

    /// Checks the folders of the store, and returns whether anything is wrong with a folder.
    pub(crate) fn has_bad_folder(&self) -> Result<bool, StepError> {
        self.folders.own()?;
        if self.direction == Direction::Back {
            for name in self.flow.removed_back {
                self.folders.removed(&self.root.join(name))?;
            }
        }
        Ok(self.folders.has_refusal())
    }

    /// Returns all reasons that forbid the step.
    pub(crate) fn refusals(self) -> Result<Vec<Refusal>, StepError> {
        self.has_bad_folder()?;
        let has_begun_to_go_back = self.has_begun_to_go_back()?;
        let (root, older) = (self.root.display(), &self.flow.from);
        let mut refusals = Vec::new();
        let mut refuse = |message| refusals.push(Refusal { exit: Exit::CANT_CREATE, message });
        if let Some(taken) = self.taken.into_lines() {
            refuse(format!(
                "cannot downgrade {root} to {older}: other files are in the place of\n    {taken}\nnothing was changed\n\
                 help: move them out of the store with `stoa leftovers move DIR`, then run again"
            ));
        }
        if let Some(folded) = self.folded.into_lines() {
            refuse(format!(
                "cannot downgrade {root} to {older}: its file system ignores case, and {older} does not escape the capital \
                 letters of\n    {folded}\nnothing was changed\n\
                 help: copy the store to a file system that distinguishes case, then run again there"
            ));
        }
        let is_foreign = self.flow.is_foreign;
        let before = refusals.len();
        if is_foreign && self.direction == Direction::Up {
            refusals.extend(refuse::to_begin(self.root)?);
        } else {
            refusals.extend(match self.direction {
                Direction::Up if !has_begun_to_go_back => refuse::names_of_ours(self.root, &NOT_AT_V1)?,
                _ => refuse::not_folders(self.root)?,
            });
            refusals.extend(refuse::mounts(self.root, is_foreign)?);
        }
        // The same mount must not be reported twice.
        if refusals.len() == before {
            refusals.extend(self.folders.refusal());
        }
        Ok(refusals)
    }

    /// Returns whether the step back was interrupted. The folders are those of the newer layout then.
    fn has_begun_to_go_back(&self) -> Result<bool, StepError> {
        let marker = Marker::Migrating { from: self.flow.to.clone(), to: self.flow.from.clone() };
        Ok(metadata(&marker.path(self.root))?.is_some())
    }
}
