//! The download of a zip into a draft, with a slot and under the claim.

use std::sync::Arc;

use stoa_store::{Claim, Draft};
use tokio::sync::watch;

use super::pace::Pace;
use super::slots::Slot;
use super::task::Fetch;
use crate::sumdb::Verification;
use crate::tasks::Phase;
use crate::unavailable::Unavailable;
use crate::upstream::{UpstreamError, VersionSource, ZipDownload};

impl Fetch {
    /// Takes a slot if a client waits for the zip and a slot is free.
    pub(super) fn slot_at_once(&self) -> Option<Slot> {
        let is_wanted = *self.wanted.borrow();
        if is_wanted { self.means.slots.try_take(&self.wanted, self.upstream()) } else { None }
    }

    /// Downloads the zip into a draft. An interrupted download is continued, see [`growing`](super::growing).
    /// Returns `None` if another process has published the version.
    pub(super) async fn fetch_zip(
        &self,
        source: &VersionSource,
        mut started: Started,
        mut draft: Option<Result<Draft, Unavailable>>,
        mut claim: Arc<Claim>,
        phase: watch::Receiver<Phase>,
        verification: &Verification,
    ) -> Result<Option<FetchedZip>, Unavailable> {
        // The flight may have started for the smaller files.
        self.means.wrong.check(&self.origin(), claim.known_record().as_ref())?;
        let (mut growing, mut pace) = (None, Pace::new(self.means.min_rate));
        loop {
            let Some((slot, still_ours, mut download)) =
                self.start_zip(source, started, claim, &phase, verification).await?
            else {
                return Ok(None);
            };
            claim = still_ours;
            let mut zip = self.join_beginning(growing.take(), draft.take(), &mut download).await?;
            let Err(error) = self.receive(&mut download, &mut zip, (&mut pace, &slot)).await? else {
                let origin = source.origin().unwrap_or_else(|| download.url().to_owned());
                return Ok(Some(FetchedZip { draft: zip.draft, claim, bytes: zip.size, origin, slot }));
            };
            if !source.zip_failed(&error, &download, zip.size).await {
                return Err(self.failed(&error));
            }
            log::warn!(
                version:% = self.version, reason:% = error, bytes = zip.size;
                "continuing an interrupted download"
            );
            growing = Some(zip);
            // The slot of a slow download is for the one that waits.
            let slot = if matches!(error, UpstreamError::Slow { .. }) { None } else { Some(slot) };
            started = (slot, None);
        }
    }

    /// Starts the download of the zip, unless it has started, with a slot and under the claim. Returns
    /// `None` if another process has published the version.
    async fn start_zip(
        &self,
        source: &VersionSource,
        (mut slot, mut started): Started,
        mut claim: Arc<Claim>,
        phase: &watch::Receiver<Phase>,
        verification: &Verification,
    ) -> Result<Option<(Slot, Arc<Claim>, ZipDownload)>, Unavailable> {
        loop {
            let held = match slot.take().or_else(|| self.means.slots.try_take(&self.wanted, self.upstream()))
            {
                Some(held) => held,
                None => {
                    // The started download is an open file, too.
                    drop((started.take(), claim));
                    // Without the claim the slot is given back, so that other versions can use it.
                    let slot = || self.wait_for_slot(phase.clone());
                    let Some((held, again)) = self.claim(slot).await? else { return Ok(None) };
                    claim = verification.share(again.claim);
                    held
                }
            };
            match started.take() {
                Some(download) => {
                    return Ok(Some((held, claim, download.map_err(|e| self.failed(&e))?)));
                }
                None => {
                    let (held, download) = release_for_direct(source, held, source.zip(&self.via)).await;
                    (slot, started) = (held, Some(download));
                }
            }
        }
    }

    /// Waits for other downloads to finish. Clients wait a limited time meanwhile.
    pub(super) async fn queued<T>(&self, turn: impl Future<Output = T>) -> T {
        let set = |is_queued| {
            self.progress.send_if_modified(|now| {
                now.is_queued = is_queued;
                false
            });
        };
        set(true);
        let result = turn.await;
        set(false);
        result
    }

    async fn wait_for_slot(&self, mut phase: watch::Receiver<Phase>) -> Result<Slot, Unavailable> {
        let (mut wanted, mut still_wanted) = (self.wanted.clone(), self.wanted.clone());
        let closing = async {
            // At shutdown only downloads with a waiting client keep waiting.
            let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
            if *still_wanted.borrow_and_update() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            slot = self.queued(self.means.slots.take(&mut wanted, self.upstream())) => slot.ok_or_else(|| Unavailable::Busy(self.version.to_string())),
            () = closing => Err(self.stopping()),
        }
    }
}

/// Does some work while holding a permit or slot. Releases it when version control is asked: the go command
/// has a queue of its own, and a slow server must not delay downloads that do not need it.
pub(super) async fn release_for_direct<H, T>(
    source: &VersionSource,
    held: H,
    work: impl Future<Output = T>,
) -> (Option<H>, T) {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return (Some(held), done),
        () = source.at_direct() => {}
    }
    drop(held);
    (None, work.await)
}

/// The slot, if it is held, and the started download, if there is one.
pub(super) type Started = (Option<Slot>, Option<Result<ZipDownload, UpstreamError>>);

/// A downloaded zip that is not examined yet.
pub(super) struct FetchedZip {
    pub(super) draft: Draft,
    pub(super) claim: Arc<Claim>,
    pub(super) bytes: u64,
    pub(super) origin: String,
    pub(super) slot: Slot,
}
