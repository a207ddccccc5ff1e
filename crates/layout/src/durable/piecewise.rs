//! Moves a folder that cannot be renamed.
//!
//! On overlayfs a folder of a lower layer cannot be renamed (`EXDEV`), but its files can. Images of containers have such
//! folders.

use std::fs;
use std::path::Path;

use rustix::io::Errno;

use super::{Durable, remove_empty_dir, rename_noreplace, sync_dir};
use crate::PathError;
use crate::error::PathContext;

impl Durable {
    /// Moves a folder to a place where nothing exists. If the folder cannot be renamed, its files are moved one by one,
    /// and the file `first` before all others. A crash then leaves files at both places, or an empty folder.
    ///
    /// In the second case everything is synced. In the first case the caller syncs the parents.
    pub fn move_dir(&self, from: &Path, to: &Path, first: &str) -> Result<(), PathError> {
        match rename_noreplace(from, to) {
            Err(error) if is_unmovable_dir(&error, from) => {}
            result => return result,
        }
        self.create_dir(to)?;
        if let Some(parent) = to.parent() {
            sync_dir(parent)?;
        }
        match rename_noreplace(&from.join(first), &to.join(first)) {
            Err(error) if error.is_not_found() => {}
            moved => moved?,
        }
        sync_dir(to)?;
        sync_dir(from)?;
        self.move_entries(from, to)?;
        // An empty folder is replaced by the next rename to its name.
        let _ = remove_empty_dir(from);
        Ok(())
    }

    fn move_entries(&self, from: &Path, to: &Path) -> Result<(), PathError> {
        for entry in fs::read_dir(from).at("list", from)? {
            let entry = entry.at("list", from)?;
            let (path, place) = (entry.path(), to.join(entry.file_name()));
            match rename_noreplace(&path, &place) {
                Err(error) if is_unmovable_dir(&error, &path) => {
                    self.create_dir(&place)?;
                    self.move_entries(&path, &place)?;
                    remove_empty_dir(&path)?;
                }
                moved => moved?,
            }
        }
        sync_dir(to)?;
        sync_dir(from)
    }
}

/// Returns whether a rename failed because `from` is a folder that the file system cannot rename.
pub fn is_unmovable_dir(error: &PathError, from: &Path) -> bool {
    error.errno() == Some(Errno::XDEV) && fs::symlink_metadata(from).is_ok_and(|meta| meta.is_dir())
}
