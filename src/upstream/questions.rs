//! Lists, the latest version, and queries.
//!
//! An entry that does not answer `@latest`, a prefix or a comparison may still have a list, as a tree of files does. The
//! version is then chosen from that list, by the rules of the Go Modules Reference, before the next entry is asked.
//! So the list and the latest version of a module come from the same entry.

use std::convert::Infallible;

use super::direct::SharedDownload;
use super::place::{Kept, Place, Request};
use super::{
    Check, MAX_INFO_BYTES, MAX_LIST_BYTES, MAX_MOD_BYTES, Upstream, UpstreamError, Via, Walk, checked_body,
};
use bytes::Bytes;
use stoa_gomod::{ModulePath, ModuleVersion, Revision, Version, list, modfile, query};

impl Upstream {
    /// Downloads the list of a module's versions, unchanged.
    pub async fn list(&self, module: &ModulePath, via: &Via) -> Result<Bytes, UpstreamError> {
        let path = list_path(module);
        self.body(0, &path, MAX_LIST_BYTES, &Check::List, via, Kept::default()).await.map(|(_, body)| body)
    }

    /// Downloads the info of the latest version of a module.
    pub async fn latest(&self, module: &ModulePath, via: &Via) -> Result<Bytes, UpstreamError> {
        self.resolve(module, "latest", &format!("{}/@latest", module.escaped()), via).await
    }

    /// Downloads the info of the version of a branch, a commit, a prefix or a comparison.
    pub async fn query(
        &self,
        module: &ModulePath,
        revision: &Revision,
        via: &Via,
    ) -> Result<Bytes, UpstreamError> {
        let path = format!("{}/@v/{}.info", module.escaped(), revision.escaped());
        self.resolve(module, revision.as_str(), &path, via).await
    }

    /// Downloads the info at `path`, or of the version for `query` in the list of an entry that has no such info.
    async fn resolve(
        &self,
        module: &ModulePath,
        query: &str,
        path: &str,
        via: &Via,
    ) -> Result<Bytes, UpstreamError> {
        let mut walk = self.inner.walk(0, path, via)?;
        while let Some((_, place)) = walk.place() {
            match (Entry { upstream: self, walk: &walk, place }).resolve(module, query, path).await {
                Ok(body) => return Ok(body),
                Err(error) => walk.fail(error),
            }
        }
        Err(walk.into_error())
    }
}

/// An entry of the list, and the request on its way along the list.
struct Entry<'w> {
    upstream: &'w Upstream,
    walk: &'w Walk<'w>,
    place: &'w Place,
}

impl Entry<'_> {
    async fn resolve(&self, module: &ModulePath, query: &str, path: &str) -> Result<Bytes, UpstreamError> {
        // The go command resolves everything itself.
        let has_own_rules = matches!(self.place, Place::Direct(_));
        let absent = match query::is_comparison(query) && !has_own_rules {
            // The protocol has no comparisons.
            true => UpstreamError::NotFound { url: self.place.shown(), message: NONE_MATCHES.to_owned() },
            false => match self.body(path, MAX_INFO_BYTES, &Check::Info(module, query)).await {
                Err(error) if error.is_absent() && !has_own_rules && is_listed(query) => error,
                answer => return answer,
            },
        };
        self.resolve_listed(module, query).await?.ok_or(absent)
    }

    /// Downloads the info of the version for a query in the list of the entry. Returns `None` if the entry has no list,
    /// or no such version.
    async fn resolve_listed(&self, module: &ModulePath, query: &str) -> Result<Option<Bytes>, UpstreamError> {
        let body = match self.body(&list_path(module), MAX_SEARCHED_LIST_BYTES, &Check::List).await {
            Err(error) if error.is_absent() => return Ok(None),
            body => body?,
        };
        let mut versions = list::versions(&body);
        versions.retain(|version| ModuleVersion::new(module.clone(), version.clone()).is_ok());
        let version = match self.choose(module, query, &versions).await? {
            None if query == "latest" => list::newest(&body).map(|(version, _)| version),
            version => version,
        };
        let Some(version) = version.and_then(|version| ModuleVersion::new(module.clone(), version).ok())
        else {
            return Ok(None);
        };
        let check = Check::Info(module, version.version().as_str());
        self.body(&file_path(&version, "info"), MAX_INFO_BYTES, &check).await.map(Some)
    }

    /// Chooses the version for a query, as the go command does.
    async fn choose(
        &self,
        module: &ModulePath,
        query: &str,
        versions: &[Version],
    ) -> Result<Option<Version>, UpstreamError> {
        let mut decisive = None;
        let Ok(chosen) = query::resolve(module, query, versions, |version| {
            decisive = Some(version.clone());
            Ok::<_, Infallible>(true)
        });
        // `+incompatible` versions count only if this version has no go.mod.
        let Some(decisive) = decisive.and_then(|version| ModuleVersion::new(module.clone(), version).ok())
        else {
            return Ok(chosen);
        };
        let body = self.body(&file_path(&decisive, "mod"), MAX_MOD_BYTES, &Check::Mod).await?;
        if body != modfile::synthesize(module) {
            return Ok(chosen);
        }
        let Ok(chosen) = query::resolve(module, query, versions, |_| Ok::<_, Infallible>(false));
        Ok(chosen)
    }

    async fn body(&self, path: &str, limit: u64, check: &Check<'_>) -> Result<Bytes, UpstreamError> {
        let shared = SharedDownload::default();
        let request = self.upstream.inner.request(path, limit, self.walk.via.as_ref());
        let kept =
            Kept { shared: Some(&shared), memory: Some(&self.upstream.inner.memory), ..Kept::default() };
        checked_body(self.place, Request { kept, ..request }, check).await
    }
}

/// The maximum size in bytes of a list in which a version is searched. Its versions take ten times as much memory.
const MAX_SEARCHED_LIST_BYTES: u64 = 1 << 20;

const NONE_MATCHES: &str = "no version in its list matches";

/// Returns whether a query can be resolved from a list.
fn is_listed(query: &str) -> bool {
    query == "latest" || query::is_range(query)
}

fn list_path(module: &ModulePath) -> String {
    format!("{}/@v/list", module.escaped())
}

fn file_path(version: &ModuleVersion, extension: &str) -> String {
    format!("{}/@v/{}.{extension}", version.path().escaped(), version.version().escaped())
}
