//! The index: what lies in the store, in an order that pages can be cut from. Derived, and never trusted.
//!
//! ```text
//! index/N/index.sqlite     a number, and the highest counts; SQLite in WAL mode, which adds -wal and -shm
//! ```
//!
//! A row is written after the publish, best effort. [`Store::reconcile_index`] mends whatever is not so: a module
//! whose `@v` folder has another stamp than was noted is read again, and rows of what is gone go. So a process that
//! died before its row, another process, files copied in by hand, a restored backup or a lost index all heal.
//!
//! A database that may be in use is never replaced. One that is of no use is left, and another is built aside and
//! comes in whole, by one rename, under the next number; who uses an older one finds that before its next question.
//! Older ones are removed under the exclusive lock of the store, with [`IndexArtefact`].
//!
//! Where the store may not be written to, the newest index is read as it is.
//!
//! SQLite's locks belong to the process and are lost when any descriptor of the file is closed: nothing in here
//! opens the file of a database that may be open.

mod artefact;
mod database;
mod reconcile;
#[cfg(test)]
mod tests;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stoa_gomod::ModuleVersion;
use stoa_layout::PathError;
use stoa_layout::durable::Durable;
use stoa_layout::error::PathContext;

use self::database::{Access, Database};
use crate::paths::Paths;
use crate::read::is_absent;
use crate::{Store, StoreError};

pub use self::artefact::IndexArtefact;
pub use self::reconcile::{Reconciled, Stop};

/// One version in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The module path, plain.
    pub module: String,
    /// The version.
    pub version: String,
}

/// One version in the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntry {
    /// The module path, plain.
    pub module: String,
    /// The version.
    pub version: String,
    /// When it was published, in nanoseconds since 1970. No two versions have the same.
    pub time: i64,
}

/// What the index holds of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    /// The version.
    pub version: String,
    /// When its info was written last, in nanoseconds since 1970.
    pub modified: i64,
    /// The bytes of its info, mod and zip.
    pub bytes: u64,
}

/// The index could not be used. No version is the worse for it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There is none.
    #[error("{folder} holds no index; a server that may write to the store builds it, and so does stoa-migrate --regenerate", folder = .0.display())]
    Missing(PathBuf),
    /// It is no index of this program, or damaged.
    #[error("the index {path} is of no use ({reason}); a server that may write to the store builds another, and so does stoa-migrate --regenerate", path = path.display())]
    Broken {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The database said no.
    #[error("cannot use the index {path}: {source}; see whether the disk is full and the file may be written, then try again", path = path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was asked to stop.
    #[error("the index was left as it is, as asked; whoever comes next goes on")]
    Stopped,
}

impl From<PathError> for IndexError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

impl IndexError {
    /// Whether another index is to be built.
    pub fn is_of_no_use(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Broken { .. })
    }
}

/// Which database is meant: the number, and what lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    number: u32,
    device: u64,
    inode: u64,
}

/// The index of one store, as one process uses it.
#[derive(Debug)]
pub(crate) struct Index {
    paths: Paths,
    durable: Durable,
    is_read_only: bool,
    writer: Mutex<Option<(Identity, Database)>>,
    readers: Mutex<Vec<(Identity, Database)>>,
    /// The one that was read whole once and found sound.
    verified: Mutex<Option<Identity>>,
}

/// The name of the database in its folder.
const FILE: &str = "index.sqlite";

/// How many databases are kept open for questions to come.
const READERS: usize = 4;

/// How long a publish waits for its row: not for long, since the row comes anyway.
const ROW_PATIENCE: Duration = Duration::from_secs(2);

