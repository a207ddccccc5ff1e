//! Flat layouts: `ESCAPED/@v/VERSION.{info,mod,zip}` at the root itself (the tree) or below `modules/` (v1).
//!
//! A tree may come from a GOPROXY cache, which escapes names, or from a copied Athens bucket, which does not. v1 always
//! escapes names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::{LayoutId, PathError, StepError};

use crate::picture::{
    Candidate, Files, Finding, Name, Names, Picture, Visit, escaped, exists, is_dir, is_ignored,
    is_ours_at_the_top, leftover,
};
use crate::removal::{Emptied, Removal};

/// The tree.
pub(crate) const TREE: LayoutId = LayoutId::fixed("tree");
/// Layout v1.
pub(crate) const V1: LayoutId = LayoutId::fixed("v1");

/// A flat layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flat {
    /// The tree: at the root itself, escaped or not, without seals.
    Tree,
    /// v1: below `modules/`, escaped, with seals.
    V1,
}

const VERSIONS: &str = "@v";

impl Flat {
    fn base(self, root: &Path) -> PathBuf {
        match self {
            Self::Tree => root.to_owned(),
            Self::V1 => root.join("modules"),
        }
    }

    fn files_in(self, folder: &Path, version: &str) -> Files {
        let file = |ending: &str| folder.join(format!("{version}.{ending}"));
        let seal = (self == Self::V1).then(|| file("ziphash"));
        Files { modfile: file("mod"), zip: file("zip"), info: file("info"), seal }
    }

    fn module(self, path: &str) -> Option<ModulePath> {
        match self {
            Self::Tree => ModulePath::unescape(path).or_else(|_| ModulePath::new(path).map_err(|_| ())).ok(),
            Self::V1 => ModulePath::unescape(path).ok(),
        }
    }

    fn version(self, name: &str) -> Option<Version> {
        match self {
            Self::Tree => Version::unescape(name).or_else(|_| Version::new(name).map_err(|_| ())).ok(),
            Self::V1 => Version::unescape(name).ok(),
        }
    }

    /// Opens a folder of a walk. Only in the tree, which another program wrote, an unreadable folder is a leftover.
    fn names(self, folder: &Path, visit: &mut Visit<'_>) -> Result<Option<Names>, StepError> {
        match self {
            Self::Tree => Names::in_foreign_walk(folder, visit),
            Self::V1 => Ok(Names::of(folder)?),
        }
    }

    fn walk_folder(self, base: &Path, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let Some(names) = self.names(folder, visit)? else { return Ok(()) };
        let at_the_top = folder == base;
        for name in names {
            let name = name?;
            let text = name.text.as_deref().unwrap_or_default();
            match self {
                Self::Tree if at_the_top && is_ours_at_the_top(text) => {}
                _ if name.kind.is_dir() && text == VERSIONS && !at_the_top => {
                    self.walk_versions(base, folder, &name.path, visit)?;
                }
                _ if name.kind.is_dir() => self.walk_folder(base, &name.path, visit)?,
                _ if is_ignored(text) => {}
                _ => visit(Finding::Leftover(leftover(&name.path, reason(&name))?))?,
            }
        }
        Ok(())
    }

    /// Walks the versions of one module. Only the names in this folder are kept in memory.
    fn walk_versions(
        self,
        base: &Path,
        module_folder: &Path,
        folder: &Path,
        visit: &mut Visit<'_>,
    ) -> Result<(), StepError> {
        let Some(names) = self.names(folder, visit)? else { return Ok(()) };
        let module_path = module_folder.strip_prefix(base).ok().and_then(Path::to_str);
        let module = module_path.and_then(|path| self.module(path));
        let mut versions: BTreeMap<String, Parts> = BTreeMap::new();
        for name in names {
            let name = name?;
            let part =
                name.text.as_deref().and_then(|text| text.rsplit_once('.')).and_then(|(stem, ending)| {
                    let part = ["mod", "zip", "info"].iter().position(|known| *known == ending)?;
                    Some((stem.to_owned(), part))
                });
            match part {
                Some((stem, part)) if module.is_some() && self.version(&stem).is_some() => {
                    let parts = versions.entry(stem).or_default();
                    if name.kind.is_file() {
                        parts.has[part] = true;
                    } else if name.kind.is_symlink() {
                        parts.fault = Some("symlink: one of its files is a symlink".to_owned());
                    } else {
                        parts.fault = Some("foreign: one of its files is not a regular file".to_owned());
                    }
                }
                Some((stem, _)) if module.is_some() && name.kind.is_file() => {
                    let why = format!("alias: {stem} is not a canonical version");
                    visit(Finding::Leftover(leftover(&name.path, why)?))?;
                }
                _ if module.is_some() && self.seal_of(&name).is_some() => {
                    let stem = self.seal_of(&name).unwrap_or_default().to_owned();
                    versions.entry(stem).or_default().has_seal = true;
                }
                // A version folder belongs to the other side of a step.
                _ if self == Self::V1
                    && name.kind.is_dir()
                    && self.version(name.text.as_deref().unwrap_or_default()).is_some() => {}
                _ => visit(Finding::Leftover(leftover(&name.path, reason(&name))?))?,
            }
        }
        let (Some(module), Some(module_path)) = (module, module_path) else { return Ok(()) };
        let mut candidates = Vec::with_capacity(versions.len());
        for (stem, Parts { has, has_seal, mut fault }) in versions {
            let files = self.files_in(folder, &stem);
            let Some(version) = self.version(&stem) else { continue };
            let pair = match ModuleVersion::new(module.clone(), version) {
                Ok(pair) => pair,
                Err(error) => {
                    visit(Finding::Leftover(leftover(&files.info, format!("foreign: {error}"))?))?;
                    continue;
                }
            };
            if self == Self::Tree && self.has_another_spelling(base, &pair, module_path, &stem)? {
                fault = fault.or_else(|| Some("two spellings of this version are in the tree".to_owned()));
            }
            let shown = files.info.clone();
            candidates.push(Candidate {
                version: pair,
                files,
                has,
                has_seal,
                fault,
                without_zip: None,
                shown,
            });
        }
        if candidates.is_empty() { Ok(()) } else { visit(Finding::Versions(candidates)) }
    }

