//! Requests to the upstream.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, list, query};

use super::MAX_WAIT;
use super::answer::{Age, Answer};
use super::question::Question;
use crate::fill::once::Task;
use crate::fill::{Fill, FillError, Phase, Via};
use crate::upstream::UpstreamError;

impl Fill {
    /// Returns the upstream's answer, cached or new, depending on the age of the cached answer.
    pub(super) async fn upstream_answer(
        self: &Arc<Self>,
        question: &Question,
        via: &Via,
    ) -> Result<Bytes, FillError> {
        let answer = self.recall(question).await;
        let age = answer.as_ref().map(|answer| self.answers.age(question, answer));
        let last = match (answer, age) {
            (Some(answer), Some(Age::Fresh)) => return answer.result,
            (Some(answer), Some(Age::Stale)) => {
                // A failure to start the refresh does not matter: there is an answer.
                let _ = self.request(question, via, Phase::Closing);
                return answer.result;
            }
            (answer, _) => answer.and_then(|answer| answer.result.ok()),
        };
        let Some(last) = last else { return self.ask(question, via).await };
        match tokio::time::timeout(MAX_WAIT, self.ask(question, via)).await {
            Ok(Err(error)) if !matches!(error, FillError::Absent(_)) => {
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
    async fn ask(self: &Arc<Self>, question: &Question, via: &Via) -> Result<Bytes, FillError> {
        let answer = self.request(question, via, Phase::Ending)?.wait().await;
        answer.unwrap_or_else(|| Err(FillError::Broken(question.to_string())))
    }

    /// Joins the running request to the upstream, or starts one, which is dropped in the phase `until`.
    fn request(
        self: &Arc<Self>,
        question: &Question,
        via: &Via,
        until: Phase,
    ) -> Result<Task<Result<Bytes, FillError>>, FillError> {
        let mut phase = self.phase.subscribe();
        if *phase.borrow() >= until {
            return Err(FillError::Stopping(question.to_string()));
        }
        let work = || {
            let (fill, question, via) = (Arc::clone(self), question.clone(), via.clone());
            async move {
                tokio::select! {
                    answer = fill.ask_and_cache(&question, &via) => answer,
                    _ = phase.wait_for(|phase| *phase >= until) => {
                        Err(FillError::Stopping(question.to_string()))
                    }
                }
            }
        };
        self.answers.requests.join(question, work).ok_or_else(|| FillError::Busy(question.to_string()))
    }

    async fn ask_and_cache(&self, question: &Question, via: &Via) -> Result<Bytes, FillError> {
        // Another process or an earlier request may have a fresh answer by now.
        if let Some(answer) = self.recall_newest(question).await
            && self.answers.age(question, &answer) == Age::Fresh
        {
            return answer.result;
        }
        let upstream = self.upstream_of(question.module());
        let result = match question {
            Question::List(module) => upstream.list(module, via).await,
            Question::Latest(module) => match upstream.latest(module, via).await {
                Err(error) if error.is_absent() => self.latest_of_tree(module, via).await.ok_or(error),
                result => result,
            },
            Question::Query(module, revision) => upstream.query(module, revision, via).await,
        };
        let result = result.map_err(|error: UpstreamError| FillError::upstream(question, &error));
        match &result {
            Ok(_) | Err(FillError::Absent(_)) => self.keep(question, Answer::new(result.clone())).await,
            Err(_) => self.note_failure(question),
        }
        result
    }

    /// Finds the latest version in the list of an upstream that has no `@latest`, such as a tree of files.
    async fn latest_of_tree(&self, module: &ModulePath, via: &Via) -> Option<Bytes> {
        // A client would do the same, but a list from this proxy has no pseudo-versions.
        let upstream = self.upstream_of(module);
        let body = upstream.list(module, via).await.ok()?;
        let version = query::latest_known(&list::versions(&body))
            .or_else(|| list::newest(&body).map(|(version, _)| version))?;
        let version = ModuleVersion::new(module.clone(), version).ok()?;
        upstream.info(&version, via).await.ok()
    }
}
