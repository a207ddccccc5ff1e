//! Work in progress: one folder of `staging/` a process, which nobody else looks into.
//!
//! `staging/RUN/lock` is locked for the life of the process. Whoever opens the store removes the folders
//! whose lock it can get: their process is dead. Between making its folder and locking it a process may lose
//! it to such a sweep, so it looks after locking whether the path still names what it locked.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;
use stoa_layout::lock::FileLock;

use crate::StoreError;

/// The folder of this process in `staging/`.
#[derive(Debug)]
pub(crate) struct Run {
    folder: PathBuf,
    lock: Option<FileLock>,
    next: AtomicU64,
}

impl Run {
    /// Makes a folder for this process.
    pub(crate) fn begin(staging: &Path, durable: &Durable) -> Result<Self, StoreError> {
        loop {
            let folder = durable.create_dir_named(staging, RUN)?;
            let lock_path = folder.join(LOCK);
            match FileLock::try_acquire(&lock_path, durable) {
                Ok(Some(lock)) if lock.is_at(&lock_path) => {
                    return Ok(Self { folder, lock: Some(lock), next: AtomicU64::new(1) });
                }
                // Lost to a sweep: take another.
                Ok(_) => {}
                Err(stoa_layout::lock::LockError::Path(error)) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Is a path in the folder that has not been used.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Best effort: what stays is swept by whoever comes next. The lock goes after the folder.
        let _ = durable::remove_tree(&self.folder);
        self.lock = None;
    }
}

const LOCK: &str = "lock";

/// What the names of the folders begin with. Nothing else in staging is ours to sweep.
const RUN: &str = "run-";

/// Removes the folders of dead processes.
pub(crate) fn sweep(staging: &Path, durable: &Durable) -> Result<(), StoreError> {
    for entry in fs::read_dir(staging).at("list", staging)? {
        let entry = entry.at("list", staging)?;
        let path = entry.path();
        let is_run = entry.file_name().as_encoded_bytes().starts_with(RUN.as_bytes());
        if !is_run || !entry.file_type().at("look at", &path)?.is_dir() {
            continue;
        }
        match FileLock::try_acquire(&path.join(LOCK), durable) {
            Ok(Some(_lock)) => {
                if let Err(error) = durable::remove_tree(&path) {
                    log::warn!("{} is not swept: {error}", path.display());
                }
            }
            Ok(None) => {}
            // Swept by another meanwhile.
            Err(stoa_layout::lock::LockError::Path(error)) if error.is_not_found() => {}
            Err(error) => log::warn!("{} is not swept: {error}", path.display()),
        }
    }
    Ok(())
}

/// Writes a file, synced, that nobody sees yet.
pub(crate) fn write(durable: &Durable, path: &Path, content: &[u8]) -> Result<File, PathError> {
    let file = write_unsynced(durable, path, content)?;
    durable::sync_file(&file, path)?;
    Ok(file)
}

/// Writes a file that nobody sees yet, and that a later sync makes last.
pub(crate) fn write_unsynced(durable: &Durable, path: &Path, content: &[u8]) -> Result<File, PathError> {
    use std::io::Write;
    let mut file = durable.create_file(path)?;
    file.write_all(content).at("write", path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_keep_their_folder_and_the_dead_lose_it() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Durable::default();
        let run = Run::begin(dir.path(), &durable).unwrap();
        let dead = dir.path().join("run-dead");
        fs::create_dir_all(dead.join("1")).unwrap();
        let odd = dir.path().join("claims");
        fs::write(&odd, "").unwrap();
        let foreign = dir.path().join("backup");
        fs::create_dir_all(foreign.join("1")).unwrap();
        sweep(dir.path(), &durable).unwrap();
        assert!(run.folder.is_dir() && !dead.exists() && odd.exists());
        assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "what is not a run's is not touched");
        let folder = run.folder.clone();
        drop(run);
        assert!(!folder.exists());
    }
}
