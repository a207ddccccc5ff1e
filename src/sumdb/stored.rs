//! Verification of stored versions: of those that were stored without a verdict, by a fill during an outage of the
//! database, by a migration or by an import.
//!
//! | caller | when |
//! | --- | --- |
//! | the proxy | before it serves a version whose policy is `require`; for a peer by the record of the version only |
//! | `recheck` | in the background, cached pairs too |
//! | `forward` | if a forwarded answer contradicts the stored version |
//! | `stoa verify --checksums` | cached pairs too |
//!
//! A version that differs moves to quarantine first, and then the verdict is recorded. So no version with another
//! content than its verdict stays in the store, wherever the process is killed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stoa_gomod::sumdb::Sums;
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{Compared, Record, SmallFile, Store, StoreError};

use super::inquiry::{Finding, Inquiry, Verified};
use super::lookup::LookupError;
use super::state::{Standing, Sumdb};
use crate::policy::Rule;
use crate::tasks::{Phase, blocking};
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// How long the verdict in a record is remembered during an outage of the database.
const VERDICT_VALID: Duration = Duration::from_secs(60);

impl Sumdb {
    /// Returns whether a stored version is known to be confirmed, without any system call. With `seal`, only if it is
    /// confirmed with this hash.
    pub(crate) fn is_confirmed(&self, version: &ModuleVersion, seal: Option<&H1>) -> bool {
        self.confirmed.get(version).is_some_and(|h1| seal.is_none_or(|seal| *seal == h1))
    }

    /// Returns whether a version may be unverified because the database cannot be reached. `None` if its record has to be
    /// read first, by [`read_verdict`](Self::read_verdict). Makes no system call.
    pub(crate) fn is_doubtful(&self, version: &ModuleVersion, rule: &Rule) -> Option<bool> {
        if !self.is_out_of_reach(version, rule) || self.is_confirmed(version, None) {
            return Some(false);
        }
        let (has_verdict, read) = self.verdicts.get(version)?;
        (read.elapsed() < VERDICT_VALID).then_some(!has_verdict)
    }

    /// Reads whether the record of a version has a verdict, and remembers it for a while. A version whose record cannot be
    /// read has none.
    pub(crate) async fn read_verdict(&self, version: &ModuleVersion) {
        let at = version.clone();
        let record = blocking(&self.store, version, move |store| store.records().get(&at)).await;
        let has_verdict = record.is_ok_and(|record| record.is_some_and(|record| record.verdict.is_some()));
        self.verdicts.insert(version.clone(), (has_verdict, Instant::now()));
    }

    /// Forgets that a version is confirmed.
    pub(crate) fn forget_confirmed(&self, version: &ModuleVersion) {
        self.confirmed.remove(version);
    }

    /// Verifies a stored version, once at a time. It continues after the callers have gone away.
    pub(crate) async fn verify_stored(
        self: &Arc<Self>,
        version: &ModuleVersion,
        rule: &Arc<Rule>,
        via: &Via,
    ) -> Result<Standing, Unavailable> {
        self.verify_stored_until(Phase::Ending, version, rule, via).await
    }

    /// Verifies a stored version like [`verify_stored`](Self::verify_stored). Dropped in the phase `until`.
    pub(super) async fn verify_stored_until(
        self: &Arc<Self>,
        until: Phase,
        version: &ModuleVersion,
        rule: &Arc<Rule>,
        via: &Via,
    ) -> Result<Standing, Unavailable> {
        let Some(mut phase) = self.shutdown.enter(until) else {
            return Err(Unavailable::Stopping(version.to_string()));
        };
        let work = || {
            let (sumdb, version) = (Arc::clone(self), version.clone());
            let (rule, via) = (Arc::clone(rule), via.clone());
            async move {
                tokio::select! {
                    standing = sumdb.standing(&version, &rule, &via) => standing,
                    _ = phase.wait_for(|phase| *phase >= until) => {
                        Err(Unavailable::Stopping(version.to_string()))
                    }
                }
            }
        };
        let task = self.verifying.join(version, work);
        let task = task.ok_or_else(|| Unavailable::Busy(version.to_string()))?;
        let what = || Unavailable::Broken(format!("the verification of {version}"));
        task.wait().await.unwrap_or_else(|| Err(what()))
    }

    async fn standing(
        &self,
        version: &ModuleVersion,
        rule: &Arc<Rule>,
        via: &Via,
    ) -> Result<Standing, Unavailable> {
        let Some(record) = self.record_if_stored(version).await? else { return Ok(Standing::Absent) };
        match self.confirmed_hashes(version, record, rule, via).await? {
            Ok(verified) => self.settle(version, verified).await,
            Err(standing) => Ok(standing),
        }
    }

