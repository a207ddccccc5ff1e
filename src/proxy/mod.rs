//! The proxy over HTTP: which request gets which answer.
//!
//! The path of a request is recognised once, by [`Address::recognise`]. A small file in memory is answered with a
//! handful of allocations, since no stack of layers lies in between. [`Proxy::answer_now`] answers from the store without waiting.
//! [`Proxy::answer_later`] waits for a fill, a seal or an upstream, and its state is allocated only then.
//!
//! | module | content |
//! | --- | --- |
//! | `address` | the addresses of the proxy |
//! | `files` | info, mod and zip of a version |
//! | `questions` | lists, queries, checksum databases |
//! | `catalog` | pages of stored versions |
//! | `answer` | statuses and headers |
//! | `problem` | errors: their statuses and texts |
//! | `conditional` | `If-None-Match`, `Range` and similar headers |
//! | `body`, `buffers` | the bytes of answers |
//! | `in_progress` | the number of requests in progress |
//!
//! Connections belong to `serve`, and versions that are not stored to `fill`.

mod address;
mod answer;
mod body;
mod buffers;
mod catalog;
mod conditional;
mod files;
mod in_progress;
mod problem;
mod questions;

use std::sync::Arc;
use std::time::Instant;

use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, VIA};
use hyper::{Method, Request, StatusCode, Uri, Version};
use stoa_gomod::route::Route;
use stoa_layout::LayoutId;
use stoa_store::{SmallFile, Store};
use tokio::sync::Semaphore;

use self::address::Address;
use self::answer::Response;
use self::buffers::Buffers;
use self::catalog::Listing;
use self::problem::{Problem, Subject};
use crate::fill::{Fill, Instance, SumdbQuestion, Via};
use crate::upkeep::Upkeep;

pub(crate) use self::body::Body;
pub(crate) use self::in_progress::InProgress;

const DISABLE_MODULE_FETCH: HeaderName = HeaderName::from_static("disable-module-fetch");

/// Answers requests from the store, and from upstreams through the store.
#[derive(Debug)]
pub(crate) struct Proxy {
    fill: Arc<Fill>,
    upkeep: Arc<Upkeep>,
    /// Bounds the number of queries of the index at the same time.
    index_turns: Semaphore,
    /// Empty, or `/some/path` without a slash at its end.
    base_path: String,
    options: ProxyOptions,
    buffers: Arc<Buffers>,
}

/// The options of a proxy.
#[derive(Debug)]
pub(crate) struct ProxyOptions {
    /// The path that all addresses begin with: `/`, or `/some/path`.
    pub(crate) base_path: String,
    /// The checksum databases to forward.
    pub(crate) sumdbs: Vec<String>,
    /// The name of this proxy in `Via`, by which it recognises its own requests.
    pub(crate) instance: Instance,
    /// See [`ServeOptions::degraded`](crate::serve::ServeOptions::degraded).
    pub(crate) degraded: Option<String>,
}

/// The client's abilities and conditions: the part of a request on which the answer depends, besides the address.
#[derive(Debug, Clone, Copy)]
struct Client<'r> {
    headers: &'r HeaderMap,
    is_head: bool,
    /// Whether the client speaks HTTP/1.0. It cannot distinguish an aborted body from a complete one.
    is_old: bool,
    /// Whether the client wants stored versions only.
    is_local: bool,
}

impl Client<'_> {
    fn via(&self) -> Via {
        Via::from_header_values(self.headers.get_all(VIA))
    }

    /// Returns whether the body must be complete before the first byte of it is sent.
    fn wants_whole(&self) -> bool {
        self.is_head || self.is_old || conditional::is_conditional(self.headers)
    }
}

impl Proxy {
    pub(crate) fn new(fill: Arc<Fill>, upkeep: Arc<Upkeep>, options: ProxyOptions) -> Self {
        let base_path = options.base_path.trim_end_matches('/').to_owned();
        let index_turns = Semaphore::new(catalog::MAX_CONCURRENT);
        Self { fill, upkeep, index_turns, base_path, options, buffers: Arc::default() }
    }

