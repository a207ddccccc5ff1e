//! The task that fetches one version and publishes it.
//!
//! The claim comes first, then a look at the store, since another process may have published in between. The
//! info and the mod are fetched next, side by side, then the zip, all three from one upstream; a zip that
//! somebody waits for is asked for with them, so that the way to the upstream is gone once. Those who wait
//! for the info or the mod have it as soon as it parses; the zip goes to a draft in staging, which is sealed
//! and published when it is complete. One that breaks off on its way is asked for again, there or at the next entry
//! of the list where that is allowed: in the same flight, under the same slot and claim, into a draft of its own.
//! What a checksum database says of the version is looked up and recorded meanwhile, and nothing that differs is
//! published. While a flight waits for its turn, to begin or to fetch its zip, it holds no claim: that is an open
//! file, and more may wait than there are files to open. While it waits for the go command it holds neither turn
//! nor slot.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoa_gomod::{ModuleVersion, h1};
use stoa_layout::PathError;
use stoa_store::{Claim, Draft, Objection, Published, SealError, SmallFile, StoreError, Tombstone};
use tokio::sync::{mpsc, watch};

use super::checksum::Vouching;
use super::flight::{Arriving, End, Flight, Progress};
use super::shared::Permit;
use super::slots::Slot;
use super::{Expected, Fill, FillError, Phase};
use crate::upstream::{Upstream, UpstreamError, VersionSource, Via, ZipDownload};

/// How many chunks of a download may wait for the disk.
const CHUNKS_AHEAD: usize = 16;

/// How much of a zip may wait for the disk. It is synced now and then on its way, so that its publish, which all who
/// wait for its end wait for, has little left to sync.
const UNSYNCED_BYTES: u64 = 8 << 20;

/// How long to wait between looks at a claim that another process holds: first, and at most.
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

/// Who may fetch a version.
enum Turn {
    Ours(Claim),
    /// Nobody needs to: it is in the store.
    Stored,
    /// Nobody may: it was removed for good.
    Forbidden(Tombstone),
    /// Somebody else is about to.
    Theirs,
}