    /// Returns the record of a version, or `None` if the version is not stored.
    async fn record_if_stored(&self, version: &ModuleVersion) -> Result<Option<Option<Record>>, Unavailable> {
        let at = version.clone();
        let record = blocking(&self.store, version, move |store| {
            // From the disk: another process may have removed the version.
            match store.footprint(&at)? {
                Some(_) => Ok(Some(store.records().get(&at)?)),
                None => Ok(None),
            }
        });
        record.await
    }

    /// Compares a stored version with its record, and asks no checksum database.
    pub(crate) async fn compare_with_record(&self, version: &ModuleVersion) -> Result<Standing, Unavailable> {
        let Some(record) = self.record_if_stored(version).await? else { return Ok(Standing::Absent) };
        match record.and_then(Verified::of_record) {
            Some(verified) => self.settle(version, verified).await,
            None => Ok(Standing::Unconfirmed("no checksum database is asked for a peer".into())),
        }
    }

    /// Returns the confirmed hashes of a version with this record, or its standing without them.
    async fn confirmed_hashes(
        &self,
        version: &ModuleVersion,
        record: Option<Record>,
        rule: &Arc<Rule>,
        via: &Via,
    ) -> Result<Result<Verified, Standing>, Unavailable> {
        let inquiry = Inquiry { sumdb: self, rule, version, via };
        let is_recorded = record.as_ref().is_some_and(|record| record.verdict.is_some());
        if inquiry.is_offline() && !is_recorded {
            return Ok(Err(Standing::Offline));
        }
        Ok(match inquiry.find(record).await {
            Finding::NotAsked => Err(Standing::NotAsked),
            Finding::Recorded(verified) | Finding::Proved(verified) => Ok(verified),
            Finding::Nobody(why) => Err(Standing::Unconfirmed(why.into())),
            Finding::Failed(_, LookupError::Unreachable(error)) => Err(Standing::Unreachable(error)),
            Finding::Failed(_, LookupError::Store(error)) => return Err(error),
            Finding::Failed(name, error) => {
                if matches!(error, LookupError::Bad { .. }) {
                    log::warn!(version:% = version, database = name, reason:% = error; "cannot verify a stored version");
                }
                Err(Standing::Unconfirmed(format!("the checksum database {name}: {error}").into()))
            }
        })
    }

    /// Compares a stored version with confirmed hashes, and records them.
    async fn settle(&self, version: &ModuleVersion, verified: Verified) -> Result<Standing, Unavailable> {
        // An unsealed version is read, which takes memory.
        let permit = self.comparing.acquire().await;
        let _permit = permit.map_err(|_| Unavailable::Stopping(version.to_string()))?;
        let at = version.clone();
        let compared = blocking(&self.store, version, move |store| compare(store, &at, &verified)).await?;
        Ok(match compared {
            Compared::Absent => Standing::Absent,
            Compared::Same(h1) => {
                self.confirmed.insert(version.clone(), h1);
                Standing::Confirmed
            }
            Compared::Differs(objection) => {
                self.count_mismatch();
                let reason = objection.to_string();
                log::error!(version:% = version, reason; "SECURITY: a stored version differs from the confirmed version");
                Standing::Differs(reason.into())
            }
        })
    }

    /// Compares a version with proved hashes, if it is stored.
    pub(super) async fn settle_if_stored(
        &self,
        version: &ModuleVersion,
        verified: Verified,
    ) -> Result<Standing, Unavailable> {
        let at = version.clone();
        let footprint = blocking(&self.store, version, move |store| store.footprint(&at));
        match footprint.await? {
            Some(_) => self.settle(version, verified).await,
            None => Ok(Standing::Absent),
        }
    }

    /// Verifies a stored version that a forwarded record of the database contradicts. A record that is forged changes
    /// nothing, because the lookup demands its proof.
    pub(super) async fn check_contradiction(
        self: &Arc<Self>,
        name: &str,
        version: &ModuleVersion,
        text: &str,
        via: &Via,
    ) {
        if self.named(name).is_none() || !self.may_ask_about(version) {
            return;
        }
        let Some(sums) = Sums::parse(text, version) else { return };
        let at = version.clone();
        let contradicted = blocking(&self.store, version, move |store| contradicted(store, &at, &sums)).await;
        let contradicted = contradicted.unwrap_or_else(|error| {
            log::warn!(version:% = version, reason:% = error; "cannot compare a stored version with a forwarded checksum");
            None
        });
        let rule = Arc::clone(self.policy.load().rule(version.path()));
        let verified = match contradicted {
            Some(Contradicted::Stored) => self.verify_stored(version, &rule, via).await.map(drop),
            Some(Contradicted::Pair) => self.verify_pair(version, &rule, via).await.map(drop),
            None => Ok(()),
        };
        if let Err(error) = verified {
            log::warn!(version:% = version, reason:% = error; "cannot verify a stored version");
        }
    }

