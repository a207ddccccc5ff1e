//! Why something could not be had, in the terms that an answer is chosen by.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use stoa_store::{Objection, StoreError};

use crate::upstream::UpstreamError;

/// Why a version, a list or another answer could not be had.
///
/// Cloneable, since one flight fails for everybody who waits for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FillError {
    /// An upstream answered that there is no such thing.
    #[error("{0}")]
    Absent(Reason),
    /// It is not in the store, and no upstream may be asked.
    #[error("{0} is not in the store, and this proxy is offline")]
    Offline(String),
    /// Somebody has removed it for good.
    #[error("{0}")]
    Gone(Reason),
    /// It is another one than is recorded of it or than a checksum database knows.
    #[error("{0}")]
    Differs(Reason),
    /// It is another one than who asked expects.
    #[error("{version}: {reason}")]
    Unexpected {
        /// What was fetched, and is not stored.
        version: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody vouches for it, and somebody must.
    #[error("{0}")]
    Unvouched(Reason),
    /// It is not in the store, and is not to be fetched.
    #[error("{0} is not in the store, and the configuration says not to fetch it")]
    NotFetched(String),
    /// The configuration says that nobody gets it.
    #[error("{0} is refused by the configuration of this proxy")]
    Denied(String),
    /// An upstream does not want to give it to us.
    #[error("{0}")]
    Refused(Reason),
    /// It is private: no checksum database is asked about it.
    #[error("{0} is private: no checksum database is asked about it; name it in GONOSUMDB or GOPRIVATE")]
    Private(String),
    /// An upstream did not answer in time.
    #[error("{0}")]
    Timeout(Reason),
    /// An upstream failed, or what it answered is broken.
    #[error("{0}")]
    Upstream(Reason),
    /// The request comes back to us.
    #[error("{0}")]
    Loop(Reason),
    /// The store failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// A task of this program broke off.
    #[error("{0} broke off within this program; the log says more")]
    Broken(String),
    /// More is waiting to be filled than this program remembers.
    #[error("{0} cannot be fetched now: too many versions are waiting to be; try again later")]
    Busy(String),
    /// Everybody who waited for it went away before it was begun.
    #[error("{0} was not fetched: nobody waits for it any more")]
    Abandoned(String),
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
    pub(super) fn upstream(what: impl Display, error: &UpstreamError) -> Self {
        let reason = || Reason::new(&what, error);
        match error {
            UpstreamError::Offline => Self::Offline(what.to_string()),
            UpstreamError::Loop { .. } => Self::Loop(reason()),
            UpstreamError::Refused { .. } | UpstreamError::VcsRefused { .. } => Self::Refused(reason()),
            _ if error.is_absent() => Self::Absent(reason()),
            _ if error.is_timeout() => Self::Timeout(reason()),
            _ => Self::Upstream(reason()),
        }
    }

    /// Puts what a version's record has against it into these terms.
    pub(super) fn objection(version: impl Display, objection: &Objection) -> Self {
        let reason = Reason::from(format!("{version}: {objection}"));
        match objection {
            Objection::Tombstone(_) => Self::Gone(reason),
            Objection::Differs { .. } => Self::Differs(reason),
        }
    }

    /// Is what a client may know of it: not where things lie on this machine.
    pub fn told(&self) -> String {
        match self {
            Self::Absent(reason)
            | Self::Gone(reason)
            | Self::Differs(reason)
            | Self::Unvouched(reason)
            | Self::Refused(reason)
            | Self::Timeout(reason)
            | Self::Upstream(reason)
            | Self::Loop(reason) => reason.told.clone().unwrap_or_else(|| reason.text.clone()),
            Self::Store(_) => "the store failed; the log of this proxy says more".to_owned(),
            Self::Offline(_)
            | Self::Unexpected { .. }
            | Self::NotFetched(_)
            | Self::Denied(_)
            | Self::Private(_)
            | Self::Broken(_)
            | Self::Busy(_)
            | Self::Abandoned(_)
            | Self::Stopping(_) => self.to_string(),
        }
    }
}

/// What went wrong, for the log; and for a client, where that differs.
#[derive(Debug, Clone)]
pub struct Reason {
    text: String,
    told: Option<String>,
}

impl Reason {
    fn new(what: &dyn Display, error: &UpstreamError) -> Self {
        let (text, told) = (format!("{what}: {error}"), format!("{what}: {}", error.told()));
        let told = (told != text).then_some(told);
        Self { text, told }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { text, told: None }
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_learns_no_path_of_this_machine() {
        let absent = |url: &str| {
            let error = UpstreamError::NotFound { url: url.to_owned(), message: String::new() };
            FillError::upstream("a.b@v1.0.0", &error)
        };
        let local = absent("file:///srv/go modules/a.b/@v/v1.0.0.info");
        assert!(local.to_string().contains("/srv/go modules/"));
        assert_eq!(local.told(), "a.b@v1.0.0: a file of the upstream was not found");
        let remote = absent("https://proxy.example/a.b/@v/v1.0.0.info");
        assert_eq!(remote.told(), remote.to_string());
        let reason = "cannot create a folder in /srv/my scratch: no space left".to_owned();
        let tool = FillError::upstream(
            "a.b@v1.0.0",
            &UpstreamError::GoCommand { url: "a.b (direct)".to_owned(), reason },
        );
        assert!(tool.to_string().contains("/srv/my scratch"));
        assert!(!tool.told().contains("scratch") && tool.told().contains("log"), "{}", tool.told());
    }
}
