//! The census: every version in a store with its size and its time, and every leftover below `modules/`.
//!
//! A version is a folder below `@v` whose `info` is there. Every other name in an `@v` folder, in the folder of a
//! version or on the way to one is a leftover. The inventory of `stoa-migrate` draws the same line, but only the
//! inventory counts how many versions the leftovers make up.

use std::ffi::OsString;
use std::fs::{self, FileType};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::files::is_absent;
use crate::paths::{Paths, VersionFile};
use crate::{Store, StoreError};

/// An item of a census.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CensusItem {
    /// A stored version.
    Version(StoredVersion),
    /// A file or folder below `modules/` that belongs to no version.
    Leftover(PathBuf),
}

/// A version in the store, as a census sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    /// The version.
    pub version: ModuleVersion,
    /// The size of its info, mod and zip in bytes.
    pub bytes: u64,
    /// The size of its seal in bytes. 0 without a seal.
    pub seal_bytes: u64,
    /// The time of its publishing: when its info was written.
    pub published: SystemTime,
}

/// Names that file systems and desktops put into folders of their own.
const IGNORED: [&str; 2] = ["lost+found", ".DS_Store"];

/// Visits every version and every leftover below `modules/` of a root: sorted by path element, then by version.
///
/// The walk takes no lock and changes nothing. It holds the names of the folders on its way in memory, not the
/// whole store. Versions that are published or removed meanwhile may be missing. A folder that cannot be read
/// ends the walk with an error, and so does an error of `visit`.
pub fn census<E: From<StoreError>>(
    root: &Path,
    mut visit: impl FnMut(CensusItem) -> Result<(), E>,
) -> Result<(), E> {
    let modules = Paths::new(root).modules();
    let mut open = vec![modules.clone()];
    while let Some(folder) = open.pop() {
        let mut below = Vec::new();
        for (name, kind) in names(&folder)? {
            let path = folder.join(&name);
            if !kind.is_dir() {
                if !IGNORED.iter().any(|ignored| name == *ignored) {
                    visit(CensusItem::Leftover(path))?;
                }
                continue;
            }
            if name != "@v" {
                below.push(path);
                continue;
            }
            let module = folder.strip_prefix(&modules).ok().and_then(Path::to_str);
            match module.and_then(|module| ModulePath::unescape(module).ok()) {
                Some(module) => visit_module(&module, &path, &mut visit)?,
                None => visit(CensusItem::Leftover(path))?,
            }
        }
        open.extend(below.into_iter().rev());
    }
    Ok(())
}

impl Store {
    /// Visits every version and every leftover of this store, as [`census`] does for a root.
    ///
    /// The day of last use of a version is `store.last_uses()?.of(&stored.version, stored.published)`.
    pub fn census<E: From<StoreError>>(
        &self,
        visit: impl FnMut(CensusItem) -> Result<(), E>,
    ) -> Result<(), E> {
        census(self.root(), visit)
    }
}

fn visit_module<E: From<StoreError>>(
    module: &ModulePath,
    folder: &Path,
    visit: &mut impl FnMut(CensusItem) -> Result<(), E>,
) -> Result<(), E> {
    let mut versions = Vec::new();
    for (name, kind) in names(folder)? {
        let version = name.to_str().and_then(|name| Version::unescape(name).ok());
        let version = version.and_then(|version| ModuleVersion::new(module.clone(), version).ok());
        match version {
            Some(version) if kind.is_dir() => versions.push((version, folder.join(name))),
            _ => visit(CensusItem::Leftover(folder.join(name)))?,
        }
    }
    versions.sort_by(|(a, _), (b, _)| a.version().cmp(b.version()));
    versions.into_iter().try_for_each(|(version, path)| visit_version(version, &path, visit))
}

fn visit_version<E: From<StoreError>>(
    version: ModuleVersion,
    folder: &Path,
    visit: &mut impl FnMut(CensusItem) -> Result<(), E>,
) -> Result<(), E> {
    let mut stored = StoredVersion { version, bytes: 0, seal_bytes: 0, published: SystemTime::UNIX_EPOCH };
    let (mut has_any, mut has_info, mut is_sound) = (false, false, true);
    for (name, kind) in names(folder)? {
        let path = folder.join(&name);
        let Some(file) = VersionFile::ALL.into_iter().find(|file| name == file.name()) else {
            visit(CensusItem::Leftover(path))?;
            continue;
        };
        if !kind.is_file() {
            is_sound = false;
            continue;
        }
        let meta = match fs::symlink_metadata(&path) {
            // Removed since the folder was listed.
            Err(error) if is_absent(&error) => continue,
            meta => meta.at("stat", &path).map_err(StoreError::from)?,
        };
        has_any = true;
        match file {
            VersionFile::Seal => stored.seal_bytes = meta.len(),
            _ => stored.bytes += meta.len(),
        }
        if file == VersionFile::Info {
            has_info = true;
            stored.published = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        }
    }
    if has_info && is_sound {
        visit(CensusItem::Version(stored))
    } else if has_any || !is_sound {
        visit(CensusItem::Leftover(folder.to_owned()))
    } else {
        Ok(())
    }
}

