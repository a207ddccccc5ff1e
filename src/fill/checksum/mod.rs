//! Verification of downloads against a checksum database.
//!
//! The lookup starts with the flight and runs beside its downloads. Hashes that a database confirms are
//! written into the version's record at once, before they are compared. So they count even if the download
//! fails, and the database need not be asked again. Then the mod and the zip are compared with them. A
//! version that differs is never published.
//!
//! | policy | the database has other hashes, lies, or has forked | it does not know the version, or cannot be reached |
//! | --- | --- | --- |
//! | `auto` | refused; a client may receive the mod before the lookup has finished | accepted |
//! | `require` | refused | refused; no client receives the mod before it is confirmed |
//! | `off` | the database is not asked; the version's record still applies | the database is not asked |
//!
//! A database is asked through an upstream of the module that forwards it, or at the URL in `GOSUMDB`. No
//! other server learns the module's name.
//!
//! | module | purpose |
//! | --- | --- |
//! | `sumdb` | the name and key of a database |
//! | `timeline` | the database's tree heads, and the alarm when two of them contradict each other |
//! | `lookup` | the hashes of a version, proved by the tree's tiles |
//! | `source` | the server that is asked |
//! | `outage` | the timeout of a lookup |
//! | `verification` | the verification of one flight |

mod lookup;
mod outage;
mod source;
mod sumdb;
mod timeline;
mod verification;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quick_cache::sync::Cache;
use stoa_gomod::private::Patterns;
use stoa_gomod::sumdb::Tile;

pub(super) use self::source::SumdbSource;
pub use self::sumdb::{Sumdb, SumdbError};
pub(super) use self::verification::{Confirmation, Verification};

use self::outage::Outage;
use self::timeline::Timeline;
use crate::upstream::Upstream;

/// Number of tiles that are cached in memory. A full tile has 8 KiB.
const TILES: usize = 512;

/// The checksum database for downloads, and how verification went.
#[derive(Debug, Default)]
pub struct Checksums {
    database: Option<Database>,
    /// The modules that no database is asked about.
    private: Patterns,
    counts: Arc<Counts>,
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
struct Counts {
    verified: AtomicU64,
    unverified: AtomicU64,
    mismatches: AtomicU64,
    refused: AtomicU64,
    forks: AtomicU64,
}

/// A database and its state.
#[derive(Debug)]
struct Database {
    sumdb: Sumdb,
    /// The database's own URL, if `GOSUMDB` has one.
    own: Option<Upstream>,
    timeline: Mutex<Timeline>,
    /// Only proved tiles.
    tiles: Cache<Tile, Bytes>,
    has_forked: AtomicBool,
    outage: Outage,
    counts: Arc<Counts>,
}

impl Checksums {
    /// Verifies against a database; `own` is the database's own URL, if there is one.
    pub fn new(sumdb: Option<Sumdb>, own: Option<Upstream>, private: Patterns) -> Self {
        let counts = Arc::<Counts>::default();
        let database = sumdb.map(|sumdb| Database {
            sumdb,
            own,
            timeline: Mutex::default(),
            tiles: Cache::new(TILES),
            has_forked: AtomicBool::new(false),
            outage: Outage::default(),
            counts: Arc::clone(&counts),
        });
        Self { database, private, counts }
    }

    /// Returns the name of the database, if there is one.
    pub fn database(&self) -> Option<&str> {
        self.database.as_ref().map(|database| database.sumdb.name())
    }

    fn named(&self, name: &str) -> Option<&Database> {
        self.database.as_ref().filter(|database| database.sumdb.name() == name)
    }

    /// Returns the server that is asked for a database: its own URL if there is one, or else this upstream.
    pub(super) fn source<'a>(&'a self, name: &str, upstream: &'a Upstream) -> SumdbSource<'a> {
        match self.named(name).and_then(|database| database.own.as_ref()) {
            Some(own) => SumdbSource::Database(own),
            None => SumdbSource::Upstream(upstream),
        }
    }

    /// Returns the fault of a signed note, if the key of the database is known.
    pub(super) fn fault_of_note(&self, name: &str, note: Option<&[u8]>) -> Option<String> {
        self.named(name)?.sumdb.verifier.verify(note?).err().map(|error| error.to_string())
    }

    /// Counts a version whose hashes differ from those of a database.
    pub(super) fn count_mismatch(&self) {
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
