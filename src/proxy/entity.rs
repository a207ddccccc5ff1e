//! Answers with a file that never changes: the whole of it, a part of it, or only its headers.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED};
use stoa_gomod::H1;
use stoa_store::SmallFile;

use super::Client;
use super::answer::{self, JSON, Response, TEXT, WEEK};
use super::body::Body;
use super::conditional::{self, Part, Validators};

/// Answers with an info or a mod.
pub(super) fn small_answer(
    client: Client<'_>,
    file: SmallFile,
    bytes: Bytes,
    digest: &[u8; 32],
    modified: Option<SystemTime>,
) -> Response {
    let content_type = match file {
        SmallFile::Info => JSON,
        SmallFile::Mod => TEXT,
    };
    let validators = Validators::new(etag_of(digest), modified);
    entity(client, content_type, validators, bytes.len() as u64, |range| {
        // The length of bytes in memory fits.
        let place = |at| usize::try_from(at).unwrap_or(usize::MAX);
        Body::Whole(bytes.slice(place(range.start)..place(range.end)))
    })
}

/// Answers with the whole of a file that never changes, with a part of it, or without it.
pub(super) fn entity(
    client: Client<'_>,
    content_type: HeaderValue,
    validators: Validators,
    length: u64,
    body: impl FnOnce(Range<u64>) -> Body,
) -> Response {
    let part = part(client, &validators, length);
    let body = part.range(length).map_or(Body::Empty, body);
    part_answer(&part, content_type, validators, length, body)
}

/// Returns the part of a file that a request gets.
pub(super) fn part(client: Client<'_>, validators: &Validators, length: u64) -> Part {
    match conditional::is_conditional(client.headers) {
        true => conditional::judge(client.headers, client.is_head, validators, length),
        false => Part::Whole,
    }
}

/// Answers with a part of a file.
pub(super) fn part_answer(
    part: &Part,
    content_type: HeaderValue,
    validators: Validators,
    length: u64,
    body: Body,
) -> Response {
    let (status, range) = match part {
        Part::Whole => (StatusCode::OK, None),
        Part::Range(range) => {
            let header = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            (StatusCode::PARTIAL_CONTENT, Some(header))
        }
        Part::NotModified => (StatusCode::NOT_MODIFIED, None),
        Part::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, None),
        Part::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{length}"))),
    };
    let mut response = answer::module(status, content_type, WEEK, body);
    let headers = response.headers_mut();
    if status == StatusCode::NOT_MODIFIED {
        headers.remove(CONTENT_TYPE);
    }
    headers.insert(ETAG, validators.etag);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(modified) = validators.modified
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(modified))
    {
        headers.insert(LAST_MODIFIED, date);
    }
    if let Some(range) = range.and_then(|range| HeaderValue::try_from(range).ok()) {
        headers.insert(CONTENT_RANGE, range);
    }
    response
}

/// Returns the entity tag of a zip.
pub(super) fn zip_etag(seal: &H1, length: u64) -> HeaderValue {
    // A seal identifies the files in a zip, but not how they are packed. The length makes the tag strong.
    tag(format!("\"{seal}-{length:x}\""))
}

/// Returns a strong entity tag made of the hash of the content.
pub(super) fn etag_of(digest: &[u8; 32]) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(34);
    text.push('"');
    for byte in &digest[..16] {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(HEX[usize::from(nibble)]));
        }
    }
    text.push('"');
    tag(text)
}

fn tag(quoted: String) -> HeaderValue {
    // Hex digits and base64 are valid in a header.
    HeaderValue::try_from(quoted).unwrap_or(HeaderValue::from_static("\"\""))
}
