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

use bytes::Bytes;
use stoa_gomod::sumdb::Sums;
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::marker;
use stoa_store::{Claim, FailedLookup, Record, RecordedBy, Store, StoreError, Verdict};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::lookup::{LookupError, SumdbClient};
use super::question::SumdbQuestion;
use super::source::SumdbSource;
use super::state::{Database, Sumdb};
use crate::policy::{ChecksumPolicy, Rule};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::{SumdbAnswer, UpstreamError, Via};

/// The hashes of a version that a database confirmed.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    sums: Sums,
    verdict: Verdict,
    by: RecordedBy,
}

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
    pub(crate) fn start(
        sumdb: &Arc<Sumdb>,
        version: &ModuleVersion,
        rule: &Arc<Rule>,
        record: Option<Record>,
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

impl Verified {
    /// Writes the verdict into the record of the claimed version. It replaces hashes that a removal recorded. An
    /// existing verdict stays. If it has other hashes, the version will not be published.
    pub(crate) fn record(&self, store: &Store, claim: &Claim) -> Result<(), StoreError> {
        let mut record = store.records().of(claim)?.unwrap_or_default();
        match record.confirm(&self.sums.zip, &self.sums.modfile, &self.verdict) {
            true => store.records().write(claim, &record),
            false => Ok(()),
        }
    }

    fn of_record(record: Record) -> Option<Self> {
        let by = record.recorded_by();
        let sums = Sums { zip: record.h1?, modfile: record.gomod_h1? };
        Some(Self { sums, verdict: record.verdict?, by })
    }
}

/// The task of a lookup.
struct Lookup {
    sumdb: Arc<Sumdb>,
    rule: Arc<Rule>,
    version: ModuleVersion,
    via: Via,
    held: Held,
}

impl Lookup {
    async fn outcome(&self, record: Option<Record>) -> Outcome {
        if self.rule.checksum == ChecksumPolicy::Off {
            return Ok(Confirmation::NotAsked);
        }
        if let Some(verified) = record.and_then(Verified::of_record) {
            return Ok(Confirmation::Confirmed(verified));
        }
        let is_private = self.sumdb.private.matches(self.version.path().as_str());
        let Some(database) = self.sumdb.database.as_ref().filter(|_| !is_private) else {
            let why = match is_private {
                true => "it is private (GONOSUMDB), so no checksum database is asked",
                false => "no checksum database is configured",
            };
            return self.unconfirmed(log::Level::Debug, &why);
        };
        let source = self.sumdb.source(database.sumdb.name(), &self.rule.upstream);
        let client = CachingClient { sumdb: &self.sumdb, database, source, via: &self.via };
        let lookup = database.look_up(&self.sumdb.store, &client, &self.version);
        let limit = database.outage.timeout(self.rule.checksum, Instant::now());
        let result = tokio::time::timeout(limit, lookup).await.unwrap_or_else(|_| {
            let text =
                format!("the checksum database {} did not answer within {limit:?}", database.sumdb.name());
            Err(LookupError::Unreachable(Unavailable::Timeout(text.into())))
        });
        match &result {
            Ok(_) | Err(LookupError::Unknown) => database.outage.note(true, Instant::now()),
            Err(LookupError::Unreachable(_)) => database.outage.note(false, Instant::now()),
            // The other errors say nothing about its availability.
            Err(_) => {}
        }
        match result {
            Ok(proved) => {
                self.sumdb.counts.verified.fetch_add(1, Ordering::Relaxed);
                let database = database.sumdb.name().to_owned();
                let verdict = Verdict { database, tree_size: proved.tree_size, at: marker::now() };
                let by = RecordedBy::Database(verdict.database.clone());
                let verified = Verified { sums: proved.sums, verdict, by };
                let recorded = verified.clone();
                self.record(move |store, claim| recorded.record(store, claim)).await?;
                Ok(Confirmation::Confirmed(verified))
            }
            Err(error) => {
                // Under `auto` a client may have a wrong mod by now. No other client gets it after this.
                if matches!(error, LookupError::Bad { .. } | LookupError::Forked)
                    && self.rule.checksum == ChecksumPolicy::Auto
                {
                    self.record(record_failure).await?;
                }
                self.not_found(database, error)
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
    fn not_found(&self, database: &Database, error: LookupError) -> Outcome {
        let name = database.sumdb.name();
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

/// Asks the source of a database, and caches proved answers, for clients too.
struct CachingClient<'a> {
    sumdb: &'a Sumdb,
    database: &'a Database,
    source: SumdbSource<'a>,
    via: &'a Via,
}

impl SumdbClient for CachingClient<'_> {
    async fn is_available(&self) -> Result<bool, UpstreamError> {
        self.source.supports(self.database.sumdb.name(), self.via).await
    }

    async fn get(&self, path: &str, fresh: bool) -> Result<SumdbAnswer, UpstreamError> {
        let name = self.database.sumdb.name();
        if !fresh
            && let Some(question) = SumdbQuestion::parse(path)
            && let Some(cached) = self.sumdb.cached(name, &question).await
        {
            return Ok(SumdbAnswer { status: 200, content_type: None, body: cached.body });
        }
        self.source.get(name, path, self.via).await
    }

    async fn cache(&self, path: &str, body: &Bytes, fresh: bool) {
        if let Some(question) = SumdbQuestion::parse(path) {
            self.sumdb.cache_proved(self.database.sumdb.name(), &question, body, fresh).await;
        }
    }
}
