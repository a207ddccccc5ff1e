//! A version that is being written, in the staging folder of this process.
//!
//! The zip is written piece by piece and can be read, hashed and synced while it grows. Sealing verifies the whole draft, and
//! only a sealed draft can be published. Dropping a draft removes it.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::{panic, thread};

use stoa_gomod::zip::{ExamineError, StreamHasher, examine_hashed};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable, GrowingFile};
use stoa_layout::error::PathContext;

use crate::examine::{Source, find_fault};
use crate::files::lock;
use crate::paths::VersionFile;
use crate::read::read_now;
use crate::seal::write_seal;
use crate::{Meter, Store, StoreError, staging};

/// The size of one read of a zip that is hashed while it is written.
const HASHED_PIECE: usize = 256 << 10;

/// A version that is being written.
#[derive(Debug)]
pub struct Draft {
    // Before the folder, because fields drop in order: the file is closed before the folder is removed.
    zip: Arc<DraftZip>,
    folder: Arc<StagedFolder>,
    version: ModuleVersion,
    modfile: Option<Vec<u8>>,
    durable: Durable,
    meter: Meter,
}

/// The zip of a draft, open for reading and writing. The folder of the draft is removed after the last user of the zip
/// has closed it.
#[derive(Debug)]
pub struct DraftZip {
    file: GrowingFile,
    hasher: Mutex<StreamHasher>,
    _folder: Arc<StagedFolder>,
}

impl Deref for DraftZip {
    type Target = File;

    fn deref(&self) -> &File {
        self.file.file()
    }
}

impl DraftZip {
    /// Reads at an offset from the page cache. `None` if the read would wait for the disk.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        read_now(self.file.file(), offset, buffer)
    }

    /// Hashes bytes at an offset, which are written, so that sealing need not read them again. Reads what was
    /// written before them and is not hashed yet.
    pub fn hash_early(&self, offset: u64, bytes: &[u8]) {
        let mut hasher = lock(&self.hasher);
        self.hash_written(&mut hasher, offset);
        if hasher.position() == offset {
            hasher.update(offset, bytes);
        }
    }

    /// Reads and hashes the part up to an offset that is not hashed yet.
    fn hash_written(&self, hasher: &mut StreamHasher, end: u64) {
        let mut piece = Vec::new();
        while hasher.position() < end {
            let start = hasher.position();
            // A download that is slow comes in small pieces.
            piece.resize(usize::try_from(end - start).unwrap_or(usize::MAX).min(HASHED_PIECE), 0);
            // After an error, sealing reads the file and reports it.
            let Ok(count) = self.file.file().read_at(&mut piece, start) else { return };
            let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else { return };
            hasher.update(start, read);
        }
    }

    /// Syncs the file while it is written.
    pub fn sync_early(&self) {
        self.file.sync_early();
    }
}

/// A version that is written, verified and synced, and can be published.
#[derive(Debug)]
pub struct SealedDraft {
    pub(crate) folder: Arc<StagedFolder>,
    version: ModuleVersion,
    h1: H1,
}

/// A version that is written and verified, and can be synced together with others.
#[derive(Debug)]
pub struct UnsyncedDraft(pub(crate) SealedDraft);

/// A draft cannot be sealed. It was removed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The draft is not a valid version.
    #[error("{version} is corrupt: {reason}")]
    Broken {
        /// The version.
        version: ModuleVersion,
        /// The fault of the draft.
        reason: String,
    },
    /// The go.mod of the draft is not the one in its zip.
    #[error("{version} is corrupt: its mod differs from the go.mod in its zip")]
    OtherMod {
        /// The version.
        version: ModuleVersion,
    },
    /// An I/O error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PathError> for SealError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

/// A folder in staging that is removed when dropped, unless it was moved to its place.
#[derive(Debug)]
pub(crate) struct StagedFolder {
    pub(crate) path: PathBuf,
    is_moved: AtomicBool,
}

impl StagedFolder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, is_moved: AtomicBool::new(false) }
    }

    /// Records that the folder was moved to its place.
    pub(crate) fn keep(&self) {
        self.is_moved.store(true, Ordering::Relaxed);
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.is_moved.load(Ordering::Relaxed)
            && let Err(error) = durable::remove_tree(&self.path)
        {
            log::warn!(reason:% = error; "cannot remove a staging folder, trying again at the next start");
        }
    }
}

