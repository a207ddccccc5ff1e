//! Bringing the index to what lies in the store.
//!
//! One pass walks over the modules. One whose `@v` folder has the stamp that was noted is passed over; of any other
//! the versions are read, and the stamp from before the reading is noted with them, unless something in there is so
//! young, or so incomplete, that it may change again without showing it. Then every module that has a row is looked
//! for, so that the rows of those that are gone go. Memory is that of a batch, and of the largest module.
//!
//! An index that is not there, or of no use, is first built aside by the same pass over an empty one. What was
//! published meanwhile is found by the pass that follows.

use std::fs::{self, Metadata};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::io::Errno;
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::durable;
use stoa_layout::error::PathContext;

use super::database::{Access, Database};
use super::{FILE, Index, IndexError, IndexRow, PATIENCE, numbers};
use crate::draft::Folder;
use crate::list::{self, SETTLED};
use crate::paths::{Paths, VersionFile};
use crate::read::{is_absent, is_file};
use crate::walk::each_module;
use crate::{Store, StoreError};

/// Asks work to stop. Clones ask as one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a pass found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// The number of the index.
    pub number: u32,
    /// Whether it was built new.
    pub is_new: bool,
    /// Modules met.
    pub modules: u64,
    /// Versions that the index holds now.
    pub versions: u64,
    /// Modules read again.
    pub read: u64,
    /// Rows written.
    pub added: u64,
    /// Rows of what is gone.
    pub removed: u64,
}

/// What tells a module's `@v` folder from what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderStamp {
    pub(super) inode: i64,
    pub(super) modified: i64,
    pub(super) changed: i64,
}