/// How long everybody else waits for another writer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Index {
    pub(crate) fn new(paths: Paths, durable: Durable, is_read_only: bool) -> Self {
        Self {
            paths,
            durable,
            is_read_only,
            writer: Mutex::default(),
            readers: Mutex::default(),
            verified: Mutex::default(),
        }
    }

    /// Writes the row of a version that was published, while its claim is held. Best effort.
    pub(crate) fn note(&self, version: &ModuleVersion) {
        let row = reconcile::read_version(&self.paths, version);
        let noted = row.map_err(IndexError::from).and_then(|row| match row {
            Some(seen) => self.write(|database| database.put(version.path().as_str(), &seen.row)),
            None => Ok(()),
        });
        told(version, noted);
    }

    /// Removes the row of a version that went to quarantine, while its claim is held. Best effort.
    pub(crate) fn forget(&self, version: &ModuleVersion) {
        let (module, name) = (version.path().as_str(), version.version().as_str());
        told(version, self.write(|database| database.remove(module, name)));
    }

    fn write(&self, change: impl Fn(&mut Database) -> Result<(), IndexError>) -> Result<(), IndexError> {
        if self.is_read_only {
            return Ok(());
        }
        let identity = self.identity()?;
        // Nothing that can panic is done under these locks.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(&*writer, Some((known, _)) if *known == identity) {
            *writer = None;
            *writer = Some((identity, self.open(identity, Access::Write, ROW_PATIENCE)?));
        }
        let Some((_, database)) = writer.as_mut() else { return Ok(()) };
        let changed = change(database);
        if changed.is_err() {
            *writer = None;
        }
        self.doubt(changed)
    }

    fn read<T>(&self, ask: impl Fn(&Database) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let identity = self.identity()?;
        if self.is_read_only {
            // What others do to it is not seen by a database that stays open.
            return ask(&self.open(identity, Access::Read, PATIENCE)?);
        }
        let kept = {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            readers.retain(|(known, _)| *known == identity);
            readers.pop()
        };
        let database = match kept {
            Some((_, database)) => database,
            None => self.open(identity, Access::Write, PATIENCE)?,
        };
        let answer = self.doubt(ask(&database))?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS {
            readers.push((identity, database));
        }
        Ok(answer)
    }

    /// Has one that proved broken read whole again, however sound it was found before.
    fn doubt<T>(&self, result: Result<T, IndexError>) -> Result<T, IndexError> {
        if matches!(result, Err(IndexError::Broken { .. })) {
            *self.verified.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    fn open(&self, identity: Identity, access: Access, patience: Duration) -> Result<Database, IndexError> {
        Database::open(&self.file(identity.number), access, patience)
    }

    fn file(&self, number: u32) -> PathBuf {
        self.paths.index().join(number.to_string()).join(FILE)
    }

    /// Looks which database counts now.
    fn identity(&self) -> Result<Identity, IndexError> {
        let folder = self.paths.index();
        let Some(number) = reconcile::newest(&numbers(&folder)?) else {
            return Err(IndexError::Missing(folder));
        };
        let path = self.file(number);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Identity { number, device: meta.dev(), inode: meta.ino() }),
            Ok(_) => Err(IndexError::Broken { path, reason: "it is no file".to_owned() }),
            Err(error) if is_absent(&error) => {
                Err(IndexError::Broken { path, reason: "it is not there".to_owned() })
            }
            Err(error) => Err(PathError::new("look at", path, error).into()),
        }
    }
}

/// Is the numbers that are taken in a folder of indexes, and whether each is a folder.
fn numbers(folder: &Path) -> Result<Vec<(u32, bool)>, PathError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        entries => entries.at("list", folder)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.at("list", folder)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
        // One spelling a number: 07 and +7 are somebody else's.
        if let Some(number) = number.filter(|number| name == *number.to_string()) {
            found.push((number, entry.file_type().at("look at", &entry.path())?.is_dir()));
        }
    }
    Ok(found)
}

fn told(version: &ModuleVersion, result: Result<(), IndexError>) {
    match result {
        Ok(()) => {}
        Err(error @ IndexError::Missing(_)) => log::debug!("{version} has no row in the index yet: {error}"),
        Err(error) => log::warn!("{version} has no row in the index yet: {error}"),
    }
}

impl Store {
    /// Lists versions in the order of module and version, both compared byte by byte: those after a pair, at most so
    /// many. The time that it takes does not depend on where in the catalog that is.
    pub fn catalog(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<CatalogEntry>, IndexError> {
        self.index.read(|database| database.catalog(after, limit))
    }

    /// Lists versions in the order of their publishing: those published at an instant or later (nanoseconds since
    /// 1970), at most so many.
    pub fn feed(&self, since: i64, limit: usize) -> Result<Vec<FeedEntry>, IndexError> {
        self.index.read(|database| database.feed(since, limit))
    }
}
