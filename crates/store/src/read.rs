//! Reading published versions: one open below the version's folder.
//!
//! Files are immutable, so small ones and seals are kept in memory. A folder may still be removed or
//! quarantined by another process, or damaged by hand, so that what was looked at more than a second ago is
//! looked at again: the inode and the change time of its folder, one system call.

use std::fs::{File, Metadata};
use std::io::{self, IoSliceMut, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use quick_cache::Weighter;
use sha2::{Digest, Sha256};
use stoa_gomod::{H1, ModuleVersion};
use stoa_layout::PathError;
use stoa_layout::error::PathContext;

use crate::seal::{info_fault, read_bounded};
use crate::{Store, StoreError, VersionFile};

/// A file that is small enough to be kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SmallFile {
    /// The info body.
    Info,
    /// The go.mod body.
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

/// The content of a small file; cheap to clone.
#[derive(Debug, Clone)]
pub struct Small {
    /// The bytes.
    pub bytes: Bytes,
    /// When the file was written last.
    pub modified: SystemTime,
    /// The SHA-256 of the bytes.
    pub digest: [u8; 32],
}

/// An open zip.
#[derive(Debug)]
pub struct ZipFile {
    file: File,
    /// Its size in bytes.
    pub length: u64,
    /// When the file was written last.
    pub modified: SystemTime,
    /// Its seal. Without one nobody has read the zip whole yet: [`Store::seal`] comes before the first byte
    /// that goes out.
    pub seal: Option<H1>,
}

impl ZipFile {
    /// Is the file, to be copied.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads at an offset, and may wait for the disk.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// Reads at an offset what is in memory. `None` if that would wait for the disk.
    pub fn read_now(&self, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        read_now(&self.file, offset, buffer)
    }
}

#[cfg(target_os = "linux")]
fn read_now(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(Some(read)),
        // Not in memory, or a file system that cannot tell.
        Err(Errno::AGAIN | Errno::NOTSUP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn read_now(_: &File, _: u64, _: &mut [u8]) -> io::Result<Option<usize>> {
    Ok(None)
}

/// What tells one folder at a path from another, and from itself after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) }
    }

    /// Looks at a folder itself, not at what a symlink points to. `None` if no folder is there.
    pub(crate) fn at(path: &Path) -> Result<Option<Self>, PathError> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) => Ok(meta.is_dir().then(|| Self::of(&meta))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(PathError::new("look at", path, error)),
        }
    }

    /// Whether both are of one folder, changed or not.
    pub(crate) fn is_same_folder(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// How often a version may be replaced while it is opened, before that is an error.
const ATTEMPTS: usize = 8;

/// The longest that an info or a go.mod may be, as Go has it for a go.mod.
pub(crate) const SMALL_LIMIT: u64 = 16 << 20;

/// How long a look at a folder counts.
const LOOK_COUNTS: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct KnownSmall {
    small: Small,
    folder: Stamp,
    looked: Instant,
}

#[derive(Debug, Clone)]
pub(crate) struct KnownSeal {
    /// The seal, and the zip that it is of. `None` if the version proved broken where nothing can be moved.
    seal: Option<(H1, Stamp)>,
    folder: Stamp,
    looked: Instant,
}

impl KnownSeal {
    /// Is what this says about an open zip, if anything.
    fn of(&self, zip: Stamp) -> Option<Sealing> {
        match &self.seal {
            None => Some(Sealing::Absent),
            Some((h1, own)) => (*own == zip).then(|| Sealing::Sealed(h1.clone())),
        }
    }
}

/// What is known about an open zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sealing {
    /// Its version is not there, or proved broken.
    Absent,
    /// Nobody has read it whole yet.
    Unsealed,
    /// Its version was replaced after it was opened, so the seal at that place is of another zip.
    Replaced,
    /// It has this seal.
    Sealed(H1),
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
    /// Reads the info or the mod of a version, from memory if it was read before. `None` if the version is
    /// not there.
    pub fn small(&self, version: &ModuleVersion, file: SmallFile) -> Result<Option<Small>, StoreError> {
        let key = (version.clone(), file);
        if let Some(mut known) = self.smalls.get(&key) {
            if known.looked.elapsed() < LOOK_COUNTS {
                return Ok(Some(known.small));
            }
            if Stamp::at(&self.paths.version(version))? == Some(known.folder) {
                known.looked = Instant::now();
                let small = known.small.clone();
                self.smalls.insert(key, known);
                return Ok(Some(small));
            }
            self.smalls.remove(&key);
        }
        self.read_small(key)
    }

    /// The same from the disk, whatever is in memory: for who acts on it, and not only tells.
    pub fn small_now(&self, version: &ModuleVersion, file: SmallFile) -> Result<Option<Small>, StoreError> {
        self.forget(version);
        self.read_small((version.clone(), file))
    }

    fn read_small(&self, key: (ModuleVersion, SmallFile)) -> Result<Option<Small>, StoreError> {
        let (version, file) = &key;
        let looked = Instant::now();
        let Some(folder) = Stamp::at(&self.paths.version(version))? else { return Ok(None) };
        let path = self.paths.file(version, VersionFile::from(*file));
        let Some((mut open, meta)) = open_file(&path)? else {
            return self.put_away_if_broken(version).map(|()| None);
        };
        if *file != SmallFile::Info && !self.has_info(version)? {
            return Ok(None);
        }
        if meta.len() > SMALL_LIMIT {
            return self.put_away_if_broken(version).map(|()| None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        (&mut open).take(SMALL_LIMIT).read_to_end(&mut bytes).at("read", &path)?;
        if *file == SmallFile::Info && info_fault(version, &bytes).is_some() {
            return self.put_away_if_broken(version).map(|()| None);
        }
        let modified = meta.modified().at("look at", &path)?;
        let digest = Sha256::digest(&bytes).into();
        let small = Small { bytes: Bytes::from(bytes), modified, digest };
        self.smalls.insert(key, KnownSmall { small: small.clone(), folder, looked });
        Ok(Some(small))
    }

    /// Opens the zip of a version. `None` if the version is not there.
    pub fn open_zip(&self, version: &ModuleVersion) -> Result<Option<ZipFile>, StoreError> {
        let path = self.paths.file(version, VersionFile::Zip);
        for _ in 0..ATTEMPTS {
            let Some((file, meta)) = open_file(&path)? else {
                return self.put_away_if_broken(version).map(|()| None);
            };
            let seal = match self.sealing(version, Stamp::of(&meta))? {
                Sealing::Absent => return Ok(None),
                Sealing::Replaced => continue,
                Sealing::Unsealed => None,
                Sealing::Sealed(h1) => Some(h1),
            };
            let modified = meta.modified().at("look at", &path)?;
            return Ok(Some(ZipFile { file, length: meta.len(), modified, seal }));
        }
        Err(PathError::new("open", path, io::Error::other("it is replaced again and again")).into())
    }

    /// Is what is known about a zip that is open.
    pub(crate) fn sealing(&self, version: &ModuleVersion, zip: Stamp) -> Result<Sealing, StoreError> {
        let now = Instant::now();
        let known = self.seals.get(version);
        let recent = known.as_ref().filter(|known| known.looked.elapsed() < LOOK_COUNTS);
        if let Some(sealing) = recent.and_then(|known| known.of(zip)) {
            return Ok(sealing);
        }
        let Some(folder) = Stamp::at(&self.paths.version(version))? else { return Ok(Sealing::Absent) };
        if let Some(known) = known.filter(|known| known.folder == folder)
            && let Some(sealing) = known.of(zip)
        {
            self.seals.insert(version.clone(), KnownSeal { looked: now, ..known });
            return Ok(sealing);
        }
        if !self.has_info(version)? {
            return Ok(Sealing::Absent);
        }
        let Some((h1, own)) = self.believed_seal(version)? else { return Ok(Sealing::Unsealed) };
        if own != zip {
            return Ok(Sealing::Replaced);
        }
        self.remember_seal(version, Some((h1.clone(), zip)), folder);
        Ok(Sealing::Sealed(h1))
    }

    /// Keeps a seal in memory with the zip that it is of, or that a version proved broken.
    pub(crate) fn remember_seal(&self, version: &ModuleVersion, seal: Option<(H1, Stamp)>, folder: Stamp) {
        self.seals.insert(version.clone(), KnownSeal { seal, folder, looked: Instant::now() });
    }

    pub(crate) fn forget(&self, version: &ModuleVersion) {
        self.seals.remove(version);
        for file in [SmallFile::Info, SmallFile::Mod] {
            self.smalls.remove(&(version.clone(), file));
        }
    }

    /// Reads the seal of a version, and the stamp of the zip that it is of. `None` without one, where the info is
    /// wrong, and where `mod` or `zip` is missing or was written after it: what was read whole then is not what is
    /// there now.
    pub(crate) fn believed_seal(&self, version: &ModuleVersion) -> Result<Option<(H1, Stamp)>, StoreError> {
        let folder = self.paths.version(version);
        let Some((h1, sealed)) = read_seal(&folder)? else { return Ok(None) };
        let path = folder.join(VersionFile::Info.name());
        let Some((info, _)) = open_file(&path)? else { return Ok(None) };
        if info_fault(version, &read_bounded(info, &path)?).is_some() {
            return Ok(None);
        }
        // After the seal was read: a zip that is still in its place was so before.
        let mut zip = None;
        for file in [VersionFile::Mod, VersionFile::Zip] {
            let path = folder.join(file.name());
            let meta = match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() => meta,
                Err(error) if !is_absent(&error) => return Err(PathError::new("look at", path, error).into()),
                _ => return Ok(None),
            };
            if meta.modified().at("look at", &path)? > sealed {
                return Ok(None);
            }
            zip = (meta.len() > 0).then(|| Stamp::of(&meta));
        }
        Ok(zip.map(|zip| (h1, zip)))
    }

    /// A version whose info is there and wrong, or whose mod or zip is not there, or is too long, is broken, and
    /// goes to quarantine.
    ///
    /// Where somebody has the claim it is theirs to find out: this must not wait, perhaps for its own caller.
    fn put_away_if_broken(&self, version: &ModuleVersion) -> Result<(), StoreError> {
        if !self.is_read_only()
            && self.has_info(version)?
            && let Some(claim) = self.try_claim(version)?
        {
            self.seal_claimed(&claim)?;
        }
        Ok(())
    }
}

/// Reads the seal in a version's folder, and when it was written. One that is not an `h1:` is none.
pub(crate) fn read_seal(folder: &Path) -> Result<Option<(H1, SystemTime)>, PathError> {
    let path = folder.join(VersionFile::Seal.name());
    let Some((open, meta)) = open_file(&path)? else { return Ok(None) };
    let mut text = Vec::new();
    open.take(128).read_to_end(&mut text).at("read", &path)?;
    let h1 = std::str::from_utf8(&text).ok().and_then(|text| H1::new(text.trim()).ok());
    Ok(h1.zip(meta.modified().ok()))
}

/// Opens a regular file for reading; a symlink is not followed. `None` if there is none.
pub(crate) fn open_file(path: &Path) -> Result<Option<(File, Metadata)>, PathError> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    // NONBLOCK: what stands there may be a pipe, put there by hand.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            let meta = file.metadata().at("look at", path)?;
            Ok(meta.is_file().then_some((file, meta)))
        }
        // A socket, put there by hand, cannot be opened.
        Err(Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(errno) if is_absence(errno) => Ok(None),
        Err(errno) => Err(PathError::new("open", path, errno)),
    }
}

