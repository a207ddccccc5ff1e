//! The tables of the database of the peers, and how it is opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::PeersError;
use crate::sqlite;

/// The application id of a database of the peers.
const APPLICATION: i32 = i32::from_be_bytes(*b"StPe");

/// The version of the tables. A database with another version is replaced.
const SCHEMA_VERSION: i32 = 1;

/// How long to wait for another writer.
const PATIENCE: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
    CREATE TABLE pointers (
        peer TEXT NOT NULL,
        index_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        moved_at INTEGER NOT NULL,
        PRIMARY KEY (peer, index_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE queue (
        peer TEXT NOT NULL,
        module TEXT NOT NULL,
        version TEXT NOT NULL,
        is_mark INTEGER NOT NULL,
        h1 TEXT,
        gomod_h1 TEXT,
        bytes INTEGER,
        is_lifted INTEGER,
        origin TEXT,
        counter INTEGER,
        at TEXT,
        reason TEXT,
        index_id TEXT,
        seq INTEGER,
        is_listed INTEGER NOT NULL,
        queued_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        due INTEGER NOT NULL,
        is_parked INTEGER NOT NULL,
        failure TEXT,
        PRIMARY KEY (peer, module, version, is_mark)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX queue_by_due ON queue (peer, due, seq) WHERE is_parked = 0;
    CREATE INDEX queue_by_age ON queue (peer, queued_at) WHERE is_parked = 0;
    CREATE INDEX queue_by_version ON queue (module, version, is_mark);
    CREATE TABLE conflicts (
        peer TEXT NOT NULL,
        module TEXT NOT NULL,
        version TEXT NOT NULL,
        ours TEXT NOT NULL,
        theirs TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (peer, module, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE peers (
        name TEXT NOT NULL PRIMARY KEY,
        contact_at INTEGER,
        error TEXT,
        error_at INTEGER,
        index_id TEXT,
        their_last INTEGER,
        compared_at INTEGER
    ) STRICT, WITHOUT ROWID;
";

/// The indexes that an earlier release did not make. They serve queries that would otherwise read the rows that are done.
const LATER_INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS queue_parked ON queue (peer) WHERE is_parked = 1;
    CREATE INDEX IF NOT EXISTS queue_by_place ON queue (peer, index_id, seq) WHERE is_parked = 0;
";

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
}

impl Database {
    /// Creates the tables in an empty file that no other process uses.
    pub(super) fn create(path: &Path) -> Result<(), PeersError> {
        let made = (|| {
            let connection = sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, Duration::ZERO)?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.pragma_update(None, "application_id", APPLICATION)?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            connection.execute_batch(SCHEMA)?;
            connection.execute_batch(LATER_INDEXES)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.close().map_err(|(_, error)| error)
        })();
        made.map_err(|source| PeersError::of(path, source))
    }

    /// Opens an existing database for writing and checks its kind.
    pub(super) fn open(path: &Path) -> Result<Self, PeersError> {
        let opened = sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, PATIENCE);
        let database = Self::checked(path, opened)?;
        let prepared = (|| {
            database.connection.pragma_update(None, "synchronous", "NORMAL")?;
            database.connection.execute_batch(LATER_INDEXES)
        })();
        prepared.map_err(|source| PeersError::of(path, source))?;
        Ok(database)
    }

    /// Opens an existing database for reading, without writing any file.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, PeersError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        Self::checked(path, sqlite::open(sqlite::read_only_uri(path), flags, PATIENCE))
    }

    fn checked(path: &Path, opened: rusqlite::Result<Connection>) -> Result<Self, PeersError> {
        let connection = opened.map_err(|source| PeersError::of(path, source))?;
        match sqlite::kind(&connection).map_err(|source| PeersError::of(path, source))? {
            (APPLICATION, SCHEMA_VERSION) => Ok(Self { connection }),
            kind => Err(PeersError::Broken { path: path.to_owned(), reason: sqlite::foreign(kind) }),
        }
    }

    /// Verifies the whole database: finds files that were cut or overwritten, which queries would not notice.
    pub(super) fn verify(&self, path: &Path) -> Result<(), PeersError> {
        let verdict: rusqlite::Result<String> =
            self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match verdict.map_err(|source| PeersError::of(path, source))?.as_str() {
            "ok" => Ok(()),
            reason => Err(PeersError::Broken { path: path.to_owned(), reason: reason.to_owned() }),
        }
    }

    /// Begins a transaction that writes. Dropping it undoes its changes.
    pub(super) fn begin(&self) -> rusqlite::Result<Transaction<'_>> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
    }

    /// Closes a database that was replaced, without writing to its file: a copy of the store may share it.
    pub(super) fn abandon(self) {
        // If this fails, SQLite writes its log into the file.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }
}
