//! The owner and the modes of new files and folders.
//!
//! Files and folders below the root of a store get the mode of the root, without write for others, whatever the umask. So
//! a private store stays private, and a store that a group shares (setgid, writable for the group) stays shared.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Once, OnceLock};

use rustix::fs::{AtFlags, CWD, Gid, Mode, RawMode, Uid};
use rustix::io::Errno;

use crate::PathError;
use crate::error::PathContext;

/// The bits of a root's mode that its folders inherit: all but the sticky bit, setuid, and write for others.
const INHERITED: u32 = 0o2775;

/// The bit that makes new files and folders belong to the group of their folder.
const SETGID: u32 = 0o2000;

/// The bits of a folder's mode that a file can have.
const OF_FILES: u32 = 0o666;

/// The owner and the modes of new files and folders.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    /// The owner and the group, if this process may give files to others.
    owner: Option<(u32, u32)>,
    /// The mode of folders.
    mode: u32,
    set: Set,
}

/// When the mode is set after the creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// Never: the umask applies.
    Never,
    /// If the umask took something away. New folders have the setgid bit of their parent.
    IfMasked,
    /// Always: a new folder has the setgid bit only if its parent has it.
    Always,
}

impl Default for Access {
    /// Returns the modes that the umask leaves, for the user of this process.
    fn default() -> Self {
        Self { owner: None, mode: 0o777, set: Set::Never }
    }
}

impl Access {
    /// Returns the access below the root of a store.
    pub(super) fn of_root(root: &Metadata) -> Self {
        // The owner must be able to use what is created, even if root closed the folder to it for a while.
        Self { mode: root.mode() & INHERITED | 0o700, set: Set::IfMasked, ..Self::of_folder(root) }
    }

    /// Returns the access below any other folder.
    pub(super) fn of_folder(folder: &Metadata) -> Self {
        let own = (0, rustix::process::getegid().as_raw());
        let owner = Some((folder.uid(), folder.gid()));
        let owner = owner.filter(|owner| rustix::process::geteuid().is_root() && *owner != own);
        Self { owner, ..Self::default() }
    }

    /// Returns the access of files that only the user of this process can use.
    pub(super) fn private() -> Self {
        Self { owner: None, mode: 0o700, set: Set::IfMasked }
    }

    /// Returns the access of a folder with exactly this mode, except for write for others.
    pub(super) fn with_mode(self, mode: u32) -> Self {
        Self { mode: mode & INHERITED | 0o700, set: Set::Always, ..self }
    }

    /// Returns the same access without write for group and others. The umask may take away more.
    pub(super) fn without_write_for_others(self) -> Self {
        Self { mode: self.mode & 0o755, ..self }
    }

    pub(super) fn folder_mode(&self) -> Mode {
        Mode::from_raw_mode(self.mode as _)
    }

    pub(super) fn file_mode(&self) -> Mode {
        Mode::from_raw_mode((self.mode & OF_FILES) as _)
    }

    pub(super) fn has_owner(&self) -> bool {
        self.owner.is_some()
    }

    /// Gives a new folder its mode and its owner.
    pub(super) fn settle_folder(&self, path: &Path) -> Result<(), PathError> {
        let mode = self.folder_mode();
        // Before the owner changes, since only the owner may do this.
        if self.must_set(mode) {
            pass(rustix::fs::chmod(path, mode), "set the mode of", path)?;
        }
        self.give(path)
    }

    /// Gives a new file its mode and its owner.
    pub(super) fn settle_file(&self, file: &File, path: &Path) -> Result<(), PathError> {
        let mode = self.file_mode();
        if self.must_set(mode) {
            pass(rustix::fs::fchmod(file, mode), "set the mode of", path)?;
        }
        self.give_file(file, path)
    }

    /// Finishes a folder of a shared store that a process of this user created before it was killed: sets its mode.
    pub(super) fn finish_folder(&self, path: &Path, meta: &Metadata) -> Result<(), PathError> {
        // A folder with content was finished, and a person may have changed its mode.
        let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if !self.lacks_in_folder(meta) || !is_ours(meta) || !is_empty() {
            return Ok(());
        }
        pass(rustix::fs::chmod(path, self.folder_mode()), "set the mode of", path)
    }

