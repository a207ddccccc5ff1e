//! The lock of a store: the file `store.lock`, locked with flock. Only its exclusive holder deletes it: a downgrade that cleans
//! up, and a run that created it and then changed nothing. A process that waited for the deleted file must take the lock again.
//!
//! Every process that keeps the store open shares the lock. A migrator holds it exclusively. The kernel releases the
//! lock when a process dies, so there is nothing to clean up. This lock is taken before any other lock below the root.
//! The exclusive holder writes its name into the file for messages; no program relies on it.
//!
//! Functions that change the state of a store take an [`ExclusiveLock`] as a value.
//!
//! A copy made with hard links (`cp -al`) shares the lock files of the original. So a lock file with several names is
//! replaced by a new file as soon as a process holds it alone. For this reason a process checks after locking that the
//! path still names the file that it locked.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::PathError;
use crate::clock::now;
use crate::durable::Durable;
use crate::error::PathContext;
use crate::marker::TEMPORARY_PREFIX;

/// The name of the lock file in the root.
pub const LOCK_NAME: &str = "store.lock";

/// A lock that other users of the store share. Released when dropped.
#[derive(Debug)]
pub struct SharedLock {
    file: File,
}

/// A lock that no other process shares. Released when dropped. If this process created the lock file and did not sign it, it
/// changed nothing, and the file is removed then.
#[derive(Debug)]
pub struct ExclusiveLock {
    file: File,
    is_unused: AtomicBool,
    root: PathBuf,
    program: String,
    durable: Durable,
}

/// A lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock file could not be opened or created.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The storage does not support locks.
    #[error(
        "cannot lock {path}: {source}\n\
         help: this file system does not support locks; mount it with support for locks, or serve the store with --read-only",
        path = path.display()
    )]
    Unsupported {
        /// The lock file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

impl LockError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> crate::Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Unsupported { .. } => crate::Exit::IO,
        }
    }
}

impl SharedLock {
    /// Takes the lock, unless another process holds it exclusively (`None`).
    ///
    /// The file is opened for reading only, so the lock works on a read-only file system. A missing file is an error
    /// with [`PathError::is_not_found`].
    pub fn try_acquire(root: &Path) -> Result<Option<Self>, LockError> {
        let (mut file, path) = Self::open(root)?;
        for _ in 0..REPLACED {
            if !outcome(fs2::FileExt::try_lock_shared(&file), &path)? {
                return Ok(None);
            }
            if is_at(&file, &path)? {
                return Ok(Some(Self { file }));
            }
            file = Self::open(root)?.0;
        }
        Err(always_replaced(&path))
    }

    /// Waits until no process holds the lock exclusively, then takes it.
    pub fn acquire(root: &Path) -> Result<Self, LockError> {
        let (mut file, path) = Self::open(root)?;
        loop {
            match fs2::FileExt::lock_shared(&file) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    outcome(result, &path)?;
                    if is_at(&file, &path)? {
                        return Ok(Self { file });
                    }
                    file = Self::open(root)?.0;
                }
            }
        }
    }

    /// Releases the lock and removes its file, unless another process uses the file.
    pub fn remove(self, root: &Path) {
        let path = root.join(LOCK_NAME);
        // The system releases the shared lock first. So another process may get here, or begin to share the file again.
        if fs2::FileExt::try_lock_exclusive(&self.file).is_ok() {
            remove_held(&self.file, &path);
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
    /// Takes the lock, unless another process holds it (`None`). Creates the lock file if it is missing, and writes
    /// nothing into it ([`Self::sign`] does).
    pub fn try_acquire(root: &Path, program: &str) -> Result<Option<Self>, LockError> {
        let durable = Durable::for_root(root)?;
        let path = root.join(LOCK_NAME);
        let is_unused = AtomicBool::new(false);
        let open = || match durable.open_or_create_new(&path) {
            // Root created the file and died before it changed the owner. The file can be locked, not signed.
            Err(error) if error.errno() == Some(Errno::ACCESS) => Self::open_to_read(&path).ok_or(error),
            opened => opened.map(|(file, is_new)| {
                is_unused.store(is_new, Ordering::Relaxed);
                file
            }),
        };
        // A killed process may leave the temporary file, which is swept as a temporary marker.
        let file = lock_alone(&path, open, || durable.replace_file(&path, TEMPORARY_PREFIX, b""))?;
        let (root, program) = (root.to_owned(), program.to_owned());
        Ok(file.map(|file| Self { file, is_unused, root, program, durable }))
    }

    fn open_to_read(path: &Path) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from)
    }

    /// Writes the holder's name into the lock file, before the first change below the root.
    pub fn sign(&self) {
        self.is_unused.store(false, Ordering::Relaxed);
        // Only for messages. A full disk must not prevent a downgrade.
        let _ = self.try_sign();
    }

    fn try_sign(&self) -> io::Result<()> {
        let (mut file, program) = (&self.file, &self.program);
        if has_several_names(file) {
            return Ok(());
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "pid = {}\nprogram = {program:?}\nstarted = {:?}", std::process::id(), now())
    }

    /// Returns the root of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the value that writes below the root.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }
}

