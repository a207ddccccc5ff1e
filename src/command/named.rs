//! Modules and versions that a person names on a command line.

use std::fmt::{self, Display};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::{Store, StoreError};

/// A module or a version on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// All versions of a module.
    Module(ModulePath),
    /// A single version.
    Version(ModuleVersion),
}

impl Named {
    /// Parses `MODULE` or `MODULE@VERSION`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return ModuleVersion::parse(text).map(Self::Version).map_err(|error| error.to_string());
        }
        ModulePath::new(text).map(Self::Module).map_err(|error| error.to_string())
    }
}

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(module) => module.fmt(f),
            Self::Version(version) => version.fmt(f),
        }
    }
}

/// Returns the versions of a module in the store.
pub(crate) fn versions_of(store: &Store, module: &ModulePath) -> Result<Vec<ModuleVersion>, StoreError> {
    Ok(pairs(module, store.list(module)?.as_deref().unwrap_or_default()))
}

/// Joins a module with each of its versions.
pub(crate) fn pairs(module: &ModulePath, versions: &[Version]) -> Vec<ModuleVersion> {
    let pair = |version: &Version| ModuleVersion::new(module.clone(), version.clone()).ok();
    versions.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_module_or_a_version() {
        assert!(matches!(Named::parse("example.com/m"), Ok(Named::Module(_))));
        assert!(matches!(Named::parse("example.com/m@v1.0.0"), Ok(Named::Version(_))));
        for bad in ["", "M", "example.com/m@", "example.com/m@latest", "/etc", "@v1.0.0"] {
            assert!(Named::parse(bad).is_err(), "{bad}");
        }
    }
}
