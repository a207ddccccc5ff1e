//! The one place that every change of a version passes: what hangs on changes hangs here.

use std::sync::OnceLock;

use stoa_gomod::ModuleVersion;

use crate::Store;

/// A change of a version that is visible from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The version was published or restored.
    Published,
    /// The version was removed or moved to quarantine.
    Removed,
    /// The record of the version was written.
    Recorded,
}

/// A function that is called after a change.
pub type OnChange = Box<dyn Fn(&ModuleVersion, Change) + Send + Sync>;

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
            // Records are read from disk, and lists of tombstones check their folder. So only the index is brought up to date.
            Change::Recorded => self.index.note_record(version),
        }
        if let Some(listener) = self.listener.0.get() {
            listener(version, change);
        }
    }

    /// Sets the function that is called after each change by this process. Only the first call has an effect.
    ///
    /// The function is called while the claim of the version is held, so it must neither wait nor change the version.
    pub fn listen(&self, listener: OnChange) {
        // A second listener is left out, as documented.
        let _ = self.listener.0.set(listener);
    }
}

/// The function that is called after each change.
#[derive(Default)]
pub(crate) struct Listener(OnceLock<OnChange>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.0.get().is_some()).finish()
    }
}
