//! The list of a module's versions.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Version, list};

use super::question::{Asked, Question};
use super::state::Answers;
use super::stored::log_outage;
use crate::policy::{ModulePermit, Rule};
use crate::unavailable::Unavailable;
use crate::upstream::Via;

impl Answers {
    /// Returns the list of a module's tagged versions, upstream and stored, as a response body.
    pub async fn list(self: &Arc<Self>, permit: ModulePermit<'_>, via: &Via) -> Result<Bytes, Unavailable> {
        let (module, rule) = (permit.module(), permit.rule());
        let asked = Asked::new(permit, Question::List(module.clone()));
        let (stored, listed) = if self.asks(rule) {
            tokio::join!(self.stored_versions(module), self.upstream_answer(&asked, via))
        } else {
            (self.stored_versions(module).await, Err(Unavailable::Offline(asked.to_string())))
        };
        match (listed, stored) {
            (Ok(body), Ok(stored)) => self.merged(module, rule, &body, stored.unwrap_or_default()).await,
            // The upstream's list is better than none.
            (Ok(body), Err(error)) => {
                log::error!(module:% = module, reason:% = error; "serving a list without the stored versions");
                self.merged(module, rule, &body, Vec::new()).await
            }
            (Err(error), Ok(Some(stored))) => {
                log_outage(module, &error);
                self.merged(module, rule, b"", stored).await
            }
            (Err(error), Ok(None)) => Err(error),
            (Err(_), Err(error)) => Err(error),
        }
    }

    /// Returns the list of a module's tagged versions without asking an upstream: stored versions and the
    /// last answer. Returns `None` if there is neither.
    pub async fn list_local(&self, permit: ModulePermit<'_>) -> Result<Option<Bytes>, Unavailable> {
        let (module, rule) = (permit.module(), permit.rule());
        let stored = self.stored_versions(module).await?;
        let body = self.last_answer(&Asked::new(permit, Question::List(module.clone()))).await;
        if body.is_none() && stored.is_none() {
            return Ok(None);
        }
        self.merged(module, rule, &body.unwrap_or_default(), stored.unwrap_or_default()).await.map(Some)
    }

    /// Returns the last answer of the upstream, if the module's rule has an upstream.
    pub(super) async fn last_answer(&self, asked: &Asked) -> Option<Bytes> {
        if !self.asks(&asked.rule) {
            return None;
        }
        self.recall(asked).await?.result.ok()
    }

    /// Merges an upstream's list with the stored versions, and removes versions that may not be named.
    async fn merged(
        &self,
        module: &ModulePath,
        rule: &Rule,
        upstream: &[u8],
        stored: Vec<Version>,
    ) -> Result<Bytes, Unavailable> {
        let mut versions = list::versions(upstream);
        versions.extend(stored);
        // Versions of another major belong to another module path.
        versions.retain(|version| ModuleVersion::new(module.clone(), version.clone()).is_ok());
        self.remove_hidden(module, rule, &mut versions).await?;
        Ok(Bytes::from(list::format(&versions)))
    }
}
