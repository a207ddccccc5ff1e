//! What a checksum database says of the version of one flight, on its way while the flight downloads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoa_gomod::sumdb::Sums;
use stoa_gomod::{H1, ModuleVersion, h1};
use stoa_layout::marker;
use stoa_store::{Claim, Record, Store, StoreError, Verdict};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::lookup::{Ask, LookupError};
use super::{Checksums, Database, Place};
use crate::fill::{ChecksumPolicy, Fill, FillError, SumdbQuestion};
use crate::upstream::{SumdbAnswer, UpstreamError, Via};

/// That somebody vouches for the hashes of a version.
#[derive(Debug, Clone)]
pub(in crate::fill) struct Vouched {
    sums: Sums,
    verdict: Verdict,
}

type Outcome = Result<Option<Vouched>, FillError>;

/// The claim of a flight while it has one: it lets go of it when it waits for a slot.
type Held = Arc<Mutex<Weak<Claim>>>;

/// How long to wait between two tries to claim a version that is to be recorded, and in all.
const CLAIM_POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// A lookup on its way; dropping it ends it, unless the mod was told to somebody.
#[derive(Debug)]
pub(in crate::fill) struct Vouching {
    checksums: Arc<Checksums>,
    version: ModuleVersion,
    policy: ChecksumPolicy,
    outcome: watch::Receiver<Option<Outcome>>,
    held: Held,
    is_told: AtomicBool,
    task: AbortHandle,
}

impl Drop for Vouching {
    fn drop(&mut self) {
        if !self.is_told.load(Ordering::Relaxed) {
            self.task.abort();
        }
    }
}

impl Vouching {
    /// Begins to look a version up; what is found is put into its record before anybody hears of it.
    pub(in crate::fill) fn begin(fill: &Arc<Fill>, version: &ModuleVersion, via: &Via) -> Self {
        let policy = fill.policy.rule(version.path()).checksum;
        let (tell, outcome) = watch::channel(None);
        let held = Held::default();
        let asking = Asking {
            fill: Arc::clone(fill),
            policy,
            version: version.clone(),
            via: via.clone(),
            held: Arc::clone(&held),
        };
        let task = tokio::spawn(async move { tell.send_replace(Some(asking.outcome().await)) });
        let task = task.abort_handle();
        Self {
            checksums: Arc::clone(fill.policy.checksums()),
            version: version.clone(),
            policy,
            outcome,
            held,
            is_told: AtomicBool::new(false),
            task,
        }
    }

    /// Lets the version be recorded under the flight's claim, as long as the flight keeps it.
    pub(in crate::fill) fn share(&self, claim: Claim) -> Arc<Claim> {
        let claim = Arc::new(claim);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&claim);
        claim
    }

    /// Notes that somebody has the mod: what the database says of it is recorded even if the flight fails before that
    /// is known, so that nobody gets a wrong one again.
    pub(in crate::fill) fn mod_is_told(&self) {
        self.is_told.store(true, Ordering::Relaxed);
    }

    /// Whether nothing may be given out that is not vouched for.
    pub(in crate::fill) fn is_required(&self) -> bool {
        self.policy == ChecksumPolicy::Require
    }

    /// Waits for who vouches for the version. `None` if nobody does, and nobody need.
    pub(in crate::fill) async fn outcome(&self) -> Outcome {
        match self.outcome.clone().wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(FillError::Broken(format!("looking up {} in the checksum database", self.version))),
        }
    }

    /// Compares a mod with what is vouched for, as soon as that is known.
    pub(in crate::fill) async fn check_mod(&self, body: &[u8]) -> Result<(), FillError> {
        match self.outcome().await? {
            Some(vouched) => self.compare("go.mod", &h1::hash_mod(body), &vouched.sums.modfile, &vouched),
            None => Ok(()),
        }
    }

    /// Compares a zip with what is vouched for.
    pub(in crate::fill) fn check_zip(&self, h1: &H1, vouched: &Vouched) -> Result<(), FillError> {
        self.compare("zip", h1, &vouched.sums.zip, vouched)
    }

    fn compare(&self, file: &str, sent: &H1, said: &H1, vouched: &Vouched) -> Result<(), FillError> {
        if sent == said {
            return Ok(());
        }
        self.checksums.count_mismatch();
        let text = format!(
            "{}: checksum mismatch: its {file}: the upstream sent {sent}, the checksum database {} says {said}",
            self.version, vouched.verdict.database
        );
        Err(FillError::Differs(text.into()))
    }
}

