//! A canonical version, the only kind that files and lists are named by.

use crate::escape::{self, EscapeError};
use crate::text::as_text;
use crate::{pseudo, semver};
use std::cmp::Ordering;
use std::sync::Arc;

/// A canonical version, plain (not escaped).
///
/// - three numbers of any length, an optional pre-release;
/// - no build metadata but `+incompatible`.
///
/// Its order is precedence first, then byte order: `v2.0.0` and `v2.0.0+incompatible` have the same
/// precedence and are two versions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// Checks a plain version.
    pub fn new(version: &str) -> Result<Self, VersionError> {
        Self::accept(version).ok_or_else(|| match semver::is_valid(version) {
            true => VersionError::NotCanonical(version.to_owned(), semver::canonical_version(version)),
            false => VersionError::NotSemver(version.to_owned()),
        })
    }

    /// Decodes an escaped version, as it stands in URLs and file names, and checks it.
    pub fn unescape(escaped: &str) -> Result<Self, EscapeError> {
        Ok(Self::new(&escape::decode(escaped)?)?)
    }

    /// Checks a plain version without a word on what is wrong, for callers that would drop it.
    pub(crate) fn accept(version: &str) -> Option<Self> {
        semver::is_canonical(version).then(|| Self(Arc::from(version)))
    }

    /// Returns the plain version.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the version as it stands in URLs and file names.
    pub fn escaped(&self) -> String {
        escape::encode(&self.0)
    }

    /// Says whether it names a commit rather than a tag.
    pub fn is_pseudo(&self) -> bool {
        pseudo::is_pseudo(&self.0)
    }

    /// Says whether it marks a tag of v2 or later from before modules.
    pub fn is_incompatible(&self) -> bool {
        self.0.ends_with("+incompatible")
    }

    /// Says whether it has a pre-release; pseudo-versions do.
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

/// A text that is no canonical version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// It is no semantic version at all.
    #[error("{0:?} is not a version of the form vMAJOR.MINOR.PATCH")]
    NotSemver(String),
    /// It is a version, and its canonical form is another.
    #[error("version {0:?} is not canonical, {1:?} would be")]
    NotCanonical(String, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_name_what_is_wrong() {
        assert_eq!(
            Version::new("v1.2").unwrap_err().to_string(),
            r#"version "v1.2" is not canonical, "v1.2.0" would be"#
        );
        assert!(Version::new("master").unwrap_err().to_string().contains("master"));
    }

    #[test]
    fn equal_precedence_is_not_equality() {
        let (plain, incompatible) =
            (Version::new("v2.0.0").unwrap(), Version::new("v2.0.0+incompatible").unwrap());
        assert_ne!(plain, incompatible);
        assert!(plain < incompatible);
        assert!(incompatible.is_incompatible() && !incompatible.is_prerelease());
    }

    #[test]
    fn escaping_goes_both_ways() {
        let version = Version::new("v1.0.0-RC1").unwrap();
        assert_eq!(version.escaped(), "v1.0.0-!r!c1");
        assert_eq!(Version::unescape("v1.0.0-!r!c1").unwrap(), version);
        assert!(Version::unescape("v1.0.0-RC1").is_err());
        assert!(Version::unescape("v1.0").is_err());
    }
}
