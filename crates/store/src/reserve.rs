//! The reserve: space for the records of removals on a full disk.
//!
//! ```text
//! staging/reserve/space      a file of 1 MiB, with real blocks; begins with its inode number and a line feed
//! staging/reserve/inode-N    empty folders, for file systems with a fixed number of inodes
//! ```
//!
//! A version is removed after its record is written, so on a full disk nothing could be removed. A removal that finds
//! no space cuts a piece off the file and removes one of the folders, and tries again. After the removal the reserve
//! is filled again. A process that is killed in between leaves a smaller reserve, which the next start fills. No lock
//! is needed: several processes may take pieces at once, and a piece that two take at the same time is only missed.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;

use crate::files::{metadata, open_file};
use crate::paths::Paths;
use crate::{Store, StoreError};

/// The size of the file.
const BYTES: u64 = 1 << 20;

/// The number of bytes that one attempt takes.
const PIECE: u64 = 64 << 10;

/// The number of empty folders.
const INODES: u32 = 32;

/// The reserve of a store.
#[derive(Debug)]
pub(crate) struct Reserve {
    folder: PathBuf,
    durable: Durable,
    /// Whether this process has taken something, or could not fill it.
    is_short: AtomicBool,
}

impl Reserve {
    pub(crate) fn new(paths: &Paths, durable: Durable) -> Self {
        Self { folder: paths.reserve(), durable, is_short: AtomicBool::new(false) }
    }

    /// Fills the reserve again, as far as there is space. Not fatal: without a reserve everything works until the disk
    /// is full.
    pub(crate) fn fill(&self) {
        match self.try_fill() {
            Ok(()) => self.is_short.store(false, Ordering::Relaxed),
            Err(error) => {
                self.is_short.store(true, Ordering::Relaxed);
                log::debug!(reason:% = error; "cannot fill the reserve for records");
            }
        }
    }

    /// Returns whether this process has taken something, or could not fill the reserve.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Fills the reserve again if this process has taken something, or could not fill it.
    pub(crate) fn fill_if_short(&self) {
        if self.is_short() {
            self.fill();
        }
    }

    fn try_fill(&self) -> Result<(), PathError> {
        // A symlink in its place is an error.
        self.durable.ensure_dir(&self.folder)?;
        let mut names = match fs::read_dir(&self.folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect(),
            Err(_) => Vec::new(),
        };
        names.sort();
        for number in 0..INODES {
            let name = inode(number);
            if names.binary_search(&name.as_str().into()).is_err() {
                self.durable.ensure_dir(&self.folder.join(name))?;
            }
        }
        let path = self.space();
        match metadata(&path)? {
            Some(meta) if meta.links > 1 || !is_filled_here(&path)? => durable::remove_file(&path)?,
            Some(meta) if meta.len() >= BYTES => return Ok(()),
            _ => {}
        }
        let file = self.durable.open_or_create(&path)?;
        durable::allocate(&file, &path, BYTES)?;
        let inode = file.metadata().at("stat", &path)?.ino();
        file.write_all_at(name_of(inode).as_bytes(), 0).at("write", &path)
    }

    /// Frees a part of the reserve. Returns whether there was any.
    fn take(&self) -> bool {
        // Nothing behind a symlink is part of the reserve.
        if !metadata(&self.folder).is_ok_and(|meta| meta.is_some_and(|meta| meta.is_dir())) {
            return false;
        }
        self.is_short.store(true, Ordering::Relaxed);
        let has_inode = (0..INODES)
            .rev()
            .any(|number| matches!(durable::remove_empty_dir(&self.folder.join(inode(number))), Ok(true)));
        let has_space = self.take_space().unwrap_or_else(|error| {
            log::debug!(reason:% = error; "cannot take from the reserve for records");
            false
        });
        has_inode || has_space
    }

    fn take_space(&self) -> Result<bool, PathError> {
        let path = self.space();
        let Some(meta) = metadata(&path)?.filter(|meta| meta.is_file() && meta.len() > 0) else {
            return Ok(false);
        };
        if meta.links > 1 {
            // A copy of the store made with hard links keeps its reserve, so there are no blocks to free here.
            durable::remove_file(&path)?;
            return Ok(false);
        }
        let file = self.durable.open_or_create(&path)?;
        durable::cut(&file, &path, meta.len().saturating_sub(PIECE))?;
        Ok(true)
    }

    fn space(&self) -> PathBuf {
        self.folder.join("space")
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.fill_if_short();
    }
}

/// Returns whether a file names its own inode and has blocks for its length. The file of a copy may be sparse, or share its
/// blocks with the original, so cutting it would free nothing.
fn is_filled_here(path: &Path) -> Result<bool, PathError> {
    let Some((file, meta)) = open_file(path)? else { return Ok(false) };
    let name = name_of(meta.inode);
    let mut there = vec![0; name.len()];
    let blocks = file.metadata().at("stat", path)?.blocks();
    Ok(file.read_exact_at(&mut there, 0).is_ok() && there == name.as_bytes() && blocks * 512 >= meta.len())
}

/// Returns the first line of the file.
fn name_of(inode: u64) -> String {
    format!("{inode}\n")
}

fn inode(number: u32) -> String {
    format!("inode-{number}")
}

