//! Creates folders and files.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::access::Access;
use super::{Folder, rename, sync_dir};
use crate::PathError;
use crate::error::PathContext;

/// A line that was appended to a file.
#[derive(Debug)]
pub struct Appended {
    /// The file.
    pub file: File,
    /// The length of the file.
    pub bytes: u64,
    /// Whether the line is the first, so that the name of the file may not be on disk yet.
    pub is_first: bool,
}

/// Writes below a folder, with the owner and the modes that are right there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Durable {
    access: Access,
}

impl Durable {
    /// Returns a value that writes below the root of a store: for the owner of the root if this process runs as root,
    /// else for its own user. The modes are those of the root, whatever the umask.
    pub fn for_root(root: &Path) -> Result<Self, PathError> {
        Ok(Self { access: Access::of_root(&fs::metadata(root).at("stat", root)?) })
    }

    /// Returns a value that writes below any other folder, for its owner if this process runs as root. The modes follow
    /// the umask.
    pub fn for_folder(folder: &Path) -> Result<Self, PathError> {
        Ok(Self { access: Access::of_folder(&fs::metadata(folder).at("stat", folder)?) })
    }

    /// Returns a value that writes files for the user of this process only.
    pub fn private() -> Self {
        Self { access: Access::private() }
    }

    pub(super) fn with(access: Access) -> Self {
        Self { access }
    }

    /// Creates an empty folder. An existing path is an error.
    pub fn create_dir(&self, path: &Path) -> Result<(), PathError> {
        rustix::fs::mkdir(path, self.access.folder_mode()).at("create the folder", path)?;
        self.settle_dir(path)
    }

    /// Gives a new folder its mode and its owner, or removes it.
    fn settle_dir(&self, path: &Path) -> Result<(), PathError> {
        self.access.settle_folder(path).inspect_err(|_| {
            // The error is the more useful message.
            let _ = rustix::fs::rmdir(path);
        })
    }

    /// Creates an empty folder with an unused name: `prefix` and six random characters.
    pub fn create_dir_named(&self, parent: &Path, prefix: &str) -> Result<PathBuf, PathError> {
        let made = tempfile::Builder::new()
            .prefix(prefix)
            .make_in(parent, |path| Ok(rustix::fs::mkdir(path, self.access.folder_mode())?))
            .at("create a folder in", parent)?;
        // `TempPath` would remove it as a file when dropped.
        let path = made.into_temp_path().keep().map_err(|e| PathError::new("keep", parent, e.error))?;
        self.settle_dir(&path)?;
        Ok(path)
    }

    /// Creates a folder unless it exists, and returns whether it did. A symlink is an error, wherever it points.
    pub fn ensure_dir(&self, path: &Path) -> Result<bool, PathError> {
        match rustix::fs::mkdir(path, self.access.folder_mode()) {
            Ok(()) => match self.settle_dir(path) {
                // Another user took it for a folder of a killed process.
                Err(error) if error.is_not_found() => self.ensure_dir(path),
                settled => settled.map(|()| true),
            },
            Err(Errno::EXIST) => {
                let meta = fs::symlink_metadata(path).at("stat", path)?;
                // Files created or swept below a symlink would belong to another folder.
                if !meta.is_dir() {
                    return Err(PathError::new("create the folder", path, Errno::NOTDIR));
                }
                // A process was killed between creating the folder and setting its mode and its owner.
                self.access.finish_folder(path, &meta)?;
                if meta.uid() == 0 {
                    self.hand_over(path)?;
                }
                let is_unfinished = meta.uid() == 0 || self.access.lacks_in_folder(&meta);
                if is_unfinished && is_closed_to_us(path) && rustix::fs::rmdir(path).is_ok() {
                    // The same, seen by another user. The empty folder can be created again.
                    return self.ensure_dir(path);
                }
                Ok(false)
            }
            Err(errno) => Err(PathError::new("create the folder", path, errno)),
        }
    }

