//! Upstreams that limit the number of requests: 429, and 503 with `Retry-After`.
//!
//! After a 429 an entry gets no requests until the time that it named, for at most [`MAX_SILENCE`]. Requests during
//! that time fail like the answered one. The first request afterwards is a probe, and the others wait for its result.
//! So an entry that still limits gets one request and not many.
//!
//! The files of one version are requested side by side. They share a [`Turn`], so only one of these requests is repeated
//! after a 429, and the others wait for its result. An entry that limited requests within [`CAUTION`] is asked for one
//! of these files after the other, so the next 429 costs one request per version.

use super::retry;
use crate::lock::lock;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};

/// Maximum time without a probe. The upstream may name a longer time by mistake.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// The time for a 429 that names none.
const DEFAULT_SILENCE: Duration = Duration::from_secs(1);

/// The time after a 429 in which the files of a version are not requested side by side.
const CAUTION: Duration = Duration::from_secs(10 * 60);

/// The longest time that is passed on to clients.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The limit that an answer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) status: u16,
    /// The time at which the upstream accepts requests again.
    until: Instant,
}

impl Limit {
    /// Returns the limit that an answer reports, if it does.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, now: Instant) -> Option<Self> {
        let retry_after = retry::retry_after(headers);
        let retry_after = match status {
            StatusCode::TOO_MANY_REQUESTS => retry_after.unwrap_or(DEFAULT_SILENCE),
            StatusCode::SERVICE_UNAVAILABLE => retry_after?,
            _ => return None,
        };
        Some(Self { status: status.as_u16(), until: now + retry_after.min(MAX_RETRY_AFTER) })
    }

    /// Returns whether other requests to the entry are limited, too. A 503 may concern one file.
    pub(super) fn is_of_all_requests(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS.as_u16()
    }

    /// Returns the time after which a request may be sent again.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }
}

/// The limit of one entry.
#[derive(Debug)]
pub(super) struct Limiter {
    state: watch::Sender<State>,
    /// The time of the last 429.
    limited: std::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Open,
    Closed {
        limit: Limit,
        /// The time of the next probe.
        probe: Instant,
    },
    Probing(Limit),
}

impl Limiter {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(State::Open), limited: std::sync::Mutex::default() }
    }

    /// Returns whether the entry gets no requests now.
    pub(super) fn is_limited(&self) -> bool {
        !matches!(*self.state.borrow(), State::Open)
    }

    /// Returns whether the files of a version are requested one after the other.
    pub(super) fn is_cautious(&self, now: Instant) -> bool {
        lock(&self.limited).is_some_and(|limited| now.saturating_duration_since(limited) < CAUTION)
    }

    /// Waits until the result of a probe is known, if one is under way. Returns the limit if no request may be sent
    /// now.
    pub(super) async fn enter(&self) -> Result<Pass<'_>, Limit> {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(result) = self.try_enter(Instant::now()) {
                return result;
            }
            // The sender lives as long as `self`.
            let _ = changes.wait_for(|state| !matches!(state, State::Probing(_))).await;
        }
    }

    /// Returns `None` while a probe is under way.
    fn try_enter(&self, now: Instant) -> Option<Result<Pass<'_>, Limit>> {
        let mut result = None;
        self.state.send_if_modified(|state| {
            let pass = |is_probe| Some(Ok(Pass { limiter: self, is_probe }));
            match *state {
                State::Open => result = pass(false),
                State::Closed { limit, probe } if now < probe => result = Some(Err(limit)),
                State::Closed { limit, .. } => {
                    *state = State::Probing(limit);
                    result = pass(true);
                }
                State::Probing(_) => {}
            }
            // No request waits for the start of a probe.
            false
        });
        result
    }
}

/// The turn to send or repeat a request to an entry that limits requests. The requests for one version share it.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Whether one of the requests has given up.
    pub(super) has_given_up: Mutex<bool>,
}

