//! The pointers, the conflicts, and the last contact with each peer.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use stoa_gomod::{H1, ModuleVersion};

use super::database::Database;
use super::queue::{self, hash, version};

/// A version that a peer has with another hash than this deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The name of the peer.
    pub peer: String,
    /// The version.
    pub version: ModuleVersion,
    /// The hash of the zip here.
    pub ours: H1,
    /// The hash of the zip there.
    pub theirs: H1,
    /// The time of the note, in milliseconds since 1970.
    pub at: i64,
}

/// The state towards a peer. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerState {
    /// The time of the last request that succeeded.
    pub contact_at: Option<i64>,
    /// The last error. It stays after a success: compare the two times.
    pub error: Option<String>,
    /// The time of the last error.
    pub error_at: Option<i64>,
    /// The ID of the index that answered last.
    pub index_id: Option<String>,
    /// The last event in the log of that index.
    pub their_last: Option<u64>,
    /// The pointer into that log.
    pub pointer: Option<u64>,
    /// The number of queued events that are not parked.
    pub queued: u64,
    /// The number of parked events.
    pub parked: u64,
    /// The number of conflicts.
    pub conflicts: u64,
    /// The time at which the oldest queued event that is not parked was queued.
    pub oldest_queued_at: Option<i64>,
    /// The time of the last comparison of all versions.
    pub compared_at: Option<i64>,
}

/// The maximum number of pointers for one peer. A deployment has as many indexes as servers. The indexes that did not
/// answer for the longest time are forgotten first.
const POINTERS: i64 = 64;

pub(super) fn pointers(database: &Database, peer: &str) -> rusqlite::Result<BTreeMap<String, u64>> {
    database
        .connection
        .prepare_cached("SELECT index_id, seq FROM pointers WHERE peer = ?1")?
        .query_map([peer], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
        .collect()
}

pub(super) const FINISHED: &str = "SELECT index_id, min(seq, coalesce((SELECT min(queue.seq) - 1 FROM queue
        WHERE queue.peer = ?1 AND queue.is_parked = 0 AND queue.index_id = pointers.index_id), seq))
    FROM pointers WHERE peer = ?1";

pub(super) fn finished(database: &Database, peer: &str) -> rusqlite::Result<BTreeMap<String, u64>> {
    database
        .connection
        .prepare_cached(FINISHED)?
        .query_map([peer], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
        .collect()
}

pub(super) fn replace_pointers(
    database: &Database,
    peer: &str,
    pointers: &BTreeMap<String, u64>,
    now: i64,
) -> rusqlite::Result<()> {
    let transaction = database.begin()?;
    know(database, peer)?;
    database.connection.prepare_cached("DELETE FROM pointers WHERE peer = ?1")?.execute([peer])?;
    for (index, seq) in pointers {
        move_pointer(database, peer, index, *seq, now)?;
    }
    // The pointers pass events that only a comparison has queued, at the server that had the turn before.
    database
        .connection
        .prepare_cached("UPDATE peers SET compared_at = NULL WHERE name = ?1")?
        .execute([peer])?;
    transaction.commit()
}

pub(super) fn move_pointer(
    database: &Database,
    peer: &str,
    index_id: &str,
    seq: u64,
    now: i64,
) -> rusqlite::Result<()> {
    let values = params![peer, index_id, seq.cast_signed(), now];
    let moved = database
        .connection
        .prepare_cached(
            "INSERT INTO pointers (peer, index_id, seq, moved_at) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (peer, index_id) DO UPDATE SET seq = excluded.seq, moved_at = excluded.moved_at",
        )?
        .execute(values);
    moved?;
    database
        .connection
        .prepare_cached(
            "DELETE FROM pointers WHERE peer = ?1 AND index_id <> ?2 AND index_id IN (
                SELECT index_id FROM pointers WHERE peer = ?1 ORDER BY moved_at DESC, index_id LIMIT -1 OFFSET ?3)",
        )?
        .execute(params![peer, index_id, POINTERS])
        .map(drop)
}

/// Adds the row of a peer unless there is one.
pub(super) fn know(database: &Database, peer: &str) -> rusqlite::Result<()> {
    database
        .connection
        .prepare_cached("INSERT OR IGNORE INTO peers (name) VALUES (?1)")?
        .execute([peer])
        .map(drop)
}

pub(super) fn note_conflict(
    database: &Database,
    peer: &str,
    version: &ModuleVersion,
    [ours, theirs]: [&H1; 2],
    now: i64,
) -> rusqlite::Result<bool> {
    let (module, version) = (version.path().as_str(), version.version().as_str());
    database
        .connection
        .prepare_cached(
            "INSERT INTO conflicts (peer, module, version, ours, theirs, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT (peer, module, version) DO UPDATE
                    SET ours = excluded.ours, theirs = excluded.theirs, at = excluded.at
                    WHERE ours <> excluded.ours OR theirs <> excluded.theirs",
        )?
        .execute(params![peer, module, version, ours.as_str(), theirs.as_str(), now])
        .map(|changed| changed > 0)
}

