//! What can go wrong with a store, as far as a caller may want to tell it apart.

use std::path::PathBuf;
use std::time::Duration;

use stoa_layout::lock::LockError;
use stoa_layout::{Exit, PathError};

/// An operation on the store failed. Nothing is visible half-done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A lock below the root was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store was opened to be read only.
    #[error("{root} is open for reading only, so nothing can be stored in it; start without --read-only and on a writable file system", root = .0.display())]
    ReadOnly(PathBuf),
    /// Something else keeps appearing at the place of a version.
    #[error("{path} cannot be published: something else keeps appearing there; find out what else writes below the store", path = .0.display())]
    Contended(PathBuf),
    /// Another process holds a lock that nobody needs for long.
    #[error("{path} is held by another process, for more than {patience:?}; see which one has it open and whether that is stopped, then try again", path = path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A record is damaged, so that nobody knows what is forbidden.
    #[error("the record {path} is damaged: {reason}; mend it, or remove it if no tombstone or hash in it is to hold any more, then try again", path = path.display())]
    Record {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// Whether it is a matter of the one version that was worked on, so that others need not fail likewise: not a
    /// full disk, a file system that is read-only, or a device that fails.
    pub fn is_of_one_version(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::Path(error) => {
                let errno = error.errno();
                !matches!(errno, Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO | Errno::MFILE))
            }
            Self::Contended(_) | Self::Record { .. } => true,
            Self::Busy { .. } | Self::Lock(_) | Self::ReadOnly(_) => false,
        }
    }

    /// Is the code that a program ends with for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Lock(error) => error.exit(),
            Self::ReadOnly(_) => Exit::PERMISSION,
            Self::Contended(_) => Exit::CANT_CREATE,
            Self::Busy { .. } => Exit::BUSY,
            Self::Record { .. } => Exit::IO,
        }
    }
}
