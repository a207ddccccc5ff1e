//! The version for the query `latest` or a prefix such as `v1` or `v1.2`.
//!
//! The rule is that of the go command (`cmd/go/internal/modload`): the highest release, or else the highest
//! pre-release. `+incompatible` versions count only if the last compatible version has no go.mod. A
//! callback returns whether a version has a go.mod, and is only called if the result depends on it.
//! Branches and commits need the repository. Callers remove retracted versions.

use crate::path::{ModulePath, path_major_matches};
use crate::semver;
use crate::version::Version;
use std::convert::Infallible;

/// Returns the version for `latest` or a prefix among tagged versions in any order.
///
/// `None` if no version matches, or if the query is neither `latest` nor a prefix. Pseudo-versions are
/// skipped. `has_gomod` returns whether a version's tree has a go.mod; a generated one does not count.
pub fn resolve<E>(
    path: &ModulePath,
    query: &str,
    versions: &[Version],
    has_gomod: impl FnMut(&Version) -> Result<bool, E>,
) -> Result<Option<Version>, E> {
    match query {
        "latest" => latest(versions, has_gomod),
        _ if is_prefix(query) => prefix(path, query, versions, has_gomod),
        _ => Ok(None),
    }
}

/// Returns whether a query is a prefix: `vN` or `vN.M`.
pub fn is_prefix(query: &str) -> bool {
    semver::parse(query).is_some_and(|parts| parts.numbers < 3)
}

/// Returns the version for `latest`.
fn latest<E>(
    versions: &[Version],
    has_gomod: impl FnMut(&Version) -> Result<bool, E>,
) -> Result<Option<Version>, E> {
    select(sorted(versions, |_| true), false, has_gomod)
}

/// Returns the version for a prefix.
fn prefix<E>(
    path: &ModulePath,
    prefix: &str,
    versions: &[Version],
    has_gomod: impl FnMut(&Version) -> Result<bool, E>,
) -> Result<Option<Version>, E> {
    let start = format!("{prefix}.");
    // Pre-releases of the completed prefix are lower, so they are not candidates.
    let candidates = sorted(versions, |version| {
        version.as_str().starts_with(&start) && semver::compare(version.as_str(), prefix).is_ge()
    });
    let wants_incompatible = !path_major_matches(prefix, path.split_major().1);
    select(candidates, wants_incompatible, has_gomod)
}

/// Returns the version for `latest`, assuming that all versions have a go.mod.
pub fn latest_known(versions: &[Version]) -> Option<Version> {
    match latest(versions, |_| Ok::<_, Infallible>(true)) {
        Ok(version) => version,
        Err(never) => match never {},
    }
}

fn sorted(versions: &[Version], mut wanted: impl FnMut(&Version) -> bool) -> Vec<&Version> {
    let mut candidates: Vec<_> = versions.iter().filter(|v| wanted(v) && !v.is_pseudo()).collect();
    candidates.sort();
    candidates
}

fn select<E>(
    candidates: Vec<&Version>,
    mut wants_incompatible: bool,
    mut has_gomod: impl FnMut(&Version) -> Result<bool, E>,
) -> Result<Option<Version>, E> {
    let (mut release, mut prerelease, mut last_compatible) = (None, None, None);
    for version in candidates {
        if !wants_incompatible {
            if !version.is_incompatible() {
                last_compatible = Some(version);
            } else if let Some(compatible) = last_compatible {
                if has_gomod(compatible)? {
                    break;
                }
                wants_incompatible = true;
            }
        }
        if version.is_prerelease() {
            prerelease = Some(version);
        } else {
            release = Some(version);
        }
    }
    Ok(release.or(prerelease).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(list: &[&str]) -> Vec<Version> {
        list.iter().map(|version| Version::new(version).unwrap()).collect()
    }

    #[test]
    fn go_mods_are_only_requested_when_they_matter() {
        let asked = |list: &[&str]| {
            let mut asked = Vec::new();
            let has_gomod = |version: &Version| {
                asked.push(version.to_string());
                Ok::<_, Infallible>(true)
            };
            latest(&versions(list), has_gomod).unwrap();
            asked
        };
        assert!(asked(&["v1.0.0", "v1.1.0"]).is_empty());
        assert!(asked(&["v2.0.0+incompatible"]).is_empty());
        assert_eq!(asked(&["v3.0.0+incompatible", "v1.1.0", "v1.0.0"]), ["v1.1.0"]);
    }

    #[test]
    fn errors_of_the_callback_are_returned() {
        let list = versions(&["v1.0.0", "v2.0.0+incompatible"]);
        assert_eq!(latest(&list, |_| Err("offline")), Err("offline"));
    }

    #[test]
    fn a_prefix_of_another_major_matches_incompatible_versions() {
        let path = ModulePath::new("example.com/m").unwrap();
        let list = versions(&["v1.0.0", "v2.0.0+incompatible", "v2.1.1-rc+incompatible"]);
        let resolve = |query| resolve(&path, query, &list, |_| Ok::<_, Infallible>(true)).unwrap();
        assert_eq!(resolve("v2").unwrap().as_str(), "v2.0.0+incompatible");
        assert_eq!(resolve("v2.1").unwrap().as_str(), "v2.1.1-rc+incompatible");
        assert_eq!(resolve("latest").unwrap().as_str(), "v1.0.0");
        assert_eq!(resolve("v1.0.0"), None);
        assert_eq!(resolve("master"), None);
        assert_eq!(latest_known(&list).unwrap().as_str(), "v1.0.0");
    }
}
