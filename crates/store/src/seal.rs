//! The seal: `ziphash` in the folder of a version. It holds the `h1:` of the zip and states that the whole zip was
//! verified.
//!
//! A fill seals a version before it publishes it. A version that came by migration or import is sealed at the first
//! request for its zip, before the first byte is sent, or by [`Store::verify`]. Sealing fails only if the content
//! was read and is wrong, if `mod` or `zip` is missing beside `info`, or if there is a tombstone. The version then
//! moves to quarantine and counts as absent. Any other error moves nothing.
//!
//! A valid seal is never older than its `mod` and its `zip`. An older seal is ignored, because a file was written
//! after the verification, and the version is read again. A seal from the future, by a wrong clock, would be newer than
//! every later write. So it is valid only if it has exactly the time of the zip.
//!
//! A folder that changed after its seal may come from a backup. Its record may forbid the version, or hold another hash.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable, Folder};
use stoa_layout::error::PathContext;

use crate::examine::{Examination, info_fault};
use crate::files::{SMALL_LIMIT, Stamp, metadata, open_file, read_bounded};
use crate::metadata::Metadata;
use crate::paths::{VersionFile, version_metadata};
use crate::seal_state::SealState;
use crate::{Claim, Store, StoreError, staging};

/// The age that a file may be ahead of the clock, because another machine writes the times.
const CLOCK_MARGIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The time in which a version is placed after its seal was written.
const PLACED_WITHIN: Duration = Duration::from_secs(60);

impl Store {
    /// Verifies a version and adds its seal, unless it has a valid seal. `None` if the version is not in the store,
    /// or was corrupt and is in quarantine now.
    pub fn seal(&self, version: &ModuleVersion) -> Result<Option<H1>, StoreError> {
        if self.is_read_only() {
            return self.seal_in_memory(version);
        }
        match self.claim(version) {
            Err(error) if error.is_out_of_space() => {
                self.note_failure(&error);
                self.seal_in_memory(version)
            }
            claim => self.seal_claimed(&claim?),
        }
    }

    pub(crate) fn seal_claimed(&self, claim: &Claim) -> Result<Option<H1>, StoreError> {
        let version = claim.version();
        let path = self.paths.version(version);
        let Some(folder) = Stamp::at(&path)? else { return Ok(None) };
        if !self.has_info(version)? {
            return Ok(None);
        }
        if let Some((h1, _)) = self.valid_seal(version, folder)? {
            return Ok(Some(h1));
        }
        let found = Found::look(&path, folder)?;
        let examination = match self.known_corrupt(version, &found) {
            Some(reason) => Examination::Corrupt(reason),
            None => self.examine_and_seal(&path, version, folder)?,
        };
        match examination {
            Examination::Whole { h1, .. } => Ok(Some(h1)),
            Examination::Corrupt(reason) => {
                let moved = self.quarantine_if_same(claim, folder, &reason);
                if moved.is_err() {
                    // Each request would read it again until it can be moved.
                    self.corrupt.insert(version.clone(), KnownCorrupt { found, reason });
                }
                moved.map(|_| None)
            }
        }
    }

    /// Returns the fault of a version that was found corrupt and is the same since.
    fn known_corrupt(&self, version: &ModuleVersion, found: &Found) -> Option<String> {
        self.corrupt.get(version).filter(|known| known.found == *found).map(|known| known.reason)
    }

    /// Reads a version and adds its seal if it is valid and has none. On a network file system the change time of the zip
    /// may move after it was read, so the version is then read once more.
    pub(crate) fn examine_and_seal(
        &self,
        path: &Path,
        version: &ModuleVersion,
        folder: Stamp,
    ) -> Result<Examination, StoreError> {
        for is_last in [false, true] {
            let examination = self.examine(path, version)?;
            let Examination::Whole { h1, zip, .. } = &examination else { return Ok(examination) };
            match self.seal_examined(path, version, folder, (h1, *zip)) {
                Err(StoreError::Changed(_)) if !is_last => {}
                sealed => return sealed.map(|()| examination),
            }
        }
        Err(StoreError::Changed(path.to_owned()))
    }

    /// Adds the seal of a version that was examined, unless it has a valid seal. On a full disk the seal is kept in memory
    /// only, so that the version is served all the same.
    pub(crate) fn seal_examined(
        &self,
        path: &Path,
        version: &ModuleVersion,
        folder: Stamp,
        (h1, zip): (&H1, Stamp),
    ) -> Result<(), StoreError> {
        if self.valid_seal(version, folder)?.is_some() {
            return Ok(());
        }
        let now = match self.add_seal(path, h1, folder, zip) {
            Err(error) if error.is_out_of_space() => {
                self.note_failure(&error);
                Some(folder)
            }
            added => added.and_then(|()| Ok(Stamp::at(path)?))?,
        };
        if let Some(folder) = now {
            self.remember_seal(version, Some((h1.clone(), zip)), folder);
        }
        Ok(())
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
        let found = Found::look(&path, folder)?;
        let examination = match self.known_corrupt(version, &found) {
            Some(reason) => Examination::Corrupt(reason),
            None => self.examine(&path, version)?,
        };
        match examination {
            Examination::Whole { h1, zip, .. } => {
                self.remember_seal(version, Some((h1.clone(), zip)), folder);
                Ok(Some(h1))
            }
            Examination::Corrupt(reason) => {
                self.remember_corrupt(version, folder, found, reason);
                Ok(None)
            }
        }
    }

