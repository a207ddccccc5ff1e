//! The command line of `stoa-migrate`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use stoa_bucket::BucketUrl;
use stoa_layout::LayoutId;

use super::import_config::ImportConfig;
use super::verify::Verify;
use crate::command::Common;
use crate::command::progress::When;
use crate::command::report::Format;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "stoa-migrate",
    version,
    about = "Upgrade or downgrade the store of Stoa",
    long_about = "Upgrade or downgrade the store of Stoa.\n\n\
                  Detects the layout of the store and migrates it step by step to the layout of this release, or to the layout of --to. \
                  The program can be stopped at any time and run again.",
    after_help = "Examples:\n  \
                  stoa-migrate --dry-run         show what an upgrade would do\n  \
                  stoa-migrate                   upgrade the store\n  \
                  stoa-migrate --to v0           downgrade to the layout of Athens\n  \
                  stoa-migrate --to v0 --clean   the same, and remove the files of Stoa that a downgrade keeps\n  \
                  stoa-migrate --from v2         restore the lost marker of a store at layout v2\n  \
                  stoa-migrate --bucket s3://go  upgrade a bucket; --to athens downgrades it\n\n\
                  Exit codes: 0 success, or nothing to do; 1 --verify found a problem; 64 wrong usage or configuration; 65 not a \
                  store; 69 the bucket cannot be reached; 73 a file is in the way; 74 input/output error; 75 store in use; 77 permission denied; 78 the store is newer than this \
                  program; 130, 143 stopped (run again to resume).",
    subcommand_negates_reqs = true
)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) common: Common,

    /// Work on this bucket instead of the store: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX
    #[arg(long, global = true, value_name = "URL")]
    pub(super) bucket: Option<BucketUrl>,

    /// Target layout, such as v2 [default: the layout of this release]
    #[arg(long, value_name = "LAYOUT")]
    pub(super) to: Option<LayoutId>,

    /// Layout of the store, or of the source of an import, if its marker (a file such as layout.v2) is missing
    #[arg(long, global = true, value_name = "LAYOUT")]
    pub(super) from: Option<LayoutId>,

    /// Show what would be done and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Do not create a store in an empty or missing folder
    #[arg(long)]
    pub(super) no_create: bool,

    /// After a downgrade to v0 or tree, remove the files of Stoa that a downgrade keeps: quarantine, records, cache/sumdb and store.lock
    #[arg(long, requires = "to")]
    pub(super) clean: bool,

    /// Rebuild derived files (the index; in a bucket the notes about removed versions), even if there is nothing else to do
    #[arg(long)]
    pub(super) regenerate: bool,

    /// Check every version after the upgrade; exit code 1 if one is corrupt
    #[arg(long, value_enum, conflicts_with = "dry_run")]
    pub(super) verify: Option<Verify>,

    /// Maximum wait for processes that use the store [default: 30s] [key: lock_timeout]
    #[arg(long, global = true, value_name = "DURATION")]
    pub(super) lock_timeout: Option<String>,

    /// Mode of the folder of a new store, in octal [default: 0700] [key: store_mode]
    #[arg(long, global = true, value_name = "MODE")]
    pub(super) store_mode: Option<String>,

    /// Number of worker threads [default: number of CPUs]; with --bucket, the number of versions at the same time
    /// [default: 64] [key: threads]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,

    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(super) format: Format,

    /// Progress on standard error: a bar on a terminal, otherwise a line every 10 seconds
    #[arg(long, value_enum, default_value_t)]
    pub(super) progress: When,

    /// Internal: upgrade only, with minimal output (used by stoa)
    #[arg(long, hide = true)]
    pub(super) auto: bool,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the state of a store, for `stoa status`
    #[command(hide = true)]
    Status {
        /// Leave the bucket of the configuration out
        #[arg(long)]
        local: bool,
    },
    /// Print what a store is, or why it is refused, for a `stoa` that must not upgrade it
    #[command(hide = true)]
    Describe,
    /// Copy versions into the store or the bucket from another store, a GOPROXY tree or a module cache
    #[command(
        long_about = "Copy versions into the store or the bucket from another store, a GOPROXY tree or the go command's module \
                      cache.\n\n\
                      The source is never changed. Source and store may be in use. The store is created or upgraded first if \
                      necessary. Each version is verified before it becomes visible, and existing versions are compared. The \
                      command can be stopped at any time and run again.\n\n\
                      If the configuration has a bucket, versions are copied into the bucket, unless --local or --store is \
                      given. Each thread needs temporary space for one zip.",
        after_help = "Examples:\n  \
                      stoa import ~/go/pkg/mod             import the module cache\n  \
                      stoa import --dry-run /srv/athens    show what an import of an Athens store would do\n  \
                      stoa import /srv/store --bucket s3://modules/go --threads 16\n\n\
                      The report counts the leftovers of the source by reason; -v lists each.\n\n\
                      Exit codes: 0 success; 1 a version differs from the version in the store, is corrupt, or cannot be written; \
                      64 the source overlaps the store; 65 the source is not recognised; 69 the bucket cannot be reached; others as \
                      for stoa-migrate."
    )]
    Import(Import),
    /// Print a config file for Stoa made from the configuration of Athens
    ImportConfig(ImportConfig),
    /// List or move the leftovers of a store, or list those of a bucket
    #[command(
        long_about = "List or move the leftovers of a store: incomplete versions, foreign files and the like.\n\n\
                      Stoa never serves leftovers. They stay in place until `leftovers move` moves them. If a leftover is in \
                      the place of a new version, Stoa moves the leftover to quarantine.\n\n\
                      If the configuration has a bucket, the leftovers of the bucket are listed, unless --local or --store is \
                      given."
    )]
    Leftovers {
        /// Work on the store of this machine, even if the configuration has a bucket
        // That it excludes --bucket is checked later: clap does not know that option here.
        #[arg(long, global = true)]
        local: bool,
        #[command(subcommand)]
        command: Option<LeftoversCommand>,
    },
}

