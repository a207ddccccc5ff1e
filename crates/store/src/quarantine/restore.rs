//! Restoring a version that a person repaired: it is verified, sealed and published by one rename.

use std::ffi::OsStr;
use std::path::Path;

use stoa_gomod::ModuleVersion;
use stoa_layout::durable::CopyError;
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, durable};

use super::purge::remove_entry;
use super::{CONTENT, Quarantine, QuarantineEntry};
use crate::audit::Act;
use crate::draft::StagedFolder;
use crate::examine::{Examination, examine_folder};
use crate::files::{Stamp, metadata, open_file};
use crate::paths::VersionFile;
use crate::publish::{Placed, Wait};
use crate::{Claim, Objection, StoreError};

/// The result of a restore. Unless it is `Done`, the entry stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// The version is published again, and the entry was removed.
    Done(ModuleVersion),
    /// The version is in the store again with the same content.
    There(ModuleVersion),
    /// The version is in the store again with another zip.
    Taken {
        /// The version.
        version: ModuleVersion,
        /// How both zips differ.
        reason: String,
    },
    /// The version was read and is still corrupt.
    Broken {
        /// The version.
        version: ModuleVersion,
        /// The fault of the version.
        reason: String,
    },
    /// The record of the version forbids to publish it.
    Refused {
        /// The version.
        version: ModuleVersion,
        /// The reason why.
        objection: Objection,
    },
    /// The entry holds no version, or it is unknown which version. Holds the reason.
    Unfit(&'static str),
    /// There is no entry of this name.
    Absent,
}

