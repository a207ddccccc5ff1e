//! `stoa serve`: from a passed gate to a proxy that listens, and to its end.
//!
//! The store is opened and the address taken before the first thread is started, so that whatever forbids
//! serving is told at once, with the code that names it.

use std::cell::OnceCell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use stoa_layout::gate::{Mode, SignalsAfter};
use stoa_layout::{Exit, Gate, Pass};

use stoa_store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Failure;
use crate::config::{ServeConfig, World};
use crate::go_env::{self, GoEnv};
use crate::output;
use crate::serve::{self, ServeOptions};
use crate::upstream::{Upstream, UpstreamOptions, netrc_path};

/// Serves until a signal asks to stop.
pub(crate) fn run(gate: &Gate<'_>, pass: Pass, config: ServeConfig, world: &World) -> Result<Exit, Failure> {
    let mode = if config.read_only { Mode::ReadOnly } else { Mode::ReadWrite };
    let held = gate.hold(pass, mode)?;
    let after_migration = held.pass().signals();
    let store = Store::open(held, mode).map_err(|error| Failure::new(error.exit(), error))?;
    let listener = bind(&config.listen)?;
    let go = Go::default();
    let address = listener.local_addr().ok();
    let upstream = upstream(&config, store.is_read_only(), address, world, &go)?;
    let sumdbs = match config.sumdbs {
        Some(names) => names,
        None => sumdbs(world, upstream.is_offline(), &go),
    };
    let max_connections = within_limit(config.max_connections, raise_limit_of_files());
    let options = ServeOptions {
        sumdbs,
        base_path: config.base_path,
        max_fills: config.fill_max_concurrent,
        max_connections,
        grace: config.grace,
        index_interval: config.index_interval,
        last_use_interval: config.last_use_interval,
        ..ServeOptions::default()
    };
    log::info!("serving {}, at layout {}", store.root().display(), gate.current);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::IO, format!("cannot start threads to serve with: {error}")))?;
    let served =
        runtime.block_on(serve_until_asked_to_stop(listener, store, upstream, options, &after_migration));
    // What still waits (for a name to be resolved, for another process's claim) may wait for long, and whatever
    // it would do to the store it does at once or not at all.
    runtime.shutdown_timeout(LAST_WAIT);
    served
}

/// How long threads that wait for something get to end, when all else has.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Files that are open whatever is asked for, and those of the fills.
const FILES_BESIDE_CONNECTIONS: u64 = 512;

/// Lets this process open as many files as it may, and says how many that is.
fn raise_limit_of_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(errno) => {
            log::debug!("the limit of open files stays as it is: {errno}");
            limit.current
        }
    }
}

/// Bounds the connections so that each may have a file open, and the store its own. Where there are too few
/// files for what is wanted, connections wait; without this, what is in the store could not be opened.
fn within_limit(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let possible = files.saturating_sub(FILES_BESIDE_CONNECTIONS).max(files / 4) / 2;
    let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(1);
    if possible < wanted {
        log::warn!(
            "{possible} connections are served at a time, not {wanted}, since only {files} files may be open; raise that limit (ulimit -n, LimitNOFILE)"
        );
    }
    wanted.min(possible)
}

fn bind(address: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let (exit, next) = match error.kind() {
            io::ErrorKind::AddrInUse => {
                (Exit::CANT_CREATE, "stop what listens there, or name another one with --listen")
            }
            io::ErrorKind::AddrNotAvailable => {
                (Exit::CANT_CREATE, "name an address of this machine with --listen")
            }
            io::ErrorKind::PermissionDenied => {
                (Exit::PERMISSION, "name a port from 1024 on with --listen, or allow this program to use it")
            }
            _ => (Exit::USAGE, "name an address and a port with --listen, as in 127.0.0.1:3000"),
        };
        Failure::new(exit, format!("cannot listen on {address}: {error}; {next}"))
    })
}

/// What the go command says, asked once, and only if somebody wants to know.
#[derive(Default)]
struct Go(OnceCell<Option<GoEnv>>);

impl Go {
    fn env(&self) -> Option<&GoEnv> {
        let asked = self.0.get_or_init(|| match go_env::ask() {
            Ok(env) => Some(env),
            Err(error) => {
                log::warn!("{error}");
                None
            }
        });
        asked.as_ref()
    }
}

