//! When an upstream is asked once more, and after which pause.
//!
//! One [`Budget`] holds for all of one request: its tries are counted and its time is bounded, whatever fails
//! in it. Only what may be better the next time is tried again: an upstream that is busy or out of order (429,
//! 500, 502, 503), and a connection that could not be made or broke. A timeout (504 too) has had its time. Whatever
//! the end is, it is told as what it was: trying again never makes an absence of a failure.

use super::UpstreamError;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant, SystemTime};

/// How an upstream is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryOptions {
    /// How often it is asked at most, the first time included.
    pub tries: u32,
    /// The pause before the second try; each further one is twice as long. It is stretched or shrunk by up to a
    /// half, so that those who failed together do not come back together.
    pub pause: Duration,
    /// How long an upstream may ask us to wait (`Retry-After`); one that wants more is not asked again.
    pub longest_pause: Duration,
    /// How long after the first try another one may begin.
    pub within: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            tries: 3,
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
            within: Duration::from_secs(30),
        }
    }
}

/// What is left of the tries of one request.
#[derive(Debug)]
pub(super) struct Budget {
    options: RetryOptions,
    began: Instant,
    tried: u32,
}

impl Budget {
    pub(super) fn new(options: RetryOptions) -> Self {
        Self { options, began: Instant::now(), tried: 0 }
    }

    /// Counts a try that failed. `None` if it was the last, else how long to wait before the next one.
    ///
    /// `wish` is how long the upstream asked us to wait, if it did.
    pub(super) fn pause(&mut self, wish: Option<Duration>) -> Option<Duration> {
        let options = self.options;
        self.tried += 1;
        if self.tried >= options.tries || wish.is_some_and(|wish| wish > options.longest_pause) {
            return None;
        }
        let backoff = options.pause.saturating_mul(1 << (self.tried - 1).min(16)).min(options.longest_pause);
        let pause = jittered(backoff).max(wish.unwrap_or_default());
        (self.began.elapsed().saturating_add(pause) <= options.within).then_some(pause)
    }
}

/// Says whether an answer of this status may be a better one the next time.
pub(super) fn may_become_better(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503)
}

/// Says whether a body that failed in this way may come whole the next time.
pub(super) fn may_come_whole(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Transport { .. })
}

/// Reads how long an upstream asks us to wait.
pub(super) fn wish(headers: &HeaderMap) -> Option<Duration> {
    let wish = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match wish.parse::<u64>() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => {
            let time = httpdate::parse_http_date(wish).ok()?;
            Some(time.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}

/// Between half of a pause and half as much again.
fn jittered(pause: Duration) -> Duration {
    // The hasher's keys are random, which is all that is needed to come apart.
    let random = RandomState::new().hash_one("pause") % 1000;
    let nanos = pause.as_nanos() * u128::from(500 + random) / 1000;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: RetryOptions = RetryOptions {
        tries: 4,
        pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(3),
        within: Duration::from_secs(60),
    };

    #[test]
    fn pauses_grow_and_end() {
        let mut budget = Budget::new(OPTIONS);
        for base in [1.0, 2.0, 3.0] {
            let pause = budget.pause(None).unwrap().as_secs_f64();
            assert!(pause >= base / 2.0 && pause <= base * 1.5, "{base}: {pause}");
        }
        assert_eq!(budget.pause(None), None);
    }

    #[test]
    fn a_wish_is_heeded_within_bounds() {
        let mut budget = Budget::new(OPTIONS);
        assert!(budget.pause(Some(Duration::from_secs(3))).unwrap() >= Duration::from_secs(3));
        assert_eq!(budget.pause(Some(Duration::from_secs(4))), None);
        let mut late = Budget::new(RetryOptions { within: Duration::from_millis(400), ..OPTIONS });
        assert_eq!(late.pause(None), None, "there is no time left for another try");
    }

    #[test]
    fn wishes_are_seconds_or_dates() {
        let of = |value: &str| wish(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(of(&soon).unwrap() > Duration::from_secs(90));
        assert_eq!(of("when it suits you"), None);
        assert_eq!(wish(&HeaderMap::new()), None);
    }

    #[test]
    fn only_what_may_become_better_is_tried_again() {
        for (status, again) in
            [(429, true), (500, true), (502, true), (503, true), (504, false), (501, false), (404, false)]
        {
            assert_eq!(may_become_better(StatusCode::from_u16(status).unwrap()), again, "{status}");
        }
        let url = || "http://a.example/x".to_owned();
        let broken = UpstreamError::Transport { url: url(), reason: "reset".to_owned() };
        let slow = UpstreamError::Timeout { url: url(), reason: "slow".to_owned() };
        assert!(may_come_whole(&broken) && !may_come_whole(&slow));
        assert!(!may_come_whole(&UpstreamError::TooLarge { url: url(), limit: 1 }));
    }
}
