//! `stoa fetch`: downloads versions ahead of time.
//!
//! It does what a server does on a miss, by the same code, with servers beside it or without. It can be stopped at any
//! time: stored versions stay and are not downloaded again.

mod fetched;
mod wanted;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Cancel, Exit};
use stoa_store::Meter;
use tokio::signal::unix::{SignalKind, signal};

use super::bucket::AlsoBucket;
use super::bucket::serve::ServedBucket;
use super::context::Context;
use super::error::CommandError;
use super::report::Telling;
use super::{Command, Entry};
use crate::config::Options;
use crate::services::Services;
use crate::sources::Sources;
use crate::tasks;
use fetched::{FetchDone, Fetched};
use wanted::{Asked, Wanted};

/// Download versions into the store ahead of time
#[derive(Debug, Args)]
#[command(after_help = "\
VERSION is a version, or a query that the upstream resolves: latest, a branch, a commit, or a prefix such as v1.2. \
From a go.mod, all required versions are downloaded, with `replace` applied. The command also downloads the \
toolchains that the `go` and `toolchain` lines name, for each --platform. From a go.sum, all versions are downloaded \
and compared with their hashes before they are stored. A version with such a hash counts as verified. \
Stored versions are compared too, which also works offline. The zip of each version is downloaded, even if a build \
needs only its go.mod. \
A go.sum lists every module version that an offline build needs, but no toolchain. A go.mod names the toolchain, but may not list every version. \
With a bucket, each version is published there too. \
The command can run beside a server. If it is stopped, the next run continues.

Examples:
  stoa fetch --from go.sum
  stoa fetch example.org/module@latest example.org/other@v1.2.3

Exit codes: 0 all versions are in the store; 1 a version does not exist, is refused by the configuration, or does not \
match its go.sum; 69 an upstream is unavailable for some versions; 130, 143 stopped.")]
pub(crate) struct Fetch {
    /// Modules and versions to download
    #[arg(value_name = "MODULE@VERSION", value_parser = Asked::parse)]
    named: Vec<Asked>,

    /// A go.mod or go.sum with versions to download; - is standard input
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,

    /// Platform of the toolchains that a go.mod names, such as linux-amd64 [default: this platform]
    #[arg(long, value_name = "GOOS-GOARCH", value_parser = platform)]
    platform: Vec<String>,

    /// Upstreams, in the syntax of GOPROXY [default: those of the go command] [key: upstream]
    #[arg(long, value_name = "LIST")]
    upstream: Option<String>,

    /// Maximum number of versions that are downloaded at the same time [default: 16] [key: fill.max_concurrent]
    #[arg(long, value_name = "N")]
    fill_max_concurrent: Option<usize>,

    #[command(flatten)]
    also: AlsoBucket,

    #[command(flatten)]
    telling: Telling,
}

/// Checks the form of a platform.
fn platform(text: &str) -> Result<String, String> {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match text.split_once('-') {
        Some((system, processor)) if is_word(system) && is_word(processor) => Ok(text.to_owned()),
        _ => Err("expected GOOS-GOARCH, as in linux-amd64".to_owned()),
    }
}

impl Fetch {
    /// Returns the platforms whose toolchains are downloaded.
    fn platforms(&self) -> Vec<String> {
        if !self.platform.is_empty() {
            return self.platform.clone();
        }
        let system = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        let processor = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        vec![format!("{system}-{processor}")]
    }
}

/// The time that waiting threads have to end after everything else.
const LAST_WAIT: Duration = Duration::from_secs(5);

inventory::submit!(Entry::new::<Fetch>("fetch", 20));

impl Command for Fetch {
    type Summary = FetchDone;

    fn telling(&self) -> Telling {
        self.telling
    }

    fn run(self, context: &Context<'_>) -> Result<FetchDone, CommandError> {
        let wanted = wanted::gather(&self.named, &self.from, &self.platforms())?;
        let config = context.settings.serve(
            &Options::default()
                .with("upstream", self.upstream.as_ref())
                .with("fill.max_concurrent", self.fill_max_concurrent),
        )?;
        let usage = |text: &str, help: &str| Err(CommandError::new(Exit::USAGE, text).help(help));
        // A go.sum also verifies stored versions, which needs no upstream.
        let needs_upstream = self.from.is_empty();
        if config.offline && needs_upstream {
            let text = "cannot fetch: `offline` is set in the configuration";
            return usage(text, "set it to false, for example with STOA_OFFLINE=false");
        }
        let sources = Sources::new(context.settings.world());
        let policy = sources.policy(&config, false, None)?;
        if policy.is_offline() && needs_upstream {
            return usage("cannot fetch: all upstreams are off", "set an upstream with --upstream");
        }
        let store = context.open_or_create()?;
        let root = store.root().to_owned();
        if store.is_read_only() {
            let text = format!("cannot fetch into {}: the store is not writable", root.display());
            return Err(CommandError::new(Exit::PERMISSION, text));
        }
        let cancel = context.cancel(&store)?;
        let reporter = &context.reporter;
        reporter.progress().begin("fetch", Some(wanted.len() as u64));
        let runtime = tasks::runtime().map_err(CommandError::no_threads)?;
        let at_once = config.fill_max_concurrent;
        let mut options = sources.services(&config, &policy, true)?;
        options.flights.are_failures_logged = false;
        let bucket = context.bucket_settings(&self.also.clone().into())?;
        let bucket =
            bucket.map(|settings| ServedBucket { settings, context }.open(&store, &config, &runtime));
        options.tier = bucket.transpose()?;
        let fetched = runtime.block_on(async {
            let services = Arc::new(Services::new(Arc::new(store), policy, options));
            let fetched = Fetched::new(root.to_string_lossy().into_owned(), reporter);
            until_stopped(&services, (wanted, at_once), fetched, &reporter.progress().meter(), &cancel).await
        });
        runtime.shutdown_timeout(LAST_WAIT);
        fetched
    }
}

async fn until_stopped(
    services: &Arc<Services>,
    (wanted, at_once): (Wanted, usize),
    mut fetched: Fetched<'_>,
    meter: &Meter,
    cancel: &Cancel,
) -> Result<FetchDone, CommandError> {
    let ended = tokio::select! {
        worked = work::run(services, wanted, at_once, &mut fetched, meter) => worked,
        signal = stopped(cancel) => signal.and_then(|cancelled| Err(cancelled.into())),
    };
    // Downloads that are under way leave nothing behind when they are dropped.
    services.end().await;
    match ended {
        Ok(()) => Ok(fetched.done()),
        Err(error) => Err(error.after(fetched.done().so_far())),
    }
}

/// Waits for a signal that stops the process.
pub(crate) async fn stopped(cancel: &Cancel) -> Result<Cancelled, CommandError> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| CommandError::new(Exit::IO, format!("cannot listen for signals: {error}")))
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    // A signal may have come before.
    if let Err(cancelled) = cancel.check() {
        return Ok(cancelled);
    }
    let kind = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
    };
    Ok(Cancelled(kind.as_raw_value()))
}
