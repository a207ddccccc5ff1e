//! The entries of a zip: the local header is compared with the directory, the content is inflated and
//! hashed.
//!
//! zlib inflates, because it accepts no stream that the go command refuses. Faster inflaters accept reserved symbols and
//! incomplete codes, so a zip could pass here and fail at every client.

use super::directory::{Entry, LOCAL_HEADER_SIZE};
use super::source::{ReadAt, Source, Window, u16_at, u32_at};
use super::stream::StreamHasher;
use super::{EntryFault, ExamineError};
use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};

/// Maximum compressed and uncompressed size of an entry that is inflated in one piece, which is faster.
const WHOLE_MAX: u64 = 16 << 20;

/// The size of the pieces of a larger entry.
const PIECE: usize = 64 << 10;

/// The relevant flags of an entry: the kinds of encryption, and sizes after the data.
pub(super) const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
pub(super) const HAS_DESCRIPTOR: u16 = 1 << 3;

pub(super) const STORED: u16 = 0;
pub(super) const DEFLATED: u16 = 8;

/// Reads the entries of a zip. Reading in the order of their offsets is fastest.
pub(super) struct Entries<'s, 'r, R: ?Sized> {
    window: Window<'s, 'r, R>,
    /// The start of the directory, which is the upper bound of all data.
    limit: u64,
    inflater: Decompress,
    content: Vec<u8>,
}

/// The content of an entry.
pub(super) struct Content {
    pub(super) sha256: [u8; 32],
    /// The end of the data.
    pub(super) end: u64,
    /// The content itself, if it was requested.
    pub(super) kept: Option<Vec<u8>>,
}

impl<'s, 'r, R: ReadAt + ?Sized> Entries<'s, 'r, R> {
    pub(super) fn new(source: &'s Source<'r, R>, limit: u64) -> Self {
        Self { window: Window::new(source), limit, inflater: Decompress::new(false), content: Vec::new() }
    }

    /// Checks the local header of an entry and returns the offset of its data.
    pub(super) fn check_header(&mut self, entry: &Entry) -> Result<u64, ExamineError> {
        if entry.flags & ENCRYPTED != 0 {
            return Err(entry.fault(EntryFault::Encrypted));
        }
        if !matches!(entry.method, STORED | DEFLATED) {
            return Err(entry.fault(EntryFault::Method(entry.method)));
        }
        let header = self.window.get(entry.offset, LOCAL_HEADER_SIZE + entry.name.len())?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(entry.fault(EntryFault::NoHeader));
        }
        if let Some(field) = first_difference(header, entry) {
            return Err(entry.fault(EntryFault::HeaderDiffers(field)));
        }
        let data = entry.offset + header.len() as u64 + u64::from(u16_at(header, 28));
        if data + entry.compressed > self.limit {
            return Err(entry.fault(EntryFault::Overlap));
        }
        Ok(data)
    }

    /// Reads a complete entry, checks all declared values and hashes its content, unless it is hashed already.
    pub(super) fn read(
        &mut self,
        entry: &Entry,
        keep: bool,
        hasher: &StreamHasher,
    ) -> Result<Content, ExamineError> {
        let data = self.check_header(entry)?;
        let end = data + entry.compressed;
        if entry.is_dir() {
            // Readers ignore the data of a directory.
            return match entry.size {
                0 => Ok(Content { sha256: Sha256::digest([]).into(), end, kept: None }),
                _ => Err(entry.fault(EntryFault::Size(0))),
            };
        }
        let mut sink = Sink::new(entry, keep && entry.size <= WHOLE_MAX);
        let hashed = if keep { None } else { hasher.hash_of(entry, data) };
        if let Some(sha256) = hashed {
            if entry.flags & HAS_DESCRIPTOR != 0 {
                self.check_descriptor(entry, end)?;
            }
            return Ok(Content { sha256, end, kept: None });
        }
        if entry.method == STORED {
            self.copy(entry, data, &mut sink)?;
        } else if entry.size <= WHOLE_MAX && entry.compressed <= WHOLE_MAX {
            self.inflate_whole(entry, data, &mut sink)?;
        } else {
            self.inflate_in_pieces(entry, data, &mut sink)?;
        }
        let (sha256, kept) = sink.finish()?;
        if entry.flags & HAS_DESCRIPTOR != 0 {
            self.check_descriptor(entry, end)?;
        }
        Ok(Content { sha256, end, kept })
    }

    fn copy(&mut self, entry: &Entry, data: u64, sink: &mut Sink<'_>) -> Result<(), ExamineError> {
        if entry.compressed != entry.size {
            return Err(entry.fault(EntryFault::Size(entry.size)));
        }
        let mut done = 0;
        while done < entry.size {
            let count = (entry.size - done).min(PIECE as u64);
            sink.write(self.window.get(data + done, count as usize)?)?;
            done += count;
            self.window.examined(data + done);
        }
        Ok(())
    }

    fn inflate_whole(&mut self, entry: &Entry, data: u64, sink: &mut Sink<'_>) -> Result<(), ExamineError> {
        let compressed = self.window.get(data, entry.compressed as usize)?;
        // One byte more than declared, to detect longer contents.
        let room = entry.size as usize + 1;
        if self.content.len() < room {
            self.content.resize(room, 0);
        }
        let content = &mut self.content[..room];
        self.inflater.reset(false);
        let ended = self.inflater.decompress(compressed, content, FlushDecompress::Finish);
        let count = self.inflater.total_out() as usize;
        match ended {
            Ok(Status::StreamEnd) => sink.write(&content[..count]),
            Ok(_) if count == room => Err(entry.fault(EntryFault::Size(entry.size))),
            _ => Err(entry.fault(EntryFault::Deflate)),
        }
    }

    fn inflate_in_pieces(
        &mut self,
        entry: &Entry,
        data: u64,
        sink: &mut Sink<'_>,
    ) -> Result<(), ExamineError> {
        let inflater = &mut self.inflater;
        inflater.reset(false);
        let mut piece = vec![0; PIECE];
        loop {
            let (consumed, produced) = (inflater.total_in(), inflater.total_out());
            let count = (entry.compressed - consumed).min(PIECE as u64);
            let input = self.window.get(data + consumed, count as usize)?;
            let status = inflater
                .decompress(input, &mut piece, FlushDecompress::None)
                .map_err(|_| entry.fault(EntryFault::Deflate))?;
            let output = inflater.total_out() - produced;
            sink.write(&piece[..output as usize])?;
            self.window.examined(data + inflater.total_in());
            if status == Status::StreamEnd {
                return Ok(());
            }
            // The data has ended without its last block.
            if output == 0 && inflater.total_in() == consumed {
                return Err(entry.fault(EntryFault::Deflate));
            }
        }
    }

    /// Compares the checksum after the data. No reader uses the sizes there.
    fn check_descriptor(&mut self, entry: &Entry, end: u64) -> Result<(), ExamineError> {
        // The end record follows later, so there are enough bytes.
        let descriptor = self.window.get(end, 8)?;
        let at = if descriptor.starts_with(b"PK\x07\x08") { 4 } else { 0 };
        match u32_at(descriptor, at) == entry.checksum {
            true => Ok(()),
            false => Err(entry.fault(EntryFault::HeaderDiffers("the checksum after the data"))),
        }
    }
}