impl Drop for ExclusiveLock {
    fn drop(&mut self) {
        if self.is_unused.load(Ordering::Relaxed) {
            remove_held(&self.file, &self.root.join(LOCK_NAME));
        }
    }
}

/// Removes a lock file that this process holds alone. Processes that wait for it find out that it is gone.
fn remove_held(file: &File, path: &Path) {
    if is_at(file, path).is_ok_and(|is_there| is_there) {
        // If this fails, an empty file stays, which does no harm.
        let _ = crate::durable::remove_file(path);
    }
}

/// An exclusive lock on any other file below a root. Released when dropped.
///
/// `store.lock` is always taken first.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock, unless another process holds it (`None`). Creates the file if it is missing.
    ///
    /// If the file has several names, it is replaced, and a killed process leaves a temporary beside it. Use this in a folder
    /// that is removed as a whole.
    pub fn try_acquire(path: &Path, durable: &Durable) -> Result<Option<Self>, LockError> {
        Self::try_acquire_replacing(path, durable, || durable.replace_alone(path, ".lock.", b""))
    }

    /// Takes the lock like [`Self::try_acquire`]. `replace` puts an empty new file in the place of a file with several names.
    pub fn try_acquire_replacing(
        path: &Path,
        durable: &Durable,
        replace: impl Fn() -> Result<(), PathError>,
    ) -> Result<Option<Self>, LockError> {
        Ok(lock_alone(path, || durable.open_or_create(path), replace)?.map(|file| Self { file }))
    }

    /// Returns whether `path` still names the locked file. Another process may have removed it between opening and
    /// locking.
    pub fn is_at(&self, path: &Path) -> Result<bool, PathError> {
        is_at(&self.file, path)
    }
}

/// How often a lock file may be replaced while it is locked. After that the lock is not taken.
const REPLACED: usize = 8;

/// Locks a file alone (`None` if another process holds it), and replaces it by a new file if it has several names.
fn lock_alone(
    path: &Path,
    open: impl Fn() -> Result<File, PathError>,
    replace: impl Fn() -> Result<(), PathError>,
) -> Result<Option<File>, LockError> {
    let mut file = open()?;
    let mut is_new = false;
    for _ in 0..REPLACED {
        if !outcome(fs2::FileExt::try_lock_exclusive(&file), path)? {
            return Ok(None);
        }
        if is_at(&file, path)? {
            // If it cannot be replaced, both copies of the store lock each other out, which is safe. Some file systems
            // report several names for every file, so a new file counts all the same.
            if is_new || !has_several_names(&file) || replace().is_err() {
                return Ok(Some(file));
            }
            is_new = true;
        }
        file = open()?;
    }
    Err(always_replaced(path))
}

