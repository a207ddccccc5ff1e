//! Whether the disk has room for new versions.
//!
//! A write that finds no space says so, and a published version says that there is space again. Between the two,
//! [`Store::is_full`] tries to write.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stoa_layout::durable;

use crate::files::lock;
use crate::{Store, StoreError};

/// The state of the disk, as far as this process knows.
#[derive(Debug, Default)]
pub(crate) struct Space {
    is_full: AtomicBool,
    is_limited: AtomicBool,
    tried: Mutex<Option<Instant>>,
}

/// The number of bytes that must be free.
const NEEDED: u64 = 64 << 10;

/// The number of inodes that must be free: a version has a folder and four files.
const NEEDED_INODES: u64 = 8;

/// The time between two attempts to write.
const PAUSE: Duration = Duration::from_secs(5);

impl Store {
    /// Returns whether the disk has no room for new versions, and logs each change. If the disk may be full, this tries to
    /// write a small file, at most once in five seconds.
    pub fn is_full(&self) -> bool {
        if self.is_read_only() {
            return false;
        }
        if self.space.is_full.load(Ordering::Relaxed) || self.reserve.is_short() || self.is_nearly_full() {
            let mut tried = lock(&self.space.tried);
            if tried.is_none_or(|at| at.elapsed() >= PAUSE) {
                *tried = Some(Instant::now());
                match self.try_to_write() {
                    Ok(()) => {
                        self.note_space();
                        self.reserve.fill_if_short();
                    }
                    Err(error) => self.note_failure(&error),
                }
            }
        }
        self.space.is_full.load(Ordering::Relaxed)
    }

    /// Returns whether a version was larger than the limit of the size of files, since this process has started.
    pub fn has_size_limit(&self) -> bool {
        self.space.is_limited.load(Ordering::Relaxed)
    }

    /// Logs that the disk is full, if this error is the first that says so.
    pub fn note_failure(&self, error: &StoreError) {
        // It says nothing about the disk. The error itself is logged by its caller.
        if error.is_over_size_limit() {
            self.space.is_limited.store(true, Ordering::Relaxed);
            return;
        }
        if error.is_out_of_space() && !self.space.is_full.swap(true, Ordering::Relaxed) {
            log::warn!(
                store:% = self.root().display(), reason:% = error;
                "the disk is full: stored versions are served and nothing is added"
            );
        }
    }

    /// Logs that there is space again, if the disk was full.
    pub(crate) fn note_space(&self) {
        if self.space.is_full.load(Ordering::Relaxed) && self.space.is_full.swap(false, Ordering::Relaxed) {
            log::warn!(
                store:% = self.root().display();
                "the disk has space again: versions are downloaded on request again"
            );
            self.reserve.fill();
        }
    }

    fn is_nearly_full(&self) -> bool {
        let Ok(state) = rustix::fs::statvfs(self.root()) else { return false };
        let bytes = state.f_bavail.saturating_mul(state.f_frsize);
        // Some file systems have no fixed number of inodes and report 0 of 0.
        bytes < NEEDED || (state.f_files > 0 && state.f_favail < NEEDED_INODES)
    }

    fn try_to_write(&self) -> Result<(), StoreError> {
        let staged = self.staging()?.fresh();
        self.durable.create_dir(&staged)?;
        let written = || {
            let path = staged.join("space");
            let file = self.durable.create_file(&path)?;
            durable::allocate(&file, &path, NEEDED)
        };
        let written = written();
        durable::remove_tree(&staged)?;
        Ok(written?)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use stoa_layout::PathError;

    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn a_limit_of_the_size_of_files_is_not_a_full_disk() {
        let store = &Fixture::new().store;
        assert!(!store.has_size_limit());
        for (errno, is_full) in [(Errno::FBIG, false), (Errno::NOSPC, true)] {
            store.note_failure(&PathError::new("write", "x", errno).into());
            assert_eq!(store.space.is_full.load(Ordering::Relaxed), is_full, "{errno}");
            assert!(store.has_size_limit());
        }
    }
}
