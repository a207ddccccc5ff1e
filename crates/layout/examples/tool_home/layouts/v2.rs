//! v2, the current layout: `toolchains/NAME/VERSION/bin/NAME`, and `settings.toml`.
//!
//! The same picture as in the program's own `home.rs`, but not the same code: the steps keep their code when the program
//! goes on to v3. A test checks that the two agree.

use std::path::{Path, PathBuf};

use stoa_layout::step::{Refusal, Work};
use stoa_layout::{Exit, LayoutId, PathError, StepError, Unmarked};

use super::scan::{self, Listing};
use super::toolchain::Toolchain;

pub(crate) const ID: LayoutId = LayoutId::fixed("v2");

/// Returns the path of a toolchain below the home.
pub(crate) fn place(toolchain: &Toolchain) -> PathBuf {
    Path::new("toolchains").join(toolchain.name()).join(toolchain.version())
}

pub(crate) fn scan(root: &Path) -> Result<Listing, PathError> {
    scan::nested(&root.join("toolchains"))
}

pub(crate) fn toolchains(root: &Path) -> Result<Vec<Toolchain>, PathError> {
    Ok(scan(root)?.toolchains)
}

/// Recognises a home at v2 without its marker.
pub(crate) struct MarkerLost;

impl Unmarked for MarkerLost {
    fn layout(&self) -> LayoutId {
        ID
    }

    fn recognises(&self, root: &Path) -> Result<bool, StepError> {
        Ok(!toolchains(root)?.is_empty())
    }

    fn check(&self, root: &Path, work: &Work<'_>) -> Result<Vec<Refusal>, StepError> {
        work.cancel.check()?;
        let incomplete = scan(root)?.inside;
        let refusal = |leftover: &stoa_layout::Leftover| Refusal {
            exit: Exit::NOT_A_STORE,
            message: format!("{}: {}; nothing was changed", leftover.path.display(), leftover.reason),
        };
        Ok(incomplete.iter().map(refusal).collect())
    }
}
