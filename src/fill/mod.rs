//! The one place where upstream meets store.
//!
//! A version that is not in the store is fetched by one flight, however many ask for it: within the process by
//! a map, across processes by the store's claim. A flight goes on when those who began it have gone away. A
//! flight that fails is forgotten at once, so that the next request tries again: no failure is ever taken for
//! absence.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `flight` | what is known of a version on its way, and waiting for it |
//! | `fetch` | the task that fetches one version and publishes it |
//! | `checksum` | verifying what is fetched against a checksum database |
//! | `expected` | what who asks for a version knows of it beforehand |
//! | `slots` | how many zips are fetched at a time |
//! | `shared` | what upstreams share, so that none has it all |
//! | `policy` | what is done about which module |
//! | `seals` | sealing what came into the store without a seal, once for all who wait |
//! | `answers` | lists, `@latest` and queries: answered from both, with what upstream said last |
//! | `sumdb` | checksum databases: passed on, with what is kept of them |
//! | `once` | one task for one thing, however many want it |
//!
//! Statuses, headers and bodies are the proxy's.

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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stoa_gomod::{ModulePath, ModuleVersion, Version, h1};
use stoa_store::{Objection, Store, StoreError};
use tokio::sync::{Semaphore, watch};

use self::answers::Answers;
use self::flight::{Flight, Progress};
use self::seals::Seals;
use self::shared::Shared;
use self::slots::Slots;
use self::sumdb::Databases;

pub use self::answers::AnswerOptions;
pub use self::checksum::{ChecksumCounts, Checksums, Sumdb, SumdbError};
pub use self::error::{FillError, Reason};
pub use self::expected::Expected;
pub use self::flight::{Arrival, Transfer, Waiter};
pub use self::policy::{ChecksumPolicy, Mode, Policy, Rule, UnknownWord};
pub use self::sumdb::SumdbQuestion;
pub use crate::upstream::{SumdbAnswer, Via};

/// Fills the store from upstreams.
#[derive(Debug)]
pub struct Fill {
    store: Arc<Store>,
    policy: Policy,
    flights: Mutex<HashMap<ModuleVersion, Arc<Flight>>>,
    slots: Slots,
    /// How many versions' infos and mods are fetched at a time.
    turns: Shared,
    /// How many zips are examined at a time: what lists a million files takes memory.
    examining: Semaphore,
    seals: Seals,
    answers: Answers,
    databases: Databases,
    phase: watch::Sender<Phase>,
    broken_off: Arc<AtomicU64>,
}

/// How many versions may be at their info and mod for each that may be at its zip. Many of them only turn out
/// not to be there.
const TURNS_A_FILL: usize = 8;

/// How many zips may be examined at a time at least, however few cores there are: it also waits for the disk.
const MIN_EXAMINING: usize = 4;

/// How many flights there may be, those that wait for their turn included.
const MAX_FLIGHTS: usize = 8192;

/// Where this program is in its life, as the flights need to know it. Each flight holds a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// What nobody waits for is not begun any more.
    Closing,
    /// Everything is dropped.
    Ending,
}

