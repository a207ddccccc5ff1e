//! Answers: statuses, headers that are always the same, and the texts of errors.
//!
//! What may be cached for how long follows the conventions that other module proxies share. An upstream's
//! failure is a 5xx that nobody may store: a client that reads 404 looks elsewhere, and what was down a moment
//! ago would count as absent.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, VARY,
};
use stoa_store::StoreError;

use super::body::Body;
use crate::fill::FillError;

pub(crate) type Response = hyper::Response<Body>;

pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
pub(super) const ZIP: HeaderValue = HeaderValue::from_static("application/zip");
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A version's file: it never changes.
pub(super) const WEEK: HeaderValue = HeaderValue::from_static("public, max-age=604800");
/// What changes with the next tag.
pub(super) const MINUTE: HeaderValue = HeaderValue::from_static("public, max-age=60");
/// What no module can have as its address.
const NEVER_THERE: HeaderValue = HeaderValue::from_static("public, max-age=86400");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(super) const SUMDB_DAY: HeaderValue = HeaderValue::from_static("max-age=86400");
pub(super) const SUMDB_HOUR: HeaderValue = HeaderValue::from_static("max-age=3600");

/// Module answers differ by this header of the request.
const VARY_BY_FETCH: HeaderValue = HeaderValue::from_static("Disable-Module-Fetch");

/// What was asked for, as far as an answer that it is not there depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file of a version.
    File,
    /// A list or a query.
    Question,
    /// Something of a checksum database.
    Sumdb,
}

/// Makes an answer of a module's.
pub(super) fn module(
    status: StatusCode,
    content_type: HeaderValue,
    cache: HeaderValue,
    body: Body,
) -> Response {
    let mut response = plain(status, content_type, cache, body);
    response.headers_mut().insert(VARY, VARY_BY_FETCH);
    response
}

/// Makes an answer.
pub(super) fn plain(
    status: StatusCode,
    content_type: HeaderValue,
    cache: HeaderValue,
    body: Body,
) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let mut headers = HeaderMap::with_capacity(10);
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, cache);
    *response.headers_mut() = headers;
    response
}

/// Answers with a text that nobody stores.
pub(super) fn notice(status: StatusCode, text: impl Into<Bytes>) -> Response {
    plain(status, TEXT, NO_STORE, Body::Whole(text.into()))
}

/// Answers with JSON that nobody stores.
pub(super) fn json(text: String) -> Response {
    plain(StatusCode::OK, JSON, NO_STORE, Body::Whole(text.into()))
}

/// Answers an address that is nobody's.
pub(super) fn no_such_address() -> Response {
    let text = "not found: this is not the address of a module's list, version or file\n";
    module(StatusCode::NOT_FOUND, TEXT, NEVER_THERE, Body::Whole(Bytes::from_static(text.as_bytes())))
}

/// Answers an address of a checksum database that is not passed on.
pub(super) fn no_such_database() -> Response {
    let text =
        "not found: this proxy does not pass this checksum database on, or the address is none of it\n";
    plain(
        StatusCode::NOT_FOUND,
        TEXT,
        HeaderValue::from_static("max-age=60"),
        Body::Whole(Bytes::from_static(text.as_bytes())),
    )
}

/// Answers a method that asks for something else than to read.
pub(super) fn method_not_allowed() -> Response {
    let text = "method not allowed: this proxy is read by GET and HEAD\n";
    let body = Body::Whole(Bytes::from_static(text.as_bytes()));
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, NEVER_THERE, body);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// Answers a request that came from ourselves.
pub(super) fn circle() -> Response {
    let text = "loop detected: this request has come through this proxy before; an upstream of it has it as an upstream\n";
    let body = Body::Whole(Bytes::from_static(text.as_bytes()));
    module(StatusCode::LOOP_DETECTED, TEXT, NO_STORE, body)
}

/// Answers that something is not in the store, to who wants nothing else.
pub(super) fn not_fetched() -> Response {
    let body = Body::Whole(Bytes::from_static(b"not found: temporarily unavailable\n"));
    module(StatusCode::NOT_FOUND, TEXT, NO_STORE, body)
}

