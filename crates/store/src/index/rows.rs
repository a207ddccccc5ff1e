//! The rows of the index, as the database stores them and as a pass over the store finds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::settle::Stored;
use crate::metadata::Metadata;

/// A version in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The module path, unescaped.
    pub module: String,
    /// The version.
    pub version: String,
}

/// The stored versions, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of versions.
    pub versions: u64,
    /// The number of their modules.
    pub modules: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// A version in the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntry {
    /// The module path, unescaped.
    pub module: String,
    /// The version.
    pub version: String,
    /// The time of the publication in nanoseconds since 1970. Unique among all versions.
    pub time: i64,
}

/// The row of a version in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    /// The version.
    pub version: String,
    /// The time of the last write to its info in nanoseconds since 1970.
    pub modified: i64,
    /// The size of its info, mod and zip in bytes.
    pub bytes: u64,
    /// Whether all three files are there.
    pub is_complete: bool,
}

impl IndexRow {
    pub(super) fn stored(&self) -> Stored {
        Stored { modified: self.modified, bytes: self.bytes, is_complete: self.is_complete }
    }
}

/// The hashes of a version as the database has them, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hashes {
    pub(super) h1: Option<String>,
    pub(super) gomod_h1: Option<String>,
}

impl Hashes {
    /// Returns these hashes, and the others where these are unknown.
    pub(super) fn or(self, others: Self) -> Self {
        Self { h1: self.h1.or(others.h1), gomod_h1: self.gomod_h1.or(others.gomod_h1) }
    }
}

/// The identity and state of the `@v` folder of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FolderStamp {
    pub(super) inode: i64,
    pub(super) modified: i64,
    pub(super) changed: i64,
}

impl FolderStamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.inode.cast_signed(),
            modified: nanoseconds(meta.written.0, meta.written.1),
            changed: nanoseconds(meta.changed.0, meta.changed.1),
        }
    }
}

/// A module as a pass over the store found it.
#[derive(Debug)]
pub(super) struct SeenModule {
    pub(super) module: String,
    /// Sorted by the text of the version.
    pub(super) rows: Vec<IndexRow>,
    /// The stamp to store. `None` if the next pass must read the module again in any case.
    pub(super) stamp: Option<FolderStamp>,
    /// Whether the module no longer exists.
    pub(super) is_gone: bool,
}

/// A version as a pass over the store found it.
#[derive(Debug)]
pub(super) struct SeenVersion {
    pub(super) row: IndexRow,
    /// Whether the version is complete and old enough that a later change would be visible.
    pub(super) is_settled: bool,
}

/// The changes of a pass.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changed {
    pub(super) added: u64,
    pub(super) removed: u64,
}

/// A request to stop a pass. Clones share one request.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Requests the stop.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether the stop was requested.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns a time in nanoseconds since 1970, or the latest time that the index can store.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds).min(LATEST)
}

/// The latest time that the index stores, in the year 2262. A file may claim a later time. The margin leaves room to
/// find a free instant after any time.
pub(super) const LATEST: i64 = i64::MAX - (1 << 50);
