//! Hashing of a zip while it arrives, so that little is left to read at its end.
//!
//! A zip lists its entries at its end only, so this reader trusts the local headers. It is a shortcut and decides nothing:
//! the examination uses a hash only if the directory names exactly the bytes that were hashed, and otherwise
//! reads the entry. So an unusual or hostile zip only loses the shortcut.

use super::MAX_ZIP_SIZE;
use super::directory::{Entry, LOCAL_HEADER_SIZE};
use super::entry::{DEFLATED, ENCRYPTED, HAS_DESCRIPTOR, STORED};
use super::source::{u16_at, u32_at};
use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;

/// Maximum number of hashed entries, which bounds the memory.
const MAX_HASHES: usize = 16 << 10;

/// The size of the pieces of inflated data.
const PIECE: usize = 64 << 10;

/// The signature of a local header, and that of the directory's entries.
const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";

/// Hashes the entries of a zip that is received from its start to its end.
#[derive(Default)]
pub struct StreamHasher {
    position: u64,
    state: State,
    hashes: HashMap<u64, Hashed>,
    inflater: Option<Box<Inflater>>,
    /// The size of all contents so far.
    content_size: u64,
}

/// An inflater and the place for its output, for one entry after the other.
struct Inflater {
    stream: Decompress,
    piece: Vec<u8>,
}

/// An entry that was read completely.
struct Hashed {
    method: u16,
    compressed: u64,
    size: u64,
    checksum: u32,
    sha256: [u8; 32],
}

enum State {
    /// The part of a local header that was received.
    Header(Vec<u8>),
    Data(Box<Data>),
    /// The part of the descriptor after the data that was received, and of the header that follows it.
    Descriptor(Vec<u8>),
    /// The end of the entries, or of what this reader understands.
    End,
}

impl Default for State {
    fn default() -> Self {
        Self::Header(Vec::new())
    }
}

struct Data {
    start: u64,
    has_descriptor: bool,
    kind: Kind,
    size: u64,
    checksum: crc32fast::Hasher,
    sha256: Sha256,
}

enum Kind {
    /// The number of bytes that are still to come.
    Stored(u64),
    Deflated,
}

impl StreamHasher {
    /// Returns the number of bytes that were received.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Receives the bytes at an offset. After a gap, nothing more is hashed.
    pub fn update(&mut self, offset: u64, bytes: &[u8]) {
        if offset != self.position {
            self.state = State::End;
        }
        self.position = offset.saturating_add(bytes.len() as u64);
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.position - rest.len() as u64;
            (self.state, rest) = match std::mem::replace(&mut self.state, State::End) {
                State::Header(header) => self.read_header(header, rest, at),
                State::Data(data) => self.read_data(data, rest),
                State::Descriptor(bytes) => read_descriptor(bytes, rest),
                State::End => return,
            };
        }
    }

    /// Returns the hash of an entry's content if its data was read and is what the directory says. `start` is the offset of
    /// the data.
    pub(super) fn hash_of(&self, entry: &Entry, start: u64) -> Option<[u8; 32]> {
        let hashed = self.hashes.get(&start)?;
        let is_same = (hashed.method, hashed.compressed) == (entry.method, entry.compressed)
            && (hashed.size, hashed.checksum) == (entry.size, entry.checksum);
        is_same.then_some(hashed.sha256)
    }

    /// Reads a local header, of which some bytes were received before the bytes at `at`.
    fn read_header<'b>(&mut self, mut header: Vec<u8>, bytes: &'b [u8], at: u64) -> (State, &'b [u8]) {
        let begin = at - header.len() as u64;
        let Some(rest) = gather(&mut header, bytes, LOCAL_HEADER_SIZE) else {
            return (State::Header(header), &[]);
        };
        let length = LOCAL_HEADER_SIZE + usize::from(u16_at(&header, 26)) + usize::from(u16_at(&header, 28));
        let Some(rest) = gather(&mut header, rest, length) else { return (State::Header(header), &[]) };
        let (flags, compressed) = (u16_at(&header, 6), u32_at(&header, 18));
        let has_descriptor = flags & HAS_DESCRIPTOR != 0;
        let kind = match u16_at(&header, 8) {
            _ if !header.starts_with(LOCAL) || flags & ENCRYPTED != 0 => return (State::End, &[]),
            DEFLATED => Kind::Deflated,
            // Without its size, the end of the data is unknown. A size of all ones stands elsewhere.
            STORED if !has_descriptor && compressed != u32::MAX => Kind::Stored(u64::from(compressed)),
            _ => return (State::End, &[]),
        };
        if matches!(kind, Kind::Deflated) {
            let new = || Box::new(Inflater { stream: Decompress::new(false), piece: vec![0; PIECE] });
            self.inflater.get_or_insert_with(new).stream.reset(false);
        }
        // No data follows an empty entry.
        if matches!(kind, Kind::Stored(0)) {
            return (State::default(), rest);
        }
        let (start, checksum, sha256) = (begin + length as u64, crc32fast::Hasher::new(), Sha256::new());
        (State::Data(Box::new(Data { start, has_descriptor, kind, size: 0, checksum, sha256 })), rest)
    }

    fn read_data<'b>(&mut self, mut data: Box<Data>, bytes: &'b [u8]) -> (State, &'b [u8]) {
        let limit = MAX_ZIP_SIZE - self.content_size;
        let Some((rest, is_complete)) = data.read(self.inflater.as_deref_mut(), bytes, limit) else {
            return (State::End, &[]);
        };
        if !is_complete {
            return (State::Data(data), rest);
        }
        if self.hashes.len() == MAX_HASHES {
            return (State::End, &[]);
        }
        let end = self.position - rest.len() as u64;
        self.content_size += data.size;
        let has_descriptor = data.has_descriptor;
        self.hashes.insert(data.start, data.finish(end));
        let next = if has_descriptor { State::Descriptor(Vec::new()) } else { State::default() };
        (next, rest)
    }
}

