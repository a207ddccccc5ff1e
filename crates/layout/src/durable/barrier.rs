//! Syncs files, the names in folders, and whole file systems.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::PathError;
use crate::error::PathContext;

/// The file system of a folder, for syncing everything written to it since this value was created.
///
/// Create it before the first write. After a failed sync all later syncs fail too.
#[derive(Debug)]
pub struct FileSystem {
    // The kernel reports a write-back error only to files that were open before. So the folder is opened early.
    folder: Repeated,
    path: PathBuf,
}

impl FileSystem {
    /// Opens the file system of a folder.
    pub fn of(folder: &Path) -> Result<Self, PathError> {
        let opened = File::open(folder).at("open", folder)?;
        Ok(Self { folder: Repeated::new(opened), path: folder.to_owned() })
    }

    /// Waits until everything written to it is on disk.
    pub fn sync(&self) -> Result<(), PathError> {
        self.folder.sync_by(sync_all).at("sync the file system of", &self.path)
    }
}

/// A file that is synced while it is written, and again when it is complete.
///
/// After a failed sync all later syncs fail too.
#[derive(Debug)]
pub struct GrowingFile(Repeated);

impl GrowingFile {
    /// Returns a file that another thread may sync.
    pub fn new(file: File) -> Self {
        Self(Repeated::new(file))
    }

    /// Returns the file.
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// Starts to bring the content that is written so far to the disk, and waits for it. Its error, if there is one, is
    /// returned by [`Self::sync`].
    pub fn sync_early(&self) {
        let _ = self.0.sync_by(|file| file.sync_data().map_err(errno));
    }

    /// Waits until the content of the file is on disk.
    pub fn sync(&self, path: &Path) -> Result<(), PathError> {
        self.0.sync_by(|file| file.sync_all().map_err(errno)).at("sync", path)
    }
}

/// A file that is synced repeatedly.
#[derive(Debug)]
struct Repeated {
    file: Arc<File>,
    // The kernel reports a write-back error only once, and it may concern the data of another thread.
    failed: Mutex<Option<Errno>>,
}

impl Repeated {
    fn new(file: File) -> Self {
        Self { file: Arc::new(file), failed: Mutex::default() }
    }

    /// Syncs with `wait`, unless a sync has failed before.
    fn sync_by(&self, wait: impl FnOnce(&File) -> Result<(), Errno>) -> Result<(), Errno> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none() {
            *failed = wait(&self.file).err();
        }
        failed.map_or(Ok(()), Err)
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
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
        let dir = testkit::tempdir();
        let whole = FileSystem::of(dir.path()).unwrap();
        whole.sync().unwrap();
        assert_eq!(whole.folder.sync_by(|_| Err(Errno::IO)), Err(Errno::IO));
        // The kernel reports the error once, so these syncs would succeed.
        let errno = |result: Result<(), PathError>| result.unwrap_err().errno();
        std::thread::scope(|scope| {
            let waits = [(); 2].map(|()| scope.spawn(|| errno(whole.sync())));
            assert_eq!(waits.map(|wait| wait.join().unwrap()), [Some(Errno::IO); 2]);
        });
        assert_eq!(whole.folder.sync_by(|_| Err(Errno::NOSPC)), Err(Errno::IO));
        FileSystem::of(dir.path()).unwrap().sync().unwrap();
    }

    #[test]
    fn the_last_sync_of_a_file_fails_after_an_early_one_failed() {
        let dir = testkit::tempdir();
        let path = dir.path().join("f");
        let growing = GrowingFile::new(File::create(&path).unwrap());
        growing.sync_early();
        growing.sync(&path).unwrap();
        let _ = growing.0.sync_by(|_| Err(Errno::IO));
        growing.sync_early();
        assert_eq!(growing.sync(&path).unwrap_err().errno(), Some(Errno::IO));
    }
}
