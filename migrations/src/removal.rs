//! Removes the folders that a step has emptied.
//!
//! A folder that may not be removed stays: it holds nothing, so it is a warning and no reason to stop a step.

use std::io;
use std::iter::successors;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};
use stoa_layout::durable::{remove_empty_dir, remove_tree_but_folders};
use stoa_layout::step::Work;
use stoa_layout::{Event, PathError, StepError};

use crate::listed::Listed;
use crate::picture::Names;

/// Maximum number of names of a folder in memory.
const HELD: usize = 1024;

/// Number of threads for each worker thread. Removing a folder may wait for the disk to discard its block, or for a file
/// server, and needs little of the CPU.
const THREADS_A_WORKER: usize = 4;

/// Removes folders on several threads, and remembers the folders that it may not remove.
pub(crate) struct Removal {
    /// `None` if the system has no thread to give.
    pool: Option<ThreadPool>,
    stuck: Listed<PathError>,
}

impl Removal {
    /// Begins with several threads for each worker, or fewer if the system has no more to give. One worker stays one thread.
    pub(crate) fn new(workers: usize) -> Self {
        let wanted = if workers > 1 { workers * THREADS_A_WORKER } else { 1 };
        let counts = successors(Some(wanted), |count| Some(count / 2).filter(|half| *half > 0));
        let mut pools = counts.map(|count| ThreadPoolBuilder::new().num_threads(count).build());
        Self { pool: pools.find_map(Result::ok), stuck: Listed::default() }
    }

    /// Removes a folder if it is empty, and returns whether it did.
    pub(crate) fn remove_empty(&self, folder: &Path) -> Result<bool, PathError> {
        match remove_empty_dir(folder) {
            // The system refuses before it looks inside.
            Err(error) if error.forbids_removal() => {
                if Names::of(folder)?.is_some_and(|mut names| names.next().is_none()) {
                    self.keep(error);
                }
                Ok(false)
            }
            result => result,
        }
    }

    /// Removes a folder with everything below. Only folders may stay.
    pub(crate) fn remove_tree(&self, folder: &Path) -> Result<(), PathError> {
        if let Some(error) = remove_tree_but_folders(folder)? {
            self.keep(error);
        }
        Ok(())
    }

    fn keep(&self, error: PathError) {
        let path = error.path.clone();
        self.stuck.add_unless(|known| known.path == path, || error);
    }

    /// Warns about the folders that stay.
    pub(crate) fn report(self, work: &Work<'_>) {
        let (listed, more) = self.stuck.into_parts();
        for error in &listed {
            let text = format!(
                "cannot remove the empty folder {}: {}; it stays",
                error.path.display(),
                error.source
            );
            work.events.event(Event::Warning(text));
        }
        if more > 0 {
            work.events.event(Event::Warning(format!("{more} more empty folders stay")));
        }
    }
}

/// The answer to a question about a folder.
pub(crate) type Answer = Result<bool, PathError>;

/// The rules for removing empty folders.
pub(crate) struct Emptied<'a> {
    /// Returns whether a folder may be removed.
    pub(crate) may_go: &'a (dyn Fn(&Path) -> Answer + Sync),
    /// Returns whether a name at the top is skipped.
    pub(crate) skip: &'a (dyn Fn(&str) -> bool + Sync),
    /// Returns whether a folder that is not empty may contain empty folders.
    pub(crate) goes_below: &'a (dyn Fn(&Path) -> bool + Sync),
}

impl Emptied<'_> {
    /// Removes the empty folders below a folder, deepest first.
    pub(crate) fn remove_below(&self, folder: &Path, removal: &Removal) -> Result<(), StepError> {
        let is_empty = match &removal.pool {
            Some(pool) => pool.install(|| self.below(folder, true, removal)),
            None => self.below(folder, true, removal),
        };
        Ok(is_empty.map(drop)?)
    }

    /// Does the same, and returns whether the folder is empty now.
    fn below(&self, folder: &Path, at_the_top: bool, removal: &Removal) -> Answer {
        let mut names = match Names::of(folder) {
            Ok(Some(names)) => names,
            Ok(None) => return Ok(false),
            // A leftover, which the walk reports.
            Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut is_empty = true;
        loop {
            let mut folders: Vec<PathBuf> = Vec::new();
            let is_end = loop {
                let Some(name) = names.next() else { break true };
                let name = name?;
                let is_skipped = at_the_top && name.text.as_deref().is_some_and(self.skip);
                if name.kind.is_dir() && !is_skipped {
                    folders.push(name.path);
                } else {
                    is_empty = false;
                }
                if folders.len() == HELD {
                    break false;
                }
            };
            is_empty &= match removal.pool {
                Some(_) => folders
                    .par_iter()
                    .map(|folder| self.remove(folder, removal))
                    .try_reduce(|| true, |one, other| Ok(one && other))?,
                None => {
                    let mut all = true;
                    for folder in &folders {
                        all &= self.remove(folder, removal)?;
                    }
                    all
                }
            };
            if is_end {
                return Ok(is_empty);
            }
        }
    }

    /// Removes a folder and the folders below it if the rules allow it, and returns whether it is gone.
    fn remove(&self, folder: &Path, removal: &Removal) -> Answer {
        let may_go = (self.may_go)(folder)?;
        // Most folders are empty or full. One call finds out; looking inside takes four.
        let is_gone = may_go
            && match remove_empty_dir(folder) {
                Err(error) if error.forbids_removal() => false,
                result => result?,
            };
        Ok(is_gone
            || (self.goes_below)(folder)
                && self.below(folder, false, removal)?
                && may_go
                && removal.remove_empty(folder)?)
    }
}
