//! Asking the upstream, or not.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, list, query};

use super::PATIENCE;
use super::known::{Age, Known};
use super::question::Question;
use crate::fill::once::Outcome;
use crate::fill::{Fill, FillError, Phase, Via};
use crate::upstream::UpstreamError;

impl Fill {
    /// Finds what the upstream says, by the rules of this module.
    pub(super) async fn said(self: &Arc<Self>, question: &Question, via: &Via) -> Result<Bytes, FillError> {
        let known = self.recall(question).await;
        let age = known.as_ref().map(|known| self.answers.age(question, known));
        let last = match (known, age) {
            (Some(known), Some(Age::Fresh)) => return known.said,
            (Some(known), Some(Age::Stale)) => {
                // Whether it begins or not: there is an answer.
                let _ = self.begin(question, via, Phase::Closing);
                return known.said;
            }
            (known, _) => known.and_then(|known| known.said.ok()),
        };
        let Some(last) = last else { return self.ask(question, via).await };
        match tokio::time::timeout(PATIENCE, self.ask(question, via)).await {
            Ok(Err(error)) if !matches!(error, FillError::Absent(_)) => {
                log::warn!("{question} is answered as it was answered last: {error}");
                Ok(last)
            }
            Ok(said) => said,
            Err(_) => {
                log::warn!("{question} is answered as it was answered last: the upstream takes its time");
                self.note_failure(question);
                Ok(last)
            }
        }
    }

    /// Asks the upstream, or waits for the answer to who has asked already.
    async fn ask(self: &Arc<Self>, question: &Question, via: &Via) -> Result<Bytes, FillError> {
        match self.begin(question, via, Phase::Ending)?.wait().await {
            Some(said) => said,
            None => Err(FillError::Broken(question.to_string())),
        }
    }

    /// Begins to ask the upstream, unless that is under way. It is given up at this phase of the program.
    fn begin(
        self: &Arc<Self>,
        question: &Question,
        via: &Via,
        given_up: Phase,
    ) -> Result<Outcome<Result<Bytes, FillError>>, FillError> {
        let mut phase = self.phase.subscribe();
        if *phase.borrow() >= given_up {
            return Err(FillError::Stopping(question.to_string()));
        }
        let work = || {
            let (fill, question, via) = (Arc::clone(self), question.clone(), via.clone());
            async move {
                tokio::select! {
                    said = fill.ask_and_keep(&question, &via) => said,
                    _ = phase.wait_for(|phase| *phase >= given_up) => {
                        Err(FillError::Stopping(question.to_string()))
                    }
                }
            }
        };
        self.answers.asking.join(question, work).ok_or_else(|| FillError::Busy(question.to_string()))
    }

    async fn ask_and_keep(&self, question: &Question, via: &Via) -> Result<Bytes, FillError> {
        // Another process, or one that asked just before, may have an answer that is new.
        if let Some(known) = self.recall_newest(question).await
            && self.answers.age(question, &known) == Age::Fresh
        {
            return known.said;
        }
        let upstream = self.upstream_of(question.module());
        let said = match question {
            Question::List(module) => upstream.list(module, via).await,
            Question::Latest(module) => match upstream.latest(module, via).await {
                Err(error) if error.is_absent() => self.latest_of_tree(module, via).await.ok_or(error),
                said => said,
            },
            Question::Query(module, revision) => upstream.query(module, revision, via).await,
        };
        let said = said.map_err(|error: UpstreamError| FillError::upstream(question, &error));
        match &said {
            Ok(_) | Err(FillError::Absent(_)) => self.keep(question, Known::new(said.clone())).await,
            Err(error) => {
                log::debug!("{error}");
                self.note_failure(question);
            }
        }
        said
    }

    /// Finds the latest version by the list of an upstream that has no `@latest`, such as a tree of files.
    ///
    /// A client would do so by itself, were it not that a list which comes from here has no pseudo-versions.
    async fn latest_of_tree(&self, module: &ModulePath, via: &Via) -> Option<Bytes> {
        let upstream = self.upstream_of(module);
        let body = upstream.list(module, via).await.ok()?;
        let version = query::latest_known(&list::versions(&body))
            .or_else(|| list::newest(&body).map(|(version, _)| version))?;
        let version = ModuleVersion::new(module.clone(), version).ok()?;
        upstream.info(&version, via).await.ok()
    }
}
