//! The queue: events of peers that wait for work.
//!
//! A published event stays as a row after its work is done. The row says which peer has the version, for a request after
//! the version was removed or pruned here. Without such a request the version is not fetched again.

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, params};
use stoa_gomod::{H1, ModulePath, ModuleVersion, Version};

use super::database::Database;
use super::state;
use crate::Mark;

/// An event of a peer that waits for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The version.
    pub version: ModuleVersion,
    /// The event.
    pub what: QueuedKind,
    /// Whether the version is listed before it is here.
    pub is_listed: bool,
    /// The number of the event in the log of the peer. `None` for a notification.
    pub seq: Option<u64>,
}

/// A peer that has a version, and the hashes of its zip and its go.mod as far as the peer named them.
pub type PeerSource = (String, Option<H1>, Option<H1>);

/// The kinds of queued events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueuedKind {
    /// The peer has the version, which is to be fetched.
    Fetch {
        /// The hash of its zip, if the peer named it.
        h1: Option<H1>,
        /// The hash of its go.mod, if the peer named it.
        gomod_h1: Option<H1>,
        /// The size of the version in bytes.
        bytes: u64,
    },
    /// The peer has a mark of the version.
    Mark(Mark),
}

impl QueuedKind {
    /// Returns whether the event is a mark.
    pub fn is_mark(&self) -> bool {
        matches!(self, Self::Mark(_))
    }

    /// Returns whether an event adds nothing to a queued event of the same version. Hashes that are no longer named still
    /// count.
    fn adds_nothing_to(&self, known: &Self) -> bool {
        let is_known = |new: &Option<H1>, known: &Option<H1>| new.is_none() || new == known;
        match (self, known) {
            (
                Self::Fetch { h1, gomod_h1, .. },
                Self::Fetch { h1: known_h1, gomod_h1: known_gomod_h1, .. },
            ) => is_known(h1, known_h1) && is_known(gomod_h1, known_gomod_h1),
            (Self::Mark(mark), Self::Mark(known)) => mark.rank() <= known.rank(),
            _ => false,
        }
    }
}

/// The result of an attempt, for the row of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange<'a> {
    /// The version is here. A mark is removed from the queue.
    Done,
    /// The event means nothing here. It means work again if the peer sends it again.
    Forgotten,
    /// The version may be listed before it is here.
    Listed,
    /// The attempt failed.
    Postponed {
        /// The time of the next attempt, in milliseconds since 1970.
        due_ms: i64,
        /// The error.
        reason: &'a str,
        /// Whether there will be no further attempt before the next comparison.
        is_parked: bool,
    },
}

/// The state of a row, in the column `is_parked`: it waits for its turn, for a revival, or for a request.
const PARKED: i64 = 1;
const DONE: i64 = 2;

/// No pause is longer, in milliseconds. An event that is due later was postponed by a clock that was wrong.
const LONGEST_PAUSE_MS: i64 = 25 * 60 * 60 * 1000;

/// The columns of an event, in the order in which [`read`] expects them.
const COLUMNS: &str = "module, version, is_mark, h1, gomod_h1, bytes, is_lifted, origin, counter, at, reason,
    is_listed, seq, attempts";

pub(super) fn take_in(
    database: &Database,
    peer: &str,
    pointer: Option<(&str, u64)>,
    events: &[Queued],
    (here, differing): (&[Queued], &[Queued]),
    now: i64,
) -> rusqlite::Result<u64> {
    let transaction = database.begin()?;
    state::know(database, peer)?;
    let index = pointer.map(|(index, _)| index);
    let mut added = 0;
    for event in events {
        added += u64::from(put(database, peer, index, event, 0, now)?);
    }
    for event in here {
        put(database, peer, index, event, DONE, now)?;
        state::settle_conflict(database, peer, &event.version)?;
    }
    for event in differing {
        put(database, peer, index, event, DONE, now)?;
    }
    if let Some((index, seq)) = pointer {
        state::move_pointer(database, peer, index, seq, now)?;
    }
    transaction.commit()?;
    Ok(added)
}

