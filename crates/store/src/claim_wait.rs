//! Waiting for a claim that another process holds.
//!
//! A healthy download may take hours, so the wait counts only the time in which the holder's draft does not grow. Another
//! user who may read the store can lock a version without ever working on it. Such a holder is named, and the wait ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use stoa_gomod::ModuleVersion;
use stoa_layout::lock;

use crate::claim::offset;
use crate::{Store, StoreError};

/// The longest time without progress of the holder after which a wait ends, unless the configuration sets another.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The time after which a wait is logged.
const LOG_AFTER: Duration = Duration::from_secs(60);

/// The time between two looks at the holder's draft.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The wait of one task for the claim of a version.
#[derive(Debug)]
pub struct ClaimWait {
    version: ModuleVersion,
    began: Instant,
    /// The last time at which the draft had grown.
    grown: Instant,
    looked: Option<Instant>,
    seen: Growth,
    is_logged: bool,
}

/// The number of drafts of a version, their bytes, and the newest time of their files.
type Growth = (u64, u64, i64);

impl ClaimWait {
    /// Begins the wait for the claim of a version.
    pub fn new(version: &ModuleVersion) -> Self {
        let now = Instant::now();
        let version = version.clone();
        Self { version, began: now, grown: now, looked: None, seen: Growth::default(), is_logged: false }
    }

    /// Continues after an attempt that failed because another process holds the claim.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if the holder has made no progress for too long.
    pub fn go_on(&mut self, store: &Store) -> Result<(), StoreError> {
        let patience = store.patience;
        let look_every = LOOK_EVERY.min(patience / 4);
        if self.looked.is_none_or(|looked| looked.elapsed() >= look_every) {
            self.looked = Some(Instant::now());
            let seen = store.growth(&self.version);
            if seen != self.seen {
                (self.seen, self.grown) = (seen, Instant::now());
            }
        }
        let (waited, quiet) = (self.began.elapsed(), self.grown.elapsed());
        if !self.is_logged && waited >= LOG_AFTER.min(patience / 2) {
            self.is_logged = true;
            log::warn!(
                version:% = self.version, holder:% = self.holder(store), waited:% = format!("{waited:.0?}");
                "waiting for a version that another process has claimed"
            );
        }
        if quiet < patience {
            return Ok(());
        }
        Err(StoreError::Held { version: self.version.to_string(), holder: self.holder(store), quiet })
    }

    fn holder(&self, store: &Store) -> String {
        let at = u64::try_from(offset(&self.version)).unwrap_or_default();
        lock::names(&lock::holders_of_byte(&store.paths.claims(), at))
    }
}

impl Store {
    /// Returns the name of a draft of a version in the staging folder of a process.
    pub(crate) fn draft_name(number: u64, version: &ModuleVersion) -> String {
        format!("{number}{}", draft_suffix(version))
    }

    /// Returns the growth of the drafts of a version in the staging folders of all processes. What cannot be read does
    /// not grow.
    fn growth(&self, version: &ModuleVersion) -> Growth {
        let suffix = draft_suffix(version);
        let runs = fs::read_dir(self.paths.staging()).into_iter().flatten().flatten();
        let items = runs.flat_map(|run| fs::read_dir(run.path()).into_iter().flatten().flatten());
        let drafts =
            items.filter(|item| item.file_name().to_str().is_some_and(|name| name.ends_with(&suffix)));
        let mut growth = Growth::default();
        for draft in drafts {
            growth.0 += 1;
            for file in fs::read_dir(draft.path()).into_iter().flatten().flatten() {
                let Ok(meta) = file.metadata() else { continue };
                growth.1 += meta.len();
                growth.2 = growth.2.max(meta.mtime().saturating_mul(1_000_000_000) + meta.mtime_nsec());
            }
        }
        growth
    }
}

fn draft_suffix(version: &ModuleVersion) -> String {
    format!("-{:016x}", offset(version))
}
