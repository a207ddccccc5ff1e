//! Work in progress: each process has its own folder in `staging/`.
//!
//! A process locks `staging/RUN/lock` for its whole life. A process that opens the store removes the folders whose
//! lock is free, because their processes are dead. Such a sweep may remove a folder between its creation and its
//! locking. So a process checks after locking that the path still names the file that it locked.
//!
//! On a full disk the folder cannot be created. The store is open all the same, and the next write tries again.
//!
//! A sweep renames a folder to `RUN.removed` while it holds the lock, and then releases the lock. No file is removed while
//! it is open, because FUSE and NFS would keep it under another name, and the folder with it.
//!
//! A person may remove `staging/` beside a running process. The next operation that writes creates it again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;
use stoa_layout::lock::FileLock;

use stoa_gomod::ModuleVersion;

use crate::files::lock;
use crate::paths::Paths;
use crate::{Store, StoreError};

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

    /// Returns the folder of this process if there is one.
    pub(crate) fn begun(&self) -> Option<Arc<Run>> {
        lock(&self.run).clone()
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
    staging: PathBuf,
    durable: Durable,
    home: Mutex<Home>,
    next: AtomicU64,
}

/// A locked folder.
#[derive(Debug)]
struct Home {
    folder: PathBuf,
    lock: Option<FileLock>,
}

impl Run {
    /// Creates a folder for this process.
    pub(crate) fn begin(staging: &Path, durable: &Durable) -> Result<Self, StoreError> {
        let home = Mutex::new(Home::create(staging, durable)?);
        Ok(Self { staging: staging.to_owned(), durable: *durable, home, next: AtomicU64::new(1) })
    }

    /// Returns the path of the folder if it is missing. Takes two system calls.
    pub(crate) fn missing(&self) -> Option<PathBuf> {
        let home = lock(&self.home);
        (!home.is_there()).then(|| home.folder.clone())
    }

    /// Creates a folder again that a person has removed, and returns whether it did.
    pub(crate) fn create_again(&self) -> Result<bool, StoreError> {
        let mut home = lock(&self.home);
        if home.is_there() {
            return Ok(false);
        }
        self.durable.ensure_dir(&self.staging)?;
        *home = Home::create(&self.staging, &self.durable)?;
        Ok(true)
    }

    /// Returns a path in the folder that was not used before.
    pub(crate) fn fresh(&self) -> PathBuf {
        lock(&self.home).folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Returns a path for a draft of a version. Other processes find the draft by its name.
    pub(crate) fn fresh_draft(&self, version: &ModuleVersion) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.home).folder.join(Store::draft_name(number, version))
    }

    /// Calls `place` with a fresh path, to write a file there and to rename it. Removes the file if that fails.
    pub(crate) fn place_file<E>(&self, place: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
        let staged = self.fresh();
        place(&staged).inspect_err(|_| {
            // If this fails too, the next start removes the file.
            let _ = durable::remove_file(&staged);
        })
    }

    /// Puts an empty new file in the place of a file.
    pub(crate) fn replace_by_empty(&self, path: &Path) -> Result<(), PathError> {
        self.place_file(|staged| {
            write(&self.durable, staged, b"")?;
            durable::rename(staged, path)
        })
    }
}

impl Store {
    /// Takes a lock below the root, unless another process holds it (`None`). A lock file that a copy of the store shares is
    /// replaced first.
    pub(crate) fn try_lock_file(&self, path: &Path) -> Result<Option<FileLock>, StoreError> {
        let run = self.staging()?;
        Ok(FileLock::try_acquire_replacing(path, &self.durable, || run.replace_by_empty(path))?)
    }
}

