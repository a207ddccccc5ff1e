//! Errors of operations on paths: the operation, the path, the reason, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::Exit;

/// A failed operation on a path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}{hint}", path = path.display(), hint = hint(source))]
pub struct PathError {
    /// The operation as a verb: "create", "sync".
    pub action: &'static str,
    /// The path.
    pub path: PathBuf,
    /// The reason.
    pub source: io::Error,
}

impl PathError {
    /// Adds an operation and a path to an error of the system.
    pub fn new(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        let (path, mut source) = (path.into(), source.into());
        if Errno::from_io_error(&source) == Some(Errno::NOSPC) && has_no_inodes(&path) {
            source = io::Error::new(io::ErrorKind::StorageFull, NoInodes);
        }
        Self { action, path, source }
    }

    /// Makes the error for the root of a store that is not a folder.
    pub fn not_a_folder(root: &Path) -> Self {
        Self::new("use", root, io::Error::new(io::ErrorKind::NotADirectory, NotAFolder))
    }

    /// Returns whether the file or folder does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Returns whether the file system is mounted read-only.
    pub fn is_read_only(&self) -> bool {
        self.source.kind() == io::ErrorKind::ReadOnlyFilesystem
    }

    /// Returns whether there is no room to write: the disk is full or has no inodes left, or a quota or a limit of the
    /// size of files is reached.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
    }

    /// Returns whether the system could not read what is at the path, and may never be able to: a bad disk, a damaged
    /// file system, a file that its server has lost.
    pub fn is_damage(&self) -> bool {
        const DAMAGE: &[Errno] = &[
            Errno::IO,
            Errno::STALE,
            Errno::BADMSG,
            Errno::NODATA,
            #[cfg(target_os = "linux")]
            Errno::UCLEAN,
            #[cfg(target_os = "linux")]
            Errno::REMOTEIO,
        ];
        self.errno().is_some_and(|errno| DAMAGE.contains(&errno))
    }

    /// Returns whether the system forbids removing a folder: its parent is read-only, sticky or immutable, or the folder is
    /// a mount point.
    pub fn forbids_removal(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied || self.errno() == Some(Errno::BUSY)
    }

    /// Returns whether a symlink is on the way to a folder below a store.
    pub fn is_symlink_on_the_way(&self) -> bool {
        self.source.get_ref().is_some_and(|error| error.is::<OnTheWay>())
    }

    /// Returns the system's error number, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        if is_for_inodes(&self.source) { Some(Errno::NOSPC) } else { Errno::from_io_error(&self.source) }
    }

    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Exit::PERMISSION,
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => Exit::CANT_CREATE,
            _ if self.is_symlink_on_the_way() => Exit::CANT_CREATE,
            // As in /proc, where no folder can be created.
            io::ErrorKind::NotFound if self.action.starts_with("create") => Exit::CANT_CREATE,
            io::ErrorKind::IsADirectory if self.action.starts_with("rename") => Exit::CANT_CREATE,
            io::ErrorKind::NotADirectory => Exit::NOT_A_STORE,
            _ => Exit::IO,
        }
    }
}

/// Returns whether the file system of a path, or of the nearest folder above it that exists, has no inodes left.
fn has_no_inodes(path: &Path) -> bool {
    let status = path.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    // Some file systems, such as Btrfs, have no fixed number of inodes and report 0 of 0.
    status.is_some_and(|status| counts_no_inodes(status.f_files, status.f_favail))
}

fn counts_no_inodes(all: u64, available: u64) -> bool {
    all > 0 && available == 0
}

/// The reason for "no space" on a file system with space. The system has no error number of its own for it.
#[derive(Debug, thiserror::Error)]
#[error("no inodes left")]
struct NoInodes;

fn is_for_inodes(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<NoInodes>())
}

/// The reason for refusing to write through a symlink.
#[derive(Debug, thiserror::Error)]
#[error("it is a symlink")]
pub(crate) struct OnTheWay;

