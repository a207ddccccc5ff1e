//! Opening a store, and the state of an open store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quick_cache::sync::Cache;
use rustix::fs::{Access, AtFlags, CWD};
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::durable::Durable;
use stoa_layout::gate::{Mode, SignalsAfter};
use stoa_layout::marker::Marker;
use stoa_layout::{Held, LayoutId, Pass, PathError};

use crate::cache::Writes;
use crate::files::{Stamp, is_file};
use crate::index::Index;
use crate::last_use::Uses;
use crate::list::KnownVersions;
use crate::meter::Meter;
use crate::pairs::{KnownBytes, KnownPair, PairWeight};
use crate::paths::Paths;
use crate::read::{KnownSmall, SmallFile, SmallWeight};
use crate::seal_state::KnownSeal;
use crate::staging::{self, Run};
use crate::{Claim, FOLDERS, StoreError, VersionFile, quarantine};

/// An open store. Threads share one value.
#[derive(Debug)]
pub struct Store {
    pub(crate) paths: Paths,
    pub(crate) durable: Durable,
    pub(crate) smalls: Cache<(ModuleVersion, SmallFile), KnownSmall, SmallWeight>,
    pub(crate) seals: Cache<ModuleVersion, KnownSeal>,
    pub(crate) lists: Cache<ModulePath, KnownVersions>,
    pub(crate) tombstones: Cache<ModulePath, KnownVersions>,
    /// Records without a tombstone.
    pub(crate) harmless: Cache<Stamp, ()>,
    pub(crate) index: Index,
    pub(crate) uses: Uses,
    pub(crate) cache_writes: Writes,
    pub(crate) pair_bytes: KnownBytes,
    pub(crate) known_pairs: Cache<Stamp, KnownPair, PairWeight>,
    pub(crate) meter: Meter,
    layout: LayoutId,
    run: Option<Run>,
    // Last, because fields drop in order: the lock is released after the staging folder is removed.
    held: Option<Held>,
}

/// The maximum number of bytes of info and mod files in memory.
const SMALL_BYTES: u64 = 64 << 20;

/// The maximum number of bytes of verified pairs in memory.
const PAIR_BYTES: u64 = 8 << 20;

/// The maximum number of seals and of lists in memory.
const ENTRIES: usize = 20_000;

/// The maximum number of harmless records in memory: a few megabytes.
const HARMLESS: usize = 1 << 16;

/// The time between two attempts to claim a version that another process works on.
const CLAIM_EVERY: Duration = Duration::from_millis(20);

/// The maximum length of a path (`PATH_MAX`, which includes the final zero) and of an element (`NAME_MAX`).
const MAX_PATH: usize = 4096;
const MAX_ELEMENT: usize = 255;

impl Store {
    /// Opens a store without its lock, for reading only.
    pub fn look(pass: &Pass) -> Self {
        Self::new(pass, None, Durable::default())
    }

