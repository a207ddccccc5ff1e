//! Creation of a module's zip from its files, with the rules of the go command. Stoa itself only reads
//! zips; tests, benches and fuzz targets create them.

use super::MAX_ZIP_SIZE;
use super::rules::{self, FileKind, Reason};
use crate::modfile;
use crate::module_version::ModuleVersion;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use rawzip::{CompressionMethod, ZipArchiveWriter};
use std::io::Write;

/// A file of a module.
#[derive(Debug, Clone, Copy)]
pub struct SourceFile<'a> {
    /// The path relative to the module's root.
    pub path: &'a str,
    /// The kind of the file. Only regular files are included.
    pub kind: FileKind,
    /// The content of a regular file.
    pub content: &'a [u8],
}

/// The reason why files are not a valid module.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Some files break a rule. Contains the first reason for each.
    #[error("{} files of the module are invalid, the first is {}", .0.len(), first(.0))]
    InvalidFiles(Vec<(String, Reason)>),
    /// The files together are too large.
    #[error("the module's files exceed the limit of {MAX_ZIP_SIZE} bytes")]
    TooLarge,
    /// The zip could not be written.
    #[error("cannot write the zip: {0}")]
    Write(#[from] rawzip::Error),
}

fn first(files: &[(String, Reason)]) -> String {
    files.first().map(|(path, reason)| format!("{path:?}: {reason}")).unwrap_or_default()
}

/// Creates a module's zip from regular files, given by relative path and content.
///
/// Vendored files and files of nested modules are omitted, as in the go command.
pub fn create<'a>(
    module: &ModuleVersion,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<u8>, CreateError> {
    let regular = |(path, content)| SourceFile { path, kind: FileKind::Regular, content };
    create_from(module, &files.into_iter().map(regular).collect::<Vec<_>>())
}

/// Creates a module's zip from files of any kind.
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