fn upstream(
    config: &ServeConfig,
    read_only: bool,
    own_address: Option<SocketAddr>,
    world: &World,
    go: &Go,
) -> Result<Upstream, Failure> {
    if config.offline || read_only {
        let why = if config.offline { "it was told so" } else { "the store cannot be written to" };
        log::info!("offline, because {why}: only what is in the store is served");
        return Ok(Upstream::offline());
    }
    // The list itself may hold credentials, so only where it comes from is told.
    let (list, whence) = match (&config.upstream, text(world, "GOPROXY")) {
        (Some(list), _) => (list.clone(), "the configuration"),
        (None, Some(list)) => (list, "the variable GOPROXY"),
        (None, None) => match go.env() {
            Some(env) => (env.goproxy.clone(), "`go env GOPROXY`"),
            None => {
                log::warn!(
                    "offline, because nothing says where to fetch from: name it with --upstream, STOA_UPSTREAM or GOPROXY"
                );
                return Ok(Upstream::offline());
            }
        },
    };
    let variable = |name: &str| world.variable(name);
    let options = UpstreamOptions { netrc: netrc_path(variable), ..UpstreamOptions::default() };
    let upstream = Upstream::new(&list, options)
        .map_err(|error| Failure::new(Exit::USAGE, format!("the upstream, from {whence}: {error}")))?;
    if upstream.is_offline() {
        log::info!("offline, as {whence} says: only what is in the store is served");
    } else {
        log::info!("what is missing is fetched from where {whence} says");
        if own_address.is_some_and(|own| names_itself(&list, own)) {
            log::warn!(
                "the upstream, from {whence}, is this proxy itself, which cannot fetch from itself: name another one with \
                 --upstream or STOA_UPSTREAM"
            );
        }
    }
    Ok(upstream)
}

/// Whether an entry of a list in the syntax of `GOPROXY` is the address that this proxy listens on: whoever points
/// the go command of this machine at it changes what `go env GOPROXY` says here, too.
fn names_itself(list: &str, own: SocketAddr) -> bool {
    list.split([',', '|']).filter_map(|entry| reqwest::Url::parse(entry.trim()).ok()).any(|url| {
        let host = url.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let is_local = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        let is_here = ip.is_some_and(|ip| ip == own.ip())
            || is_local && (own.ip().is_loopback() || own.ip().is_unspecified());
        is_here && url.port_or_known_default() == Some(own.port())
    })
}

fn sumdbs(world: &World, is_offline: bool, go: &Go) -> Vec<String> {
    let value = text(world, "GOSUMDB").or_else(|| {
        // Nothing could be asked for on its behalf.
        if is_offline { None } else { Some(go.env()?.gosumdb.clone()) }
    });
    value.as_deref().and_then(go_env::sumdb_name).map(str::to_owned).into_iter().collect()
}

fn text(world: &World, name: &str) -> Option<String> {
    world.variable(name)?.into_string().ok()
}

async fn serve_until_asked_to_stop(
    listener: TcpListener,
    store: Store,
    upstream: Upstream,
    options: ServeOptions,
    after_migration: &SignalsAfter,
) -> Result<Exit, Failure> {
    let io = |error: io::Error| Failure::new(Exit::IO, format!("cannot begin to serve: {error}"));
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [interrupt, terminate] = signals.map(|signal| signal.map_err(io));
    let (interrupt, terminate) = (interrupt?, terminate?);
    after_migration.handled_by_program();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    // Who reads it may have gone; who serves goes on.
    let _ = output::result_line(format_args!("listening on http://{address}"));
    serve::run(listener, Arc::new(store), upstream, options, asked_to_stop(interrupt, terminate))
        .await
        .map_err(|error| Failure::new(Exit::IO, error))?;
    log::info!("stopped");
    Ok(Exit::DONE)
}

async fn asked_to_stop(mut interrupt: Signal, mut terminate: Signal) {
    tokio::select! {
        _ = interrupt.recv() => log::info!("asked to stop by SIGINT"),
        _ = terminate.recv() => log::info!("asked to stop by SIGTERM"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_knows_its_own_address() {
        for (list, own, is_own) in [
            ("http://127.0.0.1:3000", "127.0.0.1:3000", true),
            ("http://localhost:3000/,direct", "127.0.0.1:3000", true),
            ("https://proxy.example|http://[::1]:3000", "[::]:3000", true),
            ("http://192.0.2.1", "192.0.2.1:80", true),
            ("http://127.0.0.1:3001", "127.0.0.1:3000", false),
            ("http://localhost:3000", "192.0.2.1:3000", false),
            ("https://proxy.example:3000,off", "0.0.0.0:3000", false),
            ("direct", "127.0.0.1:3000", false),
        ] {
            assert_eq!(names_itself(list, own.parse().unwrap()), is_own, "{list} {own}");
        }
    }

    #[test]
    fn connections_leave_files_for_the_store() {
        assert_eq!(within_limit(4096, None), 4096);
        assert_eq!(within_limit(4096, Some(20_000)), 4096);
        assert_eq!(within_limit(4096, Some(1024)), 256);
        assert_eq!(within_limit(4096, Some(64)), 8);
        assert_eq!(within_limit(4096, Some(0)), 1);
    }
}
