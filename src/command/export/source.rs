//! The versions that are exported, of a store or of a bucket.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use stoa_gomod::ModuleVersion;
use stoa_layout::PathError;
use stoa_layout::durable::{CopyError, clone_or_copy};
use stoa_layout::error::PathContext;
use stoa_store::{Meter, Small, SmallFile, Store, StoreError, VersionFile, ZipFile};

use super::tree::{self, GivenFile, GivenVersion, PASSES, Put, Tree};
use crate::command::compare::is_same;
use crate::command::error::CommandError;

/// A place whose versions are exported.
pub(in crate::command) trait Source: Sync {
    /// Calls `each` with every version, one module after the other.
    fn each_version(
        &self,
        each: &mut dyn FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), CommandError>;

    /// Writes the missing files of a version.
    fn put(&self, tree: &Tree, version: &ModuleVersion) -> Result<Put, CommandError>;
}

/// The versions of a store.
pub(super) struct StoreSource<'a> {
    pub(super) store: &'a Store,
    pub(super) meter: Meter,
}

impl Source for StoreSource<'_> {
    fn each_version(
        &self,
        each: &mut dyn FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        Ok(self.store.each_version(each)?)
    }

    fn put(&self, tree: &Tree, version: &ModuleVersion) -> Result<Put, CommandError> {
        let store = self.store;
        let read = || -> Result<_, StoreError> {
            let Some((zip, passes)) = sealed(store, version)? else { return Ok(None) };
            let (modfile, info) =
                (store.small(version, SmallFile::Mod)?, store.small(version, SmallFile::Info)?);
            Ok(modfile.zip(info).map(|(modfile, info)| ((zip, passes), modfile, info)))
        };
        match read() {
            Ok(Some(((zip, passes), modfile, info))) => {
                tree.put(version, &Stored { source: self, version, zip, passes, modfile, info })
            }
            Ok(None) => {
                Ok(Put::Corrupt("it is not exported; see the log and `stoa quarantine list`".to_owned()))
            }
            Err(error) if error.is_of_one_version() => Ok(Put::Unreadable(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}

/// A sealed version of a store.
struct Stored<'a> {
    source: &'a StoreSource<'a>,
    version: &'a ModuleVersion,
    zip: ZipFile,
    /// How often each byte of the zip is still added to the meter.
    passes: u64,
    modfile: Small,
    info: Small,
}

impl Stored<'_> {
    fn moved(&self, bytes: u64) {
        self.source.meter.add(bytes * self.passes);
    }
}

impl GivenVersion for Stored<'_> {
    fn place(&self) -> String {
        "the store".to_owned()
    }

    fn modfile(&self) -> GivenFile<'_> {
        GivenFile { bytes: &self.modfile.bytes, modified: self.modfile.modified }
    }

    fn info(&self) -> GivenFile<'_> {
        GivenFile { bytes: &self.info.bytes, modified: self.info.modified }
    }

    fn zip_bytes(&self) -> u64 {
        self.zip.length
    }

    fn zip_modified(&self) -> SystemTime {
        self.zip.modified
    }

    fn is_zip(&self, path: &Path) -> Result<Option<bool>, CommandError> {
        Ok(is_zip(path, &self.zip, &|bytes| self.moved(bytes))?)
    }

    fn write_zip(&self, file: &File, at: &Path) -> Result<Option<String>, CommandError> {
        let store = self.source.store;
        let from = match store.locate(self.version, VersionFile::Zip) {
            Ok(Some(path)) => path,
            // Used in messages only.
            _ => store.root().to_owned(),
        };
        match clone_or_copy((self.zip.file(), &from), (file, at), &|bytes| self.moved(bytes)) {
            Ok(()) => Ok(None),
            Err(CopyError::Read(error) | CopyError::Write(error)) => Err(error.into()),
        }
    }
}

/// Opens a sealed zip, and seals it first if it needs it. Returns the number of passes that are left too, or `None` if the
/// zip is missing or corrupt.
fn sealed(store: &Store, version: &ModuleVersion) -> Result<Option<(ZipFile, u64)>, StoreError> {
    let mut passes = PASSES;
    loop {
        match store.open_zip(version)? {
            None => return Ok(None),
            Some(zip) if zip.seal.is_some() => return Ok(Some((zip, passes))),
            Some(_) if store.seal(version)?.is_none() => return Ok(None),
            Some(_) => passes = PASSES - 1,
        }
    }
}

/// Returns whether a zip is the same, or `None` if it is missing. Same size and time are enough, otherwise bytes decide.
fn is_zip(path: &Path, zip: &ZipFile, compared: &dyn Fn(u64)) -> Result<Option<bool>, PathError> {
    let Some((file, meta)) = tree::open(path)? else { return Ok(None) };
    if meta.len() != zip.length {
        return Ok(Some(false));
    }
    if meta.modified().at("stat", path)? == zip.modified {
        return Ok(Some(true));
    }
    let ours = |at, buffer: &mut [u8]| zip.read(at, buffer).at("read the zip of", path);
    let theirs = |at, buffer: &mut [u8]| file.read_at(buffer, at).at("read", path);
    is_same(zip.length, ours, theirs, compared).map(Some)
}
