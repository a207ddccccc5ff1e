//! The proxy over HTTP: which request gets which answer.
//!
//! The path of a request is recognised once, by [`Address::recognise`]. A small file in memory is answered with a
//! handful of allocations, since no stack of layers lies in between. [`Proxy::answer_now`] answers from the store without waiting.
//! [`Proxy::answer_later`] waits for a fill, a seal or an upstream, and its state is allocated only then.
//!
//! | module | content |
//! | --- | --- |
//! | `access` | the right of a client to read a module, and headers for caches that depend on it |
//! | `address` | the addresses of the proxy |
//! | `files` | info, mod and zip of a version |
//! | `attempts` | the attempts to get a version that is not stored, from peers and by its rule |
//! | `checks` | the checks of a stored version before it is served |
//! | `from_bucket` | the same, of a read-only server that has a bucket |
//! | `entity` | answers with a file, or with a part of it |
//! | `questions` | lists, queries, checksum databases |
//! | `metrics` | the metrics of the server |
//! | `peers` | requests of other deployments |
//! | `catalog` | pages of stored versions |
//! | `answer` | statuses and headers |
//! | `problem` | errors: their statuses and texts |
//! | `conditional` | `If-None-Match`, `Range` and similar headers |
//! | `body`, `buffers` | the bytes of answers |
//! | `readiness` | whether the server can serve stored modules |
//!
//! Connections belong to `server`, and versions that are not stored to `fill`.

mod access;
mod address;
mod answer;
mod attempts;
mod body;
mod buffers;
mod catalog;
mod checks;
mod conditional;
mod entity;
mod files;
mod from_bucket;
mod metrics;
mod peers;
mod problem;
mod questions;
mod readiness;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, VIA};
use hyper::{Method, Request, StatusCode, Uri, Version};
use stoa_gomod::Revision;
use stoa_gomod::route::Route;
use stoa_layout::LayoutId;
use stoa_store::{SmallFile, Store};
use tokio::sync::Semaphore;

use self::address::Address;
use self::answer::Response;
use self::buffers::Buffers;
use self::catalog::Listing;
use self::problem::{Problem, Subject};
use self::readiness::{Probes, Readiness};
use crate::access::Access;
use crate::meters::Refusal;
use crate::policy::{ModulePermit, Permit, Policy};
use crate::request::{RequestInfo, Source};
use crate::services::{Instance, Services, Via};
use crate::sumdb::SumdbQuestion;
use crate::sync::Replication;
use crate::tasks::{How, noted};
use crate::unavailable::Unavailable;
use crate::upkeep::Upkeep;

pub(crate) use self::body::Body;

const DISABLE_MODULE_FETCH: HeaderName = HeaderName::from_static("disable-module-fetch");

/// Answers requests from the store, and from upstreams through the store.
#[derive(Debug)]
pub(crate) struct Proxy {
    services: Arc<Services>,
    upkeep: Arc<Upkeep>,
    /// Bounds the number of queries of the index at the same time.
    index_turns: Semaphore,
    /// Bounds the number of answers with metrics that are made at the same time.
    metrics_turn: Semaphore,
    /// Empty, or `/some/path` without a slash at its end.
    base_path: String,
    options: ProxyOptions,
    /// The peers of this deployment, if it has any.
    replication: Option<Arc<Replication>>,
    buffers: Arc<Buffers>,
    probes: Probes,
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
    /// See [`ServeOptions::degraded`](crate::server::ServeOptions::degraded).
    pub(crate) degraded: Option<String>,
}

/// The client's abilities and conditions: the part of a request on which the answer depends, besides the address.
#[derive(Debug, Clone, Copy)]
struct Client<'r> {
    info: &'r RequestInfo,
    access: &'r Arc<Access>,
    headers: &'r HeaderMap,
    is_head: bool,
    /// Whether the client speaks HTTP/1.0. It cannot distinguish an aborted body from a complete one.
    is_old: bool,
    /// Whether the client wants stored versions only.
    is_local: bool,
    /// Whether the client is a peer, which gets nothing by a redirect.
    is_peer: bool,
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

/// The result of the part of an answer that needs no waiting.
enum Step<'r> {
    Answered(Response),
    Waiting(Target<'r>),
}

impl From<Response> for Step<'_> {
    fn from(response: Response) -> Self {
        Self::Answered(response)
    }
}

