//! The index: the stored versions in an order that can be paged. It is derived from the store and can be rebuilt.
//!
//! ```text
//! index/N/index.sqlite     the highest number is current; SQLite in WAL mode, which adds -wal and -shm
//! ```
//!
//! A publish writes its row on a best-effort basis. [`StoreIndex::reconcile`] corrects the rest: it reads a module
//! again if the stamp of its `@v` folder differs from the stored stamp, and removes the rows of missing versions. So
//! the index recovers from a process that died before it wrote its row, from other processes, from files copied in by
//! hand, from a restored backup and from a lost index.
//!
//! The index is also the log of the events of this deployment: each version has a number, which grows with every new
//! version ([`StoreIndex::events`]). Other deployments read the log from their pointer on.
//!
//! With a bucket, the index lists the versions of the bucket too, by the manifests that a server reads from it. The rows
//! of the store and of the bucket are brought up to date independently of each other.
//!
//! A database that may be in use is never replaced. A damaged database stays, and a new database is built aside and
//! renamed to the next number. Users of an older database notice that before their next query. Older databases are
//! removed under the exclusive lock of the store, by [`IndexArtefact`].
//!
//! A copy of the store made with hard links (`cp -al`) shares the database. So a database with several names counts as
//! damaged, and each copy builds its own under the next number.
//!
//! A read-only store reads the newest index as it is.

mod artefact;
mod database;
mod error;
mod log;
mod manifests;
mod marks;
mod reconcile;
mod rows;
mod settle;
#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use stoa_gomod::ModuleVersion;
use stoa_layout::durable::Durable;

use self::database::{Access, Database};
use self::rows::SeenModule;
use crate::Store;
use crate::files::lock;
use crate::numbered::{Current, Identity, Numbered};
use crate::paths::Paths;

pub use self::artefact::IndexArtefact;
pub use self::error::IndexError;
pub use self::log::{LogEvent, LogKind, LogState};
pub use self::manifests::{Condition, KnownManifest, ManifestChange, ManifestRow, manifest_key};
pub use self::reconcile::Reconciled;
pub use self::rows::{CatalogEntry, FeedEntry, IndexRow, Stop, Totals};

/// The open databases of the index in this process.
#[derive(Debug)]
pub(crate) struct Index {
    paths: Paths,
    databases: Numbered,
    durable: Durable,
    is_read_only: bool,
    writer: Mutex<Option<(Identity, Database)>>,
    readers: Mutex<Vec<(Identity, Database)>>,
    /// The database that was verified.
    verified: Mutex<Option<Identity>>,
    /// The clock that tells whether a file has settled.
    clock: fn() -> SystemTime,
}

/// The name of the database in its folder.
const FILE: &str = "index.sqlite";

/// The maximum number of databases that stay open for queries.
const READERS: usize = 4;

/// How long a publish waits to write its row. Short, because the next reconciliation writes the row anyway.
const ROW_PATIENCE: Duration = Duration::from_secs(2);

