//! The task that downloads and publishes one version.
//!
//! | step | condition |
//! | --- | --- |
//! | permit and claim | while a flight waits for a permit or a slot, it holds no claim |
//! | look at the store | another process may have published the version |
//! | info and mod, side by side | from the cache, or downloaded; clients get them as soon as they parse |
//! | keep the pair | if no client needs the zip, the flight ends here |
//! | zip, with a slot, into a draft | starts together with the info if a client waits for it and a slot is free |
//! | examine, compare, publish | nothing that differs from the record or the checksum database is published |
//!
//! A client may ask for the zip at any time before the flight ends, which then continues with the zip.
//!
//! All three files come from one upstream. A zip whose download fails is requested again within the same
//! flight, slot and claim, from the same upstream or from the next entry of the list where that is allowed.
//! The checksum database is asked in parallel.
//!
//! While the go command works for `direct`, a flight holds neither permit nor slot. It brings all files at once, so such
//! a flight takes the whole version.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use stoa_gomod::{H1, h1, info};
use stoa_store::{Claim, Objection, RecordedBy};
use tokio::sync::watch;

use super::means::Means;
use super::pairs::Smalls;
use super::progress::{End, Flight};
use super::shared::Shared;
use super::task::{Failed, Fetch};
use super::turn::Claimed;
use super::zip::{FetchedZip, release_for_direct};
use crate::byte_budget::SMALL_BODY;
use crate::lock::lock;
use crate::meters::{EndedFill, Outcome};
use crate::sumdb::{Confirmation, Verification};
use crate::tasks::{Phase, Share};
use crate::unavailable::Unavailable;
use crate::upstream::{UpstreamError, VersionSource, place_label};

/// How often a flight starts again after another server has changed the version in the bucket.
const ATTEMPTS: u32 = 4;

