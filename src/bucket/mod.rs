//! The bucket that several servers share, as one server sees it.
//!
//! The store of the server is a cache in front of the bucket. A version that the store does not have is looked for in
//! the bucket before any upstream, and a downloaded version is published there before it is published in the store.
//! Nothing is written to the bucket in an outage: the store serves what it has, and other requests fail.

mod catalog;
mod evict;
mod publish;
mod uses;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use quick_cache::sync::Cache;
use stoa_bucket::{
    BucketError, BucketState, ClaimThere, ClaimTimes, Held, ListedThere, Manifest, Nonce, ProbeError,
    Trouble, VersionContent, Versions,
};
use stoa_gomod::{H1, ModulePath, ModuleVersion};
use stoa_store::{Objection, Record, SmallFile, Tombstone, Verdict};

use crate::lock::lock;
use crate::unavailable::Unavailable;
use crate::upstream::{ByteStream, GivenFiles, OpenZip};

pub(crate) use self::publish::{Downloaded, PublishedInBucket};

/// Number of versions of which the server remembers that the bucket has the same.
const KNOWN: usize = 100_000;

/// Number of modules whose list is remembered.
const LISTS: usize = 10_000;

/// The time after a failed request without another request for stored versions.
const PAUSE: Duration = Duration::from_secs(10);

/// The time after which the content of a version is read again that could not be read.
const UNREADABLE: Duration = Duration::from_secs(60);

/// Time limit for a list of versions. Answers are sent without it.
const LIST_LIMIT: Duration = Duration::from_secs(5);

/// The value of `Retry-After` in an outage.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// How long a URL is valid to which clients are redirected.
const REDIRECT_VALID: Duration = Duration::from_secs(15 * 60);

/// The settings of a server for its bucket.
#[derive(Debug, Clone, Copy)]
pub struct TierOptions {
    /// How long a list of versions counts as fresh.
    pub list_ttl: Duration,
    /// Maximum size of the versions in the store in bytes.
    pub max_local_size: u64,
    /// Whether clients get zips directly from the bucket.
    pub redirects: bool,
    /// Whether the server records which versions are used.
    pub records_uses: bool,
    /// Whether nothing may be written to the bucket, because nothing may be written to the store.
    pub is_read_only: bool,
}

/// The bucket of a server.
#[derive(Debug)]
pub struct Tier {
    versions: Versions,
    /// The machine and the process, for claims and for other servers.
    owner: String,
    /// The object by which the server shows that it is running. `None` for a read-only server, and if the system has no
    /// random numbers.
    sign: Option<String>,
    /// Whether Athens may save versions in the bucket beside the servers.
    is_of_athens: bool,
    options: TierOptions,
    is_probed: AtomicBool,
    /// Stored versions that the bucket has too, as of the last look.
    known: Cache<ModuleVersion, ()>,
    /// How often the server has learned of removals.
    removals: AtomicU64,
    /// Versions whose content in the bucket could not be read. They are downloaded again.
    unreadable: Cache<ModuleVersion, Instant>,
    lists: Cache<ModulePath, (Instant, Arc<ListedThere>)>,
    /// The keys of zips to which clients are redirected.
    zips: Cache<ModuleVersion, Arc<str>>,
    catalog: catalog::Catalog,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last failure, and its time, until a request succeeds.
    outage: Option<(Instant, String)>,
    /// The reason why the bucket is not this server's any more.
    left: Option<String>,
    recorded: uses::Recorded,
}

/// A moment between two removals that the server has learned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

/// A version in the bucket.
#[derive(Debug)]
pub(crate) enum InBucket {
    /// It exists.
    Present(Box<Held<Manifest>>),
    /// It does not exist, and its manifest keeps what is known of it. Or its content could not be read.
    Known(Box<Held<Manifest>>),
    /// It has never existed.
    Unknown,
}

/// A stored version, compared with the bucket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The bucket has the same version, or cannot be asked.
    Same,
    /// The bucket has never had it.
    Unknown,
    /// It was removed from the bucket.
    Removed,
    /// The bucket has another one.
    Differs(H1),
}

