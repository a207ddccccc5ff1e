//! The source of an import: its versions and their files.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode as FileMode, OFlags};
use stoa_bucket::BucketError;
use stoa_gomod::zip::{ExamineError, ReadAt, examine};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::inventory::{Found, Visit};
use stoa_layout::{Exit, LayoutId, Layouts, PathError, Source, State, StepError};
use stoa_store::{StoreError, ZipFile};

use super::THREAD_FAILED;
use crate::command::compare::is_same;
use crate::command::error::CommandError;

/// The kind of a source.
pub(in crate::migrate) enum Origin<'a> {
    Source(&'a dyn Source, PathBuf),
    Store(&'a dyn stoa_layout::Inventory, State, &'a Path),
}

impl<'a> Origin<'a> {
    /// Recognises a source. `assumed` is its layout, if a person named it.
    pub(in crate::migrate) fn find(
        source: &'a Path,
        layouts: &'a Layouts,
        assumed: Option<&LayoutId>,
    ) -> Result<Self, CommandError> {
        let name = source.display();
        let refuse = |exit, message| Err(CommandError::new(exit, message));
        match source.metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                let message = format!(
                    "cannot import {name}: it is not a folder\nhelp: use the folder of a store, a GOPROXY tree or a module cache"
                );
                return refuse(Exit::NOT_A_STORE, message);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = format!(
                    "cannot import {name}: no such folder\nhelp: use the folder of a store, a GOPROXY tree or a module cache"
                );
                return refuse(Exit::NOT_A_STORE, message);
            }
            Err(error) => return Err(PathError::new("stat", source, error).into()),
        }
        let state = State::look_assuming(source, layouts, assumed)?;
        for known in &layouts.sources {
            match known.find(source, &state)? {
                // The command must not read a large folder because of a mistyped path.
                Some(folder) if is_far_below(source, &folder) => {
                    let message = format!(
                        "cannot import {name}: it is not a module cache\nhelp: did you mean {}?",
                        module_cache(&folder).display()
                    );
                    return refuse(Exit::NOT_A_STORE, message);
                }
                Some(folder) => return Ok(Self::Source(known.as_ref(), folder)),
                None => {}
            }
        }
        match (state.refusal(source, layouts), layouts.inventory.as_deref()) {
            (Some((exit, _)), _) if matches!(state, State::Foreign(_)) => {
                let message = format!(
                    "cannot import {name}: it is not a store of Stoa or Athens, a GOPROXY tree or a module cache\n\
                     help: use the folder of the store itself, not a folder above or below it, or set its layout with --from"
                );
                refuse(exit, message)
            }
            (Some((exit, message)), _) => refuse(exit, message),
            (None, _) if state == State::Empty => {
                refuse(Exit::NOT_A_STORE, format!("cannot import {name}: it is empty"))
            }
            (None, Some(inventory)) => Ok(Self::Store(inventory, state, source)),
            (None, None) => {
                refuse(Exit::NOT_A_STORE, format!("cannot import {name}: this program cannot read it"))
            }
        }
    }

    pub(super) fn take(&self, visit: &mut Visit<'_>) -> Result<(), StepError> {
        match self {
            Self::Source(source, folder) => source.take(folder, visit),
            Self::Store(inventory, state, root) => inventory.take(root, state, visit),
        }
    }

    /// Calls `each` for every version, until it breaks.
    pub(super) fn count(&self, each: &mut dyn FnMut(()) -> ControlFlow<()>) -> Result<(), StepError> {
        self.take(&mut |found| match found {
            Found::Whole { .. } if each(()).is_break() => Err(THREAD_FAILED),
            _ => Ok(()),
        })
    }
}

/// Returns whether a module cache was found below the folders that are a module cache themselves: `GOMODCACHE` and its
/// `cache/download`.
fn is_far_below(source: &Path, found: &Path) -> bool {
    found != source && found != source.join("cache/download")
}

/// Returns the module cache of its folder `cache/download`.
fn module_cache(folder: &Path) -> PathBuf {
    let cache = folder.ends_with("cache/download").then(|| folder.parent()?.parent()).flatten();
    cache.unwrap_or(folder).to_owned()
}

