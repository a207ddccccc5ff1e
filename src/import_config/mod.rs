//! `stoa import-config`: what Athens is told, as a config file of ours.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `athens` | the keys and variables of Athens, and what they are set to |
//! | `download_mode` | its file about what is done about a miss |
//! | `filter` | its filter file |
//! | `pattern` | what two patterns of module paths have in common |
//! | `rules` | its lists of rules, each about one matter, made into our one |
//! | `translate` | key by key, and what has no counterpart |
//! | `ours` | the config file as it is written |
//!
//! Nothing is written but the result. No secret goes into it: what needs one is told where that belongs.

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
use crate::output;
use athens::{Athens, ReadError};
use ours::Ours;

/// The config file that Athens takes without being told.
const OWN_FILE: &str = "athens.toml";

/// What is typed.
#[derive(Debug, Args)]
#[command(
    after_help = "As in Athens, variables go before the config file, its download mode may lie in a file of its own, and relative \
                  paths start at the folder that the command runs in. So run it where Athens runs, with its environment, or name \
                  the variables:\n\
                  stoa import-config --config-file config.toml --env ATHENS_DOWNLOAD_MODE=file:download.hcl > stoa.toml\n\
                  What has no counterpart is told, with what to do instead, and stands as a comment in the result. Secrets are not \
                  copied. The modules themselves: point `stoa serve` at the folder, or `stoa import` it.\n\
                  Exit codes: 0 done; 64 something cannot be read or meant, with file and line."
)]
pub(crate) struct Typed {
    /// The config file of Athens; - is standard input [default: athens.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Take this variable as set, as with `docker run`
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

    /// Take no variables of the environment, only those of --env
    #[arg(long)]
    no_env: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it takes NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Prints our configuration.
pub(crate) fn run(
    typed: &Typed,
    environment: impl Iterator<Item = (OsString, OsString)>,
    quiet: bool,
) -> Result<Exit, CommandError> {
    let folder = std::env::current_dir().map_err(|error| {
        CommandError::new(Exit::IO, format!("cannot find the folder that this runs in: {error}"))
    })?;
    let ours = read(typed, environment, &folder).map_err(|error| CommandError::new(error.exit(), error))?;
    if !quiet {
        ours.notes.iter().for_each(output::note);
    }
    Ok(output::last_line(ours.to_toml().trim_end()))
}

fn read(
    typed: &Typed,
    environment: impl Iterator<Item = (OsString, OsString)>,
    folder: &Path,
) -> Result<Ours, ReadError> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    if !typed.no_env {
        let texts =
            environment.filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        variables.extend(texts);
    }
    variables.extend(typed.env.iter().cloned());
    variables.retain(|name, _| athens::is_variable(name));
    let file = file(typed)?;
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

/// Reads the config file: that which is named, or that which Athens takes by itself.
fn file(typed: &Typed) -> Result<Option<(String, String)>, ReadError> {
    let path = match &typed.config_file {
        Some(path) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| PathError::new("read", Path::new("standard input"), error))?;
            let name = "standard input".to_owned();
            let text = athens::as_text(&name, bytes)?;
            return Ok(Some((name, text)));
        }
        Some(path) => path.clone(),
        None if Path::new(OWN_FILE).is_file() => PathBuf::from(OWN_FILE),
        None => return Ok(None),
    };
    let text = athens::read_named(&path, "--config-file")?;
    Ok(Some((path.display().to_string(), text)))
}
