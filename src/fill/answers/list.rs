//! The list of a module's versions.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Version, list};

use super::question::Question;
use super::stored::log_outage;
use crate::fill::{Fill, FillError, Via};

impl Fill {
    /// Returns the list of a module's tagged versions, upstream and stored, as a response body.
    pub async fn list(self: &Arc<Self>, module: &ModulePath, via: &Via) -> Result<Bytes, FillError> {
        let question = Question::List(module.clone());
        let (stored, listed) = if self.asks_about(module) {
            tokio::join!(self.stored_versions(module), self.upstream_answer(&question, via))
        } else {
            (self.stored_versions(module).await, Err(FillError::Offline(question.to_string())))
        };
        match (listed, stored) {
            (Ok(body), Ok(stored)) => self.merged(module, &body, stored.unwrap_or_default()).await,
            // The upstream's list is better than none.
            (Ok(body), Err(error)) => {
                log::error!(module:% = module, reason:% = error; "serving a list without the stored versions");
                self.merged(module, &body, Vec::new()).await
            }
            (Err(error), Ok(Some(stored))) => {
                log_outage(module, &error);
                self.merged(module, b"", stored).await
            }
            (Err(error), Ok(None)) => Err(error),
            (Err(_), Err(error)) => Err(error),
        }
    }

    /// Returns the list of a module's tagged versions without asking an upstream: stored versions and the
    /// last answer. Returns `None` if there is neither.
    pub async fn list_local(&self, module: &ModulePath) -> Result<Option<Bytes>, FillError> {
        let stored = self.stored_versions(module).await?;
        let body = self.last_answer(&Question::List(module.clone())).await;
        if body.is_none() && stored.is_none() {
            return Ok(None);
        }
        self.merged(module, &body.unwrap_or_default(), stored.unwrap_or_default()).await.map(Some)
    }

    /// Returns the last answer of the upstream, if the module's rule has an upstream.
    pub(super) async fn last_answer(&self, question: &Question) -> Option<Bytes> {
        if !self.asks_about(question.module()) {
            return None;
        }
        self.recall(question).await?.result.ok()
    }

    /// Merges an upstream's list with the stored versions, and removes versions that may not be named.
    async fn merged(
        &self,
        module: &ModulePath,
        upstream: &[u8],
        stored: Vec<Version>,
    ) -> Result<Bytes, FillError> {
        let mut versions = list::versions(upstream);
        versions.extend(stored);
        // Versions of another major belong to another module path.
        versions.retain(|version| ModuleVersion::new(module.clone(), version.clone()).is_ok());
        self.remove_hidden(module, &mut versions).await?;
        Ok(Bytes::from(list::format(&versions)))
    }
}
