//! v1: `tools/NAME/VERSION/bin/NAME`.

use std::path::{Path, PathBuf};

use stoa_layout::{LayoutId, PathError};

use super::scan::{self, Found};
use super::toolchain::Toolchain;

pub(crate) const ID: LayoutId = LayoutId::fixed("v1");

/// Is where a toolchain lies below the home.
pub(crate) fn place(toolchain: &Toolchain) -> PathBuf {
    Path::new("tools").join(toolchain.name()).join(toolchain.version())
}

pub(crate) fn scan(root: &Path) -> Result<Found, PathError> {
    scan::nested(&root.join("tools"))
}

pub(crate) fn toolchains(root: &Path) -> Result<Vec<Toolchain>, PathError> {
    Ok(scan(root)?.toolchains)
}
