//! The cache: answers of upstreams and of checksum databases. It may be lost at any time.
//!
//! ```text
//! cache/SHELF/HH/HASH      one entry; HH and HASH are the SHA-256 of its key
//!
//! stoa-cache 1             the content of an entry: four lines, then the body
//! KEY
//! NANOSECONDS              the time of the answer, since 1970
//! SHA-256                  of the two lines above and the body
//! BODY
//! ```
//!
//! An entry is written in staging and renamed to its place, so readers never see half an entry, and the next start
//! removes what a killed process left. Nothing is synced. After a power failure a file may be empty, cut or full of
//! zeros, so an entry counts only if its hash matches. An entry under another key, a file larger than any entry and
//! anything but a regular file are ignored.
//!
//! **Bounds.** Each shelf has 256 folders, and each folder holds up to a number of entries and bytes. A writer checks
//! its folder after every 32 writes and removes the oldest entries. An answer that is requested again is written
//! again, so the oldest entries are the unused ones. Tiles are bounded only by the size of their database.
//!
//! A read-only store reads the cache and adds nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use stoa_layout::PathError;
use stoa_layout::durable;
use stoa_layout::error::PathContext;

use crate::files::{database_folder, list, lock, metadata, open_file};
use crate::{Store, StoreError, staging};

/// A part of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf<'n> {
    /// Answers of upstreams to requests for lists, latest versions and queries.
    Answers,
    /// The state of a bucket, by its URL.
    Bucket,
    /// Records and tree heads of the checksum database of this name.
    Records(&'n str),
    /// Tiles of the checksum database of this name.
    Tiles(&'n str),
}

/// An entry of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// The time of the answer.
    pub at: SystemTime,
    /// The body.
    pub body: Bytes,
}

/// The maximum size of a body in bytes. Larger bodies are not cached.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The maximum size of the lines before the body in bytes.
const MAX_HEAD_BYTES: u64 = 16 << 10;

/// The number of folders of a shelf.
const BUCKETS: u64 = 256;

/// The number of writes to a folder between two checks of its size.
const WRITES_BETWEEN_LOOKS: u32 = 32;

const MAGIC: &str = "stoa-cache 1";

/// The maximum content of one folder of a shelf.
#[derive(Debug, Clone, Copy)]
struct Bound {
    entries: usize,
    bytes: u64,
}

impl Shelf<'_> {
    /// Returns the folder of the shelf, relative to `cache`.
    fn folder(self) -> String {
        match self {
            Self::Answers => "answers".to_owned(),
            Self::Bucket => "bucket".to_owned(),
            Self::Records(name) => format!("{SUMDB}/{}/records", database_folder(name)),
            Self::Tiles(name) => format!("{SUMDB}/{}/tiles", database_folder(name)),
        }
    }

    fn bound(self) -> Option<Bound> {
        match self {
            // In all 65,536 answers, and a quarter of a million records.
            Self::Answers => Some(Bound { entries: 256, bytes: (1 << 30) / BUCKETS }),
            Self::Records(_) => Some(Bound { entries: 1024, bytes: (1 << 30) / BUCKETS }),
            Self::Tiles(_) | Self::Bucket => None,
        }
    }
}

const SUMDB: &str = "sumdb";

/// The number of writes to each folder of the cache since the last check of its size.
#[derive(Debug, Default)]
pub(crate) struct Writes(Mutex<HashMap<PathBuf, u32>>);

impl Writes {
    /// Counts a write to a folder, and returns whether to check the size of the folder.
    fn count(&self, folder: &Path) -> bool {
        let mut writes = lock(&self.0);
        let Some(count) = writes.get_mut(folder) else {
            writes.insert(folder.to_owned(), 0);
            return true;
        };
        *count += 1;
        let is_time = *count >= WRITES_BETWEEN_LOOKS;
        if is_time {
            *count = 0;
        }
        is_time
    }
}

/// The cache of a store.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a>(&'a Store);

impl Store {
    /// Returns the cache of the store.
    pub fn cache(&self) -> Cache<'_> {
        Cache(self)
    }
}

