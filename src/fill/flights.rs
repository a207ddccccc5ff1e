//! The running flights, and joining one.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stoa_store::Store;
use tokio::sync::{Semaphore, watch};

use super::expected::Expected;
use super::means::{Means, Running};
use super::progress::{Flight, Joined, Places, Progress, Waiter, Want};
use super::rate::MinRate;
use super::seals::examining_permits;
use super::slots::Slots;
use super::task::Fetch;
use super::wrong::WrongZips;
use crate::absences::Absences;
use crate::bucket::Tier;
use crate::byte_budget::ByteBudget;
use crate::meters::Meters;
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

/// Maximum total size of the large go.mod files in memory in bytes: two of the largest.
const LARGE_MODS: u32 = 32 << 20;

/// Settings for downloads.
#[derive(Debug, Clone)]
pub struct FlightOptions {
    /// Maximum number of concurrent downloads of zips.
    pub max_concurrent: usize,
    /// Whether a request for an info or a go.mod also downloads the zip.
    pub is_eager: bool,
    /// Maximum total size of the info and go.mod files of versions without a zip, in bytes.
    pub metadata_max: u64,
    /// Maximum time that a client waits while its download waits for other downloads.
    pub max_wait: Duration,
    /// The rate in bytes per second below which the download of a zip releases its slot if a second download waits.
    pub min_rate: u64,
    /// The time over which the rate is measured.
    pub rate_window: Duration,
    /// The time without a download after a version's zip proved wrong. It doubles each time.
    pub wrong_pause: Duration,
    /// Whether failures are logged as warnings and errors. A command that reports each result itself turns it off.
    pub are_failures_logged: bool,
}

impl Default for FlightOptions {
    fn default() -> Self {
        Self {
            max_concurrent: 16,
            is_eager: false,
            metadata_max: 1 << 30,
            max_wait: Duration::from_secs(5 * 60),
            min_rate: 64 * 1024,
            rate_window: Duration::from_secs(60),
            wrong_pause: Duration::from_secs(10),
            are_failures_logged: true,
        }
    }
}

/// Downloads missing versions into the store, each once at a time.
#[derive(Debug)]
pub struct Flights {
    pub(super) means: Arc<Means>,
    shutdown: Arc<Shutdown>,
    aborted: Arc<AtomicU64>,
    max_wait: Duration,
}

impl Flights {
    /// Creates flights that download into a store.
    pub(crate) fn new(
        (store, tier): (Arc<Store>, Option<Arc<Tier>>),
        policy: &Policy,
        sumdb: Arc<Sumdb>,
        examining: Arc<Semaphore>,
        absences: Arc<Absences>,
        options: FlightOptions,
        (meters, shutdown): (Arc<Meters>, Arc<Shutdown>),
    ) -> Self {
        let max_fills = options.max_concurrent.clamp(1, Semaphore::MAX_PERMITS / STARTS_PER_FILL);
        let means = Means {
            store,
            tier,
            sumdb,
            slots: Slots::new(max_fills, policy.upstreams()),
            starts: SharedPermits::new(max_fills * STARTS_PER_FILL, policy.upstreams()),
            examining,
            absences,
            memory: ByteBudget::new(LARGE_MODS),
            is_eager: options.is_eager,
            metadata_max: options.metadata_max,
            are_failures_logged: options.are_failures_logged,
            running: Running::default(),
            wrong: WrongZips::new(options.wrong_pause),
            meters,
            claim_waits: AtomicUsize::new(0),
            min_rate: MinRate { bytes: options.min_rate, window: options.rate_window },
        };
        Self { means: Arc::new(means), shutdown, aborted: Arc::default(), max_wait: options.max_wait }
    }

    /// Shares the limits among the upstreams of a new policy.
    pub(crate) fn follow(&self, policy: &Policy) {
        self.means.slots.follow(policy.upstreams());
        self.means.starts.follow(policy.upstreams());
    }

    /// Joins the flight of a version that is not in the store, or starts one.
    ///
    /// `via` is the `Via` of the request. `expected` has the hashes that a peer has named. The client waits a limited time
    /// for its turn. A flight for the bucket only fails with [`Unavailable::NotFetched`] if it cannot read the version
    /// there.
    pub fn join(
        &self,
        permit: Permit<'_>,
        via: &Via,
        want: Want,
        places: Places,
        expected: &Expected,
    ) -> Result<Waiter, Unavailable> {
        let waiter = self.join_in(permit, via, want, expected, places)?;
        Ok(waiter.with_patience(self.max_wait))
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
        want: Want,
        expected: &Expected,
    ) -> Result<Waiter, Unavailable> {
        self.join_in(permit, via, want, expected, Places::All)
    }

    fn join_in(
        &self,
        permit: Permit<'_>,
        via: &Via,
        want: Want,
        expected: &Expected,
        places: Places,
    ) -> Result<Waiter, Unavailable> {
        let (version, rule) = (permit.version(), permit.rule());
        let store = &self.means.store;
        let has_bucket = self.means.tier.is_some();
        if rule.mode == Mode::None && !has_bucket {
            return Err(Unavailable::NotFetched(version.to_string()));
        }
        if rule.upstream.is_offline() && !has_bucket || store.is_read_only() {
            return Err(Unavailable::Offline(version.to_string()));
        }
        if !Store::can_hold(store.root(), version) {
            let reason = format!("cannot store {version}: its name is too long");
            return Err(Unavailable::Absent(reason.into()));
        }
        // Before the lock, since it may read the disk.
        let absence = self.means.absence(version, &rule.upstream, want != Want::Metadata);
        let mut running = self.means.running.lock();
        if let Some(flight) = running.get(version) {
            flight.want(want, places);
            let has_same_upstream = flight.rule.upstream.tag() == rule.upstream.tag();
            let joined = if has_same_upstream { Joined::Same } else { Joined::OtherUpstream };
            return Ok(Waiter::new(Arc::clone(flight), joined));
        }
        if let Some(error) = absence {
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
            rule: Arc::clone(rule),
            progress: watched,
            wanted: watch::Sender::new(want == Want::Zip),
            whole: watch::Sender::new(want != Want::Metadata || self.means.is_eager),
            may_ask: AtomicBool::new(places == Places::All),
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
            whole: flight.whole.subscribe(),
            expected: expected.clone(),
            seen: Mutex::default(),
        };
        tokio::spawn(fetch.run(phase));
        Ok(Waiter::new(flight, Joined::No))
    }

    /// Starts the flight of a whole version in the background.
    pub fn start(&self, permit: Permit<'_>, via: &Via) {
        match self.join_expecting(permit, via, Want::Version, &Expected::default()) {
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

    /// Returns the number of flights that wait for a claim of another process.
    pub(crate) fn claim_waits(&self) -> usize {
        self.means.claim_waits.load(Ordering::Relaxed)
    }

    /// Returns the name, the number in use and the number of the permits of each kind.
    pub(crate) fn permits(&self) -> [(&'static str, usize, usize); 3] {
        let (zips, all_zips) = self.means.slots.in_use();
        let (starts, all_starts) = self.means.starts.in_use();
        let examining = examining_permits();
        let used = examining.saturating_sub(self.means.examining.available_permits());
        [("zips", zips, all_zips), ("starts", starts, all_starts), ("examining", used, examining)]
    }

    /// Returns the number of running flights.
    pub fn count(&self) -> usize {
        self.means.running.lock().len()
    }
}
