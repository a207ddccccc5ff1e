//! A version that is being written, in the staging folder of this process.
//!
//! The zip is written piece by piece and can be read while it grows. Sealing verifies the whole draft, and only a
//! sealed draft can be published. Dropping a draft removes it.

use std::fs::File;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stoa_gomod::zip::{ExamineError, examine};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;

use crate::examine::{Source, find_fault};
use crate::paths::VersionFile;
use crate::seal::write_seal;
use crate::{Meter, Store, StoreError, staging};

/// A version that is being written.
#[derive(Debug)]
pub struct Draft {
    // Before the folder, because fields drop in order: the files are closed before the folder is removed.
    modfile: Option<(File, Vec<u8>)>,
    zip: Arc<DraftZip>,
    folder: Arc<Folder>,
    version: ModuleVersion,
    durable: Durable,
    meter: Meter,
}

/// The zip of a draft, open for reading and writing. The folder of the draft is removed after the last user of the zip
/// has closed it.
#[derive(Debug)]
pub struct DraftZip {
    file: File,
    _folder: Arc<Folder>,
}

impl Deref for DraftZip {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

/// A version that is written, verified and synced, and can be published.
#[derive(Debug)]
pub struct SealedDraft {
    pub(crate) folder: Arc<Folder>,
    version: ModuleVersion,
    h1: H1,
}

/// A version that is written and verified, and can be synced together with others.
#[derive(Debug)]
pub struct UnsyncedDraft(pub(crate) SealedDraft);

/// The files of a draft, still open since they were written, so that syncing them reports all write errors.
struct Written {
    zip: Arc<DraftZip>,
    others: [(File, VersionFile); 3],
}

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
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    is_moved: AtomicBool,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, is_moved: AtomicBool::new(false) }
    }

    /// Records that the folder was moved to its place.
    pub(crate) fn keep(&self) {
        self.is_moved.store(true, Ordering::Relaxed);
    }
}

impl Drop for Folder {
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
        let folder = Arc::new(Folder::new(self.staging()?.fresh()));
        self.durable.create_dir(&folder.path)?;
        let file = self.durable.create_file(&folder.path.join(VersionFile::Zip.name()))?;
        let zip = Arc::new(DraftZip { file, _folder: Arc::clone(&folder) });
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
        self.folder.path.join(VersionFile::Zip.name())
    }

    /// Writes the go.mod.
    pub fn write_mod(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let path = self.folder.path.join(VersionFile::Mod.name());
        let file = staging::write_unsynced(&self.durable, &path, body)?;
        self.modfile = Some((file, body.to_vec()));
        Ok(())
    }

    /// Verifies the draft, writes its info and its seal, and syncs it. Reads the whole zip.
    pub fn seal(self, info: &[u8]) -> Result<SealedDraft, SealError> {
        let (draft, files) = self.examine(info)?;
        let Written { zip, others } = &files;
        let others = others.iter().map(|(file, name)| (file, *name));
        for (file, name) in others.chain([(&zip.file, VersionFile::Zip)]) {
            durable::sync_file(file, &draft.folder.path.join(name.name()))?;
        }
        durable::sync_dir(&draft.folder.path)?;
        Ok(draft)
    }

    /// Does the same as [`Self::seal`] without syncing, which [`crate::Batch`] does for many drafts at once.
    pub fn seal_unsynced(self, info: &[u8]) -> Result<UnsyncedDraft, SealError> {
        Ok(UnsyncedDraft(self.examine(info)?.0))
    }

    /// Verifies the draft and writes its info and its seal. Returns the draft and its open files.
    fn examine(self, info: &[u8]) -> Result<(SealedDraft, Written), SealError> {
        let Self { folder, version, durable, zip, modfile, meter } = self;
        let broken = |reason: String| SealError::Broken { version: version.clone(), reason };
        let path = |file: VersionFile| folder.path.join(file.name());
        let (modfile, mod_body) = modfile.ok_or_else(|| broken("it has no mod".to_owned()))?;
        let source = Source::new(&zip.file, &meter).at("stat", &path(VersionFile::Zip))?;
        let examined = match examine(&source, &version) {
            Ok(examined) => examined,
            Err(ExamineError::Broken(fault)) => return Err(broken(format!("its zip: {fault}"))),
            Err(ExamineError::Read(error)) => {
                return Err(PathError::new("read", path(VersionFile::Zip), error).into());
            }
        };
        if examined.go_mod.as_ref().is_some_and(|own| *own != mod_body) {
            return Err(SealError::OtherMod { version });
        }
        if let Some(fault) = find_fault(&version, info, &mod_body, &examined) {
            return Err(broken(fault));
        }
        let write =
            |file: VersionFile, content: &[u8]| staging::write_unsynced(&durable, &path(file), content);
        let seal = write_seal(&durable, &path(VersionFile::Seal), &examined.h1, &folder.path)?;
        let info = write(VersionFile::Info, info)?;
        let others = [(modfile, VersionFile::Mod), (seal, VersionFile::Seal), (info, VersionFile::Info)];
        Ok((SealedDraft { folder, version, h1: examined.h1 }, Written { zip, others }))
    }
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

    /// Sets the time of publishing, which is the time of the info.
    pub(crate) fn stamp(&self) -> Result<(), PathError> {
        durable::touch(&self.folder.path.join(VersionFile::Info.name()))
    }
}
