//! The content of a store, item by item: for counting, and for the list of leftovers.
//!
//! A tool passes one value that knows all its layouts ([`crate::Layouts::inventory`]). The value reads the tree as
//! it is, at rest or in the middle of a step, streams what it finds, and changes nothing.
//!
//! A tool may also know folders of other programs. It copies items from them and never changes them ([`Source`]).

use std::fmt::Arguments;
use std::path::{Path, PathBuf};

use crate::State;
use crate::events::Leftover;
use crate::plan::Refusal;
use crate::step::StepError;

/// One thing in a store.
#[derive(Debug)]
pub enum Found<'a> {
    /// A whole item. An item in the middle of a step is reported once, even if both sides hold a part of it.
    Whole {
        /// The tool's name for it.
        name: Arguments<'a>,
        /// Its files that exist: their roles and their current paths.
        files: &'a [(&'static str, &'a Path)],
        /// The size of its files.
        bytes: u64,
        /// Whether it is the first reported item of its group, for counting groups. In the middle of a step each
        /// side may report a group once.
        is_first_of_group: bool,
    },
    /// A path that is no part of a whole item.
    Leftover {
        /// Its path, size and reason.
        leftover: &'a Leftover,
        /// The paths to rename in order to move it away and nothing else. The files of an incomplete item may
        /// share a folder with a whole item.
        pieces: &'a [PathBuf],
    },
    /// A path in a folder of another program that is no whole item and belongs there.
    Aside {
        /// Its path, size and reason.
        leftover: &'a Leftover,
    },
}

/// Receives what an inventory finds. An error ends the walk.
pub type Visit<'a> = dyn FnMut(Found<'_>) -> Result<(), StepError> + 'a;

/// Lists the content of a store at every layout and in every step of a tool.
pub trait Inventory: Sync {
    /// Streams everything. A path that vanishes meanwhile is no error.
    fn take(&self, root: &Path, state: &State, visit: &mut Visit<'_>) -> Result<(), StepError>;
    /// Returns the reason that forbids moving anything out of a store in this state.
    fn forbids_moving(&self, root: &Path, state: &State) -> Result<Option<Refusal>, StepError>;
}

/// Lists the items in a folder of another program.
pub trait Source: Sync {
    /// Returns the folder to read, if `folder` is a known folder or contains one. `state` is the state of `folder`.
    fn find(&self, folder: &Path, state: &State) -> Result<Option<PathBuf>, StepError>;
    /// Streams everything in a folder that [`Source::find`] returned. A path that vanishes meanwhile is no error.
    fn take(&self, folder: &Path, visit: &mut Visit<'_>) -> Result<(), StepError>;
}
