//! The state of the checksum databases, and what is known of a stored version.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quick_cache::sync::Cache;
use stoa_gomod::private::Patterns;
use stoa_gomod::sumdb::{Tile, Tree};
use stoa_gomod::{H1, ModulePath, ModuleVersion};
use stoa_store::Store;
use tokio::sync::Semaphore;

use super::gosumdb::Gosumdb;
use super::outage::Outage;
use crate::policy::{ChecksumPolicy, PolicyCell, Rule};
use crate::tasks::{Once, Shutdown};
use crate::unavailable::Unavailable;
use crate::upstream::{SumdbAnswer, Upstream};

/// Number of tiles that are cached in memory. A full tile has 8 KiB.
const TILES: usize = 512;

/// Maximum number of concurrent requests for clients.
const MAX_ASKED: usize = 64;
/// Number of stored versions that are compared with a verdict at a time.
const COMPARING: usize = 4;

/// Number of stored versions that are remembered to be confirmed.
const CONFIRMED: usize = 32_768;

/// Number of versions whose records are remembered during an outage of the database.
const KNOWN_VERDICTS: usize = 32_768;

/// Settings for checksum databases.
#[derive(Debug, Clone, Default)]
pub struct SumdbOptions {
    /// The database that downloads are verified against.
    pub database: Option<Gosumdb>,
    /// The database's own URL, if it is asked directly.
    pub own: Option<Upstream>,
    /// The modules that no database is asked about, by this program or by its clients.
    pub private: Patterns,
}

/// Checksum databases: the one that downloads are verified against, and those that are forwarded.
#[derive(Debug)]
pub struct Sumdb {
    pub(super) store: Arc<Store>,
    pub(super) policy: Arc<PolicyCell>,
    pub(super) database: Option<Database>,
    pub(super) private: Patterns,
    /// How long the latest tree head counts as fresh.
    pub(super) head_ttl: Duration,
    /// The running requests for clients, by database and path.
    pub(super) forwarding: Once<(String, String), Result<SumdbAnswer, Unavailable>>,
    /// Limits the concurrent requests for clients.
    pub(super) turns: Semaphore,
    /// The running verifications of stored versions.
    pub(super) verifying: Once<ModuleVersion, Result<Standing, Unavailable>>,
    /// Limits the comparisons of stored versions, which may read whole zips.
    pub(super) comparing: Semaphore,
    /// Stored versions that are confirmed, with the hash of their zip.
    pub(super) confirmed: Cache<ModuleVersion, H1>,
    /// Whether the record of a version has a verdict, and the time at which it was read. Used during an outage only.
    pub(super) verdicts: Cache<ModuleVersion, (bool, Instant)>,
    pub(super) shutdown: Arc<Shutdown>,
    pub(super) counts: Arc<Counts>,
}

/// Results of verification since startup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChecksumCounts {
    /// Versions that a database confirmed.
    pub verified: u64,
    /// Versions that were accepted without confirmation by a database.
    pub unverified: u64,
    /// Versions that were refused because a database has other hashes.
    pub mismatches: u64,
    /// Versions that were refused because no database confirmed them.
    pub refused: u64,
    /// Databases that have signed two contradicting trees.
    pub forks: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) verified: AtomicU64,
    pub(super) unverified: AtomicU64,
    pub(super) mismatches: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) forks: AtomicU64,
}

/// A database and its state.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) sumdb: Gosumdb,
    /// The database's own URL, if it is asked directly.
    pub(super) own: Option<Upstream>,
    pub(super) timeline: Mutex<Timeline>,
    /// Only proved tiles.
    pub(super) tiles: Cache<Tile, Bytes>,
    pub(super) has_forked: AtomicBool,
    pub(super) outage: Outage,
    pub(super) counts: Arc<Counts>,
}

/// A tree head and its signed note.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) tree: Tree,
    pub(super) note: Arc<[u8]>,
}

/// The known tree heads of a database.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) largest: Option<Head>,
    /// The head in the store, once it has been read.
    pub(super) kept: Option<Option<Arc<[u8]>>>,
}

/// The knowledge about a stored version.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// The version is not in the store, or was corrupt.
    Absent,
    /// A checksum database or a go.sum confirms it.
    Confirmed,
    /// A checksum database has other hashes. The version is in quarantine now, unless the store is read-only.
    Differs(Arc<str>),
    /// No checksum database confirms it, for this reason.
    Unconfirmed(Arc<str>),
    /// The checksum database cannot be reached.
    Unreachable(Unavailable),
    /// There is no server to ask.
    Offline,
    /// The policy of its module is `off`.
    NotAsked,
}

impl Sumdb {
    pub(crate) fn new(
        store: Arc<Store>,
        policy: Arc<PolicyCell>,
        options: SumdbOptions,
        head_ttl: Duration,
        shutdown: Arc<Shutdown>,
    ) -> Arc<Self> {
        let SumdbOptions { database, own, private } = options;
        let counts = Arc::<Counts>::default();
        let database = database.map(|sumdb| Database {
            sumdb,
            own,
            timeline: Mutex::default(),
            tiles: Cache::new(TILES),
            has_forked: AtomicBool::new(false),
            outage: Outage::default(),
            counts: Arc::clone(&counts),
        });
        Arc::new(Self {
            store,
            policy,
            database,
            private,
            head_ttl,
            forwarding: Once::while_wanted(),
            turns: Semaphore::new(MAX_ASKED),
            verifying: Once::new(),
            comparing: Semaphore::new(COMPARING),
            confirmed: Cache::new(CONFIRMED),
            verdicts: Cache::new(KNOWN_VERDICTS),
            shutdown,
            counts,
        })
    }

    pub(super) fn named(&self, name: &str) -> Option<&Database> {
        self.database.as_ref().filter(|database| database.sumdb.name() == name)
    }

    /// Returns the fault of a signed note, if the key of the database is known.
    pub(super) fn fault_of_note(&self, name: &str, note: Option<&[u8]>) -> Option<String> {
        self.named(name)?.sumdb.verifier.verify(note?).err().map(|error| error.to_string())
    }

    /// Returns whether no database may be asked about a module, by this program or by its clients.
    pub(super) fn is_private(&self, module: &ModulePath) -> bool {
        self.private.matches(module.as_str()) || self.policy.load().is_private(module)
    }

    /// Returns whether the database may be asked about a version.
    pub(crate) fn may_ask_about(&self, version: &ModuleVersion) -> bool {
        let policy = self.policy.load();
        let rule = policy.rule(version.path());
        rule.checksum != ChecksumPolicy::Off && !self.is_private(version.path())
    }

    /// Returns whether a version may only be unverified because the database cannot be reached.
    pub(super) fn is_out_of_reach(&self, version: &ModuleVersion, rule: &Rule) -> bool {
        let is_asked = rule.checksum != ChecksumPolicy::Off && !self.is_private(version.path());
        is_asked && self.database.as_ref().is_some_and(|database| database.outage.is_ongoing())
    }

    /// Counts a version whose hashes differ from those of a database.
    pub(crate) fn count_mismatch(&self) {
        self.counts.mismatches.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the results so far.
    pub fn counts(&self) -> ChecksumCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { verified, unverified, mismatches, refused, forks } = &*self.counts;
        ChecksumCounts {
            verified: read(verified),
            unverified: read(unverified),
            mismatches: read(mismatches),
            refused: read(refused),
            forks: read(forks),
        }
    }
}
