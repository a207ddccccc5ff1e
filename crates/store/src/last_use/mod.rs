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

mod notes;
#[cfg(test)]
mod tests;
mod uses;

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use rusqlite::ErrorCode;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use stoa_gomod::ModuleVersion;
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, durable};

use crate::read::is_file;
use crate::{Store, StoreError};
use notes::Notes;
pub(crate) use uses::Uses;

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
            return Notes::look(path, is_verified);
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
            match notes::connect(&path, *is_verified) {
                Ok(connection) => {
                    *is_verified = true;
                    return Ok(Notes::new(connection, path, lock, is_verified));
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

/// How the notes are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    Read,
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

    /// Returns the day on which a server recorded the last use of a version.
    pub fn recorded(&self, version: &ModuleVersion) -> Result<Option<Day>, LastUseError> {
        self.notes.as_ref().map_or(Ok(None), |notes| notes.day(version))
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
