//! A database of the index: its tables and its queries.
//!
//! The table `versions` is sorted as the catalog and the index `versions_by_time` as the feed, so a page costs the same
//! at every position. Each version has its own instant, because a client that follows the feed page by page could not
//! get past a full page of versions with the same time. If two versions want the same time, the second version gets a
//! free nanosecond soon after it.
//!
//! A row of `versions` comes from the store, from the manifest of a bucket, or from both. It goes when neither has the
//! version. The manifest decides whether a version is listed, and with which time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, OpenFlags, OptionalExtension, Params, Row, ToSql, params};

use super::error::IndexError;
use super::rows::{
    CatalogEntry, Changed, FeedEntry, FolderStamp, Hashes, IndexRow, SeenModule, Stop, Totals,
};
use super::settle::Settling;
use crate::sqlite;

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
}

/// How a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// For reading and writing. Queries in a writable store need it too, to see the writes of other processes.
    Write,
    /// For reading, without writing any file.
    Read,
}

/// The application id of an index.
const APPLICATION: i32 = i32::from_be_bytes(*b"Stoa");

/// The version of the tables. An index with another version is rebuilt.
const SCHEMA_VERSION: i32 = 3;

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
        modified INTEGER,
        bytes INTEGER,
        is_complete INTEGER,
        wanted INTEGER,
        time INTEGER,
        h1 TEXT,
        gomod_h1 TEXT,
        seq INTEGER,
        PRIMARY KEY (module, version)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX versions_by_time ON versions (time);
    CREATE UNIQUE INDEX versions_by_seq ON versions (seq) WHERE seq IS NOT NULL;
    CREATE TABLE manifests (
        key TEXT NOT NULL PRIMARY KEY,
        tag TEXT NOT NULL,
        published INTEGER,
        bytes INTEGER,
        h1 TEXT,
        gomod_h1 TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE bucket (
        id TEXT NOT NULL PRIMARY KEY,
        is_complete INTEGER NOT NULL,
        token TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE log (
        id TEXT NOT NULL PRIMARY KEY,
        next INTEGER NOT NULL,
        boot TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE marks (
        module TEXT NOT NULL,
        version TEXT NOT NULL,
        is_of_bucket INTEGER NOT NULL,
        is_lifted INTEGER NOT NULL,
        origin TEXT NOT NULL,
        counter INTEGER NOT NULL,
        at TEXT NOT NULL,
        reason TEXT,
        seq INTEGER NOT NULL,
        PRIMARY KEY (module, version, is_of_bucket)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX marks_by_seq ON marks (seq);
    CREATE TABLE record_folders (
        module TEXT NOT NULL PRIMARY KEY,
        inode INTEGER,
        modified INTEGER,
        changed INTEGER
    ) STRICT, WITHOUT ROWID;
";

/// The versions that queries of a read-only store understand: the catalog and the feed have the same columns in both.
const READABLE: std::ops::RangeInclusive<i32> = 1..=SCHEMA_VERSION;

/// The number of SQLite steps between two checks for a stop: a few milliseconds.
const STEPS: i32 = 100_000;

impl Database {
    /// Opens an existing database and checks its kind.
    pub(super) fn open(path: &Path, access: Access, patience: Duration) -> Result<Self, IndexError> {
        let opened = match access {
            Access::Write => sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, patience),
            Access::Read => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
                sqlite::open(sqlite::read_only_uri(path), flags, patience)
            }
        };
        let connection = opened.map_err(|source| IndexError::of(path, source))?;
        let database = Self { connection, path: path.to_owned() };
        let kind = sqlite::kind(&database.connection).map_err(|source| database.failed(source))?;
        let is_usable = match access {
            Access::Write => kind == (APPLICATION, SCHEMA_VERSION),
            // A read-only store cannot rebuild an index of an earlier release.
            Access::Read => kind.0 == APPLICATION && READABLE.contains(&kind.1),
        };
        if !is_usable {
            return Err(IndexError::Broken { path: path.to_owned(), reason: sqlite::foreign(kind) });
        }
        database.set("synchronous", "NORMAL")?;
        database.set("temp_store", "MEMORY")?;
        if access == Access::Write {
            database.continue_log()?;
        }
        Ok(database)
    }

    /// Creates the tables in an empty file that no other process uses: fast, and unusable until it is finished.
    pub(super) fn create(path: &Path) -> Result<Self, IndexError> {
        let connection = sqlite::open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, Duration::ZERO)
            .map_err(|source| IndexError::of(path, source))?;
        let database = Self { connection, path: path.to_owned() };
        database.set("journal_mode", "OFF")?;
        database.set("synchronous", "OFF")?;
        database.set("temp_store", "MEMORY")?;
        // In KiB.
        database.set("cache_size", -32768)?;
        database.set("application_id", APPLICATION)?;
        database.set("user_version", SCHEMA_VERSION)?;
        database.connection.execute_batch(SCHEMA).map_err(|source| database.failed(source))?;
        database.begin_log()?;
        Ok(database)
    }

    /// Completes a database from [`Self::create`] and closes it. The caller syncs the file.
    pub(super) fn finish(self) -> Result<(), IndexError> {
        self.set("journal_mode", "WAL")?;
        let Self { connection, path } = self;
        connection.flush_prepared_statement_cache();
        connection.close().map_err(|(_, source)| IndexError::of(&path, source))
    }

    /// Closes a database that was replaced, without writing to its file: a copy of the store may share it.
    pub(super) fn abandon(self) {
        // If this fails, SQLite writes its log into the file.
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// Verifies the whole database: finds files that were cut, overwritten or mixed from two states, which queries
    /// would not notice.
    pub(super) fn verify(&mut self, stop: &Stop) -> Result<(), IndexError> {
        let handler = stop.clone();
        self.connection
            .progress_handler(STEPS, Some(move || handler.is_asked()))
            .map_err(|source| IndexError::of(&self.path, source))?;
        let verdict = self.ask("PRAGMA integrity_check(1)", |row| row.get::<_, String>(0));
        let counted = self.ask(
            "SELECT count(*) FROM modules WHERE inode IS NOT NULL
                AND versions IS NOT
                    (SELECT count(*) FROM versions WHERE module = modules.path AND modified IS NOT NULL)",
            |row| row.get::<_, i64>(0),
        );
        let strays = self.ask(
            "SELECT count(*) FROM versions
                WHERE modified IS NOT NULL AND NOT EXISTS (SELECT 1 FROM modules WHERE path = module)",
            |row| row.get::<_, i64>(0),
        );
        self.connection
            .progress_handler(0, None::<fn() -> bool>)
            .map_err(|source| IndexError::of(&self.path, source))?;
        let logs = self.ask("SELECT count(*) FROM log", |row| row.get::<_, i64>(0));
        let reason = match (verdict?.as_str(), counted?, strays?, logs?) {
            ("ok", 0, 0, 1) => return Ok(()),
            ("ok", 0, 0, _) => "the identity of its log is missing".to_owned(),
            ("ok", counted, strays, _) => {
                format!("the rows of {} modules are inconsistent", counted + strays)
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
            "SELECT module, version FROM versions WHERE (module, version) > (?1, ?2) AND time IS NOT NULL
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
        let count =
            self.ask("SELECT count(*) FROM versions WHERE modified IS NOT NULL", |row| row.get::<_, i64>(0))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }

    pub(super) fn totals(&self) -> Result<Totals, IndexError> {
        let sql = "SELECT count(*), count(DISTINCT module), coalesce(sum(bytes), 0) FROM versions
            WHERE modified IS NOT NULL";
        let number = |row: &Row<'_>, at| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or_default());
        self.ask(sql, |row| {
            Ok(Totals { versions: number(row, 0)?, modules: number(row, 1)?, bytes: number(row, 2)? })
        })
    }

    /// Returns the stored stamp of a module.
    pub(super) fn stored_stamp(&self, module: &str) -> Result<Option<FolderStamp>, IndexError> {
        let asked = self.cached("SELECT inode, modified, changed FROM modules WHERE path = ?1")?.query_row(
            [module],
            |row| {
                let [inode, modified, changed]: [Option<i64>; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
                Ok(inode.zip(modified).zip(changed))
            },
        );
        let stored = asked.optional().map_err(|source| self.failed(source))?;
        Ok(stored.flatten().map(|((inode, modified), changed)| FolderStamp { inode, modified, changed }))
    }

    /// Returns up to `limit` modules after a module, sorted by path.
    pub(super) fn modules(&self, after: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        self.list(
            "SELECT path FROM modules WHERE path > ?1 ORDER BY path LIMIT ?2",
            params![after, limit_of(limit)],
            |row| row.get(0),
        )
    }

    /// Writes the row of one version, with its hashes. The next reconciliation reads its module again.
    pub(super) fn put(&mut self, module: &str, row: &IndexRow, hashes: &Hashes) -> Result<(), IndexError> {
        self.change(|database| {
            database.unsettle(module)?;
            database.settle(module, &row.version, &Settling::with_hashes(hashes), |_| Some(row.stored()))
        })
    }

    /// Removes the row of one version.
    pub(super) fn remove(&mut self, module: &str, version: &str) -> Result<(), IndexError> {
        self.change(|database| {
            database.unsettle(module)?;
            database.remove_row(module, version)
        })
    }

    /// Brings the rows of modules up to date with a pass. A row that the pass did not see is removed only if `is_there`
    /// denies that its version exists, now that no other process can write: the version may be newer than the pass.
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
        let known = self.rows(module)?;
        // Rows of versions that were published after the pass read the module.
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

    /// Makes the next reconciliation read a module again.
    pub(super) fn unsettle(&self, module: &str) -> Result<(), IndexError> {
        self.execute("INSERT OR REPLACE INTO modules (path) VALUES (?1)", [module])
    }

    /// Returns the rows of the stored versions of a module, sorted by the text of the version.
    fn rows(&self, module: &str) -> Result<Vec<IndexRow>, IndexError> {
        self.list(
            "SELECT version, modified, bytes, is_complete FROM versions
                WHERE module = ?1 AND modified IS NOT NULL ORDER BY version",
            [module],
            |row| {
                let bytes = u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default();
                Ok(IndexRow { version: row.get(0)?, modified: row.get(1)?, bytes, is_complete: row.get(3)? })
            },
        )
    }

    /// Writes a row unless it exists already. Returns whether the row was written.
    fn put_row(&self, module: &str, row: &IndexRow, known: Option<&IndexRow>) -> Result<bool, IndexError> {
        if known == Some(row) {
            return Ok(false);
        }
        self.settle(module, &row.version, &Settling::default(), |_| Some(row.stored()))?;
        Ok(true)
    }

    fn remove_row(&self, module: &str, version: &str) -> Result<(), IndexError> {
        self.settle(module, version, &Settling::default(), |_| None)
    }

    /// Makes a change in one transaction.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&Self) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        // Not `Connection::transaction`, which borrows the connection mutably.
        self.batch("BEGIN IMMEDIATE")?;
        match change(self) {
            Ok(()) => self.batch("COMMIT"),
            Err(error) => {
                // If this fails, closing the connection rolls back too.
                let _ = self.batch("ROLLBACK");
                Err(error)
            }
        }
    }

    fn batch(&self, sql: &str) -> Result<(), IndexError> {
        self.connection.execute_batch(sql).map_err(|source| self.failed(source))
    }

    pub(super) fn execute(&self, sql: &str, values: impl Params) -> Result<(), IndexError> {
        self.cached(sql)?.execute(values).map(drop).map_err(|source| self.failed(source))
    }

    pub(super) fn list<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, IndexError> {
        let mut statement = self.cached(sql)?;
        let rows = statement.query_map(values, read).and_then(Iterator::collect);
        rows.map_err(|source| self.failed(source))
    }

    pub(super) fn ask<T>(
        &self,
        sql: &str,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        self.connection.query_row(sql, [], read).map_err(|source| self.failed(source))
    }

    pub(super) fn cached(&self, sql: &str) -> Result<CachedStatement<'_>, IndexError> {
        self.connection.prepare_cached(sql).map_err(|source| self.failed(source))
    }

    fn set(&self, name: &str, value: impl ToSql) -> Result<(), IndexError> {
        self.connection.pragma_update(None, name, value).map_err(|source| self.failed(source))
    }

    pub(super) fn failed(&self, source: rusqlite::Error) -> IndexError {
        IndexError::of(&self.path, source)
    }
}

/// Finds a version among rows that are sorted by the text of the version.
fn find<'a>(rows: &'a [IndexRow], version: &str) -> Option<&'a IndexRow> {
    let at = rows.binary_search_by(|row| row.version.as_str().cmp(version)).ok()?;
    rows.get(at)
}

pub(super) fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
