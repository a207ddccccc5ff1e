//! Verification: reads versions of the store, seals intact ones, and moves corrupt ones to quarantine.

use stoa_gomod::ModuleVersion;
use stoa_gomod::zip::{ExamineError, check_structure};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::examine::{Examination, Source};
use crate::files::{Stamp, is_file, open_file};
use crate::paths::VersionFile;
use crate::{Claim, Store, StoreError};

/// A step of a verification: the folder that was read and the result, or a result without reading.
enum Step {
    Read(Stamp, Examination),
    Done(Verified),
}

/// The versions that a verification reads, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Versions without a valid seal.
    Unsealed,
    /// All versions.
    All,
    /// All versions, but only the structure of their zips, with a few reads. Nothing is sealed or moved.
    Structure,
}

/// The result of verifying a version.
#[derive(Debug)]
pub enum Verified {
    /// The version is not in the store, or was removed meanwhile.
    Absent,
    /// The version has a valid seal and was not read again.
    Sealed,
    /// The version was read and is valid. It is sealed now, unless the store is read-only or the disk is full. Holds the
    /// size of the zip in bytes.
    Whole(u64),
    /// The version was read and is corrupt, for this reason. It is in quarantine now, unless the store is read-only or
    /// the disk is full.
    Broken(String),
    /// Files of the version exist without its info.
    Leftover,
    /// The version cannot be read. Nothing was moved.
    Unreadable(StoreError),
}

impl Store {
    /// Verifies a version: reads it if `which` covers it, then adds its seal or moves it to quarantine. Changes
    /// nothing in a read-only store.
    pub fn verify(&self, version: &ModuleVersion, which: Which) -> Result<Verified, StoreError> {
        match self.verify_without_reading(version, which) {
            Ok(Some(verified)) => return Ok(verified),
            Ok(None) => {}
            Err(error) => return Ok(Verified::Unreadable(error)),
        }
        if which == Which::Structure {
            let checked = self.verify_structure(version);
            return Ok(checked.unwrap_or_else(Verified::Unreadable));
        }
        let claim = match self.is_read_only() {
            true => None,
            false => match self.claim(version) {
                Err(error) if error.is_of_one_version() => return Ok(Verified::Unreadable(error)),
                // The version can be read all the same, as in `Store::seal`.
                Err(error) if error.is_out_of_space() => {
                    self.note_failure(&error);
                    None
                }
                claim => Some(claim?),
            },
        };
        match self.verify_claimed(version, which, claim.as_ref()) {
            // The change time of the zip may move after a read, as in `Store::seal`.
            Ok(Verified::Unreadable(StoreError::Changed(_))) => {
                self.verify_claimed(version, which, claim.as_ref())
            }
            verified => verified,
        }
    }

    fn verify_claimed(
        &self,
        version: &ModuleVersion,
        which: Which,
        claim: Option<&Claim>,
    ) -> Result<Verified, StoreError> {
        let (folder, examination) = match self.verify_by_reading(version, which) {
            Ok(Step::Read(folder, examination)) => (folder, examination),
            Ok(Step::Done(verified)) => return Ok(verified),
            Err(error) => return Ok(Verified::Unreadable(error)),
        };
        let path = self.paths.version(version);
        match examination {
            Examination::Whole { h1, length, zip } => {
                if claim.is_some() {
                    match self.seal_examined(&path, version, folder, (&h1, zip)) {
                        // Only this version is affected, so the others can still be verified.
                        Err(error) if error.is_of_one_version() => return Ok(Verified::Unreadable(error)),
                        added => added?,
                    }
                }
                Ok(Verified::Whole(length))
            }
            Examination::Corrupt(reason) => {
                let is_there = match claim {
                    Some(claim) => match self.quarantine_if_same(claim, folder, &reason) {
                        Err(error) if error.is_of_one_version() => return Ok(Verified::Unreadable(error)),
                        Err(error) if error.is_out_of_space() => {
                            self.note_failure(&error);
                            true
                        }
                        moved => moved?,
                    },
                    None => Stamp::at(&path)?.is_some_and(|now| now.is_same_file(folder)),
                };
                Ok(if is_there { Verified::Broken(reason) } else { Verified::Absent })
            }
        }
    }

    /// Checks that all files of a version exist, and the structure of its zip.
    fn verify_structure(&self, version: &ModuleVersion) -> Result<Verified, StoreError> {
        let fault = 'fault: {
            let modfile = self.paths.file(version, VersionFile::Mod);
            if !is_file(&modfile)? {
                break 'fault Some("it has no mod".to_owned());
            }
            let path = self.paths.file(version, VersionFile::Zip);
            let Some((zip, _)) = open_file(&path)? else { break 'fault Some("it has no zip".to_owned()) };
            match check_structure(&Source::new(&zip, &self.meter).at("stat", &path)?, version) {
                Ok(_) => None,
                Err(ExamineError::Broken(fault)) => Some(format!("its zip: {fault}")),
                Err(ExamineError::Read(error)) => return Err(PathError::new("read", path, error).into()),
            }
        };
        Ok(match fault {
            // No byte of the content was read.
            None => Verified::Whole(0),
            // The version may have been removed meanwhile.
            Some(fault) if self.has_info(version)? => Verified::Broken(fault),
            Some(_) => Verified::Absent,
        })
    }

