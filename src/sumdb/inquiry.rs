//! The question whether a database confirms a version: what is recorded, who may be asked, and the lookup.

use std::sync::Arc;
use std::time::Instant;

use stoa_gomod::sumdb::Sums;
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::marker;
use stoa_store::{Claim, Record, RecordedBy, Store, StoreError, Verdict};

use super::lookup::{LookupError, ProvedSums};
use super::state::Sumdb;
use crate::policy::{ChecksumPolicy, Rule};
use crate::unavailable::Unavailable;
use crate::upstream::{Upstream, Via};

/// The hashes of a version that a database or a go.sum confirmed.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(super) sums: Sums,
    pub(super) verdict: Verdict,
    pub(super) by: RecordedBy,
}

/// The result of an inquiry, whatever the policy makes of it.
#[derive(Debug)]
pub(super) enum Finding<'a> {
    /// The policy is `off`.
    NotAsked,
    /// The record of the version has a verdict.
    Recorded(Verified),
    /// No database may be asked, for this reason.
    Nobody(&'static str),
    /// The database confirmed these hashes. They are not yet recorded.
    Proved(Verified),
    /// The lookup in the database of this name has no result.
    Failed(&'a str, LookupError),
}

/// An inquiry about one version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inquiry<'a> {
    pub(super) sumdb: &'a Sumdb,
    pub(super) rule: &'a Arc<Rule>,
    pub(super) version: &'a ModuleVersion,
    pub(super) via: &'a Via,
}

impl<'a> Inquiry<'a> {
    /// Returns whether there is no server to ask.
    pub(super) fn is_offline(self) -> bool {
        let upstream = self.upstream();
        match &self.sumdb.database {
            Some(database) => self.sumdb.source(database.sumdb.name(), &upstream).is_offline(),
            None => upstream.is_offline(),
        }
    }

    /// Returns the upstreams that may forward the database: those of the module. A version of a peer is fetched by a rule
    /// that has only the peer.
    fn upstream(self) -> Upstream {
        self.sumdb.policy.load().rule(self.version.path()).upstream.clone()
    }

    /// Finds out whether a version with this record is confirmed.
    pub(super) async fn find(self, record: Option<Record>) -> Finding<'a> {
        if self.rule.checksum == ChecksumPolicy::Off {
            return Finding::NotAsked;
        }
        if let Some(verified) = record.and_then(Verified::of_record) {
            return Finding::Recorded(verified);
        }
        let module = self.version.path();
        if self.sumdb.private.matches(module.as_str()) {
            return Finding::Nobody("it is private (GONOSUMDB), so no checksum database is asked");
        }
        if self.sumdb.policy.load().is_private(module) {
            return Finding::Nobody("it is private by its rule, so no checksum database is asked");
        }
        let Some(database) = &self.sumdb.database else {
            return Finding::Nobody("no checksum database is configured");
        };
        let name = database.sumdb.name();
        let client = self.sumdb.caching(database, &self.upstream(), self.via);
        let lookup = database.look_up(&self.sumdb.store, &client, self.version);
        let limit = database.outage.timeout(self.rule.checksum, Instant::now());
        let result = tokio::time::timeout(limit, lookup).await.unwrap_or_else(|_| {
            let text = format!("the checksum database {name} did not answer within {limit:?}");
            Err(LookupError::Unreachable(Unavailable::Timeout(text.into())))
        });
        match &result {
            Ok(_) | Err(LookupError::Unknown) => database.outage.note(true, Instant::now()),
            Err(LookupError::Unreachable(_)) => database.outage.note(false, Instant::now()),
            // The other errors say nothing about its availability.
            Err(_) => {}
        }
        match result {
            Ok(proved) => Finding::Proved(Verified::proved(name, proved)),
            Err(error) => Finding::Failed(name, error),
        }
    }
}

impl Sumdb {
    /// Returns whether a checksum database that may be asked about a version knows it, with this hash if there is one.
    pub(crate) async fn knows(&self, rule: &Arc<Rule>, version: &ModuleVersion, h1: Option<&H1>) -> bool {
        let inquiry = Inquiry { sumdb: self, rule, version, via: &Via::none() };
        match inquiry.find(None).await {
            Finding::Proved(verified) => h1.is_none_or(|h1| *h1 == verified.sums.zip),
            _ => false,
        }
    }
}

impl Verified {
    /// Returns the hashes that a database has proved.
    pub(super) fn proved(name: &str, proved: ProvedSums) -> Self {
        let verdict = Verdict { database: name.to_owned(), tree_size: proved.tree_size, at: marker::now() };
        Self { sums: proved.sums, verdict, by: RecordedBy::Database(name.to_owned()) }
    }

    /// Returns the hashes of a go.sum.
    pub(super) fn by_go_sum((zip, modfile): (H1, H1)) -> Self {
        Self { sums: Sums { zip, modfile }, verdict: Verdict::of_go_sum(), by: RecordedBy::GoSum }
    }

    /// Writes the verdict into the record of the claimed version. It replaces hashes that a removal recorded. An
    /// existing verdict stays. If it has other hashes, the version will not be published.
    pub(crate) fn record(&self, store: &Store, claim: &Claim) -> Result<(), StoreError> {
        let mut record = store.records().of(claim)?.unwrap_or_default();
        match record.confirm(&self.sums.zip, &self.sums.modfile, &self.verdict) {
            true => store.records().write(claim, &record),
            false => Ok(()),
        }
    }

    pub(super) fn of_record(record: Record) -> Option<Self> {
        let by = record.recorded_by();
        let sums = Sums { zip: record.h1?, modfile: record.gomod_h1? };
        Some(Self { sums, verdict: record.verdict?, by })
    }
}
