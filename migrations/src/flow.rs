//! Moves versions from one layout to the other: streamed, in parallel, by renames.
//!
//! A pass walks the source side and judges each version. `mod` and `zip` move first and the info last, so a half-moved
//! version still has its info on the source side, where the next pass finds it. After a change of direction in the middle
//! of a step it is the other way round. A version is therefore judged by the union of both sides.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use stoa_gomod::ModuleVersion;
use stoa_layout::durable::Folder;
use stoa_layout::events::Silent;
use stoa_layout::signals::Cancelled;
use stoa_layout::step::{Refusal, Remains, Work};
use stoa_layout::{
    Context, Direction, Durable, Event, Exit, LayoutId, Leftover, Moved, PathError, Step, StepError, Survey,
    durable, parallel,
};

use crate::flat::{self, Flat};
use crate::folders::Chain;
use crate::obstacles::Obstacles;
use crate::picture::{Candidate, Files, Finding, Names, Picture, exists, metadata, too_long};
use crate::removal::Removal;
use crate::{refuse, remains, v0, v2, whole};

/// A function that creates or removes folders after all versions have moved.
pub(crate) type FolderWork = fn(&Path, &Durable, &Removal) -> Result<(), PathError>;

/// A step that moves versions from one picture to another.
pub(crate) struct Flow {
    pub(crate) from: LayoutId,
    pub(crate) to: LayoutId,
    pub(crate) description: &'static str,
    pub(crate) old: &'static dyn Picture,
    pub(crate) new: &'static dyn Picture,
    /// Whether another program wrote the old layout. Its versions are judged by content, and the step may be refused.
    pub(crate) is_foreign: bool,
    /// Creates the folders of the new layout.
    pub(crate) folders_up: FolderWork,
    /// Removes the folders of the new layout.
    pub(crate) folders_back: FolderWork,
    /// The folders that `folders_back` removes with their content.
    pub(crate) removed_back: &'static [&'static str],
}

/// The judgement of a version.
pub(crate) enum Verdict {
    /// No file of the version is on this side.
    Elsewhere,
    /// The version moves.
    Moves {
        bytes: u64,
        /// The files on the other side.
        there: Files,
    },
    /// The version stays, for this reason.
    Stays(String),
    /// The place on the other side is taken.
    Taken(String),
}

/// Number of batches that may wait for a thread.
const AHEAD: usize = 8;

/// Number of versions in a batch that is only looked at.
const LOOKS: usize = 64;

/// Number of versions between two progress events.
pub(crate) const REPORT_EVERY: u64 = 64;

impl Flow {
    fn sides(&self, direction: Direction) -> (&'static dyn Picture, &'static dyn Picture) {
        match direction {
            Direction::Up => (self.old, self.new),
            Direction::Back => (self.new, self.old),
        }
    }

    pub(crate) fn judge(
        &self,
        root: &Path,
        direction: Direction,
        candidate: &Candidate,
    ) -> Result<Verdict, StepError> {
        self.judge_in(root, direction, candidate, &mut Batch::default())
    }

