//! The folders that the go command works in, and the removal of folders of dead processes.
//!
//! A process has one folder, `stoa-direct-XXXXXX`, accessible to its user alone. The process holds its lock
//! until it ends:
//!
//! ```text
//! stoa-direct-XXXXXX/lock
//! stoa-direct-XXXXXX/call-N/{mod,path,build,tmp,work,home}   one run of the go command
//! stoa-direct-XXXXXX/clones-N/                               repositories, kept between runs
//! ```
//!
//! Each run has its own module cache, so that it can be removed at any time. Only the clones in it are
//! shared, by a symlink at `mod/cache/vcs`: the go command locks a clone while it works on it. After a
//! command was killed, or when the clones have grown large, the next runs start without clones, and the old
//! ones are removed with the last run that uses them. Modules that are covered by a rule have clones of their
//! own: another module could otherwise name a private repository and get what is cloned already. If rules deny
//! anything, each module has clones of its own, so that they come from no repository that the module did not visit
//! (see [`super::visited`]).
//!
//! A starting process removes the folders whose lock it can get, and kills the remaining processes of their
//! owners. It leaves folders alone that only look similar: those with other names, with access for others,
//! or with contents but no lock.

use super::command::RUN_VARIABLE;
use super::visited::Visited;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};
use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;
use stoa_layout::lock::{FileLock, LockError};

/// The prefix of the folders' names.
const PREFIX: &str = "stoa-direct-";

/// Number of letters and digits after the prefix.
const SUFFIX_LEN: usize = 6;

const LOCK: &str = "lock";

/// Maximum number of folders of clones.
const MAX_CLONES: usize = 32;

/// The least size that counts for a file or a folder, since an empty one takes space, too.
const MIN_ENTRY_BYTES: u64 = 512;

/// Time between two measurements of the folder of a run.
const MEASURE_PAUSE: Duration = Duration::from_millis(500);

/// Maximum number of attempts to remove a folder that killed processes may still be writing to.
const REMOVE_TRIES: u32 = 20;

/// The scratch folder of this process, and its parent.
pub(super) struct Scratch {
    base: PathBuf,
    /// Maximum size of a run, and of all clones together. Larger clones are replaced by new ones.
    max_bytes: u64,
    swept: Once,
    run: Mutex<Option<Arc<Run>>>,
}

impl Scratch {
    pub(super) fn new(base: PathBuf, max_bytes: u64) -> Self {
        Self { base, max_bytes, swept: Once::new(), run: Mutex::new(None) }
    }

    /// Kills the processes and removes the folders that dead processes left, at the first call.
    pub(super) fn sweep(&self) {
        self.swept.call_once(|| {
            if let Err(error) = sweep(&self.base) {
                log::warn!(reason:% = error; "cannot remove old temporary folders of the go command");
            }
        });
    }

