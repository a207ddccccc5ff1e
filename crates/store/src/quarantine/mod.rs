//! Quarantine: `quarantine/UNIQUE/` holds a corrupt version and the reason.
//!
//! An entry is created in staging with its `reason.toml` and renamed to its place. Then the version is moved into it,
//! as `version`. A crash in between leaves a reason without a version, which the next start removes. A version leaves
//! the quarantine by one rename, when it is restored or removed for good.
//!
//! On overlayfs a folder of a lower layer cannot be renamed. Then its files are moved or removed one by one. The info
//! goes first, so that the version is invisible at once.

mod entries;
mod purge;
mod restore;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stoa_gomod::ModuleVersion;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, marker};

use crate::audit::Act;
use crate::change::Change;
use crate::draft::StagedFolder;
use crate::files::{TEXT_LIMIT, is_absent, open_file, read_bounded};
use crate::paths::{Paths, VersionFile};
use crate::{Claim, Store, StoreError, staging};

pub use entries::{QuarantineEntry, each_quarantined};
pub use restore::Restored;

/// The reason why a version is in quarantine: the content of `reason.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The module path, unescaped.
    pub module: String,
    /// The version.
    pub version: String,
    /// The path where the version was, relative to the root.
    pub path: PathBuf,
    /// The time of the move, RFC 3339 in UTC.
    pub at: String,
    /// The fault of the version.
    pub reason: String,
}

impl Quarantined {
    /// Returns the version. `None` if a person wrote something else into the file.
    pub(crate) fn module_version(&self) -> Option<ModuleVersion> {
        ModuleVersion::parse(&format!("{}@{}", self.module, self.version)).ok()
    }
}

/// The quarantine of a store.
#[derive(Debug, Clone, Copy)]
pub struct Quarantine<'a>(&'a Store);

impl Store {
    /// Returns the quarantine of the store.
    pub fn quarantine(&self) -> Quarantine<'_> {
        Quarantine(self)
    }
}

const REASON: &str = "reason.toml";
const CONTENT: &str = "version";

impl Store {
    /// Moves the claimed version to quarantine: it is corrupt, forbidden, or differs from a confirmed hash.
    pub(crate) fn quarantine_version(&self, claim: &Claim, reason: &str) -> Result<(), StoreError> {
        let path = self.paths.version(claim.version());
        log::error!(version:% = claim.version(), reason:% = reason; "moving a version to quarantine");
        self.quarantine_place(claim, &path, reason)
    }

    /// Moves what is in the place of the claimed version, and is no version, to quarantine.
    pub(crate) fn quarantine_obstacle(&self, claim: &Claim, reason: &str) -> Result<(), StoreError> {
        let path = self.paths.version(claim.version());
        log::warn!(
            version:% = claim.version(), path:% = path.display(), reason:% = reason;
            "moving a leftover in the place of a version to quarantine"
        );
        self.quarantine_place(claim, &path, reason)
    }

    fn quarantine_place(&self, claim: &Claim, path: &Path, reason: &str) -> Result<(), StoreError> {
        let moved = self.quarantine_folder(claim, path, reason);
        // Also after an error: the version may have been moved all the same.
        self.changed(claim.version(), Change::Removed);
        moved.and(self.pairs().remove(claim.version()).map(drop))
    }

    /// Moves a folder with the claimed version to quarantine.
    pub(crate) fn quarantine_folder(
        &self,
        claim: &Claim,
        path: &Path,
        reason: &str,
    ) -> Result<(), StoreError> {
        let version = claim.version();
        let why = Quarantined {
            module: version.path().to_string(),
            version: version.version().to_string(),
            path: path.strip_prefix(self.root()).unwrap_or(path).to_owned(),
            at: marker::now(),
            reason: reason.to_owned(),
        };
        let parent = path.parent().unwrap_or(path);
        let parent = durable::Folder::open(self.root(), self.paths.relative(parent))?;
        // First, because on a full disk this fails and nothing is moved.
        let entry = self.new_entry(&why)?;
        self.audit.write(Act::of_version("quarantine", version).because(Some(reason)));
        let moved = self.move_in(path, &parent, &entry);
        if moved.is_err() && fs::symlink_metadata(entry.join(CONTENT)).is_err() {
            // Nothing was moved, so the entry is removed again. If this fails too, the next start removes it.
            let _ = durable::remove_tree(&entry);
        }
        self.forget(version);
        moved.map_err(StoreError::from)
    }

    /// Creates an entry with its reason in staging and renames it, so that no entry is visible without its reason.
    fn new_entry(&self, why: &Quarantined) -> Result<PathBuf, StoreError> {
        // Cannot fail: the struct holds only strings.
        let text = toml::to_string(why).unwrap_or_default();
        let staged = StagedFolder::new(self.staging()?.fresh());
        self.durable.create_dir(&staged.path)?;
        staging::write(&self.durable, &staged.path.join(REASON), text.as_bytes())?;
        durable::sync_dir(&staged.path)?;
        self.enter(staged, &why.at)
    }

