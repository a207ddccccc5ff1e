//! Usage data: the day of the last use of each version, so that unused versions can be removed.
//!
//! ```text
//! cache/last-use/last-use.sqlite     the day of the last use of each version, and the first day of the recording
//! cache/last-use/lock                shared while the database is open, exclusive while it is replaced
//! ```
//!
//! A request writes nothing: [`Usage::note`] keeps uses in memory and [`Usage::flush`] writes them periodically, at most
//! once a day per version. A killed process loses the uses that it had not written. Around midnight a use may count for
//! the day before.
//!
//! The usage data may be lost or damaged at any time and then starts anew. So a version counts as used on the latest of
//! three days: the recorded day, the day of its publishing, and the first day of the recording. After a loss, no
//! version counts as unused until enough time has passed again.
//!
//! The database has a rollback journal and is open only while it is read or written. So it can be deleted beside a
//! running server, which creates it again. A damaged database is replaced by a process that holds the lock alone.

mod notes;
#[cfg(test)]
mod tests;
mod uses;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::ErrorCode;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use stoa_gomod::ModuleVersion;
use stoa_layout::durable::CopyError;
use stoa_layout::error::PathContext;
use stoa_layout::lock::is_at;
use stoa_layout::{PathError, durable};

use crate::files::{is_file, lock, metadata, open_file};
use crate::metadata::Metadata;
use crate::{Store, StoreError};
use notes::Notes;
pub(crate) use uses::Uses;

/// A day in UTC, as the number of days since 1 January 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

const SECONDS: u64 = 24 * 60 * 60;

impl Day {
    /// Returns the current day.
    pub fn today() -> Self {
        Self::of(SystemTime::now())
    }

    /// Returns the day of a time.
    pub fn of(time: SystemTime) -> Self {
        let passed = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        Self(i64::try_from(passed / SECONDS).unwrap_or(i64::MAX))
    }

    /// Returns the start of the day.
    pub fn begin(self) -> SystemTime {
        let days = u64::try_from(self.0).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(days.min(u64::from(u32::MAX)) * SECONDS)
    }
}

/// The usage data cannot be read or written. No stored version is affected.
#[derive(Debug, thiserror::Error)]
pub enum LastUseError {
    /// The database is damaged or belongs to another program.
    #[error("cannot use the usage data {path}: {reason}\nhelp: remove the file; Stoa then creates a new one", path = path.display())]
    Broken {
        /// The database.
        path: PathBuf,
        /// The fault of the database.
        reason: String,
    },
    /// A database error.
    #[error("cannot use the usage data {path}: {source}\nhelp: check that the disk is not full and the file is writable, then try again", path = path.display())]
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

impl From<PathError> for LastUseError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

impl LastUseError {
    /// Returns whether opening the database for writing fixes the error: the recording starts anew, or an interrupted
    /// transaction is rolled back.
    fn is_fixed_by_writing(&self) -> bool {
        match self {
            Self::Broken { .. } => true,
            Self::Database { source, .. } => source.sqlite_error_code() == Some(ErrorCode::ReadOnly),
            Self::Store(_) => false,
        }
    }

    /// Returns whether there is no room to write.
    fn is_out_of_space(&self) -> bool {
        match self {
            Self::Store(error) => error.is_out_of_space(),
            Self::Database { source, .. } => source.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::Broken { .. } => false,
        }
    }
}

/// The usage data of a store.
#[derive(Debug, Clone, Copy)]
pub struct Usage<'a>(&'a Store);

impl Store {
    /// Returns the usage data of the store.
    pub fn usage(&self) -> Usage<'_> {
        Usage(self)
    }
}

impl<'a> Usage<'a> {
    /// Starts the recording, in a process that serves. Does nothing in a read-only store.
    pub fn start(&self) {
        if !self.0.is_read_only() {
            self.0.uses.start();
        }
    }

    /// Records a use of a version in memory, and returns whether to call [`Self::flush`] soon. Makes no system call, and
    /// takes no lock if the version was recorded today.
    pub fn note(&self, version: &ModuleVersion) -> bool {
        self.0.uses.note(version)
    }

