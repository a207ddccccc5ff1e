//! The tasks of a server on its bucket: it applies removals by others, shows that it is running, and publishes versions
//! that only the store has.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stoa_bucket::{Gone, Held, Removals};
use stoa_gomod::ModuleVersion;
use stoa_store::{SmallFile, Store, StoreError};
use tokio::sync::mpsc;

use super::publish::{Downloaded, PublishedInBucket};
use super::{Standing, Tier};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

/// The pause between two looks at the list of removals and at the state.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Time limit for the last request of a server.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

/// Number of looks from one object that shows that the server is running to the next.
const LOOKS_PER_SIGN: u32 = 2;

/// The pause between two measurements of the store.
const EVICT_EVERY: Duration = Duration::from_secs(600);

/// Number of versions that are compared at the same time after removals.
const COMPARED_AT_ONCE: usize = 16;

/// How long an announced removal is compared again at each look. A removal is announced before the manifest changes, and
/// again afterwards. A command that was killed in between announces it only once.
const COMPARED_AGAIN: Duration = Duration::from_secs(600);

/// Maximum number of announced removals that are compared again.
const ANNOUNCED: usize = 20_000;

/// Number of looks from one record of uses to the next.
const LOOKS_PER_RECORD: u32 = 120;

/// Number of stored versions that the walk over the store is ahead.
const AHEAD: usize = 64;

/// The way to remove a version that another process works on.
#[derive(Debug, Clone, Copy)]
enum Claiming {
    /// Wait for the other process.
    Wait,
    /// Leave the version, and try it again later. A look must not wait, because other removals would wait too.
    Now,
}

