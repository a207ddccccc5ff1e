//! One synchronisation with a peer, for `stoa peers sync`. It may run beside a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use stoa_store::Stop;

use super::{Replication, SyncError};

/// The result of a synchronisation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// The number of events that arrived.
    pub(crate) events: u64,
    /// The number of events whose work is done.
    pub(crate) done: u64,
    /// The number of events that could not be worked on now. They stay in the queue.
    pub(crate) failed: u64,
}

impl Replication {
    /// Pulls everything from a peer, and works off the queue, also what has failed before. `compares` also compares all
    /// modules. Returns `None` if there is no such peer.
    pub(crate) async fn synchronise(
        self: &Arc<Self>,
        name: &str,
        compares: bool,
    ) -> Result<Option<Synced>, SyncError> {
        let Some(link) = self.link(name) else { return Ok(None) };
        let mut synced = Synced::default();
        // The last event of each index at its first answer. Later ones are left to the next synchronisation.
        let mut ends = BTreeMap::new();
        while !self.is_queue_full(link).await? {
            let pulled = self.pull(link, 0).await?;
            synced.events += pulled.events as u64;
            if !pulled.has_more || pulled.seq >= *ends.entry(pulled.index).or_insert(pulled.current) {
                break;
            }
        }
        if compares {
            // Without a server, nothing else builds the index, and versions that it misses would be taken for missing.
            self.off_runtime(|store| Ok(store.index().reconcile(&Stop::default()).map(drop)?)).await?;
            self.compare(link).await?;
        }
        self.settle_conflicts(link).await?;
        self.revive(link).await?;
        (synced.done, synced.failed) = self.work_off(link).await?;
        Ok(Some(synced))
    }
}
