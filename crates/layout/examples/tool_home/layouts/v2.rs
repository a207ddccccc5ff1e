//! v2, the current layout: `toolchains/NAME/VERSION/bin/NAME`, and `settings.toml`.
//!
//! The same picture as in the program's own `home.rs`, on purpose not the same code: the steps keep theirs
//! when that one goes on to v3. That the two agree is a test.

use std::path::{Path, PathBuf};

use stoa_layout::{LayoutId, PathError};

use super::scan::{self, Found};
use super::toolchain::Toolchain;

pub(crate) const ID: LayoutId = LayoutId::fixed("v2");

/// Is where a toolchain lies below the home.
pub(crate) fn place(toolchain: &Toolchain) -> PathBuf {
    Path::new("toolchains").join(toolchain.name()).join(toolchain.version())
}

pub(crate) fn scan(root: &Path) -> Result<Found, PathError> {
    scan::nested(&root.join("toolchains"))
}

pub(crate) fn toolchains(root: &Path) -> Result<Vec<Toolchain>, PathError> {
    Ok(scan(root)?.toolchains)
}
