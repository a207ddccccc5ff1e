//! The gate: the check that a program makes at every start.
//!
//! 1. [`Gate::pass`] checks with one `faccessat` whether the marker of the program's layout exists. On a current store
//!    this is the only cost.
//! 2. If the marker does not exist (`ENOENT`, no other error), the migrator beside the program is run and the check is
//!    repeated.
//! 3. [`Gate::hold`] is for programs that keep the store open or write to it. It takes the shared lock and checks that
//!    the marker is the only one.
//!
//! Both return a value that is required to open the store.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::durable::Durable;
use crate::lock::{self, LOCK_NAME, LockError, SharedLock};
use crate::marker::{Marker, MarkersError, Top};
use crate::parallel::RAISE;
use crate::{Exit, LayoutId, PathError};

/// The check before a store is used.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The root of the store.
    pub root: &'a Path,
    /// The layout of the program.
    pub current: &'a LayoutId,
    /// The program to run if the marker is missing.
    pub migrator: &'a Migrator,
}

/// The program to run if the marker of the current layout is missing.
#[derive(Debug, Clone)]
pub enum Migrator {
    /// A program in the folder of the running program.
    Beside {
        /// Its file name.
        name: &'static str,
        /// Additional arguments, for example for verbosity.
        arguments: Vec<OsString>,
    },
    /// Nothing is run. The error names the command.
    Forbidden {
        /// Its file name.
        name: &'static str,
    },
}

/// Proof that the marker of the current layout existed.
#[derive(Debug)]
pub struct Pass {
    root: PathBuf,
    layout: LayoutId,
    signals: SignalsAfter,
}

/// Proof that the marker of the current layout is the only marker, and that the lock keeps it so.
#[derive(Debug)]
pub struct Held {
    pass: Pass,
    /// `None` for a store without a lock file that is only read or on a read-only file system, and for one that is only
    /// read on storage without locks.
    lock: Option<SharedLock>,
    /// Whether this process created the lock file.
    has_new_lock: bool,
}

impl Pass {
    /// Returns the checked root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns its layout.
    pub fn layout(&self) -> &LayoutId {
        &self.layout
    }

    /// Returns the effect of signals on this process, for a program that handles signals itself.
    pub fn signals(&self) -> SignalsAfter {
        self.signals.clone()
    }
}

/// The effect of SIGINT and SIGTERM after a migrator ran: they end the process, as by default, until the program
/// handles them itself.
#[derive(Debug, Clone, Default)]
pub struct SignalsAfter(Arc<AtomicBool>);

impl SignalsAfter {
    /// Declares that the program handles these signals itself from now on.
    pub fn handled_by_program(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn end_the_process(&self) -> std::io::Result<()> {
        for signal in HANDED_ON {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&self.0))?;
        }
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// Signals that are passed on to the migrator while it runs.
const HANDED_ON: [i32; 2] = [SIGINT, SIGTERM];

impl Held {
    /// Returns the proof of the check.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// Releases the lock for a program that refuses the store after all. Removes the lock file if this process created it.
    pub fn give_up(self) {
        if let Some(lock) = self.lock.filter(|_| self.has_new_lock) {
            lock.remove(&self.pass.root);
        }
    }
}

/// The access to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads and writes.
    ReadWrite,
    /// Reads only. A missing lock file is not created, and storage without locks is accepted.
    ReadOnly,
}

