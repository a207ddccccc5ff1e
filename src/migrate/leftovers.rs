//! `stoa-migrate leftovers`: tells what a store holds that is no part of it, and takes it out.
//!
//! Listing looks at the tree as it is, in whatever state, and changes nothing. Moving is by renames that never
//! overwrite, under the exclusive lock, at rest only: in the middle of a step what looks incomplete may be half
//! moved. Stopped in between it goes on when it is run again, since what was moved is no leftover any more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stoa_layout::inventory::Found;
use stoa_layout::lock::{self, LOCK_NAME};
use stoa_layout::step::Refusal;
use stoa_layout::{
    Cancel, Durable, Event, Events, ExclusiveLock, Exit, Layouts, Leftover, Options, PathError, RunError,
    State, StepError, durable,
};

use super::told::Told;

/// How many were told or moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// What to look at, and how.
pub(super) struct Leftovers<'a> {
    pub(super) root: &'a Path,
    pub(super) layouts: &'a Layouts,
    pub(super) options: &'a Options,
    pub(super) cancel: &'a Cancel,
    pub(super) events: &'a dyn Events,
}

/// Takes one leftover, and where it was moved to; an error of its own ends the work.
pub(super) type Tell<'a> = dyn FnMut(&Leftover, Option<&Path>) -> io::Result<()> + 'a;

/// Takes one leftover and what must be renamed to take it away.
type Visit<'a> = dyn FnMut(&Leftover, &[PathBuf]) -> Result<(), StepError> + 'a;

impl Leftovers<'_> {
    /// Tells every one.
    pub(super) fn list(&self, tell: &mut Tell<'_>) -> Result<Sum, RunError> {
        let state = self.look()?;
        let mut sum = Sum::default();
        self.each(&state, &mut |leftover, _| {
            sum.add(leftover);
            Ok(tell(leftover, None).map_err(cannot_tell)?)
        })?;
        Ok(sum)
    }

    /// Takes every one out of the root.
    pub(super) fn take_out(&self, to: &Path, tell: &mut Tell<'_>) -> Result<Sum, RunError> {
        // Nothing is made below a folder that is none of ours.
        if !self.root.join(LOCK_NAME).exists() && self.look_at_rest()? == State::Empty {
            return Ok(Sum::default());
        }
        let lock = self.lock()?;
        let state = self.look_at_rest()?;
        let inventory = self.layouts.inventory.as_deref();
        if let Some(refusal) = inventory.and_then(|inventory| inventory.forbids_moving(self.root, &state)) {
            return Err(RunError::Refused(refusal));
        }
        self.check_target(to)?;
        self.check_places(&state, to)?;
        lock.sign();
        durable::create_root(to)?;
        let out = Mover { root: self.root, to, durable: Durable::for_root(to)? };
        let (mut sum, told) = (Sum::default(), Told::default());
        // A name may escape a look at a folder in which names vanish: until a look finds nothing.
        loop {
            let mut moved = 0_u64;
            self.each(&state, &mut |leftover, pieces| {
                for piece in pieces {
                    if out.take(piece)? {
                        moved += 1;
                    }
                }
                if !told.is_new(&leftover.path) {
                    return Ok(());
                }
                sum.add(leftover);
                let relative = leftover.path.strip_prefix(self.root).unwrap_or(&leftover.path);
                Ok(tell(leftover, Some(&to.join(relative))).map_err(cannot_tell)?)
            })?;
            if moved == 0 {
                break;
            }
        }
        durable::sync_file_system(self.root)?;
        Ok(sum)
    }

    fn look(&self) -> Result<State, RunError> {
        let state = State::look_assuming(self.root, self.layouts, self.options.assumed.as_ref())?;
        match state.refusal(self.root, self.layouts) {
            None => Ok(state),
            Some((exit, message)) => Err(refused(exit, message)),
        }
    }

    fn look_at_rest(&self) -> Result<State, RunError> {
        let state = self.look()?;
        let (State::Migrating { .. } | State::Creating(_), Some(marker)) = (&state, state.marker()) else {
            return Ok(state);
        };
        let message = format!(
            "{root} is in the middle of a step ({marker}), where nothing may be taken out; nothing was changed. Finish \
             the step with stoa-migrate --store {root}, or go back with --to, then run again",
            root = self.root.display()
        );
        Err(refused(Exit::NEWER, message))
    }

    fn each(&self, state: &State, visit: &mut Visit<'_>) -> Result<(), RunError> {
        let Some(inventory) = self.layouts.inventory.as_deref().filter(|_| *state != State::Empty) else {
            return Ok(());
        };
        inventory.take(self.root, state, &mut |found| {
            self.cancel.check()?;
            match found {
                Found::Whole { .. } | Found::Aside { .. } => Ok(()),
                Found::Leftover { leftover, pieces } => visit(leftover, pieces),
            }
        })?;
        Ok(())
    }

    fn lock(&self) -> Result<ExclusiveLock, RunError> {
        let since = Instant::now();
        let mut told: Option<Instant> = None;
        loop {
            self.cancel.check()?;
            if let Some(lock) = ExclusiveLock::try_acquire(self.root, &self.layouts.program)? {
                return Ok(lock);
            }
            let mut holders = lock::holders(self.root);
            holders.retain(|holder| holder.pid != std::process::id());
            if since.elapsed() >= self.options.lock_timeout {
                let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
                let names = if names.is_empty() { "another process".to_owned() } else { names.join(", ") };
                return Err(RunError::Busy(format!(
                    "{root} is in use by {names}; nothing was changed after waiting {seconds} s for {lock}. Stop it, \
                     then run again, or wait longer with --lock-timeout",
                    root = self.root.display(),
                    seconds = self.options.lock_timeout.as_secs(),
                    lock = self.root.join(LOCK_NAME).display(),
                )));
            }
            if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)) {
                self.events.event(Event::Waiting { holders: &holders });
                told = Some(Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Refuses a folder that renames cannot reach, or that is part of the store.
    fn check_target(&self, to: &Path) -> Result<(), RunError> {
        let there = to.ancestors().find_map(|folder| {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            folder.canonicalize().ok()
        });
        let root = self.root.canonicalize().map_err(|error| PathError::new("look at", self.root, error))?;
        let Some(there) = there else { return Ok(()) };
        let why = if there.starts_with(&root) {
            "it lies in the store"
        } else if to.canonicalize().is_ok_and(|to| root.starts_with(to)) {
            "the store lies in it"
        } else if !there.is_dir() {
            "a file stands in its place"
        } else if device(&there)? != device(&root)? {
            "it is on another file system, and leftovers are moved by renames only"
        } else {
            return Ok(());
        };
        let message = format!(
            "cannot move the leftovers of {} to {}: {why}; nothing was changed. Name another folder",
            root.display(),
            to.display()
        );
        Err(refused(Exit::CANT_CREATE, message))
    }

    /// Refuses where something is at a place already.
    fn check_places(&self, state: &State, to: &Path) -> Result<(), RunError> {
        self.each(state, &mut |_, pieces| {
            for piece in pieces {
                let place = to.join(piece.strip_prefix(self.root).unwrap_or(piece));
                if place.symlink_metadata().is_ok() {
                    let message = format!(
                        "cannot move {} to {}: something is there already; nothing was changed. Move that away or name \
                         another folder",
                        piece.display(),
                        place.display()
                    );
                    return Err(StepError::Refused(Refusal { exit: Exit::CANT_CREATE, message }));
                }
            }
            Ok(())
        })
    }
}

struct Mover<'a> {
    root: &'a Path,
    to: &'a Path,
    durable: Durable,
}