    fn judge_in(
        &self,
        root: &Path,
        direction: Direction,
        candidate: &Candidate,
        batch: &mut Batch,
    ) -> Result<Verdict, StepError> {
        let there = self.sides(direction).1.files(root, &candidate.version)?;
        if let Some(why) = there.in_order().into_iter().find_map(|path| too_long(root, path)) {
            return Ok(Verdict::Stays(why));
        }
        let is_all_here = batch.is_missing(&there)?;
        let mut union = candidate.files.clone();
        let (mut missing, mut has_zip) = (None, candidate.has[1]);
        let parts =
            candidate.files.in_order().into_iter().zip(there.in_order()).zip(candidate.has).enumerate();
        for (part, ((here, there), has)) in parts {
            let name = ["go.mod", "zip", "info"][part];
            let other = if is_all_here { None } else { metadata(there)? };
            match (has, other) {
                (true, None) => {}
                (true, Some(other)) => match metadata(here)? {
                    // The file is linked there and not yet unlinked here. The move finishes it.
                    Some(own) if (own.dev(), own.ino()) == (other.dev(), other.ino()) => {}
                    Some(_) => {
                        return Ok(Verdict::Taken(format!(
                            "its {name} already exists at {}",
                            there.display()
                        )));
                    }
                    None => {}
                },
                (false, Some(other)) if other.is_file() => {
                    union.put(part, there);
                    has_zip |= part == 1;
                }
                (false, Some(_)) => return Ok(Verdict::Taken(format!("{} is not a file", there.display()))),
                (false, None) => missing = missing.or(Some(name)),
            }
        }
        if let Some(fault) = &candidate.fault {
            return Ok(Verdict::Stays(fault.clone()));
        }
        if candidate.has == [false; 3] && !candidate.has_seal {
            return Ok(Verdict::Elsewhere);
        }
        if let (true, Some(own), Some(there)) = (candidate.has_seal, &candidate.files.seal, &there.seal)
            && is_another_file(own, there)?
        {
            return Ok(Verdict::Taken(format!("its seal already exists at {}", there.display())));
        }
        if candidate.has == [false; 3] && missing.is_some() {
            return Ok(Verdict::Stays("foreign: a seal without its version".to_owned()));
        }
        if let Some(missing) = missing {
            let known = candidate.without_zip.clone().filter(|_| !has_zip);
            return Ok(Verdict::Stays(known.unwrap_or_else(|| format!("incomplete: it has no {missing}"))));
        }
        if self.is_foreign && direction == Direction::Up {
            match whole::examine(&candidate.version, &union)? {
                Ok(bytes) if candidate.has == [true; 3] => return Ok(Verdict::Moves { bytes, there }),
                Ok(_) => {}
                Err(fault) => return Ok(Verdict::Stays(fault)),
            }
        }
        let here = candidate.files.in_order().into_iter().zip(candidate.has).filter(|(_, has)| *has);
        let mut bytes = 0;
        for (here, _) in here {
            bytes += metadata(here)?.map_or(0, |meta| meta.len());
        }
        Ok(Verdict::Moves { bytes, there })
    }

    fn carry(
        &self,
        context: &Context<'_>,
        candidate: &Candidate,
        there: &Files,
        batch: &mut Batch,
    ) -> Result<(), StepError> {
        let root = context.root();
        let folder = there.folder();
        batch.make(root, folder, context.lock.durable())?;
        let own = &candidate.files;
        if let Some(own) = own.seal.as_deref().filter(|_| candidate.has_seal) {
            match there.seal.as_deref().filter(|there| too_long(root, there).is_none()) {
                Some(there) => durable::rename_noreplace(own, there)?,
                // A seal is derived, and the other side has no place for it.
                None => durable::remove_file(own)?,
            }
        }
        for ((here, there), has) in own.in_order().into_iter().zip(there.in_order()).zip(candidate.has) {
            if has {
                durable::rename_noreplace(here, there)?;
            }
        }
        Ok(())
    }

    fn pass(&self, context: &Context<'_>, direction: Direction) -> Result<Moved, StepError> {
        let (from, to) = self.sides(direction);
        let root = context.root();
        let tally = Tally::default();
        let work = context.work;
        let each = |candidate: &Candidate, batch: &mut Batch| -> Result<(), StepError> {
            work.cancel.check()?;
            match self.judge_in(root, direction, candidate, batch)? {
                Verdict::Elsewhere => {}
                Verdict::Moves { bytes, there } => {
                    self.carry(context, candidate, &there, batch)?;
                    tally.moved(bytes, &work);
                }
                // A version that stayed would never be found at the older layout. The survey refuses this too, but a
                // resumed step has no survey.
                Verdict::Taken(reason) if direction == Direction::Back => {
                    return Err(in_the_way(candidate, &reason));
                }
                Verdict::Stays(reason) | Verdict::Taken(reason) => tally.left(&work, candidate, reason)?,
            }
            Ok(())
        };
        walk_in_parallel(from, root, &work, &tally, &each)?;
        let moved = tally.sum();
        // Removing emptied folders shortens the next pass. From v1 up, the moves empty no folder.
        let empties_folders = self.is_foreign || direction == Direction::Back;
        if empties_folders || moved.items == 0 {
            let removal = Removal::new(work.threads);
            if empties_folders {
                from.remove_emptied(root, to, &removal)?;
            }
            if moved.items == 0 {
                let folders = if direction == Direction::Up { self.folders_up } else { self.folders_back };
                folders(root, context.lock.durable(), &removal)?;
                removal.report(&work);
            }
        }
        Ok(moved)
    }
}