/// The check failed.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The marker or the lock file could not be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The lock could not be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A program that is not a program of Stoa holds the lock.
    #[error("cannot lock {path}: {names} holds it, which is not a program of Stoa\nhelp: stop that process and start again", path = lock.display())]
    Foreign {
        /// The lock file.
        lock: PathBuf,
        /// The holder.
        names: String,
    },
    /// The migrator failed and reported the reason itself.
    #[error("{program} ended with {status}")]
    Migrator {
        /// Its path.
        program: PathBuf,
        /// Its exit status.
        status: ExitStatus,
    },
    /// The migrator does not exist or cannot be run.
    #[error(
        "cannot upgrade {root} to layout {layout}: {program} {why}\n\
         help: install both programs from the same release in the same folder",
        root = root.display(), program = program.display()
    )]
    NoMigrator {
        /// The root of the store.
        root: PathBuf,
        /// The required layout.
        layout: LayoutId,
        /// The path of the program.
        program: PathBuf,
        /// The reason why it cannot be run.
        why: String,
    },
    /// The system has no process for the migrator.
    #[error(
        "cannot run {program}: {source}\n\
         help: {RAISE}, or run `{program}` by itself first",
        program = program.display()
    )]
    NoProcess {
        /// The path of the program.
        program: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The migrator must not be run automatically.
    #[error("cannot use {root}: it is not a store at layout {layout}, and automatic upgrades are off\nhelp: run `{command}`", root = root.display())]
    Forbidden {
        /// The root of the store.
        root: PathBuf,
        /// The required layout.
        layout: LayoutId,
        /// The command to run.
        command: String,
    },
    /// The migrator succeeded and the marker is still missing.
    #[error(
        "{program} succeeded but did not create {marker}. The two programs are probably from different releases, or the \
         store was downgraded meanwhile\n\
         help: install both programs from the same release in the same folder and start again",
        program = program.display(), marker = marker.display()
    )]
    StillMissing {
        /// The migrator.
        program: PathBuf,
        /// The marker.
        marker: PathBuf,
    },
    /// Another process has changed the layout since the first check.
    #[error(
        "cannot use {root}: another process has just changed it from layout {layout} to another layout\n\
         help: start again to upgrade it to layout {layout}, or leave it at its new layout",
        root = root.display()
    )]
    Left {
        /// The root of the store.
        root: PathBuf,
        /// The required layout.
        layout: LayoutId,
    },
    /// The root has several markers, or the name of a marker is not a file.
    #[error(transparent)]
    Markers(#[from] MarkersError),
}

impl GateError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Lock(error) => error.exit(),
            Self::Foreign { .. } | Self::Left { .. } => Exit::BUSY,
            Self::Migrator { status, .. } => match (status.code(), status.signal()) {
                (Some(code), _) => Exit::code_of_child(u8::try_from(code).unwrap_or(1)),
                (None, Some(signal)) => Exit::signal(signal),
                (None, None) => Exit::IO,
            },
            Self::NoProcess { .. } => Exit::BUSY,
            Self::NoMigrator { .. } | Self::StillMissing { .. } | Self::Forbidden { .. } => Exit::NEWER,
            Self::Markers(_) => Exit::NOT_A_STORE,
        }
    }

    /// Returns whether the migrator has reported the error already.
    pub fn is_reported(&self) -> bool {
        matches!(self, Self::Migrator { status, .. } if status.code().is_some())
    }
}

/// The time between two log lines about the same wait.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// How long to wait for a program that is not a program of Stoa.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(30);

/// The time between two attempts to take the lock.
const PAUSE: Duration = Duration::from_millis(20);