/// The arguments of `import`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Import {
    /// A store of Stoa or Athens, a GOPROXY tree, or a module cache (GOMODCACHE or its cache/download)
    #[arg(value_name = "SOURCE")]
    pub(super) source: PathBuf,

    /// Copy into the store of this machine, even if the configuration has a bucket
    #[arg(long)]
    local: bool,

    /// Show what would be imported and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not create a store in an empty or missing folder
    #[arg(long)]
    no_create: bool,

    /// Number of worker threads [default: number of CPUs] [key: threads]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Progress on standard error: a bar on a terminal, otherwise a line every 10 seconds [default: auto]
    #[arg(long, value_enum)]
    progress: Option<When>,
}

impl Args {
    /// Returns whether the command works on the bucket of the configuration, if there is one.
    pub(super) fn may_use_configured_bucket(&self) -> bool {
        let is_such = matches!(self.command, Some(Command::Import(_) | Command::Leftovers { .. }));
        // A store on the command line is meant.
        is_such && !self.is_local() && self.common.store.is_none()
    }

    /// Returns whether the command is to work on the store of this machine only.
    pub(super) fn is_local(&self) -> bool {
        match &self.command {
            Some(Command::Import(import)) => import.local,
            Some(Command::Leftovers { local, .. } | Command::Status { local }) => *local,
            _ => false,
        }
    }

    /// Applies options after the command that the program has before it too.
    pub(super) fn merged(mut self) -> Self {
        if let Some(Command::Import(import)) = &self.command {
            self.dry_run |= import.dry_run;
            self.no_create |= import.no_create;
            self.threads = import.threads.or(self.threads);
            self.progress = import.progress.unwrap_or(self.progress);
        }
        self
    }
}

/// The commands of `leftovers`.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum LeftoversCommand {
    /// Print each leftover with its size and reason (default)
    List,
    /// Move all leftovers, or the given paths, out of the store
    #[command(
        after_help = "With PATH, exactly these paths are moved, leftovers or not, also in the middle of an upgrade or a \
                      downgrade. Use PATH for a file or folder that the disk cannot read. The upgrade can then continue without it. \
                      The leftovers of a bucket cannot be moved. If the configuration has a bucket, use --local."
    )]
    Move {
        /// Target folder on the same file system; created if missing
        #[arg(value_name = "DIR")]
        to: PathBuf,
        /// Files or folders in the store to move instead of all leftovers
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn invalid_arguments_are_refused() {
        for bad in [&["x"][..], &["--to", "V2"], &["--verify", "all"]] {
            assert!(Args::try_parse_from(["stoa-migrate"].iter().chain(bad)).is_err(), "{bad:?}");
        }
    }
}
