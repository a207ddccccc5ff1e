//! v1 → v2: `tools` becomes `toolchains`, and `settings` becomes `settings.toml`.
//!
//! Each toolchain is renamed separately, so that other files stay in `tools`.

use std::fs;
use std::path::{Path, PathBuf};

use stoa_layout::{Direction, PathError};

use super::moving::{MoveStep, Plan};
use super::{scan, v1, v2};

pub(crate) fn step() -> MoveStep {
    MoveStep {
        from: v1::ID,
        to: v2::ID,
        description: "keep toolchains apart from other tools, and settings as TOML",
        plan,
        folders: |direction| match direction {
            Direction::Up => &["toolchains"],
            Direction::Back => &["tools"],
        },
        emptied,
    }
}

fn plan(root: &Path, direction: Direction) -> Result<Plan, PathError> {
    let (old, new) = (v1::scan(root)?, v2::scan(root)?);
    let settings = (PathBuf::from("settings"), PathBuf::from("settings.toml"));
    let (found, mut moves, (from, to)) = match direction {
        Direction::Up => (old.toolchains, Vec::new(), settings),
        Direction::Back => (new.toolchains, Vec::new(), (settings.1, settings.0)),
    };
    for toolchain in &found {
        let (old, new) = (v1::place(toolchain), v2::place(toolchain));
        moves.push(if direction == Direction::Up { (old, new) } else { (new, old) });
    }
    if fs::symlink_metadata(root.join(&from)).is_ok_and(|meta| meta.is_file()) {
        moves.push((from, to));
    }
    Ok(Plan { moves, leftovers: [old.beside, old.inside, new.beside, new.inside].concat() })
}

/// Returns the folders of tools whose counterpart exists on the other side, then the folder around them.
fn emptied(root: &Path, direction: Direction) -> Result<Vec<PathBuf>, PathError> {
    let (left, other) = match direction {
        Direction::Up => (Path::new("tools"), Path::new("toolchains")),
        Direction::Back => (Path::new("toolchains"), Path::new("tools")),
    };
    let mut folders: Vec<PathBuf> = scan::folders_of_tools(&root.join(left))?
        .into_iter()
        .filter(|folder| root.join(other).join(folder).is_dir())
        .map(|folder| left.join(folder))
        .collect();
    folders.push(left.to_owned());
    Ok(folders)
}
