//! The states of folders, and refusals, which change nothing.

use std::fs;
use std::path::Path;

use stoa_layout::{Exit, Outcome, State};

use crate::layouts::layouts;
use crate::run::{self, End, Recorder, auto, markers, nothing, plan, to};
use crate::support::{homes, tree};

/// Every option must refuse the folder and leave every byte and time unchanged.
#[track_caller]
fn assert_refused(root: &Path, code: Exit, words: &[&str]) {
    let before = tree::everything(root);
    for options in [auto(), to("v2"), to("v1"), to("v0")] {
        run::run(root, &options).assert_failed(code, words);
        let (got, text) = plan(root, &options, &Recorder::default()).unwrap_err();
        assert_eq!(got, code.code(), "{text}");
        run::assert_same(&before, &tree::everything(root), "a refused folder");
    }
}

#[test]
fn a_current_home_has_nothing_to_do() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &auto());
    let before = tree::everything(dir.path());
    assert_eq!(run::run(dir.path(), &auto()), nothing("v2"));
    assert_eq!(plan(dir.path(), &auto(), &Recorder::default()), Ok(false));
    run::assert_same(&before, &tree::everything(dir.path()), "a current home");
}

#[test]
fn newer_is_78() {
    for name in ["layout.v9", "creating.v9", "migrating.v2-v3", "migrating.v9-v8", "migrating.v0-v2"] {
        let dir = testkit::tempdir();
        homes::v0(dir.path());
        homes::file(&dir.path().join(name), "written_by = \"x 9\"\n", 0o644);
        assert_refused(dir.path(), Exit::NEWER, &[name, "nothing was changed"]);
        homes::file(&dir.path().join("store.lock"), "", 0o644);
        assert_refused(dir.path(), Exit::NEWER, &[name]);
    }
}

#[test]
fn two_markers_are_65() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    for name in ["layout.v1", "migrating.v1-v2"] {
        homes::file(&dir.path().join(name), "", 0o644);
    }
    assert_refused(dir.path(), Exit::NOT_A_STORE, &["layout.v1", "migrating.v1-v2", "nothing was changed"]);
    homes::file(&dir.path().join("store.lock"), "kept\n", 0o644);
    assert_refused(dir.path(), Exit::NOT_A_STORE, &["layout.v1", "migrating.v1-v2"]);
}

#[test]
fn something_else_under_a_markers_name_is_65() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    fs::create_dir(dir.path().join("layout.v2")).unwrap();
    assert_refused(dir.path(), Exit::NOT_A_STORE, &["layout.v2", "not a file"]);
    fs::remove_dir(dir.path().join("layout.v2")).unwrap();
    std::os::unix::fs::symlink("settings", dir.path().join("layout.v2")).unwrap();
    assert_refused(dir.path(), Exit::NOT_A_STORE, &["layout.v2", "not a file"]);
}

#[test]
fn foreign_is_65() {
    let dir = testkit::tempdir();
    homes::file(&dir.path().join("bin/ls"), "", 0o755);
    homes::file(&dir.path().join("tools/saw"), "", 0o644);
    assert_refused(dir.path(), Exit::NOT_A_STORE, &["bin, tools", "not a store"]);
    // A folder above or below a home is not a home.
    let above = testkit::tempdir();
    homes::v0(&above.path().join("home"));
    assert_refused(above.path(), Exit::NOT_A_STORE, &["home"]);
    assert_refused(&above.path().join("home/tools"), Exit::NOT_A_STORE, &["node-1.2"]);
}

#[test]
fn a_file_is_65() {
    let dir = testkit::tempdir();
    let path = dir.path().join("f");
    homes::file(&path, "x", 0o644);
    run::run(&path, &auto()).assert_failed(Exit::NOT_A_STORE, &["it is not a folder", "f"]);
}

