//! What forbids to begin a step from a layout of others, besides what the versions themselves say.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use stoa_layout::lock::LOCK_NAME;
use stoa_layout::step::Refusal;
use stoa_layout::{Exit, PathError, StepError};

use crate::picture::{Found, Names, OURS};
use crate::{v0, whole};

/// Looks for it all.
pub(crate) fn to_begin(root: &Path) -> Result<Vec<Refusal>, StepError> {
    let mut refusals = Vec::new();
    refusals.extend(names_of_ours(root)?);
    refusals.extend(mounts(root));
    refusals.extend(unwritable(root)?);
    refusals.extend(open_files(root));
    Ok(refusals)
}

/// A name of ours at the top that holds somebody's modules, or files that a later step back would take away.
fn names_of_ours(root: &Path) -> Result<Vec<Refusal>, StepError> {
    let mut refusals = Vec::new();
    for name in OURS {
        let mut held = None;
        if root.join(name).is_dir() {
            v0::walk_below_name(root, name, &mut |found| {
                let Found::Versions(candidates) = found else { return Ok(()) };
                let is_whole = |candidate: &&crate::picture::Candidate| {
                    candidate.has == [true; 3] && whole::fault(&candidate.version, &candidate.files).is_none()
                };
                held = held
                    .take()
                    .or_else(|| candidates.iter().find(is_whole).map(|one| one.version.to_string()));
                Ok(())
            })?;
        }
        if let Some(version) = held {
            let message = format!(
                "{}: a folder of this name is needed, and it holds a module ({version}); nothing was changed. Move it \
                 out of the store, then run again",
                root.join(name).display()
            );
            refusals.push(Refusal { exit: Exit::CANT_CREATE, message });
        }
    }
    Ok(refusals)
}

/// Another file system below the root: nothing can be renamed into or out of it.
fn mounts(root: &Path) -> Vec<Refusal> {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape_octal(field)))
        .filter(|mount| *mount != root && mount.starts_with(&root))
        .collect();
    below.dedup();
    let refusal = |mount: PathBuf| Refusal {
        exit: Exit::CANT_CREATE,
        message: format!(
            "{}: another file system is mounted here, below the store, and files move by renames only; nothing was \
             changed. Unmount it, then run again",
            mount.display()
        ),
    };
    below.into_iter().map(refusal).collect()
}

/// Undoes the escaping of blanks and backslashes in `/proc/self/mountinfo`.
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

/// The first folder that cannot be written to.
fn unwritable(root: &Path) -> Result<Option<Refusal>, StepError> {
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        match rustix::fs::accessat(CWD, &folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                let message = format!(
                    "{}: this folder cannot be written to ({errno}); nothing was changed. Mend its permissions or run as \
                     its owner, then run again",
                    folder.display()
                );
                return Ok(Some(Refusal { exit: Exit::PERMISSION, message }));
            }
            Err(errno) => return Err(PathError::new("look at", folder, errno).into()),
        }
        // Root may write everywhere but on a read-only file system, which the top tells.
        if rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let Ok(Some(names)) = Names::of(&folder) else { continue };
        for name in names {
            let name = name?;
            if name.kind.is_dir() {
                open.push(name.path);
            }
        }
    }
    Ok(None)
}

/// Processes that hold a file below the root open, as far as `/proc` tells.
pub(crate) fn open_files(root: &Path) -> Option<Refusal> {
    let root = root.canonicalize().ok()?;
    let own = std::process::id().to_string();
    let mut names = BTreeSet::new();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name();
        let is_process = pid.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_process || pid.to_str() == Some(&own) {
            continue;
        }
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = open
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|file| file.starts_with(&root) && file != root.join(LOCK_NAME) && file != root);
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            names.insert(format!("{} (process {})", name.trim(), pid.to_string_lossy()));
        }
    }
    if names.is_empty() {
        return None;
    }
    let names: Vec<String> = names.into_iter().collect();
    let message = format!(
        "{} is in use by {}, which holds files in it open; nothing was changed. Stop it, then run again",
        root.display(),
        names.join(", ")
    );
    Some(Refusal { exit: Exit::BUSY, message })
}
