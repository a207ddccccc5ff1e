//! The right of a client to read a module, and the headers for caches that depend on it.

use hyper::Request;
use hyper::header::{CACHE_CONTROL, HeaderValue, VARY};

use super::address::{self, Address};
use super::answer::{self, Response};
use super::problem::Problem;
use super::{Client, Proxy, remove_body};
use crate::access::{Access, Refusal};
use crate::policy::Policy;
use crate::request::{Entrance, Identity, RequestInfo};

/// The headers of a request on which answers about restricted modules depend.
const VARY_BY_USER: HeaderValue = HeaderValue::from_static("Disable-Module-Fetch, Authorization");

/// Checks that a client may read the module of an address. Other addresses, except those for probes, are open to clients
/// who may read some module.
pub(super) fn check(client: Client<'_>, address: &Address) -> Result<(), Refusal> {
    let is_operator = client.info.entrance == Entrance::Admin;
    if is_operator
        || client.access.is_open()
        || is_for_probes(address)
        || *address == Address::MethodNotAllowed
    {
        return Ok(());
    }
    client.access.check(&client.info.caller.identity, address.module().map(|module| module.as_str()))
}

fn is_for_probes(address: &Address) -> bool {
    matches!(address, Address::Health | Address::Readiness | Address::Version)
}

impl Proxy {
    /// Returns whether the credentials of a request are not those of a user: it is a probe, or comes from a peer.
    pub(crate) fn is_without_user<B>(&self, request: &Request<B>) -> bool {
        address::page_of(request.uri().path(), &self.base_path).is_some_and(|page| is_for_probes(&page))
            || self.is_of_peer(request)
    }

    /// Answers a request whose user is not known.
    pub(crate) fn refuse<B>(&self, request: &Request<B>, info: &RequestInfo, refusal: &Refusal) -> Response {
        let path = request.uri().path();
        let address = Address::recognise(request.method(), path, &self.base_path, &self.options.sumdbs);
        info.set_kind(address.kind());
        let mut response = Problem::NoAccess(refusal).answer();
        if request.method() == hyper::Method::HEAD {
            remove_body(&mut response);
        }
        response
    }

    /// Keeps shared caches from answers about modules that are private, or that not everybody may read.
    pub(super) fn restrict_caches(
        &self,
        response: &mut Response,
        address: &Address,
        policy: &Policy,
        access: &Access,
    ) {
        let module = address.module();
        let of_anonymous = || access.check(&Identity::Anonymous, module.map(|module| module.as_str()));
        let is_restricted = !access.is_open() && of_anonymous().is_err();
        let is_private = |module| policy.is_private(module) || self.services.answers.is_private(module);
        if is_for_probes(address) || !is_restricted && !module.is_some_and(is_private) {
            return;
        }
        let headers = response.headers_mut();
        let shown = headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Some(private) = answer::private(shown) {
            headers.insert(CACHE_CONTROL, private);
        }
        if is_restricted {
            headers.insert(VARY, VARY_BY_USER);
        }
    }
}
