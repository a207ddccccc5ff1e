//! A store or a bucket, as the command prunes it.

use std::cell::Cell;

use stoa_gomod::ModuleVersion;
use stoa_layout::Cancel;
use stoa_store::{Day, LastUses, Store, StoreError};

use crate::command::error::CommandError;
use crate::eviction::walk::{self, Found};

/// The versions that are there, with their last uses.
pub(in crate::command) trait Contents {
    /// Returns the first day of the recording of uses.
    fn began(&self) -> Day;

    /// Returns the day of the last recorded use of a version.
    fn recorded(&self, version: &ModuleVersion) -> Option<Day>;

    /// Calls `found` for every version, and `unreadable` for each that cannot be read. Returns the number of those.
    /// Versions that come or go meanwhile may be missing.
    fn each(
        &self,
        cancel: &Cancel,
        unreadable: &dyn Fn(CommandError),
        found: &mut Found<'_>,
    ) -> Result<u64, CommandError>;

    /// Removes usage data that is not needed any more. An error is logged.
    fn sweep(&mut self);
}

/// Removes versions, on several threads.
pub(in crate::command) trait Remover: Sync {
    /// Returns the name of the store or of the bucket.
    fn name(&self) -> String;

    /// Returns the maximum number of versions between [`Self::begin`] and [`Self::end`].
    fn batch(&self) -> usize {
        1
    }

    /// Prepares for the removal of some versions.
    fn begin(&self, _versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(())
    }

    /// Ends the removal of some versions, also if not all could be removed.
    fn end(&self, _versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(())
    }

    /// Removes a version. Returns its size in bytes. `None` if it is gone, or if another process works on it and so uses
    /// it.
    fn remove(&self, version: &ModuleVersion, keeps_hashes: bool) -> Result<Option<u64>, Unremovable>;
}

/// A version cannot be removed.
pub(in crate::command) enum Unremovable {
    /// The other versions can be removed all the same.
    One(CommandError),
    /// The others cannot be removed either.
    All(CommandError),
}

/// The versions of a store.
pub(super) struct Stored<'a> {
    pub(super) store: &'a Store,
    pub(super) uses: LastUses<'a>,
}

impl Contents for Stored<'_> {
    fn began(&self) -> Day {
        self.uses.began()
    }

    fn recorded(&self, version: &ModuleVersion) -> Option<Day> {
        // An unreadable use has ended the walk before.
        self.uses.recorded(version).ok().flatten()
    }

    fn each(
        &self,
        cancel: &Cancel,
        unreadable: &dyn Fn(CommandError),
        found: &mut Found<'_>,
    ) -> Result<u64, CommandError> {
        let skipped = Cell::new(0);
        let skip = |error: StoreError| {
            let text = format!("skipped a version: {error}");
            unreadable(CommandError::new(error.exit(), text));
            skipped.set(skipped.get() + 1);
        };
        let check = || -> Result<(), CommandError> { Ok(cancel.check()?) };
        walk::each(self.store, &self.uses, &check, &skip, found)?;
        Ok(skipped.get())
    }

    fn sweep(&mut self) {
        if let Err(error) = self.uses.sweep(self.store) {
            log::warn!(reason:% = error; "cannot remove the usage data of removed versions");
        }
    }
}

impl Remover for Store {
    fn name(&self) -> String {
        self.root().display().to_string()
    }

    fn remove(&self, version: &ModuleVersion, keeps_hashes: bool) -> Result<Option<u64>, Unremovable> {
        let removed = self.try_claim(version).and_then(|claim| match claim {
            Some(claim) if keeps_hashes => Ok(Self::remove(self, &claim, None)?.bytes),
            Some(claim) => Ok(self.remove_unrecorded(&claim)?.bytes),
            None => Ok(None),
        });
        removed.map_err(|error| match error.is_of_one_version() {
            true => {
                Unremovable::One(CommandError::new(error.exit(), format!("cannot remove {version}: {error}")))
            }
            false => Unremovable::All(error.into()),
        })
    }
}