    /// Creates the folder for one run of the go command.
    pub(super) fn call(&self, users: Users) -> Result<Call, PathError> {
        let mut run = self.lock();
        // The folder for temporary files may have been cleaned.
        let current = match run.take().filter(|run| run.is_there()) {
            Some(run) => run,
            None => Arc::new(Run::begin(&self.base)?),
        };
        let run = Arc::clone(run.insert(current));
        Call::begin(run, users, self.max_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Run>>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The scratch folder of this process.
#[derive(Debug)]
struct Run {
    folder: PathBuf,
    lock: Option<FileLock>,
    next: AtomicU64,
    clones: Mutex<Vec<Arc<Clones>>>,
}

impl Run {
    fn begin(base: &Path) -> Result<Self, PathError> {
        loop {
            // Others must not read private modules.
            let folder = Durable::private().create_dir_named(base, PREFIX)?;
            if let Some(run) = Self::take(folder)? {
                return Ok(run);
            }
        }
    }

    /// Locks a new folder. Returns `None` if another process has swept it: until it is locked, it looks
    /// like the folder of a dead process.
    fn take(folder: PathBuf) -> Result<Option<Self>, PathError> {
        let path = folder.join(LOCK);
        match FileLock::try_acquire(&path, &Durable::private()) {
            Ok(Some(lock)) if lock.is_at(&path)? => {
                let (next, clones) = (AtomicU64::new(1), Mutex::default());
                Ok(Some(Self { folder, lock: Some(lock), next, clones }))
            }
            Ok(_) => Ok(None),
            Err(LockError::Path(error)) if error.is_not_found() => Ok(None),
            Err(LockError::Path(error)) => Err(error),
            Err(error) => Err(PathError::new("lock", path, io::Error::other(error))),
        }
    }

    fn is_there(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.is_at(&self.folder.join(LOCK)).unwrap_or(true))
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn fresh(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{}", self.number()))
    }

    fn clones(&self, users: Users) -> Result<Arc<Clones>, PathError> {
        let mut all = self.lock_clones();
        let found = match all.iter().position(|clones| clones.users == users) {
            Some(at) => all.remove(at),
            None => {
                let folder = self.fresh("clones");
                Durable::default().create_dir(&folder)?;
                Arc::new(Clones { folder, users, visited: Visited::default() })
            }
        };
        // The least recently used ones come first.
        all.push(Arc::clone(&found));
        if all.len() > MAX_CLONES {
            all.remove(0);
        }
        Ok(found)
    }

    /// Makes the next runs start without the least recently used clones while all together exceed a size.
    fn limit_clones(&self, max_bytes: u64) {
        let mut all: Vec<_> = self.lock_clones().iter().map(Arc::clone).collect();
        let mut sizes: Vec<u64> = all.iter().map(|clones| bytes_below(&clones.folder)).collect();
        while sizes.iter().sum::<u64>() > max_bytes {
            self.discard(&all.remove(0));
            sizes.remove(0);
        }
    }

    /// Makes the next runs start without these clones.
    fn discard(&self, clones: &Arc<Clones>) {
        self.lock_clones().retain(|current| !Arc::ptr_eq(current, clones));
    }

    fn lock_clones(&self) -> MutexGuard<'_, Vec<Arc<Clones>>> {
        self.clones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Before the folder is removed, because FUSE and NFS keep a file that is removed while it is open.
        self.lock = None;
        // Synchronously, since the process may be about to end.
        remove(&self.folder);
    }
}

/// The modules that share clones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Users {
    pub(super) are_covered: bool,
    /// The only module, if rules deny anything.
    pub(super) module: Option<String>,
}

/// Clones of repositories, removed after the last run that uses them.
#[derive(Debug)]
struct Clones {
    folder: PathBuf,
    users: Users,
    visited: Visited,
}

impl Drop for Clones {
    fn drop(&mut self) {
        remove_aside(self.folder.clone());
    }
}

/// The folder of one run of the go command, removed when dropped.
#[derive(Debug)]
pub(super) struct Call {
    folder: PathBuf,
    clones: Arc<Clones>,
    trace: PathBuf,
    run: Arc<Run>,
    max_bytes: u64,
}

impl Call {
    fn begin(run: Arc<Run>, users: Users, max_bytes: u64) -> Result<Self, PathError> {
        let (folder, clones) = (run.fresh("call"), run.clones(users)?);
        let trace = clones.visited.trace(&clones.folder, run.number());
        let call = Self { folder, clones, trace, run, max_bytes };
        let durable = Durable::default();
        for name in ["", "path", "build", "tmp", "work", "home", "mod", "mod/cache"] {
            durable.create_dir(&call.folder.join(name))?;
        }
        durable.replace_symlink(&call.clones.folder, &call.folder.join("mod/cache/vcs"), "vcs")?;
        // A main module, so that a go.mod in a parent folder has no effect.
        let path = call.folder.join("work/go.mod");
        let mut file = durable.create_file(&path)?;
        file.write_all(b"module stoa.invalid/scratch\n\ngo 1.16\n").at("write", &path)?;
        Ok(call)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the scratch folder of the process, which marks its children.
    pub(super) fn run_folder(&self) -> &Path {
        &self.run.folder
    }

    /// Returns the path of the file for git's requests.
    pub(super) fn trace(&self) -> &Path {
        &self.trace
    }

    /// Returns the repositories that git visited for the clones of this run, which has ended.
    pub(super) async fn visited(&self) -> io::Result<Vec<String>> {
        let (clones, trace) = (Arc::clone(&self.clones), self.trace.clone());
        let reading = tokio::task::spawn_blocking(move || clones.visited.end(&clones.folder, &trace));
        reading.await.map_err(io::Error::other)?
    }

    /// Waits until the files of this run exceed the limit, which it returns. The growth of the clones counts, too.
    pub(super) async fn outgrown(&self) -> u64 {
        let measured = |folders: Vec<PathBuf>| async move {
            let bytes = move || folders.iter().map(|folder| bytes_below(folder)).sum::<u64>();
            tokio::task::spawn_blocking(bytes).await.unwrap_or_default()
        };
        let before = measured(vec![self.clones.folder.clone()]).await;
        let mut pause = MEASURE_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            let bytes = measured(vec![self.folder.clone(), self.clones.folder.clone()]).await;
            if bytes.saturating_sub(before) > self.max_bytes {
                return self.max_bytes;
            }
            // A large tree is measured less often.
            pause = MEASURE_PAUSE.max(began.elapsed() * 10);
        }
    }