/// Whether a regular file is at a path; a symlink is not followed. Only "not there" is a no; any other error
/// is handed on.
pub(crate) fn is_file(path: &Path) -> Result<bool, PathError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_file()),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(PathError::new("look at", path, error)),
    }
}

/// Whether an error says that nothing is there.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error).is_some_and(is_absence)
}

/// What the file system cannot hold is not there either.
fn is_absence(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{Fixture, put_unsealed, quarantined, version, zip};

    /// A look counts for a second; then the folder is looked at again.
    fn forget_the_look(fixture: &Fixture, version: &ModuleVersion) {
        let past = Instant::now() - 2 * LOOK_COUNTS;
        for file in [SmallFile::Info, SmallFile::Mod] {
            let key = (version.clone(), file);
            if let Some(known) = fixture.store.smalls.get(&key) {
                fixture.store.smalls.insert(key, KnownSmall { looked: past, ..known });
            }
        }
        if let Some(known) = fixture.store.seals.get(version) {
            fixture.store.seals.insert(version.clone(), KnownSeal { looked: past, ..known });
        }
    }

    #[test]
    fn what_another_process_removed_is_gone() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        fixture.publish(&v, &zip(&v, "package a\n"));
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_some());
        forget_the_look(&fixture, &v);
        assert!(
            fixture.store.small(&v, SmallFile::Info).unwrap().is_some(),
            "looked at again, and still there"
        );
        fs::remove_dir_all(fixture.store.paths.version(&v)).unwrap();
        forget_the_look(&fixture, &v);
        assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
        assert!(fixture.store.open_zip(&v).unwrap().is_none());
    }

    #[test]
    fn nothing_is_there_without_its_info() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
        fs::remove_file(folder.join("info")).unwrap();
        assert!(fixture.store.small(&v, SmallFile::Mod).unwrap().is_none());
        assert!(fixture.store.open_zip(&v).unwrap().is_none());
        assert!(folder.exists(), "a leftover stays where it is");
    }

    #[test]
    fn an_info_alone_goes_to_quarantine() {
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
    fn a_seal_is_of_the_zip_that_lies_beside_it() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        // As opened by a reader that then waits while the version is replaced.
        let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package old\n"));
        let (_old, old) = open_file(&folder.join("zip")).unwrap().unwrap();
        fs::rename(&folder, fixture.dir.path().join("away")).unwrap();
        fixture.publish(&v, &zip(&v, "package new\n"));
        let (_new, new) = open_file(&folder.join("zip")).unwrap().unwrap();
        let sealing = |meta| fixture.store.sealing(&v, Stamp::of(meta)).unwrap();
        assert_eq!(sealing(&old), Sealing::Replaced, "by what lies there");
        assert!(matches!(sealing(&new), Sealing::Sealed(_)));
        assert_eq!(sealing(&old), Sealing::Replaced, "by what is known");
    }

    #[test]
    fn an_info_that_is_no_file_makes_no_version() {
        type Put = fn(&Path);
        let odd: [Put; 2] =
            [|info| fs::create_dir(info).unwrap(), |info| std::os::unix::fs::symlink("mod", info).unwrap()];
        for put in odd {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            fs::remove_file(folder.join("info")).unwrap();
            put(&folder.join("info"));
            // Whoever fills looks under its own claim: waiting for it would be for ever.
            let _claim = fixture.store.claim(&v).unwrap();
            assert!(fixture.store.small(&v, SmallFile::Info).unwrap().is_none());
            assert!(fixture.store.small(&v, SmallFile::Mod).unwrap().is_none());
            assert!(fixture.store.open_zip(&v).unwrap().is_none());
            assert!(fixture.store.locate(&v, VersionFile::Zip).unwrap().is_none());
            assert!(quarantined(fixture.dir.path()).is_empty() && folder.exists(), "a leftover stays");
        }
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        for file in ["info", "mod"] {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            let folder = put_unsealed(&fixture.store, &v, &zip(&v, "package a\n"));
            fs::OpenOptions::new().write(true).open(folder.join(file)).unwrap().set_len(1 << 40).unwrap();
            let small = if file == "info" { SmallFile::Info } else { SmallFile::Mod };
            let claim = fixture.store.claim(&v).unwrap();
            assert!(fixture.store.small(&v, small).unwrap().is_none());
            assert!(folder.exists(), "whoever has the claim finds out");
            drop(claim);
            assert!(fixture.store.small(&v, small).unwrap().is_none());
            assert_eq!(quarantined(fixture.dir.path()).len(), 1, "{file}");
        }
    }

    #[test]
    fn a_symlink_to_a_version_is_none() {
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
    fn what_the_file_system_cannot_hold_is_not_there() {
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
        if let Some(read) = open.read_now(0, &mut buffer).unwrap() {
            assert_eq!(&buffer[..read], &bytes[..read]);
        }
    }
}