    /// Opens a store for as long as this value lives, and removes what dead processes left in staging.
    ///
    /// A store on a read-only file system is opened for reading only.
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
                    store:% = root.display();
                    "the file system is read-only: stored versions are served and nothing is added"
                );
                Ok(Self::new_held(held, None, durable))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the store with a meter, to which the bytes of zips are added while they are examined.
    #[must_use]
    pub fn metered(self, meter: Meter) -> Self {
        Self { meter, ..self }
    }

    /// Returns the root directory of the store.
    pub fn root(&self) -> &Path {
        self.paths.root()
    }

    /// Returns the layout of the store.
    pub fn layout(&self) -> &LayoutId {
        &self.layout
    }

    /// Returns how signals act on this process after a migrator ran.
    pub fn signals(&self) -> SignalsAfter {
        self.held.as_ref().map(|held| held.pass().signals()).unwrap_or_default()
    }

    /// Returns whether the store is open for reading only.
    pub fn is_read_only(&self) -> bool {
        self.run.is_none()
    }

    /// Checks that the marker of the store still exists.
    pub fn check(&self) -> Result<(), StoreError> {
        let marker = Marker::At(self.layout.clone()).path(self.root());
        rustix::fs::accessat(CWD, &marker, Access::EXISTS, AtFlags::empty())
            .map_err(|errno| PathError::new("access", marker, errno).into())
    }

    /// Returns the path of a file of a version. `None` if the version or the file does not exist.
    pub fn locate(&self, version: &ModuleVersion, file: VersionFile) -> Result<Option<PathBuf>, StoreError> {
        let path = self.paths.file(version, file);
        let exists = Stamp::at(&self.paths.version(version))?.is_some()
            && self.has_info(version)?
            && (file == VersionFile::Info || is_file(&path)?);
        Ok(exists.then_some(path))
    }

    /// Returns whether a file system can hold a version of this name in a store with this root, which need not exist.
    pub fn can_hold(root: &Path, version: &ModuleVersion) -> bool {
        let path = Paths::new(root).file(version, VersionFile::Seal);
        path.as_os_str().len() < MAX_PATH && path.iter().all(|element| element.len() <= MAX_ELEMENT)
    }

    /// Takes the claim of a version, and waits until its holder releases it.
    pub fn claim(&self, version: &ModuleVersion) -> Result<Claim, StoreError> {
        self.staging()?;
        let claim = Claim::take(&self.paths.claims(), &self.durable, version)?;
        // The previous holder may be another process that has just changed the version.
        self.forget(version);
        Ok(claim)
    }

    /// Takes the claim of a version. `None` if this or another process holds it.
    pub fn try_claim(&self, version: &ModuleVersion) -> Result<Option<Claim>, StoreError> {
        self.staging()?;
        let claim = Claim::try_take(&self.paths.claims(), &self.durable, version)?;
        self.forget(version);
        Ok(claim)
    }

    /// Waits for the claim of a version. `go_on` runs between two attempts, and its error ends the wait.
    pub fn claim_while<E: From<StoreError>>(
        &self,
        version: &ModuleVersion,
        go_on: impl Fn() -> Result<(), E>,
    ) -> Result<Claim, E> {
        loop {
            go_on()?;
            if let Some(claim) = self.try_claim(version)? {
                return Ok(claim);
            }
            std::thread::sleep(CLAIM_EVERY);
        }
    }

    /// Returns the staging folder of this process if it is missing, because a person removed it. The next operation
    /// that writes creates it again.
    pub fn missing_staging(&self) -> Option<PathBuf> {
        self.run.as_ref().and_then(Run::missing)
    }

    /// Returns the staging folder of this process. Creates it again if a person has removed it.
    pub(crate) fn staging(&self) -> Result<&Run, StoreError> {
        let run = self.run.as_ref().ok_or_else(|| StoreError::ReadOnly(self.root().to_owned()))?;
        if let Some(missing) = run.missing() {
            // Without its marker the root may be the folder below an unmounted disk.
            self.check()?;
            if run.create_again()? {
                log::warn!(path:% = missing.display(); "created the staging folder again, another program removed it");
            }
        }
        Ok(run)
    }

    pub(crate) fn has_info(&self, version: &ModuleVersion) -> Result<bool, StoreError> {
        Ok(is_file(&self.paths.file(version, VersionFile::Info))?)
    }

    fn prepare(root: &Path, durable: &Durable) -> Result<Run, StoreError> {
        for folder in FOLDERS {
            durable.ensure_dir(&root.join(folder))?;
        }
        let paths = Paths::new(root);
        Claim::unshare(&paths.claims(), durable);
        let run = Run::begin(&paths.staging(), durable)?;
        // Not fatal: a process that cannot remove leftovers can still serve.
        for swept in [staging::sweep(&paths.staging(), durable), quarantine::sweep(&paths, durable)] {
            if let Err(error) = swept {
                log::warn!(reason:% = error; "cannot remove the temporary files of a dead process");
            }
        }
        Ok(run)
    }

    fn new_held(held: Held, run: Option<Run>, durable: Durable) -> Self {
        let mut store = Self::new(held.pass(), run, durable);
        store.held = Some(held);
        store
    }

    fn new(pass: &Pass, run: Option<Run>, durable: Durable) -> Self {
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
            pair_bytes: KnownBytes::default(),
            known_pairs: Cache::with_weighter(ENTRIES, PAIR_BYTES, PairWeight),
            meter: Meter::default(),
            layout: pass.layout().clone(),
            run,
            held: None,
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
