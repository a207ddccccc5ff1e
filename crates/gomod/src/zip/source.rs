//! Reading of a zip: the caller's bytes, the distinction between read errors and invalid content, and a
//! window.

use super::{ExamineError, ZipFault};
use std::io;

/// Random access to the bytes of a zip. The caller does the I/O.
///
/// An error means that the bytes could not be read, and nothing about the content. A result of 0 for a
/// non-empty buffer means the end of the zip.
pub trait ReadAt {
    /// Reads bytes at an offset and returns their number.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Returns the size of the zip.
    fn size(&self) -> u64;

    /// Receives the end of the part that is examined so far, to show progress. Does nothing by default.
    fn examined(&self, _end: u64) {}
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buf, offset)
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buf, offset)
    }

    fn size(&self) -> u64 {
        (**self).size()
    }

    fn examined(&self, end: u64) {
        (**self).examined(end);
    }
}

/// A zip with its reader.
pub(super) struct Source<'r, R: ?Sized> {
    reader: &'r R,
    size: u64,
}

impl<'r, R: ReadAt + ?Sized> Source<'r, R> {
    pub(super) fn new(reader: &'r R) -> Self {
        Self { reader, size: reader.size() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reports the end of the part that is examined.
    pub(super) fn examined(&self, end: u64) {
        self.reader.examined(end);
    }

    fn read_some(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.reader.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A reader must not return more than the size of the buffer.
                result => return result.map(|count| count.min(buf.len())),
            }
        }
    }

    /// Fills the buffer with at least `needed` bytes, and returns their number.
    fn fill(&self, buf: &mut [u8], needed: usize, offset: u64) -> Result<usize, ExamineError> {
        let mut filled = 0;
        while filled < needed {
            match self.read_some(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => return Err(ZipFault::Truncated.into()),
                Ok(count) => filled += count,
                Err(error) => return Err(ExamineError::Read(error)),
            }
        }
        Ok(filled)
    }
}

/// The size of one read.
const CHUNK: usize = 256 << 10;

/// A part of the zip in memory, which moves to the requested offsets.
pub(super) struct Window<'s, 'r, R: ?Sized> {
    source: &'s Source<'r, R>,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl<'s, 'r, R: ReadAt + ?Sized> Window<'s, 'r, R> {
    pub(super) fn new(source: &'s Source<'r, R>) -> Self {
        Self { source, buffer: Vec::new(), start: 0, filled: 0 }
    }

    /// Reports the end of the part that is examined.
    pub(super) fn examined(&self, end: u64) {
        self.source.examined(end);
    }

    /// Returns `length` bytes at an offset. The caller limits the length.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> Result<&[u8], ExamineError> {
        let held = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        if let Some(at) = held.filter(|at| at.checked_add(length).is_some_and(|end| end <= self.filled)) {
            return Ok(&self.buffer[at..at + length]);
        }
        let left = self.source.size.saturating_sub(offset);
        if left < length as u64 {
            return Err(ZipFault::Truncated.into());
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(length.max(CHUNK));
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        self.filled = 0; // A failed read may overwrite the old content.
        self.filled = self.source.fill(&mut self.buffer[..wanted], length, offset)?;
        self.start = offset;
        Ok(&self.buffer[..length])
    }
}

/// Returns a number of a record, or 0 beyond its end.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

/// Returns a number of a record, or 0 beyond its end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Returns a number of a record, or 0 beyond its end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