impl Fetch {
    /// Fetches, publishes, and tells those who wait how it ended.
    pub(super) async fn run(self, mut phase: watch::Receiver<Phase>) {
        let landing = Landing { fill: Arc::clone(&self.fill), flight: Arc::clone(&self.flight) };
        let result = tokio::select! {
            result = self.fetch(phase.clone()) => result,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                Err(FillError::Stopping(self.version.to_string()))
            }
        };
        self.report(&result);
        // Whoever comes between these two lines begins a flight that finds the version in the store.
        drop(landing);
        self.progress.send_modify(|now| now.end = Some(result));
    }

    fn report(&self, result: &Result<End, FillError>) {
        match result {
            Ok(_) => {}
            Err(FillError::Absent(reason) | FillError::Gone(reason)) => log::debug!("not filled: {reason}"),
            Err(FillError::Store(error)) => log::error!("cannot fill {}: {error}", self.version),
            Err(FillError::Differs(reason)) => log::error!("SECURITY: not filled: {reason}"),
            Err(error @ FillError::Unexpected { .. }) => log::error!("SECURITY: not filled: {error}"),
            Err(FillError::Abandoned(_)) => log::debug!("nobody waits for {} any more", self.version),
            Err(FillError::Stopping(_)) => log::info!("the fill of {} was dropped", self.version),
            Err(error) => log::warn!("cannot fill {}: {error}", self.version),
        }
    }

    async fn fetch(&self, phase: watch::Receiver<Phase>) -> Result<End, FillError> {
        let began = Instant::now();
        let Some((turn, claim)) = self.begin().await? else { return Ok(End::Theirs) };
        let source = self.upstream().version(&self.version);
        let vouching = Vouching::begin(&self.fill, &self.version, &self.via);
        let claim = vouching.share(claim);
        let slot = self.slot_at_once();
        let is_begun = slot.is_some();
        let zip = async { if is_begun { Some(source.zip(&self.via).await) } else { None } };
        let all = async { tokio::join!(self.fetch_info(&source), self.fetch_mod(&source, &vouching), zip) };
        let (slot, (info, modfile, zip)) = unless_direct(&source, (turn, slot), all).await;
        let slot = slot.and_then(|(_turn, slot)| slot);
        // Which of the errors counts must not hang on which came first, and nothing is sent of a zip that has no
        // info or no mod.
        let (mut info, modfile) = (info?, modfile?);
        // The rest of a version whose mod is wrong need not arrive.
        let checked = vouching.check_mod(&modfile);
        let fetched = self.fetch_zip(&source, (slot, zip), claim, phase, &vouching);
        let (fetched, ()) = tokio::try_join!(fetched, checked)?;
        let Some(FetchedZip { draft, claim, bytes, origin, slot }) = fetched else { return Ok(End::Theirs) };
        if source.switched() {
            // Not all came from one upstream: the small files are got again from the one that had the zip,
            // which is the one that is asked first by now. It may know another time; the mod was told already.
            info = self.fetch_info(&source).await?;
            self.compare_mods(&modfile, &source.modfile(&self.via).await.map_err(|e| self.failed(&e))?)?;
        }
        let end = self.publish(draft, claim, info, modfile, vouching).await;
        drop(slot);
        if end.is_ok() {
            log::info!("filled {}: {bytes} bytes from {origin} in {:.1?}", self.version, began.elapsed());
        }
        end
    }

    /// Waits for the turn to begin, and for the claim. `None` if the version is in the store.
    async fn begin(&self) -> Result<Option<(Permit, Claim)>, FillError> {
        let mut pause = CLAIM_POLL.0;
        loop {
            let turn = self.turn().await?;
            match self.try_claim().await? {
                Turn::Ours(claim) => return Ok(Some((turn, claim))),
                Turn::Stored => return Ok(None),
                Turn::Forbidden(tombstone) => return Err(self.forbidden(tombstone)),
                Turn::Theirs => drop(turn),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CLAIM_POLL.1);
        }
    }

    async fn turn(&self) -> Result<Permit, FillError> {
        let turn = self.fill.turns.take(self.upstream()).await.ok_or_else(|| self.stopping())?;
        match self.is_abandoned() {
            true => Err(FillError::Abandoned(self.version.to_string())),
            false => Ok(turn),
        }
    }

    /// Whether nobody waits any more. The flight is off the map then: who comes later begins another one.
    fn is_abandoned(&self) -> bool {
        // Under the lock of the map, as joining is.
        let mut flights = self.fill.flights();
        // The flight itself has one.
        let is_abandoned = self.progress.receiver_count() <= 1;
        if is_abandoned {
            flights.remove(&self.version);
        }
        is_abandoned
    }

    /// Waits for the claim. `None` if the version is in the store.
    async fn claim(&self) -> Result<Option<Claim>, FillError> {
        let mut pause = CLAIM_POLL.0;
        loop {
            match self.try_claim().await? {
                Turn::Ours(claim) => return Ok(Some(claim)),
                Turn::Stored => return Ok(None),
                Turn::Forbidden(tombstone) => return Err(self.forbidden(tombstone)),
                Turn::Theirs => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(CLAIM_POLL.1);
        }
    }

    async fn try_claim(&self) -> Result<Turn, FillError> {
        let version = self.version.clone();
        let turn = self.fill.blocking(&self.version, move |store| {
            let claim = store.try_claim(&version)?;
            let tombstone = store.records().tombstone(&version)?;
            // After the claim: what was published before it was had is seen. From the disk: another process may have
            // removed it a moment ago.
            let stored = store.small(&version, SmallFile::Info)?.is_some();
            Ok(match (claim, stored, tombstone) {
                (_, true, _) => Turn::Stored,
                (_, false, Some(tombstone)) => Turn::Forbidden(tombstone),
                (Some(claim), false, None) => Turn::Ours(claim),
                (None, false, None) => Turn::Theirs,
            })
        });
        turn.await
    }

    async fn fetch_info(&self, source: &VersionSource) -> Result<Bytes, FillError> {
        let info = source.info(&self.via).await.map_err(|e| self.failed(&e))?;
        self.progress.send_modify(|now| now.info = Some(info.clone()));
        Ok(info)
    }

    async fn fetch_mod(&self, source: &VersionSource, vouching: &Vouching) -> Result<Bytes, FillError> {
        let body = source.modfile(&self.via).await.map_err(|e| self.failed(&e))?;
        self.fill.check_mod(&self.version, &body)?;
        if vouching.is_required() {
            vouching.check_mod(&body).await?;
        }
        vouching.mod_is_told();
        self.progress.send_modify(|now| now.modfile = Some(body.clone()));
        Ok(body)
    }

    /// Sees to it that the mod that was told is that of the upstream that has the zip.
    fn compare_mods(&self, told: &[u8], other: &[u8]) -> Result<(), FillError> {
        if told == other {
            return Ok(());
        }
        let text = format!(
            "{}: two upstreams disagree about its go.mod: it is {} where there is no zip, and {} where there is one",
            self.version,
            h1::hash_mod(told),
            h1::hash_mod(other)
        );
        Err(FillError::Upstream(text.into()))
    }

    /// Takes a slot if somebody waits for the zip and one is free.
    fn slot_at_once(&self) -> Option<Slot> {
        let is_wanted = *self.wanted.borrow();
        if is_wanted { self.fill.slots.try_take(&self.wanted, self.upstream()) } else { None }
    }

    /// Fetches the zip, if it is not begun yet, into a draft, and again into another one if it breaks off and may be
    /// asked for again. `None` if another process has published the version in the meantime.
    async fn fetch_zip(
        &self,
        source: &VersionSource,
        mut begun: Begun,
        mut claim: Arc<Claim>,
        phase: watch::Receiver<Phase>,
        vouching: &Vouching,
    ) -> Result<Option<FetchedZip>, FillError> {
        loop {
            let Some((slot, still_ours, download)) =
                self.begin_zip(source, begun, claim, &phase, vouching).await?
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
            // Who has none of it loses nothing if it comes later.
            let may_come_later = self.progress.borrow().may_be_sent() == 0;
            let is_asked_again = may_come_later && source.may_ask_again(&error).await;
            if !is_asked_again && !source.zip_failed(&error) {
                return Err(self.failed(&error));
            }
            log::warn!("the zip of {} is asked for again: {error}", self.version);
            // Who has some of it is broken off by this, and the others wait for the next one.
            self.progress.send_modify(|now| (now.zip, now.written) = (None, 0));
            begun = (Some(slot), None);
        }
    }

    /// Begins the zip, if it is not begun yet, with a slot and under the claim. `None` if another process has published
    /// the version in the meantime.
    async fn begin_zip(
        &self,
        source: &VersionSource,
        (mut slot, mut begun): Begun,
        mut claim: Arc<Claim>,
        phase: &watch::Receiver<Phase>,
        vouching: &Vouching,
    ) -> Result<Option<(Slot, Arc<Claim>, ZipDownload)>, FillError> {
        loop {
            let held = match slot.take().or_else(|| self.fill.slots.try_take(&self.wanted, self.upstream())) {
                Some(held) => held,
                None => {
                    // What was begun is a file open, too.
                    drop((begun.take(), claim));
                    let held = self.wait_for_slot(phase.clone()).await?;
                    let Some(again) = self.claim().await? else { return Ok(None) };
                    claim = vouching.share(again);
                    held
                }
            };
            match begun.take() {
                Some(download) => {
                    return Ok(Some((held, claim, download.map_err(|e| self.failed(&e))?)));
                }
                None => {
                    let (held, download) = unless_direct(source, held, source.zip(&self.via)).await;
                    (slot, begun) = (held, Some(download));
                }
            }
        }
    }

    async fn wait_for_slot(&self, mut phase: watch::Receiver<Phase>) -> Result<Slot, FillError> {
        let (mut wanted, mut still_wanted) = (self.wanted.clone(), self.wanted.clone());
        let closing = async {
            // Who waits for the zip is let wait; the rest can as well be asked for another day.
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

    /// Writes a download to the draft's file, on one thread of the blocking pool, and says how much it was, or how the
    /// upstream failed. What fails here is told before that.
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
                    // The writer has failed, and says below how.
                    Err(_) => break Ok(()),
                },
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(chunks);
        let written = writing.await.map_err(|error| {
            log::error!("writing {}: {error}", self.version);
            FillError::Broken(self.version.to_string())
        })?;
        let written =
            written.map_err(|error| StoreError::from(PathError::new("write", draft.zip_path(), error)))?;
        // That it is as long as was told is seen to where it is read.
        Ok(received.map(|()| written))
    }

    async fn publish(
        &self,
        mut draft: Draft,
        claim: Arc<Claim>,
        info: Bytes,
        modfile: Bytes,
        vouching: Vouching,
    ) -> Result<End, FillError> {
        let vouched = vouching.outcome().await?;
        let expected = self.expected.clone();
        let _examining = self.fill.examining.acquire().await.map_err(|_| self.stopping())?;
        let published = self.fill.blocking(&self.version, move |store| {
            draft.write_mod(&modfile)?;
            let sealed = match draft.seal(&info) {
                Ok(sealed) => sealed,
                Err(SealError::Store(error)) => return Err(error),
                Err(broken) => {
                    let reason = format!("what the upstream sent is of no use: {broken}");
                    return Ok(Err(FillError::Upstream(reason.into())));
                }
            };
            let fault = expected.fault_of_zip(sealed.h1());
            if let Some(reason) = fault.or_else(|| expected.fault_of_mod(&h1::hash_mod(&modfile))) {
                let version = sealed.version().to_string();
                return Ok(Err(FillError::Unexpected { version, reason }));
            }
            if let Some(vouched) = vouched {
                // It is, unless another process kept the version claimed; and before the version is there.
                vouched.record(store, &claim)?;
                if let Err(error) = vouching.check_zip(sealed.h1(), &vouched) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(store.publish(sealed, &claim)?))
        });
        match published.await? {
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

    fn forbidden(&self, tombstone: Tombstone) -> FillError {
        FillError::objection(&self.version, &Objection::Tombstone(tombstone))
    }

    fn failed(&self, error: &UpstreamError) -> FillError {
        FillError::upstream(&self.version, error)
    }

    fn stopping(&self) -> FillError {
        FillError::Stopping(self.version.to_string())
    }
}

/// Does some work holding something that others wait for. It is let go of when version control is asked: the go
/// command has a queue of its own, and a server that hangs must not hold up who does not need it.
async fn unless_direct<H, T>(
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

/// What there is of a zip to begin with: the slot, if it is held, and how it has begun, if it was asked for.
type Begun = (Option<Slot>, Option<Result<ZipDownload, UpstreamError>>);

/// A zip that has arrived, unexamined.
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
        if written - synced >= UNSYNCED_BYTES {
            file.sync_data()?;
            synced = written;
        }
    }
    Ok(written)
}

/// Takes a flight off the map, also if its task panics or is dropped.
struct Landing {
    fill: Arc<Fill>,
    flight: Arc<Flight>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.fill.flights();
        // One that was abandoned is off the map already, and another may have begun.
        if flights.get(&self.flight.version).is_some_and(|known| Arc::ptr_eq(known, &self.flight)) {
            flights.remove(&self.flight.version);
        }
    }
}