impl Home {
    fn create(staging: &Path, durable: &Durable) -> Result<Self, StoreError> {
        loop {
            let folder = durable.create_dir_named(staging, RUN)?;
            let lock_path = folder.join(LOCK);
            match FileLock::try_acquire(&lock_path, durable) {
                Ok(Some(lock)) if lock.is_at(&lock_path)? => return Ok(Self { folder, lock: Some(lock) }),
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

    fn is_there(&self) -> bool {
        // If this is unknown, the files in the folder stay.
        self.lock.as_ref().is_some_and(|lock| lock.is_at(&self.folder.join(LOCK)).unwrap_or(true))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Best effort: the next process that opens the store removes the rest, or removes it meanwhile.
        self.lock = None;
        let _ = durable::remove_tree(&self.folder);
    }
}

const LOCK: &str = "lock";

/// The start of the names of these folders. A sweep leaves everything else in `staging/` alone.
const RUN: &str = "run-";

/// The end of the names of folders that a sweep is removing.
const REMOVED: &str = ".removed";

/// Removes the folders of dead processes.
pub(crate) fn sweep(staging: &Path, durable: &Durable) -> Result<(), StoreError> {
    for entry in fs::read_dir(staging).at("list", staging)? {
        let entry = entry.at("list", staging)?;
        let path = entry.path();
        let is_run = entry.file_name().as_encoded_bytes().starts_with(RUN.as_bytes());
        if !is_run || !entry.file_type().at("stat", &path)?.is_dir() {
            continue;
        }
        if let Err(error) = remove_if_dead(&path, durable) {
            log::warn!(path:% = path.display(), reason:% = error; "cannot remove a staging folder");
        }
    }
    Ok(())
}

fn remove_if_dead(folder: &Path, durable: &Durable) -> Result<(), StoreError> {
    let mut removed = folder.as_os_str().to_owned();
    removed.push(REMOVED);
    let removed = PathBuf::from(removed);
    if folder.as_os_str().as_encoded_bytes().ends_with(REMOVED.as_bytes()) {
        return Ok(durable::remove_tree(folder)?);
    }
    let held = match FileLock::try_acquire(&folder.join(LOCK), durable) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(()),
        // Another process removed it meanwhile.
        Err(stoa_layout::lock::LockError::Path(error)) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match durable::rename(folder, &removed) {
        Ok(()) => {}
        Err(error) if error.is_not_found() => return Ok(()),
        // A folder of a lower layer of an overlay. No process owns it, because it cannot be new.
        Err(error) if durable::is_unmovable_dir(&error, folder) => {
            drop(held);
            return Ok(durable::remove_tree(folder)?);
        }
        Err(error) => return Err(error.into()),
    }
    drop(held);
    Ok(durable::remove_tree(&removed)?)
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
        let dir = testkit::tempdir();
        let durable = Durable::default();
        let run = Run::begin(dir.path(), &durable).unwrap();
        let dead = dir.path().join("run-dead");
        fs::create_dir_all(dead.join("1")).unwrap();
        let odd = dir.path().join("claims");
        fs::write(&odd, "").unwrap();
        let half_removed = dir.path().join("run-gone.removed");
        fs::create_dir_all(half_removed.join("1")).unwrap();
        let foreign = dir.path().join("backup");
        fs::create_dir_all(foreign.join("1")).unwrap();
        sweep(dir.path(), &durable).unwrap();
        let folder = run.home.lock().unwrap().folder.clone();
        assert!(folder.is_dir() && !dead.exists() && !half_removed.exists() && odd.exists());
        assert_eq!(
            fs::read_dir(&foreign).unwrap().count(),
            1,
            "a sweep removes only folders of its own kind"
        );
        drop(run);
        assert!(!folder.exists());
    }

    #[test]
    fn a_removed_folder_is_created_again() {
        let dir = testkit::tempdir();
        let staging = dir.path().join("staging");
        fs::create_dir(&staging).unwrap();
        let run = Run::begin(&staging, &Durable::default()).unwrap();
        assert!(!run.create_again().unwrap());
        fs::remove_dir_all(&staging).unwrap();
        assert!(run.missing().is_some() && run.create_again().unwrap() && run.missing().is_none());
        fs::write(run.fresh(), "").unwrap();
        drop(run);
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    }
}
