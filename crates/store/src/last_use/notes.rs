//! The database of the notes.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use stoa_gomod::ModuleVersion;

use super::{Day, LastUseError};

/// What says that a database is one of these: letters of this program.
const APPLICATION: i32 = i32::from_be_bytes(*b"StUs");

/// Grows with every change of the tables. Another number is a database that begins anew.
const SCHEMA_VERSION: i32 = 1;

/// How long to wait for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open database. Closed before the locks are let go.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    connection: Connection,
    path: PathBuf,
    _lock: Option<File>,
    _turn: MutexGuard<'a, bool>,
}

impl<'a> Notes<'a> {
    /// Takes over a database that was opened to be written, with the locks that keep it.
    pub(super) fn new(connection: Connection, path: PathBuf, lock: File, turn: MutexGuard<'a, bool>) -> Self {
        Self { connection, path, _lock: Some(lock), _turn: turn }
    }

    /// Opens a database to read it, and writes nothing.
    pub(super) fn look(path: PathBuf, turn: MutexGuard<'a, bool>) -> Result<Self, LastUseError> {
        let connection = open(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        match kind(&connection).map_err(|source| failed(&path, source))? {
            (APPLICATION, SCHEMA_VERSION) => verify(&connection, &path)?,
            kind => return Err(of_another_kind(&path, kind)),
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

    /// Lists versions that something is noted of, in order, after one.
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

/// Opens a database, or an empty file, to write it. What was read whole before need not be again.
pub(super) fn connect(path: &Path, is_verified: bool) -> Result<Connection, LastUseError> {
    let mut connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    prepare(&mut connection, path)?;
    if !is_verified {
        verify(&connection, path)?;
    }
    Ok(connection)
}

fn open(path: &Path, access: OpenFlags) -> Result<Connection, LastUseError> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(PATIENCE)?;
        Ok(connection)
    });
    opened.map_err(|source| failed(path, source))
}

/// Makes the tables in an empty database, in one transaction; else looks whether it is one of ours.
fn prepare(connection: &mut Connection, path: &Path) -> Result<(), LastUseError> {
    if kind(connection).map_err(|source| failed(path, source))? == (APPLICATION, SCHEMA_VERSION) {
        return Ok(());
    }
    let made = (|| {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        let kind = kind(&transaction)?;
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
        kind => Err(of_another_kind(path, kind)),
    }
}

fn of_another_kind(path: &Path, (application, version): (i32, i32)) -> LastUseError {
    let reason = format!("its tables are of another kind or release: {application:#x}, {version}");
    LastUseError::Broken { path: path.to_owned(), reason }
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

fn kind(connection: &Connection) -> rusqlite::Result<(i32, i32)> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok((number("application_id")?, number("user_version")?))
}

/// Reads all of it, once a process: what was cut off or overwritten is found here and not by the questions.
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
            let reason = "it does not say when it began".to_owned();
            Err(LastUseError::Broken { path: path.to_owned(), reason })
        }
        (verdict, _) => Err(LastUseError::Broken { path: path.to_owned(), reason: verdict.to_owned() }),
    }
}

fn failed(path: &Path, source: rusqlite::Error) -> LastUseError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            LastUseError::Broken { path, reason: source.to_string() }
        }
        _ => LastUseError::Database { path, source },
    }
}
