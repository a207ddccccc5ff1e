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
//! The step up creates the other folders of the store. The step back removes the folders that may be lost,
//! except the answers of checksum databases.

use std::path::Path;

use stoa_layout::{Durable, PathError, durable};

use crate::flat::{self, Flat};
use crate::flow::Flow;
use crate::picture::{DATABASES, Names, metadata};
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
        removed_back: &REMOVED,
    }
}

fn make_folders(root: &Path, durable: &Durable, _: &Removal) -> Result<(), PathError> {
    for folder in v2::FOLDERS {
        durable.ensure_dir(&root.join(folder))?;
    }
    Ok(())
}

/// The folders that may be lost.
pub(crate) const REMOVED: [&str; 3] = ["staging", "index", "cache"];

fn remove_folders(root: &Path, _: &Durable, removal: &Removal) -> Result<(), PathError> {
    for folder in REMOVED {
        let folder = root.join(folder);
        // What is listed must be in the store, so symlinks are not followed.
        if !is_real_folder(&folder)? || !is_real_folder(&folder.join(DATABASES))? {
            removal.remove_tree(&folder)?;
            continue;
        }
        // With these answers `go` verifies modules without a network. They stay for the next upgrade.
        for name in Names::of(&folder)?.into_iter().flatten() {
            let name = name?;
            match name.text.as_deref() {
                Some(DATABASES) => {}
                _ if name.kind.is_dir() => removal.remove_tree(&name.path)?,
                _ => durable::remove_file(&name.path)?,
            }
        }
    }
    for folder in ["quarantine", "records"] {
        removal.remove_empty(&root.join(folder))?;
    }
    Ok(())
}

fn is_real_folder(path: &Path) -> Result<bool, PathError> {
    Ok(metadata(path)?.is_some_and(|meta| meta.is_dir()))
}
