//! The store of module versions at its current layout, and only that one.
//!
//! ```text
//! ROOT/
//!   layout.v2                                  the marker
//!   store.lock                                 shared by whoever keeps the store open
//!   modules/ESCAPED/@v/VERSION/{info,mod,zip}  one folder a version, published by one rename
//!   modules/ESCAPED/@v/VERSION/ziphash         the seal
//!   staging/RUN/                               work in progress of one process
//!   staging/claims                             one byte to lock a version
//!   quarantine/UNIQUE/{reason.toml,version}    what proved broken, with the reason
//!   records/ESCAPED/@v/VERSION.toml            what stays known of a version that is removed
//!   index/  cache/                             derived; may be lost
//! ```
//!
//! A version is there if its `info` opens. It comes into being by one rename, whole, and never changes
//! afterwards, except that its seal may be added. So a reader opens one file and needs no lock.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`read`](Store::small), [`list`](Store::list) | what readers ask |
//! | [`draft`](Draft), [`publish`](Store::publish) | how a version comes into being |
//! | [`seal`](Store::seal) | reading a version whole, once, before its zip is served |
//! | [`quarantine`](Quarantined) | where what proved broken goes; [`restore`](Store::restore), [`purge`](Store::purge) |
//! | [`batch`](Batch) | the same for many, with few waits for the disk |
//! | [`records`](Record) | what a version must agree with, and whether it is forbidden |
//! | [`remove`](Store::remove) | out of the store, with its hash or for good |
//! | [`last_use`](Store::note_use) | when versions were used, by the day |
//! | [`cache`](Shelf) | answers of upstreams, which may be lost |
//! | [`tree_heads`](Store::tree_head) | the largest tree head of each checksum database |
//! | [`census`](Store::census) | every stored version with its size and time, and every leftover |
//! | [`claim`](Claim) | who may do one of these to a version |
//! | [`index`](Store::catalog) | what lies in the store, page by page: derived, and healed by itself |
//!
//! Old layouts are no business of this crate: the gate's [`Pass`](stoa_layout::Pass) or
//! [`Held`](stoa_layout::Held), without which no [`Store`] opens, says that the layout is the current one.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests break stores by hand"))]

mod batch;
mod cache;
mod census;
mod claim;
mod draft;
mod error;
mod index;
mod last_use;
mod list;
mod open;
mod paths;
mod publish;
mod quarantine;
mod read;
mod records;
mod remove;
mod seal;
mod staging;
#[cfg(test)]
mod testing;
mod tree_heads;
mod walk;

use stoa_layout::LayoutId;

pub use batch::Batch;
pub use cache::{Cached, Shelf};
pub use census::{CensusItem, StoredVersion, census};
pub use claim::Claim;
pub use draft::{Draft, SealError, SealedDraft, UnsyncedDraft};
pub use error::StoreError;
pub use index::{CatalogEntry, FeedEntry, IndexArtefact, IndexError, IndexRow, Reconciled, Stop};
pub use last_use::{Day, LastUseError, LastUses};
pub use open::Store;
pub use paths::VersionFile;
pub use publish::Published;
pub use quarantine::{Entry, Quarantined, Restored, each_quarantined};
pub use read::{Small, SmallFile, ZipFile};
pub use records::{Objection, Record, Tombstone, Verdict};
pub use remove::{Footprint, Removed};
pub use seal::{Verified, Which};
pub use tree_heads::HeadReplaced;

/// The layout that this crate reads and writes.
pub const LAYOUT: LayoutId = LayoutId::fixed("v2");

/// The folders of an empty store.
pub const FOLDERS: [&str; 6] = ["modules", "staging", "quarantine", "index", "cache", "records"];
