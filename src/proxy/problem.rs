//! Answers that report a problem: their status, headers and text.
//!
//! An upstream's failure is a 5xx that no cache may store: a client that reads 404 asks the next proxy of its list, and
//! would take a module as absent because of an outage. The texts name modules and upstreams, and never a path of this
//! machine.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use stoa_gomod::Misspelling;

use super::answer::{self, DAY, MINUTE, NO_STORE, Response, TEXT};
use super::body::Body;
use crate::access::Refusal;
use crate::unavailable::Unavailable;

/// The reason why a request is not answered as the client wants.
#[derive(Debug)]
pub(super) enum Problem<'e> {
    /// A module, a version or a checksum database could not be fetched or read.
    Failed(&'e Unavailable, Subject),
    /// The client wants stored versions and answers only, and this is not stored.
    NotStored,
    /// The version is not stored, and the client is not to wait until it is.
    InBackground,
    /// The proxy has no such path, but a similar one below its base path.
    Misspelled(&'e Misspelling, &'e str),
    /// The proxy has no such path, and no module can have it.
    NoPage,
    /// The proxy has no such path.
    UnknownAddress,
    /// The client may not read it.
    NoAccess(&'e Refusal),
    /// The checksum database is not forwarded, or has no such path.
    UnknownDatabase,
    /// The method is not GET or HEAD.
    MethodNotAllowed,
    /// The request has already passed through this proxy.
    Loop,
    /// A parameter of `/catalog` or `/index` is wrong.
    BadParameter(BadParameter),
    /// The index of the store cannot be read, or is being built.
    NoIndex,
    /// The store cannot be read.
    NotReady,
}

/// The subject of a request, as far as the answer that it does not exist depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A file of a version.
    File,
    /// A list or a query.
    Question,
    /// A part of a checksum database.
    Sumdb,
}

/// A wrong parameter of `/catalog` or `/index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadParameter {
    /// A page size that is not a positive number.
    #[error("{0} must be a number of at least 1")]
    Size(&'static str),
    /// A token that no page has named.
    #[error("token must be the value of \"next\" in the previous page")]
    Token,
    /// A time in another form.
    #[error("since must be a time such as 2024-01-02T03:04:05Z")]
    Since,
}

/// The scheme by which a client can prove its user.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"stoa\", charset=\"UTF-8\"");

const TEN_MINUTES: HeaderValue = HeaderValue::from_static("max-age=600");
const ONE_MINUTE: HeaderValue = HeaderValue::from_static("max-age=60");