    /// Writes the uses since the last call, and returns the number of versions. After an error the uses stay in memory
    /// for the next call.
    pub fn flush(&self) -> Result<usize, LastUseError> {
        let today = Day::today();
        let uses = self.0.uses.take(today);
        let written = self.open(Access::Write).and_then(|notes| notes.write(&uses, today));
        match written {
            Ok(()) => Ok(uses.len()),
            Err(error) => {
                self.0.uses.give_back(uses);
                Err(error)
            }
        }
    }

    /// Opens the usage data for queries. In a read-only store and on a full disk without readable usage data, every version
    /// counts as used today.
    pub fn last_uses(&self) -> Result<LastUses<'a>, LastUseError> {
        if self.0.is_read_only() {
            return self.open_last_uses(Access::Read);
        }
        match self.open_last_uses(Access::Write) {
            // The versions that go make room.
            Err(error) if error.is_out_of_space() => self.open_last_uses(Access::Read),
            opened => opened,
        }
    }

    fn open_last_uses(&self, access: Access) -> Result<LastUses<'a>, LastUseError> {
        let none = LastUses { notes: None, began: Day::today(), today: Day::today() };
        if access == Access::Read && !is_file(&self.folder().join(FILE))? {
            return Ok(none);
        }
        match self.open(access) {
            Err(error) if access == Access::Read && error.is_fixed_by_writing() => {
                log::warn!(reason:% = error; "cannot read the usage data, all versions count as used today");
                Ok(none)
            }
            notes => {
                let notes = notes?;
                Ok(LastUses { began: notes.began()?, notes: Some(notes), ..none })
            }
        }
    }

    fn folder(&self) -> PathBuf {
        self.0.paths.cache().join(FOLDER)
    }

    /// Opens the database. Creates it if it is missing, and replaces it if it is damaged.
    fn open(&self, access: Access) -> Result<Notes<'a>, LastUseError> {
        let store = self.0;
        let mut is_verified = lock(&store.uses.turn);
        let folder = self.folder();
        let path = folder.join(FILE);
        if access == Access::Read {
            return Notes::open_read_only(path, is_verified);
        }
        for is_second in [false, true] {
            store.durable.ensure_dirs(store.root(), Path::new("cache").join(FOLDER).as_path())?;
            let lock_path = folder.join(LOCK);
            let lock = self.lock(&lock_path)?;
            let there = metadata(&path)?.filter(Metadata::is_file);
            if there.is_some_and(|meta| meta.links > 1) {
                *is_verified = false;
                take(&lock, &lock_path, FlockOperation::NonBlockingLockExclusive)?;
                self.unshare(&folder)?;
                take(&lock, &lock_path, FlockOperation::NonBlockingLockShared)?;
            }
            if !is_file(&path)? {
                *is_verified = false;
                // SQLite gives its other files the owner of this file.
                match store.durable.create_file(&path) {
                    Err(error) if error.errno() == Some(Errno::EXIST) => {}
                    created => drop(created?),
                }
            }
            match notes::connect(&path, *is_verified) {
                Ok(connection) => {
                    *is_verified = true;
                    return Ok(Notes::new(connection, path, lock, is_verified));
                }
                Err(error @ LastUseError::Broken { .. }) if !is_second => {
                    *is_verified = false;
                    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                        Ok(()) => {
                            log::warn!(reason:% = error; "replacing the damaged usage data");
                            self.drop_notes(&folder)?;
                        }
                        // Another process has the database open, and will find the same damage.
                        Err(Errno::WOULDBLOCK) => return Err(error),
                        Err(errno) => return Err(PathError::new("lock", lock_path, errno).into()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(LastUseError::Broken { path, reason: "another program keeps damaging it".to_owned() })
    }

    /// Takes the lock, shared with other processes. A lock file that a copy of the store shares is replaced first.
    fn lock(&self, path: &Path) -> Result<File, LastUseError> {
        let durable = &self.0.durable;
        for _ in 0..ATTEMPTS {
            if metadata(path)?.is_some_and(|meta| meta.links > 1) {
                drop(self.0.try_lock_file(path)?);
            }
            let lock = durable.open_or_create(path)?;
            take(&lock, path, FlockOperation::NonBlockingLockShared)?;
            if is_at(&lock, path)? {
                return Ok(lock);
            }
        }
        Err(StoreError::Contended(path.to_owned()).into())
    }

    /// Replaces a database that a copy of the store shares by a copy of its own, under the exclusive lock.
    fn unshare(&self, folder: &Path) -> Result<(), LastUseError> {
        let path = folder.join(FILE);
        let is_shared = metadata(&path)?.is_some_and(|meta| meta.links > 1);
        if !is_shared {
            return Ok(());
        }
        if metadata(&folder.join(format!("{FILE}-journal")))?.is_some() {
            // A copy in the middle of a transaction.
            return self.drop_notes(folder);
        }
        let Some((original, _)) = open_file(&path)? else { return Ok(()) };
        let store = self.0;
        Ok(store.staging()?.place_file(|staged| {
            let copy = store.durable.create_file(staged)?;
            durable::clone_or_copy((&original, &path), (&copy, staged), &|_| {})
                .map_err(CopyError::into_inner)?;
            durable::sync_file(&copy, staged)?;
            durable::rename(staged, &path)
        })?)
    }

    /// Removes a damaged database, under the exclusive lock. The journal goes first, because it belongs to this database
    /// only.
    fn drop_notes(&self, folder: &Path) -> Result<(), LastUseError> {
        for name in [format!("{FILE}-journal"), FILE.to_owned()] {
            let path = folder.join(name);
            let staged = self.0.staging()?.fresh();
            match durable::rename(&path, &staged) {
                Err(error) if error.is_not_found() => continue,
                renamed => renamed?,
            }
            // It may also be a folder.
            if let Err(error) = durable::remove_tree(&staged).or_else(|_| durable::remove_file(&staged)) {
                log::warn!(reason:% = error; "cannot remove damaged usage data, trying again at the next start");
            }
        }
        Ok(())
    }
}

/// Takes a lock. Whoever may read the file can hold it, so the wait ends.
fn take(lock: &File, path: &Path, operation: FlockOperation) -> Result<(), StoreError> {
    let began = Instant::now();
    loop {
        match flock(lock, operation) {
            Err(Errno::WOULDBLOCK) if began.elapsed() >= PATIENCE => {
                return Err(StoreError::busy(path, PATIENCE));
            }
            Err(Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            Err(Errno::INTR) => {}
            taken => return Ok(taken.at("lock", path)?),
        }
    }
}

/// The pause between two attempts to take the lock.
const PAUSE: Duration = Duration::from_millis(5);

/// How long to wait for the lock. A process that has the database open for writing keeps it for milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the lock file may be replaced while it is locked.
const ATTEMPTS: u32 = 8;

const FOLDER: &str = "last-use";
const FILE: &str = "last-use.sqlite";
const LOCK: &str = "lock";

/// How the database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    Read,
}

/// The usage data, open for queries.
#[derive(Debug)]
pub struct LastUses<'a> {
    notes: Option<Notes<'a>>,
    began: Day,
    today: Day,
}

impl LastUses<'_> {
    /// Returns the first day of the recording.
    pub fn began(&self) -> Day {
        self.began
    }

    /// Returns the day on which a version counts as last used, given the time of its publishing. Never in the future.
    pub fn of(&self, version: &ModuleVersion, published: SystemTime) -> Result<Day, LastUseError> {
        let recorded = match &self.notes {
            Some(notes) => notes.day(version)?,
            None => None,
        };
        let latest = self.began.max(Day::of(published)).max(recorded.unwrap_or(self.began));
        Ok(latest.min(self.today))
    }

    /// Returns the day on which a server recorded the last use of a version.
    pub fn recorded(&self, version: &ModuleVersion) -> Result<Option<Day>, LastUseError> {
        self.notes.as_ref().map_or(Ok(None), |notes| notes.day(version))
    }

    /// Returns the versions (`MODULE@VERSION`) whose last recorded use is on a day. `None` if there is no usage data.
    pub fn used_on(&self, day: Day) -> Result<Option<Vec<String>>, LastUseError> {
        self.notes.as_ref().map(|notes| notes.used_on(day)).transpose()
    }

    /// Removes the usage data of versions that are no longer in the store, and returns their number.
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