fn always_replaced(path: &Path) -> LockError {
    PathError::new("lock", path, io::Error::other("other programs keep replacing it")).into()
}

/// Replaces the lock file of a root that a copy of the store shares, unless a process holds it.
pub fn unshare(root: &Path) {
    let is_shared = std::fs::symlink_metadata(root.join(LOCK_NAME)).is_ok_and(|meta| meta.nlink() > 1);
    if is_shared {
        // Both copies lock each other out until this succeeds.
        let _ = ExclusiveLock::try_acquire(root, "");
    }
}

/// Returns whether a path names an open file.
pub fn is_at(file: &File, path: &Path) -> Result<bool, PathError> {
    // A file server reports a file that another computer removed as stale.
    let is_gone = |error: &PathError| error.is_not_found() || error.errno() == Some(Errno::STALE);
    let own = file.metadata().at("stat", path);
    match own.and_then(|own| Ok((own, std::fs::symlink_metadata(path).at("stat", path)?))) {
        Ok((own, named)) => Ok((own.dev(), own.ino()) == (named.dev(), named.ino())),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether an open file has several names, as in a copy made with hard links.
pub fn has_several_names(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.nlink() > 1)
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
    /// Process ID.
    pub pid: u32,
    /// Its command, as far as the system reports it.
    pub program: String,
    /// Its start time, RFC 3339 in UTC, as far as the system reports it.
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

/// Returns the processes that hold the lock of a root, as far as `/proc` shows them. For messages.
pub fn holders(root: &Path) -> Vec<Holder> {
    holders_of(&root.join(LOCK_NAME))
}

/// Returns the processes that hold a lock on a whole file, as far as `/proc` shows them. For messages.
pub fn holders_of(path: &Path) -> Vec<Holder> {
    let Ok(meta) = std::fs::metadata(path) else { return Vec::new() };
    let look = || -> Vec<Holder> {
        let locks = locks_of_system().unwrap_or_default();
        locks.lines().filter_map(|line| holder_of(line, meta.ino())).collect()
    };
    // Between two reads of the list, locks of other processes come and go, and a line may be passed over.
    let mut holders =
        std::iter::repeat_with(look).take(LOOKS).find(|found| !found.is_empty()).unwrap_or_default();
    holders.sort_by_key(|holder| holder.pid);
    holders.dedup_by_key(|holder| holder.pid);
    holders
}

/// How often the list of locks is read before nobody counts as the holder.
const LOOKS: usize = 3;

/// Reads `/proc/locks` in pieces as large as the kernel gives, because the list may change between two pieces.
fn locks_of_system() -> io::Result<String> {
    let mut file = File::open("/proc/locks")?;
    let (mut locks, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(String::from_utf8_lossy(&locks).into_owned()),
            count => locks.extend(piece.iter().take(count)),
        }
    }
}

/// Returns the processes that hold a lock on one byte of a file, as far as `/proc` shows them. For messages.
///
/// A lock of an open file has no process in `/proc/locks`, so the files of each process are read. Another user's are not
/// shown, except to root.
pub fn holders_of_byte(path: &Path, byte: u64) -> Vec<Holder> {
    let Ok(meta) = std::fs::metadata(path) else { return Vec::new() };
    let mut holders = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else { continue };
        let files = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        for file in files {
            let is_it = std::fs::metadata(file.path())
                .is_ok_and(|open| (open.dev(), open.ino()) == (meta.dev(), meta.ino()));
            if !is_it {
                continue;
            }
            let info = process.path().join("fdinfo").join(file.file_name());
            let info = std::fs::read_to_string(info).unwrap_or_default();
            let locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
            if locks.filter_map(range_of).any(|(first, last)| (first..=last).contains(&byte)) {
                holders.push(holder(pid, true));
                break;
            }
        }
    }
    holders
}

