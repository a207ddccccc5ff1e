//! The cache of a checksum database's answers, below `cache/`.
//!
//! | answer | lifetime in the cache |
//! | --- | --- |
//! | tile | the widest version seen. A database only grows, so a narrower tile is a prefix of a wider one |
//! | record (`lookup`) | unlimited, within the size of the cache: signed records do not change |
//! | tile or record that no download has proved | 10 minutes ([`UNPROVED_TTL`]), since it may be damaged and clients have no other source. Longer if the upstream fails |
//! | latest tree head | as long as a list. Longer if the upstream fails |
//! | head, or record with a head, with a wrong signature, if the key is known | not cached |
//! | any status but 200 | not cached |
//!
//! Proved answers have cache keys of their own and take precedence.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use stoa_store::{Cached, Shelf};

use super::question::SumdbQuestion;
use super::state::Sumdb;
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

/// How long a record or tile that no download has proved counts as fresh.
pub(super) const UNPROVED_TTL: Duration = Duration::from_secs(10 * 60);

/// A cached answer.
#[derive(Debug, Clone)]
pub(super) struct CachedAnswer {
    pub(super) body: Bytes,
    pub(super) at: SystemTime,
    pub(super) is_proved: bool,
}

/// Returns whether `at` is less than `limit` ago. A time in the future is not: the clock was set back
/// since.
pub(super) fn is_younger(at: SystemTime, limit: Duration) -> bool {
    SystemTime::now().duration_since(at).is_ok_and(|age| age < limit)
}

impl Sumdb {
    pub(super) async fn has_records(&self, name: &str) -> Result<bool, Unavailable> {
        let database = name.to_owned();
        blocking(&self.store, name, move |store| Ok(store.cache().has_any(Shelf::Records(&database)))).await
    }

    /// Returns the cached answer, proved ones first.
    pub(super) async fn cached(&self, name: &str, question: &SumdbQuestion) -> Option<CachedAnswer> {
        let (name, question) = (name.to_owned(), question.clone());
        let cached = blocking(&self.store, "the cache of a checksum database", move |store| {
            let cached = |is_proved| {
                let (shelf, key) = question.cache_key(&name, is_proved);
                let Cached { at, body } = store.cache().get(shelf, &key)?;
                Some(CachedAnswer { body: question.answer(body)?, at, is_proved })
            };
            Ok(cached(true).or_else(|| cached(false)))
        });
        cached.await.ok().flatten()
    }

    /// Caches a proved answer of the right form. A narrower tile only replaces a wider one if `replaces` is
    /// set.
    pub(super) async fn cache_proved(
        &self,
        name: &str,
        question: &SumdbQuestion,
        body: &Bytes,
        replaces: bool,
    ) {
        self.cache(name, question, body, true, replaces).await;
    }

    pub(super) async fn cache(
        &self,
        name: &str,
        question: &SumdbQuestion,
        body: &Bytes,
        is_proved: bool,
        replaces: bool,
    ) {
        if !question.is_cacheable() || self.store.is_read_only() || question.fault(name, body).is_some() {
            return;
        }
        let (database, question, body) = (name.to_owned(), question.clone(), body.clone());
        let result = blocking(&self.store, "the cache of a checksum database", move |store| {
            let (shelf, key) = question.cache_key(&database, is_proved);
            let is_narrower = !replaces
                && matches!(question, SumdbQuestion::Tile(_))
                && store.cache().get(shelf, &key).is_some_and(|cached| {
                    cached.body.len() >= body.len() && (is_proved || is_younger(cached.at, UNPROVED_TTL))
                });
            match is_narrower {
                true => Ok(()),
                false => store.cache().put(shelf, &key, &Cached { at: SystemTime::now(), body }),
            }
        });
        if let Err(error) = result.await {
            log::warn!(database = name, reason:% = error; "cannot cache an answer of a checksum database");
        }
    }
}
