//! The one place that writes to the disk.
//!
//! `clippy.toml` closes the other doors. Every operation here is either atomic by itself (a rename, an
//! unlink) or makes something that nobody relies on yet (a temporary file, an empty folder). The way to
//! change what others see is always the same: make it whole beside, sync it, rename it, sync the folder.
//!
//! What is made below a store's root when run as root belongs to the root folder's owner and group, so that
//! an upgrade by a package's post-install step does not lock out the service that runs as somebody else.
#![expect(clippy::disallowed_methods, reason = "this is the module that the other doors lead to")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::PathError;
use crate::error::PathContext;

/// Writes below one root, for that root's owner.
#[derive(Debug, Clone, Copy, Default)]
pub struct Durable {
    owner: Option<(u32, u32)>,
}

impl Durable {
    /// Writes for the owner of `root` if this process is root and another one owns it, else for itself.
    pub fn for_root(root: &Path) -> Result<Self, PathError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::default());
        }
        let meta = fs::metadata(root).at("look at", root)?;
        let own = (0, rustix::process::getegid().as_raw());
        let owner = (meta.uid(), meta.gid());
        Ok(Self { owner: (owner != own).then_some(owner) })
    }

    /// Creates an empty folder; that something is there already is an error.
    pub fn create_dir(&self, path: &Path) -> Result<(), PathError> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o777)).at("create the folder", path)?;
        self.give_away(path)
    }

    /// Creates an empty folder of a name that nobody has: `prefix` and six random characters.
    pub fn create_dir_named(&self, parent: &Path, prefix: &str) -> Result<PathBuf, PathError> {
        let made = tempfile::Builder::new()
            .prefix(prefix)
            .make_in(parent, |path| Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(0o777))?))
            .at("create a folder in", parent)?;
        // It would be removed as a file otherwise.
        let path = made.into_temp_path().keep().map_err(|e| PathError::new("keep", parent, e.error))?;
        self.give_away(&path)?;
        Ok(path)
    }

    /// Creates a folder unless one is there, and says whether it did.
    ///
    /// A symlink is no folder, wherever it points: what is made and swept below would be somebody else's.
    pub fn ensure_dir(&self, path: &Path) -> Result<bool, PathError> {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o777)) {
            Ok(()) => self.give_away(path).map(|()| true),
            Err(Errno::EXIST) => {
                let meta = fs::symlink_metadata(path).at("look at", path)?;
                if !meta.is_dir() {
                    return Err(PathError::new("create the folder", path, Errno::NOTDIR));
                }
                // Killed between making it and giving it away: make up for it.
                if self.owner.is_some() && meta.uid() == 0 {
                    self.give_away(path)?;
                }
                if meta.uid() == 0 && is_closed_to_us(path) && rustix::fs::rmdir(path).is_ok() {
                    // The same, met by the owner of the root: empty, so it can be made again.
                    return self.ensure_dir(path);
                }
                Ok(false)
            }
            Err(errno) => Err(PathError::new("create the folder", path, errno)),
        }
    }

    /// Creates the folders of `relative` below `base` that are missing, and syncs the parent of each new one.
    pub fn ensure_dirs(&self, base: &Path, relative: &Path) -> Result<(), PathError> {
        self.make_dirs(base, relative, sync_dir)
    }

    /// Creates the folders of `relative` below `base` that are missing; a later sync of the whole file system
    /// makes them last.
    pub fn ensure_dirs_unsynced(&self, base: &Path, relative: &Path) -> Result<(), PathError> {
        self.make_dirs(base, relative, |_| Ok(()))
    }

    fn make_dirs(
        &self,
        base: &Path,
        relative: &Path,
        made_in: impl Fn(&Path) -> Result<(), PathError>,
    ) -> Result<(), PathError> {
        let whole = base.join(relative);
        // Nearly always all of them, or all but the last, are there: begin at the end.
        let mut missing = Vec::new();
        let mut at = whole.as_path();
        loop {
            match self.ensure_dir(at) {
                Ok(true) => {
                    made_in(at.parent().unwrap_or(base))?;
                    break;
                }
                Ok(false) => break,
                Err(error) if error.is_not_found() && at != base => {
                    missing.push(at.to_owned());
                    at = at.parent().unwrap_or(base);
                }
                Err(error) => return Err(error),
            }
        }
        for path in missing.iter().rev() {
            self.ensure_dir(path)?;
            made_in(path.parent().unwrap_or(base))?;
        }
        Ok(())
    }

    /// Creates a file for writing; that something is there already is an error.
    pub fn create_file(&self, path: &Path) -> Result<File, PathError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).at("create", path)?;
        let file = File::from(fd);
        self.give_away_file(&file, path)?;
        Ok(file)
    }

    /// Opens a file for reading and writing, and creates it empty if it is not there.
    pub fn open_or_create(&self, path: &Path) -> Result<File, PathError> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).at("open or create", path)?;
        let file = File::from(fd);
        if self.owner.is_some() && file.metadata().at("look at", path)?.uid() == 0 {
            self.give_away_file(&file, path)?;
        }
        Ok(file)
    }

    /// Creates a whole, synced file under a temporary name: `prefix` and six random characters.
    ///
    /// The file is left behind if the process dies; whoever owns the folder sweeps the prefix.
    pub fn temporary(&self, folder: &Path, prefix: &str, content: &[u8]) -> Result<PathBuf, PathError> {
        let made = tempfile::Builder::new().prefix(prefix).make_in(folder, |path| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?))
        });
        let mut temporary = made.at("create a temporary file in", folder)?;
        let path = temporary.path().to_owned();
        self.give_away_file(temporary.as_file(), &path)?;
        temporary.as_file_mut().write_all(content).at("write", &path)?;
        temporary.as_file().sync_all().at("sync", &path)?;
        let (_, path) = temporary.keep().map_err(|e| PathError::new("keep", folder, e.error))?;
        Ok(path)
    }

    /// Replaces the content of a file by one rename; a reader sees the old content or the new one, whole.
    ///
    /// The folder is not synced: the caller says when the change must be on disk.
    pub fn replace_file(&self, path: &Path, temporary_prefix: &str, content: &[u8]) -> Result<(), PathError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let temporary = self.temporary(folder, temporary_prefix, content)?;
        rename(&temporary, path).inspect_err(|_| {
            // Ours alone, and of no use any more; if this fails too it is swept later.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Creates or replaces a symlink by one rename: there is no instant at which the name is not there.
    pub fn replace_symlink(
        &self,
        target: &Path,
        link: &Path,
        temporary_prefix: &str,
    ) -> Result<(), PathError> {
        let folder = link.parent().unwrap_or(Path::new("."));
        let made = tempfile::Builder::new()
            .prefix(temporary_prefix)
            .make_in(folder, |path| std::os::unix::fs::symlink(target, path))
            .at("create a symlink in", folder)?;
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(CWD, made.path(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .at("give to the owner of the root", made.path())?;
        }
        rename(made.path(), link)?;
        // The name that it would remove is the link's by now.
        made.into_temp_path().keep().map_err(|e| PathError::new("keep", link, e.error))?;
        Ok(())
    }

    /// Gives what somebody may have made by hand, as root, to the owner of the root. A symlink is not followed.
    pub fn hand_over(&self, path: &Path) -> Result<(), PathError> {
        self.give_away(path)
    }

    fn give_away(&self, path: &Path) -> Result<(), PathError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .at("give to the owner of the root", path)
    }

    fn give_away_file(&self, file: &File, path: &Path) -> Result<(), PathError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .at("give to the owner of the root", path)
    }
}

