//! Artefacts are rebuilt on demand, repaired by the next run, and never missing meanwhile.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;
use stoa_layout::{Artefact, Context, Exit, LayoutId, Layouts, PathError, StepError};

use crate::layouts::layouts;
use crate::run::{self, Options, Recorder, auto, done, markers, plan, run_recorded, to};
use crate::support::homes;
use crate::support::tree::settled;

fn regenerate() -> Options {
    Options { regenerate: true, ..to("v2") }
}

#[test]
fn a_regeneration_repairs_the_shims() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &auto());
    let whole = settled(dir.path());
    let bin = dir.path().join("bin");
    fs::remove_file(bin.join("zig")).unwrap();
    std::os::unix::fs::symlink("../toolchains/gone/1.0/bin/gone", bin.join("gone")).unwrap();
    assert_eq!(run::run(dir.path(), &regenerate()), done("v2"));
    run::assert_same(&whole, &settled(dir.path()), "regenerated");
    // Other symlinks and files belong to the user.
    std::os::unix::fs::symlink("/usr/bin/env", bin.join("env")).unwrap();
    fs::remove_file(bin.join("zig")).unwrap();
    homes::file(&bin.join("zig"), "mine", 0o755);
    let events = Recorder::default();
    assert_eq!(run_recorded(dir.path(), &regenerate(), &layouts(), &events), done("v2"));
    events.assert_reported("zig is no shim and stays");
    assert_eq!(fs::read_to_string(bin.join("zig")).unwrap(), "mine");
    assert!(bin.join("env").symlink_metadata().is_ok());
}

#[test]
fn an_interrupted_regeneration_is_finished_first() {
    for options in [auto(), to("v0"), regenerate()] {
        let dir = testkit::tempdir();
        homes::v0(dir.path());
        run::run(dir.path(), &auto());
        fs::rename(dir.path().join("layout.v2"), dir.path().join("migrating.v2-v2")).unwrap();
        fs::remove_file(dir.path().join("bin/zig")).unwrap();
        let target = options.target.clone().unwrap().to_string();
        let events = Recorder::default();
        assert_eq!(run_recorded(dir.path(), &options, &layouts(), &events), done(&target));
        events.assert_reported("rebuild the derived files");
        assert!(dir.path().join("bin/zig").exists());
    }
}

/// An older program, with an older current layout, began the regeneration.
#[test]
fn a_regeneration_of_an_older_layout_is_planned_and_finished() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v1"));
    fs::rename(dir.path().join("layout.v1"), dir.path().join("migrating.v1-v1")).unwrap();
    let events = Recorder::default();
    assert_eq!(plan(dir.path(), &auto(), &events), Ok(true));
    events.assert_reported("keep toolchains apart");
    assert_eq!(run::run(dir.path(), &auto()), done("v2"));
    assert_eq!(markers(dir.path()), ["layout.v2"]);
}

#[test]
fn no_shim_is_missing_at_any_instant() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    // The name is checked all the time while it changes many times.
    let shim = dir.path().join("bin/node");
    let (looks, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| {
            let mut is_missing = false;
            while !is_over.load(Ordering::Relaxed) {
                is_missing |= shim.symlink_metadata().is_err();
                looks.fetch_add(1, Ordering::Relaxed);
            }
            is_missing
        });
        for _ in 0..20 {
            for layout in ["v1", "v2", "v0"] {
                run::run(dir.path(), &to(layout));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(!poll.join().unwrap(), "{} was missing", shim.display());
    });
    assert!(looks.into_inner() > 0);
}

/// An artefact that cannot be built.
struct Broken {
    is_required: bool,
    error: fn() -> StepError,
}

impl Artefact for Broken {
    fn name(&self) -> &str {
        "the index"
    }

    fn layout(&self) -> LayoutId {
        LayoutId::numbered(2)
    }

    fn is_required(&self) -> bool {
        self.is_required
    }

    fn build(&self, _: &Context<'_>) -> Result<(), StepError> {
        Err((self.error)())
    }

    fn remove(&self, _: &Context<'_>) -> Result<(), StepError> {
        Ok(())
    }
}

fn disk_full() -> StepError {
    PathError::new("write", Path::new("/index/1"), Errno::NOSPC).into()
}

fn with_broken(is_required: bool) -> Layouts {
    let mut layouts = layouts();
    layouts.artefacts.push(Box::new(Broken { is_required, error: disk_full }));
    layouts
}

#[test]
fn an_artefact_that_the_program_builds_later_may_fail() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    let events = Recorder::default();
    assert_eq!(run_recorded(dir.path(), &auto(), &with_broken(false), &events), done("v2"));
    events.assert_reported("cannot build the index; a server builds it later: cannot write /index/1");
}

#[test]
fn a_required_artefact_stops_the_step_before_its_end() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    let end = run_recorded(dir.path(), &auto(), &with_broken(true), &Recorder::default());
    end.assert_failed(Exit::IO, &["cannot write /index/1", "free space", "run again"]);
    assert_eq!(markers(dir.path()), ["migrating.v1-v2"]);
    assert_eq!(run::run(dir.path(), &auto()), done("v2"));
}
