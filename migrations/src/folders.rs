//! Checks the folders that a step writes to before the step begins: permissions, the sticky bit, the flags of `chattr`,
//! and other file systems below the root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use stoa_layout::step::Refusal;
use stoa_layout::{Exit, PathError, StepError};

use crate::picture::{Files, Names, OURS};

/// The checks of one store. The first finding is kept.
pub(crate) struct Folders {
    root: PathBuf,
    root_place: Place,
    own_uid: u32,
    /// Whether the sticky bit does not restrict this process.
    may_act_as_owner: bool,
    found: Mutex<Option<Refusal>>,
}

/// The folders from the root to the last one that was checked, each with whether only owners may rename names in it. The
/// next version is nearly always in the same module, so most of its folders are checked already.
#[derive(Default)]
pub(crate) struct Chain(Vec<(PathBuf, bool)>);

/// The use that a step makes of a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Names leave it. If it cannot be removed when it is empty, it stays, which stops nothing.
    Emptied,
    /// Names come into it.
    Filled,
}

/// The file system of a path.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Place {
    /// Differs in a Btrfs subvolume, too.
    device: (u32, u32),
    /// `None` if the system does not report it.
    mount: Option<u64>,
}

/// The properties of a path that decide about a rename.
struct Properties {
    place: Place,
    uid: u32,
    mode: u32,
    is_dir: bool,
    /// The flag of `chattr` that forbids changes.
    flag: Option<&'static str>,
}

const STICKY: u32 = 0o1000;

impl Folders {
    pub(crate) fn below(root: &Path) -> Result<Self, StepError> {
        let root_place = properties(root).map_err(|error| PathError::new("stat", root, error))?.place;
        Ok(Self {
            root: root.to_owned(),
            root_place,
            own_uid: rustix::process::geteuid().as_raw(),
            may_act_as_owner: may_act_as_owner(),
            found: Mutex::default(),
        })
    }

    /// Checks that files can leave their folder, and that the folders above can be written to.
    pub(crate) fn leave(&self, files: &Files, chain: &mut Chain) -> Result<(), StepError> {
        let folder = files.folder();
        let is_bound = self.walk(folder, Use::Emptied, chain)?;
        for file in files.in_order() {
            let Some(found) = self.look(file)? else { continue };
            self.check_flag(file, &found);
            if is_bound && found.uid != self.own_uid {
                self.put_sticky(folder, file);
            }
        }
        Ok(())
    }

    /// Checks that files can come into a folder. Its missing folders are created.
    pub(crate) fn enter(&self, folder: &Path, chain: &mut Chain) -> Result<(), StepError> {
        self.walk(folder, Use::Filled, chain).map(drop)
    }

    /// Checks the folders of the store itself: each must be on the file system of the root.
    pub(crate) fn own(&self) -> Result<(), StepError> {
        self.check(&self.root, Use::Filled)?;
        for name in OURS {
            let path = self.root.join(name);
            if let Some(found) = self.look(&path)? {
                self.check_place(&path, &found);
            }
        }
        Ok(())
    }

    /// Checks a folder that is removed with everything below it.
    pub(crate) fn removed(&self, folder: &Path) -> Result<(), StepError> {
        let Some(is_bound) = self.check(folder, Use::Emptied)? else { return Ok(()) };
        let Some(names) = Names::of(folder)? else { return Ok(()) };
        for name in names {
            let name = name?;
            if name.kind.is_dir() {
                self.removed(&name.path)?;
            } else if is_bound && self.look(&name.path)?.is_some_and(|found| found.uid != self.own_uid) {
                self.put_sticky(folder, &name.path);
            }
        }
        Ok(())
    }

    /// Returns whether there is a finding.
    pub(crate) fn has_refusal(&self) -> bool {
        self.found.lock().is_ok_and(|found| found.is_some())
    }

