//! What is in quarantine: a look at any state of a store, without the lock, that changes nothing.

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
use crate::paths::Paths;
use crate::read::is_absent;

/// One entry of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name of its folder, by which it is restored and purged.
    pub id: OsString,
    /// What it is about. `None` if its `reason.toml` is missing, or is none.
    pub why: Option<Quarantined>,
    /// How many bytes it keeps. `None` if it keeps nothing: who was to move it in died, or is at it.
    pub bytes: Option<u64>,
    /// When it was put there; where the reason does not say, when the folder was changed last.
    pub since: SystemTime,
}

/// Hands out every entry of the quarantine of a root, sorted by name, which is by time.
pub fn each_quarantined<E: From<StoreError>>(
    root: &Path,
    mut found: impl FnMut(Entry) -> Result<(), E>,
) -> Result<(), E> {
    let quarantine = Paths::new(root).quarantine();
    for id in names(&quarantine).map_err(StoreError::from)? {
        if let Some(entry) = Entry::read(&quarantine, &id).map_err(StoreError::from)? {
            found(entry)?;
        }
    }
    Ok(())
}

fn names(quarantine: &Path) -> Result<Vec<OsString>, PathError> {
    let entries = match fs::symlink_metadata(quarantine) {
        Ok(meta) if meta.is_dir() => fs::read_dir(quarantine).at("list", quarantine)?,
        Err(error) if !is_absent(&error) => return Err(PathError::new("look at", quarantine, error)),
        _ => return Ok(Vec::new()),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.at("list", quarantine)?.file_name());
    }
    names.sort();
    Ok(names)
}

impl Entry {
    /// Reads an entry. `None` if there is none of that name: only a folder in the quarantine is one.
    pub(super) fn read(quarantine: &Path, id: &OsStr) -> Result<Option<Self>, PathError> {
        let Some(path) = path_of(quarantine, id) else { return Ok(None) };
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => meta,
            Err(error) if !is_absent(&error) => return Err(PathError::new("look at", path, error)),
            _ => return Ok(None),
        };
        let why = read_reason(&path);
        let told = why.as_ref().and_then(|why| OffsetDateTime::parse(&why.at, &Rfc3339).ok());
        let since = match told {
            Some(time) => time.into(),
            None => meta.modified().at("look at", &path)?,
        };
        Ok(Some(Self { id: id.to_owned(), why, bytes: size(&path.join(CONTENT))?, since }))
    }
}

/// Is the path of an entry. `None` if its name would lead anywhere else.
fn path_of(quarantine: &Path, id: &OsStr) -> Option<PathBuf> {
    let mut components = Path::new(id).components();
    let is_name = matches!(components.next(), Some(Component::Normal(name)) if name == id);
    (is_name && components.next().is_none()).then(|| quarantine.join(id))
}

/// Adds up the files of what is kept. `None` if nothing is there; what goes meanwhile does not count.
fn size(content: &Path) -> Result<Option<u64>, PathError> {
    let mut bytes = None;
    let mut open = vec![content.to_owned()];
    while let Some(path) = open.pop() {
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if is_absent(&error) => continue,
            meta => meta.at("look at", &path)?,
        };
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
    fn a_name_leads_nowhere_else() {
        let quarantine = Path::new("/s/quarantine");
        assert_eq!(path_of(quarantine, OsStr::new("a")), Some(quarantine.join("a")));
        for bad in ["", ".", "..", "/", "/a", "a/", "a/b", "../a", "a/..", "./a"] {
            assert_eq!(path_of(quarantine, OsStr::new(bad)), None, "{bad}");
        }
    }

    #[test]
    fn entries_are_listed_whatever_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
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
