//! Decides which versions are whole, with a few reads per version. Sealing reads every byte later.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use stoa_gomod::zip::{ExamineError, ReadAt, check_structure};
use stoa_gomod::{ModuleVersion, info, modfile};
use stoa_layout::PathError;

use crate::picture::{Files, concerns_this_path};

/// More than the maximum size of an info or a go.mod.
const SMALL_LIMIT: u64 = (16 << 20) + 1;

/// Returns the reason why the three files are not a whole version.
pub(crate) fn fault(version: &ModuleVersion, files: &Files) -> Result<Option<String>, PathError> {
    Ok(examine(version, files)?.err())
}

/// Returns the total size of the three files of a whole version, or the reason why they are not a whole version. An error
/// that does not concern a file alone decides nothing and is returned as such.
pub(crate) fn examine(version: &ModuleVersion, files: &Files) -> Result<Result<u64, String>, PathError> {
    match try_examine(version, files) {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(Fault::Content(reason)) => Ok(Err(reason)),
        Err(Fault::Read(part, _, error)) if concerns_this_path(&error) => {
            Ok(Err(format!("unreadable: its {part}: {error}")))
        }
        Err(Fault::Read(_, path, error)) => Err(PathError::new("read", path, error)),
    }
}

/// The reason why files are not a whole version.
enum Fault<'a> {
    Content(String),
    /// A part that could not be read, and its path.
    Read(&'static str, &'a Path, io::Error),
}

fn try_examine<'a>(version: &ModuleVersion, files: &'a Files) -> Result<u64, Fault<'a>> {
    let content = |reason: String| Fault::Content(format!("incomplete: {reason}"));
    let body = read(&files.info).map_err(|error| Fault::Read("info", &files.info, error))?;
    let mut bytes = body.len() as u64;
    info::parse_answer(version.path(), version.version().as_str(), &body)
        .map_err(|error| content(format!("its info: {error}")))?;
    let body = read(&files.modfile).map_err(|error| Fault::Read("go.mod", &files.modfile, error))?;
    bytes += body.len() as u64;
    if body.is_empty() {
        return Err(content("its go.mod is empty".to_owned()));
    }
    if !modfile::has_module_directive(&body) {
        return Err(content("its go.mod names no module".to_owned()));
    }
    let of_zip = |error| Fault::Read("zip", &files.zip, error);
    let zip = open(&files.zip).and_then(Source::new).map_err(of_zip)?;
    bytes += zip.size;
    match check_structure(&zip, version) {
        Ok(_) => Ok(bytes),
        Err(ExamineError::Broken(fault)) => Err(content(format!("its zip: {fault}"))),
        Err(ExamineError::Read(error)) => Err(of_zip(error)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Large enough for nearly all files: one call reads the file, a second call finds its end.
    let mut body = Vec::with_capacity(4096);
    open(path)?.take(SMALL_LIMIT).read_to_end(&mut body)?;
    Ok(body)
}

/// Size of the end of a zip that is read first. It contains the directory of most zips.
const TAIL: u64 = 16 << 10;

/// A zip with its end in memory.
struct Source {
    file: File,
    size: u64,
    tail: Vec<u8>,
}

impl Source {
    fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let length = size.min(TAIL);
        let mut tail = vec![0; usize::try_from(length).unwrap_or_default()];
        let count = file.read_at(&mut tail, size - length)?;
        tail.truncate(count);
        Ok(Self { file, size, tail })
    }
}

impl ReadAt for Source {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let tail_start = self.size - self.size.min(TAIL);
        let held = offset.checked_sub(tail_start).and_then(|at| self.tail.get(usize::try_from(at).ok()?..));
        match held {
            Some(held) if !held.is_empty() => {
                let count = held.len().min(buffer.len());
                buffer[..count].copy_from_slice(&held[..count]);
                Ok(count)
            }
            _ => self.file.read_at(buffer, offset),
        }
    }

    fn size(&self) -> u64 {
        self.size
    }
}