impl Problem<'_> {
    /// Returns the answer. This is the only place where an error gets its status.
    pub(super) fn answer(&self) -> Response {
        let (status, cache) = self.status();
        let body = Body::Whole(Bytes::from(self.text()));
        let mut response = match self.is_about_a_module() {
            true => answer::module(status, TEXT, cache, body),
            false => answer::plain(status, TEXT, cache, body),
        };
        if let Some(seconds) = self.retry_after(status) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    fn status(&self) -> (StatusCode, HeaderValue) {
        match self {
            Self::Failed(error, subject) => status_of(error, *subject),
            Self::NotStored | Self::InBackground => (StatusCode::NOT_FOUND, NO_STORE),
            Self::Misspelled(..) | Self::UnknownAddress => (StatusCode::NOT_FOUND, DAY),
            Self::NoPage => (StatusCode::NOT_FOUND, NO_STORE),
            // Never 404 or 410: a go command that may ask others would name the module to them.
            Self::NoAccess(Refusal::Unauthenticated | Refusal::WrongCredentials) => {
                (StatusCode::UNAUTHORIZED, NO_STORE)
            }
            Self::NoAccess(Refusal::Forbidden { .. }) => (StatusCode::FORBIDDEN, NO_STORE),
            Self::NoAccess(Refusal::Busy) => (StatusCode::SERVICE_UNAVAILABLE, NO_STORE),
            // The list of forwarded databases may change with the configuration.
            Self::UnknownDatabase => (StatusCode::NOT_FOUND, ONE_MINUTE),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, DAY),
            Self::Loop => (StatusCode::LOOP_DETECTED, NO_STORE),
            Self::BadParameter(_) => (StatusCode::BAD_REQUEST, NO_STORE),
            Self::NoIndex | Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, NO_STORE),
        }
    }

    /// Returns the number of seconds after which another request may succeed, if it is known.
    fn retry_after(&self, status: StatusCode) -> Option<u64> {
        match self {
            Self::Failed(error, _) if error.retry_after().is_some() => {
                // Rounded up, so that the next request is not too early.
                let seconds = |time: std::time::Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
                error.retry_after().map(seconds)
            }
            Self::NotReady => None,
            Self::NoAccess(Refusal::Busy) => Some(1),
            _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(5),
        }
    }

    /// Returns whether the answer depends on the header `Disable-Module-Fetch`.
    fn is_about_a_module(&self) -> bool {
        matches!(
            self,
            Self::Failed(..)
                | Self::NotStored
                | Self::InBackground
                | Self::Loop
                | Self::Misspelled(..)
                | Self::UnknownAddress
        )
    }

    fn text(&self) -> String {
        let text = match self {
            Self::Failed(error, _) => {
                let help = help(error).map_or_else(String::new, |help| format!("help: {help}\n"));
                return format!("{}: {}\n{help}", class(error), error.for_client());
            }
            // Other proxies also use these words for an absence that is not final.
            Self::NotStored => {
                "temporarily unavailable: the answer is not in the store, and the request forbids downloading it\n\
                 help: repeat the request without the header Disable-Module-Fetch"
            }
            Self::InBackground => {
                "temporarily unavailable: this proxy downloads the version in the background\n\
                 help: try again later"
            }
            Self::Misspelled(misspelling, base_path) => {
                let corrected = misspelling.corrected();
                return format!("not found: {misspelling}\nhelp: request {base_path}{corrected}\n");
            }
            Self::NoAccess(refusal) => {
                let (class, help) = match refusal {
                    Refusal::Unauthenticated => (
                        "unauthorized",
                        "put the credentials for this host into .netrc, or into the URL in GOPROXY",
                    ),
                    Refusal::WrongCredentials => (
                        "unauthorized",
                        "check the credentials for this host in .netrc, or in the URL in GOPROXY",
                    ),
                    Refusal::Forbidden { .. } => {
                        ("forbidden", "ask the operator of this proxy for the right")
                    }
                    Refusal::Busy => ("temporarily unavailable", "try again later"),
                };
                return format!("{class}: {refusal}\nhelp: {help}\n");
            }
            Self::NoPage | Self::UnknownAddress => {
                "not found: this is not the path of a module's list, version or file\n\
                 help: see the start page of this proxy for its paths"
            }
            Self::UnknownDatabase => {
                "not found: this proxy does not forward that checksum database, or the database has no such path"
            }
            Self::MethodNotAllowed => "method not allowed: this proxy answers GET and HEAD",
            Self::Loop => {
                "loop detected: this request has already passed through this proxy\n\
                 help: one of the upstreams of this proxy sends requests back to it; remove this upstream, or change its configuration"
            }
            Self::BadParameter(parameter) => return format!("bad request: {parameter}\n"),
            Self::NoIndex => {
                "index unavailable: the index of the store is being built or cannot be read (see the server log)\n\
                 help: try again later"
            }
            Self::NotReady => "not ready: cannot read the store (see the server log)",
        };
        format!("{text}\n")
    }
}

fn status_of(error: &Unavailable, subject: Subject) -> (StatusCode, HeaderValue) {
    match error {
        Unavailable::Absent(_) if subject == Subject::File => (StatusCode::NOT_FOUND, TEN_MINUTES),
        Unavailable::Absent(_) => (StatusCode::NOT_FOUND, ONE_MINUTE),
        Unavailable::Unreached(_) | Unavailable::Offline(_) | Unavailable::NotFetched(_) => {
            (StatusCode::NOT_FOUND, NO_STORE)
        }
        // A tombstone can be lifted.
        Unavailable::Gone(_) => (StatusCode::GONE, MINUTE),
        Unavailable::Denied { .. } | Unavailable::Private(_) | Unavailable::Refused(_) => {
            (StatusCode::FORBIDDEN, NO_STORE)
        }
        Unavailable::Differs(_) | Unavailable::Unexpected { .. } | Unavailable::Unverified(_) => {
            (StatusCode::FORBIDDEN, NO_STORE)
        }
        Unavailable::Timeout(_) | Unavailable::Crowded { .. } => (StatusCode::GATEWAY_TIMEOUT, NO_STORE),
        Unavailable::Upstream(_) => (StatusCode::BAD_GATEWAY, NO_STORE),
        Unavailable::Limited { status, .. } => {
            (StatusCode::from_u16(*status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), NO_STORE)
        }
        Unavailable::Loop(_) => (StatusCode::LOOP_DETECTED, NO_STORE),
        Unavailable::Store(error) if error.is_out_of_space() => (StatusCode::INSUFFICIENT_STORAGE, NO_STORE),
        Unavailable::Store(_) | Unavailable::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, NO_STORE),
        Unavailable::NotYetVerified(_)
        | Unavailable::Busy(_)
        | Unavailable::Held { .. }
        | Unavailable::Abandoned(_)
        | Unavailable::Stopping(_) => (StatusCode::SERVICE_UNAVAILABLE, NO_STORE),
    }
}