impl Step for Flow {
    fn from(&self) -> LayoutId {
        self.from.clone()
    }

    fn to(&self) -> LayoutId {
        self.to.clone()
    }

    fn description(&self) -> &str {
        self.description
    }

    fn survey(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError> {
        let tally = Tally::default();
        let obstacles = Obstacles::new(self, root, direction)?;
        let each = |candidate: &Candidate, batch: &mut Batch| -> Result<(), StepError> {
            work.cancel.check()?;
            match self.judge_in(root, direction, candidate, batch)? {
                Verdict::Elsewhere => {}
                Verdict::Moves { bytes, there } => {
                    obstacles.moves(candidate, &there, batch)?;
                    tally.count(bytes);
                }
                Verdict::Taken(reason) if direction == Direction::Back => {
                    obstacles.taken(candidate, &reason);
                }
                Verdict::Stays(reason) | Verdict::Taken(reason) => tally.left(work, candidate, reason)?,
            }
            Ok(())
        };
        walk_in_parallel(self.sides(direction).0, root, work, &tally, &each)?;
        let refusals = obstacles.refusals()?;
        let Moved { items, bytes, leftovers } = tally.sum();
        Ok(Survey { items, bytes, leftovers, refusals, ..Survey::default() })
    }

    fn prepare(&self, root: &Path, direction: Direction, work: &Work<'_>) -> Result<Survey, StepError> {
        // What an earlier downgrade left below `modules` may be in the way.
        if direction == Direction::Back || self.is_foreign && may_have_names(&root.join("modules")) {
            return self.survey(root, direction, work);
        }
        let obstacles = Obstacles::new(self, root, direction)?;
        if let Some(Moved { items, .. }) = work.just_moved {
            let refusals = obstacles.refusals()?;
            return Ok(Survey { items, refusals, is_estimate: true, is_first: true, ..Survey::default() });
        }
        // Judging is expensive, and the pass up judges again. So only look for what forbids the step.
        let items = AtomicU64::new(0);
        let walk = |next: Next<'_, (Files, Option<ModuleVersion>)>| {
            let mut found = Vec::new();
            let count = self.old.estimate(root, &mut |files, version| {
                work.cancel.check()?;
                found.push((files.clone(), version.cloned()));
                if found.len() < LOOKS { Ok(()) } else { next(std::mem::take(&mut found)) }
            })?;
            items.store(count, Ordering::Relaxed);
            next(found)
        };
        in_parallel(work.threads, walk, &|(files, version), batch| {
            obstacles.leaves(files, &mut batch.left)?;
            match version {
                // Otherwise there is nothing below `modules`.
                Some(version) if !self.is_foreign => {
                    obstacles.enters(version, &self.new.files(root, version)?, batch)
                }
                _ => Ok(()),
            }
        })?;
        let items = items.into_inner();
        // The survey decides, because a version that stays forbids nothing.
        if obstacles.has_bad_folder()? {
            return self.survey(root, direction, work);
        }
        let refusals = obstacles.refusals()?;
        Ok(Survey { items, refusals, is_estimate: true, is_first: self.is_foreign, ..Survey::default() })
    }

    fn resume(&self, root: &Path, direction: Direction, _: &Work<'_>) -> Result<Vec<Refusal>, StepError> {
        let mut refusals = refuse::not_folders(root)?;
        let is_of_others = self.is_foreign && direction == Direction::Up;
        if is_of_others {
            refusals.extend(refuse::open_files(root)?);
        }
        Ok(refusals)
    }

