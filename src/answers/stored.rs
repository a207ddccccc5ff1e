//! Answers from the store alone, by Go's rules.

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Version, info, modfile, pseudo, query};
use stoa_store::{SmallFile, Store, StoreError};

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

    /// Resolves `latest` or a prefix among the stored versions that may be named.
    pub(super) async fn resolve(
        &self,
        module: &ModulePath,
        rule: &Rule,
        query: &str,
    ) -> Result<Option<Bytes>, Unavailable> {
        let Some(mut versions) = self.stored_versions(module).await? else { return Ok(None) };
        self.remove_hidden(module, rule, &mut versions).await?;
        let (path, query) = (module.clone(), query.to_owned());
        blocking(&self.store, module, move |store| resolve(store, &path, &query, &versions)).await
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

fn resolve(
    store: &Store,
    module: &ModulePath,
    query: &str,
    versions: &[Version],
) -> Result<Option<Bytes>, StoreError> {
    let tagged = query::resolve(module, query, versions, |version| {
        has_gomod(store, module, version).map(|has_gomod| has_gomod == Some(true))
    })?;
    let version = match tagged {
        Some(version) => version,
        None if query == "latest" => match newest_pseudo(versions) {
            Some(version) => version.clone(),
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let stored = small(store, module, &version, SmallFile::Info)?;
    // A listed version has an info, unless it was removed just now.
    Ok(stored.filter(|body| info::parse(body).is_ok()))
}

fn newest_pseudo(versions: &[Version]) -> Option<&Version> {
    let pseudos = versions.iter().filter(|version| version.is_pseudo());
    pseudos.max_by_key(|version| pseudo::time(version.as_str()))
}

/// Returns whether a stored version has a go.mod. Returns `None` if it is not stored.
pub(super) fn has_gomod(
    store: &Store,
    module: &ModulePath,
    version: &Version,
) -> Result<Option<bool>, StoreError> {
    let body = small(store, module, version, SmallFile::Mod)?;
    Ok(body.map(|body| body != modfile::synthesize(module)))
}

pub(super) fn small(
    store: &Store,
    module: &ModulePath,
    version: &Version,
    file: SmallFile,
) -> Result<Option<Bytes>, StoreError> {
    match ModuleVersion::new(module.clone(), version.clone()) {
        Ok(version) => Ok(store.small(&version, file)?.map(|small| small.bytes)),
        // A folder with an invalid name was not made by Stoa.
        Err(_) => Ok(None),
    }
}