impl Quarantine<'_> {
    /// Publishes a version from quarantine again, if it is valid.
    pub fn restore(&self, id: &OsStr) -> Result<Restored, StoreError> {
        self.0.check_writable()?;
        let quarantine = self.0.paths.quarantine();
        let Some(entry) = QuarantineEntry::read(&quarantine, id)? else { return Ok(Restored::Absent) };
        let Some(version) = entry.why.and_then(|why| why.module_version()) else {
            return Ok(Restored::Unfit("its reason.toml names no version"));
        };
        let claim = self.0.claim(&version)?;
        let restored = self.restore_claimed(&quarantine.join(id), version, &claim);
        // A purge takes no claim of an entry with content, so the entry may have been removed meanwhile.
        let may_be_gone =
            matches!(restored, Ok(Restored::Broken { .. } | Restored::Unfit(_)) | Err(StoreError::Path(_)));
        if may_be_gone && QuarantineEntry::read(&quarantine, id)?.is_none() {
            return Ok(Restored::Absent);
        }
        restored
    }

    fn restore_claimed(
        &self,
        entry: &Path,
        version: ModuleVersion,
        claim: &Claim,
    ) -> Result<Restored, StoreError> {
        let content = entry.join(CONTENT);
        if !is_own(&content)? {
            let copy = self.copy(&content)?;
            return self.restore_from(entry, &copy.path, version, claim);
        }
        match self.restore_from(entry, &content, version.clone(), claim) {
            // The folder belongs to a lower layer of an overlay.
            Err(StoreError::Path(error)) if durable::is_unmovable_dir(&error, &content) => {
                let copy = self.copy(&content)?;
                self.restore_from(entry, &copy.path, version, claim)
            }
            restored => restored,
        }
    }

    /// Copies the files of a version into staging.
    fn copy(&self, content: &Path) -> Result<StagedFolder, StoreError> {
        let store = self.0;
        let copy = StagedFolder::new(store.staging()?.fresh());
        store.durable.create_dir(&copy.path)?;
        for name in VersionFile::ALL.map(VersionFile::name) {
            let (from, to) = (content.join(name), copy.path.join(name));
            let Some((original, _)) = open_file(&from)? else { continue };
            let file = store.durable.create_file(&to)?;
            durable::clone_or_copy((&original, &from), (&file, &to), &|_| {})
                .map_err(CopyError::into_inner)?;
            durable::sync_file(&file, &to)?;
        }
        durable::sync_dir(&copy.path)?;
        Ok(copy)
    }

    /// Publishes the version in the folder `content`, which is the one of the entry or a copy.
    fn restore_from(
        &self,
        entry: &Path,
        content: &Path,
        version: ModuleVersion,
        claim: &Claim,
    ) -> Result<Restored, StoreError> {
        let Some(folder) = Stamp::at(content)? else {
            return Ok(Restored::Unfit("it holds no folder of a version"));
        };
        let (h1, zip) = match examine_folder(content, &version, &self.0.meter)? {
            Examination::Whole { h1, zip, .. } => (h1, zip),
            Examination::Corrupt(reason) => return Ok(Restored::Broken { version, reason }),
        };
        let of_theirs = |theirs, version| match theirs == h1 {
            true => Restored::There(version),
            false => {
                let reason = format!("the published zip has {theirs}, this zip has {h1}");
                Restored::Taken { version, reason }
            }
        };
        // Before anything of the entry changes, and before the line in the audit log. The claim keeps others away.
        if let Some(objection) = self.0.objection_to(content, &h1, claim)? {
            return Ok(Restored::Refused { version, objection });
        }
        if let Some(theirs) = self.0.seal_claimed(claim)? {
            return Ok(of_theirs(theirs, version));
        }
        // A person wrote these files: they may not be on disk yet, and may belong to another user.
        self.0.durable.hand_over(content)?;
        for file in [VersionFile::Mod, VersionFile::Zip, VersionFile::Info] {
            with_file(content, file, durable::sync_file)?;
        }
        // Before the owner of the zip changes: that changes its stamp, and the seal would be refused.
        self.0.add_seal(content, &h1, folder, zip)?;
        for file in [VersionFile::Mod, VersionFile::Zip, VersionFile::Info] {
            self.0.durable.hand_over(&content.join(file.name()))?;
        }
        let id = entry.file_name().unwrap_or_default().to_string_lossy();
        self.0
            .audit
            .write(Act::of_version("restore", &version).because(Some(&format!("quarantine entry {id}"))));
        let stamp = || durable::touch(&content.join(VersionFile::Info.name()));
        Ok(match self.0.place(content, &h1, claim, Wait::Now, stamp)? {
            Placed::Ours => {
                self.drop_entry(entry);
                Restored::Done(version)
            }
            Placed::Theirs(theirs) => of_theirs(theirs, version),
            Placed::Refused(objection) => Restored::Refused { version, objection },
        })
    }

    /// Removes the rest of an entry whose version was published. If this fails, the next start removes it.
    fn drop_entry(&self, entry: &Path) {
        let dropped = self.0.staging().and_then(|run| {
            let staged = run.fresh();
            match durable::rename(entry, &staged) {
                Err(error) if durable::is_unmovable_dir(&error, entry) => Ok(remove_entry(entry)?),
                renamed => Ok(renamed.and_then(|()| durable::remove_tree(&staged))?),
            }
        });
        if let Err(error) = dropped {
            log::warn!(
                path:% = entry.display(), reason:% = error;
                "cannot remove the rest of a quarantine entry, trying again at the next start"
            );
        }
    }
}

/// Applies a function to a file of a version.
fn with_file(
    folder: &Path,
    file: VersionFile,
    act: fn(&std::fs::File, &Path) -> Result<(), PathError>,
) -> Result<(), PathError> {
    let path = folder.join(file.name());
    match open_file(&path)? {
        Some((open, _)) => act(&open, &path),
        None => Err(rustix::io::Errno::NOENT).at("open", &path),
    }
}

