//! Opening a store, and the state of an open store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use rustix::fs::{Access, AtFlags, CWD};
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::durable::{self, Durable, Folder};
use stoa_layout::gate::{Mode, SignalsAfter};
use stoa_layout::marker::Marker;
use stoa_layout::{Held, LayoutId, Pass, PathError};

use crate::audit::{Actor, Audit};
use crate::cache::Writes;
use crate::change::Listener;
use crate::claim_wait::{self, ClaimWait};
use crate::files::{Stamp, is_file};
use crate::index::Index;
use crate::last_use::Uses;
use crate::list::KnownVersions;
use crate::meter::Meter;
use crate::pairs::{KnownBytes, KnownPair, PairWeight};
use crate::paths::Paths;
use crate::peers::OpenPeers;
use crate::read::{KnownSmall, SmallFile, SmallWeight};
use crate::reserve::Reserve;
use crate::seal::KnownCorrupt;
use crate::seal_state::KnownSeal;
use crate::space::Space;
use crate::staging::{self, Run, Staging};
use crate::{Claim, FOLDERS, StoreError, VersionFile, quarantine};

/// An open store. Threads share one value.
#[derive(Debug)]
pub struct Store {
    pub(crate) paths: Paths,
    pub(crate) durable: Durable,
    pub(crate) smalls: Cache<(ModuleVersion, SmallFile), KnownSmall, SmallWeight>,
    pub(crate) seals: Cache<ModuleVersion, KnownSeal>,
    pub(crate) corrupt: Cache<ModuleVersion, KnownCorrupt>,
    pub(crate) lists: Cache<ModulePath, KnownVersions>,
    pub(crate) tombstones: Cache<ModulePath, KnownVersions>,
    /// Records without a tombstone.
    pub(crate) harmless: Cache<Stamp, ()>,
    pub(crate) index: Index,
    pub(crate) listener: Listener,
    pub(crate) uses: Uses,
    pub(crate) peers: OpenPeers,
    pub(crate) cache_writes: Writes,
    pub(crate) pair_bytes: KnownBytes,
    pub(crate) known_pairs: Cache<Stamp, KnownPair, PairWeight>,
    pub(crate) meter: Meter,
    pub(crate) audit: Audit,
    pub(crate) patience: Duration,
    /// The name of this deployment among its peers.
    pub(crate) origin: Option<String>,
    layout: LayoutId,
    pub(crate) space: Space,
    staging: Staging,
    // After the staging folder, whose space it may take.
    pub(crate) reserve: Reserve,
    // Last, because fields drop in order: the lock is released after the staging folder is removed.
    held: Option<Held>,
}

/// The maximum number of bytes of info and mod files in memory.
const SMALL_BYTES: u64 = 64 << 20;

/// The maximum number of bytes of verified pairs in memory.
const PAIR_BYTES: u64 = 8 << 20;

/// The maximum number of seals and of lists in memory.
const ENTRIES: usize = 20_000;

