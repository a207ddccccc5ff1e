//! The gate and the migrator behind it, with the real programs: which states of a folder they make something
//! of, which they refuse, and that what is refused is left as it was.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use testkit::Case;
use testkit::commands::CREATING;

use nix::errno::Errno;
use stoa_layout::SharedLock;

use testkit::programs::{Ended, Programs, install};
use testkit::tracer::{self, Act};
use testkit::tree::{self, snapshot};
use testkit::upstream::Module;
use testkit::{MIGRATE, missing_tool, server, trial};

const PAIR: &str = "example.org/m@v1.0.0";

pub(crate) fn cases() -> Vec<Case> {
    let traces = missing_tool("strace", &["-o", "/dev/null", "true"]);
    let is_root = rustix::process::geteuid().is_root();
    let mounts = missing_tool("unshare", &["--map-root-user", "--mount", "true"]);
    vec![
        trial("a missing store is created", None, a_missing_store_is_created),
        trial("a current store is left alone", None, a_current_store_is_left_alone),
        trial("one of fifty starters creates the store", None, one_of_fifty_starters_creates_the_store),
        trial("an interrupted creation is finished", None, an_interrupted_creation_is_finished),
        trial("an older interrupted creation is finished", None, an_older_interrupted_creation_is_finished),
        trial("an older store is upgraded", None, an_older_store_is_upgraded),
        trial("up and back gives the same store", None, up_and_back_gives_the_same_store),
        trial("a foreign folder is refused untouched", None, a_foreign_folder_is_refused_untouched),
        trial("two markers are refused untouched", None, two_markers_are_refused_untouched),
        trial(
            "the quarantine of a foreign folder is refused",
            None,
            the_quarantine_of_a_foreign_folder_is_refused,
        ),
        trial("commands that only look refuse two markers", None, commands_that_only_look_refuse_two_markers),
        trial("a newer store is refused untouched", None, a_newer_store_is_refused_untouched),
        trial("an older release refuses a newer store", None, an_older_release_refuses_a_newer_store),
        trial("a downgrade needs a person", None, a_downgrade_needs_a_person),
        trial("a store in use is not migrated", None, a_store_in_use_is_not_migrated),
        trial("a signal stops a waiter", None, a_signal_stops_a_waiter),
        trial("the migrator stops when its starter ends", None, the_migrator_stops_when_its_starter_ends),
        trial("a name in the way is refused", None, a_name_in_the_way_is_refused),
        trial("a folder that cannot be written is refused", None, a_folder_that_cannot_be_written_is_refused),
        trial(
            "a lock file that may only be read is locked",
            None,
            a_lock_file_that_may_only_be_read_is_locked,
        ),
        trial(
            "a folder that root did not give away is made again",
            None,
            a_folder_that_root_did_not_give_away_is_made_again,
        )
        .unless((!is_root).then(|| "only root can give a folder away".to_owned())),
        trial("a missing migrator is named", None, a_missing_migrator_is_named),
        trial("a migrator of another release is reported", None, a_migrator_of_another_release_is_reported),
        trial("the migrator can be forbidden", None, the_migrator_can_be_forbidden),
        trial(
            "a read only file system is refused with a way out",
            mounts.clone(),
            a_read_only_file_system_is_refused,
        ),
        trial("a read only current store is served", mounts, a_read_only_current_store_is_served),
        trial("an error of the disk is 74", tracer::missing(), an_error_of_the_disk_is_74),
        trial("a server that only reads creates no lock file", None, a_reader_creates_no_lock_file),
        trial("the gate is one system call", traces, the_gate_is_one_system_call),
    ]
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn put_version(root: &Path) -> PathBuf {
    let version = root.join("modules/example.org/m/@v/v1.0.0");
    fs::create_dir_all(&version).unwrap();
    for (name, content) in [("info", "{}"), ("mod", "module example.org/m\n"), ("zip", "zip")] {
        fs::write(version.join(name), content).unwrap();
    }
    version
}

/// Runs something that must be refused with this code, and checks that nothing in the folder changed, times
/// included.
fn assert_refused(folder: &Path, code: i32, run: impl FnOnce() -> Ended) -> String {
    let before = snapshot(folder);
    let ended = run();
    assert_eq!(ended.code, code, "{ended:?}");
    assert!(ended.err.starts_with("error: "), "{ended:?}");
    assert_eq!(ended.out, "");
    assert_same(&before, &snapshot(folder));
    ended.err
}

fn assert_same(before: &BTreeMap<PathBuf, tree::Entry>, after: &BTreeMap<PathBuf, tree::Entry>) {
    for (path, entry) in before {
        assert_eq!(after.get(path), Some(entry), "{}", path.display());
    }
    let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(new.is_empty(), "{new:?}");
}

fn a_missing_store_is_created() {
    let programs = Programs::current();
    let ended = programs.stoa(CREATING);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains(PAIR), "{ended:?}");
    let made: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("created a new store")).collect();
    assert_eq!(made.len(), 1, "{ended:?}");
    let expected =
        ["cache", "index", "layout.v2", "modules", "quarantine", "records", "staging", "store.lock"];
    assert_eq!(names(&programs.store()), expected);
}