    /// Creates a folder in an open folder, and returns whether it did. `false` if the name exists.
    pub fn create_dir_in(&self, parent: &Folder, name: &OsStr) -> Result<bool, PathError> {
        let path = parent.path().join(name);
        match rustix::fs::mkdirat(parent, name, self.access.folder_mode()) {
            Ok(()) => self.settle_dir(&path).map(|()| true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(PathError::new("create the folder", path, errno)),
        }
    }

    /// Creates the missing folders of `relative` below `base`, syncs the parent of each new folder, and opens the last. A
    /// symlink on the way is an error.
    pub fn ensure_dirs(&self, base: &Path, relative: &Path) -> Result<Folder, PathError> {
        self.make_dirs(base, relative, sync_dir)
    }

    /// Creates the missing folders of `relative` below `base`, and opens the last. The caller syncs the whole file system
    /// later.
    pub fn ensure_dirs_unsynced(&self, base: &Path, relative: &Path) -> Result<Folder, PathError> {
        self.make_dirs(base, relative, |_| Ok(()))
    }

    fn make_dirs(
        &self,
        base: &Path,
        relative: &Path,
        made_in: impl Fn(&Path) -> Result<(), PathError>,
    ) -> Result<Folder, PathError> {
        // Nearly always only the last folder is missing, so begin at the end.
        let mut missing = Vec::new();
        for at in relative.ancestors() {
            match Folder::open(base, at) {
                Ok(folder) if missing.is_empty() => {
                    return if self.repair(&folder)? { Folder::open(base, relative) } else { Ok(folder) };
                }
                Ok(folder) => {
                    self.repair(&folder)?;
                    break;
                }
                Err(error) if error.is_not_found() => missing.push(base.join(at)),
                // A process of another user was killed before it set the mode or the owner of this folder or of one above.
                Err(error) if error.errno() == Some(Errno::ACCESS) => match self.ensure_dir(&base.join(at)) {
                    Ok(_) => break,
                    Err(error) if error.errno() == Some(Errno::ACCESS) => missing.push(base.join(at)),
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        for path in missing.iter().rev() {
            self.ensure_dir(path)?;
            made_in(path.parent().unwrap_or(base))?;
        }
        Folder::open(base, relative)
    }

    /// Finishes a folder that a killed process created: sets the mode and the owner, or replaces the empty folder. Returns
    /// whether it may have.
    fn repair(&self, folder: &Folder) -> Result<bool, PathError> {
        let meta = folder.metadata()?;
        let is_unfinished = self.access.lacks_in_folder(&meta)
            || meta.uid() == 0 && (self.access.has_owner() || is_closed_to_us(folder.path()));
        if is_unfinished {
            self.ensure_dir(folder.path())?;
        }
        Ok(is_unfinished)
    }

    /// Appends a line to a file with one write, and waits until it is on disk. Creates the file if it is missing. If the disk
    /// is full in the middle of the line, the part is removed if no other process appends (`is_alone`), else it stays.
    pub fn append_line(&self, path: &Path, line: &str, is_alone: bool) -> Result<Appended, PathError> {
        // A pipe in its place must not block.
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = loop {
            match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(file) => break File::from(file),
                Err(Errno::NOENT) => match self.create_file(path) {
                    // Another process was first.
                    Err(error) if error.errno() != Some(Errno::EXIST) => return Err(error),
                    _ => {}
                },
                Err(errno) => return Err(PathError::new("append to", path, errno)),
            }
        };
        let meta = file.metadata().at("stat", path)?;
        if !meta.is_file() {
            return Err(PathError::new("append to", path, io::Error::other("it is not a file")));
        }
        // A process was killed between creating the file and setting its mode and its owner.
        self.access.finish_file(&file, path)?;
        if self.access.has_owner() && meta.uid() == 0 {
            self.access.give_file(&file, path)?;
        }
        let mut last = [b'\n'];
        if meta.len() > 0 {
            file.read_at(&mut last, meta.len() - 1).at("read", path)?;
        }
        // The disk was full in the middle of the last line.
        let begin = if last == *b"\n" { "" } else { "\n" };
        let text = format!("{begin}{line}\n");
        let written = file.write(text.as_bytes()).at("append to", path)?;
        if written < text.len() {
            // Unless another process has written after it.
            let end = meta.len() + written as u64;
            if is_alone && file.metadata().is_ok_and(|now| now.len() == end) {
                let _ = file.set_len(meta.len());
            }
            return Err(PathError::new("append to", path, Errno::NOSPC));
        }
        file.sync_data().at("sync", path)?;
        Ok(Appended { file, bytes: meta.len() + written as u64, is_first: meta.len() == 0 })
    }

    /// Creates a file for writing. An existing path is an error.
    pub fn create_file(&self, path: &Path) -> Result<File, PathError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::open(path, flags, self.access.file_mode()).at("create", path)?);
        self.access.settle_file(&file, path).inspect_err(|_| {
            // The error is the more useful message.
            let _ = fs::remove_file(path);
        })?;
        Ok(file)
    }

    /// Opens a file for reading and writing, and creates it if it is missing.
    pub fn open_or_create(&self, path: &Path) -> Result<File, PathError> {
        self.open_or_create_new(path).map(|(file, _)| file)
    }

    /// Opens a file for reading and writing, and creates it if it is missing. Returns whether it is new.
    pub fn open_or_create_new(&self, path: &Path) -> Result<(File, bool), PathError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = loop {
            match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(file) => break File::from(file),
                Err(Errno::NOENT) => match self.create_file(path) {
                    Ok(file) => return Ok((file, true)),
                    // Another process was first.
                    Err(error) if error.errno() == Some(Errno::EXIST) => {}
                    Err(error) => return Err(PathError { action: "open or create", ..error }),
                },
                Err(errno) => return Err(PathError::new("open or create", path, errno)),
            }
        };
        // A process was killed between creating the file and setting its mode and its owner.
        self.access.finish_file(&file, path)?;
        if self.access.has_owner() && file.metadata().at("stat", path)?.uid() == 0 {
            self.access.give_file(&file, path)?;
        }
        Ok((file, false))
    }

    /// Creates a complete and synced file with a temporary name: `prefix` and six random characters.
    ///
    /// If the process dies, the file stays. The owner of the folder sweeps files with this prefix.
    pub fn temporary(&self, folder: &Path, prefix: &str, content: &[u8]) -> Result<PathBuf, PathError> {
        let made = tempfile::Builder::new().prefix(prefix).make_in(folder, |path| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            Ok(File::from(rustix::fs::open(path, flags, self.access.file_mode())?))
        });
        let mut temporary = made.at("create a temporary file in", folder)?;
        let path = temporary.path().to_owned();
        self.access.settle_file(temporary.as_file(), &path)?;
        temporary.as_file_mut().write_all(content).at("write", &path)?;
        temporary.as_file().sync_all().at("sync", &path)?;
        let (_, path) = temporary.keep().map_err(|e| PathError::new("keep", folder, e.error))?;
        Ok(path)
    }

    /// Replaces the content of a file with one rename. A reader sees either the old content or the new content.
    ///
    /// The folder is not synced.
    pub fn replace_file(&self, path: &Path, temporary_prefix: &str, content: &[u8]) -> Result<(), PathError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let temporary = self.temporary(folder, temporary_prefix, content)?;
        rename(&temporary, path).inspect_err(|_| {
            // If this fails too, the temporary is swept later.
            let _ = fs::remove_file(&temporary);
        })
    }

    /// Replaces a file like [`Self::replace_file`], and first removes the temporaries that killed processes left beside it.
    /// No other process may replace it at the same time.
    pub fn replace_alone(
        &self,
        path: &Path,
        temporary_prefix: &str,
        content: &[u8],
    ) -> Result<(), PathError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        for entry in fs::read_dir(folder).at("list", folder)? {
            let entry = entry.at("list", folder)?;
            if entry.file_name().as_encoded_bytes().starts_with(temporary_prefix.as_bytes()) {
                // If this fails, it only takes space.
                let _ = fs::remove_file(entry.path());
            }
        }
        self.replace_file(path, temporary_prefix, content)
    }

    /// Creates or replaces a symlink with one rename. The name exists at every instant.
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
        self.hand_over(made.path())?;
        rename(made.path(), link)?;
        // `TempPath` must not remove the old name.
        made.into_temp_path().keep().map_err(|e| PathError::new("keep", link, e.error))?;
        Ok(())
    }

    /// Gives a path to the owner of the root if this process runs as root. A symlink is not followed.
    pub fn hand_over(&self, path: &Path) -> Result<(), PathError> {
        self.access.give(path)
    }
}

