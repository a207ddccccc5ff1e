//! The stored versions whose zips are being sent to clients. Eviction keeps these.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

use stoa_gomod::ModuleVersion;

use crate::lock::lock;

/// The number of parts that are locked by themselves, so that workers rarely wait for each other.
const PARTS: usize = 16;

/// The versions that are being sent, each with the number of answers.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    parts: [Mutex<HashMap<ModuleVersion, usize>>; PARTS],
    hasher: RandomState,
}

/// An answer that sends a version. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct SendingGuard {
    sending: Arc<Sending>,
    version: ModuleVersion,
}

impl Sending {
    /// Records that a version is being sent, until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>, version: &ModuleVersion) -> SendingGuard {
        *lock(self.part(version)).entry(version.clone()).or_default() += 1;
        SendingGuard { sending: Arc::clone(self), version: version.clone() }
    }

    /// Returns whether a version is being sent.
    pub(crate) fn is_sending(&self, version: &ModuleVersion) -> bool {
        lock(self.part(version)).contains_key(version)
    }

    #[expect(clippy::indexing_slicing, reason = "the index is below the number of parts")]
    fn part(&self, version: &ModuleVersion) -> &Mutex<HashMap<ModuleVersion, usize>> {
        &self.parts[self.hasher.hash_one(version) as usize % PARTS]
    }
}

impl SendingGuard {
    /// Returns the version.
    pub(crate) fn version(&self) -> &ModuleVersion {
        &self.version
    }
}

impl Drop for SendingGuard {
    fn drop(&mut self) {
        let mut part = lock(self.sending.part(&self.version));
        if let Some(count) = part.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                part.remove(&self.version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_sent_until_its_last_answer_ends() {
        let sending = Arc::<Sending>::default();
        let parse = |text| ModuleVersion::parse(text).unwrap();
        let (version, other) = (parse("example.com/m@v1.0.0"), parse("example.com/m@v1.0.1"));
        let first = sending.begin(&version);
        let second = sending.begin(&version);
        drop(first);
        assert!(sending.is_sending(&version) && !sending.is_sending(&other));
        assert_eq!(second.version(), &version);
        drop(second);
        assert!(!sending.is_sending(&version));
        assert!(sending.parts.iter().all(|part| lock(part).is_empty()));
    }
}
