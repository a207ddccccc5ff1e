//! The seal: `ziphash` in a version's folder says that its zip was read whole once and found right, and
//! holds its `h1:`.
//!
//! A fill seals before it publishes. A version that came by migration or import is sealed at the first
//! request for its zip, before the first byte goes out, or by [`Store::verify`]. Sealing fails only by content
//! that was read and found wrong, by `mod` or `zip` missing beside `info`, or by a tombstone; the version then
//! goes to quarantine and counts as absent. Any other error moves nothing.
//!
//! A seal is never older than the `mod` and the `zip` that it is of. One that is says nothing: something was
//! written to them since, and they are read again.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use stoa_gomod::zip::{ExamineError, Examined, ReadAt, examine};
use stoa_gomod::{H1, ModuleVersion, info, modfile};
use stoa_layout::PathError;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;

use crate::paths::VersionFile;
use crate::read::{SMALL_LIMIT, Sealing, Stamp, is_file, open_file, read_seal};
use crate::{Claim, Store, StoreError, staging};

/// What reading a version found.
pub(crate) enum Verdict {
    /// What its seal must say, and the zip that was read.
    Whole {
        h1: H1,
        zip: Stamp,
        length: u64,
    },
    Broken(String),
}

/// A folder that was read and what was found, or what was found without reading.
enum Looked {
    Read(Stamp, Verdict),
    Only(Verified),
}

/// Which versions to read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those without a seal, and those that were written to after they got theirs.
    Unsealed,
    /// All.
    All,
}

/// What a look at one version found.
#[derive(Debug)]
pub enum Verified {
    /// It is not there, or went away meanwhile.
    Absent,
    /// It has its seal, and was not read again.
    Sealed,
    /// It was read and found right, and has its seal now; its zip has so many bytes.
    Whole(u64),
    /// It was read and found broken, for this reason. Unless the store is read only it is in quarantine now.
    Broken(String),
    /// Files of a version are there without its info, so it is a leftover.
    Leftover,
    /// It cannot be read, which says nothing of its content; nothing was moved.
    Unreadable(StoreError),
}

