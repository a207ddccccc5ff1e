//! The end of a downgrade to a layout without a marker: the files of the program that stay, and their removal.

use super::{Outcome, RunError, Runner};
use crate::events::Event;
use crate::lock::{ExclusiveLock, LOCK_NAME};
use crate::step::{Refusal, Remains, Step, StepError};
use crate::{LayoutId, durable};

/// Maximum number of paths that warnings name.
const LISTED: usize = 100;

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
        let remains = if is_done || is_of_a_store { self.remains(layout)? } else { Remains::default() };
        if cleans {
            self.remove(layout, &remains).map_err(|error| self.not_cleaned(layout, error))?;
            drop(lock);
        }
        self.report_remains(layout, remains, cleans);
        Ok(())
    }

    fn remove(&self, layout: &LayoutId, remains: &Remains) -> Result<(), RunError> {
        // The lock is the last: as long as it exists, another run finishes the work.
        for path in remains.paths.iter().filter(|path| !path.ends_with(LOCK_NAME)) {
            for step in self.steps_from(layout) {
                self.cancel.check()?;
                step.remove_remains(self.root, path)?;
            }
        }
        durable::sync_file_system(self.root)?;
        durable::remove_file(&self.root.join(LOCK_NAME))?;
        Ok(durable::sync_dir(self.root)?)
    }

    /// Returns an error of the removal. It says that the downgrade itself is complete.
    fn not_cleaned(&self, layout: &LayoutId, error: RunError) -> RunError {
        if !matches!(error, RunError::Outside(StepError::Path(_))) {
            return error;
        }
        let text = error.to_string();
        let (reason, help) = text.split_once("\nhelp: ").unwrap_or((&text, "run again"));
        let message = format!(
            "{reason}; the store is at layout {layout} now, and works at this layout\n\
             help: {help} with `--store {} --to {layout} --clean`",
            self.root.display()
        );
        RunError::Refused(Refusal { exit: error.exit(), message })
    }

    fn steps_from(&self, layout: &LayoutId) -> impl Iterator<Item = &dyn Step> {
        self.layouts.steps.iter().map(AsRef::as_ref).filter(move |step| step.from() == *layout)
    }

    /// Returns the files of the program that a downgrade to a layout keeps, with the lock file at the end.
    pub(super) fn remains(&self, layout: &LayoutId) -> Result<Remains, RunError> {
        let mut all = Remains::default();
        for step in self.steps_from(layout) {
            let remains = step.remains(self.root)?;
            all.paths.extend(remains.paths);
            all.foreign.extend(remains.foreign);
        }
        let lock = self.root.join(LOCK_NAME);
        all.paths.extend(lock.exists().then_some(lock));
        Ok(all)
    }

    /// Reports the files that stay, or that are removed. Then a warning names the files of others, which stay.
    pub(super) fn report_remains(&self, layout: &LayoutId, mut remains: Remains, is_removed: bool) {
        if is_removed {
            remains.paths.retain(|path| !remains.foreign.iter().any(|foreign| foreign.starts_with(path)));
        }
        if !remains.paths.is_empty() {
            let paths = &remains.paths;
            self.events.event(Event::Remains { root: self.root, layout, paths, is_removed });
        }
        if !is_removed {
            return;
        }
        for path in remains.foreign.iter().take(LISTED) {
            self.events
                .event(Event::Warning(format!("{} stays: it is not part of the store", path.display())));
        }
        if let more @ 1.. = remains.foreign.len().saturating_sub(LISTED) {
            self.events.event(Event::Warning(format!("{more} more paths stay")));
        }
    }
}
