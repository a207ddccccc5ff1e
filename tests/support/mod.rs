//! What the acceptance tests share. Each test crate uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "each test crate uses a part, and a test that cannot go on says why and ends"
)]

pub mod commands;
pub mod go;
pub mod nginx;
pub mod old;
pub mod peer;
pub mod program;
pub mod programs;
pub mod server;
pub mod stores;
pub mod sumdb;
pub mod sweep;
pub mod tracer;
pub mod tree;
pub mod upstream;

use std::path::Path;
use std::process::{Command, Output};

use libtest_mimic::{Failed, Trial};

/// The program under test.
pub const STOA: &str = env!("CARGO_BIN_EXE_stoa");

/// The migrator under test.
pub const MIGRATE: &str = env!("CARGO_BIN_EXE_stoa-migrate");

/// Makes a test of something that needs a component. Where that is missing the test is reported as ignored,
/// with the reason; in CI its absence is a failure.
pub fn trial(name: &str, missing: Option<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    match missing {
        None => Trial::test(name, move || {
            test();
            Ok(())
        }),
        Some(reason) if in_ci => {
            Trial::test(name, move || Err(Failed::from(format!("in CI nothing may be missing: {reason}"))))
        }
        Some(reason) => Trial::test(format!("{name} ({reason})"), || Ok(())).with_ignored_flag(true),
    }
}

/// Says why a tool cannot be used.
pub fn missing_tool(name: &str, probe: &[&str]) -> Option<String> {
    match Command::new(name).args(probe).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            Some(format!("{name} does not work: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(_) => Some(format!("{name} is not installed")),
    }
}

/// Makes a store.
pub fn create(root: &Path) {
    let output = Command::new(MIGRATE).args(["-q", "--store"]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
}

/// Is everything that a program said, for messages.
pub fn told(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\nstdout: {out}\nstderr: {err}", output.status)
}