impl Fetch {
    /// Downloads and publishes the version, and reports the result to the waiting clients.
    pub(super) async fn run(self, mut phase: watch::Receiver<Phase>) {
        let began = Instant::now();
        let remove = RemoveOnDrop { means: Arc::clone(&self.means), flight: Arc::clone(&self.flight) };
        let result = tokio::select! {
            result = self.fetch(phase.clone()) => result,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                Err(Unavailable::Stopping(self.version.to_string()))
            }
        };
        self.report(&result);
        self.count(&result, began.elapsed());
        match &result {
            // An upstream may have an info and a mod without the zip, and other clients want only these.
            Err(error) => {
                let has_info = self.progress.borrow().info.is_some();
                self.means.note_absence(&self.version, self.upstream(), has_info, error);
            }
            Ok(_) => self.means.absences.forget(self.version.path()),
        }
        // A request between these two lines starts a new flight, which finds the version in the store.
        drop(remove);
        self.progress.send_modify(|now| now.end = Some(result));
    }

    fn note_origin(&self, source: &VersionSource) {
        lock(&self.seen).origin = source.origin();
    }

    /// Counts the end of the flight, unless another process has stored the version.
    fn count(&self, result: &Result<End, Unavailable>, elapsed: Duration) {
        if matches!(result, Ok(End::Theirs)) {
            return;
        }
        let seen = std::mem::take(&mut *lock(&self.seen));
        // If no upstream answered, the first was asked.
        let origin = seen.origin.or_else(|| self.upstream().first_place());
        self.means.meters.fill_ended(EndedFill {
            at: SystemTime::now(),
            version: self.version.clone(),
            upstream: origin.as_deref().map_or("none", place_label).to_owned(),
            outcome: result.as_ref().map_or_else(outcome, |_| Outcome::Stored),
            bytes: seen.bytes,
            elapsed,
            reason: result.as_ref().err().map(Unavailable::to_string),
        });
    }

    fn report(&self, result: &Result<End, Unavailable>) {
        let Err(error) = result else { return };
        let (version, text) = (&*self.version.to_string(), error.to_string());
        // The version has a field of its own.
        let reason = text.strip_prefix(version).and_then(|text| text.strip_prefix(": ")).unwrap_or(&text);
        match error {
            _ if error.is_repeated() => {
                log::debug!(version, reason; "did not download a rejected version again")
            }
            Unavailable::Absent(_)
            | Unavailable::Gone(_)
            | Unavailable::Abandoned(_)
            | Unavailable::NotFetched(_)
            | Unavailable::Offline(_) => {
                log::debug!(version, reason; "did not download a version");
            }
            _ if !self.means.are_failures_logged => {
                log::debug!(version, reason; "did not download a version");
            }
            Unavailable::Stopping(_) => log::info!(version; "dropped a download at shutdown"),
            Unavailable::Differs(_) | Unavailable::Unexpected { .. } => {
                log::error!(version, reason; "SECURITY: refused a version");
            }
            Unavailable::Store(_) => log::error!(version, reason; "cannot store a version"),
            _ => log::warn!(version, reason; "cannot download a version"),
        }
    }

    /// Downloads the version. Drops its cached pair if that turns out to be wrong.
    async fn fetch(&self, phase: watch::Receiver<Phase>) -> Result<End, Unavailable> {
        for attempt in 1.. {
            match self.steps(phase.clone()).await {
                Ok(end) => return Ok(end),
                Err(Failed::Again(_)) if attempt < ATTEMPTS => {}
                Err(Failed::Inconsistent(error) | Failed::Other(error @ Unavailable::Differs(_))) => {
                    self.drop_pair().await;
                    return Err(error);
                }
                Err(Failed::Corrupt(error) | Failed::Other(error) | Failed::Again(error)) => {
                    return Err(error);
                }
            }
        }
        Err(self.busy_in_bucket())
    }

    async fn steps(&self, phase: watch::Receiver<Phase>) -> Result<End, Failed> {
        let Some((permit, mut claimed)) = self.start().await? else { return Ok(End::Theirs) };
        let source = self.upstream().version(&self.version).within(&self.means.memory);
        match self.look_into_bucket(&claimed.claim, claimed.record.as_ref()).await? {
            None => {
                let done = self.download(phase, permit, claimed, &source, None).await;
                self.note_origin(&source);
                done
            }
            Some((shared, files)) => {
                claimed.record = claimed.claim.known_record();
                let source = match files {
                    Some(files) => source.with_files(files),
                    None => source,
                };
                let done = self.download(phase, permit, claimed, &source, Some(&shared)).await;
                self.note_origin(&source);
                match done {
                    Err(failed) if shared.is_read => Err(self.after_failed_read(&shared, failed).await),
                    done => done,
                }
            }
        }
    }

    async fn download(
        &self,
        phase: watch::Receiver<Phase>,
        permit: Share,
        claimed: Claimed,
        source: &VersionSource,
        shared: Option<&Shared>,
    ) -> Result<End, Failed> {
        let began = Instant::now();
        let Claimed { claim, record, has_pair } = claimed;
        // A version in the bucket has its own info and mod. The cached ones may be of a tag that was moved since.
        let uses_pair = has_pair && shared.is_none_or(|shared| !shared.is_read);
        let known = if uses_pair { self.known_smalls(record.as_ref()).await? } else { None };
        let given = self.expected.both();
        let verification =
            Verification::start(&self.means.sumdb, &self.version, &self.rule, (record, given), &self.via);
        let claim = verification.share(claim);
        // With a bucket, the zip is requested under a claim there.
        let slot = if shared.is_none_or(|shared| shared.is_read) { self.slot_at_once() } else { None };
        let is_started = slot.is_some();
        let zip = async {
            if !is_started {
                return Ok((None, None));
            }
            match tokio::join!(source.zip(&self.via), self.new_draft()) {
                (Err(error @ UpstreamError::Limited { status: 429, .. }), _) => Err(self.failed(&error)),
                // A draft is an open file.
                (Err(error), _) => Ok((Some(Err(error)), None)),
                (Ok(zip), draft) => Ok((Some(Ok(zip)), Some(draft))),
            }
        };
        let all = unless_limited(self.smalls(known, source, &claim, &verification), zip);
        let (slot, fetched) = release_for_direct(source, (permit, slot), all).await;
        let slot = slot.and_then(|(_permit, slot)| slot);
        let (smalls, zip) = fetched?;
        let (zip, draft) = zip?;
        // A draft is an open file, and without a slot the flight may wait long.
        let draft = draft.filter(|_| slot.is_some());
        // Clients get no part of a zip without info or mod.
        let mut smalls = smalls?;
        if self.is_pair_enough(source)
            && self.keep_verified(&mut smalls, &claim, source, &verification).await?
        {
            return Ok(End::Pair);
        }
        // A flight may wait long for its slot.
        if smalls.is_large() {
            self.keep_pair(&mut smalls, &claim, source.origin()).await?;
        }
        let claim_there = self.claim_in_bucket(shared).await?;
        // A wrong mod ends the download of the zip.
        let checked = verification.check_mod(&smalls.gomod_h1);
        let fetched = self.fetch_zip(source, (slot, zip), draft, claim, phase, &verification);
        let (fetched, ()) = tokio::try_join!(fetched, checked)?;
        let Some(FetchedZip { draft, claim, bytes, origin, slot }) = fetched else { return Ok(End::Theirs) };
        self.compare_with_source(&mut smalls, source).await.inspect_err(|failed| {
            if let Failed::Inconsistent(error) = failed {
                self.note_wrong(error, &claim);
            }
        })?;
        let Smalls { info, modfile, gomod_h1, .. } = smalls;
        let modfile = match modfile {
            Some(modfile) => modfile,
            None => self.large_mod(&gomod_h1, source).await?,
        };
        let end = self.publish(draft, claim, (info, modfile), verification, shared).await;
        drop((slot, claim_there));
        if end.is_ok() {
            lock(&self.seen).bytes = bytes;
            log::info!(
                version:% = self.version, bytes, origin, elapsed = format!("{:.1?}", began.elapsed());
                "downloaded a version"
            );
        }
        end
    }

    /// Returns the info and the mod: the cached ones, or downloads them.
    async fn smalls(
        &self,
        known: Option<Smalls>,
        source: &VersionSource,
        claim: &Claim,
        verification: &Verification,
    ) -> Result<Smalls, Unavailable> {
        if let Some(known) = known {
            self.check_mod(claim, &known.gomod_h1, verification).await?;
            let (info, modfile) = (known.info.clone(), known.modfile.clone());
            self.progress
                .send_modify(|now| (now.info, now.modfile, now.is_cached) = (Some(info), modfile, true));
            return Ok(known);
        }
        let (info, modfile) =
            unless_limited(self.fetch_info(source), self.fetch_mod(source, claim, verification)).await?;
        // The info's error counts first, whichever request failed first.
        let (mut info, (modfile, gomod_h1)) = (info?, modfile?);
        if source.switched() && !*self.wanted.borrow() {
            // Both files of a pair come from one upstream.
            info = self.fetch_info(source).await?;
        }
        Ok(Smalls { info, modfile: Some(modfile), gomod_h1, origin: None })
    }

    /// Returns whether no request needs more than the info and the mod so far.
    fn is_pair_enough(&self, source: &VersionSource) -> bool {
        !*self.whole.borrow() && !source.has_all()
    }

    /// Keeps the pair after its verification. Returns whether the flight ends with it: no request needs the zip.
    async fn keep_verified(
        &self,
        smalls: &mut Smalls,
        claim: &Arc<Claim>,
        source: &VersionSource,
        verification: &Verification,
    ) -> Result<bool, Unavailable> {
        let mut whole = self.whole.clone();
        tokio::select! {
            biased;
            checked = verification.check_mod(&smalls.gomod_h1) => checked?,
            // The zip does not wait for the checksum database.
            _ = whole.wait_for(|whole| *whole) => return Ok(false),
        }
        self.keep_pair(smalls, claim, source.origin()).await?;
        // Under the lock of the map, as joining is: a later request starts a new flight.
        let mut running = self.means.running.lock();
        let is_end = !*self.whole.borrow();
        if is_end {
            running.remove(&self.version);
        }
        drop(running);
        if is_end {
            log::debug!(version:% = self.version; "downloaded the info and the go.mod of a version");
        }
        Ok(is_end)
    }

    async fn fetch_info(&self, source: &VersionSource) -> Result<Bytes, Unavailable> {
        let info = source.info(&self.via).await.map_err(|e| self.failed(&e))?;
        self.progress.send_modify(|now| now.info = Some(info.clone()));
        Ok(info)
    }

    async fn fetch_mod(
        &self,
        source: &VersionSource,
        claim: &Claim,
        verification: &Verification,
    ) -> Result<(Bytes, H1), Unavailable> {
        let body = source.modfile(&self.via).await.map_err(|e| self.failed(&e))?;
        let gomod_h1 = h1::hash_mod(&body);
        self.check_mod(claim, &gomod_h1, verification).await?;
        verification.mod_was_sent();
        // Clients read a large mod from the cache, so that slow clients do not keep it in memory.
        if body.len() <= SMALL_BODY {
            self.progress.send_modify(|now| now.modfile = Some(body.clone()));
        }
        Ok((body, gomod_h1))
    }

    /// Compares a mod with the version's record before any client gets it, and with the checksum database if the
    /// client has to wait for that.
    ///
    /// The record holds the hashes of the checksum database as soon as they are known. The zip is compared
    /// when it is published.
    async fn check_mod(
        &self,
        claim: &Claim,
        gomod_h1: &H1,
        verification: &Verification,
    ) -> Result<(), Unavailable> {
        if !claim.knows_record() {
            // The verdict is being written, so the lookup ends soon.
            return verification.check_mod(gomod_h1).await;
        }
        // The lookup may have written the record meanwhile.
        let record = claim.known_record();
        let record = record.as_ref();
        let objection = record.and_then(|record| record.objection_to_mod(Some(gomod_h1)));
        match objection {
            // The removed version may have been of a moved tag. So the database decides.
            Some(objection @ Objection::Differs { by: RecordedBy::Removal, .. }) => {
                match verification.outcome().await? {
                    Confirmation::Confirmed(_) => verification.check_mod(gomod_h1).await,
                    _ => Err(Unavailable::objection(&self.version, &objection)),
                }
            }
            Some(objection) => {
                self.means.sumdb.count_mismatch();
                Err(Unavailable::objection(&self.version, &objection))
            }
            None if verification.is_required() || record.is_some_and(|r| r.failed_lookup.is_some()) => {
                verification.check_mod(gomod_h1).await
            }
            None => Ok(()),
        }
    }

    /// Compares the info and the mod with those of the upstream that sent the zip, if that may be another upstream or
    /// another commit. Clients may already have the first mod, so its successor must be identical.
    async fn compare_with_source(&self, smalls: &mut Smalls, source: &VersionSource) -> Result<(), Failed> {
        let is_cached = smalls.origin.is_some();
        let is_other = is_cached && (smalls.origin != source.origin() || source.is_direct());
        if !source.switched() && !is_other {
            return Ok(());
        }
        // The upstream of the zip is asked first from now on. Its info may have another time.
        let info = self.fetch_info(source).await?;
        let body = source.modfile(&self.via).await.map_err(|e| self.failed(&e))?;
        let (sent, other) = (&smalls.gomod_h1, h1::hash_mod(&body));
        let inconsistent = |text: String| Err(Failed::Inconsistent(Unavailable::Upstream(text.into())));
        if *sent != other {
            let text = format!(
                "{}: two upstreams have different go.mod files: {sent} at the upstream without the zip, {other} at the upstream with the zip",
                self.version,
            );
            return inconsistent(text);
        }
        if source.is_direct()
            && let (Some(before), Some(now)) = (info::commit(&smalls.info), info::commit(&info))
            && before != now
        {
            let text = format!(
                "{}: the version is commit {now} in version control, and commit {before} in the info that this proxy sent before",
                self.version
            );
            return inconsistent(text);
        }
        smalls.info = info;
        Ok(())
    }

    /// Returns a large mod, which was dropped from memory, from the cache or from the upstream.
    async fn large_mod(&self, gomod_h1: &H1, source: &VersionSource) -> Result<Bytes, Failed> {
        if let Some(body) = self.load_mod(gomod_h1).await? {
            return Ok(body);
        }
        let body = source.modfile(&self.via).await.map_err(|e| self.failed(&e))?;
        if h1::hash_mod(&body) != *gomod_h1 {
            let text = format!("{}: the upstream changed the go.mod during the download", self.version);
            return Err(Failed::Inconsistent(Unavailable::Upstream(text.into())));
        }
        Ok(body)
    }
}

