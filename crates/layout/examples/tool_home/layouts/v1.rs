//! v1: `tools/NAME/VERSION/bin/NAME`.

use std::path::{Path, PathBuf};

use stoa_layout::{LayoutId, PathError};

use super::scan::{self, Listing};
use super::toolchain::Toolchain;

pub(crate) const ID: LayoutId = LayoutId::fixed("v1");

/// Returns the path of a toolchain below the home.
pub(crate) fn place(toolchain: &Toolchain) -> PathBuf {
    Path::new("tools").join(toolchain.name()).join(toolchain.version())
}

pub(crate) fn scan(root: &Path) -> Result<Listing, PathError> {
    scan::nested(&root.join("tools"))
}

pub(crate) fn toolchains(root: &Path) -> Result<Vec<Toolchain>, PathError> {
    Ok(scan(root)?.toolchains)
}
