//! `stoa config`: shows or checks the configuration.

use std::fmt::{self, Display};
use std::path::Path;

use clap::{Args, Subcommand};
use serde::Serialize;
use stoa_store::{CensusItem, StoreError, census, verdict_at};

use super::context::Context;
use super::count::versions;
use super::error::CommandError;
use super::progress::When;
use super::report::{Format, Reporter, Summary, Telling};
use super::{Command, Entry};
use crate::config::{Options, Shown, masked};
use crate::policy::{ChecksumPolicy, Policy};
use crate::sources::Sources;

/// Show or check the configuration
#[derive(Debug, Args)]
#[command(after_help = "\
`show` prints every key with its value and the origin of the value. Secrets are printed as ***.
`check` reads everything that `stoa serve` would read: the config file, the variables, files with secrets, and the list of \
upstreams.

Examples:
  stoa config show
  stoa config check --config /etc/stoa/config.toml
  STOA_LISTEN=:8080 stoa config show --format json

Exit codes: 0 success; 64 the configuration is wrong, or a file with a secret cannot be read; 74, 77 the config file \
cannot be read.")]
pub(super) struct Config {
    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, global = true, value_enum, default_value_t)]
    format: Format,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Print every key with its value and origin
    Show,
    /// Check the configuration that `stoa serve` would use
    Check,
}

inventory::submit!(Entry::new::<Config>("config", 150));

impl Command for Config {
    type Summary = Done;

    fn telling(&self) -> Telling {
        Telling { format: self.format, progress: When::Never }
    }

    fn run(self, context: &Context<'_>) -> Result<Done, CommandError> {
        let file = || context.settings.config_file().map(|path| path.display().to_string());
        match self.action {
            Action::Show => show(context).map(|()| Done { file: file(), is_check: false }),
            Action::Check => check(context).map(|()| Done { file: file(), is_check: true }),
        }
    }
}

fn show(context: &Context<'_>) -> Result<(), CommandError> {
    let options = Options::default();
    let store = context.global.common.store.clone();
    let all = context.settings.show(store, &options)?;
    // Values of the go command and of its variables, for a configuration that is valid.
    let config = context.settings.serve(&options).ok();
    let sources = Sources::new(context.settings.world());
    for Shown { key, value, origin } in all {
        let inherited = || sources.inherited(config.as_ref()?, &key);
        let (value, origin) = match value {
            Some(value) => (Some(value), origin),
            None => inherited().map_or((None, origin), |(value, origin)| (Some(masked(&value)), origin)),
        };
        context.reporter.answer(&KeyEvent { key, value, origin: origin.to_string() })?;
    }
    // Every value is printed before an error of several values together.
    context.settings.serve(&options)?;
    Ok(())
}

fn check(context: &Context<'_>) -> Result<(), CommandError> {
    let options = Options::default();
    let settings = context.settings;
    let mut faults: Vec<CommandError> = settings.faults(&options).into_iter().map(Into::into).collect();
    // The store has been named by an option, if the file is not the reason.
    if faults.is_empty() {
        faults.extend(context.root().err());
    }
    if let Some(last) = faults.pop() {
        for fault in &faults {
            context.reporter.error(fault);
        }
        return Err(last);
    }
    let config = settings.serve(&options)?;
    let sources = Sources::new(settings.world());
    sources.check(&config)?;
    let policy = sources.policy(&config, false, None)?;
    sources.services(&config, &policy, true)?;
    if policy.requires_checksums() {
        let root = context.root()?;
        let unverified = unverified(&root, &policy)?;
        if unverified > 0 {
            let all = versions(unverified);
            context.reporter.warning(format_args!(
                "{all} in {} {} to be verified before {} served: checksum is set to require, but no checksum database \
                 has confirmed {}",
                root.display(),
                all.verb("has", "have"),
                all.verb("it is", "they are"),
                all.verb("it", "them")
            ));
        }
    }
    for warning in settings.warnings()? {
        context.reporter.warning(warning);
    }
    Ok(())
}

/// Counts the stored versions that must be verified before they are served.
fn unverified(root: &Path, policy: &Policy) -> Result<u64, CommandError> {
    let mut count = 0;
    census(root, |item| -> Result<(), StoreError> {
        if let CensusItem::Version(stored) = item
            && policy.rule(stored.version.path()).checksum == ChecksumPolicy::Require
            && verdict_at(root, &stored.version)?.is_none()
        {
            count += 1;
        }
        Ok(())
    })?;
    Ok(count)
}

/// A key with its value.
#[derive(Serialize)]
#[serde(tag = "event", rename = "key")]
struct KeyEvent {
    key: String,
    value: Option<String>,
    origin: String,
}

impl Display for KeyEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{:24} {value}  ({})", self.key, self.origin),
            None => write!(f, "{:24} not set", self.key),
        }
    }
}

/// The end of the command.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(super) struct Done {
    file: Option<String>,
    #[serde(skip)]
    is_check: bool,
}

impl Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file}: the configuration is valid"),
            None => f.write_str("the configuration is valid; there is no config file"),
        }
    }
}

impl Summary for Done {
    fn report(&self, reporter: &Reporter) {
        if self.is_check || reporter.is_json() {
            reporter.result(self);
        }
    }
}
