//! The configuration of the go command, for settings that Stoa does not have itself.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// Time limit for the answer of the go command.
const PATIENCE: Duration = Duration::from_secs(20);

/// The configuration of the go command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct GoEnv {
    /// Its upstreams.
    #[serde(rename = "GOPROXY", default)]
    pub(crate) goproxy: String,
    /// The checksum database that it asks.
    #[serde(rename = "GOSUMDB", default)]
    pub(crate) gosumdb: String,
    /// Patterns of the modules about which it asks none: GONOSUMDB, or GOPRIVATE.
    #[serde(rename = "GONOSUMDB", default)]
    pub(crate) gonosumdb: String,
    /// Patterns of private modules.
    #[serde(rename = "GOPRIVATE", default)]
    pub(crate) goprivate: String,
}

/// The go command did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GoEnvError {
    /// It cannot be run.
    #[error("cannot run `go env`: {0}")]
    NotRun(#[from] io::Error),
    /// It takes too long.
    #[error("`go env` did not answer within {} s", PATIENCE.as_secs())]
    TooLong,
    /// It failed.
    #[error("`go env` failed: {0}")]
    Failed(String),
    /// Its answer is malformed.
    #[error("`go env` printed malformed output: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Runs `go env` once. The module in the current folder has no influence, and no other toolchain is downloaded.
pub(crate) fn ask() -> Result<GoEnv, GoEnvError> {
    let mut command = Command::new("go");
    command.args(["env", "-json", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE"]).current_dir("/");
    // Variables of Stoa may contain secrets.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"STOA_")) {
        command.env_remove(name);
    }
    command.env("GO111MODULE", "off").env("GOTOOLCHAIN", "local").env("GOWORK", "off");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let begun = Instant::now();
    // The answer fits into the pipe, so it need not be read while it is written.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(GoEnvError::TooLong);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if !status.success() {
        let mut why = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut why)?;
        }
        return Err(GoEnvError::Failed(format!("{status} {}", why.trim())));
    }
    let mut answer = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut answer)?;
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Returns the name of the checksum database in a value of `GOSUMDB`, if there is one.
pub(crate) fn sumdb_name(gosumdb: &str) -> Option<&str> {
    let name = gosumdb.trim().split([' ', '+']).next().unwrap_or_default();
    (!name.is_empty() && name != "off").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checksum_databases() {
        for (value, name) in [
            ("sumdb.example", Some("sumdb.example")),
            ("sumdb.example+1234abcd+AbC= https://mirror.example", Some("sumdb.example")),
            ("sumdb.example https://mirror.example", Some("sumdb.example")),
            ("off", None),
            ("", None),
        ] {
            assert_eq!(sumdb_name(value), name, "{value}");
        }
    }
}