/// Returns the words that the text of an error begins with.
fn class(error: &Unavailable) -> &'static str {
    match error {
        Unavailable::Absent(_) | Unavailable::Unreached(_) => "not found",
        Unavailable::Offline(_) | Unavailable::NotFetched(_) => "not found",
        Unavailable::Gone(_) => "gone",
        Unavailable::Differs(_) | Unavailable::Unexpected { .. } | Unavailable::Unverified(_) => {
            "not trusted"
        }
        Unavailable::Store(error) if error.is_over_size_limit() => "file size limit",
        Unavailable::Store(error) if error.is_out_of_space() => "disk full",
        Unavailable::Store(_) | Unavailable::Broken(_) => "internal error",
        Unavailable::Denied { .. } | Unavailable::Private(_) => "refused",
        Unavailable::Refused(_) => "refused by the upstream",
        Unavailable::Timeout(_) => "upstream timeout",
        Unavailable::Upstream(_) => "upstream failure",
        Unavailable::Limited { .. } => "upstream busy",
        Unavailable::Loop(_) => "loop detected",
        Unavailable::NotYetVerified(_)
        | Unavailable::Busy(_)
        | Unavailable::Crowded { .. }
        | Unavailable::Held { .. }
        | Unavailable::Abandoned(_)
        | Unavailable::Stopping(_) => "temporarily unavailable",
    }
}

