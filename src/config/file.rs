//! The config file: its keys as they stand there.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use stoa_layout::PathError;

use super::ConfigError;
use super::fetching::{CredentialsTable, DirectTable};
use super::rules::ModuleTable;
use super::shown;
use crate::fill::{ChecksumPolicy, Mode};

/// The keys of the config file, as they stand there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) store: Option<PathBuf>,
    pub(super) auto_migrate: Option<bool>,
    pub(super) lock_timeout: Option<u64>,
    pub(super) threads: Option<usize>,
    pub(super) listen: Option<String>,
    pub(super) upstream: Option<String>,
    pub(super) sumdbs: Option<Vec<String>>,
    pub(super) sumdb_refuse: Option<Vec<String>>,
    pub(super) mode: Option<Mode>,
    pub(super) redirect_url: Option<String>,
    pub(super) checksum: Option<ChecksumPolicy>,
    pub(super) gosumdb: Option<String>,
    pub(super) read_only: Option<bool>,
    pub(super) offline: Option<bool>,
    pub(super) base_path: Option<String>,
    pub(super) max_connections: Option<usize>,
    pub(super) grace: Option<u64>,
    #[serde(default)]
    pub(super) fill: FillTable,
    #[serde(default)]
    pub(super) index: IndexTable,
    pub(super) upstream_idle_timeout: Option<u64>,
    #[serde(default)]
    pub(super) direct: DirectTable,
    #[serde(default)]
    pub(super) credentials: Vec<CredentialsTable>,
    #[serde(default)]
    pub(super) last_use: LastUseTable,
    #[serde(default)]
    pub(super) module: Vec<ModuleTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FillTable {
    pub(super) max_concurrent: Option<usize>,
    pub(super) list_ttl: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexTable {
    pub(super) interval: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LastUseTable {
    pub(super) interval: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) keys: File,
    /// The file; relative paths in it start from its folder.
    pub(super) path: PathBuf,
}

impl Loaded {
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// Reads a config file; `None` if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Loaded>, ConfigError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => {
            return Err(ConfigError::Folder { path: path.to_owned() });
        }
        Err(error) => return Err(PathError::new("read", path, error).into()),
    };
    let wrong_at = |at: usize, why: &str| {
        let line = 1 + bytes.iter().take(at).filter(|byte| **byte == b'\n').count();
        let text = bytes.split(|byte| *byte == b'\n').nth(line - 1).unwrap_or_default();
        ConfigError::File {
            path: path.to_owned(),
            line,
            text: shown::line(String::from_utf8_lossy(text).trim()),
            why: shown::why(&String::from_utf8_lossy(text), why),
        }
    };
    let text = str::from_utf8(&bytes).map_err(|error| wrong_at(error.valid_up_to(), "it is not UTF-8"))?;
    let keys = toml::from_str(text)
        .map_err(|error| wrong_at(error.span().map_or(0, |span| span.start), error.message()))?;
    Ok(Some(Loaded { keys, path: path.to_owned() }))
}
