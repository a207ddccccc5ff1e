//! The gate: the one check that a program makes at every start.
//!
//! 1. [`Gate::pass`] asks with one `faccessat` whether the marker of the layout that the program was built
//!    for is there. If so, that is all that it costs.
//! 2. If it is not there (`ENOENT`, and nothing else), the migrator beside the program is run and the check
//!    is made once more.
//! 3. [`Gate::hold`] is for whatever keeps the store open or writes to it: it shares the lock, and looks
//!    under it that the marker is there alone.
//!
//! Both hand out a value that the code which opens the store asks for, so none reaches the files without.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::durable::Durable;
use crate::lock::{self, LOCK_NAME, LockError, SharedLock};
use crate::marker::{Marker, Top};
use crate::{Exit, LayoutId, PathError};

/// The check before a store is used.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The folder.
    pub root: &'a Path,
    /// The layout that the program was built for.
    pub current: &'a LayoutId,
    /// What to run if the marker is missing.
    pub migrator: &'a Migrator,
}

/// What to run if the marker of the current layout is missing.
#[derive(Debug, Clone)]
pub enum Migrator {
    /// The program of this name in the folder of the running one, with these arguments besides those that the
    /// gate gives.
    Beside {
        /// Its file name.
        name: &'static str,
        /// More arguments, say how much to tell.
        arguments: Vec<OsString>,
    },
    /// Nothing: say which command to run.
    Forbidden {
        /// Its file name.
        name: &'static str,
    },
}

/// Says that the marker of the current layout was there.
#[derive(Debug)]
pub struct Pass {
    root: PathBuf,
    layout: LayoutId,
    signals: SignalsAfter,
}

/// Says that the marker of the current layout is there alone, and that the lock keeps it so.
#[derive(Debug)]
pub struct Held {
    pass: Pass,
    lock: Option<SharedLock>,
}

impl Pass {
    /// Is the folder that was checked.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Is the layout that it is at.
    pub fn layout(&self) -> &LayoutId {
        &self.layout
    }

    /// Is what signals do to this process after a migrator ran, for a program that handles them itself.
    pub fn signals(&self) -> SignalsAfter {
        self.signals.clone()
    }
}

/// What SIGINT and SIGTERM do to this process after a migrator ran, to which they were handed on: they
/// end it, as by default, until the program says that it handles them itself.
#[derive(Debug, Clone, Default)]
pub struct SignalsAfter(Arc<AtomicBool>);

impl SignalsAfter {
    /// Says that the program handles these signals itself from now on.
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

/// Signals that the migrator gets too while it runs.
const HANDED_ON: [i32; 2] = [SIGINT, SIGTERM];

impl Held {
    /// Is what the check said.
    pub fn pass(&self) -> &Pass {
        &self.pass
    }

    /// Whether the lock is held. It is not only where the store is on a read-only file system and has no lock
    /// file, or where its storage has no locks and it was opened to be read only.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }
}

/// Whether the store will be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads and writes.
    ReadWrite,
    /// Reads only: a missing lock file is not made, and storage without locks is put up with.
    ReadOnly,
}

/// The gate is not passed.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The marker or the lock could not be asked for.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The lock was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The migrator failed; it has said why.
    #[error("{program} ended with {status}")]
    Migrator {
        /// Its path.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// The migrator is not there, or cannot be run.
    #[error(
        "{root} is not at layout {layout}, and {program}, which would bring it there, {why}; \
         install both programs of one release side by side",
        root = root.display(), program = program.display()
    )]
    NoMigrator {
        /// The folder.
        root: PathBuf,
        /// The layout that is wanted.
        layout: LayoutId,
        /// The path looked at.
        program: PathBuf,
        /// Why it cannot be run.
        why: String,
    },
    /// The migrator must not be run by itself.
    #[error("{root} is not at layout {layout}; run `{command}` to bring it there", root = root.display())]
    Forbidden {
        /// The folder.
        root: PathBuf,
        /// The layout that is wanted.
        layout: LayoutId,
        /// The command to run.
        command: String,
    },
    /// The migrator succeeded and the marker is still not there.
    #[error(
        "{program} ended well, and {marker} is still not there: it is of another release than this program, or the \
         store went back meanwhile; install both programs of one release side by side and start again",
        program = program.display(), marker = marker.display()
    )]
    StillMissing {
        /// The migrator.
        program: PathBuf,
        /// The marker.
        marker: PathBuf,
    },
    /// More than one marker, or something else under a marker's name.
    #[error(
        "{root} holds {names} where there must be one marker; nothing was changed. Find out which one tells the truth \
         (a copy or a restored backup is the usual cause), and move the others away",
        root = root.display()
    )]
    Markers {
        /// The folder.
        root: PathBuf,
        /// The names, with commas.
        names: String,
    },
}

impl GateError {
    /// Is the code that a program ends with for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Path(error) => error.exit(),
            Self::Lock(error) => error.exit(),
            Self::Migrator { status, .. } => match (status.code(), status.signal()) {
                (Some(code), _) => Exit::code_of_child(u8::try_from(code).unwrap_or(1)),
                (None, Some(signal)) => Exit::signal(signal),
                (None, None) => Exit::IO,
            },
            Self::NoMigrator { .. } | Self::StillMissing { .. } | Self::Forbidden { .. } => Exit::NEWER,
            Self::Markers { .. } => Exit::NOT_A_STORE,
        }
    }

    /// Whether whoever failed has told the user already.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::Migrator { status, .. } if status.code().is_some())
    }
}

