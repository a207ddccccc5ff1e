//! How asking an upstream can fail, in the terms that its callers decide by.
//!
//! What is shown never holds credentials: URLs come here without userinfo and query, and the words of
//! libraries without their URL.

use super::direct;

/// Why no upstream gave what was asked for.
///
/// Cloneable, since one flight fails for everybody who waits for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The upstream does not have it (404).
    #[error("{url} was not found{}", because(message))]
    NotFound {
        /// What was asked.
        url: String,
        /// What the upstream said of it; empty if nothing fit to be shown.
        message: String,
    },
    /// The upstream had it once (410).
    #[error("{url} is gone{}", because(message))]
    Gone {
        /// What was asked.
        url: String,
        /// What the upstream said of it; empty if nothing fit to be shown.
        message: String,
    },
    /// The upstream does not want to give it to us (401, 403, 407, 451).
    #[error("{url} was refused with status {status}{}; it may want credentials, or others", because(message))]
    Refused {
        /// What was asked.
        url: String,
        /// The status of the answer.
        status: u16,
        /// What the upstream said of it; empty if nothing fit to be shown.
        message: String,
    },
    /// The upstream answered with any other status that is no success.
    #[error("{url} was answered with status {status}{}", because(message))]
    Status {
        /// What was asked.
        url: String,
        /// The status of the answer.
        status: u16,
        /// What the upstream said of it; empty if nothing fit to be shown.
        message: String,
    },
    /// Nothing came in time.
    #[error("{url} took too long: {reason}; try again, or allow more time")]
    Timeout {
        /// What was asked.
        url: String,
        /// What was waited for, and how long.
        reason: String,
    },
    /// The connection could not be made or broke, or a local file could not be read.
    #[error("{url} could not be fetched: {reason}")]
    Transport {
        /// What was asked.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// It was answered, but not with what was asked for.
    #[error("{url} was answered with something else than what was asked for: {reason}")]
    BadAnswer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no upstream to ask.
    #[error("there is no upstream to ask: the list of upstreams is empty or says \"off\"")]
    Offline,
    /// Version control does not want to give it to us, or the go command is not allowed to ask it; or there is no such
    /// repository, which hosts say of private ones too.
    #[error(
        "{url} was refused by version control: {reason}; it may want credentials, or others, or not be there"
    )]
    VcsRefused {
        /// What was asked.
        url: String,
        /// What was said of it.
        reason: String,
    },
    /// The go command of this machine is not there, too old, or has no place to work in.
    #[error("{url} cannot be fetched by the go command of this machine: {reason}")]
    GoCommand {
        /// What was asked.
        url: String,
        /// What was said of it.
        reason: String,
    },
    /// The answer is larger than anything of its kind may be.
    #[error("{url} is larger than the {limit} bytes that are accepted")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// The request comes back to us.
    #[error("asking {url} goes in a circle; an upstream of this proxy has this proxy as its own upstream")]
    Loop {
        /// What was asked.
        url: String,
    },
}

impl UpstreamError {
    /// Says whether it was answered that there is no such thing, so that a client may look elsewhere.
    ///
    /// An upstream that failed or was not asked says nothing of absence.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Gone { .. })
    }

    /// Says whether time ran out, here or (504, 408) at the upstream.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Status { status: 408 | 504, .. })
    }

    /// Is what a client may know of it: not where things lie on this machine.
    pub fn told(&self) -> String {
        if let Self::GoCommand { url, .. } = self {
            return format!("{url} cannot be fetched by the go command of this proxy, whose log says more");
        }
        let text = self.to_string();
        match self.url() {
            // A tree of files as an upstream: the path says nothing to a client.
            Some(url) if url.starts_with("file:") => text.replace(url, "a file of the upstream"),
            Some(url) if direct::is_shown(url) => direct::without_paths(&text),
            _ => text,
        }
    }

    fn url(&self) -> Option<&str> {
        match self {
            Self::NotFound { url, .. }
            | Self::Gone { url, .. }
            | Self::Refused { url, .. }
            | Self::Status { url, .. }
            | Self::Timeout { url, .. }
            | Self::Transport { url, .. }
            | Self::BadAnswer { url, .. }
            | Self::TooLarge { url, .. }
            | Self::VcsRefused { url, .. }
            | Self::GoCommand { url, .. }
            | Self::Loop { url } => Some(url),
            Self::Offline => None,
        }
    }

    /// Returns the status that the upstream answered with, where that is what failed.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::NotFound { .. } => Some(404),
            Self::Gone { .. } => Some(410),
            Self::Refused { status, .. } | Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Sorts the answer to a request by its status, which is not 200.
    pub(super) fn of_status(status: u16, url: String, message: String) -> Self {
        match status {
            404 => Self::NotFound { url, message },
            410 => Self::Gone { url, message },
            401 | 403 | 407 | 451 => Self::Refused { url, status, message },
            508 => Self::Loop { url },
            _ => Self::Status { url, status, message },
        }
    }

    /// Says how much an error tells: what went wrong more than what is not there, and that more than that there
    /// is nobody to ask.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Offline => 0,
            Self::NotFound { .. } | Self::Gone { .. } => 1,
            _ => 2,
        }
    }
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// Why no [`Upstream`](super::Upstream) could be made.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamConfigError {
    /// The list is not one.
    #[error(
        "cannot read the list of upstreams: {reason}; it is written as GOPROXY is, for example https://proxy.example,off"
    )]
    List {
        /// What is wrong with it.
        reason: String,
    },
    /// The name of this proxy cannot stand in a `Via` header.
    #[error(
        "{0:?} cannot name this proxy in a Via header: it must be plain ASCII without spaces, commas, quotes and brackets"
    )]
    Instance(String),
    /// The user agent cannot stand in a header.
    #[error("{0:?} cannot be sent as a User-Agent header: it must be plain ASCII on one line")]
    UserAgent(String),
    /// Nothing says which certificates to trust.
    #[error(
        "no root certificates were found to check {url} with{}; install the system's certificates, or name them in SSL_CERT_FILE or SSL_CERT_DIR",
        because(reason)
    )]
    NoRoots {
        /// The upstream that needs them.
        url: String,
        /// What went wrong when they were looked for; empty if there just are none.
        reason: String,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client for the upstreams: {0}")]
    Client(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_says_that_something_is_absent() {
        let of = |status| UpstreamError::of_status(status, "http://a.example/x".to_owned(), String::new());
        assert!(of(404).is_absent() && of(410).is_absent());
        for status in [201, 204, 304, 400, 401, 403, 429, 500, 502, 503, 504, 508] {
            assert!(!of(status).is_absent(), "{status}");
        }
        assert!(!UpstreamError::Offline.is_absent());
        assert!(of(504).is_timeout() && !of(502).is_timeout());
        assert!(matches!(of(403), UpstreamError::Refused { status: 403, .. }));
        assert!(matches!(of(508), UpstreamError::Loop { .. }));
    }
}
