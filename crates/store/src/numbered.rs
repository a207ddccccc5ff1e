//! A folder with numbered SQLite databases, of which the highest number is current: how a database is replaced while
//! other processes use it.
//!
//! A new database is built aside and renamed to the next number. All users compare the identity of the current database
//! before they use theirs. So a database that may be in use is never overwritten.
//!
//! The locks of SQLite belong to the process and are lost when any descriptor of the file is closed. So this module
//! never opens the file of a database that may be open.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use stoa_layout::PathError;
use stoa_layout::durable;
use stoa_layout::error::PathContext;

use crate::draft::StagedFolder;
use crate::files::{is_absent, metadata};

/// The identity of a database: its number and its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) number: u32,
    device: u64,
    inode: u64,
}

/// The current database of a folder.
#[derive(Debug)]
pub(crate) enum Current {
    /// The folder has no database.
    Missing,
    /// The database cannot be used.
    Broken(PathBuf, &'static str),
    /// The database has this identity.
    At(Identity),
}

/// A folder with numbered databases.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// The folder.
    pub(crate) folder: PathBuf,
    /// The name of the database in its numbered folder.
    pub(crate) file: &'static str,
}

impl Numbered {
    /// Returns the path of the database with a number.
    pub(crate) fn path(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string()).join(self.file)
    }

    /// Finds the current database. With `is_to_write` a database with several names counts as broken: a copy of the store
    /// that was made with hard links shares it, and writing would change the copy.
    pub(crate) fn current(&self, is_to_write: bool) -> Result<Current, PathError> {
        let Some(number) = self.newest()? else { return Ok(Current::Missing) };
        let path = self.path(number);
        Ok(match metadata(&path)? {
            Some(meta) if meta.is_file() && meta.links > 1 && is_to_write => {
                Current::Broken(path, "it has several hard links, so a copy of the store may share it")
            }
            Some(meta) if meta.is_file() => {
                Current::At(Identity { number, device: meta.device, inode: meta.inode })
            }
            Some(_) => Current::Broken(path, "it is not a regular file"),
            None => Current::Broken(path, "the file is missing"),
        })
    }

    /// Returns the number of the current database.
    pub(crate) fn newest(&self) -> Result<Option<u32>, PathError> {
        Ok(newest(&self.numbers()?))
    }

    /// Returns the numbers of all databases, sorted.
    pub(crate) fn all(&self) -> Result<Vec<u32>, PathError> {
        let mut all: Vec<u32> = self
            .numbers()?
            .into_iter()
            .filter(|(_, is_folder)| *is_folder)
            .map(|(number, _)| number)
            .collect();
        all.sort_unstable();
        Ok(all)
    }

    /// Renames a folder with a new database to the next number, unless there is a newer one than `before`: then
    /// another process was first, and the new folder is removed.
    pub(crate) fn bring_in(&self, built: StagedFolder, before: Option<u32>) -> Result<(), PathError> {
        loop {
            let taken = self.numbers()?;
            if newest(&taken) > before {
                return Ok(());
            }
            let next = taken.iter().map(|(number, _)| *number).max().map_or(Some(1), |n| n.checked_add(1));
            let Some(next) = next else {
                let path = self.folder.join(u32::MAX.to_string());
                return Err(PathError::new("create a database after", path, Errno::OVERFLOW));
            };
            match durable::rename_noreplace(&built.path, &self.folder.join(next.to_string())) {
                Ok(()) => {
                    built.keep();
                    return durable::sync_dir(&self.folder);
                }
                Err(error) if error.errno() == Some(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the used numbers, and whether each is a folder.
    fn numbers(&self) -> Result<Vec<(u32, bool)>, PathError> {
        let folder: &Path = &self.folder;
        let entries = match fs::read_dir(folder) {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            entries => entries.at("list", folder)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.at("list", folder)?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
            // Only the canonical spelling: 07 and +7 are not ours.
            if let Some(number) = number.filter(|number| name == *number.to_string()) {
                found.push((number, entry.file_type().at("stat", &entry.path())?.is_dir()));
            }
        }
        Ok(found)
    }
}

fn newest(taken: &[(u32, bool)]) -> Option<u32> {
    taken.iter().filter(|(_, is_folder)| *is_folder).map(|(number, _)| *number).max()
}
