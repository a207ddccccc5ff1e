//! The thread that keeps the index of the store current: at the start, at intervals, and when a request finds the index
//! unusable. A pass may wait for the disk, so it runs on a thread of its own.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use stoa_store::{IndexError, Reconciled, Stop, Store};
use tokio::sync::watch;

use crate::background::Background;
use crate::last_use::LastUse;
use crate::lock::lock;

/// The background work of a server on its store.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// The days of last use, by which `stoa prune` finds unused versions.
    pub(crate) last_use: LastUse,
    shared: Arc<Shared>,
    thread: Background,
}

#[derive(Debug)]
struct Shared {
    stop: Stop,
    /// Whether a pass is wanted now.
    is_wanted: Mutex<bool>,
    bell: Condvar,
    /// The time of the last pass that succeeded.
    last_pass: Mutex<Option<Instant>>,
    /// The number of passes, failed ones included.
    passes: watch::Sender<u64>,
}

/// Minimum time between two passes.
const PAUSE: Duration = Duration::from_secs(1);

/// Time limit for a request that waits for an index that is being built.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

impl Upkeep {
    /// Starts at once. An interval of zero disables the thread, and so does a store that is read-only.
    pub(crate) fn start(
        store: &Arc<Store>,
        has_bucket: bool,
        interval: Duration,
        last_use_interval: Duration,
    ) -> Self {
        let last_use = LastUse::start(store, last_use_interval);
        let shared = Arc::new(Shared {
            stop: Stop::default(),
            is_wanted: Mutex::default(),
            bell: Condvar::new(),
            last_pass: Mutex::default(),
            passes: watch::Sender::new(0),
        });
        let is_needed = !interval.is_zero() && !store.is_read_only();
        let work = is_needed.then(|| {
            let (store, shared) = (Arc::clone(store), Arc::clone(&shared));
            move || shared.keep(&store, has_bucket, interval)
        });
        Self { last_use, shared, thread: Background::start("index", work) }
    }

    /// Asks for a pass over the index, and waits for it up to a limit. Returns whether it ran.
    pub(crate) async fn rebuilt(&self) -> bool {
        if !self.thread.is_running() {
            return false;
        }
        let mut passes = self.shared.passes.subscribe();
        *lock(&self.shared.is_wanted) = true;
        self.shared.bell.notify_all();
        matches!(tokio::time::timeout(REQUEST_LIMIT, passes.changed()).await, Ok(Ok(())))
    }

    /// Returns the time since the last pass that succeeded.
    pub(crate) fn index_age(&self) -> Option<Duration> {
        lock(&self.shared.last_pass).map(|at| at.elapsed())
    }

    /// Asks the thread to stop.
    pub(crate) fn close(&self) {
        self.shared.stop.ask();
        // The lock makes sure that a thread which is about to wait sees the request or gets the notification.
        drop(lock(&self.shared.is_wanted));
        self.shared.bell.notify_all();
    }

    /// Waits up to a limit until the thread has stopped. The thread may wait for the disk. The index is valid at any time.
    pub(crate) async fn end(&self) {
        self.close();
        // Requests that end during the shutdown count as uses, so the uses are written last.
        self.last_use.end().await;
        self.thread.end().await;
    }
}

impl Shared {
    fn keep(&self, store: &Store, has_bucket: bool, interval: Duration) {
        let mut has_foreign_rows = !has_bucket;
        while !self.stop.is_asked() {
            *lock(&self.is_wanted) = false;
            let began = Instant::now();
            match store.index().reconcile(&self.stop) {
                Ok(done) => {
                    log_pass(&done, began.elapsed());
                    *lock(&self.last_pass) = Some(Instant::now());
                    has_foreign_rows = has_foreign_rows && !self.leave_bucket(store);
                }
                Err(IndexError::Stopped) => break,
                Err(error) => log::warn!(reason:% = error; "cannot update the index of the store"),
            }
            self.passes.send_modify(|passes| *passes += 1);
            self.wait(PAUSE.min(interval), false);
            self.wait(interval.saturating_sub(PAUSE), true);
        }
    }

    /// Removes the rows of a bucket that the server does not have any more. Returns whether none is left.
    fn leave_bucket(&self, store: &Store) -> bool {
        while !self.stop.is_asked() {
            match store.index().change_bucket(None) {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => {
                    log::warn!(reason:% = error; "cannot remove the versions of a bucket from the index");
                    return false;
                }
            }
        }
        false
    }

    /// Waits for a time, or until the thread is asked to stop. With `until_wanted` it also ends when a pass is wanted.
    fn wait(&self, time: Duration, until_wanted: bool) {
        let goes_on = |is_wanted: &mut bool| !(self.stop.is_asked() || until_wanted && *is_wanted);
        // The next step is the same after the time and after the bell.
        drop(self.bell.wait_timeout_while(lock(&self.is_wanted), time, goes_on));
    }
}

fn log_pass(done: &Reconciled, elapsed: Duration) {
    log::debug!(
        versions = done.versions,
        modules = done.modules,
        modules_read = done.read,
        rows_written = done.added,
        rows_removed = done.removed,
        is_new = done.is_new,
        elapsed:% = format!("{elapsed:.1?}");
        "the index is current"
    );
}