impl Fill {
    /// Begins without a flight; at most `max_fills` zips are fetched at a time.
    pub fn new(
        store: Arc<Store>,
        policy: impl Into<Policy>,
        max_fills: usize,
        answers: &AnswerOptions,
    ) -> Arc<Self> {
        let max_fills = max_fills.clamp(1, Semaphore::MAX_PERMITS / TURNS_A_FILL);
        let policy = policy.into();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            store,
            flights: Mutex::default(),
            slots: Slots::new(max_fills, policy.upstreams()),
            turns: Shared::new(max_fills * TURNS_A_FILL, policy.upstreams()),
            examining: Semaphore::new(cores.max(MIN_EXAMINING)),
            policy,
            seals: Seals::new(),
            answers: Answers::new(answers),
            databases: Databases::new(answers),
            phase: watch::Sender::new(Phase::Running),
            broken_off: Arc::default(),
        })
    }

    /// Is the store that is filled.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Is what is done about which module.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Joins the flight of a version that is not in the store, or begins it.
    ///
    /// `via` is what the request came through; `wants_zip` says that somebody waits for the zip, not only for
    /// what comes before it.
    pub fn join(
        self: &Arc<Self>,
        version: &ModuleVersion,
        via: &Via,
        wants_zip: bool,
    ) -> Result<Waiter, FillError> {
        self.join_expecting(version, via, wants_zip, &Expected::default())
    }

    /// Joins the flight of a version as [`join`](Self::join) does, or begins one that publishes nothing else than what is
    /// expected. One that is under way, here or in another process, is not stopped by it: what is in the store then is
    /// for who expects to look at.
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
            let reason = format!("{version}: its name is too long to be stored");
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
        // Under the lock of the map: who ends this program looks at the phase after emptying the map.
        let phase = self.phase.subscribe();
        if *phase.borrow() == Phase::Ending {
            return Err(FillError::Stopping(version.to_string()));
        }
        let (progress, watched) = watch::channel(Progress::default());
        let flight = Arc::new(Flight {
            version: version.clone(),
            progress: watched,
            wanted: watch::Sender::new(wants_zip),
            broken_off: Arc::clone(&self.broken_off),
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

    /// Asks the record of a version that is not in the store whether it may ever be. What is there is served without
    /// asking.
    pub fn check_record(&self, version: &ModuleVersion) -> Result<(), FillError> {
        match self.store.records().tombstone(version)? {
            Some(tombstone) => Err(FillError::objection(version, &Objection::Tombstone(tombstone))),
            None => Ok(()),
        }
    }

    /// Asks the record of a version whether this may be its mod, before anybody has it. A checksum database's verdict
    /// is in it as soon as it is known. That of the zip is asked when it is published.
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

    /// Lists the versions of a module that must not be named to anybody, since they were removed for good. While that
    /// cannot be told none is to be named.
    pub async fn forbidden(&self, module: &ModulePath) -> Result<Arc<[Version]>, FillError> {
        let named = module.clone();
        let what = format!("what of {module} was removed for good");
        self.blocking(what, move |store| store.records().tombstones(&named)).await
    }

    /// Begins the flight of a version that nobody waits for.
    pub fn fill_in_background(self: &Arc<Self>, version: &ModuleVersion, via: &Via) {
        match self.join(version, via, false) {
            // Whoever waits keeps the flight from being given up. How it ends is in the log.
            Ok(waiter) => drop(tokio::spawn(waiter.stored())),
            Err(error) => log::debug!("{error}"),
        }
    }

    /// Is how many transfers to clients were broken off since the start, since what was fetched proved wrong.
    pub fn transfers_broken_off(&self) -> u64 {
        self.broken_off.load(Ordering::Relaxed)
    }

    /// Returns the number of fills in progress.
    pub fn count(&self) -> usize {
        self.flights().len()
    }

    /// Begins to end: flights that nobody waits for and that wait for their turn are dropped.
    pub fn close(&self) {
        self.phase.send_replace(Phase::Closing);
    }

    /// Waits until no flight is left.
    pub async fn closed(&self) {
        self.phase.closed().await;
    }

    /// Drops what is left of flights, and waits until it is gone.
    pub async fn end(&self) {
        self.phase.send_replace(Phase::Ending);
        self.phase.closed().await;
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<ModuleVersion, Arc<Flight>>> {
        // Nothing that can panic is done under this lock.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does on the blocking pool what may wait for the disk.
    async fn blocking<T, F>(&self, what: impl std::fmt::Display, work: F) -> Result<T, FillError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => Ok(result?),
            // The program ends.
            Err(error) if error.is_cancelled() => Err(FillError::Stopping(what.to_string())),
            Err(error) => {
                log::error!("{what}: {error}");
                Err(FillError::Broken(what.to_string()))
            }
        }
    }
}
