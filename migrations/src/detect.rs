//! Recognises stores at layouts without markers. This is never a guess: the folder must contain at least one whole
//! version at the path that its own zip names.

use std::path::{Path, PathBuf};

use stoa_gomod::ModulePath;
use stoa_layout::signals::Cancelled;
use stoa_layout::{Detect, Detection, LayoutId, StepError};

use crate::flat::{self, Flat};
use crate::picture::{Candidate, Finding, Picture, is_dir};
use crate::{v0, whole};

/// Recognises v0.
pub(crate) struct IsV0;

/// Recognises a tree, and refuses the module cache of the go command, which is also a tree.
pub(crate) struct IsTree;

impl Detect for IsV0 {
    fn layout(&self) -> LayoutId {
        v0::ID
    }

    fn detect(&self, root: &Path) -> Result<Detection, StepError> {
        Ok(if holds_a_whole_version(&v0::V0, root)? { Detection::Yes } else { Detection::No })
    }
}

impl Detect for IsTree {
    fn layout(&self) -> LayoutId {
        flat::TREE
    }

    fn detect(&self, root: &Path) -> Result<Detection, StepError> {
        if let Some(cache) = go_cache(root)? {
            return Ok(Detection::Refuse(format!(
                "{} is the module cache of the go command; copy it into a store with `stoa import {}`",
                cache.display(),
                cache.display()
            )));
        }
        Ok(if holds_a_whole_version(&Flat::Tree, root)? { Detection::Yes } else { Detection::No })
    }
}

/// Stops a walk early.
const ENOUGH: StepError = StepError::Cancelled(Cancelled(0));

pub(crate) fn holds_a_whole_version(picture: &dyn Picture, root: &Path) -> Result<bool, StepError> {
    let is_whole = |candidate: &Candidate| -> Result<bool, StepError> {
        Ok(candidate.fault.is_none()
            && candidate.has == [true; 3]
            && whole::fault(&candidate.version, &candidate.files)?.is_none())
    };
    let mut found = false;
    let walked = picture.walk(root, &mut |what| {
        let Finding::Versions(candidates) = what else { return Ok(()) };
        for candidate in &candidates {
            if is_whole(candidate)? {
                found = true;
                return Err(ENOUGH);
            }
        }
        Ok(())
    });
    match walked {
        _ if found => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Ok(false),
    }
}

/// Returns the `cache/download` folder of the go command's module cache: the folder itself, or a folder below it that the
/// go command uses.
pub(crate) fn go_cache(root: &Path) -> Result<Option<PathBuf>, StepError> {
    for below in
        ["", "cache/download", "mod/cache/download", "pkg/mod/cache/download", "go/pkg/mod/cache/download"]
    {
        let cache = if below.is_empty() { root.to_owned() } else { root.join(below) };
        if (below.is_empty() || is_dir(&cache)?) && is_go_cache(&cache)? {
            return Ok(Some(cache));
        }
    }
    Ok(None)
}

/// Returns whether a folder is the go command's cache: the command leaves locks and hashes beside its downloads.
fn is_go_cache(root: &Path) -> Result<bool, StepError> {
    let (mut has_lock, mut has_hash) = (false, false);
    let walked = Flat::Tree.walk(root, &mut |what| {
        if let Finding::Leftover(leftover) = what
            && is_beside_versions(root, &leftover.path)
        {
            has_lock |= leftover.path.extension().is_some_and(|ending| ending == "lock");
            has_hash |= leftover.path.extension().is_some_and(|ending| ending == "ziphash");
        }
        if has_lock && has_hash { Err(ENOUGH) } else { Ok(()) }
    });
    match walked {
        _ if has_lock && has_hash => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Ok(false),
    }
}

/// Returns whether a path is in the `@v` folder of a module, whose path begins at this root and not above or below it.
fn is_beside_versions(root: &Path, path: &Path) -> bool {
    let module = path.parent().filter(|folder| folder.ends_with("@v")).and_then(Path::parent);
    let module = module.and_then(|folder| folder.strip_prefix(root).ok()).and_then(Path::to_str);
    module.is_some_and(|module| ModulePath::unescape(module).is_ok())
}