impl Tier {
    /// Returns the bucket with this state.
    pub fn new(versions: Versions, state: &BucketState, owner: String, options: TierOptions) -> Self {
        let is_of_athens = state.history.iter().any(|entry| entry.from == stoa_bucket::ATHENS.as_str());
        let nonce = Nonce::random().ok().filter(|_| !options.is_read_only);
        let sign = nonce.map(|nonce| format!("{}/{nonce}", versions.keys().servers()));
        Self {
            versions,
            owner,
            sign,
            is_of_athens,
            options,
            is_probed: AtomicBool::new(false),
            known: Cache::new(KNOWN),
            removals: AtomicU64::new(0),
            unreadable: Cache::new(KNOWN),
            lists: Cache::new(LISTS),
            zips: Cache::new(KNOWN),
            catalog: catalog::Catalog::default(),
            state: Mutex::default(),
        }
    }

    /// Notes that the service supports conditional writes.
    pub(crate) fn set_probed(&self) {
        self.is_probed.store(true, Ordering::Relaxed);
    }

    /// Notes that the bucket could not be reached at the start.
    pub(crate) fn note_outage(&self, error: BucketError) {
        let _ = self.note(Err::<(), _>(error));
    }

    /// Checks the service before the first write, if that was not done at the start.
    async fn probe(&self, version: &ModuleVersion) -> Result<(), Unavailable> {
        if self.is_probed.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.versions.bucket().probe().await {
            Ok(()) => {
                self.set_probed();
                Ok(())
            }
            Err(ProbeError::Request(error)) => {
                self.note(Err(error)).map_err(|error| self.unavailable(version, &error))
            }
            Err(ProbeError::Unsafe { observed, .. }) => {
                log::error!(bucket = self.url(), reason = observed; "cannot write to the bucket");
                Err(unusable(version))
            }
        }
    }

    /// Returns the URL of the bucket, for messages.
    pub(crate) fn url(&self) -> String {
        self.versions.bucket().url().to_string()
    }

    /// Returns why the bucket cannot be used now, if it cannot.
    pub(crate) fn outage(&self) -> Option<String> {
        let state = lock(&self.state);
        state.left.clone().or_else(|| state.outage.as_ref().map(|(_, reason)| reason.clone()))
    }

    /// Returns whether the bucket is not this server's any more.
    pub(crate) fn has_left(&self) -> bool {
        lock(&self.state).left.is_some()
    }

    /// Returns whether a stored version may be served without a look into the bucket.
    pub(crate) fn is_known(&self, version: &ModuleVersion) -> bool {
        self.known.get(version).is_some()
    }

    /// Returns whether stored versions are served without a look, because the bucket did not answer a moment ago.
    pub(crate) fn is_paused(&self) -> bool {
        let state = lock(&self.state);
        state.left.is_some() || state.outage.as_ref().is_some_and(|(at, _)| at.elapsed() < PAUSE)
    }

    /// Notes the result of a request. Logs the begin and the end of an outage.
    fn note<T>(&self, result: Result<T, BucketError>) -> Result<T, BucketError> {
        let mut state = lock(&self.state);
        match &result {
            Ok(_) => {
                if let Some((since, _)) = state.outage.take() {
                    let elapsed = since.elapsed();
                    log::info!(bucket = self.url(), outage:? = elapsed; "the bucket can be used again");
                }
            }
            Err(error) if matches!(error.trouble, Trouble::Unreachable | Trouble::Denied) => {
                if state.outage.is_none() {
                    log::warn!(bucket = self.url(), reason = error.without_help(); "cannot use the bucket, serving stored versions only");
                }
                state.outage = Some((Instant::now(), error.without_help()));
            }
            Err(error) if error.trouble == Trouble::Left => {
                if state.left.is_none() {
                    log::error!(bucket = self.url(), reason = error.without_help(); "the layout of the bucket changed, serving stored versions only");
                }
                state.left = Some(error.without_help());
            }
            Err(_) => {}
        }
        result
    }

