//! The lock of a store: `store.lock`, flock through fs2, never deleted.
//!
//! Whatever keeps the store open shares it for its life; a migrator holds it exclusively. The kernel frees it
//! when a process dies, so there is nothing to clean. Order: this lock is taken before any other lock below
//! the root. Who holds it exclusively writes its name into it, for messages, best effort; nobody trusts it.
//!
//! Functions that change the state of a store ask for an [`ExclusiveLock`] as a value: holding it is what
//! allows them to.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::PathError;
use crate::durable::Durable;
use crate::error::PathContext;
use crate::marker::now;

/// The name of the lock file in the root.
pub const LOCK_NAME: &str = "store.lock";

/// Shared with other users of the store; freed when dropped.
#[derive(Debug)]
pub struct SharedLock {
    _file: File,
}

/// Held by nobody else; freed when dropped.
#[derive(Debug)]
pub struct ExclusiveLock {
    file: File,
    root: PathBuf,
    program: String,
    durable: Durable,
}

/// A lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock file could not be opened or made.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The storage does not do locks.
    #[error(
        "cannot lock {path}: {source}; this storage has no working locks, so nothing may be written to it: \
         mount it with locks, or serve it as it is with --read-only",
        path = path.display()
    )]
    Unsupported {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LockError {
    /// Is the code that a program ends with for this error.
    pub fn exit(&self) -> crate::Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Unsupported { .. } => crate::Exit::IO,
        }
    }
}

impl SharedLock {
    /// Takes the lock if no one holds it exclusively. `None` if somebody does.
    ///
    /// The file is opened for reading only, so that a store on a read-only file system can be shared too; one
    /// that is not there is an error that [`PathError::is_not_found`].
    pub fn try_acquire(root: &Path) -> Result<Option<Self>, LockError> {
        let (file, path) = Self::open(root)?;
        let taken = outcome(fs2::FileExt::try_lock_shared(&file), &path)?;
        Ok(taken.then_some(Self { _file: file }))
    }

    /// Waits until no one holds the lock exclusively, and takes it.
    pub fn acquire(root: &Path) -> Result<Self, LockError> {
        let (file, path) = Self::open(root)?;
        loop {
            match fs2::FileExt::lock_shared(&file) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    outcome(result, &path)?;
                    return Ok(Self { _file: file });
                }
            }
        }
    }

    fn open(root: &Path) -> Result<(File, PathBuf), LockError> {
        let path = root.join(LOCK_NAME);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::empty()).at("open", &path)?;
        Ok((File::from(file), path))
    }
}

impl ExclusiveLock {
    /// Takes the lock if nobody holds it, and makes the lock file if it is missing. `None` if somebody does.
    ///
    /// Nothing is written into it yet: who finds nothing to do leaves it as it is ([`Self::sign`]).
    pub fn try_acquire(root: &Path, program: &str) -> Result<Option<Self>, LockError> {
        let durable = Durable::for_root(root)?;
        let path = root.join(LOCK_NAME);
        let file = match durable.open_or_create(&path) {
            // Root made it, and died before it gave it away. It can be locked all the same, and not signed.
            Err(error) if error.errno() == Some(Errno::ACCESS) => Self::open_to_read(&path).ok_or(error)?,
            result => result?,
        };
        if !outcome(fs2::FileExt::try_lock_exclusive(&file), &path)? {
            return Ok(None);
        }
        Ok(Some(Self { file, root: root.to_owned(), program: program.to_owned(), durable }))
    }

    fn open_to_read(path: &Path) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from)
    }

    /// Writes into the lock file who holds it, before the first change below the root.
    pub fn sign(&self) {
        // For messages only; a full disk must not keep anybody from going back.
        let _ = self.try_sign();
    }

    fn try_sign(&self) -> io::Result<()> {
        let (mut file, program) = (&self.file, &self.program);
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "pid = {}\nprogram = {program:?}\nstarted = {:?}", std::process::id(), now())
    }

    /// Is the root that the lock is of.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes below that root.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }
}