/// Queues an event. Returns whether it is new.
fn put(
    database: &Database,
    peer: &str,
    index_id: Option<&str>,
    event: &Queued,
    state: i64,
    now: i64,
) -> rusqlite::Result<bool> {
    let (module, version) = (event.version.path().as_str(), event.version.version().as_str());
    let is_mark = event.what.is_mark();
    let known = database
        .connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM queue WHERE peer = ?1 AND module = ?2 AND version = ?3 AND is_mark = ?4"
        ))?
        .query_row(params![peer, module, version, is_mark], read)
        .optional()?;
    // The number of an event in the log stays if the event comes again without one: the pointer must not pass it.
    let known_place = place(database, peer, &event.version, is_mark)?;
    let (index_id, seq) = match (index_id, known_place) {
        (Some(index_id), _) => (Some(index_id.to_owned()), event.seq),
        (None, Some(known)) => known,
        (None, None) => (None, event.seq),
    };
    if known.is_some_and(|(known, _)| event.what.adds_nothing_to(&known.what)) {
        database
            .connection
            .prepare_cached(
                "UPDATE queue SET is_listed = max(is_listed, ?5), is_parked = max(is_parked, ?8),
                    index_id = ?6, seq = ?7
                    WHERE peer = ?1 AND module = ?2 AND version = ?3 AND is_mark = ?4",
            )?
            .execute(params![
                peer,
                module,
                version,
                is_mark,
                event.is_listed,
                index_id,
                seq.map(u64::cast_signed),
                state
            ])?;
        return Ok(false);
    }
    let (fetch, mark) = match &event.what {
        QueuedKind::Fetch { h1, gomod_h1, bytes } => (Some((h1.as_ref(), gomod_h1.as_ref(), *bytes)), None),
        QueuedKind::Mark(mark) => (None, Some(mark)),
    };
    database
        .connection
        .prepare_cached(
            "INSERT OR REPLACE INTO queue (peer, module, version, is_mark, h1, gomod_h1, bytes, is_lifted, origin,
                counter, at, reason, index_id, seq, is_listed, queued_at, attempts, due, is_parked)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 0, ?16, ?17)",
        )?
        .execute(params![
            peer,
            module,
            version,
            is_mark,
            fetch.and_then(|(h1, ..)| h1).map(H1::as_str),
            fetch.and_then(|(_, gomod_h1, _)| gomod_h1).map(H1::as_str),
            fetch.map(|(.., bytes)| bytes.cast_signed()),
            mark.map(|mark| mark.is_lifted),
            mark.map(|mark| &mark.origin),
            mark.map(|mark| mark.counter.cast_signed()),
            mark.map(|mark| &mark.at),
            mark.and_then(|mark| mark.reason.as_ref()),
            index_id.filter(|_| seq.is_some()),
            seq.map(u64::cast_signed),
            event.is_listed,
            now,
            state,
        ])?;
    Ok(true)
}

/// Returns the index and the number of a queued event.
fn place(
    database: &Database,
    peer: &str,
    version: &ModuleVersion,
    is_mark: bool,
) -> rusqlite::Result<Option<(Option<String>, Option<u64>)>> {
    database
        .connection
        .prepare_cached(
            "SELECT index_id, seq FROM queue
                WHERE peer = ?1 AND module = ?2 AND version = ?3 AND is_mark = ?4 AND is_parked = 0",
        )?
        .query_row(params![peer, version.path().as_str(), version.version().as_str(), is_mark], |row| {
            Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.map(i64::cast_unsigned)))
        })
        .optional()
}

pub(super) fn due(
    database: &Database,
    peer: &str,
    now_ms: i64,
    limit: usize,
) -> rusqlite::Result<Vec<(Queued, u32)>> {
    database
        .connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM queue WHERE peer = ?1 AND is_parked = 0 AND (due <= ?2 OR due > ?4)
                ORDER BY due, seq LIMIT ?3"
        ))?
        .query_map(
            params![
                peer,
                now_ms,
                i64::try_from(limit).unwrap_or(i64::MAX),
                now_ms.saturating_add(LONGEST_PAUSE_MS)
            ],
            read,
        )?
        .collect()
}

