//! v0 → v1: `tools/NAME-VERSION` becomes `tools/NAME/VERSION`, with one rename per toolchain.
//!
//! Both layouts use the folder `tools`. The two forms differ, because a name contains no `-`.

use std::path::{Path, PathBuf};

use stoa_layout::{Direction, PathError};

use super::moving::{MoveStep, Plan};
use super::{scan, v0, v1};

pub(crate) fn step() -> MoveStep {
    MoveStep {
        from: v0::ID,
        to: v1::ID,
        description: "give each tool a folder of its own",
        plan,
        folders: |_| &["tools"],
        emptied,
    }
}

fn plan(root: &Path, direction: Direction) -> Result<Plan, PathError> {
    let (flat, nested) = (v0::scan(root)?, v1::scan(root)?);
    let moves = match direction {
        Direction::Up => flat.toolchains.iter().map(|each| (v0::place(each), v1::place(each))).collect(),
        Direction::Back => nested.toolchains.iter().map(|each| (v1::place(each), v0::place(each))).collect(),
    };
    Ok(Plan { moves, leftovers: [flat.beside, nested.inside].concat() })
}

/// On the way back, returns `tools/NAME` if there is a `tools/NAME-VERSION`. Other empty folders belong to the user.
fn emptied(root: &Path, direction: Direction) -> Result<Vec<PathBuf>, PathError> {
    if direction == Direction::Up {
        return Ok(Vec::new());
    }
    let back = v0::toolchains(root)?;
    let mut folders = scan::folders_of_tools(&root.join("tools"))?;
    folders.retain(|folder| back.iter().any(|toolchain| toolchain.name() == folder));
    Ok(folders.into_iter().map(|folder| Path::new("tools").join(folder)).collect())
}
