//! The log: the events of this deployment, each with a number that no other event has.
//!
//! The log has a random ID, and a new index begins a new log. A number is given in the transaction that writes the row, so
//! no reader sees a number before the ones below it. The log needs no durability of its own: a version whose row is lost
//! gets a new number from the next reconciliation.
//!
//! A power cut may undo the last transactions. Peers may know their numbers already, so these numbers must not be given to
//! other events. The first use after a boot therefore skips many numbers.

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::OnceLock;

use rusqlite::{Row, params};
use stoa_gomod::{H1, ModuleVersion};

use super::database::{Database, limit_of};
use super::rows::Hashes;
use super::{IndexError, StoreIndex, marks};
use crate::files::Stamp;
use crate::publish::hash_of_mod;
use crate::seal::read_seal;
use crate::{Mark, Store, StoreError};

/// The identity of a log and its last number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// The random ID of the log.
    pub id: String,
    /// The last number that was given. The event may have a higher number by now.
    pub last: u64,
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Its number.
    pub seq: u64,
    /// The module path, unescaped.
    pub module: String,
    /// The version.
    pub version: String,
    /// The kind of the event.
    pub kind: LogKind,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogKind {
    /// The version is complete in the store, or present in the bucket.
    Published {
        /// The time of its publication in nanoseconds since 1970.
        time: i64,
        /// The size of the version in bytes. 0 if it is unknown.
        bytes: u64,
        /// The hash of its zip, if it is known.
        h1: Option<H1>,
        /// The hash of its go.mod, if it is known.
        gomod_h1: Option<H1>,
    },
    /// The version has a mark.
    Marked(Mark),
}

/// The number of events that a boot skips: more than a power cut can undo.
const SKIPPED: i64 = 1 << 32;

/// The columns of an event, from a version and from a mark. Of two marks of a version, the higher one counts.
const VERSIONS: &str = "SELECT seq, module, version, 0 AS is_mark, wanted,
        coalesce(bytes, (SELECT manifests.bytes FROM manifests
            WHERE key = versions.module || '/@v/' || versions.version || '.json')),
        h1, gomod_h1, modified IS NOT NULL, NULL, NULL, NULL, NULL, NULL FROM versions WHERE seq IS NOT NULL";
const MARKS: &str = "SELECT seq, module, version, 1 AS is_mark, NULL, NULL, NULL, NULL, NULL,
        is_lifted, origin, counter, at, reason FROM marks WHERE NOT EXISTS (
            SELECT 1 FROM marks AS other WHERE other.module = marks.module AND other.version = marks.version
                AND (other.counter, other.origin, other.is_of_bucket) >
                    (marks.counter, marks.origin, marks.is_of_bucket))";

/// An event as the database has it.
struct Found {
    event: LogEvent,
    is_stored: bool,
}

impl Database {
    /// Begins the log of a new database.
    pub(super) fn begin_log(&self) -> Result<(), IndexError> {
        let sql = "INSERT INTO log (id, next, boot) VALUES (lower(hex(randomblob(16))), 1, ?1)";
        self.execute(sql, [boot()])
    }

    /// Skips numbers at the first use after a boot.
    pub(super) fn continue_log(&self) -> Result<(), IndexError> {
        let is_continued = self.list("SELECT 1 FROM log WHERE boot <> ?1", [boot()], |_| Ok(()))?.is_empty();
        if is_continued {
            return Ok(());
        }
        // The condition again: another process may have been faster.
        self.execute("UPDATE log SET next = next + ?1, boot = ?2 WHERE boot <> ?2", params![SKIPPED, boot()])
    }

    /// Returns the number for a new event. The caller is in a transaction.
    pub(super) fn next_seq(&self) -> Result<i64, IndexError> {
        let mut asked = self.cached("UPDATE log SET next = next + 1 RETURNING next - 1")?;
        asked.query_row([], |row| row.get(0)).map_err(|source| self.failed(source))
    }

    fn log(&self) -> Result<LogState, IndexError> {
        self.ask("SELECT id, next FROM log", |row| {
            let next: i64 = row.get(1)?;
            Ok(LogState { id: row.get(0)?, last: u64::try_from(next - 1).unwrap_or_default() })
        })
    }

    fn events(&self, after: u64, limit: usize) -> Result<Vec<Found>, IndexError> {
        let sql = format!("{VERSIONS} AND seq > ?1 UNION ALL {MARKS} AND seq > ?1 ORDER BY 1 LIMIT ?2");
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.list(&sql, params![after, limit_of(limit)], read)
    }

    fn events_of(&self, module: &str) -> Result<Vec<Found>, IndexError> {
        let sql = format!("{VERSIONS} AND module = ?1 UNION ALL {MARKS} AND module = ?1 ORDER BY 1");
        self.list(&sql, [module], read)
    }

    fn events_of_version(&self, version: &ModuleVersion) -> Result<Vec<Found>, IndexError> {
        let sql = format!(
            "{VERSIONS} AND module = ?1 AND version = ?2 UNION ALL {MARKS} AND module = ?1 AND version = ?2 ORDER BY 1"
        );
        self.list(&sql, [version.path().as_str(), version.version().as_str()], read)
    }

    fn logged_modules(&self, after: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        self.list(
            "SELECT module FROM versions WHERE module > ?1 AND seq IS NOT NULL
                UNION SELECT module FROM marks WHERE module > ?1 ORDER BY 1 LIMIT ?2",
            params![after, limit_of(limit)],
            |row| row.get(0),
        )
    }

