//! A migration that is killed again and again, as a liveness probe kills a server that is not ready in time.

use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::Case;

use super::migrate;
use testkit::programs::{Ended, Programs};
use testkit::stores::markers;
use testkit::{missing_tool, old, trial};

pub(crate) fn cases() -> Vec<Case> {
    let traces = || missing_tool("strace", &["-o", "/dev/null", "true"]);
    vec![
        trial("a migration that is killed again and again ends", traces(), killed_again_and_again),
        trial("a resumed step moves a version before it reads the store", traces(), resumed_step).slow(),
    ]
}

/// Runs the migrator with one thread under strace, with the calls of `trace` in `log`. It is killed at the given rename.
fn traced(programs: &Programs, log: &Path, trace: &str, kill_at: Option<usize>, arguments: &[&str]) -> Ended {
    let inner =
        programs.command("stoa-migrate", [&["--threads", "1", "--format", "json"], arguments].concat());
    let mut command = Command::new("strace");
    command.arg("-o").arg(log).args(["-e", &format!("trace={trace}")]);
    if let Some(number) = kill_at {
        command.args(["-e", &format!("inject=renameat2:signal=KILL:when={number}")]);
    }
    command.arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    Ended::of(command)
}

fn killed_again_and_again() {
    const VERSIONS: usize = 300;
    let programs = Programs::current();
    let root = programs.store();
    old::athens(&root, VERSIONS);
    let log = programs.folder().join("log");
    for way in [&[][..], &["--to", "v0"]] {
        let mut runs = 0;
        loop {
            let ended = traced(&programs, &log, "renameat2", Some(250), way);
            runs += 1;
            if ended.code == 0 {
                break;
            }
            assert_eq!(ended.code, -9, "{ended:?}");
            assert!(runs < 20, "the migration does not end");
        }
        // Each version is renamed six times in all.
        assert!(runs >= 6, "{runs}");
    }
    let moved = migrate(&programs, &[]);
    assert_eq!(moved.code, 0);
    assert!(moved.out.contains(&format!("\"versions\":{VERSIONS}")), "{moved:?}");
    assert_eq!(markers(&root), ["layout.v2"]);
}

/// Returns how many folders a run reads before it moves the first version, which ends the run.
fn folders_before_first_move(programs: &Programs, way: &[&str]) -> usize {
    let log = programs.folder().join("log");
    let ended = traced(programs, &log, "openat,renameat2", Some(1), way);
    assert_eq!(ended.code, -9, "{ended:?}");
    let calls = fs::read_to_string(&log).unwrap();
    let store = programs.store();
    let below = format!("{}/", store.display());
    calls.lines().filter(|line| line.contains("O_DIRECTORY") && line.contains(&below)).count()
}

fn resumed_step() {
    const VERSIONS: usize = 2000;
    let programs = Programs::current();
    let root = programs.store();
    old::athens(&root, VERSIONS);
    let modules = VERSIONS / old::VERSIONS;
    for way in [&[][..], &["--to", "v1"], &["--to", "v0"]] {
        let log = programs.folder().join("log");
        // The first rename changes the marker, unless the old layout has none.
        let begun = traced(&programs, &log, "renameat2", Some(40), way);
        assert_eq!(begun.code, -9, "{begun:?}");
        assert!(markers(&root)[0].starts_with("migrating"), "{way:?}");
        let read = folders_before_first_move(&programs, way);
        assert!(
            read < modules / 2,
            "{way:?}: {read} folders are read before the first version of {modules} modules moves"
        );
        assert_eq!(migrate(&programs, way).code, 0);
    }
}
