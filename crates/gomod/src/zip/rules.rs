//! The rules of names and sizes, for an archive that is there and for files that are to become one.
//!
//! No content is looked at here, only names, kinds and declared sizes, so the caller may ask before reading.

use super::names::Names;
use super::{MAX_GO_MOD_SIZE, MAX_LICENSE_SIZE, MAX_ZIP_SIZE};
use crate::module_version::ModuleVersion;
use crate::path::{self, PathReason};
use std::cmp::Ordering;
use std::collections::HashSet;

/// Why a file is left out, or makes an archive invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The name does not begin with `path@version/`.
    #[error("its name does not begin with the module's path@version/")]
    BadPrefix,
    /// The path has `.`, `..` or empty elements that could be left out.
    #[error("its path is not clean")]
    NotClean,
    /// The path begins with a slash.
    #[error("its path is not relative")]
    NotRelative,
    /// The path breaks the rules of file paths.
    #[error("its path is not valid: {0}")]
    Path(PathReason),
    /// The root's go.mod is spelled with upper-case letters.
    #[error("go.mod must be spelled in lower case")]
    GoModCase,
    /// A go.mod lies below the root, so its directory is another module.
    #[error("a go.mod below the root belongs to another module")]
    GoModNotRoot,
    /// Another name differs in case only.
    #[error("another name differs from it in case only")]
    CaseCollision,
    /// Another entry of that name is a directory, or a file.
    #[error("another entry makes it both a file and a directory")]
    FileAndDir,
    /// Another file has the same name.
    #[error("another file has the same name")]
    Duplicate,
    /// There are more names than can be told apart in bounded memory.
    #[error("there are too many names")]
    TooManyNames,
    /// The root's go.mod is too large.
    #[error("go.mod is larger than 16 MiB")]
    GoModTooLarge,
    /// The root's LICENSE is too large.
    #[error("LICENSE is larger than 16 MiB")]
    LicenseTooLarge,
    /// The file belongs to a vendored package.
    #[error("it is vendored")]
    Vendored,
    /// The file belongs to a module in a subdirectory.
    #[error("it belongs to a nested module")]
    Submodule,
    /// The file is what Mercurial puts into its archives.
    #[error("it is made by hg archive")]
    HgArchival,
    /// The file is a symbolic link.
    #[error("it is a symbolic link")]
    Symlink,
    /// The file is a directory, a device or the like.
    #[error("it is not a regular file")]
    NotRegular,
}

impl Reason {
    /// Returns the short name of the reason, for machines.
    pub fn code(self) -> String {
        match self {
            Self::BadPrefix => "bad_prefix",
            Self::NotClean => "not_clean",
            Self::NotRelative => "not_relative",
            Self::Path(reason) => return format!("path:{}", reason.code()),
            Self::GoModCase => "gomod_case",
            Self::GoModNotRoot => "gomod_not_root",
            Self::CaseCollision => "case_collision",
            Self::FileAndDir => "file_and_dir",
            Self::Duplicate => "duplicate",
            Self::TooManyNames => "too_many_names",
            Self::GoModTooLarge => "gomod_too_large",
            Self::LicenseTooLarge => "license_too_large",
            Self::Vendored => "vendored",
            Self::Submodule => "submodule",
            Self::HgArchival => "hg_archival",
            Self::Symlink => "symlink",
            Self::NotRegular => "not_regular",
        }
        .to_owned()
    }
}

/// What the rules say of a list of files, by their places in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// The files that make up the archive.
    pub valid: Vec<usize>,
    /// The files that are left out without harm.
    pub omitted: Vec<(usize, Reason)>,
    /// The files that make the whole invalid.
    pub invalid: Vec<(usize, Reason)>,
    /// Says whether the files together are too large.
    pub size_error: bool,
}

impl Check {
    /// Says whether nothing stands against the archive.
    pub fn is_ok(&self) -> bool {
        self.invalid.is_empty() && !self.size_error
    }
}

/// Checks the whole names and declared sizes of a zip's entries, in the order of its directory.
pub fn check_zip<'a>(module: &ModuleVersion, entries: impl IntoIterator<Item = (&'a str, u64)>) -> Check {
    let prefix = module.zip_prefix();
    let mut names = Names::default();
    let mut sizes = Sizes::default();
    let mut check = Check::default();
    for (index, (name, size)) in entries.into_iter().enumerate() {
        match zip_entry(name, size, &prefix, &mut names, &mut sizes) {
            Ok(true) => check.valid.push(index),
            Ok(false) => {}
            Err(reason) => check.invalid.push((index, reason)),
        }
    }
    check.size_error = sizes.exceeded;
    check
}

/// Says whether an entry is a valid file, or why it is invalid; directories are neither.
fn zip_entry<'a>(
    name: &'a str,
    size: u64,
    prefix: &str,
    names: &mut Names<'a>,
    sizes: &mut Sizes,
) -> Result<bool, Reason> {
    let path = name.strip_prefix(prefix).ok_or(Reason::BadPrefix)?;
    if path.is_empty() {
        return Ok(false);
    }
    let (path, is_dir) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
    if !is_clean(path) {
        return Err(Reason::NotClean);
    }
    path::check_file(path).map_err(|error| Reason::Path(error.reason))?;
    names.add(path, is_dir)?;
    if is_dir {
        return Ok(false);
    }
    let base = base_name(path);
    if base.eq_ignore_ascii_case("go.mod") {
        if base != path {
            return Err(Reason::GoModNotRoot);
        }
        if path != "go.mod" {
            return Err(Reason::GoModCase);
        }
    }
    sizes.add(path, size).map(|()| true)
}

/// The kind of a file that is to become part of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A device, a socket and the like.
    Other,
}

