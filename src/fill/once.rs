//! One task for one thing, however many want it.
//!
//! A task goes on when those who wait for it have gone away, and is forgotten when it ends, well or not.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// How many tasks there may be of one kind.
const MAX_RUNNING: usize = 8192;

type Running<K, V> = Mutex<HashMap<K, watch::Receiver<Option<V>>>>;

/// The tasks of one kind that are under way.
#[derive(Debug)]
pub(super) struct Once<K, V> {
    running: Arc<Running<K, V>>,
}

/// Waits for a task.
#[derive(Debug)]
pub(super) struct Outcome<V>(watch::Receiver<Option<V>>);

impl<V: Clone> Outcome<V> {
    /// Waits until the task ends. `None` if it broke off within this program.
    pub(super) async fn wait(mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<K, V> Once<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self { running: Arc::default() }
    }

    /// Joins the task for a key, or begins it. `None` if too many are under way.
    pub(super) fn join<F>(&self, key: &K, work: impl FnOnce() -> F) -> Option<Outcome<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(outcome) = running.get(key) {
            return Some(Outcome(outcome.clone()));
        }
        if running.len() >= MAX_RUNNING {
            return None;
        }
        let (tell, outcome) = watch::channel(None);
        running.insert(key.clone(), outcome.clone());
        let landing = Landing { running: Arc::clone(&self.running), key: key.clone() };
        let work = work();
        tokio::spawn(async move {
            let value = work.await;
            // Who comes between these two lines begins anew, and finds what this one has noted.
            drop(landing);
            tell.send_replace(Some(value));
        });
        Some(Outcome(outcome))
    }
}

/// Forgets a task when it ends, however it does.
struct Landing<K: Hash + Eq, V> {
    running: Arc<Running<K, V>>,
    key: K,
}

impl<K: Hash + Eq, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock<K, V>(running: &Running<K, V>) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
    // Nothing that can panic is done under this lock but to call what makes a future.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn many_wait_for_one() {
        let (once, begun, gate) = (Once::new(), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let join = |key: &u8| {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            once.join(key, || async move {
                begun.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                "done"
            })
            .unwrap()
        };
        let waiting = [join(&1), join(&1), join(&2)];
        drop(join(&2));
        gate.add_permits(2);
        for outcome in waiting {
            assert_eq!(outcome.wait().await, Some("done"));
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        gate.add_permits(1);
        assert_eq!(join(&1).wait().await, Some("done"));
        assert_eq!(begun.load(Ordering::SeqCst), 3, "what has ended is forgotten");
    }

    #[tokio::test]
    async fn what_breaks_off_is_told_and_forgotten() {
        let once: Once<u8, u8> = Once::new();
        let broken = once.join(&1, || async { panic!("as a defect would") }).unwrap();
        assert_eq!(broken.wait().await, None);
        assert_eq!(once.join(&1, || async { 7 }).unwrap().wait().await, Some(7));
    }
}
