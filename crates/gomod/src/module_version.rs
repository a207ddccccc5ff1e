//! A module path and a version that agree, which identify the files of the protocol.

use crate::path::{ModulePath, PathError, path_major_matches};
use crate::version::{Version, VersionError};
use std::fmt;
use std::str::FromStr;

/// A module at a version. Both are valid, and their major versions agree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleVersion {
    path: ModulePath,
    version: Version,
}

impl ModuleVersion {
    /// Creates a pair if path and version agree.
    pub fn new(path: ModulePath, version: Version) -> Result<Self, PairError> {
        match agree(&path, version.as_str()) {
            true => Ok(Self::from_agreeing(path, version)),
            false => Err(PairError::Major { path: path.to_string(), version: version.to_string() }),
        }
    }

    /// Parses an unescaped pair `path@version`.
    pub fn parse(pair: &str) -> Result<Self, PairError> {
        let (path, version) = pair.split_once('@').ok_or_else(|| PairError::NoAt(pair.to_owned()))?;
        Self::new(ModulePath::new(path)?, Version::new(version)?)
    }

    /// Creates a pair of a path and a version that agree.
    pub(crate) fn from_agreeing(path: ModulePath, version: Version) -> Self {
        Self { path, version }
    }

    /// Returns the module path.
    pub fn path(&self) -> &ModulePath {
        &self.path
    }

    /// Returns the version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Returns the prefix of all names in the module's zip, `path@version/`.
    pub fn zip_prefix(&self) -> String {
        format!("{self}/")
    }
}

/// Returns whether a version agrees with the major suffix of a path. The version need not be canonical.
pub(crate) fn agree(path: &ModulePath, version: &str) -> bool {
    path_major_matches(version, path.split_major().1)
}

/// The reason why a path and a version are not a valid pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The text has no `@`.
    #[error("{0:?} is not of the form path@version")]
    NoAt(String),
    /// The path is not a module path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The version is not a canonical version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The major version differs from the major suffix of the path.
    #[error("version {version:?} does not match the major version suffix of module path {path:?}")]
    Major {
        /// The module path.
        path: String,
        /// The version.
        version: String,
    },
}

impl fmt::Display for ModuleVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.path.as_str(), self.version.as_str())
    }
}

impl fmt::Debug for ModuleVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for ModuleVersion {
    type Err = PairError;

    fn from_str(pair: &str) -> Result<Self, PairError> {
        Self::parse(pair)
    }
}

impl serde::Serialize for ModuleVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ModuleVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pair = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&pair).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_parsed_and_printed() {
        let pair = ModuleVersion::parse("example.com/Mod/v2@v2.1.0").unwrap();
        assert_eq!(pair.to_string(), "example.com/Mod/v2@v2.1.0");
        assert_eq!(pair.zip_prefix(), "example.com/Mod/v2@v2.1.0/");
        let json = serde_json::to_string(&pair).unwrap();
        assert_eq!(serde_json::from_str::<ModuleVersion>(&json).unwrap(), pair);
    }

    #[test]
    fn each_error_names_the_invalid_part() {
        let parse = |pair| ModuleVersion::parse(pair).unwrap_err();
        assert!(matches!(parse("example.com/m"), PairError::NoAt(_)));
        assert!(matches!(parse("example/m@v1.0.0"), PairError::Path(_)));
        assert!(matches!(parse("example.com/m@v1.0"), PairError::Version(_)));
        assert!(matches!(parse("example.com/m@v2.0.0"), PairError::Major { .. }));
    }
}
