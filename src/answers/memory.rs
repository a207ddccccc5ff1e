//! The cached answers of upstreams, in memory and on disk.

use std::time::{Duration, SystemTime};

use stoa_store::{Cached, Shelf};

use super::answer::{Age, Answer};
use super::question::{Asked, Question};
use super::state::Answers;
use crate::tasks::blocking;

/// Number of TTLs for the version of a full commit hash: one day with the default TTL.
pub(super) const COMMIT_TTLS: u32 = 1440;

impl Answers {
    /// Returns how long an answer counts as fresh.
    pub(super) fn ttl_of(&self, question: &Question) -> Duration {
        match question.is_commit_hash() {
            true => self.ttl.saturating_mul(COMMIT_TTLS),
            false => self.ttl,
        }
    }

    pub(super) fn age(&self, question: &Question, answer: &Answer) -> Age {
        answer.age(SystemTime::now(), self.ttl_of(question))
    }

    /// Returns the last valid answer, in memory or on disk.
    pub(super) async fn recall(&self, asked: &Asked) -> Option<Answer> {
        match self.cache.get(&asked.question) {
            Some(answer) => Some(answer),
            None => self.recall_newest(asked).await,
        }
    }

    /// Returns the newest valid answer of this process or, on disk, of any process.
    pub(super) async fn recall_newest(&self, Asked { question, rule }: &Asked) -> Option<Answer> {
        let key = question.key(rule.upstream.tag());
        let cached =
            blocking(&self.store, question, move |store| Ok(store.cache().get(Shelf::Answers, &key)));
        let cached = cached.await.ok().flatten();
        let own = self.cache.get(question);
        match cached {
            // The disk has an older answer if a write or removal failed.
            Some(Cached { at, body }) if own.as_ref().is_none_or(|own| own.at < at) => {
                let answer = Answer { result: Ok(body), at, failed: None };
                self.cache.insert(question.clone(), answer.clone());
                Some(answer)
            }
            _ => own,
        }
    }

    /// Caches an answer in memory and on disk. A 404 or 410 removes the answer on disk.
    pub(super) async fn keep(&self, Asked { question, rule }: &Asked, answer: Answer) {
        self.cache.insert(question.clone(), answer.clone());
        let mut keys = vec![question.key(rule.upstream.tag())];
        // The key without tag is for offline use, where an answer is only served if its version is stored.
        keys.extend(matches!(question, Question::Query(..)).then(|| question.key(None)));
        let cached = blocking(&self.store, question, move |store| {
            keys.iter().try_for_each(|key| match &answer.result {
                Ok(body) => {
                    store.cache().put(Shelf::Answers, key, &Cached { at: answer.at, body: body.clone() })
                }
                Err(_) => store.cache().remove(Shelf::Answers, key),
            })
        });
        if let Err(error) = cached.await {
            log::warn!(question:% = question, reason:% = error; "cannot cache an answer");
        }
    }

    /// Notes a failed refresh.
    pub(super) fn note_failure(&self, question: &Question) {
        if let Some(answer) = self.cache.get(question) {
            let answer = Answer { failed: Some(SystemTime::now()), ..answer };
            self.cache.insert(question.clone(), answer);
        }
    }
}
