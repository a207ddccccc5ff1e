//! The bucket that several servers share, as one server sees it.
//!
//! The store of the server is a cache in front of the bucket. A version that the store does not have is looked for in
//! the bucket before any upstream, and a downloaded version is published there before it is published in the store.
//! Nothing is written to the bucket in an outage: the store serves what it has, and other requests fail.
//!
//! | module | content |
//! | --- | --- |
//! | `look` | looking for versions, and reading their files |
//! | `mark` | tombstones of other deployments, and their lifting |
//! | `list` | lists of the versions of a module |
//! | `read` | files for the clients of a read-only server |
//! | `turns` | turns of the transfers to those clients |
//! | `redirect` | redirects of clients to the bucket |
//! | `publish` | publishing versions |
//! | `record` | known hashes and tombstones, from manifests to the store and back |
//! | `watch` | the tasks of a server: removals by others, and versions that only the store has |
//! | `catalog` | the versions of the bucket in the index of the store |
//! | `evict` | bounding the store |
//! | `uses` | the record of uses |
//! | `outage` | outages |

mod catalog;
mod evict;
mod list;
mod look;
mod mark;
mod outage;
mod publish;
mod read;
mod record;
mod redirect;
#[cfg(test)]
pub(crate) mod testing;
mod turns;
mod uses;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use stoa_bucket::{
    BucketState, ClaimThere, ClaimTimes, Nonce, ProbeError, PullTurn, VersionContent, Versions,
};
use stoa_gomod::ModuleVersion;

use self::list::Lists;
use self::outage::State;
use self::read::Reading;
use crate::unavailable::Unavailable;

pub(crate) use self::look::{InBucket, Standing};
pub(crate) use self::outage::unusable;
pub(crate) use self::publish::{Downloaded, PublishedInBucket};
pub(crate) use self::read::ZipStream;
pub(crate) use self::record::{add_to_record, forbidden, local_tombstone};

/// Number of versions of which the server remembers that the bucket has the same.
const KNOWN: usize = 100_000;

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
    lists: Lists,
    reading: Reading,
    /// The keys of zips to which clients are redirected.
    zips: Cache<ModuleVersion, (Instant, Arc<str>)>,
    catalog: catalog::Catalog,
    state: Mutex<State>,
}

/// A moment between two removals that the server has learned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

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
            lists: Lists::default(),
            reading: Reading::default(),
            zips: Cache::new(KNOWN),
            catalog: catalog::Catalog::default(),
            state: Mutex::default(),
        }
    }

    /// Notes that the service supports conditional writes.
    pub(crate) fn set_probed(&self) {
        self.is_probed.store(true, Ordering::Relaxed);
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

    /// Returns the turn of this server to pull from a peer.
    pub(crate) fn pull_turn(&self, peer: &str) -> PullTurn {
        PullTurn::new(self.versions.clone(), peer, self.owner.clone())
    }

    /// Returns the URL of the bucket, for messages.
    pub(crate) fn url(&self) -> String {
        self.versions.bucket().url().to_string()
    }

    /// Returns whether a stored version may be served without a look into the bucket.
    pub(crate) fn is_known(&self, version: &ModuleVersion) -> bool {
        self.known.get(version).is_some()
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
}
