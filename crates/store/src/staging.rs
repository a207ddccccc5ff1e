//! Work in progress: each process has its own folder in `staging/`.
//!
//! A process locks `staging/RUN/lock` for its whole life. A process that opens the store removes the folders whose
//! lock is free, because their processes are dead. Such a sweep may remove a folder between its creation and its
//! locking. So a process checks after locking that the path still names the file that it locked.
//!
//! On a full disk the folder cannot be created. The store is open all the same, and the next write tries again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;
use stoa_layout::lock::FileLock;

use crate::StoreError;
use crate::files::lock;
use crate::paths::Paths;

/// The staging folder of a store, and the folder of this process in it as soon as there is one.
#[derive(Debug)]
pub(crate) struct Staging {
    paths: Paths,
    durable: Durable,
    is_read_only: bool,
    run: Mutex<Option<Arc<Run>>>,
}

impl Staging {
    pub(crate) fn new(paths: Paths, durable: Durable, is_read_only: bool) -> Self {
        Self { paths, durable, is_read_only, run: Mutex::default() }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Fails if the store is open for reading only.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        match self.is_read_only {
            true => Err(StoreError::ReadOnly(self.paths.root().to_owned())),
            false => Ok(()),
        }
    }

    /// Returns the folder of this process, and creates it if it is missing.
    pub(crate) fn run(&self) -> Result<Arc<Run>, StoreError> {
        self.check_writable()?;
        let mut run = lock(&self.run);
        if let Some(run) = &*run {
            return Ok(Arc::clone(run));
        }
        let begun = Arc::new(Run::begin(&self.paths.staging(), &self.durable)?);
        *run = Some(Arc::clone(&begun));
        Ok(begun)
    }
}

/// The folder of this process in `staging/`.
#[derive(Debug)]
pub(crate) struct Run {
    folder: PathBuf,
    lock: Option<FileLock>,
    next: AtomicU64,
}

impl Run {
    /// Creates a folder for this process.
    pub(crate) fn begin(staging: &Path, durable: &Durable) -> Result<Self, StoreError> {
        loop {
            let folder = durable.create_dir_named(staging, RUN)?;
            let lock_path = folder.join(LOCK);
            match FileLock::try_acquire(&lock_path, durable) {
                Ok(Some(lock)) if lock.is_at(&lock_path) => {
                    return Ok(Self { folder, lock: Some(lock), next: AtomicU64::new(1) });
                }
                // A sweep removed the folder: create another.
                Ok(_) => {}
                Err(stoa_layout::lock::LockError::Path(error)) if error.is_not_found() => {}
                Err(error) => {
                    // If this fails too, the next start removes the folder.
                    let _ = durable::remove_tree(&folder);
                    return Err(error.into());
                }
            }
        }
    }

    /// Returns a path in the folder that was not used before.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Calls `place` with a fresh path, to write a file there and to rename it. Removes the file if that fails.
    pub(crate) fn place_file(
        &self,
        place: impl FnOnce(&Path) -> Result<(), PathError>,
    ) -> Result<(), PathError> {
        let staged = self.fresh();
        place(&staged).inspect_err(|_| {
            // If this fails too, the next start removes the file.
            let _ = durable::remove_file(&staged);
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Best effort: the next process that opens the store removes the rest. The lock is released after that.
        let _ = durable::remove_tree(&self.folder);
        self.lock = None;
    }
}

const LOCK: &str = "lock";

/// The start of the names of these folders. A sweep leaves everything else in `staging/` alone.
const RUN: &str = "run-";

/// Removes the folders of dead processes.
pub(crate) fn sweep(staging: &Path, durable: &Durable) -> Result<(), StoreError> {
    for entry in fs::read_dir(staging).at("list", staging)? {
        let entry = entry.at("list", staging)?;
        let path = entry.path();
        let is_run = entry.file_name().as_encoded_bytes().starts_with(RUN.as_bytes());
        if !is_run || !entry.file_type().at("stat", &path)?.is_dir() {
            continue;
        }
        match FileLock::try_acquire(&path.join(LOCK), durable) {
            Ok(Some(_lock)) => {
                if let Err(error) = durable::remove_tree(&path) {
                    log::warn!(path:% = path.display(), reason:% = error; "cannot remove a staging folder");
                }
            }
            Ok(None) => {}
            // Another process removed it meanwhile.
            Err(stoa_layout::lock::LockError::Path(error)) if error.is_not_found() => {}
            Err(error) => {
                log::warn!(path:% = path.display(), reason:% = error; "cannot remove a staging folder");
            }
        }
    }
    Ok(())
}

/// Writes and syncs a file that no reader sees yet.
pub(crate) fn write(durable: &Durable, path: &Path, content: &[u8]) -> Result<File, PathError> {
    let file = write_unsynced(durable, path, content)?;
    durable::sync_file(&file, path)?;
    Ok(file)
}

/// Writes a file that no reader sees yet. The caller syncs it.
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
    fn a_sweep_removes_the_folders_of_dead_processes_only() {
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
        assert_eq!(
            fs::read_dir(&foreign).unwrap().count(),
            1,
            "a sweep removes only folders of its own kind"
        );
        let folder = run.folder.clone();
        drop(run);
        assert!(!folder.exists());
    }
}
