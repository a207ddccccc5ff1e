//! Verifying what is fetched against a checksum database, while it is fetched.
//!
//! The lookup begins with the flight and runs beside its downloads. What a database vouches for is put into the
//! version's record as soon as it is known, before anything is compared with it: so it counts from then on, whatever
//! becomes of this fill, and the database need not be asked again. Then it is compared with the mod and the zip;
//! nothing that differs is ever published.
//!
//! | policy | the database holds other hashes, lies, or has forked | it does not know the version, or cannot be asked |
//! | --- | --- | --- |
//! | `auto` | refused; a mod that comes before the verdict is given out until that is recorded | taken as it is |
//! | `require` | refused | refused; a mod is not given out before it is vouched for |
//! | `off` | not asked; what is recorded binds nevertheless | not asked |
//!
//! A database is asked where an upstream of the module passes it on, or at the URL that `GOSUMDB` names, and
//! nowhere else: nobody learns the name of a module who has not been asked for it anyway, or was named for it.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `sumdb`, `known` | which database, and its key |
//! | `timeline` | the heads of its tree; the alarm when they do not agree |
//! | `lookup` | what it holds for a version, proved by its tiles |
//! | `place` | who is asked for it |
//! | `outage` | how long to wait for it |
//! | `vouching` | all this for one flight, and comparing |

mod known;
mod lookup;
mod outage;
mod place;
mod sumdb;
mod timeline;
mod vouching;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quick_cache::sync::Cache;
use stoa_gomod::private::Patterns;
use stoa_gomod::sumdb::Tile;
use stoa_store::{Store, StoreError};

pub(super) use self::place::Place;
pub use self::sumdb::{Sumdb, SumdbError};
pub(super) use self::vouching::Vouching;

use self::lookup::LookupError;
use self::outage::Outage;
use self::timeline::Timeline;
use super::FillError;
use crate::upstream::Upstream;

/// How many tiles are kept in memory: of 8 KiB each, whole.
const TILES: usize = 512;

/// What fills are verified against.
#[derive(Debug, Default)]
pub struct Checksums {
    database: Option<Database>,
    /// The modules that no database is asked for.
    private: Patterns,
    counts: Arc<Counts>,
}

/// How verifying went since this program was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChecksumCounts {
    /// Versions that a database vouched for.
    pub vouched: u64,
    /// Versions that were taken though no database vouched for them.
    pub unvouched: u64,
    /// Versions that were refused, since a database holds other hashes for them.
    pub mismatches: u64,
    /// Versions that were refused, since nobody vouches for them.
    pub refused: u64,
    /// Databases that have signed two trees that do not agree.
    pub forks: u64,
}

#[derive(Debug, Default)]
struct Counts {
    vouched: AtomicU64,
    unvouched: AtomicU64,
    mismatches: AtomicU64,
    refused: AtomicU64,
    forks: AtomicU64,
}

/// A database, and what is known of it.
#[derive(Debug)]
struct Database {
    sumdb: Sumdb,
    /// Where its URL leads to, if it has one of its own.
    own: Option<Upstream>,
    timeline: Mutex<Timeline>,
    /// Proved ones only.
    tiles: Cache<Tile, Bytes>,
    has_forked: AtomicBool,
    outage: Outage,
    counts: Arc<Counts>,
}

impl Checksums {
    /// Verifies against a database; `own` leads to its URL, if it has one.
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

    /// Is who is asked for a database: the database itself where its URL is known, else this upstream.
    pub(super) fn place<'a>(&'a self, name: &str, upstream: &'a Upstream) -> Place<'a> {
        match self.named(name).and_then(|database| database.own.as_ref()) {
            Some(own) => Place::Itself(own),
            None => Place::Upstream(upstream),
        }
    }

    /// Says what is wrong with a note of a database, if its key is known.
    pub(super) fn fault_of_note(&self, name: &str, note: Option<&[u8]>) -> Option<String> {
        self.named(name)?.sumdb.verifier.verify(note?).err().map(|error| error.to_string())
    }

    /// Counts a version that is another one than a database knows.
    pub(super) fn count_mismatch(&self) {
        self.counts.mismatches.fetch_add(1, Ordering::Relaxed);
    }

    /// Is how verifying went so far.
    pub fn counts(&self) -> ChecksumCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { vouched, unvouched, mismatches, refused, forks } = &*self.counts;
        ChecksumCounts {
            vouched: read(vouched),
            unvouched: read(unvouched),
            mismatches: read(mismatches),
            refused: read(refused),
            forks: read(forks),
        }
    }
}

/// Does on the blocking pool what may wait for the disk.
async fn off_the_runtime<T, F>(store: &Arc<Store>, work: F) -> Result<T, LookupError>
where
    T: Send + 'static,
    F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
{
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => Ok(result?),
        // The program ends.
        Err(error) if error.is_cancelled() => {
            Err(LookupError::Store(FillError::Stopping("a lookup in the checksum database".to_owned())))
        }
        Err(error) => {
            log::error!("looking a version up in a checksum database: {error}");
            Err(LookupError::Store(FillError::Broken("a lookup in the checksum database".to_owned())))
        }
    }
}
