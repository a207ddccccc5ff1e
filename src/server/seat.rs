//! The place of a connection in the table, and what the connection does with it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::limits::Limits;
use crate::lock::lock;

/// The connections, requests and zips of the clients that share limits.
#[derive(Debug)]
pub(super) struct Client {
    /// The connections that are not being closed.
    pub(super) connections: AtomicUsize,
    pub(super) requests: Arc<Semaphore>,
    pub(super) zips: Arc<Semaphore>,
}

impl Client {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            requests: semaphore(limits.requests_per_address),
            zips: semaphore(limits.open_zips_per_address()),
        }
    }
}

pub(super) fn semaphore(places: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)))
}

/// Whether a connection is to end, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// It stays open.
    No,
    /// It ends unless a request has just arrived.
    Idle,
    /// It ends at once.
    Now,
}

/// The place of a connection.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: u64,
    /// `None` for a unix socket, whose clients have no addresses.
    pub(super) client: Option<Arc<Client>>,
    pub(super) zips: Arc<Semaphore>,
    pub(super) closing: watch::Sender<Closing>,
    written: AtomicU64,
    activity: Mutex<Activity>,
}

#[derive(Debug)]
struct Activity {
    requests: usize,
    /// The requests of these that wait for this server.
    inside: usize,
    /// The last change of `requests`.
    since: Instant,
    had_request: bool,
    /// The bytes written at two times. The earlier one is at least [`PACE`] ago once the connection is that old.
    pace: [(Instant, u64); 2],
    /// The last time at which bytes were written, and their number.
    progress: (Instant, u64),
}

/// The time over which the rate of a connection is measured.
const PACE: Duration = Duration::from_secs(30);

/// The time after which a connection without a request is idle.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// The same, for a connection that never had a request.
const IDLE_AFTER_START: Duration = Duration::from_secs(5);

impl Seat {
    pub(super) fn new(number: u64, client: Option<Arc<Client>>, limits: &Limits) -> Self {
        let now = Instant::now();
        Self {
            number,
            client,
            zips: semaphore(limits.open_zips_per_connection),
            closing: watch::Sender::new(Closing::No),
            written: AtomicU64::new(0),
            activity: Mutex::new(Activity {
                requests: 0,
                inside: 0,
                since: now,
                had_request: false,
                pace: [(now, 0); 2],
                progress: (now, 0),
            }),
        }
    }

    /// Notes bytes that the connection has accepted.
    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes a request that has begun, and that waits for this server.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        let mut activity = lock(&self.activity);
        (activity.requests, activity.inside) = (activity.requests + 1, activity.inside + 1);
        (activity.since, activity.had_request) = (Instant::now(), true);
        UnderWay { seat: Arc::clone(self), is_inside: true }
    }

    /// Returns the number of requests under way.
    pub(super) fn requests(&self) -> usize {
        lock(&self.activity).requests
    }

    /// Returns the number of open connections of the same client.
    pub(super) fn of_client(&self) -> usize {
        self.client.as_ref().map_or(1, |client| client.connections.load(Ordering::Relaxed))
    }

    /// Returns the time since which the connection is idle, if it is.
    pub(super) fn idle_since(&self, now: Instant) -> Option<Instant> {
        let activity = lock(&self.activity);
        let after = if activity.had_request { IDLE_AFTER } else { IDLE_AFTER_START };
        let is_idle = activity.requests == 0 && now.saturating_duration_since(activity.since) >= after;
        is_idle.then_some(activity.since)
    }

    /// Returns the rate of the client in bytes per second, if answers wait for the client alone and for long enough.
    pub(super) fn rate(&self, now: Instant) -> Option<u64> {
        let activity = lock(&self.activity);
        if activity.requests == 0 || activity.inside > 0 {
            return None;
        }
        let (at, written) = activity.pace[0];
        let elapsed = now.saturating_duration_since(at);
        let bytes = self.written.load(Ordering::Relaxed).saturating_sub(written);
        (elapsed >= PACE)
            .then(|| bytes.saturating_mul(1000) / u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    /// Notes the bytes so far. Returns whether answers wait for the client alone, and it took no byte for `limit`.
    pub(super) fn tick(&self, now: Instant, limit: Duration) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        let mut activity = lock(&self.activity);
        if now.saturating_duration_since(activity.pace[1].0) >= PACE {
            activity.pace = [activity.pace[1], (now, written)];
        }
        let waits_for_client = activity.requests > 0 && activity.inside == 0;
        if !waits_for_client || activity.progress.1 != written {
            activity.progress = (now, written);
        }
        now.saturating_duration_since(activity.progress.0) >= limit
    }
}

/// A request under way. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    seat: Arc<Seat>,
    is_inside: bool,
}

impl UnderWay {
    /// Notes whether the request waits for this server, and not for the client.
    pub(super) fn set_inside(&mut self, is_inside: bool) {
        if self.is_inside == is_inside {
            return;
        }
        self.is_inside = is_inside;
        let mut activity = lock(&self.seat.activity);
        if is_inside {
            activity.inside += 1;
        } else {
            activity.inside -= 1;
            self.seat.restart_pace(&mut activity);
        }
    }
}

impl Seat {
    /// Measures the client from now on, when the last answer that waited for this server goes on.
    fn restart_pace(&self, activity: &mut Activity) {
        if activity.inside == 0 {
            activity.pace = [(Instant::now(), self.written.load(Ordering::Relaxed)); 2];
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut activity = lock(&self.seat.activity);
        activity.requests -= 1;
        activity.since = Instant::now();
        if self.is_inside {
            activity.inside -= 1;
            self.seat.restart_pace(&mut activity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat() -> Arc<Seat> {
        Arc::new(Seat::new(0, None, &Limits::of(10)))
    }

    #[test]
    fn a_connection_is_idle_without_requests() {
        let (seat, now) = (seat(), Instant::now());
        assert!(seat.idle_since(now + IDLE_AFTER).is_none());
        assert!(seat.idle_since(now + 2 * IDLE_AFTER_START).is_some());
        let request = seat.begin();
        assert!(seat.idle_since(now + PACE).is_none());
        drop(request);
        assert!(seat.idle_since(Instant::now()).is_none());
        assert!(seat.idle_since(Instant::now() + IDLE_AFTER).is_some());
    }

    #[test]
    fn the_rate_is_that_of_a_client_that_is_waited_for() {
        let seat = seat();
        let mut request = seat.begin();
        let late = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(seat.rate(late(60)), None);
        request.set_inside(false);
        assert_eq!(seat.rate(late(10)), None);
        seat.wrote(20 * 1024 * 40);
        assert!((19 * 1024..=20 * 1024).contains(&seat.rate(late(40)).unwrap()));
        // What was fast once does not count for ever.
        seat.tick(late(31), PACE);
        seat.tick(late(62), PACE);
        assert!(seat.rate(late(92)).unwrap() < 1024);
        request.set_inside(true);
        assert_eq!(seat.rate(late(200)), None);
        drop(request);
        assert_eq!(seat.rate(late(200)), None);
    }

    #[test]
    fn a_client_that_takes_nothing_is_stalled() {
        let (seat, limit) = (seat(), Duration::from_secs(120));
        let late = |seconds| Instant::now() + Duration::from_secs(seconds);
        let mut request = seat.begin();
        assert!(!seat.tick(late(0), limit) && !seat.tick(late(130), limit));
        request.set_inside(false);
        assert!(!seat.tick(late(200), limit));
        seat.wrote(1);
        assert!(!seat.tick(late(310), limit));
        assert!(seat.tick(late(431), limit));
    }
}
