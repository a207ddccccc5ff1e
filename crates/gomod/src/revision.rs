//! The version element of a request: a branch, a tag, a commit, a prefix, a comparison.

use crate::escape::{self, EscapeError};
use crate::path::{self, PathKind};
use crate::query;
use crate::text::as_text;
use std::sync::Arc;

/// A valid, unescaped version element of a request.
///
/// - One element of a file path: no slash, not a name reserved by Windows, no trailing dot.
/// - ASCII without `!`, so that it can be escaped.
///
/// A comparison such as `<v1.5.0` is valid, too. The go command never sends one, since `<` is not allowed in file names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Parses an unescaped version element.
    pub fn new(revision: &str) -> Result<Self, RevisionError> {
        Self::accept(revision).ok_or_else(|| RevisionError(revision.to_owned()))
    }

    /// Parses an escaped version element.
    pub fn unescape(escaped: &str) -> Result<Self, EscapeError> {
        Ok(Self::new(&escape::decode(escaped)?)?)
    }

    /// Parses an unescaped version element. Returns `None` if it is invalid.
    pub(crate) fn accept(revision: &str) -> Option<Self> {
        is_legal(revision).then(|| Self(Arc::from(revision)))
    }

    /// Returns the unescaped text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the escaped text, as in URLs.
    pub fn escaped(&self) -> String {
        escape::encode(&self.0)
    }
}

/// Returns whether a text is a valid version element.
pub(crate) fn is_legal(revision: &str) -> bool {
    let is_file_name = || {
        revision.is_ascii()
            && !revision.contains(['!', '/'])
            && path::element_reason(PathKind::File, revision).is_none()
    };
    is_file_name() || query::is_comparison(revision)
}

as_text!(Revision, RevisionError);

/// The error for an invalid version element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid version or query {0:?}: it must be a valid file name in ASCII, without '!' and '/'; for a branch with another name, use its commit"
)]
pub struct RevisionError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_valid_if_they_are_a_single_file_name() {
        for good in ["master", "release branch", "a^b", "v1", "HEAD", ".x", "v1.0.0+meta", "<=v1.2.0"] {
            assert_eq!(Revision::new(good).unwrap().as_str(), good);
            assert_eq!(Revision::unescape(&Revision::new(good).unwrap().escaped()).unwrap().as_str(), good);
        }
        for bad in ["", "feature/x", "..", "con", "a:b", "a!b", "é", "end.", "<v1.0.0/x", "<main"] {
            assert!(Revision::new(bad).is_err(), "{bad}");
        }
    }
}
