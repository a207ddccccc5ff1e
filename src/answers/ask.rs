//! Requests to the upstream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::{Age, Answer};
use super::question::{Asked, Question};
use super::state::Answers;
use crate::tasks::{How, Phase, Task, blocking, note};
use crate::unavailable::Unavailable;
use crate::upstream::{UpstreamError, Via};

/// Maximum time that a client waits for the upstream if there is an old answer.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);

/// Maximum time that a question waits for its turn to be asked.
pub(super) const MAX_TURN_WAIT: Duration = Duration::from_secs(30);

impl Answers {
    /// Returns the upstream's answer, cached or new, depending on the age of the cached answer.
    pub(super) async fn upstream_answer(
        self: &Arc<Self>,
        asked: &Asked,
        via: &Via,
    ) -> Result<Bytes, Unavailable> {
        let question = &asked.question;
        if let Some(error) = self.absence(question) {
            return Err(error);
        }
        let answer = self.recall(asked).await;
        let age = answer.as_ref().map(|answer| self.age(question, answer));
        let last = match (answer, age) {
            (Some(answer), Some(Age::Fresh)) => return Ok(answer.body),
            (Some(answer), Some(Age::Stale)) => {
                // A failure to start the refresh does not matter: there is an answer.
                if let Ok(task) = self.request(asked, via, Phase::Closing) {
                    task.keep();
                }
                note(How::Stale);
                return Ok(answer.body);
            }
            (answer, _) => answer.map(|answer| answer.body),
        };
        let Some(last) = last else { return self.ask(asked, via).await };
        let refresh = async {
            let task = self.request(asked, via, Phase::Ending)?;
            note(How::of_task(task.is_joined()));
            // It continues after the client has got the last answer.
            task.clone().keep();
            Self::answer_of(asked, task).await
        };
        match tokio::time::timeout(MAX_WAIT, refresh).await {
            Ok(Err(error)) if !matches!(error, Unavailable::Absent(_)) => {
                log::warn!(question:% = question, reason:% = error; "serving an expired answer");
                note(How::Stale);
                Ok(last)
            }
            Ok(answer) => answer,
            Err(_) => {
                let reason = format!("the upstream did not answer within {MAX_WAIT:?}");
                log::warn!(question:% = question, reason; "serving an expired answer");
                self.note_failure(question);
                note(How::Stale);
                Ok(last)
            }
        }
    }

    /// Joins the running request to the upstream, or starts one, and waits for the answer.
    async fn ask(self: &Arc<Self>, asked: &Asked, via: &Via) -> Result<Bytes, Unavailable> {
        let task = self.request(asked, via, Phase::Ending)?;
        let is_joined = task.is_joined();
        note(How::of_task(is_joined));
        match Self::answer_of(asked, task).await {
            // Only the request that started the task has passed a loop.
            Err(Unavailable::Loop(_)) if is_joined => {
                Self::answer_of(asked, self.request(asked, via, Phase::Ending)?).await
            }
            answer => answer,
        }
    }

    async fn answer_of(asked: &Asked, task: Task<Result<Bytes, Unavailable>>) -> Result<Bytes, Unavailable> {
        task.wait().await.unwrap_or_else(|| Err(Unavailable::Broken(asked.to_string())))
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
            return Ok(answer.body);
        }
        if let Some(error) = self.absence(&asked.question) {
            return Err(error);
        }
        let upstream = &asked.rule.upstream;
        let Ok(Some(_turn)) = tokio::time::timeout(MAX_TURN_WAIT, self.turns.take(upstream)).await else {
            return Err(Unavailable::Busy(asked.to_string()));
        };
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
            Ok(body) => self.keep(asked, Answer::new(body.clone())).await,
            Err(error @ Unavailable::Absent(_)) => self.withdraw(asked, error).await,
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
        if rule.is_private || self.is_private(module) {
            return false;
        }
        let named = module.clone();
        let what = format!("the versions of {module}");
        let is_known = blocking(&self.store, what, move |store| {
            Ok(store.list(&named)?.is_some()
                || !store.pairs().versions(&named)?.is_empty()
                || !store.records().tombstones(&named)?.is_empty())
        });
        if !matches!(is_known.await, Ok(false)) {
            return false;
        }
        for question in [question.clone(), Question::List(module.clone()), Question::Latest(module.clone())] {
            let asked = Asked { question, rule: Arc::clone(rule) };
            if self.recall(&asked).await.is_some() {
                return false;
            }
        }
        true
    }
}
