//! The steps of a request, in their order.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, Response};
use ipnet::IpNet;

use super::hosts::Hosts;
use super::refusal::Refusal;
use super::watched::WatchedBody;
use crate::meters::Meters;
use crate::observe::Observer;
use crate::proxy::Proxy;
use crate::request::{Entrance, RequestInfo};

/// The parts that all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) proxy: Proxy,
    pub(super) observer: Arc<Observer>,
    pub(super) meters: Arc<Meters>,
    pub(super) hosts: Hosts,
    pub(super) trusted_proxies: Vec<IpNet>,
    /// The path that all addresses begin with, without a slash at its end.
    pub(super) base_path: String,
    /// Whether operators have a listener of their own.
    pub(super) has_admin: bool,
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
        let answer = match self.check(&request, observed.info.entrance) {
            Ok(()) => self.proxy.answer(request, &observed.info).await,
            Err(refusal) => refusal.answer(),
        };
        let status = answer.status().as_u16();
        answer.map(|body| WatchedBody::new(body, observed, status))
    }

    /// Checks that the listener has the path of a request, and that the server has the name in it.
    fn check<B>(&self, request: &Request<B>, entrance: Entrance) -> Result<(), Refusal> {
        let path = request.uri().path();
        let page = path.strip_prefix(&self.base_path).filter(|page| page.starts_with('/')).unwrap_or(path);
        match (entrance, page) {
            (Entrance::Admin, "/healthz" | "/readyz" | "/metrics" | "/version") => Ok(()),
            (Entrance::Admin, _) => Err(Refusal::NotHere),
            // A probe need not know a name.
            (Entrance::Public, "/healthz" | "/readyz") => Ok(()),
            (Entrance::Public, "/metrics") if self.has_admin => Err(Refusal::NotHere),
            (Entrance::Public, _) => self.hosts.check(request),
        }
    }
}