/// Parses the range of a lock, as in `1: OFDLCK ADVISORY  WRITE -1 00:2b:1234 0 EOF`.
fn range_of(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace().rev();
    let (last, first) = (fields.next()?, fields.next()?);
    let last = if last == "EOF" { u64::MAX } else { last.parse().ok()? };
    Some((first.parse().ok()?, last))
}

/// Returns the names of holders for a message.
pub fn names(holders: &[Holder]) -> String {
    let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
    if names.is_empty() { "another process".to_owned() } else { names.join(", ") }
}

/// Returns the names of the exclusive holders if none of them is a program of Stoa. Holders that the system does not show
/// may be.
pub(crate) fn foreign(holders: &[Holder]) -> Option<String> {
    let exclusive: Vec<Holder> = holders.iter().filter(|holder| holder.exclusive).cloned().collect();
    let own = std::env::current_exe().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let is_ours = |holder: &Holder| {
        // Without its arguments: a path of the store may contain the name.
        let name = holder.program.split(' ').next();
        name.is_some_and(|name| name.contains("stoa") || own.as_deref() == Some(name))
    };
    let is_foreign = !exclusive.is_empty() && !exclusive.iter().any(is_ours);
    is_foreign.then(|| names(&exclusive))
}

/// Parses a line of `/proc/locks`, such as `1: FLOCK  ADVISORY  WRITE 812 fe:00:1234 0 EOF`.
fn holder_of(line: &str, inode: u64) -> Option<Holder> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let access = fields.nth(1)?;
    let pid: u32 = fields.next()?.parse().ok()?;
    // The device is not compared: some file systems report a different device here than in `stat`.
    let line_inode: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
    (line_inode == inode).then(|| holder(pid, access == "WRITE"))
}

