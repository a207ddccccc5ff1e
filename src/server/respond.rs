//! The steps of a request, in their order.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, Response};

use super::watched::WatchedBody;
use crate::access::AccessCell;
use crate::observe::Observer;
use crate::proxy::Proxy;
use crate::request::RequestInfo;

/// The parts that all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) proxy: Proxy,
    pub(super) access: Arc<AccessCell>,
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
        let access = self.access.load();
        // Probes and other deployments have no user. The proxy checks the signature of the latter.
        if access.has_users() && !self.proxy.is_without_user(&request) {
            match access.identify(request.headers(), observed.info.caller.address).await {
                Ok(identity) => observed.info.caller.identity = identity,
                Err(refusal) => {
                    let answer = self.proxy.refuse(&request, &observed.info, &refusal);
                    let status = answer.status().as_u16();
                    return answer.map(|body| WatchedBody::new(body, observed, status));
                }
            }
        }
        let answer = self.proxy.answer(request, &observed.info, &access).await;
        let status = answer.status().as_u16();
        answer.map(|body| WatchedBody::new(body, observed, status))
    }
}
