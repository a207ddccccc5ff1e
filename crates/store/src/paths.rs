//! The paths below the root of a store. No other module joins these names.

use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::PathError;

use crate::files::metadata;
use crate::metadata::Metadata;

/// A file of a published version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionFile {
    /// The info.
    Info,
    /// The go.mod.
    Mod,
    /// The zip.
    Zip,
    /// The seal, which holds the `h1:` of the zip.
    Seal,
}

impl VersionFile {
    pub(crate) const ALL: [Self; 4] = [Self::Info, Self::Mod, Self::Zip, Self::Seal];

    /// Returns the name of the file in the folder of a version.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Mod => "mod",
            Self::Zip => "zip",
            Self::Seal => "ziphash",
        }
    }
}

/// The root of a store, with the paths below it.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("modules")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn claims(&self) -> PathBuf {
        self.root.join("staging/claims")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("staging/reserve")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Returns the folder of the versions of a module, relative to `modules` or `records`.
    pub(crate) fn versions_below_modules(module: &ModulePath) -> PathBuf {
        PathBuf::from(module.escaped() + "/@v")
    }

    /// Returns a path below the root relative to it.
    pub(crate) fn relative<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }

    pub(crate) fn versions(&self, module: &ModulePath) -> PathBuf {
        self.modules().join(Self::versions_below_modules(module))
    }

    pub(crate) fn version(&self, version: &ModuleVersion) -> PathBuf {
        self.versions(version.path()).join(version.version().escaped())
    }

    pub(crate) fn file(&self, version: &ModuleVersion, file: VersionFile) -> PathBuf {
        self.version(version).join(file.name())
    }
}

/// Returns the metadata of the info, the mod and the zip in the folder of a version. `None` for what is not a
/// regular file.
pub(crate) fn version_metadata(folder: &Path) -> Result<[Option<Metadata>; 3], PathError> {
    let regular = |file: VersionFile| -> Result<_, PathError> {
        Ok(metadata(&folder.join(file.name()))?.filter(Metadata::is_file))
    };
    Ok([regular(VersionFile::Info)?, regular(VersionFile::Mod)?, regular(VersionFile::Zip)?])
}
