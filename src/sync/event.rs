//! The requests and answers of peers, as JSON: the events, and the lines around them. docs/http.md describes the form.

use std::collections::BTreeMap;

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{LogEvent, LogKind, Mark, Queued, QueuedKind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::peer::{Peer, is_deployment_name};
use crate::logging::on_one_line;

/// Maximum size of the body of a request in bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// Maximum number of events in a notification, and of modules in a request.
pub(super) const MAX_NOTIFIED: usize = 1000;

/// Maximum number of events in an answer of another peer. This server sends fewer.
pub(super) const MAX_LINES: usize = 10_000;

/// Maximum number of digests in an answer of another peer. This server sends fewer.
pub(super) const MAX_DIGESTS: usize = 4000;

/// Maximum length of a line of an answer in bytes.
pub(super) const MAX_LINE: usize = 8 << 10;

/// Maximum length of the reason of a tombstone in bytes. The rest is cut off, so that each line is shorter than
/// [`MAX_LINE`].
const MAX_REASON: usize = 1000;

/// Maximum length of the time of a mark in bytes.
const MAX_AT: usize = 40;

/// Maximum length of the ID of an index in bytes.
const MAX_INDEX: usize = 64;

/// The longest time that a request for events may wait, in seconds.
pub(super) const MAX_WAIT: u64 = 60;

/// A change of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Event {
    /// The place in the log of the sender. Later events have higher numbers.
    #[serde(deserialize_with = "place")]
    pub(super) seq: u64,
    pub(super) module: String,
    pub(super) version: String,
    #[serde(flatten)]
    pub(super) kind: EventKind,
}

/// The kind of a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum EventKind {
    /// The version was published.
    Published {
        /// The time in nanoseconds since 1970.
        time: i64,
        /// The hash of the zip. `None` if the sender has not read the zip yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        h1: Option<H1>,
        /// The hash of the go.mod.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gomod_h1: Option<H1>,
        /// The size of its three files.
        bytes: u64,
    },
    /// The version got a tombstone.
    Tombstoned(MarkBody),
    /// Its tombstone was lifted.
    Lifted(MarkBody),
    /// A kind of a later release, which is skipped.
    #[serde(other)]
    Unknown,
}

/// A tombstone, or its lifting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MarkBody {
    /// The name of the deployment that made it.
    pub(super) origin: String,
    /// Higher than that of every mark of the version that the origin knew.
    pub(super) counter: u64,
    /// The time, RFC 3339 in UTC.
    pub(super) at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl From<LogEvent> for Event {
    fn from(event: LogEvent) -> Self {
        let kind = match event.kind {
            LogKind::Published { time, bytes, h1, gomod_h1 } => {
                EventKind::Published { time, h1, gomod_h1, bytes }
            }
            LogKind::Marked(Mark { is_lifted, origin, counter, at, reason }) => {
                let body = MarkBody { origin, counter, at, reason: reason.map(short_reason) };
                if is_lifted { EventKind::Lifted(body) } else { EventKind::Tombstoned(body) }
            }
        };
        Self { seq: event.seq, module: event.module, version: event.version, kind }
    }
}

impl Event {
    /// Returns the version. `None` if it is not valid.
    pub(super) fn module_version(&self) -> Option<ModuleVersion> {
        ModuleVersion::parse(&format!("{}@{}", self.module, self.version)).ok()
    }

    /// Returns the work that the event means for a server with this peer. `None` if it means none. A mark with an invalid
    /// origin or time means none: the log of this deployment would carry it to its other peers.
    pub(super) fn queued(&self, peer: &Peer) -> Option<Queued> {
        if !peer.accept.matches(&self.module) {
            return None;
        }
        let version = self.module_version()?;
        let mark = |body: &MarkBody, is_lifted| {
            let MarkBody { origin, counter, at, reason } = body.clone();
            let reason = reason.map(short_reason);
            (peer.accept_tombstones && body.is_valid()).then_some(QueuedKind::Mark(Mark {
                is_lifted,
                origin,
                counter,
                at,
                reason,
            }))
        };
        let what = match &self.kind {
            EventKind::Published { h1, gomod_h1, bytes, .. } => {
                QueuedKind::Fetch { h1: h1.clone(), gomod_h1: gomod_h1.clone(), bytes: *bytes }
            }
            EventKind::Tombstoned(body) => mark(body, false)?,
            EventKind::Lifted(body) => mark(body, true)?,
            EventKind::Unknown => return None,
        };
        let is_listed = peer.accepts_explicitly(version.path());
        Some(Queued { version, what, is_listed, seq: Some(self.seq) })
    }
}