    /// Answers a request.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response {
        let began = log::log_enabled!(log::Level::Debug).then(Instant::now);
        let headers = request.headers();
        let client = Client {
            headers,
            is_head: request.method() == Method::HEAD,
            is_old: matches!(request.version(), Version::HTTP_09 | Version::HTTP_10),
            is_local: headers.get(DISABLE_MODULE_FETCH).is_some_and(is_true),
        };
        let path = request.uri().path();
        let address = Address::recognise(request.method(), path, &self.base_path, &self.options.sumdbs);
        let mut response = match self.answer_now(client, &address) {
            Some(response) => response,
            None => Box::pin(self.answer_later(client, request.uri(), address)).await,
        };
        if client.is_head {
            remove_body(&mut response);
        }
        if let Some(began) = began {
            let (method, status) = (request.method(), response.status().as_u16());
            log::debug!(method:% = method, path = path, status = status, elapsed:% = format!("{:.1?}", began.elapsed()); "answered a request");
        }
        response
    }

    /// Answers a request without waiting. Returns `None` if the answer needs that.
    fn answer_now(&self, client: Client<'_>, address: &Address) -> Option<Response> {
        match address {
            Address::MethodNotAllowed => return Some(Problem::MethodNotAllowed.answer()),
            Address::Home => return Some(answer::text(HOME)),
            Address::Health => return Some(answer::text("ok\n")),
            Address::Readiness => return Some(self.readiness()),
            Address::Version => return Some(answer::json(version(self.store().layout()))),
            _ if client.headers.contains_key(VIA) && client.via().is_loop_at(self.options.instance) => {
                return Some(Problem::Loop.answer());
            }
            Address::Unknown => return Some(Problem::UnknownAddress.answer()),
            Address::UnknownDatabase => return Some(Problem::UnknownDatabase.answer()),
            Address::Catalog | Address::Index => return None,
            Address::Module(_) => {}
        }
        let Address::Module(route) = address else { return None };
        let policy = self.fill.policy();
        let permitted = match route {
            Route::Info(version) | Route::Mod(version) | Route::Zip(version) => policy.check(version),
            Route::List(module) | Route::Latest(module) | Route::Query(module, _) => {
                policy.check_module(module)
            }
            _ => Ok(()),
        };
        if let Err(error) = permitted {
            return Some(Problem::Failed(&error, Subject::File).answer());
        }
        match route {
            Route::Info(version) => self.stored_small(client, version, SmallFile::Info),
            Route::Mod(version) => self.stored_small(client, version, SmallFile::Mod),
            Route::Zip(version) => self.stored_zip(client, version),
            _ => None,
        }
    }

    async fn answer_later(&self, client: Client<'_>, uri: &Uri, address: Address) -> Response {
        let route = match address {
            Address::Module(route) => route,
            Address::Catalog => return self.listing(Listing::catalog(uri.query())).await,
            Address::Index => return self.listing(Listing::index(uri.query())).await,
            _ => return Problem::UnknownAddress.answer(),
        };
        match route {
            Route::Info(version) => self.small(client, &version, SmallFile::Info).await,
            Route::Mod(version) => self.small(client, &version, SmallFile::Mod).await,
            Route::Zip(version) => self.zip(client, &version).await,
            Route::List(module) => self.list(client, &module).await,
            Route::Latest(module) => self.latest(client, &module).await,
            Route::Query(module, revision) => self.query(client, &module, &revision).await,
            Route::SumdbSupported { sumdb } => self.sumdb_supported(client, &sumdb).await,
            Route::SumdbLatest { sumdb } => self.sumdb(client, &sumdb, &SumdbQuestion::Latest).await,
            Route::SumdbLookup { sumdb, module, .. } => {
                self.sumdb(client, &sumdb, &SumdbQuestion::Lookup(module)).await
            }
            Route::SumdbTile { sumdb, tile, .. } => {
                self.sumdb(client, &sumdb, &SumdbQuestion::Tile(tile)).await
            }
            Route::NotFound | Route::MethodNotAllowed => Problem::UnknownAddress.answer(),
        }
    }

    /// Answers `/readyz`. A server without an upstream is ready: it still answers for stored modules, and a 503 would take
    /// it out of service.
    fn readiness(&self) -> Response {
        if let Err(error) = self.store().check() {
            log::error!(reason:% = error; "not ready: cannot read the store");
            return Problem::NotReady.answer();
        }
        match &self.options.degraded {
            None => answer::text("ready\n"),
            Some(reason) => answer::text(format!("ready\ndegraded: no upstream: {reason}\n")),
        }
    }

    fn store(&self) -> &Store {
        self.fill.store()
    }
}

/// The start page, for people.
const HOME: &str = concat!(
    "Stoa ",
    env!("CARGO_PKG_VERSION"),
    " is a Go module proxy.\n\
     \n\
     To use it, set GOPROXY to the address of this page:\n\
     \n    \
     go env -w GOPROXY=ADDRESS\n    \
     go mod download\n\
     \n\
     Addresses, below the address of this page:\n\
     \n    \
     /MODULE/@v/list            the versions of a module\n    \
     /MODULE/@latest            the latest version\n    \
     /MODULE/@v/VERSION.info    a version's metadata\n    \
     /MODULE/@v/VERSION.mod     its go.mod file\n    \
     /MODULE/@v/VERSION.zip     its files\n    \
     /catalog                   all stored versions, ordered by module\n    \
     /index                     all stored versions, ordered by time\n    \
     /healthz                   whether this process answers\n    \
     /readyz                    whether it can serve stored modules\n    \
     /version                   the version of this program and of its store\n"
);

fn version(layout: &LayoutId) -> String {
    format!(
        "{{\"program\":\"stoa\",\"version\":\"{}\",\"layout\":\"{layout}\"}}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Reads a boolean as Go's lenient parser does.
fn is_true(value: &HeaderValue) -> bool {
    matches!(value.as_bytes(), b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True")
}

/// Removes the body, and keeps the headers and its length.
fn remove_body(response: &mut Response) {
    let length = hyper::body::Body::size_hint(response.body()).exact();
    *response.body_mut() = Body::Empty;
    if response.status() != StatusCode::NOT_MODIFIED
        && let Some(length) = length
    {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_page_explains_the_proxy() {
        insta::assert_snapshot!(HOME.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        for (text, is_set) in
            [("1", true), ("t", true), ("TRUE", true), ("yes", false), ("0", false), ("", false)]
        {
            assert_eq!(is_true(&HeaderValue::from_str(text).unwrap()), is_set, "{text}");
        }
    }
}
