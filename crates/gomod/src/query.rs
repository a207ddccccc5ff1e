//! The version for the query `latest`, a prefix such as `v1` or `v1.2`, or a comparison such as `<v1.5.0`.
//!
//! The rule is that of the go command (`cmd/go/internal/modload`): the highest release, or else the highest
//! pre-release. After `>` and `>=` it is the lowest one. `+incompatible` versions count only if the last compatible version has no go.mod. A
//! callback returns whether a version has a go.mod, and is only called if the result depends on it.
//! Branches and commits need the repository. Callers remove retracted versions.

use crate::path::{ModulePath, path_major_matches};
use crate::semver;
use crate::version::Version;
use std::convert::Infallible;

/// Returns the version for `latest`, a prefix or a comparison among tagged versions in any order.
///
/// `None` if no version matches, or if the query is of another kind. Pseudo-versions are skipped. `has_gomod`
/// returns whether a version's tree has a go.mod; a generated one does not count. It is called at most once.
pub fn resolve<E>(
    path: &ModulePath,
    query: &str,
    versions: &[Version],
    has_gomod: impl FnMut(&Version) -> Result<bool, E>,
) -> Result<Option<Version>, E> {
    if query == "latest" {
        return latest(versions, has_gomod);
    }
    if let Some((comparison, limit)) = comparison(query) {
        let candidates = sorted(versions, |version| comparison.holds(version, limit));
        let is_lowest = matches!(comparison, Comparison::Above | Comparison::AtLeast);
        return select(candidates, is_lowest, is_of_other_major(path, limit), has_gomod);
    }
    if is_prefix(query) {
        let start = format!("{query}.");
        // Pre-releases of the completed prefix are lower, so they are not candidates.
        let candidates = sorted(versions, |version| {
            version.as_str().starts_with(&start) && semver::compare(version.as_str(), query).is_ge()
        });
        return select(candidates, false, is_of_other_major(path, query), has_gomod);
    }
    Ok(None)
}

/// Returns whether a query is a prefix or a comparison, which a list answers.
pub fn is_range(query: &str) -> bool {
    is_prefix(query) || is_comparison(query)
}

/// Returns whether a query is a comparison: `<V`, `<=V`, `>V` or `>=V`.
///
/// In `<=V` and `>V`, the version must be complete: `<=v1.2` could mean v1.2.0 or all of v1.2.
pub fn is_comparison(query: &str) -> bool {
    comparison(query).is_some()
}

/// Returns whether a query is a prefix: `vN` or `vN.M`.
fn is_prefix(query: &str) -> bool {
    semver::parse(query).is_some_and(|parts| parts.numbers < 3)
}

#[derive(Clone, Copy)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

impl Comparison {
    fn holds(self, version: &Version, limit: &str) -> bool {
        let order = semver::compare(version.as_str(), limit);
        match self {
            Self::Below => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Above => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

fn comparison(query: &str) -> Option<(Comparison, &str)> {
    let operators = [
        ("<=", Comparison::AtMost),
        ("<", Comparison::Below),
        (">=", Comparison::AtLeast),
        (">", Comparison::Above),
    ];
    let (comparison, limit) =
        operators.iter().find_map(|(text, comparison)| Some((*comparison, query.strip_prefix(text)?)))?;
    let is_ambiguous = matches!(comparison, Comparison::AtMost | Comparison::Above) && is_prefix(limit);
    (semver::is_valid(limit) && !is_ambiguous).then_some((comparison, limit))
}

fn is_of_other_major(path: &ModulePath, version: &str) -> bool {
    !path_major_matches(version, path.split_major().1)
}

/// Returns the version for `latest`.
fn latest<E>(
    versions: &[Version],
    has_gomod: impl FnMut(&Version) -> Result<bool, E>,
) -> Result<Option<Version>, E> {
    select(sorted(versions, |_| true), false, false, has_gomod)
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
    is_lowest: bool,
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
        let best = if version.is_prerelease() { &mut prerelease } else { &mut release };
        if !is_lowest || best.is_none() {
            *best = Some(version);
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
    fn comparisons_choose_the_nearest_release() {
        let path = ModulePath::new("example.com/m").unwrap();
        let list = versions(&["v1.0.0", "v1.2.0", "v1.3.0-rc.1", "v1.5.0", "v1.6.0"]);
        let resolve = |query: &str| {
            let Ok(version) = resolve(&path, query, &list, |_| Ok::<_, Infallible>(true));
            version.map(|version| version.to_string())
        };
        for (query, version) in [
            ("<v1.5.0", Some("v1.2.0")),
            ("<=v1.5.0", Some("v1.5.0")),
            ("<v1.5", Some("v1.2.0")),
            (">v1.2.0", Some("v1.5.0")),
            (">=v1.2.0", Some("v1.2.0")),
            (">=v1.3", Some("v1.5.0")),
            (">v1.6.0", None),
            ("<v1.0.0", None),
            ("<=v1.5", None),
            (">v1", None),
            ("<1.5.0", None),
            ("<", None),
        ] {
            assert_eq!(resolve(query).as_deref(), version, "{query}");
        }
        assert!(is_range("v1") && is_range("<v1.5.0") && !is_range("<=v1.5") && !is_range("v1.0.0"));
    }

    #[test]
    fn a_prefix_of_another_major_matches_incompatible_versions() {
        let path = ModulePath::new("example.com/m").unwrap();
        let list = versions(&["v1.0.0", "v2.0.0+incompatible", "v2.1.1-rc+incompatible"]);
        let resolve = |query| resolve(&path, query, &list, |_| Ok::<_, Infallible>(true)).unwrap();
        assert_eq!(resolve("v2").unwrap().as_str(), "v2.0.0+incompatible");
        assert_eq!(resolve("v2.1").unwrap().as_str(), "v2.1.1-rc+incompatible");
        assert_eq!(resolve("latest").unwrap().as_str(), "v1.0.0");
        assert_eq!(resolve("<v2.1.0").unwrap().as_str(), "v2.0.0+incompatible");
        assert_eq!(resolve("v1.0.0"), None);
        assert_eq!(resolve("master"), None);
        assert_eq!(latest_known(&list).unwrap().as_str(), "v1.0.0");
    }
}
