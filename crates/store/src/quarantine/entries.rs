//! Listing the quarantine of a store, open or not. Takes no lock and changes nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use stoa_layout::PathError;
use stoa_layout::error::PathContext;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CONTENT, Quarantined, read_reason};
use crate::StoreError;
use crate::files::{is_absent, metadata};
use crate::metadata::Metadata;
use crate::paths::Paths;

/// An entry of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineEntry {
    /// The name of the folder, which identifies the entry.
    pub id: OsString,
    /// The reason. `None` if `reason.toml` is missing or damaged.
    pub why: Option<Quarantined>,
    /// The size of the content in bytes. `None` if there is no content: the process that moves it in died or is
    /// still running.
    pub bytes: Option<u64>,
    /// The time of the move, or of the last change of the folder if the reason holds no time.
    pub since: SystemTime,
}

/// Visits every entry of the quarantine of a root, sorted by name and so by time.
pub fn each_quarantined<E: From<StoreError>>(
    root: &Path,
    mut visit: impl FnMut(QuarantineEntry) -> Result<(), E>,
) -> Result<(), E> {
    let quarantine = Paths::new(root).quarantine();
    for id in names(&quarantine).map_err(StoreError::from)? {
        if let Some(entry) = QuarantineEntry::read(&quarantine, &id).map_err(StoreError::from)? {
            visit(entry)?;
        }
    }
    Ok(())
}

fn names(quarantine: &Path) -> Result<Vec<OsString>, PathError> {
    if !metadata(quarantine)?.is_some_and(|meta| meta.is_dir()) {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(quarantine).at("list", quarantine)? {
        names.push(entry.at("list", quarantine)?.file_name());
    }
    names.sort();
    Ok(names)
}

impl QuarantineEntry {
    /// Reads an entry. `None` if the quarantine has no folder of this name.
    pub(super) fn read(quarantine: &Path, id: &OsStr) -> Result<Option<Self>, PathError> {
        let Some(path) = path_of(quarantine, id) else { return Ok(None) };
        let Some(meta) = metadata(&path)?.filter(Metadata::is_dir) else { return Ok(None) };
        let why = read_reason(&path);
        let stated = why.as_ref().and_then(|why| OffsetDateTime::parse(&why.at, &Rfc3339).ok());
        let since = match stated {
            Some(time) => time.into(),
            None => meta.modified().at("stat", &path)?,
        };
        Ok(Some(Self { id: id.to_owned(), why, bytes: size(&path.join(CONTENT))?, since }))
    }
}

/// Returns the path of an entry. `None` if the name leads out of the quarantine.
fn path_of(quarantine: &Path, id: &OsStr) -> Option<PathBuf> {
    let mut components = Path::new(id).components();
    let is_name = matches!(components.next(), Some(Component::Normal(name)) if name == id);
    (is_name && components.next().is_none()).then(|| quarantine.join(id))
}

/// Returns the size of all files below a path in bytes. `None` if nothing exists there. Files that are removed
/// meanwhile do not count.
fn size(content: &Path) -> Result<Option<u64>, PathError> {
    let mut bytes = None;
    let mut open = vec![content.to_owned()];
    while let Some(path) = open.pop() {
        let Some(meta) = metadata(&path)? else { continue };
        let bytes = bytes.get_or_insert(0);
        if !meta.is_dir() {
            *bytes += meta.len();
            continue;
        }
        match fs::read_dir(&path) {
            Err(error) if is_absent(&error) => {}
            entries => {
                for entry in entries.at("list", &path)? {
                    open.push(entry.at("list", &path)?.path());
                }
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_of_the_quarantine_is_no_entry() {
        let quarantine = Path::new("/s/quarantine");
        assert_eq!(path_of(quarantine, OsStr::new("a")), Some(quarantine.join("a")));
        for bad in ["", ".", "..", "/", "/a", "a/", "a/b", "../a", "a/..", "./a"] {
            assert_eq!(path_of(quarantine, OsStr::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn damaged_and_empty_entries_are_listed_too() {
        let dir = testkit::tempdir();
        let listed = || {
            let mut found = Vec::new();
            each_quarantined::<StoreError>(dir.path(), |entry| {
                found.push((entry.id.into_string().unwrap(), entry.why.is_some(), entry.bytes));
                Ok(())
            })
            .unwrap();
            found
        };
        assert!(listed().is_empty());
        let quarantine = dir.path().join("quarantine");
        let put = |path: &str, content: &str| {
            let path = quarantine.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let reason = "module = 'example.com/m'\nversion = 'v1.0.0'\npath = 'p'\nat = '2026-01-02T03:04:05Z'\nreason = 'r'\n";
        put("b/reason.toml", reason);
        put("b/version/zip", "1234");
        put("b/version/deeper/x", "5");
        put("a/reason.toml", "damaged");
        put("a/version", "12");
        put("c/reason.toml", reason);
        put("no-entry", "");
        let expected = [("a", false, Some(2)), ("b", true, Some(5)), ("c", true, None)];
        assert_eq!(listed(), expected.map(|(id, why, bytes)| (id.to_owned(), why, bytes)));
    }
}
