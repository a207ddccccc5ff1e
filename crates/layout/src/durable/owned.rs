//! Creates folders and files for the owner of the root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Folder, rename, sync_dir};
use crate::PathError;
use crate::error::PathContext;

/// Writes below a root, for the owner of the root.
#[derive(Debug, Clone, Copy, Default)]
pub struct Durable {
    owner: Option<(u32, u32)>,
}

impl Durable {
    /// Returns a value that writes for the owner of `root` if this process runs as root, else for its own user.
    pub fn for_root(root: &Path) -> Result<Self, PathError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::default());
        }
        let meta = fs::metadata(root).at("stat", root)?;
        let own = (0, rustix::process::getegid().as_raw());
        let owner = (meta.uid(), meta.gid());
        Ok(Self { owner: (owner != own).then_some(owner) })
    }

    /// Creates an empty folder. An existing path is an error.
    pub fn create_dir(&self, path: &Path) -> Result<(), PathError> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o777)).at("create the folder", path)?;
        self.hand_over(path)
    }

    /// Creates an empty folder with an unused name: `prefix` and six random characters.
    pub fn create_dir_named(&self, parent: &Path, prefix: &str) -> Result<PathBuf, PathError> {
        let made = tempfile::Builder::new()
            .prefix(prefix)
            .make_in(parent, |path| Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(0o777))?))
            .at("create a folder in", parent)?;
        // `TempPath` would remove it as a file when dropped.
        let path = made.into_temp_path().keep().map_err(|e| PathError::new("keep", parent, e.error))?;
        self.hand_over(&path)?;
        Ok(path)
    }

    /// Creates a folder unless it exists, and returns whether it did. A symlink is an error, wherever it points.
    pub fn ensure_dir(&self, path: &Path) -> Result<bool, PathError> {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o777)) {
            Ok(()) => self.hand_over(path).map(|()| true),
            Err(Errno::EXIST) => {
                let meta = fs::symlink_metadata(path).at("stat", path)?;
                // Files created or swept below a symlink would belong to another folder.
                if !meta.is_dir() {
                    return Err(PathError::new("create the folder", path, Errno::NOTDIR));
                }
                // A process was killed between creating the folder and changing its owner.
                if self.owner.is_some() && meta.uid() == 0 {
                    self.hand_over(path)?;
                }
                if meta.uid() == 0 && is_closed_to_us(path) && rustix::fs::rmdir(path).is_ok() {
                    // The same, seen by the owner of the root. The empty folder can be created again.
                    return self.ensure_dir(path);
                }
                Ok(false)
            }
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
                Ok(_) => break,
                Err(error) if error.is_not_found() => missing.push(base.join(at)),
                // Root created it and died before it changed the owner.
                Err(error) if error.errno() == Some(Errno::ACCESS) => {
                    self.ensure_dir(&base.join(at))?;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        for path in missing.iter().rev() {
            self.ensure_dir(path)?;
            made_in(path.parent().unwrap_or(base))?;
        }
        Folder::open(base, relative)
    }

    /// Finishes a folder that root created before it died: changes the owner, or replaces the empty folder. Returns whether
    /// it did.
    fn repair(&self, folder: &Folder) -> Result<bool, PathError> {
        let is_unfinished = folder.owner()? == 0 && (self.owner.is_some() || is_closed_to_us(folder.path()));
        if is_unfinished {
            self.ensure_dir(folder.path())?;
        }
        Ok(is_unfinished)
    }

    /// Appends a line to a file with one write, and waits until it is on disk. Creates the file if it is missing. Returns
    /// the length of the file.
    pub fn append_line(&self, path: &Path, line: &str) -> Result<u64, PathError> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // A pipe in its place must not block.
        let fd = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::from_raw_mode(0o666));
        let mut file = File::from(fd.at("open or create", path)?);
        let meta = file.metadata().at("stat", path)?;
        if !meta.is_file() {
            return Err(PathError::new("append to", path, io::Error::other("it is not a file")));
        }
        if self.owner.is_some() && meta.uid() == 0 {
            self.hand_over_file(&file, path)?;
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
            return Err(PathError::new("append to", path, Errno::NOSPC));
        }
        file.sync_data().at("sync", path)?;
        Ok(meta.len() + written as u64)
    }

    /// Creates a file for writing. An existing path is an error.
    pub fn create_file(&self, path: &Path) -> Result<File, PathError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).at("create", path)?;
        let file = File::from(fd);
        self.hand_over_file(&file, path)?;
        Ok(file)
    }

    /// Opens a file for reading and writing, and creates it if it is missing.
    pub fn open_or_create(&self, path: &Path) -> Result<File, PathError> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).at("open or create", path)?;
        let file = File::from(fd);
        if self.owner.is_some() && file.metadata().at("stat", path)?.uid() == 0 {
            self.hand_over_file(&file, path)?;
        }
        Ok(file)
    }

    /// Creates a complete and synced file with a temporary name: `prefix` and six random characters.
    ///
    /// If the process dies, the file stays. The owner of the folder sweeps files with this prefix.
    pub fn temporary(&self, folder: &Path, prefix: &str, content: &[u8]) -> Result<PathBuf, PathError> {
        let made = tempfile::Builder::new().prefix(prefix).make_in(folder, |path| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?))
        });
        let mut temporary = made.at("create a temporary file in", folder)?;
        let path = temporary.path().to_owned();
        self.hand_over_file(temporary.as_file(), &path)?;
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
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .at("change the owner of", path)
    }

    fn hand_over_file(&self, file: &File, path: &Path) -> Result<(), PathError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .at("change the owner of", path)
    }
}