/// Lists the names in a folder, sorted. A folder that does not exist has no names.
fn names(folder: &Path) -> Result<Vec<(OsString, FileType)>, StoreError> {
    let list = || -> Result<_, PathError> {
        let entries = match fs::read_dir(folder) {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            entries => entries.at("list", folder)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.at("list", folder)?;
            match entry.file_type() {
                Err(error) if is_absent(&error) => {}
                kind => names.push((entry.file_name(), kind.at("stat", &entry.path())?)),
            }
        }
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(names)
    };
    Ok(list()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, version, zip};

    fn taken(root: &Path) -> (Vec<StoredVersion>, Vec<PathBuf>) {
        let (mut versions, mut leftovers) = (Vec::new(), Vec::new());
        census::<StoreError>(root, |item| {
            match item {
                CensusItem::Version(stored) => versions.push(stored),
                CensusItem::Leftover(path) => leftovers.push(path.strip_prefix(root).unwrap().to_owned()),
            }
            Ok(())
        })
        .unwrap();
        (versions, leftovers)
    }

    #[test]
    fn a_census_lists_versions_in_order_and_names_every_leftover() {
        let dir = testkit::tempdir();
        for (path, content) in [
            ("modules/example.org/a/@v/v1.10.0/info", "{}"),
            ("modules/example.org/a/@v/v1.9.0/info", "{}"),
            ("modules/example.org/a/@v/v1.9.0/zip", "1234"),
            ("modules/example.org/a/@v/v1.9.0/ziphash", "h1:"),
            ("modules/example.org/a/v2/@v/v2.0.0-!r!c1/info", "{}"),
            ("modules/example.org/b/@v/v1.0.0/mod", "left"),
            ("modules/example.org/b/@v/v1.0.0.info", "left"),
            ("modules/example.org/b/@v/V1.0.0/info", "left"),
            ("modules/example.org/README", "left"),
            ("modules/Example.org/c/@v/v1.0.0/info", "left"),
            ("modules/.DS_Store", "ignored"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let (versions, leftovers) = taken(dir.path());
        let versions: Vec<_> =
            versions.iter().map(|one| (one.version.to_string(), one.bytes, one.seal_bytes)).collect();
        let expected = [
            ("example.org/a@v1.9.0", 6, 3),
            ("example.org/a@v1.10.0", 2, 0),
            ("example.org/a/v2@v2.0.0-RC1", 2, 0),
        ];
        assert_eq!(versions, expected.map(|(version, bytes, seal)| (version.to_owned(), bytes, seal)));
        let expected = [
            "modules/Example.org/c/@v",
            "modules/example.org/README",
            "modules/example.org/b/@v/V1.0.0",
            "modules/example.org/b/@v/v1.0.0.info",
            "modules/example.org/b/@v/v1.0.0",
        ];
        assert_eq!(leftovers, expected.map(PathBuf::from));
    }

    #[test]
    fn a_census_of_a_missing_root_is_empty() {
        let dir = testkit::tempdir();
        assert_eq!(taken(&dir.path().join("missing")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_census_agrees_with_the_footprint_of_each_version() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        fixture.publish(&v, &zip(&v, "package a\n"));
        let (versions, _) = taken(fixture.dir.path());
        let footprint = fixture.store.footprint(&v).unwrap().unwrap();
        assert_eq!((versions[0].bytes, versions[0].published), (footprint.bytes, footprint.published));
        assert!(versions[0].seal_bytes > 0);
    }

    #[test]
    fn an_error_of_the_visitor_ends_the_census() {
        let fixture = Fixture::new();
        for pair in ["example.com/a@v1.0.0", "example.com/b@v1.0.0"] {
            let v = version(pair);
            fixture.publish(&v, &zip(&v, "package a\n"));
        }
        let mut seen = 0;
        let ended = fixture.store.census(|_| {
            seen += 1;
            Err(StoreError::ReadOnly(PathBuf::new()))
        });
        assert!(matches!(ended, Err(StoreError::ReadOnly(_))));
        assert_eq!(seen, 1);
    }
}
