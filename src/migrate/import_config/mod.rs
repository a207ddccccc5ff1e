//! `stoa-migrate import-config`: prints a config file for Stoa made from the configuration of Athens.
//!
//! | module | purpose |
//! | --- | --- |
//! | `athens` | reads the keys and variables of Athens |
//! | `download_mode` | reads the download mode file |
//! | `filter` | reads the filter file |
//! | `pattern` | intersects two patterns of module paths |
//! | `rules` | merges Athens' lists of rules into one list |
//! | `translate` | translates each key, or notes that it has no counterpart |
//! | `ours` | writes the config file |
//!
//! The command only prints. It never prints a secret: a note says where the secret belongs instead.

mod athens;
mod download_mode;
mod filter;
mod ours;
mod pattern;
mod rules;
mod translate;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use stoa_layout::{Exit, PathError};

use crate::command::error::CommandError;
use crate::command::report::Reporter;
use athens::{Athens, ReadError};
use ours::Ours;

/// The config file that Athens reads by default.
const DEFAULT_FILE: &str = "athens.toml";

/// The arguments of `import-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Precedence is that of Athens: variables, then the config file, then defaults. Relative paths start at the current \
                  folder. Run the command where Athens runs and with its environment, or pass the variables with --env.\n\n\
                  A key without a counterpart is printed as `# not translated: KEY` in the result and on standard error, with \
                  advice. Secrets are never copied.\n\n\
                  Examples:\n  \
                  stoa import-config > stoa.toml\n  \
                  stoa import-config --env ATHENS_DOWNLOAD_MODE=file:d.hcl > stoa.toml\n  \
                  stoa import-config --no-env --config-file config.toml > stoa.toml\n\n\
                  Exit codes: 0 success; 64 a value or a file cannot be read (the message names the file and the line)."
)]
pub(super) struct ImportConfig {
    /// Config file of Athens, or - for standard input [default: athens.toml in the current folder, if it exists]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Set a variable of Athens, as `docker run --env` does
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// Ignore the environment and use only the variables set with --env
    #[arg(long)]
    no_env: bool,
}

/// Hides the options of the other commands: this command uses no store and no configuration of Stoa.
pub(super) fn hide_options_of_a_store(command: clap::Command) -> clap::Command {
    const OTHERS: [&str; 7] = ["store", "config", "from", "lock_timeout", "store_mode", "bucket", "local"];
    command.mut_args(|arg| {
        let is_of_others = OTHERS.contains(&arg.get_id().as_str());
        if is_of_others { arg.hide(true) } else { arg }
    })
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Prints the config file on standard output and the notes on standard error.
pub(super) fn run(
    args: &ImportConfig,
    environment: impl Iterator<Item = (OsString, OsString)>,
    reporter: &Reporter,
) -> Result<Exit, CommandError> {
    let folder = std::env::current_dir()
        .map_err(|error| CommandError::new(Exit::IO, format!("cannot find the current folder: {error}")))?;
    let ours = read(args, environment, &folder).map_err(|error| CommandError::new(error.exit(), error))?;
    ours.notes.iter().for_each(|note| reporter.remark(note));
    reporter.bytes(ours.to_toml().as_bytes())?;
    Ok(Exit::DONE)
}

fn read(
    args: &ImportConfig,
    environment: impl Iterator<Item = (OsString, OsString)>,
    folder: &Path,
) -> Result<Ours, ReadError> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    if !args.no_env {
        let texts =
            environment.filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        variables.extend(texts);
    }
    variables.extend(args.env.iter().cloned());
    variables.retain(|name, _| athens::is_variable(name));
    let file = file(args)?;
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let athens = Athens::read(file, &variables)?;
    if athens.is_empty() {
        return Err(ReadError::Nothing);
    }
    let mut ours = translate::translate(&athens, folder)?;
    if !variables.is_empty() {
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        ours.sources.insert(0, format!("the variables {}", names.join(", ")));
    }
    if let Some((name, _)) = file {
        ours.sources.insert(0, format!("the config file {name}"));
    }
    Ok(ours)
}

/// Reads the config file named on the command line, or Athens' default file.
fn file(args: &ImportConfig) -> Result<Option<(String, String)>, ReadError> {
    let path = match &args.config_file {
        Some(path) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| PathError::new("read", Path::new("standard input"), error))?;
            let name = "standard input".to_owned();
            let text = athens::as_text(&name, bytes)?;
            return Ok(Some((name, text)));
        }
        Some(path) => path.clone(),
        None if Path::new(DEFAULT_FILE).is_file() => PathBuf::from(DEFAULT_FILE),
        None => return Ok(None),
    };
    let text = athens::read_named(&path, "--config-file")?;
    Ok(Some((path.display().to_string(), text)))
}
