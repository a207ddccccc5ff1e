//! The end record and the central directory of a zip: all entries in order, including duplicates.
//!
//! They are found and read as by `archive/zip` of Go, and then checked more strictly: a directory is accepted only
//! if all readers find it in the same place. So the zip64 records count exactly where Go uses them.

use super::source::{ReadAt, Source, Window, u16_at, u32_at, u64_at};
use super::{EntryFault, ExamineError, MAX_ZIP_SIZE, Reason, ZipFault};
use crate::path::PathReason;

/// Maximum size of a central directory, to limit memory. It has room for half a million files; the largest
/// modules in use have a tenth of that.
const MAX_DIRECTORY_SIZE: u64 = 64 << 20;

/// The size of the end record without its comment.
const END_SIZE: usize = 22;

/// The size of the end record with the longest comment.
const MAX_END_SIZE: u64 = END_SIZE as u64 + 65_535;

/// The sizes of the end record of zip64 and of its locator.
const END64_SIZE: u64 = 56;
const LOCATOR_SIZE: u64 = 20;

/// The size of the fixed part of a record in the directory.
const RECORD_SIZE: usize = 46;

/// The size of the fixed part of a local header.
pub(super) const LOCAL_HEADER_SIZE: usize = 30;

/// The extra field with the values that do not fit into 32 bits.
const ZIP64_EXTRA: u16 = 1;

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
        let mut window = Window::new(source);
        let End { declared, directory_end } = End::read(&mut window, source.size())?;
        let Declared { count, size, offset: start } = declared;
        if start.checked_add(size) != Some(directory_end) {
            return Err(broken("its offset or size differs from the end record"));
        }
        if size > MAX_DIRECTORY_SIZE {
            return Err(ZipFault::TooManyEntries.into());
        }
        let mut entries = Vec::new();
        let mut at = start;
        while at < directory_end {
            let (entry, end) = read_record(&mut window, at, directory_end)?;
            let header = (LOCAL_HEADER_SIZE + entry.name.len()) as u64;
            let data = entry.offset.checked_add(header);
            if data.and_then(|data| data.checked_add(entry.compressed)).is_none_or(|end| end > start) {
                return Err(entry.fault(EntryFault::Overlap));
            }
            entries.push(entry);
            at = end;
        }
        let found = entries.len() as u64;
        if found & 0xffff != count & 0xffff || (count > 0xffff && found != count) {
            return Err(broken("its number of entries differs from the end record"));
        }
        if entries.iter().map(|entry| entry.offset).min().is_some_and(|first| first != 0) {
            return Err(broken("the first entry is not at the start of the file"));
        }
        Ok(Self { entries, start })
    }
}

/// The values of an end record.
#[derive(Clone, Copy)]
struct Declared {
    /// The number of entries. Without zip64, only the lowest 16 bits.
    count: u64,
    /// The size of the directory.
    size: u64,
    /// The offset of the directory.
    offset: u64,
}

/// The end of a zip: the end record, and the records of zip64 before it.
struct End {
    declared: Declared,
    directory_end: u64,
}

impl End {
    fn read<R: ReadAt + ?Sized>(window: &mut Window<'_, '_, R>, zip_size: u64) -> Result<Self, ExamineError> {
        let (end_record, record) = find_end(window, zip_size)?;
        let low = u16_at(record, 10);
        let declared = Declared {
            count: low.into(),
            size: u32_at(record, 12).into(),
            offset: u32_at(record, 16).into(),
        };
        // Go compares the size with these 16 bits, not with 32.
        let go_reads_zip64 = low == 0xffff || declared.size == 0xffff || declared.offset == 0xffff_ffff;
        match Zip64::read(window, end_record)? {
            None => Ok(Self { declared, directory_end: end_record }),
            Some(zip64) if go_reads_zip64 => {
                Ok(Self { declared: zip64.declared, directory_end: zip64.record })
            }
            Some(zip64) => {
                // Other readers use these records. They must find the same directory.
                let Declared { count, size, offset } = zip64.declared;
                if (size, offset) != (declared.size, declared.offset) || count & 0xffff != u64::from(low) {
                    return Err(broken("its zip64 end record differs from the end record"));
                }
                Ok(Self { declared, directory_end: zip64.record })
            }
        }
    }
}

/// Returns the end record with its comment, and its offset.
fn find_end<'w, R: ReadAt + ?Sized>(
    window: &'w mut Window<'_, '_, R>,
    zip_size: u64,
) -> Result<(u64, &'w [u8]), ExamineError> {
    // Nearly all records have no comment, so the first read is short.
    for length in [1024, MAX_END_SIZE].map(|length| length.min(zip_size)) {
        let tail = window.get(zip_size - length, length as usize)?;
        let Some(last) = tail.len().checked_sub(END_SIZE) else { break };
        // The last signature counts, even if it is in the comment of another record.
        let Some(at) = (0..=last).rev().find(|&at| tail[at..].starts_with(b"PK\x05\x06")) else { continue };
        if at + END_SIZE + usize::from(u16_at(tail, at + 20)) != tail.len() {
            return Err(broken("its end record does not end at the end of the file"));
        }
        let offset = zip_size - length + at as u64;
        return Ok((offset, window.get(offset, (zip_size - offset) as usize)?));
    }
    Err(broken("there is no end record; the file is truncated or not a zip"))
}

