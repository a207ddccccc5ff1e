//! The list of a module's versions.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, Version, list};

use super::ask::MAX_TURN_WAIT;
use super::question::{Asked, Question};
use super::state::Answers;
use super::stored::{KnownVersions, log_outage};
use crate::byte_budget::SMALL_BODY;
use crate::policy::{ModulePermit, Rule};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::Via;

impl Answers {
    /// Returns the list of a module's tagged versions, upstream and stored, as a response body.
    pub async fn list(self: &Arc<Self>, permit: ModulePermit<'_>, via: &Via) -> Result<Bytes, Unavailable> {
        let (module, rule) = (permit.module(), permit.rule());
        let asked = Asked::new(permit, Question::List(module.clone()));
        let (stored, listed) = if self.asks(rule) {
            tokio::join!(self.listed_versions(module), self.upstream_answer(&asked, via))
        } else {
            (self.listed_versions(module).await, Err(Unavailable::Offline(asked.to_string())))
        };
        match (listed, stored) {
            (Ok(body), Ok(known)) => self.merged(module, rule, body, known).await,
            // The upstream's list is better than none.
            (Ok(body), Err(error)) => {
                log::error!(module:% = module, reason:% = error; "serving a list without the stored versions");
                let known = self.versions_in_bucket(module).await;
                self.merged(module, rule, body, known).await
            }
            (Err(error), Ok(known)) if known.versions.is_some() => {
                log_outage(module, &error);
                self.merged(module, rule, Bytes::new(), known).await
            }
            // The bucket may have versions of a module that no upstream has.
            (Err(error @ (Unavailable::Offline(_) | Unavailable::Absent(_))), Ok(known)) => {
                Err(known.outage.unwrap_or(error))
            }
            (Err(error), Ok(_)) => Err(error),
            (Err(_), Err(error)) => Err(error),
        }
    }

    /// Returns the list of a module's tagged versions without asking an upstream: stored versions and the
    /// last answer. Returns `None` if there is neither.
    pub async fn list_local(&self, permit: ModulePermit<'_>) -> Result<Option<Bytes>, Unavailable> {
        let (module, rule) = (permit.module(), permit.rule());
        let known = self.listed_versions(module).await?;
        let body = self.last_answer(&Asked::new(permit, Question::List(module.clone()))).await;
        if body.is_none() && known.versions.is_none() {
            return known.outage.map_or(Ok(None), Err);
        }
        self.merged(module, rule, body.unwrap_or_default(), known).await.map(Some)
    }

    /// Returns the last answer of the upstream, if the module's rule has an upstream.
    pub(super) async fn last_answer(&self, asked: &Asked) -> Option<Bytes> {
        if !self.asks(&asked.rule) {
            return None;
        }
        Some(self.recall(asked).await?.body)
    }

    /// Merges an upstream's list with the stored versions, and removes versions that may not be named.
    async fn merged(
        &self,
        module: &ModulePath,
        rule: &Rule,
        upstream: Bytes,
        known: KnownVersions,
    ) -> Result<Bytes, Unavailable> {
        let hidden = self.tombstones(module).await?;
        let (stored, shared) = (known.versions.unwrap_or_default(), known.shared);
        let merge = {
            let (module, rule, upstream) = (module.clone(), rule.clone(), upstream.clone());
            move || {
                let hidden: HashSet<&str> =
                    hidden.iter().chain(&shared.forbidden).map(Version::as_str).collect();
                let admits = |version: &str| {
                    rule.admits_all() || Version::new(version).is_ok_and(|version| rule.admits(&version))
                };
                list::merge(&module, &upstream, &stored, |version| {
                    !hidden.contains(version) && admits(version)
                })
            }
        };
        if upstream.len() <= SMALL_BODY {
            return Ok(Bytes::from(merge()));
        }
        let reserved = tokio::time::timeout(MAX_TURN_WAIT, self.memory.reserve(upstream.len() as u64)).await;
        let reserved = reserved.map_err(|_| Unavailable::Busy(format!("the list of {module}")))?;
        // One at a time, since it needs three times the memory of the list.
        let _turn = self.merging.acquire().await;
        let merged = blocking(&self.store, format!("the list of {module}"), move |_| Ok(merge())).await?;
        Ok(reserved.hold(Bytes::from(merged)))
    }
}
