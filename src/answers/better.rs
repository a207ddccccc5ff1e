//! Stored versions that are better than an upstream's answer.
//!
//! An upstream may not know a version yet that another upstream, an import or an earlier answer has brought into the
//! store. Lists contain such a version at once, so `@latest`, prefixes and comparisons must, too.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{ModuleVersion, Version, info, list, modfile};
use stoa_store::SmallFile;

use super::question::{Asked, Question};
use super::state::Answers;
use super::stored::choose;
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
        let (mut stored, shared) = match self.known_versions(module).await {
            Ok(known) => (known.versions.unwrap_or_default(), known.shared),
            Err(error) => {
                log::error!(module:% = module, reason:% = error; "answering without the stored versions");
                return Ok(body);
            }
        };
        stored.retain(|version| !version.is_pseudo());
        if stored.is_empty() {
            return Ok(body);
        }
        self.remove_hidden(module, &asked.rule, &shared, &mut stored).await?;
        let mut versions: Vec<Version> = stored.iter().cloned().chain([answer.version.clone()]).collect();
        if versions.iter().any(Version::is_incompatible) {
            // Whether these count depends on the last compatible version, which may be neither.
            versions.extend(self.listed_before(asked).await);
        }
        let has_gomod = async |version: &Version| {
            Ok(match self.has_gomod(module, version).await? {
                Some(has_gomod) => has_gomod,
                None => self.has_gomod_upstream(asked, version, via).await,
            })
        };
        match choose(module, query, &versions, has_gomod).await? {
            Some(version) if version != answer.version && stored.contains(&version) => {
                // It may have been removed just now.
                Ok(self.small(module, &version, SmallFile::Info).await?.unwrap_or(body))
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
