//! The proxy over HTTP: which request gets which answer.
//!
//! One match on [`route::classify`] and no stack of layers: a small file that is in memory is answered with a
//! handful of allocations. What is in the store is answered at once by [`Proxy::answer_now`]; what has to wait
//! (for a fill, a seal, an upstream) by [`Proxy::answer_later`], whose state is made only then.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `files` | info, mod and zip of a version |
//! | `questions` | lists, queries, checksum databases |
//! | `catalog` | what is in the store, page by page |
//! | `answer` | statuses, headers, the texts of errors |
//! | `conditional` | `If-None-Match`, `Range` and their like |
//! | `body`, `buffers` | how bytes get to the connection |
//!
//! Connections are `serve`'s, what is not in the store is `fill`'s.

mod answer;
mod body;
mod buffers;
mod catalog;
mod conditional;
mod files;
mod questions;

use std::sync::Arc;
use std::time::Instant;

use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, VIA};
use hyper::{Method, Request, StatusCode, Uri, Version};
use stoa_gomod::route::{self, Route};
use stoa_layout::LayoutId;
use stoa_store::{SmallFile, Store};
use tokio::sync::Semaphore;

use self::answer::{Kind, Response};
use self::buffers::Buffers;
use crate::fill::{Fill, SumdbQuestion, Via};
use crate::upkeep::Upkeep;

pub(crate) use self::body::Body;

const DISABLE_MODULE_FETCH: HeaderName = HeaderName::from_static("disable-module-fetch");

/// Answers requests from the store, and from what fills it.
#[derive(Debug)]
pub(crate) struct Proxy {
    fill: Arc<Fill>,
    upkeep: Arc<Upkeep>,
    /// How many questions are asked of the index at a time.
    index_turns: Semaphore,
    base_path: String,
    sumdbs: Vec<String>,
    instance: String,
    buffers: Arc<Buffers>,
}

/// What of a request an answer depends on, besides its address.
#[derive(Debug, Clone, Copy)]
struct Asked<'r> {
    headers: &'r HeaderMap,
    is_head: bool,
    /// Whether the client speaks HTTP/1.0, and so cannot tell a body that broke off from one that ended.
    is_old: bool,
    /// Whether only what is in the store is asked for.
    is_local: bool,
}

impl Asked<'_> {
    fn via(&self) -> Via {
        Via::from_header_values(self.headers.get_all(VIA))
    }

    /// Whether a body cannot be sent while it arrives.
    fn wants_whole(&self) -> bool {
        self.is_head || self.is_old || conditional::is_conditional(self.headers)
    }
}

impl Proxy {
    /// Serves at `base_path`, `/` or `/some/path`, and passes the named checksum databases on.
    pub(crate) fn new(
        fill: Arc<Fill>,
        upkeep: Arc<Upkeep>,
        base_path: &str,
        sumdbs: Vec<String>,
        instance: String,
    ) -> Self {
        let base_path = base_path.trim_end_matches('/').to_owned();
        let index_turns = Semaphore::new(catalog::AT_A_TIME);
        Self { fill, upkeep, index_turns, base_path, sumdbs, instance, buffers: Arc::default() }
    }

