//! Decides which versions are whole, with a few reads per version. Sealing reads every byte later.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use stoa_gomod::zip::{ExamineError, ReadAt, check_structure};
use stoa_gomod::{ModuleVersion, info, modfile};

use crate::picture::Files;

/// More than the maximum size of an info or a go.mod.
const SMALL_LIMIT: u64 = (16 << 20) + 1;

/// Returns the reason why the three files are not a whole version.
pub(crate) fn fault(version: &ModuleVersion, files: &Files) -> Option<String> {
    examine(version, files).err()
}

/// Returns the total size of the three files of a whole version, or the reason why they are not a whole version.
pub(crate) fn examine(version: &ModuleVersion, files: &Files) -> Result<u64, String> {
    let body = read(&files.info).map_err(|error| format!("unreadable: its info: {error}"))?;
    let mut bytes = body.len() as u64;
    info::parse_answer(version.path(), version.version().as_str(), &body)
        .map_err(|error| format!("incomplete: its info: {error}"))?;
    let body = read(&files.modfile).map_err(|error| format!("unreadable: its go.mod: {error}"))?;
    bytes += body.len() as u64;
    if body.is_empty() {
        return Err("incomplete: its go.mod is empty".to_owned());
    }
    if !modfile::has_module_directive(&body) {
        return Err("incomplete: its go.mod names no module".to_owned());
    }
    let zip =
        open(&files.zip).and_then(Source::new).map_err(|error| format!("unreadable: its zip: {error}"))?;
    bytes += zip.size;
    match check_structure(&zip, version) {
        Ok(_) => Ok(bytes),
        Err(ExamineError::Broken(fault)) => Err(format!("incomplete: its zip: {fault}")),
        Err(ExamineError::Read(error)) => Err(format!("unreadable: its zip: {error}")),
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
