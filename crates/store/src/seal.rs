//! The seal: `ziphash` in the folder of a version. It holds the `h1:` of the zip and states that the whole zip was
//! verified.
//!
//! A fill seals a version before it publishes it. A version that came by migration or import is sealed at the first
//! request for its zip, before the first byte is sent, or by [`Store::verify`]. Sealing fails only if the content
//! was read and is wrong, if `mod` or `zip` is missing beside `info`, or if there is a tombstone. The version then
//! moves to quarantine and counts as absent. Any other error moves nothing.
//!
//! A valid seal is never older than its `mod` and its `zip`. An older seal is ignored, because a file was written
//! after the verification, and the version is read again.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use stoa_gomod::zip::{ExamineError, Examined, ReadAt, check_structure, examine};
use stoa_gomod::{H1, ModuleVersion, info, modfile};
use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;

use crate::files::{SMALL_LIMIT, Stamp, is_file, metadata, open_file, read_bounded};
use crate::paths::VersionFile;
use crate::seal_state::SealState;
use crate::{Claim, Meter, Store, StoreError, staging};

/// The result of reading a version.
pub(crate) enum Examination {
    /// The version is valid.
    Whole {
        /// The hash for its seal.
        h1: H1,
        /// The stamp of the zip that was read.
        zip: Stamp,
        /// The size of the zip in bytes.
        length: u64,
    },
    /// The version is corrupt, for this reason.
    Corrupt(String),
}

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
    /// The version was read and is valid. It is sealed now, unless the store is read-only. Holds the size of the zip
    /// in bytes.
    Whole(u64),
    /// The version was read and is corrupt, for this reason. It is in quarantine now, unless the store is read-only.
    Broken(String),
    /// Files of the version exist without its info.
    Leftover,
    /// The version cannot be read. Nothing was moved.
    Unreadable(StoreError),
}

impl Store {
    /// Verifies a version and adds its seal, unless it has a valid seal. `None` if the version is not in the store,
    /// or was corrupt and is in quarantine now.
    pub fn seal(&self, version: &ModuleVersion) -> Result<Option<H1>, StoreError> {
        if self.is_read_only() {
            return self.seal_in_memory(version);
        }
        let claim = self.claim(version)?;
        self.seal_claimed(&claim)
    }