    /// Answers a request.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response {
        let began = log::log_enabled!(log::Level::Debug).then(Instant::now);
        let headers = request.headers();
        let asked = Asked {
            headers,
            is_head: request.method() == Method::HEAD,
            is_old: matches!(request.version(), Version::HTTP_09 | Version::HTTP_10),
            is_local: headers.get(DISABLE_MODULE_FETCH).is_some_and(is_true),
        };
        let mut response = match self.answer_now(asked, request.method(), request.uri().path()) {
            Ok(response) => response,
            Err(route) => Box::pin(self.answer_later(asked, request.uri(), route)).await,
        };
        if asked.is_head {
            without_body(&mut response);
        }
        if let Some(began) = began {
            let (method, path, status) = (request.method(), request.uri().path(), response.status());
            log::debug!("{method} {path} {} in {:.1?}", status.as_u16(), began.elapsed());
        }
        response
    }

    /// Answers what takes no waiting, or says what was asked for.
    fn answer_now(&self, asked: Asked<'_>, method: &Method, path: &str) -> Result<Response, Route> {
        if method != Method::GET && method != Method::HEAD {
            return Ok(answer::method_not_allowed());
        }
        if let Some(response) = self.about_this_proxy(path) {
            return Ok(response);
        }
        if asked.headers.contains_key(VIA) && asked.via().contains(&self.instance) {
            return Ok(answer::circle());
        }
        let route = route::classify(method.as_str(), path, &self.base_path, &self.sumdbs);
        let refused = match &route {
            Route::Info(version) | Route::Mod(version) | Route::Zip(version) => {
                self.fill.policy().check(version)
            }
            Route::List(module) | Route::Latest(module) | Route::Query(module, _) => {
                self.fill.policy().check_module(module)
            }
            _ => Ok(()),
        };
        if let Err(error) = refused {
            return Ok(answer::failed(&error, Kind::File));
        }
        let response = match &route {
            Route::Info(version) => self.stored_small(asked, version, SmallFile::Info),
            Route::Mod(version) => self.stored_small(asked, version, SmallFile::Mod),
            Route::Zip(version) => self.stored_zip(asked, version),
            Route::NotFound if catalog::is_meant(path, &self.base_path) => None,
            // Which databases are passed on is a matter of the configuration, and may change.
            Route::NotFound if self.is_below_sumdb(path) => Some(answer::no_such_database()),
            Route::NotFound => Some(answer::no_such_address()),
            Route::MethodNotAllowed => Some(answer::method_not_allowed()),
            _ => None,
        };
        response.ok_or(route)
    }

    async fn answer_later(&self, asked: Asked<'_>, uri: &Uri, route: Route) -> Response {
        match route {
            Route::Info(version) => self.small(asked, &version, SmallFile::Info).await,
            Route::Mod(version) => self.small(asked, &version, SmallFile::Mod).await,
            Route::Zip(version) => self.zip(asked, &version).await,
            Route::List(module) => self.list(asked, &module).await,
            Route::Latest(module) => self.latest(asked, &module).await,
            Route::Query(module, revision) => self.query(asked, &module, &revision).await,
            Route::SumdbSupported { sumdb } => self.sumdb_supported(asked, &sumdb).await,
            Route::SumdbLatest { sumdb } => self.sumdb(asked, &sumdb, &SumdbQuestion::Latest).await,
            Route::SumdbLookup { sumdb, module, .. } => {
                self.sumdb(asked, &sumdb, &SumdbQuestion::Lookup(module)).await
            }
            Route::SumdbTile { sumdb, tile, .. } => {
                self.sumdb(asked, &sumdb, &SumdbQuestion::Tile(tile)).await
            }
            Route::NotFound => self.listing(uri).await,
            Route::MethodNotAllowed => answer::method_not_allowed(),
        }
    }

    /// Answers at the addresses that are no module's. A probe need not know of the base path.
    fn about_this_proxy(&self, path: &str) -> Option<Response> {
        let below = path.strip_prefix(self.base_path.as_str()).unwrap_or(path);
        match (path, below) {
            ("/healthz", _) | (_, "/healthz") => Some(answer::notice(StatusCode::OK, "ok\n")),
            ("/readyz", _) | (_, "/readyz") => Some(self.is_ready()),
            ("/version", _) | (_, "/version") => Some(answer::json(version(self.store().layout()))),
            ("/", _) | (_, "" | "/") => Some(answer::notice(StatusCode::OK, ABOUT)),
            _ => None,
        }
    }

    fn is_below_sumdb(&self, path: &str) -> bool {
        path.strip_prefix(self.base_path.as_str()).is_some_and(|below| below.starts_with("/sumdb/"))
    }

    fn is_ready(&self) -> Response {
        match self.store().check() {
            Ok(()) => answer::notice(StatusCode::OK, "ready\n"),
            Err(error) => {
                log::error!("not ready: {error}");
                answer::notice(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not ready: the store cannot be reached; the log of this proxy says more\n",
                )
            }
        }
    }

    fn store(&self) -> &Store {
        self.fill.store()
    }
}

const ABOUT: &str = concat!(
    "This is Stoa ",
    env!("CARGO_PKG_VERSION"),
    ", a proxy for Go modules.\n\nSet GOPROXY to the address of this page to fetch modules through it.\n"
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

/// Leaves the headers as they are, and tells the length of the body that is not sent.
fn without_body(response: &mut Response) {
    let length = hyper::body::Body::size_hint(response.body()).exact();
    *response.body_mut() = Body::Empty;
    if response.status() != StatusCode::NOT_MODIFIED
        && let Some(length) = length
    {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}
