//! A run: it adds up the versions of a store, decides which of them go, and removes these.
//!
//! A version that is used in between is younger by then, and stays. The removal of a version is that of `stoa prune`: a kill
//! at any moment leaves each version whole or absent.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use stoa_gomod::ModuleVersion;
use stoa_store::{Act, Day, LastUseError, LastUses, Stop, Store, StoreError};

use super::limits::{Disk, Goal, Limits};
use super::plan::{Age, Plan};
use super::walk;

/// A run that ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot read the usage data: {0}")]
    Uses(#[from] LastUseError),
    #[error("the server is shutting down")]
    Stopped,
}

/// A run over a store.
pub(super) struct Run<'a> {
    pub(super) store: &'a Store,
    pub(super) limits: Limits,
    /// Returns whether a version may be removed.
    pub(super) may_go: &'a dyn Fn(&ModuleVersion) -> bool,
    pub(super) disk: Option<Disk>,
    pub(super) stop: &'a Stop,
}

/// The result of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Report {
    /// The removed versions and their bytes.
    pub(super) versions: u64,
    pub(super) bytes: u64,
    /// The versions that could not be removed.
    pub(super) failed: u64,
    /// The bytes of all versions before the run.
    pub(super) total: u64,
    /// The bytes by which the store is still above a limit.
    pub(super) excess: u64,
    /// The names of the limits that the run enforced.
    pub(super) limits: String,
}

impl Run<'_> {
    /// Runs. `report` has the removed versions also if the run ends early.
    pub(super) fn run(&self, report: &mut Report) -> Result<(), RunError> {
        let mut uses = self.store.usage().last_uses()?;
        let (counted, total) = self.count(&uses)?;
        report.total = total;
        let goal = self.limits.goal(total, self.disk, Day::today());
        report.limits = goal.limits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let plan = Plan::new(&counted, total, goal.max, goal.unused_since);
        if is_needed(plan, &counted) {
            let removed = self.remove(&uses, plan, report);
            self.record(report);
            removed?;
            if let Err(error) = uses.sweep(self.store) {
                log::warn!(reason:% = error; "cannot remove the usage data of removed versions");
            }
        }
        report.excess = self.excess(&goal, report);
        Ok(())
    }

    /// Adds up bytes: of versions that may go, by age, and of all.
    fn count(&self, uses: &LastUses<'_>) -> Result<(BTreeMap<Age, u64>, u64), RunError> {
        let (mut counted, mut total) = (BTreeMap::<Age, u64>::new(), 0);
        let unreadable = |error: StoreError| log::debug!(reason:% = error; "skipped a version");
        self.each(uses, &unreadable, &mut |version, bytes, age| {
            total += bytes;
            if (self.may_go)(&version) {
                *counted.entry(age).or_default() += bytes;
            }
            ControlFlow::Continue(())
        })?;
        Ok((counted, total))
    }

    fn remove(&self, uses: &LastUses<'_>, mut plan: Plan, report: &mut Report) -> Result<(), RunError> {
        let failed = Cell::new(None);
        self.each(uses, &drop, &mut |version, bytes, age| {
            if !(self.may_go)(&version) || !plan.takes(age, bytes) {
                return ControlFlow::Continue(());
            }
            match self.remove_one(&version) {
                Ok(Some(bytes)) => {
                    report.versions += 1;
                    report.bytes += bytes;
                }
                // Another process works on it, and so uses it.
                Ok(None) => {}
                Err(error) if error.is_of_one_version() => {
                    report.failed += 1;
                    log::warn!(version:% = version, reason:% = error; "cannot remove a version");
                }
                Err(error) => {
                    failed.set(Some(error));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(failed.take().map_or(Ok(()), Err)?)
    }

    fn remove_one(&self, version: &ModuleVersion) -> Result<Option<u64>, StoreError> {
        let Some(claim) = self.store.try_claim(version)? else { return Ok(None) };
        Ok(self.store.remove(&claim, None)?.bytes)
    }

    fn each(
        &self,
        uses: &LastUses<'_>,
        unreadable: &dyn Fn(StoreError),
        found: &mut walk::Found<'_>,
    ) -> Result<(), RunError> {
        let check = || if self.stop.is_asked() { Err(RunError::Stopped) } else { Ok(()) };
        walk::each(self.store, uses, &check, unreadable, found)
    }

    /// Writes the line of the run. The removals have their own lines.
    fn record(&self, report: &Report) {
        if report.versions > 0 {
            let reason = format!("{} versions, {} bytes: {}", report.versions, report.bytes, report.limits);
            self.store.note(Act::of_path("evict", "modules").because(Some(&reason)));
        }
    }

    /// Returns the bytes by which the store is still above a limit. The goal is below the limits, and need not be reached.
    fn excess(&self, goal: &Goal, report: &Report) -> u64 {
        if goal.max.is_none() {
            return 0;
        }
        let left = report.total.saturating_sub(report.bytes);
        let above = self.limits.max_size.map_or(0, |max| left.saturating_sub(max));
        let missing = self.limits.missing(self.disk).unwrap_or(0).saturating_sub(report.bytes);
        above.max(missing)
    }
}

/// Returns whether a plan takes some version.
fn is_needed(mut plan: Plan, counted: &BTreeMap<Age, u64>) -> bool {
    counted.iter().any(|(age, bytes)| plan.takes(*age, *bytes))
}
