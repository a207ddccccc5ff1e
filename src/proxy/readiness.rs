//! Whether the server can serve stored modules, for `/readyz`.
//!
//! A disk may hang, and anybody may ask. So the store is probed on the blocking pool, by one probe at a time. Clients that
//! ask meanwhile get the last known answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::tasks::Once;

/// The time after which a store that does not answer a probe counts as unreadable.
const PATIENCE: Duration = Duration::from_secs(5);

/// After so many times of the patience a probe that still waits for a thread counts as unanswered. The reads of all threads
/// may hang.
const WAITS_FOR_A_THREAD: u32 = 6;

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Stored modules can be served. The reasons why missing modules cannot be downloaded.
    Ready(Vec<String>),
    NotReady,
}

/// The probes of a store.
#[derive(Debug)]
pub(super) struct Probes {
    running: Once<(), Readiness>,
    state: Arc<Mutex<State>>,
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Readiness>,
    /// When the running probe was asked for.
    asked: Option<Instant>,
    /// When the running probe began. A probe that waits for a thread has not begun.
    began: Option<Instant>,
}

impl Probes {
    pub(super) fn new() -> Self {
        Self { running: Once::new(), state: Arc::default(), patience: PATIENCE }
    }

    /// Returns the result of a new probe, or the last known one if a probe is running.
    pub(super) async fn ask(&self, probe: impl FnOnce() -> Readiness + Send + 'static) -> Readiness {
        let state = Arc::clone(&self.state);
        let Some(task) = self.running.join(&(), || run(state, probe)) else { return Readiness::NotReady };
        if task.is_joined()
            && let Some(known) = self.known()
        {
            return known;
        }
        let mut ended = std::pin::pin!(task.wait());
        loop {
            if let Ok(result) = tokio::time::timeout(self.patience, &mut ended).await {
                return result.unwrap_or(Readiness::NotReady);
            }
            // Otherwise this is the first probe, and it waits for a thread.
            if let Some(known) = self.known() {
                return known;
            }
        }
    }

    /// Returns what is known while a probe is running. `None` before the first result.
    fn known(&self) -> Option<Readiness> {
        let state = lock(&self.state);
        if state.asked.is_some_and(|asked| asked.elapsed() >= self.patience * WAITS_FOR_A_THREAD) {
            log::error!("not ready: the store does not answer");
            return Some(Readiness::NotReady);
        }
        if state.began.is_some_and(|began| began.elapsed() >= self.patience) {
            log::error!("not ready: the store does not answer");
            return Some(Readiness::NotReady);
        }
        state.known.clone()
    }
}

async fn run(state: Arc<Mutex<State>>, probe: impl FnOnce() -> Readiness + Send + 'static) -> Readiness {
    lock(&state).asked = Some(Instant::now());
    let probed = tokio::task::spawn_blocking(move || {
        lock(&state).began = Some(Instant::now());
        let ended = Ended(&state);
        let readiness = probe();
        lock(&state).known = Some(readiness.clone());
        drop(ended);
        readiness
    });
    // An error means that the process is shutting down, or a defect.
    probed.await.unwrap_or(Readiness::NotReady)
}

/// Marks the end of a probe, also after a panic.
struct Ended<'s>(&'s Mutex<State>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = lock(self.0);
        (state.asked, state.began) = (None, None);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn full() -> Readiness {
        Readiness::Ready(vec!["disk full".to_owned()])
    }

    fn never() -> Readiness {
        panic!("a second probe at the same time")
    }

    /// Starts a probe that ends when the returned sender is dropped.
    async fn hanging(probes: &Arc<Probes>) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Readiness>) {
        let ((begun, begins), (end, ends)) = (tokio::sync::oneshot::channel(), mpsc::channel::<()>());
        let probes = Arc::clone(probes);
        let asked = tokio::spawn(async move {
            let probe = move || {
                begun.send(thread::current().id()).unwrap();
                let _ = ends.recv();
                Readiness::Ready(Vec::new())
            };
            probes.ask(probe).await
        });
        // The runtime has one worker: this test.
        assert_ne!(begins.await.unwrap(), thread::current().id());
        (end, asked)
    }

    #[tokio::test]
    async fn one_probe_runs_at_a_time_and_off_the_runtime() {
        let probes = Arc::new(Probes { patience: Duration::from_secs(3600), ..Probes::new() });
        assert_eq!(probes.ask(full).await, full());
        let (end, asked) = hanging(&probes).await;
        for _ in 0..100 {
            assert_eq!(probes.ask(never).await, full());
        }
        drop(end);
        assert_eq!(asked.await.unwrap(), Readiness::Ready(Vec::new()));
        assert_eq!(probes.ask(full).await, full());
    }

    #[test]
    fn a_probe_without_a_thread_is_not_ready() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let probes = Probes { patience: Duration::from_millis(10), ..Probes::new() };
            assert_eq!(probes.ask(full).await, full());
            let (end, ends) = mpsc::channel::<()>();
            let hanging = tokio::task::spawn_blocking(move || ends.recv());
            while probes.ask(full).await != Readiness::NotReady {
                tokio::task::yield_now().await;
            }
            drop(end);
            assert!(hanging.await.unwrap().is_err());
            while probes.ask(full).await != full() {
                tokio::task::yield_now().await;
            }
        });
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_not_ready() {
        let probes = Arc::new(Probes { patience: Duration::from_millis(10), ..Probes::new() });
        let (end, asked) = hanging(&probes).await;
        assert_eq!(asked.await.unwrap(), Readiness::NotReady);
        assert_eq!(probes.ask(never).await, Readiness::NotReady);
        drop(end);
        while probes.ask(full).await != full() {
            tokio::task::yield_now().await;
        }
    }
}