/// The records of zip64 directly before an end record.
struct Zip64 {
    declared: Declared,
    /// The offset of the record.
    record: u64,
}

impl Zip64 {
    /// Reads the records. `None` if there is no locator.
    fn read<R: ReadAt + ?Sized>(
        window: &mut Window<'_, '_, R>,
        end_record: u64,
    ) -> Result<Option<Self>, ExamineError> {
        let Some(at) = end_record.checked_sub(LOCATOR_SIZE) else { return Ok(None) };
        let locator = window.get(at, LOCATOR_SIZE as usize)?;
        if !locator.starts_with(b"PK\x06\x07") {
            return Ok(None);
        }
        let (disk, record, disks) = (u32_at(locator, 4), u64_at(locator, 8), u32_at(locator, 16));
        if disk != 0 || disks != 1 {
            return Err(broken("its zip64 locator names more than one disk"));
        }
        if at.checked_sub(END64_SIZE) != Some(record) {
            return Err(broken("its zip64 locator is not directly after the zip64 end record"));
        }
        let bytes = window.get(record, END64_SIZE as usize)?;
        if !bytes.starts_with(b"PK\x06\x06") || u64_at(bytes, 4) != END64_SIZE - 12 {
            return Err(broken("there is no zip64 end record where its locator says"));
        }
        if u32_at(bytes, 16) != 0 || u32_at(bytes, 20) != 0 {
            return Err(broken("its zip64 end record names more than one disk"));
        }
        let count = u64_at(bytes, 32);
        if u64_at(bytes, 24) != count {
            return Err(broken("its zip64 end record has two numbers of entries"));
        }
        let declared = Declared { count, size: u64_at(bytes, 40), offset: u64_at(bytes, 48) };
        Ok(Some(Self { declared, record }))
    }
}

/// Reads a record of the directory. Returns its entry and its end.
fn read_record<R: ReadAt + ?Sized>(
    window: &mut Window<'_, '_, R>,
    at: u64,
    directory_end: u64,
) -> Result<(Entry, u64), ExamineError> {
    let beyond = || broken("its last record does not end where the directory ends");
    let left = usize::try_from(directory_end - at).unwrap_or(usize::MAX);
    if left < RECORD_SIZE {
        return Err(beyond());
    }
    let fixed = window.get(at, RECORD_SIZE)?;
    if !fixed.starts_with(b"PK\x01\x02") {
        return Err(broken("it has something else in place of a record"));
    }
    let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
    let length = RECORD_SIZE + name + extra + comment;
    if left < length {
        return Err(beyond());
    }
    let record = window.get(at, length)?;
    let (name, rest) = record[RECORD_SIZE..].split_at(name);
    let name = std::str::from_utf8(name).map_err(|_| ZipFault::Name {
        name: String::from_utf8_lossy(name).into_owned(),
        reason: Reason::Path(PathReason::InvalidUtf8),
    })?;
    let mut entry = Entry {
        name: name.to_owned(),
        flags: u16_at(record, 8),
        method: u16_at(record, 10),
        checksum: u32_at(record, 16),
        compressed: u32_at(record, 20).into(),
        size: u32_at(record, 24).into(),
        offset: u32_at(record, 42).into(),
    };
    if !read_zip64_extra(&mut entry, &rest[..extra]) {
        return Err(entry.fault(EntryFault::Zip64));
    }
    Ok((entry, at + length as u64))
}

/// Replaces values of all ones by those in the extra field, in their fixed order. Returns whether all are there.
fn read_zip64_extra(entry: &mut Entry, mut extra: &[u8]) -> bool {
    let mut missing = [&mut entry.size, &mut entry.compressed, &mut entry.offset]
        .into_iter()
        .filter(|value| **value == u64::from(u32::MAX))
        .collect::<Vec<_>>();
    // An unfinished field ends the list, as in Go.
    while let Some((head, rest)) = extra.split_first_chunk::<4>()
        && let Some((field, rest)) = rest.split_at_checked(usize::from(u16_at(head, 2)))
    {
        extra = rest;
        if u16_at(head, 0) == ZIP64_EXTRA {
            let values = field.as_chunks::<8>().0;
            if values.len() < missing.len() {
                return false;
            }
            for (value, bytes) in missing.drain(..).zip(values) {
                *value = u64::from_le_bytes(*bytes);
            }
        }
    }
    missing.is_empty()
}

fn broken(what: &str) -> ExamineError {
    ZipFault::Directory(what.to_owned()).into()
}
