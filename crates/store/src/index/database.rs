//! One database of an index: its tables, and every question that is asked of it.
//!
//! `versions` is kept in the order of the catalog, and `versions_by_time` in that of the feed, so that a page costs
//! the same wherever it begins. An instant is given to one version only: who follows the feed page by page could not
//! get past a page full of one. Where two infos were written at one instant, the second gets the next nanosecond that
//! is free.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{
    CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension, Params, Row, ToSql, ffi, params,
};

use super::reconcile::{FolderStamp, SeenModule, Stop};
use super::{CatalogEntry, FeedEntry, IndexError, IndexRow};

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
}

/// How a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// By who may write to the store; a question needs that too, to share what others write meanwhile.
    Write,
    /// Without writing anything.
    Read,
}

/// What says that a database is an index of a Go module store: the letters of this program.
const APPLICATION: i32 = i32::from_be_bytes(*b"Stoa");

/// Grows with every change of the tables. Another number is an index that must be built again.
const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = "
    CREATE TABLE modules (
        path TEXT NOT NULL PRIMARY KEY,
        inode INTEGER,
        modified INTEGER,
        changed INTEGER,
        versions INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE versions (
        module TEXT NOT NULL,
        version TEXT NOT NULL,
        modified INTEGER NOT NULL,
        time INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (module, version)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX versions_by_time ON versions (time);
";

/// How many nanoseconds are searched at a time for one that is free.
const WINDOW: i64 = 1_000_000;

/// How many steps of a long question SQLite takes between two looks whether to stop: some milliseconds.
const STEPS: i32 = 100_000;

/// What a pass changed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changed {
    pub(super) added: u64,
    pub(super) removed: u64,
}

impl Database {
    /// Opens one that is there, and looks whether it is one of ours.
    pub(super) fn open(path: &Path, access: Access, patience: Duration) -> Result<Self, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = match access {
            Access::Write => Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE),
            Access::Read => Connection::open_with_flags(
                read_only_uri(path),
                flags | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
            ),
        };
        let connection = opened.map_err(|source| failed(path, source))?;
        let database = Self { connection, path: path.to_owned() };
        database.connection.busy_timeout(patience).map_err(|source| database.failed(source))?;
        let number = |name: &str| {
            let asked = database.connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
            asked.map_err(|source| database.failed(source))
        };
        let (application, version) = (number("application_id")?, number("user_version")?);
        if (application, version) != (APPLICATION, SCHEMA_VERSION) {
            let reason = format!("its tables are of another kind or release: {application:#x}, {version}");
            return Err(IndexError::Broken { path: path.to_owned(), reason });
        }
        database.set("synchronous", "NORMAL")?;
        database.set("temp_store", "MEMORY")?;
        Ok(database)
    }

    /// Makes the tables in an empty file that nobody knows of yet: fast, and of no use if it is not finished.
    pub(super) fn create(path: &Path) -> Result<Self, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = Connection::open_with_flags(path, flags).map_err(|source| failed(path, source))?;
        let database = Self { connection, path: path.to_owned() };
        database.set("journal_mode", "OFF")?;
        database.set("synchronous", "OFF")?;
        database.set("temp_store", "MEMORY")?;
        // In KiB.
        database.set("cache_size", -32768)?;
        database.set("application_id", APPLICATION)?;
        database.set("user_version", SCHEMA_VERSION)?;
        database.connection.execute_batch(SCHEMA).map_err(|source| database.failed(source))?;
        Ok(database)
    }

    /// Ends what [`Self::create`] began. The file is whole then, and not synced.
    pub(super) fn finish(self) -> Result<(), IndexError> {
        self.set("journal_mode", "WAL")?;
        let Self { connection, path } = self;
        connection.flush_prepared_statement_cache();
        connection.close().map_err(|(_, source)| failed(&path, source))
    }

    /// Reads all of it once: what was cut off, overwritten or put together from two states is found here and not by
    /// the questions.
    pub(super) fn verify(&mut self, stop: &Stop) -> Result<(), IndexError> {
        let handler = stop.clone();
        self.connection
            .progress_handler(STEPS, Some(move || handler.is_asked()))
            .map_err(|source| failed(&self.path, source))?;
        let verdict = self.ask("PRAGMA integrity_check(1)", |row| row.get::<_, String>(0));
        let counted = self.ask(
            "SELECT count(*) FROM modules WHERE inode IS NOT NULL
                AND versions IS NOT (SELECT count(*) FROM versions WHERE module = modules.path)",
            |row| row.get::<_, i64>(0),
        );
        let strays = self.ask(
            "SELECT count(*) FROM versions WHERE NOT EXISTS (SELECT 1 FROM modules WHERE path = module)",
            |row| row.get::<_, i64>(0),
        );
        self.connection
            .progress_handler(0, None::<fn() -> bool>)
            .map_err(|source| failed(&self.path, source))?;
        let reason = match (verdict?.as_str(), counted?, strays?) {
            ("ok", 0, 0) => return Ok(()),
            ("ok", counted, strays) => {
                format!("{} modules have not the rows that they should", counted + strays)
            }
            (verdict, ..) => verdict.to_owned(),
        };
        Err(IndexError::Broken { path: self.path.clone(), reason })
    }

    pub(super) fn catalog(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<CatalogEntry>, IndexError> {
        let (module, version) = after.unwrap_or_default();
        self.list(
            "SELECT module, version FROM versions WHERE (module, version) > (?1, ?2)
                ORDER BY module, version LIMIT ?3",
            params![module, version, limit_of(limit)],
            |row| Ok(CatalogEntry { module: row.get(0)?, version: row.get(1)? }),
        )
    }

    pub(super) fn feed(&self, since: i64, limit: usize) -> Result<Vec<FeedEntry>, IndexError> {
        self.list(
            "SELECT module, version, time FROM versions WHERE time >= ?1 ORDER BY time LIMIT ?2",
            params![since, limit_of(limit)],
            |row| Ok(FeedEntry { module: row.get(0)?, version: row.get(1)?, time: row.get(2)? }),
        )
    }

    pub(super) fn count(&self) -> Result<u64, IndexError> {
        let count = self.ask("SELECT count(*) FROM versions", |row| row.get::<_, i64>(0))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    /// Is the stamp that was noted of a module.
    pub(super) fn noted(&self, module: &str) -> Result<Option<FolderStamp>, IndexError> {
        let asked = self.cached("SELECT inode, modified, changed FROM modules WHERE path = ?1")?.query_row(
            [module],
            |row| {
                let [inode, modified, changed]: [Option<i64>; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
                Ok(inode.zip(modified).zip(changed))
            },
        );
        let noted = asked.optional().map_err(|source| self.failed(source))?;
        Ok(noted.flatten().map(|((inode, modified), changed)| FolderStamp { inode, modified, changed }))
    }

    /// Lists modules that have a row, in order, after one.
    pub(super) fn modules(&self, after: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        self.list(
            "SELECT path FROM modules WHERE path > ?1 ORDER BY path LIMIT ?2",
            params![after, limit_of(limit)],
            |row| row.get(0),
        )
    }

    /// Writes the row of one version. Its module is read again by whoever reconciles.
    pub(super) fn put(&mut self, module: &str, row: &IndexRow) -> Result<(), IndexError> {
        self.change(|database| {
            database.unsettle(module)?;
            let known = database.rows(module, Some(&row.version))?;
            database.put_row(module, row, known.first()).map(drop)
        })
    }

    /// Removes the row of one version.
    pub(super) fn remove(&mut self, module: &str, version: &str) -> Result<(), IndexError> {
        self.change(|database| {
            database.unsettle(module)?;
            database.remove_row(module, version)
        })
    }

    /// Brings the rows of modules to what was seen of them. A row that was not seen goes only if `is_there` says, now
    /// that nobody else can write, that its version is not there: it may have come after it was looked for.
    pub(super) fn apply(
        &mut self,
        seen: &[SeenModule],
        is_there: impl Fn(&str, &str) -> bool,
    ) -> Result<Changed, IndexError> {
        let mut changed = Changed::default();
        self.change(|database| {
            for module in seen {
                database.apply_one(module, &is_there, &mut changed)?;
            }
            Ok(())
        })?;
        Ok(changed)
    }

    fn apply_one(
        &self,
        seen: &SeenModule,
        is_there: &impl Fn(&str, &str) -> bool,
        changed: &mut Changed,
    ) -> Result<(), IndexError> {
        let module = seen.module.as_str();
        let known = self.rows(module, None)?;
        // Rows that came after the look.
        let mut later = 0;
        for row in &known {
            if find(&seen.rows, &row.version).is_some() {
                continue;
            }
            if is_there(module, &row.version) {
                later += 1;
            } else {
                self.remove_row(module, &row.version)?;
                changed.removed += 1;
            }
        }
        for row in &seen.rows {
            changed.added += u64::from(self.put_row(module, row, find(&known, &row.version))?);
        }
        if seen.is_gone && later == 0 {
            return self.execute("DELETE FROM modules WHERE path = ?1", [module]);
        }
        let [inode, modified, changed] = match seen.stamp.filter(|_| later == 0) {
            Some(stamp) => [stamp.inode, stamp.modified, stamp.changed].map(Some),
            None => [None; 3],
        };
        let count = i64::try_from(seen.rows.len()).unwrap_or(i64::MAX);
        self.execute(
            "INSERT OR REPLACE INTO modules (path, inode, modified, changed, versions) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![module, inode, modified, changed, count],
        )
    }

    /// Lets a module be read again.
    fn unsettle(&self, module: &str) -> Result<(), IndexError> {
        self.execute("INSERT OR REPLACE INTO modules (path) VALUES (?1)", [module])
    }

    /// Is the rows of a module, or of one version of it, in the order of their text.
    fn rows(&self, module: &str, version: Option<&str>) -> Result<Vec<IndexRow>, IndexError> {
        self.list(
            "SELECT version, modified, bytes FROM versions
                WHERE module = ?1 AND (?2 IS NULL OR version = ?2) ORDER BY version",
            params![module, version],
            |row| {
                let bytes = u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default();
                Ok(IndexRow { version: row.get(0)?, modified: row.get(1)?, bytes })
            },
        )
    }

    /// Writes a row unless it is there already, and says whether it did.
    fn put_row(&self, module: &str, row: &IndexRow, known: Option<&IndexRow>) -> Result<bool, IndexError> {
        let bytes = i64::try_from(row.bytes).unwrap_or(i64::MAX);
        match known {
            Some(known) if known == row => return Ok(false),
            Some(known) if known.modified == row.modified => {
                self.execute(
                    "UPDATE versions SET bytes = ?3 WHERE module = ?1 AND version = ?2",
                    params![module, row.version, bytes],
                )?;
                return Ok(true);
            }
            Some(known) => self.remove_row(module, &known.version)?,
            None => {}
        }
        let time = self.free_instant(row.modified)?;
        self.execute(
            "INSERT INTO versions (module, version, modified, time, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![module, row.version, row.modified, time, bytes],
        )?;
        Ok(true)
    }

    fn remove_row(&self, module: &str, version: &str) -> Result<(), IndexError> {
        self.execute("DELETE FROM versions WHERE module = ?1 AND version = ?2", [module, version])
    }

    /// Finds an instant that no version has: the one that is asked for, or soon after it.
    fn free_instant(&self, wanted: i64) -> Result<i64, IndexError> {
        let mut is_taken = self.cached("SELECT 1 FROM versions WHERE time = ?1")?;
        let mut last = self
            .cached("SELECT time FROM versions WHERE time >= ?1 AND time < ?2 ORDER BY time DESC LIMIT 1")?;
        let mut instant = wanted;
        while is_taken.exists([instant]).map_err(|source| self.failed(source))? {
            let end = instant.saturating_add(WINDOW);
            let last = last.query_row([instant, end], |row| row.get::<_, i64>(0));
            instant = last.map_err(|source| self.failed(source))?.saturating_add(1);
        }
        Ok(instant)
    }

    /// Does a change whole or not at all, and no other writer in between.
    fn change(&mut self, change: impl FnOnce(&Self) -> Result<(), IndexError>) -> Result<(), IndexError> {
        // Not `Connection::transaction`, which would keep the connection from everybody else.
        self.batch("BEGIN IMMEDIATE")?;
        match change(self) {
            Ok(()) => self.batch("COMMIT"),
            Err(error) => {
                // Closing it would do the same.
                let _ = self.batch("ROLLBACK");
                Err(error)
            }
        }
    }

    fn batch(&self, sql: &str) -> Result<(), IndexError> {
        self.connection.execute_batch(sql).map_err(|source| self.failed(source))
    }

    fn execute(&self, sql: &str, values: impl Params) -> Result<(), IndexError> {
        self.cached(sql)?.execute(values).map(drop).map_err(|source| self.failed(source))
    }

    fn list<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, IndexError> {
        let mut statement = self.cached(sql)?;
        let rows = statement.query_map(values, read).and_then(Iterator::collect);
        rows.map_err(|source| self.failed(source))
    }

    fn ask<T>(&self, sql: &str, read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>) -> Result<T, IndexError> {
        self.connection.query_row(sql, [], read).map_err(|source| self.failed(source))
    }

    fn cached(&self, sql: &str) -> Result<CachedStatement<'_>, IndexError> {
        self.connection.prepare_cached(sql).map_err(|source| self.failed(source))
    }

    fn set(&self, name: &str, value: impl ToSql) -> Result<(), IndexError> {
        self.connection.pragma_update(None, name, value).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> IndexError {
        failed(&self.path, source)
    }
}

/// Finds a version among rows in the order of their text.
fn find<'a>(rows: &'a [IndexRow], version: &str) -> Option<&'a IndexRow> {
    let at = rows.binary_search_by(|row| row.version.as_str().cmp(version)).ok()?;
    rows.get(at)
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Tells what is wrong with a database from what is wrong with the disk.
fn failed(path: &Path, source: rusqlite::Error) -> IndexError {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, SqlInputError, SqliteFailure,
        Utf8Error,
    };
    let error = match &source {
        SqliteFailure(error, _) | SqlInputError { error, .. } => Some(*error),
        _ => None,
    };
    if error.is_some_and(|error| error.code == ErrorCode::OperationInterrupted) {
        return IndexError::Stopped;
    }
    let is_broken = match (error, &source) {
        (Some(error), _) => {
            matches!(
                error.code,
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::SchemaChanged
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::Unknown
            ) || error.extended_code == ffi::SQLITE_IOERR_SHORT_READ
        }
        (
            None,
            FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | Utf8Error(..),
        ) => true,
        _ => false,
    };
    let path = path.to_owned();
    if is_broken {
        return IndexError::Broken { path, reason: source.to_string() };
    }
    IndexError::Database { path, source }
}

/// Names a database so that reading it writes nothing. Where others have written what is not in the file itself
/// yet, their memory of it is read as well, else the file is all there is.
fn read_only_uri(path: &Path) -> OsString {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let has_log = std::fs::metadata(&log).is_ok_and(|meta| meta.len() > 0);
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(*byte),
            other => uri.extend(format!("%{other:02x}").bytes()),
        }
    }
    uri.extend(if has_log { &b"?mode=ro&readonly_shm=1"[..] } else { b"?mode=ro&immutable=1" });
    OsString::from_vec(uri)
}
