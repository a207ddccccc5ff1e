//! Answers from the store and the bucket, by Go's rules.

use std::convert::Infallible;

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Version, info, modfile, pseudo, query};
use stoa_store::SmallFile;

use super::state::Answers;
use crate::policy::Rule;
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

impl Answers {
    pub(super) async fn stored_versions(
        &self,
        module: &ModulePath,
    ) -> Result<Option<Vec<Version>>, Unavailable> {
        let path = module.clone();
        let stored =
            blocking(&self.store, format!("the list of {module}"), move |store| store.list(&path)).await?;
        Ok(stored.map(|versions| versions.to_vec()))
    }

    /// Resolves `latest` or a prefix among the versions in the store and in the bucket that may be named.
    pub(super) async fn resolve(
        &self,
        module: &ModulePath,
        rule: &Rule,
        query: &str,
    ) -> Result<Option<Bytes>, Unavailable> {
        let Some(mut versions) = self.known_versions(module).await? else { return Ok(None) };
        self.remove_hidden(module, rule, &mut versions).await?;
        let Some(version) = self.chosen(module, query, &versions).await? else { return Ok(None) };
        let info = self.small(module, &version, SmallFile::Info).await?;
        // A listed version has an info, unless it was removed just now.
        Ok(info.filter(|body| info::parse(body).is_ok()))
    }

    async fn chosen(
        &self,
        module: &ModulePath,
        query: &str,
        versions: &[Version],
    ) -> Result<Option<Version>, Unavailable> {
        // The choice depends on at most one file.
        let tagged = match query::resolve(module, query, versions, |version| Err(version.clone())) {
            Ok(version) => version,
            Err(decisive) => {
                let has_gomod = self.has_gomod(module, &decisive).await? == Some(true);
                let Ok(version) = query::resolve(module, query, versions, |_| Ok::<_, Infallible>(has_gomod));
                version
            }
        };
        Ok(tagged.or_else(|| newest_pseudo(versions).filter(|_| query == "latest").cloned()))
    }

    /// Returns whether a version in the store or in the bucket has a go.mod. Returns `None` if it is in neither.
    pub(super) async fn has_gomod(
        &self,
        module: &ModulePath,
        version: &Version,
    ) -> Result<Option<bool>, Unavailable> {
        let body = self.small(module, version, SmallFile::Mod).await?;
        Ok(body.map(|body| body != modfile::synthesize(module)))
    }

    /// Returns a file of a version in the store or in the bucket. Returns `None` if it is in neither.
    pub(super) async fn small(
        &self,
        module: &ModulePath,
        version: &Version,
        file: SmallFile,
    ) -> Result<Option<Bytes>, Unavailable> {
        let Ok(version) = ModuleVersion::new(module.clone(), version.clone()) else {
            // A folder with an invalid name was not made by Stoa.
            return Ok(None);
        };
        let named = version.clone();
        let stored = blocking(&self.store, &version, move |store| store.small(&named, file)).await?;
        match (stored, &self.tier) {
            (Some(small), _) => Ok(Some(small.bytes)),
            (None, Some(tier)) => Ok(tier.small(&version, file).await),
            (None, None) => Ok(None),
        }
    }
}

/// Logs that an answer comes from the store alone because the upstream failed.
pub(super) fn log_outage(module: &ModulePath, error: &Unavailable) {
    match error {
        Unavailable::Absent(_) | Unavailable::Offline(_) | Unavailable::Denied(_) | Unavailable::Gone(_) => {}
        _ => {
            log::warn!(module:% = module, reason:% = error; "the upstream failed, answering from the store only")
        }
    }
}

fn newest_pseudo(versions: &[Version]) -> Option<&Version> {
    let pseudos = versions.iter().filter(|version| version.is_pseudo());
    pseudos.max_by_key(|version| pseudo::time(version.as_str()))
}
