//! Lists the toolchains below a folder, and everything else.
//!
//! A whole toolchain is a folder in the right place with the regular file `bin/NAME`. Everything else is a leftover with a
//! reason. The lists are sorted, so that two runs do the same in the same order. A home is small enough for lists.

use std::fs;
use std::path::{Path, PathBuf};

use stoa_layout::error::PathContext;
use stoa_layout::{Leftover, PathError};

use super::toolchain::{Toolchain, is_tool_name};

/// The content of a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The whole toolchains.
    pub(crate) toolchains: Vec<Toolchain>,
    /// Leftovers in the folder itself.
    pub(crate) beside: Vec<Leftover>,
    /// Leftovers in the folders of tools, one level deeper.
    pub(crate) inside: Vec<Leftover>,
}

/// Reads `TOP/NAME-VERSION/bin/NAME`. Folders of the form `TOP/NAME` are skipped: [`nested`] reads them.
pub(crate) fn flat(top: &Path) -> Result<Listing, PathError> {
    let mut found = Listing::default();
    for (name, path) in entries(top)? {
        match Toolchain::parse_joined(&name) {
            Some(toolchain) if is_whole(&path, toolchain.name())? => found.toolchains.push(toolchain),
            Some(toolchain) => found.beside.push(incomplete(path, toolchain.name())),
            None if is_folder_of_a_tool(&name, &path) => {}
            None => found.beside.push(leftover(path, "its name is not that of a toolchain")),
        }
    }
    found.toolchains.sort();
    Ok(found)
}

/// Reads `TOP/NAME/VERSION/bin/NAME`.
pub(crate) fn nested(top: &Path) -> Result<Listing, PathError> {
    let mut found = Listing::default();
    for (name, path) in entries(top)? {
        if !is_folder_of_a_tool(&name, &path) {
            found.beside.push(leftover(path, "it is not the folder of a tool"));
            continue;
        }
        for (version, path) in entries(&path)? {
            match Toolchain::parse(&name, &version) {
                Some(toolchain) if is_whole(&path, &name)? => found.toolchains.push(toolchain),
                Some(_) => found.inside.push(incomplete(path, &name)),
                None => found.inside.push(leftover(path, "its name is not a version")),
            }
        }
    }
    found.toolchains.sort();
    Ok(found)
}

/// Returns the folders `TOP/NAME`.
pub(crate) fn folders_of_tools(top: &Path) -> Result<Vec<String>, PathError> {
    let mut all = entries(top)?;
    all.retain(|(name, path)| is_folder_of_a_tool(name, path));
    Ok(all.into_iter().map(|(name, _)| name).collect())
}

/// Returns the size of all files below a path.
pub(crate) fn bytes_below(path: &Path) -> Result<u64, PathError> {
    let meta = fs::symlink_metadata(path).at("stat", path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut bytes = 0;
    for (_, path) in entries(path)? {
        bytes += bytes_below(&path)?;
    }
    Ok(bytes)
}

/// Returns a leftover. A size that cannot be read is 0.
pub(crate) fn leftover(path: PathBuf, reason: &str) -> Leftover {
    Leftover { bytes: bytes_below(&path).unwrap_or(0), path, reason: reason.to_owned() }
}

/// Returns the entries of a folder, sorted. A missing folder has none. A name that is not Unicode is replaced by a name that no
/// toolchain has, while the path stays right.
pub(crate) fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, PathError> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.at("list", folder)?,
    };
    let mut entries = Vec::new();
    for entry in listing {
        let entry = entry.at("list", folder)?;
        entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    entries.sort();
    Ok(entries)
}

fn is_folder_of_a_tool(name: &str, path: &Path) -> bool {
    is_tool_name(name) && fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

fn is_whole(folder: &Path, tool: &str) -> Result<bool, PathError> {
    if !fs::symlink_metadata(folder).at("stat", folder)?.is_dir() {
        return Ok(false);
    }
    let program = folder.join("bin").join(tool);
    match fs::symlink_metadata(&program) {
        Ok(meta) => Ok(meta.is_file()),
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(false),
            _ => Err(PathError::new("stat", program, error)),
        },
    }
}

fn incomplete(path: PathBuf, tool: &str) -> Leftover {
    leftover(path, &format!("incomplete: it has no file bin/{tool}"))
}