impl Store {
    /// Reads a version whole and adds its seal, unless it has one. `None` if the version is not there, or
    /// proved broken and is in quarantine now.
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
        if let Some((h1, _)) = self.believed_seal(version)? {
            return Ok(Some(h1));
        }
        match self.examine(&path, version)? {
            Verdict::Whole { h1, zip, .. } => {
                self.add_seal(&path, &h1, folder, zip)?;
                Ok(Some(h1))
            }
            Verdict::Broken(reason) => {
                self.quarantine_if_same(claim, folder, &reason)?;
                Ok(None)
            }
        }
    }

    /// Looks at a version: reads it whole if it is one of those that are wanted, and adds its seal, or puts it
    /// into quarantine. Where the store is read only nothing is kept.
    pub fn verify(&self, version: &ModuleVersion, which: Which) -> Result<Verified, StoreError> {
        match self.look_quickly(version, which) {
            Ok(Some(verified)) => return Ok(verified),
            Ok(None) => {}
            Err(error) => return Ok(Verified::Unreadable(error)),
        }
        let claim = if self.is_read_only() { None } else { Some(self.claim(version)?) };
        let (folder, verdict) = match self.look_closely(version, which) {
            Ok(Looked::Read(folder, verdict)) => (folder, verdict),
            Ok(Looked::Only(verified)) => return Ok(verified),
            Err(error) => return Ok(Verified::Unreadable(error)),
        };
        let path = self.paths.version(version);
        match verdict {
            Verdict::Whole { h1, length, zip } => {
                if claim.is_some() && self.believed_seal(version)?.is_none() {
                    match self.add_seal(&path, &h1, folder, zip) {
                        // A matter of this version: the rest can be looked at nevertheless.
                        Err(error) if error.is_of_one_version() => return Ok(Verified::Unreadable(error)),
                        added => added?,
                    }
                }
                Ok(Verified::Whole(length))
            }
            Verdict::Broken(reason) => {
                let is_there = match &claim {
                    Some(claim) => match self.quarantine_if_same(claim, folder, &reason) {
                        Err(error) if error.is_of_one_version() => return Ok(Verified::Unreadable(error)),
                        moved => moved?,
                    },
                    None => Stamp::at(&path)?.is_some_and(|now| now.is_same_folder(folder)),
                };
                Ok(if is_there { Verified::Broken(reason) } else { Verified::Absent })
            }
        }
    }

    fn look_closely(&self, version: &ModuleVersion, which: Which) -> Result<Looked, StoreError> {
        // Somebody may have sealed it, or put it away, while this waited for the claim.
        if let Some(verified) = self.look_quickly(version, which)? {
            return Ok(Looked::Only(verified));
        }
        let path = self.paths.version(version);
        Ok(match Stamp::at(&path)? {
            Some(folder) => Looked::Read(folder, self.examine(&path, version)?),
            None => Looked::Only(Verified::Absent),
        })
    }

    /// Says what there is to say of a version without reading its zip, a few calls. `None` if it must be read.
    fn look_quickly(&self, version: &ModuleVersion, which: Which) -> Result<Option<Verified>, StoreError> {
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
        let is_sealed = which == Which::Unsealed && self.believed_seal(version)?.is_some();
        Ok(is_sealed.then_some(Verified::Sealed))
    }

    /// Reads a version that lies in its place whole, and compares it with its record: what came by a migration went
    /// by no other door that does.
    fn examine(&self, folder: &Path, version: &ModuleVersion) -> Result<Verdict, StoreError> {
        let record = self.record(version)?;
        // However whole it is: it need not be read.
        if let Some(tombstone) = record.as_ref().and_then(|record| record.tombstone.as_ref()) {
            return Ok(Verdict::Broken(tombstone.to_string()));
        }
        let verdict = examine_folder(folder, version)?;
        let Verdict::Whole { h1, .. } = &verdict else { return Ok(verdict) };
        Ok(match record.and_then(|record| record.objection(h1, None)) {
            Some(objection) => Verdict::Broken(objection.to_string()),
            None => verdict,
        })
    }

    fn seal_in_memory(&self, version: &ModuleVersion) -> Result<Option<H1>, StoreError> {
        if let Some((_, meta)) = open_file(&self.paths.file(version, VersionFile::Zip))? {
            match self.sealing(version, Stamp::of(&meta))? {
                Sealing::Absent => return Ok(None),
                Sealing::Sealed(h1) => return Ok(Some(h1)),
                Sealing::Unsealed | Sealing::Replaced => {}
            }
        }
        let path = self.paths.version(version);
        let Some(folder) = Stamp::at(&path)? else { return Ok(None) };
        if !self.has_info(version)? {
            return Ok(None);
        }
        match self.examine(&path, version)? {
            Verdict::Whole { h1, zip, .. } => {
                self.remember_seal(version, Some((h1.clone(), zip)), folder);
                Ok(Some(h1))
            }
            Verdict::Broken(reason) => {
                self.remember_seal(version, None, folder);
                log::error!(
                    "{version} is broken and is not served: {reason}; nothing can be moved in a read-only store"
                );
                Ok(None)
            }
        }
    }

    /// Puts a claimed version that was read and found broken into quarantine, and says whether it did: somebody
    /// without a claim (a hand, a restored backup) may have put another folder there.
    fn quarantine_if_same(&self, claim: &Claim, folder: Stamp, reason: &str) -> Result<bool, StoreError> {
        let now = Stamp::at(&self.paths.version(claim.version()))?;
        let is_same = now.is_some_and(|now| now.is_same_folder(folder));
        if is_same {
            self.quarantine(claim, reason)?;
        }
        Ok(is_same)
    }

    /// Adds a seal to the folder that was examined, with this zip in it.
    pub(crate) fn add_seal(&self, path: &Path, h1: &H1, folder: Stamp, zip: Stamp) -> Result<(), StoreError> {
        let seal = path.join(VersionFile::Seal.name());
        let staged = self.staging()?.fresh();
        let added = write_seal(&self.durable, &staged, h1, path).and_then(|file| {
            durable::sync_file(&file, &staged)?;
            let here = Stamp::at(path)?;
            if !here.is_some_and(|now| now.is_same_folder(folder)) {
                return Err(PathError::new("seal", path, io::Error::other("it was replaced meanwhile")));
            }
            // What was written after it was read is of no seal, however old that looks.
            let now = fs::symlink_metadata(path.join(VersionFile::Zip.name())).at("look at", path)?;
            if Stamp::of(&now) != zip {
                return Err(PathError::new(
                    "seal",
                    path,
                    io::Error::other("its zip was written to meanwhile"),
                ));
            }
            // Plainly: what is there under this name was not a seal, or would have been believed.
            durable::rename(&staged, &seal)?;
            durable::sync_dir(path)
        });
        if added.is_err() {
            // Ours alone; swept at the next start if this fails too.
            let _ = durable::remove_file(&staged);
        }
        Ok(added?)
    }
}

