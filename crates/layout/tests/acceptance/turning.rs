//! Steps that are interrupted, resumed and reversed.

use std::fs;
use std::path::Path;

use stoa_layout::Exit;

use crate::layouts::layouts;
use crate::run::{self, Recorder, auto, done, markers, plan, run_and_stop, to};
use crate::support::homes;
use crate::support::tree::{self, Tree, settled};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Returns the picture of an undisturbed home at a layout.
fn undisturbed(layout: &str) -> Tree {
    let dir = testkit::tempdir();
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
    let dir = testkit::tempdir();
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
fn an_interrupted_step_is_resumed_or_reversed() {
    for (start, target) in [("v0", "v1"), ("v1", "v0"), ("v1", "v2"), ("v2", "v1")] {
        for items in 1..=3 {
            for end in ["v0", "v1", "v2"] {
                let what = format!("{start} to {target}, stopped after {items}, then to {end}");
                let dir = testkit::tempdir();
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
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run_and_stop(dir.path(), &auto(), 1, SIGINT);
    run_and_stop(dir.path(), &auto(), 1, SIGTERM);
    assert_eq!(run::run(dir.path(), &auto()), done("v2"));
    assert_undisturbed(dir.path(), "v2", "stopped twice");
}

#[test]
fn an_automatic_run_does_not_resume_a_step_back() {
    for (start, target) in [("v2", "v1"), ("v1", "v0")] {
        let dir = testkit::tempdir();
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

/// The gate of an older program names an older layout. The migrator must not downgrade the home for it.
#[test]
fn an_automatic_run_never_goes_back() {
    let older = run::Options { auto: true, ..to("v1") };
    let dir = testkit::tempdir();
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
fn leftovers_are_reported_with_their_reasons() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    let events = Recorder::default();
    run::run_recorded(dir.path(), &auto(), &layouts(), &events);
    for leftover in [
        "tools/README its name is not that of a toolchain",
        "tools/half-1.0 incomplete: it has no file bin/half",
        "tools/empty/1.0 incomplete: it has no file bin/empty",
    ] {
        events.assert_reported(leftover);
    }
    assert!(dir.path().join("tools/half-1.0/lib/x").exists());
    assert_eq!(fs::read_to_string(dir.path().join("notes.txt")).unwrap(), "left alone\n");
}

/// The home cannot be recognised as v0 any more, and the step back succeeds all the same.
#[test]
fn an_empty_home_goes_back_too() {
    let dir = testkit::tempdir();
    run::run(dir.path(), &auto());
    assert_eq!(run::run(dir.path(), &to("v0")), done("v0"));
    assert_eq!(markers(dir.path()), Vec::<String>::new());
}
