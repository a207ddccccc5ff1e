//! A module path and a version that agree, which is what the files of the protocol belong to.

use crate::path::{self, ModulePath, PathError, path_major_matches};
use crate::semver;
use crate::version::{Version, VersionError};
use std::fmt;
use std::str::FromStr;

/// A module at a version; both are valid, and the major of one agrees with the major of the other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleVersion {
    path: ModulePath,
    version: Version,
}

impl ModuleVersion {
    /// Checks that path and version agree.
    pub fn new(path: ModulePath, version: Version) -> Result<Self, PairError> {
        match agree(&path, version.as_str()) {
            true => Ok(Self::of_agreeing(path, version)),
            false => Err(PairError::Major { path: path.to_string(), version: version.to_string() }),
        }
    }

    /// Checks a pair written `path@version`, both plain.
    pub fn parse(pair: &str) -> Result<Self, PairError> {
        let (path, version) = pair.split_once('@').ok_or_else(|| PairError::NoAt(pair.to_owned()))?;
        Self::new(ModulePath::new(path)?, Version::new(version)?)
    }

    /// Makes a pair of a path and a version that are known to agree.
    pub(crate) fn of_agreeing(path: ModulePath, version: Version) -> Self {
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

    /// Returns what every name in the module's zip begins with, `path@version/`.
    pub fn zip_prefix(&self) -> String {
        format!("{self}/")
    }
}

/// Says whether a version, which need not be canonical, agrees with the major suffix of a path.
pub(crate) fn agree(path: &ModulePath, version: &str) -> bool {
    path_major_matches(version, path.split_major().1)
}

/// Checks that a plain path and a plain version, shorthands included, make an acceptable pair.
pub fn check(path: &str, version: &str) -> Result<(), PairError> {
    path::check_module(path)?;
    if !semver::is_valid(version) {
        return Err(VersionError::NotSemver(version.to_owned()).into());
    }
    let path_major = path::split_path_major(path).map_or("", |(_, major)| major);
    match path_major_matches(version, path_major) {
        true => Ok(()),
        false => Err(PairError::Major { path: path.to_owned(), version: version.to_owned() }),
    }
}

/// A path and a version that make no acceptable pair.
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
    /// The major of the version is not the one of the path.
    #[error("version {version:?} does not agree with the major suffix of module path {path:?}")]
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
    fn a_pair_is_parsed_and_shown() {
        let pair = ModuleVersion::parse("example.com/Mod/v2@v2.1.0").unwrap();
        assert_eq!(pair.to_string(), "example.com/Mod/v2@v2.1.0");
        assert_eq!(pair.zip_prefix(), "example.com/Mod/v2@v2.1.0/");
        let json = serde_json::to_string(&pair).unwrap();
        assert_eq!(serde_json::from_str::<ModuleVersion>(&json).unwrap(), pair);
    }

    #[test]
    fn each_part_is_refused_for_its_own_reason() {
        let parse = |pair| ModuleVersion::parse(pair).unwrap_err();
        assert!(matches!(parse("example.com/m"), PairError::NoAt(_)));
        assert!(matches!(parse("example/m@v1.0.0"), PairError::Path(_)));
        assert!(matches!(parse("example.com/m@v1.0"), PairError::Version(_)));
        assert!(matches!(parse("example.com/m@v2.0.0"), PairError::Major { .. }));
    }
}
