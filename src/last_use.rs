//! The thread that writes which versions were used: at the start, at intervals, and at the end.
//!
//! The pass at the start has no uses to write. It stores the day since which uses are recorded, without which `stoa prune`
//! removes nothing.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use stoa_gomod::ModuleVersion;
use stoa_store::Store;

use crate::background::Background;
use crate::lock::lock;

/// Records the last use of versions.
#[derive(Debug)]
pub(crate) struct LastUse {
    store: Arc<Store>,
    shared: Arc<Shared>,
    thread: Background,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the memory for uses is full, so that they are to be written at once.
    is_full: bool,
    is_ending: bool,
}

/// Minimum time between two writes.
const PAUSE: Duration = Duration::from_secs(1);

impl LastUse {
    /// Starts at once. An interval of zero disables the thread, and so does a store that is read-only.
    pub(crate) fn start(store: &Arc<Store>, interval: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let is_needed = !interval.is_zero() && !store.is_read_only();
        let work = is_needed.then(|| {
            store.usage().start();
            let (store, shared) = (Arc::clone(store), Arc::clone(&shared));
            move || shared.keep(&store, interval)
        });
        let thread = Background::start("last-use", work);
        Self { store: Arc::clone(store), shared, thread }
    }

    /// Records that a stored version was used. A new version needs no record: the time of its publication counts.
    pub(crate) fn note(&self, version: &ModuleVersion) {
        if self.store.usage().note(version) {
            lock(&self.shared.state).is_full = true;
            self.shared.bell.notify_all();
        }
    }

    /// Writes the remaining uses, and waits for that up to a limit, since the thread may wait for the disk.
    pub(crate) async fn end(&self) {
        lock(&self.shared.state).is_ending = true;
        self.shared.bell.notify_all();
        self.thread.end().await;
    }
}

impl Shared {
    fn keep(&self, store: &Store, interval: Duration) {
        let mut has_failed = false;
        loop {
            // The flags are read before the write: a call of `end` after this line causes another round.
            let is_last = {
                let mut state = lock(&self.state);
                state.is_full = false;
                state.is_ending
            };
            let began = Instant::now();
            match store.usage().flush() {
                Ok(written) => {
                    has_failed = false;
                    log::debug!(versions = written, elapsed:% = format!("{:.1?}", began.elapsed()); "wrote usage data");
                }
                // Every round tries again, so only the first failure is a warning.
                Err(error) if has_failed => log::debug!(reason:% = error; "cannot write usage data"),
                Err(error) => {
                    has_failed = true;
                    log::warn!(reason:% = error; "cannot write usage data, keeping it in memory");
                }
            }
            if is_last {
                return;
            }
            self.wait(PAUSE.min(interval), |state| state.is_ending);
            self.wait(interval.saturating_sub(PAUSE), |state| state.is_ending || state.is_full);
        }
    }

    fn wait(&self, time: Duration, is_over: impl Fn(&State) -> bool) {
        // The next step is the same after the time and after the bell.
        drop(self.bell.wait_timeout_while(lock(&self.state), time, |state| !is_over(state)));
    }
}
