//! `stoa serve`: from a passed gate to a listening server, and to its end.
//!
//! The store is opened and the address is bound before the first thread starts. So a failure is reported at once, with the
//! exit code that names it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use stoa_layout::gate::{Mode, SignalsAfter};
use stoa_layout::{Exit, Gate, Pass};

use stoa_store::Store;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::bind::Sockets;
use super::startup::{self, Startup};
use crate::bucket::Tier;
use crate::command::context::open_store;
use crate::command::error::CommandError;
use crate::config::{ServeConfig, Settings};
use crate::policy::Policy;
use crate::server::{self, AccessLogOptions, Certificate, CertificateCell, ServeOptions};
use crate::sources::Sources;
use crate::sumdb::Gosumdb;
use crate::tasks;

/// Serves until a signal stops it.
pub(crate) fn run(
    gate: &Gate<'_>,
    pass: Pass,
    config: ServeConfig,
    settings: &Settings<'_>,
    sources: &Sources<'_>,
    open_bucket: impl FnOnce(&Store, &ServeConfig, &Runtime) -> Result<Option<Arc<Tier>>, CommandError>,
) -> Result<Exit, CommandError> {
    let mode = if config.read_only { Mode::ReadOnly } else { Mode::ReadWrite };
    let held = gate.hold(pass, mode)?;
    let after_migration = held.pass().signals();
    let store = open_store(held, mode, settings, "serve")?
        .patient_for(config.claim_timeout)
        .named(config.peers_name.clone());
    let certificate = certificate(&config)?;
    let sockets = Sockets::bind(&config)?;
    store.fill_reserve();
    let address = sockets.first_address();
    let runtime = tasks::runtime().map_err(CommandError::no_threads)?;
    let policy = sources.policy(&config, store.is_read_only(), address)?;
    let sumdbs = sources.sumdbs(&config, policy.is_offline(), &store);
    let is_asked = !sumdbs.is_empty() && !policy.is_offline();
    let mut services = sources.services(&config, &policy, is_asked)?;
    let eviction = config.eviction(sources.private_patterns(&config));
    if config.store_unused_for.is_some() && config.last_use_interval.is_zero() {
        log::warn!("store.unused_for removes nothing, because last_use.interval is 0");
    }
    services.tier = open_bucket(&store, &config, &runtime)?;
    let max_connections = within_limit(config.max_connections, raise_limit_of_files());
    let degraded = startup::degraded(&config, &policy, store.is_read_only(), sources, settings.world());
    let (layout, config_file) = (gate.current, settings.config_file());
    let database = services.sumdb.database.as_ref().map(Gosumdb::name);
    Startup {
        store: &store,
        layout,
        config: &config,
        config_file,
        sources,
        policy: &policy,
        has_bucket: services.tier.is_some(),
        database,
        address,
    }
    .log();
    if let Some(reason) = &degraded {
        log::warn!(
            reason, help = "install Go, or set an upstream with --upstream or STOA_UPSTREAM";
            "degraded: no upstream, only stored modules are served"
        );
    }
    // Logs it if it is so.
    store.is_full();
    let replication = sources.replication(&config, settings.peers(&config)?);
    let options = ServeOptions {
        sumdbs,
        base_path: config.base_path,
        services,
        max_connections,
        grace: config.grace,
        index_interval: config.index_interval,
        last_use_interval: config.last_use_interval,
        degraded,
        replication,
        access_log: config
            .log_access
            .map(|target| AccessLogOptions { target, format: config.log_access_format }),
        eviction,
        certificate: certificate.map(CertificateCell::new),
        hosts: config.hosts,
        trusted_proxies: config.trusted_proxies,
        ..ServeOptions::default()
    };
    let served = runtime.block_on(serve_until_stopped(sockets, store, policy, options, &after_migration));
    log::logger().flush();
    match served {
        Ok(Some(signal)) => {
            runtime.shutdown_background();
            Ok(Exit::signal(signal.as_raw_value()))
        }
        served => {
            // A thread may still wait for a name to be resolved, or for a claim of another process. Its next change of the
            // store is atomic, so the process can end without it.
            runtime.shutdown_timeout(THREADS_LIMIT);
            served.map(|_| Exit::DONE)
        }
    }
}