pub(super) fn next_due(database: &Database, after_ms: i64) -> rusqlite::Result<Option<i64>> {
    database
        .connection
        .prepare_cached(
            "SELECT min((SELECT min(due) FROM queue WHERE peer = peers.name AND is_parked = 0 AND due > ?1))
                FROM peers",
        )?
        .query_row([after_ms], |row| row.get(0))
}

pub(super) fn finish(database: &Database, version: &ModuleVersion, h1: &H1) -> rusqlite::Result<()> {
    database
        .connection
        .prepare_cached(
            "UPDATE queue SET is_parked = ?3 WHERE module = ?1 AND version = ?2 AND is_mark = 0
                AND (h1 IS NULL OR h1 = ?4)",
        )?
        .execute(params![version.path().as_str(), version.version().as_str(), DONE, h1.as_str()])
        .map(drop)
}

pub(super) fn forget(database: &Database, version: &ModuleVersion) -> rusqlite::Result<()> {
    database
        .connection
        .prepare_cached("DELETE FROM queue WHERE module = ?1 AND version = ?2 AND is_mark = 0")?
        .execute([version.path().as_str(), version.version().as_str()])
        .map(drop)
}

pub(super) fn forget_parked(database: &Database, peer: &str) -> rusqlite::Result<()> {
    database
        .connection
        .prepare_cached("DELETE FROM queue WHERE peer = ?1 AND is_parked = 1")?
        .execute([peer])
        .map(drop)
}

/// Changes the row of an event, unless another event of the version has replaced it meanwhile.
pub(super) fn change(
    database: &Database,
    peer: &str,
    event: &Queued,
    change: &RowChange<'_>,
) -> rusqlite::Result<()> {
    const SAME: &str = "peer = ?1 AND module = ?2 AND version = ?3 AND is_mark = ?4
        AND h1 IS ?5 AND gomod_h1 IS ?6 AND origin IS ?7 AND counter IS ?8 AND is_lifted IS ?9";
    let (fetch, mark) = match &event.what {
        QueuedKind::Fetch { h1, gomod_h1, .. } => (Some((h1.as_ref(), gomod_h1.as_ref())), None),
        QueuedKind::Mark(mark) => (None, Some(mark)),
    };
    let (module, version) = (event.version.path().as_str(), event.version.version().as_str());
    let is_mark = event.what.is_mark();
    let h1 = fetch.and_then(|(h1, _)| h1).map(H1::as_str);
    let gomod_h1 = fetch.and_then(|(_, gomod_h1)| gomod_h1).map(H1::as_str);
    let origin = mark.map(|mark| mark.origin.as_str());
    let counter = mark.map(|mark| mark.counter.cast_signed());
    let is_lifted = mark.map(|mark| mark.is_lifted);
    let connection = &database.connection;
    let changed = match change {
        RowChange::Done if !is_mark => connection
            .prepare_cached(&format!("UPDATE queue SET is_parked = ?10 WHERE {SAME}"))?
            .execute(params![
                peer, module, version, is_mark, h1, gomod_h1, origin, counter, is_lifted, DONE
            ]),
        RowChange::Done | RowChange::Forgotten => {
            connection.prepare_cached(&format!("DELETE FROM queue WHERE {SAME}"))?.execute(params![
                peer, module, version, is_mark, h1, gomod_h1, origin, counter, is_lifted
            ])
        }
        RowChange::Listed => connection
            .prepare_cached(&format!("UPDATE queue SET is_listed = 1 WHERE {SAME}"))?
            .execute(params![
                peer, module, version, is_mark, h1, gomod_h1, origin, counter, is_lifted
            ]),
        RowChange::Postponed { due_ms, reason, is_parked } => connection
            .prepare_cached(&format!(
                "UPDATE queue SET attempts = attempts + 1, due = ?10, failure = ?11, is_parked = ?12 WHERE {SAME}"
            ))?
            .execute(params![
                peer, module, version, is_mark, h1, gomod_h1, origin, counter, is_lifted, due_ms, reason,
                is_parked
            ]),
    };
    changed.map(drop)
}

