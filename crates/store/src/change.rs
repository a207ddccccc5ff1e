//! The one place that every change of a version passes: what hangs on changes hangs here.

use stoa_gomod::ModuleVersion;

use crate::Store;

/// A change of a version that is visible from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The version was published or restored.
    Published,
    /// The version was removed or moved to quarantine.
    Removed,
    /// The record of the version was written.
    Recorded,
}

impl Store {
    /// Reports a change of a version. The caller holds its claim and has not yet returned to its own caller.
    pub(crate) fn changed(&self, version: &ModuleVersion, change: Change) {
        log::trace!(version:% = version, change:? = change; "changed a version");
        match change {
            Change::Published => {
                self.forget(version);
                self.index.note(version);
            }
            Change::Removed => {
                self.forget(version);
                self.index.forget(version);
            }
            // Records are read from disk, and lists of tombstones check their folder.
            Change::Recorded => {}
        }
    }
}
