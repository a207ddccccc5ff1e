//! Finds what forbids a step from another program's layout, apart from the versions themselves.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use stoa_layout::error::PathContext;
use stoa_layout::lock::LOCK_NAME;
use stoa_layout::step::Refusal;
use stoa_layout::{Exit, PathError, StepError};

use crate::picture::{Names, OURS, metadata};
use crate::remains::{self, KEPT};
use crate::v1_to_v2::REMOVED;

/// Returns all reasons against a step from another program's layout.
pub(crate) fn to_begin(root: &Path) -> Result<Vec<Refusal>, StepError> {
    let mut refusals = Vec::new();
    refusals.extend(names_of_ours(root, &OURS)?);
    refusals.extend(mounts(root, true)?);
    refusals.extend(open_files(root)?);
    Ok(refusals)
}

/// Refuses a folder with a name that Stoa needs, if it contains modules, or files that Stoa would remove, or would hide
/// among its own. Files that an earlier downgrade left there are allowed.
pub(crate) fn names_of_ours(root: &Path, names: &[&str]) -> Result<Vec<Refusal>, StepError> {
    let mut refusals = not_folders(root)?;
    for name in names {
        let path = root.join(name);
        let taken = |held: String| taken_name(&path, &held);
        let refusal = match metadata(&path)? {
            None => None,
            Some(meta) if !meta.is_dir() => None,
            Some(_) if REMOVED.contains(name) && !KEPT.contains(name) => {
                foreign_content(&path, true)?.map(taken)
            }
            Some(_) => match foreign_content(&path, false)?.map(taken) {
                None if KEPT.contains(name) => {
                    remains::foreign_file(root, &path)?.map(|file| stray_file(&path, &file))
                }
                refusal => refusal,
            },
        };
        refusals.extend(refusal);
    }
    Ok(refusals)
}

/// Refuses names of the store that are not folders. Behind a symlink, a step would move and remove files of another folder.
pub(crate) fn not_folders(root: &Path) -> Result<Vec<Refusal>, StepError> {
    let mut refusals = Vec::new();
    for name in OURS {
        let path = root.join(name);
        match metadata(&path)? {
            Some(meta) if meta.is_symlink() => refusals.push(taken_name(&path, "it is a symlink")),
            Some(meta) if !meta.is_dir() => refusals.push(taken_name(&path, "it is not a folder")),
            _ => {}
        }
    }
    Ok(refusals)
}

fn taken_name(path: &Path, held: &str) -> Refusal {
    let message = format!(
        "cannot use the name {0}: {held}; nothing was changed\n\
         help: Stoa needs this name for a folder of its own. Move {0} out of the store, then run again. If it is a symlink \
         to a folder with files of this store, replace the symlink by the folder that it points to",
        path.display()
    );
    Refusal { exit: Exit::CANT_CREATE, message }
}

/// The refusal of a file in a folder that an earlier downgrade has left. The folder stays: it may hold tombstones.
fn stray_file(folder: &Path, file: &Path) -> Refusal {
    let message = format!(
        "cannot use the name {0}: it contains {1}; nothing was changed\n\
         help: Stoa needs this name for a folder of its own. Move {1} out of the store, then run again. If an earlier \
         downgrade has left other files in {0}, they stay and are used again",
        folder.display(),
        file.display()
    );
    Refusal { exit: Exit::CANT_CREATE, message }
}

fn in_it(path: PathBuf) -> String {
    format!("it contains {}", path.display())
}

/// Returns what another program has in a folder: a version of an old layout, or with `any` any file.
fn foreign_content(folder: &Path, any: bool) -> Result<Option<String>, StepError> {
    let Some(names) = Names::of(folder)? else { return Ok(None) };
    let version = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let parts = ["go.mod".to_owned(), "source.zip".to_owned(), format!("{version}.info")];
    let (mut folders, mut has) = (Vec::new(), 0);
    for name in names {
        let name = name?;
        match name.text.as_deref() {
            _ if name.kind.is_dir() => folders.push(name.path),
            _ if any => return Ok(Some(in_it(name.path))),
            Some(text) if name.kind.is_file() && parts.iter().any(|part| part == text) => has += 1,
            _ => {}
        }
    }
    if has == parts.len() {
        return Ok(Some(format!("it contains a version of a module, {}", folder.display())));
    }
    for folder in folders {
        if let Some(held) = foreign_content(&folder, any)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Refuses other file systems below the root, or only those at and below the folders of the store. Files cannot be renamed
/// into or out of them.
pub(crate) fn mounts(root: &Path, anywhere: bool) -> Result<Vec<Refusal>, PathError> {
    let root = root.canonicalize().at("stat", root)?;
    let table = Path::new("/proc/self/mountinfo");
    let text = shown(fs::read(table), "read", table)?.unwrap_or_default();
    let mut below: Vec<PathBuf> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape_octal(field))))
        .filter(|mount| *mount != root && mount.starts_with(&root))
        .filter(|mount| anywhere || OURS.iter().any(|name| mount.starts_with(root.join(name))))
        .collect();
    below.dedup();
    let refusal = |mount: PathBuf| Refusal {
        exit: Exit::CANT_CREATE,
        message: format!(
            "cannot rename files across {}: another file system is mounted there, below the store; nothing was changed\n\
             help: unmount it, then run again",
            mount.display()
        ),
    };
    Ok(below.into_iter().map(refusal).collect())
}

