//! The download of a body, limited in size, idle time and slowness.
//!
//! A truncated body is always an error: an announced length is compared, and every read after an error
//! fails. Without an announced length, the encoding marks the end (chunks, HTTP/2, gzip). Only an HTTP/1.0 body
//! can be truncated unnoticed, which the reader of a zip detects.
//!
//! A compressed body is decoded. The size limit counts decoded bytes, and speed counts bytes as they arrive.

use super::MAX_ZIP_BYTES;
use super::beginning::{Beginning, Extent, Validator};
use super::client::{self, Timeouts};
use super::encoding::{Encoding, Gunzip};
use super::error::UpstreamError;
use super::throttle::{Throttle, Waits};
use crate::byte_budget::{ByteBudget, Reserved, SMALL_BODY};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// The part of the content that the body is.
    pub(super) extent: Extent,
    /// Identifies the content.
    pub(super) validator: Option<Validator>,
    limit: u64,
    /// The number of bytes that arrived.
    arrived: u64,
    /// The number of bytes that were returned.
    returned: u64,
    began: Instant,
    body: Body,
    decoder: Option<Box<Gunzip>>,
    /// The limit of this server for the upstream.
    throttle: Option<Throttle>,
}

/// The bytes of a body from a place that is no upstream.
pub struct ByteStream(Mutex<BoxStream<'static, Result<Bytes, String>>>);

impl ByteStream {
    /// Returns the bytes of a stream. An error is the reason.
    pub fn new(stream: BoxStream<'static, Result<Bytes, String>>) -> Self {
        Self(Mutex::new(stream))
    }

    async fn next(&mut self) -> Option<Result<Bytes, String>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).next().await
    }
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByteStream")
    }
}

#[derive(Debug)]
enum Body {
    Http(reqwest::Response, Timeouts),
    File(tokio::fs::File),
    Memory(Bytes),
    Stream(ByteStream),
    Ended,
    Broken(UpstreamError),
}

impl Download {
    /// Reads the body of an answer of at most `limit` bytes.
    pub(super) fn http(
        url: String,
        response: reqwest::Response,
        encoding: Encoding,
        timeouts: Timeouts,
        limit: u64,
    ) -> Self {
        let announced = response.content_length();
        let extent = Extent::of(response.status(), response.headers(), encoding);
        let validator = Validator::of(response.headers(), encoding);
        let limit = limit.saturating_sub(extent.first());
        let body = Body::Http(response, timeouts);
        let download = match encoding {
            Encoding::Identity => Self::new(url, body, announced, limit),
            // The announced length is that of the compressed body, which the HTTP library compares.
            Encoding::Gzip => {
                Self { decoder: Some(Box::new(Gunzip::new())), ..Self::new(url, body, None, limit) }
            }
        };
        Self { extent, validator, ..download }
    }

    /// Reads a local file of at most `limit` bytes.
    pub(super) fn file(url: String, file: tokio::fs::File, length: u64, limit: u64) -> Self {
        Self::new(url, Body::File(file), Some(length), limit)
    }

    /// Reads a body from memory.
    pub(super) fn whole(url: String, bytes: Bytes, limit: u64) -> Self {
        let length = bytes.len() as u64;
        Self::new(url, Body::Memory(bytes), Some(length), limit)
    }

    /// Reads a stream of `length` bytes.
    pub(super) fn stream(url: String, stream: ByteStream, length: u64, limit: u64) -> Self {
        Self::new(url, Body::Stream(stream), Some(length), limit)
    }

    fn new(url: String, body: Body, length: Option<u64>, limit: u64) -> Self {
        let (arrived, returned) = (0, 0);
        Self {
            url,
            length,
            extent: Extent::Whole,
            validator: None,
            limit,
            arrived,
            returned,
            began: Instant::now(),
            body,
            decoder: None,
            throttle: None,
        }
    }

    /// Limits the speed.
    pub(super) fn within(self, throttle: Option<Throttle>) -> Self {
        Self { throttle, ..self }
    }