    fn foresee(
        &self,
        root: &Path,
        direction: Direction,
        at: &LayoutId,
        work: &Work<'_>,
    ) -> Result<Vec<Refusal>, StepError> {
        // On the way up the place of a later step is empty, or its content stays as a leftover.
        let Some(here) = picture_of(at).filter(|_| direction == Direction::Back) else {
            return Ok(Vec::new());
        };
        let (_, other) = self.sides(direction);
        let obstacles = Obstacles::new(self, root, direction)?;
        let each = |candidate: &Candidate, batch: &mut Batch| -> Result<(), StepError> {
            work.cancel.check()?;
            let there = other.files(root, &candidate.version)?;
            let is_too_long = there.in_order().into_iter().any(|path| too_long(root, path).is_some());
            if candidate.has != [true; 3] || candidate.fault.is_some() || is_too_long {
                return Ok(());
            }
            if !batch.is_missing(&there)? {
                for path in there.in_order() {
                    if exists(path)? {
                        obstacles.taken(candidate, &format!("{} already exists", path.display()));
                        break;
                    }
                }
            }
            obstacles.enters(&candidate.version, &there, batch)
        };
        // The first step reports the leftovers.
        let quiet = Work { events: &Silent, ..*work };
        walk_in_parallel(here, root, &quiet, &Tally::default(), &each)?;
        obstacles.refusals()
    }

    fn remains(&self, root: &Path) -> Result<Remains, StepError> {
        if self.is_foreign { Ok(remains::of(root)?) } else { Ok(Remains::default()) }
    }

    fn remove_remains(&self, root: &Path, folder: &Path) -> Result<(), StepError> {
        if self.is_foreign { Ok(remains::remove(root, folder)?) } else { Ok(()) }
    }

    fn apply(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        self.pass(context, Direction::Up)
    }

    fn revert(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        self.pass(context, Direction::Back)
    }

    fn check(&self, context: &Context<'_>, direction: Direction) -> Result<(), StepError> {
        let root = context.root();
        let from = self.sides(direction).0;
        from.walk(root, &mut |found| {
            let Finding::Versions(candidates) = found else { return Ok(()) };
            for candidate in candidates {
                if let Verdict::Moves { .. } = self.judge(root, direction, &candidate)? {
                    let message = format!(
                        "cannot finish the step: {} was not moved\nhelp: run again to resume",
                        candidate.shown.display()
                    );
                    return Err(StepError::Refused(Refusal { exit: Exit::IO, message }));
                }
            }
            Ok(())
        })
    }
}

/// Returns the picture of a layout.
fn picture_of(layout: &LayoutId) -> Option<&'static dyn Picture> {
    match layout {
        layout if *layout == v0::ID => Some(&v0::V0),
        layout if *layout == flat::TREE => Some(&Flat::Tree),
        layout if *layout == flat::V1 => Some(&Flat::V1),
        layout if *layout == v2::ID => Some(&v2::V2),
        _ => None,
    }
}

/// Returns whether a folder exists and may have names in it. The survey reports what is wrong with an unreadable folder.
fn may_have_names(folder: &Path) -> bool {
    Names::of(folder).map_or(true, |names| names.is_some_and(|mut names| names.next().is_some()))
}

fn in_the_way(candidate: &Candidate, reason: &str) -> StepError {
    let message = format!(
        "cannot move {}: {reason}\n\
         help: move that file out of the store, then run again",
        candidate.version
    );
    StepError::Refused(Refusal { exit: Exit::CANT_CREATE, message })
}

/// Returns whether two different files are at these paths.
fn is_another_file(here: &Path, there: &Path) -> Result<bool, PathError> {
    let (Some(here), Some(there)) = (metadata(here)?, metadata(there)?) else { return Ok(false) };
    Ok((here.dev(), here.ino()) != (there.dev(), there.ino()))
}

/// The state of the work on a batch, which nearly always belongs to one module.
#[derive(Default)]
pub(crate) struct Batch {
    // Files that come into the folder later come from this side, under the exclusive lock, and belong to other versions.
    /// The last folder on the other side, and whether it was missing.
    looked: PathBuf,
    is_missing: bool,
    /// The last folder that was created or found, and the open folder above it.
    made: PathBuf,
    above: Option<Folder>,
    /// The folders that were checked before the step.
    pub(crate) left: Chain,
    pub(crate) entered: Chain,
}

