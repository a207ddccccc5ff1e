//! The background task of a server that asks again about versions without a verdict: the database may have learned about
//! them since, or could not be reached when they were stored.
//!
//! A pass goes through the stored versions and then through the pairs in the cache, one version at a time. It pauses
//! between two questions unless the policy of the module is `require`, and it ends early if the database cannot be reached.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_store::{Store, StoreError};
use tokio::sync::mpsc;

use super::state::{Standing, Sumdb};
use crate::policy::ChecksumPolicy;
use crate::tasks::{Phase, blocking};
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// The pause between two passes, and after a pass that ended because the database was unreachable.
const BETWEEN_PASSES: (Duration, Duration) = (Duration::from_secs(60 * 60), Duration::from_secs(5 * 60));

/// Number of failures in a row that end a pass.
const MAX_FAILURES: u32 = 3;

/// Number of versions that the walk may be ahead of the questions.
const AHEAD: usize = 64;

/// The number of versions without a verdict, by the answer to the question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Rechecked {
    /// A database confirms the version by now.
    pub(crate) confirmed: u64,
    /// A database has other hashes.
    pub(crate) differ: u64,
    /// No database confirms the version.
    pub(crate) unverified: u64,
    /// The database cannot be reached.
    pub(crate) unreachable: u64,
}

impl Rechecked {
    /// Counts a result.
    pub(crate) fn add(&mut self, standing: &Standing) {
        match standing {
            Standing::Absent | Standing::NotAsked => {}
            Standing::Confirmed => self.confirmed += 1,
            Standing::Differs(_) => self.differ += 1,
            Standing::Unconfirmed(_) => self.unverified += 1,
            Standing::Unreachable(_) | Standing::Offline => self.unreachable += 1,
        }
    }
}

impl Sumdb {
    /// Starts the task, if it may change anything.
    pub(crate) fn start_rechecks(self: &Arc<Self>) {
        let is_idle = self.store.is_read_only() || self.database.is_none();
        if is_idle && !self.policy.load().requires_checksums() {
            return;
        }
        let Some(mut phase) = self.shutdown.enter(Phase::Closing) else { return };
        let sumdb = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = sumdb.recheck() => {}
                _ = phase.wait_for(|phase| *phase >= Phase::Closing) => {}
            }
        });
    }

    async fn recheck(self: &Arc<Self>) {
        self.log_unverified().await;
        if self.database.is_none() {
            return;
        }
        loop {
            let began = Instant::now();
            let Rechecked { confirmed, differ, unverified, unreachable } = self.recheck_all().await;
            if confirmed + differ + unverified + unreachable > 0 {
                log::info!(
                    confirmed, differ, unverified, unreachable, elapsed = format!("{:.1?}", began.elapsed());
                    "asked the checksum database about unverified versions"
                );
            }
            let (usual, after_outage) = BETWEEN_PASSES;
            tokio::time::sleep(if unreachable > 0 { after_outage } else { usual }).await;
        }
    }

    /// Logs how many versions are unverified.
    async fn log_unverified(self: &Arc<Self>) {
        let sumdb = Arc::clone(self);
        let counted = blocking(&self.store, "stored versions", move |store| {
            let (mut unverified, mut required) = (0u64, 0u64);
            sumdb.each_unverified(store, |version| {
                unverified += 1;
                required += u64::from(sumdb.is_required(&version));
                ControlFlow::Continue(())
            })?;
            Ok((unverified, required))
        });
        match counted.await {
            Ok((0, _)) => {}
            Ok((unverified, 0)) => {
                log::info!(unverified; "stored versions were not verified against a checksum database");
            }
            Ok((unverified, required)) => {
                log::warn!(unverified, required; "stored versions were not verified against a checksum database: those under checksum=require are verified before they are served");
            }
            Err(error) => log::warn!(reason:% = error; "cannot count the unverified versions"),
        }
    }

    async fn recheck_all(self: &Arc<Self>) -> Rechecked {
        let (sender, mut versions) = mpsc::channel(AHEAD);
        let sumdb = Arc::clone(self);
        let walk = tokio::spawn({
            let store = Arc::clone(&self.store);
            async move {
                blocking(&store, "stored versions", move |store| {
                    let send = |version, is_pair| match sender.blocking_send((version, is_pair)) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    };
                    sumdb.each_unverified(store, |version| send(version, false))?;
                    sumdb.each_unverified_pair(store, |version| send(version, true))
                })
                .await
            }
        });
        let (mut rechecked, mut failures, via) = (Rechecked::default(), 0, Via::none());
        while let Some((version, is_pair)) = versions.recv().await {
            let rule = Arc::clone(self.policy.load().rule(version.path()));
            // A slow database must not delay the shutdown. A pair is verified within this task, which ends then.
            let verified = match is_pair {
                true => self.verify_pair(&version, &rule, &via).await,
                false => self.verify_stored_until(Phase::Closing, &version, &rule, &via).await,
            };
            let standing = match verified {
                Ok(standing) => standing,
                Err(Unavailable::Stopping(_)) => break,
                Err(error) => {
                    log::warn!(version:% = version, reason:% = error; "cannot verify a stored version");
                    // A full disk fails each version, without a question that takes time.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            rechecked.add(&standing);
            failures = if matches!(standing, Standing::Unreachable(_)) { failures + 1 } else { 0 };
            if failures >= MAX_FAILURES {
                break;
            }
            if rule.checksum != ChecksumPolicy::Require {
                tokio::time::sleep(PAUSE).await;
            }
        }
        drop(versions);
        if let Ok(Err(error)) = walk.await {
            log::warn!(reason:% = error; "cannot find all unverified versions");
        }
        rechecked
    }

    /// Visits the stored versions without a verdict that the database may be asked about, until `visit` breaks.
    pub(crate) fn each_unverified(
        &self,
        store: &Store,
        mut visit: impl FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.visit_unverified(store, |each| store.each_version(each), &mut visit)
    }

    /// Visits the versions without a verdict whose info and go.mod are cached without the zip, until `visit` breaks.
    pub(crate) fn each_unverified_pair(
        &self,
        store: &Store,
        mut visit: impl FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.visit_unverified(store, |each| store.pairs().each(each), &mut |version| {
            match store.footprint(&version) {
                Ok(None) => visit(version),
                // It was visited as a stored version.
                _ => ControlFlow::Continue(()),
            }
        })
    }

    fn visit_unverified(
        &self,
        store: &Store,
        walk: impl FnOnce(&mut dyn FnMut(ModuleVersion) -> ControlFlow<()>) -> Result<(), StoreError>,
        visit: &mut dyn FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut failed = None;
        walk(&mut |version| match self.is_unverified(store, &version) {
            Ok(true) => visit(version),
            Ok(false) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Continue(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Returns whether a version has no verdict and the database may be asked about it.
    fn is_unverified(&self, store: &Store, version: &ModuleVersion) -> Result<bool, StoreError> {
        if !self.may_ask_about(version) {
            return Ok(false);
        }
        let record = store.records().get(version)?;
        Ok(record.is_none_or(|record| record.verdict.is_none()))
    }

    fn is_required(&self, version: &ModuleVersion) -> bool {
        self.policy.load().rule(version.path()).checksum == ChecksumPolicy::Require
    }
}
