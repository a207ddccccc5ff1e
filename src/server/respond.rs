//! The steps of a request, in their order.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, Response};
use ipnet::IpNet;
use tokio::sync::OwnedSemaphorePermit;

use super::hosts::Hosts;
use super::refusal::Refusal;
use super::seat::{Client, Seat};
use super::table::{self, Table};
use super::watched::{Places, WatchedBody};
use crate::access::{Access, AccessCell, Refusal as NoAccess};
use crate::meters::Meters;
use crate::observe::Observer;
use crate::proxy::Proxy;
use crate::request::{Entrance, RequestInfo};

/// The parts that all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) proxy: Proxy,
    pub(super) access: Arc<AccessCell>,
    pub(super) observer: Arc<Observer>,
    pub(super) meters: Arc<Meters>,
    pub(super) hosts: Hosts,
    pub(super) trusted_proxies: Vec<IpNet>,
    /// The path that all addresses begin with, without a slash at its end.
    pub(super) base_path: String,
    /// Whether operators have a listener of their own.
    pub(super) has_admin: bool,
}

/// Whether a request needs a place.
enum Class {
    Health,
    Other,
}

impl Shared {
    /// Answers a request.
    pub(super) async fn respond<B>(
        &self,
        request: Request<B>,
        info: RequestInfo,
        table: &Table,
        seat: &Arc<Seat>,
        client: Option<&Arc<Client>>,
    ) -> Response<WatchedBody>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut observed = self.observer.begin(info);
        self.observer.note_head(&mut observed, &request);
        let access = self.access.load();
        let mut places = Places { under_way: seat.begin(), request: None, zip: [None, None, None] };
        let mut answer = match self.admit(&request, observed.info.entrance, client).await {
            Ok(place) => {
                places.request = place;
                match self.identify(&access, &request, &mut observed.info).await {
                    Err(refusal) => self.proxy.refuse(&request, &observed.info, &refusal),
                    Ok(()) => self.proxy.answer(request, &observed.info, &access).await,
                }
            }
            Err(refusal) => refusal.answer(),
        };
        if answer.body().is_zip() {
            match table.zip(seat, client).await {
                Ok(place) => places.zip = place,
                Err(refusal) => answer = refusal.answer(),
            }
        }
        let status = answer.status().as_u16();
        answer.map(|body| WatchedBody::new(body, observed, status, places))
    }

    /// Checks a request, and waits for its place.
    async fn admit<B>(
        &self,
        request: &Request<B>,
        entrance: Entrance,
        client: Option<&Arc<Client>>,
    ) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        match self.check(request, entrance)? {
            Class::Health => Ok(None),
            Class::Other => table::place(client).await,
        }
    }

    /// Finds the user of a request. Operators at their own listener, probes and other deployments have none. The proxy checks
    /// the signature of the latter.
    async fn identify<B>(
        &self,
        access: &Access,
        request: &Request<B>,
        info: &mut RequestInfo,
    ) -> Result<(), NoAccess> {
        let is_public = info.entrance == Entrance::Public;
        if is_public && access.has_users() && !self.proxy.is_without_user(request) {
            info.caller.identity = access.identify(request.headers(), info.caller.address).await?;
        }
        Ok(())
    }

    /// Checks that the listener has the path of a request, and that the server has the name in it.
    fn check<B>(&self, request: &Request<B>, entrance: Entrance) -> Result<Class, Refusal> {
        let path = request.uri().path();
        let page = path.strip_prefix(&self.base_path).filter(|page| page.starts_with('/')).unwrap_or(path);
        match (entrance, page) {
            (Entrance::Admin, "/healthz" | "/readyz" | "/metrics" | "/version") => Ok(Class::Health),
            (Entrance::Admin, _) => Err(Refusal::NotHere),
            // A probe need not know a name, and waits for nobody.
            (Entrance::Public, "/healthz" | "/readyz") => Ok(Class::Health),
            (Entrance::Public, "/metrics") if self.has_admin => Err(Refusal::NotHere),
            (Entrance::Public, _) => self.hosts.check(request).map(|()| Class::Other),
        }
    }
}
