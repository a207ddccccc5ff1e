//! What a request may ask for in the place of a version: a branch, a tag, a commit, a shorthand.

use crate::escape::{self, EscapeError};
use crate::path::{self, PathKind};
use crate::text::as_text;
use std::sync::Arc;

/// A legal version element of a request, plain (not escaped).
///
/// - one element of a file path: no slash, no device name of Windows, no trailing dot;
/// - ASCII, and without `!`, so that it can be escaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Checks a plain version element.
    pub fn new(revision: &str) -> Result<Self, RevisionError> {
        Self::accept(revision).ok_or_else(|| RevisionError(revision.to_owned()))
    }

    /// Decodes an escaped version element and checks it.
    pub fn unescape(escaped: &str) -> Result<Self, EscapeError> {
        Ok(Self::new(&escape::decode(escaped)?)?)
    }

    /// Checks a plain version element without a word on what is wrong.
    pub(crate) fn accept(revision: &str) -> Option<Self> {
        is_legal(revision).then(|| Self(Arc::from(revision)))
    }

    /// Returns the plain text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text as it stands in URLs.
    pub fn escaped(&self) -> String {
        escape::encode(&self.0)
    }
}

/// Says whether the text can stand as a version element, escaped, in a URL.
pub(crate) fn is_legal(revision: &str) -> bool {
    revision.is_ascii()
        && !revision.contains(['!', '/'])
        && path::element_reason(PathKind::File, revision).is_none()
}

as_text!(Revision, RevisionError);

/// A text that can't stand in the place of a version in a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be asked for as a version: it must be one file name of plain ASCII, without '!' or '/'"
)]
pub struct RevisionError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_pass_if_they_are_one_file_name() {
        for good in ["master", "release branch", "a^b", "v1", "HEAD", ".x", "v1.0.0+meta"] {
            assert_eq!(Revision::new(good).unwrap().as_str(), good);
            assert_eq!(Revision::unescape(&Revision::new(good).unwrap().escaped()).unwrap().as_str(), good);
        }
        for bad in ["", "feature/x", "..", "con", "a:b", "a!b", "é", "end."] {
            assert!(Revision::new(bad).is_err(), "{bad}");
        }
    }
}
