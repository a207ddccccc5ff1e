//! Zips and infos that the go command refuses are never stored, and are found in stores that have them.
//!
//! `tests/live/go_readers` compares generated ones with the go command's own code. Here the real programs get a few.

use std::fs;
use std::path::Path;
use testkit::{Case, cases};

use flate2::Crc;
use stoa_gomod::H1;
use testkit::commands::run;
use testkit::server::Server;
use testkit::upstream::{Module, Upstream};
use testkit::{create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        zips_that_go_refuses_are_not_stored,
        infos_that_go_refuses_are_not_stored,
        such_versions_of_older_stores_are_found
    ]
}

const PAIR: &str = "example.com/m@v1.0.0";

fn put(zip: &mut Vec<u8>, value: u64, width: usize) {
    zip.extend(&value.to_le_bytes()[..width]);
}

/// Makes a zip whose only file is a go.mod, with zip64 records that name this many disks.
fn zip_with_disks(module: &Module, method: u64, data: &[u8], content: &[u8], disks: u64) -> Vec<u8> {
    let name = format!("{}/go.mod", module.version);
    let mut crc = Crc::new();
    crc.update(content);
    let described = |zip: &mut Vec<u8>| {
        put(zip, method << 16, 4);
        put(zip, 0, 4);
        put(zip, crc.sum().into(), 4);
        put(zip, data.len() as u64, 4);
        put(zip, content.len() as u64, 4);
        put(zip, name.len() as u64, 4);
    };
    let mut zip = b"PK\x03\x04\x14\0".to_vec();
    described(&mut zip);
    zip.extend([name.as_bytes(), data].concat());
    let start = zip.len() as u64;
    zip.extend(b"PK\x01\x02\x14\0\x14\0");
    described(&mut zip);
    put(&mut zip, 0, 8);
    put(&mut zip, 0, 6);
    zip.extend(name.as_bytes());
    let end = zip.len() as u64;
    zip.extend(b"PK\x06\x06");
    put(&mut zip, 44, 8);
    put(&mut zip, 45 | 45 << 16, 4);
    put(&mut zip, 0, 8);
    [1, 1, end - start, start].into_iter().for_each(|value| put(&mut zip, value, 8));
    zip.extend(b"PK\x06\x07");
    put(&mut zip, 0, 4);
    put(&mut zip, end, 8);
    put(&mut zip, disks, 4);
    zip.extend(b"PK\x05\x06\0\0\0\0");
    put(&mut zip, u64::MAX, 8);
    put(&mut zip, u64::MAX, 4);
    put(&mut zip, 0, 2);
    zip
}

