//! The versions of the bucket in the index of the store, for `/catalog` and `/index`.
//!
//! A pass merges the sorted listing of the manifests with the sorted rows of the index, and reads the manifests whose tag
//! differs. It begins when a request for a list finds the last pass too old, so an idle server makes no request. Each
//! part of a pass is one transaction, so a pass that is interrupted keeps what it has read. Nothing is written to the
//! bucket. In an outage the index answers with what it has, unless it has never had all versions of the bucket.

mod merge;
mod state;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use stoa_bucket::{BucketError, Held, ListedManifest, Manifest, Trouble, VersionContent};
use stoa_gomod::ModuleVersion;
use stoa_store::{Condition, IndexError, ManifestChange, ManifestRow, Store, StoreIndex};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Notify, watch};

use self::merge::{Changed, Merge, Step, tag_of};
use self::state::State;
use super::Tier;
use super::record::local_mark;
use crate::lock::lock;

/// Number of keys of the listing, and of rows of the index, that are in memory at the same time.
const PAGE: usize = 1000;

/// Number of manifests that are read and then written to the index in one transaction.
const BLOCK: usize = 500;

/// Number of manifests that are read at the same time.
const READ_AT_ONCE: usize = 32;

const NANOSECONDS: u64 = 1_000_000_000;

/// The state of the passes.
#[derive(Debug)]
pub(super) struct Catalog {
    /// The store whose index gets the rows. Unset if the server does not keep the index.
    store: OnceLock<Arc<Store>>,
    wanted: Notify,
    state: Mutex<State>,
    /// The number of passes, failed and skipped ones included.
    passes: watch::Sender<u64>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            store: OnceLock::new(),
            wanted: Notify::new(),
            state: Mutex::default(),
            passes: watch::Sender::new(0),
        }
    }
}

/// The numbers of a pass.
#[derive(Debug, Default)]
struct Done {
    manifests: u64,
    read: u64,
}

/// A pass could not be completed.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("{}", .0.without_help())]
    Bucket(BucketError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("another process has replaced the index, or keeps the versions of another bucket in it")]
    Replaced,
}

impl Tier {
    /// Returns the ID of the bucket.
    pub(crate) fn id(&self) -> String {
        self.versions.keys().id().to_string()
    }

    /// Returns whether this server keeps the versions of the bucket in the index.
    pub(crate) fn keeps_catalog(&self) -> bool {
        self.catalog.store.get().is_some()
    }

    /// Asks for a pass if the last one is too old. Waits for it up to `limit` and the limit of a pass if the index is not
    /// complete, or if its rows are old.
    pub(crate) async fn refresh_catalog(&self, is_complete: bool, limit: Duration) {
        let mut passes = self.catalog.passes.subscribe();
        if self.is_paused() {
            return;
        }
        let wait = lock(&self.catalog.state).ask(is_complete, Instant::now());
        if wait.begins {
            self.catalog.wanted.notify_one();
        }
        let limit = limit.min(wait.limit);
        if !limit.is_zero() {
            // After the limit, the caller looks at what the index has.
            let _ = tokio::time::timeout(limit, passes.changed()).await;
        }
    }

    /// Returns a task that makes passes on request, until it is aborted, or until the bucket is not this server's any more.
    pub(crate) fn keep_catalog(self: Arc<Self>, store: Arc<Store>) -> impl Future<Output = ()> + Send {
        // Before the first request. A second task would have the same store.
        let _ = self.catalog.store.set(Arc::clone(&store));
        self.make_passes(store)
    }

    async fn make_passes(self: Arc<Self>, store: Arc<Store>) {
        // Rows of another bucket must not be listed. If there is no index yet, it has none.
        if let Err(error) = self.begin(&store).await {
            log::debug!(reason:% = error; "cannot prepare the index for the versions of the bucket");
        }
        while !self.has_left() {
            self.catalog.wanted.notified().await;
            let is_due = {
                let mut state = lock(&self.catalog.state);
                let is_due = state.is_due(Instant::now()) && !self.is_paused();
                if is_due {
                    state.begin(Instant::now());
                }
                is_due
            };
            if is_due {
                let began = Instant::now();
                let mut result = self.pass(&store).await;
                if matches!(result, Err(PassError::Replaced)) {
                    // The index was rebuilt meanwhile, so it has none of the rows.
                    result = self.pass(&store).await;
                }
                log_pass(&self.url(), &result, began.elapsed());
                lock(&self.catalog.state).end(Instant::now(), result.is_ok());
            }
            self.catalog.passes.send_modify(|passes| *passes += 1);
        }
    }