impl Tier {
    /// Watches the bucket until the task is aborted, or until the bucket is not this server's any more.
    pub(crate) async fn watch(self: Arc<Self>, store: Arc<Store>) {
        let mut gone: Option<Held<Gone>> = None;
        let mut announced = HashMap::new();
        let mut is_first = true;
        let (mut sign_at, mut record_at) = (0, 0);
        for look in 0u32.. {
            // First, because a server writes nothing to a bucket that was taken to another layout.
            let checked = self.note(self.versions.check_state().await);
            if self.has_left() {
                return;
            }
            // Before the sign: a server that is alive and has recorded nothing is one that does not record.
            if checked.is_ok() && look >= record_at && self.record_uses(&store).await {
                record_at = look + LOOKS_PER_RECORD;
            }
            if let Some(sign) = self.sign.as_ref().filter(|_| checked.is_ok() && look >= sign_at) {
                let text = Bytes::from(format!("{}\n", self.owner));
                if self.note(self.versions.bucket().overwrite(sign, text).await).is_ok() {
                    sign_at = look + LOOKS_PER_SIGN;
                }
            }
            gone = self.apply_removals(gone, is_first, &mut announced).await;
            self.compare_announced(&store, &mut announced).await;
            is_first = false;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Keeps the size of the store below its limit, until the task is aborted. A task of its own, since it may take long.
    pub(crate) async fn keep_small(self: Arc<Self>, store: Arc<Store>) {
        tokio::time::sleep(LOOK_EVERY).await;
        loop {
            if let Err(error) = self.evict(&store).await {
                log::warn!(reason:% = error; "cannot reduce the store to its maximum size");
            }
            tokio::time::sleep(EVICT_EVERY).await;
        }
    }

    /// Deletes the object that shows that the server is running, at the end of the server.
    pub(crate) async fn leave(&self, store: &Arc<Store>) {
        let Some(sign) = self.sign.as_ref().filter(|_| self.outage().is_none()) else { return };
        let leave = async {
            // A server writes nothing to a bucket that was taken to another layout.
            self.versions.check_state().await?;
            self.record_uses(store).await;
            self.versions.bucket().delete(sign).await
        };
        // A server that was killed counts as ended after two minutes.
        let deleted = tokio::time::timeout(LEAVE_LIMIT, leave).await;
        if !matches!(deleted, Ok(Ok(()))) {
            log::debug!(bucket = self.url(); "cannot delete the object of this server in the bucket");
        }
    }

    /// Reads the list of removals, and notes the versions that were added since the last look. Returns the list.
    async fn apply_removals(
        &self,
        before: Option<Held<Gone>>,
        is_first: bool,
        announced: &mut HashMap<ModuleVersion, Instant>,
    ) -> Option<Held<Gone>> {
        let key = self.versions.keys().gone();
        let read = match &before {
            Some(before) => {
                self.note(self.versions.bucket().document_unless::<Gone>(&key, &before.tag).await)
            }
            None => self.note(self.versions.bucket().document::<Gone>(&key).await).map(Some),
        };
        let now = match read {
            Ok(Some(Some(now))) => now,
            Ok(Some(None) | None) => return before,
            // Nothing is known to be the same before the list could be read.
            Err(_) => return before,
        };
        self.removals.fetch_add(1, Ordering::SeqCst);
        if is_first {
            // Versions that were compared before may have been removed before the list was read.
            self.known.clear();
            self.zips.clear();
            return Some(now);
        }
        match now.document.since(before.map_or(0, |before| before.document.next)) {
            Removals::Some(versions) => {
                self.forget_in_index(&versions).await;
                announced.extend(versions.into_iter().map(|version| (version, Instant::now())));
            }
            Removals::TooMany => {
                self.known.clear();
                self.zips.clear();
                self.lists.clear();
                self.doubt_index();
            }
        }
        Some(now)
    }

    /// Compares the stored versions whose removal was announced with the bucket.
    async fn compare_announced(&self, store: &Arc<Store>, announced: &mut HashMap<ModuleVersion, Instant>) {
        announced.retain(|_, at| at.elapsed() < COMPARED_AGAIN);
        if announced.is_empty() {
            return;
        }
        // What was read before this line may have changed since.
        self.removals.fetch_add(1, Ordering::SeqCst);
        for version in announced.keys() {
            self.known.remove(version);
            self.zips.remove(version);
            self.lists.remove(version.path());
        }
        let compare = async |version: &ModuleVersion| {
            // The next look tries it again.
            if let Err(error) = self.compare_stored(store, version, Claiming::Now).await {
                log::warn!(version:%, reason:% = error; "cannot compare a stored version with the bucket");
            }
        };
        stream::iter(announced.keys()).for_each_concurrent(COMPARED_AT_ONCE, compare).await;
        if announced.len() > ANNOUNCED {
            announced.clear();
        }
    }

    /// Compares a stored version with the bucket, and removes it from the store if the bucket has no such version any
    /// more. Returns whether it is still stored.
    pub(crate) async fn check_stored(
        &self,
        store: &Arc<Store>,
        version: &ModuleVersion,
    ) -> Result<bool, Unavailable> {
        self.compare_stored(store, version, Claiming::Wait).await
    }

    async fn compare_stored(
        &self,
        store: &Arc<Store>,
        version: &ModuleVersion,
        claiming: Claiming,
    ) -> Result<bool, Unavailable> {
        let named = version.clone();
        let opened = blocking(store, version, move |store| {
            let has_pair = store.pairs().size(&named)?.is_some();
            Ok((store.open_zip(&named)?, has_pair))
        });
        let zip = match opened.await? {
            (Some(zip), _) => zip,
            (None, true) => return self.check_pair(store, version, claiming).await.map(|()| false),
            (None, false) => return Ok(false),
        };
        let seen = self.moment();
        let standing = self.compare(version, zip.seal.as_ref()).await;
        let reason = match standing {
            Standing::Same => return Ok(true),
            // Until the version is in the list of removals.
            Standing::Unknown if store.is_read_only() => {
                self.know(version, seen);
                return Ok(true);
            }
            Standing::Unknown => {
                let published = self.publish_stored(store, version).await;
                match published {
                    Ok(Some(PublishedInBucket::Same)) => return Ok(true),
                    Ok(Some(PublishedInBucket::Other)) => "the bucket has other content",
                    Ok(None) => "its stored copy is corrupt",
                    Ok(Some(PublishedInBucket::Removed)) => {
                        "it was removed from the bucket, or is in quarantine"
                    }
                    // It is served as long as the bucket cannot be asked.
                    Err(Unavailable::Limited { .. }) => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            Standing::Removed => "it was removed from the bucket",
            Standing::Differs(_) => "the bucket has other content",
        };
        if store.is_read_only() {
            return Err(Unavailable::Gone(format!("cannot serve {version}: {reason}").into()));
        }
        log::info!(version:%, reason, bucket = self.url(); "removing a stored version");
        self.remove_stored(store, version, claiming).await?;
        Ok(false)
    }

    /// Compares a cached info and mod, whose zip is not stored, with the bucket.
    async fn check_pair(
        &self,
        store: &Arc<Store>,
        version: &ModuleVersion,
        claiming: Claiming,
    ) -> Result<(), Unavailable> {
        let seen = self.moment();
        match self.compare(version, None).await {
            Standing::Removed if !store.is_read_only() => self.remove_stored(store, version, claiming).await,
            Standing::Removed => Err(Unavailable::Gone(
                format!("cannot serve {version}: it was removed from the bucket").into(),
            )),
            // Until the version is in the list of removals.
            Standing::Unknown => {
                self.know(version, seen);
                Ok(())
            }
            Standing::Same | Standing::Differs(_) => Ok(()),
        }
    }

    /// Removes a version and its cached info and mod from the store. The tombstone stays in the bucket, which is asked
    /// before any upstream, so that it can be lifted there.
    async fn remove_stored(
        &self,
        store: &Arc<Store>,
        version: &ModuleVersion,
        claiming: Claiming,
    ) -> Result<(), Unavailable> {
        let named = version.clone();
        let remove = move |store: &Store| {
            let claim = match claiming {
                Claiming::Wait => Some(store.claim(&named)?),
                Claiming::Now => store.try_claim(&named)?,
            };
            match claim {
                Some(claim) => store.remove_unrecorded(&claim).map(drop),
                None => {
                    log::debug!(version:% = named; "another process works on a version, removing it later");
                    Ok(())
                }
            }
        };
        blocking(store, version, remove).await
    }

    /// Publishes a version that only the store has. `None` if it is corrupt.
    async fn publish_stored(
        &self,
        store: &Arc<Store>,
        version: &ModuleVersion,
    ) -> Result<Option<PublishedInBucket>, Unavailable> {
        let named = version.clone();
        let read = blocking(store, version, move |store| {
            // An unsealed version is verified first.
            if store.seal(&named)?.is_none() {
                return Ok(None);
            }
            let info = store.small(&named, SmallFile::Info)?;
            let modfile = store.small(&named, SmallFile::Mod)?;
            let (Some(info), Some(modfile), Some(zip)) = (info, modfile, store.open_zip(&named)?) else {
                return Ok(None);
            };
            let Some(h1) = zip.seal.clone() else { return Ok(None) };
            let record = store.records().get(&named)?.unwrap_or_default();
            let zip = zip.file().try_clone().map_err(|error| {
                StoreError::from(stoa_layout::PathError::new("open", store.root(), error))
            })?;
            Ok(Some(Downloaded { version: named, info: info.bytes, modfile: modfile.bytes, zip, h1, record }))
        });
        match read.await? {
            Some(downloaded) => self.publish(downloaded, None).await.map(Some),
            None => Ok(None),
        }
    }

    /// Compares all stored versions with the bucket, and publishes those that the bucket has never had.
    pub(crate) async fn publish_all(self: Arc<Self>, store: Arc<Store>) {
        let (sender, mut versions) = mpsc::channel::<ModuleVersion>(AHEAD);
        let walked = Arc::clone(&store);
        let walk = tokio::task::spawn_blocking(move || {
            let visit = |version| match sender.blocking_send(version) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            walked.each_version(visit)
        });
        let (mut same, mut removed) = (0u64, 0u64);
        while let Some(version) = versions.recv().await {
            if self.is_known(&version) {
                same += 1;
                continue;
            }
            while self.outage().is_some() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            match self.check_stored(&store, &version).await {
                Ok(true) => same += 1,
                Ok(false) => removed += 1,
                Err(error) => {
                    log::warn!(version:%, reason:% = error; "cannot compare a stored version with the bucket");
                }
            }
        }
        match walk.await {
            Ok(Ok(())) if same + removed > 0 => {
                log::info!(versions = same, removed, bucket = self.url(); "all stored versions were compared with the bucket");
            }
            Ok(Err(error)) => {
                log::warn!(reason:% = error; "cannot compare the stored versions with the bucket")
            }
            Ok(Ok(())) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{publish, put, store, tier};
    use super::*;

    #[tokio::test]
    async fn a_look_does_not_wait_for_a_process_that_works_on_a_removed_version() {
        let dir = testkit::tempdir();
        let (store, tier) = (store(dir.path()), tier(false).await);
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        put(&store, &version);
        publish(&tier, &version).await;
        tier.versions.remove(&version, None, true).await.unwrap();
        let look = async || {
            let compared = tier.compare_stored(&store, &version, Claiming::Now);
            tokio::time::timeout(Duration::from_secs(60), compared).await.unwrap().unwrap();
            store.open_zip(&version).unwrap().is_some()
        };
        let claim = store.claim(&version).unwrap();
        assert!(look().await);
        drop(claim);
        assert!(!look().await);
    }
}
