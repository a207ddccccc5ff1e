//! The picture of a layout, as a frozen step sees it: where the files of a version are, and how to find all versions.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use stoa_gomod::ModuleVersion;
use stoa_layout::error::PathContext;
use stoa_layout::{Leftover, PathError, StepError};

use crate::removal::Removal;

/// The files of a version on one side of a step.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) modfile: PathBuf,
    pub(crate) zip: PathBuf,
    pub(crate) info: PathBuf,
    /// The seal, if the layout has one.
    pub(crate) seal: Option<PathBuf>,
}

impl Files {
    /// Returns the three files in the order in which they move: the info last.
    pub(crate) fn in_order(&self) -> [&Path; 3] {
        [&self.modfile, &self.zip, &self.info]
    }
}

/// A version, or a part of it, on one side of a step.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) version: ModuleVersion,
    pub(crate) files: Files,
    /// Whether each of the three files exists as a regular file, in the order in which they move.
    pub(crate) has: [bool; 3],
    /// Whether the seal exists.
    pub(crate) has_seal: bool,
    /// The reason why the version must stay in any case.
    pub(crate) fault: Option<String>,
    /// A more exact reason if the zip is on neither side.
    pub(crate) without_zip: Option<String>,
    /// The path of the version in reports.
    pub(crate) shown: PathBuf,
}

impl Candidate {
    /// Returns the version as a leftover.
    pub(crate) fn leftover(&self, reason: impl Into<String>) -> Result<Leftover, PathError> {
        let there = self.pieces()?;
        let path = match there.first() {
            Some(first) if !exists(&self.shown)? => first.clone(),
            _ => self.shown.clone(),
        };
        let mut bytes = 0;
        for piece in &there {
            bytes += size(piece)?;
        }
        Ok(Leftover { path, bytes, reason: reason.into() })
    }

    /// Returns the existing paths of its files, whatever their types. Other paths beside them are not included.
    pub(crate) fn pieces(&self) -> Result<Vec<PathBuf>, PathError> {
        let mut pieces = Vec::with_capacity(4);
        for file in self.files.in_order().into_iter().chain(self.files.seal.as_deref()) {
            if exists(file)? {
                pieces.push(file.to_owned());
            }
        }
        Ok(pieces)
    }
}

/// One finding of a walk.
pub(crate) enum Finding {
    /// Some or all versions of one module.
    Versions(Vec<Candidate>),
    /// A path that belongs to no version.
    Leftover(Leftover),
}

/// Receives the findings of a walk.
pub(crate) type Visit<'a> = dyn FnMut(Finding) -> Result<(), StepError> + 'a;

/// Receives the files of a version that may have to move, and the version if it is known. Some of the files may be missing.
pub(crate) type EachVersion<'a> = dyn FnMut(&Files, Option<&ModuleVersion>) -> Result<(), StepError> + 'a;

/// The picture of a layout.
pub(crate) trait Picture: Sync {
    /// Returns the paths of a version's files.
    fn files(&self, root: &Path, version: &ModuleVersion) -> Result<Files, PathError>;
    /// Finds all versions and leftovers. In a layout of another program, a folder that may not be read is a leftover. Any
    /// other error ends the walk.
    fn walk(&self, root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError>;
    /// Returns a rough count of the versions if that is cheaper than a walk. Passes the files of each
    /// to `each`.
    fn estimate(&self, root: &Path, each: &mut EachVersion<'_>) -> Result<u64, StepError> {
        let mut count = 0;
        self.walk(root, &mut |found| {
            let Finding::Versions(batch) = found else { return Ok(()) };
            for candidate in batch.iter().filter(|candidate| candidate.has != [false; 3]) {
                count += u64::from(candidate.has[2] && candidate.fault.is_none());
                each(&candidate.files, Some(&candidate.version))?;
            }
            Ok(())
        })?;
        Ok(count)
    }
    /// Returns whether names that differ only in case are different modules or versions.
    fn needs_case(&self) -> bool {
        false
    }
    /// Returns whether there is a folder for modules whose plain paths begin with these elements.
    fn has_folder_for(&self, root: &Path, plain: &str) -> Result<bool, PathError>;
    /// Removes the folders that the moves to `other` have emptied.
    fn remove_emptied(&self, root: &Path, other: &dyn Picture, removal: &Removal) -> Result<(), StepError>;
}

/// Returns whether an error concerns only this path, so that a path in a layout of another program is a leftover: nobody
/// may read it, or it is not what it was a moment ago.
///
/// Any other error says nothing about the path: no free file descriptor, a bad disk, a server that went away. It stops the
/// step, because a version that is skipped for such a reason would silently stay unserved.
pub(crate) fn concerns_this_path(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        || is_absence(error)
        || Errno::from_io_error(error).is_none_or(|errno| errno == Errno::LOOP)
}

/// Returns whether an error means that there is nothing at a path.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG))
}

/// Returns the metadata of a path itself, or `None` if there is nothing.
pub(crate) fn metadata(path: &Path) -> Result<Option<Metadata>, PathError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(PathError::new("stat", path, error)),
    }
}

/// Returns whether there is something at a path, as far as this process may see it.
pub(crate) fn exists(path: &Path) -> Result<bool, PathError> {
    is(path, fs::symlink_metadata(path), |_| true)
}

