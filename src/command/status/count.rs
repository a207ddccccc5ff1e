//! Counts what a current store holds: a walk over its tree, streamed, so that it takes no memory to speak of.
//!
//! A version is a folder below `@v` whose `info` is there. Every other name in the root, in an `@v` folder, in
//! a version's or on the way to one is a leftover. That there is none is the same here as in the inventory of
//! `stoa-migrate`; how many there are it alone knows.

use std::fs::{self, DirEntry, FileType};
use std::io::ErrorKind;
use std::path::Path;

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::error::PathContext;
use stoa_layout::lock::LOCK_NAME;
use stoa_layout::marker::{Marker, TEMPORARY_PREFIX};
use stoa_layout::{LayoutId, PathError};
use stoa_store::{StoreError, each_quarantined};

/// What was counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) versions: u64,
    pub(super) modules: u64,
    pub(super) bytes: u64,
    pub(super) leftovers: u64,
    pub(super) quarantined: u64,
    pub(super) quarantined_bytes: u64,
}

/// The folder below which the modules are.
const MODULES: &str = "modules";

/// The folder of a module's versions.
const VERSIONS: &str = "@v";

/// The files of a version.
const FILES: [&str; 4] = ["info", "mod", "zip", "ziphash"];

/// What file systems and desktops put into folders of their own.
const IGNORED: [&str; 2] = ["lost+found", ".DS_Store"];

/// Counts.
pub(super) fn modules(root: &Path, layout: &LayoutId, folders: &[&str]) -> Result<Count, PathError> {
    let mut count = Count::default();
    let marker = Marker::At(layout.clone()).to_string();
    each(root, |entry, kind| {
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let is_ours = [marker.as_str(), LOCK_NAME].contains(&name)
            || folders.contains(&name) && kind.is_dir()
            || IGNORED.contains(&name)
            || name.starts_with(TEMPORARY_PREFIX);
        count.leftovers += u64::from(!is_ours);
        Ok(())
    })?;
    // As deep as the deepest module path, and one folder's names of each level.
    let mut open = vec![root.join(MODULES)];
    while let Some(folder) = open.pop() {
        each(&folder, |entry, kind| {
            let name = entry.file_name();
            if !kind.is_dir() {
                count.leftovers += u64::from(!IGNORED.iter().any(|ignored| name == *ignored));
            } else if name == VERSIONS {
                let module = folder.strip_prefix(root.join(MODULES)).ok().and_then(Path::to_str);
                match module.and_then(|module| ModulePath::unescape(module).ok()) {
                    Some(module) => of_module(&module, &entry.path(), &mut count)?,
                    None => count.leftovers += 1,
                }
            } else {
                open.push(entry.path());
            }
            Ok(())
        })?;
    }
    count.quarantine(root)?;
    Ok(count)
}

impl Count {
    /// Counts what proved broken.
    pub(super) fn quarantine(&mut self, root: &Path) -> Result<(), PathError> {
        let counted: Result<(), StoreError> = each_quarantined(root, |entry| {
            self.quarantined += 1;
            self.quarantined_bytes += entry.bytes.unwrap_or_default();
            Ok(())
        });
        match counted {
            Err(StoreError::Path(error)) => Err(error),
            // It takes no lock, and writes nothing.
            _ => Ok(()),
        }
    }
}

fn of_module(module: &ModulePath, versions: &Path, count: &mut Count) -> Result<(), PathError> {
    let before = count.versions;
    each(versions, |entry, kind| {
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| Version::unescape(name).ok());
        let is_version = version.is_some_and(|version| ModuleVersion::new(module.clone(), version).is_ok());
        if kind.is_dir() && is_version {
            of_version(&entry.path(), count)
        } else {
            count.leftovers += 1;
            Ok(())
        }
    })?;
    count.modules += u64::from(count.versions > before);
    Ok(())
}

fn of_version(version: &Path, count: &mut Count) -> Result<(), PathError> {
    let (mut bytes, mut others, mut has_any, mut has_info, mut is_sound) = (0, 0, false, false, true);
    each(version, |entry, kind| {
        let name = entry.file_name();
        if !FILES.iter().any(|file| name == *file) {
            others += 1;
        } else if kind.is_file() {
            has_any = true;
            has_info |= name == "info";
            bytes += match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => 0,
                meta => meta.at("look at", &entry.path())?.len(),
            };
        } else {
            is_sound = false;
        }
        Ok(())
    })?;
    count.leftovers += others;
    if has_info && is_sound {
        count.versions += 1;
        count.bytes += bytes;
    } else if has_any || !is_sound {
        count.leftovers += 1;
    }
    Ok(())
}

/// Looks at each name in a folder. One that is not there, or went meanwhile, has none.
fn each(
    folder: &Path,
    mut look: impl FnMut(&DirEntry, FileType) -> Result<(), PathError>,
) -> Result<(), PathError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.at("list", folder)?,
    };
    for entry in entries {
        let entry: DirEntry = entry.at("list", folder)?;
        match entry.file_type() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            kind => look(&entry, kind.at("look at", &entry.path())?)?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make stores by hand")]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn versions_and_leftovers_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (path, content) in [
            ("layout.v2", ""),
            ("store.lock", ""),
            ("modules/example.org/a/@v/v1.0.0/info", "{}"),
            ("modules/example.org/a/@v/v1.0.0/zip", "1234"),
            ("modules/example.org/a/@v/v1.1.0/info", "{}"),
            ("modules/example.org/a/v2/@v/v2.0.0-!r!c1/info", "{}"),
            ("modules/example.org/b/@v/v1.0.0/mod", "left"),
            ("modules/example.org/b/@v/v1.0.0.info", "left"),
            ("modules/example.org/b/@v/V1.0.0/info", "left"),
            ("modules/example.org/README", "left"),
            ("modules/Example.org/c/@v/v1.0.0/info", "left"),
            ("quarantine/x/reason.toml", ""),
            ("quarantine/x/version/zip", "123"),
            ("notes.txt", "left"),
            ("lost+found/x", ""),
        ] {
            put(root, path, content);
        }
        let count = modules(root, &LayoutId::numbered(2), &[MODULES, "quarantine"]).unwrap();
        let expected =
            Count { versions: 3, modules: 2, bytes: 10, leftovers: 6, quarantined: 1, quarantined_bytes: 3 };
        assert_eq!(count, expected);
    }

    #[test]
    fn an_empty_folder_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let count = modules(&dir.path().join("missing"), &LayoutId::numbered(2), &[]).unwrap();
        assert_eq!(count, Count::default());
    }
}
