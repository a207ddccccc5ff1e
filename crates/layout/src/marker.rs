//! The marker: a small file in the root. Its name is the state of the store.
//!
//! | name | meaning |
//! | --- | --- |
//! | `layout.vN` | the store is complete at layout N |
//! | `migrating.A-B` | the step from A to B has begun and not ended; `migrating.v2-v1` is a step back, `migrating.v2-v2` a regeneration |
//! | `creating.vN` | an empty store is being created |
//!
//! A store has exactly one marker. Every change is one rename under the exclusive lock; the first marker is a complete
//! and synced `.marker.*` temporary that is renamed. Only the name decides. The content is history, so damaged content
//! is a warning and never a refusal.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{self, Durable};
use crate::error::PathContext;
use crate::lock::{ExclusiveLock, LOCK_NAME};
use crate::{LayoutId, PathError};

pub use crate::clock::now;

/// The prefix of complete markers that are not yet renamed.
pub const TEMPORARY_PREFIX: &str = ".marker.";

/// A marker: the state of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Marker {
    /// `layout.vN`: the store is complete at this layout.
    At(LayoutId),
    /// `migrating.A-B`: the store is in the step from A to B.
    Migrating {
        /// The layout at which the step began.
        from: LayoutId,
        /// The layout at which it ends.
        to: LayoutId,
    },
    /// `creating.vN`: the store is being created.
    Creating(LayoutId),
}

impl Marker {
    /// Parses a file name. `None` if it is not the name of a marker.
    pub fn parse(name: &str) -> Option<Self> {
        let (form, rest) = name.split_once('.')?;
        let numbered = || LayoutId::parse(rest).ok().filter(LayoutId::is_numbered);
        match form {
            "layout" => numbered().map(Self::At),
            "creating" => numbered().map(Self::Creating),
            "migrating" => {
                let (from, to) = rest.split_once('-')?;
                Some(Self::Migrating { from: LayoutId::parse(from).ok()?, to: LayoutId::parse(to).ok()? })
            }
            _ => None,
        }
    }

    /// Returns the path of the marker below a root.
    pub fn path(&self, root: &Path) -> PathBuf {
        root.join(self.to_string())
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(layout) => write!(f, "layout.{layout}"),
            Self::Migrating { from, to } => write!(f, "migrating.{from}-{to}"),
            Self::Creating(layout) => write!(f, "creating.{layout}"),
        }
    }
}

/// A folder whose markers do not say what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkersError {
    /// It has more than one marker.
    #[error(
        "cannot use {root}: it has {} markers instead of one: {}; nothing was changed\n\
         help: find out which marker is right and move the others out of {root} (a copied or restored backup is the usual cause)",
        markers.len(), list(markers), root = root.display()
    )]
    Several {
        /// The root.
        root: PathBuf,
        /// The markers, sorted.
        markers: Vec<Marker>,
    },
    /// The name of a marker is not a file.
    #[error(
        "cannot use {root}: {} has the name of a marker and is not a file; nothing was changed\nhelp: move it away",
        names.join(", "), root = root.display()
    )]
    Blocked {
        /// The root.
        root: PathBuf,
        /// The names.
        names: Vec<String>,
    },
}

fn list(markers: &[Marker]) -> String {
    let names: Vec<String> = markers.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// The names at the top of a root, by meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Top {
    /// The markers, sorted.
    pub markers: Vec<Marker>,
    /// Names of markers that are not files.
    pub blocked: Vec<String>,
    /// Whether the lock file exists.
    pub has_lock: bool,
    /// The first of the other names, sorted. Names that an empty root may contain are not among them.
    pub others: Vec<OsString>,
    /// Number of other names.
    pub others_count: u64,
}

/// Number of other names that a [`Top`] keeps, for messages.
const OTHERS_KEPT: usize = 5;

/// Names that file systems and desktops create. A root with only these names is empty.
const IGNORED: [&str; 2] = ["lost+found", ".DS_Store"];

