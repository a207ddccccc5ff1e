//! The body of an answer, with the end of its request: the last byte, or the moment at which the client gave up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use crate::observe::Observed;
use crate::proxy::Body;

/// The body of an answer. Its request ends when it is dropped.
#[derive(Debug)]
pub(crate) struct WatchedBody {
    body: Body,
    /// The length of the body, if it is known.
    length: Option<u64>,
    request: Observed,
}

impl WatchedBody {
    pub(super) fn new(body: Body, mut request: Observed, status: u16) -> Self {
        (request.status, request.is_whole) = (status, body.is_end_stream());
        Self { length: body.size_hint().exact(), body, request }
    }
}

impl hyper::body::Body for WatchedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                // The last chunk may still be in a buffer of the connection.
                self.request.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // After the last byte of a known length, a connection does not ask for the end.
                self.request.is_whole = self.body.is_end_stream() || self.length == Some(self.request.bytes);
            }
            Some(Err(_)) => {}
            None => self.request.is_whole = true,
        }
        Poll::Ready(frame)
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
    use std::sync::Arc;

    use super::*;
    use crate::observe::Observer;
    use crate::request::{Caller, Entrance, RequestInfo};

    #[test]
    fn a_request_counts_until_its_body_is_dropped() {
        let observer = Arc::<Observer>::default();
        let begin = || observer.begin(RequestInfo::new(Caller::anonymous(None), Entrance::Public));
        let (one, other) = (begin(), begin());
        assert_eq!(observer.in_progress(), 2);
        let body = WatchedBody::new(Body::Empty, one, 200);
        assert!(body.request.is_whole);
        drop(other);
        assert_eq!(observer.in_progress(), 1);
        drop(body);
        assert_eq!(observer.in_progress(), 0);
    }
}