    /// Waits for the next part. Returns `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let result = self.decoded().await.and_then(|chunk| self.count(chunk));
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.body = Body::Ended,
            Err(error) => self.body = Body::Broken(error.clone()),
        }
        result
    }

    /// Reads the body to its end.
    ///
    /// A large body needs a part of the budget. If none is reserved yet, waits for it when the body gets large.
    pub(super) async fn collect(
        &mut self,
        memory: Option<&ByteBudget>,
        mut reserved: Option<Reserved>,
    ) -> Result<Bytes, UpstreamError> {
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

    /// Returns the announced length if the body is large and allowed.
    pub(super) fn large_length(&self) -> Option<u64> {
        self.length.filter(|length| (SMALL_BODY as u64 + 1..=self.limit).contains(length))
    }

    async fn reserve(&mut self, memory: &ByteBudget, length: u64) -> Reserved {
        let waits = Instant::now();
        let reserved = memory.reserve(length).await;
        // The upstream is not slow while this proxy does not read.
        self.began += waits.elapsed();
        reserved
    }

    /// Waits for the next part of the decoded body.
    async fn decoded(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            if let Some(decoder) = &mut self.decoder
                && let Some(decoded) = decoder.next().map_err(|error| damaged(&self.url, &error))?
            {
                return Ok(Some(decoded));
            }
            let arrived = self.read().await?;
            if let Some(chunk) = &arrived {
                self.arrived = self.arrived.saturating_add(chunk.len() as u64);
                if let Some(throttle) = &self.throttle {
                    // The upstream is not slow while this server does not read.
                    self.began += throttle.wait_after(chunk.len()).await;
                }
            }
            match (&mut self.decoder, arrived) {
                (None, arrived) => return Ok(arrived),
                (Some(decoder), None) => return decoder.finish().map_err(|error| damaged(&self.url, &error)),
                // Compression adds little to any content, but empty parts may follow each other without an end.
                (Some(_), Some(_)) if self.arrived / 2 > self.limit => return Err(self.too_large()),
                (Some(decoder), Some(chunk)) => decoder.push(chunk),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if self.length.is_some_and(|length| length > self.limit) {
            return Err(self.too_large());
        }
        match &mut self.body {
            Body::Http(response, timeouts) => {
                let earned = Duration::from_secs(self.arrived / MIN_BYTES_A_SECOND);
                let left = timeouts.idle.saturating_add(earned).saturating_sub(self.began.elapsed());
                match tokio::time::timeout(timeouts.idle.min(left), response.chunk()).await {
                    Ok(chunk) => chunk.map_err(|error| client::from_reqwest(self.url.clone(), error)),
                    Err(_) => {
                        let reason = match left < timeouts.idle {
                            true => format!(
                                "only {} bytes of the body within {:.0?}",
                                self.arrived,
                                self.began.elapsed()
                            ),
                            false => format!("no data within {:?} (upstream_idle_timeout)", timeouts.idle),
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
            Body::Stream(stream) => match stream.next().await {
                Some(Ok(part)) => Ok(Some(part)),
                Some(Err(reason)) => Err(UpstreamError::Transport { url: self.url.clone(), reason }),
                None => Ok(None),
            },
            Body::Memory(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Body::Ended => Ok(None),
            Body::Broken(error) => Err(error.clone()),
        }
    }

    fn count(&mut self, chunk: Option<Bytes>) -> Result<Option<Bytes>, UpstreamError> {
        let length = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.returned = self.returned.saturating_add(length);
        if self.returned > self.limit {
            return Err(self.too_large());
        }
        match self.length {
            Some(expected) if chunk.is_none() && self.returned != expected => Err(UpstreamError::Transport {
                url: self.url.clone(),
                reason: format!("the body ended after {} of {expected} bytes", self.returned),
            }),
            _ => Ok(chunk),
        }
    }

    fn too_large(&self) -> UpstreamError {
        UpstreamError::TooLarge { url: self.url.clone(), limit: self.limit }
    }
}

/// Returns the error for a compressed body that cannot be decoded.
fn damaged(url: &str, error: &std::io::Error) -> UpstreamError {
    UpstreamError::BadAnswer { url: url.to_owned(), reason: format!("cannot decompress it: {error}") }
}

/// The download of a module zip. Dropping it aborts the transfer.
///
/// It may start behind the part that an earlier download brought.
#[derive(Debug)]
pub struct ZipDownload {
    /// The length of the zip, if the upstream sent it. It does not send that of a zip that it compresses again.
    pub length: Option<u64>,
    /// The position in the zip of the next part.
    position: u64,
    /// Whether it may be the zip of the earlier download, as far as the headers say.
    may_continue: bool,
    /// The next part, if it was read already.
    next: Option<Bytes>,
    download: Download,
}

impl ZipDownload {
    /// Waits for the first bytes and checks that they look like a zip.
    pub(super) async fn start(mut download: Download) -> Result<Self, UpstreamError> {
        let next = download.chunk().await?;
        let position = download.extent.first();
        if position == 0 {
            let first = next.as_deref().unwrap_or_default();
            // The headers of a zip start with these two bytes; an HTML page does not.
            if first.is_empty() || !b"PK".starts_with(first.get(..2).unwrap_or(first)) {
                let reason = "it is not a zip".to_owned();
                return Err(UpstreamError::BadAnswer { url: download.url, reason });
            }
        }
        let length = download.length.map(|length| position.saturating_add(length));
        Ok(Self { length, position, may_continue: false, next, download })
    }

    /// Reads a zip of this length from a place that is no upstream.
    pub(super) async fn of_stream(
        url: String,
        stream: ByteStream,
        length: u64,
    ) -> Result<Self, UpstreamError> {
        Self::start(Download::stream(url, stream, length, MAX_ZIP_BYTES)).await
    }

    /// Compares the answer of an entry with the part of a zip that an earlier download brought.
    pub(super) fn compare(&mut self, entry: usize, beginning: &Beginning) {
        self.may_continue = beginning.may_be_of(entry, self.length, self.download.validator.as_ref());
        if self.may_continue {
            self.length = self.length.or(beginning.length);
        }
    }

    /// Returns the part of the zip that the caller has after this download failed. `entry` is the entry that
    /// answered, and `size` the number of bytes that the caller has.
    pub(super) fn beginning(&self, entry: usize, size: u64) -> Beginning {
        // The rest belongs to these bytes only if this download brought all of them or was compared with them.
        let is_of_this = self.position == size;
        let validator = self.download.validator.clone().filter(|_| is_of_this);
        Beginning { entry, size, length: self.length, validator }
    }

    /// Returns whether the download may continue the zip of the earlier download. The bytes before its
    /// [`position`](Self::position) are those of the earlier download. The caller compares the following ones.
    pub fn may_continue(&self) -> bool {
        self.may_continue
    }

    /// Takes the download for another zip than that of the earlier download.
    pub fn set_apart(&mut self) {
        self.may_continue = false;
        let first = self.download.extent.first();
        self.length = self.download.length.map(|length| first.saturating_add(length));
    }

    /// Returns the URL, without credentials.
    pub fn url(&self) -> &str {
        &self.download.url
    }

    /// Returns the position in the zip of the next part.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the time for which this download waits because of a limit of this server. `None` if there is no limit.
    pub fn waits(&self) -> Option<Arc<Waits>> {
        self.download.throttle.as_ref().map(Throttle::waits)
    }

    /// Waits for the next part. Returns `None` at the end of the zip.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let chunk = match self.next.take() {
            Some(next) => Some(next),
            None => self.download.chunk().await?,
        };
        let position = self.position + chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        // The length may be known from the earlier download only.
        if let Some(length) = self.length
            && (position > length || chunk.is_none() && position < length)
        {
            let reason = format!("the body has {position} bytes, expected {length}");
            return Err(UpstreamError::BadAnswer { url: self.download.url.clone(), reason });
        }
        self.position = position;
        Ok(chunk)
    }

    /// Returns a part, or the end of one, to be read again.
    pub fn put_back(&mut self, part: Bytes) {
        self.position = self.position.saturating_sub(part.len() as u64);
        self.next = Some(part).filter(|part| !part.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_INFO_BYTES;
    use super::*;

    #[tokio::test]
    async fn an_info_waits_for_no_memory() {
        let budget = ByteBudget::new(1 << 20);
        let _all = budget.reserve(u64::MAX).await;
        let body = Bytes::from(vec![b'x'; MAX_INFO_BYTES as usize]);
        let mut info = Download::whole("a".to_owned(), body.clone(), MAX_INFO_BYTES);
        let collected = tokio::time::timeout(Duration::ZERO, info.collect(Some(&budget), None)).await;
        assert_eq!(collected.unwrap().unwrap(), body);
    }
}
