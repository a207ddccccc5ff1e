//! Lists the content of a store, at every layout and in the middle of every step: whole versions, and leftovers with
//! their reasons.
//!
//! The inventory uses the pictures of the steps. A picture is alive if the store is at its layout; in the middle of a step
//! both pictures are alive. Everything that a dead picture finds is a leftover, even a whole version. Two pictures look
//! into `modules`; only the flat picture reports paths that belong to neither.

use std::collections::HashSet;
use std::path::Path;

use stoa_gomod::{ModulePath, Version};
use stoa_layout::inventory::{self, Visit};
use stoa_layout::step::Refusal;
use stoa_layout::{Direction, Inventory, Leftover, PathError, State, StepError};

use crate::flat::{self, Flat};
use crate::flow::{Flow, Verdict};
use crate::picture::{
    BATCH, Candidate, Files, Finding, Names, OURS, Picture, exists, leftover, metadata, size,
};
use crate::{refuse, tree_to_v1, v0, v0_to_v1, v1_to_v2, v2, whole};

/// The inventory of the layouts up to v2.
pub(crate) struct AllLayouts;

impl Inventory for AllLayouts {
    fn take(&self, root: &Path, state: &State, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let mut look = Look { root, visit, modules: Modules::default() };
        let (v0_step, tree_step, last_step) = (v0_to_v1::step(), tree_to_v1::step(), v1_to_v2::step());
        match Sides::of(state) {
            Sides::V0 => {
                look.all(&v0::V0, &|one| judged(&v0_step, root, Direction::Up, one))?;
                look.modules(&|one| dead(&v0::V0, root, one), &|one| dead(&v0::V0, root, one))
            }
            Sides::Tree => {
                look.all(&Flat::Tree, &|one| judged(&tree_step, root, Direction::Up, one))?;
                look.modules(&|one| dead(&Flat::Tree, root, one), &|one| dead(&Flat::Tree, root, one))
            }
            Sides::V0AndV1 => {
                look.all(&v0::V0, &|one| judged(&v0_step, root, Direction::Up, one))?;
                look.modules(&|one| judged(&v0_step, root, Direction::Back, one), &|one| {
                    dead(&Flat::V1, root, one)
                })
            }
            Sides::TreeAndV1 => {
                look.all(&Flat::Tree, &|one| judged(&tree_step, root, Direction::Up, one))?;
                look.modules(&|one| judged(&tree_step, root, Direction::Back, one), &|one| {
                    dead(&Flat::V1, root, one)
                })
            }
            Sides::V1 => {
                look.outside(&Flat::V1)?;
                look.modules(&|one| Ok(at_v1(one)), &|one| dead(&Flat::V1, root, one))
            }
            Sides::V1AndV2 => {
                look.outside(&v2::V2)?;
                look.modules(&|one| judged(&last_step, root, Direction::Up, one), &|one| {
                    judged(&last_step, root, Direction::Back, one)
                })
            }
            Sides::V2 => {
                look.outside(&v2::V2)?;
                look.modules(&|one| dead(&v2::V2, root, one), &|one| Ok(at_v2(one)))
            }
        }
    }

    fn forbids_moving(&self, root: &Path, state: &State) -> Result<Option<Refusal>, StepError> {
        Ok(if matches!(state, State::Untagged(_)) { refuse::open_files(root)? } else { None })
    }
}

/// The layouts that are alive.
enum Sides {
    V0,
    Tree,
    V0AndV1,
    TreeAndV1,
    V1,
    V1AndV2,
    V2,
}

impl Sides {
    fn of(state: &State) -> Self {
        match state {
            State::Untagged(layout) if *layout == flat::TREE => Self::Tree,
            State::Untagged(_) => Self::V0,
            State::At(layout) if *layout == flat::V1 => Self::V1,
            State::Migrating { from, to } => {
                let has = |layout| *from == layout || *to == layout;
                match (has(v0::ID), has(flat::TREE), has(flat::V1)) {
                    (true, ..) => Self::V0AndV1,
                    (_, true, _) => Self::TreeAndV1,
                    (.., true) => Self::V1AndV2,
                    _ => Self::V2,
                }
            }
            _ => Self::V2,
        }
    }
}

/// The judgement of a version that a picture found.
enum Judgement {
    /// The version is whole. In a step some of its files may be on the other side.
    Whole {
        elsewhere: Option<Files>,
    },
    /// The other side reports it.
    Nothing,
    Leftover(String),
}

type Judge<'a> = &'a dyn Fn(&Candidate) -> Result<Judgement, StepError>;