/// Returns whether the files of a version have one name each. Files with several names may belong to a copy of the store,
/// and a restore changes their times.
fn is_own(content: &Path) -> Result<bool, PathError> {
    for file in VersionFile::ALL {
        if metadata(&content.join(file.name()))?.is_some_and(|meta| meta.links > 1) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::SmallFile;
    use crate::testing::{Fixture, put_unsealed, quarantined, staged, version, zip};

    /// Returns a store with a version in quarantine whose zip was cut, its entry, and the whole zip.
    fn with_a_corrupt_version() -> (Fixture, ModuleVersion, PathBuf, Vec<u8>) {
        let fixture = Fixture::new();
        let v = version("example.com/M@v1.0.0");
        let bytes = zip(&v, "package a\n");
        put_unsealed(&fixture.store, &v, &bytes[..bytes.len() - 9]);
        assert_eq!(fixture.store.seal(&v).unwrap(), None);
        let entry = fs::read_dir(fixture.dir.path().join("quarantine")).unwrap().next().unwrap().unwrap();
        (fixture, v, entry.path(), bytes)
    }

    #[test]
    fn a_repaired_version_is_published_again() {
        let (fixture, v, entry, bytes) = with_a_corrupt_version();
        let id = entry.file_name().unwrap();
        let restored = fixture.store.quarantine().restore(id).unwrap();
        assert!(
            matches!(&restored, Restored::Broken { reason, .. } if reason.starts_with("its zip")),
            "{restored:?}"
        );
        assert!(entry.join("version/zip").is_file());
        fs::write(entry.join("version/zip"), &bytes).unwrap();
        assert_eq!(fixture.store.quarantine().restore(id).unwrap(), Restored::Done(v.clone()));
        let open = fixture.store.open_zip(&v).unwrap().unwrap();
        assert!(open.seal.is_some() && open.length == bytes.len() as u64);
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_some());
        assert!(quarantined(fixture.dir.path()).is_empty() && staged(fixture.dir.path()).is_empty());
        assert_eq!(fixture.store.quarantine().restore(id).unwrap(), Restored::Absent);
    }

    #[test]
    fn restoring_an_entry_that_is_purged_meanwhile_reports_it_absent() {
        let (fixture, v, entry, bytes) = with_a_corrupt_version();
        fs::write(entry.join("version/zip"), &bytes).unwrap();
        let id = entry.file_name().unwrap();
        let (kept, mut lost) = (fixture.dir.path().join("kept"), 0);
        fs::rename(&entry, &kept).unwrap();
        for _ in 0..100 {
            fs::create_dir_all(entry.join("version")).unwrap();
            for file in ["reason.toml", "version/info", "version/mod", "version/zip"] {
                fs::copy(kept.join(file), entry.join(file)).unwrap();
            }
            let together = std::sync::Barrier::new(2);
            let (restored, purged) = std::thread::scope(|scope| {
                let restored = scope.spawn(|| (together.wait(), fixture.store.quarantine().restore(id)).1);
                together.wait();
                // At a different point of the restore each time.
                while fixture.store.try_claim(&v).unwrap().is_some() && !restored.is_finished() {}
                let purged = fixture.store.quarantine().purge(id).unwrap();
                (restored.join().unwrap(), purged)
            });
            match restored.unwrap() {
                Restored::Absent => {
                    assert!(purged.is_some() && !fixture.store.paths.version(&v).exists());
                    lost += 1;
                }
                Restored::Done(_) => fs::remove_dir_all(fixture.store.paths.version(&v)).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        println!("{lost} of 100 were purged first");
    }

    #[test]
    fn a_version_that_was_published_meanwhile_stays() {
        for (content, same) in [("package a\n", true), ("package b\n", false)] {
            let (fixture, v, entry, bytes) = with_a_corrupt_version();
            fs::write(entry.join("version/zip"), &bytes).unwrap();
            fixture.publish(&v, &zip(&v, content));
            let restored = fixture.store.quarantine().restore(entry.file_name().unwrap()).unwrap();
            match same {
                true => assert_eq!(restored, Restored::There(v)),
                false => assert!(matches!(restored, Restored::Taken { .. }), "{restored:?}"),
            }
            assert!(entry.join("version/zip").is_file() && !entry.join("version/ziphash").exists());
        }
    }

    #[test]
    fn an_entry_without_a_version_stays() {
        let (fixture, _, entry, bytes) = with_a_corrupt_version();
        let id = entry.file_name().unwrap();
        fs::write(entry.join("version/zip"), &bytes).unwrap();
        let reason = fs::read(entry.join("reason.toml")).unwrap();
        fs::write(entry.join("reason.toml"), "x").unwrap();
        assert!(matches!(fixture.store.quarantine().restore(id).unwrap(), Restored::Unfit(_)));
        fs::write(entry.join("reason.toml"), reason).unwrap();
        fs::write(entry.join("version/ziphash"), format!("h1:{}=", "A".repeat(43))).unwrap();
        let restored = fixture.store.quarantine().restore(id).unwrap();
        assert!(
            matches!(&restored, Restored::Broken { reason, .. } if reason.contains("its seal is")),
            "{restored:?}"
        );
        fs::remove_dir_all(entry.join("version")).unwrap();
        fs::write(entry.join("version"), "a file").unwrap();
        assert!(matches!(fixture.store.quarantine().restore(id).unwrap(), Restored::Unfit(_)));
    }
}