pub(super) fn conflicts(
    database: &Database,
    peer: Option<&str>,
    after: Option<&ModuleVersion>,
    limit: usize,
) -> rusqlite::Result<Vec<Conflict>> {
    // All are after two empty texts.
    let (module, version_text) =
        after.map_or(("", ""), |after| (after.path().as_str(), after.version().as_str()));
    database
        .connection
        .prepare_cached(
            "SELECT peer, module, version, ours, theirs, at FROM conflicts
                WHERE (?1 IS NULL OR peer = ?1) AND (module, version) > (?3, ?4) ORDER BY peer, module, version LIMIT ?2",
        )?
        .query_map(params![peer, i64::try_from(limit).unwrap_or(i64::MAX), module, version_text], |row| {
            let [ours, theirs] = [3, 4].map(|at| hash(row, at));
            let missing = || rusqlite::Error::InvalidQuery;
            Ok(Conflict {
                peer: row.get(0)?,
                version: version(row, 1)?,
                ours: ours?.ok_or_else(missing)?,
                theirs: theirs?.ok_or_else(missing)?,
                at: row.get(5)?,
            })
        })?
        .collect()
}

pub(super) fn settle_conflict(
    database: &Database,
    peer: &str,
    version: &ModuleVersion,
) -> rusqlite::Result<()> {
    database
        .connection
        .prepare_cached("DELETE FROM conflicts WHERE peer = ?1 AND module = ?2 AND version = ?3")?
        .execute([peer, version.path().as_str(), version.version().as_str()])
        .map(drop)
}

pub(super) fn note_contact(
    database: &Database,
    peer: &str,
    result: Result<(&str, u64), &str>,
    now: i64,
) -> rusqlite::Result<()> {
    let transaction = database.begin()?;
    know(database, peer)?;
    match result {
        Ok((index_id, last)) => database
            .connection
            .prepare_cached(
                "UPDATE peers SET contact_at = ?2, index_id = ?3, their_last = ?4 WHERE name = ?1",
            )?
            .execute(params![peer, now, index_id, last.cast_signed()])?,
        Err(error) => database
            .connection
            .prepare_cached("UPDATE peers SET error = ?2, error_at = ?3 WHERE name = ?1")?
            .execute(params![peer, error, now])?,
    };
    transaction.commit()
}

pub(super) fn note_compared(database: &Database, peer: &str, now: i64) -> rusqlite::Result<()> {
    let transaction = database.begin()?;
    know(database, peer)?;
    database
        .connection
        .prepare_cached("UPDATE peers SET compared_at = ?2 WHERE name = ?1")?
        .execute(params![peer, now])?;
    transaction.commit()
}

/// Removes everything about all peers but those in a JSON array.
pub(super) fn keep_only(database: &Database, peers: &str) -> rusqlite::Result<()> {
    let transaction = database.begin()?;
    for (table, name) in [("pointers", "peer"), ("queue", "peer"), ("conflicts", "peer"), ("peers", "name")] {
        let sql = format!("DELETE FROM {table} WHERE {name} NOT IN (SELECT value FROM json_each(?1))");
        transaction.execute(&sql, [peers])?;
    }
    transaction.commit()
}

pub(super) fn of(database: &Database, peer: &str) -> rusqlite::Result<PeerState> {
    // One transaction, so that the numbers belong together.
    let transaction = database.connection.unchecked_transaction()?;
    let known = database
        .connection
        .prepare_cached(
            "SELECT contact_at, error, error_at, index_id, their_last, compared_at,
                (SELECT seq FROM pointers WHERE peer = name AND pointers.index_id = peers.index_id),
                (SELECT min(queued_at) FROM queue WHERE peer = name AND is_parked = 0),
                (SELECT count(*) FROM conflicts WHERE peer = name)
                FROM peers WHERE name = ?1",
        )?
        .query_row([peer], |row| {
            Ok(PeerState {
                contact_at: row.get(0)?,
                error: row.get(1)?,
                error_at: row.get(2)?,
                index_id: row.get(3)?,
                their_last: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
                compared_at: row.get(5)?,
                pointer: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
                oldest_queued_at: row.get(7)?,
                conflicts: row.get::<_, i64>(8)?.cast_unsigned(),
                ..PeerState::default()
            })
        })
        .optional()?;
    let state = known.unwrap_or_default();
    let (queued, parked) = (queue::count(database, peer, false)?, queue::count(database, peer, true)?);
    transaction.commit()?;
    Ok(PeerState { queued, parked, ..state })
}