    fn enter(&self, staged: StagedFolder, at: &str) -> Result<PathBuf, StoreError> {
        let quarantine = self.paths.quarantine();
        // A person may have removed it.
        self.durable.ensure_dir(&quarantine)?;
        // Names sort by time for the reader. The rest makes them unique.
        let time: String = at.chars().filter(|c| *c != '-' && *c != ':').collect();
        for n in 0u32.. {
            let entry = quarantine.join(format!("{time}-{}-{n}", std::process::id()));
            match durable::rename_noreplace(&staged.path, &entry) {
                Ok(()) => {
                    staged.keep();
                    durable::sync_dir(&quarantine)?;
                    return Ok(entry);
                }
                Err(error) if error.errno() == Some(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended(quarantine))
    }

    fn move_in(&self, from: &Path, parent: &durable::Folder, entry: &Path) -> Result<(), PathError> {
        let content = entry.join(CONTENT);
        match fs::symlink_metadata(from) {
            Ok(meta) if meta.is_dir() => {
                self.durable.move_dir(from, &content, VersionFile::Info.name())?;
            }
            _ => durable::rename_noreplace(from, &content)?,
        }
        match durable::sync_dir(entry) {
            // The entry was purged already.
            Err(error) if error.is_not_found() => {}
            synced => synced?,
        }
        parent.sync()
    }
}

/// Removes entries of processes that died before they moved anything in. A living process holds the claim of the
/// version.
pub(crate) fn sweep(paths: &Paths, durable: &Durable) -> Result<(), StoreError> {
    let quarantine = paths.quarantine();
    for entry in fs::read_dir(&quarantine).at("list", &quarantine)? {
        let entry = entry.at("list", &quarantine)?;
        let path = entry.path();
        let is_folder = entry.file_type().at("stat", &path)?.is_dir();
        let is_empty = is_folder && is_without_content(&path);
        if is_empty && is_abandoned(paths, durable, &path)? {
            durable::remove_tree(&path)?;
        }
    }
    Ok(())
}

fn is_abandoned(paths: &Paths, durable: &Durable, entry: &Path) -> Result<bool, StoreError> {
    let version = read_reason(entry).and_then(|why| why.module_version());
    // Without a reason of ours the entry is not ours.
    let Some(version) = version else { return Ok(false) };
    let claim = Claim::try_take(&paths.claims(), durable, &version)?;
    Ok(claim.is_some() && is_without_content(entry))
}

/// Returns whether an entry holds nothing, or an empty folder into which files were to be moved.
fn is_without_content(entry: &Path) -> bool {
    let content = entry.join(CONTENT);
    match fs::symlink_metadata(&content) {
        Ok(meta) => meta.is_dir() && fs::read_dir(&content).is_ok_and(|mut entries| entries.next().is_none()),
        Err(error) => is_absent(&error),
    }
}

/// Reads the reason of an entry. `None` if the file is not a reason: it may be anything, even a pipe or a huge file.
fn read_reason(entry: &Path) -> Option<Quarantined> {
    let path = entry.join(REASON);
    let (file, _) = open_file(&path).ok()??;
    let text = read_bounded(file, &path, TEXT_LIMIT).ok()?;
    toml::from_str(std::str::from_utf8(&text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, open, put_unsealed, quarantined, version};
    use stoa_layout::gate::Mode;

    #[test]
    fn an_entry_states_the_version_its_path_and_the_reason() {
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
    fn a_reason_without_a_version_is_removed_at_the_next_start() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put_unsealed(&fixture.store, &v, b"no zip");
        fixture.store.seal(&v).unwrap();
        let quarantine = fixture.store.paths.quarantine();
        let kept = fs::read_dir(&quarantine).unwrap().next().unwrap().unwrap().path();
        let odd = quarantine.join("odd");
        fs::create_dir(&odd).unwrap();
        // Opening a pipe like a file would block.
        rustix::fs::mknodat(rustix::fs::CWD, odd.join(REASON), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        let abandoned = quarantine.join("abandoned");
        fs::create_dir(&abandoned).unwrap();
        fs::copy(kept.join(REASON), abandoned.join(REASON)).unwrap();
        let claim = fixture.store.claim(&v).unwrap();
        drop(open(fixture.dir.path(), Mode::ReadWrite));
        assert!(abandoned.exists(), "the process that owns it is alive");
        drop(claim);
        drop(open(fixture.dir.path(), Mode::ReadWrite));
        assert!(!abandoned.exists());
        fs::remove_file(odd.join(REASON)).unwrap();
        fs::remove_dir(odd).unwrap();
        assert_eq!(quarantined(fixture.dir.path()).len(), 1);
    }
}