    /// Keeps in memory that a version is corrupt, so that it is neither served nor read again.
    fn remember_corrupt(&self, version: &ModuleVersion, folder: Stamp, found: Found, reason: String) {
        self.remember_seal(version, None, folder);
        let obstacle = if self.is_read_only() { "the store is read-only" } else { "the disk is full" };
        log::error!(
            version:% = version, reason:% = reason, obstacle:% = obstacle;
            "a version is not served and cannot be moved to quarantine"
        );
        self.corrupt.insert(version.clone(), KnownCorrupt { found, reason });
    }

    /// Moves a claimed version that is corrupt to quarantine. Returns whether it did: a person or a restored backup
    /// may have replaced the folder since it was read.
    pub(crate) fn quarantine_if_same(
        &self,
        claim: &Claim,
        folder: Stamp,
        reason: &str,
    ) -> Result<bool, StoreError> {
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
        let opened = Folder::open(self.root(), self.paths.relative(path))?;
        self.staging()?.place_file(|staged| {
            let file = write_seal(&self.durable, staged, h1, path)?;
            durable::sync_file(&file, staged)?;
            drop(file);
            if !Stamp::at(path)?.is_some_and(|now| now.is_same_file(folder)) {
                let reason = io::Error::other("it was replaced meanwhile");
                return Err(PathError::new("seal", path, reason).into());
            }
            // A zip that was written to since it was read gets no seal, however old its time is.
            let now = Metadata::of_path(&path.join(VersionFile::Zip.name())).at("stat", path)?;
            if Stamp::of(&now) != zip {
                return Err(StoreError::Changed(path.to_owned()));
            }
            // A plain rename: a file of this name is no valid seal, or this function would not be called.
            durable::rename(staged, &seal)?;
            Ok(opened.sync()?)
        })
    }

    /// Returns the seal of a version with the stamp of its zip. `None` if there is no seal, the info is wrong, `mod` or
    /// `zip` is missing or newer than the seal, or the record of a restored version forbids it.
    pub(crate) fn valid_seal(
        &self,
        version: &ModuleVersion,
        stamp: Stamp,
    ) -> Result<Option<(H1, Stamp)>, StoreError> {
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
            let Some(meta) = metadata(&path)?.filter(Metadata::is_file) else { return Ok(None) };
            let written = meta.modified().at("stat", &path)?;
            if written > sealed || (file == VersionFile::Zip && written != sealed && is_from_future(sealed)) {
                return Ok(None);
            }
            zip = (meta.len() > 0).then(|| Stamp::of(&meta));
        }
        if self.is_forbidden_restore(version, stamp, sealed, Some(&h1))? {
            return Ok(None);
        }
        Ok(zip.map(|zip| (h1, zip)))
    }

    /// Returns whether a folder was changed after a file in it was written, as by a restored backup, and the record of
    /// the version forbids it. A version that was published here was compared with its record then.
    pub(crate) fn is_forbidden_restore(
        &self,
        version: &ModuleVersion,
        folder: Stamp,
        written: SystemTime,
        h1: Option<&H1>,
    ) -> Result<bool, StoreError> {
        if !folder.is_changed_after(written, PLACED_WITHIN) {
            return Ok(false);
        }
        let Some(record) = self.records().get(version)? else { return Ok(false) };
        Ok(record.tombstone.is_some() || h1.is_some_and(|h1| record.objection(h1, None).is_some()))
    }
}

/// The state of the folder of a version and of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    folder: Stamp,
    files: [Option<Stamp>; 3],
}

impl Found {
    fn look(path: &Path, folder: Stamp) -> Result<Self, PathError> {
        let files = version_metadata(path)?.map(|meta| meta.as_ref().map(Stamp::of));
        Ok(Self { folder, files })
    }
}

/// A version that was found corrupt and could not be moved to quarantine.
#[derive(Debug, Clone)]
pub(crate) struct KnownCorrupt {
    found: Found,
    reason: String,
}

fn is_from_future(time: SystemTime) -> bool {
    time.duration_since(SystemTime::now()).is_ok_and(|ahead| ahead > CLOCK_MARGIN)
}

