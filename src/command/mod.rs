//! The commands of `stoa`, one file each, and the parts that both programs share.

#[expect(dead_code, reason = "the commands move to it one by one")]
pub(crate) mod context;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod progress;
pub(crate) mod remove;
#[expect(dead_code, reason = "the commands move to it one by one")]
pub(crate) mod report;

pub use context::{App, Common};

use context::Context;
use error::CommandError;
use report::{Summary, Telling};
use stoa_layout::Exit;

/// A command: its arguments, and its work.
pub(crate) trait Command: clap::Args {
    /// The last event of the command.
    type Summary: Summary;

    /// Returns how the command reports.
    fn telling(&self) -> Telling {
        Telling::default()
    }

    /// Does the work, and reports events on the way.
    fn run(self, context: &Context<'_>) -> Result<Self::Summary, CommandError>;
}

/// Runs a command, and returns the exit code.
pub(crate) fn run<C: Command>(command: C, context: &Context<'_>) -> Exit {
    let reporter = &context.reporter;
    let done = command.run(context).and_then(|summary| reporter.finish(&summary));
    reporter.progress().end();
    match done {
        Ok(()) => Exit::DONE,
        Err(error) => reporter.error(&error),
    }
}

/// Prints the message of clap about a command line, and returns the exit code.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    // The exit code reports the failure even if stderr is closed.
    let _ = error.print();
    if error.use_stderr() { Exit::USAGE } else { Exit::DONE }
}
