//! The seal: `ziphash` in a version's folder says that its zip was read whole once and found right, and
//! holds its `h1:`.
//!
//! A fill seals before it publishes. A version that came by migration or import is sealed at the first
//! request for its zip, before the first byte goes out. Sealing fails only by content that was read and found
//! wrong, or by `mod` or `zip` missing beside `info`; the version then goes to quarantine and counts as
//! absent. Any other error moves nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use stoa_gomod::zip::{ExamineError, Examined, ReadAt, examine};
use stoa_gomod::{H1, ModuleVersion, info, modfile};
use stoa_layout::PathError;
use stoa_layout::durable;
use stoa_layout::error::PathContext;

use crate::paths::VersionFile;
use crate::read::{SMALL_LIMIT, Sealing, Stamp, open_file};
use crate::{Claim, Store, StoreError, staging};

/// What reading a version found.
enum Verdict {
    /// The seal, and the zip that was read.
    Whole(H1, Stamp),
    Broken(String),
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
        let is_complete = self.locate(version, VersionFile::Mod)?.is_some()
            && self.locate(version, VersionFile::Zip)?.is_some();
        if is_complete && let Some(h1) = self.read_seal(version)? {
            return Ok(Some(h1));
        }
        match self.examine(version)? {
            Verdict::Whole(h1, _) => {
                self.add_seal(version, &h1, folder)?;
                Ok(Some(h1))
            }
            Verdict::Broken(reason) => {
                // Somebody without a claim (a hand, a restored backup) may have put another folder there.
                if Stamp::at(&path)?.is_some_and(|now| now.is_same_folder(folder)) {
                    self.quarantine(claim, &reason)?;
                }
                Ok(None)
            }
        }
    }

    /// Reads a version whole, whether it has a seal or not, and adds its seal. Says what is wrong with it:
    /// unless the store is open for reading only it is in quarantine then. `None` if nothing is wrong, or the
    /// version is not there.
    pub fn verify(&self, version: &ModuleVersion) -> Result<Option<String>, StoreError> {
        let claim = if self.is_read_only() { None } else { Some(self.claim(version)?) };
        let path = self.paths.version(version);
        let Some(folder) = Stamp::at(&path)? else { return Ok(None) };
        if !self.has_info(version)? {
            return Ok(None);
        }
        let fault = match (self.examine(version)?, self.read_seal(version)?) {
            (Verdict::Broken(reason), _) => reason,
            (Verdict::Whole(h1, _), Some(sealed)) if h1 != sealed => {
                format!("it was sealed as {sealed}, and its zip is {h1}")
            }
            (Verdict::Whole(..), Some(_)) => return Ok(None),
            (Verdict::Whole(h1, _), None) => {
                if claim.is_some() {
                    self.add_seal(version, &h1, folder)?;
                }
                return Ok(None);
            }
        };
        if !Stamp::at(&path)?.is_some_and(|now| now.is_same_folder(folder)) {
            // What was read is not there any more.
            return Ok(None);
        }
        if let Some(claim) = claim {
            self.quarantine(&claim, &fault)?;
        }
        Ok(Some(fault))
    }

    fn seal_in_memory(&self, version: &ModuleVersion) -> Result<Option<H1>, StoreError> {
        if let Some((_, meta)) = open_file(&self.paths.file(version, VersionFile::Zip))? {
            match self.sealing(version, Stamp::of(&meta))? {
                Sealing::Absent => return Ok(None),
                Sealing::Sealed(h1) => return Ok(Some(h1)),
                Sealing::Unsealed | Sealing::Replaced => {}
            }
        }
        let Some(folder) = Stamp::at(&self.paths.version(version))? else { return Ok(None) };
        if !self.has_info(version)? {
            return Ok(None);
        }
        match self.examine(version)? {
            Verdict::Whole(h1, zip) => {
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

    fn add_seal(&self, version: &ModuleVersion, h1: &H1, folder: Stamp) -> Result<(), StoreError> {
        let path = self.paths.version(version);
        let seal = self.paths.file(version, VersionFile::Seal);
        let staged = self.staging()?.fresh();
        let added = staging::write(&self.durable, &staged, h1.as_str().as_bytes()).and_then(|_| {
            let here = Stamp::at(&path)?;
            if !here.is_some_and(|now| now.is_same_folder(folder)) {
                return Err(PathError::new("seal", &path, io::Error::other("it was replaced meanwhile")));
            }
            // Plainly: what is there under this name was not a seal, or would have been believed.
            durable::rename(&staged, &seal)?;
            durable::sync_dir(&path)
        });
        if added.is_err() {
            // Ours alone; swept at the next start if this fails too.
            let _ = durable::remove_file(&staged);
        }
        Ok(added?)
    }

    fn examine(&self, version: &ModuleVersion) -> Result<Verdict, StoreError> {
        let Some(info) = self.read_for_seal(version, VersionFile::Info)? else {
            return Ok(Verdict::Broken("it has no info".to_owned()));
        };
        let Some(modfile) = self.read_for_seal(version, VersionFile::Mod)? else {
            return Ok(Verdict::Broken("it has no mod".to_owned()));
        };
        let path = self.paths.file(version, VersionFile::Zip);
        let Some((zip, meta)) = open_file(&path)? else {
            return Ok(Verdict::Broken("it has no zip".to_owned()));
        };
        let source = Source::new(&zip).at("look at", &path)?;
        match examine_zip(&source, version) {
            Ok(examined) => Ok(match find_fault(version, &info, &modfile, &examined) {
                None => Verdict::Whole(examined.h1, Stamp::of(&meta)),
                Some(fault) => Verdict::Broken(fault),
            }),
            Err(ExamineError::Broken(fault)) => Ok(Verdict::Broken(format!("its zip: {fault}"))),
            Err(ExamineError::Read(error)) => Err(PathError::new("read", path, error).into()),
        }
    }

    fn read_for_seal(
        &self,
        version: &ModuleVersion,
        file: VersionFile,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.paths.file(version, file);
        let Some((open, _)) = open_file(&path)? else { return Ok(None) };
        read_bounded(open, &path).map(Some)
    }
}

/// Reads a byte more than may be there: what is longer is wrong anyway.
fn read_bounded(file: File, path: &Path) -> Result<Vec<u8>, StoreError> {
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
    if let Err(error) = info::parse_answer(version.path(), version.version().as_str(), info) {
        return Some(format!("its info: {error}"));
    }
    match &examined.go_mod {
        Some(own) if own != body => Some("its mod differs from the go.mod in its zip".to_owned()),
        None if !modfile::has_module_directive(body) => Some("its mod names no module".to_owned()),
        _ => None,
    }
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
            assert_eq!(store.verify(&good).unwrap(), None);
            assert_eq!(store.verify(&bare).unwrap(), None);
            assert!(store.verify(&rotten).unwrap().is_some());
            assert!(store.verify(&swapped).unwrap().unwrap().contains("sealed as"));
            assert_eq!(quarantined(fixture.dir.path()).len(), kept);
            assert_eq!(bare_folder.join("ziphash").exists(), kept > 0);
        }
        assert_eq!(fixture.store.verify(&rotten).unwrap(), None, "gone");
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
