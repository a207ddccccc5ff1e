//! A store or a bucket, as the command removes from it.

use stoa_gomod::{H1, ModulePath, ModuleVersion};
use stoa_layout::{Cancel, Exit};
use stoa_store::{Claim, Store, Tombstone};

use crate::command::error::CommandError;
use crate::command::named::{pairs, versions_of};
use crate::command::report::Reporter;

/// Receives a tombstone: version, time and reason.
pub(in crate::command) type EachTombstone<'a> =
    dyn FnMut(&ModuleVersion, &str, Option<&str>) -> Result<(), CommandError> + 'a;

/// Receives the error about a version that is skipped.
pub(in crate::command) type Unreadable<'a> = dyn FnMut(CommandError) + 'a;

/// The place of the versions: a store in a folder, or a bucket.
pub(in crate::command) trait Place {
    /// Returns its name, for messages.
    fn name(&self) -> String;
    /// Returns the versions of a module, with those that only have a recorded hash if asked for. Calls `unreadable` for
    /// each version with a damaged manifest.
    fn versions(
        &self,
        module: &ModulePath,
        with_records: bool,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError>;
    /// Returns the versions of a module that have a tombstone. Calls `unreadable` likewise.
    fn tombstones(
        &self,
        module: &ModulePath,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError>;
    /// Returns the size of a version, or of its pair in the cache. `None` if there is neither.
    fn bytes(&self, version: &ModuleVersion) -> Result<Option<u64>, CommandError>;
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
    /// Removes a version, and forbids it if a time and a reason are given. Returns its size and its hash.
    fn remove(
        &self,
        version: &ModuleVersion,
        tombstone: Option<(String, Option<String>)>,
    ) -> Result<(Option<u64>, Option<H1>), CommandError>;
    /// Returns whether a hash of the version is recorded.
    fn has_hashes(&self, version: &ModuleVersion) -> Result<bool, CommandError>;
    /// Removes a version and its recorded hash. Returns its size, and whether there was a hash.
    fn forget(&self, version: &ModuleVersion) -> Result<(Option<u64>, bool), CommandError>;
    /// Returns whether a version has a tombstone.
    fn has_tombstone(&self, version: &ModuleVersion) -> Result<bool, CommandError>;
    /// Removes the tombstone of a version. Returns whether there was one.
    fn lift(&self, version: &ModuleVersion) -> Result<bool, CommandError>;
    /// Calls `each` with every tombstone. Returns the exit code if some could not be read,
    /// which is reported.
    fn each_tombstone(
        &self,
        reporter: &Reporter,
        each: &mut EachTombstone<'_>,
    ) -> Result<Option<Exit>, CommandError>;
    /// Prepares for changes.
    fn begin_writing(&self) -> Result<(), CommandError> {
        Ok(())
    }
}

/// A store in a folder.
pub(super) struct InStore<'a> {
    pub(super) store: &'a Store,
    pub(super) cancel: &'a Cancel,
}

impl InStore<'_> {
    /// Waits for the claim: another process may be about to publish the version.
    fn claim(&self, version: &ModuleVersion) -> Result<Claim, CommandError> {
        self.store.claim_while(version, || Ok(self.cancel.check()?))
    }
}

impl Place for InStore<'_> {
    fn name(&self) -> String {
        self.store.root().to_string_lossy().into_owned()
    }

    fn versions(
        &self,
        module: &ModulePath,
        with_records: bool,
        _: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        let mut versions = versions_of(self.store, module)?;
        versions.extend(pairs(module, &self.store.pairs().versions(module)?));
        if with_records {
            versions.extend(pairs(module, &self.store.records().versions(module)?));
        }
        Ok(versions)
    }

    fn tombstones(
        &self,
        module: &ModulePath,
        _: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        Ok(pairs(module, &self.store.records().tombstones(module)?))
    }

    fn bytes(&self, version: &ModuleVersion) -> Result<Option<u64>, CommandError> {
        match self.store.footprint(version)? {
            Some(footprint) => Ok(Some(footprint.bytes)),
            None => Ok(self.store.pairs().size(version)?),
        }
    }

    fn remove(
        &self,
        version: &ModuleVersion,
        tombstone: Option<(String, Option<String>)>,
    ) -> Result<(Option<u64>, Option<H1>), CommandError> {
        let tombstone = tombstone.map(|(at, reason)| Tombstone::new(at, reason));
        let removed = self.store.remove(&self.claim(version)?, tombstone)?;
        Ok((removed.bytes, removed.h1))
    }

    fn has_hashes(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.store.records().get(version)?.is_some_and(|mut record| record.forget()))
    }

    fn forget(&self, version: &ModuleVersion) -> Result<(Option<u64>, bool), CommandError> {
        let claim = self.claim(version)?;
        // The version goes first: it must not be served without its record.
        let bytes = self.store.remove_unrecorded(&claim)?.bytes;
        Ok((bytes, self.store.records().forget(&claim)?))
    }

    fn has_tombstone(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.store.records().tombstone(version)?.is_some())
    }

    fn lift(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.store.records().lift(&self.claim(version)?)?)
    }

    fn each_tombstone(
        &self,
        reporter: &Reporter,
        each: &mut EachTombstone<'_>,
    ) -> Result<Option<Exit>, CommandError> {
        let mut failed = None;
        self.store.records().each_tombstone(|version, tombstone| match tombstone {
            Ok(tombstone) => each(&version, &tombstone.at, tombstone.reason.as_deref()),
            Err(error) => {
                failed = Some(error.exit());
                reporter.error(&error.into());
                Ok(())
            }
        })?;
        Ok(failed)
    }
}