/// Judges a version by both sides of a step. The side with the info reports it.
fn judged(step: &Flow, root: &Path, direction: Direction, one: &Candidate) -> Result<Judgement, StepError> {
    Ok(match step.judge(root, direction, one)? {
        Verdict::Elsewhere => Judgement::Nothing,
        Verdict::Moves { .. } if !one.has[2] => Judgement::Nothing,
        Verdict::Moves { .. } => {
            let other = if direction == Direction::Up { step.new } else { step.old };
            let is_split = one.has != [true; 3];
            let elsewhere = if is_split { Some(other.files(root, &one.version)?) } else { None };
            Judgement::Whole { elsewhere }
        }
        Verdict::Stays(reason) | Verdict::Taken(reason) => Judgement::Leftover(reason),
    })
}

/// Judges a version at v1: all three files must exist.
fn at_v1(one: &Candidate) -> Judgement {
    match fault(one) {
        Some(fault) => Judgement::Leftover(fault),
        None => Judgement::Whole { elsewhere: None },
    }
}

/// Judges a version at v2: it exists if its info exists. Sealing finds other faults later.
fn at_v2(one: &Candidate) -> Judgement {
    match (&one.fault, one.has) {
        (Some(fault), _) => Judgement::Leftover(fault.clone()),
        (None, [.., true]) => Judgement::Whole { elsewhere: None },
        (None, [false, false, _]) => Judgement::Leftover("foreign: a seal without its version".to_owned()),
        (None, _) => Judgement::Leftover("incomplete: it has no info".to_owned()),
    }
}

/// Judges a version of a layout that is not alive.
fn dead(alive: &dyn Picture, root: &Path, one: &Candidate) -> Result<Judgement, StepError> {
    let fault = match fault(one) {
        None => whole::fault(&one.version, &one.files)?,
        fault => fault,
    };
    let there = alive.files(root, &one.version)?.info;
    Ok(Judgement::Leftover(match fault {
        Some(fault) => fault,
        None if exists(&there)? => format!("its info already exists at {}", there.display()),
        None => "complete, but not at the layout of the store".to_owned(),
    }))
}

/// Returns the reason why a version is not whole, judged by its names.
pub(crate) fn fault(one: &Candidate) -> Option<String> {
    if one.has == [false; 3] && one.has_seal {
        return Some("foreign: a seal without its version".to_owned());
    }
    let missing = ["go.mod", "zip", "info"].into_iter().zip(one.has).find(|(_, has)| !has);
    one.fault.clone().or_else(|| {
        let (name, _) = missing?;
        let known = one.without_zip.clone().filter(|_| !one.has[1]);
        Some(known.unwrap_or_else(|| format!("incomplete: it has no {name}")))
    })
}

/// The roles of the three files of a version, in the order in which they move.
pub(crate) const ROLES: [&str; 3] = ["mod", "zip", "info"];

/// Reports a whole version, with its files on the other side of a step.
pub(crate) fn report_whole(
    one: &Candidate,
    elsewhere: Option<&Files>,
    is_first_of_group: bool,
    visit: &mut Visit<'_>,
) -> Result<(), StepError> {
    let others = elsewhere.map(Files::in_order);
    let mut files = Vec::with_capacity(ROLES.len());
    for (part, (here, has)) in one.files.in_order().into_iter().zip(one.has).enumerate() {
        let there = others.map(|others| others[part]);
        if let Some(path) = if has { Some(here) } else { there } {
            files.push((ROLES[part], path));
        }
    }
    let mut bytes = 0;
    for path in files.iter().map(|(_, path)| *path).chain(one.files.seal.as_deref()) {
        bytes += size(path)?;
    }
    let name = format_args!("{}", one.version);
    visit(inventory::Found::Whole { name, files: &files, bytes, is_first_of_group })
}

/// One walk through a store.
struct Look<'a, 'v> {
    root: &'a Path,
    visit: &'a mut Visit<'v>,
    modules: Modules,
}

impl Look<'_, '_> {
    /// Reports everything that a picture finds.
    fn all(&mut self, picture: &dyn Picture, judge: Judge<'_>) -> Result<(), StepError> {
        self.some(picture, judge, &|_| true)
    }

    /// Reports what a picture finds at selected paths.
    fn some(
        &mut self,
        picture: &dyn Picture,
        judge: Judge<'_>,
        is_asked_for: &dyn Fn(&Path) -> bool,
    ) -> Result<(), StepError> {
        let root = self.root;
        picture.walk(root, &mut |found| match found {
            Finding::Versions(versions) => {
                let is_last = versions.len() < BATCH;
                let versions = versions.iter().filter(|one| is_asked_for(&one.files.info));
                self.versions(versions, is_last, judge)
            }
            Finding::Leftover(leftover) if is_asked_for(&leftover.path) => self.leftover(&leftover),
            Finding::Leftover(_) => Ok(()),
        })
    }

