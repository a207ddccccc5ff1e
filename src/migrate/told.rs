//! Tells each leftover once, though two steps on the way may both meet it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Mutex;

/// How many are remembered, so that memory does not grow with the store. Of more some may be told twice.
const REMEMBERED: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Told {
    hasher: RandomState,
    hashes: Mutex<HashSet<u64>>,
}

impl Told {
    /// Whether the path is told for the first time, as far as that is remembered.
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
    fn each_is_new_once() {
        let told = Told::default();
        assert!(told.is_new(Path::new("/s/a")) && told.is_new(Path::new("/s/b")));
        assert!(!told.is_new(Path::new("/s/a")));
    }
}
