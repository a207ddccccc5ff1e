//! The gate, with both programs installed in one folder.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use stoa_layout::marker::Marker;

use crate::layouts;
use crate::run::{self, code, stderr};
use crate::support::homes;
use crate::support::programs::example;
use crate::support::tree::everything;

fn tool_home(home: &Path, arguments: &[&str]) -> Output {
    tool_home_at(&example("tool_home"), home, arguments)
}

fn tool_home_at(program: &Path, home: &Path, arguments: &[&str]) -> Output {
    Command::new(program).env_remove("TOOL_HOME").arg("--store").arg(home).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_old_home_is_upgraded_and_used() {
    let dir = testkit::tempdir();
    let home = dir.path().canonicalize().unwrap();
    homes::v0(&home);
    let output = tool_home(&home, &["which", "node"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(stdout(&output), format!("{}\n", home.join("toolchains/node/1.10/bin/node").display()));
    assert!(stderr(&output).contains("v1 to v2: done"), "{output:?}");
    assert!(Marker::At(layouts::CURRENT).path(&home).exists());
    // On a current store the migrator is not run.
    let output = tool_home(&home, &["run", "zig"]);
    assert_eq!((code(&output), stdout(&output)), (0, "zig 0.13.0\n".to_owned()));
    assert_eq!(stderr(&output), "");
    assert_eq!(code(&tool_home(&home, &["which", "gone"])), 1);
}

#[test]
fn the_exit_code_and_message_of_the_migrator_are_kept() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    homes::file(&dir.path().join("layout.v9"), "", 0o644);
    let before = everything(dir.path());
    let output = tool_home(dir.path(), &["which", "node"]);
    assert_eq!(code(&output), 78, "{output:?}");
    assert_eq!(stderr(&output).matches("layout.v9").count(), 2, "told once, by the migrator: {output:?}");
    run::assert_same(&before, &everything(dir.path()), "a newer home");
}

#[test]
fn a_missing_migrator_is_named_by_its_path() {
    let dir = testkit::tempdir();
    let (bin, home) = (dir.path().join("programs"), dir.path().join("home"));
    fs::create_dir(&bin).unwrap();
    let program = bin.join("tool_home");
    testkit::programs::install(&example("tool_home"), &program);
    homes::v0(&home);
    let before = everything(&home);
    let output = tool_home_at(&program, &home, &["which", "node"]);
    assert_eq!(code(&output), 78);
    let beside = bin.canonicalize().unwrap().join("tool_home_migrate");
    assert!(stderr(&output).contains(&format!("{} does not exist", beside.display())));
    homes::file(&beside, "", 0o644);
    assert!(stderr(&tool_home_at(&program, &home, &["which", "node"])).contains("is not executable"));
    // A migrator that does nothing must not cause a loop.
    fs::remove_file(&beside).unwrap();
    testkit::programs::install_script(&beside, "#!/bin/sh\n");
    let output = tool_home_at(&program, &home, &["which", "node"]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("succeeded but did not create"), "{output:?}");
    // A program behind a symlink finds the migrator beside the program itself.
    fs::remove_file(&beside).unwrap();
    std::os::unix::fs::symlink(example("tool_home"), dir.path().join("link")).unwrap();
    assert_eq!(code(&tool_home_at(&dir.path().join("link"), &home, &["which", "zig"])), 0);
    assert_ne!(before, everything(&home));
}

#[test]
fn a_migration_may_be_forbidden() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    let before = everything(dir.path());
    let output = tool_home(dir.path(), &["--no-migrate", "which", "node"]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("run `tool_home_migrate --store "), "{output:?}");
    run::assert_same(&before, &everything(dir.path()), "a forbidden migration");
}

#[test]
fn looking_changes_nothing() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    let before = everything(dir.path());
    let output = tool_home(dir.path(), &["status"]);
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("planned, v0 to v1: give each tool"), "{output:?}");
    run::assert_same(&before, &everything(dir.path()), "a look");
}

/// A program that holds the store looks for a second marker too.
#[test]
fn a_program_that_holds_the_store_refuses_a_second_marker() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    assert_eq!(code(&tool_home(dir.path(), &["which", "zig"])), 0);
    homes::file(&dir.path().join("layout.v1"), "", 0o644);
    let output = tool_home(dir.path(), &["run", "zig"]);
    assert_eq!(code(&output), 65, "{output:?}");
    assert!(stderr(&output).contains("2 markers instead of one: layout.v1, layout.v2"), "{output:?}");
}

#[test]
fn after_a_migration_a_signal_ends_the_program_as_before() {
    let dir = testkit::tempdir();
    let home = dir.path().canonicalize().unwrap();
    homes::v0(&home);
    let bin = home.join("tools/slow-1.0/bin");
    fs::create_dir_all(&bin).unwrap();
    testkit::programs::install_script(&bin.join("slow"), "#!/bin/sh\necho begun\nexec sleep 60\n");
    let mut child = Command::new(example("tool_home"))
        .arg("--store")
        .arg(&home)
        .args(["run", "slow"])
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    assert!(Marker::At(layouts::CURRENT).path(&home).exists());
    let kill = |target: String| Command::new("kill").args(["-TERM", "--", &target]).status().unwrap();
    assert!(kill(child.id().to_string()).success());
    let status = child.wait().unwrap();
    // The child still runs.
    kill(format!("-{}", child.id()));
    assert_eq!(status.signal(), Some(15), "{status}");
}
