//! The running flights, and joining one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stoa_store::Store;
use tokio::sync::{Semaphore, watch};

use super::expected::Expected;
use super::means::{Means, Running};
use super::progress::{Flight, Progress, Waiter};
use super::slots::Slots;
use super::task::Fetch;
use crate::absences::Absences;
use crate::policy::{Mode, Permit, Policy};
use crate::sumdb::Sumdb;
use crate::tasks::{Phase, SharedPermits, Shutdown};
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// Number of flights that may download info and mod per zip download. Many versions turn out to be missing
/// upstream.
const STARTS_PER_FILL: usize = 8;

/// Maximum number of flights, including those that wait for their turn.
const MAX_FLIGHTS: usize = 8192;

/// Downloads missing versions into the store, each once at a time.
#[derive(Debug)]
pub struct Flights {
    means: Arc<Means>,
    shutdown: Arc<Shutdown>,
    aborted: Arc<AtomicU64>,
}

impl Flights {
    /// Creates flights that download at most `max_fills` zips at a time.
    pub(crate) fn new(
        store: Arc<Store>,
        policy: &Policy,
        sumdb: Arc<Sumdb>,
        examining: Arc<Semaphore>,
        absences: Arc<Absences>,
        max_fills: usize,
        shutdown: Arc<Shutdown>,
    ) -> Self {
        let max_fills = max_fills.clamp(1, Semaphore::MAX_PERMITS / STARTS_PER_FILL);
        let means = Means {
            store,
            sumdb,
            slots: Slots::new(max_fills, policy.upstreams()),
            starts: SharedPermits::new(max_fills * STARTS_PER_FILL, policy.upstreams()),
            examining,
            absences,
            running: Running::default(),
        };
        Self { means: Arc::new(means), shutdown, aborted: Arc::default() }
    }

    /// Joins the flight of a version that is not in the store, or starts one.
    ///
    /// `via` is the `Via` of the request. `wants_zip` says whether a client waits for the zip, and not only
    /// for the smaller files.
    pub fn join(&self, permit: Permit<'_>, via: &Via, wants_zip: bool) -> Result<Waiter, Unavailable> {
        self.join_expecting(permit, via, wants_zip, &Expected::default())
    }

    /// Joins a flight as [`join`](Self::join) does, or starts one that only publishes a version with the
    /// expected hashes.
    ///
    /// A flight that is already under way does not know these hashes, here or in another process. The
    /// caller therefore compares the stored version itself.
    pub fn join_expecting(
        &self,
        permit: Permit<'_>,
        via: &Via,
        wants_zip: bool,
        expected: &Expected,
    ) -> Result<Waiter, Unavailable> {
        let (version, rule) = (permit.version(), permit.rule());
        let store = &self.means.store;
        if rule.mode == Mode::None {
            return Err(Unavailable::NotFetched(version.to_string()));
        }
        if rule.upstream.is_offline() || store.is_read_only() {
            return Err(Unavailable::Offline(version.to_string()));
        }
        if !Store::can_hold(store.root(), version) {
            let reason = format!("cannot store {version}: its name is too long");
            return Err(Unavailable::Absent(reason.into()));
        }
        let mut running = self.means.running.lock();
        if let Some(flight) = running.get(version) {
            if wants_zip {
                flight.wanted.send_replace(true);
            }
            return Ok(Waiter::new(Arc::clone(flight)));
        }
        if let Some(error) = self.means.absence(version, wants_zip) {
            return Err(error);
        }
        if running.len() >= MAX_FLIGHTS {
            return Err(Unavailable::Busy(version.to_string()));
        }
        let Some(phase) = self.shutdown.enter(Phase::Ending) else {
            return Err(Unavailable::Stopping(version.to_string()));
        };
        let (progress, watched) = watch::channel(Progress::default());
        let flight = Arc::new(Flight {
            version: version.clone(),
            progress: watched,
            wanted: watch::Sender::new(wants_zip),
            aborted: Arc::clone(&self.aborted),
        });
        running.insert(version.clone(), Arc::clone(&flight));
        let fetch = Fetch {
            means: Arc::clone(&self.means),
            version: version.clone(),
            rule: Arc::clone(rule),
            via: via.clone(),
            flight: Arc::clone(&flight),
            progress,
            wanted: flight.wanted.subscribe(),
            expected: expected.clone(),
        };
        tokio::spawn(fetch.run(phase));
        Ok(Waiter::new(flight))
    }

    /// Starts the flight of a version in the background.
    pub fn start(&self, permit: Permit<'_>, via: &Via) {
        match self.join(permit, via, false) {
            // A waiting task keeps the flight from being abandoned. The flight logs its own result.
            Ok(waiter) => drop(tokio::spawn(waiter.stored())),
            Err(error) => {
                log::debug!(version:% = permit.version(), reason:% = error; "did not start a background download")
            }
        }
    }

    /// Returns how many transfers to clients were aborted since startup because the downloaded zip was
    /// wrong or incomplete.
    pub fn aborted_transfers(&self) -> u64 {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Returns the number of running flights.
    pub fn count(&self) -> usize {
        self.means.running.lock().len()
    }
}
