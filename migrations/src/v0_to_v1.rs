//! v0 → v1: an Athens disk store becomes a flat tree of escaped names below `modules/`.
//!
//! ```text
//! before                                        after
//! github.com/Azure/sdk/v1.0.0/go.mod            modules/github.com/!azure/sdk/@v/v1.0.0.mod
//! github.com/Azure/sdk/v1.0.0/source.zip        modules/github.com/!azure/sdk/@v/v1.0.0.zip
//! github.com/Azure/sdk/v1.0.0/v1.0.0.info       modules/github.com/!azure/sdk/@v/v1.0.0.info
//! ```

use std::path::Path;

use stoa_layout::{Durable, PathError};

use crate::flat::{self, Flat};
use crate::flow::Flow;
use crate::removal::Removal;
use crate::v0;

pub(crate) fn step() -> Flow {
    Flow {
        from: v0::ID,
        to: flat::V1,
        description: "escape names, and move all modules below modules/",
        old: &v0::V0,
        new: &Flat::V1,
        is_foreign: true,
        folders_up: make_modules,
        folders_back: leave_nothing_empty,
        removed_back: &[],
    }
}

/// Creates the folder `modules`, which every store with a marker has.
pub(crate) fn make_modules(root: &Path, durable: &Durable, _: &Removal) -> Result<(), PathError> {
    durable.ensure_dir(&root.join("modules")).map(drop)
}

/// Removes the empty folders. A folder with leftovers stays.
pub(crate) fn leave_nothing_empty(root: &Path, _: &Durable, removal: &Removal) -> Result<(), PathError> {
    for folder in ["modules", "quarantine", "records"] {
        removal.remove_empty(&root.join(folder))?;
    }
    Ok(())
}
