//! The state of each peer.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use stoa_store::{PeerState, Store};

use super::PeersDone;
use crate::command::error::CommandError;
use crate::command::event::seconds;
use crate::command::report::Reporter;
use crate::config::PeerTable;

const HEADER: &str =
    "PEER              STATE           BEHIND         AGE  PARKED  CONFLICTS  LAST CONTACT\n";

/// Prints the state of all peers.
pub(super) fn show(
    tables: &[PeerTable],
    store: &Store,
    reporter: &Reporter,
) -> Result<PeersDone, CommandError> {
    if !reporter.is_json() {
        reporter.bytes(HEADER.as_bytes())?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let (mut failing, mut conflicts) = (0, 0);
    for table in tables {
        let state = store.peers().state(table.name())?;
        let event = PeerEvent::new(table, state, now_ms);
        failing += u64::from(event.state == Standing::Failing);
        conflicts += event.conflicts;
        reporter.answer(&event)?;
    }
    Ok(PeersDone::Shown { peers: tables.len() as u64, failing, conflicts })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    Current,
    Behind,
    Failing,
    New,
    NotPulled,
}

impl Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Failing => "failing",
            Self::New => "new",
            Self::NotPulled => "not pulled",
        })
    }
}

/// The state of a peer.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "peer")]
struct PeerEvent<'a> {
    peer: &'a str,
    url: &'a str,
    state: Standing,
    /// The events of the peer that were not looked at, and those in the queue.
    lag_events: u64,
    lag_seconds: u64,
    queued: u64,
    parked: u64,
    conflicts: u64,
    last_contact: Option<String>,
    last_error: Option<String>,
    last_error_at: Option<String>,
    last_comparison: Option<String>,
    /// The ID of the index of the peer, the last event that was looked at, and its last event.
    index: Option<String>,
    pointer: Option<u64>,
    current: Option<u64>,
}

impl<'a> PeerEvent<'a> {
    fn new(table: &'a PeerTable, state: PeerState, now_ms: i64) -> Self {
        let is_failing = state.error_at.is_some_and(|at| state.contact_at.is_none_or(|contact| at > contact));
        let unread = unread(state.their_last.unwrap_or_default(), state.pointer.unwrap_or_default());
        let lag_events = unread + state.queued;
        let standing = match () {
            () if !table.pull() => Standing::NotPulled,
            () if is_failing => Standing::Failing,
            () if state.contact_at.is_none() => Standing::New,
            () if lag_events > 0 => Standing::Behind,
            () => Standing::Current,
        };
        let since = state.oldest_queued_at.into_iter().chain(state.contact_at.filter(|_| is_failing)).min();
        let lag = since.map_or(0, |since| now_ms.saturating_sub(since).max(0));
        Self {
            peer: table.name(),
            url: table.url(),
            state: standing,
            lag_events,
            lag_seconds: lag.unsigned_abs() / 1000,
            queued: state.queued,
            parked: state.parked,
            conflicts: state.conflicts,
            last_contact: state.contact_at.map(time),
            last_error: state.error,
            last_error_at: state.error_at.map(time),
            last_comparison: state.compared_at.map(time),
            index: state.index_id,
            pointer: state.pointer,
            current: state.their_last,
        }
    }
}

/// Returns the number of events after a pointer.
fn unread(last: u64, pointer: u64) -> u64 {
    match last.saturating_sub(pointer) {
        0 => 0,
        // The numbers in a log jump by 2^32 after a start of the machine.
        difference => (difference & u64::from(u32::MAX)).max(1),
    }
}

/// Writes a time in milliseconds since 1970.
pub(super) fn time(at_ms: i64) -> String {
    seconds(UNIX_EPOCH + Duration::from_millis(at_ms.max(0).unsigned_abs()))
}

impl Display for PeerEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = humantime(self.lag_seconds);
        let last_contact = self.last_contact.as_deref().unwrap_or("-");
        write!(
            f,
            "{:16}  {:10}  {:>10}  {age:>10}  {:>6}  {:>9}  {last_contact}",
            self.peer, self.state, self.lag_events, self.parked, self.conflicts
        )?;
        match (&self.last_error, &self.last_error_at, self.state) {
            (Some(error), Some(at), Standing::Failing) => write!(f, "\n  {at} {error}"),
            _ => Ok(()),
        }
    }
}

/// Writes a number of seconds with the two largest units: `3d 4h`.
fn humantime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d {}h", hours % 24),
        () if hours > 0 => format!("{hours}h {}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m {}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_the_numbers_is_no_event() {
        for (last, pointer, count) in [
            (7, 7, 0),
            (7, 9, 0),
            (9, 7, 2),
            ((1 << 32) + 9, 7, 2),
            ((1 << 32) + 7, 7, 1),
            ((3 << 32) + 9, 7, 2),
        ] {
            assert_eq!(unread(last, pointer), count, "{last} {pointer}");
        }
    }

    #[test]
    fn an_age_has_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3_600, "1h 0m"), (90_000, "1d 1h"), (86_400, "1d 0h")]
        {
            assert_eq!(humantime(seconds), text);
        }
    }
}
