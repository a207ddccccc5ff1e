//! What upstreams have in common a limited number of: one that hangs leaves some to the others.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::upstream::Upstream;

/// Permits to do something, of which no upstream has them all where there are several.
#[derive(Debug)]
pub(super) struct Shared {
    all: Arc<Semaphore>,
    /// By the upstream's tag.
    shares: HashMap<String, Arc<Semaphore>>,
}

/// One of them; free again when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _one: OwnedSemaphorePermit,
    _of_share: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// Makes so many permits for these upstreams.
    pub(super) fn new<'u>(count: usize, upstreams: impl Iterator<Item = &'u Upstream>) -> Self {
        // Three quarters: one upstream has nearly all while the others want nothing.
        let share = (count - count / 4).clamp(1, Semaphore::MAX_PERMITS);
        let tags = upstreams.filter_map(Upstream::tag);
        let mut shares: HashMap<_, _> =
            tags.map(|tag| (tag.to_owned(), Arc::new(Semaphore::new(share)))).collect();
        if shares.len() < 2 {
            shares.clear();
        }
        Self { all: Arc::new(Semaphore::new(count)), shares }
    }

    /// Takes one for an upstream if one is free.
    pub(super) fn try_take(&self, upstream: &Upstream) -> Option<Permit> {
        let of_share = match self.share(upstream) {
            Some(share) => Some(share.try_acquire_owned().ok()?),
            None => None,
        };
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Permit { _one: one, _of_share: of_share })
    }

    /// Waits for one. `None` if they were taken away, which nobody does.
    pub(super) async fn take(&self, upstream: &Upstream) -> Option<Permit> {
        let of_share = match self.share(upstream) {
            Some(share) => Some(share.acquire_owned().await.ok()?),
            None => None,
        };
        let one = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Permit { _one: one, _of_share: of_share })
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
    async fn no_upstream_has_them_all() {
        let [one, other] = ["http://one.example", "http://other.example"].map(upstream);
        let shared = Shared::new(4, [&one, &other, &one].into_iter());
        let held: Vec<_> = (0..3).map(|_| shared.try_take(&one).unwrap()).collect();
        assert!(shared.try_take(&one).is_none());
        let last = shared.take(&other).await.unwrap();
        assert!(shared.try_take(&other).is_none());
        drop(held);
        assert!(shared.try_take(&one).is_some());
        drop(last);
        let alone = Shared::new(4, [&one, &one].into_iter());
        let held: Vec<_> = (0..4).map(|_| alone.try_take(&one).unwrap()).collect();
        assert_eq!(held.len(), 4);
    }
}
