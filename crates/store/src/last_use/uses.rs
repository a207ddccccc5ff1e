//! The uses in memory.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};

use stoa_gomod::ModuleVersion;

use super::Day;
use crate::files::lock;

/// The number of versions that are known, without a lock, to be recorded today. A power of two.
const NOTED: usize = 1 << 16;

/// The maximum number of versions that wait to be written.
pub(super) const PENDING: usize = 1 << 15;

/// The uses since the last write, and the versions that were recorded today.
#[derive(Debug)]
pub(crate) struct Uses {
    hasher: RandomState,
    /// The hashes of the versions that were recorded on `day`, each in the slot that the hash names. Empty until the
    /// recording starts.
    noted: OnceLock<Box<[AtomicU64]>>,
    day: AtomicI64,
    pending: Mutex<HashSet<ModuleVersion>>,
    /// Held while the database is open, because the locks of SQLite belong to the process. Holds whether the database
    /// was verified.
    pub(super) turn: Mutex<bool>,
}

impl Uses {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            noted: OnceLock::new(),
            day: AtomicI64::new(0),
            pending: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    pub(super) fn start(&self) {
        self.day.store(Day::today().0, Ordering::Relaxed);
        self.noted.get_or_init(|| std::iter::repeat_with(|| AtomicU64::new(0)).take(NOTED).collect());
    }

    /// Records a use, and returns whether enough versions wait to be written soon.
    pub(super) fn note(&self, version: &ModuleVersion) -> bool {
        let Some(noted) = self.noted.get() else { return false };
        // 0 marks an empty slot.
        let hash = self.hasher.hash_one(version).max(1);
        let Some(place) = noted.get(hash as usize & (NOTED - 1)) else { return false };
        if place.load(Ordering::Relaxed) == hash {
            return false;
        }
        let mut pending = self.pending();
        if pending.len() >= PENDING {
            // Not recorded. The next use tries again.
            return true;
        }
        pending.insert(version.clone());
        place.store(hash, Ordering::Relaxed);
        pending.len() >= PENDING / 2
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, HashSet<ModuleVersion>> {
        lock(&self.pending)
    }

    /// Returns the uses to write and clears them. On a new day every version can be recorded again.
    pub(super) fn take(&self, today: Day) -> HashSet<ModuleVersion> {
        if self.day.swap(today.0, Ordering::Relaxed) != today.0 {
            for place in self.noted.get().into_iter().flatten() {
                place.store(0, Ordering::Relaxed);
            }
        }
        std::mem::take(&mut *self.pending())
    }

    pub(super) fn give_back(&self, uses: HashSet<ModuleVersion>) {
        let mut pending = self.pending();
        for version in uses {
            if pending.len() < PENDING {
                pending.insert(version);
            }
        }
    }
}
