//! `stoa peers`: the state of the exchange with other deployments, the conflicts with them, and an exchange now.
//!
//! The first two are read from the database of the store, beside a running server, and change nothing.

mod conflicts;
mod state;
mod sync;

use std::fmt::{self, Display};

use clap::{Args, Subcommand};
use serde::Serialize;
use stoa_layout::Exit;
use stoa_store::PeersError;

use super::context::Context;
use super::count::counted;
use super::error::CommandError;
use super::progress::When;
use super::report::{Format, Reporter, Summary, Telling};
use super::{Command, Entry};

/// Show the state of the peers: other deployments that exchange versions with this one
#[derive(Debug, Args)]
#[command(after_help = "\
The state of a peer is `current` if this deployment has looked at all its events and its queue is empty, `behind` if it has \
not, `failing` if the last request failed, and `new` before the first answer. A peer with `pull = false` is `not pulled`. \
BEHIND is the number of events that are left to do. AGE is the time that the oldest of them has waited. If the last request \
failed, it is at least the time since the last contact, which succeeded. PARKED versions have failed often. They wait for the \
daily comparison or for `stoa peers sync`. The numbers are those of the \
store of this machine.

Examples:
  stoa peers
  stoa peers --format json
  stoa peers conflicts
  stoa peers sync oslo

Exit codes: 0 success; 64 the configuration has no peer; 65 there is no store; 69 a peer or a version of it is unavailable; \
74 the database of the peers cannot be read.")]
pub(crate) struct ShowPeers {
    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the versions that have different content here and at a peer
    Conflicts,
    /// Fetch everything that a peer offers now, also versions that failed before
    Sync {
        /// Name of the peer
        #[arg(value_name = "NAME")]
        name: String,

        /// Compare all modules with the peer, instead of only what is new since the last time
        #[arg(long)]
        compare: bool,
    },
}

inventory::submit!(Entry::new::<ShowPeers>("peers", 75));

impl Command for ShowPeers {
    type Summary = PeersDone;

    fn telling(&self) -> Telling {
        Telling { format: self.format, progress: When::Never }
    }

    fn run(self, context: &Context<'_>) -> Result<PeersDone, CommandError> {
        let tables = context.settings.peer_tables()?;
        if tables.is_empty() {
            let help = match context.settings.config_file() {
                Some(path) => format!("add a table [[peer]] to {}", path.display()),
                None => "name a config file with tables [[peer]] by --config".to_owned(),
            };
            return Err(CommandError::new(Exit::USAGE, "the configuration has no peer").help(help));
        }
        if let Some(Action::Sync { name, compare }) = &self.action {
            return sync::run(context, name, *compare);
        }
        let store = context.upgrade_and_look()?;
        match self.action {
            None | Some(Action::Sync { .. }) => state::show(tables, &store, &context.reporter),
            Some(Action::Conflicts) => conflicts::list(&store, &context.reporter),
        }
    }
}

/// The last event of the command.
#[derive(Debug, Serialize)]
#[serde(tag = "event")]
pub(crate) enum PeersDone {
    /// The peers were shown.
    #[serde(rename = "done")]
    Shown {
        /// The number of peers in the configuration.
        peers: u64,
        /// The number of those whose last request failed.
        failing: u64,
        conflicts: u64,
    },
    /// The conflicts were listed.
    #[serde(rename = "done")]
    Listed { conflicts: u64 },
    /// This deployment was synchronised with a peer.
    #[serde(rename = "done")]
    Synced {
        peer: String,
        /// The number of events that arrived.
        events: u64,
        /// The number of events whose work is done.
        done: u64,
        /// The number of events that stay in the queue.
        failed: u64,
    },
}

impl Display for PeersDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shown { peers, failing, conflicts } => {
                let (peers, conflicts) = (counted(*peers, "peer"), counted(*conflicts, "conflict"));
                write!(f, "{peers}, {failing} failing, {conflicts}")
            }
            Self::Listed { conflicts } => counted(*conflicts, "conflict").fmt(f),
            Self::Synced { peer, events, done, failed } => {
                let (events, done) = (counted(*events, "event"), counted(*done, "event"));
                write!(f, "{peer}: {events} received, {done} done, {failed} failed")
            }
        }
    }
}

impl Summary for PeersDone {
    fn report(&self, reporter: &Reporter) {
        reporter.note(self);
    }

    fn verdict(&self) -> Result<(), CommandError> {
        match self {
            Self::Synced { failed: 1.., peer, .. } => {
                let text = format!("some versions of the peer {peer} could not be fetched");
                let help = "the reasons are in the log with -vv; a running server tries again";
                Err(CommandError::new(Exit::UNAVAILABLE, text).help(help))
            }
            _ => Ok(()),
        }
    }
}

impl From<PeersError> for CommandError {
    fn from(error: PeersError) -> Self {
        match error {
            PeersError::Store(error) => error.into(),
            error => Self::new(Exit::IO, error),
        }
    }
}