pub(super) fn revive(database: &Database, peer: &str, now: i64) -> rusqlite::Result<u64> {
    let revived = database
        .connection
        .prepare_cached(
            "UPDATE queue SET attempts = 0, due = ?2, is_parked = 0
                WHERE peer = ?1 AND (is_parked = ?3 OR is_parked = 0 AND due > ?2)",
        )?
        .execute(params![peer, now, PARKED])?;
    Ok(revived as u64)
}

pub(super) fn count(database: &Database, peer: &str, is_parked: bool) -> rusqlite::Result<u64> {
    let mut counting = database.connection.prepare_cached(count_sql(is_parked))?;
    Ok(counting.query_row([peer], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// Returns one of two texts, because a partial index serves only a query that names its condition.
pub(super) fn count_sql(is_parked: bool) -> &'static str {
    if is_parked {
        "SELECT count(*) FROM queue WHERE peer = ?1 AND is_parked = 1"
    } else {
        "SELECT count(*) FROM queue WHERE peer = ?1 AND is_parked = 0"
    }
}

pub(super) fn listed(database: &Database, module: &ModulePath) -> rusqlite::Result<Vec<Version>> {
    let mut versions: Vec<Version> = database
        .connection
        .prepare_cached(
            "SELECT DISTINCT version FROM queue
                WHERE module = ?1 AND is_mark = 0 AND is_listed = 1 AND is_parked = 0",
        )?
        .query_map([module.as_str()], |row| {
            Version::new(&row.get::<_, String>(0)?).map_err(|e| invalid(0, e))
        })?
        .collect::<rusqlite::Result<_>>()?;
    versions.sort();
    Ok(versions)
}

pub(super) fn sources(database: &Database, version: &ModuleVersion) -> rusqlite::Result<Vec<PeerSource>> {
    database
        .connection
        .prepare_cached(
            "SELECT peer, h1, gomod_h1 FROM queue WHERE module = ?1 AND version = ?2 AND is_mark = 0
                AND is_parked <> 1
                ORDER BY attempts, peer",
        )?
        .query_map([version.path().as_str(), version.version().as_str()], |row| {
            Ok((row.get(0)?, hash(row, 1)?, hash(row, 2)?))
        })?
        .collect()
}

/// Reads an event and the number of its attempts.
fn read(row: &Row<'_>) -> rusqlite::Result<(Queued, u32)> {
    let what = if row.get(2)? {
        QueuedKind::Mark(Mark {
            is_lifted: row.get(6)?,
            origin: row.get(7)?,
            counter: row.get::<_, i64>(8)?.cast_unsigned(),
            at: row.get(9)?,
            reason: row.get(10)?,
        })
    } else {
        let bytes = row.get::<_, i64>(5)?.cast_unsigned();
        QueuedKind::Fetch { h1: hash(row, 3)?, gomod_h1: hash(row, 4)?, bytes }
    };
    let event = Queued {
        version: version(row, 0)?,
        what,
        is_listed: row.get(11)?,
        seq: row.get::<_, Option<i64>>(12)?.map(i64::cast_unsigned),
    };
    Ok((event, row.get(13)?))
}

/// Reads a version from two columns.
pub(super) fn version(row: &Row<'_>, at: usize) -> rusqlite::Result<ModuleVersion> {
    let module = ModulePath::new(&row.get::<_, String>(at)?).map_err(|error| invalid(at, error))?;
    let version = Version::new(&row.get::<_, String>(at + 1)?).map_err(|error| invalid(at + 1, error))?;
    ModuleVersion::new(module, version).map_err(|error| invalid(at, error))
}

/// Reads a hash that may be missing.
pub(super) fn hash(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<H1>> {
    let text: Option<String> = row.get(at)?;
    text.map(|text| H1::new(&text).map_err(|error| invalid(at, error))).transpose()
}

/// Returns the error of a value that Stoa never writes: the database is damaged.
pub(super) fn invalid(at: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error))
}