/// Returns the next thing to do, for a client that cannot change this proxy. Some errors name it themselves.
fn help(error: &Unavailable) -> Option<&'static str> {
    Some(match error {
        Unavailable::Absent(_) | Unavailable::Private(_) => return None,
        Unavailable::Busy(_)
        | Unavailable::Crowded { .. }
        | Unavailable::Held { .. }
        | Unavailable::Stopping(_) => return None,
        Unavailable::Store(error) if error.is_over_size_limit() => {
            "ask the operator of this proxy to raise the limit of the size of files"
        }
        Unavailable::Store(error) if error.is_out_of_space() => {
            "try again later, or ask the operator of this proxy to free space"
        }
        Unavailable::Store(_) | Unavailable::Broken(_) => return None,
        Unavailable::Offline(_) | Unavailable::NotFetched(_) => {
            "ask the operator of this proxy to download it"
        }
        Unavailable::Unreached(_) => "if the module exists, try again when this proxy can reach the upstream",
        Unavailable::Gone(_) => {
            "use another version, or ask the operator of this proxy to lift the tombstone"
        }
        Unavailable::Differs(_) | Unavailable::Unexpected { .. } => {
            "do not use this version until you know which copy is right"
        }
        Unavailable::Unverified(_) => {
            "if the module is not public, ask the operator of this proxy for a rule with checksum = \"off\""
        }
        // The reason of the operator is the last line.
        Unavailable::Denied { reason: Some(_), .. } => return None,
        Unavailable::Denied { .. } => "use another version, or ask the operator of this proxy to allow it",
        Unavailable::Refused(_) => "ask the operator of this proxy to check its credentials for the upstream",
        Unavailable::Timeout(_) | Unavailable::Upstream(_) => {
            "try again; if it fails again, check the upstream"
        }
        Unavailable::Loop(_) => {
            "ask the operator of this proxy to change its upstream, which sends requests back to this proxy"
        }
        Unavailable::Limited { .. } => "try again later",
        Unavailable::Abandoned(_) | Unavailable::NotYetVerified(_) => "try again",
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::sync::LazyLock;
    use std::time::Duration;

    use hyper::header::{CACHE_CONTROL, VARY};

    use super::*;

    const VERSION: &str = "example.com/m@v1.0.0";

    /// Returns an error of each kind. A new kind of error makes `kind` fail to compile, and `every_error_has_a_text` fail
    /// until it is in this list.
    fn errors() -> Vec<Unavailable> {
        let version = || VERSION.to_owned();
        let reason = |text: &str| format!("{VERSION}: {text}").into();
        let store = stoa_store::StoreError::ReadOnly("/srv/stoa".into());
        let full = stoa_layout::PathError::new("write", "/srv/stoa/staging", rustix::io::Errno::NOSPC);
        let large = stoa_layout::PathError::new("write", "/srv/stoa/staging", rustix::io::Errno::FBIG);
        vec![
            Unavailable::Absent(reason("the upstream has no such version")),
            Unavailable::Offline(version()),
            Unavailable::Gone(reason("removed")),
            Unavailable::Differs(reason("the hash differs")),
            Unavailable::Unexpected { version: version(), reason: "the hash differs".to_owned() },
            Unavailable::Unverified(reason("the checksum database does not know it")),
            Unavailable::NotFetched(version()),
            Unavailable::Denied { name: version(), reason: None },
            Unavailable::Denied { name: version(), reason: Some("CVE-2024-1, use v1.0.1".into()) },
            Unavailable::Refused(reason("the upstream answered 403")),
            Unavailable::Private("example.com/m".to_owned()),
            Unavailable::Timeout(reason("no answer within 60 s")),
            Unavailable::Upstream(reason("the upstream answered 500")),
            Unavailable::Loop(reason("the upstream asks this proxy")),
            Unavailable::Store(std::sync::Arc::new(store)),
            Unavailable::Store(std::sync::Arc::new(full.into())),
            Unavailable::Store(std::sync::Arc::new(large.into())),
            Unavailable::Broken(version()),
            Unavailable::Busy(version()),
            Unavailable::Abandoned(version()),
            Unavailable::Stopping(version()),
            Unavailable::Unreached(reason("one upstream answered 404, and b.example could not be reached")),
            Unavailable::Crowded { version: version(), waited: Duration::from_secs(300) },
            Unavailable::Limited {
                reason: reason("the upstream accepts requests again in 30 s"),
                status: 429,
                retry_after: Duration::from_millis(29_100),
            },
            Unavailable::NotYetVerified(reason("the stored version is not verified yet")),
            Unavailable::Held {
                version: version(),
                holder: "flock (process 812)".to_owned(),
                quiet: Duration::from_secs(900),
            },
        ]
    }

    const KINDS: usize = 23;

    fn kind(error: &Unavailable) -> usize {
        match error {
            Unavailable::Absent(_) => 0,
            Unavailable::Offline(_) => 1,
            Unavailable::Gone(_) => 2,
            Unavailable::Differs(_) => 3,
            Unavailable::Unexpected { .. } => 4,
            Unavailable::Unverified(_) => 5,
            Unavailable::NotFetched(_) => 6,
            Unavailable::Denied { .. } => 7,
            Unavailable::Refused(_) => 8,
            Unavailable::Private(_) => 9,
            Unavailable::Timeout(_) => 10,
            Unavailable::Upstream(_) => 11,
            Unavailable::Loop(_) => 12,
            Unavailable::Store(_) => 13,
            Unavailable::Broken(_) => 14,
            Unavailable::Busy(_) => 15,
            Unavailable::Abandoned(_) => 16,
            Unavailable::Stopping(_) => 17,
            Unavailable::Unreached(_) => 18,
            Unavailable::Crowded { .. } => 19,
            Unavailable::Limited { .. } => 20,
            Unavailable::NotYetVerified(_) => 21,
            Unavailable::Held { .. } => 22,
        }
    }

    fn misspelling() -> &'static Misspelling {
        static MISSPELLING: LazyLock<Misspelling> =
            LazyLock::new(|| Misspelling::find("/a.b//Cap/v1.0.0.info").unwrap());
        &MISSPELLING
    }

    fn forbidden() -> &'static Refusal {
        static FORBIDDEN: LazyLock<Refusal> =
            LazyLock::new(|| Refusal::Forbidden { user: "ann".into(), what: "example.com/m".to_owned() });
        &FORBIDDEN
    }

    /// Returns the other problems. The match in `is_listed` fails to compile when a problem is added.
    fn others() -> Vec<Problem<'static>> {
        let others = vec![
            Problem::NotStored,
            Problem::InBackground,
            Problem::Misspelled(misspelling(), "/go"),
            Problem::NoPage,
            Problem::UnknownAddress,
            Problem::NoAccess(&Refusal::Unauthenticated),
            Problem::NoAccess(&Refusal::WrongCredentials),
            Problem::NoAccess(forbidden()),
            Problem::NoAccess(&Refusal::Busy),
            Problem::UnknownDatabase,
            Problem::MethodNotAllowed,
            Problem::Loop,
            Problem::BadParameter(BadParameter::Size("pagesize")),
            Problem::BadParameter(BadParameter::Token),
            Problem::BadParameter(BadParameter::Since),
            Problem::NoIndex,
            Problem::NotReady,
        ];
        let is_listed = |problem: &Problem<'_>| match problem {
            Problem::Failed(..) => false,
            Problem::NotStored
            | Problem::InBackground
            | Problem::Misspelled(..)
            | Problem::NoPage
            | Problem::UnknownAddress
            | Problem::UnknownDatabase
            | Problem::MethodNotAllowed => true,
            Problem::NoAccess(refusal) => match refusal {
                Refusal::Unauthenticated
                | Refusal::WrongCredentials
                | Refusal::Forbidden { .. }
                | Refusal::Busy => true,
            },
            Problem::Loop | Problem::NoIndex | Problem::NotReady => true,
            Problem::BadParameter(BadParameter::Size(_) | BadParameter::Token | BadParameter::Since) => true,
        };
        assert!(others.iter().all(is_listed));
        others
    }

    fn render(name: &str, problem: &Problem<'_>, text: &mut String) {
        let response = problem.answer();
        let Body::Whole(body) = response.body() else { panic!("{name} has no text") };
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.ends_with('\n'), "{body}");
        let cache = response.headers()[CACHE_CONTROL].to_str().unwrap();
        writeln!(text, "{name}\n{} ({cache})\n{body}", response.status()).unwrap();
    }

    #[test]
    fn every_error_has_a_text() {
        let errors = errors();
        let mut kinds: Vec<usize> = errors.iter().map(kind).collect();
        kinds.dedup();
        assert_eq!(kinds, (0..KINDS).collect::<Vec<_>>());
        let mut text = String::new();
        for error in &errors {
            let name = format!("{error:?}");
            let name = name.split(['(', ' ']).next().unwrap();
            for subject in [Subject::File, Subject::Question, Subject::Sumdb] {
                // The subject makes a difference only where something does not exist.
                if subject == Subject::File || kind(error) == 0 {
                    render(&format!("{name}, {subject:?}"), &Problem::Failed(error, subject), &mut text);
                }
            }
        }
        for problem in others() {
            render(&format!("{problem:?}"), &problem, &mut text);
        }
        assert!(!text.contains("/srv"), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn caches_may_store_only_absences() {
        for error in errors() {
            let response = Problem::Failed(&error, Subject::File).answer();
            let cache = match response.status().as_u16() {
                404 if matches!(error, Unavailable::Absent(_)) => "max-age=600",
                410 => "public, max-age=60",
                _ => "no-store",
            };
            assert_eq!(response.headers()[CACHE_CONTROL], cache, "{error}");
            assert_eq!(response.headers()[VARY], "Disable-Module-Fetch");
        }
    }

    #[test]
    fn a_client_is_asked_to_come_back_where_waiting_helps() {
        let has_retry = |problem: Problem<'_>| problem.answer().headers().contains_key(RETRY_AFTER);
        assert!(has_retry(Problem::NoIndex));
        assert!(has_retry(Problem::Failed(&Unavailable::Busy(VERSION.to_owned()), Subject::File)));
        let limited =
            errors().into_iter().find(|error| matches!(error, Unavailable::Limited { .. })).unwrap();
        let limited = Problem::Failed(&limited, Subject::File).answer();
        assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(limited.headers()[RETRY_AFTER], "30");
        let crowded = Unavailable::Crowded { version: VERSION.to_owned(), waited: Duration::from_secs(300) };
        assert!(has_retry(Problem::Failed(&crowded, Subject::File)));
        assert!(!has_retry(Problem::NotReady) && !has_retry(Problem::NotStored));
    }
}
