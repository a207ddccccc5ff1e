//! Reading published versions: one open below the folder of the version.
//!
//! Published files never change, so the small ones and the seals are kept in memory. Another process may still
//! remove or quarantine a version, and a person may damage it. So a folder that was last checked more than a second
//! ago is checked again, with one system call.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use quick_cache::Weighter;
use sha2::{Digest, Sha256};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::examine::info_fault;
use crate::files::{SMALL_LIMIT, Stamp, open_file};
use crate::seal_state::{CHECK_VALID, SealState};
use crate::{Store, StoreError, VersionFile};

/// A file that is small enough to be kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SmallFile {
    /// The info.
    Info,
    /// The go.mod.
    Mod,
}

impl From<SmallFile> for VersionFile {
    fn from(file: SmallFile) -> Self {
        match file {
            SmallFile::Info => Self::Info,
            SmallFile::Mod => Self::Mod,
        }
    }
}

/// The content of a small file. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Small {
    /// The bytes.
    pub bytes: Bytes,
    /// The time of the last write to the file.
    pub modified: SystemTime,
    /// The SHA-256 of the bytes.
    pub digest: [u8; 32],
}

/// An open zip.
#[derive(Debug)]
pub struct ZipFile {
    file: File,
    /// The size of the zip in bytes.
    pub length: u64,
    /// The time of the last write to the file.
    pub modified: SystemTime,
    /// The seal. `None` if the zip was not verified yet: call [`Store::seal`] before you send its first byte.
    pub seal: Option<H1>,
}

impl ZipFile {
    pub(crate) fn unsealed(file: File, length: u64, modified: SystemTime) -> Self {
        Self { file, length, modified, seal: None }
    }

    /// Returns the file, for copying.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads at an offset. May wait for the disk.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// Reads at an offset from the page cache. `None` if only [`Self::read`], which may wait for the disk, can tell.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        read_now(&self.file, offset, buffer)
    }
}

/// Reads at an offset from the page cache. `None` if only an ordinary read, which may wait for the disk, can tell.
#[cfg(target_os = "linux")]
pub(crate) fn read_now(file: &File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    match preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        // Linux 5.9 and 5.10 may return 0 before the end of the file (preadv2(2), BUGS).
        Ok(0) => None,
        Ok(read) => Some(read),
        // Not in the page cache; or the file system, the kernel or a seccomp filter refuses the flag or the call. An
        // ordinary read reports a real error.
        Err(_) => None,
    }
}

/// Returns `None`: the read may wait for the disk.
#[cfg(not(target_os = "linux"))]
pub(crate) fn read_now(_: &File, _: u64, _: &mut [u8]) -> Option<usize> {
    None
}

/// How often a version may be replaced while its zip is opened before that is an error.
const ATTEMPTS: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct KnownSmall {
    small: Small,
    folder: Stamp,
    checked: Instant,
}

/// Weighs a small file in bytes of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SmallWeight;

impl Weighter<(ModuleVersion, SmallFile), KnownSmall> for SmallWeight {
    fn weight(&self, _: &(ModuleVersion, SmallFile), known: &KnownSmall) -> u64 {
        known.small.bytes.len() as u64 + 256
    }
}

impl Store {
    /// Returns the info or the go.mod of a version, from memory if possible. `None` if the version is not in the
    /// store.
    ///
    /// The first call under a new claim reads the disk.
    pub fn small(&self, version: &ModuleVersion, file: SmallFile) -> Result<Option<Small>, StoreError> {
        let key = (version.clone(), file);
        if let Some(mut known) = self.smalls.get(&key) {
            if known.checked.elapsed() < CHECK_VALID {
                return Ok(Some(known.small));
            }
            if Stamp::at(&self.paths.version(version))? == Some(known.folder) {
                known.checked = Instant::now();
                let small = known.small.clone();
                self.smalls.insert(key, known);
                return Ok(Some(small));
            }
            self.smalls.remove(&key);
        }
        self.read_small(key)
    }

