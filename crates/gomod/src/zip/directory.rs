//! The central directory of an archive: every entry in its order, duplicates included.

use super::source::{ReadAt, Source, u32_at};
use super::{EntryFault, ExamineError, MAX_ZIP_SIZE, Reason, ZipFault};
use crate::path::PathReason;
use rawzip::{ErrorKind, MAX_CENTRAL_DIRECTORY_RECORD_SIZE, RECOMMENDED_BUFFER_SIZE, ZipLocator};

/// A larger central directory is refused, so that memory stays bounded. It has room for half a million
/// files; the largest modules in use have a tenth of that.
const MAX_DIRECTORY_SIZE: u64 = 64 << 20;

/// The end record, and the longest comment that may follow it.
const MAX_END_SIZE: u64 = 22 + 65_535;

/// The fixed part of a record of the directory.
const RECORD_SIZE: u64 = 46;

/// The fixed part of a local header.
pub(super) const LOCAL_HEADER_SIZE: usize = 30;

/// The central directory, read and within the archive.
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    /// Where the directory begins, which is where the last entry's data ends at the latest.
    pub(super) start: u64,
}

/// What the directory says of one entry.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) checksum: u32,
    pub(super) compressed: u64,
    pub(super) size: u64,
    /// Where the local header lies.
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
    /// It is held to be the archive's only one: it ends where the end record begins, the end record ends
    /// where the file ends, and the first entry is where the file begins. Readers that look for the
    /// directory in other ways then find the same one.
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
            return Err(broken("there is something behind the end record"));
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
        // The classic end record counts up to 65535 only; the go command, too, compares what it has room for.
        if entries.len() as u64 & 0xffff != archive.entries_hint() & 0xffff {
            return Err(broken("it has not as many entries as the end record says"));
        }
        if declared(source, end, archive.eocd_offset())? != (start, end - start) {
            return Err(broken("it is not where the end record says"));
        }
        if entries.iter().map(|entry| entry.offset).min().is_some_and(|first| first != 0) {
            return Err(broken("the first entry is not where the file begins"));
        }
        Ok(Self { entries, start })
    }
}

/// Reads offset and size of the directory as the end record has them, which the parser may have put right.
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
        // Between the two lie the records of zip64, of 56 and 20 bytes.
        Some(76) => {
            let record: [u8; 56] = source.read_array(directory_end)?;
            let field = |at: usize| u64::from(u32_at(&record, at)) | u64::from(u32_at(&record, at + 4)) << 32;
            Ok((field(48), field(40)))
        }
        _ => Err(broken("it does not end where the end record begins")),
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

/// Tells what an error of the parser says of the archive; the reader's own errors are sorted out before.
fn fault_of(error: &rawzip::Error) -> ZipFault {
    match error.kind() {
        ErrorKind::Eof | ErrorKind::IO(_) => ZipFault::Truncated,
        ErrorKind::MissingEndOfCentralDirectory => {
            ZipFault::Directory("there is no end record; it is cut short, or no zip at all".to_owned())
        }
        other => ZipFault::Directory(other.to_string()),
    }
}
