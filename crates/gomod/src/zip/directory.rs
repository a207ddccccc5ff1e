//! The central directory of a zip: all entries in order, including duplicates.

use super::source::{ReadAt, Source, u32_at};
use super::{EntryFault, ExamineError, MAX_ZIP_SIZE, Reason, ZipFault};
use crate::path::PathReason;
use rawzip::{ErrorKind, MAX_CENTRAL_DIRECTORY_RECORD_SIZE, RECOMMENDED_BUFFER_SIZE, ZipLocator};

/// Maximum size of a central directory, to limit memory. It has room for half a million files; the largest
/// modules in use have a tenth of that.
const MAX_DIRECTORY_SIZE: u64 = 64 << 20;

/// The size of the end record with the longest comment.
const MAX_END_SIZE: u64 = 22 + 65_535;

/// The size of the fixed part of a record in the directory.
const RECORD_SIZE: u64 = 46;

/// The size of the fixed part of a local header.
pub(super) const LOCAL_HEADER_SIZE: usize = 30;

/// A central directory that lies within the zip.
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    /// The start of the directory, which is the upper bound of the last entry's data.
    pub(super) start: u64,
}

/// An entry of the directory.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) checksum: u32,
    pub(super) compressed: u64,
    pub(super) size: u64,
    /// The offset of the local header.
    pub(super) offset: u64,
}

impl Entry {
    pub(super) fn is_dir(&self) -> bool {
        self.name.ends_with('/')
    }

    pub(super) fn fault(&self, fault: EntryFault) -> ExamineError {
        ZipFault::Entry { name: self.name.clone(), fault }.into()
    }
}

impl Directory {
    /// Finds and reads the directory.
    ///
    /// Only a directory that all readers find is accepted: it ends at the start of the end record, the end
    /// record ends at the end of the file, and the first entry is at the start of the file.
    pub(super) fn read<R: ReadAt + ?Sized>(source: &Source<'_, R>) -> Result<Self, ExamineError> {
        if source.size() > MAX_ZIP_SIZE {
            return Err(ZipFault::ArchiveTooLarge(source.size()).into());
        }
        let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
        let located = ZipLocator::new().max_search_space(MAX_END_SIZE).locate_in_reader(
            source,
            &mut buffer,
            source.size(),
        );
        source.ok()?;
        let archive = located.map_err(|(_, error)| fault_of(&error))?;
        if archive.end_offset() != source.size() {
            return Err(broken("there is data after the end record"));
        }
        let start = archive.directory_offset();
        let length = archive.eocd_offset().saturating_sub(start);
        if length > MAX_DIRECTORY_SIZE {
            return Err(ZipFault::TooManyEntries.into());
        }
        if length > buffer.len() as u64 {
            buffer.resize(MAX_CENTRAL_DIRECTORY_RECORD_SIZE, 0);
        }
        let mut entries = Vec::new();
        let mut end = start;
        let mut records = archive.entries(&mut buffer);
        loop {
            let next = records.next_entry();
            source.ok()?;
            let Some(record) = next.map_err(|error| fault_of(&error))? else { break };
            let variable = record.file_path().len()
                + record.extra_fields().remaining_bytes().len()
                + record.comment().as_bytes().len();
            end = record.central_directory_offset() + RECORD_SIZE + variable as u64;
            entries.push(entry_of(&record, start)?);
        }
        // The classic end record counts up to 65535 only. The go command compares these 16 bits, too.
        if entries.len() as u64 & 0xffff != archive.entries_hint() & 0xffff {
            return Err(broken("its number of entries differs from the end record"));
        }
        if declared(source, end, archive.eocd_offset())? != (start, end - start) {
            return Err(broken("its offset or size differs from the end record"));
        }
        if entries.iter().map(|entry| entry.offset).min().is_some_and(|first| first != 0) {
            return Err(broken("the first entry is not at the start of the file"));
        }
        Ok(Self { entries, start })
    }
}

/// Returns offset and size of the directory from the end record. The parser may have corrected them.
fn declared<R: ReadAt + ?Sized>(
    source: &Source<'_, R>,
    directory_end: u64,
    end_record: u64,
) -> Result<(u64, u64), ExamineError> {
    match end_record.checked_sub(directory_end) {
        Some(0) => {
            let record: [u8; 22] = source.read_array(end_record)?;
            let field = |at: usize| u64::from(u32_at(&record, at));
            Ok((field(16), field(12)))
        }
        // The zip64 records of 56 and 20 bytes are in between.
        Some(76) => {
            let record: [u8; 56] = source.read_array(directory_end)?;
            let field = |at: usize| u64::from(u32_at(&record, at)) | u64::from(u32_at(&record, at + 4)) << 32;
            Ok((field(48), field(40)))
        }
        _ => Err(broken("it does not end at the start of the end record")),
    }
}

fn entry_of(record: &rawzip::ZipFileHeaderRecord<'_>, directory_start: u64) -> Result<Entry, ExamineError> {
    let name = record.file_path();
    let name = std::str::from_utf8(name.as_bytes()).map_err(|_| ZipFault::Name {
        name: String::from_utf8_lossy(name.as_bytes()).into_owned(),
        reason: Reason::Path(PathReason::InvalidUtf8),
    })?;
    let entry = Entry {
        name: name.to_owned(),
        flags: record.flags().bits(),
        method: record.compression_method().as_u16(),
        checksum: record.crc32(),
        compressed: record.compressed_size_hint(),
        size: record.uncompressed_size_hint(),
        offset: record.local_header_offset(),
    };
    let end = entry
        .offset
        .checked_add((LOCAL_HEADER_SIZE + name.len()) as u64)
        .and_then(|data| data.checked_add(entry.compressed));
    if end.is_none_or(|end| end > directory_start) {
        return Err(entry.fault(EntryFault::Overlap));
    }
    Ok(entry)
}

fn broken(what: &str) -> ExamineError {
    ZipFault::Directory(what.to_owned()).into()
}

/// Converts an error of the parser. The reader's own errors were returned before.
fn fault_of(error: &rawzip::Error) -> ZipFault {
    match error.kind() {
        ErrorKind::Eof | ErrorKind::IO(_) => ZipFault::Truncated,
        ErrorKind::MissingEndOfCentralDirectory => {
            ZipFault::Directory("there is no end record; the file is truncated or not a zip".to_owned())
        }
        other => ZipFault::Directory(other.to_string()),
    }
}