impl Store {
    /// Starts a draft of a version.
    pub fn draft(&self, version: &ModuleVersion) -> Result<Draft, StoreError> {
        let folder = Arc::new(StagedFolder::new(self.staging()?.fresh_draft(version)));
        self.durable.create_dir(&folder.path)?;
        let file = self.durable.create_file(&folder.path.join(VersionFile::Zip.name()))?;
        let (file, hasher) = (GrowingFile::new(file), Mutex::default());
        let zip = Arc::new(DraftZip { file, hasher, _folder: Arc::clone(&folder) });
        let meter = self.meter.clone();
        Ok(Draft { folder, version: version.clone(), durable: self.durable, zip, modfile: None, meter })
    }
}

impl Draft {
    /// Returns the version.
    pub fn version(&self) -> &ModuleVersion {
        &self.version
    }

    /// Returns the file of the zip, to be written from start to end. The written part can be read meanwhile.
    pub fn zip(&self) -> Arc<DraftZip> {
        Arc::clone(&self.zip)
    }

    /// Returns the path of the zip, for messages.
    pub fn zip_path(&self) -> PathBuf {
        self.path(VersionFile::Zip)
    }

    /// Sets the go.mod. Sealing writes it.
    pub fn set_mod(&mut self, body: &[u8]) {
        self.modfile = Some(body.to_vec());
    }

    /// Verifies the draft, writes its info and its seal, and syncs it. Reads what was not hashed while it was written.
    pub fn seal(self, info: &[u8]) -> Result<SealedDraft, SealError> {
        self.seal_if(info, |_| Ok(()))
    }

    /// Does the same as [`Self::seal`]. `accept` gets the hash of the zip as soon as the draft is verified, before it is
    /// on disk. An error ends the work and removes the draft.
    pub fn seal_if<E: From<SealError>>(
        self,
        info: &[u8],
        accept: impl FnOnce(&H1) -> Result<(), E>,
    ) -> Result<SealedDraft, E> {
        // The files stay open since they were written, so that syncing them reports all write errors.
        let sync_zip = || self.zip.file.sync(&self.zip_path());
        let rest = || -> Result<H1, E> {
            let small_files = self.write_small(info).map_err(SealError::from)?;
            let sync_small =
                || small_files.iter().try_for_each(|(file, path)| durable::sync_file(file, path));
            let examine_and_seal = || -> Result<H1, E> {
                let h1 = self.examine(info)?;
                accept(&h1)?;
                self.write_and_sync_seal(&h1).map_err(SealError::from)?;
                Ok(h1)
            };
            let (h1, synced) = at_once(thread::Builder::new(), examine_and_seal, &sync_small);
            let h1 = h1?;
            synced.map_err(SealError::from)?;
            Ok(h1)
        };
        // File systems join syncs that run at the same time. Their order does not matter: the draft is moved after the last.
        let (h1, synced) = at_once(thread::Builder::new(), rest, &sync_zip);
        let h1 = h1?;
        synced.map_err(SealError::from)?;
        Ok(self.sealed(h1))
    }

    /// Does the same as [`Self::seal`] without syncing, which [`crate::Batch`] does for many drafts at once.
    pub fn seal_unsynced(self, info: &[u8]) -> Result<UnsyncedDraft, SealError> {
        let h1 = self.examine(info)?;
        self.write_small(info)?;
        write_seal(&self.durable, &self.path(VersionFile::Seal), &h1, &self.folder.path)?;
        Ok(UnsyncedDraft(self.sealed(h1)))
    }

    fn path(&self, file: VersionFile) -> PathBuf {
        self.folder.path.join(file.name())
    }

    /// Writes the info and the go.mod without syncing.
    fn write_small(&self, info: &[u8]) -> Result<Vec<(File, PathBuf)>, PathError> {
        let modfile = self.modfile.as_deref().map(|body| (VersionFile::Mod, body));
        let files = [Some((VersionFile::Info, info)), modfile].into_iter().flatten();
        let write = |(file, content)| {
            let path = self.path(file);
            Ok((staging::write_unsynced(&self.durable, &path, content)?, path))
        };
        files.map(write).collect()
    }

