//! `stoa remove --bucket`: what the command does with a version in a bucket.
//!
//! Servers notice a removal within a minute: they read the list of removals every 30 seconds.

use std::cell::Cell;
use std::ops::ControlFlow;

use futures_util::{StreamExt, TryStreamExt, stream};
use stoa_bucket::{BucketError, Manifest, Presence, Tombstone, Trouble, VersionContent};
use stoa_gomod::{H1, ModulePath, ModuleVersion};
use stoa_layout::Exit;

use super::{AT_ONCE, OpenBucket, skipped};
use crate::command::error::CommandError;
use crate::command::named::pairs;
use crate::command::remove::{EachTombstone, Place, Unreadable};
use crate::command::report::Reporter;

impl OpenBucket {
    fn manifest(&self, version: &ModuleVersion) -> Result<Option<Manifest>, CommandError> {
        Ok(self.wait(self.versions.manifest(version))?.map(|held| held.document))
    }

    /// Returns the versions of a module whose manifest passes a filter. Those with a damaged manifest are left out, so
    /// that nothing is announced of a version that cannot be removed.
    fn filtered(
        &self,
        module: &ModulePath,
        unreadable: &mut Unreadable<'_>,
        filter: impl Fn(&Manifest) -> bool,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        let all = self.wait(self.versions.all_of(module))?;
        let (versions, filter) = (&self.versions, &filter);
        let read =
            stream::iter(pairs(module, &all)).map(async |version| match versions.manifest(&version).await {
                Ok(held) => Ok(Ok(held.is_some_and(|held| filter(&held.document)).then_some(version))),
                Err(error) if error.trouble == Trouble::Damaged => Ok(Err(error)),
                Err(error) => Err(error),
            });
        let read: Vec<_> = self.wait(read.buffered(AT_ONCE).try_collect())?;
        let mut found = Vec::new();
        for read in read {
            match read {
                Ok(version) => found.extend(version),
                Err(error) => unreadable(skipped(&error)),
            }
        }
        Ok(found)
    }

    /// Removes a version that was announced, and the objects that only it has named.
    pub(super) async fn remove_announced(
        &self,
        version: &ModuleVersion,
        tombstone: Option<Tombstone>,
        keeps_hashes: bool,
    ) -> Result<Option<VersionContent>, BucketError> {
        let had = self.versions.remove_announced(version, tombstone, keeps_hashes).await?;
        if let Some(content) = &had {
            self.versions.delete_content(content).await?;
        }
        Ok(had)
    }
}

/// Number of versions that are announced together. Servers may learn of a removal only at the end of such a batch, so it
/// must not take long.
pub(super) const BATCH: usize = 32;

impl Place for OpenBucket {
    fn name(&self) -> String {
        self.to_string()
    }

    fn versions(
        &self,
        module: &ModulePath,
        with_records: bool,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        self.filtered(module, unreadable, |manifest| {
            manifest.state == Presence::Present || with_records && manifest.record.has_hashes()
        })
    }

    fn tombstones(
        &self,
        module: &ModulePath,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        self.filtered(module, unreadable, |manifest| manifest.record.tombstone.is_some())
    }

    fn bytes(&self, version: &ModuleVersion) -> Result<Option<u64>, CommandError> {
        let manifest = self.manifest(version)?;
        Ok(manifest.as_ref().and_then(Manifest::present_content).map(VersionContent::bytes))
    }

    fn remove(
        &self,
        version: &ModuleVersion,
        tombstone: Option<(String, Option<String>)>,
    ) -> Result<(Option<u64>, Option<H1>), CommandError> {
        let origin = self.origin.clone();
        let tombstone = tombstone.map(|(at, reason)| Tombstone { origin, ..Tombstone::new(at, reason) });
        let had = self.wait(self.remove_announced(version, tombstone, true))?;
        let bytes = had.as_ref().map(VersionContent::bytes);
        Ok((bytes, had.and_then(|content| content.zip.h1)))
    }

    fn has_hashes(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.manifest(version)?.is_some_and(|manifest| manifest.record.has_hashes()))
    }

    fn forget(&self, version: &ModuleVersion) -> Result<(Option<u64>, bool), CommandError> {
        let bytes =
            self.wait(self.remove_announced(version, None, false))?.as_ref().map(VersionContent::bytes);
        let is_known = self.manifest(version)?.is_some_and(|manifest| manifest.record.has_hashes());
        if is_known {
            self.wait(self.versions.record(version, stoa_bucket::Record::forget))?;
        }
        Ok((bytes, is_known))
    }

    fn has_tombstone(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        Ok(self.manifest(version)?.is_some_and(|manifest| manifest.record.tombstone.is_some()))
    }

    fn lift(&self, version: &ModuleVersion) -> Result<bool, CommandError> {
        if !self.has_tombstone(version)? {
            return Ok(false);
        }
        let lift = |record: &mut stoa_bucket::Record| {
            record.lift_by(self.origin.as_deref());
        };
        self.wait(self.versions.record(version, lift))?;
        Ok(true)
    }

    fn each_tombstone(
        &self,
        reporter: &Reporter,
        each: &mut EachTombstone<'_>,
    ) -> Result<Option<Exit>, CommandError> {
        let failed = Cell::new(None);
        let unreadable = |error: BucketError| failed.set(Some(reporter.error(&error.into())));
        self.each_manifest(AT_ONCE, &unreadable, &mut |manifest| {
            if let Some(tombstone) = &manifest.record.tombstone {
                each(&manifest.version, &tombstone.at, tombstone.reason.as_deref())?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(failed.get())
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn begin(&self, versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(self.wait(self.versions.announce(versions))?)
    }

    fn end(&self, versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(self.wait(self.versions.announce_again(versions))?)
    }

    fn begin_writing(&self) -> Result<(), CommandError> {
        self.probe()
    }
}
