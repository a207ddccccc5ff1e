//! A time limit for clients that neither send nor read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::seat::Seat;

/// The bytes that decide between HTTP/1 and HTTP/2: the length of the preface of HTTP/2.
const PREFACE_BYTES: usize = 24;

/// A connection that fails if the client is silent for too long: while it is sent something, and before the version of
/// HTTP is known. After that hyper's own timeouts apply.
pub(super) struct StallTimeout<S> {
    stream: S,
    limit: Duration,
    seat: Arc<Seat>,
    read: usize,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> StallTimeout<S> {
    pub(super) fn new(stream: S, limit: Duration, seat: Arc<Seat>) -> Self {
        Self { stream, limit, seat, read: 0, reading: None, writing: None }
    }

    /// Notes accepted bytes.
    fn note(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            self.seat.wrote(*bytes);
        }
    }

    /// Returns a result of the stream, or an error if there was none for too long.
    fn bound<T>(
        waiting: &mut Option<Pin<Box<Sleep>>>,
        limit: Duration,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            *waiting = None;
            return result;
        }
        let sleep = waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        match sleep.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.read >= PREFACE_BYTES {
            return result;
        }
        this.read += buffer.filled().len() - before;
        if result.is_ready() && this.read < PREFACE_BYTES {
            // A byte now and then does not restart the time.
            return result;
        }
        Self::bound(&mut this.reading, this.limit, context, result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.note(&result);
        Self::bound(&mut this.writing, this.limit, context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.note(&result);
        Self::bound(&mut this.writing, this.limit, context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_flush(context);
        // TLS accepts bytes that the socket has not taken.
        Self::bound(&mut this.writing, this.limit, context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
