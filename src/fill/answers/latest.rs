//! `@latest`, and the versions of branches, commits and prefixes.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Revision, info, list, query};
use stoa_store::SmallFile;

use super::question::Question;
use super::stored::log_outage;
use crate::fill::{Fill, FillError, Via};

impl Fill {
    /// Returns the info of the latest version of a module.
    pub async fn latest(self: &Arc<Self>, module: &ModulePath, via: &Via) -> Result<Bytes, FillError> {
        let question = Question::Latest(module.clone());
        let error = match self.online_answer(&question, via).await {
            Ok(body) => return Ok(body),
            Err(error) => error,
        };
        if matches!(error, FillError::Denied(_) | FillError::Gone(_))
            && let Some(body) = self.latest_listed(module, via).await
        {
            return Ok(body);
        }
        self.or_stored(&question, error).await
    }

    /// Returns the info of the latest visible version, for a module whose latest version upstream is
    /// hidden.
    async fn latest_listed(self: &Arc<Self>, module: &ModulePath, via: &Via) -> Option<Bytes> {
        let body = self.list(module, via).await.ok()?;
        let version =
            ModuleVersion::new(module.clone(), query::latest_known(&list::versions(&body))?).ok()?;
        let stored = version.clone();
        let what = format!("the latest version of {module}");
        let stored = self.blocking(what, move |store| store.small(&stored, SmallFile::Info)).await.ok()?;
        match stored {
            Some(info) => Some(info.bytes),
            None => self.upstream_of(module).info(&version, via).await.ok(),
        }
    }

    /// Returns the info of the version of a branch, a commit, a prefix, or a version of another major.
    pub async fn query(
        self: &Arc<Self>,
        module: &ModulePath,
        revision: &Revision,
        via: &Via,
    ) -> Result<Bytes, FillError> {
        let question = Question::Query(module.clone(), revision.clone());
        let error = match self.online_answer(&question, via).await {
            Ok(body) => return Ok(body),
            Err(error @ FillError::Offline(_)) => match self.last_answer_if_stored(&question).await {
                Ok(Some(body)) => return Ok(body),
                Ok(None) => error,
                Err(error) => error,
            },
            Err(error) => error,
        };
        self.or_stored(&question, error).await
    }

    /// Returns the info of the latest version without asking an upstream: the last answer, or else the
    /// latest version in the store.
    pub async fn latest_local(&self, module: &ModulePath) -> Result<Option<Bytes>, FillError> {
        self.answer_local(&Question::Latest(module.clone())).await
    }

    /// Returns the info for a query without asking an upstream, likewise.
    pub async fn query_local(
        &self,
        module: &ModulePath,
        revision: &Revision,
    ) -> Result<Option<Bytes>, FillError> {
        self.answer_local(&Question::Query(module.clone(), revision.clone())).await
    }

    async fn answer_local(&self, question: &Question) -> Result<Option<Bytes>, FillError> {
        let answer = match (self.last_answer(question).await, question) {
            (Some(body), _) => self.if_visible(question, body).await.map(Some),
            (None, Question::Query(..)) => self.last_answer_if_stored(question).await,
            (None, _) => Ok(None),
        };
        match answer {
            Ok(Some(body)) => Ok(Some(body)),
            answer => match self.resolve_stored(question).await? {
                Some(info) => Ok(Some(info)),
                None => answer,
            },
        }
    }

    async fn online_answer(self: &Arc<Self>, question: &Question, via: &Via) -> Result<Bytes, FillError> {
        if !self.asks_about(question.module()) {
            return Err(FillError::Offline(question.to_string()));
        }
        let body = self.upstream_answer(question, via).await?;
        self.if_visible(question, body).await
    }

    /// Returns an info body if its version may be named.
    async fn if_visible(&self, question: &Question, body: Bytes) -> Result<Bytes, FillError> {
        match info::parse(&body) {
            Ok(info) => self.check_visible(question, question.module(), &info.version).await.map(|()| body),
            Err(_) => Err(FillError::Denied(question.to_string())),
        }
    }

    /// Returns the last answer to a query if the version in it is stored.
    async fn last_answer_if_stored(&self, question: &Question) -> Result<Option<Bytes>, FillError> {
        let Some(body) = self.recall(question).await.and_then(|answer| answer.result.ok()) else {
            return Ok(None);
        };
        let Some(version) = info::parse(&body)
            .ok()
            .and_then(|info| ModuleVersion::new(question.module().clone(), info.version).ok())
        else {
            return Ok(None);
        };
        let stored = self.blocking(question, move |store| store.small(&version, SmallFile::Info)).await?;
        match stored {
            Some(_) => self.if_visible(question, body).await.map(Some),
            None => Ok(None),
        }
    }

    async fn or_stored(&self, question: &Question, error: FillError) -> Result<Bytes, FillError> {
        match self.resolve_stored(question).await? {
            Some(info) => {
                log_outage(question.module(), &error);
                Ok(info)
            }
            None => Err(error),
        }
    }

    /// Resolves `latest` or a prefix among the stored versions. Returns `None` for other questions.
    async fn resolve_stored(&self, question: &Question) -> Result<Option<Bytes>, FillError> {
        match question {
            Question::Latest(module) => self.resolve(module, "latest").await,
            Question::Query(module, revision) if query::is_prefix(revision.as_str()) => {
                self.resolve(module, revision.as_str()).await
            }
            Question::Query(..) | Question::List(_) => Ok(None),
        }
    }
}
