//! Answers of checksum databases for clients.
//!
//! A client with an empty cache can verify offline everything that was verified through this proxy before. Bodies
//! are passed on unchanged; clients check signatures and inclusion themselves. A tile or record must have the right
//! form: an HTML page with status 200 is a failure of the upstream and is not cached.
//!
//! `supported` is a promise, since a client that gets a yes asks no other server. Stoa says yes if an
//! upstream does. Offline, or if the upstream fails, Stoa says yes if it has cached records of the
//! database.
//!
//! Lookups of modules that match [`private`](super::SumdbOptions::private) or are private by
//! their rule ([`Policy::is_private`](crate::policy::Policy::is_private)) are refused, cached or not.

use std::sync::Arc;
use std::time::Duration;

use stoa_gomod::sumdb;

use bytes::Bytes;

use super::cache::{CachedAnswer, UNPROVED_TTL, is_younger};
use super::question::SumdbQuestion;
use super::source::SumdbSource;
use super::state::Sumdb;
use crate::tasks::{How, Phase, Task, note};
use crate::unavailable::Unavailable;
use crate::upstream::{SumdbAnswer, Via};

/// Maximum time that a request waits for its turn.
const MAX_TURN_WAIT: Duration = Duration::from_secs(30);

impl Sumdb {
    /// Returns the source of an answer: the database's own URL, or an upstream. A lookup goes to the
    /// upstream of its module, so that no other server learns the module's name.
    fn source_of(&self, name: &str, question: &SumdbQuestion) -> SumdbSource {
        let policy = self.policy.load();
        let upstream = match question {
            SumdbQuestion::Lookup(module) => &policy.rule(module.path()).upstream,
            SumdbQuestion::Latest | SumdbQuestion::Tile(_) => policy.upstream_of_none(),
        };
        self.source(name, upstream)
    }

    /// Returns whether this proxy serves a checksum database; `is_local` only looks at the cache.
    pub async fn is_supported(&self, name: &str, via: &Via, is_local: bool) -> Result<bool, Unavailable> {
        let source = self.source_of(name, &SumdbQuestion::Latest);
        if is_local || source.is_offline() {
            return self.has_records(name).await;
        }
        match source.supports(name, via).await {
            Ok(is_supported) => Ok(is_supported),
            Err(error) => {
                let error = Unavailable::upstream(format_args!("the checksum database {name}"), &error);
                if !self.has_records(name).await? {
                    return Err(error);
                }
                log::warn!(database = name, reason:% = error; "serving a checksum database from the cache");
                Ok(true)
            }
        }
    }

    /// Answers a request to a checksum database. With `is_local`, returns the cached answer or `None`.
    pub async fn answer(
        self: &Arc<Self>,
        name: &str,
        question: &SumdbQuestion,
        via: &Via,
        is_local: bool,
    ) -> Result<Option<SumdbAnswer>, Unavailable> {
        if let SumdbQuestion::Lookup(module) = question
            && self.is_private(module.path())
        {
            return Err(Unavailable::Private(module.to_string()));
        }
        let cached = self.cached(name, question).await;
        let is_fresh = |cached: &CachedAnswer| match question {
            SumdbQuestion::Latest => is_younger(cached.at, self.head_ttl),
            SumdbQuestion::Lookup(_) | SumdbQuestion::Tile(_) => {
                cached.is_proved || is_younger(cached.at, UNPROVED_TTL)
            }
        };
        let is_offline = self.source_of(name, question).is_offline();
        let cached = match cached {
            Some(cached) if is_local || is_offline || is_fresh(&cached) => {
                return Ok(Some(from_cache(cached.body)));
            }
            None if is_local => return Ok(None),
            cached => cached,
        };
        let what = || format!("{} of the checksum database {name}", question.path());
        if is_offline {
            return Err(Unavailable::Offline(what()));
        }
        let wait =
            async |task: Task<_>| task.wait().await.unwrap_or_else(|| Err(Unavailable::Broken(what())));
        let asked = self.request(name, question, via);
        if let Ok(task) = &asked {
            note(How::of_task(task.is_joined()));
        }
        let answer = match asked {
            Ok(task) if task.is_joined() => match wait(task).await {
                // Only the request that started the task has passed a loop.
                Err(Unavailable::Loop(_)) => match self.request(name, question, via) {
                    Ok(task) => wait(task).await,
                    Err(error) => Err(error),
                },
                answer => answer,
            },
            Ok(task) => wait(task).await,
            Err(error) => Err(error),
        };
        let path = question.path();
        match (answer, cached) {
            (Ok(answer), Some(cached)) if answer.status != 200 => {
                log::warn!(database = name, path, status = answer.status; "serving an expired answer of a checksum database");
                note(How::Stale);
                Ok(Some(from_cache(cached.body)))
            }
            (Err(error), Some(cached)) => {
                log::warn!(database = name, path, reason:% = error; "serving an expired answer of a checksum database");
                note(How::Stale);
                Ok(Some(from_cache(cached.body)))
            }
            (answer, _) => answer.map(Some),
        }
    }

    /// Joins the running request to the upstream, or starts one.
    fn request(
        self: &Arc<Self>,
        name: &str,
        question: &SumdbQuestion,
        via: &Via,
    ) -> Result<Task<Result<SumdbAnswer, Unavailable>>, Unavailable> {
        let Some(mut phase) = self.shutdown.enter(Phase::Ending) else {
            return Err(Unavailable::Stopping(question.path()));
        };
        let work = || {
            let (sumdb, name) = (Arc::clone(self), name.to_owned());
            let (question, via) = (question.clone(), via.clone());
            async move {
                tokio::select! {
                    answer = sumdb.ask(&name, &question, &via) => answer,
                    _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                        Err(Unavailable::Stopping(question.path()))
                    }
                }
            }
        };
        let key = (name.to_owned(), question.path());
        self.forwarding.join(&key, work).ok_or_else(|| Unavailable::Busy(question.path()))
    }

    async fn ask(
        self: &Arc<Self>,
        name: &str,
        question: &SumdbQuestion,
        via: &Via,
    ) -> Result<SumdbAnswer, Unavailable> {
        let path = question.path();
        let what = format!("{path} of the checksum database {name}");
        // The semaphore is never closed.
        let turn = tokio::time::timeout(MAX_TURN_WAIT, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Unavailable::Busy(what)) };
        let answer = self.source_of(name, question).get(name, &path, via).await;
        let answer = answer.map_err(|error| Unavailable::upstream(&what, &error))?;
        if answer.status != 200 {
            return Ok(answer);
        }
        if let Some(fault) = question.fault(name, &answer.body) {
            let reason = format!("the upstream sent an invalid answer for {what}: {fault}");
            return Err(Unavailable::Upstream(reason.into()));
        }
        match self.fault_of_note(name, question.note(&answer.body)) {
            // The client detects the fault, too.
            Some(fault) => {
                log::error!(database = name, path, reason = fault; "did not cache an answer of a checksum database");
            }
            None => {
                self.cache(name, question, &answer.body, false, false).await;
                if let SumdbQuestion::Lookup(version) = question
                    && let Some(text) = sumdb::parse_record(&answer.body).map(|record| record.text)
                {
                    self.check_contradiction(name, version, text, via).await;
                }
            }
        }
        Ok(answer)
    }
}

fn from_cache(body: Bytes) -> SumdbAnswer {
    SumdbAnswer { status: 200, content_type: None, body }
}