fn a_current_store_is_left_alone() {
    let programs = Programs::current();
    let root = programs.make_store();
    let version = put_version(&root);
    let before = snapshot(&root);
    for (file, name) in [(&["--file", "info"][..], "info"), (&["--file", "mod"], "mod"), (&[], "zip")] {
        let ended = programs.stoa(["path", PAIR].iter().chain(file));
        let expected = format!("{}\n", version.join(name).display());
        assert_eq!((ended.code, ended.out, ended.err.as_str()), (0, expected, ""));
    }
    let again = programs.migrate::<&str>([]);
    assert_eq!(again.code, 0);
    assert!(again.out.contains("already"), "{again:?}");
    assert_eq!(programs.migrate(["--auto", "--to", "v2"]).err, "");
    assert_same(&before, &snapshot(&root));
}

fn one_of_fifty_starters_creates_the_store() {
    let programs = Programs::current();
    let children: Vec<Child> = (0..50).map(|_| programs.command("stoa", CREATING).spawn().unwrap()).collect();
    let ended: Vec<Ended> = children.into_iter().map(Ended::from_child).collect();
    assert!(ended.iter().all(|ended| ended.code == 1), "{ended:?}");
    let made = ended.iter().filter(|ended| ended.err.contains("created a new store")).count();
    assert_eq!(made, 1);
    let marker = fs::read_to_string(programs.store().join("layout.v2")).unwrap();
    assert_eq!(marker.matches("[[history]]").count(), 1, "{marker}");
}

fn an_interrupted_creation_is_finished() {
    let programs = Programs::current();
    let fresh = Programs::current();
    fs::create_dir_all(programs.store().join("modules")).unwrap();
    fs::write(programs.store().join("creating.v2"), "").unwrap();
    assert_eq!(programs.stoa(["path", PAIR]).code, 1);
    assert_eq!(names(&programs.store()), names(&fresh.make_store()));
}

fn an_older_interrupted_creation_is_finished() {
    let next = Programs::next();
    fs::create_dir_all(next.store()).unwrap();
    fs::write(next.store().join("creating.v2"), "").unwrap();
    assert_eq!(next.stoa(["path", PAIR]).code, 1);
    let names = names(&next.store());
    assert!(names.contains(&"layout.v3".to_owned()) && names.contains(&"labels".to_owned()), "{names:?}");
}

fn an_older_store_is_upgraded() {
    let next = Programs::next();
    let root = older_store(&next);
    let version = put_version(&root);
    let ended = next.stoa(["path", PAIR]);
    assert_eq!((ended.code, ended.out), (0, format!("{}\n", version.join("zip").display())));
    assert!(ended.err.contains("from layout v2 to v3"), "{}", ended.err);
    let names = names(&root);
    assert!(names.contains(&"layout.v3".to_owned()) && !names.contains(&"layout.v2".to_owned()), "{names:?}");
}

fn up_and_back_gives_the_same_store() {
    let next = Programs::next();
    let root = older_store(&next);
    put_version(&root);
    let before = tree::shape(&root);
    let plan = next.migrate(["--dry-run", "--format", "json"]);
    assert!(plan.out.lines().last().unwrap().contains("\"pending\":true"), "{plan:?}");
    assert_eq!(tree::shape(&root), before);
    assert_eq!(next.migrate::<&str>([]).code, 0);
    assert_ne!(tree::shape(&root), before);
    assert_eq!(next.migrate(["--to", "v2"]).code, 0);
    assert_eq!(tree::shape(&root), before);
}

