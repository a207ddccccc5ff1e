//! The state in memory of the seal of a version, and of an open zip.

use std::time::{Duration, Instant};

use stoa_gomod::{H1, ModuleVersion};

use crate::files::Stamp;
use crate::{Store, StoreError};

/// How long a check of a folder is valid.
pub(crate) const CHECK_VALID: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct KnownSeal {
    /// The seal and the stamp of its zip. `None` if the version is corrupt and the store is read-only.
    seal: Option<(H1, Stamp)>,
    folder: Stamp,
    pub(crate) checked: Instant,
}

impl KnownSeal {
    /// Returns what this seal says about an open zip. `None` if it belongs to another zip.
    fn of(&self, zip: Stamp) -> Option<SealState> {
        match &self.seal {
            None => Some(SealState::Absent),
            Some((h1, own)) => (*own == zip).then(|| SealState::Sealed(h1.clone())),
        }
    }
}

/// The state of the seal of an open zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SealState {
    /// The version is not in the store, or is corrupt.
    Absent,
    /// The zip was not verified yet.
    Unsealed,
    /// The version was replaced after the zip was opened, so the seal in its folder belongs to another zip.
    Replaced,
    /// The zip has this seal.
    Sealed(H1),
}

impl Store {
    /// Returns the state of the seal of an open zip.
    pub(crate) fn seal_state(&self, version: &ModuleVersion, zip: Stamp) -> Result<SealState, StoreError> {
        let now = Instant::now();
        let known = self.seals.get(version);
        let recent = known.as_ref().filter(|known| known.checked.elapsed() < CHECK_VALID);
        if let Some(state) = recent.and_then(|known| known.of(zip)) {
            return Ok(state);
        }
        let Some(folder) = Stamp::at(&self.paths.version(version))? else { return Ok(SealState::Absent) };
        if let Some(known) = known.filter(|known| known.folder == folder)
            && let Some(state) = known.of(zip)
        {
            self.seals.insert(version.clone(), KnownSeal { checked: now, ..known });
            return Ok(state);
        }
        if !self.has_info(version)? {
            return Ok(SealState::Absent);
        }
        let Some((h1, own)) = self.valid_seal(version, folder)? else { return Ok(SealState::Unsealed) };
        if own != zip {
            return Ok(SealState::Replaced);
        }
        self.remember_seal(version, Some((h1.clone(), zip)), folder);
        Ok(SealState::Sealed(h1))
    }

    /// Keeps in memory the seal of a version with the stamp of its zip, or that the version is corrupt.
    pub(crate) fn remember_seal(&self, version: &ModuleVersion, seal: Option<(H1, Stamp)>, folder: Stamp) {
        self.seals.insert(version.clone(), KnownSeal { seal, folder, checked: Instant::now() });
    }
}
