//! Errors of upstreams, in the terms by which callers decide.
//!
//! Texts never contain credentials: URLs come without userinfo and query, and errors of libraries without
//! their URL.

use super::direct;
use std::time::Duration;

/// The reason why no upstream had an answer.
///
/// The error is cloneable, since a failed flight fails for every client that waits for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The upstream answered 404.
    #[error("{url} was not found{}", because(message))]
    NotFound {
        /// The requested URL.
        url: String,
        /// The upstream's message, empty if it cannot be printed.
        message: String,
    },
    /// The upstream answered 410.
    #[error("{url} is gone{}", because(message))]
    Gone {
        /// The requested URL.
        url: String,
        /// The upstream's message, empty if it cannot be printed.
        message: String,
    },
    /// The upstream refused the request (401, 403, 407, 451).
    #[error(
        "{url} was refused with status {status}{}; check the credentials for this upstream",
        because(message)
    )]
    Refused {
        /// The requested URL.
        url: String,
        /// The status of the answer.
        status: u16,
        /// The upstream's message, empty if it cannot be printed.
        message: String,
    },
    /// The upstream answered with another error status.
    #[error("{url} failed with status {status}{}", because(message))]
    Status {
        /// The requested URL.
        url: String,
        /// The status of the answer.
        status: u16,
        /// The upstream's message, empty if it cannot be printed.
        message: String,
    },
    /// The upstream accepts no requests for a while (429, or 503 with `Retry-After`).
    #[error(
        "{url} was refused with status {status}; the upstream accepts requests again in {} s{}",
        seconds(*retry_after), because(message)
    )]
    Limited {
        /// The requested URL.
        url: String,
        /// The status of the answer.
        status: u16,
        /// The time after which the upstream accepts requests.
        retry_after: Duration,
        /// The upstream's message, empty if it cannot be printed.
        message: String,
    },
    /// The upstream did not answer in time.
    #[error("{url} timed out: {reason}; try again")]
    Timeout {
        /// The requested URL.
        url: String,
        /// The exceeded limit.
        reason: String,
    },
    /// The upstream sent a file slowly while other downloads waited.
    #[error(
        "{url} was too slow: {rate} bytes per second are less than fill.min_rate ({min_rate}), and other downloads waited; try again"
    )]
    Slow {
        /// The requested URL.
        url: String,
        /// The measured rate in bytes per second.
        rate: u64,
        /// The minimum rate in bytes per second.
        min_rate: u64,
    },
    /// The connection failed, or a local file could not be read.
    #[error("cannot download {url}: {reason}")]
    Transport {
        /// The requested URL.
        url: String,
        /// The cause.
        reason: String,
    },
    /// The answer is invalid.
    #[error("{url} returned an invalid answer: {reason}")]
    BadAnswer {
        /// The requested URL.
        url: String,
        /// The fault.
        reason: String,
    },
    /// The list has no upstream.
    #[error("there is no upstream: the list of upstreams is empty or \"off\"")]
    Offline,
    /// Version control refused the request, or the go command may not use it, or the repository does not
    /// exist. Hosts answer "not found" for private repositories, too.
    #[error(
        "{url} was refused by version control: {reason}; check the credentials, and that the repository exists"
    )]
    VcsRefused {
        /// The requested URL.
        url: String,
        /// The error message.
        reason: String,
    },
    /// The rules do not allow version control to go there.
    #[error("{url} is not allowed by the rules of this proxy: {reason}")]
    NotAllowed {
        /// The requested URL.
        url: String,
        /// The forbidden place.
        reason: String,
    },
    /// The go command is missing, too old, or cannot write its files.
    #[error("cannot download {url} with the go command: {reason}")]
    GoCommand {
        /// The requested URL.
        url: String,
        /// The error message.
        reason: String,
    },
    /// The answer exceeds the size limit.
    #[error("{url} exceeds the limit of {limit} bytes")]
    TooLarge {
        /// The requested URL.
        url: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// An earlier entry of the list answered 404 or 410, and a later entry could not be reached.
    #[error("{absent}, and {} could not be reached: {cause}", host_of(cause))]
    Unreached {
        /// The answer of the earlier entry.
        absent: Box<Self>,
        /// The failure of the later entry.
        cause: Box<Self>,
    },
    /// The request came back to this proxy.
    #[error("requests for {url} go in a loop: an upstream of this proxy has this proxy as its own upstream")]
    Loop {
        /// The requested URL.
        url: String,
    },
}

