//! Commands that must not create or upgrade a store.

use std::fs;
use std::net::TcpListener;

use super::{PAIR, config};
use testkit::programs::{Ended, Programs};
use testkit::stores;
use testkit::tree::{shape, snapshot};

/// Sees to it that a command ends with a code and these words, and leaves a store of Athens, and a place without a
/// store, as they are.
#[track_caller]
fn changes_nothing(programs: &Programs, arguments: &[&str], code: i32, words: &str) {
    let root = programs.store();
    let _ = fs::remove_dir_all(&root);
    let ended = programs.stoa(arguments);
    // A command that needs a store may find first that there is none.
    let has_no_store = ended.code == 65 && ended.err.contains("there is no store in");
    let is_refused = ended.code == code && ended.err.contains(words);
    assert!(is_refused || has_no_store, "{arguments:?}: {ended:?}");
    assert!(!root.exists(), "{arguments:?} created a store");
    stores::v0().write(&root);
    let before = snapshot(&root);
    let ended = programs.stoa(arguments);
    assert!(ended.code == code && ended.err.contains(words), "{arguments:?}: {ended:?}");
    assert_eq!(snapshot(&root), before, "{arguments:?}");
}

pub(crate) fn a_server_that_cannot_start_changes_no_store() {
    let programs = Programs::current();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    changes_nothing(&programs, &["serve", "--listen", &address], 73, "cannot listen on");
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    changes_nothing(
        &programs,
        &[&serve[..], &["--upstream", "ftp://x"]].concat(),
        64,
        "has an unsupported scheme",
    );
    changes_nothing(&programs, &[&serve[..], &["--read-only"]].concat(), 78, "`stoa-migrate --store");
    config(&programs, "[[module]]\npattern = \"a.b\"\nupstream = \"ftp://x\"\n");
    changes_nothing(&programs, &serve, 64, "line 3, `upstream = ...`");
}

pub(crate) fn a_dry_run_changes_no_store() {
    let programs = Programs::current();
    let root = programs.store();
    stores::v0().write(&root);
    let before = snapshot(&root);
    for arguments in [&["remove", "--dry-run", PAIR][..], &["prune", "--dry-run", "--max-size", "1"]] {
        let ended = programs.stoa(arguments);
        assert!(ended.code == 78 && ended.err.contains("stoa-migrate --store"), "{arguments:?}: {ended:?}");
        assert_eq!(snapshot(&root), before, "{arguments:?}");
    }
}

pub(crate) fn commands_that_need_a_store_create_none() {
    let programs = Programs::current();
    let (root, to) = (programs.store(), programs.folder().join("out"));
    for arguments in [
        &["path", PAIR][..],
        &["list"],
        &["remove", "--dry-run", PAIR],
        &["remove", "--list"],
        &["prune", "--dry-run", "--max-size", "1"],
        &["verify"],
        &["export", to.to_str().unwrap()],
        &["remove", PAIR],
        &["prune", "--max-size", "1"],
        &["quarantine", "purge", "--all"],
        &["quarantine", "list"],
        &["status"],
        &["leftovers"],
        &["leftovers", "move", to.to_str().unwrap()],
    ] {
        let ended = programs.stoa(arguments);
        assert!(ended.code == 65 && ended.err.contains("there is no store in"), "{arguments:?}: {ended:?}");
        assert!(!root.exists() && !to.exists(), "{arguments:?}");
    }
    // Three of them report an empty folder.
    fs::create_dir(&root).unwrap();
    for arguments in [&["quarantine", "list"][..], &["status"], &["leftovers"]] {
        let ended = programs.stoa(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
    }
}

/// The commands of both programs that use a store, in every way.
const OF_A_STORE: &[(&str, &[&str])] = &[
    ("stoa", &["serve", "--listen", "127.0.0.1:0"]),
    ("stoa", &["serve", "--listen", "127.0.0.1:0", "--read-only"]),
    ("stoa", &["path", PAIR]),
    ("stoa", &["list"]),
    ("stoa", &["verify"]),
    ("stoa", &["export", "out"]),
    ("stoa", &["fetch", "--upstream", "https://proxy.invalid", PAIR]),
    ("stoa", &["import", "source"]),
    ("stoa", &["remove", PAIR]),
    ("stoa", &["prune", "--dry-run", "--max-size", "1"]),
    ("stoa", &["quarantine", "purge", "--all"]),
    ("stoa-migrate", &[]),
    ("stoa-migrate", &["--auto"]),
    ("stoa-migrate", &["--dry-run"]),
    ("stoa-migrate", &["--to", "v0"]),
    ("stoa-migrate", &["leftovers"]),
    ("stoa-migrate", &["leftovers", "move", "out"]),
];

/// Fails unless every command refuses the store with this message.
fn refuses_alike(programs: &Programs, commands: &[(&str, &[&str])], message: &str) {
    for (name, arguments) in commands {
        let mut command = programs.command(name, *arguments);
        command.current_dir(programs.folder());
        let ended = Ended::of(command);
        assert_eq!(ended.code, 65, "{name} {arguments:?}: {ended:?}");
        assert!(ended.err.contains(message), "{name} {arguments:?}: {ended:?}");
    }
}

pub(crate) fn a_file_in_place_of_a_store_is_refused_alike() {
    let programs = Programs::current();
    stores::v0().write(&programs.folder().join("source"));
    fs::write(programs.store(), "a file").unwrap();
    let root = programs.store();
    let message = format!(
        "cannot use {}: it is not a folder\nhelp: set the folder of the store with --store",
        root.display()
    );
    let looking: &[(&str, &[&str])] =
        &[("stoa", &["status"]), ("stoa", &["quarantine"]), ("stoa-migrate", &["status"])];
    refuses_alike(&programs, &[OF_A_STORE, looking].concat(), &message);
    assert_eq!(fs::read_to_string(&root).unwrap(), "a file");
}

pub(crate) fn two_markers_are_refused_alike() {
    let programs = Programs::current();
    stores::v0().write(&programs.folder().join("source"));
    let root = programs.make_store();
    fs::write(root.join("layout.v1"), "").unwrap();
    fs::remove_file(root.join("store.lock")).unwrap();
    let before = shape(&root);
    let message = format!(
        "cannot use {root}: it has 2 markers instead of one: layout.v1, layout.v2; nothing was changed\n\
         help: find out which marker is right and move the others out of {root}",
        root = root.display()
    );
    refuses_alike(&programs, OF_A_STORE, &message);
    assert_eq!(shape(&root), before);
}