impl Cache<'_> {
    /// Returns an entry. `None` if there is no entry, or if it is damaged.
    pub fn get(&self, shelf: Shelf<'_>, key: &str) -> Option<Cached> {
        let path = self.path(shelf, key);
        match read(&path, key) {
            Ok(entry) => entry,
            Err(error) => {
                log::debug!(reason:% = error; "cannot read the cache");
                None
            }
        }
    }

    /// Stores an entry and replaces an older entry with this key. Does nothing if the entry is too large.
    pub fn put(&self, shelf: Shelf<'_>, key: &str, entry: &Cached) -> Result<(), StoreError> {
        if entry.body.len() > MAX_BODY_BYTES || key.contains('\n') {
            return Ok(());
        }
        let path = self.path(shelf, key);
        let folder = path.parent().unwrap_or(&path);
        self.0.staging()?.place_file(|staged| {
            staging::write_unsynced(&self.0.durable, staged, &encode(key, entry))?;
            place(self.0, staged, &path)
        })?;
        match shelf.bound() {
            Some(bound) if self.0.cache_writes.count(folder) => Ok(make_room(folder, bound)?),
            _ => Ok(()),
        }
    }

    /// Removes an entry, if it exists.
    pub fn remove(&self, shelf: Shelf<'_>, key: &str) -> Result<(), StoreError> {
        self.0.check_writable()?;
        let path = self.path(shelf, key);
        if !is_below(self.0, path.parent().unwrap_or(&path))? {
            return Ok(());
        }
        match durable::remove_file(&path) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns whether a shelf has any entry.
    pub fn has_any(&self, shelf: Shelf<'_>) -> bool {
        let folder = self.0.paths.cache().join(shelf.folder());
        let Ok(buckets) = fs::read_dir(folder) else { return false };
        buckets
            .flatten()
            .any(|bucket| fs::read_dir(bucket.path()).is_ok_and(|mut entries| entries.next().is_some()))
    }

    /// Returns the names of the checksum databases that have records in the cache, sorted.
    pub fn databases(&self) -> Vec<String> {
        let Ok(folders) = fs::read_dir(self.0.paths.cache().join(SUMDB)) else { return Vec::new() };
        let mut names: Vec<String> = folders
            .flatten()
            .filter_map(|folder| {
                let name = folder.file_name().into_string().ok()?;
                let name = percent_decode_str(&name).decode_utf8().ok()?.into_owned();
                self.has_any(Shelf::Records(&name)).then_some(name)
            })
            .collect();
        names.sort();
        names
    }

    fn path(&self, shelf: Shelf<'_>, key: &str) -> PathBuf {
        let hash = hex(&Sha256::digest(key));
        let (bucket, name) = hash.split_at(2);
        self.0.paths.cache().join(shelf.folder()).join(bucket).join(name)
    }
}

/// Renames a finished file to its place in the cache. Creates missing folders and removes a folder in its place.
pub(crate) fn place(store: &Store, fresh: &Path, path: &Path) -> Result<(), PathError> {
    use rustix::io::Errno;
    let folder = path.parent().unwrap_or(path);
    let relative = folder.strip_prefix(store.root()).unwrap_or(folder);
    // Before each rename, because a symlink on the way would lead it out of the store.
    let make = || store.durable.ensure_dirs_unsynced(store.root(), relative).map(drop);
    make()?;
    let error = match durable::rename(fresh, path) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match error.errno() {
        // Another process has removed the empty folder.
        Some(Errno::NOENT) => make()?,
        // A person put a folder in the place of an entry. Everything in the cache may be removed.
        Some(Errno::ISDIR) => durable::remove_tree(path)?,
        _ => return Err(error),
    }
    durable::rename(fresh, path)
}

