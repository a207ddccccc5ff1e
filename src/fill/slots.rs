//! The limit on concurrent zip downloads.
//!
//! Some downloads have no waiting client: those of the modes `async` and `async_redirect`, of `fill.eager`, and from
//! version control for an info or a mod. Such background downloads get at most half of the slots. A download that a
//! client starts to wait for moves ahead of them. The number of waiting downloads is limited too. If there are several
//! upstreams, none of them gets all slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, watch};

use crate::tasks::{Permit, Queue, Share, SharedPermits, Waiting};
use crate::upstream::Upstream;

/// Maximum number of flights that wait for a slot.
const MAX_WAITING: usize = 4096;

#[derive(Debug)]
pub(super) struct Slots {
    all: SharedPermits,
    background: Arc<Queue>,
    waiting: AtomicUsize,
}

/// The right to download one zip, released when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slot: Share,
    background: Option<Permit>,
}

impl Slot {
    /// Promises to release the slot soon, if another download waits for it. Returns whether one does.
    pub(super) fn promise(&self) -> bool {
        self.slot.promise() || self.background.as_ref().is_some_and(Permit::promise)
    }
}

impl Slots {
    /// Creates `count` slots for these upstreams.
    pub(super) fn new<'u>(count: usize, upstreams: impl Iterator<Item = &'u Upstream>) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: SharedPermits::new(count, upstreams),
            background: Queue::new(count.div_ceil(2)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Returns the number of slots in use, and the number of slots.
    pub(super) fn in_use(&self) -> (usize, usize) {
        self.all.in_use()
    }

    /// Gives shares to these upstreams from now on.
    pub(super) fn follow<'u>(&self, upstreams: impl Iterator<Item = &'u Upstream>) {
        self.all.follow(upstreams);
    }

    /// Takes a slot if one is free.
    pub(super) fn try_take(&self, wanted: &watch::Receiver<bool>, upstream: &Upstream) -> Option<Slot> {
        let background = match *wanted.borrow() {
            true => None,
            false => Some(self.background.try_take()?),
        };
        let slot = self.all.try_take(upstream)?;
        Some(Slot { slot, background })
    }

    /// Waits for a slot. Returns `None` if too many flights wait already and no client waits for this zip.
    pub(super) async fn take(&self, wanted: &mut watch::Receiver<bool>, upstream: &Upstream) -> Option<Slot> {
        let _waiting = Waiting::begin(&self.waiting);
        if self.waiting.load(Ordering::Relaxed) > MAX_WAITING && !*wanted.borrow() {
            return None;
        }
        // The semaphores and the channel are never closed, so their errors do not occur.
        let background = tokio::select! {
            biased;
            _ = wanted.wait_for(|wanted| *wanted) => None,
            permit = self.background.take() => Some(permit?),
        };
        let slot = self.all.take(upstream).await?;
        Some(Slot { slot, background })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn background_downloads_get_half_of_the_slots() {
        let slots = Slots::new(2, std::iter::empty());
        let (_keep, idle) = watch::channel(false);
        let (_keep, asked) = watch::channel(true);
        let background = slots.try_take(&idle, &Upstream::offline()).unwrap();
        assert!(slots.try_take(&idle, &Upstream::offline()).is_none());
        let _foreground = slots.try_take(&asked, &Upstream::offline()).unwrap();
        assert!(slots.try_take(&asked, &Upstream::offline()).is_none());
        drop(background);
        assert!(slots.take(&mut idle.clone(), &Upstream::offline()).await.is_some());
    }

    #[tokio::test]
    async fn a_download_with_a_waiting_client_passes_background_downloads() {
        let slots = Slots::new(2, std::iter::empty());
        let (_keep, idle) = watch::channel(false);
        let _background = slots.try_take(&idle, &Upstream::offline()).unwrap();
        let (want, mut wanted) = watch::channel(false);
        let offline = Upstream::offline();
        let take = slots.take(&mut wanted, &offline);
        tokio::pin!(take);
        assert!(futures_poll(take.as_mut()).await.is_none());
        want.send_replace(true);
        assert!(take.await.is_some());
    }

    async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