    /// Returns the error for clients, who learn nothing of the bucket.
    fn unavailable(&self, version: impl std::fmt::Display, error: &BucketError) -> Unavailable {
        // The others are logged once, as the begin of an outage.
        if !matches!(error.trouble, Trouble::Unreachable | Trouble::Denied | Trouble::Left) {
            log::warn!(version:%, bucket = self.url(), reason = error.without_help(); "cannot use the bucket for a version");
        }
        unusable(version)
    }

    /// Fails if the server must not use the bucket any more.
    fn check(&self, version: impl std::fmt::Display) -> Result<(), Unavailable> {
        match lock(&self.state).left.is_some() {
            true => Err(unusable(version)),
            false => Ok(()),
        }
    }

    /// Looks for a version. Adopts a version that Athens has saved since the upgrade.
    pub(crate) async fn look(&self, version: &ModuleVersion) -> Result<InBucket, Unavailable> {
        self.check(version)?;
        let looked = async {
            if let Some(held) = self.versions.manifest(version).await? {
                return Ok(Some(held));
            }
            // Adopting a version writes its manifest.
            match self.is_of_athens && !self.options.is_read_only {
                true => self.versions.adopt_missing(version).await,
                false => Ok(None),
            }
        };
        let held = self.note(looked.await).map_err(|error| self.unavailable(version, &error))?;
        Ok(match held.map(Box::new) {
            None => InBucket::Unknown,
            Some(held) if held.document.record.tombstone.is_some() => InBucket::Known(held),
            Some(held) if held.document.present_content().is_some() && !self.is_unreadable(version) => {
                InBucket::Present(held)
            }
            Some(held) => InBucket::Known(held),
        })
    }

    /// Returns the info or the mod of a version. `None` if the bucket does not have it, or in an outage.
    pub(crate) async fn small(&self, version: &ModuleVersion, file: SmallFile) -> Option<Bytes> {
        if self.is_paused() {
            return None;
        }
        let held = match self.look(version).await.ok()? {
            InBucket::Present(held) => held,
            InBucket::Known(_) | InBucket::Unknown => return None,
        };
        let content = held.document.present_content()?;
        let small = match file {
            SmallFile::Info => &content.info,
            SmallFile::Mod => &content.modfile,
        };
        self.note(self.versions.small(small).await).ok()?
    }

    /// Returns whether the bucket has a version. False in an outage.
    pub(crate) async fn has(&self, version: &ModuleVersion) -> bool {
        !self.is_paused() && matches!(self.look(version).await, Ok(InBucket::Present(_)))
    }

    /// Returns the files of a version. The zip is requested when it is needed. `None` if the info or the mod is missing.
    pub(crate) async fn files(
        &self,
        version: &ModuleVersion,
        content: &VersionContent,
    ) -> Result<Option<GivenFiles>, Unavailable> {
        let read = async {
            let info = self.versions.small(&content.info).await?;
            let modfile = self.versions.small(&content.modfile).await?;
            Ok(info.zip(modfile))
        };
        let read = self.note(read.await).map_err(|error| self.unavailable(version, &error))?;
        let Some((info, modfile)) = read else {
            self.unreadable.insert(version.clone(), Instant::now());
            return Ok(None);
        };
        let (versions, zip) = (self.versions.clone(), content.zip.clone());
        let open = async move {
            match versions.zip(&zip, None).await {
                Ok(Some(content)) => {
                    let parts = content.bytes.map(|part| part.map_err(|error| error.without_help()));
                    Ok(ByteStream::new(parts.boxed()))
                }
                Ok(None) => Err("its zip is missing or was replaced".to_owned()),
                Err(error) => Err(error.without_help()),
            }
        };
        Ok(Some(GivenFiles {
            origin: self.url(),
            info,
            modfile,
            size: content.zip.size,
            zip: Mutex::new(Some(OpenZip(open.boxed()))),
        }))
    }

