//! The content of a marker is history and decides nothing.

use std::fs;
use std::path::Path;

use stoa_layout::LayoutId;
use stoa_layout::marker::{Content, Marker};

use crate::layouts::layouts;
use crate::run::{self, Recorder, auto, done, markers, run_recorded, to};
use crate::support::homes;

fn history(root: &Path) -> Vec<(String, String, u64, u64)> {
    let marker = Marker::parse(&markers(root)[0]).unwrap();
    let (content, damaged) = Content::read(root, &marker, "test");
    assert_eq!(damaged, None);
    assert!(content.written_by.starts_with("tool_home_migrate "), "{content:?}");
    content.history.into_iter().map(|entry| (entry.from, entry.to, entry.moved, entry.leftovers)).collect()
}

fn entry(from: &str, to: &str, moved: u64, leftovers: u64) -> (String, String, u64, u64) {
    (from.to_owned(), to.to_owned(), moved, leftovers)
}

#[test]
fn each_step_adds_an_entry() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v2"));
    run::run(dir.path(), &to("v1"));
    // README, half-1.0 and empty/1.0; then README, half-1.0 and empty/1.0 again; settings moves in the second.
    let first = [entry("v0", "v1", 3, 3), entry("v1", "v2", 4, 3), entry("v2", "v1", 4, 3)];
    assert_eq!(history(dir.path()), first);
    run::run_and_stop(dir.path(), &to("v2"), 1, 2);
    assert_eq!(history(dir.path()), first);
    run::run(dir.path(), &to("v2"));
    assert_eq!(history(dir.path())[3], entry("v1", "v2", 3, 3));
    let regenerate = run::Options { regenerate: true, ..to("v2") };
    run::run(dir.path(), &regenerate);
    assert_eq!(history(dir.path())[4], entry("v2", "v2", 0, 0));
    assert_eq!(history(dir.path()).len(), 5);
}

#[test]
fn the_creation_adds_an_entry() {
    let dir = testkit::tempdir();
    run::run(dir.path(), &auto());
    assert_eq!(history(dir.path()), [entry("empty", "v2", 0, 0)]);
}

/// The content is written under the old name first. After a kill between the write and the rename, the entry exists although the
/// step has not ended.
#[test]
fn an_entry_written_too_early_is_not_written_twice() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v2"));
    let before = history(dir.path());
    fs::rename(dir.path().join("layout.v2"), dir.path().join("migrating.v1-v2")).unwrap();
    assert_eq!(run::run(dir.path(), &to("v2")), done("v2"));
    let pairs = |all: &[(String, String, u64, u64)]| -> Vec<(String, String)> {
        all.iter().map(|(from, to, ..)| (from.clone(), to.clone())).collect()
    };
    assert_eq!(pairs(&history(dir.path())), pairs(&before));
}

#[test]
fn damaged_content_is_a_warning() {
    for damage in [&b""[..], b"\xff\xfe", b"history = 3", b"[[history]]\nfrom = 1\n"] {
        let dir = testkit::tempdir();
        homes::v0(dir.path());
        run::run(dir.path(), &to("v1"));
        fs::write(dir.path().join("layout.v1"), damage).unwrap();
        let events = Recorder::default();
        assert_eq!(run_recorded(dir.path(), &auto(), &layouts(), &events), done("v2"), "{damage:?}");
        events.assert_reported("cannot read the history in");
        assert_eq!(history(dir.path()), [entry("v1", "v2", 4, 3)]);

        fs::write(dir.path().join("layout.v2"), damage).unwrap();
        let events = Recorder::default();
        let regenerate = run::Options { regenerate: true, ..to("v2") };
        assert_eq!(run_recorded(dir.path(), &regenerate, &layouts(), &events), done("v2"), "{damage:?}");
        events.assert_reported("cannot read the history in");
        assert_eq!(history(dir.path()), [entry("v2", "v2", 0, 0)]);
    }
}

#[test]
fn temporaries_of_a_killed_run_are_swept() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    homes::file(&dir.path().join(".marker.abc123"), "half", 0o600);
    std::os::unix::fs::symlink("nowhere", dir.path().join("bin/.shim.abc123")).unwrap();
    assert_eq!(run::run(dir.path(), &auto()), done("v2"));
    assert!(!dir.path().join(".marker.abc123").exists());
    assert!(dir.path().join("bin/.shim.abc123").symlink_metadata().is_err());
}

#[test]
fn a_layout_without_markers_has_no_history() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v2"));
    assert_eq!(run::run(dir.path(), &to("v0")), done("v0"));
    assert_eq!(markers(dir.path()), Vec::<String>::new());
    assert!(!layouts().is_tagged(&LayoutId::numbered(0)));
}
