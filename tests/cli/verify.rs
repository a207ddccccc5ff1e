//! `stoa-migrate --verify`, on a store whose versions came without a seal.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use testkit::{Case, cases};

use testkit::tree::snapshot;
use testkit::upstream::Module;
use testkit::{MIGRATE, create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        full_seals_what_is_whole_and_quarantines_what_is_not,
        structure_changes_nothing,
        bad_combinations_are_usage_errors,
    ]
}

fn verify(root: &Path, how: &str, more: &[&str]) -> Output {
    Command::new(MIGRATE).args(["--verify", how, "--store"]).arg(root).args(more).output().unwrap()
}

/// A store with three whole versions, and one whose zip has a flipped bit in its data.
fn store(root: &Path) {
    create(root);
    for pair in ["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/B/c@v0.1.0"] {
        Module::new(pair, 5000).put_unsealed(root);
    }
    let mut broken = Module::new("example.com/broken@v1.0.0", 5000);
    let middle = broken.zip.len() / 2;
    broken.zip[middle] ^= 1;
    broken.put_unsealed(root);
}

fn full_seals_what_is_whole_and_quarantines_what_is_not() {
    let dir = testkit::tempdir();
    store(dir.path());
    let output = verify(dir.path(), "full", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    assert!(transcript(&output).contains("corrupt example.com/broken@v1.0.0"), "{}", transcript(&output));
    assert!(transcript(&output).contains("4 versions verified, 1 corrupt"), "{}", transcript(&output));
    assert!(dir.path().join("modules/example.com/!b/c/@v/v0.1.0/ziphash").is_file());
    assert!(!dir.path().join("modules/example.com/broken/@v/v1.0.0").exists());
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 1);
    let again = verify(dir.path(), "full", &["--format", "json"]);
    assert!(again.status.success(), "{}", transcript(&again));
    let last = String::from_utf8(again.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["event"], &last["versions"], &last["broken"]),
        (&"verified".into(), &3.into(), &0.into())
    );
}

fn structure_changes_nothing() {
    let dir = testkit::tempdir();
    store(dir.path());
    let cut = dir.path().join("modules/example.com/a/@v/v1.0.0/zip");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 30]).unwrap();
    let before = snapshot(dir.path());
    let output = verify(dir.path(), "structure", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    // The flipped bit is in the data, which only a full look reads.
    assert!(transcript(&output).contains("4 versions verified, 1 corrupt"), "{}", transcript(&output));
    assert!(transcript(&output).contains("corrupt example.com/a@v1.0.0"), "{}", transcript(&output));
    assert_eq!(snapshot(dir.path()), before);
}

fn bad_combinations_are_usage_errors() {
    let dir = testkit::tempdir();
    create(dir.path());
    assert_eq!(verify(dir.path(), "some", &[]).status.code(), Some(64));
    assert_eq!(verify(dir.path(), "full", &["--dry-run"]).status.code(), Some(64));
}
