//! The options of the commands that work through many versions.

use clap::Args;

use crate::command::report::Telling;

/// How a command works through versions.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Working {
    /// Number of worker threads [default: number of CPUs] [key: threads]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) telling: Telling,
}
