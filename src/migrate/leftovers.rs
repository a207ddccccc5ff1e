//! `stoa-migrate leftovers`: lists the leftovers of a store and moves them out of it.
//!
//! Listing works in every state and changes nothing. Moving takes the exclusive lock and needs a store at rest, because in
//! the middle of a step a version may be half moved. It renames and never overwrites. An interrupted move continues on the
//! next run.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stoa_layout::inventory::Found;
use stoa_layout::lock::LOCK_NAME;
use stoa_layout::step::Refusal;
use stoa_layout::{Durable, Exit, Leftover, PathError, RunError, Runner, State, StepError, durable};

use super::seen::SeenOnce;
use crate::command::overlap::overlap;

/// The number of leftovers and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// The leftovers of a store.
pub(super) struct Leftovers<'a> {
    pub(super) runner: Runner<'a>,
}

/// Receives a leftover, and its new path if it was moved. An error ends the work.
pub(super) type Tell<'a> = dyn FnMut(&Leftover, Option<&Path>) -> Result<(), StepError> + 'a;

/// Receives a leftover and the paths to rename in order to move it.
type Visit<'a> = dyn FnMut(&Leftover, &[PathBuf]) -> Result<(), StepError> + 'a;

impl Leftovers<'_> {
    /// Lists all leftovers.
    pub(super) fn list(&self, tell: &mut Tell<'_>) -> Result<Total, RunError> {
        let state = self.runner.state()?;
        let mut total = Total::default();
        self.each(&state, &mut |leftover, _| {
            total.add(leftover);
            tell(leftover, None)
        })?;
        Ok(total)
    }

    /// Moves all leftovers out of the store.
    pub(super) fn take_out(&self, to: &Path, tell: &mut Tell<'_>) -> Result<Total, RunError> {
        // A folder that is not a store is not changed.
        if !self.runner.root.join(LOCK_NAME).exists() && self.look_at_rest()? == State::Empty {
            return Ok(Total::default());
        }
        let lock = self.runner.lock()?;
        let state = self.look_at_rest()?;
        let inventory = self.runner.layouts.inventory.as_deref();
        if let Some(refusal) =
            inventory.and_then(|inventory| inventory.forbids_moving(self.runner.root, &state))
        {
            return Err(RunError::Refused(refusal));
        }
        self.check_target(to)?;
        self.check_places(&state, to)?;
        lock.sign();
        durable::create_root(to)?;
        let out = Mover { root: self.runner.root, to, durable: Durable::for_root(to)? };
        let (mut total, seen) = (Total::default(), SeenOnce::default());
        // A walk may miss a name in a folder from which others vanish, so repeat until a walk finds nothing.
        loop {
            let mut moved = 0_u64;
            self.each(&state, &mut |leftover, pieces| {
                for piece in pieces {
                    if out.take(piece)? {
                        moved += 1;
                    }
                }
                if !seen.is_new(&leftover.path) {
                    return Ok(());
                }
                total.add(leftover);
                let relative = leftover.path.strip_prefix(self.runner.root).unwrap_or(&leftover.path);
                tell(leftover, Some(&to.join(relative)))
            })?;
            if moved == 0 {
                break;
            }
        }
        durable::sync_file_system(self.runner.root)?;
        Ok(total)
    }

    fn look_at_rest(&self) -> Result<State, RunError> {
        let state = self.runner.state()?;
        let (State::Migrating { .. } | State::Creating(_), Some(marker)) = (&state, state.marker()) else {
            return Ok(state);
        };
        let message = format!(
            "cannot move leftovers out of {root}: it is in the middle of a step ({marker}); nothing was changed\n\
             help: finish the step with `stoa-migrate --store {root}`, or go back with --to, then run again",
            root = self.runner.root.display()
        );
        Err(refused(Exit::NEWER, message))
    }

    fn each(&self, state: &State, visit: &mut Visit<'_>) -> Result<(), RunError> {
        let Some(inventory) = self.runner.layouts.inventory.as_deref().filter(|_| *state != State::Empty)
        else {
            return Ok(());
        };
        inventory.take(self.runner.root, state, &mut |found| {
            self.runner.cancel.check()?;
            match found {
                Found::Whole { .. } | Found::Aside { .. } => Ok(()),
                Found::Leftover { leftover, pieces } => visit(leftover, pieces),
            }
        })?;
        Ok(())
    }

    /// Refuses a target on another file system, in the store, or around the store.
    fn check_target(&self, to: &Path) -> Result<(), RunError> {
        let there = std::path::absolute(to).unwrap_or_else(|_| to.to_owned());
        let there = there.ancestors().find(|folder| folder.exists()).unwrap_or(to);
        let why = match overlap(to, self.runner.root) {
            Some(overlap) => overlap.to_string(),
            None if !there.is_dir() => "it is not a folder".to_owned(),
            None if device(there)? != device(self.runner.root)? => {
                "it is on another file system, and leftovers can only be renamed".to_owned()
            }
            None => return Ok(()),
        };
        let message = format!(
            "cannot move the leftovers of {} to {}: {why}; nothing was changed\nhelp: choose another folder",
            self.runner.root.display(),
            to.display()
        );
        Err(refused(Exit::CANT_CREATE, message))
    }

    /// Refuses if a target path exists already.
    fn check_places(&self, state: &State, to: &Path) -> Result<(), RunError> {
        self.each(state, &mut |_, pieces| {
            for piece in pieces {
                let place = to.join(piece.strip_prefix(self.runner.root).unwrap_or(piece));
                if place.symlink_metadata().is_ok() {
                    let message = format!(
                        "cannot move {} to {}: the path exists already; nothing was changed\n\
                         help: move it away or choose another folder",
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
    /// Moves one file or folder and removes emptied folders. Returns `false` if the path is gone.
    fn take(&self, piece: &Path) -> Result<bool, StepError> {
        let relative = piece.strip_prefix(self.root).unwrap_or(piece);
        if let Some(folder) = relative.parent() {
            self.durable.ensure_dirs_unsynced(self.to, folder)?;
        }
        match durable::rename_noreplace(piece, &self.to.join(relative)) {
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) if error.source.kind() == io::ErrorKind::CrossesDevices => {
                let message = format!(
                    "cannot {} {}: another file system is mounted inside the store or the target\n\
                     help: unmount it, or move the path by hand, then run again",
                    error.action,
                    error.path.display()
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

    /// Returns whether an emptied folder may be removed: the root and the folders of the store stay.
    fn may_go(&self, folder: &Path) -> bool {
        let relative = folder.strip_prefix(self.root).unwrap_or(Path::new(""));
        !relative.as_os_str().is_empty() && relative != "modules"
    }
}

impl Total {
    fn add(&mut self, leftover: &Leftover) {
        self.count += 1;
        self.bytes += leftover.bytes;
    }
}

fn device(path: &Path) -> Result<u64, PathError> {
    fs::metadata(path).map(|meta| meta.dev()).map_err(|error| PathError::new("stat", path, error))
}

fn refused(exit: Exit, message: String) -> RunError {
    RunError::Refused(Refusal { exit, message })
}
