//! Walking over all versions of a store, streamed: memory is that of the names in the folders on the way.

use std::cell::RefCell;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use stoa_gomod::zip::{ExamineError, check_structure};
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::paths::VersionFile;
use crate::read::{is_absent, open_file};
use crate::seal::Source;
use crate::{Store, StoreError};

impl Store {
    /// Hands out every version, module by module, until told to stop. What comes or goes meanwhile may be
    /// among them or not.
    pub fn each_version(
        &self,
        mut found: impl FnMut(ModuleVersion) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let found = |version| {
            if self.has_info(&version)? { Ok(found(version)) } else { Ok(ControlFlow::Continue(())) }
        };
        self.each_folder_or(found, Err)
    }

    /// Hands out every folder of a version's name, module by module, until told to stop: versions, and what
    /// lies in the place of one without being one. Folders that cannot be read are told and passed over.
    pub fn each_folder(
        &self,
        mut found: impl FnMut(ModuleVersion) -> ControlFlow<()>,
        mut unreadable: impl FnMut(StoreError),
    ) -> Result<(), StoreError> {
        let unreadable = |error| {
            unreadable(error);
            Ok(())
        };
        self.each_folder_or(|version| Ok(found(version)), unreadable)
    }

    fn each_folder_or(
        &self,
        mut found: impl FnMut(ModuleVersion) -> Result<ControlFlow<()>, StoreError>,
        unreadable: impl FnMut(StoreError) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let unreadable = RefCell::new(unreadable);
        let each = |module: ModulePath| -> Result<ControlFlow<()>, StoreError> {
            let listed = match self.list(&module) {
                Ok(listed) => listed,
                Err(error) => return (unreadable.borrow_mut())(error).map(ControlFlow::Continue),
            };
            for version in listed.iter().flat_map(|versions| versions.iter()) {
                let Ok(version) = ModuleVersion::new(module.clone(), version.clone()) else { continue };
                if found(version)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        each_module(&self.paths.modules(), each, |error| (unreadable.borrow_mut())(error.into()))
    }

    /// Looks at the structure of a version's zip, a few reads, and says what is wrong with it. `None` if
    /// nothing is, or the version is gone.
    pub fn find_structural_fault(&self, version: &ModuleVersion) -> Result<Option<String>, StoreError> {
        for file in [VersionFile::Mod, VersionFile::Zip] {
            if self.locate(version, file)?.is_none() {
                let fault = format!("it has no {}", file.name());
                return Ok(self.has_info(version)?.then_some(fault));
            }
        }
        let path = self.paths.file(version, VersionFile::Zip);
        let Some((zip, _)) = open_file(&path)? else { return Ok(Some("its zip is no file".to_owned())) };
        match check_structure(&Source::new(&zip).at("look at", &path)?, version) {
            Ok(_) => Ok(None),
            Err(ExamineError::Broken(fault)) => Ok(Some(format!("its zip: {fault}"))),
            Err(ExamineError::Read(error)) => Err(PathError::new("read", path, error).into()),
        }
    }
}

/// Hands out the path of every folder that has an `@v` in it, until told to stop. What cannot be read is handed out
/// too, and ends the walk or is passed over.
pub(crate) fn each_module<E>(
    modules: &Path,
    mut found: impl FnMut(ModulePath) -> Result<ControlFlow<()>, E>,
    mut unreadable: impl FnMut(PathError) -> Result<(), E>,
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
                continue;
            }
            if name != "@v" {
                open.push(path);
                continue;
            }
            let module = folder.strip_prefix(modules).ok().and_then(|path| path.to_str());
            let Some(module) = module.and_then(|module| ModulePath::unescape(module).ok()) else { continue };
            if found(module)?.is_break() {
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
    fn every_version_is_handed_out_once() {
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

    #[test]
    fn structure_is_looked_at_without_touching_anything() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        let folder = put_unsealed(&fixture.store, &v, &bytes);
        assert_eq!(fixture.store.find_structural_fault(&v).unwrap(), None);
        fs::write(folder.join("zip"), &bytes[..bytes.len() - 5]).unwrap();
        assert!(fixture.store.find_structural_fault(&v).unwrap().unwrap().starts_with("its zip: "));
        fs::remove_file(folder.join("mod")).unwrap();
        assert_eq!(fixture.store.find_structural_fault(&v).unwrap().unwrap(), "it has no mod");
        assert!(folder.exists());
    }
}
