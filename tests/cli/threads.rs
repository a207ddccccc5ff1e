//! A user who may start few threads and processes, or none.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use testkit::limits::{give, no_setpriv, not_root, set_mode, with_processes};
use testkit::programs::{Ended, Programs};
use testkit::server::{Server, get};
use testkit::stores::{self, Plan, Shape};
use testkit::upstream::Upstream;
use testkit::{Case, trial};

pub(crate) fn cases() -> Vec<Case> {
    let tests: [(&str, fn()); 4] = [
        ("commands_need_no_second_thread", commands_need_no_second_thread),
        ("a_server_needs_one_thread_besides_its_own", a_server_needs_one_thread_besides_its_own),
        ("without_any_thread_a_server_ends_with_75", without_any_thread_a_server_ends_with_75),
        ("without_a_process_for_the_migrator_the_gate_ends_with_75", without_a_process_for_the_migrator),
    ];
    tests.map(|(name, test)| trial(name, None, test).needs(no_setpriv).unless(not_root())).into()
}

/// The limit counts all processes of a user, so every test has a user of its own.
fn fresh_user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_000_000 + (std::process::id() % 1_000_000) * 64 + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn programs_of(user: u32) -> Programs {
    let programs = Programs::current();
    give_all(&programs, user);
    programs
}

/// Gives everything but the programs to a user: their files are those of the build.
fn give_all(programs: &Programs, user: u32) {
    let folder = programs.folder();
    set_mode(folder, 0o755);
    set_mode(&folder.join("bin"), 0o755);
    chown(folder, Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "bin")
    {
        give(&entry.path(), user);
    }
}

/// Runs a command of a user who may have so many threads and processes.
fn run(count: usize, user: u32, command: &Command) -> Ended {
    let ended = Ended::of(with_processes(count, user, command));
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    ended
}

fn commands_need_no_second_thread() {
    let user = fresh_user();
    let programs = programs_of(user);
    let (store, source) = (programs.store(), programs.folder().join("source"));
    stores::v0().write(&store);
    let mut plan = Plan::default();
    plan.version(Shape::V0, "example.com/imported", "v1.0.0").write(&source);
    give_all(&programs, user);
    let tree = programs.folder().join("tree");
    for (name, arguments, code) in [
        ("stoa-migrate", &["--threads", "8"][..], 0),
        ("stoa-migrate", &["--threads", "8", "--to", "v0"], 0),
        ("stoa-migrate", &["--threads", "8", "--progress", "auto"], 0),
        ("stoa", &["import", "--threads", "8", source.to_str().unwrap()], 0),
        // One zip of the store is corrupt.
        ("stoa", &["verify", "--threads", "8"], 1),
        ("stoa", &["verify", "--threads", "8", "--again"], 0),
        ("stoa", &["export", "--threads", "8", tree.to_str().unwrap()], 0),
        ("stoa", &["prune", "--threads", "8", "--max-size", "0", "--yes"], 0),
    ] {
        let ended = run(1, user, &programs.command(name, arguments));
        assert_eq!(ended.code, code, "{name} {arguments:?}: {ended:?}");
    }
    assert!(store.join("layout.v2").is_file() && tree.join("example.com/imported/@v/v1.0.0.zip").is_file());
    let left = programs.stoa(["list"]);
    assert_eq!((left.code, left.out.as_str()), (0, ""), "{left:?}");
}

fn a_server_needs_one_thread_besides_its_own() {
    let upstream = Upstream::start();
    upstream.offer("example.com/m@v1.0.0", 300_000);
    for count in [2, 3, 4] {
        let user = fresh_user();
        let programs = programs_of(user);
        programs.make_store();
        give_all(&programs, user);
        let arguments =
            ["serve", "--listen", "127.0.0.1:0", "--checksum", "off", "--upstream", upstream.url()];
        let mut command = with_processes(count, user, &programs.command("stoa", arguments));
        let server = Server::start_with(command.stderr(std::process::Stdio::inherit()));
        for _ in 0..2 {
            for file in ["v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip"] {
                let (status, body) = get(&server.url, &format!("/example.com/m/@v/{file}")).unwrap();
                assert_eq!(status, 200, "{count}: {file}: {}", String::from_utf8_lossy(&body));
            }
        }
        // Many requests that all need the disk.
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| assert_eq!(get(&server.url, "/example.com/m/@v/v1.0.0.zip").unwrap().0, 200));
            }
        });
        assert!(server.stop().success(), "{count}");
    }
}

fn without_any_thread_a_server_ends_with_75() {
    let user = fresh_user();
    let programs = programs_of(user);
    programs.make_store();
    give_all(&programs, user);
    for arguments in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["fetch", "example.com/m@v1.0.0", "--upstream", "https://127.0.0.1:1"],
    ] {
        let ended = run(1, user, &programs.command("stoa", arguments));
        assert_eq!(ended.code, 75, "{ended:?}");
        assert!(ended.err.contains("cannot start a thread: Resource temporarily unavailable"), "{ended:?}");
        assert!(ended.err.contains("help: raise the limit of processes"), "{ended:?}");
        assert!(!ended.out.contains("listening"), "{ended:?}");
    }
}

fn without_a_process_for_the_migrator() {
    let user = fresh_user();
    let programs = programs_of(user);
    let ended = run(1, user, &programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.err.contains("cannot run") && ended.err.contains("stoa-migrate"), "{ended:?}");
    assert!(ended.err.contains("help: raise the limit of processes"), "{ended:?}");
    assert!(fs::symlink_metadata(programs.store()).is_err());
}
