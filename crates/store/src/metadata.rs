//! The metadata of a file or folder, with all fields that the store relies on.
//!
//! A file system may leave out fields (`stx_mask`), and the kernel then reports zeros. A seal would be valid although its
//! zip was written to. So a missing field is an error.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The metadata of a file or folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metadata {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// The number of names.
    pub(crate) links: u64,
    /// The size in bytes.
    pub(crate) length: u64,
    /// The time of the last write, in seconds since 1970 and nanoseconds.
    pub(crate) written: (i64, i64),
    /// The time of the last change, which cannot be set.
    pub(crate) changed: (i64, i64),
    mode: u32,
}

impl Metadata {
    /// Returns the metadata of a path; a symlink is not followed.
    pub(crate) fn of_path(path: &Path) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        return linux::stat(rustix::fs::CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .unwrap_or_else(|| Ok(Self::of_std(&std::fs::symlink_metadata(path)?)));
        #[cfg(not(target_os = "linux"))]
        Ok(Self::of_std(&std::fs::symlink_metadata(path)?))
    }

    /// Returns the metadata of an open file.
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        return linux::stat(file, Path::new(""), rustix::fs::AtFlags::EMPTY_PATH)
            .unwrap_or_else(|| Ok(Self::of_std(&file.metadata()?)));
        #[cfg(not(target_os = "linux"))]
        Ok(Self::of_std(&file.metadata()?))
    }

    fn of_std(meta: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            links: meta.nlink(),
            length: meta.len(),
            written: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            mode: meta.mode(),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        rustix::fs::FileType::from_raw_mode(self.mode as _).is_dir()
    }

    pub(crate) fn is_file(&self) -> bool {
        rustix::fs::FileType::from_raw_mode(self.mode as _).is_file()
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Returns the time of the last write. Fails if the program cannot represent it.
    pub(crate) fn modified(&self) -> io::Result<SystemTime> {
        let (seconds, nanoseconds) = self.written;
        let (seconds_away, nanoseconds) =
            (Duration::from_secs(seconds.unsigned_abs()), Duration::from_nanos(nanoseconds.unsigned_abs()));
        let whole = match seconds >= 0 {
            true => SystemTime::UNIX_EPOCH.checked_add(seconds_away),
            false => SystemTime::UNIX_EPOCH.checked_sub(seconds_away),
        };
        whole
            .and_then(|whole| whole.checked_add(nanoseconds))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its time is out of range"))
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::AsFd;
    use std::path::Path;

    use rustix::fs::{AtFlags, Statx, StatxFlags, makedev, statx};
    use rustix::io::Errno;

    use super::Metadata;

    /// The fields that the store relies on.
    const FIELDS: StatxFlags = StatxFlags::TYPE
        .union(StatxFlags::NLINK)
        .union(StatxFlags::MTIME)
        .union(StatxFlags::CTIME)
        .union(StatxFlags::INO)
        .union(StatxFlags::SIZE);

    /// Returns the metadata, with one system call. `None` if the kernel or a filter of system calls has no `statx`.
    pub(super) fn stat(folder: impl AsFd, path: &Path, flags: AtFlags) -> Option<io::Result<Metadata>> {
        let folder = folder.as_fd();
        let mut found = statx(folder, path, flags, FIELDS);
        if found.as_ref().is_ok_and(|found| !is_complete(found)) {
            // A network file system may know the fields once it asks its server.
            found = statx(folder, path, flags | AtFlags::STATX_FORCE_SYNC, FIELDS);
        }
        match found {
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(errno) => Some(Err(errno.into())),
            Ok(found) => Some(checked(&found)),
        }
    }

    fn is_complete(found: &Statx) -> bool {
        StatxFlags::from_bits_retain(found.stx_mask).contains(FIELDS)
    }

    pub(super) fn checked(found: &Statx) -> io::Result<Metadata> {
        if !is_complete(found) {
            let reason = "the file system does not report its inode, size and times";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        Ok(Metadata {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            links: found.stx_nlink.into(),
            length: found.stx_size,
            written: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into()),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec.into()),
            mode: found.stx_mode.into(),
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_missing_field_is_an_error() {
            let dir = testkit::tempdir();
            let mut found = statx(rustix::fs::CWD, dir.path(), AtFlags::empty(), FIELDS).unwrap();
            checked(&found).unwrap();
            for field in FIELDS.iter() {
                let whole = found.stx_mask;
                found.stx_mask &= !field.bits();
                assert_eq!(checked(&found).unwrap_err().kind(), io::ErrorKind::Unsupported, "{field:?}");
                found.stx_mask = whole;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_metadata_is_that_of_the_standard_library() {
        let dir = testkit::tempdir();
        let path = dir.path().join("f");
        fs::write(&path, "content").unwrap();
        let file = File::open(&path).unwrap();
        for (seconds, nanoseconds) in [(0, 0), (7, 5)] {
            let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            for time in [time, SystemTime::UNIX_EPOCH - Duration::new(seconds, nanoseconds)] {
                file.set_modified(time).unwrap();
                let expected = Metadata::of_std(&fs::metadata(&path).unwrap());
                for meta in [Metadata::of_path(&path), Metadata::of_file(&file)] {
                    let meta = meta.unwrap();
                    assert_eq!(format!("{meta:?}"), format!("{expected:?}"));
                    assert_eq!(meta.modified().unwrap(), time);
                    assert!(meta.is_file() && !meta.is_dir() && meta.len() == 7);
                }
            }
        }
        assert!(Metadata::of_path(dir.path()).unwrap().is_dir());
    }
}
