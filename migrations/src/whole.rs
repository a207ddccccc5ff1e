//! Which versions are whole. A few reads a version; reading every byte is the seal's task, later.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use stoa_gomod::zip::{ExamineError, ReadAt, check_structure};
use stoa_gomod::{ModuleVersion, info, modfile};

use crate::picture::Files;

/// More than any info or go.mod may have: what is longer is wrong anyway.
const SMALL_LIMIT: u64 = (16 << 20) + 1;

/// Says why the three files are no whole version; `None` if they are.
pub(crate) fn fault(version: &ModuleVersion, files: &Files) -> Option<String> {
    let body = match read(&files.info) {
        Ok(body) => body,
        Err(error) => return Some(format!("unreadable: its info: {error}")),
    };
    if let Err(error) = info::parse_answer(version.path(), version.version().as_str(), &body) {
        return Some(format!("incomplete: its info: {error}"));
    }
    match read(&files.modfile) {
        Ok(body) if body.is_empty() => return Some("incomplete: its go.mod is empty".to_owned()),
        Ok(body) if !modfile::has_module_directive(&body) => {
            return Some("incomplete: its go.mod names no module".to_owned());
        }
        Ok(_) => {}
        Err(error) => return Some(format!("unreadable: its go.mod: {error}")),
    }
    let zip = match open(&files.zip).and_then(Source::new) {
        Ok(zip) => zip,
        Err(error) => return Some(format!("unreadable: its zip: {error}")),
    };
    match check_structure(&zip, version) {
        Ok(_) => None,
        Err(ExamineError::Broken(fault)) => Some(format!("incomplete: its zip: {fault}")),
        Err(ExamineError::Read(error)) => Some(format!("unreadable: its zip: {error}")),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    open(path)?.take(SMALL_LIMIT).read_to_end(&mut body)?;
    Ok(body)
}

struct Source {
    file: File,
    size: u64,
}

impl Source {
    fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl ReadAt for Source {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}
