//! One task per key, with any number of waiting callers.
//!
//! A task is forgotten when it ends, whether it succeeds or fails. Whether it continues after its callers have gone away
//! depends on the kind of tasks.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Maximum number of running tasks of one kind.
const MAX_RUNNING: usize = 8192;

type Outcome<V> = watch::Sender<Option<V>>;
type Running<K, V> = Mutex<HashMap<K, Arc<Outcome<V>>>>;

/// The running tasks of one kind.
#[derive(Debug)]
pub(crate) struct Once<K, V> {
    running: Arc<Running<K, V>>,
    /// Whether a task ends when no caller waits for it any more.
    ends_unwanted: bool,
}

/// A handle to wait for a task.
#[derive(Debug, Clone)]
pub(crate) struct Task<V> {
    result: watch::Receiver<Option<V>>,
    is_joined: bool,
}

impl<V: Clone> Task<V> {
    /// Returns whether another caller started the task.
    pub(crate) fn is_joined(&self) -> bool {
        self.is_joined
    }

    /// Waits until the task ends. Returns `None` if it panicked.
    pub(crate) async fn wait(mut self) -> Option<V> {
        self.result.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<V: Clone + Send + Sync + 'static> Task<V> {
    /// Lets the task continue without a waiting caller.
    pub(crate) fn keep(self) {
        drop(tokio::spawn(self.wait()));
    }
}

impl<K, V> Once<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// Creates a kind of tasks that continue after their callers have gone away.
    pub(crate) fn new() -> Self {
        Self { running: Arc::default(), ends_unwanted: false }
    }

    /// Creates a kind of tasks that end when no caller waits for them any more. A task for which [`Task::keep`] was called
    /// continues.
    pub(crate) fn while_wanted() -> Self {
        Self { running: Arc::default(), ends_unwanted: true }
    }

    /// Joins the task of a key, or starts it. Returns `None` if too many tasks are running.
    pub(crate) fn join<F>(&self, key: &K, work: impl FnOnce() -> F) -> Option<Task<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(result) = running.get(key) {
            return Some(Task { result: result.subscribe(), is_joined: true });
        }
        if running.len() >= MAX_RUNNING {
            return None;
        }
        let (result, task) = watch::channel(None);
        let result = Arc::new(result);
        running.insert(key.clone(), Arc::clone(&result));
        let registered = Registered { running: Arc::clone(&self.running), key: key.clone(), result };
        let (work, ends_unwanted) = (work(), self.ends_unwanted);
        tokio::spawn(async move {
            let value = tokio::select! {
                value = work => value,
                () = registered.unwanted(), if ends_unwanted => return,
            };
            let result = Arc::clone(&registered.result);
            // A caller that arrives between these two lines starts a new task, which finds the result of this one.
            drop(registered);
            result.send_replace(Some(value));
        });
        Some(Task { result: task, is_joined: false })
    }
}

/// The entry of a task in the map. It is removed when the task ends, also after a panic.
struct Registered<K: Hash + Eq, V> {
    running: Arc<Running<K, V>>,
    key: K,
    result: Arc<Outcome<V>>,
}

impl<K: Hash + Eq, V> Registered<K, V> {
    /// Waits until no caller waits for the task, and removes it from the map.
    async fn unwanted(&self) {
        loop {
            self.result.closed().await;
            let mut running = lock(&self.running);
            // Under the lock, since a caller may have joined just now.
            if self.result.receiver_count() == 0 {
                self.remove(&mut running);
                return;
            }
        }
    }

    fn remove(&self, running: &mut HashMap<K, Arc<Outcome<V>>>) {
        // A new task may have the same key.
        if running.get(&self.key).is_some_and(|now| Arc::ptr_eq(now, &self.result)) {
            running.remove(&self.key);
        }
    }
}

impl<K: Hash + Eq, V> Drop for Registered<K, V> {
    fn drop(&mut self) {
        self.remove(&mut lock(&self.running));
    }
}

fn lock<K, V>(running: &Running<K, V>) -> MutexGuard<'_, HashMap<K, Arc<Outcome<V>>>> {
    // Under this lock only `work` could panic, which just creates a future.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn many_callers_wait_for_one_task() {
        let (once, started, gate) = (Once::new(), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let join = |key: &u8| {
            let (started, gate) = (Arc::clone(&started), Arc::clone(&gate));
            once.join(key, || async move {
                started.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                "done"
            })
            .unwrap()
        };
        let waiting = [join(&1), join(&1), join(&2)];
        drop(join(&2));
        gate.add_permits(2);
        for task in waiting {
            assert_eq!(task.wait().await, Some("done"));
        }
        assert_eq!(started.load(Ordering::SeqCst), 2);
        gate.add_permits(1);
        assert_eq!(join(&1).wait().await, Some("done"));
        assert_eq!(started.load(Ordering::SeqCst), 3, "an ended task is forgotten");
    }

    #[tokio::test]
    async fn a_task_ends_when_no_caller_waits_unless_it_is_kept() {
        let once = Once::while_wanted();
        let (started, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let join = || {
            let (started, gate) = (Arc::clone(&started), Arc::clone(&gate));
            let work = || async move {
                started.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
            };
            once.join(&1, work).unwrap()
        };
        let is_running = || !lock(&once.running).is_empty();
        let (first, second) = (join(), join());
        drop(first);
        tokio::task::yield_now().await;
        assert!(is_running());
        drop(second);
        while is_running() {
            tokio::task::yield_now().await;
        }
        join().keep();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let task = join();
        gate.add_permits(1);
        assert_eq!(task.wait().await, Some(()));
        assert_eq!(started.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_the_task_forgotten() {
        let once: Once<u8, u8> = Once::new();
        let panicked = once.join(&1, || async { panic!("a defect") }).unwrap();
        assert_eq!(panicked.wait().await, None);
        assert_eq!(once.join(&1, || async { 7 }).unwrap().wait().await, Some(7));
    }
}