impl Gate<'_> {
    /// Checks for the marker, and runs the migrator if it is missing.
    pub fn pass(&self) -> Result<Pass, GateError> {
        let signals = SignalsAfter::default();
        if !self.is_there()? {
            let program = self.migrate()?;
            // If this fails, the process only ignores these signals.
            let _ = signals.end_the_process();
            if !self.is_there()? {
                return Err(GateError::StillMissing { program, marker: self.marker() });
            }
        }
        Ok(Pass { root: self.root.to_owned(), layout: self.current.clone(), signals })
    }

    /// Takes the shared lock and checks the marker again. If a change of the layout was interrupted between the check and
    /// the lock, the whole check is repeated once.
    ///
    /// # Errors
    ///
    /// [`GateError::Left`] if the store is at another layout now.
    pub fn hold(&self, pass: Pass, access: Mode) -> Result<Held, GateError> {
        let mut pass = pass;
        for last in [false, true] {
            let mut has_new_lock = false;
            let lock = self.share(access, &mut has_new_lock)?;
            if self.has_one_marker()? {
                return Ok(Held { pass, lock, has_new_lock });
            }
            if last {
                break;
            }
            drop(lock);
            // The migrator would undo the downgrade of a person.
            match self.top()?.markers.as_slice() {
                [] => return Err(self.left()),
                [Marker::At(layout)] if layout != self.current => return Err(self.left()),
                _ => {}
            }
            pass.signals.handled_by_program();
            pass = self.pass()?;
        }
        Err(GateError::StillMissing { program: PathBuf::from("the migrator"), marker: self.marker() })
    }

    fn left(&self) -> GateError {
        GateError::Left { root: self.root.to_owned(), layout: self.current.clone() }
    }

    /// Checks that there is no other marker, for a program that only looks and takes no lock.
    pub fn check_markers(&self) -> Result<(), GateError> {
        // If the store has just left the layout, such a program finds nothing.
        self.has_one_marker().map(drop)
    }

    /// Returns whether the marker of the current layout exists. Fails if there are others beside it.
    fn has_one_marker(&self) -> Result<bool, GateError> {
        let top = self.top()?;
        let is_here = top.markers.contains(&Marker::At(self.current.clone()));
        if is_here && top.markers.len() > 1 {
            return Err(MarkersError::Several { root: self.root.to_owned(), markers: top.markers }.into());
        }
        Ok(is_here)
    }

    /// Reads the names in the root. Fails if the name of a marker is not a file.
    fn top(&self) -> Result<Top, GateError> {
        let top = Top::read(self.root)?.unwrap_or_default();
        if top.blocked.is_empty() {
            return Ok(top);
        }
        Err(MarkersError::Blocked { root: self.root.to_owned(), names: top.blocked }.into())
    }

    fn marker(&self) -> PathBuf {
        Marker::At(self.current.clone()).path(self.root)
    }

    fn is_there(&self) -> Result<bool, GateError> {
        let marker = self.marker();
        match rustix::fs::accessat(CWD, &marker, Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::NOTDIR) => Err(PathError::not_a_folder(self.root).into()),
            Err(errno) => Err(PathError::new("access", marker, errno).into()),
        }
    }

    fn share(&self, access: Mode, is_new: &mut bool) -> Result<Option<SharedLock>, GateError> {
        if access == Mode::ReadWrite {
            lock::unshare(self.root);
        }
        let attempt = SharedLock::try_acquire(self.root);
        match attempt {
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => {
                let (began, mut logged) = (Instant::now(), None::<Instant>);
                loop {
                    match SharedLock::try_acquire(self.root) {
                        // A downgrade that cleans up removed the file.
                        Err(LockError::Path(error)) if error.is_not_found() => {
                            return self.share(access, is_new);
                        }
                        Ok(None) => {}
                        lock => return Ok(lock?),
                    }
                    if logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
                        logged = Some(Instant::now());
                        let mut holders = lock::holders(self.root);
                        holders.retain(|holder| holder.exclusive);
                        let names = lock::names(&holders);
                        log::warn!(holder:% = names, lock:% = self.root.join(LOCK_NAME).display(); "waiting for the lock of the store");
                    }
                    // A migrator may take hours. Another program has no reason to hold the lock.
                    if began.elapsed() >= FOREIGN_PATIENCE
                        && let Some(names) = lock::foreign(&lock::holders(self.root))
                    {
                        return Err(GateError::Foreign { lock: self.root.join(LOCK_NAME), names });
                    }
                    std::thread::sleep(PAUSE);
                }
            }
            Err(LockError::Unsupported { path, source }) if access == Mode::ReadOnly => {
                log::warn!(lock:% = path.display(), reason:% = source; "serving read-only without a lock");
                Ok(None)
            }
            // The store was copied without its lock file.
            Err(LockError::Path(error)) if error.is_not_found() => {
                // A folder that is not a store at this layout is not changed.
                if access == Mode::ReadOnly || !self.has_one_marker()? {
                    return Ok(None);
                }
                let made = Durable::for_root(self.root)
                    .and_then(|durable| durable.open_or_create_new(&self.root.join(LOCK_NAME)));
                match made {
                    Ok((_, is_created)) => {
                        *is_new |= is_created;
                        // Another process may hold the new file already, and remove it.
                        self.share(access, is_new)
                    }
                    Err(error) if error.is_read_only() => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn migrate(&self) -> Result<PathBuf, GateError> {
        let (name, arguments) = match self.migrator {
            Migrator::Beside { name, arguments } => (name, arguments),
            Migrator::Forbidden { name } => {
                return Err(GateError::Forbidden {
                    root: self.root.to_owned(),
                    layout: self.current.clone(),
                    command: format!("{name} --store {}", self.root.display()),
                });
            }
        };
        let program = beside_this_program(name);
        let mut command = Command::new(&program);
        command.arg("--store").arg(self.root).args(["--auto", "--to", self.current.as_str()]).args(arguments);
        // Standard output belongs to the result of the command.
        if let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() {
            command.stdout(Stdio::from(stderr));
        }
        let status = run(&mut command).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => GateError::NoProcess { program: program.clone(), source },
            kind => GateError::NoMigrator {
                root: self.root.to_owned(),
                layout: self.current.clone(),
                why: match kind {
                    std::io::ErrorKind::NotFound => "does not exist".to_owned(),
                    std::io::ErrorKind::PermissionDenied => "is not executable".to_owned(),
                    _ => format!("cannot be run: {source}"),
                },
                program: program.clone(),
            },
        })?;
        if status.success() { Ok(program) } else { Err(GateError::Migrator { program, status }) }
    }
}

