//! Keeping the index of the store: one thread that reconciles it at the start, now and then, and when somebody finds
//! it of no use. What it does may take long and waits for the disk, so it is none of the runtime's.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use stoa_store::{IndexError, Reconciled, Stop, Store};
use tokio::sync::watch;

use crate::last_use::LastUse;

/// Keeps the index for as long as it is not stopped.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// What is used, for those who remove what is not.
    pub(crate) last_use: LastUse,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    stop: Stop,
    /// Whether somebody wants it now.
    is_wanted: Mutex<bool>,
    bell: Condvar,
    /// How often it was done, well or not.
    passes: watch::Sender<u64>,
}

/// How long to wait at least before it is done again, however many want it.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an answer waits for an index that is being built.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the thread gets to end.
const LAST_WAIT: Duration = Duration::from_secs(5);

impl Upkeep {
    /// Begins at once. An interval of zero, or a store that may not be written to, is left to others.
    pub(crate) fn start(store: &Arc<Store>, interval: Duration, last_use_interval: Duration) -> Self {
        let last_use = LastUse::start(store, last_use_interval);
        let shared = Arc::new(Shared {
            stop: Stop::default(),
            is_wanted: Mutex::default(),
            bell: Condvar::new(),
            passes: watch::Sender::new(0),
        });
        let thread = if interval.is_zero() || store.is_read_only() {
            None
        } else {
            let (store, shared) = (Arc::clone(store), Arc::clone(&shared));
            let spawned =
                thread::Builder::new().name("index".to_owned()).spawn(move || shared.keep(&store, interval));
            spawned.inspect_err(|error| log::warn!("the index is not kept: no thread for it: {error}")).ok()
        };
        Self { last_use, shared, thread: Mutex::new(thread) }
    }

    /// Wants the index reconciled, and waits until it is tried, though not for ever. Says whether it was.
    pub(crate) async fn mended(&self) -> bool {
        if lock(&self.thread).is_none() {
            return false;
        }
        let mut passes = self.shared.passes.subscribe();
        *lock(&self.shared.is_wanted) = true;
        self.shared.bell.notify_all();
        matches!(tokio::time::timeout(PATIENCE, passes.changed()).await, Ok(Ok(())))
    }

    /// Asks it to stop.
    pub(crate) fn close(&self) {
        self.shared.stop.ask();
        // Under the lock: who is about to wait sees one or the other.
        drop(lock(&self.shared.is_wanted));
        self.shared.bell.notify_all();
    }

    /// Waits until it has stopped. It may be waiting for the disk, so not for ever; what it leaves is whole.
    pub(crate) async fn end(&self) {
        self.close();
        // Whatever is answered while this program ends is used as well.
        self.last_use.end().await;
        let Some(thread) = lock(&self.thread).take() else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if !matches!(tokio::time::timeout(LAST_WAIT, joined).await, Ok(Ok(Ok(())))) {
            log::warn!("the thread that keeps the index has not ended, and is left to itself");
        }
    }
}

impl Shared {
    fn keep(&self, store: &Store, interval: Duration) {
        let mut is_first = true;
        while !self.stop.is_asked() {
            *lock(&self.is_wanted) = false;
            let began = Instant::now();
            match store.reconcile_index(&self.stop) {
                Ok(done) => tell(&done, began.elapsed(), is_first),
                Err(IndexError::Stopped) => break,
                Err(error) => log::warn!("the index is not current: {error}"),
            }
            is_first = false;
            self.passes.send_modify(|passes| *passes += 1);
            self.wait(PAUSE.min(interval), false);
            self.wait(interval.saturating_sub(PAUSE), true);
        }
    }

    /// Waits for a time, less if it is to stop, and less if somebody wants something where that counts.
    fn wait(&self, time: Duration, until_wanted: bool) {
        let goes_on = |is_wanted: &mut bool| !(self.stop.is_asked() || until_wanted && *is_wanted);
        // Whether it was the time or the bell makes no difference.
        drop(self.bell.wait_timeout_while(lock(&self.is_wanted), time, goes_on));
    }
}

fn tell(done: &Reconciled, time: Duration, is_first: bool) {
    let has_changed = is_first || done.is_new || done.added + done.removed > 0;
    let level = if has_changed { log::Level::Info } else { log::Level::Debug };
    log::log!(
        level,
        "the index is current: {} versions of {} modules, {} modules looked into, {} rows written, {} removed, in {time:.1?}",
        done.versions,
        done.modules,
        done.read,
        done.added,
        done.removed,
    );
}

/// Nothing that can panic is done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
