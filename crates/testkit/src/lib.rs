//! Shared parts of the tests and benches: scripted upstreams, servers, clients, modules, stores and sweeps.
#![allow(
    missing_docs,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests: what cannot go on panics with its reason, and stores are broken by hand"
)]

pub mod azurite;
pub mod bucket;
pub mod bucket_suite;
mod built;
mod case;
pub mod client;
pub mod commands;
pub mod disk;
pub mod fault_proxy;
pub mod gcs;
pub mod go;
pub mod inject;
pub mod limits;
pub mod link;
pub mod metrics;
mod module;
pub mod mounts;
pub mod nginx;
pub mod old;
pub mod peer;
pub mod ports;
pub mod program;
pub mod programs;
pub mod request_sweep;
pub mod s3;
pub mod server;
mod servers;
pub mod signing;
pub mod stores;
pub mod sumdb;
pub mod sweep;
pub mod terminal;
pub mod tracer;
pub mod tree;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};
use tempfile::TempDir;

pub use built::{Built, MIGRATE, Program, STOA, set};
pub use case::{Case, missing_tool, run, slow, trial};
pub use module::Module;

/// A folder in memory on most systems.
const MEMORY: &str = "/dev/shm";

/// Returns a path below the root of the project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Makes a folder for a test. It is in memory if there is room and `TMPDIR` names no other place: tests sync thousands of
/// files.
pub fn tempdir() -> TempDir {
    static IN_MEMORY: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("TMPDIR").is_none() && statvfs(MEMORY).is_ok_and(suits));
    let mut builder = tempfile::Builder::new();
    builder.prefix("stoa-test-");
    if *IN_MEMORY { builder.tempdir_in(MEMORY).unwrap() } else { builder.tempdir().unwrap() }
}

/// Returns whether tests can write large files and run programs on a file system.
fn suits(found: StatVfs) -> bool {
    found.f_bavail * found.f_frsize >= 2 << 30 && !found.f_flag.contains(StatVfsMountFlags::NOEXEC)
}

/// Waits until something happens in another thread or program.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "not in a minute: {what}");
        // The other one needs the processor.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until files that are written have a later time than those before: the clock of a file system moves in steps. A zip
/// that is damaged in the step of its seal would count as whole.
pub fn next_write_time() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Makes a store.
pub fn create(root: &Path) {
    let output = Command::new(MIGRATE).args(["-q", "--store"]).arg(root).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
}

/// Returns everything that a program printed, for messages.
pub fn transcript(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\nstdout: {out}\nstderr: {err}", output.status)
}
