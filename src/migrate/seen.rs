//! Remembers which paths were reported, because two steps may meet the same leftover.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Mutex;

/// Maximum number of remembered paths. It bounds the memory; further paths may be reported twice.
const REMEMBERED: usize = 1 << 16;

/// The paths seen so far.
#[derive(Debug, Default)]
pub(super) struct SeenOnce {
    hasher: RandomState,
    hashes: Mutex<HashSet<u64>>,
}

impl SeenOnce {
    /// Remembers a path and returns whether it is new.
    pub(super) fn is_new(&self, path: &Path) -> bool {
        let hash = self.hasher.hash_one(path.as_os_str());
        let Ok(mut hashes) = self.hashes.lock() else { return true };
        if hashes.len() >= REMEMBERED { !hashes.contains(&hash) } else { hashes.insert(hash) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_new_once() {
        let seen = SeenOnce::default();
        assert!(seen.is_new(Path::new("/s/a")) && seen.is_new(Path::new("/s/b")));
        assert!(!seen.is_new(Path::new("/s/a")));
    }
}