impl MarkBody {
    /// Returns whether the origin and the time are valid. A deployment without a name makes marks without an origin.
    fn is_valid(&self) -> bool {
        (self.origin.is_empty() || is_deployment_name(&self.origin))
            && self.at.len() <= MAX_AT
            && OffsetDateTime::parse(&self.at, &Rfc3339).is_ok()
    }
}

/// Cuts a reason off, and escapes its control characters.
fn short_reason(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    let mut escaped = on_one_line(&reason);
    escaped.truncate(escaped.floor_char_boundary(MAX_REASON));
    escaped
}

/// A request for events.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct EventsRequest {
    /// The last known event of each index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pointers: Option<BTreeMap<String, u64>>,
    /// The number of seconds that the answer may wait for the first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wait: Option<u64>,
    /// The modules whose events are wanted, instead of those after a pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modules: Option<Vec<String>>,
}

/// The first line of an answer with events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The ID of the index that answers.
    #[serde(deserialize_with = "index_id")]
    pub(super) index: String,
    /// Its last event.
    #[serde(deserialize_with = "place")]
    pub(super) current: u64,
    /// Whether the request had a pointer into this index.
    pub(super) known: bool,
}

/// The last line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) end: bool,
    /// The answer is about all events up to this one, of which some are not for this peer.
    #[serde(default, deserialize_with = "place")]
    pub(super) seq: u64,
    /// Whether there is more.
    pub(super) more: bool,
}

/// A notification.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Notification {
    /// The ID of the index that has the events.
    pub(super) index: String,
    pub(super) events: Vec<Event>,
}

/// The answer to a notification.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Accepted {
    /// The number of events that mean work.
    pub(super) queued: u64,
}

/// A request for digests.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct DigestsRequest {
    /// The module after which the answer begins.
    #[serde(default)]
    pub(super) after: String,
}

/// The digest of the state of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest {
    pub(super) module: String,
    pub(super) digest: String,
}

/// A line of an answer.
#[derive(Debug)]
pub(super) enum Line<T> {
    Item(T),
    End(End),
}

/// Reads a place in a log. SQLite has signed numbers, in which a higher place would be negative.
fn place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let place = u64::deserialize(deserializer)?;
    match i64::try_from(place) {
        Ok(_) => Ok(place),
        Err(_) => Err(D::Error::invalid_value(Unexpected::Unsigned(place), &"a number below 2^63")),
    }
}

/// Reads the ID of an index.
fn index_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    match (1..=MAX_INDEX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(id),
        false => Err(D::Error::custom("the ID of the index is not valid")),
    }
}

/// Parses a line after the first.
pub(super) fn parse_line<T: for<'a> Deserialize<'a>>(line: &[u8]) -> Result<Line<T>, serde_json::Error> {
    match serde_json::from_slice(line) {
        Ok(item) => Ok(Line::Item(item)),
        Err(error) => serde_json::from_slice(line).map(Line::End).map_err(|_| error),
    }
}

