//! Lists, queries and checksum databases: what changes with time, so that it is asked for each time.
//!
//! An upstream that fails hides nothing that is in the store: a list is then what is stored, and `@latest` or a
//! prefix is resolved among that by Go's rules. `local` asks for just this without asking an upstream at all.

use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Revision, Version, info, list, modfile, pseudo, query};
use stoa_store::{SmallFile, Store, StoreError};

use super::{Fill, FillError, Rule, SumdbAnswer, Via};
use crate::upstream::Upstream;

impl Fill {
    /// Lists the tagged versions of a module, those upstream and those in the store, as the body of an answer.
    pub async fn list(&self, module: &ModulePath, via: &Via) -> Result<Bytes, FillError> {
        let (stored, upstream) =
            tokio::join!(self.stored_versions(module), self.upstream(module).list(module, via));
        let mut versions = match upstream {
            Ok(body) => list::versions(&body),
            Err(error) => {
                let error = FillError::upstream(format_args!("the list of {module}"), &error);
                return match stored? {
                    Some(stored) => {
                        tell_outage(module, &error);
                        Ok(Bytes::from(list::format(&self.admitted(module, stored))))
                    }
                    None => Err(error),
                };
            }
        };
        // That the upstream answered is worth more than a list that cannot be read here.
        match stored {
            Ok(stored) => versions.extend(stored.unwrap_or_default()),
            Err(error) => log::error!("the list of {module} lacks what is stored: {error}"),
        }
        Ok(Bytes::from(list::format(&self.admitted(module, versions))))
    }

    /// Lists the tagged versions of a module that are in the store.
    pub async fn list_local(&self, module: &ModulePath) -> Result<Option<Bytes>, FillError> {
        let stored = self.stored_versions(module).await?;
        Ok(stored.map(|versions| Bytes::from(list::format(&self.admitted(module, versions)))))
    }

    /// Finds the info of the latest version of a module.
    pub async fn latest(&self, module: &ModulePath, via: &Via) -> Result<Bytes, FillError> {
        match self.upstream(module).latest(module, via).await {
            Ok(info) => match self.refused(module, &info) {
                None => Ok(info),
                Some(refusal) => self.latest_of_tree(module, via).await.ok_or(refusal),
            },
            Err(error) => {
                if error.is_absent()
                    && let Some(info) = self.latest_of_tree(module, via).await
                {
                    return Ok(info);
                }
                let error = FillError::upstream(format_args!("the latest version of {module}"), &error);
                self.or_local(module, "latest", error).await
            }
        }
    }

    /// Finds the info of what a branch, a commit, a prefix or a version of another major stands for.
    pub async fn query(
        &self,
        module: &ModulePath,
        revision: &Revision,
        via: &Via,
    ) -> Result<Bytes, FillError> {
        match self.upstream(module).query(module, revision, via).await {
            Ok(info) => self.refused(module, &info).map_or(Ok(info), Err),
            Err(error) => {
                let error = FillError::upstream(format_args!("{module}@{revision}"), &error);
                self.or_local(module, revision.as_str(), error).await
            }
        }
    }

    /// Finds the latest version by the list of an upstream that has no `@latest`, such as a tree of files.
    ///
    /// A client would do so by itself, were it not that a list which comes from here has no pseudo-versions.
    async fn latest_of_tree(&self, module: &ModulePath, via: &Via) -> Option<Bytes> {
        let body = self.upstream(module).list(module, via).await.ok()?;
        let version = query::latest_known(&self.admitted(module, list::versions(&body)))
            .or_else(|| list::newest(&body).map(|(version, _)| version))?;
        if !self.policy.rule(module).admits(&version) {
            return None;
        }
        let version = ModuleVersion::new(module.clone(), version).ok()?;
        self.upstream(module).info(&version, via).await.ok()
    }

    /// Resolves `latest` or a prefix among what is in the store.
    pub async fn resolve_local(&self, module: &ModulePath, query: &str) -> Result<Option<Bytes>, FillError> {
        let (path, query, rule) = (module.clone(), query.to_owned(), self.policy.rule(module).clone());
        self.blocking(module, move |store| resolve(store, &path, &query, &rule)).await
    }

    /// Asks whether a checksum database is forwarded by an upstream.
    pub async fn sumdb_supported(&self, name: &str, via: &Via) -> Result<bool, FillError> {
        let answer = self.policy.otherwise().upstream.sumdb_supported(name, via).await;
        answer.map_err(|error| FillError::upstream(format_args!("the checksum database {name}"), &error))
    }

    /// Asks a checksum database; `rest` is the path below its name.
    pub async fn sumdb(&self, name: &str, rest: &str, via: &Via) -> Result<SumdbAnswer, FillError> {
        let answer = self.policy.otherwise().upstream.sumdb(name, rest, via).await;
        answer.map_err(|error| {
            FillError::upstream(format_args!("{rest} of the checksum database {name}"), &error)
        })
    }

    /// Leaves those versions of a module that are to be had.
    fn admitted(&self, module: &ModulePath, mut versions: Vec<Version>) -> Vec<Version> {
        let rule = self.policy.rule(module);
        if !rule.admits_all() {
            versions.retain(|version| rule.admits(version));
        }
        versions
    }

    /// Says why the version of an info is not to be had.
    fn refused(&self, module: &ModulePath, body: &[u8]) -> Option<FillError> {
        let version = info::parse(body).ok()?.version;
        let is_refused = !self.policy.rule(module).admits(&version);
        is_refused.then(|| FillError::Denied(format!("{module}@{version}")))
    }

    fn upstream(&self, module: &ModulePath) -> &Upstream {
        &self.policy.rule(module).upstream
    }

    async fn or_local(&self, module: &ModulePath, query: &str, error: FillError) -> Result<Bytes, FillError> {
        if query != "latest" && !query::is_prefix(query) {
            return Err(error);
        }
        match self.resolve_local(module, query).await? {
            Some(info) => {
                tell_outage(module, &error);
                Ok(info)
            }
            None => Err(error),
        }
    }

    async fn stored_versions(&self, module: &ModulePath) -> Result<Option<Vec<Version>>, FillError> {
        let path = module.clone();
        let stored = self.blocking(format!("the list of {module}"), move |store| store.list(&path)).await?;
        Ok(stored.map(|versions| versions.to_vec()))
    }
}

/// Says that an answer is from the store alone, where it ought not to be.
fn tell_outage(module: &ModulePath, error: &FillError) {
    match error {
        FillError::Absent(_) | FillError::Offline(_) => {}
        _ => log::warn!("answering for {module} from the store alone: {error}"),
    }
}

fn resolve(
    store: &Store,
    module: &ModulePath,
    query: &str,
    rule: &Rule,
) -> Result<Option<Bytes>, StoreError> {
    let Some(versions) = store.list(module)? else { return Ok(None) };
    let versions: Vec<_> = versions.iter().filter(|version| rule.admits(version)).cloned().collect();
    let has_gomod = |version: &Version| -> Result<bool, StoreError> {
        let body = small(store, module, version, SmallFile::Mod)?;
        Ok(body.is_some_and(|body| body != modfile::synthesize(module)))
    };
    let tagged = query::resolve(module, query, &versions, has_gomod)?;
    let version = match tagged {
        Some(version) => version,
        None if query == "latest" => match newest_pseudo(&versions) {
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
