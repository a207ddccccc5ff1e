//! How the row of a version follows from the store and the bucket, and when a version becomes an event of the log.
//!
//! A version gets a number in the log when it comes into being: when it becomes complete in the store, or present in the
//! bucket, or when its content changes. It keeps the number while it is evicted from the store and stays in the bucket.

use rusqlite::{OptionalExtension, params};

use super::IndexError;
use super::database::Database;
use super::rows::Hashes;

/// The number of nanoseconds that are searched at a time for a free instant.
const WINDOW: i64 = 1_000_000;

/// A version in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// The time of the last write to its info in nanoseconds since 1970.
    pub(super) modified: i64,
    pub(super) bytes: u64,
    /// Whether its mod and its zip are there.
    pub(super) is_complete: bool,
}

/// The circumstances of a change of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settling<'a> {
    /// The hashes of the stored version, if they are known.
    hashes: Option<&'a Hashes>,
    /// Whether the version may become an event.
    makes_events: bool,
}

impl Default for Settling<'_> {
    fn default() -> Self {
        Self { hashes: None, makes_events: true }
    }
}

impl<'a> Settling<'a> {
    pub(super) fn with_hashes(hashes: &'a Hashes) -> Self {
        Self { hashes: Some(hashes), ..Self::default() }
    }

    pub(super) fn without_events() -> Self {
        Self { makes_events: false, ..Self::default() }
    }
}

/// The row of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    stored: Option<Stored>,
    wanted: Option<i64>,
    time: Option<i64>,
    hashes: Hashes,
    seq: Option<i64>,
}

impl Database {
    /// Writes the row of a version by what the store and the bucket have of it now. `stored` gets the stored version as
    /// the row has it, and returns it as it is now. The row keeps its instant while it wants the same time.
    pub(super) fn settle(
        &self,
        module: &str,
        version: &str,
        settling: &Settling<'_>,
        stored: impl FnOnce(Option<Stored>) -> Option<Stored>,
    ) -> Result<(), IndexError> {
        let row = self.row(module, version)?;
        let known = row.clone().unwrap_or_default();
        let stored = stored(known.stored);
        let manifest = self.manifest(module, version)?;
        let wanted = match &manifest {
            Some(manifest) => manifest.published,
            None => stored.map(|stored| stored.modified),
        };
        if wanted.is_none() && stored.is_none() {
            return self
                .execute("DELETE FROM versions WHERE module = ?1 AND version = ?2", [module, version]);
        }
        let is_replaced = known.stored.is_some() && stored.is_some() && known.stored != stored;
        let has_changed = known.wanted != wanted || (is_replaced && manifest.is_none());
        let time = match wanted {
            Some(wanted) if known.wanted != Some(wanted) => Some(self.free_instant(wanted)?),
            Some(_) => known.time,
            None => None,
        };
        let is_event = match &manifest {
            Some(manifest) => manifest.published.is_some(),
            None => stored.is_some_and(|stored| stored.is_complete),
        };
        let seq = match known.seq {
            _ if !is_event => None,
            Some(seq) if !has_changed => Some(seq),
            _ if settling.makes_events => Some(self.next_seq()?),
            _ => None,
        };
        let kept = if has_changed { Hashes::default() } else { known.hashes.clone() };
        let named = manifest.map(|manifest| manifest.hashes).unwrap_or_default();
        let hashes = named.or(settling.hashes.cloned().unwrap_or_default()).or(kept);
        let now = Row { stored, wanted, time, hashes, seq };
        if row.as_ref() == Some(&now) {
            return Ok(());
        }
        self.put_whole_row(module, version, &now)
    }

    fn row(&self, module: &str, version: &str) -> Result<Option<Row>, IndexError> {
        let mut asked = self.cached(
            "SELECT modified, bytes, is_complete, wanted, time, h1, gomod_h1, seq FROM versions
                WHERE module = ?1 AND version = ?2",
        )?;
        let row = asked.query_row([module, version], |row| {
            let stored = match (row.get(0)?, row.get::<_, Option<i64>>(1)?) {
                (Some(modified), bytes) => Some(Stored {
                    modified,
                    bytes: bytes.map_or(0, i64::cast_unsigned),
                    is_complete: row.get::<_, Option<bool>>(2)?.unwrap_or_default(),
                }),
                _ => None,
            };
            let hashes = Hashes { h1: row.get(5)?, gomod_h1: row.get(6)? };
            Ok(Row { stored, wanted: row.get(3)?, time: row.get(4)?, hashes, seq: row.get(7)? })
        });
        row.optional().map_err(|source| self.failed(source))
    }

    fn put_whole_row(&self, module: &str, version: &str, row: &Row) -> Result<(), IndexError> {
        let stored = row.stored;
        self.execute(
            "INSERT INTO versions (module, version, modified, bytes, is_complete, wanted, time, h1, gomod_h1, seq)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                ON CONFLICT (module, version) DO UPDATE SET
                    modified = excluded.modified, bytes = excluded.bytes, is_complete = excluded.is_complete,
                    wanted = excluded.wanted, time = excluded.time,
                    h1 = excluded.h1, gomod_h1 = excluded.gomod_h1, seq = excluded.seq",
            params![
                module,
                version,
                stored.map(|stored| stored.modified),
                stored.map(|stored| i64::try_from(stored.bytes).unwrap_or(i64::MAX)),
                stored.map(|stored| stored.is_complete),
                row.wanted,
                row.time,
                row.hashes.h1,
                row.hashes.gomod_h1,
                row.seq,
            ],
        )
    }

    /// Returns an instant that no version has: the wanted instant, or a free instant soon after it.
    fn free_instant(&self, wanted: i64) -> Result<i64, IndexError> {
        let mut is_taken = self.cached("SELECT 1 FROM versions WHERE time = ?1")?;
        let mut last = self
            .cached("SELECT time FROM versions WHERE time >= ?1 AND time < ?2 ORDER BY time DESC LIMIT 1")?;
        let mut instant = wanted;
        while is_taken.exists([instant]).map_err(|source| self.failed(source))? {
            let end = instant.saturating_add(WINDOW);
            let last = last.query_row([instant, end], |row| row.get::<_, i64>(0));
            instant = last.map_err(|source| self.failed(source))?.saturating_add(1);
        }
        Ok(instant)
    }
}