/// Appends a line of an answer.
pub(super) fn push_line(body: &mut Vec<u8>, line: &impl Serialize) {
    // Only types of this file are written, whose keys are strings.
    if serde_json::to_writer(&mut *body, line).is_ok() {
        body.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_as_the_page_describes_them() {
        let h1: H1 = H1::new("h1:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=").unwrap();
        let kind = EventKind::Published { time: 5, h1: Some(h1), gomod_h1: None, bytes: 7 };
        let event = Event { seq: 3, module: "a.b/c".into(), version: "v1.0.0".into(), kind };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"seq":3,"module":"a.b/c","version":"v1.0.0","kind":"published","time":5,"h1":"h1:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=","bytes":7}"#
        );
        let Line::Item(again) = parse_line::<Event>(text.as_bytes()).unwrap() else { panic!("not an event") };
        assert_eq!(again, event);
        let mark = r#"{"seq":4,"module":"a.b/c","version":"v1.0.0","kind":"tombstoned","origin":"oslo","counter":2,"at":"2026-01-02T03:04:05Z"}"#;
        let Line::Item(Event { kind: EventKind::Tombstoned(body), .. }) =
            parse_line(mark.as_bytes()).unwrap()
        else {
            panic!("not a tombstone")
        };
        assert_eq!((body.origin.as_str(), body.counter), ("oslo", 2));
    }

    #[test]
    fn an_event_of_a_later_release_is_skipped_and_a_wrong_line_is_an_error() {
        let later = r#"{"seq":4,"module":"a.b/c","version":"v1.0.0","kind":"renamed","to":"x"}"#;
        let Line::Item(Event { kind: EventKind::Unknown, .. }) = parse_line(later.as_bytes()).unwrap() else {
            panic!("not skipped")
        };
        let end = parse_line::<Event>(br#"{"end":true,"seq":9,"more":false}"#).unwrap();
        assert!(matches!(end, Line::End(End { end: true, seq: 9, more: false })));
        for wrong in ["", "{}", "[1]", r#"{"seq":-1,"module":"a","version":"b","kind":"published"}"#] {
            assert!(parse_line::<Event>(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_place_that_sqlite_has_no_number_for_is_refused() {
        const LAST: u64 = i64::MAX.unsigned_abs();
        for (place, is_valid) in [(0, true), (LAST, true), (LAST + 1, false), (u64::MAX, false)] {
            let event = format!(
                r#"{{"seq":{place},"module":"a.b/c","version":"v1.0.0","kind":"published","time":1,"bytes":1}}"#
            );
            let end = format!(r#"{{"end":true,"seq":{place},"more":false}}"#);
            let header = format!(r#"{{"index":"0a","current":{place},"known":true}}"#);
            let notification = format!(r#"{{"index":"0a","events":[{event}]}}"#);
            assert_eq!(parse_line::<Event>(event.as_bytes()).is_ok(), is_valid, "{event}");
            assert_eq!(parse_line::<Event>(end.as_bytes()).is_ok(), is_valid, "{end}");
            assert_eq!(serde_json::from_str::<Header>(&header).is_ok(), is_valid, "{header}");
            assert_eq!(serde_json::from_str::<Notification>(&notification).is_ok(), is_valid, "{event}");
        }
        for index in ["", "a\u{1b}[2J", &"a".repeat(65)] {
            let header = serde_json::json!({"index": index, "current": 1, "known": true}).to_string();
            assert!(serde_json::from_str::<Header>(&header).is_err(), "{header}");
        }
    }

    #[test]
    fn a_mark_with_an_invalid_origin_or_time_is_no_work() {
        let peer = Peer { accept_tombstones: true, ..super::super::peer::tests::peer("a", "secret") };
        let queued = |origin: &str, at: &str, reason: &str| {
            let (origin, at, reason) = (origin.to_owned(), at.to_owned(), Some(reason.to_owned()));
            let kind = EventKind::Tombstoned(MarkBody { origin, counter: 1, at, reason });
            let event = Event { seq: 3, module: "a.b/c".into(), version: "v1.0.0".into(), kind };
            match event.queued(&peer)?.what {
                QueuedKind::Mark(mark) => mark.reason,
                QueuedKind::Fetch { .. } => panic!("not a mark"),
            }
        };
        const AT: &str = "2026-01-02T03:04:05Z";
        assert_eq!(queued("oslo", AT, "a key is in it").unwrap(), "a key is in it");
        assert!(queued("", AT, "of a deployment without a name").is_some());
        for origin in ["Oslo", "o slo", "\u{1b}[2J", &"o".repeat(65), &"o".repeat(900_000)] {
            assert_eq!(queued(origin, AT, "r"), None);
        }
        let long = format!("2026-01-02T03:04:05.{}Z", "0".repeat(100));
        for at in ["", "yesterday", &long] {
            assert_eq!(queued("oslo", at, "r"), None, "{at}");
        }
        assert_eq!(queued("oslo", AT, "a\u{1b}[2J\u{202e}").unwrap(), r"a\u{1b}[2J\u{202e}");
        for letter in ["r", "\u{1b}", "é"] {
            let reason = queued("oslo", AT, &letter.repeat(900_000)).unwrap();
            assert!(reason.len() <= MAX_REASON && reason.len() > MAX_REASON - 10, "{}", reason.len());
        }
    }
}