    /// Returns whether the same version exists with a different escaping.
    fn has_another_spelling(
        self,
        base: &Path,
        pair: &ModuleVersion,
        path: &str,
        stem: &str,
    ) -> Result<bool, PathError> {
        for (other_path, other_stem) in spellings(pair) {
            if (other_path != path || other_stem != stem) && self.has_any(base, &other_path, &other_stem)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_any(self, base: &Path, path: &str, stem: &str) -> Result<bool, PathError> {
        for file in self.files_in(&base.join(path).join(VERSIONS), stem).in_order() {
            if exists(file)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the version of a seal. A seal belongs to its version, even if the other files are on the other side.
    fn seal_of(self, name: &Name) -> Option<&str> {
        let stem = name.text.as_deref()?.strip_suffix(".ziphash")?;
        (self == Self::V1 && name.kind.is_file() && self.version(stem).is_some()).then_some(stem)
    }
}

/// The files of one version in a folder.
#[derive(Default)]
struct Parts {
    has: [bool; 3],
    has_seal: bool,
    fault: Option<String>,
}

/// Returns the spellings of a version's path and name, the escaped spelling first.
fn spellings(pair: &ModuleVersion) -> Vec<(String, String)> {
    let (module, version) = (pair.path(), pair.version());
    let mut spellings = Vec::with_capacity(4);
    for path in [module.escaped(), module.as_str().to_owned()] {
        for stem in [version.escaped(), version.as_str().to_owned()] {
            let spelling = (path.clone(), stem);
            if !spellings.contains(&spelling) {
                spellings.push(spelling);
            }
        }
    }
    spellings
}

impl Picture for Flat {
    fn files(&self, root: &Path, version: &ModuleVersion) -> Result<Files, PathError> {
        let base = self.base(root);
        let mut spellings = spellings(version);
        // An interrupted step up may have left a part of the version under unescaped names. The other files must get the
        // same spelling.
        let mut chosen = 0;
        if *self == Self::Tree {
            for (at, (path, stem)) in spellings.iter().enumerate() {
                if self.has_any(&base, path, stem)? {
                    chosen = at;
                    break;
                }
            }
        }
        let (path, stem) = spellings.swap_remove(chosen);
        Ok(self.files_in(&base.join(path).join(VERSIONS), &stem))
    }

    fn walk(&self, root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let base = self.base(root);
        self.walk_folder(&base, &base, visit)
    }

    fn has_folder_for(&self, root: &Path, plain: &str) -> Result<bool, PathError> {
        is_dir(&self.base(root).join(escaped(plain)))
    }

    fn remove_emptied(&self, root: &Path, other: &dyn Picture, removal: &Removal) -> Result<(), StepError> {
        let base = self.base(root);
        match self {
            Self::V1 => {
                // In v1, a folder in `@v` is not Stoa's, unless an interrupted step to v2 left it empty.
                let goes_below =
                    |folder: &Path| !folder.parent().is_some_and(|parent| parent.ends_with(VERSIONS));
                let emptied = Emptied { may_go: &|_| Ok(true), skip: &|_| false, goes_below: &goes_below };
                emptied.remove_below(&base, removal)?;
                removal.remove_empty(&base)?;
                Ok(())
            }
            Self::Tree => {
                let may_go = |folder: &Path| {
                    let Some(path) = folder.strip_prefix(&base).ok().and_then(Path::to_str) else {
                        return Ok(false);
                    };
                    let path = path.strip_suffix("/@v").unwrap_or(path);
                    // The counterpart has the plain path, whether this folder is escaped or not.
                    let plain = plain_of(path);
                    other.has_folder_for(root, &plain)
                };
                Emptied { may_go: &may_go, skip: &is_ours_at_the_top, goes_below: &|_| true }
                    .remove_below(&base, removal)
            }
        }
    }
}

/// Returns the plain path of a path that may be escaped.
fn plain_of(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => plain.extend(chars.next().map(|c| c.to_ascii_uppercase())),
            c => plain.push(c),
        }
    }
    plain
}

fn reason(name: &Name) -> &'static str {
    if name.kind.is_symlink() { "symlink" } else { "foreign: it belongs to no version" }
}