fn a_foreign_folder_is_refused_untouched() {
    let programs = Programs::next();
    let checkout = programs.folder().join("checkout");
    fs::create_dir_all(checkout.join(".git/refs/heads")).unwrap();
    fs::write(checkout.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(checkout.join("go.mod"), "module example.org/m\n").unwrap();
    fs::write(checkout.join("main.go"), "package main\n").unwrap();
    let home = programs.folder().join("somebody");
    fs::create_dir_all(home.join("go/pkg/mod/cache/lock")).unwrap();
    fs::create_dir_all(home.join(".config")).unwrap();
    fs::write(home.join(".profile"), "").unwrap();
    for folder in [checkout, home] {
        let store = folder.to_str().unwrap();
        for arguments in [&["--store", store][..], &["--store", store, "--dry-run"]] {
            let said = assert_refused(&folder, 65, || programs.migrate(arguments));
            assert!(said.contains(store), "{said}");
        }
        assert_refused(&folder, 65, || programs.stoa(["path", PAIR, "--store", store]));
    }
}

fn two_markers_are_refused_untouched() {
    let programs = Programs::next();
    let root = programs.store();
    fs::create_dir_all(&root).unwrap();
    for name in ["layout.v2", "layout.v9"] {
        fs::write(root.join(name), "").unwrap();
    }
    for run in [|p: &Programs| p.migrate::<&str>([]), |p: &Programs| p.stoa(["path", PAIR])] {
        let said = assert_refused(&root, 65, || run(&programs));
        assert!(said.contains("layout.v2") && said.contains("layout.v9"), "{said}");
    }
}

fn the_quarantine_of_a_foreign_folder_is_refused() {
    let programs = Programs::current();
    let root = programs.store();
    fs::create_dir_all(&root).unwrap();
    let empty = programs.stoa(["quarantine"]);
    assert!(empty.code == 0, "{empty:?}");
    fs::write(root.join("notes.txt"), "mine").unwrap();
    let error = assert_refused(&root, 65, || programs.stoa(["quarantine"]));
    assert!(error.contains("is not a store"), "{error}");
    fs::remove_file(root.join("notes.txt")).unwrap();
    // An Athens disk store has no marker and nothing in quarantine.
    testkit::Module::new(PAIR, 100).put_v0(&root);
    let old = programs.stoa(["quarantine"]);
    assert!(old.code == 0 && old.err.contains("0 entries"), "{old:?}");
}

fn commands_that_only_look_refuse_two_markers() {
    let programs = Programs::current();
    let root = programs.make_store();
    // The version is there: `path` must refuse before it finds it.
    put_version(&root);
    fs::write(root.join("layout.v1"), "").unwrap();
    for arguments in [
        &["path", PAIR][..],
        &["list"],
        &["remove", "--list"],
        &["remove", "--dry-run", PAIR],
        &["prune", "--dry-run", "--max-size", "0"],
        &["verify"],
        &["export", "out"],
        &["leftovers"],
    ] {
        let error = assert_refused(&root, 65, || programs.stoa(arguments));
        assert!(error.contains("layout.v1") && error.contains("layout.v2"), "{arguments:?}: {error}");
    }
    let status = programs.stoa(["status"]);
    assert!(status.code == 0 && status.out.contains("conflict"), "{status:?}");
}

fn a_newer_store_is_refused_untouched() {
    let programs = Programs::current();
    let root = programs.store();
    for marker in ["layout.v9", "creating.v9", "migrating.v2-v9", "migrating.v9-v2"] {
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join(marker), "").unwrap();
        let said = assert_refused(&root, 78, || programs.stoa(["path", PAIR]));
        assert!(said.contains(marker), "{said}");
        fs::remove_dir_all(&root).unwrap();
    }
}

fn an_older_release_refuses_a_newer_store() {
    let (current, next) = (Programs::current(), Programs::next());
    let root = next.make_store();
    let store = root.to_str().unwrap();
    assert_refused(&root, 78, || current.stoa(["path", PAIR, "--store", store]));
    assert_refused(&root, 78, || current.migrate(["--store", store]));
    assert_refused(&root, 78, || current.migrate(["--store", store, "--to", "v3"]));
}

fn a_downgrade_needs_a_person() {
    let next = Programs::next();
    let root = next.make_store();
    fs::rename(root.join("layout.v3"), root.join("migrating.v3-v2")).unwrap();
    let said = assert_refused(&root, 78, || next.stoa(["path", PAIR]));
    assert!(said.contains("--to v2") && said.contains("--to v3"), "{said}");
    assert_eq!(next.migrate(["--to", "v2"]).code, 0);
    let names = names(&root);
    assert!(names.contains(&"layout.v2".to_owned()) && !names.contains(&"labels".to_owned()), "{names:?}");
}

