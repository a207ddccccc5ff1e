//! Where a checksum database is to be had.

use crate::upstream::{SumdbAnswer, Upstream, UpstreamError, Via};

/// Who is asked for a database.
#[derive(Debug, Clone, Copy)]
pub(in crate::fill) enum Place<'a> {
    /// The database itself, whose URL is known.
    Itself(&'a Upstream),
    /// An upstream, which may pass it on.
    Upstream(&'a Upstream),
}

impl Place<'_> {
    /// Whether there is nobody to ask.
    pub(in crate::fill) fn is_offline(self) -> bool {
        match self {
            Self::Itself(upstream) | Self::Upstream(upstream) => upstream.is_offline(),
        }
    }

    /// Whether the database answers there.
    pub(in crate::fill) async fn has(self, name: &str, via: &Via) -> Result<bool, UpstreamError> {
        match self {
            Self::Itself(_) => Ok(true),
            Self::Upstream(upstream) => upstream.sumdb_supported(name, via).await,
        }
    }

    /// Asks for a path below the name of the database.
    pub(in crate::fill) async fn ask(
        self,
        name: &str,
        path: &str,
        via: &Via,
    ) -> Result<SumdbAnswer, UpstreamError> {
        match self {
            Self::Itself(own) => own.sumdb_here(path, via).await,
            Self::Upstream(upstream) => upstream.sumdb(name, path, via).await,
        }
    }
}
