//! Zips with everything that their records may say, true or not.

use std::io::Write;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use libdeflater::Decompressor;

use super::{PATH, Random, VERSION, deflate};

/// An entry as its records describe it.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    local_name: Vec<u8>,
    data: Vec<u8>,
    flags: u16,
    method: u16,
    checksum: u32,
    compressed: u64,
    size: u64,
    offset: Option<u64>,
    /// Whether the directory has size, compressed size and offset in its zip64 field.
    zip64: [bool; 3],
    descriptor: Vec<u8>,
    local_extra: Vec<u8>,
    extra: Vec<u8>,
    comment: Vec<u8>,
}

/// The values of the records at the end.
#[derive(Clone, Default)]
struct End {
    /// The disk, the disk of the directory, the number of entries on this disk and in total, the size and the offset.
    plain: [u64; 6],
    comment: Vec<u8>,
    zip64: Option<Zip64>,
}

#[derive(Clone)]
struct Zip64 {
    values: [u64; 6],
    length: u64,
    disk: u64,
    record: u64,
    disks: u64,
    between: Vec<u8>,
}

/// Generates a zip, with the name of its fault if it has one.
pub(super) fn generate(random: &mut Random) -> (String, Vec<u8>) {
    let mut faults = Vec::new();
    let mut entries: Vec<_> = (0..random.below(5)).map(|n| entry(random, n)).collect();
    for _ in 0..random.pick(&[0, 0, 1, 1, 2]) {
        if let Some(fault) = change_entry(random, &mut entries) {
            faults.push(fault);
        }
    }
    let mut zip = Vec::new();
    if random.once_in(40) {
        faults.push("garbage before");
        zip.extend(b"#!/bin/sh\n");
    }
    let offsets: Vec<_> = entries.iter().map(|entry| write_local(&mut zip, entry)).collect();
    let mut directory = Vec::new();
    for (entry, offset) in entries.iter().zip(offsets) {
        write_record(&mut directory, entry, offset);
    }
    let mut end = honest_end(random, zip.len(), directory.len(), entries.len());
    if random.once_in(2)
        && faults.len() < 2
        && let Some(fault) = change_end(random, &mut end)
    {
        faults.push(fault);
    }
    if random.once_in(40) {
        faults.push("garbage in the directory");
        directory.extend(random.pick(&[b"x".as_slice(), b"PK\x01\x02", b"PK\x05\x05\0\0"]));
    }
    zip.extend(directory);
    write_end(&mut zip, &end);
    if random.once_in(10) {
        faults.push("damage");
        damage(random, &mut zip);
    }
    (faults.join(", "), zip)
}

/// Zips around the number of entries that fits into 16 bits.
pub(super) fn with_many_entries() -> Vec<(String, Vec<u8>)> {
    let mut random = Random::new(1);
    let mut zips = Vec::new();
    for count in [65_534, 65_535, 65_536, 65_537] {
        let (mut locals, mut directory) = (Vec::new(), Vec::new());
        for n in 0..count {
            let entry = stored(format!("{n}").into_bytes(), b"");
            let offset = write_local(&mut locals, &entry);
            write_record(&mut directory, &entry, offset);
        }
        let mut end = honest_end(&mut random, locals.len(), directory.len(), count);
        let real = end.plain;
        for (has_zip64, total, count64) in [
            (false, real[3], 0),
            (true, 0xffff, count),
            (true, 0xffff, count % 65_536),
            (true, 0xffff, count + 1),
        ] {
            end.plain[3] = total;
            end.zip64 = has_zip64.then(|| {
                let count64 = count64 as u64;
                let values = [0, 0, count64, count64, real[4], real[5]];
                Zip64 {
                    values,
                    length: 44,
                    disk: 0,
                    record: real[4] + real[5],
                    disks: 1,
                    between: Vec::new(),
                }
            });
            let mut zip = [locals.as_slice(), &directory].concat();
            write_end(&mut zip, &end);
            zips.push((format!("{count} entries"), zip));
        }
    }
    zips
}

fn checksum(content: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(content);
    crc.sum()
}

fn stored(path: Vec<u8>, content: &[u8]) -> Entry {
    let name = [format!("{PATH}@{VERSION}/").into_bytes(), path].concat();
    let size = content.len() as u64;
    Entry {
        local_name: name.clone(),
        name,
        data: content.to_vec(),
        flags: 0,
        method: 0,
        checksum: checksum(content),
        compressed: size,
        size,
        offset: None,
        zip64: [false; 3],
        descriptor: Vec::new(),
        local_extra: Vec::new(),
        extra: Vec::new(),
        comment: Vec::new(),
    }
}