/// A request that the rules permit, and the permission.
enum Target<'r> {
    Small(Permit<'r>, SmallFile),
    Zip(Permit<'r>),
    List(ModulePermit<'r>),
    Latest(ModulePermit<'r>),
    Query(ModulePermit<'r>, &'r Revision),
    Sumdb(&'r Route),
    Catalog,
    Index,
    Readiness,
    Metrics,
}

impl Proxy {
    pub(crate) fn new(
        services: Arc<Services>,
        upkeep: Arc<Upkeep>,
        replication: Option<Arc<Replication>>,
        options: ProxyOptions,
    ) -> Self {
        let base_path = options.base_path.trim_end_matches('/').to_owned();
        let index_turns = Semaphore::new(catalog::MAX_CONCURRENT);
        Self {
            services,
            upkeep,
            index_turns,
            metrics_turn: Semaphore::new(1),
            base_path,
            options,
            replication,
            buffers: Arc::default(),
            probes: Probes::new(),
        }
    }

    /// Answers a request.
    pub(crate) async fn answer<B>(
        &self,
        request: Request<B>,
        info: &RequestInfo,
        access: &Arc<Access>,
    ) -> Response
    where
        B: hyper::body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if self.is_of_peer(&request) {
            return Box::pin(self.answer_peer(request, info, access)).await;
        }
        let began = log::log_enabled!(log::Level::Debug).then(Instant::now);
        let headers = request.headers();
        let client = Client {
            info,
            access,
            headers,
            is_head: request.method() == Method::HEAD,
            is_old: matches!(request.version(), Version::HTTP_09 | Version::HTTP_10),
            is_local: headers.get(DISABLE_MODULE_FETCH).is_some_and(is_true),
            is_peer: false,
        };
        let path = request.uri().path();
        let address = Address::recognise(request.method(), path, &self.base_path, &self.options.sumdbs);
        info.set_kind(address.kind());
        let policy = self.services.policy.load();
        let mut response = match self.answer_now(client, &address, &policy) {
            Step::Answered(response) => response,
            Step::Waiting(target) => {
                let later = noted(self.answer_later(client, request.uri(), target));
                let (response, how) = Box::pin(later).await;
                let is_of_module = matches!(address, Address::Module(_));
                info.note_source(source(&response, how, is_of_module));
                response
            }
        };
        self.restrict_caches(&mut response, &address, &policy, access);
        if client.is_head {
            remove_body(&mut response);
        }
        if let Some(began) = began {
            let (method, status) = (request.method(), response.status().as_u16());
            log::debug!(method:% = method, path = path, status = status, elapsed:% = format!("{:.1?}", began.elapsed()); "answered a request");
        }
        response
    }

    /// Answers a request as far as that is possible without waiting. The rules are asked here, and nowhere else.
    fn answer_now<'r>(&self, client: Client<'_>, address: &'r Address, policy: &'r Policy) -> Step<'r> {
        // Before the rules and the store, so that the answer does not depend on them.
        if !client.is_peer
            && let Err(refusal) = access::check(client, address)
        {
            return Problem::NoAccess(&refusal).answer().into();
        }
        let route = match address {
            Address::MethodNotAllowed => return Problem::MethodNotAllowed.answer().into(),
            Address::Home => return answer::text(HOME).into(),
            Address::Health => return answer::text("ok\n").into(),
            Address::Readiness => return Step::Waiting(Target::Readiness),
            Address::Metrics => return Step::Waiting(Target::Metrics),
            Address::Version => return answer::json(version(self.store().layout())).into(),
            _ if client.headers.contains_key(VIA) && client.via().is_loop_at(self.options.instance) => {
                return Problem::Loop.answer().into();
            }
            Address::Misspelled(misspelling) => {
                return Problem::Misspelled(misspelling, &self.base_path).answer().into();
            }
            Address::NoPage => return Problem::NoPage.answer().into(),
            Address::Unknown => return Problem::UnknownAddress.answer().into(),
            Address::UnknownDatabase => return Problem::UnknownDatabase.answer().into(),
            Address::Catalog => return Step::Waiting(Target::Catalog),
            Address::Index => return Step::Waiting(Target::Index),
            Address::Module(route) => route,
        };
        let target = match target(policy, route) {
            Ok(target) => target,
            Err(error) => {
                if matches!(error, Unavailable::Denied { .. }) {
                    self.services.meters.refused(Refusal::Denied);
                }
                return Problem::Failed(&error, Subject::File).answer().into();
            }
        };
        let stored = match &target {
            Target::Small(permit, file) => self.stored_small(client, *permit, *file),
            Target::Zip(permit) => self.stored_zip(client, *permit),
            _ => None,
        };
        match stored {
            Some(response) => {
                client.info.note_source(Source::Hit);
                Step::Answered(response)
            }
            None => Step::Waiting(target),
        }
    }

    async fn answer_later(&self, client: Client<'_>, uri: &Uri, target: Target<'_>) -> Response {
        match target {
            Target::Catalog => self.listing(client, Listing::catalog(uri.query())).await,
            Target::Index => self.listing(client, Listing::index(uri.query())).await,
            Target::Readiness => self.readiness().await,
            Target::Metrics => self.metrics().await,
            Target::Small(permit, file) => self.small(client, permit, file).await,
            Target::Zip(permit) => self.zip(client, permit).await,
            Target::List(permit) => self.list(client, permit).await,
            Target::Latest(permit) => self.latest(client, permit).await,
            Target::Query(permit, revision) => self.query(client, permit, revision).await,
            Target::Sumdb(route) => match route {
                Route::SumdbSupported { sumdb } => self.sumdb_supported(client, sumdb).await,
                Route::SumdbLatest { sumdb } => self.sumdb(client, sumdb, &SumdbQuestion::Latest).await,
                Route::SumdbLookup { sumdb, module } => {
                    self.sumdb(client, sumdb, &SumdbQuestion::Lookup(module.clone())).await
                }
                Route::SumdbTile { sumdb, tile } => {
                    self.sumdb(client, sumdb, &SumdbQuestion::Tile(*tile)).await
                }
                _ => Problem::UnknownAddress.answer(),
            },
        }
    }

    /// Answers `/readyz`. A server without an upstream is ready: it still answers for stored modules, and a 503 would take
    /// it out of service.
    async fn readiness(&self) -> Response {
        let store = Arc::clone(self.store());
        let Readiness::Ready(degradations) = self.probes.ask(move || probe(&store)).await else {
            return Problem::NotReady.answer();
        };
        let no_upstream = self.options.degraded.as_ref().map(|reason| format!("no upstream: {reason}"));
        let outage = self.services.tier.as_ref().and_then(|tier| tier.outage());
        let bucket = outage.map(|_| "the bucket cannot be used, only stored versions are served".to_owned());
        let reasons = no_upstream.into_iter().chain(bucket).chain(degradations);
        answer::text(format!(
            "ready\n{}",
            reasons.map(|reason| format!("degraded: {reason}\n")).collect::<String>()
        ))
    }

    fn store(&self) -> &Arc<Store> {
        &self.services.store
    }
}

/// Returns the source of an answer that had to wait.
fn source(response: &Response, how: Option<How>, is_of_module: bool) -> Source {
    let is_sent = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
    match how {
        Some(How::Asked) => Source::Miss,
        Some(How::Joined) => Source::Wait,
        Some(How::Stale) => Source::Stale,
        None if is_of_module && is_sent => Source::Hit,
        None => Source::None,
    }
}

/// Asks the rules about a request.
fn target<'r>(policy: &'r Policy, route: &'r Route) -> Result<Target<'r>, Unavailable> {
    Ok(match route {
        Route::Info(version) => Target::Small(policy.permit(version)?, SmallFile::Info),
        Route::Mod(version) => Target::Small(policy.permit(version)?, SmallFile::Mod),
        Route::Zip(version) => Target::Zip(policy.permit(version)?),
        Route::List(module) => Target::List(policy.permit_module(module)?),
        Route::Latest(module) => Target::Latest(policy.permit_module(module)?),
        Route::Query(module, revision) => Target::Query(policy.permit_module(module)?, revision),
        other => Target::Sumdb(other),
    })
}

/// Probes the store: whether it can be read, and the reasons why nothing can be added. Stored modules are served all the
/// same.
fn probe(store: &Store) -> Readiness {
    if let Err(error) = store.check() {
        log::error!(reason:% = error; "not ready: cannot read the store");
        return Readiness::NotReady;
    }
    // First, because an attempt to write would create the folder again.
    let staging = store.missing_staging().map(|folder| {
        // Clients see no paths of this machine.
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        format!("staging/{name} is missing, the next download creates it again")
    });
    let disk_full = store.is_full().then(|| "disk full".to_owned());
    let size_limit = store.has_size_limit().then(|| "file size limit".to_owned());
    Readiness::Ready(staging.into_iter().chain(disk_full).chain(size_limit).collect())
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
     Paths below that address:\n\
     \n    \
     /MODULE/@v/list            the versions of a module\n    \
     /MODULE/@latest            the latest version\n    \
     /MODULE/@v/VERSION.info    a version's metadata\n    \
     /MODULE/@v/VERSION.mod     its go.mod file\n    \
     /MODULE/@v/VERSION.zip     a zip of its files\n    \
     /catalog                   all stored versions, ordered by module\n    \
     /index                     all stored versions, ordered by time\n    \
     /healthz                   whether this process answers\n    \
     /readyz                    whether it can serve stored modules\n    \
     /metrics                   counters and states for Prometheus\n    \
     /version                   the version of this program and the layout of its store\n"
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
