//! `stoa prune` on a bucket by size or use: the uses that all servers recorded count.

use std::ops::ControlFlow;

use stoa_bucket::{BucketError, Trouble, UsesThere, VersionContent};
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, Exit};
use stoa_store::Day;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::remove::BATCH;
use super::{OpenBucket, skipped};
use crate::command::error::CommandError;
use crate::command::prune::place::{Contents, Remover, Unremovable};
use crate::eviction::walk::Found;

/// The versions of a bucket, with the uses that all servers recorded.
pub(in crate::command) struct BucketContents<'a> {
    bucket: &'a OpenBucket,
    uses: UsesThere,
    today: Day,
    /// Number of manifests that are read at the same time.
    at_once: usize,
}

/// Uses before so many days are deleted.
const KEPT_DAYS: i64 = 1000;

impl OpenBucket {
    /// Returns the versions with their last uses. Fails if a server does not record uses.
    pub(in crate::command) fn contents(&self, at_once: usize) -> Result<BucketContents<'_>, CommandError> {
        let uses = self.wait(self.versions.uses())?;
        if !uses.silent().is_empty() {
            let servers = uses.silent().join(", ");
            let message = format!("cannot prune {self} by size or use: no uses are recorded by {servers}");
            return Err(CommandError::new(Exit::BUSY, message)
                .help("set `last_use.interval` to more than 0 on these servers and restart them, or stop them; then run again after two minutes"));
        }
        Ok(BucketContents { bucket: self, uses, today: Day::today(), at_once })
    }
}

impl Contents for BucketContents<'_> {
    fn began(&self) -> Day {
        self.uses.began().map_or(self.today, Day)
    }

    fn recorded(&self, version: &ModuleVersion) -> Option<Day> {
        self.uses.recorded(version).map(Day)
    }

    fn each(
        &self,
        cancel: &Cancel,
        unreadable: &dyn Fn(CommandError),
        found: &mut Found<'_>,
    ) -> Result<u64, CommandError> {
        // `found` may remove a version itself, and wait for the bucket.
        let skip = |error: BucketError| unreadable(skipped(&error));
        self.bucket.each_manifest(self.at_once, &skip, &mut |manifest| {
            cancel.check()?;
            let Some(content) = manifest.present_content() else { return Ok(ControlFlow::Continue(())) };
            // A time that nobody can read is one of today.
            let published = OffsetDateTime::parse(&manifest.published_at, &Rfc3339).ok();
            let published = published.map_or(self.today, |time| Day::of(time.into()));
            let recorded = self.recorded(&manifest.version).unwrap_or(published);
            let last_use = recorded.max(published).max(self.began()).min(self.today);
            let age = (last_use, published.min(last_use));
            Ok(found(manifest.version.clone(), content.bytes(), age))
        })
    }

    fn sweep(&mut self) {
        let before = self.today.0 - KEPT_DAYS;
        if let Err(error) = self.bucket.wait(self.bucket.versions.forget_uses(before)) {
            log::warn!(reason:% = error; "cannot remove old usage data from the bucket");
        }
    }
}

impl Remover for OpenBucket {
    fn name(&self) -> String {
        self.to_string()
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

    fn remove(&self, version: &ModuleVersion, keeps_hashes: bool) -> Result<Option<u64>, Unremovable> {
        let removed = self.wait(self.remove_announced(version, None, keeps_hashes));
        removed.map(|had| had.as_ref().map(VersionContent::bytes)).map_err(|error| match error.trouble {
            Trouble::Damaged | Trouble::Contended => {
                Unremovable::One(CommandError::new(error.exit(), format!("cannot remove {version}: {error}")))
            }
            _ => Unremovable::All(error.into()),
        })
    }
}
