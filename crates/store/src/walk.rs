//! Walking over all versions of a store. Memory holds only the names of the folders on the way.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::PathError;

use crate::files::is_absent;
use crate::{Store, StoreError};

impl Store {
    /// Visits every version, module by module, until `visit` breaks. Versions that are published or removed meanwhile
    /// may be missing.
    ///
    /// A folder that cannot be read is skipped, and the first of these errors is returned at the end.
    pub fn each_version(
        &self,
        mut visit: impl FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let first = std::cell::OnceCell::new();
        let each = |version| match self.has_info(&version) {
            Ok(true) => visit(version),
            Ok(false) => ControlFlow::Continue(()),
            Err(error) => {
                let _ = first.set(error);
                ControlFlow::Continue(())
            }
        };
        self.each_folder(each, |error| {
            let _ = first.set(error);
        })?;
        first.into_inner().map_or(Ok(()), Err)
    }

    /// Visits every folder with the name of a version, module by module, until `visit` breaks: versions and
    /// leftovers in the place of a version.
    ///
    /// A folder that cannot be read goes to `unreadable`, and the walk goes on. Versions that are published or removed
    /// meanwhile may be missing.
    pub fn each_folder(
        &self,
        visit: impl FnMut(ModuleVersion) -> ControlFlow<()>,
        unreadable: impl FnMut(StoreError),
    ) -> Result<(), StoreError> {
        self.each_folder_and_symlink(visit, unreadable, |_| {})
    }

    /// Like [`Store::each_folder`], and reports each symlink in the place of a folder. Nothing is written below it.
    pub fn each_folder_and_symlink(
        &self,
        mut visit: impl FnMut(ModuleVersion) -> ControlFlow<()>,
        unreadable: impl FnMut(StoreError),
        symlink: impl FnMut(&Path),
    ) -> Result<(), StoreError> {
        let unreadable = std::cell::RefCell::new(unreadable);
        let each = |module: ModulePath| -> Result<ControlFlow<()>, StoreError> {
            let listed = match self.list(&module) {
                Ok(listed) => listed,
                Err(error) => {
                    (unreadable.borrow_mut())(error);
                    return Ok(ControlFlow::Continue(()));
                }
            };
            for version in listed.iter().flat_map(|versions| versions.iter()) {
                let Ok(version) = ModuleVersion::new(module.clone(), version.clone()) else { continue };
                if visit(version).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        let failed = |error: PathError| {
            (unreadable.borrow_mut())(error.into());
            Ok(())
        };
        each_module(&self.paths.modules(), each, failed, symlink)
    }

    /// Visits each symlink in the place of a folder of `records/`.
    pub fn each_symlink_in_records(&self, symlink: impl FnMut(&Path)) -> Result<(), StoreError> {
        let each = |_| Ok(ControlFlow::Continue(()));
        each_module(&self.paths.records(), each, |error| Err(error.into()), symlink)
    }
}

/// Visits the module of every folder that has an `@v`, until `visit` breaks. A folder that cannot be read goes to
/// `unreadable`, whose error ends the walk. A symlink is not followed and goes to `symlink`.
pub(crate) fn each_module<E>(
    modules: &Path,
    mut visit: impl FnMut(ModulePath) -> Result<ControlFlow<()>, E>,
    mut unreadable: impl FnMut(PathError) -> Result<(), E>,
    mut symlink: impl FnMut(&Path),
) -> Result<(), E> {
    let mut open = vec![modules.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if is_absent(&error) => continue,
            Err(error) => {
                unreadable(PathError::new("list", &folder, error))?;
                continue;
            }
            Ok(entries) => entries,
        };
        for entry in entries {
            let kind = entry.and_then(|entry| Ok((entry.path(), entry.file_name(), entry.file_type()?)));
            let (path, name, kind) = match kind {
                Err(error) if is_absent(&error) => continue,
                Err(error) => {
                    unreadable(PathError::new("list", &folder, error))?;
                    break;
                }
                Ok(known) => known,
            };
            if !kind.is_dir() {
                if kind.is_symlink() && path.is_dir() {
                    symlink(&path);
                }
                continue;
            }
            if name != "@v" {
                open.push(path);
                continue;
            }
            let module = folder.strip_prefix(modules).ok().and_then(|path| path.to_str());
            let Some(module) = module.and_then(|module| ModulePath::unescape(module).ok()) else { continue };
            if visit(module)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, put_unsealed, version, zip};

    #[test]
    fn every_version_is_visited_once() {
        let fixture = Fixture::new();
        let pairs = [
            "example.com/a@v1.0.0",
            "example.com/a/b@v0.1.0",
            "example.com/a/v2@v2.0.0",
            "example.com/C@v1.0.0",
        ];
        for pair in pairs {
            let v = version(pair);
            put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        }
        fs::create_dir_all(fixture.dir.path().join("modules/example.com/a/@v/v9.9.9")).unwrap();
        let mut found = Vec::new();
        let all = |found: &mut Vec<String>, v: ModuleVersion| {
            found.push(v.to_string());
            ControlFlow::Continue(())
        };
        fixture.store.each_version(|v| all(&mut found, v)).unwrap();
        found.sort();
        let mut expected = pairs.map(str::to_owned);
        expected.sort();
        assert_eq!(found, expected);
        let mut first = Vec::new();
        fixture
            .store
            .each_version(|v| {
                first.push(v);
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(first.len(), 1);
    }
}
