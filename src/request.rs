//! A request: its client, its kind and the source of its answer.
//!
//! The server makes the value from the connection and the head. The proxy adds the kind of the answer. The observer reads
//! everything after the last byte.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use crate::words::words;

/// A request, from its head to the last byte of its answer.
#[derive(Debug)]
pub(crate) struct RequestInfo {
    /// The client.
    pub(crate) caller: Caller,
    /// A number that no other request of this process has.
    pub(crate) id: RequestId,
    /// The time at which its head was complete.
    pub(crate) began: Instant,
    /// Whether the client uses TLS.
    pub(crate) is_https: bool,
    /// The listener of the connection.
    pub(crate) entrance: Entrance,
    kind: AtomicU8,
    source: AtomicU8,
}

/// A listener, by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// For clients.
    Public,
    /// For operators and their tools.
    Admin,
}

/// The client of a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Its address. `None` behind a unix socket whose other end names none.
    pub(crate) address: Option<IpAddr>,
    /// Its proven name.
    pub(crate) identity: Identity,
}

/// The proven name of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// None was given.
    Anonymous,
    /// A user of this server.
    User(Arc<str>),
    /// Another deployment.
    Peer(Arc<str>),
}

/// The number of a request, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId(u64);

words! {
    /// The kind of a request.
    pub(crate) enum Kind {
        /// An address that is none of the others.
        Other = "other",
        /// An info file.
        Info = "info",
        /// A go.mod.
        Mod = "mod",
        /// A zip.
        Zip = "zip",
        /// The list of the versions of a module.
        List = "list",
        /// The latest version of a module.
        Latest = "latest",
        /// A branch, a prefix of versions or another query.
        Query = "query",
        /// A question to a checksum database.
        Sumdb = "sumdb",
        /// The catalog.
        Catalog = "catalog",
        /// The feed of versions.
        Index = "index",
        /// A page for people.
        Page = "page",
        /// The health or the version of the server.
        Health = "health",
        /// The metrics.
        Metrics = "metrics",
        /// A request of another deployment for events or digests.
        Peer = "peer",
    }
}

words! {
    /// The source of an answer.
    pub(crate) enum Source {
        /// None: an error, or an answer about the server.
        None = "-",
        /// The store or a cache.
        Hit = "hit",
        /// An upstream or the bucket, which this request asked.
        Miss = "miss",
        /// An upstream or the bucket, which another request asked.
        Wait = "wait",
        /// A cache, with an answer that is not fresh.
        Stale = "stale",
    }
}

impl RequestInfo {
    /// Makes the value for a request of a caller that has just arrived.
    pub(crate) fn new(caller: Caller, entrance: Entrance) -> Self {
        Self {
            caller,
            id: RequestId::next(),
            began: Instant::now(),
            is_https: false,
            entrance,
            kind: AtomicU8::new(0),
            source: AtomicU8::new(0),
        }
    }

    /// Notes the kind.
    pub(crate) fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Relaxed);
    }

    /// Returns the kind.
    pub(crate) fn kind(&self) -> Kind {
        let index = usize::from(self.kind.load(Ordering::Relaxed));
        Kind::ALL.get(index).copied().unwrap_or(Kind::Other)
    }

    /// Notes the source of the answer. The last note counts.
    pub(crate) fn note_source(&self, source: Source) {
        self.source.store(source as u8, Ordering::Relaxed);
    }

    /// Returns the source of the answer.
    pub(crate) fn source(&self) -> Source {
        let index = usize::from(self.source.load(Ordering::Relaxed));
        Source::ALL.get(index).copied().unwrap_or(Source::None)
    }
}

impl Caller {
    /// A client without a name.
    pub(crate) fn anonymous(address: Option<IpAddr>) -> Self {
        Self { address, identity: Identity::Anonymous }
    }
}

impl RequestId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let info = RequestInfo::new(Caller::anonymous(None), Entrance::Public);
        assert_eq!((info.kind(), info.source()), (Kind::Other, Source::None));
        for kind in Kind::ALL {
            info.set_kind(*kind);
            assert_eq!(info.kind(), *kind);
        }
        for source in Source::ALL {
            info.note_source(*source);
            assert_eq!(info.source(), *source);
        }
        let other = RequestInfo::new(Caller::anonymous(None), Entrance::Public);
        assert_ne!(info.id, other.id);
    }
}
