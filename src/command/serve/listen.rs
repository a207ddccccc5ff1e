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
use tokio::signal::unix::SignalKind;
use tokio::time::Interval;

use super::bind::Sockets;
use super::hangup::Hangup;
use super::reload::Reload;
use super::signals::{Event, Signals, name};
use super::startup::{self, Startup};
use crate::access::AccessCell;
use crate::bucket::Tier;
use crate::command::context::open_store;
use crate::command::error::CommandError;
use crate::config::{Options, ServeConfig, Settings};
use crate::policy::Policy;
use crate::server::{self, AccessLogOptions, Certificate, CertificateCell, Limits, ServeOptions};
use crate::sources::Sources;
use crate::sumdb::Gosumdb;
use crate::tasks;

/// Serves until a signal stops it.
pub(crate) fn run(
    gate: &Gate<'_>,
    pass: Pass,
    config: ServeConfig,
    (settings, options, sources): (&Settings<'_>, &Options, &Sources<'_>),
    hangup: Hangup,
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
    let limits = limits(&config, raise_limit_of_files());
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
    let certificate = certificate.map(CertificateCell::new);
    let origin = (settings, options, sources);
    let is_read_only = store.is_read_only();
    let access = Arc::new(AccessCell::new(settings.access(&config)?));
    let cells = (certificate.clone(), Arc::clone(&access));
    let mut reload = Reload::new(origin, config.clone(), is_read_only, address, cells);
    let replication = sources.replication(&config, settings.peers(&config)?);
    let options = ServeOptions {
        sumdbs,
        base_path: config.base_path,
        services,
        limits,
        grace: config.grace,
        index_interval: config.index_interval,
        last_use_interval: config.last_use_interval,
        degraded,
        replication,
        access_log: config
            .log_access
            .map(|target| AccessLogOptions { target, format: config.log_access_format }),
        access,
        certificate,
        handle: reload.handle.clone(),
        eviction,
        hosts: config.hosts,
        trusted_proxies: config.trusted_proxies,
        ..ServeOptions::default()
    };
    let served = runtime.block_on(serve_until_stopped(
        sockets,
        store,
        policy,
        options,
        (&after_migration, hangup),
        &mut reload,
    ));
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

/// Returns the limits for clients. With few open files, there are fewer places for connections, and as many for zips.
fn limits(config: &ServeConfig, files: Option<u64>) -> Limits {
    let connections = within_limit(config.max_connections, files);
    let open_zips = match connections < config.max_connections {
        true => config.limits_open_zips.min(connections),
        false => config.limits_open_zips,
    };
    Limits {
        connections_per_address: config.limits_connections_per_address.unwrap_or((connections / 2).max(1)),
        requests_per_address: config.limits_requests_per_address,
        open_zips,
        open_zips_per_connection: config.limits_open_zips_per_connection,
        min_send_rate: config.limits_min_send_rate,
        ..Limits::of(connections)
    }
}

/// Reads the certificate of a configuration, if it has one.
pub(super) fn certificate(config: &ServeConfig) -> Result<Option<Certificate>, CommandError> {
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
    (after_migration, hangup): (&SignalsAfter, Hangup),
    reload: &mut Reload<'_>,
) -> Result<Option<SignalKind>, CommandError> {
    let mut signals = Signals::new(hangup).map_err(cannot_start)?;
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
        let mut looks = looks_at_certificate();
        let first = loop {
            let event = tokio::select! {
                event = signals.next() => event,
                _ = looks.tick() => {
                    reload.renew_certificate();
                    continue;
                }
            };
            match event {
                Event::Stop(signal) => break signal,
                Event::Reload => reload.run(),
            }
        };
        log::info!(signal = name(first); "stopping: a second signal stops at once");
        let _ = stop.send(());
        signals.next_stop().await
    };
    tokio::select! {
        // The server starts before the first reload.
        biased;
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

/// Returns the times at which the files of the certificate are looked at.
fn looks_at_certificate() -> Interval {
    const EVERY: Duration = Duration::from_secs(60);
    tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY)
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