/// Writes a seal for what lies in a folder, to a place where nobody sees it yet; the caller syncs it.
pub(crate) fn write_seal(durable: &Durable, seal: &Path, h1: &H1, folder: &Path) -> Result<File, PathError> {
    let file = staging::write_unsynced(durable, seal, h1.as_str().as_bytes())?;
    let time = |meta: io::Result<fs::Metadata>| meta.and_then(|meta| meta.modified());
    let written = time(file.metadata()).at("look at", seal)?;
    // A clock that was put back, or files that came with a time to come: it would not be believed.
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

/// Reads a version that lies in a folder whole.
pub(crate) fn examine_folder(folder: &Path, version: &ModuleVersion) -> Result<Verdict, StoreError> {
    let read = |file: VersionFile| -> Result<_, StoreError> {
        let path = folder.join(file.name());
        let Some((open, _)) = open_file(&path)? else { return Ok(None) };
        read_bounded(open, &path).map(Some)
    };
    let Some(info) = read(VersionFile::Info)? else {
        return Ok(Verdict::Broken("it has no info".to_owned()));
    };
    let Some(modfile) = read(VersionFile::Mod)? else {
        return Ok(Verdict::Broken("it has no mod".to_owned()));
    };
    if fs::symlink_metadata(folder.join(VersionFile::Seal.name())).is_ok_and(|meta| meta.is_dir()) {
        return Ok(Verdict::Broken("a folder lies in the place of its seal".to_owned()));
    }
    // Before the zip, which takes long: who asks for an info may wait for this.
    if let Some(fault) = info_fault(version, &info) {
        return Ok(Verdict::Broken(fault));
    }
    let path = folder.join(VersionFile::Zip.name());
    let Some((zip, meta)) = open_file(&path)? else {
        return Ok(Verdict::Broken("it has no zip".to_owned()));
    };
    let source = Source::new(&zip).at("look at", &path)?;
    let examined = match examine_zip(&source, version) {
        Ok(examined) => examined,
        Err(ExamineError::Broken(fault)) => return Ok(Verdict::Broken(format!("its zip: {fault}"))),
        Err(ExamineError::Read(error)) => return Err(PathError::new("read", path, error).into()),
    };
    if let Some(fault) = find_fault(version, &info, &modfile, &examined) {
        return Ok(Verdict::Broken(fault));
    }
    // A seal that is not believed any more still says what the zip was.
    Ok(match read_seal(folder)? {
        Some((sealed, _)) if sealed != examined.h1 => {
            Verdict::Broken(format!("it was sealed as {sealed}, and its zip is {}", examined.h1))
        }
        _ => Verdict::Whole { h1: examined.h1, zip: Stamp::of(&meta), length: meta.len() },
    })
}

/// Reads a byte more than may be there: what is longer is wrong anyway.
pub(crate) fn read_bounded(file: File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    file.take(SMALL_LIMIT + 1).read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

/// Says what is wrong with the info and the mod of a version whose zip is right.
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

/// A file as the examination reads it.
pub(crate) struct Source<'a> {
    file: &'a File,
    size: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { file, size: file.metadata()?.len() })
    }
}

impl ReadAt for Source<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

pub(crate) fn examine_zip(source: &Source<'_>, version: &ModuleVersion) -> Result<Examined, ExamineError> {
    examine(source, version)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use stoa_layout::gate::Mode;

    use super::*;
    use crate::testing::{Fixture, open, put_unsealed, quarantined, staged, version, zip};
    use crate::{Record, Tombstone};

    #[test]
    fn a_whole_version_gets_its_seal_once() {
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
    fn what_is_no_seal_is_not_believed() {
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
    fn what_is_forbidden_is_not_sealed_however_whole_it_is() {
        for by_verifying in [false, true] {
            let fixture = Fixture::new();
            let v = version("example.com/m@v1.0.0");
            let tombstone = Some(Tombstone::now(Some("a key is in it".to_owned())));
            let record = Record { tombstone, ..Record::default() };
            fixture.store.write_record(&fixture.store.claim(&v).unwrap(), &record).unwrap();
            // As an older release leaves it, that knows no records.
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
    fn verifying_reads_what_is_sealed_too() {
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
            assert!(matches!(verify(&swapped), Verified::Broken(reason) if reason.contains("sealed as")));
            assert_eq!(quarantined(fixture.dir.path()).len(), kept);
            assert_eq!(bare_folder.join("ziphash").exists(), kept > 0);
        }
        assert!(matches!(fixture.store.verify(&rotten, Which::All).unwrap(), Verified::Absent));
        assert!(matches!(fixture.store.verify(&bare, Which::Unsealed).unwrap(), Verified::Sealed));
    }

    #[test]
    fn a_seal_is_believed_until_something_is_written() {
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
            // Also where the time of a file is still to come.
            assert!(other.open_zip(&v).unwrap().unwrap().seal.is_some(), "{file}");
            assert!(matches!(other.verify(&v, Which::Unsealed).unwrap(), Verified::Sealed), "{file}");
        }
    }

    #[test]
    fn files_without_an_info_are_told_and_not_touched() {
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
        assert!(reader.open_zip(&broken).unwrap().is_none(), "known to be broken, and not read again");
        assert_eq!(reader.seal(&broken).unwrap(), None);
        assert!(broken_folder.exists() && !folder.join("ziphash").exists());
        assert!(matches!(reader.draft(&whole), Err(StoreError::ReadOnly(_))));
    }
}
