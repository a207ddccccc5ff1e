//! The HTTP server: its listener, its connections and its shutdown.
//!
//! Connections are bounded in number, in the size of a request's head, and in time: a client that does not finish its
//! request, or does not read the answer, is disconnected. On shutdown the listener closes first. Requests in progress
//! and their fills get [`ServeOptions::grace`] to end. The rest is aborted, and an aborted fill leaves nothing behind.

//!
//! | module | content |
//! | --- | --- |
//! | `listeners` | TCP and unix sockets |
//! | `accept` | the loop that accepts connections |
//! | `connection` | TLS, the version of HTTP, and the end of a connection |
//! | `tls` | the certificate |
//! | `limits`, `table`, `seat` | who gets a place, and who loses one |
//! | `stall_timeout` | clients that neither send nor read |
//! | `respond` | the steps of a request |
//! | `origin` | the client behind a reverse proxy |
//! | `hosts` | the names of the server |
//! | `refusal` | requests that the proxy does not get |
//! | `handle` | a new configuration for a running server |
//! | `watched` | the end of a request |

mod accept;
mod connection;
mod handle;
mod hosts;
mod limits;
mod listeners;
mod origin;
mod refusal;
mod respond;
mod seat;
mod stall_timeout;
mod table;
mod tls;
mod watched;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use stoa_layout::PathError;
use stoa_store::Store;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::connection::Serving;
use self::hosts::Hosts;
use self::respond::Shared;
use self::table::Table;
use crate::access::AccessCell;
use crate::eviction::{Eviction, EvictionOptions};
use crate::observe::{AccessLog, Observer, States};
use crate::policy::Policy;
use crate::proxy::{Proxy, ProxyOptions};
use crate::request::Entrance;
use crate::services::{ServiceOptions, Services};
use crate::sync::{Replication, ReplicationOptions};
use crate::upkeep::Upkeep;
use crate::upstream::UpstreamConfigError;

pub use self::handle::Handle;
pub use self::limits::Limits;
pub use self::listeners::{Listeners, SocketFile};
pub use self::tls::{Certificate, CertificateCell, TlsError};
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
    /// The limits for clients.
    pub limits: Limits,
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
    /// The users, and the modules that each may read.
    pub access: Arc<AccessCell>,
    /// The limits of the store, if it has any.
    pub eviction: Option<EvictionOptions>,
    /// The certificate, if TCP sockets for clients have TLS.
    pub certificate: Option<Arc<CertificateCell>>,
    /// A hold of the server, for a new configuration.
    pub handle: Handle,
    /// The names of the server, in lower case. Empty: all names.
    pub hosts: Vec<String>,
    /// The addresses of reverse proxies whose headers about their clients are believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            sumdbs: Vec::new(),
            base_path: "/".to_owned(),
            services: ServiceOptions::default(),
            limits: Limits::of(4096),
            head_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(120),
            grace: Duration::from_secs(30),
            index_interval: Duration::from_secs(600),
            last_use_interval: Duration::from_secs(300),
            degraded: None,
            replication: None,
            access_log: None,
            access: Arc::default(),
            eviction: None,
            certificate: None,
            handle: Handle::default(),
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
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
    /// The settings of TLS are not possible.
    #[error("cannot prepare TLS: {0}")]
    Tls(rustls::Error),
}

/// Maximum number of connections to the listeners for operators.
const MAX_ADMIN_CONNECTIONS: usize = 64;

/// Serves until `shutdown` is ready, and then shuts down.
///
/// The name of this proxy in `Via` is that of the policy's upstream.
pub async fn run(
    listeners: impl Into<Listeners>,
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
    options.handle.started(&services);
    let replication =
        options.replication.as_ref().map(|peers| Replication::new(Arc::clone(&services), peers));
    let replication = replication.transpose().map_err(ServeError::Peers)?;
    services.sumdb.start_rechecks();
    let eviction = Eviction::start(&services, options.eviction.clone());
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
    let listeners = listeners.into();
    let shared = Arc::new(Shared {
        proxy,
        observer,
        meters: Arc::clone(&services.meters),
        access: Arc::clone(&options.access),
        hosts: Hosts::new(options.hosts.clone()),
        trusted_proxies: options.trusted_proxies.clone(),
        base_path: options.base_path.trim_end_matches('/').to_owned(),
        has_admin: listeners.has_admin(),
    });
    let (stop, stopping) = watch::channel(false);
    let (mut accepting, mut watching_clients) = start(listeners, &shared, &options, &stopping)?;
    let accepted = tokio::select! {
        () = shutdown => Ok(()),
        // Before the shutdown, a loop ends only with an error.
        Some(ended) = accepting.join_next() => ended.unwrap_or_else(|error| Err(ServeError::Accept(error.into()))).map(drop),
    };
    stop.send_replace(true);
    let mut connections = Vec::new();
    while let Some(ended) = accepting.join_next().await {
        connections.extend(ended.ok().and_then(Result::ok));
    }
    log::info!(
        connections = connections.iter().map(JoinSet::len).sum::<usize>(),
        requests = shared.observer.in_progress(),
        fills = services.flights.count(),
        grace:? = options.grace;
        "waiting for requests in progress"
    );
    services.close();
    upkeep.close();
    eviction.close();
    if let Some(replication) = &replication {
        replication.close();
    }
    drop(watching);
    let ended = tokio::time::timeout(options.grace, async {
        for connections in &mut connections {
            while connections.join_next().await.is_some() {}
        }
        services.closed().await;
    });
    let mut aborted_requests = 0;
    if ended.await.is_err() {
        aborted_requests = shared.observer.in_progress();
        log::warn!(
            requests = aborted_requests, fills = services.flights.count(), grace:? = options.grace;
            "aborting requests and downloads that did not end within the grace period"
        );
    }
    for connections in &mut connections {
        connections.shutdown().await;
    }
    shared.observer.close().await;
    watching_clients.shutdown().await;
    services.end().await;
    eviction.end().await;
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

/// The loops that accept connections. They return the connections that are still open.
type Accepting = JoinSet<Result<JoinSet<()>, ServeError>>;

/// Starts to accept connections, and to watch them.
fn start(
    listeners: Listeners,
    shared: &Arc<Shared>,
    options: &ServeOptions,
    stopping: &watch::Receiver<bool>,
) -> Result<(Accepting, JoinSet<()>), ServeError> {
    let public = Table::new(options.limits.clone());
    let admin = Table::new(Limits::of(MAX_ADMIN_CONNECTIONS));
    let tls =
        options.certificate.as_ref().map(CertificateCell::settings).transpose().map_err(ServeError::Tls)?;
    let mut accepting = JoinSet::new();
    for listener in listeners.0 {
        let has_tls = listener.is_tcp() && listener.entrance == Entrance::Public;
        let serving = Serving {
            shared: Arc::clone(shared),
            entrance: listener.entrance,
            table: Arc::clone(if listener.entrance == Entrance::Admin { &admin } else { &public }),
            tls: tls.clone().filter(|_| has_tls).map(TlsAcceptor::from),
            head_timeout: options.head_timeout,
            stall_timeout: options.stall_timeout,
            stopping: stopping.clone(),
        };
        accepting.spawn(accept::accept(listener, serving));
    }
    let mut watching = JoinSet::new();
    watching.spawn(public.watch(options.stall_timeout));
    watching.spawn(admin.watch(options.stall_timeout));
    Ok((accepting, watching))
}