    fn read_small(&self, key: (ModuleVersion, SmallFile)) -> Result<Option<Small>, StoreError> {
        let (version, file) = &key;
        let checked = Instant::now();
        let Some(folder) = Stamp::at(&self.paths.version(version))? else { return Ok(None) };
        let path = self.paths.file(version, VersionFile::from(*file));
        let Some((mut open, meta)) = open_file(&path)? else {
            return self.quarantine_if_corrupt(version).map(|()| None);
        };
        if *file != SmallFile::Info && !self.has_info(version)? {
            return Ok(None);
        }
        let modified = meta.modified().at("stat", &path)?;
        if meta.len() > SMALL_LIMIT || self.is_forbidden_restore(version, folder, modified, None)? {
            return self.quarantine_if_corrupt(version).map(|()| None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        (&mut open).take(SMALL_LIMIT).read_to_end(&mut bytes).at("read", &path)?;
        if *file == SmallFile::Info && info_fault(version, &bytes).is_some() {
            return self.quarantine_if_corrupt(version).map(|()| None);
        }
        let digest = Sha256::digest(&bytes).into();
        let small = Small { bytes: Bytes::from(bytes), modified, digest };
        self.smalls.insert(key, KnownSmall { small: small.clone(), folder, checked });
        Ok(Some(small))
    }

    /// Opens the zip of a version. `None` if the version is not in the store.
    pub fn open_zip(&self, version: &ModuleVersion) -> Result<Option<ZipFile>, StoreError> {
        let path = self.paths.file(version, VersionFile::Zip);
        for _ in 0..ATTEMPTS {
            let Some((file, meta)) = open_file(&path)? else {
                return self.quarantine_if_corrupt(version).map(|()| None);
            };
            let seal = match self.seal_state(version, Stamp::of(&meta))? {
                SealState::Absent => return Ok(None),
                SealState::Replaced => continue,
                SealState::Unsealed => None,
                SealState::Sealed(h1) => Some(h1),
            };
            let modified = meta.modified().at("stat", &path)?;
            return Ok(Some(ZipFile { file, length: meta.len(), modified, seal }));
        }
        Err(PathError::new("open", path, io::Error::other("another program keeps replacing it")).into())
    }

    /// Drops what is kept in memory about a version.
    pub(crate) fn forget(&self, version: &ModuleVersion) {
        self.seals.remove(version);
        for file in [SmallFile::Info, SmallFile::Mod] {
            self.smalls.remove(&(version.clone(), file));
        }
    }

    /// Moves a version to quarantine if its info exists and the info, the mod or the zip is wrong or missing.
    fn quarantine_if_corrupt(&self, version: &ModuleVersion) -> Result<(), StoreError> {
        // Not waiting for the claim: the caller itself may hold it, and its holder checks the version anyway.
        if !self.is_read_only()
            && self.has_info(version)?
            && let Some(claim) = self.try_claim(version)?
        {
            self.seal_claimed(&claim)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use std::path::Path;

    use crate::testing::{Fixture, put_unsealed, quarantined, version, zip};

    /// Makes the last check of the folder outdated.
    fn outdate_the_check(fixture: &Fixture, version: &ModuleVersion) {
        let past = Instant::now() - 2 * CHECK_VALID;
        for file in [SmallFile::Info, SmallFile::Mod] {
            let key = (version.clone(), file);
            if let Some(known) = fixture.store.smalls.get(&key) {
                fixture.store.smalls.insert(key, KnownSmall { checked: past, ..known });
            }
        }
        if let Some(mut known) = fixture.store.seals.get(version) {
            known.checked = past;
            fixture.store.seals.insert(version.clone(), known);
        }
    }

    #[test]
    fn a_version_that_another_process_removed_is_absent() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        fixture.publish(&v, &zip(&v, "package a\n"));
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_some());
        outdate_the_check(&fixture, &v);
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_some(), "checked again and still there");
        fs::remove_dir_all(fixture.store.paths.version(&v)).unwrap();
        outdate_the_check(&fixture, &v);
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
        assert!(fixture.store.open_zip(&v).unwrap().is_none());
    }

    #[test]
    fn a_version_without_its_info_is_absent() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        fs::remove_file(folder.join("info")).unwrap();
        assert!(fixture.store.small(&v, SmallFile::Mod).unwrap().is_none());
        assert!(fixture.store.open_zip(&v).unwrap().is_none());
        assert!(folder.exists(), "a leftover stays where it is");
    }

