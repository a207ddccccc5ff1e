//! v1 → v2: each version gets a folder, which one rename can publish.
//!
//! ```text
//! before                                   after
//! modules/ESCAPED/@v/v1.0.0.mod            modules/ESCAPED/@v/v1.0.0/mod
//! modules/ESCAPED/@v/v1.0.0.zip            modules/ESCAPED/@v/v1.0.0/zip
//! modules/ESCAPED/@v/v1.0.0.info           modules/ESCAPED/@v/v1.0.0/info
//! modules/ESCAPED/@v/v1.0.0.ziphash        modules/ESCAPED/@v/v1.0.0/ziphash
//! ```
//!
//! The step up creates the other folders of the store. The step back removes the folders that may be lost.

use std::path::Path;

use stoa_layout::{Durable, PathError};

use crate::flat::{self, Flat};
use crate::flow::Flow;
use crate::removal::Removal;
use crate::v2;

pub(crate) fn step() -> Flow {
    Flow {
        from: flat::V1,
        to: v2::ID,
        description: "give each version its own folder",
        old: &Flat::V1,
        new: &v2::V2,
        is_foreign: false,
        folders_up: make_folders,
        folders_back: remove_folders,
    }
}

fn make_folders(root: &Path, durable: &Durable, _: &Removal) -> Result<(), PathError> {
    for folder in v2::FOLDERS {
        durable.ensure_dir(&root.join(folder))?;
    }
    Ok(())
}

fn remove_folders(root: &Path, _: &Durable, removal: &Removal) -> Result<(), PathError> {
    for folder in ["staging", "index", "cache"] {
        removal.remove_tree(&root.join(folder))?;
    }
    for folder in ["quarantine", "records"] {
        removal.remove_empty(&root.join(folder))?;
    }
    Ok(())
}
