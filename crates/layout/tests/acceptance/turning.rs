//! Steps that are interrupted, taken up again, turned around, and taken back.

use std::fs;
use std::path::Path;

use stoa_layout::Exit;

use crate::layouts::layouts;
use crate::run::{self, Recorder, auto, done, markers, plan, run_and_stop, to};
use crate::support::homes;
use crate::support::tree::{self, Tree, settled};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Is what an undisturbed home looks like at a layout.
fn undisturbed(layout: &str) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    homes::v0(dir.path());
    run::run(dir.path(), &to(layout));
    settled(dir.path())
}

#[track_caller]
fn assert_undisturbed(root: &Path, layout: &str, what: &str) {
    run::assert_same(&undisturbed(layout), &settled(root), what);
}

#[test]
fn up_and_back_is_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    homes::v0(dir.path());
    let before = settled(dir.path());
    assert_eq!(run::run(dir.path(), &to("v2")), done("v2"));
    assert!(dir.path().join("toolchains/node/1.10/bin/node").exists());
    assert_eq!(
        fs::read_link(dir.path().join("bin/node")).unwrap(),
        Path::new("../toolchains/node/1.10/bin/node")
    );
    assert_eq!(run::run(dir.path(), &to("v0")), done("v0"));
    run::assert_same(&before, &settled(dir.path()), "up and back");
}

#[test]
fn an_interrupted_step_is_resumed_or_turned_around() {
    for (start, target) in [("v0", "v1"), ("v1", "v0"), ("v1", "v2"), ("v2", "v1")] {
        for items in 1..=3 {
            for end in ["v0", "v1", "v2"] {
                let what = format!("{start} to {target}, stopped after {items}, then to {end}");
                let dir = tempfile::tempdir().unwrap();
                homes::v0(dir.path());
                run::run(dir.path(), &to(start));
                run_and_stop(dir.path(), &to(target), items, SIGTERM);
                assert_eq!(markers(dir.path()), [format!("migrating.{start}-{target}")], "{what}");
                assert_eq!(run::run(dir.path(), &to(end)), done(end), "{what}");
                assert_undisturbed(dir.path(), end, &what);
            }
        }
    }
}

#[test]
fn stopped_is_130_or_143_and_resumable() {
    let dir = tempfile::tempdir().unwrap();
    homes::v0(dir.path());
    run_and_stop(dir.path(), &auto(), 1, SIGINT);
    run_and_stop(dir.path(), &auto(), 1, SIGTERM);
    assert_eq!(run::run(dir.path(), &auto()), done("v2"));
    assert_undisturbed(dir.path(), "v2", "stopped twice");
}

#[test]
fn auto_leaves_a_step_back_to_a_person() {
    for (start, target) in [("v2", "v1"), ("v1", "v0")] {
        let dir = tempfile::tempdir().unwrap();
        homes::v0(dir.path());
        run::run(dir.path(), &to(start));
        run_and_stop(dir.path(), &to(target), 1, SIGINT);
        let before = tree::settled(dir.path());
        let (on, up) = (format!("--to {target}"), format!("--to {start}"));
        run::run(dir.path(), &auto()).assert_failed(Exit::NEWER, &[&on, &up, "by hand"]);
        let (code, _) = plan(dir.path(), &auto(), &Recorder::default()).unwrap_err();
        assert_eq!(code, 78);
        run::assert_same(&before, &tree::settled(dir.path()), "refused by auto");
        assert_eq!(run::run(dir.path(), &to(start)), done(start));
    }
}

/// An older program's gate names an older layout: that must not make the migrator take anything back.
#[test]
fn auto_never_goes_back() {
    let older = run::Options { auto: true, ..to("v1") };
    let dir = tempfile::tempdir().unwrap();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v2"));
    let before = tree::everything(dir.path());
    run::run(dir.path(), &older).assert_failed(Exit::NEWER, &["never downgraded", "--to v1"]);
    run::assert_same(&before.clone(), &tree::everything(dir.path()), "refused by auto");
    run::run(dir.path(), &to("v1"));
    run_and_stop(dir.path(), &to("v2"), 2, SIGINT);
    let before = tree::everything(dir.path());
    run::run(dir.path(), &older).assert_failed(Exit::NEWER, &["never downgraded", "--to v1"]);
    assert_eq!(plan(dir.path(), &older, &Recorder::default()).unwrap_err().0, 78);
    run::assert_same(&before, &tree::everything(dir.path()), "refused by auto in a step");
}

#[test]
fn leftovers_are_told_with_their_reasons() {
    let dir = tempfile::tempdir().unwrap();
    homes::v0(dir.path());
    let events = Recorder::default();
    run::run_recorded(dir.path(), &auto(), &layouts(), &events);
    for leftover in [
        "tools/README it is named as no toolchain is",
        "tools/half-1.0 it is incomplete: there is no file bin/half",
        "tools/empty/1.0 it is incomplete: there is no file bin/empty",
    ] {
        events.assert_told(leftover);
    }
    assert!(dir.path().join("tools/half-1.0/lib/x").exists());
    assert_eq!(fs::read_to_string(dir.path().join("notes.txt")).unwrap(), "left alone\n");
}

/// There is nothing left that v0 could be known by, and that is no reason to fail.
#[test]
fn a_home_with_nothing_in_it_goes_back_too() {
    let dir = tempfile::tempdir().unwrap();
    run::run(dir.path(), &auto());
    assert_eq!(run::run(dir.path(), &to("v0")), done("v0"));
    assert_eq!(markers(dir.path()), Vec::<String>::new());
}