/// How long all others wait for another writer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Index {
    pub(crate) fn new(paths: Paths, durable: Durable, is_read_only: bool) -> Self {
        Self {
            databases: Numbered { folder: paths.index(), file: FILE },
            paths,
            durable,
            is_read_only,
            writer: Mutex::default(),
            readers: Mutex::default(),
            verified: Mutex::default(),
            clock: SystemTime::now,
        }
    }

    /// Writes the row of a published version, while its claim is held. Best effort.
    pub(crate) fn note(&self, version: &ModuleVersion) {
        let row = reconcile::read_version(&self.paths, version, self.clock);
        let noted = row.map_err(IndexError::from).and_then(|row| match row {
            Some(seen) => {
                // The seal was written with the version. Without it the hashes are filled in when they are asked for.
                let hashes = log::sealed_hashes(&self.paths.version(version)).unwrap_or_default();
                self.write(|database| database.put(version.path().as_str(), &seen.row, &hashes))
            }
            None => Ok(()),
        });
        log_failure(version, noted);
    }

    /// Notes that a version was removed or quarantined, while its claim is held. Best effort.
    pub(crate) fn forget(&self, version: &ModuleVersion) {
        let (module, name) = (version.path().as_str(), version.version().as_str());
        log_failure(version, self.write(|database| database.remove(module, name)));
    }

    fn write<T: Default>(
        &self,
        change: impl Fn(&mut Database) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        if self.is_read_only {
            return Ok(T::default());
        }
        let identity = self.identity().inspect_err(|_| self.abandon())?;
        let mut writer = lock(&self.writer);
        if !matches!(&*writer, Some((known, _)) if *known == identity) {
            if let Some((_, database)) = writer.take() {
                database.abandon();
            }
            *writer = Some((identity, self.open(identity, Access::Write, ROW_PATIENCE)?));
        }
        let Some((_, database)) = writer.as_mut() else { return Ok(T::default()) };
        let changed = change(database);
        if changed.is_err() {
            *writer = None;
        }
        self.verify_again_if_damaged(changed)
    }

    fn read<T>(&self, ask: impl Fn(&Database) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let identity = self.identity().inspect_err(|_| self.abandon())?;
        if self.is_read_only {
            // A read-only database that stays open does not see the writes of others.
            return ask(&self.open(identity, Access::Read, PATIENCE)?);
        }
        let kept = {
            let mut readers = lock(&self.readers);
            for (_, database) in readers.extract_if(.., |(known, _)| *known != identity) {
                database.abandon();
            }
            readers.pop()
        };
        let database = match kept {
            Some((_, database)) => database,
            None => self.open(identity, Access::Write, PATIENCE)?,
        };
        let answer = self.verify_again_if_damaged(ask(&database))?;
        let mut readers = lock(&self.readers);
        if readers.len() < READERS {
            readers.push((identity, database));
        }
        Ok(answer)
    }

    /// Closes all databases, because they are not current any more.
    fn abandon(&self) {
        let writer = lock(&self.writer).take();
        let readers = std::mem::take(&mut *lock(&self.readers));
        for (_, database) in writer.into_iter().chain(readers) {
            database.abandon();
        }
    }

    /// Makes the next reconciliation verify a database again that proved damaged.
    fn verify_again_if_damaged<T>(&self, result: Result<T, IndexError>) -> Result<T, IndexError> {
        if matches!(result, Err(IndexError::Broken { .. })) {
            *lock(&self.verified) = None;
        }
        result
    }

    fn open(&self, identity: Identity, access: Access, patience: Duration) -> Result<Database, IndexError> {
        Database::open(&self.databases.path(identity.number), access, patience)
    }

    /// Returns the identity of the current database.
    fn identity(&self) -> Result<Identity, IndexError> {
        match self.databases.current(!self.is_read_only)? {
            Current::Missing => Err(IndexError::Missing(self.databases.folder.clone())),
            Current::Broken(path, reason) => Err(IndexError::Broken { path, reason: reason.to_owned() }),
            Current::At(identity) => Ok(identity),
        }
    }
}

fn log_failure(version: &ModuleVersion, result: Result<(), IndexError>) {
    match result {
        Ok(()) => {}
        Err(error @ IndexError::Missing(_)) => {
            ::log::debug!(version:% = version, reason:% = error; "no index to update yet")
        }
        Err(error) => {
            ::log::warn!(version:% = version, reason:% = error; "cannot update the index, trying again in the next pass")
        }
    }
}

/// The index of a store.
#[derive(Debug, Clone, Copy)]
pub struct StoreIndex<'a>(&'a Store);

impl Store {
    /// Returns the index of the store.
    pub fn index(&self) -> StoreIndex<'_> {
        StoreIndex(self)
    }
}

impl StoreIndex<'_> {
    /// Returns up to `limit` versions after a pair of module and version, sorted bytewise by module, then by version.
    ///
    /// The cost does not depend on the position in the catalog.
    pub fn catalog(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<CatalogEntry>, IndexError> {
        self.0.index.read(|database| database.catalog(after, limit))
    }

    /// Returns up to `limit` versions published at or after a time (nanoseconds since 1970), sorted by time.
    pub fn feed(&self, since: i64, limit: usize) -> Result<Vec<FeedEntry>, IndexError> {
        self.0.index.read(|database| database.feed(since, limit))
    }

    /// Counts the stored versions. The query reads all rows.
    pub fn totals(&self) -> Result<Totals, IndexError> {
        self.0.index.read(Database::totals)
    }

    /// Brings the index up to date with the store, and builds it if it is missing or damaged. Several processes may
    /// do so at once.
    pub fn reconcile(&self, stop: &Stop) -> Result<Reconciled, IndexError> {
        let store = self.0;
        let staging = store.staging()?;
        let mut is_new = false;
        loop {
            match store.index.reconcile(stop) {
                Err(error) if error.needs_rebuild() && !is_new => {
                    match &error {
                        IndexError::Missing(_) => {
                            ::log::debug!(store:% = store.root().display(); "building the index");
                        }
                        _ => ::log::warn!(reason:% = error; "rebuilding the index"),
                    }
                    store.index.build(staging.fresh(), &|| stop.is_asked())?;
                    is_new = true;
                }
                result => return result.map(|done| Reconciled { is_new, ..done }),
            }
        }
    }

    /// Builds an index from given rows, sorted by module, for benchmarks without that many folders. The next
    /// reconciliation removes the rows again.
    #[doc(hidden)]
    pub fn fill(&self, modules: impl Iterator<Item = (String, Vec<IndexRow>)>) -> Result<(), IndexError> {
        let store = self.0;
        store.index.build_with(store.staging()?.fresh(), |database| {
            for (module, rows) in modules {
                let seen = SeenModule { module, rows, stamp: None, is_gone: false };
                database.apply(&[seen], |_, _| true)?;
            }
            Ok(())
        })
    }
}