impl Batch {
    /// Returns whether the folder of these files is missing.
    fn is_missing(&mut self, there: &Files) -> Result<bool, PathError> {
        let folder = there.folder();
        if self.looked != folder {
            self.is_missing = metadata(folder)?.is_none();
            self.looked = folder.to_owned();
        }
        Ok(self.is_missing)
    }

    /// Creates a folder unless it exists. The next one nearly always has the same folder above it.
    fn make(&mut self, root: &Path, folder: &Path, durable: &Durable) -> Result<(), PathError> {
        if self.made == folder {
            return Ok(());
        }
        let relative = |path| Path::strip_prefix(path, root).unwrap_or(path);
        let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(()) };
        let above = match self.above.take().filter(|above| above.path() == parent) {
            Some(above) => above,
            None => durable.ensure_dirs_unsynced(root, relative(parent))?,
        };
        if !durable.create_dir_in(self.above.insert(above), name)? {
            durable.ensure_dirs_unsynced(root, relative(folder))?;
        }
        self.made = folder.to_owned();
        Ok(())
    }
}

impl Files {
    /// Returns the folder of all files.
    pub(crate) fn folder(&self) -> &Path {
        self.info.parent().unwrap_or(&self.info)
    }

    fn put(&mut self, part: usize, path: &Path) {
        match part {
            0 => self.modfile = path.to_owned(),
            1 => self.zip = path.to_owned(),
            _ => self.info = path.to_owned(),
        }
    }
}

#[derive(Default)]
struct Tally {
    items: AtomicU64,
    bytes: AtomicU64,
    leftovers: AtomicU64,
}

impl Tally {
    fn count(&self, bytes: u64) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn moved(&self, bytes: u64, work: &Work<'_>) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let items = self.items.fetch_add(1, Ordering::Relaxed) + 1;
        if items.is_multiple_of(REPORT_EVERY) {
            work.events.event(Event::Progress { items, bytes: self.bytes.load(Ordering::Relaxed) });
        }
    }

    fn left(&self, work: &Work<'_>, candidate: &Candidate, reason: String) -> Result<(), PathError> {
        self.leftover(work, &candidate.leftover(reason)?);
        Ok(())
    }

    fn leftover(&self, work: &Work<'_>, leftover: &Leftover) {
        self.leftovers.fetch_add(1, Ordering::Relaxed);
        work.leftover(leftover);
    }

    fn sum(&self) -> Moved {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moved { items: of(&self.items), bytes: of(&self.bytes), leftovers: of(&self.leftovers) }
    }
}

/// Works on one item of a batch.
type Each<'a, T> = dyn Fn(&T, &mut Batch) -> Result<(), StepError> + Sync + 'a;

/// Walks a picture, counts its leftovers, and calls `each` for every version, on all threads.
fn walk_in_parallel(
    from: &dyn Picture,
    root: &Path,
    work: &Work<'_>,
    tally: &Tally,
    each: &Each<'_, Candidate>,
) -> Result<(), StepError> {
    let walk = |batches: Next<'_, Candidate>| {
        from.walk(root, &mut |found| match found {
            Finding::Versions(batch) => batches(batch),
            Finding::Leftover(leftover) => {
                tally.leftover(work, &leftover);
                Ok(())
            }
        })
    };
    in_parallel(work.threads, walk, each)
}

/// Takes the next batch of a walk.
pub(crate) type Next<'a, T> = &'a mut dyn FnMut(Vec<T>) -> Result<(), StepError>;

/// Walks on this thread and works on `threads` threads, including this one. The first error ends everything.
pub(crate) fn in_parallel<T: Send>(
    threads: usize,
    walk: impl FnOnce(Next<'_, T>) -> Result<(), StepError>,
    each: &Each<'_, T>,
) -> Result<(), StepError> {
    let walk = |next: &mut dyn FnMut(Vec<T>) -> ControlFlow<()>| {
        walk(&mut |batch| match next(batch) {
            ControlFlow::Continue(()) => Ok(()),
            // The error of the thread is returned in its place.
            ControlFlow::Break(()) => Err(StepError::Cancelled(Cancelled(0))),
        })
    };
    parallel::each((threads, AHEAD), walk, &|batch| {
        let mut known = Batch::default();
        batch.iter().try_for_each(|item| each(item, &mut known))
    })
}