impl Store {
    /// Writes, with space of the reserve if the disk is full. `write` may be called several times.
    pub(crate) fn with_reserve<T>(&self, write: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match write() {
                Err(error) if error.is_out_of_space() && self.reserve.take() => {}
                result => return result,
            }
        }
    }

    /// Creates the reserve, or fills it, as far as there is space. A server does this at its start.
    pub fn fill_reserve(&self) {
        if self.is_read_only() {
            return;
        }
        self.reserve.fill();
        // The first claim of a store would need an inode.
        if let Err(error) = self.durable.open_or_create(&self.paths.claims()) {
            log::debug!(reason:% = error; "cannot create the file of the claims yet");
        }
    }

    /// Fills the reserve again after a removal that has taken something.
    pub(crate) fn fill_used_reserve(&self) {
        self.reserve.fill_if_short();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rustix::io::Errno;

    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn the_reserve_of_a_hard_linked_copy_is_left_alone() {
        let fixture = Fixture::new();
        let reserve = &fixture.store.reserve;
        let copy = fixture.store.root().join("copy");
        let is_shared = || fs::metadata(&copy).unwrap().nlink() > 1;
        let take = |reserve: &Reserve| assert!(reserve.take());
        for change in [take, Reserve::fill] {
            reserve.fill();
            fs::hard_link(reserve.space(), &copy).unwrap();
            change(reserve);
            assert!(!is_shared());
            assert_eq!(fs::metadata(&copy).unwrap().len(), BYTES);
            fs::remove_file(&copy).unwrap();
        }
        assert_eq!(fs::metadata(reserve.space()).unwrap().len(), BYTES);
    }

    #[test]
    fn the_file_of_a_copy_is_replaced() {
        let fixture = Fixture::new();
        let reserve = &fixture.store.reserve;
        reserve.fill();
        let (path, copy) = (reserve.space(), fixture.store.root().join("copy"));
        for is_sparse in [false, true] {
            fs::copy(&path, &copy).unwrap();
            if is_sparse {
                let first = fs::read(&path).unwrap()[..32].to_owned();
                fs::write(&copy, first).unwrap();
                fs::OpenOptions::new().write(true).open(&copy).unwrap().set_len(BYTES).unwrap();
            }
            fs::rename(&copy, &path).unwrap();
            for _ in 0..2 {
                reserve.fill();
                let meta = fs::metadata(&path).unwrap();
                assert!(meta.len() == BYTES && meta.blocks() * 512 >= BYTES);
                assert!(fs::read(&path).unwrap().starts_with(name_of(meta.ino()).as_bytes()));
            }
        }
        // Its blocks were freed by another program.
        let inode = fs::metadata(&path).unwrap().ino();
        fs::write(&path, name_of(inode)).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(BYTES).unwrap();
        reserve.fill();
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= BYTES);
    }

    #[test]
    fn nothing_is_made_or_taken_through_a_symlink() {
        let fixture = Fixture::new();
        let (reserve, elsewhere) = (&fixture.store.reserve, testkit::tempdir());
        fs::write(elsewhere.path().join("space"), "precious").unwrap();
        fs::create_dir(elsewhere.path().join("inode-0")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &reserve.folder).unwrap();
        reserve.fill();
        assert!(!reserve.take());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 2);
        assert_eq!(fs::read_to_string(elsewhere.path().join("space")).unwrap(), "precious");
    }

    #[test]
    fn a_reserve_that_could_not_be_filled_is_filled_later() {
        let fixture = Fixture::new();
        let reserve = &fixture.store.reserve;
        fs::write(&reserve.folder, "in the way").unwrap();
        fixture.store.fill_reserve();
        fs::remove_file(&reserve.folder).unwrap();
        assert!(!fixture.store.is_full());
        assert_eq!(fs::metadata(reserve.space()).unwrap().len(), BYTES);
    }

    #[test]
    fn the_reserve_is_taken_piece_by_piece_and_filled_again() {
        let fixture = Fixture::new();
        let reserve = &fixture.store.reserve;
        assert!(!reserve.folder.exists());
        fixture.store.fill_reserve();
        let space = || fs::metadata(reserve.space()).unwrap().len();
        let inodes = || fs::read_dir(&reserve.folder).unwrap().count() - 1;
        assert_eq!((space(), inodes()), (BYTES, 32));
        let attempts = Cell::new(0);
        let full = || -> Result<(), StoreError> {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                4 => Ok(()),
                _ => Err(PathError::new("write", "x", Errno::NOSPC).into()),
            }
        };
        fixture.store.with_reserve(full).unwrap();
        assert_eq!((attempts.get(), space(), inodes()), (4, BYTES - 3 * PIECE, 29));
        fixture.store.fill_used_reserve();
        assert_eq!((space(), inodes()), (BYTES, 32));
        // A disk that stays full ends the attempts.
        let failed = fixture.store.with_reserve(|| -> Result<(), StoreError> {
            Err(PathError::new("write", "x", Errno::DQUOT).into())
        });
        assert!(failed.is_err_and(|error| error.is_out_of_space()));
        assert_eq!((space(), inodes()), (0, 0));
        let other = fixture.store.with_reserve(|| -> Result<(), StoreError> {
            Err(PathError::new("write", "x", Errno::IO).into())
        });
        assert!(other.is_err_and(|error| !error.is_out_of_space()));
    }
}
