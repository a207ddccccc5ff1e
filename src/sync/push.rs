//! Pushing: telling peers of changes at once. A notification that fails is not repeated, because the next pull of the peer
//! brings its events all the same.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use stoa_gomod::ModuleVersion;
use stoa_store::{LogEvent, Store};
use tokio::sync::mpsc;

use super::event::{Event, MAX_BODY, MAX_NOTIFIED, Notification};
use super::{Link, Replication, SyncError};

/// Number of changes that may wait for a notification. Peers learn of further ones by a pull.
const WAITING: usize = 4096;

/// Time limit for a notification.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time without notifications after one has failed, so that a peer that is away costs little.
const PAUSE: Duration = Duration::from_secs(5);

/// More than the size of an event in a notification, in bytes.
const MAX_EVENT: usize = 8 << 10;

/// Returns the two ends of the way of changes to the notifications.
pub(super) fn channel() -> (mpsc::Sender<ModuleVersion>, mpsc::Receiver<ModuleVersion>) {
    mpsc::channel(WAITING)
}

impl Replication {
    /// Notifies a peer of changes for ever.
    pub(super) async fn keep_pushing(
        self: Arc<Self>,
        link: Arc<Link>,
        mut changes: mpsc::Receiver<ModuleVersion>,
    ) -> Infallible {
        loop {
            let mut versions = Vec::new();
            if changes.recv_many(&mut versions, MAX_NOTIFIED).await == 0 {
                // The store, which has the other end, lives as long as this task.
                return std::future::pending().await;
            }
            versions.retain(|version| link.peer.offer.matches(version.path().as_str()));
            if let Err(error) = self.notify(&link, versions).await {
                self.counts.add_push_failure();
                log::debug!(peer = link.peer.name, reason:% = error; "cannot notify a peer, which learns of the change by its next pull");
                tokio::time::sleep(PAUSE).await;
                while changes.try_recv().is_ok() {}
            }
        }
    }

    /// Sends the events of versions.
    async fn notify(&self, link: &Arc<Link>, versions: Vec<ModuleVersion>) -> Result<(), SyncError> {
        if versions.is_empty() {
            return Ok(());
        }
        let (index, events) = self
            .off_runtime(move |store| Ok((store.index().log()?.id, events_of(store, &versions)?)))
            .await?;
        let mut events = events.into_iter().map(Event::from).peekable();
        while events.peek().is_some() {
            let (mut some, mut size) = (Vec::new(), 0);
            // A body has a limit. An event is far smaller.
            while let Some(event) = events.next_if(|_| size < MAX_BODY / 2 && some.len() < MAX_NOTIFIED) {
                size += MAX_EVENT;
                some.push(event);
            }
            let notification = Notification { index: index.clone(), events: some };
            link.post("/sync/v1/notify", &notification, PATIENCE).await?;
        }
        Ok(())
    }
}

/// Returns the events of versions in the order of the log.
fn events_of(store: &Store, versions: &[ModuleVersion]) -> Result<Vec<LogEvent>, SyncError> {
    let mut events = Vec::new();
    for version in versions {
        events.extend(store.index().events_of_version(version)?);
    }
    events.sort_by_key(|event| event.seq);
    events.dedup_by_key(|event| event.seq);
    Ok(events)
}
