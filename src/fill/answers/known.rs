//! What an upstream answered, and what its age makes of it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quick_cache::Weighter;
use stoa_store::{Cached, Shelf};

use super::question::Question;
use super::{ABSENCE, Answers, COMMIT, RETRY, STALE};
use crate::fill::{Fill, FillError};

/// The last good answer of an upstream.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// The body, or the upstream's word that there is no such thing; never a failure.
    pub(super) said: Result<Bytes, FillError>,
    pub(super) at: SystemTime,
    /// When the upstream failed to answer anew.
    pub(super) failed: Option<SystemTime>,
}

/// What may be done with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It is given.
    Fresh,
    /// It is given, and asked for anew.
    Stale,
    /// It is given only if the upstream fails.
    Old,
}

impl Known {
    pub(super) fn new(said: Result<Bytes, FillError>) -> Self {
        Self { said, at: SystemTime::now(), failed: None }
    }

    pub(super) fn age(&self, now: SystemTime, ttl: Duration) -> Age {
        // An answer from the future came before somebody set the clock back: nobody knows how old it is.
        let is_younger =
            |than: SystemTime, limit: Duration| now.duration_since(than).is_ok_and(|age| age < limit);
        if self.said.is_err() {
            return if is_younger(self.at, ttl.min(ABSENCE)) { Age::Fresh } else { Age::Old };
        }
        if is_younger(self.at, ttl) || self.failed.is_some_and(|at| is_younger(at, ttl.min(RETRY))) {
            Age::Fresh
        } else if is_younger(self.at, ttl.saturating_mul(STALE)) {
            Age::Stale
        } else {
            Age::Old
        }
    }
}

impl Answers {
    /// Is how long an answer counts as new.
    pub(super) fn ttl_of(&self, question: &Question) -> Duration {
        match question.is_of_commit() {
            true => self.ttl.saturating_mul(COMMIT),
            false => self.ttl,
        }
    }

    pub(super) fn age(&self, question: &Question, known: &Known) -> Age {
        known.age(SystemTime::now(), self.ttl_of(question))
    }
}

impl Fill {
    /// Finds the last good answer, in memory or on disk.
    pub(super) async fn recall(&self, question: &Question) -> Option<Known> {
        match self.answers.known.get(question) {
            Some(known) => Some(known),
            None => self.recall_newest(question).await,
        }
    }

    /// Finds the last good answer that this process has heard, or that it or another one, this time or another, has
    /// kept on disk.
    pub(super) async fn recall_newest(&self, question: &Question) -> Option<Known> {
        let key = question.key(self.upstream_of(question.module()).tag());
        let cached = self.blocking(question, move |store| Ok(store.cache().get(Shelf::Answers, &key)));
        let cached = cached.await.ok().flatten();
        let heard = self.answers.known.get(question);
        match cached {
            // What could not be written or removed there leaves an older one.
            Some(Cached { at, body }) if heard.as_ref().is_none_or(|heard| heard.at < at) => {
                let known = Known { said: Ok(body), at, failed: None };
                self.answers.known.insert(question.clone(), known.clone());
                Some(known)
            }
            _ => heard,
        }
    }

    /// Keeps an answer, or the word that there is none, in memory and on disk.
    pub(super) async fn keep(&self, question: &Question, known: Known) {
        self.answers.known.insert(question.clone(), known.clone());
        let mut keys = vec![question.key(self.upstream_of(question.module()).tag())];
        // For who is offline: what it names is told only if it is stored.
        keys.extend(matches!(question, Question::Query(..)).then(|| question.key(None)));
        let kept = self.blocking(question, move |store| {
            keys.iter().try_for_each(|key| match &known.said {
                Ok(body) => {
                    store.cache().put(Shelf::Answers, key, &Cached { at: known.at, body: body.clone() })
                }
                Err(_) => store.cache().remove(Shelf::Answers, key),
            })
        });
        if let Err(error) = kept.await {
            log::warn!("{question} is answered, but not kept for an outage: {error}");
        }
    }

    /// Notes that the upstream failed to answer anew.
    pub(super) fn note_failure(&self, question: &Question) {
        if let Some(known) = self.answers.known.get(question) {
            let known = Known { failed: Some(SystemTime::now()), ..known };
            self.answers.known.insert(question.clone(), known);
        }
    }
}

/// Weighs answers by what they take of the memory.
#[derive(Debug, Clone)]
pub(super) struct Weight;

impl Weighter<Question, Known> for Weight {
    fn weight(&self, _: &Question, known: &Known) -> u64 {
        256 + known.said.as_ref().map_or(0, |body| body.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn after(known: &Known, seconds: u64) -> Age {
        known.age(known.at + Duration::from_secs(seconds), TTL)
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_old() {
        let known = Known::new(Ok(Bytes::new()));
        let ages = [0, 59, 60, 599, 600, 1 << 30].map(|seconds| after(&known, seconds));
        assert_eq!(ages, [Age::Fresh, Age::Fresh, Age::Stale, Age::Stale, Age::Old, Age::Old]);
        assert_eq!(known.age(known.at - Duration::from_secs(1), TTL), Age::Old, "the clock was set back");
        assert_eq!(known.age(known.at, Duration::ZERO), Age::Old, "nothing is kept as new");
        assert_eq!(known.age(known.at, Duration::MAX), Age::Fresh);
    }

    #[test]
    fn an_absence_counts_for_a_minute_and_is_never_stale() {
        let known = Known::new(Err(FillError::Absent("none".to_owned().into())));
        assert_eq!([0, 59, 60, 61].map(|s| after(&known, s)), [Age::Fresh, Age::Fresh, Age::Old, Age::Old]);
        let day = Duration::from_secs(86400);
        assert_eq!(known.age(known.at + Duration::from_secs(61), day), Age::Old);
        assert_eq!(known.age(known.at, Duration::ZERO), Age::Old);
    }

    #[test]
    fn after_a_failure_nobody_waits_for_a_while() {
        let mut known = Known::new(Ok(Bytes::new()));
        known.failed = Some(known.at + Duration::from_secs(1000));
        assert_eq!([1000, 1009, 1010].map(|s| after(&known, s)), [Age::Fresh, Age::Fresh, Age::Old]);
        assert_eq!(known.age(known.at + Duration::from_secs(1000), Duration::ZERO), Age::Old);
    }
}
