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

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use stoa_gomod::h1;
use stoa_store::{Claim, Objection, Record, RecordedBy};
use tokio::sync::watch;

use super::means::Means;
use super::progress::{End, Flight};
use super::task::Fetch;
use super::turn::Claimed;
use super::zip::{FetchedZip, release_for_direct};
use crate::sumdb::{Confirmation, Verification};
use crate::tasks::Phase;
use crate::unavailable::Unavailable;
use crate::upstream::VersionSource;

impl Fetch {
    /// Downloads and publishes the version, and reports the result to the waiting clients.
    pub(super) async fn run(self, mut phase: watch::Receiver<Phase>) {
        let remove = RemoveOnDrop { means: Arc::clone(&self.means), flight: Arc::clone(&self.flight) };
        let result = tokio::select! {
            result = self.fetch(phase.clone()) => result,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => {
                Err(Unavailable::Stopping(self.version.to_string()))
            }
        };
        self.report(&result);
        match &result {
            // An upstream may have an info and a mod without the zip, and other clients want only these.
            Err(error) => {
                let has_info = self.progress.borrow().info.is_some();
                self.means.note_absence(&self.version, has_info, error);
            }
            Ok(_) => self.means.absences.forget(self.version.path()),
        }
        // A request between these two lines starts a new flight, which finds the version in the store.
        drop(remove);
        self.progress.send_modify(|now| now.end = Some(result));
    }

    fn report(&self, result: &Result<End, Unavailable>) {
        let Err(error) = result else { return };
        let (version, text) = (&*self.version.to_string(), error.to_string());
        // The version has a field of its own.
        let reason = text.strip_prefix(version).and_then(|text| text.strip_prefix(": ")).unwrap_or(&text);
        match error {
            Unavailable::Absent(_) | Unavailable::Gone(_) | Unavailable::Abandoned(_) => {
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

    async fn fetch(&self, phase: watch::Receiver<Phase>) -> Result<End, Unavailable> {
        let began = Instant::now();
        let Some((permit, Claimed { claim, record })) = self.start().await? else { return Ok(End::Theirs) };
        let source = self.upstream().version(&self.version);
        let verification =
            Verification::start(&self.means.sumdb, &self.version, &self.rule, record, &self.via);
        let claim = verification.share(claim);
        let slot = self.slot_at_once();
        let is_started = slot.is_some();
        let zip = async { if is_started { Some(source.zip(&self.via).await) } else { None } };
        let all = async {
            tokio::join!(self.fetch_info(&source), self.fetch_mod(&source, &claim, &verification), zip)
        };
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
    ) -> Result<Bytes, Unavailable> {
        let body = source.modfile(&self.via).await.map_err(|e| self.failed(&e))?;
        // The lookup may have written the record meanwhile.
        self.check_mod(claim.known_record().as_ref(), &body, verification).await?;
        verification.mod_was_sent();
        self.progress.send_modify(|now| now.modfile = Some(body.clone()));
        Ok(body)
    }

    /// Compares a mod with the version's record before any client gets it, and with the checksum database if the
    /// client has to wait for that.
    ///
    /// The record holds the hashes of the checksum database as soon as they are known. The zip is compared
    /// when it is published.
    async fn check_mod(
        &self,
        record: Option<&Record>,
        body: &[u8],
        verification: &Verification,
    ) -> Result<(), Unavailable> {
        let objection = record.and_then(|record| record.objection_to_mod(Some(&h1::hash_mod(body))));
        match objection {
            // The removed version may have been of a moved tag. So the database decides.
            Some(objection @ Objection::Differs { by: RecordedBy::Removal, .. }) => {
                match verification.outcome().await? {
                    Confirmation::Confirmed(_) => verification.check_mod(body).await,
                    _ => Err(Unavailable::objection(&self.version, &objection)),
                }
            }
            Some(objection) => {
                self.means.sumdb.count_mismatch();
                Err(Unavailable::objection(&self.version, &objection))
            }
            None if verification.is_required() || record.is_some_and(|r| r.failed_lookup.is_some()) => {
                verification.check_mod(body).await
            }
            None => Ok(()),
        }
    }

    /// Compares the mod that clients may have with the mod of the upstream that has the zip.
    fn compare_mods(&self, sent: &[u8], other: &[u8]) -> Result<(), Unavailable> {
        if sent == other {
            return Ok(());
        }
        let text = format!(
            "{}: two upstreams have different go.mod files: {} at the upstream without the zip, {} at the upstream with the zip",
            self.version,
            h1::hash_mod(sent),
            h1::hash_mod(other)
        );
        Err(Unavailable::Upstream(text.into()))
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