impl UpstreamError {
    /// Returns whether an upstream answered that it does not exist, so that a client may look elsewhere.
    ///
    /// A failure or a missing upstream does not mean absence.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Gone { .. })
    }

    /// Returns whether the rules of this proxy do not allow the answer.
    pub(super) fn is_not_allowed(&self) -> bool {
        matches!(self, Self::NotAllowed { .. })
    }

    /// Returns whether a timeout occurred, here or at the upstream (504, 408).
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Unreached { cause, .. } => cause.is_timeout(),
            _ => matches!(
                self,
                Self::Timeout { .. } | Self::Slow { .. } | Self::Status { status: 408 | 504, .. }
            ),
        }
    }

    /// Returns whether there was no connection to the upstream, or no answer within the time limit.
    pub(super) fn is_unreachable(&self) -> bool {
        let is_remote = self.url().is_some_and(|url| !url.starts_with("file:"));
        is_remote && matches!(self, Self::Timeout { .. } | Self::Transport { .. })
    }

    /// Returns the message for clients, without local paths.
    pub fn for_client(&self) -> String {
        if let Self::GoCommand { url, .. } = self {
            return format!("cannot download {url} with the go command of this proxy (see the server log)");
        }
        if let Self::Unreached { absent, cause } = self {
            let (absent, host, cause) = (absent.for_client(), host_of(cause), cause.for_client());
            return format!("{absent}, and {host} could not be reached: {cause}");
        }
        let text = match self {
            // The text of an internal error is for the operator of the upstream. It is in the log here.
            Self::Status { url, status: status @ 500.., .. } => {
                Self::of_status(*status, url.clone(), String::new()).to_string()
            }
            _ => self.to_string(),
        };
        match self.url() {
            // The upstream is a local tree of files.
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
            | Self::Limited { url, .. }
            | Self::Timeout { url, .. }
            | Self::Slow { url, .. }
            | Self::Transport { url, .. }
            | Self::BadAnswer { url, .. }
            | Self::TooLarge { url, .. }
            | Self::VcsRefused { url, .. }
            | Self::NotAllowed { url, .. }
            | Self::GoCommand { url, .. }
            | Self::Loop { url } => Some(url),
            Self::Unreached { cause, .. } => cause.url(),
            Self::Offline => None,
        }
    }

    /// Returns the error status of the upstream's answer, if there is one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::NotFound { .. } => Some(404),
            Self::Gone { .. } => Some(410),
            Self::Refused { status, .. } | Self::Status { status, .. } | Self::Limited { status, .. } => {
                Some(*status)
            }
            _ => None,
        }
    }

    /// Returns the error for an answer with a status other than 200.
    pub(super) fn of_status(status: u16, url: String, message: String) -> Self {
        match status {
            404 => Self::NotFound { url, message },
            410 => Self::Gone { url, message },
            401 | 403 | 407 | 451 => Self::Refused { url, status, message },
            508 => Self::Loop { url },
            _ => Self::Status { url, status, message },
        }
    }

    /// Returns how informative an error is: failures are more informative than absence, and absence more
    /// than a missing upstream. A limit is the most informative, since it names the time of its end.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Offline => 0,
            Self::NotFound { .. } | Self::Gone { .. } => 1,
            // A caller may report it as absence, so it must not hide another failure.
            Self::Unreached { .. } => 2,
            Self::Limited { .. } => 4,
            _ => 3,
        }
    }
}

/// Returns the host in the URL of an error, or the host of the repository.
fn host_of(error: &UpstreamError) -> &str {
    let url = error.url().unwrap_or_default();
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    authority.split(['/', ' ', '@']).next().unwrap_or_default()
}

fn because(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// Returns a duration in seconds, rounded up.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The reason why settings of upstreams are invalid.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamConfigError {
    /// The list is invalid.
    #[error(
        "cannot use the list of upstreams: {reason}\nhelp: use the syntax of GOPROXY, for example https://proxy.example,off"
    )]
    List {
        /// The fault.
        reason: String,
    },
    /// The user agent cannot be in a header.
    #[error("cannot use {0:?} as the User-Agent header\nhelp: use ASCII on one line")]
    UserAgent(String),
    /// There are no root certificates.
    #[error(
        "cannot verify {url}: there are no root certificates{}\nhelp: install the system's certificates, or set SSL_CERT_FILE or SSL_CERT_DIR",
        because(reason)
    )]
    NoRoots {
        /// The upstream that needs them.
        url: String,
        /// The errors while loading them, empty if there were none.
        reason: String,
    },
    /// The HTTP client could not be created.
    #[error("cannot set up the HTTP client for the upstreams: {0}")]
    Client(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_404_and_410_mean_absence() {
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

    #[test]
    fn an_unreached_upstream_is_named_by_its_host() {
        let absent = UpstreamError::of_status(404, "http://a.example/x".to_owned(), String::new());
        for (url, host) in [
            ("https://b.example:8080/m/@v/list", "b.example:8080"),
            ("c.example/m@latest (direct)", "c.example"),
            ("d.example (direct)", "d.example"),
        ] {
            let cause = UpstreamError::Transport { url: url.to_owned(), reason: "refused".to_owned() };
            assert!(cause.is_unreachable());
            let error = UpstreamError::Unreached { absent: Box::new(absent.clone()), cause: Box::new(cause) };
            let text = format!("http://a.example/x was not found, and {host} could not be reached: ");
            assert!(error.to_string().starts_with(&text), "{error}");
            assert!(error.for_client().starts_with(&text), "{}", error.for_client());
            assert!(!error.is_absent() && !error.is_timeout());
        }
        let local = UpstreamError::Transport { url: "file:///srv/x".to_owned(), reason: String::new() };
        assert!(!local.is_unreachable());
    }

    #[test]
    fn clients_get_no_text_of_an_internal_error() {
        let of = |status| {
            UpstreamError::of_status(status, "http://a.example/x".to_owned(), "some text".to_owned())
                .for_client()
        };
        assert_eq!(of(500), "http://a.example/x failed with status 500");
        assert_eq!(of(400), "http://a.example/x failed with status 400: some text");
        assert_eq!(of(404), "http://a.example/x was not found: some text");
    }
}