    /// Finishes an empty file of a shared store that a process of this user created before it was killed: sets its mode.
    pub(super) fn finish_file(&self, file: &File, path: &Path) -> Result<(), PathError> {
        if !self.is_shared() {
            return Ok(());
        }
        let meta = file.metadata().at("stat", path)?;
        let lacks = self.file_mode().as_raw_mode() & !meta.mode() != 0;
        if !lacks || !is_ours(&meta) || meta.len() > 0 {
            return Ok(());
        }
        pass(rustix::fs::fchmod(file, self.file_mode()), "set the mode of", path)
    }

    /// Returns whether a folder of a shared store has fewer permissions than a new one. A folder that is older than the
    /// sharing has no setgid bit, and keeps its mode.
    pub(super) fn lacks_in_folder(&self, meta: &Metadata) -> bool {
        self.is_shared() && meta.mode() & SETGID != 0 && self.folder_mode().as_raw_mode() & !meta.mode() != 0
    }

    fn is_shared(&self) -> bool {
        self.set == Set::IfMasked && self.mode & SETGID != 0
    }

    /// Gives a path to the owner, unless it belongs to the owner. A symlink is not followed.
    pub(super) fn give(&self, path: &Path) -> Result<(), PathError> {
        let Some(owner) = self.owner else { return Ok(()) };
        let meta = fs::symlink_metadata(path).at("stat", path)?;
        change(owner, &meta, path, |uid, gid| {
            rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    pub(super) fn give_file(&self, file: &File, path: &Path) -> Result<(), PathError> {
        let Some(owner) = self.owner else { return Ok(()) };
        let meta = file.metadata().at("stat", path)?;
        change(owner, &meta, path, |uid, gid| rustix::fs::fchown(file, Some(uid), Some(gid)))
    }

    fn must_set(&self, mode: Mode) -> bool {
        match self.set {
            Set::Never => false,
            Set::IfMasked => mode.as_raw_mode() & umask() != 0,
            Set::Always => true,
        }
    }
}

fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw()
}

fn change(
    owner: (u32, u32),
    meta: &Metadata,
    path: &Path,
    give: impl FnOnce(Uid, Gid) -> Result<(), Errno>,
) -> Result<(), PathError> {
    if (meta.uid(), meta.gid()) == owner {
        return Ok(());
    }
    pass(give(Uid::from_raw(owner.0), Gid::from_raw(owner.1)), "change the owner of", path)
}

/// Lets the errors of systems pass that do not let this process change an owner or a mode: root without `CAP_CHOWN`, user
/// namespaces, and network storage that maps users or has no modes. The process could create the file, so it can work.
fn pass(result: Result<(), Errno>, action: &'static str, path: &Path) -> Result<(), PathError> {
    static WARNED: Once = Once::new();
    match result {
        Err(errno @ (Errno::PERM | Errno::INVAL | Errno::NOTSUP)) => {
            WARNED.call_once(|| {
                log::warn!(
                    action, path:% = path.display(), reason:% = errno,
                    help = "check that the user of the server can write to the store";
                    "new files do not get the owner or the mode of the store"
                );
            });
            Ok(())
        }
        result => result.at(action, path),
    }
}

/// Returns the bits that the umask of this process takes away. Without `/proc` this could be any.
fn umask() -> RawMode {
    // The system call that returns it also sets it, for all threads.
    static UMASK: OnceLock<RawMode> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let text = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        text.and_then(|text| RawMode::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn new_files_have_the_modes_of_the_root_without_write_for_others() {
        let dir = testkit::tempdir();
        for (root, folders, files) in [
            (0o700, 0o700, 0o600),
            (0o750, 0o750, 0o640),
            (0o755, 0o755, 0o644),
            (0o2770, 0o2770, 0o660),
            (0o777, 0o775, 0o664),
            (0o1777, 0o775, 0o664),
            (0o500, 0o700, 0o600),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(root)).unwrap();
            let access = Access::of_root(&fs::metadata(dir.path()).unwrap());
            let modes = (access.folder_mode().as_raw_mode(), access.file_mode().as_raw_mode());
            assert_eq!(modes, (folders, files), "{root:o}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_refused_change_of_the_owner_passes() {
        let path = Path::new("f");
        for errno in [Errno::PERM, Errno::INVAL, Errno::NOTSUP] {
            pass(Err(errno), "change the owner of", path).unwrap();
        }
        for errno in [Errno::IO, Errno::ROFS, Errno::NOSPC] {
            assert_eq!(pass(Err(errno), "change the owner of", path).unwrap_err().errno(), Some(errno));
        }
    }
}
