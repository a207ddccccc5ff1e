//! Takes space on the disk before it is needed, and gives it back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::PathError;
use crate::error::PathContext;

/// The size of one write.
const PIECE: u64 = 64 << 10;

/// Makes a file at least this long, with real blocks on the disk for all of it. Nothing is synced.
pub fn allocate(file: &File, path: &Path, length: u64) -> Result<(), PathError> {
    allocate_by(file, path, length, |length| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length))
}

fn allocate_by(
    file: &File,
    path: &Path,
    length: u64,
    allocate: impl FnOnce(u64) -> Result<(), Errno>,
) -> Result<(), PathError> {
    // macOS has two numbers for an operation that is not supported.
    const UNSUPPORTED: [Errno; 4] = [Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS, Errno::INVAL];
    // On macOS the call cuts a longer file.
    let length = length.max(file.metadata().at("stat", path)?.len());
    match allocate(length) {
        // The file system cannot do it, so the blocks are written.
        Err(errno) if UNSUPPORTED.contains(&errno) => write(file, path, length),
        allocated => allocated.at("allocate space for", path),
    }
}

/// Writes bytes after the end of a file until it has this length.
fn write(file: &File, path: &Path, length: u64) -> Result<(), PathError> {
    let mut at = file.metadata().at("stat", path)?.len();
    // Not zeros, which some file systems do not store.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while at < length {
        let size = usize::try_from((length - at).min(PIECE)).unwrap_or_default();
        let mut piece = Vec::with_capacity(size + 8);
        while piece.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            piece.extend(state.to_le_bytes());
        }
        piece.truncate(size);
        file.write_all_at(&piece, at).at("write", path)?;
        at += size as u64;
    }
    Ok(())
}

/// Cuts a file to a length. Its other blocks are free again.
pub fn cut(file: &File, path: &Path, length: u64) -> Result<(), PathError> {
    file.set_len(length).at("cut", path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_space_of_a_file_is_real_and_can_be_given_back() {
        let dir = testkit::tempdir();
        for allocate in [allocate, write] {
            let path = dir.path().join("space");
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            let blocks = || file.metadata().map(|meta| (meta.len(), meta.blocks() * 512)).unwrap();
            for _ in 0..2 {
                allocate(&file, &path, 300_000).unwrap();
                file.sync_all().unwrap();
                assert!(blocks().0 == 300_000 && blocks().1 >= 300_000, "{:?}", blocks());
            }
            cut(&file, &path, 100_000).unwrap();
            assert!(blocks().0 == 100_000 && blocks().1 < 200_000, "{:?}", blocks());
            allocate(&file, &path, 300_000).unwrap();
            assert_eq!(blocks().0, 300_000);
        }
    }

    #[test]
    fn a_longer_file_is_not_cut_and_an_unsupported_call_is_replaced() {
        let dir = testkit::tempdir();
        let path = dir.path().join("space");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let length = || file.metadata().unwrap().len();
        // As on macOS, where the call sets the length.
        let cutting = |length| file.set_len(length).map_err(|error| Errno::from_io_error(&error).unwrap());
        for (asked, found) in [(300_000, 300_000), (100_000, 300_000), (400_000, 400_000)] {
            allocate_by(&file, &path, asked, cutting).unwrap();
            assert_eq!(length(), found);
        }
        for (at, errno) in (5..).zip([Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS, Errno::INVAL]) {
            allocate_by(&file, &path, at * 100_000, |_| Err(errno)).unwrap();
            assert_eq!(length(), at * 100_000, "{errno}");
        }
        let full = allocate_by(&file, &path, 1_000_000, |_| Err(Errno::NOSPC)).unwrap_err();
        assert!(full.is_out_of_space(), "{full}");
    }
}
