//! Limits that several upstreams share, so that a slow upstream cannot use up the whole limit.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::upstream::Upstream;

/// A number of permits. If there are several upstreams, none of them gets all permits.
#[derive(Debug)]
pub(crate) struct SharedPermits {
    all: Arc<Semaphore>,
    /// The share of each upstream, by its tag.
    shares: HashMap<String, Arc<Semaphore>>,
}

/// A share of a limit: one permit, released when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    _permit: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

impl SharedPermits {
    /// Creates `count` permits for these upstreams.
    pub(crate) fn new<'u>(count: usize, upstreams: impl Iterator<Item = &'u Upstream>) -> Self {
        // Three quarters: an upstream gets most permits while the others are idle.
        let share = (count - count / 4).clamp(1, Semaphore::MAX_PERMITS);
        let tags = upstreams.filter_map(Upstream::tag);
        let mut shares: HashMap<_, _> =
            tags.map(|tag| (tag.to_owned(), Arc::new(Semaphore::new(share)))).collect();
        if shares.len() < 2 {
            shares.clear();
        }
        Self { all: Arc::new(Semaphore::new(count)), shares }
    }

    /// Takes a permit for an upstream if one is free.
    pub(crate) fn try_take(&self, upstream: &Upstream) -> Option<Share> {
        let share = match self.share(upstream) {
            Some(share) => Some(share.try_acquire_owned().ok()?),
            None => None,
        };
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Share { _permit: permit, _share: share })
    }

    /// Waits for a permit. Returns `None` if the semaphore was closed, which never happens.
    pub(crate) async fn take(&self, upstream: &Upstream) -> Option<Share> {
        let share = match self.share(upstream) {
            Some(share) => Some(share.acquire_owned().await.ok()?),
            None => None,
        };
        let permit = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Share { _permit: permit, _share: share })
    }

    fn share(&self, upstream: &Upstream) -> Option<Arc<Semaphore>> {
        self.shares.get(upstream.tag()?).map(Arc::clone)
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
        let alone = SharedPermits::new(4, [&one, &one].into_iter());
        let held: Vec<_> = (0..4).map(|_| alone.try_take(&one).unwrap()).collect();
        assert_eq!(held.len(), 4);
    }
}
