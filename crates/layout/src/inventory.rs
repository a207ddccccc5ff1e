//! What lies in a root, told item by item: for counting, and for the list of leftovers.
//!
//! A tool hands in one value that knows all its layouts ([`crate::Layouts::inventory`]). It looks at the tree
//! as it is, at rest or in the middle of a step, keeps no list, and changes nothing.
//!
//! A tool may also know folders of others that it copies items from and never takes over ([`Source`]).

use std::fmt::Arguments;
use std::path::{Path, PathBuf};

use crate::State;
use crate::events::Leftover;
use crate::step::{Refusal, StepError};

/// One thing that lies in a root.
#[derive(Debug)]
pub enum Found<'a> {
    /// A whole item. One in the middle of a step, be it at both sides, is told once.
    Whole {
        /// What the tool calls it.
        name: Arguments<'a>,
        /// Those of its files that are there: the role of each, and where it lies now.
        files: &'a [(&'static str, &'a Path)],
        /// The size of its files.
        bytes: u64,
        /// Whether it is the first that is told of its group, for counting groups. In the middle of a step a
        /// group may be told once a side.
        is_first_of_group: bool,
    },
    /// Something that is of no whole item.
    Leftover {
        /// Where, how large, why.
        leftover: &'a Leftover,
        /// What must be renamed to take it away, and nothing else with it: the files of an incomplete item
        /// may share a folder with what is whole.
        pieces: &'a [PathBuf],
    },
    /// Something that is of no whole item and belongs where it lies, in a folder of others.
    Aside {
        /// Where, how large, why.
        leftover: &'a Leftover,
    },
}

/// Takes what an inventory finds; an error of its own ends the look.
pub type Visit<'a> = dyn FnMut(Found<'_>) -> Result<(), StepError> + 'a;

/// Knows what lies in a root, for every layout and every step of a tool.
pub trait Inventory: Sync {
    /// Tells everything, streamed. What vanishes meanwhile is no error.
    fn take(&self, root: &Path, state: &State, visit: &mut Visit<'_>) -> Result<(), StepError>;
    /// Says what forbids to take anything away from a root in this state.
    fn forbids_moving(&self, root: &Path, state: &State) -> Option<Refusal>;
}

/// Knows folders of others, which items are copied from.
pub trait Source: Sync {
    /// Is the folder to read, if this one is known, or holds one that is; what [`State`] says of it is at hand.
    fn find(&self, folder: &Path, state: &State) -> Result<Option<PathBuf>, StepError>;
    /// Tells everything that lies in a folder that was found, streamed. What vanishes meanwhile is no error.
    fn take(&self, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError>;
}
