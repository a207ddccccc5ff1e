//! Bringing the index up to date with the store.
//!
//! A pass walks over the modules. It skips a module whose `@v` folder has the stored stamp. Otherwise it reads the
//! versions and stores them with the stamp from before the reading, unless a version is so young or incomplete that it
//! may change without a new stamp. Then the pass removes the rows of modules that no longer exist. Memory holds one
//! batch and the largest module. A pass over the records brings the marks up to date in the same way ([`marks`]).
//!
//! A missing or damaged index is first built aside, by the same pass over an empty database. The next pass finds the
//! versions that were published meanwhile.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::SystemTime;

use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::durable;
use stoa_layout::error::PathContext;

use super::database::{Access, Database};
use super::marks;
use super::rows::{FolderStamp, IndexRow, SeenModule, SeenVersion, Stop, nanoseconds};
use super::{FILE, Index, IndexError, PATIENCE};
use crate::StoreError;
use crate::draft::StagedFolder;
use crate::files::{is_file, lock, metadata};
use crate::list::{self, SETTLED};
use crate::metadata::Metadata;
use crate::paths::{Paths, VersionFile, version_metadata};
use crate::walk::each_module;

/// The result of a reconciliation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// The number of the index.
    pub number: u32,
    /// Whether the index was built anew.
    pub is_new: bool,
    /// The number of modules in the store.
    pub modules: u64,
    /// The number of stored versions in the index.
    pub versions: u64,
    /// The number of modules that were read again.
    pub read: u64,
    /// The number of rows written.
    pub added: u64,
    /// The number of rows removed.
    pub removed: u64,
}

/// The approximate number of rows in one transaction. Other writers wait meanwhile.
const BATCH: usize = 2000;

/// The number of modules that are read from the index at a time.
const PAGE: usize = 1000;

impl Index {
    pub(super) fn reconcile(&self, stop: &Stop) -> Result<Reconciled, IndexError> {
        loop {
            let identity = self.identity()?;
            let mut database = self.open(identity, Access::Write, PATIENCE)?;
            let is_verified = *lock(&self.verified) == Some(identity);
            if !is_verified {
                database.verify(stop)?;
                *lock(&self.verified) = Some(identity);
            }
            let pass = pass(&self.paths, self.clock, &mut database, &|| stop.is_asked())?;
            let done = Reconciled { number: identity.number, versions: database.count()?, ..pass };
            // A request that finds the index missing waits for the end of this pass.
            if self.identity()? == identity {
                return Ok(done);
            }
            database.abandon();
        }
    }

    /// Builds an index aside and renames it to its place.
    pub(super) fn build(
        &self,
        aside: PathBuf,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), IndexError> {
        self.build_with(aside, |database| pass(&self.paths, self.clock, database, should_stop).map(drop))
    }

    /// Builds an index aside with a function that fills it, and renames it to its place.
    pub(super) fn build_with(
        &self,
        aside: PathBuf,
        fill: impl FnOnce(&mut Database) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let before = self.databases.newest()?;
        let aside = StagedFolder::new(aside);
        self.durable.create_dir(&aside.path)?;
        let path = aside.path.join(FILE);
        // SQLite gives its other files the owner of this file.
        drop(self.durable.create_file(&path)?);
        let mut database = Database::create(&path)?;
        fill(&mut database)?;
        database.finish()?;
        // The database is closed, so opening the file here releases no lock of SQLite.
        let file = fs::File::open(&path).at("open", &path)?;
        durable::sync_file(&file, &path)?;
        drop(file);
        durable::sync_dir(&aside.path)?;
        self.durable.ensure_dir(&self.databases.folder)?;
        Ok(self.databases.bring_in(aside, before)?)
    }

    /// Removes all but the current index. The caller holds the exclusive lock of the store.
    pub(super) fn remove_older(&self) -> Result<(), IndexError> {
        let mut all = self.databases.all()?;
        // The current index.
        all.pop();
        for number in all {
            durable::remove_tree(&self.databases.folder.join(number.to_string()))?;
        }
        Ok(())
    }
}

/// Makes one pass over the whole store.
fn pass(
    paths: &Paths,
    clock: fn() -> SystemTime,
    database: &mut Database,
    should_stop: &(dyn Fn() -> bool + Sync),
) -> Result<Reconciled, IndexError> {
    let mut done = Reconciled::default();
    let mut batch = Batch { paths, seen: Vec::new(), rows: 0 };
    let found = |module: ModulePath| -> Result<ControlFlow<()>, IndexError> {
        go_on(should_stop)?;
        done.modules += 1;
        let stored = database.stored_stamp(module.as_str())?;
        match read_module(paths, &module, stored, clock) {
            Ok(None) => {}
            Ok(Some(seen)) => {
                done.read += 1;
                batch.add(seen, database, &mut done)?;
            }
            Err(error) => keep_rows(&module, &error),
        }
        Ok(ControlFlow::Continue(()))
    };
    let unreadable = |error: PathError| -> Result<(), IndexError> {
        log::warn!(reason:% = error; "cannot read a folder, keeping its rows in the index");
        Ok(())
    };
    each_module(&paths.modules(), found, unreadable, |_| {})?;
    batch.write(database, &mut done)?;
    let mut after = String::new();
    loop {
        go_on(should_stop)?;
        let modules = database.modules(&after, PAGE)?;
        let Some(last) = modules.last() else { break };
        after.clone_from(last);
        for module in modules {
            let is_there = match ModulePath::new(&module) {
                Ok(path) => match metadata(&paths.versions(&path)) {
                    Ok(meta) => meta.is_some_and(|meta| meta.is_dir()),
                    Err(error) => {
                        keep_rows(&module, &error);
                        true
                    }
                },
                Err(_) => false,
            };
            if !is_there {
                let seen = SeenModule { module, rows: Vec::new(), stamp: None, is_gone: true };
                batch.add(seen, database, &mut done)?;
            }
        }
        batch.write(database, &mut done)?;
    }
    marks::pass(paths, clock, database, should_stop)?;
    Ok(done)
}

