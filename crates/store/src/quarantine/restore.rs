//! Back from quarantine: what a person has mended is examined whole, sealed, and published by one rename.

use std::ffi::OsStr;
use std::path::Path;

use stoa_gomod::ModuleVersion;
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, durable};

use super::{CONTENT, Entry};
use crate::paths::VersionFile;
use crate::publish::{Placed, Wait};
use crate::read::{Stamp, open_file};
use crate::seal::{Verdict, examine_folder};
use crate::{Claim, Objection, Store, StoreError};

/// How a restore ended. Unless it is done the entry stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// The version is published again, and the entry is gone.
    Done(ModuleVersion),
    /// The version is there by now with the same content, so there is nothing to restore.
    There(ModuleVersion),
    /// The version is there by now, and differs in its zip.
    Taken {
        /// The version.
        version: ModuleVersion,
        /// How both differ.
        reason: String,
    },
    /// It was read, and is broken still.
    Broken {
        /// The version.
        version: ModuleVersion,
        /// What is wrong with it.
        reason: String,
    },
    /// Its record says that it must not be published.
    Refused {
        /// The version.
        version: ModuleVersion,
        /// What the record has against it.
        objection: Objection,
    },
    /// It is no version, or nobody knows of which.
    Unfit(&'static str),
    /// There is no entry of that name.
    Absent,
}

impl Store {
    /// Publishes again what is in quarantine, if it is whole.
    pub fn restore(&self, id: &OsStr) -> Result<Restored, StoreError> {
        self.staging()?;
        let quarantine = self.paths.quarantine();
        let Some(entry) = Entry::read(&quarantine, id)? else { return Ok(Restored::Absent) };
        let Some(version) = entry.why.and_then(|why| why.module_version()) else {
            return Ok(Restored::Unfit("its reason.toml does not say which version it is"));
        };
        let claim = self.claim(&version)?;
        let restored = self.restore_claimed(&quarantine.join(id), version, &claim);
        // A purge takes no claim for what keeps something: this may have been about what was gone by then.
        let may_be_gone =
            matches!(restored, Ok(Restored::Broken { .. } | Restored::Unfit(_)) | Err(StoreError::Path(_)));
        if may_be_gone && Entry::read(&quarantine, id)?.is_none() {
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
        let Some(folder) = Stamp::at(&content)? else {
            return Ok(Restored::Unfit("it keeps no folder of a version"));
        };
        let (h1, zip) = match examine_folder(&content, &version)? {
            Verdict::Whole { h1, zip, .. } => (h1, zip),
            Verdict::Broken(reason) => return Ok(Restored::Broken { version, reason }),
        };
        // It was written by hand, so that nothing of it need be on disk, nor be the store's owner's.
        self.durable.hand_over(&content)?;
        for file in [VersionFile::Mod, VersionFile::Zip, VersionFile::Info] {
            with_file(&content, file, durable::sync_file)?;
        }
        // The zip was read before: its owner is one of the things that a seal is not to miss.
        self.add_seal(&content, &h1, folder, zip)?;
        for file in [VersionFile::Mod, VersionFile::Zip, VersionFile::Info] {
            self.durable.hand_over(&content.join(file.name()))?;
        }
        let stamp = || durable::touch(&content.join(VersionFile::Info.name()));
        Ok(match self.place(&content, &h1, claim, Wait::Now, stamp)? {
            Placed::Ours => {
                self.drop_entry(entry);
                Restored::Done(version)
            }
            Placed::Theirs(theirs) if theirs == h1 => Restored::There(version),
            Placed::Theirs(theirs) => {
                Restored::Taken { version, reason: format!("{theirs} is published, and this is {h1}") }
            }
            Placed::Refused(objection) => Restored::Refused { version, objection },
        })
    }

    /// Removes what is left of an entry whose version has moved on. Whoever starts next removes it otherwise.
    fn drop_entry(&self, entry: &Path) {
        let dropped = self.staging().and_then(|run| {
            let staged = run.fresh();
            durable::rename(entry, &staged)?;
            Ok(durable::remove_tree(&staged)?)
        });
        if let Err(error) = dropped {
            log::warn!("what is left of {} stays until the next start: {error}", entry.display());
        }
    }
}

/// Does something with a file of a version.
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::SmallFile;
    use crate::testing::{Fixture, put_unsealed, quarantined, staged, version, zip};

