//! Pulling: asking a peer for the events after the pointer.
//!
//! Only a pull moves the pointer, in the transaction that puts the events into the queue. If the peer answers from another
//! index than the pointers know, the digests of both sides are compared instead, see [`compare`](super::compare).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::event::{End, Event, EventsRequest, Header, Line, MAX_LINES, parse_line};
use super::intake::Batch;
use super::lines::Lines;
use super::turn::wait_for_turn;
use super::{Link, Replication, SyncError};

/// Number of events in one transaction.
const AT_ONCE: usize = 1000;

/// The time that a request waits at the peer for news, in seconds.
const LONG_POLL: u64 = 50;

/// Maximum time for an answer, besides the time that it may wait for news.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));

/// The shortest time between two requests that bring nothing.
const SHORTEST: Duration = Duration::from_secs(1);

/// The time between two comparisons of digests.
const COMPARE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of rows in the queue of a peer. Above it, the peer is not asked for more.
const MAX_QUEUE: u64 = 200_000;

/// The number of indexes that a peer may answer from for the first time in one pull.
const MAX_NEW_INDEXES: usize = 8;

/// The result of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pulled {
    /// The number of events that arrived.
    pub(super) events: usize,
    /// Whether the peer has more.
    pub(super) has_more: bool,
}

impl Replication {
    /// Pulls from a peer for ever.
    pub(super) async fn keep_pulling(
        self: Arc<Self>,
        link: Arc<Link>,
        mut has_turn: Option<watch::Receiver<bool>>,
    ) -> Infallible {
        let mut failures = 0;
        loop {
            wait_for_turn(&mut has_turn).await;
            let began = tokio::time::Instant::now();
            let interval = link.peer.interval;
            let wait = if interval.is_zero() { LONG_POLL } else { 0 };
            let pause = match self.pull_and_compare(&link, wait).await {
                Ok(pulled) => {
                    if failures > 0 {
                        // The versions that failed meanwhile need not wait any longer.
                        if let Err(error) = self.revive(&link).await {
                            log::warn!(peer = link.peer.name, reason:% = error; "cannot note the state of a peer");
                        }
                        failures = 0;
                    }
                    match (pulled.has_more, pulled.events) {
                        (true, _) => Duration::ZERO,
                        (false, 0) => interval.max(SHORTEST.saturating_sub(began.elapsed())),
                        (false, _) => interval,
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.note_failure(&link, &error).await;
                    PAUSES.0.saturating_mul(1 << failures.min(16)).min(PAUSES.1)
                }
            };
            tokio::time::sleep(super::replication::varied(pause)).await;
        }
    }

    async fn pull_and_compare(&self, link: &Arc<Link>, wait: u64) -> Result<Pulled, SyncError> {
        if self.is_queue_full(link).await? {
            log::debug!(peer = link.peer.name; "the queue is full, waiting before the next pull");
            return Ok(Pulled::default());
        }
        let pulled = self.pull(link, wait).await?;
        if !pulled.has_more && self.is_comparison_due(link).await? {
            self.compare(link).await?;
        }
        if !pulled.has_more {
            self.settle_conflicts(link).await?;
        }
        Ok(pulled)
    }

    /// Returns whether the queue of a peer takes nothing more. Parked versions count, because a peer may invent them.
    pub(super) async fn is_queue_full(&self, link: &Arc<Link>) -> Result<bool, SyncError> {
        let name = link.peer.name.clone();
        let state = self.off_runtime(move |store| Ok(store.peers().state(&name)?)).await?;
        Ok(state.queued + state.parked >= MAX_QUEUE)
    }

    pub(super) async fn revive(&self, link: &Arc<Link>) -> Result<(), SyncError> {
        let name = link.peer.name.clone();
        self.off_runtime(move |store| Ok(store.peers().revive(&name)?)).await?;
        self.wake.notify_one();
        Ok(())
    }

    async fn is_comparison_due(&self, link: &Arc<Link>) -> Result<bool, SyncError> {
        let name = link.peer.name.clone();
        let state = self.off_runtime(move |store| Ok(store.peers().state(&name)?)).await?;
        let now = super::replication::now_ms();
        let every = i64::try_from(COMPARE_EVERY.as_millis()).unwrap_or(i64::MAX);
        // A comparison in the future was noted by a clock that was wrong.
        let due = |at: i64| at > now || now >= at.saturating_add(every);
        Ok(state.compared_at.is_none_or(due))
    }

    /// Asks a peer once for events, and takes them in.
    pub(super) async fn pull(&self, link: &Arc<Link>, wait: u64) -> Result<Pulled, SyncError> {
        let within = PATIENCE + Duration::from_secs(wait);
        // Each server of a deployment has an index of its own.
        for _ in 0..MAX_NEW_INDEXES {
            let name = link.peer.name.clone();
            let before = self.off_runtime(move |store| Ok(store.peers().pointers(&name)?)).await?;
            let request = EventsRequest {
                pointers: Some(before.clone()),
                wait: (wait > 0).then_some(wait),
                ..EventsRequest::default()
            };
            let answer = link.post("/sync/v1/events", &request, within).await?;
            let mut lines = Lines::new(answer, within);
            let header: Header = lines.header().await?;
            if header.known {
                let pulled = self.take_lines(link, &mut lines, &header, &before).await?;
                self.note_contact(link, &header).await?;
                return Ok(pulled);
            }
            self.begin(link, &header, before.is_empty()).await?;
        }
        Err(SyncError::BadAnswer("it answers from a new index each time".to_owned()))
    }

    /// Begins to follow an index. Its log has all versions from its beginning, so a deployment that has never followed
    /// another index of this peer reads it. Another one compares the digests, and follows the log from its end.
    async fn begin(&self, link: &Arc<Link>, header: &Header, is_first: bool) -> Result<(), SyncError> {
        let seq = if is_first { 0 } else { header.current };
        if !is_first {
            log::info!(peer = link.peer.name, index = header.index; "a peer answers from another index, comparing all modules");
            self.compare(link).await?;
        }
        let pointer = Some((header.index.clone(), seq));
        self.take_in(link, Batch { events: Vec::new(), pointer }).await?;
        self.note_contact(link, header).await
    }

    async fn take_lines(
        &self,
        link: &Arc<Link>,
        lines: &mut Lines,
        header: &Header,
        before: &BTreeMap<String, u64>,
    ) -> Result<Pulled, SyncError> {
        let mut seq = before.get(&header.index).copied().unwrap_or_default();
        let mut events = Vec::new();
        let mut count = 0;
        let end = loop {
            let line = lines.next().await?.ok_or(SyncError::Incomplete)?;
            match parse_line::<Event>(&line).map_err(SyncError::line)? {
                Line::Item(event) if event.seq <= seq => {
                    let reason = format!("its event {} comes after its event {seq}", event.seq);
                    return Err(SyncError::BadAnswer(reason));
                }
                Line::Item(event) => {
                    seq = event.seq;
                    events.push(event);
                    count += 1;
                }
                Line::End(end) => break end,
            }
            if count > MAX_LINES {
                return Err(SyncError::BadAnswer(format!("it sent more than {MAX_LINES} events at once")));
            }
            if events.len() >= AT_ONCE {
                let pointer = Some((header.index.clone(), seq));
                self.take_in(link, Batch { events: std::mem::take(&mut events), pointer }).await?;
            }
        };
        let End { seq: end_seq, more, .. } = end;
        if end_seq < seq {
            return Err(SyncError::BadAnswer(format!("it ends at {end_seq}, before its event {seq}")));
        }
        let has_moved = before.get(&header.index) != Some(&end_seq);
        if has_moved || !events.is_empty() {
            self.take_in(link, Batch { events, pointer: Some((header.index.clone(), end_seq)) }).await?;
        }
        // A peer that has more, and sends nothing, is not asked at once again.
        Ok(Pulled { events: count, has_more: more && has_moved })
    }

    async fn note_contact(&self, link: &Arc<Link>, header: &Header) -> Result<(), SyncError> {
        let (name, header) = (link.peer.name.clone(), header.clone());
        self.off_runtime(move |store| {
            Ok(store.peers().note_contact(&name, Ok((&header.index, header.current)))?)
        })
        .await
    }

    async fn note_failure(&self, link: &Arc<Link>, error: &SyncError) {
        log::warn!(peer = link.peer.name, reason:% = error; "cannot pull from a peer, trying again later");
        let (name, reason) = (link.peer.name.clone(), error.to_string());
        let noted =
            self.off_runtime(move |store| Ok(store.peers().note_contact(&name, Err(reason.as_str()))?)).await;
        if let Err(error) = noted {
            log::warn!(peer = link.peer.name, reason:% = error; "cannot note the state of a peer");
        }
    }
}