impl Gate<'_> {
    /// Checks for the marker, and runs the migrator if it is missing.
    pub fn pass(&self) -> Result<Pass, GateError> {
        let signals = SignalsAfter::default();
        if !self.is_there()? {
            let program = self.migrate()?;
            // Without it the process would merely be deaf to them for the rest of its life.
            let _ = signals.end_the_process();
            if !self.is_there()? {
                return Err(GateError::StillMissing { program, marker: self.marker() });
            }
        }
        Ok(Pass { root: self.root.to_owned(), layout: self.current.clone(), signals })
    }

    /// Shares the lock and looks under it; if the store went away from the current layout between the check
    /// and the lock, passes the gate once more.
    pub fn hold(&self, pass: Pass, access: Mode) -> Result<Held, GateError> {
        let mut pass = pass;
        for last in [false, true] {
            let lock = self.share(access)?;
            let top = self.top()?;
            let here = Marker::At(self.current.clone());
            let others = top.markers.iter().filter(|marker| **marker != here).map(ToString::to_string);
            let others: Vec<String> = others.collect();
            let is_here = top.markers.contains(&here);
            if is_here && others.is_empty() {
                return Ok(Held { pass, lock });
            }
            if is_here {
                let names = format!("{here} and {}", others.join(", "));
                return Err(GateError::Markers { root: self.root.to_owned(), names });
            }
            if last {
                break;
            }
            drop(lock);
            pass.signals.handled_by_program();
            pass = self.pass()?;
        }
        Err(GateError::StillMissing { program: PathBuf::from("the migrator"), marker: self.marker() })
    }

    /// Is the names in the root, if no folder or symlink stands under the name of a marker.
    fn top(&self) -> Result<Top, GateError> {
        let top = Top::read(self.root)?.unwrap_or_default();
        if top.blocked.is_empty() {
            return Ok(top);
        }
        let names = format!("{}, which is no file,", top.blocked.join(", "));
        Err(GateError::Markers { root: self.root.to_owned(), names })
    }

    fn marker(&self) -> PathBuf {
        Marker::At(self.current.clone()).path(self.root)
    }

    fn is_there(&self) -> Result<bool, GateError> {
        let marker = self.marker();
        match rustix::fs::accessat(CWD, &marker, Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(PathError::new("look for", marker, errno).into()),
        }
    }

    fn share(&self, access: Mode) -> Result<Option<SharedLock>, GateError> {
        let attempt = SharedLock::try_acquire(self.root);
        match attempt {
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => {
                let holders: Vec<String> = lock::holders(self.root)
                    .iter()
                    .filter(|holder| holder.exclusive)
                    .map(ToString::to_string)
                    .collect();
                let names =
                    if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") };
                log::warn!("waiting for {names}, which holds {}", self.root.join(LOCK_NAME).display());
                Ok(Some(SharedLock::acquire(self.root)?))
            }
            Err(LockError::Unsupported { path, source }) if access == Mode::ReadOnly => {
                log::warn!("{}: no locks ({source}); serving it read-only without one", path.display());
                Ok(None)
            }
            // A store that was copied without it.
            Err(LockError::Path(error)) if error.is_not_found() => {
                // Nothing is made in a folder that is no store after all.
                self.top()?;
                let made = Durable::for_root(self.root)
                    .and_then(|durable| durable.open_or_create(&self.root.join(LOCK_NAME)));
                match made {
                    Ok(_) => Ok(Some(SharedLock::acquire(self.root)?)),
                    Err(error) if access == Mode::ReadOnly || error.is_read_only() => Ok(None),
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
        // The standard output belongs to the result of the command that was asked for.
        if let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() {
            command.stdout(Stdio::from(stderr));
        }
        let status = run(&mut command).map_err(|error| GateError::NoMigrator {
            root: self.root.to_owned(),
            layout: self.current.clone(),
            why: match error.kind() {
                std::io::ErrorKind::NotFound => "is not there".to_owned(),
                std::io::ErrorKind::PermissionDenied => "is not executable".to_owned(),
                _ => format!("cannot be run: {error}"),
            },
            program: program.clone(),
        })?;
        if status.success() { Ok(program) } else { Err(GateError::Migrator { program, status }) }
    }
}

/// Is the path of a program in the folder of the running one, symlinks resolved.
pub fn beside_this_program(name: impl AsRef<OsStr>) -> PathBuf {
    beside(std::env::current_exe().ok(), name.as_ref())
}

/// An absolute path in any case: a bare name would be looked for in `PATH`.
fn beside(own: Option<PathBuf>, name: &OsStr) -> PathBuf {
    // It cannot be resolved when it was replaced since it started; its folder is where it was.
    let own = own.map(|path| path.canonicalize().unwrap_or(path));
    let folder = own.as_deref().and_then(Path::parent).filter(|folder| folder.is_absolute());
    folder.unwrap_or(Path::new("/")).join(name)
}

/// Runs a program to its end. A signal that asks this process to stop is handed on, and the program says how
/// the work ended: it stops at a safe place.
fn run(command: &mut Command) -> std::io::Result<ExitStatus> {
    let mut signals = signal_hook::iterator::Signals::new(HANDED_ON)?;
    let handle = signals.handle();
    let mut child = command.spawn().inspect_err(|_| handle.close())?;
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let forward = std::thread::spawn(move || {
        let mut interrupts = 0;
        for signal in signals.forever() {
            interrupts += i32::from(signal == SIGINT);
            let signal = match signal {
                // The program that waits is asked to end at once; what the migrator wrote survives that.
                SIGINT if interrupts > 1 => rustix::process::Signal::KILL,
                SIGINT => rustix::process::Signal::INT,
                _ => rustix::process::Signal::TERM,
            };
            if let Some(pid) = pid {
                // It may have ended by itself just now.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    });
    let status = child.wait();
    handle.close();
    let _ = forward.join();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrator_is_never_looked_for_in_path() {
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
