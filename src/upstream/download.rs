//! The download of a body, limited in size, idle time and slowness.
//!
//! A truncated body is always an error: an announced length is compared, and every read after an error
//! fails. Without an announced length, the encoding marks the end (chunks, HTTP/2). Only an HTTP/1.0 body
//! can be truncated unnoticed, which the reader of a zip detects.

use super::client::{self, Timeouts};
use super::error::UpstreamError;
use crate::byte_budget::{ByteBudget, Reserved, SMALL_BODY};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

/// Minimum average speed of a body in bytes per second, once its idle time is used up. Otherwise an
/// upstream that sends a byte from time to time could hold a slot for days.
const MIN_BYTES_A_SECOND: u64 = 1024;

/// The size of one read of a local file.
const FILE_CHUNK: usize = 256 * 1024;

/// The capacity for a large body in memory. The memory allocator returns an allocation above 32 MiB to the system as soon
/// as it is freed, and memory that was never written takes no space.
const LARGE_CAPACITY: usize = 33 << 20;

/// The download of a body.
#[derive(Debug)]
pub(super) struct Download {
    /// The requested URL, without credentials.
    pub(super) url: String,
    /// The length of the body, if it is known.
    pub(super) length: Option<u64>,
    limit: u64,
    received: u64,
    began: Instant,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Http(reqwest::Response, Timeouts),
    File(tokio::fs::File),
    Memory(Bytes),
    Ended,
    Broken(UpstreamError),
}

impl Download {
    /// Reads the body of an answer of at most `limit` bytes.
    pub(super) fn http(url: String, response: reqwest::Response, timeouts: Timeouts, limit: u64) -> Self {
        let length = response.content_length();
        Self { url, length, limit, received: 0, began: Instant::now(), body: Body::Http(response, timeouts) }
    }

    /// Reads a local file of at most `limit` bytes.
    pub(super) fn file(url: String, file: tokio::fs::File, length: u64, limit: u64) -> Self {
        Self { url, length: Some(length), limit, received: 0, began: Instant::now(), body: Body::File(file) }
    }

    /// Reads a body from memory.
    pub(super) fn whole(url: String, bytes: Bytes, limit: u64) -> Self {
        let length = Some(bytes.len() as u64);
        Self { url, length, limit, received: 0, began: Instant::now(), body: Body::Memory(bytes) }
    }

    /// Waits for the next part. Returns `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let result = self.read().await.and_then(|chunk| self.count(chunk));
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.body = Body::Ended,
            Err(error) => self.body = Body::Broken(error.clone()),
        }
        result
    }

    /// Reads the body to its end.
    ///
    /// Waits for a part of the budget before a large body comes into memory.
    pub(super) async fn collect(&mut self, memory: Option<&ByteBudget>) -> Result<Bytes, UpstreamError> {
        // Before the first part: a connection that is read has large buffers.
        let announced = self.length.filter(|length| (SMALL_BODY as u64 + 1..=self.limit).contains(length));
        let mut reserved = match (memory, announced) {
            (Some(memory), Some(length)) => Some(self.reserve(memory, length).await),
            _ => None,
        };
        let mut body = BytesMut::with_capacity(if reserved.is_some() { LARGE_CAPACITY } else { 0 });
        while let Some(chunk) = self.chunk().await? {
            if let Some(memory) = memory
                && reserved.is_none()
                && body.len() + chunk.len() > SMALL_BODY
            {
                reserved = Some(self.reserve(memory, self.limit).await);
                body.reserve(LARGE_CAPACITY);
            }
            if body.capacity() == 0 {
                body = BytesMut::from(chunk);
            } else {
                body.extend_from_slice(&chunk);
            }
        }
        let body = body.freeze();
        Ok(match reserved {
            Some(reserved) => reserved.hold(body),
            None => body,
        })
    }

    async fn reserve(&mut self, memory: &ByteBudget, length: u64) -> Reserved {
        let waits = Instant::now();
        let reserved = memory.reserve(length).await;
        // The upstream is not slow while this proxy does not read.
        self.began += waits.elapsed();
        reserved
    }

    async fn read(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if self.length.is_some_and(|length| length > self.limit) {
            return Err(UpstreamError::TooLarge { url: self.url.clone(), limit: self.limit });
        }
        match &mut self.body {
            Body::Http(response, timeouts) => {
                let earned = Duration::from_secs(self.received / MIN_BYTES_A_SECOND);
                let left = timeouts.idle.saturating_add(earned).saturating_sub(self.began.elapsed());
                match tokio::time::timeout(timeouts.idle.min(left), response.chunk()).await {
                    Ok(chunk) => chunk.map_err(|error| client::from_reqwest(self.url.clone(), error)),
                    Err(_) => {
                        let reason = match left < timeouts.idle {
                            true => format!(
                                "only {} bytes of the body within {:.0?}",
                                self.received,
                                self.began.elapsed()
                            ),
                            false => format!("no byte of the body within {:?}", timeouts.idle),
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

/// The download of a module zip. Dropping it aborts the transfer.
#[derive(Debug)]
pub struct ZipDownload {
    /// The length of the zip, if the upstream sent it.
    pub length: Option<u64>,
    /// The first part, which was read to recognize a zip.
    first: Option<Bytes>,
    download: Download,
}

impl ZipDownload {
    /// Waits for the first bytes and checks that they look like a zip.
    pub(super) async fn start(mut download: Download) -> Result<Self, UpstreamError> {
        let first = download.chunk().await?.unwrap_or_default();
        // The headers of a zip start with these two bytes; an HTML page does not.
        if first.is_empty() || !b"PK".starts_with(&first[..first.len().min(2)]) {
            return Err(UpstreamError::BadAnswer { url: download.url, reason: "it is not a zip".to_owned() });
        }
        Ok(Self { length: download.length, first: Some(first), download })
    }

    /// Returns the URL, without credentials.
    pub fn url(&self) -> &str {
        &self.download.url
    }

    /// Waits for the next part. Returns `None` at the end of the zip.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.download.chunk().await,
        }
    }
}
