//! Layout v2: `modules/ESCAPED/@v/VERSION/{info,mod,zip}` and optionally `ziphash`, one folder per version.

use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::{LayoutId, PathError, StepError};

use crate::picture::{
    BATCH, Candidate, Files, Finding, Names, Picture, Visit, escaped, is_dir, is_ignored, leftover,
};
use crate::removal::{Emptied, Removal};

/// The name of the layout.
pub(crate) const ID: LayoutId = LayoutId::fixed("v2");

/// The folders of a store at this layout.
pub(crate) const FOLDERS: [&str; 6] = ["modules", "staging", "quarantine", "index", "cache", "records"];

/// The picture of the layout.
pub(crate) struct V2;

const VERSIONS: &str = "@v";

impl Picture for V2 {
    fn files(&self, root: &Path, version: &ModuleVersion) -> Result<Files, PathError> {
        let folder = root.join("modules").join(version.path().escaped()).join(VERSIONS);
        Ok(files_in(&folder.join(version.version().escaped())))
    }

    fn walk(&self, root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let base = root.join("modules");
        walk_folder(&base, &base, visit)
    }

    fn has_folder_for(&self, root: &Path, plain: &str) -> Result<bool, PathError> {
        is_dir(&root.join("modules").join(escaped(plain)))
    }

    fn remove_emptied(&self, root: &Path, _: &dyn Picture, removal: &Removal) -> Result<(), StepError> {
        Emptied { may_go: &|_| Ok(true), skip: &|_| false, goes_below: &|_| true }
            .remove_below(&root.join("modules"), removal)
    }
}

fn files_in(folder: &Path) -> Files {
    Files {
        modfile: folder.join("mod"),
        zip: folder.join("zip"),
        info: folder.join("info"),
        seal: Some(folder.join("ziphash")),
    }
}

fn walk_folder(base: &Path, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
    let Some(names) = Names::of(folder)? else { return Ok(()) };
    for name in names {
        let name = name?;
        let text = name.text.as_deref().unwrap_or_default();
        if name.kind.is_dir() && text == VERSIONS && folder != base {
            walk_versions(base, folder, &name.path, visit)?;
        } else if name.kind.is_dir() {
            walk_folder(base, &name.path, visit)?;
        } else if !is_ignored(text) {
            visit(Finding::Leftover(leftover(&name.path, "foreign: it belongs to no version")?))?;
        }
    }
    Ok(())
}

fn walk_versions(base: &Path, module: &Path, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
    let Some(names) = Names::of(folder)? else { return Ok(()) };
    let module = module
        .strip_prefix(base)
        .ok()
        .and_then(Path::to_str)
        .and_then(|path| ModulePath::unescape(path).ok());
    let mut candidates = Vec::new();
    for name in names {
        let name = name?;
        let version = name.text.as_deref().and_then(|text| Version::unescape(text).ok());
        let pair = match (&module, version) {
            (Some(module), Some(version)) if name.kind.is_dir() => {
                ModuleVersion::new(module.clone(), version).ok()
            }
            _ => None,
        };
        match pair {
            Some(pair) => look(pair, name.path, &mut candidates, visit)?,
            // A file of a flat layout belongs to the other side of a step, or is a leftover of it.
            None if is_flat(name.text.as_deref().unwrap_or_default()) => {}
            None => visit(Finding::Leftover(leftover(&name.path, "foreign: it belongs to no version")?))?,
        }
        if candidates.len() >= BATCH {
            visit(Finding::Versions(std::mem::take(&mut candidates)))?;
        }
    }
    if candidates.is_empty() { Ok(()) } else { visit(Finding::Versions(candidates)) }
}

fn look(
    version: ModuleVersion,
    folder: PathBuf,
    candidates: &mut Vec<Candidate>,
    visit: &mut Visit<'_>,
) -> Result<(), StepError> {
    let Some(names) = Names::of(&folder)? else { return Ok(()) };
    let files = files_in(&folder);
    let (mut has, mut has_seal, mut fault) = ([false; 3], false, None);
    for name in names {
        let name = name?;
        match files.in_order().iter().position(|path| *path == name.path) {
            Some(part) if name.kind.is_file() => has[part] = true,
            Some(_) if name.kind.is_symlink() => {
                fault = Some("symlink: one of its files is a symlink".to_owned());
            }
            Some(_) => fault = Some("foreign: one of its files is not a regular file".to_owned()),
            None if files.seal.as_deref() == Some(&name.path) && name.kind.is_file() => has_seal = true,
            None => visit(Finding::Leftover(leftover(&name.path, "foreign: it belongs to no version")?))?,
        }
    }
    if has != [false; 3] || has_seal || fault.is_some() {
        candidates.push(Candidate { version, files, has, has_seal, fault, without_zip: None, shown: folder });
    }
    Ok(())
}

fn is_flat(name: &str) -> bool {
    let is_ours = |ending: &str| ["mod", "zip", "info", "ziphash"].contains(&ending);
    name.rsplit_once('.').is_some_and(|(stem, ending)| is_ours(ending) && Version::unescape(stem).is_ok())
}
