//! Becoming the program that is installed beside this one.
//!
//! What knows old layouts lives in one binary; the commands that need it turn into it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use stoa_layout::gate::beside_this_program;
use stoa_layout::{Exit, durable};

/// The migrator's file name.
pub(crate) const MIGRATOR: &str = "stoa-migrate";

/// The program beside this one cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {program}: {why}; install both programs of one release side by side", program = program.display())]
pub(crate) struct NotRun {
    /// The path looked at.
    program: PathBuf,
    /// Why it cannot be run.
    why: String,
}

impl NotRun {
    /// Is the code that a program ends with for this error: the same as the gate's.
    pub(crate) fn exit(&self) -> Exit {
        Exit::NEWER
    }
}

/// Becomes the migrator. Comes back only if that fails.
pub(crate) fn become_migrator(arguments: impl IntoIterator<Item = OsString>) -> NotRun {
    let program = beside_this_program(MIGRATOR);
    let error = Command::new(&program).args(arguments).exec();
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "it is not there".to_owned(),
        std::io::ErrorKind::PermissionDenied if !durable::is_executable(&program) => {
            "it is not executable".to_owned()
        }
        _ => error.to_string(),
    };
    NotRun { program, why }
}