/// A version of the source, with its files that exist.
pub(super) struct Item {
    pub(super) version: ModuleVersion,
    pub(super) modfile: Option<PathBuf>,
    pub(super) zip: Option<PathBuf>,
    pub(super) info: Option<PathBuf>,
    pub(super) bytes: u64,
}

/// The reason why a version is not copied.
pub(super) enum Not {
    /// The version is a leftover or unreadable.
    Left(String),
    /// The version is corrupt.
    Broken(String),
    /// The store cannot be read or written. Other versions may fail too.
    Stop(StoreError),
    /// A request to the bucket failed.
    Bucket(BucketError),
}

impl From<BucketError> for Not {
    fn from(error: BucketError) -> Self {
        Self::Bucket(error)
    }
}

impl From<StoreError> for Not {
    fn from(error: StoreError) -> Self {
        Self::Stop(error)
    }
}

impl From<PathError> for Not {
    fn from(error: PathError) -> Self {
        Self::Stop(error.into())
    }
}

impl Item {
    /// Returns `None` if the name is not that of a version.
    pub(super) fn of(name: &str, files: &[(&'static str, &Path)], bytes: u64) -> Option<Self> {
        let file =
            |role: &str| files.iter().find(|(known, _)| *known == role).map(|(_, path)| (*path).to_owned());
        let version = ModuleVersion::parse(name).ok()?;
        Some(Self { version, modfile: file("mod"), zip: file("zip"), info: file("info"), bytes })
    }

    pub(super) fn read_mod(&self) -> Result<Vec<u8>, Not> {
        read(self.modfile.as_deref().ok_or_else(|| missing("mod"))?)
    }

    pub(super) fn open_zip(&self) -> Result<(SourceZip, &Path), Not> {
        let path = self.zip.as_deref().ok_or_else(|| missing("zip"))?;
        let file = open(path)?;
        let size = file.metadata().map_err(|error| unreadable(path, &error))?.len();
        Ok((SourceZip { file, size }, path))
    }

    /// Returns a path of the version, for messages.
    pub(super) fn shown(&self) -> PathBuf {
        let any = [&self.info, &self.zip, &self.modfile].into_iter().flatten().next();
        any.cloned().unwrap_or_default()
    }
}

pub(super) fn missing(name: &str) -> Not {
    Not::Broken(format!("it has no {name}"))
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Not {
    Not::Left(format!("unreadable: {}: {error}", path.display()))
}

/// Opens a file of the source. Does not follow symlinks and does not wait for pipes.
fn open(path: &Path) -> Result<File, Not> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, FileMode::empty());
    opened.map(File::from).map_err(|errno| unreadable(path, &errno.into()))
}

/// More than the maximum size of an info or a go.mod. A longer file is rejected later.
const SMALL_LIMIT: u64 = (16 << 20) + 1;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Not> {
    let mut bytes = Vec::with_capacity(4096);
    open(path)?.take(SMALL_LIMIT).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

/// A zip of the source.
pub(super) struct SourceZip {
    pub(super) file: File,
    pub(super) size: u64,
}

impl ReadAt for SourceZip {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

/// Returns whether a zip is identical to the zip in the store, which has the same size.
pub(super) fn is_stored(
    zip: &SourceZip,
    path: &Path,
    own: &ZipFile,
    compared: &dyn Fn(u64),
) -> Result<bool, Not> {
    let theirs = |at, buffer: &mut [u8]| zip.read_at(buffer, at).map_err(|error| unreadable(path, &error));
    let ours = |at, buffer: &mut [u8]| {
        own.read(at, buffer).map_err(|error| PathError::new("read the zip of", path, error).into())
    };
    is_same(zip.size, theirs, ours, compared)
}

pub(super) fn hash(zip: &SourceZip, path: &Path, version: &ModuleVersion) -> Result<H1, Not> {
    match examine(zip, version) {
        Ok(examined) => Ok(examined.h1),
        Err(ExamineError::Broken(fault)) => Err(Not::Broken(format!("its zip: {fault}"))),
        Err(ExamineError::Read(error)) => Err(unreadable(path, &error)),
    }
}