/// Returns whether a folder of the cache exists. A symlink in its place or on the way is an error.
pub(crate) fn is_below(store: &Store, folder: &Path) -> Result<bool, PathError> {
    match durable::Folder::open(store.root(), folder.strip_prefix(store.root()).unwrap_or(folder)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn encode(key: &str, entry: &Cached) -> Vec<u8> {
    let nanoseconds = entry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let head = format!("{key}\n{nanoseconds}\n");
    let mut file = format!("{MAGIC}\n{head}{}\n", digest(&head, &entry.body)).into_bytes();
    file.extend_from_slice(&entry.body);
    file
}

fn read(path: &Path, key: &str) -> Result<Option<Cached>, PathError> {
    let Some((file, meta)) = open_file(path)? else { return Ok(None) };
    if meta.len() > MAX_BODY_BYTES as u64 + MAX_HEAD_BYTES {
        return Ok(None);
    }
    let mut text = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default());
    file.take(meta.len()).read_to_end(&mut text).at("read", path)?;
    Ok(decode(Bytes::from(text), key))
}

/// Parses an entry. `None` if it is damaged or has another key.
fn decode(file: Bytes, key: &str) -> Option<Cached> {
    let mut end = 0;
    let mut line = || {
        let begin = end;
        end += file.get(begin..)?.iter().position(|&byte| byte == b'\n')? + 1;
        std::str::from_utf8(&file[begin..end - 1]).ok()
    };
    if line()? != MAGIC || line()? != key {
        return None;
    }
    let nanoseconds = line()?;
    let hash = line()?;
    let body = file.slice(end..);
    if hash != digest(&format!("{key}\n{nanoseconds}\n"), &body) {
        return None;
    }
    let at = UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds.parse().ok()?))?;
    Some(Cached { at, body })
}

