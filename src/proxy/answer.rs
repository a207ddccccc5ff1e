//! Answers, and the headers that are always the same. Answers that report a problem are made in `problem`.
//!
//! The cache lifetimes follow the conventions of other module proxies.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, VARY};

use super::body::Body;
use super::problem::Problem;

pub(crate) type Response = hyper::Response<Body>;

pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
pub(super) const ZIP: HeaderValue = HeaderValue::from_static("application/zip");
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// For the files of a version, which never change.
pub(super) const WEEK: HeaderValue = HeaderValue::from_static("public, max-age=604800");
/// For answers that change with the next tag.
pub(super) const MINUTE: HeaderValue = HeaderValue::from_static("public, max-age=60");
/// For addresses that no module can have.
pub(super) const DAY: HeaderValue = HeaderValue::from_static("public, max-age=86400");
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(super) const SUMDB_DAY: HeaderValue = HeaderValue::from_static("max-age=86400");
pub(super) const SUMDB_HOUR: HeaderValue = HeaderValue::from_static("max-age=3600");

/// The header of the request on which answers about modules depend.
const VARY_BY_FETCH: HeaderValue = HeaderValue::from_static("Disable-Module-Fetch");

/// Returns the same lifetime for the cache of one client only. Returns `None` if no cache may store the answer anyway.
pub(super) fn private(cache: &str) -> Option<HeaderValue> {
    match cache.strip_prefix("public, ").unwrap_or(cache) {
        "max-age=604800" => Some(HeaderValue::from_static("private, max-age=604800")),
        "max-age=60" => Some(HeaderValue::from_static("private, max-age=60")),
        other if other.starts_with("max-age=") => HeaderValue::try_from(format!("private, {other}")).ok(),
        _ => None,
    }
}

/// Returns an answer about a module.
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

/// Returns an answer that depends on its address only.
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

/// Returns a text that caches do not store.
pub(super) fn text(text: impl Into<Bytes>) -> Response {
    plain(StatusCode::OK, TEXT, NO_STORE, Body::Whole(text.into()))
}

/// Returns JSON that caches do not store.
pub(super) fn json(text: String) -> Response {
    plain(StatusCode::OK, JSON, NO_STORE, Body::Whole(text.into()))
}

/// Returns a redirect to another proxy. It is temporary, since the version may be stored later.
pub(super) fn redirect(url: &str) -> Response {
    let Ok(location) = HeaderValue::try_from(url) else { return Problem::UnknownAddress.answer() };
    let text = format!("found elsewhere: this proxy does not store this version; get it from {url}\n");
    let mut response = module(StatusCode::FOUND, TEXT, NO_STORE, Body::Whole(text.into()));
    response.headers_mut().insert(LOCATION, location);
    response
}
