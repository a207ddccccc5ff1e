//! The steps of a request, in their order.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, Response};

use super::watched::WatchedBody;
use crate::observe::Observer;
use crate::proxy::Proxy;
use crate::request::RequestInfo;

/// The parts that all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) proxy: Proxy,
    pub(super) observer: Arc<Observer>,
}

impl Shared {
    /// Answers a request.
    pub(super) async fn respond<B>(&self, request: Request<B>, info: RequestInfo) -> Response<WatchedBody>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut observed = self.observer.begin(info);
        self.observer.note_head(&mut observed, &request);
        let answer = self.proxy.answer(request, &observed.info).await;
        let status = answer.status().as_u16();
        answer.map(|body| WatchedBody::new(body, observed, status))
    }
}