    /// Notes that the content of a version could not be read. It is downloaded from an upstream, and must be the same.
    pub(crate) fn note_unreadable(&self, version: &ModuleVersion, reason: &dyn std::fmt::Display) {
        log::warn!(version:%, bucket = self.url(), reason:%; "cannot read a version in the bucket, downloading it again");
        self.unreadable.insert(version.clone(), Instant::now());
    }

    /// Returns whether the content of a version could not be read a moment ago.
    fn is_unreadable(&self, version: &ModuleVersion) -> bool {
        self.unreadable.get(version).is_some_and(|since| since.elapsed() < UNREADABLE)
    }

    /// Moves a version whose content is corrupt to the quarantine of the bucket.
    pub(crate) async fn quarantine(
        &self,
        version: &ModuleVersion,
        content: &VersionContent,
        reason: &str,
    ) -> Result<(), Unavailable> {
        self.check(version)?;
        log::error!(version:%, bucket = self.url(), reason; "a version in the bucket is corrupt, moving it to quarantine");
        let moved = self.versions.quarantine(version, Some(&content.zip.key), reason).await;
        self.forget_in_index(std::slice::from_ref(version)).await;
        self.note(moved).map(drop).map_err(|error| self.unavailable(version, &error))
    }

    /// Claims a version for its download. Returns `None` if another server has published it.
    pub(crate) async fn claim(&self, version: &ModuleVersion) -> Result<Option<ClaimThere>, Unavailable> {
        self.check(version)?;
        // Before the first write: the bucket may have been taken to another layout a moment ago.
        self.note(self.versions.check_state().await).map_err(|error| self.unavailable(version, &error))?;
        self.probe(version).await?;
        let claimed = self.versions.claim(version, &self.owner, ClaimTimes::default()).await;
        self.note(claimed).map_err(|error| self.unavailable(version, &error))
    }

    /// Compares a stored version with the bucket.
    pub(crate) async fn compare(&self, version: &ModuleVersion, seal: Option<&H1>) -> Standing {
        if self.is_paused() {
            return Standing::Same;
        }
        let seen = self.moment();
        let Ok(held) = self.note(self.versions.manifest(version).await) else { return Standing::Same };
        let Some(held) = held else { return Standing::Unknown };
        if held.document.record.tombstone.is_some() {
            return Standing::Removed;
        }
        match (held.document.present_content(), seal) {
            (None, _) => Standing::Removed,
            (Some(_), Some(seal)) if held.document.seal().is_some_and(|theirs| theirs != seal) => {
                Standing::Differs(seal.clone())
            }
            (Some(_), _) => {
                self.know(version, seen);
                Standing::Same
            }
        }
    }

    /// Returns whether clients get zips directly from the bucket.
    pub(crate) fn redirects(&self) -> bool {
        self.options.redirects
    }

    /// Returns a URL that reads the zip of a version for a while. `None` if this server must send the zip itself: nobody has
    /// verified it, Athens could replace it, the bucket cannot be reached, or the credentials cannot sign.
    pub(crate) async fn redirect(&self, version: &ModuleVersion) -> Option<String> {
        if !self.options.redirects || self.is_paused() {
            return None;
        }
        let key = match self.zips.get(version).filter(|_| self.is_known(version)) {
            Some(key) => key,
            None => {
                let held = self.note(self.versions.manifest(version).await).ok()??;
                let content = held.document.present_content().filter(|content| content.zip.h1.is_some())?;
                let is_own = content.zip.key.starts_with(&self.versions.keys().contents());
                let key: Arc<str> = is_own.then(|| Arc::from(content.zip.key.as_str()))?;
                self.zips.insert(version.clone(), Arc::clone(&key));
                key
            }
        };
        let signed = self.versions.bucket().signed_url(&key, REDIRECT_VALID).await;
        signed
            .inspect_err(
                |error| log::debug!(version:%, reason = error.without_help(); "cannot sign a URL of a zip"),
            )
            .ok()?
    }

