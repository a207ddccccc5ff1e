//! A folder as a value, to see what changed in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One entry: what it is, its mode, when it was changed last, and its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub mode: u32,
    pub modified: (i64, i64),
    pub content: Vec<u8>,
}

/// Everything below a folder, the folder itself included.
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut tree = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let content = if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        };
        let modified = (meta.mtime(), meta.mtime_nsec());
        tree.insert(
            path.strip_prefix(root).unwrap().to_owned(),
            Entry { mode: meta.mode(), modified, content },
        );
    }
    tree
}

/// Names and contents alone, without what differs from run to run: times, the content of the marker, of the
/// lock and of the reserve, the lines of the audit log, the unique part of names in quarantine, when an answer in the cache was got or
/// a version was forbidden, and the index, the notes of last use and the queue of
/// the peers, whose bytes tell how they came to be.
pub fn shape(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    snapshot(root)
        .into_iter()
        .filter(|(path, _)| !path.starts_with("index") || path.iter().count() == 1)
        .filter(|(path, _)| !path.starts_with("cache/last-use") && !path.starts_with("cache/peers"))
        .map(|(path, entry)| {
            let top = path.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
            match top {
                "store.lock" => (path, Vec::new()),
                // It begins with its inode number.
                "staging" if path.ends_with("reserve/space") => (path, Vec::new()),
                "quarantine" => {
                    let below: PathBuf = path.iter().skip(2).collect();
                    let content = if below.ends_with("reason.toml") { Vec::new() } else { entry.content };
                    (Path::new("quarantine").join(below), content)
                }
                // A change that is repeated has two lines. A change never has none.
                "records" if path.ends_with("audit/current") => (path, acts(&entry.content)),
                "records" => {
                    let lines = entry.content.split_inclusive(|byte| *byte == b'\n');
                    (path, lines.filter(|line| !line.starts_with(b"at = ")).flatten().copied().collect())
                }
                "cache" => (path, cached_body(entry.content)),
                _ if top.starts_with("layout.") => (path, Vec::new()),
                _ => (path, entry.content),
            }
        })
        .collect()
}

/// Checks that each line of an audit log is whole, and returns nothing of them.
fn acts(log: &[u8]) -> Vec<u8> {
    for line in String::from_utf8_lossy(log).lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("whole lines");
        assert!(line["act"].is_string(), "{line}");
    }
    Vec::new()
}

/// Returns the body of an entry of the cache, without its time.
fn cached_body(entry: Vec<u8>) -> Vec<u8> {
    if !entry.starts_with(b"stoa-cache ") {
        return entry;
    }
    entry.splitn(5, |&byte| byte == b'\n').nth(4).expect("a whole entry of the cache").to_vec()
}

/// Returns the sorted names in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Copies a folder with what is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
