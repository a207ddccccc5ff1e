//! Stored versions that are better than an upstream's answer.
//!
//! An upstream may not know a version yet that another upstream, an import or an earlier answer has brought into the
//! store. Lists contain such a version at once, so `@latest`, prefixes and comparisons must, too.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Version, info, list, modfile, query};
use stoa_store::{SmallFile, Store, StoreError};

use super::question::{Asked, Question};
use super::state::Answers;
use super::stored::{has_gomod, small};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::Via;

impl Answers {
    /// Returns the info of a stored version if it is better than the upstream's answer `body`, and otherwise `body`.
    ///
    /// Without `via`, no upstream is asked.
    pub(super) async fn or_better_stored(
        &self,
        asked: &Asked,
        body: Bytes,
        via: Option<&Via>,
    ) -> Result<Bytes, Unavailable> {
        let (Some(query), Ok(answer)) = (asked.question.listed_query(), info::parse(&body)) else {
            return Ok(body);
        };
        let module = asked.module();
        let mut stored = match self.stored_versions(module).await {
            Ok(stored) => stored.unwrap_or_default(),
            Err(error) => {
                log::error!(module:% = module, reason:% = error; "answering without the stored versions");
                return Ok(body);
            }
        };
        stored.retain(|version| !version.is_pseudo());
        if stored.is_empty() {
            return Ok(body);
        }
        self.remove_hidden(module, &asked.rule, &mut stored).await?;
        let mut choice = Choice {
            query: query.to_owned(),
            module: module.clone(),
            versions: stored.iter().cloned().chain([answer.version.clone()]).collect(),
            known: None,
        };
        if choice.versions.iter().any(Version::is_incompatible) {
            // Whether these count depends on the last compatible version, which may be neither.
            choice.versions.extend(self.listed_before(asked).await);
        }
        let mut chosen = choice.make(&self.store).await?;
        if let Chosen::Unsure(decisive) = &chosen {
            choice.known = Some(self.has_gomod_upstream(asked, decisive, via).await);
            chosen = choice.make(&self.store).await?;
        }
        match chosen {
            Chosen::Version(version) if version != answer.version && stored.contains(&version) => {
                let named = module.clone();
                let read = move |store: &Store| small(store, &named, &version, SmallFile::Info);
                // It may have been removed just now.
                Ok(blocking(&self.store, asked, read).await?.unwrap_or(body))
            }
            _ => Ok(body),
        }
    }

    /// Returns the versions in the upstream's last list.
    async fn listed_before(&self, asked: &Asked) -> Vec<Version> {
        let module = asked.module();
        let asked = Asked { question: Question::List(module.clone()), rule: Arc::clone(&asked.rule) };
        let body = self.recall(&asked).await.map(|answer| answer.body).unwrap_or_default();
        let mut versions = list::versions(&body);
        versions.retain(|version| ModuleVersion::new(module.clone(), version.clone()).is_ok());
        versions
    }

    /// Returns whether a version that is not stored has a go.mod. If that is unknown, it has one, as nearly all have.
    async fn has_gomod_upstream(&self, asked: &Asked, version: &Version, via: Option<&Via>) -> bool {
        let (Some(via), Ok(version)) = (via, ModuleVersion::new(asked.module().clone(), version.clone()))
        else {
            return true;
        };
        let body = asked.rule.upstream.modfile(&version, via).await;
        !body.is_ok_and(|body| body == modfile::synthesize(version.path()))
    }
}

/// The choice of a version among stored ones and the upstream's answer.
#[derive(Clone)]
struct Choice {
    module: ModulePath,
    query: String,
    versions: Vec<Version>,
    /// Whether the decisive version has a go.mod, if it is not stored.
    known: Option<bool>,
}

enum Chosen {
    /// No tagged version matches.
    None,
    Version(Version),
    /// The choice depends on whether this version has a go.mod, and it is not stored.
    Unsure(Version),
}

enum Stop {
    Unsure(Version),
    Failed(StoreError),
}

impl Choice {
    async fn make(&self, store: &Arc<Store>) -> Result<Chosen, Unavailable> {
        let (choice, what) = (self.clone(), format!("{}@{}", self.module, self.query));
        blocking(store, what, move |store| choice.make_now(store)).await
    }

    fn make_now(&self, store: &Store) -> Result<Chosen, StoreError> {
        let chosen = query::resolve(&self.module, &self.query, &self.versions, |version| {
            let stored = has_gomod(store, &self.module, version).map_err(Stop::Failed)?;
            stored.or(self.known).ok_or_else(|| Stop::Unsure(version.clone()))
        });
        match chosen {
            Ok(None) => Ok(Chosen::None),
            Ok(Some(version)) => Ok(Chosen::Version(version)),
            Err(Stop::Unsure(version)) => Ok(Chosen::Unsure(version)),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}