/// Whether this process may not write into a folder, for want of permission and nothing else.
fn is_closed_to_us(path: &Path) -> bool {
    // By the effective user, as it would be when writing.
    let asked = rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
    matches!(asked, Err(Errno::ACCESS))
}

/// Renames; an existing file or empty folder at the new name is replaced.
pub fn rename(from: &Path, to: &Path) -> Result<(), PathError> {
    rustix::fs::rename(from, to).at("rename to", to)
}

/// Renames, and never overwrites: that something else is at the new name is an error (`EEXIST`).
///
/// Where the file system cannot do so in one call, a file is linked and then unlinked, so a crash may leave
/// one file under both names; running it again, be it with a kernel that can, then unlinks the old one. A folder cannot be linked and cannot
/// replace anything but an empty folder, so it is renamed plainly after a look.
pub fn rename_noreplace(from: &Path, to: &Path) -> Result<(), PathError> {
    match rename_noreplace_once(from, to) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(Errno::EXIST) if is_second_name(from, to)? => return remove_file(from),
        result => return result.at("move to", to),
    }
    if fs::symlink_metadata(from).at("look at", from)?.is_dir() {
        return rename_after_look(from, to);
    }
    match rustix::fs::link(from, to) {
        Ok(()) => {}
        Err(Errno::EXIST) if is_second_name(from, to)? => {}
        Err(errno) => return Err(PathError::new("move to", to, errno)),
    }
    remove_file(from)
}