/// Returns the path of a program in the folder of the running program, with symlinks resolved.
pub fn beside_this_program(name: impl AsRef<OsStr>) -> PathBuf {
    beside(std::env::current_exe().ok(), name.as_ref())
}

/// Returns an absolute path in any case. A bare name would be looked up in `PATH`.
fn beside(own: Option<PathBuf>, name: &OsStr) -> PathBuf {
    // The path cannot be resolved if the program was replaced since it started. Its folder is still right.
    let own = own.map(|path| path.canonicalize().unwrap_or(path));
    let folder = own.as_deref().and_then(Path::parent).filter(|folder| folder.is_absolute());
    folder.unwrap_or(Path::new("/")).join(name)
}

/// Runs a program to its end. Signals to this process are passed on, and the program stops at a safe place.
fn run(command: &mut Command) -> std::io::Result<ExitStatus> {
    let mut signals = signal_hook::iterator::Signals::new(HANDED_ON)?;
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let (mut interrupts, mut pause) = (0, SHORTEST_PAUSE);
    // Without a thread, which the system may not have.
    loop {
        for signal in signals.pending() {
            interrupts += i32::from(signal == SIGINT);
            let signal = match signal {
                // The program that waits is asked to end at once; what the migrator wrote survives that.
                SIGINT if interrupts > 1 => rustix::process::Signal::KILL,
                SIGINT => rustix::process::Signal::INT,
                _ => rustix::process::Signal::TERM,
            };
            if let Some(pid) = pid {
                // The program may have ended just now.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// The pause between two looks at the migrator: short at first, since most runs are.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrator_is_never_looked_up_in_path() {
        let name = OsStr::new("migrate");
        for (own, expected) in [
            (Some("/no/such/folder/tool (deleted)"), "/no/such/folder/migrate"),
            (Some("tool"), "/migrate"),
            (None, "/migrate"),
        ] {
            assert_eq!(beside(own.map(PathBuf::from), name), Path::new(expected), "{own:?}");
        }
    }
}
