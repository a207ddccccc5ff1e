//! Limits that several upstreams share, so that a slow upstream cannot use up the whole limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::upstream::Upstream;

/// A number of permits. If there are several upstreams, none of them gets all permits.
#[derive(Debug)]
pub(crate) struct SharedPermits {
    all: Arc<Queue>,
    /// The share of each upstream, by its tag.
    shares: ArcSwap<HashMap<String, Arc<Queue>>>,
    /// The number of permits in a share.
    share: usize,
}

/// A share of a limit: one permit, released when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    permit: Permit,
    share: Option<Permit>,
}

impl SharedPermits {
    /// Creates `count` permits for these upstreams.
    pub(crate) fn new<'u>(count: usize, upstreams: impl Iterator<Item = &'u Upstream>) -> Self {
        // Three quarters: an upstream gets most permits while the others are idle.
        let share = (count - count / 4).clamp(1, Semaphore::MAX_PERMITS);
        let permits = Self { all: Queue::new(count), shares: ArcSwap::default(), share };
        permits.follow(upstreams);
        permits
    }

    /// Gives shares to these upstreams from now on. Those that had one keep it.
    pub(crate) fn follow<'u>(&self, upstreams: impl Iterator<Item = &'u Upstream>) {
        let earlier = self.shares.load();
        let share = |tag: &str| earlier.get(tag).cloned().unwrap_or_else(|| Queue::new(self.share));
        let tags = upstreams.filter_map(Upstream::tag);
        let mut shares: HashMap<_, _> = tags.map(|tag| (tag.to_owned(), share(tag))).collect();
        if shares.len() < 2 {
            shares.clear();
        }
        self.shares.store(Arc::new(shares));
    }

    /// Returns the number of permits in use, and the number of permits.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        let Queue { permits, count, .. } = &*self.all;
        (count.saturating_sub(permits.available_permits()), *count)
    }

    /// Takes a permit for an upstream if one is free.
    pub(crate) fn try_take(&self, upstream: &Upstream) -> Option<Share> {
        let share = match self.share(upstream) {
            Some(share) => Some(share.try_take()?),
            None => None,
        };
        Some(Share { permit: self.all.try_take()?, share })
    }

    /// Waits for a permit. Returns `None` if the semaphore was closed, which never happens.
    pub(crate) async fn take(&self, upstream: &Upstream) -> Option<Share> {
        let share = match self.share(upstream) {
            Some(share) => Some(share.take().await?),
            None => None,
        };
        Some(Share { permit: self.all.take().await?, share })
    }

    fn share(&self, upstream: &Upstream) -> Option<Arc<Queue>> {
        self.shares.load().get(upstream.tag()?).cloned()
    }
}

impl Share {
    /// Promises to release the permit soon, if another task waits for it. Returns whether one does.
    pub(crate) fn promise(&self) -> bool {
        self.permit.promise() || self.share.as_ref().is_some_and(Permit::promise)
    }
}

/// A semaphore that knows how many tasks wait for its permits.
#[derive(Debug)]
pub(crate) struct Queue {
    permits: Arc<Semaphore>,
    count: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    count: usize,
    /// How many of them were promised a permit.
    promised: usize,
}

/// A permit of a queue, released when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
    queue: Arc<Queue>,
}

impl Queue {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { permits: Arc::new(Semaphore::new(count)), count, waiting: Mutex::default() })
    }

    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Permit { _permit: permit, queue: Arc::clone(self) })
    }

    /// Waits for a permit. Returns `None` if the semaphore was closed, which never happens.
    pub(crate) async fn take(self: &Arc<Self>) -> Option<Permit> {
        let _place = Place::new(self);
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(Permit { _permit: permit, queue: Arc::clone(self) })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Promises to release the permit soon, if a task waits for a permit and has no promise. Returns whether one does.
    pub(crate) fn promise(&self) -> bool {
        let mut waiting = self.queue.waiting();
        let is_awaited = waiting.promised < waiting.count;
        if is_awaited {
            waiting.promised += 1;
        }
        is_awaited
    }
}

/// A place in a queue, left when it is dropped.
struct Place<'q>(&'q Queue);

impl<'q> Place<'q> {
    fn new(queue: &'q Queue) -> Self {
        queue.waiting().count += 1;
        Self(queue)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.count = waiting.count.saturating_sub(1);
        waiting.promised = waiting.promised.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamOptions;

    fn upstream(list: &str) -> Upstream {
        Upstream::new(list, UpstreamOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn no_upstream_gets_all_permits() {
        let [one, other] = ["http://one.example", "http://other.example"].map(upstream);
        let shared = SharedPermits::new(4, [&one, &other, &one].into_iter());
        let held: Vec<_> = (0..3).map(|_| shared.try_take(&one).unwrap()).collect();
        assert!(shared.try_take(&one).is_none());
        let last = shared.take(&other).await.unwrap();
        assert!(shared.try_take(&other).is_none());
        drop(held);
        assert!(shared.try_take(&one).is_some());
        drop(last);
        shared.follow([&one].into_iter());
        assert!(shared.shares.load().is_empty());
        let alone = SharedPermits::new(4, [&one, &one].into_iter());
        let held: Vec<_> = (0..4).map(|_| alone.try_take(&one).unwrap()).collect();
        assert_eq!(held.len(), 4);
    }

    #[tokio::test]
    async fn a_permit_is_promised_only_to_a_waiting_task_and_once() {
        let shared = SharedPermits::new(2, std::iter::empty());
        let upstream = Upstream::offline();
        let held: Vec<_> = (0..2).map(|_| shared.try_take(&upstream).unwrap()).collect();
        assert!(!held[0].promise());
        let mut waiting = Box::pin(shared.take(&upstream));
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut waiting).await.is_err());
        assert!(held[0].promise());
        assert!(!held[1].promise());
        drop(held);
        assert!(!waiting.await.unwrap().promise());
    }
}