    /// Removes the rows of other buckets.
    async fn begin(&self, store: &Arc<Store>) -> Result<(), IndexError> {
        loop {
            let id = self.id();
            if !ask(store, move |index| index.change_bucket(Some(&id))).await? {
                return Ok(());
            }
        }
    }

    async fn pass(&self, store: &Arc<Store>) -> Result<Done, PassError> {
        self.noted(self.versions.check_state().await)?;
        self.begin(store).await?;
        let id = self.id();
        let token = ask(store, move |index| index.bucket_token(&id)).await?.ok_or(PassError::Replaced)?;
        let mut listing = self.noted(self.versions.listed_manifests())?.chunks(PAGE);
        let (mut merge, mut after, mut changed) = (Merge::default(), String::new(), Vec::new());
        let mut done = Done::default();
        loop {
            match merge.step() {
                Step::List => {
                    let page = listing.next().await.unwrap_or_default().into_iter();
                    let page: Result<Vec<ListedManifest>, BucketError> = page.collect();
                    let page = self.noted(page)?;
                    done.manifests += page.len() as u64;
                    merge.add_listed(page);
                }
                Step::Know => {
                    let from = after.clone();
                    let rows = ask(store, move |index| index.manifests(&from, PAGE)).await?;
                    if let Some(last) = rows.last() {
                        after.clone_from(&last.key);
                    }
                    merge.add_rows(rows);
                }
                Step::Same => {}
                Step::Read(one) => {
                    changed.push(one);
                    if changed.len() >= BLOCK {
                        done.read += self.read_changed(store, &token, std::mem::take(&mut changed)).await?;
                    }
                }
                Step::End => break,
            }
        }
        done.read += self.read_changed(store, &token, changed).await?;
        let id = self.id();
        match ask(store, move |index| index.complete_bucket(&id, &token)).await? {
            true => Ok(done),
            false => Err(PassError::Replaced),
        }
    }

    /// Reads manifests and writes their rows, also those that were read before a failure. Returns their number.
    async fn read_changed(
        &self,
        store: &Arc<Store>,
        token: &str,
        changed: Vec<Changed>,
    ) -> Result<u64, PassError> {
        let read = |one: Changed| async move {
            let held = self.versions.manifest(&one.version).await;
            (one, held)
        };
        let mut reads = std::pin::pin!(stream::iter(changed).map(read).buffer_unordered(READ_AT_ONCE));
        let (mut changes, mut failed) = (Vec::new(), None);
        while let Some((one, held)) = reads.next().await {
            match self.note(held) {
                Ok(held) => changes.push(change(one, held.as_ref())),
                Err(error) if error.trouble == Trouble::Damaged => {
                    log::warn!(version:% = one.version, reason = error.without_help(); "cannot list a version in the bucket");
                    changes.push(unreadable(one));
                }
                Err(error) => {
                    failed = Some(PassError::Bucket(error));
                    break;
                }
            }
        }
        let (id, token, count) = (self.id(), token.to_owned(), changes.len() as u64);
        if !ask(store, move |index| index.note_manifests(&id, Some(&token), &changes)).await? {
            return Err(PassError::Replaced);
        }
        failed.map_or(Ok(count), Err)
    }

    fn noted<T>(&self, result: Result<T, BucketError>) -> Result<T, PassError> {
        self.note(result).map_err(PassError::Bucket)
    }

    /// Writes the row of a manifest that this server has written or read just now. Best effort: the next pass does it
    /// too.
    pub(super) async fn note_in_index(&self, held: &Held<Manifest>) {
        let Some(tag) = tag_of(&held.tag) else { return };
        let version = held.document.version.clone();
        let now = Some(row(tag, &held.document));
        self.change_index(vec![ManifestChange { version, condition: Condition::Always, now }]).await;
    }

