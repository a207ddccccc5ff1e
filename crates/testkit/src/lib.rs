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

mod built;
mod case;
pub mod client;
pub mod commands;
pub mod disk;
pub mod go;
pub mod inject;
pub mod limits;
mod module;
pub mod mounts;
pub mod nginx;
pub mod old;
pub mod peer;
pub mod program;
pub mod programs;
pub mod server;
pub mod stores;
pub mod sumdb;
pub mod sweep;
pub mod terminal;
pub mod tracer;
pub mod tree;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use built::{Built, MIGRATE, Program, STOA, set};
pub use case::{Case, missing_tool, run, slow, trial};
pub use module::Module;

/// Returns a path below the root of the project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
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