/// Returns whether this process lacks the permission to write into a folder.
fn is_closed_to_us(path: &Path) -> bool {
    // The effective user decides, as for a write.
    let asked = rustix::fs::accessat(CWD, path, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS);
    matches!(asked, Err(Errno::ACCESS))
}

/// Returns whether any user may execute a file, for messages about programs that cannot be run.
pub fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_leaves_no_temporary_behind() {
        let dir = testkit::tempdir();
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
    fn files_follow_the_umask_without_a_root() {
        let dir = testkit::tempdir();
        let file = dir.path().join("f");
        Durable::default().replace_file(&file, ".t.", b"x").unwrap();
        fs::write(dir.path().join("ordinary"), "x").unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("f"), mode("ordinary"));
    }

    #[test]
    fn ensure_dirs_creates_missing_folders() {
        let dir = testkit::tempdir();
        Durable::default().ensure_dirs(dir.path(), Path::new("a/b/c")).unwrap();
        Durable::default().ensure_dirs(dir.path(), Path::new("a/b/d")).unwrap();
        assert!(dir.path().join("a/b/c").is_dir() && dir.path().join("a/b/d").is_dir());
        fs::write(dir.path().join("f"), "").unwrap();
        assert!(Durable::default().ensure_dirs(dir.path(), Path::new("f/x")).is_err());
    }

    #[test]
    fn folders_are_not_created_through_a_symlink() {
        let (dir, elsewhere) = (testkit::tempdir(), testkit::tempdir());
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        for relative in ["link", "link/a", "link/a/b"] {
            let error = Durable::default().ensure_dirs(dir.path(), Path::new(relative)).unwrap_err();
            assert!(error.is_symlink_on_the_way(), "{error}");
            assert_eq!(error.path, dir.path().join("link"));
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn lines_are_appended_and_a_cut_line_is_ended_first() {
        let dir = testkit::tempdir();
        let file = dir.path().join("f");
        let durable = Durable::default();
        let append = |line: &str| {
            let Appended { bytes, is_first, .. } = durable.append_line(&file, line, true).unwrap();
            (bytes, is_first)
        };
        assert_eq!(append("one"), (4, true));
        fs::write(&file, "one\ntw").unwrap();
        assert_eq!(append("three"), (13, false));
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntw\nthree\n");
        std::os::unix::fs::symlink(&file, dir.path().join("l")).unwrap();
        assert!(durable.append_line(&dir.path().join("l"), "four", true).is_err());
    }

    #[test]
    fn temporaries_of_killed_processes_are_removed_by_the_next_replacement() {
        let dir = testkit::tempdir();
        for name in ["f", ".f.abcdef", ".g.abcdef"] {
            fs::write(dir.path().join(name), "old").unwrap();
        }
        Durable::default().replace_alone(&dir.path().join("f"), ".f.", b"new").unwrap();
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".g.abcdef", "f"]);
        assert_eq!(fs::read_to_string(dir.path().join("f")).unwrap(), "new");
    }

    #[test]
    fn a_symlink_is_not_accepted_as_a_folder() {
        let dir = testkit::tempdir();
        for target in [".", "nowhere"] {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(target, &link).unwrap();
            let error = Durable::default().ensure_dir(&link).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::NOTDIR), "{target}");
            assert!(error.to_string().contains("move it away"), "{error}");
            fs::remove_file(&link).unwrap();
        }
    }
}
