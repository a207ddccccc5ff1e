//! Answers from the store and the bucket, by Go's rules.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use stoa_bucket::ListedThere;
use stoa_gomod::{ModulePath, ModuleVersion, Version, info, modfile, pseudo, query};
use stoa_store::{SmallFile, Store};

use super::state::Answers;
use crate::policy::Rule;
use crate::tasks::{How, blocking, note};
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

    /// Returns the versions of a module in the store and in the bucket.
    pub(super) async fn known_versions(&self, module: &ModulePath) -> Result<KnownVersions, Unavailable> {
        let stored = self.stored_versions(module).await?;
        let mut known = self.versions_in_bucket(module).await;
        if known.shared.present.is_empty() {
            return Ok(KnownVersions { versions: stored, ..known });
        }
        let mut all = stored.unwrap_or_default();
        add_versions(&mut all, known.shared.present.iter().cloned());
        known.versions = Some(all);
        Ok(known)
    }

    /// Returns the versions of a module in the store, in the bucket, and those that peers have named and that are fetched at
    /// the first request.
    pub(super) async fn listed_versions(&self, module: &ModulePath) -> Result<KnownVersions, Unavailable> {
        let mut known = self.known_versions(module).await?;
        if !self.has_peers {
            return Ok(known);
        }
        let named = module.clone();
        let listed = move |store: &Store| Ok(store.peers().listed(&named).map_err(|error| error.to_string()));
        match blocking(&self.store, format!("the list of {module}"), listed).await? {
            Ok(named) if named.is_empty() => {}
            Ok(named) => add_versions(known.versions.get_or_insert_default(), named),
            Err(reason) => log::debug!(module:% = module, reason; "answering without the versions of peers"),
        }
        Ok(known)
    }

    /// Returns the versions of a module in the bucket. None if there is no bucket, or in an outage, which is logged. In an
    /// outage, the tombstones of the last list still count.
    pub(super) async fn versions_in_bucket(&self, module: &ModulePath) -> KnownVersions {
        let Some(tier) = &self.tier else { return KnownVersions::default() };
        match tier.list(module).await {
            Ok(shared) => KnownVersions { shared, ..KnownVersions::default() },
            Err(error) => {
                log::debug!(module:% = module, reason = error.without_help(); "answering without the versions in the bucket");
                let outage = Some(crate::bucket::unusable(format_args!("the versions of {module}")));
                let forbidden = tier.last_forbidden(module);
                let shared = Arc::new(ListedThere { forbidden, ..ListedThere::default() });
                KnownVersions { shared, outage, ..KnownVersions::default() }
            }
        }
    }

    /// Resolves `latest` or a prefix among the versions in the store and in the bucket that may be named. An error in an
    /// outage of the bucket, if the store has no answer.
    pub(super) async fn resolve(
        &self,
        module: &ModulePath,
        rule: &Rule,
        query: &str,
    ) -> Result<Option<Bytes>, Unavailable> {
        let KnownVersions { versions, shared, outage } = self.known_versions(module).await?;
        let none = || outage.clone().map_or(Ok(None), Err);
        let Some(mut versions) = versions else { return none() };
        self.remove_hidden(module, rule, &shared, &mut versions).await?;
        let Some(version) = self.chosen(module, query, &versions).await? else { return none() };
        let info = self.small(module, &version, SmallFile::Info).await?;
        if let (None, Some(tier)) = (&info, &self.tier) {
            tier.check_reachable(&version)?;
        }
        // A listed version has an info, unless it was removed just now.
        Ok(info.filter(|body| info::parse(body).is_ok()))
    }

    async fn chosen(
        &self,
        module: &ModulePath,
        query: &str,
        versions: &[Version],
    ) -> Result<Option<Version>, Unavailable> {
        let has_gomod = async |version: &Version| Ok(self.has_gomod(module, version).await? == Some(true));
        let tagged = choose(module, query, versions, has_gomod).await?;
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

/// The versions of a module in the store and in the bucket.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownVersions {
    /// The versions that exist. `None` if nothing is known of the module.
    pub(super) versions: Option<Vec<Version>>,
    /// The versions in the bucket.
    pub(super) shared: Arc<ListedThere>,
    /// The error for clients if the bucket could not be asked, for an answer that nobody else has.
    pub(super) outage: Option<Unavailable>,
}

/// Adds versions that are not there.
fn add_versions(all: &mut Vec<Version>, more: impl IntoIterator<Item = Version>) {
    let seen: HashSet<String> = all.iter().map(ToString::to_string).collect();
    all.extend(more.into_iter().filter(|version| !seen.contains(version.as_str())));
}

/// Resolves a query among versions. `has_gomod` returns whether a version has a go.mod, and is asked about at most one.
pub(super) async fn choose(
    module: &ModulePath,
    query: &str,
    versions: &[Version],
    has_gomod: impl AsyncFnOnce(&Version) -> Result<bool, Unavailable>,
) -> Result<Option<Version>, Unavailable> {
    match query::resolve(module, query, versions, |version| Err(version.clone())) {
        Ok(chosen) => Ok(chosen),
        Err(decisive) => {
            let has_gomod = has_gomod(&decisive).await?;
            let Ok(chosen) = query::resolve(module, query, versions, |_| Ok::<_, Infallible>(has_gomod));
            Ok(chosen)
        }
    }
}

/// Logs that an answer comes from the store alone because the upstream failed.
pub(super) fn log_outage(module: &ModulePath, error: &Unavailable) {
    match error {
        Unavailable::Absent(_)
        | Unavailable::Offline(_)
        | Unavailable::Denied { .. }
        | Unavailable::Gone(_) => {}
        _ => {
            note(How::Stale);
            log::warn!(module:% = module, reason:% = error; "the upstream failed, answering from the store only")
        }
    }
}

fn newest_pseudo(versions: &[Version]) -> Option<&Version> {
    let pseudos = versions.iter().filter(|version| version.is_pseudo());
    pseudos.max_by_key(|version| pseudo::time(version.as_str()))
}
