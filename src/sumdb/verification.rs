//! Verification of one version, in parallel with its download.
//!
//! The lookup starts with the flight and runs beside its downloads. Hashes that a database confirms are
//! written into the version's record at once, before they are compared. So they count even if the download
//! fails, and the database need not be asked again. Then the mod and the zip are compared with them. A
//! version that differs is never published.
//!
//! | policy | the database has other hashes, lies, or has forked | it does not know the version, or cannot be reached |
//! | --- | --- | --- |
//! | `auto` | refused; a client may receive the mod before the lookup has finished | accepted |
//! | `require` | refused | refused; no client receives the mod before it is confirmed |
//! | `off` | the database is not asked; the version's record still applies | the database is not asked |

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{Claim, FailedLookup, Record, Store, StoreError};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::inquiry::{Finding, Inquiry, Verified};
use super::lookup::LookupError;
use super::state::Sumdb;
use crate::policy::{ChecksumPolicy, Rule};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// The result of a lookup, if the policy accepts the version so far.
#[derive(Debug, Clone)]
pub(crate) enum Confirmation {
    /// A database confirmed these hashes.
    Confirmed(Verified),
    /// No database confirmed the version, and the policy does not require it.
    Unconfirmed { level: log::Level, reason: Arc<str> },
    /// The policy is `off`.
    NotAsked,
}

type Outcome = Result<Confirmation, Unavailable>;

/// The claim of a flight while it has one. A flight releases its claim while it waits for a slot.
type Held = Arc<Mutex<Weak<Claim>>>;

/// The pause between two attempts to claim a version for its record, and the total time.
const CLAIM_POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// A running lookup. Dropping it aborts the lookup, unless a client has received the mod.
#[derive(Debug)]
pub(crate) struct Verification {
    sumdb: Arc<Sumdb>,
    version: ModuleVersion,
    policy: ChecksumPolicy,
    outcome: watch::Receiver<Option<Outcome>>,
    held: Held,
    is_mod_sent: AtomicBool,
    task: AbortHandle,
}

impl Drop for Verification {
    fn drop(&mut self) {
        if !self.is_mod_sent.load(Ordering::Relaxed) {
            self.task.abort();
        }
    }
}

impl Verification {
    /// Starts the lookup of a version with this record. The result is written into the record before anything else.
    /// The hashes of a go.sum for zip and go.mod count if no database confirms the version.
    pub(crate) fn start(
        sumdb: &Arc<Sumdb>,
        version: &ModuleVersion,
        rule: &Arc<Rule>,
        (record, given): (Option<Record>, Option<(H1, H1)>),
        via: &Via,
    ) -> Self {
        let (sender, outcome) = watch::channel(None);
        let held = Held::default();
        let lookup = Lookup {
            sumdb: Arc::clone(sumdb),
            rule: Arc::clone(rule),
            version: version.clone(),
            via: via.clone(),
            held: Arc::clone(&held),
            given: given.map(Verified::by_go_sum),
        };
        let task = tokio::spawn(async move { sender.send_replace(Some(lookup.outcome(record).await)) });
        Self {
            sumdb: Arc::clone(sumdb),
            version: version.clone(),
            policy: rule.checksum,
            outcome,
            held,
            is_mod_sent: AtomicBool::new(false),
            task: task.abort_handle(),
        }
    }

    /// Shares the flight's claim, so that the record can be written while the flight holds it.
    pub(crate) fn share(&self, claim: Claim) -> Arc<Claim> {
        let claim = Arc::new(claim);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&claim);
        claim
    }

    /// Notes that a client has the mod. The lookup then continues and writes its record even if the flight
    /// fails, so that no client gets a wrong mod again.
    pub(crate) fn mod_was_sent(&self) {
        self.is_mod_sent.store(true, Ordering::Relaxed);
    }

    /// Returns whether clients may only receive confirmed files.
    pub(crate) fn is_required(&self) -> bool {
        self.policy == ChecksumPolicy::Require
    }

    /// Waits for the lookup.
    pub(crate) async fn outcome(&self) -> Outcome {
        match self.outcome.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Unavailable::Broken(format!("the lookup of {} in the checksum database", self.version))),
        }
    }

    /// Compares the hash of a mod with the confirmed hash, as soon as that is known.
    pub(crate) async fn check_mod(&self, gomod_h1: &H1) -> Result<(), Unavailable> {
        match self.outcome().await? {
            Confirmation::Confirmed(verified) => {
                self.compare("go.mod", gomod_h1, &verified.sums.modfile, &verified)
            }
            Confirmation::Unconfirmed { .. } | Confirmation::NotAsked => Ok(()),
        }
    }

    /// Compares a zip with the confirmed hash.
    pub(crate) fn check_zip(&self, h1: &H1, verified: &Verified) -> Result<(), Unavailable> {
        self.compare("zip", h1, &verified.sums.zip, verified)
    }

    fn compare(&self, file: &str, sent: &H1, confirmed: &H1, verified: &Verified) -> Result<(), Unavailable> {
        if sent == confirmed {
            return Ok(());
        }
        self.sumdb.count_mismatch();
        let text = format!(
            "{}: checksum mismatch: the upstream sent a {file} with {sent}, {} is {confirmed}",
            self.version, verified.by
        );
        Err(Unavailable::Differs(text.into()))
    }
}

