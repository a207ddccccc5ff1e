//! Downloads from upstreams into the store, and answers that combine both.
//!
//! One flight downloads a version, however many clients ask for it: a map ensures that within the process,
//! and the store's claim ensures it across processes. A flight continues after the clients that started it
//! have disconnected. A failed flight is forgotten at once, so the next request tries again. A failure is
//! never taken for absence.
//!
//! | module | purpose |
//! | --- | --- |
//! | `flight` | the progress of a download, and waiting for it |
//! | `fetch` | the task that downloads and publishes one version |
//! | `checksum` | verification against a checksum database |
//! | `expected` | the hashes that a caller already knows, for example from a go.sum |
//! | `slots` | the limit on concurrent zip downloads |
//! | `shared` | fair shares of a limit between upstreams |
//! | `policy` | the rules per module |
//! | `seals` | sealing versions that have no seal yet |
//! | `answers` | lists, `@latest` and queries, from upstream, cache and store |
//! | `sumdb` | checksum databases, passed on to clients and cached |
//! | `once` | one task per key, with any number of waiting callers |
//!
//! Statuses, headers and bodies belong to the proxy.

mod answers;
mod checksum;
mod error;
mod expected;
mod fetch;
mod flight;
mod once;
mod policy;
mod seals;
mod shared;
mod slots;
mod sumdb;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stoa_gomod::{ModulePath, ModuleVersion, Version, h1};
use stoa_store::{Objection, Store, StoreError};
use tokio::sync::{Semaphore, watch};

use self::answers::Answers;
use self::flight::{Flight, Progress};
use self::seals::Seals;
use self::shared::SharedPermits;
use self::slots::Slots;
use self::sumdb::Databases;

pub use self::answers::AnswerOptions;
pub use self::checksum::{ChecksumCounts, Checksums, Sumdb, SumdbError};
pub use self::error::{FillError, Reason};
pub use self::expected::Expected;
pub use self::flight::{Arrival, Transfer, Waiter};
pub use self::policy::{ChecksumPolicy, Mode, Policy, Rule, UnknownWord};
pub use self::sumdb::SumdbQuestion;
pub use crate::upstream::{Instance, SumdbAnswer, Via};

/// Downloads missing versions into the store and answers questions about modules.
#[derive(Debug)]
pub struct Fill {
    store: Arc<Store>,
    policy: Policy,
    flights: Mutex<HashMap<ModuleVersion, Arc<Flight>>>,
    slots: Slots,
    /// Limits concurrent downloads of info and mod files.
    starts: SharedPermits,
    /// Limits concurrent examinations of zips: a zip with a million files takes much memory.
    examining: Semaphore,
    seals: Seals,
    answers: Answers,
    databases: Databases,
    phase: watch::Sender<Phase>,
    aborted: Arc<AtomicU64>,
}

/// Number of flights that may download info and mod per zip download. Many versions turn out to be missing
/// upstream.
const STARTS_PER_FILL: usize = 8;

/// Minimum number of concurrent zip examinations. An examination also waits for the disk, so there may be
/// more than cores.
const MIN_EXAMINING: usize = 4;

/// Maximum number of flights, including those that wait for their turn.
const MAX_FLIGHTS: usize = 8192;

/// The phase of the process, as far as flights need it. Each flight holds a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// Flights without waiting clients do not start any more.
    Closing,
    /// All flights are dropped.
    Ending,
}

