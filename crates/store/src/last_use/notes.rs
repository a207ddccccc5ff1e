//! The database of the usage data.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use stoa_gomod::ModuleVersion;

use super::{Day, LastUseError};
use crate::sqlite;

/// The application id of a database with usage data.
const APPLICATION: i32 = i32::from_be_bytes(*b"StUs");

/// The version of the tables. A database with another version is replaced.
const SCHEMA_VERSION: i32 = 1;

/// How long to wait for another writer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open database. Dropping it closes the database before it releases the locks.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    connection: Connection,
    path: PathBuf,
    _lock: Option<File>,
    _turn: MutexGuard<'a, bool>,
}

impl<'a> Notes<'a> {
    /// Wraps a database that was opened for writing, with its locks.
    pub(super) fn new(connection: Connection, path: PathBuf, lock: File, turn: MutexGuard<'a, bool>) -> Self {
        Self { connection, path, _lock: Some(lock), _turn: turn }
    }

    /// Opens a database for reading, without writing any file.
    pub(super) fn open_read_only(path: PathBuf, turn: MutexGuard<'a, bool>) -> Result<Self, LastUseError> {
        let connection = open(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        match sqlite::kind(&connection).map_err(|source| failed(&path, source))? {
            (APPLICATION, SCHEMA_VERSION) => verify(&connection, &path)?,
            kind => return Err(foreign(&path, kind)),
        }
        Ok(Self { connection, path, _lock: None, _turn: turn })
    }
}

impl Notes<'_> {
    pub(super) fn began(&self) -> Result<Day, LastUseError> {
        let asked = self.connection.query_row("SELECT day FROM began", [], |row| row.get(0));
        asked.map(Day).map_err(|source| self.failed(source))
    }

    pub(super) fn day(&self, version: &ModuleVersion) -> Result<Option<Day>, LastUseError> {
        let asked = self
            .connection
            .prepare_cached("SELECT day FROM uses WHERE module = ?1 AND version = ?2")
            .and_then(|mut ask| ask.query_row(params_of(version), |row| row.get(0)).optional());
        asked.map(|day| day.map(Day)).map_err(|source| self.failed(source))
    }

    /// Returns up to 1000 versions with usage data after a version, sorted by module and version.
    pub(super) fn page(&self, after: &(String, String)) -> Result<Vec<(String, String)>, LastUseError> {
        let asked = self
            .connection
            .prepare_cached(
                "SELECT module, version FROM uses WHERE (module, version) > (?1, ?2)
                    ORDER BY module, version LIMIT 1000",
            )
            .and_then(|mut ask| {
                let rows = ask.query_map([&after.0, &after.1], |row| Ok((row.get(0)?, row.get(1)?)))?;
                rows.collect()
            });
        asked.map_err(|source| self.failed(source))
    }

    /// Returns the versions whose last recorded use is on this day.
    pub(super) fn used_on(&self, day: Day) -> Result<Vec<String>, LastUseError> {
        let asked = self
            .connection
            .prepare_cached("SELECT module || '@' || version FROM uses WHERE day = ?1")
            .and_then(|mut ask| ask.query_map([day.0], |row| row.get(0))?.collect());
        asked.map_err(|source| self.failed(source))
    }

    pub(super) fn forget(&mut self, gone: &[(String, String)]) -> Result<(), LastUseError> {
        if gone.is_empty() {
            return Ok(());
        }
        let done = (|| {
            let transaction =
                self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for (module, version) in gone {
                transaction
                    .prepare_cached("DELETE FROM uses WHERE module = ?1 AND version = ?2")?
                    .execute([module, version])?;
            }
            transaction.commit()
        })();
        done.map_err(|source| self.failed(source))
    }

    pub(super) fn write(mut self, uses: &HashSet<ModuleVersion>, today: Day) -> Result<(), LastUseError> {
        if uses.is_empty() {
            return Ok(());
        }
        let written = (|| {
            let transaction =
                self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            {
                let mut put = transaction.prepare_cached(
                    "INSERT INTO uses (module, version, day) VALUES (?1, ?2, ?3)
                        ON CONFLICT (module, version) DO UPDATE SET day = max(day, excluded.day)",
                )?;
                for version in uses {
                    put.execute(params![version.path().as_str(), version.version().as_str(), today.0])?;
                }
            }
            transaction.commit()
        })();
        written.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> LastUseError {
        failed(&self.path, source)
    }
}

fn params_of(version: &ModuleVersion) -> [&str; 2] {
    [version.path().as_str(), version.version().as_str()]
}

/// Opens a database or an empty file for writing. Verifies the database unless that was done before.
pub(super) fn connect(path: &Path, is_verified: bool) -> Result<Connection, LastUseError> {
    let mut connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    prepare(&mut connection, path)?;
    if !is_verified {
        verify(&connection, path)?;
    }
    Ok(connection)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, LastUseError> {
    sqlite::open(path, access, PATIENCE).map_err(|source| failed(path, source))
}

/// Creates the tables in an empty database, in one transaction. Otherwise checks the kind of the database.
fn prepare(connection: &mut Connection, path: &Path) -> Result<(), LastUseError> {
    if sqlite::kind(connection).map_err(|source| failed(path, source))? == (APPLICATION, SCHEMA_VERSION) {
        return Ok(());
    }
    let made = (|| {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Again: another process may have been faster.
        let kind = sqlite::kind(&transaction)?;
        let tables: i64 =
            transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if kind == (0, 0) && tables == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute("INSERT INTO began (one, day) VALUES (1, ?1)", [Day::today().0])?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
            return Ok((APPLICATION, SCHEMA_VERSION));
        }
        Ok(kind)
    })();
    match made.map_err(|source| failed(path, source))? {
        (APPLICATION, SCHEMA_VERSION) => Ok(()),
        kind => Err(foreign(path, kind)),
    }
}

fn foreign(path: &Path, kind: sqlite::Kind) -> LastUseError {
    LastUseError::Broken { path: path.to_owned(), reason: sqlite::foreign(kind) }
}

const SCHEMA: &str = "
    CREATE TABLE uses (
        module TEXT NOT NULL,
        version TEXT NOT NULL,
        day INTEGER NOT NULL,
        PRIMARY KEY (module, version)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE began (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), day INTEGER NOT NULL) STRICT;
";

/// Verifies the whole database: finds files that were cut or overwritten, which queries would not notice.
fn verify(connection: &Connection, path: &Path) -> Result<(), LastUseError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| failed(path, source))?;
    let began: i64 = connection
        .query_row("SELECT count(*) FROM began", [], |row| row.get(0))
        .map_err(|source| failed(path, source))?;
    match (verdict.as_str(), began) {
        ("ok", 1) => Ok(()),
        ("ok", _) => {
            let reason = "the first day of the recording is missing".to_owned();
            Err(LastUseError::Broken { path: path.to_owned(), reason })
        }
        (verdict, _) => Err(LastUseError::Broken { path: path.to_owned(), reason: verdict.to_owned() }),
    }
}

fn failed(path: &Path, source: rusqlite::Error) -> LastUseError {
    let path = path.to_owned();
    if sqlite::is_damage(&source) {
        LastUseError::Broken { path, reason: source.to_string() }
    } else {
        LastUseError::Database { path, source }
    }
}
