//! What the store alone answers, by Go's rules.

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Version, info, modfile, pseudo, query};
use stoa_store::{SmallFile, Store, StoreError};

use crate::fill::{Fill, FillError};

impl Fill {
    pub(super) async fn stored_versions(
        &self,
        module: &ModulePath,
    ) -> Result<Option<Vec<Version>>, FillError> {
        let path = module.clone();
        let stored = self.blocking(format!("the list of {module}"), move |store| store.list(&path)).await?;
        Ok(stored.map(|versions| versions.to_vec()))
    }

    /// Resolves `latest` or a prefix among what is in the store and may be named.
    pub(super) async fn resolve(&self, module: &ModulePath, query: &str) -> Result<Option<Bytes>, FillError> {
        let Some(mut versions) = self.stored_versions(module).await? else { return Ok(None) };
        self.leave_out(module, &mut versions).await?;
        let (path, query) = (module.clone(), query.to_owned());
        self.blocking(module, move |store| resolve(store, &path, &query, &versions)).await
    }
}

/// Says that an answer is from the store alone, where it ought not to be.
pub(super) fn tell_outage(module: &ModulePath, error: &FillError) {
    match error {
        FillError::Absent(_) | FillError::Offline(_) | FillError::Denied(_) | FillError::Gone(_) => {}
        _ => log::warn!("answering for {module} from the store alone: {error}"),
    }
}

fn resolve(
    store: &Store,
    module: &ModulePath,
    query: &str,
    versions: &[Version],
) -> Result<Option<Bytes>, StoreError> {
    let has_gomod = |version: &Version| -> Result<bool, StoreError> {
        let body = small(store, module, version, SmallFile::Mod)?;
        Ok(body.is_some_and(|body| body != modfile::synthesize(module)))
    };
    let tagged = query::resolve(module, query, versions, has_gomod)?;
    let version = match tagged {
        Some(version) => version,
        None if query == "latest" => match newest_pseudo(versions) {
            Some(version) => version.clone(),
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let stored = small(store, module, &version, SmallFile::Info)?;
    // What the store lists has an info, unless it has gone just now.
    Ok(stored.filter(|body| info::parse(body).is_ok()))
}

fn newest_pseudo(versions: &[Version]) -> Option<&Version> {
    let pseudos = versions.iter().filter(|version| version.is_pseudo());
    pseudos.max_by_key(|version| pseudo::time(version.as_str()))
}

fn small(
    store: &Store,
    module: &ModulePath,
    version: &Version,
    file: SmallFile,
) -> Result<Option<Bytes>, StoreError> {
    match ModuleVersion::new(module.clone(), version.clone()) {
        Ok(version) => Ok(store.small(&version, file)?.map(|small| small.bytes)),
        // A folder of such a name was put there by hand.
        Err(_) => Ok(None),
    }
}
