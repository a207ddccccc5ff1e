//! Examination of zips that are valid, truncated, damaged, inconsistent or hostile.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

use flate2::Compression;
use flate2::write::DeflateEncoder;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::io::{self, Write};
use stoa_gomod::zip::{
    self, EntryFault, ExamineError, Examined, ReadAt, Reason, StreamHasher, ZipFault, check_structure,
    examine, examine_hashed,
};
use stoa_gomod::{ModuleVersion, h1};

fn module() -> ModuleVersion {
    ModuleVersion::parse("example.com/Mod@v1.2.3").unwrap()
}

fn good() -> Vec<u8> {
    let go_mod = b"module example.com/Mod\n".as_slice();
    let text = "package m // compresses well\n".repeat(50);
    let files = [("go.mod", go_mod), ("a/b.go", text.as_bytes()), ("a/empty", b""), ("LICENSE", b"free")];
    zip::create(&module(), files).unwrap()
}

fn fault(result: Result<Examined, ExamineError>) -> ZipFault {
    match result {
        Err(ExamineError::Broken(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

fn entry_fault(archive: &[u8]) -> EntryFault {
    match fault(examine(archive, &module())) {
        ZipFault::Entry { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

/// An entry as written into a zip under test. Its fields may be wrong.
#[derive(Clone)]
struct Raw {
    name: Vec<u8>,
    data: Vec<u8>,
    flags: u16,
    method: u16,
    checksum: u32,
    size: u32,
    compressed: u32,
    /// The offset of the local header, if it is not the real one.
    offset: Option<u32>,
    /// The name in the local header, if it differs.
    local_name: Option<Vec<u8>>,
    descriptor: Vec<u8>,
    /// The extra field of the directory's record.
    extra: Vec<u8>,
}

impl Raw {
    fn stored(path: &str, content: &[u8]) -> Self {
        let size = content.len().try_into().unwrap();
        Self {
            name: format!("{}{path}", module().zip_prefix()).into_bytes(),
            data: content.to_vec(),
            flags: 0,
            method: 0,
            checksum: crc32fast::hash(content),
            size,
            compressed: size,
            offset: None,
            local_name: None,
            descriptor: Vec::new(),
            extra: Vec::new(),
        }
    }

    fn deflated(path: &str, content: &[u8]) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        let data = encoder.finish().unwrap();
        let compressed = data.len().try_into().unwrap();
        Self { data, method: 8, compressed, ..Self::stored(path, content) }
    }
}

fn put(bytes: &mut Vec<u8>, fields: &[(u64, usize)]) {
    for &(value, width) in fields {
        bytes.extend_from_slice(&value.to_le_bytes()[..width]);
    }
}

fn header_fields(entry: &Raw, name: &[u8]) -> Vec<(u64, usize)> {
    vec![
        (20, 2),
        (entry.flags.into(), 2),
        (entry.method.into(), 2),
        (0, 4),
        (entry.checksum.into(), 4),
        (entry.compressed.into(), 4),
        (entry.size.into(), 4),
        (name.len() as u64, 2),
    ]
}

/// Writes a zip with these entries.
fn write(entries: &[Raw]) -> Vec<u8> {
    let (mut archive, offsets) = write_locals(entries);
    let start = archive.len();
    write_directory(&mut archive, entries, &offsets);
    let size = archive.len() - start;
    write_end(&mut archive, entries.len() as u64, size as u64, start as u64);
    archive
}

fn write_locals(entries: &[Raw]) -> (Vec<u8>, Vec<usize>) {
    let (mut archive, mut offsets) = (Vec::new(), Vec::new());
    for entry in entries {
        offsets.push(archive.len());
        let name = entry.local_name.as_ref().unwrap_or(&entry.name);
        archive.extend(b"PK\x03\x04");
        put(&mut archive, &header_fields(entry, name));
        put(&mut archive, &[(0, 2)]);
        archive.extend(name);
        archive.extend(&entry.data);
        archive.extend(&entry.descriptor);
    }
    (archive, offsets)
}

fn write_directory(archive: &mut Vec<u8>, entries: &[Raw], offsets: &[usize]) {
    for (entry, &offset) in entries.iter().zip(offsets) {
        archive.extend(b"PK\x01\x02");
        put(archive, &[(20, 2)]);
        put(archive, &header_fields(entry, &entry.name));
        put(archive, &[(entry.extra.len() as u64, 2), (0, 2), (0, 2), (0, 2), (0, 4)]);
        put(archive, &[(entry.offset.unwrap_or(offset as u32).into(), 4)]);
        archive.extend(&entry.name);
        archive.extend(&entry.extra);
    }
}

fn write_end(archive: &mut Vec<u8>, count: u64, size: u64, start: u64) {
    archive.extend(b"PK\x05\x06");
    put(archive, &[(0, 4), (count, 2), (count, 2), (size, 4), (start, 4), (0, 2)]);
}

/// A reader of a slice that can fail, end early or return few bytes at a time.
struct Odd<'a> {
    bytes: &'a [u8],
    /// All reads after this number fail.
    fail_after: Option<u64>,
    /// The real end of the file.
    end: u64,
    /// Maximum number of bytes per read.
    at_most: usize,
    reads: Cell<u64>,
}

impl<'a> Odd<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, fail_after: None, end: bytes.len() as u64, at_most: usize::MAX, reads: Cell::new(0) }
    }
}

impl ReadAt for Odd<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        if self.fail_after.is_some_and(|limit| self.reads.get() > limit) {
            // A parser could take this kind of error for the end of the file.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let room = buf.len().min(self.at_most).min(self.end.saturating_sub(offset) as usize);
        self.bytes.read_at(&mut buf[..room], offset)
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

#[test]
fn a_valid_zip_passes() {
    let archive = good();
    let examined = examine(&archive, &module()).unwrap();
    assert_eq!(examined.entries, 4);
    assert_eq!(examined.go_mod.as_deref(), Some(b"module example.com/Mod\n".as_slice()));
    let structure = check_structure(&archive, &module()).unwrap();
    assert_eq!(structure.entries, 4);
    assert_eq!(structure.content_size, examined.content_size);
    assert!(structure.has_go_mod);
}

#[test]
fn an_empty_zip_has_a_hash() {
    let examined = examine(&zip::create(&module(), []).unwrap(), &module()).unwrap();
    assert_eq!(examined.h1, h1::Builder::new().finish());
    assert_eq!(examined.go_mod, None);
}

#[test]
fn a_zip_of_another_version_is_rejected() {
    let other = ModuleVersion::parse("example.com/Mod@v1.2.4").unwrap();
    for result in [examine(&good(), &other).err(), check_structure(&good(), &other).err()] {
        let refused =
            matches!(result, Some(ExamineError::Broken(ZipFault::Name { reason: Reason::BadPrefix, .. })));
        assert!(refused, "{result:?}");
    }
}

#[test]
fn a_truncated_zip_is_rejected() {
    let archive = good();
    for end in 0..archive.len() {
        fault(examine(&archive[..end], &module()));
        assert!(matches!(check_structure(&archive[..end], &module()), Err(ExamineError::Broken(_))), "{end}");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_rejected() {
    let archive = good();
    for end in 0..archive.len() as u64 {
        fault(examine(&Odd { end, ..Odd::new(&archive) }, &module()));
    }
}

#[test]
fn a_hole_of_zeros_is_detected() {
    let archive = good();
    let directory = archive.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let names: Vec<_> = (0..directory).filter(|&at| archive[at] != 0).collect();
    for at in names {
        let mut holed = archive.clone();
        holed[at] = 0;
        // Flags and times may change. If the zip passes, it must have the same content.
        if let Ok(examined) = examine(&holed, &module()) {
            assert_eq!(examined, examine(&archive, &module()).unwrap(), "{at}");
        }
    }
    let mut holed = archive.clone();
    holed[200..directory].fill(0);
    fault(examine(&holed, &module()));
}

#[test]
fn read_errors_are_not_taken_for_invalid_content() {
    let archive = good();
    let count = |look: &dyn Fn(&Odd<'_>)| {
        let odd = Odd::new(&archive);
        look(&odd);
        odd.reads.get()
    };
    let all = count(&|odd| assert!(examine(odd, &module()).is_ok()));
    for limit in 0..all {
        let failing = Odd { fail_after: Some(limit), ..Odd::new(&archive) };
        let result = examine(&failing, &module());
        assert!(matches!(result, Err(ExamineError::Read(_))), "{limit} {result:?}");
    }
    let few = count(&|odd| assert!(check_structure(odd, &module()).is_ok()));
    assert!(few <= 7, "{few} reads");
    for limit in 0..few {
        let failing = Odd { fail_after: Some(limit), ..Odd::new(&archive) };
        let result = check_structure(&failing, &module());
        assert!(matches!(result, Err(ExamineError::Read(_))), "{limit} {result:?}");
    }
}

#[test]
fn readers_may_return_single_bytes() {
    let archive = good();
    let dribbling = Odd { at_most: 1, ..Odd::new(&archive) };
    assert_eq!(examine(&dribbling, &module()).unwrap(), examine(&archive, &module()).unwrap());
}

#[test]
fn data_before_or_after_the_zip_is_rejected() {
    let mut behind = good();
    behind.push(0);
    fault(examine(&behind, &module()));
    let mut before = b"#!/bin/sh\n".to_vec();
    before.extend(good());
    fault(examine(&before, &module()));
}

#[test]
fn a_comment_is_allowed() {
    let mut archive = good();
    let at = archive.len() - 2;
    archive[at] = 5;
    archive.extend(b"hello");
    assert_eq!(examine(&archive, &module()).unwrap(), examine(&good(), &module()).unwrap());
}

#[test]
fn duplicates_are_rejected() {
    let archive = write(&[Raw::stored("a", b"1"), Raw::stored("a", b"2")]);
    for result in [examine(&archive, &module()).err(), check_structure(&archive, &module()).err()] {
        let refused =
            matches!(result, Some(ExamineError::Broken(ZipFault::Name { reason: Reason::Duplicate, .. })));
        assert!(refused, "{result:?}");
    }
}

#[test]
fn directories_are_allowed_and_part_of_the_hash() {
    let entries =
        [Raw::stored("d/", b""), Raw::stored("d/f", b"x"), Raw::stored("d/", b""), Raw::stored("", b"")];
    let examined = examine(&write(&entries), &module()).unwrap();
    assert_eq!(examined.entries, 4);
    let mut hash = h1::Builder::new();
    for (path, content) in [("", ""), ("d/", ""), ("d/", ""), ("d/f", "x")] {
        hash.add(module().zip_prefix() + path, Sha256::digest(content).into()).unwrap();
    }
    assert_eq!(examined.h1, hash.finish());
    assert_eq!(entry_fault(&write(&[Raw::stored("d/", b"x")])), EntryFault::Size(0));
}

#[test]
fn names_that_are_not_utf8_are_rejected() {
    let mut entry = Raw::stored("a", b"");
    entry.name.push(0xff);
    assert!(matches!(fault(examine(&write(&[entry]), &module())), ZipFault::Name { .. }));
    let newline = write(&[Raw::stored("a\nb", b"")]);
    assert!(matches!(fault(examine(&newline, &module())), ZipFault::Name { .. }));
}

#[test]
fn encryption_and_unknown_methods_are_rejected() {
    assert_eq!(entry_fault(&write(&[Raw { flags: 1, ..Raw::stored("a", b"x") }])), EntryFault::Encrypted);
    assert_eq!(entry_fault(&write(&[Raw { method: 12, ..Raw::stored("a", b"x") }])), EntryFault::Method(12));
}

#[test]
fn a_local_header_must_agree() {
    let local = |name: &[u8]| Raw { local_name: Some(name.to_vec()), ..Raw::stored("a", b"x") };
    let longer = write(&[local(b"example.com/Mod@v1.2.3/other")]);
    assert_eq!(entry_fault(&longer), EntryFault::HeaderDiffers("name"));
    let same_length = write(&[local(b"example.com/Mod@v1.2.3/b")]);
    assert_eq!(entry_fault(&same_length), EntryFault::HeaderDiffers("name"));
    // The name is read with its length in the directory, so a shorter name is detected, too.
    let shorter = write(&[local(b"x"), Raw::stored("b", b"")]);
    assert_eq!(entry_fault(&shorter), EntryFault::HeaderDiffers("name"));
    let mut other = write(&[Raw::stored("a", b"x")]);
    for (at, field) in [(8, "method"), (14, "checksum"), (18, "compressed size"), (22, "size")] {
        other[at] ^= 1;
        assert_eq!(entry_fault(&other), EntryFault::HeaderDiffers(field));
        other[at] ^= 1;
    }
    other[0] = b'X';
    assert_eq!(entry_fault(&other), EntryFault::NoHeader);
}

#[test]
fn contents_must_be_as_declared() {
    let wrong = |change: fn(&mut Raw)| {
        [Raw::stored("a", b"content"), Raw::deflated("a", b"content")].map(|mut entry| {
            change(&mut entry);
            entry_fault(&write(&[entry]))
        })
    };
    assert_eq!(wrong(|entry| entry.checksum ^= 1), [EntryFault::Checksum, EntryFault::Checksum]);
    assert_eq!(wrong(|entry| entry.size += 1), [EntryFault::Size(8), EntryFault::Size(8)]);
    assert_eq!(wrong(|entry| entry.size -= 1), [EntryFault::Size(6), EntryFault::Size(6)]);
    assert_eq!(wrong(|entry| entry.size = 0), [EntryFault::Size(0), EntryFault::Size(0)]);
    let cut = wrong(|entry| entry.compressed -= 3);
    assert_eq!(cut, [EntryFault::Size(7), EntryFault::Deflate]);
    let garbage = Raw { data: vec![0xff; 9], compressed: 9, ..Raw::deflated("a", b"content") };
    assert_eq!(entry_fault(&write(&[garbage])), EntryFault::Deflate);
}

#[test]
fn the_checksum_after_the_data_must_agree() {
    let described = |checksum: u32, signature: &[u8]| {
        let entry = Raw { flags: 8, ..Raw::deflated("a", b"content") };
        let mut descriptor = signature.to_vec();
        put(&mut descriptor, &[(checksum.into(), 4), (entry.compressed.into(), 4), (entry.size.into(), 4)]);
        write(&[Raw { descriptor, ..entry }])
    };
    let checksum = crc32fast::hash(b"content");
    for signature in [b"PK\x07\x08".as_slice(), b""] {
        examine(&described(checksum, signature), &module()).unwrap();
        let fault = entry_fault(&described(checksum ^ 1, signature));
        assert_eq!(fault, EntryFault::HeaderDiffers("the checksum after the data"));
    }
}

#[test]
fn entries_may_not_overlap() {
    let bomb = Raw::deflated("a", &vec![0; 100_000]);
    let shared: Vec<_> = (0..50)
        .map(|n| Raw {
            name: format!("{}{n:02}", module().zip_prefix()).into_bytes(),
            data: Vec::new(),
            offset: Some(0),
            ..bomb.clone()
        })
        .collect();
    let first = Raw { data: bomb.data.clone(), ..shared[0].clone() };
    let archive = write(&[[first].as_slice(), &shared[1..]].concat());
    fault(examine(&archive, &module()));
    // Data that reaches into the directory or beyond it.
    for compressed in [2, 60, u32::MAX - 1] {
        let reaching = Raw { compressed, ..Raw::stored("a", b"x") };
        assert_eq!(entry_fault(&write(&[reaching])), EntryFault::Overlap);
    }
    let far = Raw { offset: Some(u32::MAX - 1), ..Raw::stored("a", b"x") };
    assert_eq!(entry_fault(&write(&[far])), EntryFault::Overlap);
}

#[test]
fn a_zip_bomb_is_rejected_before_it_is_inflated() {
    let huge = |n: u32| Raw { size: 400 << 20, ..Raw::deflated(&n.to_string(), b"x") };
    assert_eq!(fault(examine(&write(&[huge(1), huge(2)]), &module())), ZipFault::ContentTooLarge);
    // Within the limit, a wrong size costs no more than the real data.
    assert_eq!(entry_fault(&write(&[huge(1)])), EntryFault::Size(400 << 20));
    let small = Raw { size: 10, ..Raw::deflated("a", &vec![0; 30 << 20]) };
    assert_eq!(entry_fault(&write(&[small])), EntryFault::Size(10));
    let streamed = Raw { size: 17 << 20, ..Raw::deflated("a", &vec![0; 30 << 20]) };
    assert_eq!(entry_fault(&write(&[streamed])), EntryFault::Size(17 << 20));
}

#[test]
fn a_zip_that_is_too_large_is_not_read() {
    struct Huge;
    impl ReadAt for Huge {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            panic!("read")
        }

        fn size(&self) -> u64 {
            zip::MAX_ZIP_SIZE + 1
        }
    }
    assert_eq!(fault(examine(&Huge, &module())), ZipFault::ArchiveTooLarge(zip::MAX_ZIP_SIZE + 1));
}

#[test]
fn large_entries_are_streamed() {
    let mut content: Vec<u8> =
        (0..20u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    content[..8 << 20].fill(7);
    let expected = {
        let mut hash = h1::Builder::new();
        hash.add(module().zip_prefix() + "a", Sha256::digest(&content).into()).unwrap();
        hash.finish()
    };
    for entry in [Raw::stored("a", &content), Raw::deflated("a", &content)] {
        let archive = write(std::slice::from_ref(&entry));
        assert_eq!(examine(&archive, &module()).unwrap().h1, expected);
        let wrong = write(&[Raw { checksum: 1, ..entry.clone() }]);
        assert_eq!(entry_fault(&wrong), EntryFault::Checksum);
        let longer = write(&[Raw { size: entry.size + 1, ..entry.clone() }]);
        assert_eq!(entry_fault(&longer), EntryFault::Size(u64::from(entry.size) + 1));
        let shorter = write(&[Raw { size: entry.size - 1, ..entry.clone() }]);
        assert_eq!(entry_fault(&shorter), EntryFault::Size(u64::from(entry.size) - 1));
    }
    let mut damaged = Raw::deflated("a", &content);
    let cut = damaged.compressed / 2;
    damaged.data.truncate(cut as usize);
    damaged.compressed = cut;
    assert_eq!(entry_fault(&write(&[damaged])), EntryFault::Deflate);
}

/// The values of the records at the end of a zip with zip64.
#[derive(Clone)]
struct End64 {
    length: u64,
    disks: [u64; 2],
    counts: [u64; 2],
    locator_disk: u64,
    /// Added to the offset of the record.
    shift: u64,
    locator_disks: u64,
    /// The number of entries, the size and the offset in the end record.
    end: [u64; 3],
}

/// Writes a zip with one entry and zip64 records.
fn write_zip64(end64: &End64) -> Vec<u8> {
    // The record of the directory has all ones, and the real sizes in its extra field.
    let mut entry = Raw::stored("a", b"content");
    put(&mut entry.extra, &[(1, 2), (16, 2), (7, 8), (7, 8)]);
    let entries = [Raw { size: u32::MAX, compressed: u32::MAX, ..entry }];
    let (mut archive, offsets) = write_locals(&entries);
    let start = archive.len() as u64;
    write_directory(&mut archive, &entries, &offsets);
    let end = archive.len() as u64;
    let ([disk, of_directory], [here, total]) = (end64.disks, end64.counts);
    archive.extend(b"PK\x06\x06");
    put(&mut archive, &[(end64.length, 8), (45, 2), (45, 2), (disk, 4), (of_directory, 4)]);
    put(&mut archive, &[(here, 8), (total, 8), (end - start, 8), (start, 8)]);
    archive.extend(b"PK\x06\x07");
    put(&mut archive, &[(end64.locator_disk, 4), (end + end64.shift, 8), (end64.locator_disks, 4)]);
    let [count, size, offset] = end64.end;
    write_end(
        &mut archive,
        count,
        if size == 0 { end - start } else { size },
        if offset == 0 { start } else { offset },
    );
    archive
}

const VALID_END64: End64 = End64 {
    length: 44,
    disks: [0, 0],
    counts: [1, 1],
    locator_disk: 0,
    shift: 0,
    locator_disks: 1,
    end: [0xffff, 0xffff_ffff, 0xffff_ffff],
};

#[test]
fn zip64_is_read() {
    // The count in the end record refers to zip64. Values without all ones are used by Go, and must be the same.
    for end in [VALID_END64.end, [0xffff, 0, 0], [1, 0, 0xffff_ffff], [1, 0, 0]] {
        let archive = write_zip64(&End64 { end, ..VALID_END64 });
        let examined = examine(&archive, &module()).unwrap();
        assert_eq!((examined.entries, examined.content_size), (1, 7), "{end:?}");
        check_structure(&archive, &module()).unwrap();
    }
}

#[test]
fn zip64_records_that_go_refuses_or_ignores_are_rejected() {
    let valid = VALID_END64;
    for (wrong, expected) in [
        (End64 { length: 45, ..valid.clone() }, "where its locator says"),
        (End64 { disks: [1, 0], ..valid.clone() }, "more than one disk"),
        (End64 { disks: [0, 1], ..valid.clone() }, "more than one disk"),
        (End64 { counts: [1, 2], ..valid.clone() }, "two numbers of entries"),
        (End64 { counts: [2, 2], ..valid.clone() }, "number of entries differs"),
        (End64 { counts: [0x1_0001, 0x1_0001], ..valid.clone() }, "number of entries differs"),
        (End64 { locator_disk: 1, ..valid.clone() }, "more than one disk"),
        (End64 { locator_disks: 0, ..valid.clone() }, "more than one disk"),
        (End64 { locator_disks: 2, ..valid.clone() }, "more than one disk"),
        (End64 { shift: 1, ..valid.clone() }, "directly after"),
        // Go does not look for zip64 records, and finds no directory.
        (End64 { end: [1, 0xffff_ffff, 0], ..valid.clone() }, "differs from the end record"),
        (End64 { end: [2, 0, 0], ..valid.clone() }, "differs from the end record"),
    ] {
        let archive = write_zip64(&wrong);
        for result in [examine(&archive, &module()).err(), check_structure(&archive, &module()).err()] {
            let reason = result.expect("it is rejected").to_string();
            assert!(reason.contains(expected), "{reason}, not {expected}");
        }
    }
    // An entry whose sizes are nowhere.
    let archive = write(&[Raw { compressed: u32::MAX, ..Raw::stored("a", b"x") }]);
    assert_eq!(entry_fault(&archive), EntryFault::Zip64);
}

#[test]
fn deflate_streams_that_go_refuses_are_rejected() {
    // A fixed block with an `a` and then the reserved symbol 286 or 287, which some readers take for a copy.
    for symbol in [0b1100_0110, 0b1100_0111] {
        let (mut bits, mut data) = (vec![true, true, false], Vec::new());
        let code = |value: u32, length: u32| (0..length).rev().map(move |bit| value >> bit & 1 == 1);
        bits.extend(code(0x30 + u32::from(b'a'), 8));
        bits.extend(code(symbol, 8));
        bits.extend(code(0, 5));
        bits.extend(code(0, 7));
        for byte in bits.chunks(8) {
            data.push(byte.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
        }
        let content = vec![b'a'; 259];
        let entry = Raw { compressed: data.len() as u32, data, ..Raw::deflated("a", &content) };
        assert_eq!(entry_fault(&write(&[entry])), EntryFault::Deflate);
    }
}

#[test]
fn the_directory_must_match_the_end_record() {
    let entries = [Raw::stored("a", b"x"), Raw::stored("b", b"y")];
    let (locals, offsets) = write_locals(&entries);
    let with_end = |count: u64, shift: i64| {
        let mut archive = locals.clone();
        write_directory(&mut archive, &entries, &offsets);
        let size = (archive.len() - locals.len()) as u64;
        write_end(&mut archive, count, size, locals.len() as u64);
        let at = archive.len() - 6;
        archive[at] = archive[at].wrapping_add_signed(shift as i8);
        archive
    };
    examine(&with_end(2, 0), &module()).unwrap();
    for wrong in [with_end(1, 0), with_end(3, 0), with_end(2, 1), with_end(2, 70)] {
        assert!(matches!(examine(&wrong, &module()), Err(ExamineError::Broken(_))));
    }
}

#[test]
fn many_entries_are_examined_in_bounded_time() {
    let entries: Vec<_> = (0..30_000).map(|n| Raw::stored(&format!("d{}/{n}", n % 100), b"x")).collect();
    assert_eq!(examine(&write(&entries), &module()).unwrap().entries, 30_000);
}

proptest! {
    #[test]
    fn a_created_zip_passes(files in proptest::collection::btree_map("[a-z]{1,4}(/[a-z]{1,4}){0,2}", ".{0,40}", 0..6)) {
        let listed = files.iter().map(|(path, content)| (path.as_str(), content.as_bytes()));
        // Names that are both a file and a directory are rejected, and some are vendored.
        if let Ok(archive) = zip::create(&module(), listed) {
            let examined = examine(&archive, &module()).unwrap();
            prop_assert_eq!(examined.go_mod, None);
            prop_assert!(check_structure(&archive, &module()).is_ok());
        }
    }

    #[test]
    fn damage_is_found_or_harmless(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let archive = good();
        let mut damaged = archive.clone();
        damaged[at.index(archive.len())] ^= 1 << bit;
        if let Ok(examined) = examine(&damaged, &module()) {
            prop_assert_eq!(examined, examine(&archive, &module()).unwrap());
        }
    }
}

#[test]
fn an_examination_reports_its_progress_within_a_large_entry() {
    struct Watched<'a>(&'a [u8], Cell<Vec<u64>>);
    impl ReadAt for Watched<'_> {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            self.0.read_at(buf, offset)
        }

        fn size(&self) -> u64 {
            self.0.size()
        }

        fn examined(&self, end: u64) {
            let mut ends = self.1.take();
            ends.push(end);
            self.1.set(ends);
        }
    }
    // A deflated entry is read in pieces from 16 MiB on.
    let large = vec![7; (16 << 20) + 1];
    for entry in [Raw::stored("large", &large[..1 << 20]), Raw::deflated("large", &large)] {
        let archive = write(&[Raw::stored("go.mod", b"module example.com/Mod\n"), entry]);
        let watched = Watched(&archive, Cell::default());
        examine(&watched, &module()).unwrap();
        let ends = watched.1.take();
        assert!(ends.len() > 16 && ends.is_sorted(), "{ends:?}");
        assert_eq!(ends.last(), Some(&archive.size()));
    }
}

/// Examines a zip after it was received in pieces of some size. Panics if the result is another than without that.
fn examine_received(archive: &[u8], piece: usize) -> (Result<Examined, ExamineError>, u64) {
    let mut hasher = StreamHasher::default();
    for (index, bytes) in archive.chunks(piece).enumerate() {
        hasher.update((index * piece) as u64, bytes);
    }
    let counting = Counting { archive, read: Cell::new(0) };
    let received = examine_hashed(&counting, &module(), &hasher);
    match (&received, &examine(archive, &module())) {
        (Ok(received), Ok(plain)) => assert_eq!(received, plain),
        (Err(ExamineError::Broken(received)), Err(ExamineError::Broken(plain))) => {
            assert_eq!(received, plain)
        }
        other => panic!("{other:?}"),
    }
    (received, counting.read.get())
}

struct Counting<'a> {
    archive: &'a [u8],
    read: Cell<u64>,
}

impl ReadAt for Counting<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.archive.read_at(buf, offset)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }

    fn size(&self) -> u64 {
        self.archive.len() as u64
    }
}

/// Returns content that deflate cannot make smaller.
fn noise(size: usize) -> Vec<u8> {
    (0..size)
        .step_by(32)
        .flat_map(|at| <[u8; 32]>::from(Sha256::digest(at.to_le_bytes())))
        .take(size)
        .collect()
}

#[test]
fn a_received_zip_is_not_read_again() {
    let noise = noise(20 << 20);
    let files =
        [("go.mod", b"module example.com/Mod\n".as_slice()), ("a", &noise), ("b", b""), ("c", &noise[..9])];
    let deflated = zip::create(&module(), files).unwrap();
    let stored = write(&[Raw::stored("a", &noise), Raw::stored("b", b""), Raw::stored("c", b"free")]);
    for archive in [&deflated, &stored] {
        for piece in [1 << 20, 65_537, 4_096] {
            let (result, read) = examine_received(archive, piece);
            assert!(result.is_ok() && read < 1 << 20, "{result:?}: {read} bytes were read");
        }
    }
    // Bytes that were not received are read.
    let mut hasher = StreamHasher::default();
    hasher.update(0, &deflated[..100]);
    hasher.update(200, &deflated[200..]);
    let counting = Counting { archive: &deflated, read: Cell::new(0) };
    assert_eq!(
        examine_hashed(&counting, &module(), &hasher).unwrap(),
        examine(&deflated, &module()).unwrap()
    );
    assert!(counting.read.get() > 20 << 20);
}

#[test]
fn descriptors_of_all_forms_are_skipped() {
    let noise = noise(300_000);
    for (has_signature, is_wide) in [(false, false), (true, false), (false, true), (true, true)] {
        let described = |entry: &str, content: &[u8]| {
            let mut raw = Raw::deflated(entry, content);
            raw.flags |= 1 << 3;
            let width = if is_wide { 8 } else { 4 };
            if has_signature {
                raw.descriptor.extend(b"PK\x07\x08");
            }
            let fields = [
                (u64::from(raw.checksum), 4),
                (u64::from(raw.compressed), width),
                (u64::from(raw.size), width),
            ];
            put(&mut raw.descriptor, &fields);
            raw
        };
        let archive = write(&[described("a", &noise), described("b", b"text"), described("c", &noise)]);
        for piece in [archive.len(), 1_000] {
            let (result, read) = examine_received(&archive, piece);
            assert!(result.is_ok(), "{result:?}");
            // Parts of the window between two entries are read again, all in all less than one entry.
            assert!(read < archive.len() as u64, "{read} bytes were read");
        }
    }
}

proptest! {
    #[test]
    fn damage_has_the_same_fault_if_the_zip_was_received(
        at in any::<proptest::sample::Index>(), bit in 0u8..8, piece in 1usize..2000,
    ) {
        let mut archive = good();
        let at = at.index(archive.len());
        archive[at] ^= 1 << bit;
        let _ = examine_received(&archive, piece);
    }
}
