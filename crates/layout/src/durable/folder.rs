//! Opens a folder below a root through real folders only.
//!
//! A symlink on the way would lead writes out of the store. One `openat2` finds it. Systems without that call open the
//! folders one after the other.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::PathError;
use crate::error::{OnTheWay, PathContext};

/// A folder below a root, with no symlink on the way to it.
#[derive(Debug)]
pub struct Folder {
    file: File,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder `relative` below `base`. `base` itself may be a symlink.
    ///
    /// # Errors
    ///
    /// [`PathError::is_symlink_on_the_way`] if a symlink is on the way, wherever it points.
    pub fn open(base: &Path, relative: &Path) -> Result<Self, PathError> {
        Self::open_by(base, relative, open_below)
    }

    fn open_by(
        base: &Path,
        relative: &Path,
        below: impl Fn(&OwnedFd, &Path) -> Result<OwnedFd, Errno>,
    ) -> Result<Self, PathError> {
        let path = if relative.as_os_str().is_empty() { base.to_owned() } else { base.join(relative) };
        if relative.as_os_str().is_empty() {
            let opened = rustix::fs::openat(CWD, base, FOLDER, Mode::empty()).at("open", base)?;
            return Ok(Self { file: opened.into(), path });
        }
        let opened = rustix::fs::openat(CWD, base, ON_THE_WAY, Mode::empty()).at("open", base)?;
        match below(&opened, relative) {
            Ok(opened) => Ok(Self { file: opened.into(), path }),
            Err(errno) => match symlink_below(base, relative) {
                Some(link) => {
                    let source = io::Error::new(io::ErrorKind::NotADirectory, OnTheWay);
                    Err(PathError::new("write below", link, source))
                }
                None => Err(PathError::new("open", path, errno)),
            },
        }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the names in the folder are on disk.
    pub fn sync(&self) -> Result<(), PathError> {
        self.file.sync_all().at("sync", &self.path)
    }

    /// Locks the folder for this value alone. Waits for another process up to `patience`, and returns whether none holds
    /// the lock. A file system without locks for folders counts as if nobody did.
    pub fn lock(&self, patience: Duration) -> bool {
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if began.elapsed() >= patience => return false,
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(Errno::INTR) => {}
                _ => return true,
            }
        }
    }

    /// Returns the metadata of the folder.
    pub(super) fn metadata(&self) -> Result<Metadata, PathError> {
        self.file.metadata().at("stat", &self.path)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The pause between two attempts to lock a folder.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A folder on the way need not be readable.
#[cfg(target_os = "linux")]
const ON_THE_WAY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const ON_THE_WAY: OFlags = FOLDER;

#[cfg(target_os = "linux")]
fn open_below(base: &OwnedFd, relative: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(base, relative, FOLDER, Mode::empty(), resolve) {
        // An old kernel, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_by_steps(base, relative),
        opened => opened,
    }
}

#[cfg(not(target_os = "linux"))]
use open_by_steps as open_below;

fn open_by_steps(base: &OwnedFd, relative: &Path) -> Result<OwnedFd, Errno> {
    let mut at = None::<OwnedFd>;
    let mut names = relative.components().peekable();
    while let Some(name) = names.next() {
        // No name leads up or to the root.
        let Component::Normal(name) = name else { return Err(Errno::XDEV) };
        let flags = if names.peek().is_some() { ON_THE_WAY } else { FOLDER };
        let above = at.as_ref().unwrap_or(base);
        at = Some(rustix::fs::openat(above, name, flags | OFlags::NOFOLLOW, Mode::empty())?);
    }
    at.ok_or(Errno::INVAL)
}

/// Returns the first symlink on the way to a folder, for a message.
fn symlink_below(base: &Path, relative: &Path) -> Option<PathBuf> {
    let mut at = base.to_owned();
    relative.components().find_map(|name| {
        at.push(name);
        at.symlink_metadata().is_ok_and(|meta| meta.is_symlink()).then(|| at.clone())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    type Below = fn(&OwnedFd, &Path) -> Result<OwnedFd, Errno>;
    const WAYS: [Below; 2] = [open_below, open_by_steps];

    #[test]
    fn a_symlink_on_the_way_is_named_and_refused_in_both_ways() {
        let (dir, elsewhere) = (testkit::tempdir(), testkit::tempdir());
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::create_dir_all(elsewhere.path().join("c")).unwrap();
        symlink(elsewhere.path(), dir.path().join("a/out")).unwrap();
        symlink("b", dir.path().join("a/in")).unwrap();
        symlink("c", dir.path().join("a/b/last")).unwrap();
        let base = dir.path().join("base");
        symlink(".", &base).unwrap();
        for below in WAYS {
            let open = |path: &str| Folder::open_by(&base, Path::new(path), below);
            for path in ["", "a", "a/b/c"] {
                open(path).unwrap().sync().unwrap();
            }
            for (path, link) in [("a/out/c", "a/out"), ("a/in/c", "a/in"), ("a/b/last", "a/b/last")] {
                let error = open(path).unwrap_err();
                assert!(error.is_symlink_on_the_way(), "{error}");
                assert_eq!(error.path, base.join(link));
            }
            assert!(open("a/none/c").unwrap_err().is_not_found());
            let above = open("../x").unwrap_err();
            assert_eq!(above.errno(), Some(Errno::XDEV), "{above}");
        }
    }
}
