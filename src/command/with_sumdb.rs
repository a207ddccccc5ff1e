//! The checksum database for commands that work on a store without a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stoa_layout::PathError;
use stoa_store::Store;

use super::error::CommandError;
use crate::config::{Options, Settings};
use crate::services::Services;
use crate::sources::Sources;
use crate::tasks;

/// The servers that may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// Those of the configuration.
    Configured,
    /// None: only files are read.
    Nobody,
}

/// Runs work with the checksum database of the configuration, also if the configuration is offline.
pub(crate) fn with_sumdb<T>(
    settings: &Settings<'_>,
    store: &Arc<Store>,
    asking: Asking,
    work: impl AsyncFnOnce(&Services) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let config = settings.serve(&Options::default())?;
    let sources = Sources::new(settings.world());
    let policy = sources.policy(&config, asking == Asking::Nobody, None)?;
    let options = sources.services_of_command(&config, &policy)?;
    let runtime = tasks::runtime().map_err(CommandError::no_threads)?;
    runtime.block_on(async {
        let services = Services::new(Arc::clone(store), policy, options);
        let done = work(&services).await;
        services.end().await;
        done
    })
}

/// Returns the files below `lookup/` of the folder of a database.
pub(crate) fn lookups(folder: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let (mut open, mut files) = (vec![folder.join("lookup")], Vec::new());
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|error| PathError::new("list", &folder, error))?,
        };
        for entry in entries {
            let kind = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
            let (path, kind) = kind.map_err(|error| PathError::new("list", &folder, error))?;
            match kind.is_dir() {
                true => open.push(path),
                false => files.push(path),
            }
        }
    }
    Ok(files)
}
