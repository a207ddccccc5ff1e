//! The server that is asked for a checksum database.

use crate::upstream::{SumdbAnswer, Upstream, UpstreamError, Via};

/// The server that is asked for a database.
#[derive(Debug, Clone, Copy)]
pub(super) enum SumdbSource<'a> {
    /// The database itself, at its own URL.
    Database(&'a Upstream),
    /// An upstream that may forward the database.
    Upstream(&'a Upstream),
}

impl SumdbSource<'_> {
    /// Returns whether there is no server to ask.
    pub(super) fn is_offline(self) -> bool {
        match self {
            Self::Database(upstream) | Self::Upstream(upstream) => upstream.is_offline(),
        }
    }

    /// Returns whether the server forwards the database.
    pub(super) async fn supports(self, name: &str, via: &Via) -> Result<bool, UpstreamError> {
        match self {
            Self::Database(_) => Ok(true),
            Self::Upstream(upstream) => upstream.sumdb_supported(name, via).await,
        }
    }

    /// Requests a path below the name of the database.
    pub(super) async fn get(self, name: &str, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        match self {
            Self::Database(own) => own.sumdb_here(path, via).await,
            Self::Upstream(upstream) => upstream.sumdb(name, path, via).await,
        }
    }
}
