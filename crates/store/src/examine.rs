//! The examination of a version: its files are read completely and compared with each other and with its record.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use stoa_gomod::zip::{ExamineError, Examined, ReadAt, examine};
use stoa_gomod::{H1, ModuleVersion, info, modfile};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::files::{SMALL_LIMIT, Stamp, open_file, read_bounded};
use crate::paths::VersionFile;
use crate::seal::read_seal;
use crate::{Meter, Store, StoreError};

/// The result of reading a version.
pub(crate) enum Examination {
    /// The version is valid.
    Whole {
        /// The hash for its seal.
        h1: H1,
        /// The stamp of the zip that was read.
        zip: Stamp,
        /// The size of the zip in bytes.
        length: u64,
    },
    /// The version is corrupt, for this reason.
    Corrupt(String),
}

impl Store {
    /// Reads a version in its place and compares it with its record, which a migration did not do.
    pub(crate) fn examine(&self, folder: &Path, version: &ModuleVersion) -> Result<Examination, StoreError> {
        let record = self.records().get(version)?;
        // Nothing needs to be read: a removed version is not served, valid or not.
        if let Some(tombstone) = record.as_ref().and_then(|record| record.tombstone.as_ref()) {
            return Ok(Examination::Corrupt(tombstone.to_string()));
        }
        let examination = examine_folder(folder, version, &self.meter)?;
        let Examination::Whole { h1, .. } = &examination else { return Ok(examination) };
        Ok(match record.and_then(|record| record.objection(h1, None)) {
            Some(objection) => Examination::Corrupt(objection.to_string()),
            None => examination,
        })
    }
}

/// Reads all files of a version in a folder.
pub(crate) fn examine_folder(
    folder: &Path,
    version: &ModuleVersion,
    meter: &Meter,
) -> Result<Examination, StoreError> {
    let corrupt = |reason: String| Ok(Examination::Corrupt(reason));
    let read = |file: VersionFile| -> Result<_, StoreError> {
        let path = folder.join(file.name());
        let Some((open, _)) = open_file(&path)? else { return Ok(None) };
        Ok(Some(read_bounded(open, &path, SMALL_LIMIT)?))
    };
    let Some(info) = read(VersionFile::Info)? else { return corrupt("it has no info".to_owned()) };
    let Some(modfile) = read(VersionFile::Mod)? else { return corrupt("it has no mod".to_owned()) };
    if fs::symlink_metadata(folder.join(VersionFile::Seal.name())).is_ok_and(|meta| meta.is_dir()) {
        return corrupt("its ziphash is a folder".to_owned());
    }
    // Before the zip, which takes long: a request for the info may be waiting.
    if let Some(fault) = info_fault(version, &info) {
        return corrupt(fault);
    }
    let path = folder.join(VersionFile::Zip.name());
    let Some((zip, meta)) = open_file(&path)? else { return corrupt("it has no zip".to_owned()) };
    let source = Source::new(&zip, meter).at("stat", &path)?;
    let examined = match examine(&source, version) {
        Ok(examined) => examined,
        Err(ExamineError::Broken(fault)) => return corrupt(format!("its zip: {fault}")),
        Err(ExamineError::Read(error)) => return Err(PathError::new("read", path, error).into()),
    };
    if let Some(fault) = find_fault(version, &info, &modfile, &examined) {
        return corrupt(fault);
    }
    // An outdated seal still says which zip the version had.
    match read_seal(folder)? {
        Some((sealed, _)) if sealed != examined.h1 => {
            corrupt(format!("its seal is {sealed}, but its zip has {}", examined.h1))
        }
        _ => Ok(Examination::Whole { h1: examined.h1, zip: Stamp::of(&meta), length: meta.len() }),
    }
}

/// Returns what is wrong with the info and the mod of a version whose zip is valid.
pub(crate) fn find_fault(
    version: &ModuleVersion,
    info: &[u8],
    body: &[u8],
    examined: &Examined,
) -> Option<String> {
    if let Some(fault) = info_fault(version, info) {
        return Some(fault);
    }
    match &examined.go_mod {
        Some(own) if own != body => Some("its mod differs from the go.mod in its zip".to_owned()),
        None if !modfile::has_module_directive(body) => Some("its mod names no module".to_owned()),
        _ => None,
    }
}

pub(crate) fn info_fault(version: &ModuleVersion, info: &[u8]) -> Option<String> {
    let parsed = info::parse_answer(version.path(), version.version().as_str(), info);
    parsed.err().map(|error| format!("its info: {error}"))
}

/// A file as the zip examination reads it.
pub(crate) struct Source<'a> {
    file: &'a File,
    size: u64,
    meter: &'a Meter,
    /// The number of bytes that the meter has received.
    metered: Cell<u64>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a File, meter: &'a Meter) -> io::Result<Self> {
        Ok(Self { file, size: file.metadata()?.len(), meter, metered: Cell::new(0) })
    }
}

impl ReadAt for Source<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn examined(&self, end: u64) {
        self.meter.add(end.saturating_sub(self.metered.replace(end)));
    }
}
