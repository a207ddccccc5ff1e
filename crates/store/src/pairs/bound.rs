//! The bound on the total size of the pairs. Files count in blocks of 4 KiB.
//!
//! A writer that finds too much removes the files with the oldest times. Its own pair stays, since clients wait for it.
//! Other processes write pairs, too. So a process counts the files on disk again after it has written 1/16 of the bound.

use std::path::Path;
use std::sync::Mutex;

use stoa_gomod::Version;

use super::Pairs;
use crate::StoreError;
use crate::cache::{dated_files, is_below, is_hex, remove_oldest};
use crate::files::{list, lock};

/// The total size of the pairs, as far as this process knows. `None` before the first write.
#[derive(Debug, Default)]
pub(crate) struct KnownBytes(Mutex<Option<Counted>>);

#[derive(Debug, Clone, Copy)]
struct Counted {
    /// The total size.
    bytes: u64,
    /// The part that this process has written since it counted the files on disk.
    since: u64,
}

/// The unit in which files count.
pub(super) const BLOCK: u64 = 4096;

/// A process counts the files on disk again after it has written this part of the bound.
const RECOUNTED_PART: u64 = 16;

impl Pairs<'_> {
    /// Removes the least recently used pairs if all pairs together exceed `max_bytes`. A pair of `written` bytes was just
    /// written to the path `kept`, and stays.
    pub(super) fn keep_within(&self, max_bytes: u64, written: u64, kept: &Path) -> Result<(), StoreError> {
        let written = charged(written);
        let mut known = lock(&self.0.pair_bytes.0);
        let counted =
            known.map(|Counted { bytes, since }| Counted { bytes: bytes + written, since: since + written });
        let is_counted =
            |counted: &Counted| counted.bytes <= max_bytes && counted.since <= max_bytes / RECOUNTED_PART;
        *known = Some(match counted.filter(is_counted) {
            Some(counted) => counted,
            None => Counted { bytes: self.make_room(max_bytes, kept)?, since: 0 },
        });
        Ok(())
    }

    /// Removes the least recently used pairs except one until 7/8 of the bound is left. Returns the size of the rest.
    fn make_room(&self, max_bytes: u64, kept: &Path) -> Result<u64, StoreError> {
        let mut files = Vec::new();
        for folder in list(&self.root())? {
            let is_ours =
                folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_hex(name, 64));
            match is_below(self.0, &folder) {
                Ok(true) if is_ours => {
                    files.append(&mut dated_files(&folder, |name| Version::unescape(name).is_ok())?);
                }
                // Files that a symlink leads to belong to somebody else.
                Err(error) => log::debug!(reason:% = error; "cannot remove pairs from the cache"),
                Ok(_) => {}
            }
        }
        for file in &mut files {
            file.bytes = charged(file.bytes);
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        if bytes <= max_bytes {
            return Ok(bytes);
        }
        files.retain(|file| file.path != kept);
        Ok(remove_oldest(files, bytes, |_, bytes| bytes <= max_bytes / 8 * 7)?)
    }
}

fn charged(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}