/// Returns what the system shows below `/proc`. `None` if there is no `/proc`, the process is gone, or this user may not see
/// it.
fn shown<T>(result: io::Result<T>, action: &'static str, path: &Path) -> Result<Option<T>, PathError> {
    match result {
        Ok(shown) => Ok(Some(shown)),
        // NAMETOOLONG: the file that a process has open. No path of a store is that long.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::NOENT | Errno::SRCH | Errno::ACCESS | Errno::PERM | Errno::NAMETOOLONG)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(PathError::new(action, path, error)),
    }
}

/// Decodes escaped spaces and backslashes in `/proc/self/mountinfo`.
fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if byte == b'\\' => {
                bytes.push(code);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// Programs that take the lock of the store before they change anything. A waiting program may have files open.
const OUR_PROGRAMS: [&str; 2] = ["stoa", "stoa-migrate"];

/// Number of checks for processes with open files, and the time between them. A process that was forked a moment ago still
/// has the files of its parent.
const LOOKS: (u32, Duration) = (5, Duration::from_millis(100));

/// Refuses a root in which processes have files open, as far as `/proc` shows them.
pub(crate) fn open_files(root: &Path) -> Result<Option<Refusal>, PathError> {
    let root = root.canonicalize().at("stat", root)?;
    let mut holders = holders(&root)?;
    for _ in 1..LOOKS.0 {
        if holders.is_empty() {
            return Ok(None);
        }
        std::thread::sleep(LOOKS.1);
        let now = self::holders(&root)?;
        holders.retain(|pid, _| now.contains_key(pid));
    }
    if holders.is_empty() {
        return Ok(None);
    }
    let names: Vec<String> =
        holders.into_iter().map(|(pid, name)| format!("{name} (process {pid})")).collect();
    let message = format!(
        "{} is in use by {}, which has files in it open; nothing was changed\nhelp: stop it, then run again",
        root.display(),
        names.join(", ")
    );
    Ok(Some(Refusal { exit: Exit::BUSY, message }))
}

/// Returns the processes that have a file below the root open, with their names.
fn holders(root: &Path) -> Result<BTreeMap<u32, String>, PathError> {
    let mut holders = BTreeMap::new();
    for process in entries(Path::new("/proc"))? {
        let name = process.file_name().and_then(OsStr::to_str);
        let Some(pid) = name.and_then(|name| name.parse::<u32>().ok()) else { continue };
        let target = |link: &Path| shown(fs::read_link(link), "read", link);
        let program = target(&process.join("exe"))?.unwrap_or_default();
        let is_ours =
            program.file_name().and_then(OsStr::to_str).is_some_and(|name| OUR_PROGRAMS.contains(&name));
        if is_ours || pid == std::process::id() {
            continue;
        }
        for file in entries(&process.join("fd"))? {
            let is_in_root =
                |file: &Path| file.starts_with(root) && file != root.join(LOCK_NAME) && file != root;
            if target(&file)?.is_some_and(|file| is_in_root(&file)) {
                let comm = process.join("comm");
                let name = shown(fs::read(&comm), "read", &comm)?.unwrap_or_default();
                holders.insert(pid, String::from_utf8_lossy(&name).trim().to_owned());
                break;
            }
        }
    }
    Ok(holders)
}

/// Returns the paths in a folder below `/proc`, as far as the system shows them.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, PathError> {
    let mut paths = Vec::new();
    for entry in shown(fs::read_dir(folder), "list", folder)?.into_iter().flatten() {
        paths.extend(shown(entry, "list", folder)?.map(|entry| entry.path()));
    }
    Ok(paths)
}
