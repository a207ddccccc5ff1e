//! Errors of downloads and questions, in the terms by which the proxy chooses a status.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use stoa_store::{Objection, StoreError};

use crate::upstream::UpstreamError;

/// The reason why a version, a list or another answer is not available.
///
/// The error is cloneable, since a failed flight fails for every client that waits for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unavailable {
    /// An upstream answered that it does not exist.
    #[error("{0}")]
    Absent(Reason),
    /// An upstream answered that it does not exist, and another upstream could not be reached.
    #[error("{0}")]
    Unreached(Reason),
    /// It is not in the store, and there is no upstream to ask.
    #[error("{0} is not in the store, and this proxy is offline")]
    Offline(String),
    /// The version has a tombstone.
    #[error("{0}")]
    Gone(Reason),
    /// Its hash differs from the version's record or from the checksum database.
    #[error("{0}")]
    Differs(Reason),
    /// Its hash differs from the hash that the caller expects.
    #[error("{version}: {reason}")]
    Unexpected {
        /// The downloaded version, which was not stored.
        version: String,
        /// The difference.
        reason: String,
    },
    /// No checksum database knows its hash, and the policy requires that.
    #[error("{0}")]
    Unverified(Reason),
    /// It is stored, and must be verified before it is served, which is not done yet.
    #[error("{0}")]
    NotYetVerified(Reason),
    /// It is not in the store, and the mode of its rule is `none`.
    #[error("{0} is not in the store, and the configuration forbids downloading it")]
    NotFetched(String),
    /// The configuration denies it.
    #[error("{name} is denied by the configuration of this proxy{}", after_colon(reason.as_deref()))]
    Denied {
        /// The version, or the module.
        name: String,
        /// The reason in the rule.
        reason: Option<Arc<str>>,
    },
    /// An upstream refused the request.
    #[error("{0}")]
    Refused(Reason),
    /// The module is private, so no checksum database is asked about it.
    #[error(
        "{0} is private, so no checksum database is asked about it\nhelp: add the module to GONOSUMDB or GOPRIVATE of the go command"
    )]
    Private(String),
    /// An upstream did not answer in time.
    #[error("{0}")]
    Timeout(Reason),
    /// An upstream failed or sent an invalid answer.
    #[error("{0}")]
    Upstream(Reason),
    /// An upstream accepts no requests for a while.
    #[error("{reason}")]
    Limited {
        /// The upstream and its answer.
        reason: Reason,
        /// The status of the answer.
        status: u16,
        /// The time after which the upstream accepts requests.
        retry_after: Duration,
    },
    /// The request came back to this proxy.
    #[error("{0}")]
    Loop(Reason),
    /// The store failed.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// A task of this program panicked.
    #[error("{0}: unexpected failure (see the server log)")]
    Broken(String),
    /// Too many versions are waiting to be downloaded.
    #[error("cannot download {0}: too many downloads are waiting\nhelp: try again later")]
    Busy(String),
    /// The client waited too long for other downloads to finish.
    #[error(
        "cannot download {version}: other downloads did not finish within {} s\nhelp: try again later",
        waited.as_secs()
    )]
    Crowded {
        /// The version.
        version: String,
        /// The time that the client waited.
        waited: Duration,
    },
    /// Another process works on the version and makes no progress.
    #[error("cannot lock {version}: {holder} has held it for {} s without progress\nhelp: try again later, or ask the operator of this proxy to stop that process", quiet.as_secs())]
    Held {
        /// The version.
        version: String,
        /// The holder, as far as the system reports it.
        holder: String,
        /// The time without progress.
        quiet: Duration,
    },
    /// All clients that waited for it disconnected before the download started.
    #[error("cannot download {0}: the download was stopped after all earlier clients disconnected")]
    Abandoned(String),
    /// This program is shutting down.
    #[error("cannot download {0}: this proxy is shutting down\nhelp: try again")]
    Stopping(String),
}

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        if let StoreError::Held { version, holder, quiet } = &error {
            log::error!(
                version, holder, quiet:% = format!("{quiet:.0?}");
                "stopped waiting for a version that another process has claimed"
            );
            return Self::Held { version: version.clone(), holder: holder.clone(), quiet: *quiet };
        }
        Self::Store(Arc::new(error))
    }
}

/// Returns the end of a text, if there is one.
fn after_colon(end: Option<&str>) -> String {
    end.map_or_else(String::new, |end| format!(": {end}"))
}

impl Unavailable {
    /// Converts an upstream's error; `what` names the requested item.
    pub(crate) fn upstream(what: impl Display, error: &UpstreamError) -> Self {
        let reason = || Reason::new(&what, error);
        match error {
            UpstreamError::Offline => Self::Offline(what.to_string()),
            UpstreamError::Loop { .. } => Self::Loop(reason()),
            UpstreamError::Limited { status, retry_after, .. } => {
                Self::Limited { reason: reason(), status: *status, retry_after: *retry_after }
            }
            UpstreamError::Refused { .. }
            | UpstreamError::VcsRefused { .. }
            | UpstreamError::NotAllowed { .. } => Self::Refused(reason()),
            _ if error.is_absent() => Self::Absent(reason()),
            _ if error.is_timeout() => Self::Timeout(reason()),
            _ => Self::Upstream(reason()),
        }
    }

