//! Pulling: asking a peer for the events after the pointer.
//!
//! Only a pull moves the pointer, in the transaction that puts the events into the queue. If the peer answers from another
//! index than the pointers know, the digests of both sides are compared instead, see [`compare`](super::compare).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::event::{End, Event, EventsRequest, Header, Line, MAX_LINES, parse_line};
use super::intake::Batch;
use super::lines::Lines;
use super::turn::wait_for_turn;
use super::{Link, Replication, SyncError};
use crate::logging::on_one_line;

/// Number of events in one transaction.
const AT_ONCE: usize = 1000;

/// The time that a request waits at the peer for news, in seconds.
const LONG_POLL: u64 = 50;

/// Maximum time for an answer, besides the time that it may wait for news.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));

/// The shortest time between two requests that bring little.
const SHORTEST: Duration = Duration::from_secs(1);

/// An answer brings little if it has fewer events, and moves the pointer by less. A peer that has more sends more at once.
const LITTLE: (usize, u64) = (100, 20_000);

/// The time between two comparisons of digests.
const COMPARE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The time between two looks at the conflicts, each of which reads the seal of a version.
const SETTLE_EVERY: Duration = Duration::from_secs(20);

/// Maximum number of rows in the queue of a peer. Above it, the peer is not asked for more.
const MAX_QUEUE: u64 = 200_000;

/// The number of indexes that a peer may answer from for the first time in one pull.
const MAX_NEW_INDEXES: usize = 8;

/// The result of one request.
#[derive(Debug, Default)]
pub(super) struct Pulled {
    /// The number of events that arrived.
    pub(super) events: usize,
    /// Whether the peer has more.
    pub(super) has_more: bool,
    /// Whether the answer brought little.
    is_little: bool,
    /// The index that has answered. Empty if none has.
    pub(super) index: String,
    /// Its last event at the time of the request.
    pub(super) current: u64,
    /// The pointer into it.
    pub(super) seq: u64,
}

impl Pulled {
    /// Returns the time until the next request, after a request that has taken a time.
    fn pause(&self, interval: Duration, elapsed: Duration) -> Duration {
        let interval = if self.has_more { Duration::ZERO } else { interval };
        if self.is_little { interval.max(SHORTEST.saturating_sub(elapsed)) } else { interval }
    }
}

impl Replication {
    /// Pulls from a peer for ever.
    pub(super) async fn keep_pulling(
        self: Arc<Self>,
        link: Arc<Link>,
        mut has_turn: Option<watch::Receiver<bool>>,
    ) -> Infallible {
        let mut failures = 0;
        let mut settled_at = None;
        loop {
            wait_for_turn(&mut has_turn).await;
            let began = Instant::now();
            let interval = link.peer.interval;
            let wait = if interval.is_zero() { LONG_POLL } else { 0 };
            let pause = match self.pull_and_compare(&link, wait, &mut settled_at).await {
                Ok(pulled) => {
                    if failures > 0 {
                        // The versions that failed meanwhile need not wait any longer.
                        if let Err(error) = self.revive(&link).await {
                            log::warn!(peer = link.peer.name, reason:% = error; "cannot note the state of a peer");
                        }
                        failures = 0;
                    }
                    pulled.pause(interval, began.elapsed())
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

    async fn pull_and_compare(
        &self,
        link: &Arc<Link>,
        wait: u64,
        settled_at: &mut Option<Instant>,
    ) -> Result<Pulled, SyncError> {
        if self.is_queue_full(link).await? {
            // A comparison begins with an end of the parked versions, which alone may fill the queue.
            if !self.is_comparison_due(link).await? || !self.compare(link).await? {
                log::warn!(peer = link.peer.name; "the queue of a peer is full, nothing is pulled until it is shorter");
            }
            return Ok(Pulled { is_little: true, ..Pulled::default() });
        }
        let pulled = self.pull(link, wait).await?;
        if !pulled.has_more && self.is_comparison_due(link).await? {
            self.compare(link).await?;
        }
        if settled_at.is_none_or(|at| at.elapsed() >= SETTLE_EVERY) {
            self.settle_conflicts(link).await?;
            *settled_at = Some(Instant::now());
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
            if !self.begin(link, &header, before.is_empty()).await? {
                return Ok(Pulled { is_little: true, ..Pulled::default() });
            }
        }
        Err(SyncError::BadAnswer("it answers from a new index each time".to_owned()))
    }

    /// Begins to follow an index. Its log has all versions from its beginning, so a deployment that has never followed
    /// another index of this peer reads it. Another one compares the digests, and follows the log from its end. Returns
    /// `false` if the queue got full before all was compared: the pointer stays, so that the next pull begins anew.
    async fn begin(&self, link: &Arc<Link>, header: &Header, is_first: bool) -> Result<bool, SyncError> {
        let seq = if is_first { 0 } else { header.current };
        if !is_first {
            log::info!(peer = link.peer.name, index = header.index; "a peer answers from another index, comparing all modules");
            if !self.compare(link).await? {
                return Ok(false);
            }
        }
        let pointer = Some((header.index.clone(), seq));
        self.take_in(link, Batch { events: Vec::new(), pointer }).await?;
        self.note_contact(link, header).await?;
        Ok(true)
    }

    async fn take_lines(
        &self,
        link: &Arc<Link>,
        lines: &mut Lines,
        header: &Header,
        before: &BTreeMap<String, u64>,
    ) -> Result<Pulled, SyncError> {
        let after = before.get(&header.index).copied().unwrap_or_default();
        let mut seq = after;
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
        let index = header.index.clone();
        if end_seq > after || !before.contains_key(&index) {
            self.take_in(link, Batch { events, pointer: Some((index.clone(), end_seq)) }).await?;
        }
        let is_little = count < LITTLE.0 && end_seq - after < LITTLE.1;
        // A peer that has more, and sends little, is not asked at once again.
        let has_more = more && !is_little;
        Ok(Pulled { events: count, has_more, is_little, index, current: header.current, seq: end_seq })
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
        // `stoa peers` prints the text, which may have parts of the answer.
        let (name, reason) = (link.peer.name.clone(), on_one_line(&error.to_string()));
        let noted =
            self.off_runtime(move |store| Ok(store.peers().note_contact(&name, Err(reason.as_str()))?)).await;
        if let Err(error) = noted {
            log::warn!(peer = link.peer.name, reason:% = error; "cannot note the state of a peer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_sends_little_is_not_asked_at_once_again() {
        let pause = |has_more, is_little, interval, elapsed| {
            let pulled = Pulled { events: 1, has_more, is_little, ..Pulled::default() };
            pulled.pause(Duration::from_secs(interval), Duration::from_millis(elapsed)).as_millis()
        };
        assert_eq!((pause(true, false, 60, 1), pause(false, false, 60, 1)), (0, 60_000));
        assert_eq!((pause(false, true, 60, 1), pause(false, true, 0, 1)), (60_000, 999));
        // A request that has waited for an event has waited long enough.
        assert_eq!((pause(false, true, 0, 50_000), pause(false, false, 0, 1)), (0, 0));
    }
}
