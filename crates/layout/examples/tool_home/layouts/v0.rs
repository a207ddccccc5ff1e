//! v0, a layout without markers: `tools/NAME-VERSION/bin/NAME`.

use std::path::{Path, PathBuf};

use stoa_layout::{Detect, Detection, LayoutId, PathError, StepError};

use super::scan::{self, Listing};
use super::toolchain::Toolchain;

pub(crate) const ID: LayoutId = LayoutId::fixed("v0");

/// Returns the path of a toolchain below the home.
pub(crate) fn place(toolchain: &Toolchain) -> PathBuf {
    Path::new("tools").join(format!("{}-{}", toolchain.name(), toolchain.version()))
}

pub(crate) fn scan(root: &Path) -> Result<Listing, PathError> {
    scan::flat(&root.join("tools"))
}

pub(crate) fn toolchains(root: &Path) -> Result<Vec<Toolchain>, PathError> {
    Ok(scan(root)?.toolchains)
}

/// Recognises a v0 home by a whole toolchain in the right place. A name alone is not enough: many folders contain `tools` and
/// `bin`.
pub(crate) struct Detector;

impl Detect for Detector {
    fn layout(&self) -> LayoutId {
        ID
    }

    fn detect(&self, root: &Path) -> Result<Detection, StepError> {
        Ok(if toolchains(root)?.is_empty() { Detection::No } else { Detection::Yes })
    }
}
