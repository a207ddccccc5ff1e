//! `stoa-migrate import`: copies versions from another store, a tree or the go command's cache into a store.
//!
//! The source is read as it is, in use or not: nothing is locked and nothing written there. Each version is
//! published like a fill: copied into staging, by shared blocks where the file system can, read whole, sealed, and
//! made visible by one rename; the waits for the disk are shared by a batch. The store may be in use: a version
//! that another process is filling is waited for, and then it is there already.
//!
//! What is there already is compared: the go.mod and the zip byte for byte, and where the zips differ by their
//! hashes. So a second run reads both sides once and writes nothing.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode as FileMode, OFlags};
use serde_json::json;
use stoa_gomod::zip::{ExamineError, ReadAt, examine};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::durable::{CopyError, clone_or_copy};
use stoa_layout::gate::{GateError, Mode};
use stoa_layout::inventory::{Found, Visit};
use stoa_layout::signals::Cancelled;
use stoa_layout::{
    Cancel, Events, Exit, Gate, Layouts, Leftover, Migrator, Options, Outcome, PathError, RunError, Runner,
    Source, State, StepError,
};
use stoa_store::{Batch, Objection, Published, SealError, SmallFile, Store, StoreError, UnsyncedDraft};

use crate::carry::{Fate, Overlap, Report, overlap};
use crate::parallel;

/// What to copy, and where to.
pub(super) struct Import<'a> {
    pub(super) root: &'a Path,
    pub(super) source: &'a Path,
    pub(super) layouts: &'a Layouts,
    /// How to bring the store to the current layout first.
    pub(super) options: &'a Options,
    /// What a person says that the source is.
    pub(super) assumed: Option<&'a stoa_layout::LayoutId>,
    pub(super) dry_run: bool,
    pub(super) cancel: &'a Cancel,
    pub(super) events: &'a dyn Events,
}

/// The import did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// Nothing was copied.
    #[error("{message}")]
    Refused { exit: Exit, message: String },
    /// The store is not brought to the current layout.
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<PathError> for ImportError {
    fn from(error: PathError) -> Self {
        Self::Store(error.into())
    }
}

impl ImportError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Refused { exit, .. } => *exit,
            Self::Run(error) => error.exit(),
            Self::Gate(error) => error.exit(),
            Self::Store(error) => error.exit(),
            Self::Step(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
        }
    }

    /// Whether it stopped in the middle, and goes on when it is run again.
    pub(super) fn is_resumable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Run(_) | Self::Gate(_))
    }
}

/// One version of the source, with its files as far as they are there.
struct Item {
    version: ModuleVersion,
    modfile: Option<PathBuf>,
    zip: Option<PathBuf>,
    info: Option<PathBuf>,
    bytes: u64,
}

/// Why an item is not copied.
enum Not {
    /// It was never whole, or could not be read.
    Left(String),
    /// It is not what it says.
    Broken(String),
    /// The store cannot take it, nor any other.
    Stop(ImportError),
}

impl From<StoreError> for Not {
    fn from(error: StoreError) -> Self {
        Self::Stop(error.into())
    }
}

impl From<PathError> for Not {
    fn from(error: PathError) -> Self {
        Self::Stop(error.into())
    }
}

/// Stops a walk after a thread has failed; the thread's error is the one that is told.
const NOBODY_LISTENS: StepError = StepError::Cancelled(Cancelled(0));

/// How many versions, and how many of their bytes, share a wait for the disk.
const BATCH: (usize, u64) = (256, 64 << 20);

/// How long to wait between two looks whether another process is done with a version.
const CLAIM_EVERY: Duration = Duration::from_millis(20);