/// A valid entry of any kind.
fn entry(random: &mut Random, number: usize) -> Entry {
    let path = match number {
        0 => b"go.mod".to_vec(),
        _ => format!("folder{}/file{number}.go", random.below(2)).into_bytes(),
    };
    let content: Vec<u8> = (0..random.below(60)).map(|_| random.pick(b"package module\n")).collect();
    let mut entry = stored(path, &content);
    if random.once_in(2) {
        let mut encoder =
            DeflateEncoder::new(Vec::new(), random.pick(&[Compression::none(), Compression::best()]));
        encoder.write_all(&content).unwrap();
        entry.data = encoder.finish().unwrap();
        entry.method = 8;
        entry.compressed = entry.data.len() as u64;
    }
    if random.once_in(3) {
        entry.flags |= 8;
        describe(random, &mut entry);
    }
    if random.once_in(4) {
        entry.zip64 = [(); 3].map(|()| random.once_in(2));
    }
    if random.once_in(6) {
        // The time of Info-ZIP, an unknown field, and one that ends too early.
        let fields = [b"UT\x05\0\x01abcd".as_slice(), b"\xfe\xca\0\0", b"\x0a\0\x02\0ab"];
        entry.extra = random.pick(&fields).to_vec();
        entry.local_extra = random.pick(&fields).to_vec();
    }
    if random.once_in(6) {
        entry.comment = b"a comment".to_vec();
    }
    if random.once_in(8) {
        entry.flags |= 1 << 11;
    }
    entry
}

fn describe(random: &mut Random, entry: &mut Entry) {
    entry.descriptor = random.pick(&[b"PK\x07\x08".as_slice(), b""]).to_vec();
    let width = random.pick(&[4, 8]);
    put(&mut entry.descriptor, entry.checksum.into(), 4);
    put(&mut entry.descriptor, entry.compressed, width);
    put(&mut entry.descriptor, entry.size, width);
}

const ODD_NAMES: [&[u8]; 32] = [
    b"",
    b"/",
    b"folder/",
    b"folder1",
    b"../x",
    b"./x",
    b"a//b",
    b"/etc",
    b"a\\b",
    b"FOLDER1/x",
    b"GO.MOD",
    b"folder/go.mod",
    b"folder/GO.mod/",
    b"go.mod/",
    b"CON",
    b"con.txt",
    b"a:b",
    b"a.",
    b" ",
    b".",
    b"..",
    b"x~1",
    b"vendor/a/b.go",
    b"LICENSE",
    b"\xc3\xa9",
    b"\xff",
    b"new\nline",
    b"zero\0",
    b"\xc5\xbf",
    b"S",
    b"\xe2\x84\xaa",
    b"@!#$%&()+,-.=^_{}~",
];

