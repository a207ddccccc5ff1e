//! Layout v0: an Athens disk store. `MODULE/VERSION/{go.mod,source.zip,VERSION.info}`, without escaping.
//!
//! A folder is a candidate version if it contains `NAME.info`, or if its name is a canonical version and it contains
//! `go.mod` or `source.zip`. Deeper folders are walked in either case, because an element in the middle of a module path may
//! look like a version.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::{LayoutId, Leftover, PathError, StepError};

use crate::picture::{
    BATCH, Candidate, EachVersion, Files, Finding, Names, Picture, Visit, concerns_this_path, is_dir,
    is_file, is_ignored, is_ours_at_the_top, leftover, metadata, size,
};
use crate::removal::{Emptied, Removal};

/// The name of the layout.
pub(crate) const ID: LayoutId = LayoutId::fixed("v0");

/// The picture of the layout.
pub(crate) struct V0;

impl Picture for V0 {
    fn files(&self, root: &Path, version: &ModuleVersion) -> Result<Files, PathError> {
        let folder = root.join(version.path().as_str()).join(version.version().as_str());
        Ok(files_in(&folder, version.version().as_str()))
    }

    fn walk(&self, root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
        walk_from(root, visit)
    }

    fn estimate(&self, root: &Path, each: &mut EachVersion<'_>) -> Result<u64, StepError> {
        estimate_below(root, true, each)
    }

    fn needs_case(&self) -> bool {
        true
    }

    fn has_folder_for(&self, root: &Path, plain: &str) -> Result<bool, PathError> {
        is_dir(&root.join(plain))
    }

    fn remove_emptied(&self, root: &Path, other: &dyn Picture, removal: &Removal) -> Result<(), StepError> {
        // A folder may go if its version, or a version of its module or of a module below, is on the other side.
        let may_go = |folder: &Path| stands_on(root, folder, other);
        Emptied { may_go: &may_go, skip: &is_ours_at_the_top, goes_below: &|_| true }
            .remove_below(root, removal)
    }
}

/// Walks a root, without the names of Stoa at the top.
fn walk_from(root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
    let Some(names) = Names::of(root)? else { return Ok(()) };
    for name in names {
        let name = name?;
        match name.text.as_deref() {
            Some(text) if is_ours_at_the_top(text) => {}
            _ if name.kind.is_dir() => walk_folder(root, &name.path, visit)?,
            _ => visit(Finding::Leftover(leftover(&name.path, reason_of_file(name.kind))?))?,
        }
    }
    Ok(())
}