#[test]
fn an_unknown_layout_is_78() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    let before = tree::everything(dir.path());
    run::run(dir.path(), &to("v7")).assert_failed(Exit::NEWER, &["v7", "newer release"]);
    run::assert_same(&before, &tree::everything(dir.path()), "an unknown target");
}

#[test]
fn by_hand_a_home_may_be_said_to_be_v0() {
    let dir = testkit::tempdir();
    homes::file(&dir.path().join("tools/half-1.0/x"), "", 0o644);
    let assumed = run::Options { assumed: to("v0").target, ..to("v2") };
    assert_eq!(run::run(dir.path(), &assumed), run::done("v2"));
    assert!(dir.path().join("tools/half-1.0/x").exists());
    let wrong = run::Options { assumed: to("v0").target, ..to("v1") };
    run::run(dir.path(), &wrong).assert_failed(Exit::USAGE, &["layout.v2", "--from v0"]);
}

#[test]
fn no_create_creates_nothing() {
    let dir = testkit::tempdir();
    let options = run::Options { no_create: true, ..auto() };
    for root in [dir.path().join("missing"), dir.path().to_owned()] {
        assert_eq!(run::run(&root, &options), End::Done(Outcome::NoStore));
        assert_eq!(plan(&root, &options, &Recorder::default()), Ok(false));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    homes::v0(dir.path());
    assert_eq!(run::run(dir.path(), &options), run::done("v2"));
}

#[test]
fn dry_run_writes_nothing() {
    let dir = testkit::tempdir();
    let missing = dir.path().join("missing");
    let events = Recorder::default();
    assert_eq!(plan(&missing, &to("v2"), &events), Ok(true));
    events.assert_reported("creates: Some");
    assert!(!missing.exists());
    let home = dir.path().join("home");
    homes::v0(&home);
    let before = tree::everything(&home);
    let events = Recorder::default();
    assert_eq!(plan(&home, &to("v2"), &events), Ok(true));
    events.assert_reported("items: 3");
    events.assert_reported("half-1.0 incomplete");
    events.assert_reported("README its name is not that of a toolchain");
    run::assert_same(&before, &tree::everything(&home), "a planned home");
    // The same in the middle of a step.
    run::run_and_stop(&home, &to("v1"), 1, 15);
    let before = tree::everything(&home);
    let events = Recorder::default();
    assert_eq!(plan(&home, &to("v2"), &events), Ok(true));
    events.assert_reported("resumes: true");
    run::assert_same(&before, &tree::everything(&home), "a planned home in a step");
}

#[test]
fn a_refusal_comes_before_any_move() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v1"));
    let blocking = dir.path().join("tools/zig-0.13.0");
    homes::file(&blocking.join("x"), "filled since", 0o644);
    let before = tree::settled(dir.path());
    run::run(dir.path(), &to("v0"))
        .assert_failed(Exit::CANT_CREATE, &["tools/zig/0.13.0", "tools/zig-0.13.0", "nothing was moved"]);
    assert_eq!(plan(dir.path(), &to("v0"), &Recorder::default()).unwrap_err().0, 73);
    run::assert_same(&before, &tree::settled(dir.path()), "a refused way back");
    fs::remove_dir_all(blocking).unwrap();
    assert_eq!(run::run(dir.path(), &to("v0")), run::done("v0"));
    assert!(markers(dir.path()).is_empty());
}

#[test]
fn a_taken_place_on_the_way_up_is_a_leftover() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    homes::file(&dir.path().join("tools/zig/0.13.0"), "in the way", 0o644);
    let events = Recorder::default();
    assert_eq!(run::run_recorded(dir.path(), &to("v2"), &layouts(), &events), run::done("v2"));
    events.assert_reported("tools/zig-0.13.0 its place is taken");
    assert!(dir.path().join("tools/zig-0.13.0/bin/zig").exists());
    assert_eq!(fs::read_to_string(dir.path().join("tools/zig/0.13.0")).unwrap(), "in the way");
    assert!(dir.path().join("toolchains/node/1.10/bin/node").exists());
}