/// Zips of a version that Go refuses, by what is wrong with them, after one that it accepts.
fn zips(module: &Module) -> [(&'static str, Vec<u8>); 3] {
    let modfile = &module.modfile;
    // A fixed block: an `m`, the reserved symbol 286 with the distance 1, and the end.
    let mut bits = vec![true, true, false];
    for (value, length) in [(0x30 + u32::from(b'm'), 8_u32), (0b1100_0110, 8), (0, 5), (0, 7)] {
        bits.extend((0..length).rev().map(|bit| value >> bit & 1 == 1));
    }
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    let data: Vec<u8> = bits.chunks(8).map(byte).collect();
    [
        ("nothing", zip_with_disks(module, 0, modfile, modfile, 1)),
        ("two disks in the zip64 locator", zip_with_disks(module, 0, modfile, modfile, 2)),
        ("a reserved symbol in the deflate stream", zip_with_disks(module, 8, &data, &[b'm'; 259], 1)),
    ]
}

/// Infos of a version that Go refuses.
fn infos() -> Vec<String> {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    vec![
        format!(r#"{{"Version":"v1.0.0","Other":{deep}}}"#),
        r#"{"Version":"v1.0.0","Ver\u017fion":1}"#.to_owned(),
        "{\"Version\":\"v1.0.0\",\"ver\u{17f}ion\":\"v1.0.1\"}".to_owned(),
        r#"{"Version":"v1.0.0","Origin":"git"}"#.to_owned(),
        r#"{"Version":"v1.0.0","Origin":{"TagSum":1}}"#.to_owned(),
        r#"{"Version":"v1.0.0","Time":"2024-01-02T03:04:05\u005a"}"#.to_owned(),
        "{\"Version\":\"v1.0.0\",\"Other\":\"a\tb\"}".to_owned(),
    ]
}

/// Serves a version from the upstream, and returns the status and the reason of each of its files.
fn served(module: &Module) -> Vec<(u16, String)> {
    let (upstream, dir) = (Upstream::start(), testkit::tempdir());
    upstream.serve(module);
    let store = dir.path().join("store");
    let server = Server::start(&store, upstream.url());
    let statuses = ["zip", "info"].map(|file| {
        let reply = server.ask("GET", &module.path(file), &[]);
        (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
    });
    let is_stored = store.join("modules/example.com/m/@v/v1.0.0").exists();
    assert_eq!(is_stored, statuses[0].0 == 200, "{statuses:?}");
    statuses.into()
}

fn zips_that_go_refuses_are_not_stored() {
    let module = Module::new(PAIR, 0);
    for (fault, zip) in zips(&module) {
        let modfile = if fault.contains("symbol") { vec![b'm'; 259] } else { module.modfile.clone() };
        let served = served(&Module { zip, modfile, ..module.clone() });
        let expected = if fault == "nothing" { 200 } else { 502 };
        assert_eq!(served[0].0, expected, "{fault}: {served:?}");
    }
}

fn infos_that_go_refuses_are_not_stored() {
    let module = Module::new(PAIR, 100);
    for info in infos() {
        for (status, text) in served(&Module { info: info.clone().into_bytes(), ..module.clone() }) {
            assert_eq!(status, 502, "{}: {text}", &info[..info.len().min(100)]);
            assert!(text.contains("info"), "{text}");
        }
    }
    let odd = r#"{"Version":"v1.0.0","VERSION":null,"Origin":null,"Other":"\ud800"}"#;
    assert_eq!(served(&Module { info: odd.into(), ..module })[1], (200, odd.to_owned()));
}

/// Puts a version into a store with a seal, as a release that accepted it did.
fn put_sealed(root: &Path, module: &Module) {
    let folder = module.put_unsealed(root);
    let seal = stoa_gomod::h1::hash_mod(&module.modfile);
    fs::write(folder.join("ziphash"), H1::as_str(&seal)).unwrap();
}

fn such_versions_of_older_stores_are_found() {
    let dir = testkit::tempdir();
    create(dir.path());
    let named = |n: usize| Module::new(&format!("example.com/m{n}@v1.0.0"), 100);
    let mut count = 0;
    for fault in [1, 2] {
        let module = named(count);
        let (_, zip) = zips(&module).into_iter().nth(fault).unwrap();
        put_sealed(dir.path(), &Module { zip, ..module });
        count += 1;
    }
    // Their seal is valid, so only reading finds them.
    let seen = run(dir.path(), &["verify"]);
    assert!(seen.status.success(), "{}", transcript(&seen));
    for info in infos() {
        put_sealed(dir.path(), &Module { info: info.into_bytes(), ..named(count) });
        count += 1;
    }
    let again = run(dir.path(), &["verify", "--again"]);
    assert_eq!(again.status.code(), Some(1), "{}", transcript(&again));
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), count);
    let last = run(dir.path(), &["verify", "--again"]);
    assert!(last.status.success(), "{}", transcript(&last));
    // A valid info with a time, and a wrong seal, to see that the rest is read.
    let text = transcript(&again);
    for reason in
        ["more than one disk", "compressed data", "nested", "an object", "RFC 3339", "control character"]
    {
        assert!(text.contains(reason), "{reason}: {text}");
    }
}