/// Returns the first field in which a local header with its name differs from the directory.
fn first_difference(header: &[u8], entry: &Entry) -> Option<&'static str> {
    let (flags, name_length) = (u16_at(header, 6), usize::from(u16_at(header, 26)));
    if (flags ^ entry.flags) & (ENCRYPTED | HAS_DESCRIPTOR) != 0 {
        return Some("flags");
    }
    if u16_at(header, 8) != entry.method {
        return Some("method");
    }
    if name_length != entry.name.len() || &header[LOCAL_HEADER_SIZE..] != entry.name.as_bytes() {
        return Some("name");
    }
    // With a descriptor after the data, the header need not have checksum and sizes.
    if flags & HAS_DESCRIPTOR != 0 {
        return None;
    }
    // A size of all ones is in a zip64 extra field, for which the directory is trusted.
    let differs = |at, size: u64| u32_at(header, at) != u32::MAX && u64::from(u32_at(header, at)) != size;
    if u32_at(header, 14) != entry.checksum {
        return Some("checksum");
    }
    if differs(18, entry.compressed) {
        return Some("compressed size");
    }
    differs(22, entry.size).then_some("size")
}

/// Receives the content of an entry, up to its declared size.
struct Sink<'e> {
    entry: &'e Entry,
    size: u64,
    checksum: crc32fast::Hasher,
    sha256: Sha256,
    kept: Option<Vec<u8>>,
}

impl<'e> Sink<'e> {
    fn new(entry: &'e Entry, keep: bool) -> Self {
        Self {
            entry,
            size: 0,
            checksum: crc32fast::Hasher::new(),
            sha256: Sha256::new(),
            kept: keep.then(Vec::new),
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), ExamineError> {
        self.size += piece.len() as u64;
        if self.size > self.entry.size {
            return Err(self.entry.fault(EntryFault::Size(self.entry.size)));
        }
        self.checksum.update(piece);
        self.sha256.update(piece);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(piece);
        }
        Ok(())
    }

    /// Compares the content with the size and checksum in the directory.
    fn finish(self) -> Result<([u8; 32], Option<Vec<u8>>), ExamineError> {
        if self.size != self.entry.size {
            return Err(self.entry.fault(EntryFault::Size(self.entry.size)));
        }
        if self.checksum.finalize() != self.entry.checksum {
            return Err(self.entry.fault(EntryFault::Checksum));
        }
        Ok((self.sha256.finalize().into(), self.kept))
    }
}
