//! Creates the root of a store, and other folders that a person names, with their missing parents.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::access::Access;
use super::{Durable, remove_empty_dir, sync_dir};
use crate::PathError;

/// Folders that were created, outermost first.
#[derive(Debug, Default)]
pub struct Created(Vec<PathBuf>);

impl Created {
    /// Removes the folders that are empty, as far as possible.
    pub fn undo(self) {
        for folder in self.0.iter().rev() {
            let _ = remove_empty_dir(folder);
        }
    }
}

/// Creates the root of a store and its missing parents, and syncs each into its parent.
///
/// A new root has exactly this mode, except for write for others. If this process runs as root, everything belongs to the
/// owner of the nearest existing parent, so that `sudo` does not take a home from its owner.
pub fn create_root(root: &Path, mode: u32) -> Result<Created, PathError> {
    create(root, |access| (access.without_write_for_others(), access.with_mode(mode)))
}

/// Creates a folder and its missing parents, and syncs each into its parent. The modes follow the umask. If this process
/// runs as root, everything belongs to the owner of the nearest existing parent.
pub fn create_folder(folder: &Path) -> Result<Created, PathError> {
    create(folder, |access| (access, access))
}

/// Creates a folder. `access` returns the access of the parents and of the folder.
fn create(folder: &Path, access: impl FnOnce(Access) -> (Access, Access)) -> Result<Created, PathError> {
    let (mut missing, mut access) = (Vec::new(), Some(access));
    let mut accesses = (Access::default(), Access::default());
    for at in folder.ancestors() {
        let here = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        match fs::metadata(here) {
            Ok(meta) if meta.is_dir() => {
                if let Some(access) = access.take() {
                    accesses = access(Access::of_folder(&meta));
                }
                break;
            }
            Ok(_) => return Err(PathError::new("create the folder", at, Errno::NOTDIR)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(at),
            Err(error) => return Err(PathError::new("stat", at, error)),
        }
    }
    let mut created = Created::default();
    for at in missing.into_iter().rev() {
        let durable = Durable::with(if at == folder { accesses.1 } else { accesses.0 });
        if let Err(error) = create_one(&durable, at, &mut created) {
            created.undo();
            return Err(error);
        }
    }
    Ok(created)
}

fn create_one(durable: &Durable, folder: &Path, created: &mut Created) -> Result<(), PathError> {
    if durable.ensure_dir(folder)? {
        created.0.push(folder.to_owned());
    }
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_root_is_created_with_its_parents() {
        let dir = testkit::tempdir();
        let root = dir.path().join("x/y/z");
        let created = create_root(&root, 0o2772).unwrap();
        create_root(&root, 0o700).unwrap().undo();
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o2770);
        assert_eq!(fs::metadata(dir.path().join("x")).unwrap().mode() & 0o022, 0);
        created.undo();
        assert!(!dir.path().join("x").exists());
    }
}