/// Counts the folders that look like versions, most of them without reading them.
fn estimate_below(folder: &Path, at_the_top: bool, each: &mut EachVersion<'_>) -> Result<u64, StepError> {
    let names = match Names::of(folder) {
        Ok(Some(names)) => names,
        Ok(None) => return Ok(0),
        // A leftover, which the walk reports.
        Err(error) if concerns_this_path(&error.source) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut count = 0;
    for name in names {
        let name = name?;
        let Some(text) = name.text.as_deref().filter(|_| name.kind.is_dir()) else { continue };
        if at_the_top && is_ours_at_the_top(text) {
            continue;
        }
        let is_canonical = Version::new(text).is_ok();
        let files = files_in(&name.path, text);
        if is_canonical && has_no_folders(&name.path)? {
            count += 1;
            each(&files, None)?;
            continue;
        }
        if is_canonical && is_file(&files.info)? {
            count += 1;
            each(&files, None)?;
        }
        count += estimate_below(&name.path, false, each)?;
    }
    Ok(count)
}

/// Returns whether a folder certainly contains no folders. Most file systems count them as links of the folder; Btrfs does
/// not, so nothing is certain there.
fn has_no_folders(folder: &Path) -> Result<bool, PathError> {
    Ok(metadata(folder)?.is_some_and(|meta| meta.nlink() == 2))
}

/// Returns the files that make a folder a version without a valid name. Other paths in it are reported separately. Empty for
/// any other folder.
pub(crate) fn pieces_of_alias(folder: &Path) -> Result<Vec<PathBuf>, PathError> {
    let mut pieces = Vec::new();
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { return Ok(pieces) };
    for file in files_in(folder, name).in_order() {
        match metadata(file) {
            Ok(Some(meta)) if !meta.is_dir() => pieces.push(file.to_owned()),
            Err(error) if !concerns_this_path(&error.source) => return Err(error),
            _ => {}
        }
    }
    Ok(pieces)
}

/// Walks a folder that is not a version.
fn walk_folder(root: &Path, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
    let Some(names) = Names::in_foreign_walk(folder, visit)? else { return Ok(()) };
    let mut versions = Vec::new();
    for name in names {
        let name = name?;
        if !name.kind.is_dir() {
            if name.text.as_deref().is_none_or(|text| !is_ignored(text)) {
                visit(Finding::Leftover(leftover(&name.path, reason_of_file(name.kind))?))?;
            }
            continue;
        }
        look(root, &name.path, name.text.as_deref(), &mut versions, visit)?;
        if versions.len() >= BATCH {
            visit(Finding::Versions(std::mem::take(&mut versions)))?;
        }
    }
    if versions.is_empty() { Ok(()) } else { visit(Finding::Versions(versions)) }
}

/// Looks at a folder that may be a version, and walks the folders below.
fn look(
    root: &Path,
    folder: &Path,
    name: Option<&str>,
    versions: &mut Vec<Candidate>,
    visit: &mut Visit<'_>,
) -> Result<(), StepError> {
    let Some(name) = name else { return walk_folder(root, folder, visit) };
    let Some(names) = Names::in_foreign_walk(folder, visit)? else { return Ok(()) };
    let files = files_in(folder, name);
    let (mut has, mut symlinks, mut others, mut folders) = ([false; 3], Vec::new(), Vec::new(), Vec::new());
    let mut prefilled = false;
    for found in names {
        let found = found?;
        let part = files.in_order().iter().position(|path| *path == found.path);
        match part {
            Some(part) if found.kind.is_file() => has[part] = true,
            Some(_) if found.kind.is_symlink() => symlinks.push(found.path),
            _ if found.kind.is_dir() => folders.push((found.path, found.text)),
            _ => {
                prefilled |= found.text.as_deref().and_then(|text| text.strip_suffix(".zip")) == Some(name);
                others.push((found.path, found.kind));
            }
        }
    }
    let canonical = Version::new(name).ok();
    let is_version = has[2] || canonical.is_some() && (has[0] || has[1]);
    if is_version {
        let module = folder.parent().and_then(|parent| parent.strip_prefix(root).ok()).and_then(Path::to_str);
        let fault = (!symlinks.is_empty()).then(|| "symlink: one of its files is a symlink".to_owned());
        // The zip may be on the other side already, so the missing zip is judged later.
        let without_zip = prefilled.then(|| format!("prefilled: it has {name}.zip and no source.zip"));
        match name_of(module, name, canonical) {
            Ok(version) => {
                versions.push(Candidate {
                    version,
                    files,
                    has,
                    has_seal: false,
                    fault,
                    without_zip,
                    shown: folder.to_owned(),
                });
            }
            Err(reason) => {
                let mut bytes = 0;
                for piece in pieces_of_alias(folder)? {
                    bytes += size(&piece)?;
                }
                visit(Finding::Leftover(Leftover { path: folder.to_owned(), bytes, reason }))?;
            }
        }
    } else {
        for (path, has) in files.in_order().into_iter().zip(has) {
            if has {
                let Some(meta) = metadata(path)? else { continue };
                others.push((path.to_owned(), meta.file_type()));
            }
        }
    }
    for path in symlinks.iter().filter(|_| !is_version) {
        visit(Finding::Leftover(leftover(path, "symlink")?))?;
    }
    for (path, kind) in others {
        visit(Finding::Leftover(leftover(&path, reason_of_file(kind))?))?;
    }
    let mut below = Vec::new();
    for (path, text) in folders {
        look(root, &path, text.as_deref(), &mut below, visit)?;
        if below.len() >= BATCH {
            visit(Finding::Versions(std::mem::take(&mut below)))?;
        }
    }
    if below.is_empty() { Ok(()) } else { visit(Finding::Versions(below)) }
}

fn name_of(module: Option<&str>, name: &str, canonical: Option<Version>) -> Result<ModuleVersion, String> {
    let Some(version) = canonical else { return Err(format!("alias: {name} is not a canonical version")) };
    let module = module.ok_or_else(|| "foreign: its path is not UTF-8".to_owned())?;
    let module = ModulePath::new(module).map_err(|error| format!("foreign: {error}"))?;
    ModuleVersion::new(module, version).map_err(|error| format!("foreign: {error}"))
}

fn files_in(folder: &Path, version: &str) -> Files {
    Files {
        modfile: folder.join("go.mod"),
        zip: folder.join("source.zip"),
        info: folder.join(format!("{version}.info")),
        seal: None,
    }
}

fn reason_of_file(kind: std::fs::FileType) -> &'static str {
    if kind.is_symlink() { "symlink" } else { "foreign: it belongs to no version" }
}

/// Returns whether the counterpart of a folder is on the other side.
fn stands_on(root: &Path, folder: &Path, other: &dyn Picture) -> Result<bool, PathError> {
    let Some(path) = folder.strip_prefix(root).ok().and_then(Path::to_str) else { return Ok(false) };
    let as_version = path.rsplit_once('/').and_then(|(module, version)| {
        ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()
    });
    if let Some(version) = as_version
        && is_file(&other.files(root, &version)?.info)?
    {
        return Ok(true);
    }
    other.has_folder_for(root, path)
}
