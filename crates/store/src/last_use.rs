//! When versions were used last, by the day, so that those nobody wants can be removed.
//!
//! ```text
//! cache/last-use/last-use.sqlite     versions with the day of their last use, and the day since which that is noted
//! cache/last-use/lock                shared by who has it open; exclusive for who replaces it
//! ```
//!
//! A request writes nothing: [`Store::note_use`] keeps in memory what was used, and [`Store::flush_uses`] writes that
//! down now and then, at most once a day for a version that is asked for all the time. A process that is killed loses
//! what it had not written, and around midnight a use may count for the day before.
//!
//! All of it may be lost at any time, or be of no use, and begins anew then. So a version counts as used on the latest
//! of three days: the one that is noted, that of its publishing, and the first of these notes. Nothing is known of
//! a time before; so nothing is taken for unused before as much time has passed again.
//!
//! The database has a rollback journal and is open only while it is written or asked, so it can be deleted beside
//! a running server, which makes another. A damaged one is replaced by whoever has it alone.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use stoa_gomod::ModuleVersion;
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, durable};

use crate::read::is_file;
use crate::{Store, StoreError};

/// A day, counted from the first of January 1970, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

const SECONDS: u64 = 24 * 60 * 60;

impl Day {
    /// Is the day that it is now.
    pub fn today() -> Self {
        Self::of(SystemTime::now())
    }

    /// Is the day of an instant.
    pub fn of(time: SystemTime) -> Self {
        let passed = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        Self(i64::try_from(passed / SECONDS).unwrap_or(i64::MAX))
    }

    /// Is the instant at which it begins.
    pub fn begin(self) -> SystemTime {
        let days = u64::try_from(self.0).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(days.min(u64::from(u32::MAX)) * SECONDS)
    }
}

