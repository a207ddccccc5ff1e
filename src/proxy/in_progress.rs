//! The number of requests in progress: from the head of a request to the last byte of its answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::body::Body;

/// Counts requests. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct InProgress {
    requests: Arc<AtomicUsize>,
}

impl InProgress {
    /// Counts a request until the returned value is dropped.
    pub(crate) fn start(&self) -> Started {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Started { requests: Arc::clone(&self.requests) }
    }

    /// Returns the number of requests in progress.
    pub(crate) fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Started {
    requests: Arc<AtomicUsize>,
}

impl Started {
    /// Counts the request until the body of its answer is dropped.
    pub(crate) fn until_end_of(self, body: Body) -> CountedBody {
        CountedBody { body, _started: self }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body whose request is in progress.
#[derive(Debug)]
pub(crate) struct CountedBody {
    body: Body,
    _started: Started,
}

impl hyper::body::Body for CountedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_until_its_body_is_dropped() {
        let requests = InProgress::default();
        let started = requests.clone().start();
        let other = requests.start();
        assert_eq!(requests.count(), 2);
        let body = started.until_end_of(Body::Empty);
        drop(other);
        assert_eq!(requests.count(), 1);
        drop(body);
        assert_eq!(requests.count(), 0);
    }
}