/// Checks the relative paths, kinds and sizes of files that are to become a module's zip.
///
/// `go_version` is that of the root's go.mod, if there is one; it decides what counts as vendored.
pub fn check_files<'a>(
    files: impl IntoIterator<Item = (&'a str, FileKind, u64)>,
    go_version: Option<&str>,
) -> Check {
    let files: Vec<_> = files.into_iter().collect();
    let nested: HashSet<&str> = files
        .iter()
        .filter(|(path, kind, _)| {
            *kind == FileKind::Regular && base_name(path).eq_ignore_ascii_case("go.mod")
        })
        .filter_map(|(path, ..)| Some(path.rsplit_once('/')?.0))
        .collect();
    let mut names = Names::default();
    let mut sizes = Sizes::default();
    let mut check = Check::default();
    for (index, &(path, kind, size)) in files.iter().enumerate() {
        match file(path, kind, size, &nested, go_version, &mut names, &mut sizes) {
            Ok(None) => check.valid.push(index),
            Ok(Some(reason)) => check.omitted.push((index, reason)),
            Err(reason) => check.invalid.push((index, reason)),
        }
    }
    check.size_error = sizes.exceeded;
    check
}

/// Says why a file is left out, if it is, or why it is invalid; the order of the rules counts.
fn file<'a>(
    path: &'a str,
    kind: FileKind,
    size: u64,
    nested: &HashSet<&str>,
    go_version: Option<&str>,
    names: &mut Names<'a>,
    sizes: &mut Sizes,
) -> Result<Option<Reason>, Reason> {
    if !is_clean(path) {
        return Err(Reason::NotClean);
    }
    if path.starts_with('/') {
        return Err(Reason::NotRelative);
    }
    if vendored(path, go_version) {
        return Ok(Some(Reason::Vendored));
    }
    if path.match_indices('/').any(|(end, _)| nested.contains(&path[..end])) {
        return Ok(Some(Reason::Submodule));
    }
    if path == ".hg_archival.txt" {
        return Ok(Some(Reason::HgArchival));
    }
    path::check_file(path).map_err(|error| Reason::Path(error.reason))?;
    if path.eq_ignore_ascii_case("go.mod") && path != "go.mod" {
        return Err(Reason::GoModCase);
    }
    names.add(path, kind == FileKind::Directory)?;
    match kind {
        FileKind::Regular => sizes.add(path, size).map(|()| None),
        FileKind::Symlink => Ok(Some(Reason::Symlink)),
        FileKind::Directory | FileKind::Other => Ok(Some(Reason::NotRegular)),
    }
}

/// Says whether a file belongs to a vendored package and is left out.
///
/// Until Go 1.24 the rule had a fault, which is kept for modules of an older language version since their
/// hashes depend on it.
pub fn vendored(path: &str, go_version: Option<&str>) -> bool {
    let in_package = |rest: &str| rest.contains('/');
    let inner = || path.find("/vendor/").map(|at| &path[at + "/vendor/".len()..]);
    let outer = path.strip_prefix("vendor/");
    if go_version.is_some_and(|version| compare_language(version, ("1", "24")).is_ge()) {
        return path == "vendor/modules.txt" || outer.or_else(inner).is_some_and(in_package);
    }
    outer.map_or_else(|| inner().is_some(), in_package)
}

/// Compares the language version, major and minor, of a Go version.
fn compare_language(version: &str, other: (&str, &str)) -> Ordering {
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().to_owned();
    let mut parts = version.split('.').map(number);
    let mut compare = |other: &str| {
        let part = parts.next().unwrap_or_default();
        let part = part.trim_start_matches('0');
        part.len().cmp(&other.len()).then_with(|| part.cmp(other))
    };
    compare(other.0).then_with(|| compare(other.1))
}

/// The declared sizes so far.
#[derive(Default)]
struct Sizes {
    total: u64,
    exceeded: bool,
}

impl Sizes {
    fn add(&mut self, path: &str, size: u64) -> Result<(), Reason> {
        match self.total.checked_add(size).filter(|total| *total <= MAX_ZIP_SIZE) {
            Some(total) => self.total = total,
            None => self.exceeded = true,
        }
        match path {
            "go.mod" if size > MAX_GO_MOD_SIZE => Err(Reason::GoModTooLarge),
            "LICENSE" if size > MAX_LICENSE_SIZE => Err(Reason::LicenseTooLarge),
            _ => Ok(()),
        }
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Says whether a path equals its own normal form, as Go's `path.Clean` makes it.
fn is_clean(path: &str) -> bool {
    if matches!(path, "." | "/") {
        return true;
    }
    let absolute = path.starts_with('/');
    let mut leading = !absolute;
    path.strip_prefix('/').unwrap_or(path).split('/').all(|element| {
        // `..` cannot be resolved only where nothing but `..` precedes it.
        leading &= element == "..";
        leading || !matches!(element, "" | "." | "..")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_is_what_go_calls_clean() {
        for clean in ["a", "a/b", ".", "/", "/a", "..", "../a", "../../a", "a..b", ".a", "..."] {
            assert!(is_clean(clean), "{clean}");
        }
        for unclean in ["", "a/", "a//b", "//a", "./a", "a/.", "a/..", "../a/..", "/..", "/../a", "a/../b"] {
            assert!(!is_clean(unclean), "{unclean}");
        }
    }

    #[test]
    fn language_versions_are_compared_as_numbers() {
        let at_least = |version| compare_language(version, ("1", "24")).is_ge();
        for new in ["1.24", "1.24.1", "1.24rc1", "1.100", "2.0", "2", "1.99999999999999999999999"] {
            assert!(at_least(new), "{new}");
        }
        for old in ["1.23.9", "1.9", "1", "0.99", "", "x"] {
            assert!(!at_least(old), "{old}");
        }
    }
}