    /// Adds hashes to rows, unless the rows have changed meanwhile.
    fn add_hashes(&mut self, filled: &[&LogEvent]) -> Result<(), IndexError> {
        self.change(|database| {
            for event in filled {
                let LogKind::Published { h1, gomod_h1, .. } = &event.kind else { continue };
                database.execute(
                    "UPDATE versions SET h1 = ?4, gomod_h1 = ?5 WHERE module = ?1 AND version = ?2 AND seq = ?3",
                    params![
                        event.module,
                        event.version,
                        event.seq.cast_signed(),
                        h1.as_ref().map(H1::as_str),
                        gomod_h1.as_ref().map(H1::as_str)
                    ],
                )?;
            }
            Ok(())
        })
    }
}

impl StoreIndex<'_> {
    /// Returns the ID of the log and its last number, with one query.
    pub fn log(&self) -> Result<LogState, IndexError> {
        self.0.index.read(Database::log)
    }

    /// Returns up to `limit` events with a higher number than `after`, sorted by number. An event that has changed since
    /// has a higher number now.
    ///
    /// Hashes that the index does not know yet are read from the seal and the go.mod of the version, and kept. They stay
    /// unknown if the version has no valid seal.
    pub fn events(&self, after: u64, limit: usize) -> Result<Vec<LogEvent>, IndexError> {
        let found = self.0.index.read(|database| database.events(after, limit))?;
        Ok(self.with_hashes(found))
    }

    /// Returns the events of all versions of a module, sorted by number.
    pub fn events_of(&self, module: &str) -> Result<Vec<LogEvent>, IndexError> {
        let found = self.0.index.read(|database| database.events_of(module))?;
        Ok(self.with_hashes(found))
    }

    /// Returns the events of a version: of its publication, and of its mark.
    pub fn events_of_version(&self, version: &ModuleVersion) -> Result<Vec<LogEvent>, IndexError> {
        let found = self.0.index.read(|database| database.events_of_version(version))?;
        Ok(self.with_hashes(found))
    }

    /// Returns up to `limit` modules after a module that have events, sorted bytewise.
    pub fn logged_modules(&self, after: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        self.0.index.read(|database| database.logged_modules(after, limit))
    }

    fn with_hashes(&self, found: Vec<Found>) -> Vec<LogEvent> {
        let mut filled = Vec::new();
        let mut events = Vec::with_capacity(found.len());
        for Found { mut event, is_stored } in found {
            if is_stored
                && let LogKind::Published { h1, gomod_h1, .. } = &mut event.kind
                && (h1.is_none() || gomod_h1.is_none())
                && let Ok(version) = ModuleVersion::parse(&format!("{}@{}", event.module, event.version))
            {
                match valid_hashes(self.0, &version) {
                    Ok(Some(hashes)) => {
                        (*h1, *gomod_h1) = (Some(hashes.0), hashes.1);
                        filled.push(events.len());
                    }
                    Ok(None) => {}
                    Err(error) => {
                        ::log::debug!(version:% = version, reason:% = error; "cannot read the hashes of a version")
                    }
                }
            }
            events.push(event);
        }
        let filled: Vec<&LogEvent> = filled.into_iter().filter_map(|at| events.get(at)).collect();
        if !filled.is_empty()
            && let Err(error) = self.0.index.write(|database| database.add_hashes(&filled))
        {
            ::log::debug!(reason:% = error; "cannot keep hashes in the index, reading them again the next time");
        }
        events
    }
}

impl Store {
    /// Returns the hash of the zip of a stored version. `None` if it has no valid seal.
    pub fn known_h1(&self, version: &ModuleVersion) -> Result<Option<H1>, StoreError> {
        let Some(stamp) = Stamp::at(&self.paths.version(version))? else { return Ok(None) };
        Ok(self.valid_seal(version, stamp)?.map(|(h1, _)| h1))
    }
}

/// Returns the hashes of a stored version with a valid seal.
fn valid_hashes(store: &Store, version: &ModuleVersion) -> Result<Option<(H1, Option<H1>)>, StoreError> {
    let folder = store.paths.version(version);
    let Some(stamp) = Stamp::at(&folder)? else { return Ok(None) };
    let Some((h1, _)) = store.valid_seal(version, stamp)? else { return Ok(None) };
    Ok(Some((h1, hash_of_mod(&folder)?)))
}

/// Returns the hashes of a version that was published just now, so that its seal is valid.
pub(super) fn sealed_hashes(folder: &Path) -> Result<Hashes, StoreError> {
    let Some((h1, _)) = read_seal(folder)? else { return Ok(Hashes::default()) };
    let gomod_h1 = hash_of_mod(folder)?.map(|h1| h1.as_str().to_owned());
    Ok(Hashes { h1: Some(h1.as_str().to_owned()), gomod_h1 })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Found> {
    let is_mark: bool = row.get(3)?;
    let kind = if is_mark {
        LogKind::Marked(marks::read(row, 9)?)
    } else {
        // A hash that does not parse is read again.
        let hash = |at: usize| -> rusqlite::Result<Option<H1>> {
            Ok(row.get::<_, Option<String>>(at)?.and_then(|text| H1::new(&text).ok()))
        };
        LogKind::Published {
            time: row.get::<_, Option<i64>>(4)?.unwrap_or_default(),
            bytes: row.get::<_, Option<i64>>(5)?.map_or(0, i64::cast_unsigned),
            h1: hash(6)?,
            gomod_h1: hash(7)?,
        }
    };
    let seq = row.get::<_, i64>(0)?.cast_unsigned();
    let event = LogEvent { seq, module: row.get(1)?, version: row.get(2)?, kind };
    Ok(Found { event, is_stored: row.get::<_, Option<bool>>(8)?.unwrap_or_default() })
}

/// Returns the ID of this boot of the machine. Empty on a system without one.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    })
}
