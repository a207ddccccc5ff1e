//! Observations on the answers of a service: its time, the number of requests, and keys that the client cannot name.
//!
//! The client refuses a whole listing if one key in it has an empty part, is `.` or `..`, or has a control character.
//! Old buckets that several programs use have such keys. They are taken out of the listing before the client parses it, and
//! are reported as leftovers.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use object_store::path::Path;
use time::OffsetDateTime;

/// Maximum number of keys that are kept by name.
const MAX_NAMES: usize = 1000;

/// The elements of an object and of a folder in a listing: of S3 and Google Cloud Storage, and of Azure. Each with the
/// element that holds the key.
const ELEMENTS: [(&str, &str); 4] =
    [("Contents", "Key"), ("CommonPrefixes", "Prefix"), ("Blob", "Name"), ("BlobPrefix", "Name")];

/// Keys that no request can name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unnameable {
    /// The first of them, relative to the prefix of the bucket.
    pub keys: Vec<String>,
    /// The number of all.
    pub count: u64,
}

/// The observations so far.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    unnameable: Mutex<Unnameable>,
    reads: AtomicU64,
    writes: AtomicU64,
    /// Seconds since 1970. Zero before the first answer.
    time: AtomicI64,
}

impl Observed {
    pub(crate) fn requests(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }

    pub(crate) fn service_time(&self) -> Option<OffsetDateTime> {
        let seconds = self.time.load(Ordering::Relaxed);
        OffsetDateTime::from_unix_timestamp(seconds).ok().filter(|_| seconds != 0)
    }

    pub(crate) fn take_unnameable(&self, prefix: &str) -> Unnameable {
        let mut taken = std::mem::take(&mut *lock(&self.unnameable));
        for key in &mut taken.keys {
            if let Some(rest) = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) {
                *key = rest.to_owned();
            }
        }
        taken
    }

    fn note(&self, key: String) {
        let mut unnameable = lock(&self.unnameable);
        unnameable.count += 1;
        if unnameable.keys.len() < MAX_NAMES {
            unnameable.keys.push(key);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes connections whose answers are observed.
#[derive(Debug)]
pub(crate) struct Connector(pub(crate) Arc<Observed>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Observer { client, observed: Arc::clone(&self.0) }))
    }
}

#[derive(Debug)]
struct Observer {
    client: HttpClient,
    observed: Arc<Observed>,
}

#[async_trait]
impl HttpService for Observer {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        let is_list = query.split('&').any(|part| part == "list-type=2" || part == "comp=list");
        let is_read = matches!(request.method().as_str(), "GET" | "HEAD");
        let counter = if is_read && !is_list { &self.observed.reads } else { &self.observed.writes };
        counter.fetch_add(1, Ordering::Relaxed);
        let response = self.client.execute(request).await?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok())
            && let Ok(since) = date.duration_since(std::time::UNIX_EPOCH)
        {
            let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
            self.observed.time.store(seconds, Ordering::Relaxed);
        }
        if !is_list || !response.status().is_success() {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let body = body.bytes().await?;
        let body = match std::str::from_utf8(&body) {
            Ok(text) => match without_unnameable(text, |key| self.observed.note(key)) {
                Some(rest) => {
                    parts.headers.remove("content-length");
                    Bytes::from(rest)
                }
                None => body,
            },
            Err(error) => return Err(HttpError::new(HttpErrorKind::Decode, error)),
        };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
    }
}

/// Returns a listing without the keys that the client cannot name, which go to `note`. `None` if it has none.
fn without_unnameable(listing: &str, mut note: impl FnMut(String)) -> Option<String> {
    let mut kept: Option<String> = None;
    let mut rest = listing;
    let mut clean_from = listing;
    while let Some(start) = rest.find('<') {
        let from = &rest[start..];
        let element = ELEMENTS.iter().find_map(|(element, name)| {
            let inner = from[1..].strip_prefix(element)?.strip_prefix('>')?;
            let length = inner.find(&format!("</{element}>"))?;
            Some((&inner[..length], &inner[length + element.len() + 3..], *name))
        });
        let Some((inner, after, name)) = element else {
            rest = &from[1..];
            continue;
        };
        if let Some(key) = text_of(inner, name).map(unescaped).filter(|key| !is_nameable(key)) {
            let before = &clean_from[..clean_from.len() - from.len()];
            kept.get_or_insert_default().push_str(before);
            clean_from = after;
            note(key);
        }
        rest = after;
    }
    kept.map(|kept| kept + clean_from)
}