    /// Returns the first finding.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        self.found.into_inner().ok().flatten()
    }

    /// Checks the folders from the root to this one, up to the first that is missing. Returns whether only owners may
    /// rename names in the last one.
    fn walk(&self, folder: &Path, what: Use, chain: &mut Chain) -> Result<bool, StepError> {
        while chain.0.last().is_some_and(|(last, _)| !folder.starts_with(last)) {
            chain.0.pop();
        }
        if chain.0.is_empty() {
            let is_bound = self.check(&self.root, what)?;
            chain.0.push((self.root.clone(), is_bound.unwrap_or_default()));
        }
        loop {
            let Some((last, is_bound)) = chain.0.last() else { return Ok(false) };
            let rest = folder.strip_prefix(last).ok();
            let Some(next) = rest.and_then(|rest| rest.iter().next()) else { return Ok(*is_bound) };
            let next = last.join(next);
            let Some(is_bound) = self.check(&next, what)? else { return Ok(false) };
            chain.0.push((next, is_bound));
        }
    }

    /// Checks one folder. Returns whether only owners may rename names in it. `None` if it is missing.
    fn check(&self, folder: &Path, what: Use) -> Result<Option<bool>, StepError> {
        let Some(found) = self.look(folder)? else { return Ok(None) };
        if !found.is_dir {
            if what == Use::Filled {
                self.put(Exit::CANT_CREATE, || {
                    format!(
                        "cannot create the folder {path}: a file or symlink has this name; nothing was changed\n\
                         help: move {path} out of the store, then run again",
                        path = folder.display()
                    )
                });
            }
            return Ok(None);
        }
        self.check_place(folder, &found);
        self.check_flag(folder, &found);
        match rustix::fs::accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => self.put(Exit::PERMISSION, || {
                format!(
                    "cannot write to {}: {errno}; nothing was changed\n\
                     help: fix its permissions or run as its owner, then run again",
                    folder.display()
                )
            }),
            Err(errno) => return Err(PathError::new("stat", folder, errno).into()),
        }
        Ok(Some(found.mode & STICKY != 0 && !self.may_act_as_owner && found.uid != self.own_uid))
    }

    fn look(&self, path: &Path) -> Result<Option<Properties>, StepError> {
        match properties(path) {
            Ok(found) => Ok(Some(found)),
            // A path that is too long does not exist. If this process may not look, the folder above is reported.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::ACCESS)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(PathError::new("stat", path, error).into()),
        }
    }

    fn check_place(&self, folder: &Path, found: &Properties) {
        if found.place == self.root_place {
            return;
        }
        self.put(Exit::CANT_CREATE, || {
            format!(
                "cannot move files into or out of {path}: it is a mount or a subvolume, apart from the rest of the store; \
                 nothing was changed\n\
                 help: unmount {path}, or make it an ordinary folder, then run again",
                path = folder.display()
            )
        });
    }

    fn check_flag(&self, path: &Path, found: &Properties) {
        let Some(flag) = found.flag else { return };
        self.put(Exit::PERMISSION, || {
            let name = if flag == "i" { "immutable" } else { "append-only" };
            format!(
                "cannot move {what}{path}: it has the flag {name} ({flag}); nothing was changed\n\
                 help: remove the flag with `chattr -{flag} {path}`, then run again",
                what = if found.is_dir { "files into or out of " } else { "" },
                path = path.display()
            )
        });
    }

    fn put_sticky(&self, folder: &Path, name: &Path) {
        self.put(Exit::PERMISSION, || {
            format!(
                "cannot move or remove {}: it belongs to another user, and so does its folder {}, which has the sticky bit; \
                 nothing was changed\n\
                 help: run as the owner of the folder, or remove the sticky bit with `chmod -t {}`, then run again",
                name.display(),
                folder.display(),
                folder.display()
            )
        });
    }

    fn put(&self, exit: Exit, message: impl FnOnce() -> String) {
        if let Ok(mut found) = self.found.lock() {
            found.get_or_insert_with(|| Refusal { exit, message: message() });
        }
    }
}