/// The result of one attempt with regard to a limit for all requests to the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limiting {
    /// There is no limit.
    Open,
    /// The limit is new.
    New,
    /// The limit was known, or became known during the attempt.
    Known,
    /// The attempt was a probe, and the entry still limits requests.
    Probed,
}

/// The permission to send one request.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    limiter: &'a Limiter,
    is_probe: bool,
}

impl Pass<'_> {
    /// Notes that the answer reports a limit.
    pub(super) fn limited(self, limit: Limit, now: Instant) -> Limiting {
        let probe = now + limit.retry_after(now).min(MAX_SILENCE);
        *lock(&self.limiter.limited) = Some(now);
        match self.limiter.state.send_replace(State::Closed { limit, probe }) {
            _ if self.is_probe => Limiting::Probed,
            State::Open => Limiting::New,
            State::Closed { .. } | State::Probing(_) => Limiting::Known,
        }
    }

    /// Notes another answer, or a failure.
    pub(super) fn answered(self) {
        if self.is_probe {
            self.limiter.state.send_replace(State::Open);
        }
    }
}

/// Lets another request probe if this one was dropped before its answer.
impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.limiter.state.send_if_modified(|state| match *state {
                State::Probing(limit) => {
                    *state = State::Closed { limit, probe: Instant::now() };
                    true
                }
                State::Open | State::Closed { .. } => false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderValue, RETRY_AFTER};

    fn limit(status: u16, retry_after: Option<&'static str>, now: Instant) -> Option<Duration> {
        let value = retry_after.map(|value| (RETRY_AFTER, HeaderValue::from_static(value)));
        let limit = Limit::of(StatusCode::from_u16(status).unwrap(), &HeaderMap::from_iter(value), now);
        limit.map(|limit| limit.retry_after(now))
    }

    #[test]
    fn answers_report_a_limit_by_status_and_header() {
        let now = Instant::now();
        assert_eq!(limit(429, Some("30"), now), Some(Duration::from_secs(30)));
        assert_eq!(limit(503, Some("30"), now), Some(Duration::from_secs(30)));
        assert_eq!(limit(429, None, now), Some(DEFAULT_SILENCE));
        assert_eq!(limit(429, Some("18446744073709551615"), now), Some(MAX_RETRY_AFTER));
        for status in [200, 404, 500, 502, 503] {
            assert_eq!(limit(status, Some("30").filter(|_| status != 503), now), None, "{status}");
        }
    }

    #[tokio::test]
    async fn one_request_probes_after_the_limit() {
        let (limiter, now) = (Limiter::new(), Instant::now());
        let limit = Limit { status: 429, until: now + Duration::from_secs(3600) };
        let enter = |seconds| limiter.try_enter(now + Duration::from_secs(seconds));
        assert_eq!(limiter.enter().await.unwrap().limited(limit, now), Limiting::New);
        assert_eq!(enter(59).unwrap().unwrap_err(), limit);
        let probe = enter(60).unwrap().unwrap();
        assert!(enter(60).is_none(), "the others wait for the probe");
        assert_eq!(probe.limited(limit, now + Duration::from_secs(60)), Limiting::Probed);
        assert_eq!(enter(119).unwrap().unwrap_err(), limit);
        drop(enter(120).unwrap().unwrap());
        let probe = enter(120).unwrap().expect("a dropped probe is no answer");
        let waiting = limiter.enter();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::ZERO, waiting.as_mut()).await.is_err());
        probe.answered();
        assert!(!waiting.await.unwrap().is_probe);
    }

    #[tokio::test]
    async fn an_answer_to_an_earlier_request_does_not_lift_the_limit() {
        let (limiter, now) = (Limiter::new(), Instant::now());
        let limit = Limit { status: 503, until: now + Duration::from_secs(30) };
        let (first, second) = (limiter.enter().await.unwrap(), limiter.enter().await.unwrap());
        first.limited(limit, now);
        second.answered();
        assert_eq!(limiter.enter().await.unwrap_err(), limit);
    }
}
