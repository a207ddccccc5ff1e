//! The store of module versions at its current layout, and only that one.
//!
//! ```text
//! ROOT/
//!   layout.v2                                  the marker
//!   store.lock                                 shared by every process that has the store open
//!   modules/ESCAPED/@v/VERSION/{info,mod,zip}  one folder per version, published by one rename
//!   modules/ESCAPED/@v/VERSION/ziphash         the seal
//!   staging/RUN/                               work in progress of one process
//!   staging/reserve/                           space for records on a full disk
//!   staging/claims                             one byte to lock per version
//!   quarantine/UNIQUE/{reason.toml,version}    a corrupt version and the reason
//!   records/ESCAPED/@v/VERSION.toml            hashes and tombstones, which outlive the version
//!   records/audit/                             who changed which version
//!   index/  cache/                             derived, may be lost
//! ```
//!
//! A version exists if its `info` can be opened. It is published whole, by one rename, and never changes afterwards,
//! except that its seal may be added. So a reader opens one file and needs no lock.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`read`](Store::small), [`list`](Store::list) | reading versions and lists |
//! | [`draft`](Draft), [`publish`](Store::publish) | writing and publishing a version |
//! | [`seal`](Store::seal) | the seal: a version is verified once, before its zip is served |
//! | [`verify`](Store::verify) | reading versions again, `examine` reads one |
//! | [`compare`](Store::compare) | comparing a stored version with confirmed hashes |
//! | [`quarantine`](Quarantine) | corrupt versions, to be restored or removed |
//! | [`batch`](Batch) | publishing many versions with few waits for the disk |
//! | [`records`](Records) | the recorded hashes and the tombstones of versions |
//! | [`remove`](Store::remove) | removing versions, with a recorded hash or for good |
//! | [`audit`](Audit) | the audit log of these changes |
//! | `reserve`, [`space`](Store::is_full) | removing versions on a full disk, and whether it is full |
//! | [`last_use`](Usage) | the day of the last use of each version |
//! | [`cache`](Cache) | answers of upstreams, which may be lost |
//! | [`tree_heads`](TreeHeads) | the largest tree head of each checksum database |
//! | [`census`](Store::census) | every stored version with its size and time, and every leftover |
//! | [`meter`](Meter) | the number of bytes of zips that were read, for a progress bar |
//! | [`claim`](Claim), [`claim_wait`](ClaimWait) | the lock on one version for all of these changes, and the wait for it |
//! | [`peers`](Peers) | the state towards other deployments: pointers, queue and conflicts |
//! | [`index`](StoreIndex) | the catalog and the feed, page by page: derived, recovers by itself |
//!
//! This crate knows only the current layout. A [`Store`] opens only with a [`Pass`](stoa_layout::Pass) or a
//! [`Held`](stoa_layout::Held) of the gate, which proves that the store is at that layout.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests break stores by hand"))]

mod audit;
mod batch;
mod cache;
mod census;
mod change;
mod claim;
mod claim_wait;
mod compare;
mod draft;
mod error;
mod examine;
mod files;
mod index;
mod last_use;
mod list;
mod metadata;
mod meter;
mod numbered;
mod open;
mod pairs;
mod paths;
mod peers;
mod publish;
mod quarantine;
mod read;
mod records;
mod remove;
mod reserve;
mod seal;
mod seal_state;
mod space;
mod sqlite;
mod staging;
#[cfg(test)]
mod testing;
mod tree_heads;
mod verify;
mod walk;

use stoa_layout::LayoutId;

pub use audit::{Act, Actor, Audit};
pub use batch::Batch;
pub use cache::{Cache, Cached, Shelf};
pub use census::{CensusItem, StoredVersion, census};
pub use change::{Change, OnChange};
pub use claim::Claim;
pub use claim_wait::ClaimWait;
pub use compare::Compared;
pub use draft::{Draft, DraftZip, SealError, SealedDraft, UnsyncedDraft};
pub use error::StoreError;
pub use index::{
    CatalogEntry, Condition, FeedEntry, IndexArtefact, IndexError, IndexRow, KnownManifest, LogEvent,
    LogKind, LogState, ManifestChange, ManifestRow, Reconciled, Stop, StoreIndex, Totals, manifest_key,
};
pub use last_use::{Day, LastUseError, LastUses, Usage};
pub use meter::Meter;
pub use open::Store;
pub use pairs::{CachedPair, Pair, Pairs};
pub use paths::VersionFile;
pub use peers::{Conflict, PeerSource, PeerState, Peers, PeersError, Queued, QueuedKind, RowChange};
pub use publish::Published;
pub use quarantine::{Quarantine, QuarantineEntry, Quarantined, Restored, each_quarantined};
pub use read::{Small, SmallFile, ZipFile};
pub use records::{
    FailedLookup, Lift, Mark, Objection, Record, RecordedBy, Records, RecordsState, Tombstone, Verdict,
    verdict_at,
};
pub use remove::{Footprint, Removed};
pub use tree_heads::{HeadReplaced, TreeHeads};
pub use verify::{Verified, Which};

/// The layout that this crate reads and writes.
pub const LAYOUT: LayoutId = LayoutId::fixed("v2");

/// The folders of an empty store.
pub const FOLDERS: [&str; 6] = ["modules", "staging", "quarantine", "index", "cache", "records"];
