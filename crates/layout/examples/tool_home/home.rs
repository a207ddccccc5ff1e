//! The home at the current layout. This code knows no other layout.
//!
//! ```text
//! layout.v2  store.lock
//! toolchains/NAME/VERSION/bin/NAME
//! bin/NAME -> ../toolchains/NAME/VERSION/bin/NAME     a shim, derived: the newest version
//! settings.toml                                       the user's settings, optional
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use stoa_layout::marker::Marker;
use stoa_layout::{LayoutId, Pass, PathError};

/// The layout that this program works with.
pub(crate) const LAYOUT: LayoutId = LayoutId::fixed("v2");

/// An open home. It requires a passed gate.
pub(crate) struct Home {
    root: PathBuf,
}

impl Home {
    pub(crate) fn open(pass: &Pass) -> Self {
        Self { root: pass.root().to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the target of the shim of a tool, if there is one.
    pub(crate) fn tool(&self, name: &str) -> Result<Option<PathBuf>, PathError> {
        let shim = self.root.join("bin").join(name);
        match fs::canonicalize(&shim) {
            Ok(path) => Ok(Some(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PathError::new("follow", shim, error)),
        }
    }
}

pub(crate) fn marker(root: &Path) -> PathBuf {
    Marker::At(LAYOUT).path(root)
}
