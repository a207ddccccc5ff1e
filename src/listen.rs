//! `stoa serve`: from a passed gate to a proxy that listens, and to its end.
//!
//! The store is opened and the address taken before the first thread is started, so that whatever forbids
//! serving is told at once, with the code that names it.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use stoa_layout::gate::{Mode, SignalsAfter};
use stoa_layout::{Exit, Gate, Pass};

use stoa_store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::command::error::CommandError;
use crate::config::{ServeConfig, World};
use crate::fill::Policy;
use crate::output;
use crate::serve::{self, ServeOptions};
use crate::sources::Sources;

/// Serves until a signal asks to stop.
pub(crate) fn run(
    gate: &Gate<'_>,
    pass: Pass,
    config: ServeConfig,
    world: &World,
) -> Result<Exit, CommandError> {
    let mode = if config.read_only { Mode::ReadOnly } else { Mode::ReadWrite };
    let held = gate.hold(pass, mode)?;
    let after_migration = held.pass().signals();
    let store = Store::open(held, mode).map_err(|error| CommandError::new(error.exit(), error))?;
    let listener = bind(&config.listen)?;
    let sources = Sources::new(world);
    let policy = sources.policy(&config, store.is_read_only(), listener.local_addr().ok())?;
    let sumdbs = sources.sumdbs(&config, policy.is_offline(), &store);
    let is_asked = !sumdbs.is_empty() && !policy.is_offline();
    let answers = sources.answers(&config, is_asked);
    let max_connections = within_limit(config.max_connections, raise_limit_of_files());
    let options = ServeOptions {
        sumdbs,
        base_path: config.base_path,
        max_fills: config.fill_max_concurrent,
        answers,
        max_connections,
        grace: config.grace,
        index_interval: config.index_interval,
        last_use_interval: config.last_use_interval,
        ..ServeOptions::default()
    };
    log::info!("serving {}, at layout {}", store.root().display(), gate.current);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        CommandError::new(Exit::IO, format!("cannot start threads to serve with: {error}"))
    })?;
    let served =
        runtime.block_on(serve_until_asked_to_stop(listener, store, policy, options, &after_migration));
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

/// Looks whether it can be served so, before anything is changed for it.
pub(crate) fn check(config: &ServeConfig, world: &World) -> Result<(), CommandError> {
    Sources::new(world).check(config)?;
    bind(&config.listen).map(drop)
}

fn bind(address: &str) -> Result<TcpListener, CommandError> {
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
        CommandError::new(exit, format!("cannot listen on {address}: {error}; {next}"))
    })
}

async fn serve_until_asked_to_stop(
    listener: TcpListener,
    store: Store,
    policy: Policy,
    options: ServeOptions,
    after_migration: &SignalsAfter,
) -> Result<Exit, CommandError> {
    let io = |error: io::Error| CommandError::new(Exit::IO, format!("cannot begin to serve: {error}"));
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [interrupt, terminate] = signals.map(|signal| signal.map_err(io));
    let (interrupt, terminate) = (interrupt?, terminate?);
    after_migration.handled_by_program();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    // Who reads it may have gone; who serves goes on.
    let _ = output::result_line(format_args!("listening on http://{address}"));
    serve::run(listener, Arc::new(store), policy, options, asked_to_stop(interrupt, terminate))
        .await
        .map_err(|error| CommandError::new(Exit::IO, error))?;
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
    fn connections_leave_files_for_the_store() {
        assert_eq!(within_limit(4096, None), 4096);
        assert_eq!(within_limit(4096, Some(20_000)), 4096);
        assert_eq!(within_limit(4096, Some(1024)), 256);
        assert_eq!(within_limit(4096, Some(64)), 8);
        assert_eq!(within_limit(4096, Some(0)), 1);
    }
}
