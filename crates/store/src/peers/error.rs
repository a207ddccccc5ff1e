//! The errors of the database of the peers.

use std::path::{Path, PathBuf};

use stoa_layout::PathError;

use crate::{StoreError, sqlite};

/// The database of the peers cannot be used. No stored version is affected.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// The database is damaged or belongs to another program.
    #[error("cannot use the database of the peers {path}: {reason}\nhelp: start a server that can write to the store; it creates a new database", path = path.display())]
    Broken {
        /// The database.
        path: PathBuf,
        /// The fault of the database.
        reason: String,
    },
    /// A database error.
    #[error("cannot use the database of the peers {path}: {source}\nhelp: check that the disk is not full and the file is writable, then try again", path = path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// The error of SQLite.
        source: rusqlite::Error,
    },
    /// An error of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PathError> for PeersError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

impl PeersError {
    /// Makes an error from an error of SQLite.
    pub(super) fn of(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if sqlite::is_damage(&source) {
            Self::Broken { path, reason: source.to_string() }
        } else {
            Self::Database { path, source }
        }
    }
}