    /// Removes the rows of versions that were announced to go, and makes the next request for a list begin a pass. The
    /// pass reads their manifests.
    pub(super) async fn forget_in_index(&self, versions: &[ModuleVersion]) {
        lock(&self.catalog.state).outdate();
        for some in versions.chunks(PAGE) {
            let change = |version: &ModuleVersion| ManifestChange {
                version: version.clone(),
                condition: Condition::Always,
                now: None,
            };
            self.change_index(some.iter().map(change).collect()).await;
        }
    }

    /// Makes the next request for a list wait for a pass, because unknown versions were removed.
    pub(super) fn doubt_index(&self) {
        lock(&self.catalog.state).doubt();
    }

    async fn change_index(&self, changes: Vec<ManifestChange>) {
        let Some(store) = self.catalog.store.get() else { return };
        let id = self.id();
        if let Err(error) = ask(store, move |index| index.note_manifests(&id, None, &changes)).await {
            log::debug!(reason:% = error; "cannot update the index for versions in the bucket, trying again in the next pass");
        }
    }
}

/// Asks the index on the blocking pool, since it may wait for the disk.
async fn ask<T: Send + 'static>(
    store: &Arc<Store>,
    ask: impl FnOnce(StoreIndex<'_>) -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let store = Arc::clone(store);
    // It fails only in the shutdown, or after a panic, which is reported.
    tokio::task::spawn_blocking(move || ask(store.index())).await.unwrap_or(Err(IndexError::Stopped))
}

/// Returns the change of a row after its manifest was read. The tag of the listing is kept: if the manifest has changed
/// since, the next pass reads it again.
fn change(one: Changed, held: Option<&Held<Manifest>>) -> ManifestChange {
    let tag = |held: &Held<Manifest>| one.listed.or_else(|| tag_of(&held.tag)).unwrap_or_default();
    let now = held.map(|held| row(tag(held), &held.document));
    ManifestChange { version: one.version, condition: Condition::Tag(one.known), now }
}

/// Returns the row of a manifest.
fn row(tag: String, manifest: &Manifest) -> ManifestRow {
    let published = published(manifest);
    let content = manifest.present_content().filter(|_| published.is_some());
    ManifestRow {
        tag,
        published,
        bytes: content.map(VersionContent::bytes),
        // Without a seal, the zip must have the recorded hash before anybody gets it.
        h1: content.and_then(|content| content.zip.h1.as_ref().or(manifest.record.h1.as_ref())).cloned(),
        gomod_h1: content.and_then(|_| manifest.gomod_h1()),
        mark: manifest.record.mark().map(local_mark),
    }
}

/// Returns the change of a row whose manifest is damaged. The version is not listed, and the manifest is not read again
/// until its tag changes.
fn unreadable(one: Changed) -> ManifestChange {
    let now = one.listed.map(|tag| ManifestRow { tag, ..ManifestRow::default() });
    ManifestChange { version: one.version, condition: Condition::Tag(one.known), now }
}

/// Returns the time of the publication in nanoseconds since 1970. `None` if the version does not exist.
///
/// A manifest has whole seconds. The rest follows from the version, so that all servers list the same time, although
/// each version in the feed needs its own.
fn published(manifest: &Manifest) -> Option<i64> {
    manifest.present_content().filter(|_| manifest.record.tombstone.is_none())?;
    let at = OffsetDateTime::parse(&manifest.published_at, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let exact = i64::try_from(at.unix_timestamp_nanos()).unwrap_or(i64::MAX);
    if at.nanosecond() != 0 {
        return Some(exact);
    }
    // FNV-1a, which stays the same in later releases.
    let hash = manifest.version.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some(exact.saturating_add((hash % NANOSECONDS).cast_signed()))
}

fn log_pass(bucket: &str, result: &Result<Done, PassError>, elapsed: Duration) {
    match result {
        Ok(done) => log::debug!(
            bucket, manifests = done.manifests, manifests_read = done.read, elapsed:% = format!("{elapsed:.1?}");
            "the index has the versions of the bucket"
        ),
        // The outage was logged.
        Err(PassError::Bucket(error)) if error.trouble == Trouble::Unreachable => {
            log::debug!(bucket, reason = error.without_help(); "cannot update the index from the bucket");
        }
        Err(error) => log::warn!(bucket, reason:% = error; "cannot update the index from the bucket"),
    }
}
