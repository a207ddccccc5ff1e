//! A version that is being written, in the staging folder of this process.
//!
//! The zip is written piece by piece and can be read while it grows. Sealing verifies the whole draft, and only a
//! sealed draft can be published. Dropping a draft removes it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

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
    folder: Folder,
    version: ModuleVersion,
    durable: Durable,
    zip: Arc<File>,
    modfile: Option<(File, Vec<u8>)>,
    meter: Meter,
}

/// A version that is written, verified and synced, and can be published.
#[derive(Debug)]
pub struct SealedDraft {
    pub(crate) folder: Folder,
    version: ModuleVersion,
    h1: H1,
}

/// A version that is written and verified, and can be synced together with others.
#[derive(Debug)]
pub struct UnsyncedDraft(pub(crate) SealedDraft);

/// The files of a draft, still open since they were written, so that syncing them reports all write errors.
type Written = [(Arc<File>, VersionFile); 4];

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
    pub(crate) moved: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.moved
            && let Err(error) = durable::remove_tree(&self.path)
        {
            log::warn!(reason:% = error; "cannot remove a staging folder, trying again at the next start");
        }
    }
}

impl Store {
    /// Starts a draft of a version.
    pub fn draft(&self, version: &ModuleVersion) -> Result<Draft, StoreError> {
        let folder = Folder { path: self.staging()?.fresh(), moved: false };
        self.durable.create_dir(&folder.path)?;
        let zip = Arc::new(self.durable.create_file(&folder.path.join(VersionFile::Zip.name()))?);
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
    pub fn zip(&self) -> Arc<File> {
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
        for (file, name) in files {
            durable::sync_file(&file, &draft.folder.path.join(name.name()))?;
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
        let source = Source::new(&zip, &meter).at("stat", &path(VersionFile::Zip))?;
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
        let write = |file: VersionFile, content: &[u8]| {
            staging::write_unsynced(&durable, &path(file), content).map(Arc::new)
        };
        let seal =
            write_seal(&durable, &path(VersionFile::Seal), &examined.h1, &folder.path).map(Arc::new)?;
        let info = write(VersionFile::Info, info)?;
        let files = [
            (Arc::new(modfile), VersionFile::Mod),
            (zip, VersionFile::Zip),
            (seal, VersionFile::Seal),
            (info, VersionFile::Info),
        ];
        Ok((SealedDraft { folder, version, h1: examined.h1 }, files))
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
