//! The answers to requests of peers: events, notifications and digests.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use sha2::{Digest as _, Sha256};
use stoa_gomod::H1;
use stoa_store::{LogEvent, LogKind, Mark, Store};
use tokio::time::{Instant, timeout_at};

use super::event::{
    Accepted, Digest, DigestsRequest, End, Event, EventsRequest, Header, MAX_NOTIFIED, MAX_WAIT,
    Notification, push_line,
};
use super::intake::Batch;
use super::peer::Peer;
use super::{Link, Replication, SyncError};

/// Maximum number of events in an answer, which is in memory as a whole.
const EVENTS: usize = 2000;

/// Maximum number of events that are read for one answer. Those that are not offered are not sent.
const READ: usize = 20_000;

/// Number of digests after which an answer ends.
const DIGESTS: usize = 2000;

/// Number of names of modules that are read from the index at once.
const NAMES: usize = 2000;

/// The time between two looks at the log while a request waits, for changes of other processes.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The time between two looks at the bucket while a request waits, for publications of the other servers.
const READ_BUCKET_EVERY: Duration = Duration::from_secs(10);

/// An answer to a peer.
#[derive(Debug)]
pub(crate) struct PeerAnswer {
    pub(crate) status: StatusCode,
    pub(crate) is_json: bool,
    pub(crate) body: Vec<u8>,
}

impl PeerAnswer {
    fn text(status: StatusCode, text: &str) -> Self {
        Self { status, is_json: false, body: format!("{text}\n").into_bytes() }
    }

    fn json(status: StatusCode, body: Vec<u8>) -> Self {
        Self { status, is_json: true, body }
    }
}

impl Replication {
    /// Answers a request that a peer has signed. `path` begins with `/sync/v1/`.
    pub(crate) async fn answer(&self, peer: &Arc<Peer>, path: &str, body: &[u8]) -> PeerAnswer {
        let Some(link) = self.link(&peer.name) else {
            return PeerAnswer::text(StatusCode::NOT_FOUND, "not found: no such peer");
        };
        let answered = match path {
            "/sync/v1/events" => self.answer_events(link, body).await,
            "/sync/v1/notify" => self.answer_notification(link, body).await,
            "/sync/v1/digests" => self.answer_digests(link, body).await,
            _ => return PeerAnswer::text(StatusCode::NOT_FOUND, "not found: peers have no such path"),
        };
        answered.unwrap_or_else(|error| match error {
            SyncError::BadRequest(reason) => {
                PeerAnswer::text(StatusCode::BAD_REQUEST, &format!("bad request: {reason}"))
            }
            SyncError::Busy => PeerAnswer::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily unavailable: too many requests of this peer at the same time",
            ),
            error => {
                log::warn!(peer = peer.name, path, reason:% = error; "cannot answer a peer");
                PeerAnswer::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "temporarily unavailable: the index of the store cannot be read (see the server log)",
                )
            }
        })
    }

    async fn answer_events(&self, link: &Arc<Link>, body: &[u8]) -> Result<PeerAnswer, SyncError> {
        let request: EventsRequest = parse(body)?;
        let _turn = link.answering.try_acquire().map_err(|_| SyncError::Busy)?;
        let pointers = match (request.pointers, request.modules) {
            (Some(pointers), None) => pointers,
            (None, Some(modules)) if modules.len() <= MAX_NOTIFIED => {
                return self.answer_modules(link, modules).await;
            }
            _ => return Err(SyncError::BadRequest("one of pointers and modules is needed".to_owned())),
        };
        // Before the log is read, so that no change is missed.
        let mut news = self.news.subscribe();
        let until = Instant::now() + Duration::from_secs(request.wait.unwrap_or(0).min(MAX_WAIT));
        let mut bucket_read: Option<Instant> = None;
        loop {
            news.mark_unchanged();
            if bucket_read.is_none_or(|read| read.elapsed() >= READ_BUCKET_EVERY) {
                self.read_bucket().await;
                bucket_read = Some(Instant::now());
            }
            let (peer, known) = (Arc::clone(&link.peer), pointers.clone());
            let (page, is_empty) = self
                .off_runtime(move |store| {
                    let log = store.index().log()?;
                    // A log that ends before the pointer is an older one: the index was rolled back.
                    let after = known.get(&log.id).copied().filter(|after| *after <= log.last);
                    let header = Header { index: log.id, current: log.last, known: after.is_some() };
                    let mut page = Vec::new();
                    push_line(&mut page, &header);
                    let Some(after) = after else {
                        push_line(&mut page, &End { end: true, seq: 0, more: false });
                        return Ok((page, false));
                    };
                    let end = events_after(store, &peer, after, &mut page)?;
                    let is_empty = end.seq == after;
                    push_line(&mut page, &end);
                    Ok((page, is_empty))
                })
                .await?;
            if !is_empty || self.is_closing() || Instant::now() >= until {
                return Ok(PeerAnswer::json(StatusCode::OK, page));
            }
            let next_look = until.min(Instant::now() + LOOK_EVERY);
            // The next step is the same after the time and after a change.
            let _ = timeout_at(next_look, news.changed()).await;
        }
    }

    /// Answers with all events of some modules, of which a comparison of digests has shown that they differ.
    async fn answer_modules(&self, link: &Arc<Link>, modules: Vec<String>) -> Result<PeerAnswer, SyncError> {
        let peer = Arc::clone(&link.peer);
        let page = self.off_runtime(move |store| {
            let log = store.index().log()?;
            let mut page = Vec::new();
            push_line(&mut page, &Header { index: log.id, current: log.last, known: true });
            let mut sent = 0;
            let mut more = false;
            for (number, module) in modules.iter().filter(|module| peer.offer.matches(module)).enumerate() {
                // The asker asks again for the modules that are left. One module is never divided.
                if sent >= EVENTS {
                    more = true;
                    log::debug!(peer = peer.name, answered = number, asked = modules.len(); "answered a part of the modules");
                    break;
                }
                for event in store.index().events_of(module)? {
                    push_line(&mut page, &Event::from(event));
                    sent += 1;
                }
            }
            push_line(&mut page, &End { end: true, seq: 0, more });
            Ok(page)
        });
        Ok(PeerAnswer::json(StatusCode::OK, page.await?))
    }

    async fn answer_notification(&self, link: &Arc<Link>, body: &[u8]) -> Result<PeerAnswer, SyncError> {
        let notification: Notification = parse(body)?;
        if notification.events.len() > MAX_NOTIFIED {
            return Err(SyncError::BadRequest(format!("more than {MAX_NOTIFIED} events")));
        }
        let _turn = link.notifying.try_acquire().map_err(|_| SyncError::Busy)?;
        if self.services.store.is_read_only() || !link.peer.pull {
            return Ok(PeerAnswer::text(
                StatusCode::FORBIDDEN,
                "refused: this deployment takes nothing from this peer",
            ));
        }
        self.counts.add_notified(notification.events.len());
        if self.is_queue_full(link).await? {
            return Err(SyncError::Busy);
        }
        let queued = self.take_in(link, Batch { events: notification.events, pointer: None }).await?;
        let mut answer = Vec::new();
        push_line(&mut answer, &Accepted { queued });
        Ok(PeerAnswer::json(StatusCode::ACCEPTED, answer))
    }

    async fn answer_digests(&self, link: &Arc<Link>, body: &[u8]) -> Result<PeerAnswer, SyncError> {
        let request: DigestsRequest = parse(body)?;
        let _turn = link.answering.try_acquire().map_err(|_| SyncError::Busy)?;
        self.read_bucket().await;
        let peer = Arc::clone(&link.peer);
        let page = self.off_runtime(move |store| {
            let (mut page, mut sent, mut after) = (Vec::new(), 0, request.after);
            // The peer must not learn the name of a module that it may not have, not even as a place to go on.
            let more = loop {
                let modules = store.index().logged_modules(&after, NAMES)?;
                let Some(last) = modules.last().cloned() else { break false };
                for module in modules.into_iter().filter(|module| peer.offer.matches(module)) {
                    let digest = digest(&store.index().events_of(&module)?);
                    push_line(&mut page, &Digest { module, digest });
                    sent += 1;
                }
                if sent >= DIGESTS {
                    break true;
                }
                after = last;
            };
            push_line(&mut page, &End { end: true, seq: 0, more });
            Ok(page)
        });
        Ok(PeerAnswer::json(StatusCode::OK, page.await?))
    }
}

