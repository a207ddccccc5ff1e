//! The picture: the places of records before and after the step, and how to find them. Frozen with its step.

use std::fs;
use std::path::{Path, PathBuf};

use stoa_layout::error::PathContext;
use stoa_layout::{PathError, StepError};

/// A side of the step.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// `records/MODULE/@v/VERSION.toml`
    V2,
    /// `records/MODULE/@v/VERSION/record.toml`
    V3,
}

/// The path of a record on one side, and its path on the other side.
pub(crate) struct Record {
    pub(crate) here: PathBuf,
    pub(crate) there: PathBuf,
}

type Visit<'a> = dyn FnMut(Record) -> Result<(), StepError> + 'a;

/// Streams the records on one side. Memory is bounded by one open folder per level.
pub(crate) fn walk(root: &Path, side: Side, visit: &mut Visit<'_>) -> Result<(), StepError> {
    walk_folder(&root.join("records"), side, visit)
}

fn walk_folder(folder: &Path, side: Side, visit: &mut Visit<'_>) -> Result<(), StepError> {
    let names = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        names => names.at("list", folder)?,
    };
    for name in names {
        let path = name.at("list", folder)?.path();
        let kind = fs::symlink_metadata(&path).at("stat", &path)?.file_type();
        match (side, folder.ends_with("@v")) {
            (Side::V2, true) if kind.is_file() && path.extension().is_some_and(|ending| ending == "toml") => {
                visit(Record { there: path.with_extension("").join("record.toml"), here: path })?;
            }
            (Side::V3, true) if kind.is_dir() && is_file(&path.join("record.toml"))? => {
                let mut there = path.clone().into_os_string();
                there.push(".toml");
                visit(Record { here: path.join("record.toml"), there: there.into() })?;
            }
            (_, false) if kind.is_dir() => walk_folder(&path, side, visit)?,
            // A foreign path stays in place.
            _ => {}
        }
    }
    Ok(())
}

fn is_file(path: &Path) -> Result<bool, PathError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        meta => Ok(meta.at("stat", path)?.is_file()),
    }
}
