//! The cached answers of upstreams, in memory and on disk.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use stoa_store::{Cached, Shelf, Store, StoreError};

use super::answer::{Age, Answer};
use super::question::{Asked, Question};
use super::state::{Answers, MAX_CACHED_BYTES};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

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
        // The semaphore is never closed. A read ends soon, and its answer then counts in the memory.
        let _turn = self.reading.acquire().await;
        let cached =
            blocking(&self.store, question, move |store| Ok(store.cache().get(Shelf::Answers, &key)));
        let cached = cached.await.ok().flatten();
        let own = self.cache.get(question);
        match cached {
            // The disk has an older answer if a write or removal failed.
            Some(Cached { at, body }) if own.as_ref().is_none_or(|own| own.at < at) => {
                let answer = Answer { body, at, failed: None };
                self.cache.insert(question.clone(), answer.clone());
                Some(answer)
            }
            _ => own,
        }
    }

    /// Caches an answer in memory and on disk.
    pub(super) async fn keep(&self, asked: &Asked, answer: Answer) {
        if answer.body.len() > MAX_CACHED_BYTES {
            return;
        }
        // A copy, since the body holds its part of the budget for large bodies.
        let body = Bytes::copy_from_slice(&answer.body);
        let cached = Cached { at: answer.at, body: body.clone() };
        self.cache.insert(asked.question.clone(), Answer { body, ..answer });
        self.change_cache(asked, move |store, key| store.cache().put(Shelf::Answers, key, &cached)).await;
    }

    /// Removes an answer that a 404 or 410 withdraws, and remembers the absence for a while.
    pub(super) async fn withdraw(&self, asked: &Asked, error: &Unavailable) {
        let question = &asked.question;
        self.absences.note(&self.store, question.module(), question.key(None), error);
        self.cache.remove(question);
        self.change_cache(asked, |store, key| store.cache().remove(Shelf::Answers, key)).await;
    }

    /// Returns the upstream's 404 or 410 to a question that was asked a moment ago.
    pub(super) fn absence(&self, question: &Question) -> Option<Unavailable> {
        match self.ttl.is_zero() {
            true => None,
            false => self.absences.get(&self.store, question.module(), question.key(None)),
        }
    }

    async fn change_cache(
        &self,
        Asked { question, rule }: &Asked,
        change: impl Fn(&Store, &str) -> Result<(), StoreError> + Send + 'static,
    ) {
        let mut keys = vec![question.key(rule.upstream.tag())];
        // The key without tag is for offline use, where an answer is only served if its version is stored.
        keys.extend(matches!(question, Question::Query(..)).then(|| question.key(None)));
        let changed =
            blocking(&self.store, question, move |store| keys.iter().try_for_each(|key| change(store, key)));
        if let Err(error) = changed.await {
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
