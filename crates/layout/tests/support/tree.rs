//! Pictures of trees, to compare them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stoa_layout::lock::LOCK_NAME;
use stoa_layout::marker::Marker;

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    /// Nanoseconds. Folders and symlinks have one only in a picture of everything.
    pub(crate) mtime: Option<i128>,
    /// A file's bytes, a symlink's target.
    pub(crate) content: Option<Vec<u8>>,
}

/// All names below a folder.
pub(crate) type Tree = BTreeMap<PathBuf, Entry>;

/// Returns a picture of everything, to show that nothing was changed.
pub(crate) fn everything(root: &Path) -> Tree {
    let mut tree = Tree::new();
    if root.exists() {
        tree.insert(PathBuf::new(), picture(root));
        add(root, Path::new(""), &mut tree);
    }
    tree
}

/// Returns a picture of names, modes, bytes, and times of files; of the marker only the name. The lock file is left out, because
/// it stays by design.
pub(crate) fn settled(root: &Path) -> Tree {
    let mut tree = everything(root);
    tree.remove(Path::new(""));
    tree.remove(Path::new(LOCK_NAME));
    for (path, entry) in &mut tree {
        if path.to_str().is_some_and(|name| Marker::parse(name).is_some()) {
            (entry.mtime, entry.content) = (None, None);
        } else if entry.mode & libc_type::MASK != libc_type::FILE {
            entry.mtime = None;
        }
    }
    tree
}

/// Returns the differences, one per line.
pub(crate) fn difference(left: &Tree, right: &Tree) -> String {
    let only = |a: &Tree, b: &Tree, sign: char| -> String {
        a.iter()
            .filter(|(path, entry)| b.get(*path) != Some(*entry))
            .map(|(path, entry)| {
                let content = entry.content.as_deref().map(String::from_utf8_lossy);
                format!("{sign} {} {:o} {:?} {content:?}\n", path.display(), entry.mode, entry.mtime)
            })
            .collect()
    };
    only(left, right, '-') + &only(right, left, '+')
}

/// The types of files, as in `st_mode`.
mod libc_type {
    pub(super) const MASK: u32 = 0o170_000;
    pub(super) const FILE: u32 = 0o100_000;
}

fn add(root: &Path, below: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let entry = picture(&root.join(&path));
        let is_folder = entry.content.is_none();
        tree.insert(path.clone(), entry);
        if is_folder {
            add(root, &path, tree);
        }
    }
}

fn picture(path: &Path) -> Entry {
    let meta = fs::symlink_metadata(path).unwrap();
    let content = if meta.is_dir() {
        None
    } else if meta.is_symlink() {
        Some(fs::read_link(path).unwrap().into_os_string().into_encoded_bytes())
    } else {
        Some(fs::read(path).unwrap())
    };
    let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Entry { mode: meta.permissions().mode(), mtime: Some(mtime), content }
}
