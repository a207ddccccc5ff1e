//! The errors of a store, as far as callers distinguish them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stoa_layout::lock::{self, LockError};
use stoa_layout::{Exit, PathError};

/// An operation on the store failed. No partial change is visible.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An I/O error.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A lock below the root cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store is open for reading only.
    #[error("cannot store anything in {root}: it is open for reading only\nhelp: start without --read-only, on a writable file system", root = .0.display())]
    ReadOnly(PathBuf),
    /// Another program keeps putting something in the place of a version.
    #[error("cannot publish {path}: another program keeps creating it\nhelp: find the other program that writes below the store", path = .0.display())]
    Contended(PathBuf),
    /// A file of a version was written to, or its change time moved, while the version was examined.
    #[error("cannot seal {path}: its zip was written to meanwhile\nhelp: find the program that changes this file, then try again", path = .0.display())]
    Changed(PathBuf),
    /// Another process holds a lock that is normally held for milliseconds.
    #[error("cannot lock {path}: {holder} has held it for more than {patience:?}\nhelp: find the process that has this file open; if it is suspended, resume it or end it, then try again", path = path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// The holder, as far as the system reports it.
        holder: String,
        /// How long this process waited.
        patience: Duration,
    },
    /// Another process holds the claim of a version and makes no progress.
    #[error("cannot lock {version}: {holder} has held it for {} s without progress\nhelp: stop that process, or try again later", quiet.as_secs())]
    Held {
        /// The version.
        version: String,
        /// The holder, as far as the system reports it.
        holder: String,
        /// The time without progress.
        quiet: Duration,
    },
    /// A record is damaged, so it is unknown whether the version was removed for good.
    #[error("cannot read the record {path}: {reason}\nhelp: fix the file, or remove it if its tombstone and hashes are no longer needed", path = path.display())]
    Record {
        /// The file of the record.
        path: PathBuf,
        /// The fault of the file.
        reason: String,
    },
}

impl StoreError {
    /// Returns the error of a lock that another process holds for longer than `patience`.
    pub(crate) fn busy(path: &Path, patience: Duration) -> Self {
        let holder = lock::names(&lock::holders_of(path));
        Self::Busy { path: path.to_owned(), holder, patience }
    }

    /// Returns whether the error concerns one version only, so that work on other versions can go on. A full disk, a
    /// read-only file system, a failing device, and a lack of memory or of open files concern all of them.
    pub fn is_of_one_version(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::Path(error) => {
                let errno = error.errno();
                let is_of_all = matches!(
                    errno,
                    Some(
                        Errno::NOSPC
                            | Errno::DQUOT
                            | Errno::ROFS
                            | Errno::IO
                            | Errno::MFILE
                            | Errno::NFILE
                            | Errno::NOMEM
                    )
                );
                !is_of_all
            }
            Self::Contended(_) | Self::Changed(_) | Self::Record { .. } | Self::Held { .. } => true,
            Self::Busy { .. } | Self::Lock(_) | Self::ReadOnly(_) => false,
        }
    }

    /// Returns whether a file in a folder is damaged, or may not be read by this user, so that reading it again is of no
    /// help. A lost server and a lack of memory or of open files concern the system: the content may be readable later.
    pub(crate) fn is_of_unreadable_file_in(&self, folder: &Path) -> bool {
        let Self::Path(error) = self else { return false };
        let is_damaged = error.is_damage() && error.errno() != Some(rustix::io::Errno::STALE);
        let is_forbidden = error.source.kind() == std::io::ErrorKind::PermissionDenied;
        (is_damaged || is_forbidden) && error.path.starts_with(folder)
    }

    /// Returns whether there is no room to write. See [`PathError::is_out_of_space`].
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Path(error) | Self::Lock(LockError::Path(error)) => error.is_out_of_space(),
            _ => false,
        }
    }

    /// Returns whether a file would be larger than this process, or the file system, may write.
    pub fn is_over_size_limit(&self) -> bool {
        matches!(self, Self::Path(error) if error.errno() == Some(rustix::io::Errno::FBIG))
    }

    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Lock(error) => error.exit(),
            Self::ReadOnly(_) => Exit::PERMISSION,
            Self::Contended(_) => Exit::CANT_CREATE,
            Self::Busy { .. } | Self::Held { .. } => Exit::BUSY,
            Self::Changed(_) | Self::Record { .. } => Exit::IO,
        }
    }
}
