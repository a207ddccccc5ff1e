//! The body of an answer, with the end of its request: the last byte, or the moment at which the client gave up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::seat::UnderWay;
use crate::observe::Observed;
use crate::proxy::Body;

/// The body of an answer. Its request ends when it is dropped.
#[derive(Debug)]
pub(crate) struct WatchedBody {
    body: Body,
    /// The length of the body, if it is known.
    length: Option<u64>,
    request: Observed,
    places: Places,
}

/// The places that a request holds until its end.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) under_way: UnderWay,
    /// Of the client's requests.
    pub(super) request: Option<OwnedSemaphorePermit>,
    /// Of the zips that are being sent.
    pub(super) zip: [Option<OwnedSemaphorePermit>; 3],
}

impl WatchedBody {
    pub(super) fn new(body: Body, mut request: Observed, status: u16, mut places: Places) -> Self {
        (request.status, request.is_whole) = (status, body.is_end_stream());
        places.under_way.set_inside(false);
        Self { length: body.size_hint().exact(), body, request, places }
    }
}

impl hyper::body::Body for WatchedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.places.under_way.set_inside(frame.is_pending());
        let frame = ready!(frame);
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

    use super::super::limits::Limits;
    use super::super::seat::Seat;
    use super::*;
    use crate::observe::Observer;
    use crate::request::{Caller, Entrance, RequestInfo};

    #[test]
    fn a_request_counts_until_its_body_is_dropped() {
        let observer = Arc::<Observer>::default();
        let begin = || observer.begin(RequestInfo::new(Caller::anonymous(None), Entrance::Public));
        let (one, other) = (begin(), begin());
        assert_eq!(observer.in_progress(), 2);
        let seat = Arc::new(Seat::new(0, None, &Limits::of(1)));
        let places = Places { under_way: seat.begin(), request: None, zip: [None, None, None] };
        let body = WatchedBody::new(Body::Empty, one, 200, places);
        assert_eq!(seat.requests(), 1);
        assert!(body.request.is_whole);
        drop(other);
        assert_eq!(observer.in_progress(), 1);
        drop(body);
        assert_eq!(seat.requests(), 0);
        assert_eq!(observer.in_progress(), 0);
    }
}
