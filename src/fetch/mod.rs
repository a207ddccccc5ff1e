//! `stoa fetch`: fills the store ahead of time.
//!
//! It is what a server does at a miss, for whoever can name what will be asked for: the same fill, beside
//! servers or without. So it may be stopped at any instant; what is in the store then stays, and is not fetched
//! again.

mod told;
mod wanted;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use stoa_layout::gate::{Mode, SignalsAfter};
use stoa_layout::{Exit, Gate, Pass};
use stoa_store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::command::error::CommandError;
use crate::command::report::{Loudness, Telling};
use crate::config::{ServeConfig, TypedServe, World};
use crate::fill::Fill;
use crate::sources::Sources;
use told::Told;
use wanted::{Asked, Wanted, WantedError};

/// What is typed.
#[derive(Debug, Args)]
#[command(
    after_help = "VERSION is a version, or what the upstream resolves to one: latest, a branch, a commit, a prefix as in v1.2.\n\
                  Of a go.mod all that it requires is fetched, directly or not, or what it puts in the place of that. Of a go.sum \
                  every version that it names is fetched, and compared with the hashes there before it is stored. All are fetched whole, also those of \
                  which a build reads the go.mod only: so nothing is missing later. A go.sum lists what an offline build \
                  needs; a go.mod alone may not.\n\
                  It may run beside a server, and be stopped: run again, it goes on.\n\
                  Exit codes: 0 all is there; 1 something does not exist, is refused by the configuration, or is not what its go.sum \
                  says; 69 an upstream is not available, or what is in the store is in the way, for some of it; 130, 143 stopped."
)]
pub(crate) struct Typed {
    /// Fetch these
    #[arg(value_name = "MODULE@VERSION", value_parser = Asked::parse)]
    named: Vec<Asked>,

    /// Fetch what this go.mod or go.sum lists; - is standard input
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,

    /// Fetch from there, in the syntax of GOPROXY [default: what the go command uses] [key: upstream]
    #[arg(long, value_name = "LIST")]
    upstream: Option<String>,

    /// Fetch at most so many versions at once [default: 16] [key: fill.max_concurrent]
    #[arg(long, value_name = "N")]
    fill_max_concurrent: Option<usize>,

    #[command(flatten)]
    telling: Telling,
}

impl Typed {
    /// What of it is a key of the configuration.
    pub(crate) fn serve(&self) -> TypedServe {
        TypedServe {
            upstream: self.upstream.clone(),
            fill_max_concurrent: self.fill_max_concurrent,
            ..TypedServe::default()
        }
    }

    /// Reads what is to be fetched.
    pub(crate) fn wanted(&self) -> Result<Wanted, CommandError> {
        let gathered = wanted::gather(&self.named, &self.from);
        gathered.map_err(|error: WantedError| CommandError::new(error.exit(), error))
    }
}

/// How long threads that wait for something get to end, when all else has.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Fetches what is wanted.
pub(crate) fn run(
    gate: &Gate<'_>,
    pass: Pass,
    (typed, wanted): (&Typed, Wanted),
    config: &ServeConfig,
    world: &World,
    loudness: Loudness,
) -> Result<Exit, CommandError> {
    if config.offline {
        let message = "nothing can be fetched, because the configuration says `offline`: change that, or say STOA_OFFLINE=false";
        return Err(CommandError::new(Exit::USAGE, message));
    }
    let held = gate.hold(pass, Mode::ReadWrite)?;
    let after_migration = held.pass().signals();
    let store = Store::open(held, Mode::ReadWrite).map_err(|error| CommandError::new(error.exit(), error))?;
    if store.is_read_only() {
        let message = format!("{} cannot be written to, so nothing is fetched into it", gate.root.display());
        return Err(CommandError::new(Exit::PERMISSION, message));
    }
    let sources = Sources::new(world);
    let policy = sources.policy(config, false, None)?;
    if policy.is_offline() {
        let message = "nothing can be fetched, because no upstream is to be asked: name one with --upstream";
        return Err(CommandError::new(Exit::USAGE, message));
    }
    let told = Told::new(typed.telling, loudness, wanted.len());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        CommandError::new(Exit::IO, format!("cannot start threads to fetch with: {error}"))
    })?;
    let at_once = config.fill_max_concurrent;
    let answers = sources.answers(config, true);
    let fill = || Fill::new(Arc::new(store), policy, at_once, &answers);
    let fetched = runtime.block_on(async {
        let fill = fill();
        until_asked_to_stop(&fill, (wanted, at_once), told, gate.root, &after_migration).await
    });
    runtime.shutdown_timeout(LAST_WAIT);
    fetched
}

async fn until_asked_to_stop(
    fill: &Arc<Fill>,
    (wanted, at_once): (Wanted, usize),
    mut told: Told,
    root: &Path,
    after_migration: &SignalsAfter,
) -> Result<Exit, CommandError> {
    let io =
        |error: std::io::Error| CommandError::new(Exit::IO, format!("cannot listen for signals: {error}"));
    let signals = [SignalKind::interrupt(), SignalKind::terminate()];
    let [interrupt, terminate] = signals.map(|kind| signal(kind).map_err(io));
    let (mut interrupt, mut terminate) = (interrupt?, terminate?);
    after_migration.handled_by_program();
    let ended = tokio::select! {
        worked = work::run(fill, wanted, at_once, &mut told) => Ok(worked),
        number = asked_to_stop(&mut interrupt, &mut terminate) => Err(number),
    };
    // What is under way leaves nothing behind when it is dropped.
    fill.end().await;
    let stays =
        format!("the {} versions that are in {} stay: run again to go on", told.stored(), root.display());
    match ended {
        Err(number) => {
            told.end();
            Err(CommandError::new(Exit::signal(number), format!("stopped by signal {number}; {stays}")))
        }
        Ok(Err(error)) => {
            told.end();
            Err(CommandError::new(error.exit(), format!("{error}; {stays}")))
        }
        Ok(Ok(())) => {
            told.done(root);
            let verdict = told.verdict().map(|()| Exit::DONE);
            verdict.map_err(|(exit, message)| CommandError::new(exit, message))
        }
    }
}

async fn asked_to_stop(interrupt: &mut Signal, terminate: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
    }
}
