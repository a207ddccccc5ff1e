//! Commands on a bucket in the place of the store of this machine.

mod export;
mod list;
mod prune;
mod quarantine;
mod remove;
pub(crate) mod serve;
mod sweep;
mod verify;

pub(crate) use sweep::SweptBucket;
pub(crate) use verify::VerifyBucket;

use std::fmt::{self, Display};
use std::ops::ControlFlow;

use clap::Args;
use stoa_bucket::{
    Bucket, BucketError, BucketState, BucketUrl, ConnectError, Held, Manifest, ProbeError, Versions,
};
use stoa_layout::Exit;
use tokio::runtime::Runtime;

use super::context::Context;
use super::error::CommandError;
use super::hand_over::MIGRATOR;
use crate::config::BucketSettings;
use crate::tasks::runtime;

/// Number of requests at the same time, unless the number of threads is set.
pub(super) const AT_ONCE: usize = 32;

/// The options of a command that works on a bucket or on the store of this machine.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OnBucket {
    /// Work on this bucket instead of the store: s3://, gs:// or az:// [default: the bucket of the configuration]
    #[arg(long, global = true, value_name = "URL")]
    bucket: Option<BucketUrl>,

    /// Work on the store of this machine, even if the configuration has a bucket
    #[arg(long, global = true, conflicts_with = "bucket")]
    local: bool,
}

/// The options of a command that works on the store of this machine and on a bucket.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AlsoBucket {
    /// Publish the versions in this bucket too: s3://, gs:// or az:// [default: the bucket of the configuration]
    #[arg(long, value_name = "URL")]
    bucket: Option<BucketUrl>,

    /// Use only the store of this machine, even if the configuration has a bucket
    #[arg(long, conflicts_with = "bucket")]
    local: bool,
}

impl From<AlsoBucket> for OnBucket {
    fn from(AlsoBucket { bucket, local }: AlsoBucket) -> Self {
        Self { bucket, local }
    }
}

/// A bucket at the current layout, opened for a command.
pub(crate) struct OpenBucket {
    runtime: Runtime,
    versions: Versions,
    /// The name of this deployment among its peers.
    origin: Option<String>,
}

impl Context<'_> {
    /// Returns the settings of the bucket that the command works on. `None` if it works on the store of this machine.
    pub(crate) fn bucket_settings(&self, on: &OnBucket) -> Result<Option<BucketSettings>, CommandError> {
        if on.local {
            return Ok(None);
        }
        let settings = self.settings.bucket(on.bucket.clone())?;
        self.settings.check_named()?;
        Ok(settings)
    }

    /// Opens the bucket that the command works on. `None` if it works on the store of this machine: a store on the command
    /// line is meant, whatever the configuration says.
    pub(crate) fn bucket(&self, on: &OnBucket) -> Result<Option<OpenBucket>, CommandError> {
        if self.global.common.store.is_some() {
            if on.bucket.is_some() {
                return Err(CommandError::new(Exit::USAGE, "--store cannot be used with --bucket"));
            }
            return Ok(None);
        }
        let Some(settings) = self.bucket_settings(on)? else { return Ok(None) };
        let runtime = runtime().map_err(CommandError::no_threads)?;
        let bucket = Bucket::connect(&settings.url, &settings.options)?;
        let state = runtime.block_on(BucketState::read(&bucket))?;
        let state = current(&bucket, state)?;
        let (versions, origin) = (Versions::new(bucket, state.keys()), self.settings.peers_name()?);
        Ok(Some(OpenBucket { runtime, versions, origin }))
    }
}

/// Returns the state of a bucket at the current layout.
fn current(bucket: &Bucket, state: Option<Held<BucketState>>) -> Result<BucketState, CommandError> {
    let url = bucket.url();
    let state = state.map(|held| held.document);
    match state {
        Some(state) if state.is_current() => Ok(state),
        other => {
            let found = other.map_or_else(
                || "it has no marker".to_owned(),
                |state| format!("its marker is {}", state.marker),
            );
            let layout = stoa_bucket::LAYOUT;
            let message = format!("cannot use {url}: {found}, this program needs the marker layout.{layout}");
            let error = CommandError::new(Exit::NEWER, message);
            Err(error.help(format!(
                "run `stoa status --bucket {url}` to see the state, then `{MIGRATOR} --bucket {url}` to upgrade the bucket"
            )))
        }
    }
}

impl OpenBucket {
    /// Waits for some work.
    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Checks that the service supports conditional writes.
    pub(in crate::command) fn probe(&self) -> Result<(), CommandError> {
        Ok(self.wait(self.versions.bucket().probe())?)
    }
}

/// Returns the error about a version whose manifest is damaged, for a command that goes on with the others.
pub(crate) fn skipped(error: &BucketError) -> CommandError {
    CommandError::new(error.exit(), format!("skipped a version: {error}"))
}

/// Returns a name for this process in a bucket.
fn owner() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host} (process {})", std::process::id())
}

impl OpenBucket {
    /// Calls `each` with the manifest of every version, those that do not exist too, and `unreadable` for each damaged
    /// one. Reads `at_once` of them at the same time. Returns the number of damaged ones. No request is under way during the calls: they may block for any time, and
    /// wait for the bucket themselves.
    pub(in crate::command) fn each_manifest(
        &self,
        at_once: usize,
        unreadable: &dyn Fn(BucketError),
        each: &mut dyn FnMut(Manifest) -> Result<ControlFlow<()>, CommandError>,
    ) -> Result<u64, CommandError> {
        let (mut blocks, mut damaged) = (self.versions.blocks(at_once)?, 0);
        while let Some(block) = self.wait(blocks.next())? {
            for read in block {
                match read {
                    Ok(held) => {
                        if each(held.document)?.is_break() {
                            return Ok(damaged);
                        }
                    }
                    Err(error) => {
                        unreadable(error);
                        damaged += 1;
                    }
                }
            }
        }
        Ok(damaged)
    }
}

impl Display for OpenBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.versions.bucket().url().fmt(f)
    }
}

impl From<BucketError> for CommandError {
    fn from(error: BucketError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<ProbeError> for CommandError {
    fn from(error: ProbeError) -> Self {
        Self::new(error.exit(), error)
    }
}

impl From<ConnectError> for CommandError {
    fn from(error: ConnectError) -> Self {
        Self::new(Exit::USAGE, error)
    }
}
