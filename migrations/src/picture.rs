//! What a layout looks like, as a frozen step sees it: where a version's files lie, and how to find what is
//! there.

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
    /// Where the layout keeps the seal, if it keeps any.
    pub(crate) seal: Option<PathBuf>,
}

impl Files {
    /// Is the three in the order in which they move: the info last.
    pub(crate) fn in_order(&self) -> [&Path; 3] {
        [&self.modfile, &self.zip, &self.info]
    }
}

/// Something of a version on one side.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) version: ModuleVersion,
    pub(crate) files: Files,
    /// Which of the three are there as regular files, in the order in which they move.
    pub(crate) has: [bool; 3],
    /// Whether the seal is there.
    pub(crate) has_seal: bool,
    /// Why it must stay, whatever else is there.
    pub(crate) fault: Option<String>,
    /// What is said if its zip is on neither side, where more is known than that.
    pub(crate) without_zip: Option<String>,
    /// What names it in a report.
    pub(crate) shown: PathBuf,
}

impl Candidate {
    /// Tells of it as something that stays: named by what is there of it.
    pub(crate) fn leftover(&self, reason: impl Into<String>) -> Leftover {
        let there = self.pieces();
        let path = match there.first() {
            Some(first) if self.shown.symlink_metadata().is_err() => first.clone(),
            _ => self.shown.clone(),
        };
        let bytes = there.iter().map(|piece| size(piece)).sum();
        Leftover { path, bytes, reason: reason.into() }
    }

    /// Is what is there under the names of its files, whatever it is; not what else lies beside them.
    pub(crate) fn pieces(&self) -> Vec<PathBuf> {
        let files = self.files.in_order().into_iter().chain(self.files.seal.as_deref());
        files.filter(|file| file.symlink_metadata().is_ok()).map(Path::to_owned).collect()
    }
}

/// What a walk hands out.
pub(crate) enum Found {
    /// Versions of one module, or some of them.
    Versions(Vec<Candidate>),
    /// Something that is of no version.
    Leftover(Leftover),
}

/// Takes what a walk finds.
pub(crate) type Visit<'a> = dyn FnMut(Found) -> Result<(), StepError> + 'a;

/// Takes the path of a file that may have to move.
pub(crate) type EachFile<'a> = dyn FnMut(&Path) -> Result<(), StepError> + 'a;

/// One layout.
pub(crate) trait Picture: Sync {
    /// Is where a version's files lie.
    fn files(&self, root: &Path, version: &ModuleVersion) -> Files;
    /// Finds what is there. A folder that cannot be read is a leftover.
    fn walk(&self, root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError>;
    /// Counts versions roughly, where that takes less than a walk, and hands out a file's path in each folder that
    /// something may have to be moved out of.
    fn estimate(&self, root: &Path, each: &mut EachFile<'_>) -> Result<u64, StepError> {
        let mut count = 0;
        self.walk(root, &mut |found| {
            let Found::Versions(batch) = found else { return Ok(()) };
            for candidate in batch.iter().filter(|candidate| candidate.has != [false; 3]) {
                count += u64::from(candidate.has[2] && candidate.fault.is_none());
                each(&candidate.files.modfile)?;
            }
            Ok(())
        })?;
        Ok(count)
    }
    /// Whether there is a folder for modules whose plain paths begin with these elements.
    fn has_folder_for(&self, root: &Path, plain: &str) -> bool;
    /// Removes the folders that the moves to `other` have emptied, on as many threads as `pool` has.
    fn remove_emptied(&self, root: &Path, other: &dyn Picture, pool: &ThreadPool) -> Result<(), StepError>;
}

/// How many versions are handed out at a time.
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
    /// Opens a folder. `None` if there is none.
    pub(crate) fn of(folder: &Path) -> Result<Option<Self>, PathError> {
        match fs::read_dir(folder) {
            Ok(entries) => Ok(Some(Self(entries, folder.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PathError::new("list", folder, error)),
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
                // Gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Some(Err(error).at("look at", &path)),
            };
        }
    }
}

/// Tells of a file, a symlink or the like, or a whole folder, that stays.
pub(crate) fn leftover(path: &Path, reason: impl Into<String>) -> Leftover {
    Leftover { path: path.to_owned(), bytes: size(path), reason: reason.into() }
}

/// Is the size of a file, or of all files below a folder. What cannot be looked at counts nothing.
fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| size(&entry.path())).sum()
}

/// Names at the top that layouts with a marker use.
pub(crate) const OURS: [&str; 6] = ["modules", "staging", "quarantine", "index", "cache", "records"];

/// Whether a name at the top is none of a store's without a marker.
pub(crate) fn is_ours_at_the_top(name: &str) -> bool {
    OURS.contains(&name) || is_ignored(name)
}

/// Whether a name says nothing about a folder.
pub(crate) fn is_ignored(name: &str) -> bool {
    use stoa_layout::lock::LOCK_NAME;
    use stoa_layout::marker::{Marker, TEMPORARY_PREFIX};
    name == LOCK_NAME
        || name == "lost+found"
        || name == ".DS_Store"
        || name.starts_with(TEMPORARY_PREFIX)
        || Marker::parse(name).is_some()
}

/// The longest name that file systems take, and the longest path that the system takes.
const LONGEST: (usize, usize) = (255, 4095);

/// Why there can be no file of this path below a root.
pub(crate) fn too_long(root: &Path, path: &Path) -> Option<String> {
    let whole = path.as_os_str().len();
    let longest = path.strip_prefix(root).unwrap_or(path).iter().map(std::ffi::OsStr::len).max().unwrap_or(0);
    if longest > LONGEST.0 {
        Some(format!("its name has {longest} bytes once escaped, and a file system takes {}", LONGEST.0))
    } else if whole > LONGEST.1 {
        Some(format!("its name makes a path of {whole} bytes once escaped, and {} is the limit", LONGEST.1))
    } else {
        None
    }
}

/// Which empty folders go.
pub(crate) struct Emptied<'a> {
    /// Whether this one may.
    pub(crate) may_go: &'a (dyn Fn(&Path) -> bool + Sync),
    /// Names at the top that are passed over.
    pub(crate) skip: &'a (dyn Fn(&str) -> bool + Sync),
    /// Whether there may be empty ones in this one, which is not empty itself.
    pub(crate) goes_below: &'a (dyn Fn(&Path) -> bool + Sync),
}

/// How many names of a folder are held at a time.
const HELD: usize = 1024;

impl Emptied<'_> {
    /// Removes those below a folder, deepest first.
    pub(crate) fn remove_below(&self, folder: &Path, pool: &ThreadPool) -> Result<(), StepError> {
        pool.install(|| self.below(folder, true)).map(drop)
    }

    /// The same, and says whether nothing is left in the folder.
    fn below(&self, folder: &Path, at_the_top: bool) -> Result<bool, StepError> {
        // What cannot be read is a leftover, told by the walk, and stays.
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

    /// Removes a folder and those below it as far as they may go, and says whether it is gone.
    fn remove(&self, folder: &Path) -> Result<bool, StepError> {
        let may_go = (self.may_go)(folder);
        // Most are empty or full: one call finds out, where a look inside takes four.
        Ok(may_go && remove_empty_dir(folder)?
            || (self.goes_below)(folder) && self.below(folder, false)? && may_go && remove_empty_dir(folder)?)
    }
}

/// Writes capitals as Go's file names do: `!` and the small letter.
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
