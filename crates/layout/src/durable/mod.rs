//! All writes to the disk.
//!
//! `clippy.toml` forbids other ways to write. Every operation here is either atomic (a rename, an unlink) or creates
//! something that no program relies on yet (a temporary file, an empty folder). A visible change always has four parts:
//! write the complete file beside its place, sync it, rename it, sync the folder.
//!
//! A process that runs as root gives new files to the owner and group of the store's root. An upgrade by a package's
//! post-install step therefore does not lock out the service, which runs as another user. New files below a root have the
//! modes of the root (see `access`).
#![expect(clippy::disallowed_methods, reason = "the module through which all writes go")]

mod access;
mod barrier;
mod copy;
mod folder;
mod log;
mod names;
mod owned;
mod piecewise;
mod root;
mod space;

pub use barrier::{FileSystem, GrowingFile, sync_dir, sync_file, sync_file_system};
pub use copy::{CopyError, clone_or_copy};
pub use folder::Folder;
pub use log::open_log;
pub use names::{
    remove_empty_dir, remove_file, remove_tree, remove_tree_but_folders, rename, rename_at_once,
    rename_noreplace, set_modified, touch,
};
pub use owned::{Appended, Durable, is_executable};
pub use piecewise::is_unmovable_dir;
pub use root::{Created, create_folder, create_root};
pub use space::{allocate, cut};