impl Fill {
    /// Creates a `Fill` that downloads at most `max_fills` zips at a time.
    pub fn new(
        store: Arc<Store>,
        policy: impl Into<Policy>,
        max_fills: usize,
        answers: &AnswerOptions,
    ) -> Arc<Self> {
        let max_fills = max_fills.clamp(1, Semaphore::MAX_PERMITS / STARTS_PER_FILL);
        let policy = policy.into();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            store,
            flights: Mutex::default(),
            slots: Slots::new(max_fills, policy.upstreams()),
            starts: SharedPermits::new(max_fills * STARTS_PER_FILL, policy.upstreams()),
            examining: Semaphore::new(cores.max(MIN_EXAMINING)),
            policy,
            seals: Seals::new(),
            answers: Answers::new(answers),
            databases: Databases::new(answers),
            phase: watch::Sender::new(Phase::Running),
            aborted: Arc::default(),
        })
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Returns the rules per module.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Joins the flight of a version that is not in the store, or starts one.
    ///
    /// `via` is the `Via` of the request. `wants_zip` says whether a client waits for the zip, and not only
    /// for the smaller files.
    pub fn join(
        self: &Arc<Self>,
        version: &ModuleVersion,
        via: &Via,
        wants_zip: bool,
    ) -> Result<Waiter, FillError> {
        self.join_expecting(version, via, wants_zip, &Expected::default())
    }

    /// Joins a flight as [`join`](Self::join) does, or starts one that only publishes a version with the
    /// expected hashes.
    ///
    /// A flight that is already under way does not know these hashes, here or in another process. The
    /// caller therefore compares the stored version itself.
    pub fn join_expecting(
        self: &Arc<Self>,
        version: &ModuleVersion,
        via: &Via,
        wants_zip: bool,
        expected: &Expected,
    ) -> Result<Waiter, FillError> {
        let rule = self.policy.rule(version.path());
        if !rule.admits(version.version()) {
            return Err(FillError::Denied(version.to_string()));
        }
        if rule.mode == Mode::None {
            return Err(FillError::NotFetched(version.to_string()));
        }
        if rule.upstream.is_offline() || self.store.is_read_only() {
            return Err(FillError::Offline(version.to_string()));
        }
        if !Store::can_hold(self.store.root(), version) {
            let reason = format!("cannot store {version}: its name is too long");
            return Err(FillError::Absent(reason.into()));
        }
        let mut flights = self.flights();
        if let Some(flight) = flights.get(version) {
            if wants_zip {
                flight.wanted.send_replace(true);
            }
            return Ok(Waiter::new(Arc::clone(flight)));
        }
        if flights.len() >= MAX_FLIGHTS {
            return Err(FillError::Busy(version.to_string()));
        }
        // Under the lock of the map, so that no flight starts after `end` has set the phase.
        let phase = self.phase.subscribe();
        if *phase.borrow() == Phase::Ending {
            return Err(FillError::Stopping(version.to_string()));
        }
        let (progress, watched) = watch::channel(Progress::default());
        let flight = Arc::new(Flight {
            version: version.clone(),
            progress: watched,
            wanted: watch::Sender::new(wants_zip),
            aborted: Arc::clone(&self.aborted),
        });
        flights.insert(version.clone(), Arc::clone(&flight));
        let fetch = fetch::Fetch {
            fill: Arc::clone(self),
            version: version.clone(),
            via: via.clone(),
            flight: Arc::clone(&flight),
            progress,
            wanted: flight.wanted.subscribe(),
            expected: expected.clone(),
        };
        tokio::spawn(fetch.run(phase));
        Ok(Waiter::new(flight))
    }

    /// Returns an error if a version that is not in the store has a tombstone. Stored versions are served
    /// without this check.
    pub fn check_record(&self, version: &ModuleVersion) -> Result<(), FillError> {
        match self.store.records().tombstone(version)? {
            Some(tombstone) => Err(FillError::objection(version, &Objection::Tombstone(tombstone))),
            None => Ok(()),
        }
    }

    /// Compares a mod with the version's record before any client gets it.
    ///
    /// The record holds the hashes of the checksum database as soon as they are known. The zip is compared
    /// when it is published.
    fn check_mod(&self, version: &ModuleVersion, body: &[u8]) -> Result<(), FillError> {
        let Some(record) = self.store.records().get(version)? else { return Ok(()) };
        let Some(recorded) = record.gomod_h1 else { return Ok(()) };
        let ours = h1::hash_mod(body);
        if ours == recorded {
            return Ok(());
        }
        if record.verdict.is_some() {
            self.policy.checksums().count_mismatch();
        }
        Err(FillError::objection(version, &Objection::Differs { file: "mod", recorded, ours }))
    }

    /// Returns the versions of a module that have a tombstone. If they cannot be read, the caller must not
    /// name any version.
    pub async fn forbidden(&self, module: &ModulePath) -> Result<Arc<[Version]>, FillError> {
        let named = module.clone();
        let what = format!("the tombstones of {module}");
        self.blocking(what, move |store| store.records().tombstones(&named)).await
    }

    /// Starts the flight of a version in the background.
    pub fn fill_in_background(self: &Arc<Self>, version: &ModuleVersion, via: &Via) {
        match self.join(version, via, false) {
            // A waiting task keeps the flight from being abandoned. The flight logs its own result.
            Ok(waiter) => drop(tokio::spawn(waiter.stored())),
            Err(error) => {
                log::debug!(version:% = version, reason:% = error; "did not start a background download")
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
        self.flights().len()
    }

    /// Starts the shutdown: flights that wait for their turn and have no waiting client are dropped.
    pub fn close(&self) {
        self.phase.send_replace(Phase::Closing);
    }

    /// Waits until all flights have ended.
    pub async fn closed(&self) {
        self.phase.closed().await;
    }

    /// Drops the remaining flights and waits until they are gone.
    pub async fn end(&self) {
        self.phase.send_replace(Phase::Ending);
        self.phase.closed().await;
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<ModuleVersion, Arc<Flight>>> {
        // No code that can panic runs under this lock.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work on the store on the blocking pool; `what` names the work in errors.
    pub(crate) async fn blocking<T, F>(&self, what: impl Display, work: F) -> Result<T, FillError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    {
        blocking(&self.store, what, work).await
    }
}

/// Runs work on a store on the blocking pool, since it may wait for the disk; `what` names the work in errors.
async fn blocking<T, F>(store: &Arc<Store>, what: impl Display, work: F) -> Result<T, FillError>
where
    T: Send + 'static,
    F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
{
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => Ok(result?),
        // The process is shutting down.
        Err(error) if error.is_cancelled() => Err(FillError::Stopping(what.to_string())),
        Err(error) => {
            log::error!(task:% = what, reason:% = error; "a task panicked");
            Err(FillError::Broken(what.to_string()))
        }
    }
}
