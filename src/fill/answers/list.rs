//! The list of a module's versions.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Version, list};

use super::question::Question;
use super::stored::tell_outage;
use crate::fill::{Fill, FillError, Via};

impl Fill {
    /// Lists the tagged versions of a module, those upstream and those in the store, as the body of an answer.
    pub async fn list(self: &Arc<Self>, module: &ModulePath, via: &Via) -> Result<Bytes, FillError> {
        let question = Question::List(module.clone());
        let (stored, said) = if self.asks_about(module) {
            tokio::join!(self.stored_versions(module), self.said(&question, via))
        } else {
            (self.stored_versions(module).await, Err(FillError::Offline(question.to_string())))
        };
        match (said, stored) {
            (Ok(body), Ok(stored)) => self.merged(module, &body, stored.unwrap_or_default()).await,
            // That the upstream answered is worth more than a list that cannot be read here.
            (Ok(body), Err(error)) => {
                log::error!("the list of {module} lacks what is stored: {error}");
                self.merged(module, &body, Vec::new()).await
            }
            (Err(error), Ok(Some(stored))) => {
                tell_outage(module, &error);
                self.merged(module, b"", stored).await
            }
            (Err(error), Ok(None)) => Err(error),
            (Err(_), Err(error)) => Err(error),
        }
    }

    /// Lists the tagged versions of a module without asking anybody: those in the store, and those that the
    /// upstream named last. `None` if there is neither.
    pub async fn list_local(&self, module: &ModulePath) -> Result<Option<Bytes>, FillError> {
        let stored = self.stored_versions(module).await?;
        let body = self.last_said(&Question::List(module.clone())).await;
        if body.is_none() && stored.is_none() {
            return Ok(None);
        }
        self.merged(module, &body.unwrap_or_default(), stored.unwrap_or_default()).await.map(Some)
    }

    /// Is what the upstream said last, if it counts for anything here.
    pub(super) async fn last_said(&self, question: &Question) -> Option<Bytes> {
        if !self.asks_about(question.module()) {
            return None;
        }
        self.recall(question).await?.said.ok()
    }

    /// Merges a list of the upstream with what is stored. Whatever is not to be named is left out here.
    async fn merged(
        &self,
        module: &ModulePath,
        upstream: &[u8],
        stored: Vec<Version>,
    ) -> Result<Bytes, FillError> {
        let mut versions = list::versions(upstream);
        versions.extend(stored);
        // Those of another major version are to be had below its own path only.
        versions.retain(|version| ModuleVersion::new(module.clone(), version.clone()).is_ok());
        self.leave_out(module, &mut versions).await?;
        Ok(Bytes::from(list::format(&versions)))
    }
}