fn cannot_start(error: io::Error) -> CommandError {
    CommandError::new(Exit::IO, format!("cannot start to serve: {error}"))
}

/// Time limit for blocked threads to end after everything else has ended.
const THREADS_LIMIT: Duration = Duration::from_secs(5);

/// Number of files that may be open besides those of the connections: the store's own, and those of fills.
const FILES_BESIDE_CONNECTIONS: u64 = 512;

/// Raises the limit of open files as far as permitted. Returns the limit, if there is one.
fn raise_limit_of_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(errno) => {
            log::debug!(reason:% = errno; "cannot raise the limit of open files");
            limit.current
        }
    }
}

/// Returns the maximum number of connections for which each connection may have a file open besides the store's own.
/// Without this bound, a server with many clients could not open the files of its store.
fn within_limit(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let possible = files.saturating_sub(FILES_BESIDE_CONNECTIONS).max(files / 4) / 2;
    let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(1);
    if possible < wanted {
        log::warn!(
            connections = possible, configured = wanted, open_files = files,
            help = "raise the limit of open files (ulimit -n, LimitNOFILE)";
            "the limit of open files lowers the maximum number of connections"
        );
    }
    wanted.min(possible)
}

/// Reads the certificate of a configuration, if it has one.
fn certificate(config: &ServeConfig) -> Result<Option<Certificate>, CommandError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let read = Certificate::read(cert, key).map_err(|error| CommandError::new(Exit::USAGE, error));
    read.map(Some)
}

/// Checks that the server could start, before the store is changed for it.
pub(crate) fn check(config: &ServeConfig, sources: &Sources<'_>) -> Result<(), CommandError> {
    sources.check(config)?;
    Sockets::check(config)?;
    certificate(config).map(drop)
}

/// Serves until the first signal, and then until all requests in progress have ended. Returns the second signal if that
/// came before.
async fn serve_until_stopped(
    sockets: Sockets,
    store: Store,
    policy: Policy,
    options: ServeOptions,
    after_migration: &SignalsAfter,
) -> Result<Option<SignalKind>, CommandError> {
    let mut signals = Signals::new().map_err(cannot_start)?;
    after_migration.handled_by_program();
    let lines = sockets.lines();
    let listeners = sockets.into_listeners().map_err(cannot_start)?;
    for line in lines {
        // The server goes on if nobody reads its standard output.
        let _ = writeln!(io::stdout().lock(), "{line}");
    }
    let (stop, stopping) = tokio::sync::oneshot::channel();
    let served = server::run(listeners, Arc::new(store), policy, options, async {
        // An error means that the sender is gone, which is the end as well.
        let _ = stopping.await;
    });
    let signalled = async {
        let first = signals.next().await;
        log::info!(signal = name(first); "stopping: a second signal stops at once");
        let _ = stop.send(());
        signals.next().await
    };
    tokio::select! {
        served = served => {
            served.map_err(|error| CommandError::new(Exit::IO, error))?;
            log::info!("stopped");
            Ok(None)
        }
        second = signalled => {
            log::warn!(signal = name(second); "stopped at once: aborted requests in progress");
            Ok(Some(second))
        }
        never = report_repeated() => match never {},
    }
}

/// The signals that stop a server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self { interrupt: signal(interrupt)?, terminate: signal(terminate)? })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        }
    }
}

fn name(signal: SignalKind) -> &'static str {
    if signal == SignalKind::interrupt() { "SIGINT" } else { "SIGTERM" }
}

/// Logs once a minute how often warnings were repeated.
async fn report_repeated() -> std::convert::Infallible {
    const EVERY: Duration = Duration::from_secs(60);
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    loop {
        interval.tick().await;
        log::logger().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_store() {
        assert_eq!(within_limit(4096, None), 4096);
        assert_eq!(within_limit(4096, Some(20_000)), 4096);
        assert_eq!(within_limit(4096, Some(1024)), 256);
        assert_eq!(within_limit(4096, Some(64)), 8);
        assert_eq!(within_limit(4096, Some(0)), 1);
    }
}
