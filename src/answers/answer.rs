//! An upstream's answer and its age.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quick_cache::Weighter;

use super::question::Question;

/// Number of TTLs during which a stale answer is served while it is refreshed.
pub(super) const STALE_TTLS: u32 = 10;

/// Maximum time after a failure during which old answers are served without asking the upstream.
pub(super) const FAILURE_TTL: Duration = Duration::from_secs(10);

/// The last valid answer of an upstream.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) body: Bytes,
    pub(super) at: SystemTime,
    /// The time of the last failed refresh.
    pub(super) failed: Option<SystemTime>,
}

/// The age of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It is served.
    Fresh,
    /// It is served and refreshed in the background.
    Stale,
    /// It is only served if the upstream fails.
    Old,
}

impl Answer {
    pub(super) fn new(body: Bytes) -> Self {
        Self { body, at: SystemTime::now(), failed: None }
    }

    pub(super) fn age(&self, now: SystemTime, ttl: Duration) -> Age {
        // The age of an answer from the future is unknown: the clock was set back since.
        let is_younger =
            |than: SystemTime, limit: Duration| now.duration_since(than).is_ok_and(|age| age < limit);
        if is_younger(self.at, ttl) || self.failed.is_some_and(|at| is_younger(at, ttl.min(FAILURE_TTL))) {
            Age::Fresh
        } else if is_younger(self.at, ttl.saturating_mul(STALE_TTLS)) {
            Age::Stale
        } else {
            Age::Old
        }
    }
}

/// Weighs answers by their memory.
#[derive(Debug, Clone)]
pub(super) struct Weight;

impl Weighter<Question, Answer> for Weight {
    fn weight(&self, _: &Question, answer: &Answer) -> u64 {
        256 + answer.body.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn after(answer: &Answer, seconds: u64) -> Age {
        answer.age(answer.at + Duration::from_secs(seconds), TTL)
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_old() {
        let answer = Answer::new(Bytes::new());
        let ages = [0, 59, 60, 599, 600, 1 << 30].map(|seconds| after(&answer, seconds));
        assert_eq!(ages, [Age::Fresh, Age::Fresh, Age::Stale, Age::Stale, Age::Old, Age::Old]);
        assert_eq!(answer.age(answer.at - Duration::from_secs(1), TTL), Age::Old, "the clock was set back");
        assert_eq!(answer.age(answer.at, Duration::ZERO), Age::Old, "nothing is fresh with a TTL of zero");
        assert_eq!(answer.age(answer.at, Duration::MAX), Age::Fresh);
    }

    #[test]
    fn a_failed_refresh_keeps_an_old_answer_fresh_for_a_while() {
        let mut answer = Answer::new(Bytes::new());
        answer.failed = Some(answer.at + Duration::from_secs(1000));
        assert_eq!([1000, 1009, 1010].map(|s| after(&answer, s)), [Age::Fresh, Age::Fresh, Age::Old]);
        assert_eq!(answer.age(answer.at + Duration::from_secs(1000), Duration::ZERO), Age::Old);
    }
}
