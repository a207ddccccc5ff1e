//! Files with times before 1970, after 9999 and in the future, and clocks that were wrong.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use testkit::{Case, cases};

use testkit::commands::run;
use testkit::server::Server;
use testkit::upstream::{Module, Upstream};
use testkit::{create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    cases![files_of_any_time_are_served, a_write_after_a_wrong_clock_is_found]
}

/// Sets the time of the last write to all files of a version, in seconds since 1970.
fn set_times(folder: &Path, seconds: i64) {
    for entry in fs::read_dir(folder).unwrap() {
        let status = Command::new("touch")
            .args(["-d", &format!("@{seconds}")])
            .arg(entry.unwrap().path())
            .status()
            .expect("touch runs");
        assert!(status.success());
    }
}

const END_OF_9999: i64 = 253_402_300_799;

fn files_of_any_time_are_served() {
    let module = Module::new("example.com/m@v1.0.0", 1000);
    for is_sealed in [false, true] {
        for (seconds, has_date) in [
            (-1_000_000_000, false),
            (-1, false),
            (0, true),
            (1_000_000_000, true),
            (4_000_000_000, true),
            // A file system may limit the times that it stores.
            (END_OF_9999, true),
            (END_OF_9999 + 1, false),
            (1 << 40, false),
        ] {
            let dir = testkit::tempdir();
            create(dir.path());
            let folder = module.put_unsealed(dir.path());
            if is_sealed {
                assert!(run(dir.path(), &["verify"]).status.success());
            }
            set_times(&folder, seconds);
            let is_limited = fs::metadata(folder.join("zip")).unwrap().mtime() != seconds;
            let server = Server::start(dir.path(), "off");
            for (file, content) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
                // A date that a client sends is no reason to answer without the content.
                for headers in [&[][..], &[("If-Unmodified-Since", "Fri, 01 Jan 2100 00:00:00 GMT")]] {
                    let reply = server.ask("GET", &module.path(file), headers);
                    let what = format!("{file} of {seconds}, sealed: {is_sealed}");
                    if reply.status == 412 && has_date {
                        continue;
                    }
                    assert!(reply.status == 200 && reply.body == *content, "{what}: {}", reply.status);
                    let has = reply.header("last-modified").is_some();
                    assert!(has == has_date || is_limited, "{what}: {:?}", reply.header("last-modified"));
                }
            }
            assert!(server.stop().success());
            for arguments in [
                &["list"][..],
                &["list", "--format", "json"],
                &["verify", "--again"],
                &["prune", "--unused-since", "90d", "--dry-run"],
                &["prune", "--max-size", "1", "--dry-run", "--yes"],
                &["export", "tree", "--format", "json"],
                &["remove", "example.com/m@v1.0.0"],
            ] {
                let mut arguments = arguments.to_vec();
                let tree = dir.path().with_extension("tree");
                arguments
                    .iter_mut()
                    .filter(|one| **one == "tree")
                    .for_each(|one| *one = tree.to_str().unwrap());
                let output = run(dir.path(), &arguments);
                assert!(output.status.success(), "{arguments:?} {seconds}: {}", transcript(&output));
                let _ = fs::remove_dir_all(&tree);
            }
        }
    }
    // An entry in quarantine.
    let dir = testkit::tempdir();
    create(dir.path());
    let folder = module.clone().with_bad_crc().put_unsealed(dir.path());
    set_times(&folder, 1 << 40);
    assert_eq!(run(dir.path(), &["verify"]).status.code(), Some(1));
    for entry in fs::read_dir(dir.path().join("quarantine")).unwrap() {
        set_times(&entry.unwrap().path(), 1 << 40);
    }
    for arguments in [&["quarantine"][..], &["quarantine", "purge", "--older-than", "1"]] {
        let output = run(dir.path(), arguments);
        assert!(output.status.success(), "{}", transcript(&output));
    }
}

fn a_write_after_a_wrong_clock_is_found() {
    let (upstream, dir) = (Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 1000);
    let server = Server::start(dir.path(), upstream.url());
    assert_eq!(server.get(&module.path("zip")).0, 200);
    assert!(server.stop().success());
    let folder = dir.path().join("modules/example.com/m/@v/v1.0.0");
    let future = SystemTime::now() + Duration::from_secs(50 * 365 * 24 * 60 * 60);
    let set = |file: &str, time: SystemTime| {
        fs::File::options().write(true).open(folder.join(file)).unwrap().set_modified(time).unwrap();
    };
    // As the files of a server whose clock was half a century ahead.
    ["info", "mod", "zip"].into_iter().for_each(|file| set(file, future));
    set("ziphash", future + Duration::from_secs(1));
    let is_right = |server: &Server| server.get(&module.path("zip")) == (200, module.zip.clone());
    let server = Server::start(dir.path(), upstream.url());
    assert!(is_right(&server));
    let sealed = fs::metadata(folder.join("ziphash")).unwrap().modified().unwrap();
    let server_again = Server::start(dir.path(), upstream.url());
    assert!(is_right(&server_again));
    let again = fs::metadata(folder.join("ziphash")).unwrap().modified().unwrap();
    assert_eq!(sealed, again, "the version is verified only once");
    drop((server, server_again));
    // Damage, written at the right time.
    let mut damaged = module.zip.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    testkit::next_write_time();
    fs::write(folder.join("zip"), damaged).unwrap();
    let server = Server::start(dir.path(), upstream.url());
    assert!(is_right(&server), "it is downloaded again");
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 1);
}