/// The notes cannot be read or written. No version is the worse for it.
#[derive(Debug, thiserror::Error)]
pub enum LastUseError {
    /// The database is none of ours, or damaged.
    #[error("the notes of last use {path} are of no use ({reason}); remove that file, and they begin anew", path = path.display())]
    Broken {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database said no.
    #[error("cannot use the notes of last use {path}: {source}; see whether the disk is full and the file may be written, then try again", path = path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PathError> for LastUseError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

impl LastUseError {
    /// Whether it is gone when somebody has opened the notes to write: they begin anew then, or what was broken off
    /// while they were written is taken back.
    fn is_mended_by_writing(&self) -> bool {
        match self {
            Self::Broken { .. } => true,
            Self::Database { source, .. } => source.sqlite_error_code() == Some(ErrorCode::ReadOnly),
            Self::Store(_) => false,
        }
    }
}

/// How many versions are known, without a lock, to be noted already. A power of two.
const NOTED: usize = 1 << 16;

/// How many versions may wait to be written down.
const PENDING: usize = 1 << 15;

/// What was used, in memory.
#[derive(Debug)]
pub(crate) struct Uses {
    hasher: RandomState,
    /// The hash of a version in the place that it gives: noted on the day that is meant. Not there where nothing is
    /// noted.
    noted: OnceLock<Box<[AtomicU64]>>,
    day: AtomicI64,
    pending: Mutex<HashSet<ModuleVersion>>,
    /// One at a time opens the database: SQLite's locks belong to the process.
    turn: Mutex<bool>,
}

impl Uses {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            noted: OnceLock::new(),
            day: AtomicI64::new(0),
            pending: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    fn begin(&self) {
        self.day.store(Day::today().0, Ordering::Relaxed);
        self.noted.get_or_init(|| std::iter::repeat_with(|| AtomicU64::new(0)).take(NOTED).collect());
    }

    /// Notes a use, and says whether so many wait that they should be written down now.
    fn note(&self, version: &ModuleVersion) -> bool {
        let Some(noted) = self.noted.get() else { return false };
        // 0 is an empty place.
        let hash = self.hasher.hash_one(version).max(1);
        let Some(place) = noted.get(hash as usize & (NOTED - 1)) else { return false };
        if place.load(Ordering::Relaxed) == hash {
            return false;
        }
        let mut pending = self.pending();
        if pending.len() >= PENDING {
            // Not noted: the next use tries again.
            return true;
        }
        pending.insert(version.clone());
        place.store(hash, Ordering::Relaxed);
        pending.len() >= PENDING / 2
    }

    fn pending(&self) -> MutexGuard<'_, HashSet<ModuleVersion>> {
        // Nothing that can panic is done under this lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is to be written down. On another day everything is to be noted again.
    fn take(&self, today: Day) -> HashSet<ModuleVersion> {
        if self.day.swap(today.0, Ordering::Relaxed) != today.0 {
            for place in self.noted.get().into_iter().flatten() {
                place.store(0, Ordering::Relaxed);
            }
        }
        std::mem::take(&mut *self.pending())
    }

    fn give_back(&self, uses: HashSet<ModuleVersion>) {
        let mut pending = self.pending();
        for version in uses {
            if pending.len() < PENDING {
                pending.insert(version);
            }
        }
    }
}

impl Store {
    /// Begins to note what is used: for a process that serves. Nothing is noted of a store that is read only.
    pub fn keep_uses(&self) {
        if !self.is_read_only() {
            self.uses.begin();
        }
    }

    /// Notes that a version was used now, and says whether it is time to [`Self::flush_uses`]. No system call, and no
    /// lock if it was noted today.
    pub fn note_use(&self, version: &ModuleVersion) -> bool {
        self.uses.note(version)
    }

    /// Writes down what was used since this was done last, and says how many versions that were. What cannot be
    /// written is kept for the next time.
    pub fn flush_uses(&self) -> Result<usize, LastUseError> {
        let today = Day::today();
        let uses = self.uses.take(today);
        let written = self.open_uses(Access::Write).and_then(|notes| notes.write(&uses, today));
        match written {
            Ok(()) => Ok(uses.len()),
            Err(error) => {
                self.uses.give_back(uses);
                Err(error)
            }
        }
    }

    /// Opens the notes to ask them. Where the store is read only and there are none, or none that can be read without
    /// being mended first, all counts as used today.
    pub fn last_uses(&self) -> Result<LastUses<'_>, LastUseError> {
        let none = LastUses { notes: None, began: Day::today(), today: Day::today() };
        let access = if self.is_read_only() { Access::Read } else { Access::Write };
        if access == Access::Read && !is_file(&self.uses_folder().join(FILE))? {
            return Ok(none);
        }
        match self.open_uses(access) {
            Err(error) if access == Access::Read && error.is_mended_by_writing() => {
                log::warn!("all counts as used today, until somebody who may write opens the notes: {error}");
                Ok(none)
            }
            notes => {
                let notes = notes?;
                Ok(LastUses { began: notes.began()?, notes: Some(notes), ..none })
            }
        }
    }

    fn uses_folder(&self) -> PathBuf {
        self.root().join("cache").join(FOLDER)
    }

    /// Opens the database, and makes it if it is not there.
    fn open_uses(&self, access: Access) -> Result<Notes<'_>, LastUseError> {
        let mut is_verified = self.uses.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.uses_folder();
        let path = folder.join(FILE);
        if access == Access::Read {
            let connection = open(&path, access)?;
            match kind(&connection).map_err(|source| failed(&path, source))? {
                (APPLICATION, SCHEMA_VERSION) => verify(&connection, &path)?,
                kind => return Err(of_another_kind(&path, kind)),
            }
            return Ok(Notes { connection, path, _lock: None, _turn: is_verified });
        }
        for is_second in [false, true] {
            self.durable.ensure_dirs(self.root(), Path::new("cache").join(FOLDER).as_path())?;
            let lock_path = folder.join(LOCK);
            let lock = self.durable.open_or_create(&lock_path)?;
            flock(&lock, FlockOperation::LockShared).at("lock", &lock_path)?;
            if !is_file(&path)? {
                *is_verified = false;
                // SQLite makes its other files as this one's owner has them.
                match self.durable.create_file(&path) {
                    Err(error) if error.errno() == Some(Errno::EXIST) => {}
                    created => drop(created?),
                }
            }
            match open(&path, access).and_then(|mut connection| {
                prepare(&mut connection, &path)?;
                if !*is_verified {
                    verify(&connection, &path)?;
                }
                Ok(connection)
            }) {
                Ok(connection) => {
                    *is_verified = true;
                    return Ok(Notes { connection, path, _lock: Some(lock), _turn: is_verified });
                }
                Err(error @ LastUseError::Broken { .. }) if !is_second => {
                    *is_verified = false;
                    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                        Ok(()) => {
                            log::warn!("{error}; that is done now");
                            self.drop_notes(&folder)?;
                        }
                        // Somebody has it open, and will find the same.
                        Err(Errno::WOULDBLOCK) => return Err(error),
                        Err(errno) => return Err(PathError::new("lock", lock_path, errno).into()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(LastUseError::Broken { path, reason: "it is damaged again and again".to_owned() })
    }

    /// Removes a database that is of no use, under the exclusive lock: its journal first, which belongs to no other.
    fn drop_notes(&self, folder: &Path) -> Result<(), LastUseError> {
        for name in [format!("{FILE}-journal"), FILE.to_owned()] {
            let path = folder.join(name);
            let staged = self.staging()?.fresh();
            match durable::rename(&path, &staged) {
                Err(error) if error.is_not_found() => continue,
                renamed => renamed?,
            }
            // A folder may stand there as well.
            if let Err(error) = durable::remove_tree(&staged).or_else(|_| durable::remove_file(&staged)) {
                log::warn!("damaged notes of last use stay in staging until the next start: {error}");
            }
        }
        Ok(())
    }
}

const FOLDER: &str = "last-use";
const FILE: &str = "last-use.sqlite";
const LOCK: &str = "lock";

/// What says that a database is one of these: letters of this program.
const APPLICATION: i32 = i32::from_be_bytes(*b"StUs");

/// Grows with every change of the tables. Another number is a database that begins anew.
const SCHEMA_VERSION: i32 = 1;

/// How long to wait for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    Read,
}

/// An open database. Closed before the locks are let go.
#[derive(Debug)]
struct Notes<'a> {
    connection: Connection,
    path: PathBuf,
    _lock: Option<File>,
    _turn: MutexGuard<'a, bool>,
}

/// When versions were used last, to be asked.
#[derive(Debug)]
pub struct LastUses<'a> {
    notes: Option<Notes<'a>>,
    began: Day,
    today: Day,
}

impl LastUses<'_> {
    /// Is the day since which uses are noted.
    pub fn began(&self) -> Day {
        self.began
    }

