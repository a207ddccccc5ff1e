//! `stoa serve`: the options, and the way through the gate to the server.

mod bind;
mod hangup;
mod listen;
mod reload;
mod signals;
mod startup;

use clap::Args;
use stoa_layout::{Exit, Migrator};
use stoa_store::Store;
use tokio::runtime::Runtime;

use self::hangup::Hangup;
use super::bucket::serve::ServedBucket;
use super::context::{Context, NO_MIGRATOR};
use super::error::CommandError;
use super::report::Nothing;
use super::{Command, Entry};
use crate::config::{Options, ServeConfig};
use crate::logging::Style;
use crate::sources::Sources;

/// Serve modules to the go command
#[derive(Debug, Args)]
#[command(after_help = "\
Each option that shows a key is also a key of the config file and an environment variable: STOA_LISTEN is the variable of the key `listen`.

Examples:
  stoa serve
  stoa serve --listen :3000 --upstream https://proxy.example.org,direct
  stoa serve --read-only --store /srv/modules")]
pub(super) struct Serve {
    #[command(flatten)]
    options: Options,
}

inventory::submit!(Entry::new::<Serve>("serve", 10));

impl Command for Serve {
    type Summary = Nothing;

    const STYLE: Style = Style::Service;

    fn run(self, context: &Context<'_>) -> Result<Nothing, CommandError> {
        keep_freed_buffers();
        let hangup = Hangup::prepare()
            .map_err(|error| CommandError::new(Exit::IO, format!("cannot start to serve: {error}")))?;
        let settings = context.settings;
        let root = context.root()?;
        let config = || -> Result<ServeConfig, CommandError> {
            let config = settings.serve(&self.options)?;
            settings.peers(&config)?;
            settings.access(&config)?;
            Ok(config)
        };
        let sources = Sources::new(settings.world());
        let migrator = || -> Result<Migrator, CommandError> {
            let config = config()?;
            if config.read_only {
                return Ok(NO_MIGRATOR);
            }
            // A server that cannot start changes nothing: the store may belong to the server that has the port.
            listen::check(&config, &sources)?;
            context.migrator()
        };
        let pass = context.pass(&root, || config().map(drop), migrator)?;
        let config = config()?;
        let migrator = if config.read_only { NO_MIGRATOR } else { context.migrator()? };
        let bucket = settings.bucket_with(None, &self.options)?;
        let bucket = bucket.map(|settings| ServedBucket { settings, context });
        let open_bucket = |store: &Store, config: &ServeConfig, runtime: &Runtime| {
            bucket.as_ref().map(|bucket| bucket.open(store, config, runtime)).transpose()
        };
        let origin = (settings, &self.options, &sources);
        match listen::run(&context.gate(&root, &migrator), pass, config, origin, hangup, open_bucket)? {
            Exit::DONE => Ok(Nothing),
            // Stopped at once by a second signal, and logged.
            exit => Err(CommandError::reported(exit)),
        }
    }
}

/// Lets the allocator keep the buffers of a connection for the next one.
///
/// glibc returns memory to the system above a limit that begins at 128 KiB and rises to the largest block that was ever
/// freed (`mallopt(3)`, `M_MMAP_THRESHOLD`). Without this, each buffer of a fast fill is mapped, filled with zeros and
/// unmapped again: a tenth of the time of a zip of 50 MiB (`benches/cold.rs`). The block itself is never touched, so it
/// takes no memory. Other allocators are not affected.
fn keep_freed_buffers() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(16 << 20)));
}