/// Sends who asked elsewhere, for now: what is asked for may be stored later.
pub(super) fn elsewhere(url: &str) -> Response {
    let Ok(location) = HeaderValue::try_from(url) else { return no_such_address() };
    let text = format!("this proxy does not fetch it; it is at {url}\n");
    let mut response = module(StatusCode::FOUND, TEXT, NO_STORE, Body::Whole(text.into()));
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Answers that the store failed. What it said is for the log: it names paths of this machine.
pub(super) fn store_failed(what: &dyn std::fmt::Display, error: StoreError) -> Response {
    log::error!("cannot answer for {what}: {error}");
    failed(&FillError::from(error), Kind::File)
}

/// Answers that something could not be had. This is the one place where errors become statuses.
pub(super) fn failed(error: &FillError, kind: Kind) -> Response {
    let (status, cache) = match (error, kind) {
        (FillError::Absent(_), Kind::File) => {
            (StatusCode::NOT_FOUND, HeaderValue::from_static("max-age=600"))
        }
        (FillError::Absent(_), _) => (StatusCode::NOT_FOUND, HeaderValue::from_static("max-age=60")),
        (FillError::Offline(_) | FillError::NotFetched(_), _) => (StatusCode::NOT_FOUND, NO_STORE),
        // A tombstone may be lifted.
        (FillError::Gone(_), _) => (StatusCode::GONE, MINUTE),
        (FillError::Denied(_) | FillError::Private(_) | FillError::Refused(_), _)
        | (FillError::Differs(_) | FillError::Unexpected { .. } | FillError::Unverified(_), _) => {
            (StatusCode::FORBIDDEN, NO_STORE)
        }
        (FillError::Timeout(_), _) => (StatusCode::GATEWAY_TIMEOUT, NO_STORE),
        (FillError::Upstream(_), _) => (StatusCode::BAD_GATEWAY, NO_STORE),
        (FillError::Loop(_), _) => (StatusCode::LOOP_DETECTED, NO_STORE),
        (FillError::Store(_) | FillError::Broken(_), _) => (StatusCode::INTERNAL_SERVER_ERROR, NO_STORE),
        (FillError::Busy(_) | FillError::Abandoned(_) | FillError::Stopping(_), _) => {
            (StatusCode::SERVICE_UNAVAILABLE, NO_STORE)
        }
    };
    let class = match error {
        FillError::Absent(_) | FillError::Offline(_) | FillError::NotFetched(_) => "not found",
        FillError::Gone(_) => "gone",
        FillError::Differs(_) | FillError::Unexpected { .. } | FillError::Unverified(_) => "not trusted",
        FillError::Store(_) | FillError::Broken(_) => "internal error",
        FillError::Denied(_) | FillError::Private(_) => "refused",
        FillError::Refused(_) => "refused by the upstream",
        FillError::Timeout(_) => "upstream timeout",
        FillError::Upstream(_) => "upstream failure",
        FillError::Loop(_) => "loop detected",
        FillError::Busy(_) | FillError::Abandoned(_) | FillError::Stopping(_) => "not now",
    };
    let text = format!("{class}: {}\n", error.for_client());
    let mut response = module(status, TEXT, cache, Body::Whole(text.into()));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absence_may_be_stored() {
        let text = || "x".to_owned();
        for (error, status, cache) in [
            (FillError::Absent(text().into()), 404, "max-age=600"),
            (FillError::Offline(text()), 404, "no-store"),
            (FillError::Gone(text().into()), 410, "public, max-age=60"),
            (FillError::Differs(text().into()), 403, "no-store"),
            (FillError::Unverified(text().into()), 403, "no-store"),
            (FillError::NotFetched(text()), 404, "no-store"),
            (FillError::Denied(text()), 403, "no-store"),
            (FillError::Refused(text().into()), 403, "no-store"),
            (FillError::Private(text()), 403, "no-store"),
            (FillError::Timeout(text().into()), 504, "no-store"),
            (FillError::Upstream(text().into()), 502, "no-store"),
            (FillError::Loop(text().into()), 508, "no-store"),
            (FillError::Broken(text()), 500, "no-store"),
            (FillError::Busy(text()), 503, "no-store"),
            (FillError::Stopping(text()), 503, "no-store"),
        ] {
            let response = failed(&error, Kind::File);
            assert_eq!(response.status(), status, "{error}");
            assert_eq!(response.headers()[CACHE_CONTROL], cache, "{error}");
            assert_eq!(response.headers()[VARY], "Disable-Module-Fetch");
        }
        assert_eq!(
            failed(&FillError::Absent(text().into()), Kind::Question).headers()[CACHE_CONTROL],
            "max-age=60"
        );
    }
}
