//! Waiting for the turn to download a version, and for its claim.
//!
//! While a flight waits, it holds no claim: a claim is an open file, and more flights may wait than there may be open
//! files.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stoa_store::{Claim, ClaimWait, Objection, Record, SmallFile, Tombstone};

use super::task::Fetch;
use crate::lock::lock;
use crate::tasks::{Share, Waiting, blocking};
use crate::unavailable::Unavailable;

/// The first and the longest pause between two attempts to get a claim that another process holds.
const CLAIM_POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// A claimed version that is not in the store, with its record.
pub(super) struct Claimed {
    pub(super) claim: Claim,
    pub(super) record: Option<Record>,
    /// Whether its info and go.mod are cached.
    pub(super) has_pair: bool,
}

/// The result of an attempt to claim a version.
enum ClaimResult {
    Claimed(Box<Claimed>),
    /// The version is in the store.
    Stored,
    /// The version has a tombstone.
    Tombstone(Tombstone),
    /// Another process holds the claim.
    Held,
}

impl Fetch {
    /// Waits for the permit to start, and for the claim. Returns `None` if the version is in the store. Fails at once if a
    /// client waits for a zip that proved wrong a moment ago.
    pub(super) async fn start(&self) -> Result<Option<(Share, Claimed)>, Unavailable> {
        let started = self.claim(|| self.permit()).await?;
        if let Some((_, claimed)) = &started
            && *self.wanted.borrow()
        {
            self.means.wrong.check(&self.origin(), claimed.record.as_ref())?;
        }
        Ok(started)
    }

    async fn permit(&self) -> Result<Share, Unavailable> {
        let permit =
            self.queued(self.means.starts.take(self.upstream())).await.ok_or_else(|| self.stopping())?;
        match self.is_abandoned() {
            true => Err(Unavailable::Abandoned(self.version.to_string())),
            false => Ok(permit),
        }
    }

    /// Returns whether no client waits any more. If so, removes the flight from the map: the next request starts a
    /// new flight.
    pub(super) fn is_abandoned(&self) -> bool {
        // Under the lock of the map, as joining is.
        let mut running = self.means.running.lock();
        // The flight itself has one receiver.
        let is_abandoned = self.progress.receiver_count() <= 1;
        if is_abandoned {
            running.remove(&self.version);
        }
        is_abandoned
    }

    /// Waits for the claim, together with what `acquire` returns. Returns `None` if the version is in the store.
    pub(super) async fn claim<P, F>(
        &self,
        acquire: impl Fn() -> F,
    ) -> Result<Option<(P, Claimed)>, Unavailable>
    where
        F: Future<Output = Result<P, Unavailable>>,
    {
        let mut pause = CLAIM_POLL.0;
        let wait = Arc::new(Mutex::new(ClaimWait::new(&self.version)));
        let mut waiting = None;
        loop {
            // Before the claim: a claim is an open file, and more flights may wait than there may be open files.
            let acquired = acquire().await?;
            match self.try_claim(&wait).await? {
                ClaimResult::Claimed(claimed) => return Ok(Some((acquired, *claimed))),
                ClaimResult::Stored => return Ok(None),
                ClaimResult::Tombstone(tombstone) => {
                    return Err(Unavailable::objection(&self.version, &Objection::Tombstone(tombstone)));
                }
                ClaimResult::Held => drop(acquired),
            }
            if waiting.is_none() {
                waiting = Some(Waiting::begin(&self.means.claim_waits));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CLAIM_POLL.1);
        }
    }

    async fn try_claim(&self, wait: &Arc<Mutex<ClaimWait>>) -> Result<ClaimResult, Unavailable> {
        let (version, wait) = (self.version.clone(), Arc::clone(wait));
        let result = blocking(&self.means.store, &self.version, move |store| {
            let claim = store.try_claim(&version)?;
            let record = match &claim {
                Some(claim) => store.records().of(claim)?,
                None => store.records().get(&version)?,
            };
            // After the claim, so that a version which was published before is seen. From the disk, since another
            // process may have removed the version a moment ago.
            if store.small(&version, SmallFile::Info)?.is_some() {
                return Ok(ClaimResult::Stored);
            }
            let tombstone = record.as_ref().and_then(|record| record.tombstone.clone());
            Ok(match (claim, tombstone) {
                (_, Some(tombstone)) => ClaimResult::Tombstone(tombstone),
                (Some(claim), None) => {
                    let has_pair = store.pairs().size(&version)?.is_some();
                    ClaimResult::Claimed(Box::new(Claimed { claim, record, has_pair }))
                }
                (None, None) => {
                    lock(&wait).go_on(store)?;
                    ClaimResult::Held
                }
            })
        });
        result.await
    }
}