/// Returns whether a path leads to a folder, as far as this process may see it.
pub(crate) fn is_dir(path: &Path) -> Result<bool, PathError> {
    is(path, fs::metadata(path), Metadata::is_dir)
}

/// Returns whether a path leads to a file, as far as this process may see it.
pub(crate) fn is_file(path: &Path) -> Result<bool, PathError> {
    is(path, fs::metadata(path), Metadata::is_file)
}

fn is(path: &Path, meta: io::Result<Metadata>, kind: impl Fn(&Metadata) -> bool) -> Result<bool, PathError> {
    match meta {
        Ok(meta) => Ok(kind(&meta)),
        Err(error) if concerns_this_path(&error) => Ok(false),
        Err(error) => Err(PathError::new("stat", path, error)),
    }
}

/// Maximum number of versions in a batch.
pub(crate) const BATCH: usize = 256;

/// The names in a folder.
pub(crate) struct Names(fs::ReadDir, PathBuf);

/// One name in a folder.
pub(crate) struct Name {
    pub(crate) path: PathBuf,
    /// The name, if it is UTF-8.
    pub(crate) text: Option<String>,
    pub(crate) kind: FileType,
}

impl Names {
    /// Opens a folder. `None` if it does not exist.
    pub(crate) fn of(folder: &Path) -> Result<Option<Self>, PathError> {
        match fs::read_dir(folder) {
            Ok(entries) => Ok(Some(Self(entries, folder.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PathError::new("list", folder, error)),
        }
    }

    /// Opens a folder of a walk through a layout of another program. `None` if it does not exist, or if it is a leftover
    /// because nobody may read it.
    pub(crate) fn in_foreign_walk(folder: &Path, visit: &mut Visit<'_>) -> Result<Option<Self>, StepError> {
        match Self::of(folder) {
            Err(error) if concerns_this_path(&error.source) => {
                visit(Finding::Leftover(leftover(folder, format!("unreadable: {}", error.source))?))?;
                Ok(None)
            }
            result => Ok(result?),
        }
    }
}

impl Iterator for Names {
    type Item = Result<Name, PathError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.0.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(PathError::new("list", &self.1, error))),
            };
            let path = entry.path();
            return match entry.file_type() {
                Ok(kind) => Some(Ok(Name { text: entry.file_name().into_string().ok(), path, kind })),
                // The name vanished meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Some(Err(error).at("stat", &path)),
            };
        }
    }
}

/// Returns a path as a leftover, with the size of everything below it.
pub(crate) fn leftover(path: &Path, reason: impl Into<String>) -> Result<Leftover, PathError> {
    Ok(Leftover { path: path.to_owned(), bytes: size(path)?, reason: reason.into() })
}

/// Returns the size of a file, or of all files below a folder. A path that nobody may read counts as 0.
pub(crate) fn size(path: &Path) -> Result<u64, PathError> {
    let sum = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => size_below(path),
        Ok(meta) => return Ok(meta.len()),
        Err(error) => Err(PathError::new("stat", path, error)),
    };
    sum.or_else(|error| if concerns_this_path(&error.source) { Ok(0) } else { Err(error) })
}

fn size_below(folder: &Path) -> Result<u64, PathError> {
    let mut sum = 0;
    for name in Names::of(folder)?.into_iter().flatten() {
        sum += size(&name?.path)?;
    }
    Ok(sum)
}

/// The names at the top of a store with a marker.
pub(crate) const OURS: [&str; 6] = ["modules", "staging", "quarantine", "index", "cache", "records"];

/// The folder in `cache` with the answers of checksum databases. A downgrade leaves it.
pub(crate) const DATABASES: &str = "sumdb";

/// Returns whether a name at the top is not part of a layout without markers.
pub(crate) fn is_ours_at_the_top(name: &str) -> bool {
    OURS.contains(&name) || is_ignored(name)
}

/// Returns whether a name is ignored in a store.
pub(crate) fn is_ignored(name: &str) -> bool {
    use stoa_layout::lock::LOCK_NAME;
    use stoa_layout::marker::{Marker, TEMPORARY_PREFIX};
    name == LOCK_NAME
        || name == "lost+found"
        || name == ".DS_Store"
        || name.starts_with(TEMPORARY_PREFIX)
        || Marker::parse(name).is_some()
}

/// Maximum length of a name in a file system, and of a path.
const LONGEST: (usize, usize) = (255, 4095);

/// Returns the reason why a path is too long.
pub(crate) fn too_long(root: &Path, path: &Path) -> Option<String> {
    let whole = path.as_os_str().len();
    let longest = path.strip_prefix(root).unwrap_or(path).iter().map(std::ffi::OsStr::len).max().unwrap_or(0);
    if longest > LONGEST.0 {
        Some(format!("its name has {longest} bytes once escaped, the maximum is {}", LONGEST.0))
    } else if whole > LONGEST.1 {
        Some(format!("its path has {whole} bytes once escaped, the maximum is {}", LONGEST.1))
    } else {
        None
    }
}

/// Escapes capital letters as Go does in file names: `!` and the lower-case letter.
pub(crate) fn escaped(plain: &str) -> String {
    let mut escaped = String::with_capacity(plain.len());
    for c in plain.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    escaped
}
