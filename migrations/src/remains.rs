//! The files of a store that stay after a downgrade to another program's layout.
//!
//! The paths of Stoa's files have a fixed form. Any other file in these folders belongs to somebody else, and stays.

use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, Version};
use stoa_layout::step::Remains;
use stoa_layout::{PathError, durable};

use crate::picture::{DATABASES, Name, Names, concerns_this_path, metadata};

/// The folders that may stay.
pub(crate) const KEPT: [&str; 3] = ["cache", "quarantine", "records"];

/// Returns the folders that stay, and the content of them that is not Stoa's.
pub(crate) fn of(root: &Path) -> Result<Remains, PathError> {
    let mut remains = Remains::default();
    for name in KEPT {
        let path = root.join(name);
        if !metadata(&path)?.is_some_and(|meta| meta.is_dir()) {
            continue;
        }
        let foreign = Sorted::of(root, &path)?.foreign;
        // A module of another program may have that name.
        if foreign.first() != Some(&path) {
            remains.paths.push(path);
        }
        remains.foreign.extend(foreign);
    }
    Ok(remains)
}

/// Removes the files of Stoa in one of these folders, and then the empty folders.
pub(crate) fn remove(root: &Path, folder: &Path) -> Result<(), PathError> {
    // A walk may miss a name in a folder from which others vanish.
    for name in names(folder)? {
        if name.kind.is_dir() {
            remove(root, &name.path)?;
        } else if is_ours(root, &name) {
            durable::remove_file(&name.path)?;
        }
    }
    durable::remove_empty_dir(folder).map(drop)
}

/// Returns a file in a folder that no downgrade left there.
pub(crate) fn foreign_file(root: &Path, folder: &Path) -> Result<Option<PathBuf>, PathError> {
    let databases = root.join("cache").join(DATABASES);
    for name in Names::of(folder)?.into_iter().flatten() {
        let name = name?;
        let is_removed = || name.path.starts_with(root.join("cache")) && !name.path.starts_with(&databases);
        if name.kind.is_dir() {
            let found = foreign_file(root, &name.path)?;
            if found.is_some() {
                return Ok(found);
            }
        } else if is_removed() || !is_ours(root, &name) {
            return Ok(Some(name.path));
        }
    }
    Ok(None)
}

/// The content of a folder.
#[derive(Default)]
struct Sorted {
    /// Whether a file of Stoa is in it.
    has_ours: bool,
    /// The other files, or the folders that contain only such files.
    foreign: Vec<PathBuf>,
}

impl Sorted {
    fn of(root: &Path, folder: &Path) -> Result<Self, PathError> {
        let mut sorted = Self::default();
        let names = match Names::of(folder) {
            Err(error) if concerns_this_path(&error.source) => {
                return Ok(Self { has_ours: false, foreign: vec![folder.to_owned()] });
            }
            names => names?,
        };
        for name in names.into_iter().flatten() {
            let name = name?;
            if name.kind.is_dir() {
                let below = Self::of(root, &name.path)?;
                sorted.has_ours |= below.has_ours;
                sorted.foreign.extend(below.foreign);
            } else if is_ours(root, &name) {
                sorted.has_ours = true;
            } else {
                sorted.foreign.push(name.path);
            }
        }
        if !sorted.has_ours && !sorted.foreign.is_empty() {
            sorted.foreign = vec![folder.to_owned()];
        }
        Ok(sorted)
    }
}

fn names(folder: &Path) -> Result<Vec<Name>, PathError> {
    match Names::of(folder) {
        Err(error) if concerns_this_path(&error.source) => Ok(Vec::new()),
        names => names?.into_iter().flatten().collect(),
    }
}

/// Returns whether a path that is not a folder has the form of a file of Stoa.
fn is_ours(root: &Path, name: &Name) -> bool {
    let Ok(relative) = name.path.strip_prefix(root) else { return false };
    let Some(parts) = relative.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>() else {
        // A corrupt version may contain any names.
        return is_in_quarantine(relative);
    };
    let is_file = name.kind.is_file();
    match parts.as_slice() {
        ["quarantine", entry, "reason.toml"] => is_file && is_entry(entry),
        // The item itself may be anything.
        ["quarantine", entry, "version", ..] => is_entry(entry),
        ["records", "audit", log] => {
            is_file && (*log == "current" || is_number(log) || is_temporary(log, ".shared."))
        }
        ["records", "sumdb", database, head] => {
            let is_head = matches!(*head, "latest" | "exported" | "lock") || head.starts_with("fork-");
            is_file && is_database(database) && is_head
        }
        ["records", module @ .., "@v", record] => {
            let version = record.strip_suffix(".toml");
            is_file
                && ModulePath::unescape(&module.join("/")).is_ok()
                && version.is_some_and(|version| Version::unescape(version).is_ok())
        }
        ["cache", DATABASES, database, "records" | "tiles", bucket, entry] => {
            is_file && is_database(database) && is_hash(&[bucket, entry])
        }
        ["cache", "answers", bucket, entry] => is_file && is_hash(&[bucket, entry]),
        ["cache", "pairs", module, version] => {
            is_file && is_hash(&[module]) && Version::unescape(version).is_ok()
        }
        ["cache", "last-use", file] => {
            let is_last_use = *file == "lock" || file.starts_with("last-use.sqlite");
            is_file && is_last_use
        }
        ["cache", "peers", number, file] => is_file && is_number(number) && file.starts_with("peers.sqlite"),
        _ => false,
    }
}

fn is_in_quarantine(relative: &Path) -> bool {
    let mut parts = relative.iter().map(|part| part.to_str());
    parts.next() == Some(Some("quarantine"))
        && parts.next().flatten().is_some_and(is_entry)
        && parts.next() == Some(Some("version"))
}

/// Returns whether this is the name of an entry of the quarantine: `20260102T030405Z-PID-N`.
fn is_entry(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let [time, process, number] = parts.as_slice() else { return false };
    let time = time.strip_suffix('Z').and_then(|time| time.split_once('T'));
    let is_time = time
        .is_some_and(|(day, time)| day.len() == 8 && time.len() == 6 && is_number(day) && is_number(time));
    is_time && is_number(process) && is_number(number)
}

/// Returns whether this is the name of a file that a killed process was about to rename: a prefix and six random
/// characters.
fn is_temporary(name: &str, prefix: &str) -> bool {
    let random = name.strip_prefix(prefix).unwrap_or_default();
    random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether this is the folder of a checksum database.
fn is_database(name: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_%".contains(&byte);
    !name.starts_with('.') && !name.is_empty() && name.bytes().all(is_valid)
}

/// Returns whether these names are a SHA-256, as `HH` and the rest or in one.
fn is_hash(names: &[&str]) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    names.iter().map(|name| name.len()).sum::<usize>() == 64
        && (names.len() == 1 || names[0].len() == 2)
        && names.iter().all(|name| name.bytes().all(is_digit))
}
