//! The one place that writes to the disk.
//!
//! `clippy.toml` closes the other doors. Every operation here is either atomic by itself (a rename, an
//! unlink) or makes something that nobody relies on yet (a temporary file, an empty folder). The way to
//! change what others see is always the same: make it whole beside, sync it, rename it, sync the folder.
//!
//! What is made below a store's root when run as root belongs to the root folder's owner and group, so that
//! an upgrade by a package's post-install step does not lock out the service that runs as somebody else.
#![expect(clippy::disallowed_methods, reason = "this is the module that the other doors lead to")]

mod barrier;
mod copy;
mod names;
mod owned;

pub use barrier::{FileSystem, sync_dir, sync_file, sync_file_system};
pub use copy::{CopyError, clone_or_copy};
pub use names::{
    remove_empty_dir, remove_file, remove_tree, rename, rename_at_once, rename_noreplace, set_modified, touch,
};
pub use owned::{Durable, create_root, is_executable};
