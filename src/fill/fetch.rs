//! The task that downloads and publishes one version.
//!
//! | step | condition |
//! | --- | --- |
//! | permit and claim | while a flight waits for a permit or a slot, it holds no claim |
//! | look at the store | another process may have published the version |
//! | info and mod, side by side | clients get them as soon as they parse |
//! | zip, with a slot, into a draft | starts together with the info if a client waits for it and a slot is free |
//! | examine, compare, publish | nothing that differs from the record or the checksum database is published |
//!
//! All three files come from one upstream. A zip whose download fails is requested again within the same
//! flight, slot and claim, from the same upstream or from the next entry of the list where that is allowed.
//! The checksum database is asked in parallel.
//!
//! While the go command works for `direct`, a flight holds neither permit nor slot.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoa_gomod::{ModuleVersion, h1};
use stoa_layout::PathError;
use stoa_store::{Claim, Draft, Objection, Published, SealError, SmallFile, StoreError, Tombstone};
use tokio::sync::{mpsc, watch};

use super::checksum::{Confirmation, Verification};
use super::flight::{Arriving, End, Flight, Progress};
use super::shared::Permit;
use super::slots::Slot;
use super::{Expected, Fill, FillError, Phase};
use crate::upstream::{Upstream, UpstreamError, VersionSource, Via, ZipDownload};

/// Maximum number of chunks that wait to be written.
const CHUNKS_AHEAD: usize = 16;

/// Number of bytes of a zip after which the file is synced.
const UNSYNCED_BYTES: u64 = 8 << 20;

/// The first and the longest pause between two attempts to get a claim that another process holds.
const CLAIM_POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

pub(super) struct Fetch {
    pub(super) fill: Arc<Fill>,
    pub(super) version: ModuleVersion,
    pub(super) via: Via,
    pub(super) flight: Arc<Flight>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) wanted: watch::Receiver<bool>,
    pub(super) expected: Expected,
}

/// The result of an attempt to claim a version.
enum ClaimResult {
    Claimed(Claim),
    /// The version is in the store.
    Stored,
    /// The version has a tombstone.
    Tombstone(Tombstone),
    /// Another process holds the claim.
    Held,
}

