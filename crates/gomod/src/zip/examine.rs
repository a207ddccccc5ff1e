//! The two checks of a zip: its structure, and all of it.

use super::directory::Directory;
use super::entry::Entries;
use super::rules::{self, Reason};
use super::source::{ReadAt, Source};
use super::stream::StreamHasher;
use super::{EntryFault, ExamineError, ZipFault};
use crate::h1::{self, H1};
use crate::module_version::ModuleVersion;
use std::collections::HashSet;

/// The structure of a zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// The number of entries.
    pub entries: u64,
    /// The total declared size of all contents.
    pub content_size: u64,
    /// Whether there is a go.mod at the root.
    pub has_go_mod: bool,
}

/// The contents of a valid zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The hash of all entries.
    pub h1: H1,
    /// The go.mod at the root, if there is one.
    pub go_mod: Option<Vec<u8>>,
    /// The number of entries.
    pub entries: u64,
    /// The total size of all contents.
    pub content_size: u64,
}

/// Checks the structure of a zip with a few reads: the end record, the central directory, the first local
/// header, all names below `path@version/`, no duplicates.
///
/// The data is not read, and other rules for names are not checked.
pub fn check_structure<R: ReadAt + ?Sized>(
    reader: &R,
    module: &ModuleVersion,
) -> Result<Structure, ExamineError> {
    let source = Source::new(reader);
    let directory = Directory::read(&source)?;
    let prefix = module.zip_prefix();
    let mut seen = HashSet::with_capacity(directory.entries.len());
    let mut structure =
        Structure { entries: directory.entries.len() as u64, content_size: 0, has_go_mod: false };
    for entry in &directory.entries {
        let path = entry.name.strip_prefix(&prefix).ok_or_else(|| refused(&entry.name, Reason::BadPrefix))?;
        if !entry.is_dir() && !seen.insert(path) {
            return Err(refused(&entry.name, Reason::Duplicate));
        }
        structure.has_go_mod |= path == "go.mod";
        structure.content_size = structure.content_size.saturating_add(entry.size);
    }
    if let Some(first) = directory.entries.iter().min_by_key(|entry| entry.offset) {
        Entries::new(&source, directory.start).check_header(first)?;
    }
    Ok(structure)
}

/// Reads a complete zip and checks everything: the rules for names and sizes, all local headers, the
/// declared size and checksum of all data, and that no entries overlap.
pub fn examine<R: ReadAt + ?Sized>(reader: &R, module: &ModuleVersion) -> Result<Examined, ExamineError> {
    examine_hashed(reader, module, &StreamHasher::default())
}

/// Does the same as [`examine`], but does not read entries again that were hashed while the zip arrived.
pub fn examine_hashed<R: ReadAt + ?Sized>(
    reader: &R,
    module: &ModuleVersion,
    hasher: &StreamHasher,
) -> Result<Examined, ExamineError> {
    let source = Source::new(reader);
    let directory = Directory::read(&source)?;
    let listed = &directory.entries;
    let check = rules::check_zip(module, listed.iter().map(|entry| (entry.name.as_str(), entry.size)));
    if let Some(&(index, reason)) = check.invalid.first() {
        return Err(refused(&listed[index].name, reason));
    }
    if check.size_error {
        return Err(ZipFault::ContentTooLarge.into());
    }
    let go_mod_name = format!("{module}/go.mod");
    let mut by_offset: Vec<_> = listed.iter().collect();
    by_offset.sort_by_key(|entry| entry.offset);
    let mut entries = Entries::new(&source, directory.start);
    let mut hash = h1::Builder::new();
    let mut examined_end = 0;
    let (mut go_mod, mut content_size) = (None, 0);
    for entry in by_offset {
        if entry.offset < examined_end {
            return Err(entry.fault(EntryFault::Overlap));
        }
        let is_go_mod = entry.name == go_mod_name;
        let content = entries.read(entry, is_go_mod, hasher)?;
        if is_go_mod {
            go_mod = content.kept;
        }
        examined_end = content.end;
        source.examined(examined_end);
        content_size += entry.size;
        // Valid file paths have no newlines.
        hash.add(entry.name.as_str(), content.sha256)
            .map_err(|_| refused(&entry.name, Reason::Path(crate::path::PathReason::InvalidChar)))?;
    }
    source.examined(source.size());
    Ok(Examined { h1: hash.finish(), go_mod, entries: listed.len() as u64, content_size })
}

fn refused(name: &str, reason: Reason) -> ExamineError {
    ZipFault::Name { name: name.to_owned(), reason }.into()
}
