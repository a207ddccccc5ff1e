//! The picture of a layout, as a frozen step sees it: where the files of a version are, and how to find all versions.

use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

use rayon::ThreadPool;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use stoa_gomod::ModuleVersion;
use stoa_layout::durable::remove_empty_dir;
use stoa_layout::error::PathContext;
use stoa_layout::{Leftover, PathError, StepError};

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
    pub(crate) fn leftover(&self, reason: impl Into<String>) -> Leftover {
        let there = self.pieces();
        let path = match there.first() {
            Some(first) if self.shown.symlink_metadata().is_err() => first.clone(),
            _ => self.shown.clone(),
        };
        let bytes = there.iter().map(|piece| size(piece)).sum();
        Leftover { path, bytes, reason: reason.into() }
    }

    /// Returns the existing paths of its files, whatever their types. Other paths beside them are not included.
    pub(crate) fn pieces(&self) -> Vec<PathBuf> {
        let files = self.files.in_order().into_iter().chain(self.files.seal.as_deref());
        files.filter(|file| file.symlink_metadata().is_ok()).map(Path::to_owned).collect()
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

/// Receives the files of a version that may have to move. Some of them may be missing.
pub(crate) type EachVersion<'a> = dyn FnMut(&Files) -> Result<(), StepError> + 'a;

/// The picture of a layout.
pub(crate) trait Picture: Sync {
    /// Returns the paths of a version's files.
    fn files(&self, root: &Path, version: &ModuleVersion) -> Files;
    /// Finds all versions and leftovers. A folder that cannot be read is a leftover.
    fn walk(&self, root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError>;
    /// Returns a rough count of the versions if that is cheaper than a walk. Passes the files of each
    /// to `each`.
    fn estimate(&self, root: &Path, each: &mut EachVersion<'_>) -> Result<u64, StepError> {
        let mut count = 0;
        self.walk(root, &mut |found| {
            let Finding::Versions(batch) = found else { return Ok(()) };
            for candidate in batch.iter().filter(|candidate| candidate.has != [false; 3]) {
                count += u64::from(candidate.has[2] && candidate.fault.is_none());
                each(&candidate.files)?;
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
    fn has_folder_for(&self, root: &Path, plain: &str) -> bool;
    /// Removes the folders that the moves to `other` have emptied, on the threads of `pool`.
    fn remove_emptied(&self, root: &Path, other: &dyn Picture, pool: &ThreadPool) -> Result<(), StepError>;
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

    /// Opens a folder of a walk. `None` if it does not exist, or if it is a leftover because it cannot be read.
    pub(crate) fn in_walk(folder: &Path, visit: &mut Visit<'_>) -> Result<Option<Self>, StepError> {
        Self::of(folder).or_else(|error| {
            visit(Finding::Leftover(leftover(folder, format!("unreadable: {}", error.source))))?;
            Ok(None)
        })
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
pub(crate) fn leftover(path: &Path, reason: impl Into<String>) -> Leftover {
    Leftover { path: path.to_owned(), bytes: size(path), reason: reason.into() }
}

/// Returns the size of a file, or of all files below a folder. An unreadable path counts as 0.
fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
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

/// The rules for removing empty folders.
pub(crate) struct Emptied<'a> {
    /// Returns whether a folder may be removed.
    pub(crate) may_go: &'a (dyn Fn(&Path) -> bool + Sync),
    /// Returns whether a name at the top is skipped.
    pub(crate) skip: &'a (dyn Fn(&str) -> bool + Sync),
    /// Returns whether a folder that is not empty may contain empty folders.
    pub(crate) goes_below: &'a (dyn Fn(&Path) -> bool + Sync),
}

/// Maximum number of names of a folder in memory.
const HELD: usize = 1024;

impl Emptied<'_> {
    /// Removes the empty folders below a folder, deepest first.
    pub(crate) fn remove_below(&self, folder: &Path, pool: &ThreadPool) -> Result<(), StepError> {
        pool.install(|| self.below(folder, true)).map(drop)
    }

    /// Does the same, and returns whether the folder is empty now.
    fn below(&self, folder: &Path, at_the_top: bool) -> Result<bool, StepError> {
        // An unreadable folder is a leftover, which the walk reports.
        let Ok(Some(mut names)) = Names::of(folder) else { return Ok(false) };
        let mut is_empty = true;
        loop {
            let mut folders = Vec::new();
            let is_end = loop {
                let name = match names.next() {
                    Some(Ok(name)) => name,
                    Some(Err(_)) => return Ok(false),
                    None => break true,
                };
                let is_skipped = at_the_top && name.text.as_deref().is_some_and(self.skip);
                if name.kind.is_dir() && !is_skipped {
                    folders.push(name.path);
                } else {
                    is_empty = false;
                }
                if folders.len() == HELD {
                    break false;
                }
            };
            is_empty &= folders
                .par_iter()
                .map(|folder| self.remove(folder))
                .try_reduce(|| true, |one, other| Ok(one && other))?;
            if is_end {
                return Ok(is_empty);
            }
        }
    }

    /// Removes a folder and the folders below it if the rules allow it, and returns whether it is gone.
    fn remove(&self, folder: &Path) -> Result<bool, StepError> {
        let may_go = (self.may_go)(folder);
        // Most folders are empty or full. One call finds out; looking inside takes four.
        Ok(may_go && remove_empty_dir(folder)?
            || (self.goes_below)(folder) && self.below(folder, false)? && may_go && remove_empty_dir(folder)?)
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