impl Top {
    /// Reads the names in a root. `None` if the root does not exist.
    pub fn read(root: &Path) -> Result<Option<Self>, PathError> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                return Err(PathError::not_a_folder(root));
            }
            Err(error) => return Err(PathError::new("list", root, error)),
        };
        let mut top = Self::default();
        for entry in entries {
            let entry = entry.at("list", root)?;
            let name = entry.file_name();
            let text = name.to_str().unwrap_or_default();
            if text == LOCK_NAME {
                top.has_lock = true;
            } else if let Some(marker) = Marker::parse(text) {
                if entry.file_type().at("stat", &entry.path())?.is_file() {
                    top.markers.push(marker);
                } else {
                    top.blocked.push(text.to_owned());
                }
            } else if !IGNORED.contains(&text) && !text.starts_with(TEMPORARY_PREFIX) {
                top.others_count += 1;
                let at = top.others.partition_point(|other| *other < name);
                if at < OTHERS_KEPT {
                    top.others.insert(at, name);
                    top.others.truncate(OTHERS_KEPT);
                }
            }
        }
        top.markers.sort();
        top.blocked.sort();
        Ok(Some(top))
    }

    /// Returns whether the root is empty.
    pub fn is_empty(&self) -> bool {
        self.markers.is_empty() && self.blocked.is_empty() && self.others_count == 0
    }
}

/// The content of a marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The program that wrote the marker, with its version.
    pub written_by: String,
    /// The time of writing, RFC 3339 in UTC.
    pub written_at: String,
    /// The history of the store, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
}

/// A step that ended, the creation of the store, or the restoration of its marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The layout before; `empty` for a creation, `unmarked` for a restored marker.
    pub from: String,
    /// The layout after.
    pub to: String,
    /// The start of the step, RFC 3339 in UTC. For an interrupted step, its last resumption.
    pub started: String,
    /// The end of the step, RFC 3339 in UTC.
    pub finished: String,
    /// Items moved.
    #[serde(default)]
    pub moved: u64,
    /// Reported leftovers.
    #[serde(default)]
    pub leftovers: u64,
    /// Bytes of the moved items.
    #[serde(default)]
    pub bytes: u64,
}

impl HistoryEntry {
    /// Returns whether the layout changed. Creating a store and regenerating derived files do not count.
    pub fn is_migration(&self) -> bool {
        !["empty", "unmarked"].contains(&self.from.as_str()) && self.from != self.to
    }
}

impl Content {
    /// Returns content with an empty history.
    pub fn new(program: &str) -> Self {
        Self { written_by: program.to_owned(), written_at: now(), history: Vec::new() }
    }

