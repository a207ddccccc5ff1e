//! `@latest`, and what a branch, a commit or a prefix stands for.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Revision, info, list, query};
use stoa_store::SmallFile;

use super::question::Question;
use super::stored::tell_outage;
use crate::fill::{Fill, FillError, Via};

impl Fill {
    /// Finds the info of the latest version of a module.
    pub async fn latest(self: &Arc<Self>, module: &ModulePath, via: &Via) -> Result<Bytes, FillError> {
        let question = Question::Latest(module.clone());
        let error = match self.said_online(&question, via).await {
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

    /// Finds the latest of the versions that are listed to a client, where the upstream names one that is not.
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

    /// Finds the info of what a branch, a commit, a prefix or a version of another major stands for.
    pub async fn query(
        self: &Arc<Self>,
        module: &ModulePath,
        revision: &Revision,
        via: &Via,
    ) -> Result<Bytes, FillError> {
        let question = Question::Query(module.clone(), revision.clone());
        let error = match self.said_online(&question, via).await {
            Ok(body) => return Ok(body),
            Err(error @ FillError::Offline(_)) => match self.last_said_of_stored(&question).await {
                Ok(Some(body)) => return Ok(body),
                Ok(None) => error,
                Err(error) => error,
            },
            Err(error) => error,
        };
        self.or_stored(&question, error).await
    }

    /// Finds the latest version without asking anybody: what the upstream said last, else the latest one in
    /// the store.
    pub async fn latest_local(&self, module: &ModulePath) -> Result<Option<Bytes>, FillError> {
        self.answer_local(&Question::Latest(module.clone())).await
    }

    /// Finds what a query stands for without asking anybody, likewise.
    pub async fn query_local(
        &self,
        module: &ModulePath,
        revision: &Revision,
    ) -> Result<Option<Bytes>, FillError> {
        self.answer_local(&Question::Query(module.clone(), revision.clone())).await
    }

    async fn answer_local(&self, question: &Question) -> Result<Option<Bytes>, FillError> {
        let said = match (self.last_said(question).await, question) {
            (Some(body), _) => self.named(question, body).await.map(Some),
            (None, Question::Query(..)) => self.last_said_of_stored(question).await,
            (None, _) => Ok(None),
        };
        match said {
            Ok(Some(body)) => Ok(Some(body)),
            said => match self.resolve_stored(question).await? {
                Some(info) => Ok(Some(info)),
                None => said,
            },
        }
    }

    async fn said_online(self: &Arc<Self>, question: &Question, via: &Via) -> Result<Bytes, FillError> {
        if !self.asks_about(question.module()) {
            return Err(FillError::Offline(question.to_string()));
        }
        let body = self.said(question, via).await?;
        self.named(question, body).await
    }

    /// Gives an info body out if its version may be named.
    async fn named(&self, question: &Question, body: Bytes) -> Result<Bytes, FillError> {
        match info::parse(&body) {
            Ok(info) => self.check_named(question, question.module(), &info.version).await.map(|()| body),
            Err(_) => Err(FillError::Denied(question.to_string())),
        }
    }

    /// Finds what the upstream said of a query last, if the version that it named is in the store.
    async fn last_said_of_stored(&self, question: &Question) -> Result<Option<Bytes>, FillError> {
        let Some(body) = self.recall(question).await.and_then(|known| known.said.ok()) else {
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
            Some(_) => self.named(question, body).await.map(Some),
            None => Ok(None),
        }
    }

    async fn or_stored(&self, question: &Question, error: FillError) -> Result<Bytes, FillError> {
        match self.resolve_stored(question).await? {
            Some(info) => {
                tell_outage(question.module(), &error);
                Ok(info)
            }
            None => Err(error),
        }
    }

    /// Resolves `latest` or a prefix among what is in the store. `None` for any other question.
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
