//! Quarantine: `quarantine/UNIQUE/` holds what proved broken while the store was in use, with the reason.
//!
//! `reason.toml` is written whole before anything is moved in beside it, as `version`. A crash in between
//! leaves a reason without a version, which the next start removes.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stoa_gomod::ModuleVersion;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, marker};

use crate::paths::Paths;
use crate::{Claim, Store, StoreError, staging};

/// Why something is in quarantine: the content of `reason.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The module path, plain.
    pub module: String,
    /// The version.
    pub version: String,
    /// Where it was, relative to the root.
    pub path: PathBuf,
    /// When it was put there, RFC 3339 in UTC.
    pub at: String,
    /// What is wrong with it.
    pub reason: String,
}

const REASON: &str = "reason.toml";
const CONTENT: &str = "version";

impl Store {
    /// Moves whatever is at the place of the claimed version to quarantine.
    pub(crate) fn quarantine(&self, claim: &Claim, reason: &str) -> Result<(), StoreError> {
        let path = self.paths.version(claim.version());
        log::error!("{} goes to quarantine: {reason}", claim.version());
        self.quarantine_folder(claim, &path, reason)
    }

    pub(crate) fn quarantine_folder(
        &self,
        claim: &Claim,
        path: &Path,
        reason: &str,
    ) -> Result<(), StoreError> {
        let version = claim.version();
        let quarantine = self.paths.quarantine();
        let entry = self.durable.create_dir_named(&quarantine, &stem())?;
        let why = Quarantined {
            module: version.path().to_string(),
            version: version.version().to_string(),
            path: path.strip_prefix(self.root()).unwrap_or(path).to_owned(),
            at: marker::now(),
            reason: reason.to_owned(),
        };
        let moved = self.fill_entry(&entry, &why, path);
        if moved.is_err() && !entry.join(CONTENT).exists() {
            // Nothing was moved: take back what was made for it. Swept at the next start if this fails too.
            let _ = durable::remove_tree(&entry);
        }
        self.forget(version);
        moved.map_err(StoreError::from)
    }

    fn fill_entry(&self, entry: &Path, why: &Quarantined, from: &Path) -> Result<(), PathError> {
        // Only strings: there is nothing in it that TOML could not say.
        let text = toml::to_string(why).unwrap_or_default();
        let temporary = entry.join(".reason");
        staging::write(&self.durable, &temporary, text.as_bytes())?;
        durable::rename(&temporary, &entry.join(REASON))?;
        durable::sync_dir(entry)?;
        durable::sync_dir(&self.paths.quarantine())?;
        match durable::rename_noreplace(from, &entry.join(CONTENT)) {
            // Gone already: a removal by another process.
            Err(error) if error.is_not_found() => return Err(error),
            result => result?,
        }
        durable::sync_dir(entry)?;
        match from.parent() {
            Some(parent) => durable::sync_dir(parent),
            None => Ok(()),
        }
    }
}

/// Names that sort by time are easier on people.
fn stem() -> String {
    let mut stem: String = marker::now().chars().filter(|c| *c != '-' && *c != ':').collect();
    stem.push('-');
    stem
}

/// Removes entries that a process died over before it moved anything in. One that another process is at just
/// now is told by its claim.
pub(crate) fn sweep(paths: &Paths, durable: &Durable) -> Result<(), StoreError> {
    let quarantine = paths.quarantine();
    for entry in fs::read_dir(&quarantine).at("list", &quarantine)? {
        let path = entry.at("list", &quarantine)?.path();
        let is_empty = path.is_dir() && fs::symlink_metadata(path.join(CONTENT)).is_err();
        if is_empty && is_abandoned(paths, durable, &path)? {
            durable::remove_tree(&path)?;
        }
    }
    Ok(())
}

fn is_abandoned(paths: &Paths, durable: &Durable, entry: &Path) -> Result<bool, StoreError> {
    let text = fs::read_to_string(entry.join(REASON)).unwrap_or_default();
    let version = toml::from_str::<Quarantined>(&text)
        .ok()
        .and_then(|why| ModuleVersion::parse(&format!("{}@{}", why.module, why.version)).ok());
    match version {
        Some(version) => {
            let claim = Claim::try_take(&paths.claims(), durable, &version)?;
            Ok(claim.is_some() && fs::symlink_metadata(entry.join(CONTENT)).is_err())
        }
        // No reason yet: its owner, if it lives, has just made the folder. Only old ones are abandoned.
        None => {
            let age = fs::metadata(entry)
                .and_then(|meta| meta.modified())
                .ok()
                .and_then(|time| time.elapsed().ok());
            Ok(age.is_some_and(|age| age > std::time::Duration::from_secs(60)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, open, put_unsealed, quarantined, version};
    use stoa_layout::gate::Mode;

    #[test]
    fn an_entry_says_what_where_when_and_why() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put_unsealed(&fixture.store, &v, b"no zip");
        fixture.store.seal(&v).unwrap();
        let entry = fs::read_dir(fixture.store.paths.quarantine()).unwrap().next().unwrap().unwrap().path();
        let why: Quarantined = toml::from_str(&fs::read_to_string(entry.join(REASON)).unwrap()).unwrap();
        assert_eq!((why.module.as_str(), why.version.as_str()), ("example.com/m", "v1.0.0"));
        assert_eq!(why.path, Path::new("modules/example.com/m/@v/v1.0.0"));
        assert!(why.reason.starts_with("its zip: "), "{}", why.reason);
        assert_eq!(fs::read(entry.join(CONTENT).join("zip")).unwrap(), b"no zip");
    }

    #[test]
    fn a_reason_without_a_version_is_swept() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put_unsealed(&fixture.store, &v, b"no zip");
        fixture.store.seal(&v).unwrap();
        let quarantine = fixture.store.paths.quarantine();
        let kept = fs::read_dir(&quarantine).unwrap().next().unwrap().unwrap().path();
        let abandoned = quarantine.join("abandoned");
        fs::create_dir(&abandoned).unwrap();
        fs::copy(kept.join(REASON), abandoned.join(REASON)).unwrap();
        let claim = fixture.store.claim(&v).unwrap();
        drop(open(fixture.dir.path(), Mode::ReadWrite));
        assert!(abandoned.exists(), "its owner is alive");
        drop(claim);
        drop(open(fixture.dir.path(), Mode::ReadWrite));
        assert!(!abandoned.exists());
        assert_eq!(quarantined(fixture.dir.path()).len(), 1);
    }
}