impl Vouched {
    /// Puts the verdict into the record of the claimed version. What a record says already stays, and if that is
    /// something else the version will not be published.
    pub(in crate::fill) fn record(&self, store: &Store, claim: &Claim) -> Result<(), StoreError> {
        let known = store.records().get(claim.version())?.unwrap_or_default();
        if known.verdict.is_some() || known.objection(&self.sums.zip, Some(&self.sums.modfile)).is_some() {
            return Ok(());
        }
        let record = Record {
            h1: Some(self.sums.zip.clone()),
            gomod_h1: Some(self.sums.modfile.clone()),
            verdict: Some(self.verdict.clone()),
            ..known
        };
        store.records().write(claim, &record)
    }

    fn of_record(record: Record) -> Option<Self> {
        let sums = Sums { zip: record.h1?, modfile: record.gomod_h1? };
        Some(Self { sums, verdict: record.verdict? })
    }
}

/// What the task of a lookup needs.
struct Asking {
    fill: Arc<Fill>,
    policy: ChecksumPolicy,
    version: ModuleVersion,
    via: Via,
    held: Held,
}

impl Asking {
    async fn outcome(&self) -> Outcome {
        if self.policy == ChecksumPolicy::Off {
            return Ok(None);
        }
        let version = self.version.clone();
        let record = self.fill.blocking(&self.version, move |store| store.records().get(&version)).await?;
        if let Some(vouched) = record.and_then(Vouched::of_record) {
            return Ok(Some(vouched));
        }
        let is_private = self.fill.policy.checksums().private.matches(self.version.path().as_str());
        let Some(database) = self.fill.policy.checksums().database.as_ref().filter(|_| !is_private) else {
            let why = match is_private {
                true => "it is private (GONOSUMDB), so no checksum database is asked for it",
                false => "no checksum database is configured",
            };
            return self.nobody(log::Level::Debug, &why);
        };
        let upstream = &self.fill.policy.rule(self.version.path()).upstream;
        let place = self.fill.policy.checksums().place(database.sumdb.name(), upstream);
        let carrier = Carrier { fill: &self.fill, database, place, via: &self.via };
        let looking = database.look_up(&self.fill.store, &carrier, &self.version);
        let patience = database.outage.patience(self.policy, Instant::now());
        let found = tokio::time::timeout(patience, looking).await.unwrap_or_else(|_| {
            let text =
                format!("the checksum database {} took longer than {patience:?}", database.sumdb.name());
            Err(LookupError::Unreachable(FillError::Timeout(text.into())))
        });
        match &found {
            Ok(_) | Err(LookupError::Unknown) => database.outage.note(true, Instant::now()),
            Err(LookupError::Unreachable(_)) => database.outage.note(false, Instant::now()),
            // That says nothing of it.
            Err(_) => {}
        }
        match found {
            Ok(found) => {
                self.fill.policy.checksums().counts.vouched.fetch_add(1, Ordering::Relaxed);
                let database = database.sumdb.name().to_owned();
                let verdict = Verdict { database, tree_size: found.tree_size, at: marker::now() };
                let vouched = Vouched { sums: found.sums, verdict };
                self.record(&vouched).await?;
                Ok(Some(vouched))
            }
            Err(error) => self.not_found(database, error),
        }
    }

