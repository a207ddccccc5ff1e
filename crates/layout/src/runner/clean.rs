//! The end of a downgrade to a layout without a marker: the files of the program that stay, and their removal.

use std::path::PathBuf;

use super::{Outcome, RunError, Runner};
use crate::events::Event;
use crate::lock::{ExclusiveLock, LOCK_NAME};
use crate::{LayoutId, durable};

impl Runner<'_> {
    /// Reports the files of the program that stay, or removes them. The marker is gone, so a crash leaves a complete store
    /// at the older layout, with some of these files.
    ///
    /// `is_of_a_store` is whether there was a lock file before this run. Without it the folder was never a store, and its
    /// names belong to another program.
    pub(super) fn leave(
        &self,
        lock: ExclusiveLock,
        layout: &LayoutId,
        is_of_a_store: bool,
        outcome: &Outcome,
    ) -> Result<(), RunError> {
        let is_done = matches!(outcome, Outcome::Done(_));
        let cleans = self.options.clean;
        if self.layouts.is_tagged(layout) || !(is_done || cleans) {
            return Ok(());
        }
        let paths = if is_done || is_of_a_store { self.remains(layout, is_done)? } else { Vec::new() };
        if cleans {
            // The lock is the last: as long as it exists, another run finishes the work.
            for path in paths.iter().filter(|path| !path.ends_with(LOCK_NAME)) {
                self.cancel.check()?;
                durable::remove_tree(path)?;
            }
            durable::sync_dir(self.root)?;
            durable::remove_file(&self.root.join(LOCK_NAME))?;
            durable::sync_dir(self.root)?;
            drop(lock);
        }
        if !paths.is_empty() {
            self.report_remains(layout, &paths, cleans);
        }
        Ok(())
    }

    /// Returns the files of the program that a downgrade to a layout keeps, with the lock file at the end.
    pub(super) fn remains(&self, layout: &LayoutId, is_ours: bool) -> Result<Vec<PathBuf>, RunError> {
        let mut paths = Vec::new();
        for step in self.layouts.steps.iter().filter(|step| step.from() == *layout) {
            paths.extend(step.remains(self.root, is_ours)?);
        }
        let lock = self.root.join(LOCK_NAME);
        paths.extend(lock.exists().then_some(lock));
        Ok(paths)
    }

    pub(super) fn report_remains(&self, layout: &LayoutId, paths: &[PathBuf], is_removed: bool) {
        self.events.event(Event::Remains { root: self.root, layout, paths, is_removed });
    }
}
