//! The bucket in a flight: it is asked before any upstream, and gets the version before the store does.
//!
//! | the bucket | the flight |
//! | --- | --- |
//! | has the version | reads it from there, by the ordinary way: it is verified, and must have the hash of the manifest |
//! | has a tombstone | ends |
//! | knows hashes only, or its content is gone | downloads the version, which must have these hashes |
//! | does not know the version | downloads it, under a claim in the bucket if it needs the zip |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stoa_bucket::{ClaimThere, Held, Manifest};
use stoa_gomod::H1;
use stoa_store::{Claim, Record};

use super::task::{Failed, Fetch};
use crate::bucket::{self, InBucket, Moment, Tier};
use crate::policy::Mode;
use crate::unavailable::Unavailable;
use crate::upstream::GivenFiles;

/// A flight in front of a bucket.
pub(super) struct Shared {
    tier: Arc<Tier>,
    /// The manifest, as it was before the download.
    manifest: Option<Box<Held<Manifest>>>,
    /// Whether the files are read from the bucket.
    pub(super) is_read: bool,
    /// The moment at which the manifest was read.
    pub(super) seen: Moment,
}

impl Shared {
    /// Returns the manifest whose zip is read.
    fn read(&self) -> Option<&Manifest> {
        self.manifest.as_ref().filter(|_| self.is_read).map(|held| &held.document)
    }

    /// Returns the seal that the zip must have, if it is read from the bucket.
    pub(super) fn expected(&self) -> ExpectedSeal {
        ExpectedSeal(self.read().and_then(Manifest::seal).cloned())
    }

    pub(super) fn tier(&self) -> &Arc<Tier> {
        &self.tier
    }

    pub(super) fn manifest(&self) -> Option<&Held<Manifest>> {
        self.manifest.as_deref()
    }
}

/// The seal in the manifest of a version that is read from the bucket.
pub(super) struct ExpectedSeal(Option<H1>);

impl ExpectedSeal {
    /// Returns the fault of a zip with this hash.
    pub(super) fn fault_of_zip(&self, h1: &H1) -> Option<String> {
        let seal = self.0.as_ref().filter(|seal| *seal != h1)?;
        Some(format!("its zip has {h1}, but its manifest has {seal}"))
    }
}

impl Fetch {
    /// Looks into the bucket, if there is one. Returns the files too, if the bucket has the version.
    pub(super) async fn look_into_bucket(
        &self,
        claim: &Claim,
        record: Option<&Record>,
    ) -> Result<Option<(Shared, Option<GivenFiles>)>, Failed> {
        let Some(tier) = self.means.tier.clone() else { return Ok(None) };
        let seen = tier.moment();
        let found = tier.look(&self.version).await?;
        let (manifest, files) = match found {
            InBucket::Unknown => (None, None),
            InBucket::Known(held) => {
                if let Some(tombstone) = &held.document.record.tombstone {
                    return Err(bucket::forbidden(&self.version, tombstone).into());
                }
                self.record_of_bucket(claim, record, &held.document).await?;
                (Some(held), None)
            }
            InBucket::Present(held) => {
                self.record_of_bucket(claim, record, &held.document).await?;
                let files = match held.document.present_content() {
                    Some(content) => tier.files(&self.version, content).await?,
                    None => None,
                };
                (Some(held), files)
            }
        };
        let is_read = files.is_some();
        if !is_read {
            self.check_upstream()?;
        }
        Ok(Some((Shared { tier, manifest, is_read, seen }, files)))
    }

    /// Fails if no upstream may be asked. The bucket was asked first.
    fn check_upstream(&self) -> Result<(), Unavailable> {
        if self.rule.mode == Mode::None || !self.may_ask() {
            return Err(Unavailable::NotFetched(self.version.to_string()));
        }
        match self.rule.upstream.is_offline() {
            true => Err(Unavailable::Offline(self.version.to_string())),
            false => Ok(()),
        }
    }

    /// Returns whether an upstream may be asked. If not, removes the flight from the map: the next request starts a new
    /// one.
    fn may_ask(&self) -> bool {
        // Under the lock of the map, as joining is.
        let mut running = self.means.running.lock();
        let may_ask = self.flight.may_ask.load(Ordering::Relaxed);
        if !may_ask {
            running.remove(&self.version);
        }
        may_ask
    }

    /// Writes what the bucket knows of the version into its record.
    async fn record_of_bucket(
        &self,
        claim: &Claim,
        record: Option<&Record>,
        manifest: &Manifest,
    ) -> Result<(), Unavailable> {
        let mut record = record.cloned().unwrap_or_default();
        // A seal says what the zip is, and is compared. Only confirmed hashes and those of a removal are recorded.
        let is_confirmed = manifest.record.verdict.is_some();
        if (is_confirmed || manifest.present_content().is_none())
            && bucket::add_to_record(&mut record, manifest)
        {
            // The claim is borrowed, so the write runs on this thread. It is one small file, once per version.
            self.means.store.records().write(claim, &record)?;
        }
        Ok(())
    }

    /// Claims the version in the bucket before its zip is downloaded. Returns `None` if there is no bucket, or if the zip
    /// is read from it.
    pub(super) async fn claim_in_bucket(
        &self,
        shared: Option<&Shared>,
    ) -> Result<Option<ClaimThere>, Failed> {
        let Some(shared) = shared.filter(|shared| !shared.is_read) else { return Ok(None) };
        match self.queued(shared.tier.claim(&self.version)).await? {
            Some(claim) => Ok(Some(claim)),
            None if shared
                .manifest
                .as_ref()
                .is_some_and(|held| held.document.present_content().is_some()) =>
            {
                // Its content cannot be read.
                Ok(None)
            }
            None => Err(Failed::Again(self.busy_in_bucket())),
        }
    }

    pub(super) fn busy_in_bucket(&self) -> Unavailable {
        let text = format!("{}: the version in the bucket changes again and again", self.version);
        Unavailable::Upstream(text.into())
    }

    /// Handles a failure while files were read from the bucket: a version that is corrupt there goes to its quarantine,
    /// and the flight starts again with an upstream.
    pub(super) async fn after_failed_read(&self, shared: &Shared, failed: Failed) -> Failed {
        let (error, is_corrupt) = match failed {
            Failed::Inconsistent(error) | Failed::Corrupt(error) => (error, true),
            // The object is gone or was replaced, or the transfer failed.
            Failed::Other(error @ (Unavailable::Upstream(_) | Unavailable::Timeout(_))) => (error, false),
            failed => return failed,
        };
        let content = shared.read().and_then(Manifest::present_content);
        if let Some(content) = content.filter(|_| is_corrupt) {
            if let Err(error) = shared.tier.quarantine(&self.version, content, &error.to_string()).await {
                return Failed::Other(error);
            }
        } else {
            shared.tier.note_unreadable(&self.version, &error);
        }
        Failed::Again(error)
    }
}