impl Import<'_> {
    /// Copies, and tells what came of each version.
    pub(super) fn run(&self, report: &Report) -> Result<(), ImportError> {
        let from = self.find()?;
        self.check_places()?;
        let store = if self.dry_run { self.look()? } else { self.open()? };
        match store {
            Open::Nothing => Ok(()),
            Open::NoStore => self.copy(&from, None, report),
            Open::Store(store) => self.copy(&from, Some(&store), report),
        }
    }

    fn copy(&self, from: &Origin<'_>, store: Option<&Store>, report: &Report) -> Result<(), ImportError> {
        let batch = match store {
            Some(store) if !self.dry_run => Some(store.batch()?),
            _ => None,
        };
        let work =
            Work { root: self.root, store, batch, waiting: Mutex::default(), cancel: self.cancel, report };
        parallel::each(
            self.options.threads,
            |each| {
                from.take(&mut |found| {
                    self.cancel.check()?;
                    match found {
                        Found::Leftover { leftover, .. } => report.leftover(leftover),
                        Found::Aside { leftover } => report.aside(leftover),
                        Found::Whole { name, files, bytes, .. } => {
                            let item = Item::of(&name.to_string(), files, bytes);
                            if item.is_some_and(|item| each(item) == ControlFlow::Break(())) {
                                return Err(NOBODY_LISTENS);
                            }
                        }
                    }
                    Ok(())
                })
                .map_err(ImportError::from)
            },
            &|item| work.one(item),
        )?;
        work.finish()
    }

    /// Finds out what the source is.
    fn find(&self) -> Result<Origin<'_>, ImportError> {
        let (source, layouts) = (self.source, self.layouts);
        let name = source.display();
        let refuse = |exit, message| Err(ImportError::Refused { exit, message });
        match source.metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                let message = format!("{name} is no folder; name a store, a tree or a module cache");
                return refuse(Exit::NOT_A_STORE, message);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return refuse(Exit::NOT_A_STORE, format!("{name} is not there; name what to import from"));
            }
            Err(error) => return Err(PathError::new("look at", source, error).into()),
        }
        let state = State::look_assuming(source, layouts, self.assumed)?;
        for known in &layouts.sources {
            if let Some(folder) = known.find(source, &state)? {
                return Ok(Origin::Source(known.as_ref(), folder));
            }
        }
        match (state.refusal(source, layouts), layouts.inventory.as_deref()) {
            (Some((exit, _)), _) if matches!(state, State::Foreign(_)) => {
                let message = format!(
                    "{name} holds nothing that is known: no whole version lies in it where an Athens store, a GOPROXY tree, \
                     the go command's module cache or a store of stoa would have it; nothing was imported. Name the \
                     store itself rather than a folder above or below it, or say with --from what it is"
                );
                refuse(exit, message)
            }
            (Some((exit, message)), _) => refuse(exit, message),
            (None, _) if state == State::Empty => {
                refuse(Exit::NOT_A_STORE, format!("{name} is empty; name what to import from"))
            }
            (None, Some(inventory)) => Ok(Origin::Store(inventory, state, source)),
            (None, None) => refuse(Exit::NOT_A_STORE, format!("{name} cannot be read by this program")),
        }
    }

    fn check_places(&self) -> Result<(), ImportError> {
        let why = match overlap(self.source, self.root) {
            None => return Ok(()),
            Some(Overlap::Same) => "it is the store itself",
            Some(Overlap::Inside) => "it lies in the store",
            Some(Overlap::Around) => "the store lies in it",
        };
        let (source, root) = (self.source.display(), self.root.display());
        let message = format!(
            "cannot import {source} into {root}: {why}; nothing was changed. Name another store with --store"
        );
        Err(ImportError::Refused { exit: Exit::USAGE, message })
    }

    fn runner(&self) -> Runner<'_> {
        Runner {
            root: self.root,
            layouts: self.layouts,
            options: self.options,
            events: self.events,
            cancel: self.cancel,
        }
    }

    fn gate(&self) -> Gate<'_> {
        Gate {
            root: self.root,
            current: &self.layouts.current,
            migrator: &Migrator::Forbidden { name: "stoa-migrate" },
        }
    }

    /// Makes the store, or brings it to the current layout, and opens it.
    fn open(&self) -> Result<Open, ImportError> {
        if self.runner().run()? == Outcome::NoStore {
            return Ok(Open::Nothing);
        }
        let gate = self.gate();
        let held = gate.hold(gate.pass()?, Mode::ReadWrite)?;
        Ok(Open::Store(Box::new(Store::open(held, Mode::ReadWrite)?)))
    }

    /// Looks at the store as it is; where it is not at the current layout it is not looked into.
    fn look(&self) -> Result<Open, ImportError> {
        match self.gate().pass() {
            Ok(pass) => Ok(Open::Store(Box::new(Store::look(&pass)))),
            Err(GateError::Forbidden { .. }) => {
                self.runner().plan()?;
                Ok(Open::NoStore)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What there is to import into.
enum Open {
    /// None, and none was to be made.
    Nothing,
    /// None yet, for a dry run.
    NoStore,
    Store(Box<Store>),
}

/// What is imported from.
enum Origin<'a> {
    Source(&'a dyn Source, PathBuf),
    Store(&'a dyn stoa_layout::Inventory, State, &'a Path),
}

impl Origin<'_> {
    fn take(&self, visit: &mut Visit<'_>) -> Result<(), StepError> {
        match self {
            Self::Source(source, folder) => source.take(folder, visit),
            Self::Store(inventory, state, root) => inventory.take(root, state, visit),
        }
    }
}

impl Item {
    /// `None` if the name is none of a version, which no inventory tells.
    fn of(name: &str, files: &[(&'static str, &Path)], bytes: u64) -> Option<Self> {
        let file =
            |role: &str| files.iter().find(|(known, _)| *known == role).map(|(_, path)| (*path).to_owned());
        let version = ModuleVersion::parse(name).ok()?;
        Some(Self { version, modfile: file("mod"), zip: file("zip"), info: file("info"), bytes })
    }

    fn read_mod(&self) -> Result<Vec<u8>, Not> {
        read(self.modfile.as_deref().ok_or_else(|| missing("mod"))?)
    }

    fn open_zip(&self) -> Result<(SourceZip, &Path), Not> {
        let path = self.zip.as_deref().ok_or_else(|| missing("zip"))?;
        let file = open(path)?;
        let size = file.metadata().map_err(|error| unreadable(path, &error))?.len();
        Ok((SourceZip { file, size }, path))
    }

    /// Is where it lies, for messages.
    fn shown(&self) -> PathBuf {
        let any = [&self.info, &self.zip, &self.modfile].into_iter().flatten().next();
        any.cloned().unwrap_or_default()
    }
}

fn missing(name: &str) -> Not {
    Not::Broken(format!("it has no {name}"))
}

fn unreadable(path: &Path, error: &io::Error) -> Not {
    Not::Left(format!("unreadable: {}: {error}", path.display()))
}

/// Opens a file of the source; a symlink is not followed, and a pipe not waited for.
fn open(path: &Path) -> Result<File, Not> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, FileMode::empty());
    opened.map(File::from).map_err(|errno| unreadable(path, &errno.into()))
}

/// More than any info or go.mod may have: what is longer is found wrong.
const SMALL_LIMIT: u64 = (16 << 20) + 1;

fn read(path: &Path) -> Result<Vec<u8>, Not> {
    let mut bytes = Vec::with_capacity(4096);
    open(path)?.take(SMALL_LIMIT).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

/// A zip of the source.
struct SourceZip {
    file: File,
    size: u64,
}

impl ReadAt for SourceZip {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// What the threads share.
struct Work<'a> {
    root: &'a Path,
    /// `None` in a dry run on a store that is not there yet.
    store: Option<&'a Store>,
    /// `None` in a dry run.
    batch: Option<Batch<'a>>,
    /// Written, and not yet visible.
    waiting: Mutex<Waiting>,
    cancel: &'a Cancel,
    report: &'a Report,
}

#[derive(Default)]
struct Waiting {
    drafts: Vec<UnsyncedDraft>,
    sizes: Vec<u64>,
}

impl Work<'_> {
    fn one(&self, item: Item) -> Result<(), ImportError> {
        self.cancel.check()?;
        match self.copy(&item) {
            Ok(None) => Ok(()),
            Ok(Some(full)) => self.publish(full),
            Err(Not::Stop(error)) => Err(error),
            Err(Not::Broken(reason)) => {
                self.report.version(&item.version, Fate::Broken(&reason));
                Ok(())
            }
            Err(Not::Left(reason)) => {
                self.report.leftover(&Leftover { path: item.shown(), bytes: item.bytes, reason });
                Ok(())
            }
        }
    }

    /// Copies one into staging, unless it is in the store. Is a batch that has become full.
    fn copy(&self, item: &Item) -> Result<Option<Waiting>, Not> {
        let version = &item.version;
        if !Store::could_hold(self.root, version) {
            return Err(Not::Left("its name is longer, once escaped, than a file system takes".to_owned()));
        }
        if let Some(store) = self.store
            && let Some(tombstone) = store.tombstone(version)?
        {
            self.report.version(version, Fate::Forbidden(&tombstone.to_string()));
            return Ok(None);
        }
        if let Some(store) = self.store
            && self.is_there(store, item)?
        {
            return Ok(None);
        }
        let (Some(store), Some(_)) = (self.store, &self.batch) else {
            self.report.version(version, Fate::Carried(item.bytes));
            return Ok(None);
        };
        let info = read(item.info.as_deref().ok_or_else(|| missing("info"))?)?;
        let modfile = item.read_mod()?;
        let (zip, zip_path) = item.open_zip()?;
        let mut draft = store.draft(version)?;
        match clone_or_copy((&zip.file, zip_path), (&draft.zip(), &draft.zip_path())) {
            Ok(()) => {}
            Err(CopyError::Read(error)) => return Err(unreadable(zip_path, &error.source)),
            Err(CopyError::Write(error)) => return Err(error.into()),
        }
        draft.write_mod(&modfile)?;
        let draft = match draft.seal_unsynced(&info) {
            Ok(draft) => draft,
            Err(SealError::Broken { reason, .. }) => return Err(Not::Broken(reason)),
            Err(SealError::Store(error)) => return Err(error.into()),
        };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.drafts.push(draft);
        waiting.sizes.push(item.bytes);
        let is_full = waiting.drafts.len() >= BATCH.0 || waiting.sizes.iter().sum::<u64>() >= BATCH.1;
        Ok(is_full.then(|| std::mem::take(&mut *waiting)))
    }

    /// Whether a version is in the store already, and tells what came of the comparison.
    fn is_there(&self, store: &Store, item: &Item) -> Result<bool, Not> {
        let version = &item.version;
        // Asking for these two puts away what has an info and lacks one of them.
        let (Some(own_mod), Some(own_zip)) =
            (store.small(version, SmallFile::Mod)?, store.open_zip(version)?)
        else {
            return Ok(false);
        };
        let kept = || self.report.version(version, Fate::Kept(item.bytes));
        let differs = |reason: &str| self.report.version(version, Fate::Differs(reason));
        if item.read_mod()? != own_mod.bytes {
            differs("its go.mod is another one than in the store, and that stands");
            return Ok(true);
        }
        let (zip, path) = item.open_zip()?;
        let own = |offset, buffer: &mut [u8]| own_zip.read(offset, buffer);
        if own_zip.length == zip.size && is_same(&zip, path, &own)? {
            kept();
            return Ok(true);
        }
        // Packed otherwise, perhaps.
        let Some(theirs) = store.seal(version)? else { return Ok(false) };
        let ours = hash(&zip, path, version)?;
        if ours == theirs {
            kept();
        } else {
            differs(&format!("its zip is {ours}, and the one in the store, which stands, {theirs}"));
        }
        Ok(true)
    }

    /// Makes the versions of a batch visible.
    fn publish(&self, Waiting { drafts, sizes }: Waiting) -> Result<(), ImportError> {
        let (Some(store), Some(batch)) = (self.store, &self.batch) else { return Ok(()) };
        for (draft, bytes) in batch.settle(drafts)?.into_iter().zip(sizes) {
            let version = draft.version().clone();
            let claim = loop {
                self.cancel.check()?;
                match store.try_claim(&version)? {
                    Some(claim) => break claim,
                    None => std::thread::sleep(CLAIM_EVERY),
                }
            };
            let published = batch.publish(draft, &claim)?;
            let objection = match &published {
                Published::Refused(objection) => objection.to_string(),
                _ => String::new(),
            };
            let fate = match published {
                Published::Ours(_) => Fate::Carried(bytes),
                Published::Theirs { same: true } => Fate::Kept(bytes),
                Published::Theirs { same: false } => Fate::Differs(
                    "another one came into the store meanwhile and stands; this one is in quarantine",
                ),
                Published::Refused(Objection::Tombstone(_)) => Fate::Forbidden(&objection),
                Published::Refused(Objection::Differs { .. }) => Fate::Differs(&objection),
            };
            self.report.version(&version, fate);
        }
        Ok(())
    }

    /// Publishes what still waits, and waits for the disk.
    fn finish(self) -> Result<(), ImportError> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.publish(waiting)?;
        match &self.batch {
            Some(batch) => Ok(batch.finish()?),
            None => Ok(()),
        }
    }
}

/// Whether two zips of one size have the same bytes.
fn is_same(
    zip: &SourceZip,
    path: &Path,
    own: &dyn Fn(u64, &mut [u8]) -> io::Result<usize>,
) -> Result<bool, Not> {
    let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    while at < zip.size {
        let count = zip.read_at(&mut ours, at).map_err(|error| unreadable(path, &error))?;
        let other = own(at, &mut theirs).map_err(|error| PathError::new("read the zip of", path, error))?;
        let count = count.min(other);
        if count == 0 || ours[..count] != theirs[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

fn hash(zip: &SourceZip, path: &Path, version: &ModuleVersion) -> Result<H1, Not> {
    match examine(zip, version) {
        Ok(examined) => Ok(examined.h1),
        Err(ExamineError::Broken(fault)) => Err(Not::Broken(format!("its zip: {fault}"))),
        Err(ExamineError::Read(error)) => Err(unreadable(path, &error)),
    }
}

/// What is told at the end, besides the counts.
pub(super) fn end(import: &Import<'_>, report: &Report) {
    let (source, root) = (import.source.display(), import.root.display());
    let dry = if import.dry_run { " (a dry run, nothing was written)" } else { "" };
    let count = |of: &std::sync::atomic::AtomicU64| of.load(std::sync::atomic::Ordering::Relaxed);
    let more = json!({
        "store": import.root.to_string_lossy(), "source": import.source.to_string_lossy(),
        "forbidden": count(&report.sum.forbidden), "leftovers": count(&report.sum.leftovers), "without_zip": count(&report.sum.aside),
        "dry_run": import.dry_run,
    });
    report.done(format_args!("from {source} into {root}{dry}"), more);
}