/// Renames in one call on every file system, so that no crash leaves both names, and does not overwrite.
///
/// Where the file system cannot do both in one call it is renamed after a look, so this is for names that
/// nobody else makes, under the exclusive lock.
pub fn rename_at_once(from: &Path, to: &Path) -> Result<(), PathError> {
    match rename_noreplace_once(from, to) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rename_after_look(from, to),
        result => result.at("rename to", to),
    }
}

fn rename_after_look(from: &Path, to: &Path) -> Result<(), PathError> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(PathError::new("move to", to, Errno::EXIST)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => rename(from, to),
        Err(error) => Err(PathError::new("look at", to, error)),
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

/// Whether both are names of one file that has more than one. A name that differs in case only, where the
/// file system takes that for the same, is not a second one.
fn is_second_name(from: &Path, to: &Path) -> Result<bool, PathError> {
    let (old, new) =
        (fs::symlink_metadata(from).at("look at", from)?, fs::symlink_metadata(to).at("look at", to)?);
    let is_same = (old.dev(), old.ino()) == (new.dev(), new.ino());
    Ok(from != to && is_same && !old.is_dir() && old.nlink() > 1)
}

/// Removes a file or a symlink.
pub fn remove_file(path: &Path) -> Result<(), PathError> {
    fs::remove_file(path).at("remove", path)
}

/// Removes a folder if it is empty, and says whether it did. One that is not there counts as not removed.
pub fn remove_empty_dir(path: &Path) -> Result<bool, PathError> {
    match rustix::fs::rmdir(path) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(false),
        Err(errno) => Err(PathError::new("remove the folder", path, errno)),
    }
}

/// Removes a folder and everything below it; one that is not there is no error.
///
/// Only for what nobody relies on (staging, caches): others may see it half removed.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PathError::new("remove", path, error)),
        _ => Ok(()),
    }
}

/// Sets the time of the last change of a file to now.
pub fn touch(path: &Path) -> Result<(), PathError> {
    let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: omit, last_modification: now };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", path)
}

/// Sets the time of the last change of a file.
pub fn set_modified(file: &File, path: &Path, time: SystemTime) -> Result<(), PathError> {
    file.set_modified(time).at("set the time of", path)
}

/// What failed while a file was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The original could not be read.
    #[error(transparent)]
    Read(PathError),
    /// The copy could not be written.
    #[error(transparent)]
    Write(PathError),
}

/// How much is copied at a time.
const COPIED_AT_ONCE: usize = 256 << 10;

/// Makes an empty file one with the content of another: by sharing its blocks where the file system can, else by
/// copying them. The two have nothing in common afterwards that a write to one could change in the other. Nothing is
/// synced.
pub fn clone_or_copy(
    (from, from_path): (&File, &Path),
    (to, to_path): (&File, &Path),
) -> Result<(), CopyError> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; COPIED_AT_ONCE];
    let mut at = 0;
    loop {
        let count = match from.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(PathError::new("read", from_path, error))),
        };
        to.write_all_at(&buffer[..count], at)
            .map_err(|error| CopyError::Write(PathError::new("write", to_path, error)))?;
        at += count as u64;
    }
}

/// The file system of a folder, to wait for all that was written to it since this was made.
///
/// It is made before the first write: an error that the system meets on its own while it writes back is told to
/// whoever had a file open before. It is told once, so that whoever waits after a failure fails as well: what one
/// thread wrote may be what another one's wait has lost.
#[derive(Debug)]
pub struct FileSystem {
    folder: File,
    path: PathBuf,
    failed: Mutex<Option<Errno>>,
}

impl FileSystem {
    /// Begins to listen for errors of the file system of a folder.
    pub fn of(folder: &Path) -> Result<Self, PathError> {
        let (opened, failed) = (File::open(folder).at("open", folder)?, Mutex::default());
        Ok(Self { folder: opened, path: folder.to_owned(), failed })
    }

    /// Waits until everything that was written to it is on disk.
    pub fn sync(&self) -> Result<(), PathError> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_none() {
            *failed = self.sync_once().err();
        }
        match *failed {
            None => Ok(()),
            Some(errno) => Err(PathError::new("sync the file system of", &self.path, errno)),
        }
    }

    fn sync_once(&self) -> Result<(), Errno> {
        #[cfg(target_os = "linux")]
        return rustix::fs::syncfs(&self.folder);
        #[cfg(not(target_os = "linux"))]
        {
            rustix::fs::sync();
            rustix::fs::fsync(&self.folder)
        }
    }
}