/// The reason for refusing a root that is not a folder.
#[derive(Debug, thiserror::Error)]
#[error("it is not a folder")]
struct NotAFolder;

fn hint(source: &io::Error) -> &'static str {
    if source.get_ref().is_some_and(|error| error.is::<NotAFolder>()) {
        return "\nhelp: set the folder of the store with --store";
    }
    if source.get_ref().is_some_and(|error| error.is::<OnTheWay>()) {
        return "\nhelp: replace the symlink by the folder that it points to (everything below a store is on one file system)";
    }
    if is_for_inodes(source) {
        return "\nhelp: remove files on that file system (it has room for no more files, whatever their size), then run again";
    }
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC) => "\nhelp: free space on that file system, then run again",
        Some(Errno::DQUOT) => "\nhelp: raise the quota or free space, then run again",
        Some(Errno::FBIG) => {
            "\nhelp: raise the limit of the size of files (ulimit -f, LimitFSIZE), then run again"
        }
        Some(Errno::IO) => "\nhelp: check the disk and the system's log, then run again",
        Some(Errno::STALE) => "\nhelp: mount that file system again, then run again",
        Some(Errno::NOMEM) => "\nhelp: free memory, then run again",
        Some(Errno::ACCESS | Errno::PERM) => {
            "\nhelp: fix its permissions or run as its owner, then run again"
        }
        Some(Errno::ROFS) => "\nhelp: mount the file system writable, then run again",
        Some(Errno::NOTDIR) => "\nhelp: a file or symlink is where a folder must be; move it away",
        Some(Errno::LOOP) => "\nhelp: a symlink is where a file must be; move it away",
        Some(Errno::XDEV) => "\nhelp: keep everything below a store on one file system",
        Some(Errno::MFILE | Errno::NFILE) => "\nhelp: raise the limit of open files, then run again",
        _ => "",
    }
}

/// Adds a path to errors of the system.
pub trait PathContext<T> {
    /// Adds the operation and the path to the error.
    fn at(self, action: &'static str, path: &Path) -> Result<T, PathError>;
}

impl<T, E: Into<io::Error>> PathContext<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, PathError> {
        self.map_err(|source| PathError::new(action, path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_operation_path_reason_and_advice() {
        let error = PathError::new("create", "/s/store.lock", Errno::NOSPC);
        let text = error.to_string();
        assert!(text.starts_with("cannot create /s/store.lock: No space left on device"), "{text}");
        assert!(text.ends_with("\nhelp: free space on that file system, then run again"), "{text}");
        assert_eq!(error.exit(), Exit::IO);
    }

    #[test]
    fn no_inodes_are_named_where_the_file_system_counts_them() {
        assert!(counts_no_inodes(100, 0));
        assert!(!counts_no_inodes(0, 0) && !counts_no_inodes(100, 1));
        let source = io::Error::new(io::ErrorKind::StorageFull, NoInodes);
        let error = PathError::new("create", "/s/store.lock", source);
        let text = error.to_string();
        assert!(
            text.starts_with("cannot create /s/store.lock: no inodes left\nhelp: remove files"),
            "{text}"
        );
        assert_eq!(error.errno(), Some(Errno::NOSPC));
    }

    #[test]
    fn a_path_that_cannot_be_created_is_73() {
        for (action, errno) in [
            ("create the folder", Errno::NOENT),
            ("create", Errno::EXIST),
            ("rename a file to", Errno::ISDIR),
        ] {
            assert_eq!(PathError::new(action, "/s", errno).exit(), Exit::CANT_CREATE, "{action}");
        }
        for errno in [Errno::NOENT, Errno::ISDIR] {
            assert_eq!(PathError::new("read", "/s", errno).exit(), Exit::IO);
        }
    }

    #[test]
    fn permission_and_read_only_are_77() {
        for errno in [Errno::ACCESS, Errno::PERM, Errno::ROFS] {
            assert_eq!(PathError::new("write", "/s", errno).exit(), Exit::PERMISSION);
        }
    }
}
