//! The HTTP server: its listener, its connections and its shutdown.
//!
//! Connections are bounded in number, in the size of a request's head, and in time: a client that does not finish its
//! request, or does not read the answer, is disconnected. On shutdown the listener closes first. Requests in progress
//! and their fills get [`ServeOptions::grace`] to end. The rest is aborted, and an aborted fill leaves nothing behind.

mod respond;
mod stall_timeout;
mod watched;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use stoa_layout::PathError;
use stoa_store::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::respond::Shared;
use self::stall_timeout::StallTimeout;
use crate::meters::Meters;
use crate::observe::{AccessLog, Observer, States};
use crate::policy::Policy;
use crate::proxy::{Proxy, ProxyOptions};
use crate::request::{Caller, Entrance, RequestInfo};
use crate::services::{ServiceOptions, Services};
use crate::sync::{Replication, ReplicationOptions};
use crate::upkeep::Upkeep;
use crate::upstream::UpstreamConfigError;

pub use crate::observe::{AccessLogFormat, AccessLogOptions, AccessLogTarget};

/// The options of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The checksum databases to forward, if an upstream does so too.
    pub sumdbs: Vec<String>,
    /// The path that all addresses begin with: `/`, or `/some/path`.
    pub base_path: String,
    /// The settings for downloads, lists, queries and checksum databases.
    pub services: ServiceOptions,
    /// Maximum number of open connections. Further clients wait to be accepted.
    pub max_connections: usize,
    /// Time limit for the head of a request to arrive, and for an idle connection.
    pub head_timeout: Duration,
    /// Time limit for a client to read something of its answer.
    pub stall_timeout: Duration,
    /// Time limit on shutdown for requests and fills in progress.
    pub grace: Duration,
    /// Time between two passes over the store that update its index. Zero leaves the index to other processes.
    pub index_interval: Duration,
    /// Time between two writes of the days of last use. Zero disables them.
    pub last_use_interval: Duration,
    /// The reason why no missing module can be fetched although the configuration does not say so, if there is one.
    /// `/readyz` reports it.
    pub degraded: Option<String>,
    /// The peers of this deployment, if it has any.
    pub replication: Option<ReplicationOptions>,
    /// The log of requests, if there is one.
    pub access_log: Option<AccessLogOptions>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            sumdbs: Vec::new(),
            base_path: "/".to_owned(),
            services: ServiceOptions::default(),
            max_connections: 4096,
            head_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(120),
            grace: Duration::from_secs(30),
            index_interval: Duration::from_secs(600),
            last_use_interval: Duration::from_secs(300),
            degraded: None,
            replication: None,
            access_log: None,
        }
    }
}

/// The server ended before its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener does not work any more.
    #[error(
        "cannot accept connections: {0}\nhelp: check that the address still belongs to this machine, then start again"
    )]
    Accept(io::Error),
    /// A peer cannot be asked.
    #[error("cannot prepare requests to peers: {0}")]
    Peers(UpstreamConfigError),
    /// The log of requests cannot be opened.
    #[error("cannot open the access log: {0}\nhelp: set log.access to a file that this user may write to")]
    AccessLog(#[from] PathError),
}

/// Maximum size of a request's head, and about the size of a write to the connection.
const MAX_HEAD_BYTES: usize = 64 * 1024;

const MAX_HEADERS: usize = 100;

/// Serves until `shutdown` is ready, and then shuts down.
///
/// The name of this proxy in `Via` is that of the policy's upstream.
pub async fn run(
    listener: TcpListener,
    store: Arc<Store>,
    policy: impl Into<Policy>,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let access_log = options.access_log.as_ref();
    let access_log =
        access_log.map(|log| AccessLog::open(log, &options.base_path, &options.sumdbs)).transpose()?;
    let policy = policy.into();
    let instance = policy.upstream_of_none().instance();
    let has_bucket = options.services.tier.is_some();
    let upkeep = Upkeep::start(&store, has_bucket, options.index_interval, options.last_use_interval);
    let upkeep = Arc::new(upkeep);
    let services = Arc::new(Services::new(store, policy, options.services.clone()));
    let replication =
        options.replication.as_ref().map(|peers| Replication::new(Arc::clone(&services), peers));
    let replication = replication.transpose().map_err(ServeError::Peers)?;
    services.sumdb.start_rechecks();
    let mut watching = Watching::start(&services, !options.index_interval.is_zero());
    watching.0.extend(
        replication.iter().flat_map(|replication| replication.start(options.index_interval.is_zero())),
    );
    let proxy_options = ProxyOptions {
        base_path: options.base_path.clone(),
        sumdbs: options.sumdbs.clone(),
        instance,
        degraded: options.degraded.clone(),
    };
    let proxy = Proxy::new(Arc::clone(&services), Arc::clone(&upkeep), replication.clone(), proxy_options);
    let observer = Arc::new(Observer::new(access_log));
    let states = States::new(&services, replication.as_ref(), &upkeep);
    services.meters.register(|registry| {
        observer.register(registry);
        registry.register_collector(Box::new(states));
    });
    let server = Server {
        shared: Arc::new(Shared { proxy, observer }),
        meters: Arc::clone(&services.meters),
        builder: builder(&options),
        stall: options.stall_timeout,
    };
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let accepted = accept(listener, &server, &options, &graceful, &mut connections, shutdown).await;

    while connections.try_join_next().is_some() {}
    log::info!(
        connections = connections.len(),
        requests = server.shared.observer.in_progress(),
        fills = services.flights.count(),
        grace:? = options.grace;
        "waiting for requests in progress"
    );
    services.close();
    upkeep.close();
    if let Some(replication) = &replication {
        replication.close();
    }
    drop(watching);
    let ended = tokio::time::timeout(options.grace, async {
        graceful.shutdown().await;
        services.closed().await;
    });
    let mut aborted_requests = 0;
    if ended.await.is_err() {
        aborted_requests = server.shared.observer.in_progress();
        log::warn!(
            requests = aborted_requests, fills = services.flights.count(), grace:? = options.grace;
            "aborting requests and downloads that did not end within the grace period"
        );
    }
    connections.shutdown().await;
    server.shared.observer.close().await;
    services.end().await;
    // It writes the last uses, which the bucket gets then.
    upkeep.end().await;
    if let Some(tier) = &services.tier {
        tier.leave(&services.store).await;
    }
    log_counts(&services, aborted_requests);
    if let Some(replication) = &replication {
        replication.log_counts();
    }
    accepted
}

