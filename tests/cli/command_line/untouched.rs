//! Commands that must not create or upgrade a store.

use std::fs;
use std::net::TcpListener;

use super::{PAIR, config};
use testkit::programs::Programs;
use testkit::stores;
use testkit::tree::snapshot;

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
    ] {
        let ended = programs.stoa(arguments);
        assert!(ended.code == 65 && ended.err.contains("with --store"), "{arguments:?}: {ended:?}");
        assert!(!root.exists() && !to.exists(), "{arguments:?}");
    }
}
