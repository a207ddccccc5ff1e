//! Keeping note of what is used: one thread that writes it down at the start, now and then, and at the end.
//!
//! At the start there is nothing to write but the day since which notes are kept, and that must not be missed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use stoa_gomod::ModuleVersion;
use stoa_store::Store;

/// Keeps note for as long as it is not stopped.
#[derive(Debug)]
pub(crate) struct LastUse {
    store: Arc<Store>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether so much waits that it is to be written at once.
    is_full: bool,
    is_ending: bool,
}

/// How long to wait at least before it is written again, however much there is.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the thread gets to end.
const LAST_WAIT: Duration = Duration::from_secs(5);

impl LastUse {
    /// Begins at once. With an interval of zero, or where the store may not be written to, nothing is noted.
    pub(crate) fn start(store: &Arc<Store>, interval: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = if interval.is_zero() || store.is_read_only() {
            None
        } else {
            store.keep_uses();
            let (store, shared) = (Arc::clone(store), Arc::clone(&shared));
            let spawned = thread::Builder::new()
                .name("last-use".to_owned())
                .spawn(move || shared.keep(&store, interval));
            spawned
                .inspect_err(|error| log::warn!("no note is kept of what is used: no thread for it: {error}"))
                .ok()
        };
        Self { store: Arc::clone(store), shared, thread: Mutex::new(thread) }
    }

    /// Notes that a version was used. Not for a version that was filled just now: that it was published is known.
    pub(crate) fn note(&self, version: &ModuleVersion) {
        if self.store.note_use(version) {
            lock(&self.shared.state).is_full = true;
            self.shared.bell.notify_all();
        }
    }

    /// Writes down what is left, and waits until that is done; it may be waiting for the disk, so not for ever.
    pub(crate) async fn end(&self) {
        lock(&self.shared.state).is_ending = true;
        self.shared.bell.notify_all();
        let Some(thread) = lock(&self.thread).take() else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if !matches!(tokio::time::timeout(LAST_WAIT, joined).await, Ok(Ok(Ok(())))) {
            log::warn!("the thread that notes what is used has not ended, and is left to itself");
        }
    }
}

impl Shared {
    fn keep(&self, store: &Store, interval: Duration) {
        let mut is_told = false;
        loop {
            // Before it is written: whoever asks for the end after this has another round.
            let is_last = {
                let mut state = lock(&self.state);
                state.is_full = false;
                state.is_ending
            };
            let began = Instant::now();
            match store.flush_uses() {
                Ok(written) => {
                    is_told = false;
                    log::debug!("{written} versions noted as used, in {:.1?}", began.elapsed());
                }
                // It is tried again for as long as this runs: told once is enough.
                Err(error) if is_told => log::debug!("what is used is not noted: {error}"),
                Err(error) => {
                    is_told = true;
                    log::warn!("what is used is not noted, and kept in mind for now: {error}");
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
        // Whether it was the time or the bell makes no difference.
        drop(self.bell.wait_timeout_while(lock(&self.state), time, |state| !is_over(state)));
    }
}

/// Nothing that can panic is done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