fn parse<T: for<'a> serde::Deserialize<'a>>(body: &[u8]) -> Result<T, SyncError> {
    serde_json::from_slice(body).map_err(|error| SyncError::BadRequest(error.to_string()))
}

/// Writes the events after a place in the log that are offered to a peer.
fn events_after(store: &Store, peer: &Peer, after: u64, page: &mut Vec<u8>) -> Result<End, SyncError> {
    let (mut seq, mut sent, mut read) = (after, 0, 0);
    while sent < EVENTS && read < READ {
        let events = store.index().events(seq, EVENTS)?;
        let is_last = events.len() < EVENTS;
        for event in events {
            if sent == EVENTS {
                return Ok(End { end: true, seq, more: true });
            }
            read += 1;
            seq = event.seq;
            if peer.offer.matches(&event.module) {
                push_line(page, &Event::from(event));
                sent += 1;
            }
        }
        if is_last {
            return Ok(End { end: true, seq, more: false });
        }
    }
    Ok(End { end: true, seq, more: true })
}

/// Returns the digest of the state of a module, which is the same for the same versions and marks.
pub(super) fn digest(events: &[LogEvent]) -> String {
    let mut lines: Vec<String> = events
        .iter()
        .map(|event| match &event.kind {
            LogKind::Published { h1, .. } => {
                format!("{} published {}\n", event.version, h1.as_ref().map_or("-", H1::as_ref))
            }
            LogKind::Marked(Mark { is_lifted, origin, counter, .. }) => {
                let kind = if *is_lifted { "lifted" } else { "tombstoned" };
                format!("{} {kind} {origin} {counter}\n", event.version)
            }
        })
        .collect();
    lines.sort_unstable();
    let hash = lines.iter().fold(Sha256::new(), |hash, line| hash.chain_update(line));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
