//! Listing the versions of a module: the folders in its `@v` that have canonical names.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quick_cache::sync::Cache;
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::files::{Stamp, metadata};
use crate::metadata::Metadata;
use crate::{Store, StoreError};

/// Versions of a module in memory, with the state of the folder that they were read from.
#[derive(Debug, Clone)]
pub(crate) struct KnownVersions {
    versions: Arc<[Version]>,
    folder: Stamp,
    modified: SystemTime,
}

/// The age from which the time of a folder can be relied on. Two publishes can have the same time, so a folder that
/// changed a moment ago may change again without a new time.
pub(crate) const SETTLED: Duration = Duration::from_secs(2);

impl Store {
    /// Returns the versions of a module, sorted, pseudo-versions included. `None` if there are none.
    pub fn list(&self, module: &ModulePath) -> Result<Option<Arc<[Version]>>, StoreError> {
        let path = self.paths.versions(module);
        let Some(meta) = metadata(&path)?.filter(Metadata::is_dir) else { return Ok(None) };
        let versions = KnownVersions::get(&self.lists, module, (&path, &meta), || {
            let mut versions = read_versions(&path, module)?;
            versions.sort();
            Ok(versions)
        })?;
        Ok(Some(versions).filter(|versions| !versions.is_empty()))
    }
}

impl KnownVersions {
    /// Returns the versions from memory, or reads them if their folder has changed.
    pub(crate) fn get(
        known: &Cache<ModulePath, Self>,
        module: &ModulePath,
        (path, meta): (&Path, &Metadata),
        read: impl FnOnce() -> Result<Vec<Version>, StoreError>,
    ) -> Result<Arc<[Version]>, StoreError> {
        let (folder, modified) = (Stamp::of(meta), meta.modified().at("stat", path)?);
        if let Some(known) = known.get(module)
            && known.folder == folder
            && known.modified == modified
        {
            return Ok(known.versions);
        }
        let versions: Arc<[Version]> = read()?.into();
        if has_settled(modified) {
            known.insert(module.clone(), Self { versions: Arc::clone(&versions), folder, modified });
        }
        Ok(versions)
    }
}

/// Returns whether a file or folder changed so long ago that another change would have another time.
pub(crate) fn has_settled(modified: SystemTime) -> bool {
    SystemTime::now().duration_since(modified).is_ok_and(|age| age > SETTLED)
}

/// Reads which folders in the `@v` of a module have the names of versions.
pub(crate) fn read_versions(path: &Path, module: &ModulePath) -> Result<Vec<Version>, PathError> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(path).at("list", path)? {
        let entry = entry.at("list", path)?;
        let Some(version) = entry.file_name().to_str().and_then(|name| Version::unescape(name).ok()) else {
            continue;
        };
        let is_folder = entry.file_type().at("stat", &entry.path())?.is_dir();
        if is_folder && ModuleVersion::new(module.clone(), version.clone()).is_ok() {
            versions.push(version);
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, put_unsealed, version, zip};

    #[test]
    fn folders_with_canonical_names_are_versions() {
        let fixture = Fixture::new();
        for pair in ["example.com/m@v1.10.0", "example.com/m@v1.2.0-RC1", "example.com/m@v1.9.0"] {
            put_unsealed(&fixture.store, &version(pair), b"");
        }
        let folder = fixture.store.paths.versions(&ModulePath::new("example.com/m").unwrap());
        for odd in ["v1", "master", "v1.0.0-RC1", "v2.0.0", "v1.0.0+meta"] {
            fs::create_dir(folder.join(odd)).unwrap();
        }
        fs::write(folder.join("v1.0.0"), "").unwrap();
        let listed = fixture.store.list(&ModulePath::new("example.com/m").unwrap()).unwrap().unwrap();
        assert_eq!(
            listed.iter().map(Version::as_str).collect::<Vec<_>>(),
            ["v1.2.0-RC1", "v1.9.0", "v1.10.0"]
        );
        assert!(fixture.store.list(&ModulePath::new("example.com").unwrap()).unwrap().is_none());
    }

    #[test]
    fn modules_with_the_same_prefix_share_no_versions() {
        let fixture = Fixture::new();
        let pairs = [
            "example.com/one/two@v1.1.0",
            "example.com/one/two@v1.2.3-pre.1",
            "example.com/one/two/v2@v2.1.0",
        ];
        for pair in pairs.into_iter().chain(["example.com/one/two-other@v0.9.0"]) {
            put_unsealed(&fixture.store, &version(pair), b"");
        }
        let list = |module: &str| {
            let listed = fixture.store.list(&ModulePath::new(module).unwrap()).unwrap();
            listed.map(|listed| listed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(list("example.com/one/two").as_deref(), Some("v1.1.0 v1.2.3-pre.1"));
        assert_eq!(list("example.com/one/two/v2").as_deref(), Some("v2.1.0"));
        assert_eq!(list("example.com/one/two-other").as_deref(), Some("v0.9.0"));
        assert_eq!(list("example.com/one"), None);
        let beginning = version("example.com/one/two@v1.2.3-pre");
        assert!(fixture.store.small(&beginning, crate::SmallFile::Info).unwrap().is_none());
    }

    #[test]
    fn a_publish_is_listed_at_once_and_a_settled_list_is_kept_in_memory() {
        let fixture = Fixture::new();
        let module = ModulePath::new("example.com/m").unwrap();
        let folder = fixture.store.paths.versions(&module);
        for n in 0..3 {
            let v = version(&format!("example.com/m@v1.0.{n}"));
            fixture.publish(&v, &zip(&v, "package a\n"));
            assert_eq!(fixture.store.list(&module).unwrap().unwrap().len(), n + 1);
        }
        let past = SystemTime::now() - 2 * SETTLED;
        fs::File::open(&folder).unwrap().set_modified(past).unwrap();
        assert!(fixture.store.lists.get(&module).is_none());
        fixture.store.list(&module).unwrap();
        assert!(fixture.store.lists.get(&module).is_some());
        let v = version("example.com/m@v1.1.0");
        fixture.publish(&v, &zip(&v, "package a\n"));
        assert_eq!(fixture.store.list(&module).unwrap().unwrap().len(), 4);
    }
}