/// Makes a store of the layout before, with programs that have one layout more.
fn older_store(next: &Programs) -> PathBuf {
    let root = next.store();
    let made = Programs::current().migrate(["--store", root.to_str().unwrap()]);
    assert_eq!(made.code, 0, "{made:?}");
    root
}

fn a_store_in_use_is_not_migrated() {
    let next = Programs::next();
    let root = older_store(&next);
    let _proxy = SharedLock::acquire(&root).unwrap();
    let before = snapshot(&root);
    let ended = next.migrate(["--lock-timeout", "1"]);
    assert_eq!((ended.code, ended.out.as_str()), (75, ""), "{ended:?}");
    let holder = format!("process {}", std::process::id());
    let error = ended.err.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains(&holder), "{ended:?}");
    assert_same(&before, &snapshot(&root));
    let json = next.migrate(["--lock-timeout", "0", "--format", "json"]);
    let last: serde_json::Value = serde_json::from_str(json.out.lines().last().unwrap()).unwrap();
    assert_eq!((json.code, &last["event"], &last["code"]), (75, &"error".into(), &75.into()));
}

/// Starts a migrator that has to wait, and comes back when it says so.
fn waiting(mut command: Command) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.starts_with("waiting for "), "{line}");
    (child, lines)
}

fn a_signal_stops_a_waiter() {
    let next = Programs::next();
    let root = older_store(&next);
    let _proxy = SharedLock::acquire(&root).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        for (name, arguments) in [("stoa-migrate", &[][..]), ("stoa", &["path", PAIR])] {
            let (mut child, mut lines) = waiting(next.command(name, arguments));
            kill(signal, child.id());
            let mut rest = String::new();
            while lines.read_line(&mut rest).unwrap() > 0 {}
            assert_eq!(child.wait().unwrap().code(), Some(code), "{name} {signal}: {rest}");
            assert!(rest.contains("run again to resume"), "{rest}");
        }
    }
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

fn the_migrator_stops_when_its_starter_ends() {
    if cfg!(not(target_os = "linux")) {
        return;
    }
    let next = Programs::next();
    let root = older_store(&next);
    let _proxy = SharedLock::acquire(&root).unwrap();
    let (mut child, mut lines) = waiting(next.command("stoa", ["path", PAIR]));
    child.kill().unwrap();
    child.wait().unwrap();
    // The migrator holds the other end of the pipe until it ends.
    let mut rest = String::new();
    while lines.read_line(&mut rest).unwrap() > 0 {}
    assert!(rest.contains("stopped by SIGTERM"), "{rest}");
}

fn a_name_in_the_way_is_refused() {
    let next = Programs::next();
    let root = older_store(&next);
    fs::write(root.join("labels"), "mine").unwrap();
    let before = snapshot(&root);
    for ended in [next.migrate(["--dry-run"]), next.migrate::<&str>([]), next.stoa(["path", PAIR])] {
        assert_eq!(ended.code, 73, "{ended:?}");
        assert!(ended.err.contains("labels"), "{ended:?}");
    }
    assert_eq!(fs::read(root.join("labels")).unwrap(), b"mine");
    assert_eq!(names(&root).len(), before.keys().filter(|path| path.components().count() == 1).count());
}

fn a_folder_that_cannot_be_written_is_refused() {
    let next = Programs::next();
    let folder = next.folder().join("closed");
    fs::create_dir(&folder).unwrap();
    for path in [next.folder(), &next.folder().join("bin")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    for name in ["stoa", "stoa-migrate"] {
        let store = folder.join("store");
        let mut arguments = vec!["--store", store.to_str().unwrap()];
        arguments.extend(if name == "stoa" { &CREATING[..] } else { &[] });
        let mut command = next.command(name, arguments);
        if rustix::process::geteuid().is_root() {
            // Root may write everywhere.
            command.uid(65534).gid(65534);
        }
        let said = assert_refused(&folder, 77, || Ended::of(command));
        assert!(said.contains(store.to_str().unwrap()), "{said}");
    }
}

/// As root leaves it that is killed before it gives the file to the owner of the store.
fn a_lock_file_that_may_only_be_read_is_locked() {
    let programs = Programs::current();
    let root = programs.make_store();
    let mut command = programs.command("stoa-migrate", ["--regenerate"]);
    let lock = root.join("store.lock");
    if rustix::process::geteuid().is_root() {
        for path in [programs.folder(), &programs.folder().join("bin")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for entry in fs::read_dir(&root).unwrap() {
            std::os::unix::fs::lchown(entry.unwrap().path(), Some(65534), Some(65534)).unwrap();
        }
        std::os::unix::fs::lchown(&root, Some(65534), Some(65534)).unwrap();
        std::os::unix::fs::lchown(&lock, Some(0), Some(0)).unwrap();
        command.uid(65534).gid(65534);
    }
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o444)).unwrap();
    let ended = Ended::of(command);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(root.join("layout.v2").is_file());
}