/// Changes an entry, and names the fault.
fn change_entry(random: &mut Random, entries: &mut Vec<Entry>) -> Option<&'static str> {
    if entries.is_empty() {
        return None;
    }
    let at = random.below(entries.len());
    let others = entries.clone();
    let entry = &mut entries[at];
    let near = |random: &mut Random, value: u64| {
        value.wrapping_add_signed(random.pick(&[-1, 1, 2, 8, 100, 1 << 31]))
    };
    Some(match random.below(18) {
        0 => {
            entry.name = [format!("{PATH}@{VERSION}/").as_bytes(), random.pick(&ODD_NAMES)].concat();
            entry.local_name = entry.name.clone();
            "odd name"
        }
        1 => {
            entry.name = random.pick(&[b"x".as_slice(), b"", b"example.com/Mod@v1.2.4/a"]).to_vec();
            entry.local_name = entry.name.clone();
            "other prefix"
        }
        2 => {
            let copy = random.pick(&others);
            if random.once_in(2) {
                entries.push(copy);
            } else {
                entries[at].name = copy.name.clone();
                entries[at].local_name = copy.name;
            }
            "duplicate"
        }
        3 => {
            entry.local_name.extend(b"x");
            "longer local name"
        }
        4 => {
            *entry.local_name.first_mut()? ^= 1;
            "other local name"
        }
        5 => {
            entry.checksum ^= 1;
            "checksum"
        }
        6 => {
            entry.checksum = 0;
            "checksum of zero"
        }
        7 => {
            entry.size = near(random, entry.size);
            "size"
        }
        8 => {
            entry.compressed = near(random, entry.compressed);
            "compressed size"
        }
        9 => {
            entry.offset = Some(random.pick(&[0, 1, 30, 100, 1 << 31, 0xffff_ffff, 1 << 63]));
            entry.zip64[2] = random.once_in(2);
            "offset"
        }
        10 => {
            entry.method = random.pick(&[0, 1, 8, 9, 12, 93, 99]);
            "method"
        }
        11 => {
            entry.flags ^= random.pick(&[1, 8, 1 << 6, 1 << 13, 1 << 5]);
            "flags"
        }
        12 => {
            let length = random.below(entry.descriptor.len() + 1);
            entry.descriptor.truncate(length);
            entry.flags |= 8;
            "short descriptor"
        }
        13 => {
            entry.flags |= 8;
            entry.checksum ^= u32::from(random.once_in(2));
            describe(random, entry);
            let at = random.below(8);
            entry.descriptor[at] ^= u8::from(random.once_in(2));
            "descriptor"
        }
        14 => {
            // A zip64 field that is short, empty, double or not wanted.
            let length = random.pick(&[0, 4, 7, 8, 16, 24, 28]);
            let mut field = vec![1, 0, length, 0];
            field.extend(entry.size.to_le_bytes().iter().cycle().take(usize::from(length)));
            entry.extra = [field, entry.extra.clone()].concat();
            "zip64 field"
        }
        15 => {
            entry.extra = random
                .pick(&[b"\x01\0\xff\xff".as_slice(), b"\x01", b"\x01\0\x08", b"\x0a\0\xff\0"])
                .to_vec();
            "cut extra field"
        }
        16 => {
            entry.data.extend(b"more");
            entry.compressed += 4;
            "data after the stream"
        }
        _ => {
            entry.data = deflate::generate(random);
            entry.method = 8;
            entry.compressed = entry.data.len() as u64;
            let mut content = vec![0; 1 << 16];
            let length = Decompressor::new().deflate_decompress(&entry.data, &mut content).unwrap_or(0);
            entry.checksum = checksum(&content[..length]);
            entry.size = length as u64;
            if entry.flags & 8 != 0 {
                describe(random, entry);
            }
            "odd deflate stream"
        }
    })
}

fn honest_end(random: &mut Random, start: usize, size: usize, count: usize) -> End {
    let (count, size, start) = (count as u64, size as u64, start as u64);
    let mut end = End { plain: [0, 0, count & 0xffff, count & 0xffff, size, start], ..End::default() };
    if random.once_in(4) {
        end.comment = b"a comment of the zip".to_vec();
    }
    if random.once_in(2) {
        end.zip64 = Some(Zip64 {
            values: [0, 0, count, count, size, start],
            length: 44,
            disk: 0,
            record: start + size,
            disks: 1,
            between: Vec::new(),
        });
        match random.below(3) {
            0 => end.plain = [0, 0, 0xffff, 0xffff, 0xffff_ffff, 0xffff_ffff],
            1 => end.plain[5] = 0xffff_ffff,
            _ => {}
        }
    }
    end
}

/// Changes a value of the end, and names the fault.
fn change_end(random: &mut Random, end: &mut End) -> Option<&'static str> {
    let wrong = |random: &mut Random, value: u64| {
        let near = value.wrapping_add_signed(random.pick(&[-76, -1, 1, 2, 76]));
        random.pick(&[near, near, 0, 1, 0xffff, 0xffff_ffff, 0x1_0000, 1 << 63, u64::MAX, value | 1 << 16])
    };
    let field = random.below(6);
    match (random.below(8), &mut end.zip64) {
        (0, _) => {
            end.plain[field] = wrong(random, end.plain[field]);
            Some("end record")
        }
        (1 | 2, Some(zip64)) => {
            zip64.values[field] = wrong(random, zip64.values[field]);
            Some("zip64 end record")
        }
        (3, Some(zip64)) => {
            zip64.disk = wrong(random, 0);
            Some("disk of the locator")
        }
        (4, Some(zip64)) => {
            zip64.disks = wrong(random, 1);
            Some("disks of the locator")
        }
        (5, Some(zip64)) => {
            zip64.record = wrong(random, zip64.record);
            Some("offset of the locator")
        }
        (6, Some(zip64)) => {
            match random.once_in(2) {
                true => zip64.length = random.pick(&[0, 43, 45, 56, u64::MAX]),
                false => zip64.between = b"data of a later version".to_vec(),
            }
            Some("length of the zip64 end record")
        }
        (7, _) => {
            // An end record in the comment of the real end record.
            let mut inner = Vec::new();
            let plain = match random.once_in(2) {
                true => end.plain,
                false => [0; 6],
            };
            write_end(&mut inner, &End { plain, ..End::default() });
            if random.once_in(2) {
                inner.extend(b"tail");
            }
            end.comment = inner;
            Some("two end records")
        }
        _ => {
            end.plain = [0, 0, 0xffff, 0xffff, 0xffff_ffff, 0xffff_ffff];
            end.zip64.is_none().then_some("no zip64 records")
        }
    }
}

