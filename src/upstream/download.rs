//! A body on its way, bounded in size, in silence and in slowness.
//!
//! A body that broke off never looks like one that ended: a length that was announced is counted after, and
//! whatever is read behind an error is an error again. Where no length was announced the encoding itself
//! marks the end (chunks, HTTP/2); only an HTTP/1.0 body can end early unnoticed, and who reads a zip finds
//! that out.

use super::client::{self, Patience};
use super::error::UpstreamError;
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

/// How many bytes a second a body must have on average, once its time of silence is used up. An upstream that
/// sends a byte now and then would keep a place among those that are fetched for days.
const MIN_BYTES_A_SECOND: u64 = 1024;

/// How much of a local file is read at once.
const FILE_CHUNK: usize = 256 * 1024;

/// A body on its way.
#[derive(Debug)]
pub(super) struct Download {
    /// What was asked, to be shown.
    pub(super) url: String,
    /// How long it will be, if that is known.
    pub(super) length: Option<u64>,
    limit: u64,
    received: u64,
    began: Instant,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Http(reqwest::Response, Patience),
    File(tokio::fs::File),
    Memory(Bytes),
    Ended,
    Broken(UpstreamError),
}

impl Download {
    /// Begins to read the body of an answer of at most `limit` bytes.
    pub(super) fn http(url: String, response: reqwest::Response, patience: Patience, limit: u64) -> Self {
        let length = response.content_length();
        Self { url, length, limit, received: 0, began: Instant::now(), body: Body::Http(response, patience) }
    }

    /// Begins to read a local file of at most `limit` bytes.
    pub(super) fn file(url: String, file: tokio::fs::File, length: u64, limit: u64) -> Self {
        Self { url, length: Some(length), limit, received: 0, began: Instant::now(), body: Body::File(file) }
    }

    /// Is what is in memory already.
    pub(super) fn whole(url: String, bytes: Bytes, limit: u64) -> Self {
        let length = Some(bytes.len() as u64);
        Self { url, length, limit, received: 0, began: Instant::now(), body: Body::Memory(bytes) }
    }

    /// Waits for the next part; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let result = self.read().await.and_then(|chunk| self.count(chunk));
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.body = Body::Ended,
            Err(error) => self.body = Body::Broken(error.clone()),
        }
        result
    }

    /// Reads it to its end.
    pub(super) async fn collect(&mut self) -> Result<Bytes, UpstreamError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let mut body = BytesMut::from(first);
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    async fn read(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if self.length.is_some_and(|length| length > self.limit) {
            return Err(UpstreamError::TooLarge { url: self.url.clone(), limit: self.limit });
        }
        match &mut self.body {
            Body::Http(response, patience) => {
                let earned = Duration::from_secs(self.received / MIN_BYTES_A_SECOND);
                let left = patience.idle.saturating_add(earned).saturating_sub(self.began.elapsed());
                match tokio::time::timeout(patience.idle.min(left), response.chunk()).await {
                    Ok(chunk) => chunk.map_err(|error| client::broken(self.url.clone(), error)),
                    Err(_) => {
                        let reason = match left < patience.idle {
                            true => format!(
                                "{} bytes of the body within {:.0?}",
                                self.received,
                                self.began.elapsed()
                            ),
                            false => format!("no byte of the body within {:?}", patience.idle),
                        };
                        Err(UpstreamError::Timeout { url: self.url.clone(), reason })
                    }
                }
            }
            Body::File(file) => {
                let mut chunk = BytesMut::with_capacity(FILE_CHUNK);
                match file.read_buf(&mut chunk).await {
                    Ok(0) => Ok(None),
                    Ok(_) => Ok(Some(chunk.freeze())),
                    Err(error) => {
                        Err(UpstreamError::Transport { url: self.url.clone(), reason: error.to_string() })
                    }
                }
            }
            Body::Memory(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Body::Ended => Ok(None),
            Body::Broken(error) => Err(error.clone()),
        }
    }

    fn count(&mut self, chunk: Option<Bytes>) -> Result<Option<Bytes>, UpstreamError> {
        let length = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.received = self.received.saturating_add(length);
        if self.received > self.limit {
            return Err(UpstreamError::TooLarge { url: self.url.clone(), limit: self.limit });
        }
        match self.length {
            Some(expected) if chunk.is_none() && self.received != expected => Err(UpstreamError::Transport {
                url: self.url.clone(),
                reason: format!("the body ended after {} of {expected} bytes", self.received),
            }),
            _ => Ok(chunk),
        }
    }
}

/// A module zip on its way from an upstream; dropping it ends the transfer.
#[derive(Debug)]
pub struct ZipDownload {
    /// How long the zip is, if the upstream says.
    pub length: Option<u64>,
    /// What was read to see that it looks like a zip at all.
    first: Option<Bytes>,
    download: Download,
}

impl ZipDownload {
    /// Waits for the first bytes of what ought to be a zip.
    pub(super) async fn begin(mut download: Download) -> Result<Self, UpstreamError> {
        let first = download.chunk().await?.unwrap_or_default();
        // Every file in a zip, and an empty zip's end record, begins with these two; a page of HTML does not.
        if first.is_empty() || !b"PK".starts_with(&first[..first.len().min(2)]) {
            return Err(UpstreamError::BadAnswer { url: download.url, reason: "it is no zip".to_owned() });
        }
        Ok(Self { length: download.length, first: Some(first), download })
    }

    /// Returns where it comes from, fit to be shown.
    pub fn url(&self) -> &str {
        &self.download.url
    }

    /// Waits for the next part; `None` once the whole zip was there.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.download.chunk().await,
        }
    }
}