impl Mover<'_> {
    /// Moves one file or folder, and removes the folders that this emptied. `false` if it is gone.
    fn take(&self, piece: &Path) -> Result<bool, StepError> {
        let relative = piece.strip_prefix(self.root).unwrap_or(piece);
        if let Some(folder) = relative.parent() {
            self.durable.ensure_dirs_unsynced(self.to, folder)?;
        }
        match durable::rename_noreplace(piece, &self.to.join(relative)) {
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) if error.source.kind() == io::ErrorKind::CrossesDevices => {
                let message = format!(
                    "{error}: another file system is mounted in between; unmount it or move this by hand, then run again"
                );
                return Err(StepError::Refused(Refusal { exit: Exit::CANT_CREATE, message }));
            }
            result => result?,
        }
        let mut emptied = piece.parent();
        while let Some(folder) = emptied.filter(|folder| self.may_go(folder)) {
            if !durable::remove_empty_dir(folder)? {
                break;
            }
            emptied = folder.parent();
        }
        Ok(true)
    }

    /// The root stays, and the folders of the store in it.
    fn may_go(&self, folder: &Path) -> bool {
        let relative = folder.strip_prefix(self.root).unwrap_or(Path::new(""));
        !relative.as_os_str().is_empty() && relative != "modules"
    }
}

impl Sum {
    fn add(&mut self, leftover: &Leftover) {
        self.count += 1;
        self.bytes += leftover.bytes;
    }
}

fn device(path: &Path) -> Result<u64, PathError> {
    fs::metadata(path).map(|meta| meta.dev()).map_err(|error| PathError::new("look at", path, error))
}

fn cannot_tell(error: io::Error) -> PathError {
    PathError::new("write to", "standard output", error)
}

fn refused(exit: Exit, message: String) -> RunError {
    RunError::Refused(Refusal { exit, message })
}