    /// Writes the seal, and syncs it and the folder.
    fn write_and_sync_seal(&self, h1: &H1) -> Result<(), PathError> {
        let path = self.path(VersionFile::Seal);
        durable::sync_file(&write_seal(&self.durable, &path, h1, &self.folder.path)?, &path)?;
        durable::sync_dir(&self.folder.path)
    }

    fn sealed(self, h1: H1) -> SealedDraft {
        SealedDraft { folder: self.folder, version: self.version, h1 }
    }

    /// Verifies the draft with this info. Returns the hash of its zip.
    fn examine(&self, info: &[u8]) -> Result<H1, SealError> {
        let version = &self.version;
        let broken = |reason: String| SealError::Broken { version: version.clone(), reason };
        let mod_body = self.modfile.as_ref().ok_or_else(|| broken("it has no mod".to_owned()))?;
        let source = Source::new(&self.zip, &self.meter).at("stat", &self.zip_path())?;
        let examined = match examine_hashed(&source, version, &lock(&self.zip.hasher)) {
            Ok(examined) => examined,
            Err(ExamineError::Broken(fault)) => return Err(broken(format!("its zip: {fault}"))),
            Err(ExamineError::Read(error)) => {
                return Err(PathError::new("read", self.zip_path(), error).into());
            }
        };
        if examined.go_mod.as_ref().is_some_and(|own| own != mod_body) {
            return Err(SealError::OtherMod { version: version.clone() });
        }
        match find_fault(version, info, mod_body, &examined) {
            Some(fault) => Err(broken(fault)),
            None => Ok(examined.h1),
        }
    }
}

/// Does two things at the same time, or one after the other if the system has no more threads.
fn at_once<A, B: Send>(
    thread: thread::Builder,
    here: impl FnOnce() -> A,
    beside: &(impl Fn() -> B + Sync),
) -> (A, B) {
    thread::scope(|scope| match thread.spawn_scoped(scope, beside) {
        Ok(running) => {
            let here = here();
            (here, running.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
        }
        Err(_) => (here(), beside()),
    })
}

impl UnsyncedDraft {
    /// Returns the version.
    pub fn version(&self) -> &ModuleVersion {
        &self.0.version
    }
}

impl SealedDraft {
    /// Returns the version.
    pub fn version(&self) -> &ModuleVersion {
        &self.version
    }

    /// Returns the hash of the zip.
    pub fn h1(&self) -> &H1 {
        &self.h1
    }

    /// Returns the path of the zip, for messages.
    pub fn zip_path(&self) -> PathBuf {
        self.folder.path.join(VersionFile::Zip.name())
    }

    /// Opens the zip.
    pub fn zip(&self) -> io::Result<File> {
        File::open(self.zip_path())
    }

    /// Sets the time of publishing, which is the time of the info.
    pub(crate) fn stamp(&self) -> Result<(), PathError> {
        durable::touch(&self.folder.path.join(VersionFile::Info.name()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::testing::{Fixture, info, modfile, version, zip};

    #[test]
    fn what_was_hashed_while_it_was_written_is_not_read_again() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        let length = bytes.len() as u64;
        for (hashed, is_read) in [(length, false), (0, true), (20, true)] {
            let mut draft = fixture.store.draft(&v).unwrap();
            (&**draft.zip()).write_all(&bytes).unwrap();
            draft.zip().hash_early(hashed, &[]);
            // The data follows the name in the local header.
            let name = bytes.windows(4).position(|part| part == b"a.go").unwrap() as u64;
            draft.zip().write_all_at(&[0xff; 4], name + 4).unwrap();
            draft.set_mod(modfile(&v).as_bytes());
            let sealed = draft.seal(info(&v).as_bytes());
            assert_eq!(sealed.is_err(), is_read, "{hashed}: {sealed:?}");
        }
    }

    #[test]
    fn two_things_are_done_with_and_without_another_thread() {
        let own = thread::current().id();
        let beside = || thread::current().id();
        let (here, other) = at_once(thread::Builder::new(), || thread::current().id(), &beside);
        assert!(here == own && other != own);
        // No system has the memory for this stack.
        let refused = thread::Builder::new().stack_size(1 << 60);
        assert_eq!(at_once(refused, || 1, &beside), (1, own));
    }
}
