//! Making a module's zip from its files.

use super::MAX_ZIP_SIZE;
use super::rules::{self, FileKind, Reason};
use crate::modfile;
use crate::module_version::ModuleVersion;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use rawzip::{CompressionMethod, ZipArchiveWriter};
use std::io::Write;

/// A file that is to become part of a module.
#[derive(Debug, Clone, Copy)]
pub struct SourceFile<'a> {
    /// The path relative to the module's root.
    pub path: &'a str,
    /// The kind of the file; only regular ones are taken.
    pub kind: FileKind,
    /// The content of a regular file.
    pub content: &'a [u8],
}

/// Why files make no module.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Some of them break a rule; the first reason of each.
    #[error("{} of the module's files are not valid, the first is {}", .0.len(), first(.0))]
    InvalidFiles(Vec<(String, Reason)>),
    /// They are too large together.
    #[error("the module's files have more than {MAX_ZIP_SIZE} bytes together")]
    TooLarge,
    /// The archive could not be written.
    #[error("the zip could not be written: {0}")]
    Write(#[from] rawzip::Error),
}

fn first(files: &[(String, Reason)]) -> String {
    files.first().map(|(path, reason)| format!("{path:?}: {reason}")).unwrap_or_default()
}

/// Makes a module's zip from regular files, given by relative path and content.
///
/// Files that belong to no module zip (vendored, of a nested module) are left out, as the go command does.
pub fn create<'a>(
    module: &ModuleVersion,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<u8>, CreateError> {
    let regular = |(path, content)| SourceFile { path, kind: FileKind::Regular, content };
    create_from(module, &files.into_iter().map(regular).collect::<Vec<_>>())
}

/// Makes a module's zip from files of any kind.
pub fn create_from(module: &ModuleVersion, files: &[SourceFile<'_>]) -> Result<Vec<u8>, CreateError> {
    let go_mod = files.iter().find(|file| file.path == "go.mod" && file.kind == FileKind::Regular);
    let go_version = go_mod.and_then(|file| modfile::go_version(file.content));
    let named = files.iter().map(|file| (file.path, file.kind, file.content.len() as u64));
    let check = rules::check_files(named, go_version.as_deref());
    if !check.invalid.is_empty() {
        let named = |&(index, reason): &(usize, Reason)| (files[index].path.to_owned(), reason);
        return Err(CreateError::InvalidFiles(check.invalid.iter().map(named).collect()));
    }
    if check.size_error {
        return Err(CreateError::TooLarge);
    }
    let prefix = module.zip_prefix();
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for index in check.valid {
        write_file(&mut archive, &format!("{prefix}{}", files[index].path), files[index].content)?;
    }
    Ok(archive.finish()?)
}

fn write_file(
    archive: &mut ZipArchiveWriter<Vec<u8>>,
    name: &str,
    content: &[u8],
) -> Result<(), rawzip::Error> {
    let (mut entry, config) =
        archive.new_file(name).compression_method(CompressionMethod::DEFLATE).start()?;
    let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::default()));
    writer.write_all(content)?;
    let (encoder, descriptor) = writer.finish()?;
    encoder.finish()?;
    entry.finish(descriptor)?;
    Ok(())
}
