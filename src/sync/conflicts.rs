//! Conflicts: versions that have other content here than at a peer. Nothing is overwritten, and an operator decides.

use std::sync::Arc;

use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{Conflict, Store};

use super::{Link, Replication, SyncError};

/// Number of conflicts that are read at once.
const AT_ONCE: usize = 1000;

/// Notes a conflict, and logs it if it is new. Nothing is overwritten.
pub(super) fn note_conflict(
    store: &Store,
    peer: &str,
    version: &ModuleVersion,
    ours: &H1,
    theirs: &H1,
) -> Result<(), SyncError> {
    if store.peers().note_conflict(peer, version, ours, theirs)? {
        log::error!(
            peer, version:%, ours:%, theirs:%,
            help = "find out which content is right: see `stoa peers conflicts`";
            "CONFLICT: a peer has other content for a version, nothing was changed"
        );
    }
    Ok(())
}

impl Replication {
    /// Settles the conflicts with a peer that an operator has decided here. No event of the peer tells of such a decision.
    pub(super) async fn settle_conflicts(&self, link: &Arc<Link>) -> Result<(), SyncError> {
        let peer = link.peer.name.clone();
        self.off_runtime(move |store| {
            let mut after = None;
            loop {
                let conflicts = store.peers().conflicts_after(&peer, after.as_ref(), AT_ONCE)?;
                for conflict in &conflicts {
                    if is_decided(store, conflict)? {
                        store.peers().settle_conflict(&peer, &conflict.version)?;
                        log::info!(peer, version:% = conflict.version; "settled a conflict with a peer");
                    }
                }
                match conflicts.into_iter().last() {
                    Some(last) => after = Some(last.version),
                    None => return Ok(()),
                }
            }
        })
        .await
    }
}

/// Returns whether the version has the content of the peer now, or is forbidden.
fn is_decided(store: &Store, conflict: &Conflict) -> Result<bool, SyncError> {
    if store.known_h1(&conflict.version)?.is_some_and(|ours| ours == conflict.theirs) {
        return Ok(true);
    }
    let record = store.records().get(&conflict.version)?;
    Ok(record.is_some_and(|record| record.tombstone.is_some()))
}