/// Fails if the pass should stop.
pub(super) fn go_on(should_stop: &(dyn Fn() -> bool + Sync)) -> Result<(), IndexError> {
    if should_stop() { Err(IndexError::Stopped) } else { Ok(()) }
}

/// Modules that were read and not written yet.
struct Batch<'a> {
    paths: &'a Paths,
    seen: Vec<SeenModule>,
    rows: usize,
}

impl Batch<'_> {
    fn add(
        &mut self,
        seen: SeenModule,
        database: &mut Database,
        done: &mut Reconciled,
    ) -> Result<(), IndexError> {
        self.rows += 1 + seen.rows.len();
        self.seen.push(seen);
        if self.rows >= BATCH { self.write(database, done) } else { Ok(()) }
    }

    fn write(&mut self, database: &mut Database, done: &mut Reconciled) -> Result<(), IndexError> {
        if self.seen.is_empty() {
            return Ok(());
        }
        let is_there = |module: &str, version: &str| {
            let Ok(version) = ModuleVersion::parse(&format!("{module}@{version}")) else { return false };
            is_file(&self.paths.file(&version, VersionFile::Info)).unwrap_or_else(|error| {
                keep_rows(&version, &error);
                true
            })
        };
        let changed = database.apply(&self.seen, is_there)?;
        done.added += changed.added;
        done.removed += changed.removed;
        self.seen.clear();
        self.rows = 0;
        Ok(())
    }
}

/// Logs that the rows of a module or version stay because it cannot be read.
fn keep_rows(subject: &dyn std::fmt::Display, error: &dyn std::fmt::Display) {
    log::warn!(subject:% = subject, reason:% = error; "cannot read a module, keeping its rows in the index");
}

/// Reads the rows of a module. `None` if its folder has the stored stamp, or does not exist.
pub(super) fn read_module(
    paths: &Paths,
    module: &ModulePath,
    stored: Option<FolderStamp>,
    clock: fn() -> SystemTime,
) -> Result<Option<SeenModule>, StoreError> {
    let path = paths.versions(module);
    let now = clock();
    let Some(meta) = metadata(&path)?.filter(Metadata::is_dir) else { return Ok(None) };
    let stamp = FolderStamp::of(&meta);
    if stored == Some(stamp) {
        return Ok(None);
    }
    let mut is_settled = has_settled(&meta, now);
    let mut rows = Vec::new();
    for version in list::read_versions(&path, module)? {
        let Ok(version) = ModuleVersion::new(module.clone(), version) else { continue };
        match read_version(paths, &version, clock)? {
            Some(seen) => {
                is_settled &= seen.is_settled;
                rows.push(seen.row);
            }
            // Its info may follow.
            None => is_settled = false,
        }
    }
    rows.sort_unstable_by(|a, b| a.version.cmp(&b.version));
    let stamp = is_settled.then_some(stamp);
    Ok(Some(SeenModule { module: module.to_string(), rows, stamp, is_gone: false }))
}

/// Reads the row of a version. `None` if the version is not in the store.
pub(super) fn read_version(
    paths: &Paths,
    version: &ModuleVersion,
    clock: fn() -> SystemTime,
) -> Result<Option<SeenVersion>, PathError> {
    let now = clock();
    let [Some(info), modfile, zip] = version_metadata(&paths.version(version))? else { return Ok(None) };
    let is_complete = modfile.is_some() && zip.is_some();
    let modified = nanoseconds(info.written.0, info.written.1);
    let files = [Some(info), modfile, zip];
    let is_settled = is_complete && files.iter().flatten().all(|meta| has_settled(meta, now));
    let bytes = files.iter().flatten().map(Metadata::len).sum();
    let row = IndexRow { version: version.version().to_string(), modified, bytes, is_complete };
    Ok(Some(SeenVersion { row, is_settled }))
}

/// Returns whether a file changed so long ago that another change would be visible. Uses the change time, which
/// cannot be set back.
pub(super) fn has_settled(meta: &Metadata, now: SystemTime) -> bool {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    let settled = i128::from(nanoseconds(meta.changed.0, meta.changed.1)) + SETTLED.as_nanos().cast_signed();
    settled < now.cast_signed()
}