/// Waits for two requests. If the upstream limits requests and one of them has failed for that, the other is cancelled.
async fn unless_limited<A, B>(
    one: impl Future<Output = Result<A, Unavailable>>,
    other: impl Future<Output = Result<B, Unavailable>>,
) -> Result<(Result<A, Unavailable>, Result<B, Unavailable>), Unavailable> {
    // On the heap, since both are large.
    tokio::try_join!(Box::pin(one).map(or_limited), Box::pin(other).map(or_limited))
}

fn or_limited<T>(result: Result<T, Unavailable>) -> Result<Result<T, Unavailable>, Unavailable> {
    match result {
        Err(error @ Unavailable::Limited { status: 429, .. }) => Err(error),
        result => Ok(result),
    }
}

/// Returns the outcome of a failed flight.
fn outcome(error: &Unavailable) -> Outcome {
    match error {
        Unavailable::Absent(_) => Outcome::Absent,
        Unavailable::Refused(_)
        | Unavailable::Gone(_)
        | Unavailable::Denied { .. }
        | Unavailable::Private(_)
        | Unavailable::NotFetched(_)
        | Unavailable::Offline(_)
        | Unavailable::Limited { .. } => Outcome::Refused,
        Unavailable::Differs(_) | Unavailable::Unexpected { .. } | Unavailable::Unverified(_) => {
            Outcome::Wrong
        }
        Unavailable::Abandoned(_) | Unavailable::Stopping(_) => Outcome::Cancelled,
        _ => Outcome::Failed,
    }
}

/// Removes a flight from the map, also if its task panics or is dropped.
struct RemoveOnDrop {
    means: Arc<Means>,
    flight: Arc<Flight>,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        self.means.running.remove(&self.flight);
    }
}
