//! `@latest`, and the versions of branches, commits, prefixes and comparisons.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModuleVersion, Revision, info, list, query};
use stoa_store::SmallFile;

use super::question::{Asked, Question};
use super::state::{Answers, MAX_CACHED_BYTES};
use super::stored::log_outage;
use crate::policy::ModulePermit;
use crate::unavailable::Unavailable;
use crate::upstream::Via;

impl Answers {
    /// Returns the info of the latest version of a module.
    pub async fn latest(self: &Arc<Self>, permit: ModulePermit<'_>, via: &Via) -> Result<Bytes, Unavailable> {
        let asked = Asked::new(permit, Question::Latest(permit.module().clone()));
        let error = match self.online_answer(&asked, via).await {
            Ok(body) => return Ok(body),
            Err(error) => error,
        };
        self.listed_or_stored(permit, &asked, error, via).await
    }

    /// Answers if the upstream's answer is an error or names a hidden version.
    async fn listed_or_stored(
        self: &Arc<Self>,
        permit: ModulePermit<'_>,
        asked: &Asked,
        error: Unavailable,
        via: &Via,
    ) -> Result<Bytes, Unavailable> {
        if matches!(error, Unavailable::Denied { .. } | Unavailable::Gone(_))
            && let Some(body) = self.listed(permit, asked, via).await
        {
            return Ok(body);
        }
        self.or_stored(asked, error).await
    }

    /// Returns the info of the visible version for a question whose answer upstream is hidden.
    async fn listed(self: &Arc<Self>, permit: ModulePermit<'_>, asked: &Asked, via: &Via) -> Option<Bytes> {
        let (module, query) = (permit.module(), asked.question.listed_query()?);
        let body = self.list(permit, via).await.ok()?;
        if body.len() > MAX_CACHED_BYTES {
            return None;
        }
        let versions = list::versions(&body);
        let Ok(version) = query::resolve(module, query, &versions, |_| Ok::<_, Infallible>(true));
        let version = ModuleVersion::new(module.clone(), version?).ok()?;
        let known = self.small(module, version.version(), SmallFile::Info).await.ok()?;
        match known {
            Some(info) => Some(info),
            None => permit.rule().upstream.info(&version, via).await.ok(),
        }
    }

    /// Returns the info of the version of a branch, a commit, a prefix, a comparison, or a version of another
    /// major.
    pub async fn query(
        self: &Arc<Self>,
        permit: ModulePermit<'_>,
        revision: &Revision,
        via: &Via,
    ) -> Result<Bytes, Unavailable> {
        let asked = Asked::new(permit, Question::Query(permit.module().clone(), revision.clone()));
        let error = match self.online_answer(&asked, via).await {
            Ok(body) => return Ok(body),
            Err(error @ Unavailable::Offline(_)) => match self.last_answer_if_stored(&asked).await {
                Ok(Some(body)) => return Ok(body),
                Ok(None) => error,
                Err(error) => error,
            },
            Err(error) => error,
        };
        self.listed_or_stored(permit, &asked, error, via).await
    }

    /// Returns the info of the latest version without asking an upstream: the last answer, or else the
    /// latest version in the store.
    pub async fn latest_local(&self, permit: ModulePermit<'_>) -> Result<Option<Bytes>, Unavailable> {
        self.answer_local(&Asked::new(permit, Question::Latest(permit.module().clone()))).await
    }

    /// Returns the info for a query without asking an upstream, likewise.
    pub async fn query_local(
        &self,
        permit: ModulePermit<'_>,
        revision: &Revision,
    ) -> Result<Option<Bytes>, Unavailable> {
        let question = Question::Query(permit.module().clone(), revision.clone());
        self.answer_local(&Asked::new(permit, question)).await
    }

    async fn answer_local(&self, asked: &Asked) -> Result<Option<Bytes>, Unavailable> {
        let answer = match (self.last_answer(asked).await, &asked.question) {
            (Some(body), _) => match self.or_better_stored(asked, body, None).await {
                Ok(body) => self.if_visible(asked, body).await.map(Some),
                Err(error) => Err(error),
            },
            (None, Question::Query(..)) => self.last_answer_if_stored(asked).await,
            (None, _) => Ok(None),
        };
        match answer {
            Ok(Some(body)) => Ok(Some(body)),
            answer => match self.resolve_stored(asked).await? {
                Some(info) => Ok(Some(info)),
                None => answer,
            },
        }
    }

    async fn online_answer(self: &Arc<Self>, asked: &Asked, via: &Via) -> Result<Bytes, Unavailable> {
        if !self.asks(&asked.rule) {
            return Err(Unavailable::Offline(asked.to_string()));
        }
        let body = self.upstream_answer(asked, via).await?;
        let body = self.or_better_stored(asked, body, Some(via)).await?;
        self.if_visible(asked, body).await
    }

    /// Returns an info body if its version may be named.
    async fn if_visible(&self, asked: &Asked, body: Bytes) -> Result<Bytes, Unavailable> {
        match info::parse(&body) {
            Ok(info) => self.check_visible(asked, &info.version).await.map(|()| body),
            Err(_) => Err(asked.rule.denied(asked)),
        }
    }

    /// Returns the last answer to a query if the version in it is stored.
    async fn last_answer_if_stored(&self, asked: &Asked) -> Result<Option<Bytes>, Unavailable> {
        let Some(body) = self.recall(asked).await.map(|answer| answer.body) else {
            return Ok(None);
        };
        let Ok(answer) = info::parse(&body) else { return Ok(None) };
        match self.small(asked.module(), &answer.version, SmallFile::Info).await? {
            Some(_) => self.if_visible(asked, body).await.map(Some),
            None => Ok(None),
        }
    }

    async fn or_stored(&self, asked: &Asked, error: Unavailable) -> Result<Bytes, Unavailable> {
        match self.resolve_stored(asked).await {
            Ok(Some(info)) => {
                log_outage(asked.module(), &error);
                Ok(info)
            }
            Ok(None) => Err(error),
            // In an outage of the bucket, the error of the upstream says more, unless it says that there is no such
            // version: the bucket may have it.
            Err(Unavailable::Limited { .. })
                if !matches!(error, Unavailable::Offline(_) | Unavailable::Absent(_)) =>
            {
                Err(error)
            }
            Err(of_bucket) => Err(of_bucket),
        }
    }

    /// Resolves `latest`, a prefix or a comparison among the stored versions. Returns `None` for other questions.
    async fn resolve_stored(&self, asked: &Asked) -> Result<Option<Bytes>, Unavailable> {
        match asked.question.listed_query() {
            Some(query) => self.resolve(asked.module(), &asked.rule, query).await,
            None => Ok(None),
        }
    }
}