    /// Returns the present moment, for [`Self::know`].
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.removals.load(Ordering::SeqCst))
    }

    /// Notes that the bucket has the stored version, as was seen at some moment or later. Without effect if the server
    /// has learned of removals since that moment: this version may be among them.
    pub(crate) fn know(&self, version: &ModuleVersion, seen: Moment) {
        self.known.insert(version.clone(), ());
        self.unreadable.remove(version);
        // Checked last: a removal that is learned of after this line takes the note away itself.
        if self.moment() != seen {
            self.known.remove(version);
        }
    }

    /// Returns the versions of a module in the bucket. Remembers the answer for a while.
    pub(crate) async fn list(&self, module: &ModulePath) -> Result<Arc<ListedThere>, BucketError> {
        let remembered = self.lists.get(module);
        if let Some((at, versions)) = &remembered
            && at.elapsed() < self.options.list_ttl
        {
            return Ok(Arc::clone(versions));
        }
        let unreachable = |reason| BucketError::new(Trouble::Unreachable, "list", self.url(), reason);
        let listed = match self.is_paused() {
            true => Err(unreachable(self.outage().unwrap_or_default())),
            false => match tokio::time::timeout(LIST_LIMIT, self.versions.list(module)).await {
                Ok(listed) => self.note(listed),
                Err(_) => self.note(Err(unreachable(format!("no answer within {} s", LIST_LIMIT.as_secs())))),
            },
        };
        match (listed, remembered) {
            (Ok(versions), _) => {
                let versions = Arc::new(versions);
                self.lists.insert(module.clone(), (Instant::now(), Arc::clone(&versions)));
                Ok(versions)
            }
            // An old list is better than none.
            (Err(_), Some((_, versions))) => Ok(versions),
            (Err(error), None) => Err(error),
        }
    }
}

fn unusable(version: impl std::fmt::Display) -> Unavailable {
    let reason =
        format!("cannot get {version}: the bucket of this proxy cannot be used\nhelp: try again later")
            .into();
    Unavailable::Limited { reason, status: 503, retry_after: RETRY_AFTER }
}

/// Returns the error for a version with a tombstone in the bucket.
pub(crate) fn forbidden(version: &ModuleVersion, tombstone: &stoa_bucket::Tombstone) -> Unavailable {
    Unavailable::objection(version, &Objection::Tombstone(local_tombstone(tombstone)))
}

/// Returns a tombstone of the bucket as the store has it.
pub(crate) fn local_tombstone(tombstone: &stoa_bucket::Tombstone) -> Tombstone {
    Tombstone { at: tombstone.at.clone(), reason: tombstone.reason.clone() }
}

/// Adds what the bucket knows of a version to its record. Returns whether the record has changed.
pub(crate) fn add_to_record(record: &mut Record, manifest: &Manifest) -> bool {
    let known = &manifest.record;
    let h1 = known.h1.as_ref().or(manifest.seal());
    if let (Some(h1), Some(gomod_h1), Some(verdict)) = (&known.h1, &known.gomod_h1, &known.verdict) {
        let verdict = Verdict {
            database: verdict.database.clone(),
            tree_size: verdict.tree_size,
            at: verdict.at.clone(),
        };
        return record.confirm(h1, gomod_h1, &verdict);
    }
    let before = (record.h1.clone(), record.gomod_h1.clone());
    if record.h1.is_none() {
        record.h1 = h1.cloned();
    }
    if record.gomod_h1.is_none() {
        record.gomod_h1.clone_from(&known.gomod_h1);
    }
    before != (record.h1.clone(), record.gomod_h1.clone())
}

/// Returns what is known of a version, for a manifest.
pub(crate) fn record_there(record: &Record) -> stoa_bucket::Record {
    stoa_bucket::Record {
        h1: record.h1.clone(),
        gomod_h1: record.gomod_h1.clone(),
        verdict: record.verdict.as_ref().map(|verdict| stoa_bucket::Verdict {
            database: verdict.database.clone(),
            tree_size: verdict.tree_size,
            at: verdict.at.clone(),
        }),
        tombstone: None,
    }
}
