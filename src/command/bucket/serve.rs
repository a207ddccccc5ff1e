//! The bucket of `stoa serve`: its gate, as for the store.

use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use stoa_bucket::{Bucket, BucketMarker, BucketState, Document, LAYOUT, Trouble, Versions};
use stoa_layout::Exit;
use stoa_layout::gate::beside_this_program;
use stoa_store::{Cached, Shelf, Store};
use tokio::runtime::Runtime;

use super::{current, owner};
use crate::bucket::{Tier, TierOptions};
use crate::command::context::Context;
use crate::command::error::CommandError;
use crate::command::hand_over::MIGRATOR;
use crate::config::{BucketSettings, ServeConfig};

/// The bucket of a server, before it is opened.
pub(crate) struct ServedBucket<'a> {
    pub(crate) settings: BucketSettings,
    pub(crate) context: &'a Context<'a>,
}

impl ServedBucket<'_> {
    /// Opens the bucket. Runs `stoa-migrate` if it is not at the current layout. If it cannot be reached, and was used
    /// before, the server starts with what the store has.
    pub(crate) fn open(
        &self,
        store: &Store,
        config: &ServeConfig,
        runtime: &Runtime,
    ) -> Result<Arc<Tier>, CommandError> {
        let BucketSettings { url, options } = &self.settings;
        let bucket = Bucket::connect(url, options)?;
        let key = url.to_string();
        let tier = |state: &BucketState| {
            let versions = Versions::new(bucket.clone(), state.keys());
            let options = TierOptions {
                list_ttl: config.fill_list_ttl,
                max_local_size: config.bucket_max_local_size,
                redirects: config.bucket_redirect,
                records_uses: !config.last_use_interval.is_zero(),
                is_read_only: store.is_read_only(),
            };
            Tier::new(versions, state, owner(), options)
        };
        let state = match runtime.block_on(BucketState::read(&bucket)) {
            Ok(Some(held)) if held.document.is_current() => held.document,
            Ok(held) => {
                self.upgrade(config, held.map(|held| held.document.marker).as_ref())?;
                current(&bucket, runtime.block_on(BucketState::read(&bucket))?)?
            }
            Err(error) if error.trouble == Trouble::Unreachable => {
                let Some(state) = remembered(store, &key) else { return Err(error.into()) };
                let tier = tier(&state);
                tier.note_outage(error);
                return Ok(Arc::new(tier));
            }
            Err(error) => return Err(error.into()),
        };
        let tier = tier(&state);
        if !store.is_read_only() {
            runtime.block_on(bucket.probe())?;
            tier.set_probed();
            remember(store, &key, &state);
        }
        log::info!(
            bucket = key, layout:% = LAYOUT, id:% = state.id;
            "using a bucket: the store is a cache in front of it"
        );
        Ok(Arc::new(tier))
    }

    /// Runs `stoa-migrate --bucket`, as the gate of a store does.
    fn upgrade(&self, config: &ServeConfig, marker: Option<&BucketMarker>) -> Result<(), CommandError> {
        let url = &self.settings.url;
        if config.read_only || !self.context.may_migrate()? {
            let found =
                marker.map_or_else(|| "no marker".to_owned(), |marker| format!("the marker {marker}"));
            let message = format!(
                "cannot use {url}: it needs an upgrade (it has {found}), and --read-only or auto_migrate = false forbids it"
            );
            let help = format!("run `{MIGRATOR} --bucket {url}`");
            return Err(CommandError::new(Exit::NEWER, message).help(help));
        }
        let program = beside_this_program(MIGRATOR);
        let mut command = Command::new(&program);
        command.args(self.context.global.common.handed_on_without_store());
        command.arg("--bucket").arg(url.to_string()).arg("--auto");
        for (name, value) in self.settings.variables() {
            command.env(name, value);
        }
        let failed = |error: std::io::Error| {
            let message = format!("cannot run {}: {error}", program.display());
            CommandError::new(Exit::NEWER, message)
                .help("install both programs from the same release, side by side")
        };
        // Standard output is that of the server, for scripts that wait for its first line.
        let status = command.stdout(std::io::stderr()).status().map_err(failed)?;
        match status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(0) => Ok(()),
            Some(code) => Err(CommandError::reported(Exit::code_of_child(code))),
            None => Err(CommandError::new(Exit::NEWER, format!("{MIGRATOR} was stopped by a signal"))),
        }
    }
}

/// Remembers the state of the bucket, for a start in an outage.
fn remember(store: &Store, key: &str, state: &BucketState) {
    let Ok(body) = state.to_bytes() else { return };
    let entry = Cached { at: SystemTime::now(), body: Bytes::from(body) };
    if let Err(error) = store.cache().put(Shelf::Bucket, key, &entry) {
        log::warn!(reason:% = error; "cannot cache the state of the bucket, so a later start fails if the bucket cannot be reached");
    }
}

fn remembered(store: &Store, key: &str) -> Option<BucketState> {
    let entry = store.cache().get(Shelf::Bucket, key)?;
    BucketState::from_bytes(&entry.body).ok().filter(BucketState::is_current)
}
