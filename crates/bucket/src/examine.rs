//! The examination of a version in a bucket: its zip is read completely, through a temporary file without a name.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use futures_util::TryStreamExt;
use stoa_gomod::zip::{ExamineError, Examined, ReadAt, examine};
use stoa_gomod::{H1, ModuleVersion, info, modfile};
use tokio::io::AsyncWriteExt;

use crate::{BucketError, Held, Manifest, VersionContent, Versions};

/// The result of reading a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExaminedThere {
    /// The version is valid. This is the hash of its zip.
    Whole(H1),
    /// The version is corrupt, for this reason.
    Corrupt(String),
    /// A part of its content is gone, or was replaced.
    Gone,
}

impl Versions {
    /// Reads a version completely, and compares its files with each other, with its seal and with its record. Needs as
    /// much temporary space as the zip has bytes.
    pub async fn examine(&self, manifest: &Manifest) -> Result<ExaminedThere, BucketError> {
        let Some(content) = manifest.present_content() else { return Ok(ExaminedThere::Gone) };
        let h1 = match self.examine_content(&manifest.version, content).await? {
            ExaminedThere::Whole(h1) => h1,
            other => return Ok(other),
        };
        let corrupt = |reason: String| Ok(ExaminedThere::Corrupt(reason));
        if let Some(sealed) = content.zip.h1.as_ref().filter(|sealed| **sealed != h1) {
            return corrupt(format!("its seal is {sealed}, but its zip has {h1}"));
        }
        match &manifest.record.h1 {
            Some(recorded) if *recorded != h1 => {
                corrupt(format!("its zip has {h1}, but the recorded hash is {recorded}"))
            }
            _ => Ok(ExaminedThere::Whole(h1)),
        }
    }

    /// Reads the files of a version completely, and compares them with each other.
    pub async fn examine_content(
        &self,
        version: &ModuleVersion,
        content: &VersionContent,
    ) -> Result<ExaminedThere, BucketError> {
        let Some(info) = self.small(&content.info).await? else { return Ok(ExaminedThere::Gone) };
        let Some(modfile) = self.small(&content.modfile).await? else {
            return Ok(ExaminedThere::Gone);
        };
        if let Err(error) = info::parse_answer(version.path(), version.version().as_str(), &info) {
            return Ok(ExaminedThere::Corrupt(format!("its info: {error}")));
        }
        let Some(zip) = self.zip(&content.zip, None).await? else { return Ok(ExaminedThere::Gone) };
        let failed = |error| {
            BucketError::local("read into a temporary file", self.bucket().url_of(&content.zip.key), &error)
        };
        let mut file = tokio::fs::File::from_std(tempfile::tempfile().map_err(failed)?);
        let mut bytes = zip.bytes;
        while let Some(part) = bytes.try_next().await? {
            file.write_all(&part).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        let zip = file.into_std().await;
        let of = version.clone();
        let examined = tokio::task::spawn_blocking(move || examine_files(&of, &info, &modfile, &zip)).await;
        match examined.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)? {
            Ok(h1) => Ok(ExaminedThere::Whole(h1)),
            Err(reason) => Ok(ExaminedThere::Corrupt(reason)),
        }
    }

    /// Reads a version completely and seals it, or moves it to quarantine if it is corrupt. Returns the result, and the
    /// manifest of a version that is sealed now.
    pub async fn verify(
        &self,
        manifest: &Manifest,
    ) -> Result<(ExaminedThere, Option<Held<Manifest>>), BucketError> {
        let examined = self.examine(manifest).await?;
        let Some(content) = manifest.present_content() else { return Ok((examined, None)) };
        let key = &content.zip.key;
        let sealed = match &examined {
            ExaminedThere::Whole(h1) => self.seal(&manifest.version, key, h1).await?,
            ExaminedThere::Corrupt(reason) => {
                self.quarantine(&manifest.version, Some(key), reason).await?;
                None
            }
            ExaminedThere::Gone => None,
        };
        Ok((examined, sealed))
    }
}

/// Reads the files of a version completely, and compares them with each other. Returns the hash of the zip, or why the
/// version is corrupt.
///
/// # Errors
///
/// The zip cannot be read.
pub fn examine_files(
    version: &ModuleVersion,
    info: &[u8],
    modfile: &[u8],
    zip: &File,
) -> io::Result<Result<H1, String>> {
    if let Err(error) = info::parse_answer(version.path(), version.version().as_str(), info) {
        return Ok(Err(format!("its info: {error}")));
    }
    let zip = Zip { file: zip, size: zip.metadata()?.len() };
    match examine(&zip, version) {
        Ok(examined) => Ok(match fault_of_mod(&examined, modfile) {
            None => Ok(examined.h1),
            Some(fault) => Err(fault.to_owned()),
        }),
        Err(ExamineError::Broken(fault)) => Ok(Err(format!("its zip: {fault}"))),
        Err(ExamineError::Read(error)) => Err(error),
    }
}

fn fault_of_mod(examined: &Examined, body: &[u8]) -> Option<&'static str> {
    match &examined.go_mod {
        Some(own) if own != body => Some("its mod differs from the go.mod in its zip"),
        None if !modfile::has_module_directive(body) => Some("its mod has no module directive"),
        _ => None,
    }
}

struct Zip<'a> {
    file: &'a File,
    size: u64,
}

impl ReadAt for Zip<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use stoa_gomod::zip::create;

    use super::*;
    use crate::testing::{new, versions};
    use crate::{NewVersion, PublishedThere};

    fn whole(pair: &str) -> NewVersion {
        let version = ModuleVersion::parse(pair).unwrap();
        let modfile = format!("module {}\n", version.path());
        let sources: Vec<(&str, &[u8])> = vec![("go.mod", modfile.as_bytes()), ("a.go", b"package a\n")];
        let zip = create(&version, sources).unwrap();
        let h1 = examine(&*zip, &version).unwrap().h1;
        NewVersion { h1, ..new(pair, &zip) }
    }

    #[tokio::test]
    async fn whole_versions_are_sealed_and_corrupt_ones_go_to_quarantine() {
        let versions = versions().await;
        let good = whole("example.com/good@v1.0.0");
        let wrong_seal = NewVersion { h1: good.h1.clone(), ..whole("example.com/seal@v1.0.0") };
        let no_zip = new("example.com/zip@v1.0.0", b"no zip");
        let other_mod = NewVersion { modfile: "module x.y/z\n".into(), ..whole("example.com/mod@v1.0.0") };
        for new in [&good, &wrong_seal, &no_zip, &other_mod] {
            let published = versions.publish(new, None).await.unwrap();
            let PublishedThere::Ours(held) = published else { panic!("not ours") };
            let (examined, _) = versions.verify(&held.document).await.unwrap();
            assert_eq!(
                examined == ExaminedThere::Whole(new.h1.clone()),
                new.version == good.version,
                "{examined:?}"
            );
        }
        assert_eq!(versions.quarantined().await.unwrap().len(), 3);
        let held = versions.manifest(&good.version).await.unwrap().unwrap();
        versions.delete_content(held.document.present_content().unwrap()).await.unwrap();
        assert_eq!(versions.examine(&held.document).await.unwrap(), ExaminedThere::Gone);
    }
}
