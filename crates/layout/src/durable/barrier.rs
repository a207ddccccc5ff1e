//! Waits for the disk: for a file, for the names in a folder, and for a whole file system.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::PathError;
use crate::error::PathContext;

/// The file system of a folder, to wait for all that was written to it since this was made.
///
/// It is made before the first write: an error that the system meets on its own while it writes back is told to
/// whoever had a file open before. It is told once, so that whoever waits after a failure fails as well: what one
/// thread wrote may be what another one's wait has lost.
#[derive(Debug)]
pub struct FileSystem {
    folder: File,
    path: PathBuf,
    failed: Mutex<Option<Errno>>,
}

impl FileSystem {
    /// Begins to listen for errors of the file system of a folder.
    pub fn of(folder: &Path) -> Result<Self, PathError> {
        let (opened, failed) = (File::open(folder).at("open", folder)?, Mutex::default());
        Ok(Self { folder: opened, path: folder.to_owned(), failed })
    }

    /// Waits until everything that was written to it is on disk.
    pub fn sync(&self) -> Result<(), PathError> {
        self.sync_by(sync_all)
    }

    /// Waits in the way that is named, unless a wait has failed before.
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

/// Waits for all of the file system that a folder is on.
fn sync_all(folder: &File) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    return rustix::fs::syncfs(folder);
    #[cfg(not(target_os = "linux"))]
    {
        rustix::fs::sync();
        rustix::fs::fsync(folder)
    }
}

/// Waits until a file's content is on disk.
pub fn sync_file(file: &File, path: &Path) -> Result<(), PathError> {
    file.sync_all().at("sync", path)
}

/// Waits until the names in a folder are on disk.
pub fn sync_dir(path: &Path) -> Result<(), PathError> {
    let folder = File::open(path).at("open", path)?;
    folder.sync_all().at("sync", path)
}

/// Waits until everything that was written to the file system of `root` is on disk.
pub fn sync_file_system(root: &Path) -> Result<(), PathError> {
    FileSystem::of(root)?.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_wait_fails_all_who_wait_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let whole = FileSystem::of(dir.path()).unwrap();
        whole.sync().unwrap();
        let errno = |result: Result<(), PathError>| result.unwrap_err().errno();
        assert_eq!(errno(whole.sync_by(|_| Err(Errno::IO))), Some(Errno::IO));
        // The system would tell it once, and these waits would succeed.
        std::thread::scope(|scope| {
            let waits = [(); 2].map(|()| scope.spawn(|| errno(whole.sync())));
            assert_eq!(waits.map(|wait| wait.join().unwrap()), [Some(Errno::IO); 2]);
        });
        assert_eq!(errno(whole.sync_by(|_| Err(Errno::NOSPC))), Some(Errno::IO));
        FileSystem::of(dir.path()).unwrap().sync().unwrap();
    }
}
