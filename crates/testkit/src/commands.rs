//! Commands of `stoa` on a store, with nothing of the environment.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::{STOA, transcript};

/// The arguments of a command that creates a missing store, asks nobody, finds nothing and so ends with 1.
pub const CREATING: [&str; 4] = ["fetch", "example.org/m@v1.0.0", "--upstream", "file:///nowhere"];

/// Makes a command without a store.
pub fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(STOA);
    command.args(arguments).env_remove("STOA_STORE").env_remove("STOA_LOG");
    command
}

pub fn stoa(root: &Path, arguments: &[&str]) -> Command {
    let mut command = bare(arguments);
    command.arg("--store").arg(root);
    command
}

pub fn run(root: &Path, arguments: &[&str]) -> Output {
    stoa(root, arguments).output().unwrap()
}

/// Runs with JSON lines; the exit code and the lines.
pub fn json(root: &Path, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = run(root, &[arguments, &["--format", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}", transcript(&output)))
    });
    (output.status.code().unwrap(), lines.collect())
}