fn digest(head: &str, body: &[u8]) -> String {
    hex(&Sha256::new().chain_update(head).chain_update(body).finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Removes the oldest files of a folder that exceeds its bound, down to 7/8 of the bound.
fn make_room(folder: &Path, bound: Bound) -> Result<(), PathError> {
    let files = dated_files(folder, |name| is_hex(name, 62))?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    if files.len() > bound.entries || bytes > bound.bytes {
        let is_enough = |left, bytes| left <= bound.entries / 8 * 7 && bytes <= bound.bytes / 8 * 7;
        remove_oldest(files, bytes, is_enough)?;
    }
    Ok(())
}

/// A file with the time of its last use, which is the first key of its order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DatedFile {
    pub(crate) at: SystemTime,
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
}

/// Returns whether a name is a number of hexadecimal digits, as [`hex`] writes them.
pub(crate) fn is_hex(name: &str, digits: usize) -> bool {
    name.len() == digits && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the files of a folder with a name of the cache. Others were put there by a person. A missing folder has none.
pub(crate) fn dated_files(
    folder: &Path,
    is_ours: impl Fn(&str) -> bool,
) -> Result<Vec<DatedFile>, PathError> {
    let mut files = Vec::new();
    for path in list(folder)? {
        if !path.file_name().and_then(|name| name.to_str()).is_some_and(&is_ours) {
            continue;
        }
        // A file that was removed since takes no space.
        let Some(meta) = metadata(&path)?.filter(|meta| !meta.is_dir()) else { continue };
        files.push(DatedFile { at: meta.modified().unwrap_or(UNIX_EPOCH), bytes: meta.len(), path });
    }
    Ok(files)
}

/// Removes the oldest files, and folders that become empty, until the number and the size of the rest are enough. `bytes` is the size of all files.
/// Returns the size of the rest.
pub(crate) fn remove_oldest(
    mut files: Vec<DatedFile>,
    mut bytes: u64,
    is_enough: impl Fn(usize, u64) -> bool,
) -> Result<u64, PathError> {
    files.sort();
    let count = files.len();
    for (removed, file) in files.into_iter().enumerate() {
        if is_enough(count - removed, bytes) {
            break;
        }
        match durable::remove_file(&file.path) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => bytes = bytes.saturating_sub(file.bytes),
        }
        if let Some(folder) = file.path.parent() {
            durable::remove_empty_dir(folder)?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use stoa_layout::gate::Mode;

    use super::*;
    use crate::testing::{Fixture, damages, open, staged};

    fn entry(body: &str) -> Cached {
        let at = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        Cached { at, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn an_entry_is_found_until_it_is_removed() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        assert_eq!(store.cache().get(Shelf::Answers, "a"), None);
        store.cache().put(Shelf::Answers, "a", &entry("one\n\ntwo")).unwrap();
        store.cache().put(Shelf::Answers, "b", &entry("")).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "a"), Some(entry("one\n\ntwo")));
        assert_eq!(store.cache().get(Shelf::Answers, "b"), Some(entry("")));
        assert_eq!(store.cache().get(Shelf::Records("sum.example"), "a"), None);
        store.cache().put(Shelf::Answers, "a", &entry("three")).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "a"), Some(entry("three")));
        store.cache().remove(Shelf::Answers, "a").unwrap();
        store.cache().remove(Shelf::Answers, "a").unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "a"), None);
        assert_eq!(staged(fixture.dir.path()), Vec::<String>::new());
    }

    #[test]
    fn databases_with_records_are_listed() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        for name in ["sum.example/sub", "..", "db.example"] {
            assert!(!store.cache().has_any(Shelf::Records(name)));
            store.cache().put(Shelf::Records(name), "k", &entry("x")).unwrap();
            assert!(store.cache().has_any(Shelf::Records(name)), "{name}");
        }
        store.cache().put(Shelf::Tiles("tiles.example"), "k", &entry("x")).unwrap();
        assert_eq!(store.cache().databases(), ["..", "db.example", "sum.example/sub"]);
        let mut below: Vec<_> = fs::read_dir(fixture.dir.path().join("cache/sumdb"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        below.sort();
        assert_eq!(below, ["%2E.", "db.example", "sum.example%2Fsub", "tiles.example"]);
    }

    #[test]
    fn a_damaged_entry_counts_as_absent_and_can_be_replaced() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        let (good, path) = (entry("v1.0.0\n"), store.cache().path(Shelf::Answers, "k"));
        store.cache().put(Shelf::Answers, "k", &good).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut damages = damages(&whole);
        damages.push(vec![b'x'; MAX_BODY_BYTES + MAX_HEAD_BYTES as usize + 1]);
        for damage in damages {
            fs::write(&path, &damage).unwrap();
            assert_eq!(
                store.cache().get(Shelf::Answers, "k"),
                None,
                "{:?}",
                String::from_utf8_lossy(&damage)
            );
        }
        let elsewhere = store.cache().path(Shelf::Answers, "other");
        fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
        fs::write(&elsewhere, &whole).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "other"), None, "an entry under another key");
        store.cache().put(Shelf::Answers, "k", &good).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "k"), Some(good));
    }

    #[test]
    fn anything_but_a_file_counts_as_absent_and_can_be_replaced() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        let (good, path) = (entry("v1.0.0\n"), store.cache().path(Shelf::Answers, "k"));
        store.cache().put(Shelf::Answers, "k", &good).unwrap();
        let elsewhere = fixture.dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "k"), None, "a symlink");
        store.cache().put(Shelf::Answers, "k", &good).unwrap();
        assert!(elsewhere.is_file() && store.cache().get(Shelf::Answers, "k").is_some());
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("deeper")).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "k"), None, "a folder");
        store.cache().put(Shelf::Answers, "k", &good).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "k"), Some(good.clone()));
        fs::remove_dir_all(fixture.dir.path().join("cache")).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "k"), None, "nothing");
        store.cache().put(Shelf::Answers, "k", &good).unwrap();
        assert_eq!(store.cache().get(Shelf::Answers, "k"), Some(good));
    }

    #[test]
    fn nothing_is_written_or_removed_through_a_symlink() {
        let fixture = Fixture::new();
        let (store, elsewhere) = (&fixture.store, testkit::tempdir());
        let path = store.cache().path(Shelf::Answers, "k");
        let name = path.file_name().unwrap();
        let bucket = path.parent().unwrap();
        let precious = elsewhere.path().join(bucket.file_name().unwrap()).join(name);
        fs::create_dir(precious.parent().unwrap()).unwrap();
        for (link, target) in
            [(bucket, precious.parent().unwrap()), (bucket.parent().unwrap(), elsewhere.path())]
        {
            fs::write(&precious, "precious").unwrap();
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            let _ = fs::remove_dir_all(link);
            symlink(target, link).unwrap();
            for failed in [
                store.cache().put(Shelf::Answers, "k", &entry("x")),
                store.cache().remove(Shelf::Answers, "k"),
            ] {
                let failed = failed.unwrap_err();
                assert!(
                    matches!(&failed, StoreError::Path(error) if error.is_symlink_on_the_way()),
                    "{failed}"
                );
            }
            assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
            fs::remove_file(link).unwrap();
        }
        assert_eq!(staged(fixture.dir.path()), Vec::<String>::new());
    }

    #[test]
    fn a_read_only_store_reads_the_cache_and_changes_nothing() {
        let fixture = Fixture::new();
        fixture.store.cache().put(Shelf::Answers, "k", &entry("x")).unwrap();
        let store = open(fixture.dir.path(), Mode::ReadOnly);
        assert_eq!(store.cache().get(Shelf::Answers, "k"), Some(entry("x")));
        assert!(matches!(store.cache().put(Shelf::Answers, "k", &entry("y")), Err(StoreError::ReadOnly(_))));
        assert!(matches!(store.cache().remove(Shelf::Answers, "k"), Err(StoreError::ReadOnly(_))));
        assert_eq!(store.cache().get(Shelf::Answers, "k"), Some(entry("x")));
    }

    #[test]
    fn the_oldest_entries_are_removed_first() {
        let dir = testkit::tempdir();
        let put = |name: &str, age: u64, bytes: usize| {
            let path = dir.path().join(format!("{name:0>62}"));
            fs::write(&path, vec![0; bytes]).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        let names = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "notes.txt")
                .map(|name| name[61..].to_owned())
                .collect();
            names.sort();
            names
        };
        let foreign = dir.path().join("notes.txt");
        fs::write(&foreign, vec![0; 1000]).unwrap();
        for age in 0..10 {
            put(&format!("{age}"), 100 * age, 10);
        }
        make_room(dir.path(), Bound { entries: 10, bytes: 100 }).unwrap();
        assert_eq!(names().len(), 10);
        make_room(dir.path(), Bound { entries: 8, bytes: 100 }).unwrap();
        assert_eq!(names(), ["0", "1", "2", "3", "4", "5", "6"]);
        put("a", 1, 100);
        make_room(dir.path(), Bound { entries: 80, bytes: 160 }).unwrap();
        assert_eq!(names(), ["0", "1", "2", "3", "a"]);
        assert!(foreign.exists());
        make_room(&dir.path().join("none"), Bound { entries: 1, bytes: 1 }).unwrap();
    }

    #[test]
    fn the_size_of_a_shelf_is_bounded() {
        let fixture = Fixture::new();
        let (store, bound) = (&fixture.store, Shelf::Answers.bound().unwrap());
        // All of one folder, which is what is bounded.
        let keys: Vec<String> = (0..)
            .map(|n| n.to_string())
            .filter(|key| hex(&Sha256::digest(key)).starts_with("00"))
            .take(bound.entries + 2 * WRITES_BETWEEN_LOOKS as usize)
            .collect();
        for key in &keys {
            store.cache().put(Shelf::Answers, key, &entry("x")).unwrap();
        }
        let held = fs::read_dir(fixture.dir.path().join("cache/answers/00")).unwrap().count();
        assert!(held <= bound.entries + WRITES_BETWEEN_LOOKS as usize, "{held}");
        assert!(store.cache().get(Shelf::Answers, keys.last().unwrap()).is_some());
    }

    #[test]
    fn a_body_that_is_too_large_is_not_cached() {
        let fixture = Fixture::new();
        let large = Cached { at: SystemTime::now(), body: vec![b'x'; MAX_BODY_BYTES + 1].into() };
        fixture.store.cache().put(Shelf::Answers, "k", &large).unwrap();
        assert_eq!(fixture.store.cache().get(Shelf::Answers, "k"), None);
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(key in "[ -~]{0,20}", nanoseconds in any::<u64>(), body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let entry = Cached { at: UNIX_EPOCH + Duration::from_nanos(nanoseconds), body: body.into() };
            prop_assert_eq!(decode(encode(&key, &entry).into(), &key), Some(entry));
        }

        #[test]
        fn arbitrary_bytes_are_never_an_entry(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(body.into(), "k"), None);
        }
    }
}