/// Reads the seal in the folder of a version, and the time of its writing. `None` if the file holds no `h1:`.
pub(crate) fn read_seal(folder: &Path) -> Result<Option<(H1, SystemTime)>, PathError> {
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
    let written = Metadata::of_file(&file).and_then(|meta| meta.modified()).at("stat", seal)?;
    let meta_of = |file: VersionFile| Metadata::of_path(&folder.join(file.name())).ok();
    let time_of = |file: VersionFile| meta_of(file).and_then(|meta| meta.modified().ok());
    let zip = time_of(VersionFile::Zip);
    // A mod with several names may belong to a copy of the store, and its time does not change.
    let has_one_name = || meta_of(VersionFile::Mod).is_some_and(|meta| meta.links <= 1);
    if time_of(VersionFile::Mod).is_some_and(|time| is_from_future(time) && Some(time) > zip)
        && has_one_name()
    {
        // The seal must have the time of the zip. If this fails, the seal is kept in memory only.
        let _ = durable::touch(&folder.join(VersionFile::Mod.name()));
    }
    // The clock may have been set back, or the files may have a time in the future. The seal would be ignored.
    let newest = time_of(VersionFile::Mod).max(zip).unwrap_or(SystemTime::UNIX_EPOCH);
    if newest > written || is_from_future(written) {
        durable::set_modified(&file, seal, newest)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use stoa_layout::gate::Mode;

    use super::*;
    use crate::testing::{Fixture, open, put_unsealed, quarantined, staged, version, zip};
    use crate::{Record, Tombstone, Verified, Which};

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
            assert!(
                reason.contains("it has been forbidden since") && reason.contains("a key is in it"),
                "{reason}"
            );
        }
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

    fn set_modified(path: &Path, time: SystemTime) {
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_seal_from_the_future_ends_with_the_next_write() {
        let v = version("example.com/m@v1.0.0");
        let future = SystemTime::now() + Duration::from_secs(10 * 365 * 24 * 60 * 60);
        let later = future + Duration::from_secs(1);
        // A version that came with such times, and a version of a server whose clock was wrong.
        for (is_sealed_then, of_mod, of_zip) in [
            (false, future, later),
            (false, later, future),
            (false, future, future),
            (true, future, later),
            (true, future, future),
        ] {
            let fixture = Fixture::new();
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            if is_sealed_then {
                fixture.store.seal(&v).unwrap().unwrap();
                set_modified(&folder.join("ziphash"), future + Duration::from_secs(2));
            }
            set_modified(&folder.join("mod"), of_mod);
            set_modified(&folder.join("zip"), of_zip);
            let seal = |store: &Store| store.open_zip(&v).unwrap().unwrap().seal;
            let store = open(fixture.dir.path(), Mode::ReadWrite);
            assert_eq!(seal(&store), None, "{is_sealed_then}");
            store.seal(&v).unwrap().unwrap();
            let store = open(fixture.dir.path(), Mode::ReadWrite);
            assert!(seal(&store).is_some(), "it is verified only once");
            // A write at the real time is older than the seal, and still seen.
            fs::write(folder.join("zip"), "damaged").unwrap();
            let store = open(fixture.dir.path(), Mode::ReadWrite);
            assert_eq!(seal(&store), None);
            assert_eq!(store.seal(&v).unwrap(), None);
            assert_eq!(quarantined(fixture.dir.path()).len(), 1);
        }
    }

    #[test]
    fn a_mod_that_a_copy_of_the_store_shares_keeps_its_time() {
        let v = version("example.com/m@v1.0.0");
        let future = SystemTime::now() + Duration::from_secs(10 * 365 * 24 * 60 * 60);
        for is_shared in [false, true] {
            let fixture = Fixture::new();
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            let path = folder.join("mod");
            set_modified(&path, future);
            if is_shared {
                fs::hard_link(&path, fixture.dir.path().join("copy")).unwrap();
            }
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            assert!(fixture.store.seal(&v).unwrap().is_some());
            let is_kept = fs::metadata(&path).unwrap().modified().unwrap() == before;
            assert_eq!(is_kept, is_shared);
            assert!(fixture.store.open_zip(&v).unwrap().is_some(), "it is served all the same");
        }
    }

    #[test]
    fn a_restored_version_is_compared_with_its_record() {
        let v = version("example.com/m@v1.0.0");
        let h1 = |text: &str| Some(stoa_gomod::h1::hash_mod(text.as_bytes()));
        let tombstone = Some(Tombstone::now(None));
        for record in
            [Record { tombstone, ..Record::default() }, Record { h1: h1("another"), ..Record::default() }]
        {
            let fixture = Fixture::new();
            fixture.publish(&v, &zip(&v, "package a\n"));
            let folder = fixture.store.paths.version(&v);
            // As from a backup of two days ago: only the folder is new.
            let past = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
            for file in ["info", "mod", "zip", "ziphash"] {
                set_modified(&folder.join(file), past);
            }
            let store = open(fixture.dir.path(), Mode::ReadWrite);
            assert!(store.open_zip(&v).unwrap().unwrap().seal.is_some(), "nothing forbids it");
            store.records().write(&store.claim(&v).unwrap(), &record).unwrap();
            let store = open(fixture.dir.path(), Mode::ReadWrite);
            assert_eq!(store.open_zip(&v).unwrap().unwrap().seal, None);
            if record.tombstone.is_some() {
                assert!(store.small(&v, crate::SmallFile::Info).unwrap().is_none());
            } else {
                assert_eq!(store.seal(&v).unwrap(), None);
            }
            assert!(!folder.exists());
        }
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
