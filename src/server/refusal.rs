//! Requests that the server does not give to the proxy.

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::proxy::Body;

/// The reason why a request is not given to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The header `Host` is missing or occurs twice.
    BadHost,
    /// The request calls the server by a name that it does not have.
    OtherHost,
    /// The listener has no such path.
    NotHere,
    /// The client has too many requests under way.
    TooMany,
    /// Too many zips are being sent.
    TooManyZips,
}

impl Refusal {
    /// Returns the answer. No cache stores it.
    pub(super) fn answer(self) -> Response<Body> {
        let (status, text) = match self {
            Self::BadHost => (StatusCode::BAD_REQUEST, "bad request: the header Host must occur once\n"),
            Self::OtherHost => (
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected request: this proxy has another name\n\
                 help: use the name of this proxy in GOPROXY, or ask its operator to add this one to `hosts`\n",
            ),
            Self::NotHere => (StatusCode::NOT_FOUND, "not found: this address has no such path\n"),
            Self::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                "too many requests: your address has too many requests under way\nhelp: try again later\n",
            ),
            Self::TooManyZips => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily unavailable: this proxy is sending too many zips\nhelp: try again later\n",
            ),
        };
        let mut response = Response::new(Body::Whole(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::TooMany => drop(headers.insert(RETRY_AFTER, HeaderValue::from(1))),
            Self::TooManyZips => drop(headers.insert(RETRY_AFTER, HeaderValue::from(5))),
            Self::BadHost | Self::OtherHost | Self::NotHere => {}
        }
        response
    }
}
