//! The record of uses in the bucket, from the usage data of the store.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use stoa_store::{Day, LastUseError, Store};

use super::Tier;
use crate::lock::lock;

/// Number of days that a server looks back at its start, or after an outage before it has recorded anything.
const BACK: i64 = 30;

/// The part of the usage data that is in the bucket.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// The day of the last complete record.
    last: Option<Day>,
    hasher: RandomState,
    /// The hashes of the versions that were written for a day, and the number of their objects.
    days: HashMap<Day, (HashSet<u64>, u32)>,
    /// The day for which the bucket has the note that this server records nothing.
    off: Option<Day>,
}

impl Recorded {
    /// Returns the versions that were not written for a day, and the number of the objects of that day.
    fn missing(&self, day: Day, versions: Vec<String>) -> (Vec<String>, u32) {
        match self.days.get(&day) {
            None => (versions, 0),
            Some((written, objects)) => {
                let is_new = |version: &String| !written.contains(&self.hasher.hash_one(version));
                (versions.into_iter().filter(is_new).collect(), *objects)
            }
        }
    }

    fn add(&mut self, day: Day, versions: &[String], objects: u32) {
        let hashes = versions.iter().map(|version| self.hasher.hash_one(version));
        let (written, count) = self.days.entry(day).or_default();
        written.extend(hashes);
        *count = objects;
    }

    /// Notes that everything up to a day was written. The usage data of the day before may still grow.
    fn complete(&mut self, today: Day) {
        self.last = Some(today);
        self.days.retain(|day, _| day.0 + 1 >= today.0);
    }
}

impl Tier {
    /// Writes which versions this server has used since the last record. What is written stays: the usage data may be
    /// lost, and a version that was used again leaves the older day. Returns false after an error, which is logged.
    pub(super) async fn record_uses(&self, store: &Arc<Store>) -> bool {
        let Some(server) = self.sign.as_deref().and_then(|sign| sign.rsplit('/').next()) else { return true };
        if store.is_read_only() {
            return true;
        }
        let today = Day::today();
        if !self.options.records_uses {
            return self.note_no_uses(server, today).await;
        }
        let first = lock(&self.state).recorded.last.map_or(today.0 - BACK, |last| last.0 - 1);
        let read = {
            let store = Arc::clone(store);
            let read = move || -> Result<Vec<_>, LastUseError> {
                // Open for all days, so that no version changes its day meanwhile.
                let uses = store.usage().last_uses()?;
                (first..=today.0).map(Day).map(|day| Ok((day, uses.used_on(day)?))).collect()
            };
            tokio::task::spawn_blocking(read).await
        };
        let days = match read {
            Ok(Ok(days)) => days,
            Ok(Err(error)) => {
                log::warn!(reason:% = error; "cannot read the usage data for the bucket");
                return false;
            }
            // The server ends.
            Err(_) => return false,
        };
        for (day, versions) in days {
            // Without usage data, as on a full disk, nothing is known of this server.
            let Some(versions) = versions else { return false };
            let (missing, objects) = lock(&self.state).recorded.missing(day, versions);
            // An empty object of today says that this server records uses.
            if missing.is_empty() && (day != today || objects > 0) {
                continue;
            }
            match self.note(self.versions.write_uses(server, day.0, objects, &missing).await) {
                Ok(objects) => lock(&self.state).recorded.add(day, &missing, objects),
                Err(_) => return false,
            }
        }
        lock(&self.state).recorded.complete(today);
        true
    }

    /// Notes once a day that this server records nothing.
    async fn note_no_uses(&self, server: &str, today: Day) -> bool {
        if lock(&self.state).recorded.off == Some(today) {
            return true;
        }
        let is_noted = self.note(self.versions.note_no_uses(server, today.0).await).is_ok();
        if is_noted {
            lock(&self.state).recorded.off = Some(today);
        }
        is_noted
    }
}