/// Returns whether this process lacks the permission to write into a folder.
fn is_closed_to_us(path: &Path) -> bool {
    // The effective user decides, as for a write.
    let asked = rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS);
    matches!(asked, Err(Errno::ACCESS))
}

/// Creates `root` and its missing parents for the user of this process, and syncs each into its parent.
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
            Err(error) => return Err(PathError::new("stat", at, error)),
        }
    }
    for at in missing.iter().rev() {
        Durable::default().ensure_dir(at)?;
        sync_dir(&parent_or_here(at))?;
    }
    Ok(())
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
    fn files_have_the_mode_of_ordinary_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        Durable::default().replace_file(&file, ".t.", b"x").unwrap();
        fs::write(dir.path().join("ordinary"), "x").unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("f"), mode("ordinary"));
    }

    #[test]
    fn ensure_dirs_creates_missing_folders() {
        let dir = tempfile::tempdir().unwrap();
        Durable::default().ensure_dirs(dir.path(), Path::new("a/b/c")).unwrap();
        Durable::default().ensure_dirs(dir.path(), Path::new("a/b/d")).unwrap();
        assert!(dir.path().join("a/b/c").is_dir() && dir.path().join("a/b/d").is_dir());
        fs::write(dir.path().join("f"), "").unwrap();
        assert!(Durable::default().ensure_dirs(dir.path(), Path::new("f/x")).is_err());
    }

    #[test]
    fn folders_are_not_created_through_a_symlink() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
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
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let durable = Durable::default();
        assert_eq!(durable.append_line(&file, "one").unwrap(), 4);
        fs::write(&file, "one\ntw").unwrap();
        assert_eq!(durable.append_line(&file, "three").unwrap(), 13);
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntw\nthree\n");
        std::os::unix::fs::symlink(&file, dir.path().join("l")).unwrap();
        assert!(durable.append_line(&dir.path().join("l"), "four").is_err());
    }

    #[test]
    fn a_symlink_is_not_accepted_as_a_folder() {
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
    fn a_root_is_created_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("x/y/z");
        create_root(&root).unwrap();
        create_root(&root).unwrap();
        assert!(root.is_dir());
    }
}
