//! The two programs. With this test, `cargo test` builds them, and the tests of upgrades find them built.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::Command;

use next_layout::LAYOUT;

fn run(program: &str, arguments: &[&str], store: &Path) -> String {
    let output = Command::new(program).args(arguments).arg("--store").arg(store).output().unwrap();
    assert!(output.status.success(), "{}", testkit::transcript(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_new_store_has_the_next_layout() {
    let dir = testkit::tempdir();
    run(env!("CARGO_BIN_EXE_next-stoa-migrate"), &[], dir.path());
    assert!(dir.path().join(format!("layout.{LAYOUT}")).exists());
    let status = run(env!("CARGO_BIN_EXE_next-stoa"), &["status"], dir.path());
    assert!(status.contains(LAYOUT.as_str()), "{status}");
}