/// The maximum number of corrupt versions in memory that cannot be moved to quarantine.
const CORRUPT: usize = 1 << 10;

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
        Self::new(pass, Mode::ReadOnly, Durable::default())
    }

    /// Opens a store for as long as this value lives, and removes what dead processes left in staging.
    ///
    /// A store on a read-only file system is opened for reading only. On a full disk the store is opened, and writing
    /// to it fails until there is space.
    pub fn open(held: Held, mode: Mode) -> Result<Self, StoreError> {
        let root = held.pass().root().to_owned();
        if mode == Mode::ReadOnly {
            return Ok(Self::new_held(held, Mode::ReadOnly, Durable::default()));
        }
        let durable = Durable::for_root(&root)?;
        let mut store = Self::new_held(held, Mode::ReadWrite, durable);
        match store.prepare() {
            Err(StoreError::Path(error)) if error.is_read_only() => {
                log::warn!(
                    store:% = root.display();
                    "the file system is read-only: stored versions are served and nothing is added"
                );
                let held = store.held.ok_or(StoreError::ReadOnly(root))?;
                Ok(Self::new_held(held, Mode::ReadOnly, durable))
            }
            Err(error) if error.is_out_of_space() => {
                log::debug!(reason:% = error; "cannot write to the store yet");
                Ok(store)
            }
            Err(error) => {
                let held = store.held.take();
                drop(store);
                if let Some(held) = held {
                    held.give_up();
                }
                Err(error)
            }
            Ok(()) => Ok(store),
        }
    }

    /// Returns the store with a meter, to which the bytes of zips are added while they are examined.
    #[must_use]
    pub fn metered(self, meter: Meter) -> Self {
        Self { meter, ..self }
    }

    /// Returns the store with the user and the command that change it, for the audit log.
    #[must_use]
    pub fn acting_as(self, actor: Actor) -> Self {
        Self { audit: Audit::new(self.root(), self.durable, actor), ..self }
    }

    /// Returns the store with the name of this deployment among its peers, for tombstones and their liftings.
    #[must_use]
    pub fn named(self, origin: Option<String>) -> Self {
        Self { origin, ..self }
    }

    /// Returns the store with the maximum time to wait for the holder of a claim that makes no progress.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
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
        self.staging.is_read_only()
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
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] if the holder makes no progress for too long.
    pub fn claim(&self, version: &ModuleVersion) -> Result<Claim, StoreError> {
        self.claim_while(version, || Ok(()))
    }

    /// Takes the claim of a version. `None` if this or another process holds it.
    pub fn try_claim(&self, version: &ModuleVersion) -> Result<Option<Claim>, StoreError> {
        self.prepare_claim()?;
        let claim = Claim::try_take(&self.paths.claims(), &self.durable, version)?;
        // The previous holder may be another process that has just changed the version.
        self.forget(version);
        Ok(claim)
    }

    /// Waits for the claim of a version. `go_on` runs between two attempts, and its error ends the wait.
    pub fn claim_while<E: From<StoreError>>(
        &self,
        version: &ModuleVersion,
        go_on: impl Fn() -> Result<(), E>,
    ) -> Result<Claim, E> {
        let mut wait = ClaimWait::new(version);
        loop {
            go_on()?;
            if let Some(claim) = self.try_claim(version)? {
                return Ok(claim);
            }
            wait.go_on(self)?;
            std::thread::sleep(CLAIM_EVERY);
        }
    }

    /// Opens the folder of the versions of a module, to change it. A symlink on the way is an error.
    pub(crate) fn versions_to_write(&self, version: &ModuleVersion) -> Result<Folder, StoreError> {
        let versions = self.paths.versions(version.path());
        Ok(Folder::open(self.root(), self.paths.relative(&versions))?)
    }

    /// Returns the staging folder of this process if it is missing, because a person removed it. The next operation
    /// that writes creates it again.
    pub fn missing_staging(&self) -> Option<PathBuf> {
        self.staging.begun().and_then(|run| run.missing())
    }

    /// Returns the staging folder of this process. Creates it if there was no space for it so far, and again if a person has
    /// removed it.
    pub(crate) fn staging(&self) -> Result<Arc<Run>, StoreError> {
        if self.staging.begun().is_none() {
            // The disk was full when the store was opened, so any of the folders may be missing.
            self.check_writable()?;
            self.check()?;
            self.prepare()?;
        }
        let run = self.staging.run()?;
        if let Some(missing) = run.missing() {
            // Without its marker the root may be the folder below an unmounted disk.
            self.check()?;
            if run.create_again()? {
                log::warn!(path:% = missing.display(); "created the staging folder again, another program removed it");
            }
        }
        Ok(run)
    }

    /// Prepares a claim, which needs the staging folder and no space in it.
    fn prepare_claim(&self) -> Result<(), StoreError> {
        match self.staging() {
            // Without the folder there is no file of the claims. Its error would not say that the disk is full.
            Err(error) if !error.is_out_of_space() || !self.paths.staging().is_dir() => Err(error),
            _ => Ok(()),
        }
    }

    /// Fails if the store is open for reading only.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        self.staging.check_writable()
    }

    pub(crate) fn has_info(&self, version: &ModuleVersion) -> Result<bool, StoreError> {
        Ok(is_file(&self.paths.file(version, VersionFile::Info))?)
    }

    /// Creates missing folders, removes what dead processes left, and begins to use staging.
    fn prepare(&self) -> Result<(), StoreError> {
        let (paths, durable) = (&self.paths, &self.durable);
        let mut new: Vec<PathBuf> = Vec::new();
        for folder in FOLDERS.map(|folder| paths.root().join(folder)) {
            let is_new = durable.ensure_dir(&folder).inspect_err(|error| {
                // A refused store is left as it was. If this fails, an empty folder stays, which does no harm.
                if !error.is_out_of_space() {
                    new.iter().for_each(|folder| drop(durable::remove_empty_dir(folder)));
                }
            })?;
            if is_new {
                new.push(folder);
            }
        }
        let begun = match self.staging.run() {
            Err(error) if !error.is_out_of_space() => return Err(error),
            begun => begun,
        };
        if let Ok(run) = &begun {
            Claim::unshare(&paths.claims(), durable, || run.replace_by_empty(&paths.claims()));
        }
        // Not fatal: a process that cannot remove leftovers can still serve.
        for swept in [staging::sweep(&paths.staging(), durable), quarantine::sweep(paths, durable)] {
            if let Err(error) = swept {
                log::warn!(reason:% = error; "cannot remove the temporary files of a dead process");
            }
        }
        // The sweep may have made room.
        begun.or_else(|_| self.staging.run()).map(drop)
    }

    fn new_held(held: Held, mode: Mode, durable: Durable) -> Self {
        let mut store = Self::new(held.pass(), mode, durable);
        store.held = Some(held);
        store
    }

    fn new(pass: &Pass, mode: Mode, durable: Durable) -> Self {
        let paths = Paths::new(pass.root());
        let is_read_only = mode == Mode::ReadOnly;
        Self {
            index: Index::new(paths.clone(), durable, is_read_only),
            audit: Audit::new(paths.root(), durable, Actor::of_process("unknown", None)),
            patience: claim_wait::PATIENCE,
            origin: None,
            durable,
            smalls: Cache::with_weighter(ENTRIES, SMALL_BYTES, SmallWeight),
            uses: Uses::new(),
            peers: OpenPeers::new(&paths),
            seals: Cache::new(ENTRIES),
            corrupt: Cache::new(CORRUPT),
            lists: Cache::new(ENTRIES),
            tombstones: Cache::new(ENTRIES),
            harmless: Cache::new(HARMLESS),
            cache_writes: Writes::default(),
            pair_bytes: KnownBytes::default(),
            known_pairs: Cache::with_weighter(ENTRIES, PAIR_BYTES, PairWeight),
            meter: Meter::default(),
            listener: Listener::default(),
            layout: pass.layout().clone(),
            reserve: Reserve::new(&paths, durable),
            space: Space::default(),
            staging: Staging::new(paths.clone(), durable, is_read_only),
            paths,
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
            let (dir, elsewhere) = (testkit::tempdir(), testkit::tempdir());
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
