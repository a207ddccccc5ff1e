//! Why something could not be had, in the terms that an answer is chosen by.

use std::sync::Arc;

use stoa_store::StoreError;

use crate::upstream::UpstreamError;

/// Why a version, a list or another answer could not be had.
///
/// Cloneable, since one flight fails for everybody who waits for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FillError {
    /// An upstream answered that there is no such thing.
    #[error("{0}")]
    Absent(String),
    /// It is not in the store, and no upstream may be asked.
    #[error("{0} is not in the store, and this proxy is offline")]
    Offline(String),
    /// An upstream does not want to give it to us.
    #[error("{0}")]
    Refused(String),
    /// An upstream did not answer in time.
    #[error("{0}")]
    Timeout(String),
    /// An upstream failed, or what it answered is broken.
    #[error("{0}")]
    Upstream(String),
    /// The request comes back to us.
    #[error("{0}")]
    Loop(String),
    /// The store failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// A task of this program broke off.
    #[error("{0} broke off within this program; the log says more")]
    Broken(String),
    /// More is waiting to be filled than this program remembers.
    #[error("{0} cannot be fetched now: too many versions are waiting to be; try again later")]
    Busy(String),
    /// This program is about to end.
    #[error("{0} cannot be fetched: this proxy is shutting down; try again")]
    Stopping(String),
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl FillError {
    /// Puts what an upstream said into these terms; `what` names what was asked for.
    pub(super) fn upstream(what: impl std::fmt::Display, error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Offline => Self::Offline(what.to_string()),
            UpstreamError::Loop { .. } => Self::Loop(format!("{what}: {error}")),
            UpstreamError::Refused { .. } => Self::Refused(format!("{what}: {error}")),
            _ if error.is_absent() => Self::Absent(format!("{what}: {error}")),
            _ if error.is_timeout() => Self::Timeout(format!("{what}: {error}")),
            _ => Self::Upstream(format!("{what}: {error}")),
        }
    }
}
