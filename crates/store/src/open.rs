//! Opening a store, and what is kept while it is open.

use std::path::{Path, PathBuf};

use quick_cache::sync::Cache;
use rustix::fs::{Access, AtFlags, CWD};
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::durable::Durable;
use stoa_layout::gate::{Mode, SignalsAfter};
use stoa_layout::marker::Marker;
use stoa_layout::{Held, LayoutId, Pass, PathError};

use crate::cache::Writes;
use crate::index::Index;
use crate::last_use::Uses;
use crate::list::KnownList;
use crate::paths::Paths;
use crate::read::{KnownSeal, KnownSmall, SmallFile, SmallWeight, Stamp, is_file};
use crate::records::KnownTombstones;
use crate::staging::{self, Run};
use crate::{Claim, FOLDERS, StoreError, VersionFile, quarantine};

/// An open store. Share one among threads.
#[derive(Debug)]
pub struct Store {
    pub(crate) paths: Paths,
    pub(crate) durable: Durable,
    pub(crate) smalls: Cache<(ModuleVersion, SmallFile), KnownSmall, SmallWeight>,
    pub(crate) seals: Cache<ModuleVersion, KnownSeal>,
    pub(crate) lists: Cache<ModulePath, KnownList>,
    pub(crate) tombstones: Cache<ModulePath, KnownTombstones>,
    /// Records that forbid nothing.
    pub(crate) harmless: Cache<Stamp, ()>,
    pub(crate) index: Index,
    pub(crate) uses: Uses,
    pub(crate) cache_writes: Writes,
    layout: LayoutId,
    run: Option<Run>,
    // Last: the lock goes after the staging folder.
    held: Option<Held>,
}

/// How many bytes of info and mod files are kept in memory.
const SMALL_BYTES: u64 = 64 << 20;

/// How many seals and lists are kept in memory.
const ENTRIES: usize = 20_000;

/// How many records are known to forbid nothing: a few megabytes.
const HARMLESS: usize = 1 << 16;

/// How long a path may be (`PATH_MAX`, its last zero included), and each of its elements (`NAME_MAX`).
const MAX_PATH: usize = 4096;
const MAX_ELEMENT: usize = 255;

impl Store {
    /// Opens a store for a look: without the lock, and nothing can be written.
    pub fn look(pass: &Pass) -> Self {
        Self::new(pass, None, None, Durable::default())
    }

    /// Opens a store for as long as this value lives, and sweeps what dead processes left.
    ///
    /// Where the file system turns out to be read-only the store is opened to be read only.
    pub fn open(held: Held, mode: Mode) -> Result<Self, StoreError> {
        let root = held.pass().root().to_owned();
        if mode == Mode::ReadOnly {
            return Ok(Self::new_held(held, None, Durable::default()));
        }
        let durable = Durable::for_root(&root)?;
        match Self::prepare(&root, &durable) {
            Ok(run) => Ok(Self::new_held(held, Some(run), durable)),
            Err(StoreError::Path(error)) if error.is_read_only() => {
                log::warn!(
                    "{} is on a read-only file system: it is served as it is, and nothing is stored",
                    root.display()
                );
                Ok(Self::new_held(held, None, durable))
            }
            Err(error) => Err(error),
        }
    }

    /// Is the root.
    pub fn root(&self) -> &Path {
        self.paths.root()
    }

    /// Is the layout that the gate found it at.
    pub fn layout(&self) -> &LayoutId {
        &self.layout
    }

    /// Is what signals do to this process after a migrator ran.
    pub fn signals(&self) -> SignalsAfter {
        self.held.as_ref().map(|held| held.pass().signals()).unwrap_or_default()
    }

    /// Whether nothing can be stored.
    pub fn is_read_only(&self) -> bool {
        self.run.is_none()
    }

    /// Looks whether the marker is still there.
    pub fn check(&self) -> Result<(), StoreError> {
        let marker = Marker::At(self.layout.clone()).path(self.root());
        rustix::fs::accessat(CWD, &marker, Access::EXISTS, AtFlags::empty())
            .map_err(|errno| PathError::new("look for", marker, errno).into())
    }

    /// Finds where a file of a version lies. `None` if the version or the file is not there.
    pub fn locate(&self, version: &ModuleVersion, file: VersionFile) -> Result<Option<PathBuf>, StoreError> {
        let path = self.paths.file(version, file);
        let there = Stamp::at(&self.paths.version(version))?.is_some()
            && self.has_info(version)?
            && (file == VersionFile::Info || is_file(&path)?);
        Ok(there.then_some(path))
    }

