//! Folders of other programs to import from: a GOPROXY file tree, and the go command's module cache, which is one.
//!
//! Both contain other files that belong there: lists, locks and hashes of the go command, tiles of the checksum database,
//! answers to queries for branches, and the go.mod of versions without a zip.

use std::path::{Path, PathBuf};

use stoa_layout::inventory::{self, Source, Visit};
use stoa_layout::{Leftover, State, StepError};

use crate::detect;
use crate::flat::{self, Flat};
use crate::inventory::{fault, report_whole};
use crate::picture::{Candidate, Finding, Picture};
use crate::whole;

/// Recognises trees.
pub(crate) struct Trees;

impl Source for Trees {
    fn find(&self, folder: &Path, state: &State) -> Result<Option<PathBuf>, StepError> {
        match state {
            State::Untagged(layout) if *layout == flat::TREE => Ok(Some(folder.to_owned())),
            State::Foreign(_) => detect::go_cache(folder),
            _ => Ok(None),
        }
    }

    fn take(&self, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let database = folder.join("sumdb");
        Flat::Tree.walk(folder, &mut |found| match found {
            Finding::Versions(versions) => versions.iter().try_for_each(|one| report(one, visit)),
            Finding::Leftover(leftover) if belongs_there(&leftover, &database) => Ok(()),
            Finding::Leftover(leftover) => {
                let pieces = [leftover.path.clone()];
                visit(inventory::Found::Leftover { leftover: &leftover, pieces: &pieces })
            }
        })
    }
}

fn report(one: &Candidate, visit: &mut Visit<'_>) -> Result<(), StepError> {
    let fault = match fault(one) {
        None => whole::fault(&one.version, &one.files)?,
        fault => fault,
    };
    let Some(fault) = fault else { return report_whole(one, None, false, visit) };
    let pieces = one.pieces()?;
    // The version may have vanished meanwhile.
    if pieces.is_empty() {
        return Ok(());
    }
    let leftover = one.leftover(fault)?;
    let [_, has_zip, _] = one.has;
    visit(if one.fault.is_none() && !has_zip {
        inventory::Found::Aside { leftover: &leftover }
    } else {
        inventory::Found::Leftover { leftover: &leftover, pieces: &pieces }
    })
}

/// The folder that marks a tree as an export of a store.
const EXPORTING: &str = ".stoa-export";

/// Returns whether a path belongs beside the versions of a tree or a module cache.
fn belongs_there(leftover: &Leftover, database: &Path) -> bool {
    const ENDINGS: [&str; 4] = ["lock", "ziphash", "partial", "tmp"];
    let path = &leftover.path;
    let in_versions = path.parent().is_some_and(|folder| folder.ends_with("@v"));
    let is_kept_beside = path.file_name().is_some_and(|name| name == "list")
        || path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
    in_versions && (is_kept_beside || leftover.reason.starts_with("alias:"))
        || path.file_name().is_some_and(|name| name == "@latest")
        || path.starts_with(database)
        || path.iter().any(|name| name == EXPORTING)
}
