//! The result of verifying a stored version.

use std::sync::Arc;

use crate::unavailable::Unavailable;

/// The knowledge about a stored version.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// The version is not in the store, or was corrupt.
    Absent,
    /// A checksum database or a go.sum confirms it.
    Confirmed,
    /// A checksum database has other hashes. The version is in quarantine now, unless the store is read-only.
    Differs(Arc<str>),
    /// No checksum database confirms it, for this reason.
    Unconfirmed(Arc<str>),
    /// The checksum database cannot be reached.
    Unreachable(Unavailable),
    /// There is no server to ask.
    Offline,
    /// The policy of its module is `off`.
    NotAsked,
}
