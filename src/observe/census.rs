//! The count of unverified versions and of the quarantine. It reads a file per version, so it runs in a thread of its own, at
//! most every ten minutes, and only while somebody reads the metrics.

use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::{Store, StoreError, each_quarantined};

use crate::lock::lock;
use crate::services::Services;

/// The minimum time between two counts, and between the end of a count and the next count as a multiple of its duration.
const INTERVAL: Duration = Duration::from_secs(600);
const PAUSE_FACTOR: u32 = 20;

/// Number of versions that are read from the index at once.
const PAGE: usize = 1000;

/// The last count.
#[derive(Debug, Default)]
pub(super) struct Census(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Unverified versions, and entries of the quarantine.
    last: Option<(u64, u64)>,
    is_running: bool,
    next: Option<Instant>,
}

impl Census {
    /// Returns the last count, and starts the next one if it is due. `None` before the end of the first count.
    pub(super) fn last(self: &Arc<Self>, services: &Arc<Services>) -> Option<(u64, u64)> {
        let mut state = lock(&self.0);
        let is_due = state.next.is_none_or(|next| next <= Instant::now());
        if is_due && !state.is_running {
            state.is_running = true;
            let (census, services) = (Arc::clone(self), Arc::downgrade(services));
            let started =
                thread::Builder::new().name("census".to_owned()).spawn(move || census.run(&services));
            if let Err(error) = started {
                log::debug!(reason:% = error; "cannot start the count of unverified versions");
                state.is_running = false;
            }
        }
        state.last
    }

    fn run(&self, services: &Weak<Services>) {
        let began = Instant::now();
        let counted = count(services);
        let mut state = lock(&self.0);
        state.is_running = false;
        state.next = Some(Instant::now() + INTERVAL.max(began.elapsed() * PAUSE_FACTOR));
        // The index may not be built yet.
        match counted {
            Some(counted) => state.last = Some(counted),
            None => state.next = Some(Instant::now() + Duration::from_secs(1)),
        }
    }
}

/// Counts the unverified versions and the quarantine. `None` without an index, and at the shutdown.
fn count(services: &Weak<Services>) -> Option<(u64, u64)> {
    let mut unverified = 0;
    let mut after: Option<(String, String)> = None;
    loop {
        let services = services.upgrade()?;
        let from = after.as_ref().map(|(module, version)| (module.as_str(), version.as_str()));
        let page = services.store.index().catalog(from, PAGE).ok()?;
        let Some(last) = page.last() else { break };
        after = Some((last.module.clone(), last.version.clone()));
        let is_last = page.len() < PAGE;
        let policy = services.policy.load();
        for entry in page {
            let Some(version) = named(&entry.module, &entry.version) else { continue };
            if !policy.is_private(version.path()) && !is_verified(&services.store, &version) {
                unverified += 1;
            }
        }
        if is_last {
            break;
        }
    }
    let mut quarantined = 0;
    let counted: Result<(), StoreError> = each_quarantined(services.upgrade()?.store.root(), |_| {
        quarantined += 1;
        Ok(())
    });
    counted.ok().map(|()| (unverified, quarantined))
}

fn named(module: &str, version: &str) -> Option<ModuleVersion> {
    ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()
}

fn is_verified(store: &Store, version: &ModuleVersion) -> bool {
    store.records().get(version).is_ok_and(|record| record.is_some_and(|record| record.verdict.is_some()))
}
