//! The download of a zip into a draft, with a slot and under the claim.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use stoa_layout::PathError;
use stoa_store::{Claim, Draft, StoreError};
use tokio::sync::{mpsc, watch};

use super::progress::{Arriving, Progress};
use super::slots::Slot;
use super::task::Fetch;
use crate::sumdb::Verification;
use crate::tasks::{Phase, blocking};
use crate::unavailable::Unavailable;
use crate::upstream::{UpstreamError, VersionSource, ZipDownload};

/// Maximum number of chunks that wait to be written.
const CHUNKS_AHEAD: usize = 16;

/// Number of bytes of a zip after which the file is synced.
const UNSYNCED_BYTES: u64 = 8 << 20;

impl Fetch {
    /// Takes a slot if a client waits for the zip and a slot is free.
    pub(super) fn slot_at_once(&self) -> Option<Slot> {
        let is_wanted = *self.wanted.borrow();
        if is_wanted { self.means.slots.try_take(&self.wanted, self.upstream()) } else { None }
    }

    /// Downloads the zip into a draft. If the download fails and the zip may be requested again, uses a new
    /// draft. Returns `None` if another process has published the version.
    pub(super) async fn fetch_zip(
        &self,
        source: &VersionSource,
        mut started: Started,
        mut claim: Arc<Claim>,
        phase: watch::Receiver<Phase>,
        verification: &Verification,
    ) -> Result<Option<FetchedZip>, Unavailable> {
        loop {
            let Some((slot, still_ours, download)) =
                self.start_zip(source, started, claim, &phase, verification).await?
            else {
                return Ok(None);
            };
            claim = still_ours;
            let origin = source.origin().unwrap_or_else(|| download.url().to_owned());
            let version = self.version.clone();
            let draft =
                blocking(&self.means.store, &self.version, move |store| store.draft(&version)).await?;
            let arriving = Arriving { file: draft.zip(), length: download.length };
            self.progress.send_modify(|now| now.zip = Some(arriving));
            let error = match self.receive(download, &draft).await? {
                Ok(bytes) => return Ok(Some(FetchedZip { draft, claim, bytes, origin, slot })),
                Err(error) => error,
            };
            // If no client has received any byte, none is disconnected by another attempt.
            let nothing_sent = self.progress.borrow().may_be_sent() == 0;
            let is_retried = nothing_sent && source.may_retry(&error).await;
            if !is_retried && !source.zip_failed(&error) {
                return Err(self.failed(&error));
            }
            log::warn!(version:% = self.version, reason:% = error; "retrying the download of a zip");
            // This disconnects the clients that have part of the zip. The others wait for the next attempt.
            self.progress.send_modify(|now| (now.zip, now.written) = (None, 0));
            started = (Some(slot), None);
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
                    let held = self.wait_for_slot(phase.clone()).await?;
                    let Some(((), again)) = self.claim(|| async { Ok(()) }).await? else { return Ok(None) };
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
            slot = self.means.slots.take(&mut wanted, self.upstream()) => slot.ok_or_else(|| Unavailable::Busy(self.version.to_string())),
            () = closing => Err(self.stopping()),
        }
    }

    /// Writes a download to the draft's file on a thread of the blocking pool. Returns the number of bytes
    /// or the upstream's error. Local failures are reported first.
    async fn receive(
        &self,
        mut download: ZipDownload,
        draft: &Draft,
    ) -> Result<Result<u64, UpstreamError>, Unavailable> {
        let (chunks, arrivals) = mpsc::channel(CHUNKS_AHEAD);
        let (file, progress) = (draft.zip(), self.progress.clone());
        let writing = tokio::task::spawn_blocking(move || write(&file, arrivals, &progress));
        let received = loop {
            match download.chunk().await {
                Ok(Some(chunk)) => match chunks.send(chunk).await {
                    Ok(()) => {}
                    // The writer has failed; its error is returned below.
                    Err(_) => break Ok(()),
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(chunks);
        let written = writing.await.map_err(|error| {
            log::error!(version:% = self.version, reason:% = error; "a task panicked");
            Unavailable::Broken(self.version.to_string())
        })?;
        let written =
            written.map_err(|error| StoreError::from(PathError::new("write", draft.zip_path(), error)))?;
        // `Download` has already compared the length with the announced one.
        Ok(received.map(|()| written))
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

fn write(
    mut file: &File,
    mut chunks: mpsc::Receiver<Bytes>,
    progress: &watch::Sender<Progress>,
) -> std::io::Result<u64> {
    let (mut written, mut synced) = (0, 0);
    while let Some(chunk) = chunks.blocking_recv() {
        file.write_all(&chunk)?;
        written += chunk.len() as u64;
        progress.send_modify(|now| now.written = written);
        // Clients wait for the final sync before publishing, so it should have little left to do.
        if written - synced >= UNSYNCED_BYTES {
            file.sync_data()?;
            synced = written;
        }
    }
    Ok(written)
}