fn holder(pid: u32, exclusive: bool) -> Holder {
    let program = program_of(pid).unwrap_or_else(|| "a process".to_owned());
    Holder { pid, program, since: started(pid), exclusive }
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
    fn shared_locks_exclude_an_exclusive_lock() {
        let dir = testkit::tempdir();
        assert!(matches!(SharedLock::try_acquire(dir.path()), Err(LockError::Path(e)) if e.is_not_found()));
        let exclusive = ExclusiveLock::try_acquire(dir.path(), "p").unwrap().unwrap();
        assert!(SharedLock::try_acquire(dir.path()).unwrap().is_none());
        exclusive.sign();
        drop(exclusive);
        let _first = SharedLock::acquire(dir.path()).unwrap();
        let _second = SharedLock::try_acquire(dir.path()).unwrap().unwrap();
        assert!(ExclusiveLock::try_acquire(dir.path(), "p").unwrap().is_none());
    }

    #[test]
    fn the_range_of_a_lock_is_parsed() {
        assert_eq!(range_of("1: OFDLCK  ADVISORY  WRITE -1 00:2b:1234 7 9"), Some((7, 9)));
        assert_eq!(range_of("1: OFDLCK  ADVISORY  READ -1 00:2b:1234 0 EOF"), Some((0, u64::MAX)));
        assert_eq!(range_of("x"), None);
    }

    #[test]
    fn a_lock_file_that_a_copy_shares_is_replaced() {
        let (dir, copy) = (testkit::tempdir(), testkit::tempdir());
        std::fs::write(dir.path().join(LOCK_NAME), "").unwrap();
        let paths = [dir.path(), copy.path()].map(|root| root.join(LOCK_NAME));
        std::fs::hard_link(&paths[0], &paths[1]).unwrap();
        let reader = SharedLock::acquire(copy.path()).unwrap();
        // It is unknown in which of both stores the file is locked.
        assert!(ExclusiveLock::try_acquire(dir.path(), "p").unwrap().is_none());
        unshare(dir.path());
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&paths[0]), inode(&paths[1]));
        drop(reader);
        let _original = ExclusiveLock::try_acquire(dir.path(), "p").unwrap().unwrap();
        let _copy = ExclusiveLock::try_acquire(copy.path(), "p").unwrap().unwrap();
        assert_ne!(inode(&paths[0]), inode(&paths[1]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_that_is_not_held_is_not_returned() {
        let dir = testkit::tempdir();
        let [path, other] = ["lock", "other"].map(|name| dir.path().join(name));
        let create = |path: &Path| Durable::default().open_or_create(path);
        create(&path).unwrap();
        // Another file is always there when the opened one is locked.
        let failed = lock_alone(&path, || create(&other), || Ok(())).unwrap_err();
        assert!(failed.to_string().ends_with("other programs keep replacing it"), "{failed}");
        // A path that cannot be examined.
        let odd = path.join("below a file");
        let failed = lock_alone(&odd, || create(&other), || Ok(())).unwrap_err();
        assert!(failed.to_string().starts_with("cannot stat"), "{failed}");
    }

    #[test]
    fn a_file_system_that_reports_several_names_for_every_file_has_locks() {
        let dir = testkit::tempdir();
        let path = dir.path().join("lock");
        let names = std::cell::Cell::new(0);
        let durable = Durable::default();
        let replace = || {
            names.set(names.get() + 1);
            durable.replace_file(&path, ".lock.", b"")?;
            std::fs::hard_link(&path, dir.path().join(names.get().to_string())).at("link", &path)
        };
        durable.open_or_create(&path).unwrap();
        std::fs::hard_link(&path, dir.path().join("0")).unwrap();
        let open = || durable.open_or_create(&path);
        let _held = lock_alone(&path, open, replace).unwrap().unwrap();
        assert_eq!(names.get(), 1);
        assert!(fs2::FileExt::try_lock_exclusive(&open().unwrap()).is_err(), "the lock is held");
    }

    #[test]
    fn the_lock_of_a_deleted_file_is_not_taken() {
        let dir = testkit::tempdir();
        let exclusive = ExclusiveLock::try_acquire(dir.path(), "p").unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| SharedLock::acquire(dir.path()));
            std::thread::sleep(std::time::Duration::from_millis(50));
            crate::durable::remove_file(&dir.path().join(LOCK_NAME)).unwrap();
            drop(exclusive);
            assert!(matches!(waiter.join().unwrap(), Err(LockError::Path(e)) if e.is_not_found()));
        });
        assert!(ExclusiveLock::try_acquire(dir.path(), "p").unwrap().is_some());
    }

    #[test]
    fn an_unused_lock_file_is_removed_and_the_waiter_takes_a_new_one() {
        let dir = testkit::tempdir();
        let (root, path) = (dir.path(), dir.path().join(LOCK_NAME));
        let acquire = || ExclusiveLock::try_acquire(root, "p").unwrap();
        // Opened before the file goes, as by a process that waits.
        let refused = acquire().unwrap();
        let waiting = SharedLock::open(root).unwrap().0;
        assert!(acquire().is_none() && path.exists());
        drop(refused);
        assert!(!path.exists());
        let again = acquire().unwrap();
        assert!(!is_at(&waiting, &path).unwrap());
        again.sign();
        drop(again);
        assert!(path.exists());
        // This process did not create it.
        drop(acquire());
        assert!(path.exists());
        let (shared, other) = (SharedLock::acquire(root).unwrap(), SharedLock::acquire(root).unwrap());
        shared.remove(root);
        assert!(path.exists(), "another process shares it");
        other.remove(root);
        assert!(!path.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn holders_are_named() {
        let dir = testkit::tempdir();
        let _lock = ExclusiveLock::try_acquire(dir.path(), "p").unwrap().unwrap();
        let holders = holders(dir.path());
        assert_eq!(holders.len(), 1);
        assert_eq!((holders[0].pid, holders[0].exclusive), (std::process::id(), true));
    }
}