    /// Walks `modules`.
    fn modules(&mut self, flat: Judge<'_>, folders: Judge<'_>) -> Result<(), StepError> {
        self.some(&Flat::V1, flat, &|_| true)?;
        let root = self.root;
        v2::V2.walk(root, &mut |found| match found {
            Finding::Versions(versions) => self.versions(versions.iter(), versions.len() < BATCH, folders),
            Finding::Leftover(leftover) if is_of_a_version_folder(&leftover.path)? => {
                self.leftover(&leftover)
            }
            Finding::Leftover(_) => Ok(()),
        })
    }

    /// Walks everything outside of `modules` in a store with a marker. All of it is leftovers.
    fn outside(&mut self, alive: &dyn Picture) -> Result<(), StepError> {
        let root = self.root;
        let judge = |one: &Candidate| dead(alive, root, one);
        self.some(&v0::V0, &judge, &|path| !is_in_a_tree(root, path))?;
        self.some(&Flat::Tree, &judge, &|path| is_in_a_tree(root, path))?;
        for name in Names::of(root)?.into_iter().flatten() {
            let name = name?;
            if !name.kind.is_dir() && name.text.is_some_and(|text| OURS.contains(&text.as_str())) {
                self.leftover(&leftover(&name.path, "foreign: a folder of the store has this name")?)?;
            }
        }
        Ok(())
    }

    fn versions<'c>(
        &mut self,
        versions: impl Iterator<Item = &'c Candidate>,
        is_last: bool,
        judge: Judge<'_>,
    ) -> Result<(), StepError> {
        for one in versions {
            match judge(one)? {
                Judgement::Nothing => {}
                Judgement::Whole { elsewhere } => {
                    let is_first_of_group = self.modules.is_first(one.version.path(), is_last);
                    report_whole(one, elsewhere.as_ref(), is_first_of_group, self.visit)?;
                }
                Judgement::Leftover(reason) => {
                    let mut pieces = one.pieces()?;
                    // In v0 a folder with the name of a file may contain modules.
                    if one.shown.as_path() == one.files.info.parent().unwrap_or(self.root)
                        && one.files.seal.is_none()
                    {
                        pieces.retain(|piece| !piece.is_dir() || piece.is_symlink());
                    }
                    // The version may have vanished meanwhile.
                    if !pieces.is_empty() {
                        let leftover = one.leftover(reason)?;
                        (self.visit)(inventory::Found::Leftover { leftover: &leftover, pieces: &pieces })?;
                    }
                }
            }
        }
        if is_last {
            self.modules.end_of_batch();
        }
        Ok(())
    }

    fn leftover(&mut self, leftover: &Leftover) -> Result<(), StepError> {
        let pieces = match v0::pieces_of_alias(&leftover.path)? {
            pieces if !pieces.is_empty() && !is_in_a_tree(self.root, &leftover.path) => pieces,
            _ => vec![leftover.path.clone()],
        };
        (self.visit)(inventory::Found::Leftover { leftover, pieces: &pieces })
    }
}

/// Counts each module once, although its versions come in batches. Only modules with several batches are remembered.
#[derive(Default)]
struct Modules {
    last: Option<ModulePath>,
    large: HashSet<ModulePath>,
}

impl Modules {
    fn is_first(&mut self, module: &ModulePath, is_last_batch: bool) -> bool {
        if self.last.as_ref() == Some(module) || self.large.contains(module) {
            return false;
        }
        self.last = Some(module.clone());
        if !is_last_batch {
            self.large.insert(module.clone());
        }
        true
    }

    fn end_of_batch(&mut self) {
        self.last = None;
    }
}

/// Returns whether a path is below an `@v` folder of a tree.
fn is_in_a_tree(root: &Path, path: &Path) -> bool {
    let folder = path.parent().and_then(|folder| folder.strip_prefix(root).ok());
    folder.is_some_and(|folder| folder.iter().skip(1).any(|name| name == "@v"))
}

/// Returns whether only the picture with version folders looks at a path.
fn is_of_a_version_folder(path: &Path) -> Result<bool, PathError> {
    let in_versions = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with("@v"));
    let is_version = |name: &str| Version::unescape(name).is_ok();
    let has_name = path.file_name().and_then(|name| name.to_str()).is_some_and(is_version);
    Ok(path.parent().is_some_and(in_versions)
        || in_versions(path) && has_name && metadata(path)?.is_some_and(|meta| meta.is_dir()))
}
