//! The options of the commands that work through many versions.

use clap::Args;

use crate::output::Format;
use crate::progress::When;

/// How a command works through versions.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Working {
    /// Work with so many threads [default: one a processor] [key: threads]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) telling: Telling,
}

/// How a command tells what it does.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Telling {
    /// Write results for people, or as JSON lines
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Show how far the work is: on a terminal by a bar, else by a line now and then
    #[arg(long, value_enum, default_value_t)]
    pub(crate) progress: When,
}

/// How much to say, besides what the command itself takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loudness {
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
}
