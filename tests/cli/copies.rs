//! Two stores that share the inodes of their files, as after `cp -al`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::commands::{self, json, run};
use testkit::programs::{Ended, Programs};
use testkit::server::Server;
use testkit::tree::snapshot;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, cases, transcript};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        nothing_that_a_store_writes_reaches_its_hard_linked_copy,
        a_process_that_is_killed_while_it_replaces_a_lock_leaves_nothing,
        a_running_server_leaves_the_index_of_a_new_copy_alone,
    ]
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-al").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

#[track_caller]
fn done(root: &Path, arguments: &[&str]) {
    let output = run(root, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", transcript(&output));
}

/// Waits until the catalog has exactly these versions.
#[track_caller]
fn wait_for_catalog(server: &Server, numbers: &[u32]) {
    let expected: Vec<String> = numbers.iter().map(|n| format!("example.com/m{n}")).collect();
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, body) = server.get("/catalog");
        let text = String::from_utf8(body).unwrap();
        let modules: Vec<String> =
            text.split('"').filter(|word| word.starts_with("example.com/")).map(str::to_owned).collect();
        if status == 200 && modules == expected {
            return;
        }
        assert!(Instant::now() < end, "{status} {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn nothing_that_a_store_writes_reaches_its_hard_linked_copy() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let root = programs.make_store();
    let modules: Vec<Module> =
        (0..5).map(|n| upstream.offer(&format!("example.com/m{n}@v1.0.0"), 20_000)).collect();
    let [old, removed, broken, only_here, only_there] = &modules[..] else { unreachable!() };
    let server = Server::start(&root, upstream.url());
    for module in [old, removed, broken] {
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    }
    wait_for_catalog(&server, &[0, 1, 2]);
    assert!(server.stop().success());
    // An entry in quarantine that a person has repaired.
    testkit::next_write_time();
    fs::write(root.join("modules/example.com/m2/@v/v1.0.0/zip"), "no zip").unwrap();
    assert_eq!(run(&root, &["verify"]).status.code(), Some(1));
    let (_, lines) = json(&root, &["quarantine"]);
    let id = lines[0]["id"].as_str().unwrap();
    fs::write(root.join("quarantine").join(id).join("version/zip"), &broken.zip).unwrap();

    let other = programs.folder().join("copy");
    copy(&root, &other);
    let before = snapshot(&other);
    let server = Server::start(&root, upstream.url());
    assert_eq!(server.get(&old.path("zip")).0, 200);
    assert_eq!(server.get(&only_here.path("zip")).0, 200);
    wait_for_catalog(&server, &[0, 1, 3]);
    assert!(server.stop().success());
    done(&root, &["quarantine", "restore", id]);
    done(&root, &["remove", "example.com/m1@v1.0.0"]);
    done(&root, &["verify", "--again"]);
    done(&root, &["prune", "--unused-since", "100d"]);
    for arguments in [&["--regenerate"][..], &["--to", "v1"], &[]] {
        let migrated = programs.migrate(arguments);
        assert_eq!(migrated.code, 0, "{migrated:?}");
    }
    let after = snapshot(&other);
    let changed: Vec<_> = after.iter().filter(|(path, entry)| before.get(*path) != Some(entry)).collect();
    assert!(
        changed.is_empty() && before.len() == after.len(),
        "{:?}",
        changed.iter().map(|(path, _)| path).collect::<Vec<_>>()
    );

    // Both stores work on, at the same time.
    let here = Server::start(&root, upstream.url());
    let there = Server::start(&other, upstream.url());
    assert_eq!(there.get(&only_there.path("zip")).0, 200);
    assert_eq!(there.get(&removed.path("zip")), (200, removed.zip.clone()));
    wait_for_catalog(&here, &[0, 2, 3]);
    wait_for_catalog(&there, &[0, 1, 4]);
    assert!(here.stop().success());
    let migrated = programs.migrate(["--regenerate"]);
    assert_eq!(migrated.code, 0, "the server of the copy does not block it: {migrated:?}");
    assert!(there.stop().success());
    for root in [&root, &other] {
        assert_eq!(commands::run(root, &["verify", "--again"]).status.code(), Some(0));
    }
}

fn a_process_that_is_killed_while_it_replaces_a_lock_leaves_nothing() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let root = programs.make_store();
    let module = upstream.offer("example.com/m@v1.0.0", 20_000);
    let server = Server::start(&root, upstream.url());
    assert_eq!(server.get(&module.path("zip")).0, 200);
    assert!(server.stop().success());
    let other = programs.folder().join("copy");
    copy(&root, &other);
    // Killed at each rename in turn: among them are those that replace the shared locks.
    for nth in 1.. {
        let inner = programs.command("stoa", ["verify", "--store", other.to_str().unwrap()]);
        let rule = format!("signal=KILL:when={nth}");
        let calls = "?rename,?renameat,?renameat2";
        if Ended::of(testkit::inject::failing(&inner, &[(calls, &rule)], None)).code == 0 {
            break;
        }
        // The copy is on its own now.
        let alone = programs.folder().join(format!("copy-{nth}"));
        let copied = Command::new("cp").arg("-a").arg(&other).arg(&alone).status().unwrap();
        assert!(copied.success());
        done(&alone, &["verify"]);
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(alone.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
        };
        for folder in ["staging", "cache/last-use"] {
            let hidden: Vec<String> =
                names(folder).into_iter().filter(|name| name.starts_with('.')).collect();
            assert!(hidden.is_empty(), "killed at rename {nth}: {folder}: {hidden:?}");
        }
        fs::remove_dir_all(&other).unwrap();
        copy(&root, &other);
    }
}

fn a_running_server_leaves_the_index_of_a_new_copy_alone() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let root = programs.make_store();
    let modules: Vec<Module> =
        (0..3).map(|n| upstream.offer(&format!("example.com/m{n}@v1.0.0"), 20_000)).collect();
    let server = Server::start(&root, upstream.url());
    assert_eq!(server.get(&modules[0].path("zip")).0, 200);
    wait_for_catalog(&server, &[0]);
    let other = programs.folder().join("copy");
    copy(&root, &other);
    let database = other.join("index/1/index.sqlite");
    let before = fs::read(&database).unwrap();
    assert_eq!(server.get(&modules[1].path("zip")).0, 200);
    assert_eq!(server.get(&modules[2].path("zip")).0, 200);
    wait_for_catalog(&server, &[0, 1, 2]);
    assert!(root.join("index/2").is_dir());
    assert!(server.stop().success());
    assert!(fs::read(&database).unwrap() == before);
    let there = Server::start(&other, upstream.url());
    wait_for_catalog(&there, &[0]);
    assert!(there.stop().success());
}