/// Waits until a file's content is on disk.
pub fn sync_file(file: &File, path: &Path) -> Result<(), PathError> {
    file.sync_all().at("sync", path)
}

/// Waits until the names in a folder are on disk.
pub fn sync_dir(path: &Path) -> Result<(), PathError> {
    let folder = File::open(path).at("open", path)?;
    folder.sync_all().at("sync", path)
}

/// Waits until everything that was written to the file system of `root` is on disk.
pub fn sync_file_system(root: &Path) -> Result<(), PathError> {
    FileSystem::of(root)?.sync()
}

/// Creates `root` and its missing parents for the process itself, each synced into its parent.
pub fn create_root(root: &Path) -> Result<(), PathError> {
    let base = root.ancestors().last().unwrap_or(root);
    let parent_or_here = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut missing = Vec::new();
    for at in root.ancestors() {
        if at.as_os_str().is_empty() || at == base && at.is_absolute() {
            break;
        }
        match fs::metadata(at) {
            Ok(meta) if meta.is_dir() => break,
            Ok(_) => return Err(PathError::new("create the folder", at, Errno::NOTDIR)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(at),
            Err(error) => return Err(PathError::new("look at", at, error)),
        }
    }
    for at in missing.iter().rev() {
        Durable::default().ensure_dir(at)?;
        sync_dir(&parent_or_here(at))?;
    }
    Ok(())
}

/// Whether a file may be executed by anybody, for messages about programs that cannot be run.
pub fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noreplace_leaves_both_when_the_place_is_taken() {
        let dir = tempfile::tempdir().unwrap();
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
    fn a_move_killed_between_link_and_unlink_is_finished() {
        let dir = tempfile::tempdir().unwrap();
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

    #[test]
    fn replacing_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        for content in ["one", "two"] {
            Durable::default().replace_file(&file, ".t.", content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
        let link = dir.path().join("l");
        for target in ["x", "y"] {
            Durable::default().replace_symlink(Path::new(target), &link, ".t.").unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn files_get_the_mode_of_ordinary_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        Durable::default().replace_file(&file, ".t.", b"x").unwrap();
        fs::write(dir.path().join("ordinary"), "x").unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("f"), mode("ordinary"));
    }

    #[test]
    fn ensure_dirs_makes_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        Durable::default().ensure_dirs(dir.path(), Path::new("a/b/c")).unwrap();
        Durable::default().ensure_dirs(dir.path(), Path::new("a/b/d")).unwrap();
        assert!(dir.path().join("a/b/c").is_dir() && dir.path().join("a/b/d").is_dir());
        fs::write(dir.path().join("f"), "").unwrap();
        assert!(Durable::default().ensure_dirs(dir.path(), Path::new("f/x")).is_err());
    }

    #[test]
    fn a_symlink_is_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        for target in [".", "nowhere"] {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(target, &link).unwrap();
            let error = Durable::default().ensure_dir(&link).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::NOTDIR), "{target}");
            assert!(error.to_string().contains("move it away"), "{error}");
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_copy_has_the_same_content_and_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for size in [0, 1, COPIED_AT_ONCE, 3 * COPIED_AT_ONCE + 7] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            fs::write(&from, &content).unwrap();
            let original = File::open(&from).unwrap();
            let copy = Durable::default().create_file(&to).unwrap();
            clone_or_copy((&original, &from), (&copy, &to)).unwrap();
            fs::write(&from, "changed").unwrap();
            assert!(fs::read(&to).unwrap() == content, "{size}");
            fs::remove_file(&to).unwrap();
        }
    }

    #[test]
    fn a_copy_tells_which_side_failed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (File::open(dir.path()).unwrap(), dir.path().join("f"));
        let made = Durable::default().create_file(&file).unwrap();
        let unreadable = clone_or_copy((&folder, dir.path()), (&made, &file));
        assert!(matches!(unreadable, Err(CopyError::Read(error)) if error.path == dir.path()));
        fs::write(&file, "x").unwrap();
        let reader = File::open(&file).unwrap();
        let unwritable = clone_or_copy((&made, &file), (&reader, &file));
        assert!(matches!(unwritable, Err(CopyError::Write(error)) if error.path == file));
    }

    #[test]
    fn a_root_is_made_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("x/y/z");
        create_root(&root).unwrap();
        create_root(&root).unwrap();
        assert!(root.is_dir());
    }
}
