//! `stoa-migrate leftovers`: lists the leftovers of a store and moves them out of it.
//!
//! Listing works in every state and changes nothing. Moving takes the exclusive lock. It renames and never overwrites. An
//! interrupted move continues on the next run.
//!
//! Moving all leftovers needs a store at rest, because in the middle of a step a version may be half moved. Moving named
//! paths works in every state and reads nothing below them: it is the way on if the disk cannot read a path any more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use stoa_layout::inventory::Found;
use stoa_layout::lock::LOCK_NAME;
use stoa_layout::marker::{Marker, TEMPORARY_PREFIX};
use stoa_layout::step::Refusal;
use stoa_layout::{Durable, Exit, Leftover, PathError, RunError, Runner, State, StepError, durable};
use stoa_store::{Act, Audit};

use super::seen::SeenOnce;
use crate::command::context::actor;
use crate::command::overlap::overlap;
use crate::config::World;

/// The number of leftovers and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// The leftovers of a store.
pub(super) struct Leftovers<'a> {
    pub(super) runner: Runner<'a>,
    pub(super) world: &'a World,
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
        self.check_unused(&state)?;
        self.check_target(to)?;
        self.check_places(&state, to)?;
        lock.sign();
        durable::create_folder(to)?;
        let out = Mover { root: self.runner.root, to, durable: Durable::for_folder(to)? };
        let audit = self.audit()?;
        let (mut total, seen) = (Total::default(), SeenOnce::default());
        // A walk may miss a name in a folder from which others vanish, so repeat until a walk finds nothing.
        loop {
            let mut moved = 0_u64;
            self.each(&state, &mut |leftover, pieces| {
                let is_new = seen.is_new(&leftover.path);
                if is_new && !pieces.is_empty() {
                    self.note(audit.as_ref(), leftover, to);
                }
                for piece in pieces {
                    if out.take(piece)? {
                        moved += 1;
                    }
                }
                if !is_new {
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

    /// Moves the given paths out of the store, whatever they are.
    pub(super) fn take_out_paths(
        &self,
        to: &Path,
        paths: &[PathBuf],
        tell: &mut Tell<'_>,
    ) -> Result<Total, RunError> {
        let root = self.runner.root;
        let paths = paths.iter().map(|path| inside(root, path)).collect::<Result<Vec<_>, _>>()?;
        check_named(&paths)?;
        if !root.join(LOCK_NAME).exists() {
            self.look_without(&paths)?;
        }
        let lock = self.runner.lock()?;
        let state = self.look_without(&paths)?;
        self.check_unused(&state)?;
        self.check_target(to)?;
        for path in &paths {
            check_place(root, to, path)?;
        }
        lock.sign();
        durable::create_folder(to)?;
        let out = Mover { root, to, durable: Durable::for_folder(to)? };
        let audit = self.audit()?;
        let mut total = Total::default();
        let moved = self.take_each(paths, &out, audit.as_ref(), &mut total, tell);
        // Also after an error: some paths may be moved.
        let synced = durable::sync_file_system(root);
        moved?;
        synced?;
        Ok(total)
    }

    fn take_each(
        &self,
        paths: Vec<PathBuf>,
        out: &Mover<'_>,
        audit: Option<&Audit>,
        total: &mut Total,
        tell: &mut Tell<'_>,
    ) -> Result<(), RunError> {
        let Mover { root, to, .. } = *out;
        for path in paths {
            self.runner.cancel.check()?;
            let bytes = size(&path);
            let leftover =
                Leftover { path: path.clone(), bytes, reason: "named on the command line".to_owned() };
            if path.symlink_metadata().is_ok() {
                self.note(audit, &leftover, to);
            }
            if !out.take(&path)? {
                return Err(PathError::new("move", path, io::Error::from(io::ErrorKind::NotFound)).into());
            }
            let new = to.join(path.strip_prefix(root).unwrap_or(&path));
            total.add(&leftover);
            tell(&leftover, Some(&new))?;
        }
        Ok(())
    }

    /// Returns the state of the store. A folder without a marker is recognised by its content. If one of these paths cannot
    /// be read for that, the folder counts as a store without a marker.
    fn look_without(&self, paths: &[PathBuf]) -> Result<State, RunError> {
        let unmarked = self.runner.layouts.detectors.first().map(|detector| detector.layout());
        match (self.runner.state(), unmarked) {
            (Err(RunError::Outside(StepError::Path(error))), Some(layout))
                if paths.iter().any(|path| error.path.starts_with(path)) =>
            {
                Ok(State::Untagged(layout))
            }
            (state, _) => state,
        }
    }

    /// Refuses a store that another program uses without a lock.
    fn check_unused(&self, state: &State) -> Result<(), RunError> {
        let Some(inventory) = self.runner.layouts.inventory.as_deref() else { return Ok(()) };
        match inventory.forbids_moving(self.runner.root, state)? {
            Some(refusal) => Err(RunError::Refused(refusal)),
            None => Ok(()),
        }
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

    /// Returns the audit log. `None` if the layout of the store has no folder for it.
    fn audit(&self) -> Result<Option<Audit>, PathError> {
        let root = self.runner.root;
        let has_records = root.join("records").symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if !has_records {
            return Ok(None);
        }
        Ok(Some(Audit::new(root, Durable::for_root(root)?, actor(self.world, "leftovers move"))))
    }

    /// Writes the line of a leftover that is moved next.
    fn note(&self, audit: Option<&Audit>, leftover: &Leftover, to: &Path) {
        let Some(audit) = audit else { return };
        let relative = leftover.path.strip_prefix(self.runner.root).unwrap_or(&leftover.path);
        let (path, to) = (relative.to_string_lossy(), to.join(relative));
        audit.write(Act::of_path("move", &path).to(&to.to_string_lossy()).because(Some(&leftover.reason)));
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
            pieces.iter().try_for_each(|piece| check_place(self.runner.root, to, piece))
        })
    }
}

/// Refuses a missing path, and a path that lies below another named path.
fn check_named(paths: &[PathBuf]) -> Result<(), RunError> {
    for (number, path) in paths.iter().enumerate() {
        if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            let message = format!(
                "cannot move {}: it does not exist; nothing was changed\nhelp: run again without it",
                path.display()
            );
            return Err(refused(Exit::IO, message));
        }
        let other =
            paths.iter().enumerate().find(|(other, above)| *other != number && path.starts_with(above));
        if let Some((_, above)) = other {
            let message = format!(
                "cannot move {}: it moves with {}, which is named too; nothing was changed\n\
                 help: run again without it",
                path.display(),
                above.display()
            );
            return Err(refused(Exit::USAGE, message));
        }
    }
    Ok(())
}

/// Refuses to move a path to a place that exists already, and a path behind a symlink, which is not in the store.
fn check_place(root: &Path, to: &Path, piece: &Path) -> Result<(), StepError> {
    let mut above = piece.ancestors().skip(1).take_while(|folder| *folder != root);
    let is_link = |folder: &&Path| folder.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    if let Some(link) = above.find(is_link) {
        let message = format!(
            "cannot move {}: {} is a symlink; nothing was changed\n\
             help: replace the symlink by a folder, or move the file itself",
            piece.display(),
            link.display()
        );
        return Err(StepError::Refused(Refusal { exit: Exit::CANT_CREATE, message }));
    }
    let place = to.join(piece.strip_prefix(root).unwrap_or(piece));
    if place.symlink_metadata().is_err() {
        return Ok(());
    }
    let message = format!(
        "cannot move {} to {}: the path exists already; nothing was changed\n\
         help: move it away or choose another folder",
        piece.display(),
        place.display()
    );
    Err(StepError::Refused(Refusal { exit: Exit::CANT_CREATE, message }))
}

/// Returns a path that a person named as a path below the root, or refuses it.
fn inside(root: &Path, path: &Path) -> Result<PathBuf, RunError> {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // The path itself is not resolved: it may be a symlink, or unreadable.
    let resolved = |path: &Path| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let below = |root: &Path, path: &Path| path.strip_prefix(root).map(Path::to_owned).ok();
    let relative = below(&absolute(root), &absolute(path))
        .or_else(|| below(&root.canonicalize().ok()?, &resolved(&absolute(path))?));
    let found = relative.map(|relative| root.join(relative));
    match found {
        Some(found) if may_be_moved(root, &found) => Ok(found),
        found => {
            let why =
                if found.is_some() { "it is a part of the store itself" } else { "it is not in the store" };
            let message = format!(
                "cannot move {} out of {}: {why}; nothing was changed\nhelp: name a file or folder in the store",
                path.display(),
                root.display()
            );
            Err(refused(Exit::USAGE, message))
        }
    }
}

/// The folders that must stay. The other folders of a store are made again when they are missing.
const NEEDED: [&str; 3] = ["modules", "quarantine", "records"];

/// Returns whether a path may be moved out of a store: it is below the root, and neither a marker, the lock nor a folder
/// that must stay.
pub(super) fn may_be_moved(root: &Path, path: &Path) -> bool {
    let Ok(relative) = path.strip_prefix(root) else { return false };
    let names: Option<Vec<&str>> = relative
        .components()
        .map(|part| match part {
            Component::Normal(name) => Some(name.to_str().unwrap_or_default()),
            _ => None,
        })
        .collect();
    match names.as_deref() {
        None | Some([]) => false,
        Some([name]) => {
            *name != LOCK_NAME
                && !NEEDED.contains(name)
                && !name.starts_with(TEMPORARY_PREFIX)
                && Marker::parse(name).is_none()
        }
        Some(_) => true,
    }
}

/// Returns the size of a file, or of all files below a folder. What cannot be read counts as 0.
fn size(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {
            let entries = fs::read_dir(path).into_iter().flatten().map_while(Result::ok);
            entries.map(|entry| size(&entry.path())).sum()
        }
        meta => meta.map_or(0, |meta| meta.len()),
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
        let place = self.to.join(relative);
        let moved = match durable::rename_noreplace(piece, &place) {
            // A folder of a lower layer of an overlay, and not another file system.
            Err(error) if durable::is_unmovable_dir(&error, piece) && is_same_device(piece, self.to) => {
                self.durable.move_dir(piece, &place, "info")
            }
            moved => moved,
        };
        match moved {
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
        !relative.as_os_str().is_empty() && NEEDED.iter().all(|name| relative != Path::new(name))
    }
}

fn is_same_device(path: &Path, other: &Path) -> bool {
    let device = |path: &Path| path.symlink_metadata().map(|meta| meta.dev()).ok();
    device(path).is_some() && device(path) == device(other)
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