/// Returns the text of the first element with this name.
fn text_of<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let from = &xml[xml.find(&format!("<{name}>"))? + name.len() + 2..];
    Some(&from[..from.find(&format!("</{name}>"))?])
}

/// Returns the text without the escapes of XML. An escape that is not known stays.
fn unescaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        result.push_str(&rest[..at]);
        let escape = &rest[at..];
        let length = escape.find(';').map_or(escape.len(), |end| end + 1);
        let character = match &escape[..length] {
            "&amp;" => Some('&'),
            "&lt;" => Some('<'),
            "&gt;" => Some('>'),
            "&quot;" => Some('"'),
            "&apos;" => Some('\''),
            other => other.strip_prefix("&#").and_then(|code| code.strip_suffix(';')).and_then(|code| {
                let number = match code.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => code.parse(),
                };
                char::from_u32(number.ok()?)
            }),
        };
        match character {
            Some(character) => result.push(character),
            None => result.push_str(&escape[..length]),
        }
        rest = &escape[length..];
    }
    result + rest
}

/// Returns whether a request can name the key, and the client reads it as it is. A slash at the end marks a folder.
fn is_nameable(key: &str) -> bool {
    let key = key.strip_suffix('/').unwrap_or(key);
    !key.chars().any(char::is_control) && Path::parse(key).is_ok_and(|path| path.as_ref() == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(listing: &str) -> (Option<String>, Vec<String>) {
        let mut noted = Vec::new();
        let kept = without_unnameable(listing, |key| noted.push(key));
        (kept, noted)
    }

    #[test]
    fn keys_that_the_client_cannot_name_are_taken_out_of_a_listing() {
        let contents = |key: &str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let good = ["a/@v/v1.info", "dir/", "a&amp;b", "&#xe4;", "~stoa/state"].map(contents).concat();
        let bad = ["a//c", "x/../y", "./q", "/z", "a&#1;b", "a\u{1}b", "d//"];
        let listing = |parts: &str| {
            format!(
                "<?xml version=\"1.0\"?><ListBucketResult><Name>b</Name><Prefix>x//</Prefix>{parts}<IsTruncated>false</IsTruncated></ListBucketResult>"
            )
        };
        assert_eq!(filtered(&listing(&good)), (None, vec![]));
        let mixed = format!(
            "{}{good}{}",
            contents(bad[0]),
            bad[1..].iter().map(|key| contents(key)).collect::<String>()
        );
        let (kept, noted) = filtered(&listing(&mixed));
        assert_eq!(kept, Some(listing(&good)));
        assert_eq!(noted, ["a//c", "x/../y", "./q", "/z", "a\u{1}b", "a\u{1}b", "d//"]);
    }

    #[test]
    fn folders_and_listings_of_azure_are_filtered_too() {
        let listing = "<R><CommonPrefixes><Prefix>a//</Prefix></CommonPrefixes><CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes></R>";
        let (kept, noted) = filtered(listing);
        assert_eq!(kept.as_deref(), Some("<R><CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes></R>"));
        assert_eq!(noted, ["a//"]);
        let listing = "<E><Blobs><Blob><Name>./q</Name></Blob><Blob><Name>ok</Name></Blob><BlobPrefix><Name>x//</Name></BlobPrefix></Blobs></E>";
        let (kept, noted) = filtered(listing);
        assert_eq!(kept.as_deref(), Some("<E><Blobs><Blob><Name>ok</Name></Blob></Blobs></E>"));
        assert_eq!(noted, ["./q", "x//"]);
    }
}
