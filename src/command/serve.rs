//! `stoa serve`: the options, and the way through the gate to the server.

use clap::Args;
use stoa_layout::{Exit, Migrator};

use super::Command;
use super::context::{Context, NO_MIGRATOR};
use super::error::CommandError;
use super::report::Nothing;
use crate::config::{TypedFetching, TypedServe, parse_switch};
use crate::fill::{ChecksumPolicy, Mode};
use crate::listen;
use crate::logging::Style;

/// Serve modules to the go command
#[derive(Debug, Args)]
#[command(after_help = "\
Each option is a key of the config file and a variable too: STOA_LISTEN is the variable of the key `listen`.

Examples:
  stoa serve
  stoa serve --listen :3000 --upstream https://proxy.example.org,direct
  stoa serve --read-only --store /srv/modules")]
pub(super) struct Serve {
    /// Listen here; port 0 takes a free one [default: 127.0.0.1:3000] [key: listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,

    /// Fetch from there, in the syntax of GOPROXY [default: what the go command uses] [key: upstream]
    #[arg(long, value_name = "LIST")]
    upstream: Option<String>,

    /// What to do about what is not in the store: sync, async, redirect, async_redirect or none [default: sync] [key: mode]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,

    /// Where the modes that redirect lead to [key: redirect_url]
    #[arg(long, value_name = "URL")]
    redirect_url: Option<String>,

    /// Whether to compare what is fetched with the checksum database: auto, require or off [default: auto] [key: checksum]
    #[arg(long, value_name = "WHETHER")]
    checksum: Option<ChecksumPolicy>,

    /// Compare with this checksum database, in the syntax of GOSUMDB [default: the one that the go command uses] [key: gosumdb]
    #[arg(long, value_name = "DATABASE")]
    gosumdb: Option<String>,

    /// Forward these checksum databases, with commas between [default: the one that the go command uses] [key: sumdbs]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    sumdbs: Option<Vec<String>>,

    /// Ask no checksum database about these modules: patterns as in GOPRIVATE, with commas between [default: what the go
    /// command has in GONOSUMDB] [key: sumdb_refuse]
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    sumdb_refuse: Option<Vec<String>>,

    /// Write nothing to the store [key: read_only]
    #[arg(long, value_name = "BOOL", value_parser = parse_switch, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    read_only: Option<bool>,

    /// Fetch nothing [key: offline]
    #[arg(long, value_name = "BOOL", value_parser = parse_switch, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    offline: Option<bool>,

    /// Answer below this path [default: /] [key: base_path]
    #[arg(long, value_name = "PATH")]
    base_path: Option<String>,

    /// Serve at most so many connections at once [default: 4096] [key: max_connections]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,

    /// Let requests go on for so long after a signal to stop [default: 30] [key: grace]
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,

    /// Fetch at most so many versions at once [default: 16] [key: fill.max_concurrent]
    #[arg(long, value_name = "N")]
    fill_max_concurrent: Option<usize>,

    /// Answer a list without asking upstream for so long; 0 asks each time [default: 60] [key: fill.list_ttl]
    #[arg(long, value_name = "SECONDS")]
    fill_list_ttl: Option<u64>,

    /// Compare the index with the store so often, besides at the start; 0 leaves that to others [default: 600] [key: index.interval]
    #[arg(long, value_name = "SECONDS")]
    index_interval: Option<u64>,

    /// Write down so often which versions were used, besides at the end, for `stoa prune`; 0 keeps no note [default: 300] [key: last_use.interval]
    #[arg(long, value_name = "SECONDS")]
    last_use_interval: Option<u64>,

    /// Wait so long for an upstream to send something [default: 60] [key: upstream_idle_timeout]
    #[arg(long, value_name = "SECONDS")]
    upstream_idle_timeout: Option<u64>,

    /// Run at most so many go commands at once for direct [default: 4] [key: direct.max_concurrent]
    #[arg(long, value_name = "N")]
    direct_max_concurrent: Option<usize>,

    /// Let a go command for direct take so long [default: 600] [key: direct.timeout]
    #[arg(long, value_name = "SECONDS")]
    direct_timeout: Option<u64>,
}

impl Serve {
    fn typed(&self) -> TypedServe {
        TypedServe {
            listen: self.listen.clone(),
            upstream: self.upstream.clone(),
            mode: self.mode,
            redirect_url: self.redirect_url.clone(),
            checksum: self.checksum,
            gosumdb: self.gosumdb.clone(),
            sumdbs: self.sumdbs.clone(),
            sumdb_refuse: self.sumdb_refuse.clone(),
            fill_list_ttl: self.fill_list_ttl,
            read_only: self.read_only,
            offline: self.offline,
            base_path: self.base_path.clone(),
            max_connections: self.max_connections,
            grace: self.grace,
            fill_max_concurrent: self.fill_max_concurrent,
            index_interval: self.index_interval,
            last_use_interval: self.last_use_interval,
            fetching: TypedFetching {
                idle_timeout: self.upstream_idle_timeout,
                direct_max_concurrent: self.direct_max_concurrent,
                direct_timeout: self.direct_timeout,
            },
        }
    }
}

impl Command for Serve {
    type Summary = Nothing;

    const STYLE: Style = Style::Service;

    fn run(self, context: &Context<'_>) -> Result<Nothing, CommandError> {
        let settings = context.settings;
        let root = context.root()?;
        let config = || Ok(settings.serve(self.typed())?);
        let migrator = || -> Result<Migrator, CommandError> {
            let config = config()?;
            if config.read_only {
                return Ok(NO_MIGRATOR);
            }
            // A server that cannot start changes nothing: the store may belong to the server that has the port.
            listen::check(&config, settings.world())?;
            context.migrator()
        };
        let pass = context.pass(&root, || config().map(drop), migrator)?;
        let config = config()?;
        let migrator = if config.read_only { NO_MIGRATOR } else { context.migrator()? };
        match listen::run(&context.gate(&root, &migrator), pass, config, settings)? {
            Exit::DONE => Ok(Nothing),
            // Stopped at once by a second signal, and logged.
            exit => Err(CommandError::reported(exit)),
        }
    }
}
