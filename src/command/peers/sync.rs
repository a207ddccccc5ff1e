//! `stoa peers sync`: one synchronisation with a peer, by the code of the server, with servers beside it or without.

use std::sync::Arc;
use std::time::Duration;

use stoa_layout::Exit;

use super::PeersDone;
use crate::command::bucket::serve::ServedBucket;
use crate::command::context::Context;
use crate::command::error::CommandError;
use crate::command::fetch::stopped;
use crate::config::Options;
use crate::services::Services;
use crate::sources::Sources;
use crate::sync::{Replication, SyncError, Synced};
use crate::tasks;

/// The time that waiting threads have to end after everything else.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Synchronises with a peer.
pub(super) fn run(context: &Context<'_>, name: &str, compares: bool) -> Result<PeersDone, CommandError> {
    let options = Options::default();
    let config = context.settings.serve(&options)?;
    let peers = context.settings.peers(&config)?;
    if !peers.iter().any(|peer| peer.name == name) {
        let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        let help = format!("the peers of the configuration are {}", names.join(", "));
        return Err(CommandError::new(Exit::USAGE, format!("no peer has the name {name}")).help(help));
    }
    let sources = Sources::new(context.settings.world());
    let policy = sources.policy(&config, false, None)?;
    let store = context.open_or_create()?;
    if store.is_read_only() {
        let text = format!("cannot synchronise {}: the store is not writable", store.root().display());
        return Err(CommandError::new(Exit::PERMISSION, text));
    }
    let cancel = context.cancel(&store)?;
    let runtime = tasks::runtime().map_err(CommandError::no_threads)?;
    let mut services = sources.services(&config, &policy, true)?;
    services.flights.are_failures_logged = false;
    let bucket = context.settings.bucket_with(None, &options)?;
    let bucket = bucket.map(|settings| ServedBucket { settings, context }.open(&store, &config, &runtime));
    services.tier = bucket.transpose()?;
    let Some(replication) = sources.replication(&config, peers) else {
        return Err(CommandError::new(Exit::USAGE, "this deployment has no name (peers.name)"));
    };
    let synced = runtime.block_on(async {
        let services = Arc::new(Services::new(Arc::new(store), policy, services));
        let replication = Replication::new(Arc::clone(&services), &replication);
        let replication = replication.map_err(|error| CommandError::new(Exit::USAGE, error))?;
        let ended = tokio::select! {
            synced = replication.synchronise(name, compares) => synced.map_err(|error| failed(name, error)),
            signal = stopped(&cancel) => signal.and_then(|cancelled| Err(cancelled.into())),
        };
        // Downloads that are under way leave nothing behind when they are dropped.
        services.end().await;
        ended
    });
    runtime.shutdown_timeout(LAST_WAIT);
    let Synced { events, done, failed } = synced?.unwrap_or_default();
    Ok(PeersDone::Synced { peer: name.to_owned(), events, done, failed })
}

/// Converts a failure. Those of this store are not failures of the peer.
fn failed(name: &str, error: SyncError) -> CommandError {
    match error {
        SyncError::Index(error) => CommandError::new(Exit::IO, error),
        SyncError::Queue(error) => error.into(),
        SyncError::Store(error) => error.into(),
        error => {
            let text = format!("cannot synchronise with the peer {name}: {error}");
            CommandError::new(Exit::UNAVAILABLE, text).help(
                "check that the peer runs, and that both sides have each other's names and the same secret",
            )
        }
    }
}