impl FolderStamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino().cast_signed(),
            modified: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed: nanoseconds(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What a look at a module found.
#[derive(Debug)]
pub(super) struct SeenModule {
    pub(super) module: String,
    /// Sorted by the text of the version.
    pub(super) rows: Vec<IndexRow>,
    /// To be noted; `None` if the module must be read again however it looks.
    pub(super) stamp: Option<FolderStamp>,
    /// Whether there is no such module.
    pub(super) is_gone: bool,
}

/// What a look at a version found.
#[derive(Debug)]
pub(super) struct SeenVersion {
    pub(super) row: IndexRow,
    /// Whether it is whole, and was not written just now.
    is_settled: bool,
}

/// How many rows are written at a time, roughly: other writers wait meanwhile.
const BATCH: usize = 2000;

/// How many modules are looked for at a time.
const PAGE: usize = 1000;

impl Store {
    /// Brings the index to what lies in the store; builds it if there is none or it is of no use. Several processes
    /// may do so at once.
    pub fn reconcile_index(&self, stop: &Stop) -> Result<Reconciled, IndexError> {
        let staging = self.staging()?;
        let mut is_new = false;
        loop {
            match self.index.reconcile(stop) {
                Err(error) if error.is_of_no_use() && !is_new => {
                    match &error {
                        IndexError::Missing(_) => log::info!("{} gets a new index", self.root().display()),
                        _ => log::warn!("a new index is built: {error}"),
                    }
                    self.index.build(staging.fresh(), &|| stop.is_asked())?;
                    is_new = true;
                }
                result => return result.map(|done| Reconciled { is_new, ..done }),
            }
        }
    }

    /// Builds an index of whatever it is handed, in the order of modules: for measurements, which would not wait for
    /// as many folders. The next reconciliation takes it all away again.
    #[doc(hidden)]
    pub fn index_as_if(
        &self,
        modules: impl Iterator<Item = (String, Vec<IndexRow>)>,
    ) -> Result<(), IndexError> {
        self.index.build_with(self.staging()?.fresh(), |database| {
            for (module, rows) in modules {
                let seen = SeenModule { module, rows, stamp: None, is_gone: false };
                database.apply(&[seen], |_, _| true)?;
            }
            Ok(())
        })
    }
}

impl Index {
    fn reconcile(&self, stop: &Stop) -> Result<Reconciled, IndexError> {
        let identity = self.identity()?;
        let mut database = self.open(identity, Access::Write, PATIENCE)?;
        let is_verified = *self.lock_verified() == Some(identity);
        if !is_verified {
            database.verify(stop)?;
            *self.lock_verified() = Some(identity);
        }
        let pass = pass(&self.paths, &mut database, &|| stop.is_asked())?;
        Ok(Reconciled { number: identity.number, versions: database.count()?, ..pass })
    }

    fn lock_verified(&self) -> std::sync::MutexGuard<'_, Option<super::Identity>> {
        self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Builds an index aside and brings it in whole.
    pub(super) fn build(
        &self,
        aside: PathBuf,
        should_stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), IndexError> {
        self.build_with(aside, |database| pass(&self.paths, database, should_stop).map(drop))
    }

    fn build_with(
        &self,
        aside: PathBuf,
        fill: impl FnOnce(&mut Database) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let before = newest(&numbers(&self.paths.index())?);
        let aside = Folder { path: aside, moved: false };
        self.durable.create_dir(&aside.path)?;
        let path = aside.path.join(FILE);
        // SQLite makes its other files as this one's owner has them.
        drop(self.durable.create_file(&path)?);
        let mut database = Database::create(&path)?;
        fill(&mut database)?;
        database.finish()?;
        // It is closed: opening it here takes no lock from anybody.
        let file = fs::File::open(&path).at("open", &path)?;
        durable::sync_file(&file, &path)?;
        durable::sync_dir(&aside.path)?;
        self.bring_in(aside, before)
    }

    fn bring_in(&self, mut built: Folder, before: Option<u32>) -> Result<(), IndexError> {
        let folder = self.paths.index();
        self.durable.ensure_dir(&folder)?;
        loop {
            let taken = numbers(&folder)?;
            if newest(&taken) > before {
                // Another process was first. Ours goes.
                return Ok(());
            }
            let next = taken.iter().map(|(number, _)| *number).max().map_or(Some(1), |n| n.checked_add(1));
            let Some(next) = next else {
                let path = folder.join(u32::MAX.to_string());
                return Err(PathError::new("count on from", path, Errno::OVERFLOW).into());
            };
            match durable::rename_noreplace(&built.path, &folder.join(next.to_string())) {
                Ok(()) => {
                    built.moved = true;
                    durable::sync_dir(&folder)?;
                    return Ok(());
                }
                Err(error) if error.errno() == Some(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes the indexes that do not count. For who has the exclusive lock of the store.
    pub(super) fn remove_older(&self) -> Result<(), IndexError> {
        let folder = self.paths.index();
        let mut folders: Vec<u32> =
            numbers(&folder)?.into_iter().filter(|(_, is_folder)| *is_folder).map(|(n, _)| n).collect();
        folders.sort_unstable();
        // The one that counts.
        folders.pop();
        for number in folders {
            durable::remove_tree(&folder.join(number.to_string()))?;
        }
        Ok(())
    }
}

/// Is the number that counts.
pub(super) fn newest(taken: &[(u32, bool)]) -> Option<u32> {
    taken.iter().filter(|(_, is_folder)| *is_folder).map(|(number, _)| *number).max()
}

/// One pass over everything.
fn pass(
    paths: &Paths,
    database: &mut Database,
    should_stop: &(dyn Fn() -> bool + Sync),
) -> Result<Reconciled, IndexError> {
    let mut done = Reconciled::default();
    let mut batch = Batch { paths, seen: Vec::new(), rows: 0 };
    let go_on = || if should_stop() { Err(IndexError::Stopped) } else { Ok(()) };
    let found = |module: ModulePath| -> Result<ControlFlow<()>, IndexError> {
        go_on()?;
        done.modules += 1;
        let noted = database.noted(module.as_str())?;
        match look(paths, &module, noted) {
            Ok(None) => {}
            Ok(Some(seen)) => {
                done.read += 1;
                batch.add(seen, database, &mut done)?;
            }
            Err(error) => log::warn!("the index keeps what it has of {module}: {error}"),
        }
        Ok(ControlFlow::Continue(()))
    };
    let unreadable = |error: PathError| -> Result<(), IndexError> {
        log::warn!("the index keeps what it has below there: {error}");
        Ok(())
    };
    each_module(&paths.modules(), found, unreadable)?;
    batch.write(database, &mut done)?;
    let mut after = String::new();
    loop {
        go_on()?;
        let modules = database.modules(&after, PAGE)?;
        let Some(last) = modules.last() else { return Ok(done) };
        after.clone_from(last);
        for module in modules {
            let is_there = match ModulePath::new(&module) {
                Ok(path) => match folder(&paths.versions(&path)) {
                    Ok(folder) => folder.is_some(),
                    Err(error) => {
                        log::warn!("the index keeps what it has of {module}: {error}");
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
}

/// What was read and not written yet.
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
                log::warn!("the index keeps what it has of {version}: {error}");
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

/// Looks at a module. `None` if it is as noted, or gone.
pub(super) fn look(
    paths: &Paths,
    module: &ModulePath,
    noted: Option<FolderStamp>,
) -> Result<Option<SeenModule>, StoreError> {
    let path = paths.versions(module);
    let now = SystemTime::now();
    let Some(meta) = folder(&path)? else { return Ok(None) };
    let stamp = FolderStamp::of(&meta);
    if noted == Some(stamp) {
        return Ok(None);
    }
    let mut is_settled = has_settled(&meta, now);
    let mut rows = Vec::new();
    for version in list::read_versions(&path, module)? {
        let Ok(version) = ModuleVersion::new(module.clone(), version) else { continue };
        match read_version(paths, &version)? {
            Some(seen) => {
                is_settled &= seen.is_settled;
                rows.push(seen.row);
            }
            // Its info may be still on its way.
            None => is_settled = false,
        }
    }
    rows.sort_unstable_by(|a, b| a.version.cmp(&b.version));
    let stamp = is_settled.then_some(stamp);
    Ok(Some(SeenModule { module: module.to_string(), rows, stamp, is_gone: false }))
}

/// Looks at a version. `None` if it is not there.
pub(super) fn read_version(paths: &Paths, version: &ModuleVersion) -> Result<Option<SeenVersion>, PathError> {
    let now = SystemTime::now();
    let mut is_settled = true;
    let mut bytes = 0;
    let mut modified = None;
    for file in [VersionFile::Info, VersionFile::Mod, VersionFile::Zip] {
        let path = paths.file(version, file);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Some(meta),
            Ok(_) => None,
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(PathError::new("look at", path, error)),
        };
        match (file, meta) {
            (VersionFile::Info, None) => return Ok(None),
            (_, None) => is_settled = false,
            (_, Some(meta)) => {
                is_settled &= has_settled(&meta, now);
                bytes += meta.len();
                modified.get_or_insert_with(|| nanoseconds(meta.mtime(), meta.mtime_nsec()));
            }
        }
    }
    let row =
        IndexRow { version: version.version().to_string(), modified: modified.unwrap_or_default(), bytes };
    Ok(Some(SeenVersion { row, is_settled }))
}

/// Looks at a folder itself. `None` if none is there.
fn folder(path: &std::path::Path) -> Result<Option<Metadata>, PathError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_dir().then_some(meta)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(PathError::new("look at", path, error)),
    }
}

/// Whether something was changed so long ago that another change would show. By the time of change, which nobody
/// can set back.
fn has_settled(meta: &Metadata, now: SystemTime) -> bool {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    let settled = i128::from(nanoseconds(meta.ctime(), meta.ctime_nsec())) + SETTLED.as_nanos().cast_signed();
    settled < now.cast_signed()
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds).min(LATEST)
}

/// The latest time that is told, in the year 2262: a file may claim a later one. So that an instant that is free can
/// be found behind any.
const LATEST: i64 = i64::MAX - (1 << 50);
