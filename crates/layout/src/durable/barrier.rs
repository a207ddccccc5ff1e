//! Syncs files, the names in folders, and whole file systems.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::PathError;
use crate::error::PathContext;

/// The file system of a folder, for syncing everything written to it since this value was created.
///
/// Create it before the first write. After a failed sync all later syncs fail too.
#[derive(Debug)]
pub struct FileSystem {
    // The kernel reports a write-back error only to files that were open before, and only once. The file is therefore
    // opened early, and the error is kept: it may concern the data of another thread.
    folder: File,
    path: PathBuf,
    failed: Mutex<Option<Errno>>,
}

impl FileSystem {
    /// Opens the file system of a folder.
    pub fn of(folder: &Path) -> Result<Self, PathError> {
        let (opened, failed) = (File::open(folder).at("open", folder)?, Mutex::default());
        Ok(Self { folder: opened, path: folder.to_owned(), failed })
    }

    /// Waits until everything written to it is on disk.
    pub fn sync(&self) -> Result<(), PathError> {
        self.sync_by(sync_all)
    }

    /// Syncs with `wait`, unless a sync has failed before.
    fn sync_by(&self, wait: impl FnOnce(&File) -> Result<(), Errno>) -> Result<(), PathError> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none() {
            *failed = wait(&self.folder).err();
        }
        match *failed {
            None => Ok(()),
            Some(errno) => Err(PathError::new("sync the file system of", &self.path, errno)),
        }
    }
}

/// Syncs the file system of a folder.
fn sync_all(folder: &File) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    return rustix::fs::syncfs(folder);
    #[cfg(not(target_os = "linux"))]
    {
        rustix::fs::sync();
        rustix::fs::fsync(folder)
    }
}

/// Waits until the content of a file is on disk.
pub fn sync_file(file: &File, path: &Path) -> Result<(), PathError> {
    file.sync_all().at("sync", path)
}

/// Waits until the names in a folder are on disk.
pub fn sync_dir(path: &Path) -> Result<(), PathError> {
    let folder = File::open(path).at("open", path)?;
    folder.sync_all().at("sync", path)
}

/// Waits until everything written to the file system of `root` is on disk.
pub fn sync_file_system(root: &Path) -> Result<(), PathError> {
    FileSystem::of(root)?.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_fails_all_later_syncs() {
        let dir = tempfile::tempdir().unwrap();
        let whole = FileSystem::of(dir.path()).unwrap();
        whole.sync().unwrap();
        let errno = |result: Result<(), PathError>| result.unwrap_err().errno();
        assert_eq!(errno(whole.sync_by(|_| Err(Errno::IO))), Some(Errno::IO));
        // The kernel reports the error once, so these syncs would succeed.
        std::thread::scope(|scope| {
            let waits = [(); 2].map(|()| scope.spawn(|| errno(whole.sync())));
            assert_eq!(waits.map(|wait| wait.join().unwrap()), [Some(Errno::IO); 2]);
        });
        assert_eq!(errno(whole.sync_by(|_| Err(Errno::NOSPC))), Some(Errno::IO));
        FileSystem::of(dir.path()).unwrap().sync().unwrap();
    }
}
