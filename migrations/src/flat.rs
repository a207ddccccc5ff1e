//! Flat layouts: `ESCAPED/@v/VERSION.{info,mod,zip}` at the root itself (the tree) or below `modules/` (v1).
//!
//! A tree may come from a goproxy cache, which escapes names, or from an Athens bucket that was copied to
//! disk, which does not; v1 always escapes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::{LayoutId, StepError, durable};

use crate::picture::{
    Candidate, Files, Found, Name, Names, Picture, Visit, escaped, is_ignored, is_ours_at_the_top, leftover,
    remove_empty_below, too_long,
};

/// The tree.
pub(crate) const TREE: LayoutId = LayoutId::fixed("tree");
/// Layout v1.
pub(crate) const V1: LayoutId = LayoutId::fixed("v1");

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flat {
    /// At the root itself, escaped or not, without seals.
    Tree,
    /// Below `modules/`, escaped, with seals.
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

    fn walk_folder(self, base: &Path, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let names = match Names::of(folder) {
            Ok(Some(names)) => names,
            Ok(None) => return Ok(()),
            Err(error) => return visit(Found::Leftover(leftover(folder, format!("unreadable: {error}")))),
        };
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
                _ => visit(Found::Leftover(leftover(&name.path, reason(&name))))?,
            }
        }
        Ok(())
    }

    /// Looks at the files of one module. Memory is that of the names in this one folder.
    fn walk_versions(
        self,
        base: &Path,
        module_folder: &Path,
        folder: &Path,
        visit: &mut Visit<'_>,
    ) -> Result<(), StepError> {
        let names = match Names::of(folder) {
            Ok(Some(names)) => names,
            Ok(None) => return Ok(()),
            Err(error) => return visit(Found::Leftover(leftover(folder, format!("unreadable: {error}")))),
        };
        let module_path = module_folder.strip_prefix(base).ok().and_then(Path::to_str);
        let module = module_path.and_then(|path| self.module(path));
        let mut versions: BTreeMap<String, ([bool; 3], Option<String>)> = BTreeMap::new();
        for name in names {
            let name = name?;
            let part =
                name.text.as_deref().and_then(|text| text.rsplit_once('.')).and_then(|(stem, ending)| {
                    let part = ["mod", "zip", "info"].iter().position(|known| *known == ending)?;
                    Some((stem.to_owned(), part))
                });
            match part {
                Some((stem, part)) if module.is_some() && self.version(&stem).is_some() => {
                    let entry = versions.entry(stem).or_default();
                    if name.kind.is_file() {
                        entry.0[part] = true;
                    } else if name.kind.is_symlink() {
                        entry.1 = Some("symlink: one of its files is one".to_owned());
                    } else {
                        entry.1 = Some("foreign: one of its names is no file".to_owned());
                    }
                }
                Some((stem, _)) if module.is_some() && name.kind.is_file() => {
                    let why = format!("alias: {stem} is no canonical version");
                    visit(Found::Leftover(leftover(&name.path, why)))?;
                }
                _ if self == Self::V1 && is_seal_of(&name, &versions, folder) => {}
                // A version in a folder of its own: the other side of a step.
                _ if self == Self::V1
                    && name.kind.is_dir()
                    && self.version(name.text.as_deref().unwrap_or_default()).is_some() => {}
                _ => visit(Found::Leftover(leftover(&name.path, reason(&name))))?,
            }
        }
        let (Some(module), Some(module_path)) = (module, module_path) else { return Ok(()) };
        let mut candidates = Vec::with_capacity(versions.len());
        for (stem, (has, mut fault)) in versions {
            let files = self.files_in(folder, &stem);
            let Some(version) = self.version(&stem) else { continue };
            let pair = match ModuleVersion::new(module.clone(), version) {
                Ok(pair) => pair,
                Err(error) => {
                    visit(Found::Leftover(leftover(&files.info, format!("foreign: {error}"))))?;
                    continue;
                }
            };
            if self == Self::Tree && self.has_another_spelling(base, &pair, module_path, &stem) {
                fault = fault.or_else(|| Some("two spellings of this version are in the tree".to_owned()));
            }
            let escaped_path = pair.path().escaped();
            let fault =
                fault.or_else(|| too_long(&escaped_path)).or_else(|| too_long(&stem_of_longest(&pair)));
            let shown = files.info.clone();
            candidates.push(Candidate { version: pair, files, has, fault, shown });
        }
        if candidates.is_empty() { Ok(()) } else { visit(Found::Versions(candidates)) }
    }

    /// Whether the same version is there under a path or a name that is escaped otherwise.
    fn has_another_spelling(self, base: &Path, pair: &ModuleVersion, path: &str, stem: &str) -> bool {
        let (module, version) = (pair.path(), pair.version());
        let paths = [module.as_str().to_owned(), module.escaped()];
        let stems = [version.as_str().to_owned(), version.escaped()];
        let mut spellings: Vec<(&String, &String)> =
            paths.iter().flat_map(|path| stems.iter().map(move |stem| (path, stem))).collect();
        spellings.sort();
        spellings.dedup();
        spellings
            .into_iter()
            .filter(|(other_path, other_stem)| *other_path != path || *other_stem != stem)
            .any(|(path, stem)| {
                let files = self.files_in(&base.join(path).join(VERSIONS), stem);
                files.in_order().into_iter().any(|file| file.symlink_metadata().is_ok())
            })
    }
}

impl Picture for Flat {
    fn files(&self, root: &Path, version: &ModuleVersion) -> Files {
        let folder = self.base(root).join(version.path().escaped()).join(VERSIONS);
        self.files_in(&folder, &version.version().escaped())
    }

    fn walk(&self, root: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let base = self.base(root);
        self.walk_folder(&base, &base, visit)
    }

    fn has_folder_for(&self, root: &Path, plain: &str) -> bool {
        self.base(root).join(escaped(plain)).is_dir()
    }

    fn remove_emptied(&self, root: &Path, other: &dyn Picture) -> Result<(), StepError> {
        let base = self.base(root);
        match self {
            Self::V1 => {
                remove_empty_below(&base, &|_| true, &|_| false)?;
                durable::remove_empty_dir(&base)?;
                Ok(())
            }
            Self::Tree => {
                let may_go = |folder: &Path| {
                    let Some(path) = folder.strip_prefix(&base).ok().and_then(Path::to_str) else {
                        return false;
                    };
                    let path = path.strip_suffix("/@v").unwrap_or(path);
                    // Escaped or plain: the counterpart is of the plain path.
                    let plain = plain_of(path);
                    other.has_folder_for(root, &plain)
                };
                remove_empty_below(&base, &may_go, &is_ours_at_the_top)
            }
        }
    }
}

/// Undoes the escaping of a path that may be escaped.
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

fn stem_of_longest(pair: &ModuleVersion) -> String {
    format!("{}.info", pair.version().escaped())
}

/// A seal belongs to its version wherever that is now; one without a version is a leftover.
fn is_seal_of(name: &Name, versions: &BTreeMap<String, ([bool; 3], Option<String>)>, folder: &Path) -> bool {
    let Some(stem) = name.text.as_deref().and_then(|text| text.strip_suffix(".ziphash")) else {
        return false;
    };
    name.kind.is_file()
        && (versions.contains_key(stem)
            || ["mod", "zip", "info"].iter().any(|ending| folder.join(format!("{stem}.{ending}")).exists()))
}

fn reason(name: &Name) -> &'static str {
    if name.kind.is_symlink() { "symlink" } else { "foreign file" }
}
