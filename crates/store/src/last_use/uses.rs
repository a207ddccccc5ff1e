//! What was used, in memory.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use stoa_gomod::ModuleVersion;

use super::Day;

/// How many versions are known, without a lock, to be noted already. A power of two.
const NOTED: usize = 1 << 16;

/// How many versions may wait to be written down.
pub(super) const PENDING: usize = 1 << 15;

/// What was used since it was written down last, and what need not be noted again.
#[derive(Debug)]
pub(crate) struct Uses {
    hasher: RandomState,
    /// The hash of a version in the place that it gives: noted on the day that is meant. Not there where nothing is
    /// noted.
    noted: OnceLock<Box<[AtomicU64]>>,
    day: AtomicI64,
    pending: Mutex<HashSet<ModuleVersion>>,
    /// One at a time opens the database: SQLite's locks belong to the process.
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

    pub(super) fn begin(&self) {
        self.day.store(Day::today().0, Ordering::Relaxed);
        self.noted.get_or_init(|| std::iter::repeat_with(|| AtomicU64::new(0)).take(NOTED).collect());
    }

    /// Notes a use, and says whether so many wait that they should be written down now.
    pub(super) fn note(&self, version: &ModuleVersion) -> bool {
        let Some(noted) = self.noted.get() else { return false };
        // 0 is an empty place.
        let hash = self.hasher.hash_one(version).max(1);
        let Some(place) = noted.get(hash as usize & (NOTED - 1)) else { return false };
        if place.load(Ordering::Relaxed) == hash {
            return false;
        }
        let mut pending = self.pending();
        if pending.len() >= PENDING {
            // Not noted: the next use tries again.
            return true;
        }
        pending.insert(version.clone());
        place.store(hash, Ordering::Relaxed);
        pending.len() >= PENDING / 2
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, HashSet<ModuleVersion>> {
        // Nothing that can panic is done under this lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is to be written down. On another day everything is to be noted again.
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