    #[test]
    fn an_info_without_mod_or_zip_moves_to_quarantine() {
        for file in ["zip", "mod"] {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            fs::remove_file(folder.join(file)).unwrap();
            match file {
                "zip" => assert!(fixture.store.open_zip(&v).unwrap().is_none()),
                _ => assert!(fixture.store.small(&v, SmallFile::Mod).unwrap().is_none()),
            }
            assert_eq!(quarantined(fixture.dir.path()).len(), 1, "{file}");
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        fs::rename(folder.join("info"), folder.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", folder.join("info")).unwrap();
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
    }

    #[test]
    fn a_seal_counts_only_for_the_zip_beside_it() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        // A reader opens the zip and then waits while the version is replaced.
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package old\n"));
        let (_old, old) = open_file(&folder.join("zip")).unwrap().unwrap();
        fs::rename(&folder, fixture.dir.path().join("away")).unwrap();
        fixture.publish(&v, &zip(&v, "package new\n"));
        let (_new, new) = open_file(&folder.join("zip")).unwrap().unwrap();
        let state = |meta| fixture.store.seal_state(&v, Stamp::of(meta)).unwrap();
        assert_eq!(state(&old), SealState::Replaced, "by the files");
        assert!(matches!(state(&new), SealState::Sealed(_)));
        assert_eq!(state(&old), SealState::Replaced, "by the memory");
    }

    #[test]
    fn an_info_that_is_not_a_file_makes_no_version() {
        type Put = fn(&Path);
        let odd: [Put; 2] =
            [|info| fs::create_dir(info).unwrap(), |info| std::os::unix::fs::symlink("mod", info).unwrap()];
        for put in odd {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            fs::remove_file(folder.join("info")).unwrap();
            put(&folder.join("info"));
            // A fill reads under its own claim, so waiting for that claim would never end.
            let _claim = fixture.store.claim(&v).unwrap();
            assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
            assert!(fixture.store.small(&v, SmallFile::Mod).unwrap().is_none());
            assert!(fixture.store.open_zip(&v).unwrap().is_none());
            assert!(fixture.store.locate(&v, VersionFile::Zip).unwrap().is_none());
            assert!(quarantined(fixture.dir.path()).is_empty() && folder.exists(), "a leftover stays");
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        for file in ["info", "mod"] {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            fs::OpenOptions::new().write(true).open(folder.join(file)).unwrap().set_len(1 << 40).unwrap();
            let small = if file == "info" { SmallFile::Info } else { SmallFile::Mod };
            let claim = fixture.store.claim(&v).unwrap();
            assert!(fixture.store.small(&v, small).unwrap().is_none());
            assert!(folder.exists(), "the holder of the claim checks it");
            drop(claim);
            assert!(fixture.store.small(&v, small).unwrap().is_none());
            assert_eq!(quarantined(fixture.dir.path()).len(), 1, "{file}");
        }
    }

    #[test]
    fn a_symlink_to_a_version_is_not_a_version() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        let elsewhere = fixture.dir.path().join("elsewhere");
        fs::rename(&folder, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &folder).unwrap();
        assert!(fixture.store.open_zip(&v).unwrap().is_none());
        assert!(fixture.store.locate(&v, VersionFile::Zip).unwrap().is_none());
        assert!(fixture.store.list(v.path()).unwrap().is_none());
    }

    #[test]
    fn a_name_that_the_file_system_cannot_hold_is_absent() {
        let fixture = Fixture::new();
        fixture
            .publish(&version("example.com/m@v1.0.0"), &zip(&version("example.com/m@v1.0.0"), "package a\n"));
        let long = "a".repeat(300);
        for pair in [format!("example.com/{long}@v1.0.0"), format!("example.com/m@v1.0.0-{long}")] {
            let v = version(&pair);
            assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
            assert!(fixture.store.open_zip(&v).unwrap().is_none());
            assert!(fixture.store.locate(&v, VersionFile::Zip).unwrap().is_none());
            assert_eq!(fixture.store.seal(&v).unwrap(), None);
            fixture.store.list(v.path()).unwrap();
        }
    }

    #[test]
    fn zips_are_read_at_any_offset() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let bytes = zip(&v, "package a\n");
        fixture.publish(&v, &bytes);
        let open = fixture.store.open_zip(&v).unwrap().unwrap();
        let mut buffer = vec![0; bytes.len()];
        assert_eq!(open.read(3, &mut buffer).unwrap(), bytes.len() - 3);
        assert_eq!(&buffer[..bytes.len() - 3], &bytes[3..]);
        if let Some(read) = open.read_now(0, &mut buffer) {
            assert_eq!(&buffer[..read], &bytes[..read]);
        }
    }
}