#[cfg(target_os = "linux")]
fn properties(path: &Path) -> io::Result<Properties> {
    use rustix::fs::{StatxAttributes, StatxFlags};
    let mask = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::UID | StatxFlags::MNT_ID;
    let stat = match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, mask) {
        // An old kernel, or a sandbox without the call.
        Err(Errno::NOSYS | Errno::PERM) => return plain_properties(path),
        stat => stat?,
    };
    let has = |flag| stat.stx_attributes_mask.contains(flag) && stat.stx_attributes.contains(flag);
    let mode = u32::from(stat.stx_mode);
    let has_mount = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(Properties {
        place: Place {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            mount: has_mount.then_some(stat.stx_mnt_id),
        },
        uid: stat.stx_uid,
        mode,
        is_dir: rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Directory,
        flag: if has(StatxAttributes::IMMUTABLE) {
            Some("i")
        } else if has(StatxAttributes::APPEND) {
            Some("a")
        } else {
            None
        },
    })
}

#[cfg(not(target_os = "linux"))]
fn properties(path: &Path) -> io::Result<Properties> {
    plain_properties(path)
}

/// Returns the properties that every system reports.
fn plain_properties(path: &Path) -> io::Result<Properties> {
    let meta = fs::symlink_metadata(path)?;
    let device = (u32::try_from(meta.dev() >> 32).unwrap_or_default(), meta.dev() as u32);
    let place = Place { device, mount: None };
    Ok(Properties { place, uid: meta.uid(), mode: meta.mode(), is_dir: meta.is_dir(), flag: None })
}

#[cfg(target_os = "linux")]
fn may_act_as_owner() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    match capabilities(None) {
        Ok(sets) => sets.effective.contains(CapabilitySet::FOWNER),
        Err(_) => rustix::process::geteuid().is_root(),
    }
}

#[cfg(not(target_os = "linux"))]
fn may_act_as_owner() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns whether the file system of a store ignores case, given how to find a file's device and number.
pub(crate) fn ignores_case(root: &Path, identity: impl Fn(&Path) -> Option<(u64, u64)>) -> bool {
    // Every store that goes back has this folder.
    let plain = identity(&root.join("modules"));
    plain.is_some() && plain == identity(&root.join("MODULES"))
}

/// Returns the device and the number of a file.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make folders by hand")]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_ignores_case_is_recognised() {
        let dir = testkit::tempdir();
        fs::create_dir(dir.path().join("modules")).unwrap();
        let folding = |path: &Path| {
            let name = path.file_name()?.to_str()?.to_lowercase();
            identity(&path.with_file_name(name))
        };
        assert!(ignores_case(dir.path(), folding));
        assert!(!ignores_case(dir.path(), identity));
        fs::create_dir(dir.path().join("MODULES")).unwrap();
        assert!(!ignores_case(dir.path(), identity));
    }

    #[test]
    fn folders_that_were_checked_are_not_checked_again() {
        let dir = testkit::tempdir();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b/v1")).unwrap();
        fs::create_dir_all(root.join("a/c/v1")).unwrap();
        let folders = Folders::below(root).unwrap();
        let mut chain = Chain::default();
        let names = |chain: &Chain| {
            chain.0.iter().map(|(path, _)| path.strip_prefix(root).unwrap().to_owned()).collect::<Vec<_>>()
        };
        folders.enter(&root.join("a/b/v1/none"), &mut chain).unwrap();
        assert_eq!(names(&chain), ["", "a", "a/b", "a/b/v1"].map(PathBuf::from));
        folders.enter(&root.join("a/c"), &mut chain).unwrap();
        assert_eq!(names(&chain), ["", "a", "a/c"].map(PathBuf::from));
        assert!(folders.refusal().is_none());
    }
}
