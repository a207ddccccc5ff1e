//! Where things lie below the root. The only place that joins these names.

use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, ModuleVersion};

/// A file of a published version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionFile {
    /// The info body.
    Info,
    /// The go.mod body.
    Mod,
    /// The module zip.
    Zip,
    /// The seal: the `h1:` of the zip.
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

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Is the folder of a module's versions, relative to [`Self::modules`].
    pub(crate) fn versions_below_modules(module: &ModulePath) -> PathBuf {
        PathBuf::from(module.escaped() + "/@v")
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
