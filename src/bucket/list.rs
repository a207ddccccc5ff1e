//! Lists of the versions of a module in the bucket.
//!
//! One listing of a module runs at a time, and all requests share it. It goes on after the patience of the clients has
//! ended, so a list that takes long comes with a later request. It is no outage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use stoa_bucket::{BucketError, ListedThere, Trouble};
use stoa_gomod::{ModulePath, Version};
use tokio::sync::Semaphore;

use super::Tier;
use crate::tasks::Once;

/// Number of modules whose list is remembered.
const LISTS: usize = 10_000;

/// The time that a client waits for a list of versions. Answers are sent without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time that another client waits for a listing that is late.
const PATIENCE_WHEN_LATE: Duration = Duration::from_secs(1);

/// Maximum number of listings that run at the same time. Each is an open connection.
const MAX_LISTINGS: usize = 64;

/// The lists of a server.
#[derive(Debug)]
pub(super) struct Lists {
    remembered: Cache<ModulePath, (Instant, Arc<ListedThere>)>,
    /// The versions with a tombstone in the last list of a module, also if that list is forgotten.
    forbidden: Cache<ModulePath, Arc<[Version]>>,
    running: Once<ModulePath, Result<Arc<ListedThere>, BucketError>>,
    /// The modules whose listing is running and late.
    late: Cache<ModulePath, ()>,
    turns: Semaphore,
}

impl Default for Lists {
    fn default() -> Self {
        let (remembered, late) = (Cache::new(LISTS), Cache::new(LISTS));
        let (forbidden, turns) = (Cache::new(LISTS), Semaphore::new(MAX_LISTINGS));
        Self { remembered, forbidden, running: Once::new(), late, turns }
    }
}

impl Lists {
    /// Forgets the list of a module.
    pub(super) fn remove(&self, module: &ModulePath) {
        self.remembered.remove(module);
    }

    fn remember_forbidden(&self, module: &ModulePath, forbidden: &[Version]) {
        match forbidden.is_empty() {
            true => drop(self.forbidden.remove(module)),
            false => self.forbidden.insert(module.clone(), forbidden.into()),
        }
    }

    /// Forgets all lists.
    pub(super) fn clear(&self) {
        self.remembered.clear();
    }
}

impl Tier {
    /// Returns the versions of a module in the bucket. Remembers the answer for a while.
    pub(crate) async fn list(self: &Arc<Self>, module: &ModulePath) -> Result<Arc<ListedThere>, BucketError> {
        let remembered = self.lists.remembered.get(module);
        if let Some((at, versions)) = &remembered
            && at.elapsed() < self.options.list_ttl
        {
            return Ok(Arc::clone(versions));
        }
        let listed = match self.is_paused() {
            true => Err(self.no_list(self.outage().unwrap_or_default())),
            false => self.listing_in_time(module).await,
        };
        // An old list is better than none.
        listed.or_else(|error| remembered.map(|(_, versions)| versions).ok_or(error))
    }

    /// Returns the versions of a module that had a tombstone in its last list, for an answer without a list.
    pub(crate) fn last_forbidden(&self, module: &ModulePath) -> Vec<Version> {
        self.lists.forbidden.get(module).map(|versions| versions.to_vec()).unwrap_or_default()
    }

    async fn listing_in_time(self: &Arc<Self>, module: &ModulePath) -> Result<Arc<ListedThere>, BucketError> {
        let patience = if self.lists.late.get(module).is_some() { PATIENCE_WHEN_LATE } else { PATIENCE };
        tokio::time::timeout(patience, self.listing(module)).await.unwrap_or_else(|_| {
            self.lists.late.insert(module.clone(), ());
            Err(self.no_list(format!("no answer within {} s, the listing goes on", patience.as_secs())))
        })
    }

    /// Joins the running listing of a module, or starts one, and waits for it.
    async fn listing(self: &Arc<Self>, module: &ModulePath) -> Result<Arc<ListedThere>, BucketError> {
        let work = || {
            let (tier, module) = (Arc::clone(self), module.clone());
            async move {
                let _turn = tier.lists.turns.acquire().await;
                let seen = tier.moment();
                let listed = tier.note(tier.versions.list(&module).await);
                tier.lists.late.remove(&module);
                let listed = Arc::new(listed?);
                tier.lists.remember_forbidden(&module, &listed.forbidden);
                tier.lists.remembered.insert(module.clone(), (Instant::now(), Arc::clone(&listed)));
                // A version that was removed meanwhile may be in the list. Checked last: a removal that is learned of
                // after this line takes the list away itself.
                if tier.moment() != seen {
                    tier.lists.remembered.remove(&module);
                }
                Ok(listed)
            }
        };
        let task = self.lists.running.join(module, work);
        let task = task.ok_or_else(|| self.no_list("too many lists are being read"))?;
        task.wait().await.unwrap_or_else(|| Err(self.no_list("the task failed")))
    }

    fn no_list(&self, reason: impl std::fmt::Display) -> BucketError {
        BucketError::new(Trouble::Unreachable, "list", self.url(), reason)
    }
}

#[cfg(test)]
mod tests {
    use stoa_bucket::Tombstone;
    use stoa_gomod::ModuleVersion;

    use crate::bucket::testing::{publish, tier};

    #[tokio::test]
    async fn an_answer_without_a_list_knows_the_tombstones_of_the_last_list() {
        let tier = tier(false).await;
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        publish(&tier, &version).await;
        let tombstone = Tombstone::new("2026-01-02T03:04:05Z".to_owned(), None);
        tier.versions.remove(&version, Some(tombstone), true).await.unwrap();
        assert_eq!(tier.list(version.path()).await.unwrap().forbidden, [version.version().clone()]);
        tier.lists.remove(version.path());
        tier.note_outage(tier.no_list("a test"));
        assert!(tier.list(version.path()).await.is_err());
        assert_eq!(tier.last_forbidden(version.path()), [version.version().clone()]);
    }
}