/// The tasks of the server on its bucket and with its peers. Dropping it ends them.
struct Watching(Vec<tokio::task::AbortHandle>);

impl Watching {
    fn start(services: &Services, keeps_index: bool) -> Self {
        let Some(tier) = &services.tier else { return Self(Vec::new()) };
        let watch = tokio::spawn(Arc::clone(tier).watch(Arc::clone(&services.store)));
        let mut tasks = vec![watch.abort_handle()];
        if !services.store.is_read_only() {
            let publish = tokio::spawn(Arc::clone(tier).publish_all(Arc::clone(&services.store)));
            let keep_small = tokio::spawn(Arc::clone(tier).keep_small(Arc::clone(&services.store)));
            tasks.extend([publish.abort_handle(), keep_small.abort_handle()]);
            if keeps_index {
                let keep_catalog = Arc::clone(tier).keep_catalog(Arc::clone(&services.store));
                tasks.push(tokio::spawn(keep_catalog).abort_handle());
            }
        }
        Self(tasks)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

fn log_counts(services: &Services, aborted_requests: usize) {
    let checksums = services.sumdb.counts();
    log::info!(
        aborted_requests_total = aborted_requests,
        aborted_transfers_total = services.flights.aborted_transfers(),
        checksums_verified_total = checksums.verified,
        checksums_unknown_total = checksums.unverified,
        checksums_rejected_total = checksums.mismatches + checksums.refused,
        checksum_database_forks_total = checksums.forks;
        "totals since the start"
    );
}

/// Accepts connections until `shutdown` is ready, and closes the listener.
async fn accept(
    listener: TcpListener,
    server: &Server,
    options: &ServeOptions,
    graceful: &GracefulShutdown,
    connections: &mut JoinSet<()>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let places = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    tokio::pin!(shutdown);
    loop {
        let next = async {
            // Clients without a place wait in the kernel's queue. The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    log::error!(reason:% = error; "a connection ended with an internal error");
                }
            }
            (place, accepted) = next => match accepted {
                Ok((stream, peer)) => {
                    let connection = server.serve(stream, peer, graceful.watcher());
                    let counted = server.meters.connected();
                    connections.spawn(async move {
                        connection.await;
                        drop((place, counted));
                    });
                }
                Err(error) if is_of_one_connection(&error) => log::debug!(reason:% = error; "a client gave up before its connection was accepted"),
                Err(error) if is_fatal(&error) => return Err(ServeError::Accept(error)),
                Err(error) => {
                    // Out of files or memory, until some connection ends.
                    log::warn!(
                        reason:% = error, help = "raise the limit of open files (ulimit -n, LimitNOFILE)";
                        "cannot accept a connection"
                    );
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn is_fatal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}

fn builder(options: &ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(options.head_timeout)
        .keep_alive_timeout(options.head_timeout);
    builder
}

struct Server {
    shared: Arc<Shared>,
    meters: Arc<Meters>,
    builder: auto::Builder<TokioExecutor>,
    stall: Duration,
}

impl Server {
    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: hyper_util::server::graceful::Watcher,
    ) -> impl Future<Output = ()> + use<> {
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!(client:% = peer, reason:% = error; "cannot set TCP_NODELAY");
        }
        let shared = Arc::clone(&self.shared);
        let service = service_fn(move |request| {
            let info = RequestInfo::new(Caller::anonymous(Some(peer.ip())), Entrance::Public);
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(shared.respond(request, info).await) }
        });
        let io = TokioIo::new(StallTimeout::new(stream, self.stall));
        let connection = watcher.watch(self.builder.serve_connection(io, service).into_owned());
        async move {
            if let Err(error) = connection.await {
                log::debug!(client:% = peer, reason:% = error; "a connection ended with an error");
            }
        }
    }
}