    /// Is the day on which a version counts as used last, that was published at an instant. Never one to come.
    pub fn of(&self, version: &ModuleVersion, published: SystemTime) -> Result<Day, LastUseError> {
        let noted = match &self.notes {
            Some(notes) => notes.day(version)?,
            None => None,
        };
        let latest = self.began.max(Day::of(published)).max(noted.unwrap_or(self.began));
        Ok(latest.min(self.today))
    }

    /// Drops what is noted of versions that are not there any more, and says how many that were.
    pub fn sweep(&mut self, store: &Store) -> Result<u64, LastUseError> {
        let Some(notes) = &mut self.notes else { return Ok(0) };
        let (mut dropped, mut after) = (0, (String::new(), String::new()));
        loop {
            let page = notes.page(&after)?;
            let Some(last) = page.last() else { return Ok(dropped) };
            after.clone_from(last);
            let mut gone = Vec::new();
            for (module, version) in page {
                let is_there = match ModuleVersion::parse(&format!("{module}@{version}")) {
                    Ok(version) => store.has_info(&version)?,
                    Err(_) => false,
                };
                if !is_there {
                    gone.push((module, version));
                }
            }
            dropped += gone.len() as u64;
            notes.forget(&gone)?;
        }
    }
}

impl Notes<'_> {
    fn began(&self) -> Result<Day, LastUseError> {
        let asked = self.connection.query_row("SELECT day FROM began", [], |row| row.get(0));
        asked.map(Day).map_err(|source| self.failed(source))
    }

    fn day(&self, version: &ModuleVersion) -> Result<Option<Day>, LastUseError> {
        let asked = self
            .connection
            .prepare_cached("SELECT day FROM uses WHERE module = ?1 AND version = ?2")
            .and_then(|mut ask| ask.query_row(params_of(version), |row| row.get(0)).optional());
        asked.map(|day| day.map(Day)).map_err(|source| self.failed(source))
    }

    /// Lists versions that something is noted of, in order, after one.
    fn page(&self, after: &(String, String)) -> Result<Vec<(String, String)>, LastUseError> {
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

    fn forget(&mut self, gone: &[(String, String)]) -> Result<(), LastUseError> {
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

    fn write(mut self, uses: &HashSet<ModuleVersion>, today: Day) -> Result<(), LastUseError> {
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

fn open(path: &Path, access: Access) -> Result<Connection, LastUseError> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX
        | match access {
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{Fixture, open, staged, version};
    use stoa_layout::gate::Mode;

    const OLD: SystemTime = SystemTime::UNIX_EPOCH;

    fn serving(fixture: &Fixture) -> Store {
        let store = open(fixture.dir.path(), Mode::ReadWrite);
        store.keep_uses();
        store
    }

    /// Sets back everything that is noted.
    fn age(fixture: &Fixture, days: i64) {
        let connection = Connection::open(fixture.dir.path().join("cache/last-use/last-use.sqlite")).unwrap();
        connection.execute("UPDATE uses SET day = day - ?1", [days]).unwrap();
        connection.execute("UPDATE began SET day = day - ?1", [days]).unwrap();
    }

    #[test]
    fn the_latest_of_three_days_counts() {
        let fixture = Fixture::new();
        let store = serving(&fixture);
        let [used, unused] = ["example.com/m@v1.0.0", "example.com/m@v1.1.0"].map(version);
        store.note_use(&used);
        assert_eq!(store.flush_uses().unwrap(), 1);
        age(&fixture, 20);
        store.note_use(&used);
        assert_eq!(store.flush_uses().unwrap(), 0, "it is noted once a day");
        let today = Day::today();
        let ask = |version, published| store.last_uses().unwrap().of(version, published).unwrap();
        assert_eq!(ask(&used, OLD), Day(today.0 - 20));
        assert_eq!(ask(&unused, OLD), Day(today.0 - 20), "nothing is known of a time before");
        assert_eq!(ask(&unused, SystemTime::now()), today);
        assert_eq!(ask(&unused, SystemTime::now() + Duration::from_secs(10 * SECONDS)), today);
        drop(store);
        let store = serving(&fixture);
        age(&fixture, 10);
        store.note_use(&used);
        store.flush_uses().unwrap();
        let mut uses = store.last_uses().unwrap();
        assert_eq!(uses.of(&used, OLD).unwrap(), today);
        assert_eq!(uses.of(&unused, OLD).unwrap(), Day(today.0 - 30));
        assert_eq!(uses.sweep(&store).unwrap(), 1, "it is not in the store");
        assert_eq!(uses.of(&used, OLD).unwrap(), Day(today.0 - 30));
        assert_eq!(uses.sweep(&store).unwrap(), 0);
        assert_eq!(uses.began(), Day(today.0 - 30));
    }

    #[test]
    fn notes_that_are_lost_or_damaged_begin_anew() {
        let fixture = Fixture::new();
        let store = serving(&fixture);
        let v = version("example.com/m@v1.0.0");
        let folder = fixture.dir.path().join("cache/last-use");
        type Harm = fn(&Path);
        let harms: [Harm; 6] = [
            |folder| fs::remove_dir_all(folder.parent().unwrap()).unwrap(),
            |folder| {
                fs::write(
                    folder.join(FILE),
                    "no database, and longer than its header is, to be sure of that: ".repeat(9),
                )
                .unwrap()
            },
            |folder| fs::write(folder.join(FILE), "").unwrap(),
            |folder| {
                let whole = fs::read(folder.join(FILE)).unwrap();
                fs::write(folder.join(FILE), &whole[..whole.len() / 2]).unwrap();
            },
            |folder| {
                Connection::open(folder.join(FILE)).unwrap().pragma_update(None, "user_version", 7).unwrap();
            },
            |folder| {
                Connection::open(folder.join(FILE)).unwrap().execute("DELETE FROM began", []).unwrap();
            },
        ];
        for (n, harm) in harms.into_iter().enumerate() {
            store.note_use(&v);
            store.flush_uses().unwrap();
            age(&fixture, 50);
            harm(&folder);
            let store = serving(&fixture);
            assert_eq!(store.last_uses().unwrap().began(), Day::today(), "harm {n}");
            assert_eq!(store.last_uses().unwrap().of(&v, OLD).unwrap(), Day::today(), "harm {n}");
            store.note_use(&v);
            assert_eq!(store.flush_uses().unwrap(), 1, "harm {n}");
        }
        assert!(staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn what_somebody_has_open_is_not_replaced() {
        let fixture = Fixture::new();
        let store = serving(&fixture);
        store.flush_uses().unwrap();
        let folder = fixture.dir.path().join("cache/last-use");
        let other = serving(&fixture);
        let held = other.last_uses().unwrap();
        fs::write(folder.join(FILE), "x".repeat(5000)).unwrap();
        let v = version("example.com/m@v1.0.0");
        store.note_use(&v);
        let fresh = serving(&fixture);
        assert!(matches!(fresh.flush_uses(), Err(LastUseError::Broken { .. })));
        drop(held);
        fresh.flush_uses().unwrap();
        store.flush_uses().unwrap();
        assert_eq!(store.last_uses().unwrap().notes.as_ref().unwrap().day(&v).unwrap(), Some(Day::today()));
    }

    #[test]
    fn what_waits_is_bounded_and_kept_if_it_cannot_be_written() {
        let fixture = Fixture::new();
        let store = serving(&fixture);
        let nth = |n: usize| version(&format!("example.com/m@v1.0.{n}"));
        let asked = (0..PENDING + 10).filter(|n| store.note_use(&nth(*n))).count();
        assert!(asked > PENDING / 2, "{asked}");
        assert_eq!(store.uses.pending().len(), PENDING);
        let cache = fixture.dir.path().join("cache");
        fs::remove_dir(&cache).unwrap();
        fs::write(&cache, "in the way").unwrap();
        store.flush_uses().unwrap_err();
        assert_eq!(store.uses.pending().len(), PENDING);
        fs::remove_file(&cache).unwrap();
        assert_eq!(store.flush_uses().unwrap(), PENDING);
        assert!(!store.note_use(&nth(PENDING + 9)), "it was not noted before, and is now");
        assert_eq!(store.flush_uses().unwrap(), 1);
        let none = open(fixture.dir.path(), Mode::ReadWrite);
        assert!(!none.note_use(&nth(0)));
        assert_eq!(none.flush_uses().unwrap(), 0);
    }

    #[test]
    fn a_look_at_what_must_be_mended_first_finds_no_notes() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let store = serving(&fixture);
        store.note_use(&v);
        store.flush_uses().unwrap();
        age(&fixture, 5);
        let folder = fixture.dir.path().join("cache/last-use");
        let [database, journal] = [FILE.to_owned(), format!("{FILE}-journal")].map(|name| folder.join(name));
        let whole = fs::read(&database).unwrap();
        // Read in the middle of a large transaction: what a writer that is killed leaves.
        let mut writer = Connection::open(&database).unwrap();
        writer.pragma_update(None, "cache_size", 1).unwrap();
        let transaction = writer.transaction().unwrap();
        for n in 0..2000 {
            let module = format!("example.com/{n}/{}", "x".repeat(200));
            transaction.execute("INSERT INTO uses VALUES (?1, 'v1.0.0', 1)", [module]).unwrap();
        }
        let half = [&database, &journal].map(|path| fs::read(path).unwrap());
        drop(transaction);
        drop(writer);
        let reader = open(fixture.dir.path(), Mode::ReadOnly);
        let ask = || reader.last_uses().unwrap().of(&v, OLD).unwrap();
        for bytes in [b"".to_vec(), b"no database".repeat(100), whole[..whole.len() / 2].to_vec()] {
            fs::write(&database, &bytes).unwrap();
            assert_eq!(ask(), Day::today());
            assert_eq!(fs::read(&database).unwrap(), bytes);
        }
        fs::write(&database, &half[0]).unwrap();
        fs::write(&journal, &half[1]).unwrap();
        assert_eq!(ask(), Day::today());
        assert_eq!(fs::read(&journal).unwrap(), half[1]);
        // Whoever may write takes it back, and then a look finds it again.
        let day = Day(Day::today().0 - 5);
        assert_eq!(serving(&fixture).last_uses().unwrap().of(&v, OLD).unwrap(), day);
        assert_eq!(ask(), day);
    }

    #[test]
    fn a_look_writes_nothing() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let reader = open(fixture.dir.path(), Mode::ReadOnly);
        reader.keep_uses();
        assert!(!reader.note_use(&v));
        assert_eq!(reader.last_uses().unwrap().of(&v, OLD).unwrap(), Day::today());
        assert_eq!(fs::read_dir(fixture.dir.path().join("cache")).unwrap().count(), 0);
        let store = serving(&fixture);
        store.note_use(&v);
        store.flush_uses().unwrap();
        age(&fixture, 5);
        assert_eq!(reader.last_uses().unwrap().of(&v, OLD).unwrap(), Day(Day::today().0 - 5));
    }
}