    pub(crate) fn seal_claimed(&self, claim: &Claim) -> Result<Option<H1>, StoreError> {
        let version = claim.version();
        let path = self.paths.version(version);
        let Some(folder) = Stamp::at(&path)? else { return Ok(None) };
        if !self.has_info(version)? {
            return Ok(None);
        }
        if let Some((h1, _)) = self.valid_seal(version)? {
            return Ok(Some(h1));
        }
        match self.examine(&path, version)? {
            Examination::Whole { h1, zip, .. } => {
                self.add_seal(&path, &h1, folder, zip)?;
                Ok(Some(h1))
            }
            Examination::Corrupt(reason) => {
                self.quarantine_if_same(claim, folder, &reason)?;
                Ok(None)
            }
        }
    }

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
        let claim = if self.is_read_only() { None } else { Some(self.claim(version)?) };
        let (folder, examination) = match self.verify_by_reading(version, which) {
            Ok(Step::Read(folder, examination)) => (folder, examination),
            Ok(Step::Done(verified)) => return Ok(verified),
            Err(error) => return Ok(Verified::Unreadable(error)),
        };
        let path = self.paths.version(version);
        match examination {
            Examination::Whole { h1, length, zip } => {
                if claim.is_some() && self.valid_seal(version)?.is_none() {
                    match self.add_seal(&path, &h1, folder, zip) {
                        // Only this version is affected, so the others can still be verified.
                        Err(error) if error.is_of_one_version() => return Ok(Verified::Unreadable(error)),
                        added => added?,
                    }
                }
                Ok(Verified::Whole(length))
            }
            Examination::Corrupt(reason) => {
                let is_there = match &claim {
                    Some(claim) => match self.quarantine_if_same(claim, folder, &reason) {
                        Err(error) if error.is_of_one_version() => return Ok(Verified::Unreadable(error)),
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
        if Stamp::at(&path)?.is_none() {
            return Ok(Some(Verified::Absent));
        }
        let file = |file: VersionFile| path.join(file.name());
        if !is_file(&file(VersionFile::Info))? {
            for other in [VersionFile::Mod, VersionFile::Zip, VersionFile::Seal] {
                if is_file(&file(other))? && !self.has_info(version)? {
                    return Ok(Some(Verified::Leftover));
                }
            }
            return Ok(Some(Verified::Absent));
        }
        let is_sealed = which == Which::Unsealed && self.valid_seal(version)?.is_some();
        Ok(is_sealed.then_some(Verified::Sealed))
    }

    /// Reads a version in its place and compares it with its record, which a migration did not do.
    fn examine(&self, folder: &Path, version: &ModuleVersion) -> Result<Examination, StoreError> {
        let record = self.records().get(version)?;
        // Nothing needs to be read: a removed version is not served, valid or not.
        if let Some(tombstone) = record.as_ref().and_then(|record| record.tombstone.as_ref()) {
            return Ok(Examination::Corrupt(tombstone.to_string()));
        }
        let examination = examine_folder(folder, version, &self.meter)?;
        let Examination::Whole { h1, .. } = &examination else { return Ok(examination) };
        Ok(match record.and_then(|record| record.objection(h1, None)) {
            Some(objection) => Examination::Corrupt(objection.to_string()),
            None => examination,
        })
    }

    fn seal_in_memory(&self, version: &ModuleVersion) -> Result<Option<H1>, StoreError> {
        if let Some((_, meta)) = open_file(&self.paths.file(version, VersionFile::Zip))? {
            match self.seal_state(version, Stamp::of(&meta))? {
                SealState::Absent => return Ok(None),
                SealState::Sealed(h1) => return Ok(Some(h1)),
                SealState::Unsealed | SealState::Replaced => {}
            }
        }
        let path = self.paths.version(version);
        let Some(folder) = Stamp::at(&path)? else { return Ok(None) };
        if !self.has_info(version)? {
            return Ok(None);
        }
        match self.examine(&path, version)? {
            Examination::Whole { h1, zip, .. } => {
                self.remember_seal(version, Some((h1.clone(), zip)), folder);
                Ok(Some(h1))
            }
            Examination::Corrupt(reason) => {
                self.remember_seal(version, None, folder);
                log::error!(
                    version:% = version, reason:% = reason;
                    "a corrupt version is not served; a read-only store cannot move it to quarantine"
                );
                Ok(None)
            }
        }
    }

    /// Moves a claimed version that is corrupt to quarantine. Returns whether it did: a person or a restored backup
    /// may have replaced the folder since it was read.
    fn quarantine_if_same(&self, claim: &Claim, folder: Stamp, reason: &str) -> Result<bool, StoreError> {
        let now = Stamp::at(&self.paths.version(claim.version()))?;
        let is_same = now.is_some_and(|now| now.is_same_file(folder));
        if is_same {
            self.quarantine_version(claim, reason)?;
        }
        Ok(is_same)
    }

    /// Adds a seal to the folder that was examined, with this zip in it.
    pub(crate) fn add_seal(&self, path: &Path, h1: &H1, folder: Stamp, zip: Stamp) -> Result<(), StoreError> {
        let seal = path.join(VersionFile::Seal.name());
        let failed = |reason: &str| PathError::new("seal", path, io::Error::other(reason.to_owned()));
        let staged = self.staging()?.fresh();
        let added = write_seal(&self.durable, &staged, h1, path).and_then(|file| {
            durable::sync_file(&file, &staged)?;
            if !Stamp::at(path)?.is_some_and(|now| now.is_same_file(folder)) {
                return Err(failed("it was replaced meanwhile"));
            }
            // A zip that was written to since it was read gets no seal, however old its time is.
            let now = fs::symlink_metadata(path.join(VersionFile::Zip.name())).at("stat", path)?;
            if Stamp::of(&now) != zip {
                return Err(failed("its zip was written to meanwhile"));
            }
            // A plain rename: a file of this name is no valid seal, or this function would not be called.
            durable::rename(&staged, &seal)?;
            durable::sync_dir(path)
        });
        if added.is_err() {
            // If this fails too, the next start removes the file.
            let _ = durable::remove_file(&staged);
        }
        Ok(added?)
    }

    /// Returns the seal of a version with the stamp of its zip. `None` if there is no seal, the info is wrong, or
    /// `mod` or `zip` is missing or newer than the seal.
    pub(crate) fn valid_seal(&self, version: &ModuleVersion) -> Result<Option<(H1, Stamp)>, StoreError> {
        let folder = self.paths.version(version);
        let Some((h1, sealed)) = read_seal(&folder)? else { return Ok(None) };
        let path = folder.join(VersionFile::Info.name());
        let Some((info, _)) = open_file(&path)? else { return Ok(None) };
        if info_fault(version, &read_bounded(info, &path, SMALL_LIMIT)?).is_some() {
            return Ok(None);
        }
        // After reading the seal: a zip that is in its place now was there before, too.
        let mut zip = None;
        for file in [VersionFile::Mod, VersionFile::Zip] {
            let path = folder.join(file.name());
            let Some(meta) = metadata(&path)?.filter(fs::Metadata::is_file) else { return Ok(None) };
            if meta.modified().at("stat", &path)? > sealed {
                return Ok(None);
            }
            zip = (meta.len() > 0).then(|| Stamp::of(&meta));
        }
        Ok(zip.map(|zip| (h1, zip)))
    }
}

/// Reads the seal in the folder of a version, and the time of its writing. `None` if the file holds no `h1:`.
fn read_seal(folder: &Path) -> Result<Option<(H1, SystemTime)>, PathError> {
    let path = folder.join(VersionFile::Seal.name());
    let Some((open, meta)) = open_file(&path)? else { return Ok(None) };
    let mut text = Vec::new();
    open.take(128).read_to_end(&mut text).at("read", &path)?;
    let h1 = std::str::from_utf8(&text).ok().and_then(|text| H1::new(text.trim()).ok());
    Ok(h1.zip(meta.modified().ok()))
}

/// Writes a seal for the files in a folder to a place where no reader sees it yet. The caller syncs it.
pub(crate) fn write_seal(durable: &Durable, seal: &Path, h1: &H1, folder: &Path) -> Result<File, PathError> {
    let file = staging::write_unsynced(durable, seal, h1.as_str().as_bytes())?;
    let time = |meta: io::Result<fs::Metadata>| meta.and_then(|meta| meta.modified());
    let written = time(file.metadata()).at("stat", seal)?;
    // The clock may have been set back, or the files may have a time in the future. The seal would be ignored.
    let newest = [VersionFile::Mod, VersionFile::Zip]
        .into_iter()
        .filter_map(|file| time(fs::symlink_metadata(folder.join(file.name()))).ok())
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH);
    if newest > written {
        durable::set_modified(&file, seal, newest)?;
    }
    Ok(file)
}

/// Reads all files of a version in a folder.
pub(crate) fn examine_folder(
    folder: &Path,
    version: &ModuleVersion,
    meter: &Meter,
) -> Result<Examination, StoreError> {
    let corrupt = |reason: String| Ok(Examination::Corrupt(reason));
    let read = |file: VersionFile| -> Result<_, StoreError> {
        let path = folder.join(file.name());
        let Some((open, _)) = open_file(&path)? else { return Ok(None) };
        Ok(Some(read_bounded(open, &path, SMALL_LIMIT)?))
    };
    let Some(info) = read(VersionFile::Info)? else { return corrupt("it has no info".to_owned()) };
    let Some(modfile) = read(VersionFile::Mod)? else { return corrupt("it has no mod".to_owned()) };
    if fs::symlink_metadata(folder.join(VersionFile::Seal.name())).is_ok_and(|meta| meta.is_dir()) {
        return corrupt("its ziphash is a folder".to_owned());
    }
    // Before the zip, which takes long: a request for the info may be waiting.
    if let Some(fault) = info_fault(version, &info) {
        return corrupt(fault);
    }
    let path = folder.join(VersionFile::Zip.name());
    let Some((zip, meta)) = open_file(&path)? else { return corrupt("it has no zip".to_owned()) };
    let source = Source::new(&zip, meter).at("stat", &path)?;
    let examined = match examine(&source, version) {
        Ok(examined) => examined,
        Err(ExamineError::Broken(fault)) => return corrupt(format!("its zip: {fault}")),
        Err(ExamineError::Read(error)) => return Err(PathError::new("read", path, error).into()),
    };
    if let Some(fault) = find_fault(version, &info, &modfile, &examined) {
        return corrupt(fault);
    }
    // An outdated seal still says which zip the version had.
    match read_seal(folder)? {
        Some((sealed, _)) if sealed != examined.h1 => {
            corrupt(format!("its seal is {sealed}, but its zip has {}", examined.h1))
        }
        _ => Ok(Examination::Whole { h1: examined.h1, zip: Stamp::of(&meta), length: meta.len() }),
    }
}

/// Returns what is wrong with the info and the mod of a version whose zip is valid.
pub(crate) fn find_fault(
    version: &ModuleVersion,
    info: &[u8],
    body: &[u8],
    examined: &Examined,
) -> Option<String> {
    if let Some(fault) = info_fault(version, info) {
        return Some(fault);
    }
    match &examined.go_mod {
        Some(own) if own != body => Some("its mod differs from the go.mod in its zip".to_owned()),
        None if !modfile::has_module_directive(body) => Some("its mod names no module".to_owned()),
        _ => None,
    }
}

pub(crate) fn info_fault(version: &ModuleVersion, info: &[u8]) -> Option<String> {
    let parsed = info::parse_answer(version.path(), version.version().as_str(), info);
    parsed.err().map(|error| format!("its info: {error}"))
}

/// A file as the zip examination reads it.
pub(crate) struct Source<'a> {
    file: &'a File,
    size: u64,
    meter: &'a Meter,
    /// The number of bytes that the meter has received.
    metered: Cell<u64>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a File, meter: &'a Meter) -> io::Result<Self> {
        Ok(Self { file, size: file.metadata()?.len(), meter, metered: Cell::new(0) })
    }
}

