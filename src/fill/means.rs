//! The parts that all flights share.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stoa_gomod::ModuleVersion;
use stoa_store::Store;
use tokio::sync::Semaphore;

use super::progress::Flight;
use super::rate::MinRate;
use super::slots::Slots;
use super::wrong::WrongZips;
use crate::absences::Absences;
use crate::bucket::Tier;
use crate::byte_budget::ByteBudget;
use crate::meters::Meters;
use crate::sumdb::Sumdb;
use crate::tasks::SharedPermits;
use crate::unavailable::Unavailable;
use crate::upstream::Upstream;

/// The store, the checksum database, the limits, and the running flights.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) store: Arc<Store>,
    /// The bucket that several servers share.
    pub(super) tier: Option<Arc<Tier>>,
    pub(super) sumdb: Arc<Sumdb>,
    pub(super) slots: Slots,
    /// Limits concurrent downloads of info and mod files.
    pub(super) starts: SharedPermits,
    /// Limits concurrent examinations of zips.
    pub(super) examining: Arc<Semaphore>,
    pub(super) absences: Arc<Absences>,
    /// Bounds the large go.mod files in memory.
    pub(super) memory: ByteBudget,
    /// Whether each flight takes the whole version.
    pub(super) is_eager: bool,
    /// Maximum total size of the pairs in the cache in bytes.
    pub(super) metadata_max: u64,
    /// Whether failures are logged as warnings and errors.
    pub(super) are_failures_logged: bool,
    pub(super) running: Running,
    pub(super) min_rate: MinRate,
    pub(super) wrong: WrongZips,
    pub(super) meters: Arc<Meters>,
    /// Number of flights that wait for a claim of another process.
    pub(super) claim_waits: AtomicUsize,
}

impl Means {
    /// Returns the 404 or 410 of a list of upstreams if a version, or its zip, was absent there a moment ago.
    pub(super) fn absence(
        &self,
        version: &ModuleVersion,
        upstream: &Upstream,
        wants_zip: bool,
    ) -> Option<Unavailable> {
        let get =
            |of_zip| self.absences.get(&self.store, version.path(), absent_item(version, upstream, of_zip));
        get(false).or_else(|| if wants_zip { get(true) } else { None })
    }

    /// Remembers that a version, or only its zip, is absent from a list of upstreams.
    pub(super) fn note_absence(
        &self,
        version: &ModuleVersion,
        upstream: &Upstream,
        is_zip_only: bool,
        error: &Unavailable,
    ) {
        let item = absent_item(version, upstream, is_zip_only);
        self.absences.note(&self.store, version.path(), item, error);
    }
}

/// Returns the key of a version or of its zip. A version that one list of upstreams does not have may be in another.
fn absent_item(version: &ModuleVersion, upstream: &Upstream, of_zip: bool) -> String {
    let (tag, zip) = (upstream.tag().unwrap_or_default(), if of_zip { " zip" } else { "" });
    format!("{}{zip} {tag}", version.version())
}

/// The running flights, by version.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashMap<ModuleVersion, Arc<Flight>>>);

impl Running {
    /// Locks the map.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ModuleVersion, Arc<Flight>>> {
        // No code that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a flight, unless another flight of the version has started.
    pub(super) fn remove(&self, flight: &Arc<Flight>) {
        let mut running = self.lock();
        if running.get(&flight.version).is_some_and(|now| Arc::ptr_eq(now, flight)) {
            running.remove(&flight.version);
        }
    }
}