#[test]
fn each_state_is_recognised() {
    let dir = testkit::tempdir();
    let root = dir.path().join("home");
    let look = || State::look(&root, &layouts()).unwrap();
    assert_eq!(look(), State::Empty);
    homes::v0(&root);
    let v = stoa_layout::LayoutId::numbered;
    assert_eq!(look(), State::Untagged(v(0)));
    run::run_and_stop(&root, &to("v2"), 2, 2);
    assert_eq!(look(), State::Migrating { from: v(0), to: v(1) });
    run::run(&root, &to("v1"));
    assert_eq!(look(), State::At(v(1)));
    fs::rename(root.join("layout.v1"), root.join("creating.v1")).unwrap();
    assert_eq!(look(), State::Creating(v(1)));
}

/// A home at v2 that lost its marker.
fn unmarked(root: &Path) {
    homes::v0(root);
    assert_eq!(run::run(root, &to("v2")), run::done("v2"));
    fs::remove_file(root.join("layout.v2")).unwrap();
    // A leftover of the upgrade does not belong to the home.
    fs::remove_dir_all(root.join("tools/half-1.0")).unwrap();
}

#[test]
fn a_lost_marker_is_65_and_names_the_command() {
    let dir = testkit::tempdir();
    unmarked(dir.path());
    assert_refused(
        dir.path(),
        Exit::NOT_A_STORE,
        &["without its marker layout.v2", "nothing was changed", "tool_home_migrate --store", "--from v2"],
    );
    let v2 = stoa_layout::LayoutId::numbered(2);
    let state = State::look(dir.path(), &layouts()).unwrap();
    assert_eq!(state, State::MarkerLost { layout: v2, is_confirmed: false });
}

#[test]
fn a_lost_marker_is_restored_by_hand() {
    let dir = testkit::tempdir();
    unmarked(dir.path());
    let before = tree::settled(dir.path());
    let by_hand = run::Options { assumed: to("v2").target, ..to("v2") };
    let events = Recorder::default();
    assert_eq!(plan(dir.path(), &by_hand, &events), Ok(true));
    events.assert_reported("restores: Some");
    run::assert_same(&before, &tree::settled(dir.path()), "a planned restoration");
    assert_eq!(run::run(dir.path(), &by_hand), run::done("v2"));
    assert_eq!(markers(dir.path()), ["layout.v2"]);
    let mut after = tree::settled(dir.path());
    after.remove(Path::new("layout.v2"));
    run::assert_same(&before, &after, "a restored home");
    let text = fs::read_to_string(dir.path().join("layout.v2")).unwrap();
    assert!(text.contains("unmarked"), "{text}");
    // A restoration and a step back in one run.
    fs::remove_file(dir.path().join("layout.v2")).unwrap();
    let back = run::Options { assumed: to("v2").target, ..to("v1") };
    assert_eq!(run::run(dir.path(), &back), run::done("v1"));
    assert_eq!(markers(dir.path()), ["layout.v1"]);
}

#[test]
fn a_marker_is_not_restored_over_a_structure_that_does_not_fit() {
    let dir = testkit::tempdir();
    unmarked(dir.path());
    fs::remove_file(dir.path().join("toolchains/node/1.2/bin/node")).unwrap();
    let before = tree::settled(dir.path());
    let by_hand = run::Options { assumed: to("v2").target, ..to("v2") };
    run::run(dir.path(), &by_hand).assert_failed(Exit::NOT_A_STORE, &["node/1.2", "nothing was changed"]);
    assert_eq!(plan(dir.path(), &by_hand, &Recorder::default()).unwrap_err().0, 65);
    run::assert_same(&before, &tree::settled(dir.path()), "a refused restoration");
    // A home of another layout is not taken for it.
    let other = testkit::tempdir();
    homes::v0(other.path());
    run::run(other.path(), &by_hand).assert_failed(Exit::NOT_A_STORE, &["--from v2"]);
    assert!(markers(other.path()).is_empty());
}