impl ReadAt for Source<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn examined(&self, end: u64) {
        self.meter.add(end.saturating_sub(self.metered.replace(end)));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use stoa_layout::gate::Mode;

    use super::*;
    use crate::testing::{Fixture, open, put_unsealed, quarantined, staged, version, zip};
    use crate::{Record, Tombstone};

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
    fn a_valid_version_is_sealed_once() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        assert_eq!(fixture.store.open_zip(&v).unwrap().unwrap().seal, None);
        let h1 = fixture.store.seal(&v).unwrap().unwrap();
        assert_eq!(fs::read_to_string(folder.join("ziphash")).unwrap(), h1.as_str());
        let written = fs::metadata(folder.join("ziphash")).unwrap();
        assert_eq!(fixture.store.seal(&v).unwrap(), Some(h1.clone()));
        let again = fs::metadata(folder.join("ziphash")).unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::ino(&written),
            std::os::unix::fs::MetadataExt::ino(&again)
        );
        assert_eq!(fixture.store.open_zip(&v).unwrap().unwrap().seal, Some(h1));
        assert!(staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn a_malformed_seal_is_ignored() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        fs::write(folder.join("ziphash"), "h1:short").unwrap();
        assert_eq!(fixture.store.open_zip(&v).unwrap().unwrap().seal, None);
        let h1 = fixture.store.seal(&v).unwrap().unwrap();
        assert_eq!(fs::read_to_string(folder.join("ziphash")).unwrap(), h1.as_str());
    }

    #[test]
    fn every_kind_of_damage_ends_in_quarantine() {
        let v = version("example.com/m@v1.0.0");
        let other = version("example.com/other@v1.0.0");
        type Damage = Box<dyn Fn(&Path)>;
        let mut damages: Vec<(String, Damage)> = Vec::new();
        for file in ["mod", "zip"] {
            damages.push((
                format!("{file} removed"),
                Box::new(move |at| fs::remove_file(at.join(file)).unwrap()),
            ));
        }
        damages.push((
            "a folder as its seal".to_owned(),
            Box::new(|at| fs::create_dir(at.join("ziphash")).unwrap()),
        ));
        for file in ["mod", "zip", "info"] {
            damages
                .push((format!("{file} emptied"), Box::new(move |at| fs::write(at.join(file), "").unwrap())));
            damages.push((
                format!("{file} cut"),
                Box::new(move |at| {
                    let bytes = fs::read(at.join(file)).unwrap();
                    fs::write(at.join(file), &bytes[..bytes.len() - 3]).unwrap();
                }),
            ));
        }
        let bytes = zip(&v, "package a\n");
        for at in [0, 26, 40, bytes.len() / 2, bytes.len() - 10] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            damages.push((
                format!("bit flipped at {at}"),
                Box::new(move |folder| fs::write(folder.join("zip"), &flipped).unwrap()),
            ));
        }
        let foreign = zip(&other, "package a\n");
        damages.push((
            "wrong prefix".to_owned(),
            Box::new(move |at| fs::write(at.join("zip"), &foreign).unwrap()),
        ));
        damages.push((
            "wrong mod".to_owned(),
            Box::new(|at| fs::write(at.join("mod"), "module example.com/m // other\n").unwrap()),
        ));
        damages.push((
            "wrong info".to_owned(),
            Box::new(|at| fs::write(at.join("info"), "{\"Version\":\"v1.0.1\"}").unwrap()),
        ));
        for (name, damage) in damages {
            let fixture = Fixture::new();
            let folder = put_unsealed(&fixture.store, &v, &bytes);
            damage(&folder);
            assert_eq!(fixture.store.seal(&v).unwrap(), None, "{name}");
            assert!(!folder.exists(), "{name}");
            assert!(fixture.store.open_zip(&v).unwrap().is_none(), "{name}");
            assert_eq!(quarantined(fixture.dir.path()).len(), 1, "{name}");
        }
    }

    #[test]
    fn a_version_with_a_tombstone_is_not_sealed_even_if_it_is_valid() {
        for by_verifying in [false, true] {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            let tombstone = Some(Tombstone::now(Some("a key is in it".to_owned())));
            let record = Record { tombstone, ..Record::default() };
            fixture.store.records().write(&fixture.store.claim(&v).unwrap(), &record).unwrap();
            // As an older release without records leaves it.
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            let reader = open(fixture.dir.path(), Mode::ReadOnly);
            assert_eq!(reader.seal(&v).unwrap(), None);
            assert!(folder.join("zip").is_file());
            match by_verifying {
                true => assert!(matches!(
                    fixture.store.verify(&v, Which::Unsealed).unwrap(),
                    Verified::Broken(reason) if reason.contains("a key is in it")
                )),
                false => assert_eq!(fixture.store.seal(&v).unwrap(), None),
            }
            assert!(!folder.exists());
            let [(reason, _)] = quarantined(fixture.dir.path()).try_into().unwrap();
            assert!(reason.contains("removed for good") && reason.contains("a key is in it"), "{reason}");
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
    fn a_seal_is_valid_until_a_file_is_written() {
        for file in ["zip", "mod"] {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            fixture.publish(&v, &zip(&v, "package a\n"));
            assert!(matches!(fixture.store.verify(&v, Which::Unsealed).unwrap(), Verified::Sealed));
            let path = fixture.store.paths.version(&v).join(file);
            let later = SystemTime::now() + std::time::Duration::from_secs(3600);
            fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
            let other = open(fixture.dir.path(), Mode::ReadWrite);
            assert_eq!(other.open_zip(&v).unwrap().unwrap().seal, None, "{file}");
            assert!(matches!(other.verify(&v, Which::Unsealed).unwrap(), Verified::Whole(_)), "{file}");
            // The new seal is valid although the time of a file is in the future.
            assert!(other.open_zip(&v).unwrap().unwrap().seal.is_some(), "{file}");
            assert!(matches!(other.verify(&v, Which::Unsealed).unwrap(), Verified::Sealed), "{file}");
        }
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

    #[test]
    fn a_read_only_store_keeps_seals_in_memory() {
        let fixture = Fixture::new();
        let [whole, broken] = ["example.com/m@v1.0.0", "example.com/m@v1.0.1"].map(version);
        let folder = put_unsealed(&fixture.store, &whole, &zip(&whole, "package a\n"));
        let broken_folder = put_unsealed(&fixture.store, &broken, b"no zip");
        let reader = open(fixture.dir.path(), Mode::ReadOnly);
        let h1 = reader.seal(&whole).unwrap().unwrap();
        assert_eq!(reader.open_zip(&whole).unwrap().unwrap().seal, Some(h1));
        assert_eq!(reader.seal(&broken).unwrap(), None);
        assert!(
            reader.open_zip(&broken).unwrap().is_none(),
            "it is known to be corrupt and is not read again"
        );
        assert_eq!(reader.seal(&broken).unwrap(), None);
        assert!(broken_folder.exists() && !folder.join("ziphash").exists());
        assert!(matches!(reader.draft(&whole), Err(StoreError::ReadOnly(_))));
    }
}