    /// Verifies a version whose info and go.mod are cached without its zip. Removes them if they differ from the confirmed
    /// hash, which is recorded.
    pub(crate) async fn verify_pair(
        &self,
        version: &ModuleVersion,
        rule: &Arc<Rule>,
        via: &Via,
    ) -> Result<Standing, Unavailable> {
        let at = version.clone();
        let record = blocking(&self.store, version, move |store| store.records().get(&at)).await?;
        let verified = match self.confirmed_hashes(version, record, rule, via).await? {
            Ok(verified) => verified,
            Err(standing) => return Ok(standing),
        };
        let at = version.clone();
        let standing =
            blocking(&self.store, version, move |store| compare_pair(store, &at, &verified)).await?;
        if let Standing::Differs(reason) = &standing {
            self.count_mismatch();
            log::error!(version:% = version, reason:% = reason; "SECURITY: the cached go.mod of a version differs from the confirmed version");
        }
        Ok(standing)
    }
}

/// Compares a cached pair with confirmed hashes. If the store can be written to, records them, and removes the pair if it
/// differs.
fn compare_pair(store: &Store, version: &ModuleVersion, verified: &Verified) -> Result<Standing, StoreError> {
    let claim = match store.is_read_only() {
        true => None,
        false => match store.try_claim(version)? {
            Some(claim) => Some(claim),
            // A download that holds the claim verifies the version itself.
            None => return Ok(Standing::Absent),
        },
    };
    if let Some(claim) = &claim {
        verified.record(store, claim)?;
    }
    let Some(pair) = store.pairs().get(version) else { return Ok(Standing::Absent) };
    let (ours, confirmed) = (pair.gomod_h1(), &verified.sums.modfile);
    if ours == *confirmed {
        return Ok(Standing::Confirmed);
    }
    if claim.is_some() {
        store.pairs().remove(version)?;
    }
    Ok(Standing::Differs(format!("its mod has {ours}, but {} is {confirmed}", verified.by).into()))
}

/// Compares a stored version with confirmed hashes and records them, if the store can be written to.
fn compare(store: &Store, version: &ModuleVersion, verified: &Verified) -> Result<Compared, StoreError> {
    let confirmed = Record {
        h1: Some(verified.sums.zip.clone()),
        gomod_h1: Some(verified.sums.modfile.clone()),
        verdict: Some(verified.verdict.clone()),
        ..Record::default()
    };
    if store.is_read_only() {
        return store.compare_only(version, &confirmed);
    }
    let claim = store.claim(version)?;
    let compared = store.compare(&claim, &confirmed)?;
    if compared != Compared::Absent {
        match verified.record(store, &claim) {
            // The version is served all the same. Its verdict is recorded when there is space again.
            Err(error) if error.is_out_of_space() && !matches!(compared, Compared::Differs(_)) => {
                store.note_failure(&error);
            }
            recorded => recorded?,
        }
    }
    Ok(compared)
}

/// The part of a version that a record of the database contradicts.
#[derive(Debug, Clone, Copy)]
enum Contradicted {
    /// The stored version.
    Stored,
    /// The info and the go.mod that are cached without the zip.
    Pair,
}

/// Returns what differs from these hashes. A stored version without a seal may differ.
fn contradicted(
    store: &Store,
    version: &ModuleVersion,
    sums: &Sums,
) -> Result<Option<Contradicted>, StoreError> {
    let Some(modfile) = store.small(version, SmallFile::Mod)? else {
        let pair = store.pairs().get(version).filter(|pair| pair.gomod_h1() != sums.modfile);
        return Ok(pair.map(|_| Contradicted::Pair));
    };
    if stoa_gomod::h1::hash_mod(&modfile.bytes) != sums.modfile {
        return Ok(Some(Contradicted::Stored));
    }
    let Some(zip) = store.open_zip(version)? else { return Ok(None) };
    Ok(zip.seal.is_none_or(|seal| seal != sums.zip).then_some(Contradicted::Stored))
}
