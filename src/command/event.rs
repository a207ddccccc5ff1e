//! Parts that the events of several commands share.

use std::fmt;

use serde::Serialize;
use stoa_gomod::ModuleVersion;

/// A version in an event: `module` and `version` in JSON, `MODULE@VERSION` for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct VersionKeys<'a> {
    pub(crate) module: &'a str,
    pub(crate) version: &'a str,
}

impl<'a> From<&'a ModuleVersion> for VersionKeys<'a> {
    fn from(version: &'a ModuleVersion) -> Self {
        Self { module: version.path().as_str(), version: version.version().as_str() }
    }
}

impl fmt::Display for VersionKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.module, self.version)
    }
}