    /// Whether any file of a version is in its place, be it whole or not.
    pub fn has_any_file(&self, version: &ModuleVersion) -> Result<bool, StoreError> {
        if Stamp::at(&self.paths.version(version))?.is_none() {
            return Ok(false);
        }
        for file in [VersionFile::Info, VersionFile::Mod, VersionFile::Zip, VersionFile::Seal] {
            if is_file(&self.paths.file(version, file))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the file system can hold a version of this name.
    pub fn can_hold(&self, version: &ModuleVersion) -> bool {
        Self::could_hold(self.root(), version)
    }

    /// The same of a store that is not open, or not there yet.
    pub fn could_hold(root: &Path, version: &ModuleVersion) -> bool {
        let path = Paths::new(root).file(version, VersionFile::Seal);
        path.as_os_str().len() < MAX_PATH && path.iter().all(|element| element.len() <= MAX_ELEMENT)
    }

    /// Takes the claim of a version, waiting for whoever has it.
    pub fn claim(&self, version: &ModuleVersion) -> Result<Claim, StoreError> {
        self.staging()?;
        Claim::take(&self.paths.claims(), &self.durable, version)
    }

    /// Takes the claim of a version. `None` if somebody has it, here or in another process.
    pub fn try_claim(&self, version: &ModuleVersion) -> Result<Option<Claim>, StoreError> {
        self.staging()?;
        Claim::try_take(&self.paths.claims(), &self.durable, version)
    }

    pub(crate) fn staging(&self) -> Result<&Run, StoreError> {
        self.run.as_ref().ok_or_else(|| StoreError::ReadOnly(self.root().to_owned()))
    }

    pub(crate) fn has_info(&self, version: &ModuleVersion) -> Result<bool, StoreError> {
        Ok(is_file(&self.paths.file(version, VersionFile::Info))?)
    }

    fn prepare(root: &Path, durable: &Durable) -> Result<Run, StoreError> {
        for folder in FOLDERS {
            durable.ensure_dir(&root.join(folder))?;
        }
        let paths = Paths::new(root);
        let run = Run::begin(&paths.staging(), durable)?;
        // A sweep is a favour: whoever cannot do it must still be able to serve.
        for swept in [staging::sweep(&paths.staging(), durable), quarantine::sweep(&paths, durable)] {
            if let Err(error) = swept {
                log::warn!("what a dead process left stays: {error}");
            }
        }
        Ok(run)
    }

    fn new_held(held: Held, run: Option<Run>, durable: Durable) -> Self {
        let mut store = Self::new(held.pass(), run, None, durable);
        store.held = Some(held);
        store
    }

    fn new(pass: &Pass, run: Option<Run>, held: Option<Held>, durable: Durable) -> Self {
        let paths = Paths::new(pass.root());
        Self {
            index: Index::new(paths.clone(), durable, run.is_none()),
            paths,
            durable,
            smalls: Cache::with_weighter(ENTRIES, SMALL_BYTES, SmallWeight),
            uses: Uses::new(),
            seals: Cache::new(ENTRIES),
            lists: Cache::new(ENTRIES),
            tombstones: Cache::new(ENTRIES),
            harmless: Cache::new(HARMLESS),
            cache_writes: Writes::default(),
            layout: pass.layout().clone(),
            run,
            held,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::LAYOUT;
    use crate::testing::create;
    use stoa_layout::{Gate, Migrator};

    #[test]
    fn symlinks_in_the_place_of_folders_are_refused() {
        for folder in FOLDERS {
            let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            create(dir.path());
            let precious = elsewhere.path().join("run-of-somebody/precious");
            fs::create_dir_all(&precious).unwrap();
            fs::remove_dir(dir.path().join(folder)).unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), dir.path().join(folder)).unwrap();
            let (current, migrator) = (LAYOUT, Migrator::Forbidden { name: "none" });
            let gate = Gate { root: dir.path(), current: &current, migrator: &migrator };
            let held = gate.hold(gate.pass().unwrap(), Mode::ReadWrite).unwrap();
            let error = Store::open(held, Mode::ReadWrite).unwrap_err().to_string();
            assert!(error.contains(folder) && error.contains("symlink"), "{error}");
            assert!(precious.is_dir());
        }
    }
}
