//! Retries of requests, and the pauses between them.
//!
//! One [`Budget`] limits the attempts and the total time of one request. Only failures that may be
//! temporary are retried: an overloaded or broken upstream (429, 500, 502, 503) and a failed connection. A
//! timeout (504 too) has used up its time. A longer `Retry-After` than [`RetryOptions::longest_pause`] ends the
//! attempts. The last error is returned unchanged, so a retry never turns a
//! failure into absence.

use super::UpstreamError;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant, SystemTime};

/// Settings for retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryOptions {
    /// Maximum number of attempts, including the first.
    pub tries: u32,
    /// The pause before the second attempt. Each further pause is twice as long. Pauses vary randomly by up
    /// to a half, so that clients that failed together do not return together.
    pub pause: Duration,
    /// The longest accepted `Retry-After`. A longer one ends the attempts.
    pub longest_pause: Duration,
    /// Maximum time after the first attempt at which another attempt may start.
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

/// The remaining attempts of one request.
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

    /// Counts a failed attempt. Returns the pause before the next attempt, or `None` if it was the last.
    ///
    /// `requested` is the `Retry-After` of the upstream, if it sent one.
    pub(super) fn pause(&mut self, requested: Option<Duration>) -> Option<Duration> {
        let options = self.options;
        self.tried += 1;
        if self.tried >= options.tries || requested.is_some_and(|pause| pause > options.longest_pause) {
            return None;
        }
        let backoff = options.pause.saturating_mul(1 << (self.tried - 1).min(16)).min(options.longest_pause);
        let pause = jittered(backoff).max(requested.unwrap_or_default());
        (self.began.elapsed().saturating_add(pause) <= options.within).then_some(pause)
    }
}

/// Returns whether a request with an answer of this status is retried.
pub(super) fn is_retryable_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503)
}

/// Returns whether a body that failed with this error is retried.
pub(super) fn is_retryable(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Transport { .. })
}

/// Parses the `Retry-After` header.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u64>() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => {
            let time = httpdate::parse_http_date(value).ok()?;
            Some(time.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}

/// Returns a random duration between 50 % and 150 % of a pause.
fn jittered(pause: Duration) -> Duration {
    // The hasher has random keys, which is random enough.
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
    fn retry_after_is_respected_within_limits() {
        let mut budget = Budget::new(OPTIONS);
        assert!(budget.pause(Some(Duration::from_secs(3))).unwrap() >= Duration::from_secs(3));
        assert_eq!(budget.pause(Some(Duration::from_secs(4))), None);
        let mut late = Budget::new(RetryOptions { within: Duration::from_millis(400), ..OPTIONS });
        assert_eq!(late.pause(None), None, "there is no time left for another try");
    }

    #[test]
    fn retry_after_has_seconds_or_a_date() {
        let of = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(of(&soon).unwrap() > Duration::from_secs(90));
        assert_eq!(of("when it suits you"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn only_temporary_failures_are_retried() {
        for (status, again) in
            [(429, true), (500, true), (502, true), (503, true), (504, false), (501, false), (404, false)]
        {
            assert_eq!(is_retryable_status(StatusCode::from_u16(status).unwrap()), again, "{status}");
        }
        let url = || "http://a.example/x".to_owned();
        let broken = UpstreamError::Transport { url: url(), reason: "reset".to_owned() };
        let slow = UpstreamError::Timeout { url: url(), reason: "slow".to_owned() };
        assert!(is_retryable(&broken) && !is_retryable(&slow));
        assert!(!is_retryable(&UpstreamError::TooLarge { url: url(), limit: 1 }));
    }
}
