//! The command line of `stoa-migrate`, as typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use stoa_layout::LayoutId;

use crate::command::Common;
use crate::command::progress::When;
use crate::command::report::Format;

use super::verify::Verify;

/// Brings a store to a layout.
#[derive(Debug, Parser)]
#[command(
    name = "stoa-migrate",
    version,
    about = "Bring the store of stoa to another layout, step by step",
    long_about = "Bring the store of stoa to another layout, step by step.\n\n\
                  Finds out what the folder holds, takes the steps to the current layout (or to the one named with --to, \
                  back as well), and writes the marker last. It may be stopped at any instant and run again.",
    after_help = "Exit codes: 0 done or nothing to do; 1 --verify found something broken; 64 usage, configuration; 65 not a store; 73 a name is in the way; \
                  74 input/output; 75 busy; 77 permission; 78 newer than this program; 130, 143 stopped, run again to resume.",
    subcommand_negates_reqs = true
)]
pub(super) struct Typed {
    #[command(flatten)]
    pub(super) common: Common,

    /// Bring the store to this layout, as in v2 [default: the current one]
    #[arg(long, value_name = "LAYOUT")]
    pub(super) to: Option<LayoutId>,

    /// Say by hand which layout a folder without a marker has; with import, the one to import from
    #[arg(long, global = true, value_name = "LAYOUT")]
    pub(super) from: Option<LayoutId>,

    /// Say what would be done, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Do nothing, successfully, where there is no store yet
    #[arg(long)]
    pub(super) no_create: bool,

    /// Build what is derived again, even if nothing else is to be done
    #[arg(long)]
    pub(super) regenerate: bool,

    /// Look at every version once the store is at the current layout; exit code 1 if one is broken
    #[arg(long, value_enum, conflicts_with = "dry_run")]
    pub(super) verify: Option<Verify>,

    /// Wait so long for those who use the store [default: 30] [key: lock_timeout]
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(super) lock_timeout: Option<u64>,

    /// Work with so many threads [default: one a processor] [key: threads]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,

    /// Write results for people, or as JSON lines
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(super) format: Format,

    /// Show how far the work is: on a terminal by a bar, else by a line now and then
    #[arg(long, value_enum, default_value_t)]
    pub(super) progress: When,

    /// Started by another program before it begins: go up only, and say little
    #[arg(long)]
    pub(super) auto: bool,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say what a store is, for `stoa status`
    #[command(hide = true)]
    Status,
    /// Copy versions into the store from another store, a GOPROXY tree or the go command's module cache
    #[command(
        long_about = "Copy versions into the store from another store, a GOPROXY tree or the go command's module cache.\n\n\
                      The source is left as it is, and may be in use; so may the store, which is made or upgraded first \
                      where it needs to be. Each version is read whole before it becomes visible. What is there already is \
                      compared. It may be stopped at any instant and run again.",
        after_help = "Exit codes: 0 done; 1 a version differs from the one in the store, is broken, or cannot be written; 64, 65 nothing to import from, \
                      or it lies in the store; the others as ever."
    )]
    Import(Import),
    /// What the store holds that is no part of it
    #[command(
        long_about = "What the store holds that is no part of it: incomplete versions, foreign files and the like. \
                      It is ignored, never served and never touched, but by `leftovers move`."
    )]
    Leftovers {
        #[command(subcommand)]
        what: Option<LeftoversCommand>,
    },
}

/// What to import, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct Import {
    /// A store of stoa or Athens, a GOPROXY tree, a module cache (GOMODCACHE or its cache/download)
    #[arg(value_name = "SOURCE")]
    pub(super) source: PathBuf,

    /// Say what would be imported, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Import nothing, successfully, where there is no store yet
    #[arg(long)]
    no_create: bool,

    /// Work with so many threads [default: one a processor] [key: threads]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Show how far the work is: on a terminal by a bar, else by a line now and then
    #[arg(long, value_enum)]
    progress: Option<When>,
}

impl Typed {
    /// Takes over what was typed behind a sub-command that the program has as well.
    pub(super) fn gathered(mut self) -> Self {
        if let Some(Command::Import(import)) = &self.command {
            self.dry_run |= import.dry_run;
            self.no_create |= import.no_create;
            self.threads = import.threads.or(self.threads);
            self.progress = import.progress.unwrap_or(self.progress);
        }
        self
    }
}

/// What to do with leftovers.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum LeftoversCommand {
    /// Print each with its size and the reason; the default. Works on every state and changes nothing
    List,
    /// Move them out of the store, with their paths below it
    Move {
        /// Where to, on the same file system; made if it is missing
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Typed::command().debug_assert();
    }

    #[test]
    fn a_word_that_is_no_sub_command_is_refused() {
        for bad in [&["x"][..], &["--to", "V2"], &["--lock-timeout", "soon"], &["--verify", "all"]] {
            assert!(Typed::try_parse_from(["stoa-migrate"].iter().chain(bad)).is_err(), "{bad:?}");
        }
    }
}