impl Fetch {
    /// Downloads and publishes the version, and reports the result to the waiting clients.
    pub(super) async fn run(self, mut phase: watch::Receiver<Phase>) {
        let remove = RemoveOnDrop { fill: Arc::clone(&self.fill), flight: Arc::clone(&self.flight) };
        let result = tokio::select! {
            result = self.fetch(phase.clone()) => result,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                Err(FillError::Stopping(self.version.to_string()))
            }
        };
        self.report(&result);
        // A request between these two lines starts a new flight, which finds the version in the store.
        drop(remove);
        self.progress.send_modify(|now| now.end = Some(result));
    }

    fn report(&self, result: &Result<End, FillError>) {
        let Err(error) = result else { return };
        let (version, text) = (&*self.version.to_string(), error.to_string());
        // The version has a field of its own.
        let reason = text.strip_prefix(version).and_then(|text| text.strip_prefix(": ")).unwrap_or(&text);
        match error {
            FillError::Absent(_) | FillError::Gone(_) | FillError::Abandoned(_) => {
                log::debug!(version, reason; "did not download a version");
            }
            FillError::Stopping(_) => log::info!(version; "dropped a download at shutdown"),
            FillError::Differs(_) | FillError::Unexpected { .. } => {
                log::error!(version, reason; "SECURITY: refused a version");
            }
            FillError::Store(_) => log::error!(version, reason; "cannot store a version"),
            _ => log::warn!(version, reason; "cannot download a version"),
        }
    }

    async fn fetch(&self, phase: watch::Receiver<Phase>) -> Result<End, FillError> {
        let began = Instant::now();
        let Some((permit, claim)) = self.start().await? else { return Ok(End::Theirs) };
        let source = self.upstream().version(&self.version);
        let verification = Verification::start(&self.fill, &self.version, &self.via);
        let claim = verification.share(claim);
        let slot = self.slot_at_once();
        let is_started = slot.is_some();
        let zip = async { if is_started { Some(source.zip(&self.via).await) } else { None } };
        let all =
            async { tokio::join!(self.fetch_info(&source), self.fetch_mod(&source, &verification), zip) };
        let (slot, (info, modfile, zip)) = release_for_direct(&source, (permit, slot), all).await;
        let slot = slot.and_then(|(_permit, slot)| slot);
        // The info's error counts first, whichever request failed first. Clients get no part of a zip
        // without info or mod.
        let (mut info, modfile) = (info?, modfile?);
        // A wrong mod ends the download of the zip.
        let checked = verification.check_mod(&modfile);
        let fetched = self.fetch_zip(&source, (slot, zip), claim, phase, &verification);
        let (fetched, ()) = tokio::try_join!(fetched, checked)?;
        let Some(FetchedZip { draft, claim, bytes, origin, slot }) = fetched else { return Ok(End::Theirs) };
        if source.switched() {
            // The upstream of the zip is asked first from now on. Its info may have another time. Its mod
            // must be identical, since clients may already have the first mod.
            info = self.fetch_info(&source).await?;
            self.compare_mods(&modfile, &source.modfile(&self.via).await.map_err(|e| self.failed(&e))?)?;
        }
        let end = self.publish(draft, claim, info, modfile, verification).await;
        drop(slot);
        if end.is_ok() {
            log::info!(
                version:% = self.version, bytes, origin, elapsed = format!("{:.1?}", began.elapsed());
                "downloaded a version"
            );
        }
        end
    }

    /// Waits for the permit to start, and for the claim. Returns `None` if the version is in the store.
    async fn start(&self) -> Result<Option<(Permit, Claim)>, FillError> {
        self.claim(|| self.permit()).await
    }

    async fn permit(&self) -> Result<Permit, FillError> {
        let permit = self.fill.starts.take(self.upstream()).await.ok_or_else(|| self.stopping())?;
        match self.is_abandoned() {
            true => Err(FillError::Abandoned(self.version.to_string())),
            false => Ok(permit),
        }
    }

    /// Returns whether no client waits any more. If so, removes the flight from the map: the next request starts a
    /// new flight.
    fn is_abandoned(&self) -> bool {
        // Under the lock of the map, as joining is.
        let mut flights = self.fill.flights();
        // The flight itself has one receiver.
        let is_abandoned = self.progress.receiver_count() <= 1;
        if is_abandoned {
            flights.remove(&self.version);
        }
        is_abandoned
    }

    /// Waits for the claim, together with what `acquire` returns. Returns `None` if the version is in the store.
    async fn claim<P, F>(&self, acquire: impl Fn() -> F) -> Result<Option<(P, Claim)>, FillError>
    where
        F: Future<Output = Result<P, FillError>>,
    {
        let mut pause = CLAIM_POLL.0;
        loop {
            // Before the claim: a claim is an open file, and more flights may wait than there may be open files.
            let acquired = acquire().await?;
            match self.try_claim().await? {
                ClaimResult::Claimed(claim) => return Ok(Some((acquired, claim))),
                ClaimResult::Stored => return Ok(None),
                ClaimResult::Tombstone(tombstone) => {
                    return Err(FillError::objection(&self.version, &Objection::Tombstone(tombstone)));
                }
                ClaimResult::Held => drop(acquired),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CLAIM_POLL.1);
        }
    }

    async fn try_claim(&self) -> Result<ClaimResult, FillError> {
        let version = self.version.clone();
        let result = self.fill.blocking(&self.version, move |store| {
            let claim = store.try_claim(&version)?;
            let tombstone = store.records().tombstone(&version)?;
            // After the claim, so that a version which was published before is seen. From the disk, since another
            // process may have removed the version a moment ago.
            let stored = store.small(&version, SmallFile::Info)?.is_some();
            Ok(match (claim, stored, tombstone) {
                (_, true, _) => ClaimResult::Stored,
                (_, false, Some(tombstone)) => ClaimResult::Tombstone(tombstone),
                (Some(claim), false, None) => ClaimResult::Claimed(claim),
                (None, false, None) => ClaimResult::Held,
            })
        });
        result.await
    }

    async fn fetch_info(&self, source: &VersionSource) -> Result<Bytes, FillError> {
        let info = source.info(&self.via).await.map_err(|e| self.failed(&e))?;
        self.progress.send_modify(|now| now.info = Some(info.clone()));
        Ok(info)
    }

    async fn fetch_mod(
        &self,
        source: &VersionSource,
        verification: &Verification,
    ) -> Result<Bytes, FillError> {
        let body = source.modfile(&self.via).await.map_err(|e| self.failed(&e))?;
        self.fill.check_mod(&self.version, &body)?;
        if verification.is_required() {
            verification.check_mod(&body).await?;
        }
        verification.mod_was_sent();
        self.progress.send_modify(|now| now.modfile = Some(body.clone()));
        Ok(body)
    }

    /// Compares the mod that clients may have with the mod of the upstream that has the zip.
    fn compare_mods(&self, sent: &[u8], other: &[u8]) -> Result<(), FillError> {
        if sent == other {
            return Ok(());
        }
        let text = format!(
            "{}: two upstreams have different go.mod files: {} at the upstream without the zip, {} at the upstream with the zip",
            self.version,
            h1::hash_mod(sent),
            h1::hash_mod(other)
        );
        Err(FillError::Upstream(text.into()))
    }

    /// Takes a slot if a client waits for the zip and a slot is free.
    fn slot_at_once(&self) -> Option<Slot> {
        let is_wanted = *self.wanted.borrow();
        if is_wanted { self.fill.slots.try_take(&self.wanted, self.upstream()) } else { None }
    }

    /// Downloads the zip into a draft. If the download fails and the zip may be requested again, uses a new
    /// draft. Returns `None` if another process has published the version.
    async fn fetch_zip(
        &self,
        source: &VersionSource,
        mut started: Started,
        mut claim: Arc<Claim>,
        phase: watch::Receiver<Phase>,
        verification: &Verification,
    ) -> Result<Option<FetchedZip>, FillError> {
        loop {
            let Some((slot, still_ours, download)) =
                self.start_zip(source, started, claim, &phase, verification).await?
            else {
                return Ok(None);
            };
            claim = still_ours;
            let origin = source.origin().unwrap_or_else(|| download.url().to_owned());
            let version = self.version.clone();
            let draft = self.fill.blocking(&self.version, move |store| store.draft(&version)).await?;
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
    ) -> Result<Option<(Slot, Arc<Claim>, ZipDownload)>, FillError> {
        loop {
            let held = match slot.take().or_else(|| self.fill.slots.try_take(&self.wanted, self.upstream())) {
                Some(held) => held,
                None => {
                    // The started download is an open file, too.
                    drop((started.take(), claim));
                    let held = self.wait_for_slot(phase.clone()).await?;
                    let Some(((), again)) = self.claim(|| async { Ok(()) }).await? else { return Ok(None) };
                    claim = verification.share(again);
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

    async fn wait_for_slot(&self, mut phase: watch::Receiver<Phase>) -> Result<Slot, FillError> {
        let (mut wanted, mut still_wanted) = (self.wanted.clone(), self.wanted.clone());
        let closing = async {
            // At shutdown only downloads with a waiting client keep waiting.
            let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
            if *still_wanted.borrow_and_update() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            slot = self.fill.slots.take(&mut wanted, self.upstream()) => slot.ok_or_else(|| FillError::Busy(self.version.to_string())),
            () = closing => Err(self.stopping()),
        }
    }

    /// Writes a download to the draft's file on a thread of the blocking pool. Returns the number of bytes
    /// or the upstream's error. Local failures are reported first.
    async fn receive(
        &self,
        mut download: ZipDownload,
        draft: &Draft,
    ) -> Result<Result<u64, UpstreamError>, FillError> {
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
            FillError::Broken(self.version.to_string())
        })?;
        let written =
            written.map_err(|error| StoreError::from(PathError::new("write", draft.zip_path(), error)))?;
        // `Download` has already compared the length with the announced one.
        Ok(received.map(|()| written))
    }

    async fn publish(
        &self,
        mut draft: Draft,
        claim: Arc<Claim>,
        info: Bytes,
        modfile: Bytes,
        verification: Verification,
    ) -> Result<End, FillError> {
        let confirmation = verification.outcome().await?;
        let confirmed = confirmation.clone();
        let expected = self.expected.clone();
        let _examining = self.fill.examining.acquire().await.map_err(|_| self.stopping())?;
        let published = self.fill.blocking(&self.version, move |store| {
            draft.write_mod(&modfile)?;
            let sealed = match draft.seal(&info) {
                Ok(sealed) => sealed,
                Err(SealError::Store(error)) => return Err(error),
                Err(broken) => {
                    let reason = format!("the upstream sent an invalid version: {broken}");
                    return Ok(Err(FillError::Upstream(reason.into())));
                }
            };
            let fault = expected.fault_of_zip(sealed.h1());
            if let Some(reason) = fault.or_else(|| expected.fault_of_mod(&h1::hash_mod(&modfile))) {
                let version = sealed.version().to_string();
                return Ok(Err(FillError::Unexpected { version, reason }));
            }
            if let Confirmation::Confirmed(verified) = confirmed {
                // Usually the record is already written, unless another process held the claim.
                // It must be there before the version is.
                verified.record(store, &claim)?;
                if let Err(error) = verification.check_zip(sealed.h1(), &verified) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(store.publish(sealed, &claim)?))
        });
        let published = published.await?;
        if let Ok(Published::Ours(_) | Published::Theirs { same: true, .. }) = &published {
            confirmation.log_published(self.fill.policy.checksums(), &self.version);
        }
        match published {
            Ok(Published::Ours(_)) => Ok(End::Ours),
            Ok(Published::Theirs { same: true, .. }) => Ok(End::Ours),
            Ok(Published::Theirs { same: false, .. }) => Ok(End::Theirs),
            Ok(Published::Refused(objection)) => Err(FillError::objection(&self.version, &objection)),
            Err(error) => Err(error),
        }
    }

    fn upstream(&self) -> &Upstream {
        &self.fill.policy.rule(self.version.path()).upstream
    }

    fn failed(&self, error: &UpstreamError) -> FillError {
        FillError::upstream(&self.version, error)
    }

    fn stopping(&self) -> FillError {
        FillError::Stopping(self.version.to_string())
    }
}

/// Does some work while holding a permit or slot. Releases it when version control is asked: the go command
/// has a queue of its own, and a slow server must not delay downloads that do not need it.
async fn release_for_direct<H, T>(
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
type Started = (Option<Slot>, Option<Result<ZipDownload, UpstreamError>>);

/// A downloaded zip that is not examined yet.
struct FetchedZip {
    draft: Draft,
    claim: Arc<Claim>,
    bytes: u64,
    origin: String,
    slot: Slot,
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

/// Removes a flight from the map, also if its task panics or is dropped.
struct RemoveOnDrop {
    fill: Arc<Fill>,
    flight: Arc<Flight>,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let mut flights = self.fill.flights();
        // An abandoned flight is already removed, and another flight may have started.
        if flights.get(&self.flight.version).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.flight.version);
        }
    }
}
