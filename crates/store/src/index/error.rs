//! The errors of the index.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use stoa_layout::PathError;

use crate::{StoreError, sqlite};

/// The index cannot be used. No stored version is affected.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is no index.
    #[error("cannot use the index: {folder} holds no index\nhelp: start a server that can write to the store, or run stoa-migrate --regenerate", folder = .0.display())]
    Missing(PathBuf),
    /// The file is damaged or belongs to another program.
    #[error("cannot use the index {path}: {reason}\nhelp: start a server that can write to the store, or run stoa-migrate --regenerate", path = path.display())]
    Broken {
        /// The database.
        path: PathBuf,
        /// The fault of the database.
        reason: String,
    },
    /// A database error.
    #[error("cannot use the index {path}: {source}\nhelp: check that the disk is not full and the file is writable, then try again", path = path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// The error of SQLite.
        source: rusqlite::Error,
    },
    /// An error of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work was stopped on request.
    #[error("stopped before the index was up to date; the next run continues")]
    Stopped,
}

impl From<PathError> for IndexError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

impl IndexError {
    /// Returns whether a new index must be built.
    pub fn needs_rebuild(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Broken { .. })
    }

    /// Makes an error from an error of SQLite.
    pub(super) fn of(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if source.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
            Self::Stopped
        } else if sqlite::is_damage(&source) {
            Self::Broken { path, reason: source.to_string() }
        } else {
            Self::Database { path, source }
        }
    }
}