    /// Makes later runs start without the clones of this one.
    pub(super) fn spoil_clones(&self) {
        self.run.discard(&self.clones);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (folder, run, max_bytes) = (self.folder.clone(), Arc::clone(&self.run), self.max_bytes);
        aside(move || {
            remove(&folder);
            run.limit_clones(max_bytes);
        });
    }
}

/// Does work that waits for the disk on the blocking pool, if there is a runtime.
fn aside(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

fn remove_aside(folder: PathBuf) {
    aside(move || remove(&folder));
}

/// Removes a folder.
fn remove(folder: &Path) {
    // Killed processes may still write to it for a moment.
    for _ in 1..REMOVE_TRIES {
        if durable::remove_tree(folder).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Err(error) = durable::remove_tree(folder) {
        log::warn!(reason:% = error; "cannot remove a scratch folder now; trying again at exit or at the next start");
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => MIN_ENTRY_BYTES + bytes_below(&entry.path()),
        Ok(meta) => meta.len().max(MIN_ENTRY_BYTES),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Kills the processes and removes the folders that dead processes of this user left.
fn sweep(base: &Path) -> Result<(), PathError> {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(base).at("list", base)? {
        let entry = entry.at("list", base)?;
        let path = entry.path();
        if !is_scratch_name(entry.file_name().as_encoded_bytes()) || !is_scratch_folder(&path, own) {
            continue;
        }
        match FileLock::try_acquire(&path.join(LOCK), &Durable::default()) {
            Ok(Some(lock)) => {
                end_processes_of(&path);
                // A new process that takes the lock now notices that its folder is missing.
                drop(lock);
                remove(&path);
                log::info!(path:% = path.display(); "removed the scratch folder of a dead process");
            }
            Ok(None) => {}
            // Another process has swept it.
            Err(LockError::Path(error)) if error.is_not_found() => {}
            Err(error) => {
                log::warn!(path:% = path.display(), reason:% = error; "cannot remove an old scratch folder")
            }
        }
    }
    Ok(())
}

fn is_scratch_name(name: &[u8]) -> bool {
    let suffix = name.strip_prefix(PREFIX.as_bytes());
    suffix.is_some_and(|rest| rest.len() == SUFFIX_LEN && rest.iter().all(u8::is_ascii_alphanumeric))
}

/// Returns whether a folder was made by a process of this user. Other users' folders and other folders of
/// this user in the shared folder for temporary files are not touched.
fn is_scratch_folder(path: &Path, own: u32) -> bool {
    let is_closed = |meta: fs::Metadata| meta.is_dir() && meta.uid() == own && meta.mode() & 0o7777 == 0o700;
    // A process that is killed before it has the lock leaves an empty folder.
    let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    fs::symlink_metadata(path).is_ok_and(is_closed)
        && (fs::symlink_metadata(path.join(LOCK)).is_ok_and(|meta| meta.is_file()) || is_empty())
}

/// Kills the remaining processes of a dead process. Their environment has the unique name of its folder.
#[cfg(target_os = "linux")]
fn end_processes_of(folder: &Path) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let wanted = [RUN_VARIABLE.as_bytes(), b"=", folder.as_os_str().as_encoded_bytes()].concat();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // Opened before it is checked, so that the checked process is the killed one.
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
            && let Err(errno) = pidfd_send_signal(&held, Signal::KILL)
        {
            log::warn!(pid = pid.as_raw_nonzero().get(), reason:% = errno; "cannot kill a remaining child of a dead process");
        }
    }
}

/// On other systems the environment of processes is not accessible.
#[cfg(not(target_os = "linux"))]
fn end_processes_of(folder: &Path) {
    log::debug!(path:% = folder.display(), variable = RUN_VARIABLE; "cannot find the remaining children of a dead process on this system");
}

#[cfg(test)]
mod tests {
    use testkit::tree::names;

    use super::*;

    fn users(are_covered: bool) -> Users {
        Users { are_covered, module: None }
    }

    #[test]
    fn the_least_recently_used_clones_are_discarded() {
        let dir = testkit::tempdir();
        let scratch = Scratch::new(dir.path().to_owned(), 1 << 20);
        let call = |module: usize| {
            let module = Some(format!("v.example/{module}"));
            scratch.call(Users { are_covered: false, module }).unwrap()
        };
        let folder = |call: &Call| call.clones.folder.clone();
        let (first, second) = (call(0), call(1));
        let (folders, run) = ([folder(&first), folder(&second)], first.run_folder().to_owned());
        drop((first, second, call(0)));
        for module in 2..=MAX_CLONES {
            drop(call(module));
        }
        assert!(folders[0].is_dir() && !folders[1].exists());
        let clones = || names(&run).iter().filter(|name| name.starts_with("clones-")).count();
        assert_eq!(clones(), MAX_CLONES);
        let large = call(3);
        let path = folder(&large).join("pack");
        Durable::default().create_file(&path).unwrap().write_all(&vec![b'x'; (1 << 20) - 1000]).unwrap();
        drop(large);
        assert_eq!(clones(), MAX_CLONES, "empty ones need no space");
        Durable::default()
            .create_file(&folder(&call(4)).join("pack"))
            .unwrap()
            .write_all(&vec![b'x'; 2000])
            .unwrap();
        drop(call(4));
        assert!(!path.exists() && clones() == 1, "{:?}", names(&run));
    }

    #[test]
    fn empty_files_count() {
        let dir = testkit::tempdir();
        for name in ["a", "b", "c"] {
            Durable::default().create_file(&dir.path().join(name)).unwrap();
        }
        assert_eq!(bytes_below(dir.path()), 3 * MIN_ENTRY_BYTES);
    }

    #[test]
    fn a_run_leaves_its_clones_and_the_process_leaves_nothing() {
        let dir = testkit::tempdir();
        let scratch = Scratch::new(dir.path().to_owned(), u64::MAX);
        let first = scratch.call(users(true)).unwrap();
        let run = first.run_folder().to_owned();
        assert_eq!(fs::metadata(&run).unwrap().mode() & 0o777, 0o700);
        let (one, two) = (
            fs::canonicalize(first.folder().join("mod/cache/vcs")).unwrap(),
            scratch.call(users(true)).unwrap(),
        );
        assert_eq!(fs::canonicalize(two.folder().join("mod/cache/vcs")).unwrap(), one);
        drop(first);
        assert_eq!(names(&run), ["call-4", "clones-2", "lock"]);
        two.spoil_clones();
        assert!(one.is_dir(), "a run still uses them");
        drop(two);
        assert_eq!(names(&run), ["lock"]);
        drop(scratch);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn modules_that_are_not_covered_have_other_clones() {
        let dir = testkit::tempdir();
        let scratch = Scratch::new(dir.path().to_owned(), u64::MAX);
        let clones = |is_covered| {
            let call = scratch.call(users(is_covered)).unwrap();
            fs::canonicalize(call.folder().join("mod/cache/vcs")).unwrap()
        };
        assert_eq!(clones(true), clones(true));
        assert_ne!(clones(true), clones(false));
        assert_eq!(clones(false), clones(false));
    }

    #[tokio::test]
    async fn a_run_that_grows_too_large_is_noticed() {
        let dir = testkit::tempdir();
        let scratch = Scratch::new(dir.path().to_owned(), 1 << 20);
        let write = |call: &Call, bytes: usize| {
            let path = call.folder().join("mod/cache/vcs/pack");
            Durable::default().create_file(&path).unwrap().write_all(&vec![b'x'; bytes]).unwrap();
        };
        let call = scratch.call(users(true)).unwrap();
        write(&call, (1 << 20) - 1000);
        // The clones of earlier runs are not counted.
        let later = scratch.call(users(true)).unwrap();
        let mut outgrown = std::pin::pin!(later.outgrown());
        let waited = tokio::time::timeout(MEASURE_PAUSE * 2, &mut outgrown).await;
        assert!(waited.is_err(), "{waited:?}");
        let path = later.folder().join("tmp/large");
        Durable::default().create_file(&path).unwrap().write_all(&vec![b'x'; 2 << 20]).unwrap();
        assert_eq!(outgrown.await, 1 << 20);
    }

    #[test]
    fn a_missing_scratch_folder_is_created_again() {
        let dir = testkit::tempdir();
        let scratch = Scratch::new(dir.path().to_owned(), u64::MAX);
        let run = scratch.call(users(true)).unwrap().run_folder().to_owned();
        durable::remove_tree(&run).unwrap();
        assert_ne!(scratch.call(users(true)).unwrap().run_folder(), run);
    }

    #[test]
    fn only_folders_of_dead_processes_are_removed() {
        let dir = testkit::tempdir();
        let living = Scratch::new(dir.path().to_owned(), u64::MAX);
        let _call = living.call(users(true)).unwrap();
        let mut dead = Run::begin(dir.path()).unwrap();
        let folder = dead.folder.clone();
        // As after a kill: the lock is released, the folder stays.
        dead.lock = None;
        std::mem::forget(dead);
        Durable::default().create_dir(&dir.path().join("other")).unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("600").env(RUN_VARIABLE, &folder).spawn().unwrap();
        // Right after the start, its environment is not visible yet.
        let environment = PathBuf::from(format!("/proc/{}/environ", child.id()));
        while cfg!(target_os = "linux") && std::fs::read(&environment).unwrap().is_empty() {
            std::thread::yield_now();
        }
        Scratch::new(dir.path().to_owned(), u64::MAX).sweep();
        let left = names(dir.path());
        assert!(left.len() == 2 && left.contains(&"other".to_owned()), "{left:?}");
        if !cfg!(target_os = "linux") {
            child.kill().unwrap();
        }
        // It sleeps for ten minutes unless it is killed.
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn similar_folders_stay() {
        let dir = testkit::tempdir();
        let durable = Durable::default();
        let make = |name: &str, mode: u32, file: Option<&str>| {
            let folder = dir.path().join(name);
            durable.create_dir(&folder).unwrap();
            rustix::fs::chmod(&folder, rustix::fs::Mode::from_raw_mode(mode)).unwrap();
            if let Some(file) = file {
                durable.create_file(&folder.join(file)).unwrap();
            }
        };
        make("stoa-direct-notes", 0o700, Some(LOCK));
        make("stoa-direct-ab-def", 0o700, Some(LOCK));
        make("stoa-direct-abcdef", 0o700, Some("notes"));
        make("stoa-direct-opened", 0o755, Some(LOCK));
        let kept = names(dir.path());
        make("stoa-direct-killed", 0o700, Some(LOCK));
        make("stoa-direct-nolock", 0o700, None);
        sweep(dir.path()).unwrap();
        assert_eq!(names(dir.path()), kept);
        assert_eq!(names(&dir.path().join("stoa-direct-abcdef")), ["notes"]);
    }

    #[test]
    fn a_folder_that_another_process_removed_is_not_an_error() {
        let dir = testkit::tempdir();
        assert!(Run::take(dir.path().join("swept")).unwrap().is_none());
    }
}