    /// A store with a version in quarantine whose zip was cut; its folder there, and the whole zip.
    fn with_a_broken_version() -> (Fixture, ModuleVersion, PathBuf, Vec<u8>) {
        let fixture = Fixture::new();
        let v = version("example.com/M@v1.0.0");
        let bytes = zip(&v, "package a\n");
        put_unsealed(&fixture.store, &v, &bytes[..bytes.len() - 9]);
        assert_eq!(fixture.store.seal(&v).unwrap(), None);
        let entry = fs::read_dir(fixture.dir.path().join("quarantine")).unwrap().next().unwrap().unwrap();
        (fixture, v, entry.path(), bytes)
    }

    #[test]
    fn what_was_mended_is_published_again() {
        let (fixture, v, entry, bytes) = with_a_broken_version();
        let id = entry.file_name().unwrap();
        let restored = fixture.store.restore(id).unwrap();
        assert!(
            matches!(&restored, Restored::Broken { reason, .. } if reason.starts_with("its zip")),
            "{restored:?}"
        );
        assert!(entry.join("version/zip").is_file());
        fs::write(entry.join("version/zip"), &bytes).unwrap();
        assert_eq!(fixture.store.restore(id).unwrap(), Restored::Done(v.clone()));
        let open = fixture.store.open_zip(&v).unwrap().unwrap();
        assert!(open.seal.is_some() && open.length == bytes.len() as u64);
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_some());
        assert!(quarantined(fixture.dir.path()).is_empty() && staged(fixture.dir.path()).is_empty());
        assert_eq!(fixture.store.restore(id).unwrap(), Restored::Absent);
    }

    #[test]
    fn what_is_purged_meanwhile_is_not_there_any_more() {
        let (fixture, v, entry, bytes) = with_a_broken_version();
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
                let restored = scope.spawn(|| (together.wait(), fixture.store.restore(id)).1);
                together.wait();
                // At another point of the restore each time, for all that is known here.
                while fixture.store.try_claim(&v).unwrap().is_some() && !restored.is_finished() {}
                let purged = fixture.store.purge(id).unwrap();
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
    fn what_was_published_meanwhile_stands() {
        for (content, same) in [("package a\n", true), ("package b\n", false)] {
            let (fixture, v, entry, bytes) = with_a_broken_version();
            fs::write(entry.join("version/zip"), &bytes).unwrap();
            fixture.publish(&v, &zip(&v, content));
            let restored = fixture.store.restore(entry.file_name().unwrap()).unwrap();
            match same {
                true => assert_eq!(restored, Restored::There(v)),
                false => assert!(matches!(restored, Restored::Taken { .. }), "{restored:?}"),
            }
            assert!(entry.join("version/zip").is_file());
        }
    }

    #[test]
    fn what_is_no_version_stays() {
        let (fixture, _, entry, bytes) = with_a_broken_version();
        let id = entry.file_name().unwrap();
        fs::write(entry.join("version/zip"), &bytes).unwrap();
        let reason = fs::read(entry.join("reason.toml")).unwrap();
        fs::write(entry.join("reason.toml"), "x").unwrap();
        assert!(matches!(fixture.store.restore(id).unwrap(), Restored::Unfit(_)));
        fs::write(entry.join("reason.toml"), reason).unwrap();
        fs::write(entry.join("version/ziphash"), format!("h1:{}=", "A".repeat(43))).unwrap();
        let restored = fixture.store.restore(id).unwrap();
        assert!(
            matches!(&restored, Restored::Broken { reason, .. } if reason.contains("sealed as")),
            "{restored:?}"
        );
        fs::remove_dir_all(entry.join("version")).unwrap();
        fs::write(entry.join("version"), "a file").unwrap();
        assert!(matches!(fixture.store.restore(id).unwrap(), Restored::Unfit(_)));
    }
}
