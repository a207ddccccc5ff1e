//! A canonical version. Files and lists only contain canonical versions.

use crate::escape::{self, EscapeError};
use crate::text::as_text;
use crate::{pseudo, semver};
use std::cmp::Ordering;
use std::sync::Arc;

/// A canonical, unescaped version.
///
/// - Three numbers of any length, and an optional pre-release.
/// - No build metadata but `+incompatible`.
///
/// The order is precedence first, then byte order: `v2.0.0` and `v2.0.0+incompatible` have the same
/// precedence and are different versions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// Parses an unescaped version.
    pub fn new(version: &str) -> Result<Self, VersionError> {
        Self::accept(version).ok_or_else(|| match semver::is_valid(version) {
            true => VersionError::NotCanonical(version.to_owned(), semver::canonical_version(version)),
            false => VersionError::NotSemver(version.to_owned()),
        })
    }

    /// Parses an escaped version, as in URLs and file names.
    pub fn unescape(escaped: &str) -> Result<Self, EscapeError> {
        Ok(Self::new(&escape::decode(escaped)?)?)
    }

    /// Parses an unescaped version. Returns `None` if it is invalid.
    pub(crate) fn accept(version: &str) -> Option<Self> {
        semver::is_canonical(version).then(|| Self(Arc::from(version)))
    }

    /// Returns the unescaped version.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the escaped version, as in URLs and file names.
    pub fn escaped(&self) -> String {
        escape::encode(&self.0)
    }

    /// Returns whether it is a pseudo-version.
    pub fn is_pseudo(&self) -> bool {
        pseudo::is_pseudo(&self.0)
    }

    /// Returns whether it is an `+incompatible` version.
    pub fn is_incompatible(&self) -> bool {
        self.0.ends_with("+incompatible")
    }

    /// Returns whether it has a pre-release, as pseudo-versions do.
    pub fn is_prerelease(&self) -> bool {
        !semver::prerelease(&self.0).is_empty()
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        semver::compare_total(&self.0, &other.0)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

as_text!(Version, VersionError);

/// The reason why a text is not a canonical version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// It is not a semantic version.
    #[error("invalid version {0:?}: expected vMAJOR.MINOR.PATCH")]
    NotSemver(String),
    /// It is a version, but not in canonical form.
    #[error("version {0:?} is not canonical; use {1:?}")]
    NotCanonical(String, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_fault() {
        assert_eq!(
            Version::new("v1.2").unwrap_err().to_string(),
            r#"version "v1.2" is not canonical; use "v1.2.0""#
        );
        assert!(Version::new("master").unwrap_err().to_string().contains("master"));
    }

    #[test]
    fn versions_with_equal_precedence_differ() {
        let (plain, incompatible) =
            (Version::new("v2.0.0").unwrap(), Version::new("v2.0.0+incompatible").unwrap());
        assert_ne!(plain, incompatible);
        assert!(plain < incompatible);
        assert!(incompatible.is_incompatible() && !incompatible.is_prerelease());
    }

    #[test]
    fn versions_are_escaped_and_unescaped() {
        let version = Version::new("v1.0.0-RC1").unwrap();
        assert_eq!(version.escaped(), "v1.0.0-!r!c1");
        assert_eq!(Version::unescape("v1.0.0-!r!c1").unwrap(), version);
        assert!(Version::unescape("v1.0.0-RC1").is_err());
        assert!(Version::unescape("v1.0").is_err());
    }
}
