//! Turns for the transfers of zips from the bucket to clients.
//!
//! A client that stops reading would keep its turn for as long as its connection lives, and HTTP/2 sets no limit for that.
//! So a transfer that waits for its client for too long ends as soon as another client needs its turn.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stoa_bucket::{BucketError, Trouble};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::read::ZipStream;
use crate::lock::lock;
use crate::tasks::Waiting;

/// Maximum number of zips that are sent at the same time. Each is a connection to the bucket with buffers of up to 1 MiB.
const MAX_SENT: usize = 512;

/// The limits of the turns.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Maximum number of transfers.
    transfers: usize,
    /// Maximum time that a client waits for a turn.
    wait: Duration,
    /// The time after which a transfer ends whose client reads nothing, if others wait.
    stalled: Duration,
    /// The pause between two looks for such transfers.
    look_every: Duration,
}

/// The turns of a server.
#[derive(Debug)]
pub(super) struct Turns {
    limits: Limits,
    free: Arc<Semaphore>,
    transfers: Arc<Transfers>,
    waiting: AtomicUsize,
    looked: Mutex<Option<Instant>>,
}

type Transfers = Mutex<HashMap<u64, Arc<Transfer>>>;

/// A transfer that has a turn.
#[derive(Debug)]
struct Transfer {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` after the end of the transfer.
    source: Option<Source>,
    /// The time at which the client got the last bytes. `None` while it waits for bytes of the bucket.
    idle_since: Option<Instant>,
}

/// The bytes from the bucket, and the turn. Both end together.
struct Source {
    bytes: ZipStream,
    _turn: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

/// A turn that no transfer uses yet.
#[derive(Debug)]
pub(super) struct Turn {
    permit: OwnedSemaphorePermit,
    transfers: Arc<Transfers>,
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(Limits {
            transfers: MAX_SENT,
            wait: Duration::from_secs(30),
            stalled: Duration::from_secs(60),
            look_every: Duration::from_secs(1),
        })
    }
}

impl Turns {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            free: Arc::new(Semaphore::new(limits.transfers)),
            transfers: Arc::default(),
            waiting: AtomicUsize::new(0),
            looked: Mutex::default(),
        }
    }

    /// Waits for a turn. `None` if there is none in time.
    pub(super) async fn take(&self) -> Option<Turn> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => tokio::time::timeout(self.limits.wait, self.wait()).await.ok()??,
        };
        Some(Turn { permit, transfers: Arc::clone(&self.transfers) })
    }

    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = Waiting::begin(&self.waiting);
        let mut permit = std::pin::pin!(Arc::clone(&self.free).acquire_owned());
        loop {
            self.end_stalled();
            if let Ok(permit) = tokio::time::timeout(self.limits.look_every, &mut permit).await {
                return permit.ok();
            }
        }
    }

    /// Ends the transfers that have waited for their clients for the longest time: at most one for each waiting client.
    fn end_stalled(&self) {
        let mut looked = lock(&self.looked);
        if looked.is_some_and(|looked| looked.elapsed() < self.limits.look_every) {
            return;
        }
        *looked = Some(Instant::now());
        let transfers: Vec<Arc<Transfer>> = lock(&self.transfers).values().cloned().collect();
        let stalled = |transfer: Arc<Transfer>| {
            let idle = lock(&transfer.state).idle_since.map(|since| since.elapsed());
            idle.filter(|idle| *idle >= self.limits.stalled).map(|idle| (idle, transfer))
        };
        let mut stalled: Vec<_> = transfers.into_iter().filter_map(stalled).collect();
        stalled.sort_by_key(|(idle, _)| std::cmp::Reverse(*idle));
        for (_, transfer) in stalled.into_iter().take(self.waiting.load(Ordering::Relaxed)) {
            let mut state = lock(&transfer.state);
            // The client may have read meanwhile.
            if state.idle_since.is_some_and(|since| since.elapsed() >= self.limits.stalled) {
                state.end();
            }
        }
    }
}

impl Turn {
    /// Returns the bytes as a transfer that has this turn until it ends.
    pub(super) fn hold(self, bytes: ZipStream, url: String) -> ZipStream {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let source = Some(Source { bytes, _turn: self.permit });
        let state = Mutex::new(State { source, idle_since: Some(Instant::now()) });
        let transfer = Arc::new(Transfer { state });
        lock(&self.transfers).insert(id, Arc::clone(&transfer));
        Reading { id, transfer, transfers: self.transfers, url }.boxed()
    }
}

impl State {
    fn end(&mut self) {
        self.source = None;
        self.idle_since = None;
    }
}

/// The bytes of a transfer, for its client.
struct Reading {
    id: u64,
    transfer: Arc<Transfer>,
    transfers: Arc<Transfers>,
    url: String,
}

impl Stream for Reading {
    type Item = Result<Bytes, BucketError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.transfer.state);
        let Some(source) = &mut state.source else {
            let reason = "the client read nothing for too long while other clients waited";
            return Poll::Ready(Some(Err(BucketError::new(Trouble::Unreachable, "send", &self.url, reason))));
        };
        let part = source.bytes.poll_next_unpin(context);
        state.idle_since = part.is_ready().then(Instant::now);
        part
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        lock(&self.transfers).remove(&self.id);
        lock(&self.transfer.state).end();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn turns(stalled: Duration) -> Turns {
        let (wait, look_every) = (Duration::from_millis(200), Duration::from_millis(1));
        Turns::new(Limits { transfers: 1, wait, stalled, look_every })
    }

    fn parts() -> ZipStream {
        stream::iter([Ok(Bytes::from_static(b"a")), Ok(Bytes::from_static(b"b"))]).boxed()
    }

    async fn begin(turns: &Turns, bytes: ZipStream) -> ZipStream {
        turns.take().await.unwrap().hold(bytes, "s3://b/key".to_owned())
    }

    #[tokio::test]
    async fn a_transfer_whose_client_reads_nothing_ends_when_another_client_waits() {
        let turns = turns(Duration::ZERO);
        let mut first = begin(&turns, parts()).await;
        assert_eq!(first.next().await.unwrap().unwrap(), "a");
        let mut second = begin(&turns, parts()).await;
        assert!(first.next().await.unwrap().is_err());
        assert_eq!(second.next().await.unwrap().unwrap(), "a");
        assert_eq!(second.next().await.unwrap().unwrap(), "b");
        assert!(second.next().await.is_none());
        // The end of the first one does not end the second one.
        drop(first);
        assert_eq!(turns.free.available_permits(), 0);
        drop(second);
        assert_eq!(turns.free.available_permits(), 1);
        assert!(lock(&turns.transfers).is_empty());
    }

    #[tokio::test]
    async fn a_transfer_continues_whose_client_read_a_moment_ago() {
        let turns = turns(Duration::from_secs(600));
        let mut first = begin(&turns, parts()).await;
        assert!(turns.take().await.is_none());
        assert_eq!(first.next().await.unwrap().unwrap(), "a");
        drop(first);
        assert!(turns.take().await.is_some());
    }

    #[tokio::test]
    async fn a_transfer_continues_while_its_client_waits_for_the_bucket() {
        let turns = turns(Duration::ZERO);
        let mut first = begin(&turns, stream::pending().boxed()).await;
        assert!(futures_util::poll!(first.next()).is_pending());
        assert!(turns.take().await.is_none());
        assert!(futures_util::poll!(first.next()).is_pending());
    }
}