impl fmt::Debug for StreamHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHasher")
            .field("position", &self.position)
            .field("hashes", &self.hashes.len())
            .finish_non_exhaustive()
    }
}

impl Data {
    /// Reads some bytes. Returns the bytes after the data, and whether the data is complete. `None` if the data is invalid,
    /// or has more than `limit` bytes when inflated.
    fn read<'b>(
        &mut self,
        inflater: Option<&mut Inflater>,
        bytes: &'b [u8],
        limit: u64,
    ) -> Option<(&'b [u8], bool)> {
        let Kind::Stored(left) = &mut self.kind else { return self.inflate(inflater?, bytes, limit) };
        let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        let (piece, rest) = bytes.split_at(count);
        *left -= count as u64;
        let is_complete = *left == 0;
        self.add(piece);
        (self.size <= limit).then_some((rest, is_complete))
    }

    fn inflate<'b>(
        &mut self,
        inflater: &mut Inflater,
        bytes: &'b [u8],
        limit: u64,
    ) -> Option<(&'b [u8], bool)> {
        let Inflater { stream, piece } = inflater;
        let mut rest = bytes;
        loop {
            let (consumed, produced) = (stream.total_in(), stream.total_out());
            let status = stream.decompress(rest, piece, FlushDecompress::None).ok()?;
            let output = usize::try_from(stream.total_out() - produced).ok()?;
            rest = rest.get(usize::try_from(stream.total_in() - consumed).ok()?..)?;
            self.add(piece.get(..output)?);
            if self.size > limit {
                return None;
            }
            if status == Status::StreamEnd {
                return Some((rest, true));
            }
            // A full piece means that the inflater may hold more.
            if output < piece.len() {
                return rest.is_empty().then_some((rest, false));
            }
        }
    }

    fn add(&mut self, content: &[u8]) {
        self.size += content.len() as u64;
        self.checksum.update(content);
        self.sha256.update(content);
    }

    fn finish(self, end: u64) -> Hashed {
        Hashed {
            method: match self.kind {
                Kind::Stored(_) => STORED,
                Kind::Deflated => DEFLATED,
            },
            compressed: end - self.start,
            size: self.size,
            checksum: self.checksum.finalize(),
            sha256: self.sha256.finalize().into(),
        }
    }
}

/// Takes bytes until `gathered` has `wanted` bytes. Returns the rest, or `None` if there are too few.
fn gather<'b>(gathered: &mut Vec<u8>, bytes: &'b [u8], wanted: usize) -> Option<&'b [u8]> {
    let count = wanted.saturating_sub(gathered.len()).min(bytes.len());
    let (taken, rest) = bytes.split_at(count);
    gathered.extend_from_slice(taken);
    (gathered.len() >= wanted).then_some(rest)
}

/// Skips the descriptor after the data. It has a signature or not, and sizes of four or eight bytes; what follows tells.
fn read_descriptor(mut gathered: Vec<u8>, bytes: &[u8]) -> (State, &[u8]) {
    let mut rest = bytes;
    for length in [12, 16, 20, 24] {
        let end = length + LOCAL.len();
        let Some(after) = gather(&mut gathered, rest, end) else { return (State::Descriptor(gathered), &[]) };
        rest = after;
        match gathered.get(length..end) {
            Some(LOCAL) => return (State::Header(gathered.split_off(length)), rest),
            Some(CENTRAL) => return (State::End, &[]),
            _ => {}
        }
    }
    (State::End, &[])
}
