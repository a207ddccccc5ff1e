//! v0, from before there were markers: `tools/NAME-VERSION/bin/NAME`.

use std::path::{Path, PathBuf};

use stoa_layout::{Detect, Detection, LayoutId, PathError, StepError};

use super::scan::{self, Found};
use super::toolchain::Toolchain;

pub(crate) const ID: LayoutId = LayoutId::fixed("v0");

/// Is where a toolchain lies below the home.
pub(crate) fn place(toolchain: &Toolchain) -> PathBuf {
    Path::new("tools").join(format!("{}-{}", toolchain.name(), toolchain.version()))
}

pub(crate) fn scan(root: &Path) -> Result<Found, PathError> {
    scan::flat(&root.join("tools"))
}

pub(crate) fn toolchains(root: &Path) -> Result<Vec<Toolchain>, PathError> {
    Ok(scan(root)?.toolchains)
}

/// Knows a v0 home by one whole toolchain in the right place. Never by a name alone: `tools` and `bin` are
/// in many folders.
pub(crate) struct Detector;

impl Detect for Detector {
    fn layout(&self) -> LayoutId {
        ID
    }

    fn detect(&self, root: &Path) -> Result<Detection, StepError> {
        Ok(if toolchains(root)?.is_empty() { Detection::No } else { Detection::Yes })
    }
}
