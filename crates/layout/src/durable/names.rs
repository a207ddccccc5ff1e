//! Renames and removes files and folders, and sets their times.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use crate::PathError;
use crate::error::PathContext;

/// Renames. An existing file or empty folder at the new name is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<(), PathError> {
    rustix::fs::rename(from, to).at("rename a file to", to)
}

/// Renames and never overwrites. An existing file at the new name is an error (`EEXIST`).
///
/// On a file system that cannot do this in one call, a crash may leave one file under both names. Another call then
/// removes the old name. Without links too, the new name is checked first, so nobody else may create it meanwhile.
pub fn rename_noreplace(from: &Path, to: &Path) -> Result<(), PathError> {
    match rename_noreplace_once(from, to) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(Errno::EXIST) if is_second_name(from, to)? => return remove_file(from),
        result => return result.at("move a file to", to),
    }
    // A file is linked and then unlinked. A folder cannot be linked, and it can only replace an empty folder.
    if fs::symlink_metadata(from).at("stat", from)?.is_dir() {
        return rename_after_look(from, to);
    }
    match rustix::fs::link(from, to) {
        Ok(()) => {}
        Err(Errno::EXIST) if is_second_name(from, to)? => {}
        Err(errno) if forbids_links(errno) => {
            let moved = rename_after_look(from, to);
            // The system may refuse a link before it finds that the new name exists.
            return match moved {
                Err(error) if error.errno() == Some(Errno::EXIST) && is_second_name(from, to)? => {
                    remove_file(from)
                }
                result => result,
            };
        }
        Err(errno) => return Err(PathError::new("move a file to", to, errno)),
    }
    remove_file(from)
}

/// Returns whether a file cannot have a second name here: the file system has no links, the file has too many, or
/// `fs.protected_hardlinks` forbids a link to the file of another user.
fn forbids_links(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::NOTSUP | Errno::MLINK | Errno::NOSYS)
}

/// Renames in one call on every file system and does not overwrite. No crash leaves both names.
///
/// On a file system that cannot do both in one call, the new name is checked first. Use it only for names that no other
/// process creates, under the exclusive lock.
pub fn rename_at_once(from: &Path, to: &Path) -> Result<(), PathError> {
    match rename_noreplace_once(from, to) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_after_look(from, to),
        result => result.at("rename a file to", to),
    }
}

fn rename_after_look(from: &Path, to: &Path) -> Result<(), PathError> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(PathError::new("move a file to", to, Errno::EXIST)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => rename(from, to),
        Err(error) => Err(PathError::new("stat", to, error)),
    }
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename_noreplace_once(from: &Path, to: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, from, CWD, to, rustix::fs::RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename_noreplace_once(_: &Path, _: &Path) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

/// Returns whether both are names of one file with several names. A name that differs only in case is not a second name
/// on a file system that ignores case.
fn is_second_name(from: &Path, to: &Path) -> Result<bool, PathError> {
    let (old, new) = (fs::symlink_metadata(from).at("stat", from)?, fs::symlink_metadata(to).at("stat", to)?);
    let is_same = (old.dev(), old.ino()) == (new.dev(), new.ino());
    Ok(from != to && is_same && !old.is_dir() && old.nlink() > 1)
}

/// Removes a file or a symlink.
pub fn remove_file(path: &Path) -> Result<(), PathError> {
    fs::remove_file(path).at("remove", path)
}

/// Removes a folder if it is empty, and returns whether it did. A missing folder counts as not removed.
pub fn remove_empty_dir(path: &Path) -> Result<bool, PathError> {
    match rustix::fs::rmdir(path) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(false),
        Err(errno) => Err(PathError::new("remove the folder", path, errno)),
    }
}

/// Removes a folder and everything below it. A missing folder is no error.
///
/// Other processes may see the folder half removed, so use it only for staging folders and caches.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    for _ in 1..REMOVE_TRIES {
        match remove_tree_once(path) {
            // On FUSE and NFS an open file gets another name when it is removed. FUSE closes a file a moment after the
            // process has closed it.
            Err(error) if matches!(error.errno(), Some(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY)) => {
                std::thread::sleep(REMOVE_PAUSE);
            }
            result => return result,
        }
    }
    remove_tree_once(path)
}

fn remove_tree_once(path: &Path) -> Result<(), PathError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PathError::new("remove", path, error)),
        _ => Ok(()),
    }
}

/// The maximum number of attempts to remove a folder, and the pause between two attempts.
const REMOVE_TRIES: u32 = 10;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// Removes a folder and everything below it, as far as the system allows it. A missing folder is no error.
///
/// Returns the error of a folder that stays, if only folders stay. A file that stays is an error.
pub fn remove_tree_but_folders(path: &Path) -> Result<Option<PathError>, PathError> {
    match remove_tree(path) {
        Err(error) if error.forbids_removal() && !holds_a_file(path)? => Ok(Some(error)),
        result => result.map(|()| None),
    }
}

fn holds_a_file(folder: &Path) -> Result<bool, PathError> {
    for entry in fs::read_dir(folder).at("list", folder)? {
        let entry = entry.at("list", folder)?;
        let path = entry.path();
        if !entry.file_type().at("stat", &path)?.is_dir() || holds_a_file(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sets the modification time of a file to now.
pub fn touch(path: &Path) -> Result<(), PathError> {
    let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: omit, last_modification: now };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", path)
}

/// Sets the modification time of a file.
pub fn set_modified(file: &File, path: &Path, time: SystemTime) -> Result<(), PathError> {
    file.set_modified(time).at("set the time of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_without_replacing_keeps_both_files() {
        let dir = testkit::tempdir();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let error = rename_noreplace(&a, &b).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EXIST));
        assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"a".to_vec(), b"b".to_vec()));
        fs::remove_file(&b).unwrap();
        rename_noreplace(&a, &b).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"a");
    }

    #[test]
    fn a_link_is_forbidden_by_some_errors_only() {
        for errno in [Errno::PERM, Errno::NOTSUP, Errno::MLINK, Errno::NOSYS] {
            assert!(forbids_links(errno), "{errno}");
        }
        for errno in [Errno::XDEV, Errno::IO, Errno::NOSPC, Errno::ACCESS, Errno::EXIST] {
            assert!(!forbids_links(errno), "{errno}");
        }
    }

    #[test]
    fn a_rename_killed_between_link_and_unlink_is_finished() {
        let dir = testkit::tempdir();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::hard_link(&a, &b).unwrap();
        assert_eq!(rename_noreplace(&a, &a).unwrap_err().errno(), Some(Errno::EXIST));
        rename_noreplace(&a, &b).unwrap();
        assert!(!a.exists());
        assert_eq!(fs::read(&b).unwrap(), b"a");
        assert_eq!(rename_noreplace(&b, &b).unwrap_err().errno(), Some(Errno::EXIST));
        assert_eq!(fs::read(&b).unwrap(), b"a");
    }
}
