//! Finds what forbids a step from another program's layout, apart from the versions themselves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stoa_layout::lock::LOCK_NAME;
use stoa_layout::step::Refusal;
use stoa_layout::{Exit, StepError};

use crate::picture::{Names, OURS, metadata};
use crate::remains::{self, KEPT};

/// Returns all reasons against a step from another program's layout.
pub(crate) fn to_begin(root: &Path) -> Result<Vec<Refusal>, StepError> {
    let mut refusals = Vec::new();
    refusals.extend(names_of_ours(root, &OURS)?);
    refusals.extend(mounts(root, true));
    refusals.extend(open_files(root));
    Ok(refusals)
}

/// Refuses a folder with a name that Stoa needs, if it contains modules, or files that Stoa would remove, or would hide
/// among its own. Files that an earlier downgrade left there are allowed.
pub(crate) fn names_of_ours(root: &Path, names: &[&str]) -> Result<Vec<Refusal>, StepError> {
    let mut refusals = not_folders(root)?;
    for name in names {
        let path = root.join(name);
        let held = match metadata(&path)? {
            None => None,
            Some(meta) if !meta.is_dir() => None,
            Some(_) if REMOVED.contains(name) => foreign_content(&path, true)?,
            Some(_) => match foreign_content(&path, false)? {
                None if KEPT.contains(name) => remains::foreign_file(root, &path)?.map(in_it),
                held => held,
            },
        };
        refusals.extend(held.map(|held| taken_name(&path, &held)));
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
        "cannot use the name {}: {held}; nothing was changed\n\
         help: Stoa needs this name for a folder of its own. Move it out of the store, or put a folder of the store in its \
         place, then run again",
        path.display()
    );
    Refusal { exit: Exit::CANT_CREATE, message }
}

/// The folders that a downgrade removes with everything below.
const REMOVED: [&str; 2] = ["staging", "index"];

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
pub(crate) fn mounts(root: &Path, anywhere: bool) -> Vec<Refusal> {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape_octal(field)))
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
    below.into_iter().map(refusal).collect()
}

/// Decodes escaped spaces and backslashes in `/proc/self/mountinfo`.
fn unescape_octal(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
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
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Programs that take the lock of the store before they change anything. A waiting program may have files open.
const OUR_PROGRAMS: [&str; 2] = ["stoa", "stoa-migrate"];

/// Number of checks for processes with open files, and the time between them. A process that was forked a moment ago still
/// has the files of its parent.
const LOOKS: (u32, Duration) = (5, Duration::from_millis(100));

/// Refuses a root in which processes have files open, as far as `/proc` shows them.
pub(crate) fn open_files(root: &Path) -> Option<Refusal> {
    let root = root.canonicalize().ok()?;
    let mut holders = holders(&root);
    for _ in 1..LOOKS.0 {
        if holders.is_empty() {
            return None;
        }
        std::thread::sleep(LOOKS.1);
        let now = self::holders(&root);
        holders.retain(|pid, _| now.contains_key(pid));
    }
    if holders.is_empty() {
        return None;
    }
    let names: Vec<String> =
        holders.into_iter().map(|(pid, name)| format!("{name} (process {pid})")).collect();
    let message = format!(
        "{} is in use by {}, which has files in it open; nothing was changed\nhelp: stop it, then run again",
        root.display(),
        names.join(", ")
    );
    Some(Refusal { exit: Exit::BUSY, message })
}

/// Returns the processes that have a file below the root open, with their names.
fn holders(root: &Path) -> BTreeMap<u32, String> {
    let mut holders = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let program = fs::read_link(process.path().join("exe")).unwrap_or_default();
        let is_ours =
            program.file_name().and_then(OsStr::to_str).is_some_and(|name| OUR_PROGRAMS.contains(&name));
        if is_ours || pid == std::process::id() {
            continue;
        }
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = open
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|file| file.starts_with(root) && file != root.join(LOCK_NAME) && file != root);
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.insert(pid, name.trim().to_owned());
        }
    }
    holders
}