/// A lock file of one process, or of one moment: who has it excludes all others; freed when dropped.
///
/// For what lies below a root beside `store.lock`, which is always taken first.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock if nobody has it, and makes the file if it is missing. `None` if somebody has it.
    pub fn try_acquire(path: &Path, durable: &Durable) -> Result<Option<Self>, LockError> {
        let file = durable.open_or_create(path)?;
        let taken = outcome(fs2::FileExt::try_lock_exclusive(&file), path)?;
        Ok(taken.then_some(Self { file }))
    }

    /// Whether `path` still names the file that is locked: another process may have removed it between
    /// opening and locking.
    pub fn is_at(&self, path: &Path) -> bool {
        let (Ok(own), Ok(named)) = (self.file.metadata(), std::fs::symlink_metadata(path)) else {
            return false;
        };
        (own.dev(), own.ino()) == (named.dev(), named.ino())
    }
}

fn outcome(result: io::Result<()>, path: &Path) -> Result<bool, LockError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
        Err(source) => Err(LockError::Unsupported { path: path.to_owned(), source }),
    }
}

/// A process that holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its command, as far as the system tells.
    pub program: String,
    /// When it started, RFC 3339 in UTC, as far as the system tells.
    pub since: Option<String>,
    /// Whether it holds the lock exclusively.
    #[serde(skip)]
    pub exclusive: bool,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {}", self.program, self.pid)?;
        if let Some(since) = &self.since {
            write!(f, ", since {since}")?;
        }
        write!(f, ")")
    }
}

/// Is the processes that hold the lock of a root, as far as `/proc` tells; for messages.
pub fn holders(root: &Path) -> Vec<Holder> {
    let Ok(meta) = std::fs::metadata(root.join(LOCK_NAME)) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut holders: Vec<Holder> = locks.lines().filter_map(|line| holder_of(line, meta.ino())).collect();
    holders.sort_by_key(|holder| holder.pid);
    holders.dedup_by_key(|holder| holder.pid);
    holders
}

/// Reads a line as `1: FLOCK  ADVISORY  WRITE 812 fe:00:1234 0 EOF`. The device is not compared: some file
/// systems report another one here than in `stat`.
fn holder_of(line: &str, inode: u64) -> Option<Holder> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let access = fields.nth(1)?;
    let pid: u32 = fields.next()?.parse().ok()?;
    let line_inode: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
    (line_inode == inode).then(|| Holder {
        pid,
        program: program_of(pid).unwrap_or_else(|| "a process".to_owned()),
        since: started(pid),
        exclusive: access == "WRITE",
    })
}

fn program_of(pid: u32) -> Option<String> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&command);
    let words: Vec<&str> = text.split('\0').filter(|word| !word.is_empty()).collect();
    let name = Path::new(words.first()?).file_name()?.to_string_lossy().into_owned();
    Some(match words.get(1) {
        Some(first) if !first.starts_with('-') => format!("{name} {first}"),
        _ => name,
    })
}

fn started(pid: u32) -> Option<String> {
    let meta = std::fs::metadata(format!("/proc/{pid}")).ok()?;
    let time = time::OffsetDateTime::from_unix_timestamp(meta.mtime()).ok()?;
    time.format(&time::format_description::well_known::Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_share_and_one_excludes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(SharedLock::try_acquire(dir.path()), Err(LockError::Path(e)) if e.is_not_found()));
        let exclusive = ExclusiveLock::try_acquire(dir.path(), "p").unwrap().unwrap();
        assert!(SharedLock::try_acquire(dir.path()).unwrap().is_none());
        drop(exclusive);
        let _first = SharedLock::acquire(dir.path()).unwrap();
        let _second = SharedLock::try_acquire(dir.path()).unwrap().unwrap();
        assert!(ExclusiveLock::try_acquire(dir.path(), "p").unwrap().is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn holders_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = ExclusiveLock::try_acquire(dir.path(), "p").unwrap().unwrap();
        let holders = holders(dir.path());
        assert_eq!(holders.len(), 1);
        assert_eq!((holders[0].pid, holders[0].exclusive), (std::process::id(), true));
    }
}