    fn verify_by_reading(&self, version: &ModuleVersion, which: Which) -> Result<Step, StoreError> {
        // Another process may have sealed or moved the version while this call waited for the claim.
        if let Some(verified) = self.verify_without_reading(version, which)? {
            return Ok(Step::Done(verified));
        }
        let path = self.paths.version(version);
        Ok(match Stamp::at(&path)? {
            Some(folder) => Step::Read(folder, self.examine(&path, version)?),
            None => Step::Done(Verified::Absent),
        })
    }

    /// Verifies a version with a few system calls. `None` if its zip must be read.
    fn verify_without_reading(
        &self,
        version: &ModuleVersion,
        which: Which,
    ) -> Result<Option<Verified>, StoreError> {
        let path = self.paths.version(version);
        let Some(folder) = Stamp::at(&path)? else { return Ok(Some(Verified::Absent)) };
        let file = |file: VersionFile| path.join(file.name());
        if !is_file(&file(VersionFile::Info))? {
            for other in [VersionFile::Mod, VersionFile::Zip, VersionFile::Seal] {
                if is_file(&file(other))? && !self.has_info(version)? {
                    return Ok(Some(Verified::Leftover));
                }
            }
            return Ok(Some(Verified::Absent));
        }
        if which != Which::Unsealed {
            return Ok(None);
        }
        let Some((h1, _)) = self.valid_seal(version, folder)? else { return Ok(None) };
        // A restored backup may have brought it back. If its times are lost, nothing else shows that.
        let record = self.records().get(version)?;
        let is_forbidden = record.is_some_and(|record| record.objection(&h1, None).is_some());
        Ok((!is_forbidden).then_some(Verified::Sealed))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use stoa_layout::gate::Mode;

    use super::*;
    use crate::Meter;
    use crate::testing::{Fixture, open, put_unsealed, quarantined, version, zip};

    #[test]
    fn a_meter_receives_the_size_of_each_zip_that_is_read() {
        let (fixture, v) = (Fixture::new(), version("example.com/a@v1.0.0"));
        let content = zip(&v, &"package a\n".repeat(1000));
        put_unsealed(&fixture.store, &v, &content);
        let meter = Meter::default();
        let store = open(fixture.dir.path(), Mode::ReadOnly).metered(meter.clone());
        for times in 1..=2 {
            assert!(matches!(store.verify(&v, Which::All).unwrap(), Verified::Whole(_)));
            assert_eq!(meter.bytes(), times * content.len() as u64);
        }
    }

    #[test]
    fn verifying_the_structure_finds_cut_zips_and_changes_nothing() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let verify = || fixture.store.verify(&v, Which::Structure).unwrap();
        assert!(matches!(verify(), Verified::Absent));
        let bytes = zip(&v, "package a\n");
        let folder = put_unsealed(&fixture.store, &v, &bytes);
        assert!(matches!(verify(), Verified::Whole(0)));
        fs::write(folder.join("zip"), &bytes[..bytes.len() - 5]).unwrap();
        assert!(matches!(verify(), Verified::Broken(fault) if fault.starts_with("its zip: ")));
        for file in ["zip", "mod"] {
            fs::remove_file(folder.join(file)).unwrap();
            assert!(matches!(verify(), Verified::Broken(fault) if fault == format!("it has no {file}")));
        }
        assert!(folder.exists() && !folder.join("ziphash").exists());
        fs::write(folder.join("mod"), "").unwrap();
        fs::remove_file(folder.join("info")).unwrap();
        assert!(matches!(verify(), Verified::Leftover));
    }

    #[test]
    fn verifying_all_reads_sealed_versions_too() {
        let fixture = Fixture::new();
        let [good, rotten, swapped, bare] =
            ["v1.0.0", "v1.0.1", "v1.0.2", "v1.0.3"].map(|v| version(&format!("example.com/m@{v}")));
        for v in [&good, &rotten, &swapped] {
            fixture.publish(v, &zip(v, "package a\n"));
        }
        let bare_folder = put_unsealed(&fixture.store, &bare, &zip(&bare, "package a\n"));
        let mut bytes = zip(&rotten, "package a\n");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(fixture.store.paths.file(&rotten, VersionFile::Zip), bytes).unwrap();
        fs::write(fixture.store.paths.file(&swapped, VersionFile::Zip), zip(&swapped, "package b\n"))
            .unwrap();
        let reader = open(fixture.dir.path(), Mode::ReadOnly);
        for (store, kept) in [(&reader, 0), (&fixture.store, 2)] {
            let verify = |v| store.verify(v, Which::All).unwrap();
            assert!(matches!(verify(&good), Verified::Whole(bytes) if bytes > 0));
            assert!(matches!(verify(&bare), Verified::Whole(_)));
            assert!(matches!(verify(&rotten), Verified::Broken(_)));
            assert!(matches!(verify(&swapped), Verified::Broken(reason) if reason.contains("its seal is")));
            assert_eq!(quarantined(fixture.dir.path()).len(), kept);
            assert_eq!(bare_folder.join("ziphash").exists(), kept > 0);
        }
        assert!(matches!(fixture.store.verify(&rotten, Which::All).unwrap(), Verified::Absent));
        assert!(matches!(fixture.store.verify(&bare, Which::Unsealed).unwrap(), Verified::Sealed));
    }

    #[test]
    fn files_without_an_info_are_a_leftover_and_stay() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        fs::remove_file(folder.join("info")).unwrap();
        assert!(matches!(fixture.store.verify(&v, Which::Unsealed).unwrap(), Verified::Leftover));
        assert!(folder.join("zip").is_file());
    }
}
