//! Questions about a module.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use stoa_gomod::{ModulePath, Revision, query};

use crate::policy::{ModulePermit, Rule};

/// A question about a permitted module, and the rule of the module.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) rule: Arc<Rule>,
}

impl Asked {
    pub(super) fn new(permit: ModulePermit<'_>, question: Question) -> Self {
        Self { question, rule: Arc::clone(permit.rule()) }
    }

    pub(super) fn module(&self) -> &ModulePath {
        self.question.module()
    }
}

/// For messages.
impl Display for Asked {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.question.fmt(f)
    }
}

/// A question about a module whose answer changes with time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Question {
    List(ModulePath),
    Latest(ModulePath),
    Query(ModulePath, Revision),
}

impl Question {
    pub(super) fn module(&self) -> &ModulePath {
        match self {
            Self::List(module) | Self::Latest(module) | Self::Query(module, _) => module,
        }
    }

    /// Returns the query if a list of versions answers it: `latest`, a prefix or a comparison.
    pub(super) fn listed_query(&self) -> Option<&str> {
        match self {
            Self::List(_) => None,
            Self::Latest(_) => Some("latest"),
            Self::Query(_, revision) => Some(revision.as_str()).filter(|query| query::is_range(query)),
        }
    }

    /// Returns the cache key of the answer of an upstream with this [tag](crate::upstream::Upstream::tag):
    /// the request path and the tag. Without tag, it is the key of the last answer of any upstream.
    pub(super) fn key(&self, tag: Option<&str>) -> String {
        let path = match self {
            Self::List(module) => format!("{}/@v/list", module.escaped()),
            Self::Latest(module) => format!("{}/@latest", module.escaped()),
            Self::Query(module, revision) => format!("{}/@v/{}.info", module.escaped(), revision.escaped()),
        };
        match tag {
            Some(tag) => format!("{path} {tag}"),
            None => path,
        }
    }

    /// Returns whether it asks for a full commit hash.
    pub(super) fn is_commit_hash(&self) -> bool {
        let Self::Query(_, revision) = self else { return false };
        let text = revision.as_str();
        matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// For messages.
impl Display for Question {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(module) => write!(f, "the list of {module}"),
            Self::Latest(module) => write!(f, "the latest version of {module}"),
            Self::Query(module, revision) => write!(f, "{module}@{revision}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(revision: &str) -> Question {
        Question::Query(ModulePath::new("example.com/Cap").unwrap(), Revision::new(revision).unwrap())
    }

    #[test]
    fn questions_have_different_keys() {
        let module = asking("x").module().clone();
        assert_eq!(Question::List(module.clone()).key(None), "example.com/!cap/@v/list");
        assert_eq!(Question::Latest(module.clone()).key(None), "example.com/!cap/@latest");
        assert_eq!(Question::Latest(module).key(Some("0a1b")), "example.com/!cap/@latest 0a1b");
        assert_eq!(asking("HEAD").key(None), "example.com/!cap/@v/!h!e!a!d.info");
        assert_ne!(asking("head").key(None), asking("HEAD").key(None));
    }

    #[test]
    fn only_a_full_hash_is_a_commit_hash() {
        for (revision, is_commit) in [
            ("0123456789abcdef0123456789abcdef01234567", true),
            ("0123456789abcdef0123456789abcdef0123456", false),
            ("0123456789ABCDEF0123456789abcdef01234567", false),
            ("main", false),
            ("v1", false),
        ] {
            assert_eq!(asking(revision).is_commit_hash(), is_commit, "{revision}");
        }
    }
}
