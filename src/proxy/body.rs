//! The bodies of answers.
//!
//! A zip is read when the connection asks for more of it, so a slow client holds only one chunk. Bytes in the page cache
//! are read on the worker, and bytes on disk by the blocking pool. A body that fails makes hyper abort the connection, so
//! that no client takes it for complete.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::{Frame, SizeHint};
use stoa_gomod::ModuleVersion;
use stoa_store::ZipFile;
use tokio::task::JoinHandle;

use super::buffers::{Buffer, Buffers, OpenZip};
use crate::bucket::ZipStream;
use crate::fill::Transfer;
use crate::sending::SendingGuard;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// No bytes, or no more bytes.
    Empty,
    /// Bytes in memory.
    Whole(Bytes),
    /// A stored zip, or a range of it.
    Zip(ZipBody),
    /// A zip that is being downloaded.
    Transfer(TransferBody),
    /// A zip in the bucket, or a range of it.
    Bucket(BucketBody),
}

impl Body {
    /// Returns a range of a stored zip.
    pub(super) fn zip(
        sending: SendingGuard,
        file: ZipFile,
        range: std::ops::Range<u64>,
        buffers: &Arc<Buffers>,
    ) -> Self {
        Self::Zip(ZipBody {
            sending,
            file: Arc::new(file),
            at: range.start,
            end: range.end,
            buffers: buffers.open(),
            reading: None,
        })
    }

    /// Returns a zip that is being downloaded.
    pub(super) fn transfer(transfer: Transfer, buffers: &Arc<Buffers>) -> Self {
        let left = transfer.length();
        Self::Transfer(TransferBody { state: State::Idle(transfer), left, buffers: buffers.open() })
    }

    /// Returns whether the body sends a zip.
    pub(crate) fn is_zip(&self) -> bool {
        matches!(self, Self::Zip(_) | Self::Transfer(_) | Self::Bucket(_))
    }

    /// Returns `length` bytes of a zip in the bucket. Without a stream, only the length is known.
    pub(super) fn bucket(version: &ModuleVersion, stream: Option<ZipStream>, length: u64) -> Self {
        let stream = stream.map(Mutex::new);
        Self::Bucket(BucketBody { version: version.clone(), stream, left: length })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let chunk = match &mut *self {
            Self::Empty => None,
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                (!bytes.is_empty()).then_some(Ok(bytes))
            }
            Self::Zip(zip) => ready!(zip.poll(context)),
            Self::Transfer(transfer) => ready!(transfer.poll(context)),
            Self::Bucket(bucket) => ready!(bucket.poll(context)),
        };
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Zip(zip) => zip.at == zip.end,
            // The transfer ends when the zip is verified.
            Self::Transfer(_) => false,
            Self::Bucket(bucket) => bucket.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Zip(zip) => SizeHint::with_exact(zip.end - zip.at),
            Self::Transfer(transfer) => transfer.left.map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Bucket(bucket) => SizeHint::with_exact(bucket.left),
        }
    }
}

/// A stored zip, or a range of it.
#[derive(Debug)]
pub(crate) struct ZipBody {
    sending: SendingGuard,
    file: Arc<ZipFile>,
    at: u64,
    end: u64,
    buffers: OpenZip,
    reading: Option<JoinHandle<(Buffer, io::Result<usize>)>>,
}

impl ZipBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        let (buffer, read) = match self.reading.as_mut() {
            Some(reading) => {
                let read = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                match read {
                    Ok(read) => read,
                    Err(error) => return Poll::Ready(Some(Err(self.failed(&error)))),
                }
            }
            None => {
                let mut buffer = self.buffers.take();
                let size = buffer.as_mut().len();
                let wanted = usize::try_from(self.end - self.at).map_or(size, |left| left.min(size));
                match self.file.read_now(self.at, &mut buffer.as_mut()[..wanted]) {
                    Some(read) => (buffer, Ok(read)),
                    None => {
                        let (file, at) = (Arc::clone(&self.file), self.at);
                        self.reading = Some(tokio::task::spawn_blocking(move || {
                            let read = file.read(at, &mut buffer.as_mut()[..wanted]);
                            (buffer, read)
                        }));
                        return self.poll(context);
                    }
                }
            }
        };
        Poll::Ready(Some(match read {
            Ok(0) => Err(self.failed(&"the file has become shorter since it was opened")),
            Ok(read) => {
                self.at += read as u64;
                Ok(buffer.into_bytes(read))
            }
            Err(error) => Err(self.failed(&error)),
        }))
    }

    fn failed(&self, reason: &dyn std::fmt::Display) -> io::Error {
        let version = self.sending.version();
        log::error!(version:% = version, offset = self.at, reason:% = reason; "cannot read a stored file: aborting its transfer");
        io::Error::other(format!("cannot read a file of {version}: {reason}"))
    }
}

/// A zip in the bucket, or a range of it. The bucket is read as fast as the client reads.
pub(crate) struct BucketBody {
    version: ModuleVersion,
    /// Never locked: only its owner uses it.
    stream: Option<Mutex<ZipStream>>,
    left: u64,
}

impl std::fmt::Debug for BucketBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketBody")
            .field("version", &self.version)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl BucketBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(stream) = self.stream.as_mut().filter(|_| self.left > 0) else { return Poll::Ready(None) };
        let stream = stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        let part = match ready!(stream.poll_next_unpin(context)) {
            Some(Ok(part)) => part,
            Some(Err(error)) => return Poll::Ready(Some(Err(self.failed(&error.without_help())))),
            None => return Poll::Ready(Some(Err(self.failed("the content is too short")))),
        };
        match self.left.checked_sub(part.len() as u64) {
            Some(left) => {
                self.left = left;
                if left == 0 {
                    self.stream = None;
                }
                Poll::Ready(Some(Ok(part)))
            }
            None => Poll::Ready(Some(Err(self.failed("the content is too long")))),
        }
    }

    fn failed(&self, reason: &str) -> io::Error {
        let version = &self.version;
        log::warn!(version:% = version, left = self.left, reason; "cannot read a version in the bucket: aborting its transfer");
        io::Error::other(format!("cannot read the zip of {version}: {reason}"))
    }
}

/// A zip that is being downloaded.
#[derive(Debug)]
pub(crate) struct TransferBody {
    state: State,
    /// The number of bytes still to send, if known.
    left: Option<u64>,
    buffers: OpenZip,
}

type Next = Pin<Box<dyn Future<Output = (Transfer, io::Result<(Buffer, usize)>)> + Send>>;

enum State {
    Idle(Transfer),
    Waiting(Next),
    Ended,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle(_) => "Idle",
            Self::Waiting(_) => "Waiting",
            Self::Ended => "Ended",
        })
    }
}

impl TransferBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut next: Next = match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return Poll::Ready(None),
            State::Waiting(next) => next,
            State::Idle(mut transfer) => {
                let buffers = self.buffers.pool();
                Box::pin(async move {
                    let read = match transfer.ready().await {
                        Ok(()) => transfer.next(buffers.take()).await,
                        Err(error) => Err(error),
                    };
                    (transfer, read)
                })
            }
        };
        let Poll::Ready((transfer, read)) = next.as_mut().poll(context) else {
            self.state = State::Waiting(next);
            return Poll::Pending;
        };
        Poll::Ready(match read {
            Ok((_, 0)) => None,
            Ok((buffer, read)) => {
                self.state = State::Idle(transfer);
                self.left = self.left.map(|left| left.saturating_sub(read as u64));
                Some(Ok(buffer.into_bytes(read)))
            }
            Err(error) => Some(Err(error)),
        })
    }
}
