//! Copies the content of a file into another file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::PathError;

/// A copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The original could not be read.
    #[error(transparent)]
    Read(PathError),
    /// The copy could not be written.
    #[error(transparent)]
    Write(PathError),
}

impl CopyError {
    /// Returns the error of the side that failed.
    pub fn into_inner(self) -> PathError {
        match self {
            Self::Read(error) | Self::Write(error) => error,
        }
    }
}

/// Size of the copy buffer.
const COPIED_AT_ONCE: usize = 256 << 10;

/// Fills an empty file with the content of another file, by sharing its blocks if the file system can and else by
/// copying. A later write to either file does not change the other. Nothing is synced. Each number of copied bytes goes
/// to `copied`.
pub fn clone_or_copy(
    (from, from_path): (&File, &Path),
    (to, to_path): (&File, &Path),
    copied: &dyn Fn(u64),
) -> Result<(), CopyError> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        copied(to.metadata().map_or(0, |meta| meta.len()));
        return Ok(());
    }
    let mut buffer = vec![0; COPIED_AT_ONCE];
    let mut at = 0;
    loop {
        let count = match from.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(PathError::new("read", from_path, error))),
        };
        to.write_all_at(&buffer[..count], at)
            .map_err(|error| CopyError::Write(PathError::new("write", to_path, error)))?;
        at += count as u64;
        copied(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Durable;
    use super::*;

    #[test]
    fn a_copy_has_the_same_content_and_is_independent() {
        let dir = testkit::tempdir();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for size in [0, 1, COPIED_AT_ONCE, 3 * COPIED_AT_ONCE + 7] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            fs::write(&from, &content).unwrap();
            let original = File::open(&from).unwrap();
            let copy = Durable::default().create_file(&to).unwrap();
            let copied = std::cell::Cell::new(0);
            let count = |bytes| copied.set(copied.get() + bytes);
            clone_or_copy((&original, &from), (&copy, &to), &count).unwrap();
            assert_eq!(copied.get(), size as u64);
            fs::write(&from, "changed").unwrap();
            assert!(fs::read(&to).unwrap() == content, "{size}");
            fs::remove_file(&to).unwrap();
        }
    }

    #[test]
    fn a_failed_copy_names_the_side_that_failed() {
        let dir = testkit::tempdir();
        let (folder, file) = (File::open(dir.path()).unwrap(), dir.path().join("f"));
        let made = Durable::default().create_file(&file).unwrap();
        let unreadable = clone_or_copy((&folder, dir.path()), (&made, &file), &|_| {});
        assert!(matches!(unreadable, Err(CopyError::Read(error)) if error.path == dir.path()));
        fs::write(&file, "x").unwrap();
        let reader = File::open(&file).unwrap();
        let unwritable = clone_or_copy((&made, &file), (&reader, &file), &|_| {});
        assert!(matches!(unwritable, Err(CopyError::Write(error)) if error.path == file));
    }
}