impl Confirmation {
    /// Counts and logs a published version that no database confirmed.
    pub(crate) fn log_published(&self, sumdb: &Sumdb, version: &ModuleVersion) {
        if let Self::Unconfirmed { level, reason } = self {
            sumdb.counts.unverified.fetch_add(1, Ordering::Relaxed);
            log::log!(*level, version:% = version, reason:% = reason; "accepted a version without verification");
        }
    }
}

/// The task of a lookup.
struct Lookup {
    sumdb: Arc<Sumdb>,
    rule: Arc<Rule>,
    version: ModuleVersion,
    via: Via,
    held: Held,
    given: Option<Verified>,
}

impl Lookup {
    async fn outcome(&self, record: Option<Record>) -> Outcome {
        let inquiry =
            Inquiry { sumdb: &self.sumdb, rule: &self.rule, version: &self.version, via: &self.via };
        let finding = inquiry.find(record).await;
        let is_open = match &finding {
            Finding::NotAsked | Finding::Nobody(_) => true,
            Finding::Failed(_, error) => matches!(
                error,
                LookupError::Unknown | LookupError::NotForwarded | LookupError::Unreachable(_)
            ),
            Finding::Recorded(_) | Finding::Proved(_) => false,
        };
        if let Some(given) = self.given.clone().filter(|_| is_open) {
            return Ok(Confirmation::Confirmed(given));
        }
        match finding {
            Finding::NotAsked => Ok(Confirmation::NotAsked),
            Finding::Recorded(verified) => Ok(Confirmation::Confirmed(verified)),
            Finding::Nobody(why) => self.unconfirmed(log::Level::Debug, &why),
            Finding::Proved(verified) => {
                self.sumdb.counts.verified.fetch_add(1, Ordering::Relaxed);
                let recorded = verified.clone();
                self.record(move |store, claim| recorded.record(store, claim)).await?;
                Ok(Confirmation::Confirmed(verified))
            }
            Finding::Failed(name, error) => {
                // Under `auto` a client may have a wrong mod by now. No other client gets it after this.
                if matches!(error, LookupError::Bad { .. } | LookupError::Forked)
                    && self.rule.checksum == ChecksumPolicy::Auto
                {
                    self.record(record_failure).await?;
                }
                self.not_found(name, error)
            }
        }
    }

    /// Writes into the version's record, under the flight's claim or under an own one. If another process keeps the
    /// claim, publishing writes the record.
    async fn record(
        &self,
        write: impl Fn(&Store, &Claim) -> Result<(), StoreError> + Clone + Send + 'static,
    ) -> Result<(), Unavailable> {
        let began = Instant::now();
        loop {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            let (version, write) = (self.version.clone(), write.clone());
            let recorded = blocking(&self.sumdb.store, &self.version, move |store| {
                let claim = match held {
                    Some(claim) => Some(claim),
                    None => store.try_claim(&version)?.map(Arc::new),
                };
                claim.as_deref().map(|claim| write(store, claim)).transpose()
            });
            if recorded.await?.is_some() || began.elapsed() > CLAIM_POLL.1 {
                return Ok(());
            }
            tokio::time::sleep(CLAIM_POLL.0).await;
        }
    }

    /// Decides by the policy about a lookup without result.
    fn not_found(&self, name: &str, error: LookupError) -> Outcome {
        let is_required = self.rule.checksum == ChecksumPolicy::Require;
        match error {
            LookupError::Store(error) => Err(error),
            // An invalid proof is never taken for absence.
            LookupError::Bad { .. } | LookupError::Forked => {
                let text =
                    format!("cannot verify {} with the checksum database {name}: {error}", self.version);
                Err(Unavailable::Upstream(text.into()))
            }
            LookupError::Unreachable(cause) if is_required => {
                self.sumdb.counts.refused.fetch_add(1, Ordering::Relaxed);
                let text = format!("cannot verify {}: {cause}", self.version);
                Err(match cause {
                    Unavailable::Timeout(_) => Unavailable::Timeout(text.into()),
                    Unavailable::Loop(_) => cause,
                    _ => Unavailable::Upstream(text.into()),
                })
            }
            LookupError::NotForwarded if is_required => {
                self.sumdb.counts.refused.fetch_add(1, Ordering::Relaxed);
                let text = format!(
                    "cannot verify {}: no upstream forwards the checksum database {name}; add its URL after the name in gosumdb",
                    self.version
                );
                Err(Unavailable::Upstream(text.into()))
            }
            LookupError::Unreachable(cause) => self.unconfirmed(log::Level::Warn, &cause),
            LookupError::NotForwarded | LookupError::Unknown => {
                self.unconfirmed(log::Level::Debug, &format_args!("the checksum database {name}: {error}"))
            }
        }
    }

    /// Decides by the policy about a version that no database confirmed.
    fn unconfirmed(&self, level: log::Level, why: &dyn std::fmt::Display) -> Outcome {
        if self.rule.checksum == ChecksumPolicy::Require {
            self.sumdb.counts.refused.fetch_add(1, Ordering::Relaxed);
            let text = format!("refused {}: no checksum database confirmed it: {why}", self.version);
            return Err(Unavailable::Unverified(text.into()));
        }
        Ok(Confirmation::Unconfirmed { level, reason: why.to_string().into() })
    }
}

/// Records that the lookup of the claimed version had no valid proof.
fn record_failure(store: &Store, claim: &Claim) -> Result<(), StoreError> {
    let mut record = store.records().of(claim)?.unwrap_or_default();
    if record.failed_lookup.is_some() {
        return Ok(());
    }
    record.failed_lookup = Some(FailedLookup::now());
    store.records().write(claim, &record)
}
