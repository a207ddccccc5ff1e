//! Files and folders as the store reads them: without following a symlink, and up to a limit.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::io::Errno;
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::metadata::Metadata;

/// The maximum size of an info or a go.mod in bytes: Go's own limit for a go.mod.
pub(crate) const SMALL_LIMIT: u64 = 16 << 20;

/// The maximum size of the other text files of a store in bytes: records, reasons and tree heads.
pub(crate) const TEXT_LIMIT: u64 = 1 << 20;

/// The identity and state of a file or folder: it differs after a replacement and after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self { device: meta.device, inode: meta.inode, changed: meta.changed }
    }

    /// Returns the stamp of a folder. `None` if there is no folder at the path; a symlink is not followed.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>, PathError> {
        Ok(metadata(path)?.filter(Metadata::is_dir).map(|meta| Self::of(&meta)))
    }

    /// Returns whether the file or folder was changed later than a duration after a time.
    pub(crate) fn is_changed_after(self, time: SystemTime, margin: Duration) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let after = |limit: Duration| {
            (seconds, nanoseconds) > (limit.as_secs().cast_signed(), limit.subsec_nanos().into())
        };
        time.checked_add(margin)
            .and_then(|limit| limit.duration_since(SystemTime::UNIX_EPOCH).ok())
            .is_none_or(after)
    }

    /// Returns whether both stamps belong to the same file or folder, changed or not.
    pub(crate) fn is_same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Returns the metadata of a path; a symlink is not followed. `None` if nothing exists there.
pub(crate) fn metadata(path: &Path) -> Result<Option<Metadata>, PathError> {
    match Metadata::of_path(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(PathError::new("stat", path, error)),
    }
}

/// Returns the paths of the entries of a folder. Empty if nothing exists there.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, PathError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.at("list", folder)?.path())).collect(),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(PathError::new("list", folder, error)),
    }
}

/// Returns whether a regular file exists at a path; a symlink is not followed.
pub(crate) fn is_file(path: &Path) -> Result<bool, PathError> {
    Ok(metadata(path)?.is_some_and(|meta| meta.is_file()))
}

/// Opens a regular file for reading; a symlink is not followed. `None` if there is no regular file.
pub(crate) fn open_file(path: &Path) -> Result<Option<(File, Metadata)>, PathError> {
    use rustix::fs::{Mode, OFlags};
    // NONBLOCK: somebody may have put a pipe there, and opening it would block.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            let meta = Metadata::of_file(&file).at("stat", path)?;
            Ok(meta.is_file().then_some((file, meta)))
        }
        // NXIO: a socket cannot be opened.
        Err(Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(errno) if is_absence(errno) => Ok(None),
        Err(errno) => Err(PathError::new("open", path, errno)),
    }
}

/// Reads a file up to one byte more than the limit, so that the caller can see that it is too long.
pub(crate) fn read_bounded(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, PathError> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

/// Returns whether an error means that nothing exists at a path.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_absence)
}

fn is_absence(errno: Errno) -> bool {
    // NAMETOOLONG: a name that the file system cannot hold does not exist either.
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG)
}

/// The characters of a database name that its folder keeps as they are, besides letters and digits.
const KEPT_IN_NAMES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');

/// Returns the name of the folder of a checksum database: one path element that starts with no dot.
pub(crate) fn database_folder(database: &str) -> String {
    let encoded = utf8_percent_encode(database, KEPT_IN_NAMES).to_string();
    match encoded.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => encoded,
    }
}

/// Locks a mutex. A panic under one of this crate's locks leaves no half-done change, so poison is ignored.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
