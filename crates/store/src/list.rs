//! Listing the versions of a module: the folders in its `@v` that have canonical names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::read::{Stamp, is_absence};
use crate::{Store, StoreError};

/// A list that was read, and the state of the folder that it was read from.
#[derive(Debug, Clone)]
pub(crate) struct KnownList {
    versions: Arc<[Version]>,
    folder: Stamp,
    modified: (i64, i64),
}

/// Two publishes can fall into one tick of the clock: a folder that changed just now may change again
/// without showing it.
const SETTLED: Duration = Duration::from_secs(2);

impl Store {
    /// Lists the versions of a module, sorted, pseudo-versions included. `None` if there is none.
    pub fn list(&self, module: &ModulePath) -> Result<Option<Arc<[Version]>>, StoreError> {
        let path = self.paths.versions(module);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => meta,
            Ok(_) => return Ok(None),
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(PathError::new("look at", path, error).into()),
        };
        let (folder, modified) = (Stamp::of(&meta), (meta.mtime(), meta.mtime_nsec()));
        if let Some(known) = self.lists.get(module)
            && known.folder == folder
            && known.modified == modified
        {
            return Ok(Some(known.versions).filter(|versions| !versions.is_empty()));
        }
        let mut versions = Vec::new();
        for entry in fs::read_dir(&path).at("list", &path)? {
            let entry = entry.at("list", &path)?;
            let Some(version) = entry.file_name().to_str().and_then(|name| Version::unescape(name).ok())
            else {
                continue;
            };
            let is_folder = entry.file_type().at("look at", &entry.path())?.is_dir();
            if is_folder && ModuleVersion::new(module.clone(), version.clone()).is_ok() {
                versions.push(version);
            }
        }
        versions.sort();
        let versions: Arc<[Version]> = versions.into();
        let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_some_and(|age| age > SETTLED) {
            self.lists
                .insert(module.clone(), KnownList { versions: Arc::clone(&versions), folder, modified });
        }
        Ok(Some(versions).filter(|versions| !versions.is_empty()))
    }
}