/// Root was killed while it made a store for somebody else.
fn a_folder_that_root_did_not_give_away_is_made_again() {
    let programs = Programs::current();
    for path in [programs.folder(), &programs.folder().join("bin")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let root = programs.store();
    fs::create_dir(&root).unwrap();
    fs::write(root.join("creating.v2"), "").unwrap();
    std::os::unix::fs::lchown(&root, Some(65534), Some(65534)).unwrap();
    fs::create_dir(root.join("modules")).unwrap();
    let mut command = programs.command::<&str>("stoa-migrate", []);
    command.uid(65534).gid(65534);
    let ended = Ended::of(command);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(fs::metadata(root.join("modules")).unwrap().uid(), 65534);
}

/// Puts a command where the store lies on a file system that is mounted read-only.
fn read_only(programs: &Programs, name: &str, arguments: &[&str]) -> Command {
    let plain = programs.command(name, arguments);
    let script = "mount --bind \"$STOA_STORE\" \"$STOA_STORE\" && \
                  mount -o remount,bind,ro \"$STOA_STORE\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn a_read_only_file_system_is_refused() {
    let next = Programs::next();
    let root = older_store(&next);
    let way_out = format!("copy {} to a writable place", root.display());
    for (name, arguments) in [("stoa-migrate", &[][..]), ("stoa", &["path", PAIR])] {
        let said = assert_refused(&root, 77, || Ended::of(read_only(&next, name, arguments)));
        assert!(said.contains("Read-only file system") && said.contains(&way_out), "{said}");
    }
}

fn a_read_only_current_store_is_served() {
    for with_lock in [true, false] {
        let programs = Programs::current();
        let root = programs.make_store();
        let module = Module::new(PAIR, 10);
        module.put_unsealed(&root);
        if !with_lock {
            fs::remove_file(root.join("store.lock")).unwrap();
        }
        let before = snapshot(&root);
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        let mut child = read_only(&programs, "stoa", &arguments).spawn().unwrap();
        let url = server::listening(&mut child);
        let answer = url.map(|url| server::get(&url, "/example.org/m/@v/v1.0.0.zip").unwrap());
        server::terminate(&child);
        let ended = Ended::from_child(child);
        assert_eq!((ended.code, answer), (0, Some((200, module.zip))), "{ended:?}");
        assert_same(&before, &snapshot(&root));
    }
}

fn a_reader_creates_no_lock_file() {
    let programs = Programs::current();
    let root = programs.make_store();
    // A restored backup has none.
    fs::remove_file(root.join("store.lock")).unwrap();
    let mut command = server::command(&root);
    let server = server::Server::start_with(command.args(["--upstream", "off", "--read-only"]));
    assert_eq!(server.get("/readyz").0, 200);
    assert!(server.stop().success());
    assert!(!root.join("store.lock").exists());
    // A server that writes does.
    let server = server::Server::start_with(server::command(&root).args(["--upstream", "off"]));
    assert!(root.join("store.lock").exists());
    assert!(server.stop().success());
}

fn an_error_of_the_disk_is_74() {
    for (name, arguments) in [("stoa-migrate", &[][..]), ("stoa", &CREATING[..])] {
        let traced = |programs: &Programs, act: Act| {
            tracer::run(&mut programs.command(name, arguments), &programs.store(), act, |child| {
                let mut said = String::new();
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                said
            })
        };
        let fail = |at: usize| Act::Fail { at, errno: Errno::EIO, sticky: false };
        // Fails none, and counts the calls that it could fail.
        let (counted, _) = traced(&Programs::current(), fail(usize::MAX));
        let at = counted.calls.iter().position(|call| call.ends_with(" modules")).unwrap() + 1;
        let programs = Programs::current();
        let (failed, said) = traced(&programs, fail(at));
        assert_eq!(failed.code, 74, "{failed:?} {said}");
        assert!(said.starts_with("error: ") && said.contains("Input/output error"), "{said}");
        assert!(said.contains(programs.store().join("modules").to_str().unwrap()), "{said}");
        assert_eq!(programs.stoa(CREATING).code, 1);
        assert!(programs.store().join("layout.v2").exists());
    }
}

fn a_missing_migrator_is_named() {
    let programs = Programs::current();
    let migrator = programs.program("stoa-migrate");
    fs::remove_file(&migrator).unwrap();
    let missing = programs.stoa(CREATING);
    // Another file, so that the mode of the one that others use stays.
    fs::copy(programs.program("stoa"), &migrator).unwrap();
    fs::set_permissions(&migrator, fs::Permissions::from_mode(0o644)).unwrap();
    let closed = programs.stoa(CREATING);
    let closed_migrate = programs.stoa(["migrate"]);
    for (ended, why) in
        [(missing, "does not exist"), (closed, "is not executable"), (closed_migrate, "is not executable")]
    {
        assert_eq!(ended.code, 78, "{ended:?}");
        assert!(ended.err.contains(migrator.to_str().unwrap()) && ended.err.contains(why), "{ended:?}");
    }
    assert!(!programs.store().exists());
}

fn a_migrator_of_another_release_is_reported() {
    let (programs, next) = (Programs::current(), Programs::next());
    fs::remove_file(programs.program("stoa-migrate")).unwrap();
    install(Path::new("/bin/true"), &programs.program("stoa-migrate"));
    let useless = programs.stoa(CREATING);
    assert_eq!(useless.code, 78, "{useless:?}");
    assert!(useless.err.contains("different releases"), "{useless:?}");
    fs::remove_file(next.program("stoa-migrate")).unwrap();
    install(MIGRATE.as_ref(), &next.program("stoa-migrate"));
    let older = next.stoa(CREATING);
    assert_eq!(older.code, 78, "{older:?}");
    assert!(older.err.contains("does not know the layout v3"), "{older:?}");
}

fn the_migrator_can_be_forbidden() {
    let programs = Programs::current();
    let config = programs.folder().join("home/.config/stoa/config.toml");
    let by_option = programs.stoa(CREATING.iter().chain(&["--no-migrate"]));
    let mut command = programs.command("stoa", CREATING);
    command.env("STOA_AUTO_MIGRATE", "false");
    let by_variable = Ended::of(command);
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(config, "auto_migrate = false\n").unwrap();
    let by_file = programs.stoa(CREATING);
    for ended in [by_option, by_variable, by_file] {
        assert_eq!(ended.code, 78, "{ended:?}");
        let command = format!("stoa-migrate --store {}", programs.store().display());
        assert!(ended.err.contains(&command), "{ended:?}");
    }
    assert!(!programs.store().exists());
    // The option goes before the file.
    assert_eq!(programs.stoa(CREATING.iter().chain(&["--auto-migrate", "true"])).code, 1);
    assert!(programs.store().exists());
}

fn the_gate_is_one_system_call() {
    let programs = Programs::current();
    let root = programs.make_store();
    let version = put_version(&root);
    let log = programs.folder().join("calls");
    let stoa = programs.command("stoa", ["path", PAIR]);
    let mut command = Command::new("strace");
    command.args(["-f", "-s", "4096", "-o"]).arg(&log).arg(stoa.get_program()).args(stoa.get_args());
    command.env_clear().envs(stoa.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert!(command.output().unwrap().status.success());
    let calls = fs::read_to_string(log).unwrap();
    let on_store: Vec<&str> = calls
        .lines()
        .filter(|line| {
            line.contains(root.to_str().unwrap()) && !line.contains("execve(") && !line.contains("write(")
        })
        .collect();
    // The root is listed after the gate, because `path` refuses a store with two markers.
    let [gate, list_root, lookup @ ..] = &on_store[..] else { panic!("{on_store:#?}") };
    assert!(gate.contains("faccessat") && gate.contains("layout.v2"), "{on_store:#?}");
    assert!(list_root.contains(&format!("{}\", ", root.display())), "{on_store:#?}");
    assert!(!lookup.is_empty());
    for call in lookup {
        assert!(call.contains(version.to_str().unwrap()), "{on_store:#?}");
    }
    let before_gate = calls.split("layout.v2").next().unwrap();
    for unwanted in ["clone", "config.toml"] {
        assert!(!before_gate.contains(unwanted), "{unwanted}: {before_gate}");
    }
}