    /// Converts an upstream's error about a module that nothing else is known of. An upstream that could not be reached
    /// does not count then, if another upstream answered that the item does not exist.
    pub(crate) fn of_unknown_module(what: impl Display, error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Unreached { .. } => Self::Unreached(Reason::new(&what, error)),
            _ => Self::upstream(what, error),
        }
    }

    /// Converts an objection of a version's record.
    pub(crate) fn objection(version: impl Display, objection: &Objection) -> Self {
        let reason = Reason::from(format!("{version}: {objection}"));
        match objection {
            Objection::Tombstone(_) => Self::Gone(reason),
            Objection::Differs { .. } => Self::Differs(reason),
        }
    }

    /// Returns the error for requests before the next attempt, which starts after some time. Only for wrong versions.
    pub(crate) fn repeated(mut self, left: Duration) -> Self {
        if let Self::Differs(reason) | Self::Upstream(reason) = &mut self {
            reason.repeated_for = Some(left);
        }
        self
    }

    /// Returns whether the error is that of an earlier attempt.
    pub(crate) fn is_repeated(&self) -> bool {
        matches!(self, Self::Differs(reason) | Self::Upstream(reason) if reason.repeated_for.is_some())
    }

    /// Returns the time after which another request may succeed, if it is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } => Some(*retry_after),
            Self::Differs(reason) | Self::Upstream(reason) => reason.repeated_for,
            Self::Crowded { .. } | Self::Held { .. } => Some(Duration::from_secs(30)),
            _ => None,
        }
    }

    /// Returns the message for clients, without local paths.
    pub fn for_client(&self) -> String {
        match self {
            Self::Absent(reason)
            | Self::Unreached(reason)
            | Self::Gone(reason)
            | Self::Differs(reason)
            | Self::Unverified(reason)
            | Self::NotYetVerified(reason)
            | Self::Refused(reason)
            | Self::Timeout(reason)
            | Self::Upstream(reason)
            | Self::Limited { reason, .. }
            | Self::Loop(reason) => reason.for_client.clone().unwrap_or_else(|| reason.text.clone()),
            Self::Store(error) if error.is_over_size_limit() => {
                "this proxy must not write files as large as this version (see the server log)".to_owned()
            }
            Self::Store(error) if error.is_out_of_space() => {
                "this proxy has no space to store the version (see the server log)".to_owned()
            }
            Self::Store(_) => "cannot access the store (see the server log)".to_owned(),
            Self::Offline(_)
            | Self::Unexpected { .. }
            | Self::NotFetched(_)
            | Self::Denied { .. }
            | Self::Private(_)
            | Self::Broken(_)
            | Self::Busy(_)
            | Self::Crowded { .. }
            | Self::Held { .. }
            | Self::Abandoned(_)
            | Self::Stopping(_) => self.to_string(),
        }
    }
}

/// The text of an error for the log, and the text for clients if that differs.
#[derive(Debug, Clone)]
pub struct Reason {
    text: String,
    for_client: Option<String>,
    /// The time until the next attempt, if the error is that of an earlier attempt.
    repeated_for: Option<Duration>,
}

impl Reason {
    fn new(what: &dyn Display, error: &UpstreamError) -> Self {
        let (text, for_client) = (format!("{what}: {error}"), format!("{what}: {}", error.for_client()));
        let for_client = (for_client != text).then_some(for_client);
        Self { text, for_client, repeated_for: None }
    }
}

impl Reason {
    /// Returns a text for the log, and another for clients.
    pub(crate) fn with_text_for_client(text: String, for_client: String) -> Self {
        Self { text, for_client: Some(for_client), repeated_for: None }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { text, for_client: None, repeated_for: None }
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
    fn texts_for_clients_contain_no_local_paths() {
        let absent = |url: &str| {
            let error = UpstreamError::NotFound { url: url.to_owned(), message: String::new() };
            Unavailable::upstream("a.b@v1.0.0", &error)
        };
        let local = absent("file:///srv/go modules/a.b/@v/v1.0.0.info");
        assert!(local.to_string().contains("/srv/go modules/"));
        assert_eq!(local.for_client(), "a.b@v1.0.0: a file of the upstream was not found");
        let remote = absent("https://proxy.example/a.b/@v/v1.0.0.info");
        assert_eq!(remote.for_client(), remote.to_string());
        let reason = "cannot create a folder in /srv/my scratch: no space left".to_owned();
        let tool = Unavailable::upstream(
            "a.b@v1.0.0",
            &UpstreamError::GoCommand { url: "a.b (direct)".to_owned(), reason },
        );
        assert!(tool.to_string().contains("/srv/my scratch"));
        assert!(
            !tool.for_client().contains("scratch") && tool.for_client().contains("log"),
            "{}",
            tool.for_client()
        );
    }
}
