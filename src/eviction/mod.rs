//! Eviction: a server removes the least recently used versions by itself, so that its store stays within limits.
//!
//! A run adds up the store, and removes as `stoa prune` does (see [`plan`]). Private modules, pinned modules, versions that are
//! being sent, and versions that this server could not download again stay. A run begins at the start of the server, then at
//! intervals, and earlier if the disk fills. It reads the whole store, so runs have pauses.

mod limits;
pub(crate) mod plan;
mod run;
pub(crate) mod walk;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use stoa_gomod::ModuleVersion;
use stoa_gomod::private::Patterns;
use stoa_store::{Stop, Store};

pub(crate) use self::limits::Disk;
pub use self::limits::{Free, Limits};
use self::run::{Report, Run, RunError};
use crate::background::Background;
use crate::lock::lock;
use crate::meters::Meters;
use crate::policy::{Mode, Policy, PolicyCell};
use crate::sending::Sending;
use crate::services::Services;

/// The settings of the eviction.
#[derive(Debug, Clone)]
pub struct EvictionOptions {
    /// The limits of the store.
    pub limits: Limits,
    /// The modules that stay.
    pub keep: Patterns,
    /// The private modules, besides those of the rules.
    pub private: Patterns,
    /// Time between two runs.
    pub interval: Duration,
    /// Minimum time between two runs.
    pub pause: Duration,
}

impl EvictionOptions {
    /// Returns the settings for some limits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            keep: Patterns::default(),
            private: Patterns::default(),
            interval: Duration::from_secs(600),
            pause: Duration::from_secs(60),
        }
    }
}

/// The thread that keeps a store within its limits.
#[derive(Debug)]
pub(crate) struct Eviction {
    evictor: Option<Arc<Evictor>>,
    thread: Background,
}

#[derive(Debug)]
struct Evictor {
    store: Arc<Store>,
    policy: Arc<PolicyCell>,
    sending: Arc<Sending>,
    meters: Arc<Meters>,
    options: EvictionOptions,
    stop: Stop,
    is_closed: Mutex<bool>,
    bell: Condvar,
}

/// Time between two looks at the free space.
const LOOK: Duration = Duration::from_secs(10);

/// Runs take at most this share of the time: one tenth.
const SHARE: u32 = 10;

/// Minimum time between two warnings that nothing more may be removed.
const WARNING_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

impl Eviction {
    /// Starts at once if there are limits and the store can be written.
    pub(crate) fn start(services: &Services, options: Option<EvictionOptions>) -> Self {
        let options = options.filter(|options| !options.limits.is_empty());
        let is_read_only = services.store.is_read_only();
        if options.is_some() && is_read_only {
            log::warn!("the store is read-only: its limits remove nothing");
        }
        let evictor = options.filter(|_| !is_read_only).map(|options| {
            Arc::new(Evictor {
                store: Arc::clone(&services.store),
                policy: Arc::clone(&services.policy),
                sending: Arc::clone(&services.sending),
                meters: Arc::clone(&services.meters),
                options,
                stop: Stop::default(),
                is_closed: Mutex::default(),
                bell: Condvar::new(),
            })
        });
        let work = evictor.clone().map(|evictor| move || evictor.keep());
        Self { evictor, thread: Background::start("eviction", work) }
    }

    /// Asks the thread to stop. It ends after the version that it removes.
    pub(crate) fn close(&self) {
        if let Some(evictor) = &self.evictor {
            evictor.stop.ask();
            *lock(&evictor.is_closed) = true;
            evictor.bell.notify_all();
        }
    }

    /// Waits up to a limit until the thread has ended.
    pub(crate) async fn end(&self) {
        self.close();
        self.thread.end().await;
    }
}

impl Evictor {
    fn keep(&self) {
        let mut warned = None;
        loop {
            let began = Instant::now();
            let report = self.run();
            if report.excess > 0 && warned.is_none_or(|at: Instant| at.elapsed() >= WARNING_PAUSE) {
                warned = Some(Instant::now());
                log::warn!(
                    bytes_above = report.excess, limits = report.limits,
                    help = "raise the limit, pin less with store.keep, or remove versions with `stoa prune` or `stoa remove`";
                    "the store is above its limit, and no other version may be removed"
                );
            }
            let free = self.disk().map(|disk| disk.free);
            let pause = self.options.pause.max(began.elapsed().saturating_mul(SHARE));
            self.wait(pause);
            while began.elapsed() < self.options.interval && !self.is_due(free, &report) {
                self.wait(LOOK.min(self.options.interval.saturating_sub(began.elapsed())));
            }
            if self.stop.is_asked() {
                return;
            }
        }
    }

    /// Returns whether the next run is due before its time: the disk is too full, or the store has probably grown by more
    /// than a hundredth of its maximum. If nothing more can be removed, the disk is no reason.
    fn is_due(&self, free: Option<u64>, last: &Report) -> bool {
        let disk = self.disk();
        let growth = free.zip(disk).map_or(0, |(free, disk)| free.saturating_sub(disk.free));
        let has_grown = self.options.limits.max_size.is_some_and(|max| growth > max / 100);
        let is_short = last.excess == 0 && self.options.limits.missing(disk).is_some();
        self.stop.is_asked() || has_grown || is_short
    }

    fn disk(&self) -> Option<Disk> {
        Disk::of(self.store.root())
    }

    fn wait(&self, time: Duration) {
        drop(self.bell.wait_timeout_while(lock(&self.is_closed), time, |is_closed| !*is_closed));
    }

    /// Runs once, and logs the result.
    fn run(&self) -> Report {
        let policy = self.policy.load();
        let may_go = |version: &ModuleVersion| {
            let name = version.path().as_str();
            can_return(&policy, version)
                && !self.options.keep.matches(name)
                && !self.options.private.matches(name)
                && !self.sending.is_sending(version)
        };
        let began = Instant::now();
        let mut report = Report::default();
        let (limits, disk) = (self.options.limits, self.disk());
        let run = Run { store: &self.store, limits, may_go: &may_go, disk, stop: &self.stop };
        match run.run(&mut report) {
            Ok(()) | Err(RunError::Stopped) => {}
            Err(error) => log::warn!(reason:% = error; "cannot remove the least recently used versions"),
        }
        let elapsed = format!("{:.1?}", began.elapsed());
        self.meters.evicted(report.versions, report.bytes);
        if report.versions > 0 || report.failed > 0 {
            log::info!(
                versions = report.versions, bytes = report.bytes, failed = report.failed,
                bytes_left = report.total.saturating_sub(report.bytes), limits = report.limits, elapsed:% = elapsed;
                "removed the least recently used versions"
            );
        } else {
            log::debug!(bytes = report.total, elapsed:% = elapsed; "the store is within its limits");
        }
        report
    }
}

/// Returns whether this server would download a version again: its module is not private, and its rule allows the version
/// and has an upstream. A redirected client gets the version elsewhere, and the store does not get it back.
fn can_return(policy: &Policy, version: &ModuleVersion) -> bool {
    let rule = policy.rule(version.path());
    let is_fetched = matches!(rule.mode, Mode::Sync | Mode::Async | Mode::AsyncRedirect);
    is_fetched
        && !rule.upstream.is_offline()
        && rule.admits(version.version())
        && !policy.is_private(version.path())
}

#[cfg(test)]
mod tests;
