//! Pairs: the info and the go.mod of versions whose zip no client has asked for. They lie in the cache of the store.
//!
//! A pair is only used for the list of upstreams that it came from, or if there is no upstream. It must agree with the
//! record of the version, and if the policy is `require`, the checksum database must have confirmed the version.

use std::sync::Arc;

use bytes::Bytes;
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{CachedPair, Claim, Objection, Pair, Record, Store, StoreError};

use super::flights::Flights;
use super::task::Fetch;
use crate::byte_budget::SMALL_BODY;
use crate::policy::{ChecksumPolicy, Mode, Permit, Rule};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// The info and the go.mod of a version while it is downloaded.
pub(super) struct Smalls {
    pub(super) info: Bytes,
    /// The go.mod. `None` if it is large and was written to the cache.
    pub(super) modfile: Option<Bytes>,
    pub(super) gomod_h1: H1,
    /// The upstream that sent them. `None` if they were downloaded by this flight.
    pub(super) origin: Option<String>,
}

impl Smalls {
    /// Returns whether the go.mod is too large to stay in memory.
    pub(super) fn is_large(&self) -> bool {
        self.modfile.as_ref().is_none_or(|body| body.len() > SMALL_BODY)
    }
}

impl Flights {
    /// Returns the cached info and go.mod of a version that is not in the store. `None` if they are not cached, or may
    /// not be served.
    pub async fn pair(&self, permit: Permit<'_>) -> Result<Option<CachedPair>, Unavailable> {
        let (version, rule) = (permit.version().clone(), Arc::clone(permit.rule()));
        let work = move |store: &Store| {
            if store.pairs().size(&version)?.is_none() {
                return Ok(None);
            }
            let record = store.records().get(&version)?.unwrap_or_default();
            if let Some(tombstone) = record.tombstone {
                return Ok(Some(Err(Unavailable::objection(&version, &Objection::Tombstone(tombstone)))));
            }
            // An answer of the checksum database that had no valid proof is followed by another lookup.
            let is_doubtful = rule.checksum == ChecksumPolicy::Require || record.failed_lookup.is_some();
            if is_doubtful && record.verdict.is_none() {
                return Ok(None);
            }
            Ok(usable(store, &version, &rule, &record)?.map(Ok))
        };
        blocking(&self.means.store, permit.version(), work).await?.transpose()
    }

    /// Starts to download the zip that belongs to a cached pair, if metadata also brings the zip.
    pub fn start_if_eager(&self, permit: Permit<'_>, via: &Via) {
        if self.means.is_eager && permit.rule().mode != Mode::Redirect {
            self.start(permit, via);
        }
    }
}

impl Fetch {
    /// Returns the cached info and go.mod of the claimed version, if the flight may use them.
    pub(super) async fn known_smalls(&self, record: Option<&Record>) -> Result<Option<Smalls>, Unavailable> {
        let (version, rule) = (self.version.clone(), Arc::clone(&self.rule));
        let (record, expected) = (record.cloned().unwrap_or_default(), self.expected.clone());
        let work = move |store: &Store| {
            let Some(pair) = usable(store, &version, &rule, &record)? else { return Ok(None) };
            let gomod_h1 = pair.gomod_h1();
            if expected.fault_of_mod(&gomod_h1).is_some() {
                return Ok(None);
            }
            let is_small = pair.mod_range.end - pair.mod_range.start <= SMALL_BODY as u64;
            let modfile = if is_small { Some(pair.modfile()?) } else { None };
            Ok(Some(Smalls { info: pair.info, modfile, gomod_h1, origin: Some(pair.origin) }))
        };
        blocking(&self.means.store, &self.version, work).await
    }

    /// Writes the info and the go.mod to the cache, and drops a large go.mod from memory.
    pub(super) async fn keep_pair(
        &self,
        smalls: &mut Smalls,
        claim: &Arc<Claim>,
        origin: Option<String>,
    ) -> Result<(), Unavailable> {
        let (Some(modfile), Some(tag), None) = (&smalls.modfile, self.upstream().tag(), &smalls.origin)
        else {
            return Ok(());
        };
        let (claim, max_bytes) = (Arc::clone(claim), self.means.metadata_max);
        let pair = Pair {
            tag: tag.to_owned(),
            origin: origin.unwrap_or_default(),
            info: smalls.info.clone(),
            modfile: modfile.clone(),
        };
        let kept = blocking(&self.means.store, &self.version, move |store| {
            store.pairs().put(&claim, &pair, max_bytes)
        });
        let kept = kept.await;
        if smalls.is_large() {
            kept?;
            smalls.modfile = None;
            self.progress.send_modify(|now| now.is_cached = true);
        } else if let Err(error) = kept {
            // The clients have both files already, and the next request downloads them again.
            log::warn!(version:% = self.version, reason:% = error; "cannot cache the info and the go.mod of a version");
        }
        Ok(())
    }

    /// Reads a large go.mod from the cache, within the budget of bytes in memory.
    pub(super) async fn load_mod(&self, gomod_h1: &H1) -> Result<Option<Bytes>, Unavailable> {
        let version = self.version.clone();
        let size = blocking(&self.means.store, &self.version, move |store| store.pairs().size(&version));
        let Some(size) = size.await? else { return Ok(None) };
        let reserved = self.means.memory.reserve(size).await;
        let (version, gomod_h1) = (self.version.clone(), gomod_h1.clone());
        let body = blocking(&self.means.store, &self.version, move |store| {
            let pair = store.pairs().get(&version).filter(|pair| pair.gomod_h1() == gomod_h1);
            pair.map(|pair| pair.modfile()).transpose()
        });
        Ok(body.await?.map(|body| reserved.hold(body)))
    }

    /// Removes the pair of the version after it turned out not to belong to the zip or to the recorded hash.
    pub(super) async fn drop_pair(&self) {
        let version = self.version.clone();
        let removed = blocking(&self.means.store, &self.version, move |store| store.pairs().remove(&version));
        match removed.await {
            Ok(None) => {}
            Ok(Some(_)) => {
                log::warn!(version:% = self.version; "dropped the cached info and go.mod of a version");
            }
            Err(error) => {
                log::error!(version:% = self.version, reason:% = error; "cannot remove the cached info and go.mod of a version");
            }
        }
    }
}

/// Returns the pair of a version if it comes from the list of upstreams of the rule and agrees with the record.
fn usable(
    store: &Store,
    version: &ModuleVersion,
    rule: &Rule,
    record: &Record,
) -> Result<Option<CachedPair>, StoreError> {
    let Some(pair) = store.pairs().get(version) else { return Ok(None) };
    if rule.upstream.tag().is_some_and(|tag| tag != pair.tag) {
        return Ok(None);
    }
    let agrees = record.objection_to_mod(Some(&pair.gomod_h1())).is_none();
    Ok(Some(pair).filter(|_| agrees))
}