    /// Puts what was found into the version's record: under the flight's claim, or its own where the flight has none
    /// just now. Where others keep the version claimed, it is left to them, and to the publish.
    async fn record(&self, vouched: &Vouched) -> Result<(), FillError> {
        let began = Instant::now();
        loop {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
            let (version, vouched) = (self.version.clone(), vouched.clone());
            let recorded = self.fill.blocking(&self.version, move |store| {
                let claim = match held {
                    Some(claim) => Some(claim),
                    None => store.try_claim(&version)?.map(Arc::new),
                };
                claim.as_deref().map(|claim| vouched.record(store, claim)).transpose()
            });
            if recorded.await?.is_some() || began.elapsed() > CLAIM_POLL.1 {
                return Ok(());
            }
            tokio::time::sleep(CLAIM_POLL.0).await;
        }
    }

    /// Decides what it means that a database said nothing.
    fn not_found(&self, database: &Database, error: LookupError) -> Outcome {
        let name = database.sumdb.name();
        let is_required = self.policy == ChecksumPolicy::Require;
        match error {
            LookupError::Store(error) => Err(error),
            // What is forged is never taken for absence.
            LookupError::Bad { .. } | LookupError::Forked => {
                let text =
                    format!("{} cannot be verified by the checksum database {name}: {error}", self.version);
                Err(FillError::Upstream(text.into()))
            }
            LookupError::Unreachable(cause) if is_required => {
                self.fill.policy.checksums().counts.refused.fetch_add(1, Ordering::Relaxed);
                let text = format!("{} cannot be verified: {cause}", self.version);
                Err(match cause {
                    FillError::Timeout(_) => FillError::Timeout(text.into()),
                    FillError::Loop(_) => cause,
                    _ => FillError::Upstream(text.into()),
                })
            }
            LookupError::NotPassedOn if is_required => {
                self.fill.policy.checksums().counts.refused.fetch_add(1, Ordering::Relaxed);
                let text = format!(
                    "{} cannot be verified: no upstream passes the checksum database {name} on; name its URL behind it",
                    self.version
                );
                Err(FillError::Upstream(text.into()))
            }
            error => {
                let level = match error {
                    LookupError::Unreachable(_) => log::Level::Warn,
                    _ => log::Level::Debug,
                };
                self.nobody(level, &format_args!("the checksum database {name}: {error}"))
            }
        }
    }

    /// Nobody vouches for the version.
    fn nobody(&self, level: log::Level, why: &dyn std::fmt::Display) -> Outcome {
        if self.policy == ChecksumPolicy::Require {
            self.fill.policy.checksums().counts.refused.fetch_add(1, Ordering::Relaxed);
            let text = format!("{} is not taken, since nothing vouches for it: {why}", self.version);
            return Err(FillError::Unvouched(text.into()));
        }
        self.fill.policy.checksums().counts.unvouched.fetch_add(1, Ordering::Relaxed);
        log::log!(level, "{} is taken as the upstream sends it: {why}", self.version);
        Ok(None)
    }
}

/// Asks where a database is to be had, and keeps what was proved for clients too.
struct Carrier<'a> {
    fill: &'a Fill,
    database: &'a Database,
    place: Place<'a>,
    via: &'a Via,
}

impl Ask for Carrier<'_> {
    async fn is_possible(&self) -> Result<bool, UpstreamError> {
        self.place.has(self.database.sumdb.name(), self.via).await
    }

    async fn ask(&self, path: &str, fresh: bool) -> Result<SumdbAnswer, UpstreamError> {
        let name = self.database.sumdb.name();
        if !fresh
            && let Some(question) = SumdbQuestion::parse(path)
            && let Some(kept) = self.fill.kept_of_sumdb(name, &question).await
        {
            return Ok(SumdbAnswer { status: 200, content_type: None, body: kept.body });
        }
        self.place.ask(name, path, self.via).await
    }

    async fn keep(&self, path: &str, body: &Bytes, fresh: bool) {
        if let Some(question) = SumdbQuestion::parse(path) {
            self.fill.keep_of_sumdb(self.database.sumdb.name(), &question, body, fresh).await;
        }
    }
}
