//! Taking in the events of a peer: they become work in the queue, unless this deployment has the version.

use std::sync::Arc;

use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{LogKind, Mark, Queued, QueuedKind, Store, VersionFile};

use super::conflicts::note_conflict;
use super::event::Event;
use super::{Link, Replication, SyncError};
use crate::services::Services;

/// The state here of a version that a peer names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is not here.
    Missing,
    /// It is here, with the same hash or with one that is not known.
    Here,
    /// It is here or was here, with this other hash.
    Differs(H1),
    /// It has a tombstone here.
    Forbidden,
}

/// Returns the state of a version here.
pub(super) fn standing(
    store: &Store,
    version: &ModuleVersion,
    theirs: Option<&H1>,
    has_bucket: bool,
) -> Result<Standing, SyncError> {
    let differs = |ours: Option<H1>| match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != *theirs => Some(Standing::Differs(ours)),
        _ => None,
    };
    if store.locate(version, VersionFile::Info)?.is_some() {
        let ours = if theirs.is_some() { store.known_h1(version)? } else { None };
        return Ok(differs(ours).unwrap_or(Standing::Here));
    }
    if store.records().has(version)?
        && let Some(record) = store.records().get(version)?
    {
        if record.tombstone.is_some() {
            return Ok(Standing::Forbidden);
        }
        if let Some(differs) = differs(record.h1) {
            return Ok(differs);
        }
    }
    Ok(if has_bucket { standing_in_bucket(store, version, differs)? } else { Standing::Missing })
}

/// Returns the state of a version that is not in the store, but may be in the bucket. The index has the manifests.
fn standing_in_bucket(
    store: &Store,
    version: &ModuleVersion,
    differs: impl Fn(Option<H1>) -> Option<Standing>,
) -> Result<Standing, SyncError> {
    let mut standing = Standing::Missing;
    for event in store.index().events_of_version(version)? {
        match event.kind {
            LogKind::Published { h1, .. } => standing = differs(h1).unwrap_or(Standing::Here),
            LogKind::Marked(Mark { is_lifted: false, .. }) => return Ok(Standing::Forbidden),
            LogKind::Marked(_) => {}
        }
    }
    Ok(standing)
}

/// Events that are taken in together, and the pointer that moves with them.
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    /// The index and its last event up to which the events are complete. `None` moves no pointer.
    pub(super) pointer: Option<(String, u64)>,
}

impl Replication {
    /// Takes in events, in one transaction with the pointer. Returns the number of events that mean work.
    pub(super) async fn take_in(&self, link: &Arc<Link>, batch: Batch) -> Result<u64, SyncError> {
        let (peer, services) = (Arc::clone(&link.peer), Arc::clone(&self.services));
        let queued = self
            .off_runtime(move |store| {
                let (mut work, mut here, mut differing) = (Vec::new(), Vec::new(), Vec::new());
                for event in &batch.events {
                    let Some(queued) = event.queued(&peer) else { continue };
                    match meaning(&services, &peer.name, &queued)? {
                        Meaning::Work => work.push(queued),
                        Meaning::Here => here.push(queued),
                        Meaning::Differs => differing.push(queued),
                        Meaning::Nothing => {}
                    }
                }
                let pointer = batch.pointer.as_ref().map(|(index, seq)| (index.as_str(), *seq));
                Ok(store.peers().take_in(&peer.name, pointer, &work, &here, &differing)?)
            })
            .await?;
        if queued > 0 {
            self.counts.add_queued(queued);
            self.wake.notify_one();
        }
        Ok(queued)
    }
}

/// The meaning of an event here.
enum Meaning {
    Work,
    /// The version is here.
    Here,
    /// The version is here, with other content.
    Differs,
    Nothing,
}

/// Returns the meaning of an event. Notes a conflict.
fn meaning(services: &Services, peer: &str, queued: &Queued) -> Result<Meaning, SyncError> {
    let (store, has_bucket) = (&services.store, services.tier.is_some());
    let h1 = match &queued.what {
        QueuedKind::Fetch { h1, .. } => h1.as_ref(),
        QueuedKind::Mark(_) => return Ok(Meaning::Work),
    };
    if services.policy.load().permit(&queued.version).is_err() {
        return Ok(Meaning::Nothing);
    }
    Ok(match standing(store, &queued.version, h1, has_bucket)? {
        Standing::Missing => Meaning::Work,
        Standing::Here => Meaning::Here,
        Standing::Forbidden => Meaning::Nothing,
        Standing::Differs(ours) => {
            if let Some(theirs) = h1 {
                note_conflict(store, peer, &queued.version, &ours, theirs)?;
            }
            Meaning::Differs
        }
    })
}
