//! Requests to the upstream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::{Age, Answer};
use super::question::{Asked, Question};
use super::state::Answers;
use crate::tasks::{Phase, Task, blocking};
use crate::unavailable::Unavailable;
use crate::upstream::{UpstreamError, Via};

/// Maximum time that a client waits for the upstream if there is an old answer.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);

impl Answers {
    /// Returns the upstream's answer, cached or new, depending on the age of the cached answer.
    pub(super) async fn upstream_answer(
        self: &Arc<Self>,
        asked: &Asked,
        via: &Via,
    ) -> Result<Bytes, Unavailable> {
        let question = &asked.question;
        let answer = self.recall(asked).await;
        let age = answer.as_ref().map(|answer| self.age(question, answer));
        let last = match (answer, age) {
            (Some(answer), Some(Age::Fresh)) => return answer.result,
            (Some(answer), Some(Age::Stale)) => {
                // A failure to start the refresh does not matter: there is an answer.
                let _ = self.request(asked, via, Phase::Closing);
                return answer.result;
            }
            (answer, _) => answer.and_then(|answer| answer.result.ok()),
        };
        let Some(last) = last else { return self.ask(asked, via).await };
        match tokio::time::timeout(MAX_WAIT, self.ask(asked, via)).await {
            Ok(Err(error)) if !matches!(error, Unavailable::Absent(_)) => {
                log::warn!(question:% = question, reason:% = error; "serving an expired answer");
                Ok(last)
            }
            Ok(answer) => answer,
            Err(_) => {
                let reason = format!("the upstream did not answer within {MAX_WAIT:?}");
                log::warn!(question:% = question, reason; "serving an expired answer");
                self.note_failure(question);
                Ok(last)
            }
        }
    }

    /// Joins the running request to the upstream, or starts one, and waits for the answer.
    async fn ask(self: &Arc<Self>, asked: &Asked, via: &Via) -> Result<Bytes, Unavailable> {
        let answer = self.request(asked, via, Phase::Ending)?.wait().await;
        answer.unwrap_or_else(|| Err(Unavailable::Broken(asked.to_string())))
    }

    /// Joins the running request to the upstream, or starts one, which is dropped in the phase `until`.
    fn request(
        self: &Arc<Self>,
        asked: &Asked,
        via: &Via,
        until: Phase,
    ) -> Result<Task<Result<Bytes, Unavailable>>, Unavailable> {
        let Some(mut phase) = self.shutdown.enter(until) else {
            return Err(Unavailable::Stopping(asked.to_string()));
        };
        let work = || {
            let (answers, asked, via) = (Arc::clone(self), asked.clone(), via.clone());
            async move {
                tokio::select! {
                    answer = answers.ask_and_cache(&asked, &via) => answer,
                    _ = phase.wait_for(|phase| *phase >= until) => {
                        Err(Unavailable::Stopping(asked.to_string()))
                    }
                }
            }
        };
        self.requests.join(&asked.question, work).ok_or_else(|| Unavailable::Busy(asked.to_string()))
    }

    async fn ask_and_cache(&self, asked: &Asked, via: &Via) -> Result<Bytes, Unavailable> {
        // Another process or an earlier request may have a fresh answer by now.
        if let Some(answer) = self.recall_newest(asked).await
            && self.age(&asked.question, &answer) == Age::Fresh
        {
            return answer.result;
        }
        let upstream = &asked.rule.upstream;
        let result = match &asked.question {
            Question::List(module) => upstream.list(module, via).await,
            Question::Latest(module) => upstream.latest(module, via).await,
            Question::Query(module, revision) => upstream.query(module, revision, via).await,
        };
        let result = match result {
            Ok(body) => Ok(body),
            Err(error @ UpstreamError::Unreached { .. }) if self.is_unknown(asked).await => {
                Err(Unavailable::of_unknown_module(asked, &error))
            }
            Err(error) => Err(Unavailable::upstream(asked, &error)),
        };
        match &result {
            Ok(_) | Err(Unavailable::Absent(_)) => self.keep(asked, Answer::new(result.clone())).await,
            Err(_) => self.note_failure(&asked.question),
        }
        result
    }

    /// Returns whether nothing is known of a public module: it is not stored, and no upstream ever answered for it.
    ///
    /// One wrong 404 makes the go command choose a shorter module path, so a module that exists must not be absent
    /// during an outage.
    async fn is_unknown(&self, asked: &Asked) -> bool {
        let Asked { question, rule } = asked;
        let module = question.module();
        if rule.is_private || self.private.matches(module.as_str()) {
            return false;
        }
        let named = module.clone();
        let what = format!("the versions of {module}");
        let is_known = blocking(&self.store, what, move |store| {
            Ok(store.list(&named)?.is_some() || !store.records().tombstones(&named)?.is_empty())
        });
        if !matches!(is_known.await, Ok(false)) {
            return false;
        }
        for question in [question.clone(), Question::List(module.clone()), Question::Latest(module.clone())] {
            let asked = Asked { question, rule: Arc::clone(rule) };
            if self.recall(&asked).await.is_some_and(|answer| answer.result.is_ok()) {
                return false;
            }
        }
        true
    }
}
