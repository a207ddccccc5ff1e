//! One task per key, with any number of waiting callers.
//!
//! A task continues after its callers have gone away. It is forgotten when it ends, whether it succeeds or
//! fails.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Maximum number of running tasks of one kind.
const MAX_RUNNING: usize = 8192;

type Running<K, V> = Mutex<HashMap<K, watch::Receiver<Option<V>>>>;

/// The running tasks of one kind.
#[derive(Debug)]
pub(crate) struct Once<K, V> {
    running: Arc<Running<K, V>>,
}

/// A handle to wait for a task.
#[derive(Debug)]
pub(crate) struct Task<V>(watch::Receiver<Option<V>>);

impl<V: Clone> Task<V> {
    /// Waits until the task ends. Returns `None` if it panicked.
    pub(crate) async fn wait(mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<K, V> Once<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self { running: Arc::default() }
    }

    /// Joins the task of a key, or starts it. Returns `None` if too many tasks are running.
    pub(crate) fn join<F>(&self, key: &K, work: impl FnOnce() -> F) -> Option<Task<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(task) = running.get(key) {
            return Some(Task(task.clone()));
        }
        if running.len() >= MAX_RUNNING {
            return None;
        }
        let (sender, task) = watch::channel(None);
        running.insert(key.clone(), task.clone());
        let remove = RemoveOnDrop { running: Arc::clone(&self.running), key: key.clone() };
        let work = work();
        tokio::spawn(async move {
            let value = work.await;
            // A caller that arrives between these two lines starts a new task, which finds the result of this one.
            drop(remove);
            sender.send_replace(Some(value));
        });
        Some(Task(task))
    }
}

/// Removes a task from the map when it ends, also after a panic.
struct RemoveOnDrop<K: Hash + Eq, V> {
    running: Arc<Running<K, V>>,
    key: K,
}

impl<K: Hash + Eq, V> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock<K, V>(running: &Running<K, V>) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
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
    async fn a_panic_is_reported_and_the_task_forgotten() {
        let once: Once<u8, u8> = Once::new();
        let panicked = once.join(&1, || async { panic!("a defect") }).unwrap();
        assert_eq!(panicked.wait().await, None);
        assert_eq!(once.join(&1, || async { 7 }).unwrap().wait().await, Some(7));
    }
}