fn damage(random: &mut Random, zip: &mut Vec<u8>) {
    let at = random.below(zip.len());
    // Half of the damage is near the end, where the directory is.
    let at = if random.once_in(2) { at } else { zip.len() - 1 - random.below(zip.len().min(150)) };
    match random.below(7) {
        0 => zip.truncate(at),
        1 => zip.extend(random.pick(&[b"x".as_slice(), b"\0\0", b"PK\x05\x06"])),
        2 => drop(zip.remove(at)),
        3 => zip.insert(at, random.pick(b"\0\x01\xffP")),
        4 => zip[at] = random.pick(&[0, 1, 0xff]),
        _ => zip[at] ^= 1 << random.below(8),
    }
}

/// Writes the lowest bytes of a value.
fn put(to: &mut Vec<u8>, value: u64, width: usize) {
    to.extend(&value.to_le_bytes()[..width]);
}

/// Writes a local header with the data, and returns its offset.
fn write_local(zip: &mut Vec<u8>, entry: &Entry) -> u64 {
    let offset = zip.len() as u64;
    zip.extend(b"PK\x03\x04\x14\0");
    put(zip, entry.flags.into(), 2);
    put(zip, entry.method.into(), 2);
    put(zip, 0, 4);
    put(zip, entry.checksum.into(), 4);
    put(zip, entry.compressed.min(0xffff_ffff), 4);
    put(zip, entry.size.min(0xffff_ffff), 4);
    put(zip, entry.local_name.len() as u64, 2);
    put(zip, entry.local_extra.len() as u64, 2);
    zip.extend([entry.local_name.as_slice(), &entry.local_extra, &entry.data, &entry.descriptor].concat());
    offset
}

fn write_record(directory: &mut Vec<u8>, entry: &Entry, offset: u64) {
    let values = [entry.size, entry.compressed, entry.offset.unwrap_or(offset)];
    let mut zip64 = Vec::new();
    let [size, compressed, offset] = std::array::from_fn(|n| match entry.zip64[n] {
        true => {
            put(&mut zip64, values[n], 8);
            0xffff_ffff
        }
        false => values[n],
    });
    let mut extra = entry.extra.clone();
    if !zip64.is_empty() {
        put(&mut extra, 1, 2);
        put(&mut extra, zip64.len() as u64, 2);
        extra.extend(zip64);
    }
    directory.extend(b"PK\x01\x02\x14\0\x14\0");
    put(directory, entry.flags.into(), 2);
    put(directory, entry.method.into(), 2);
    put(directory, 0, 4);
    put(directory, entry.checksum.into(), 4);
    put(directory, compressed, 4);
    put(directory, size, 4);
    put(directory, entry.name.len() as u64, 2);
    put(directory, extra.len() as u64, 2);
    put(directory, entry.comment.len() as u64, 2);
    put(directory, 0, 8);
    put(directory, offset, 4);
    directory.extend([entry.name.as_slice(), &extra, &entry.comment].concat());
}

fn write_end(zip: &mut Vec<u8>, end: &End) {
    if let Some(zip64) = &end.zip64 {
        zip.extend(b"PK\x06\x06");
        put(zip, zip64.length, 8);
        put(zip, 45 | 45 << 16, 4);
        let widths = [4, 4, 8, 8, 8, 8];
        zip64.values.iter().zip(widths).for_each(|(&value, width)| put(zip, value, width));
        zip.extend(&zip64.between);
        zip.extend(b"PK\x06\x07");
        put(zip, zip64.disk, 4);
        put(zip, zip64.record, 8);
        put(zip, zip64.disks, 4);
    }
    zip.extend(b"PK\x05\x06");
    let widths = [2, 2, 2, 2, 4, 4];
    end.plain.iter().zip(widths).for_each(|(&value, width)| put(zip, value, width));
    put(zip, end.comment.len() as u64, 2);
    zip.extend(&end.comment);
}