    /// Reads the content of a marker. Damaged content is replaced by an empty history, with a warning.
    pub fn read(root: &Path, marker: &Marker, program: &str) -> (Self, Option<String>) {
        let path = marker.path(root);
        let damaged = |why: String| {
            let text =
                format!("cannot read the history in {}, starting a new history: {why}", path.display());
            (Self::new(program), Some(text))
        };
        match fs::read_to_string(&path) {
            Ok(text) => match toml::from_str(&text) {
                Ok(content) => (content, None),
                Err(error) => damaged(error.message().to_owned()),
            },
            Err(error) => damaged(error.to_string()),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        // The content is only strings and numbers, so TOML can express it.
        toml::to_string(self).unwrap_or_default().into_bytes()
    }
}

/// Writes the first marker of a store by renaming a complete and synced temporary.
pub fn write_first(lock: &ExclusiveLock, marker: &Marker, content: &Content) -> Result<(), PathError> {
    let root = lock.root();
    let temporary = lock.durable().temporary(root, TEMPORARY_PREFIX, &content.to_bytes())?;
    durable::rename_at_once(&temporary, &marker.path(root)).inspect_err(|_| {
        // The next holder of the lock sweeps the temporary if this fails too.
        let _ = durable::remove_file(&temporary);
    })?;
    durable::sync_dir(root)
}

/// Changes the state of a store: renames its marker, then syncs the root.
///
/// A failure to write the content is returned as a warning, because on a full disk only the rename must succeed.
pub fn change(
    lock: &ExclusiveLock,
    old: &Marker,
    new: &Marker,
    content: &Content,
) -> Result<Option<PathError>, PathError> {
    let root = lock.root();
    // The content is replaced under the old name, so the rename is the last change.
    let warning = replace_content(lock.durable(), root, old, content).err();
    if old != new {
        durable::rename_at_once(&old.path(root), &new.path(root))?;
    }
    durable::sync_dir(root)?;
    Ok(warning)
}

fn replace_content(
    durable: &Durable,
    root: &Path,
    marker: &Marker,
    content: &Content,
) -> Result<(), PathError> {
    durable.replace_file(&marker.path(root), TEMPORARY_PREFIX, &content.to_bytes())
}

/// Removes the marker of a store that went back to a layout without markers.
pub fn remove(lock: &ExclusiveLock, marker: &Marker) -> Result<(), PathError> {
    durable::remove_file(&marker.path(lock.root()))?;
    durable::sync_dir(lock.root())
}

/// Removes temporary markers that a killed process left behind.
pub fn sweep_temporaries(lock: &ExclusiveLock) -> Result<(), PathError> {
    let root = lock.root();
    for entry in fs::read_dir(root).at("list", root)? {
        let entry = entry.at("list", root)?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        if is_ours && entry.file_type().at("stat", &entry.path())?.is_file() {
            durable::remove_file(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_marker_is_parsed_from_its_name() {
        let v = LayoutId::numbered;
        for (name, marker) in [
            ("layout.v2", Some(Marker::At(v(2)))),
            ("creating.v2", Some(Marker::Creating(v(2)))),
            ("migrating.tree-v1", Some(Marker::Migrating { from: LayoutId::fixed("tree"), to: v(1) })),
            ("migrating.v2-v2", Some(Marker::Migrating { from: v(2), to: v(2) })),
            ("layout.tree", None),
            ("layout.v02", None),
            ("layout.v2.bak", None),
            ("layout.", None),
            ("migrating.v1", None),
            ("migrating.v1-v2-v3", None),
            ("layouts.v2", None),
        ] {
            assert_eq!(Marker::parse(name), marker, "{name}");
        }
    }

    #[test]
    fn names_at_the_top_are_sorted_by_meaning() {
        let dir = testkit::tempdir();
        assert_eq!(Top::read(&dir.path().join("missing")).unwrap(), None);
        for name in ["lost+found", ".DS_Store", "store.lock", ".marker.abc"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(Top::read(dir.path()).unwrap().unwrap().is_empty());
        fs::create_dir(dir.path().join("layout.v7")).unwrap();
        for name in ["layout.v1", "zeta", "alpha", "1", "2", "3", "4"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let top = Top::read(dir.path()).unwrap().unwrap();
        assert_eq!(top.markers, [Marker::At(LayoutId::numbered(1))]);
        assert_eq!(top.blocked, ["layout.v7"]);
        assert_eq!(
            (top.others_count, top.others),
            (6, ["1", "2", "3", "4", "alpha"].map(OsString::from).to_vec())
        );
    }

    #[test]
    fn damaged_content_is_a_warning() {
        let dir = testkit::tempdir();
        let marker = Marker::At(LayoutId::numbered(1));
        fs::write(marker.path(dir.path()), [0xff, 0, 1]).unwrap();
        let (content, warning) = Content::read(dir.path(), &marker, "p 1");
        assert_eq!(content.history, []);
        assert!(warning.unwrap().contains("layout.v1"));
    }

    proptest! {
        #[test]
        fn a_name_reads_back(form in 0..3, a in "[a-z][a-z0-9]{0,8}", n in 0u64..2000) {
            let id = LayoutId::parse(&a).unwrap();
            let marker = match form {
                0 => Marker::At(LayoutId::numbered(n)),
                1 => Marker::Creating(LayoutId::numbered(n)),
                _ => Marker::Migrating { from: id, to: LayoutId::numbered(n) },
            };
            prop_assert_eq!(Marker::parse(&marker.to_string()), Some(marker));
        }

        #[test]
        fn any_name_is_read_without_harm(name in "\\PC*") {
            let _ = Marker::parse(&name);
        }
    }
}
