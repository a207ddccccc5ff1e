//! What may be lost at any time: answers of upstreams and of checksum databases.
//!
//! ```text
//! cache/SHELF/HH/HASH      one entry; HH and HASH are the SHA-256 of its key
//!
//! stoa-cache 1             what an entry is: four lines, and the body
//! KEY
//! NANOSECONDS              when the answer was got, since 1970
//! SHA-256                  of the two lines above and the body
//! BODY
//! ```
//!
//! An entry is written in staging and comes in by one rename, so no reader sees half of it and what a killed
//! process left is swept with the rest of staging. Nothing is synced: after a power cut a file may be empty,
//! cut or full of zeros, and it is believed only if its hash holds. Neither is anything believed that lies
//! under another key, that is larger than an answer may be, or that is no regular file.
//!
//! **Bounds.** Each shelf is 256 folders, and each of these holds so many entries and bytes at most: now and
//! then who writes into one looks at it and removes the oldest. What is asked for again is written again, so
//! the oldest are those that nobody wants. Tiles have no bound but the size of their database.
//!
//! Where the store may not be written to, nothing is kept; what is there is read.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};
use stoa_layout::PathError;
use stoa_layout::durable;
use stoa_layout::error::PathContext;

use crate::read::{is_absent, open_file};
use crate::{Store, StoreError, staging};

/// Where in the cache something lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf<'n> {
    /// Lists, latest versions and queries, as an upstream answered.
    Answers,
    /// Records and tree heads of the checksum database of this name.
    Records(&'n str),
    /// Tiles of the checksum database of this name.
    Tiles(&'n str),
}

/// An entry of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// When it was got.
    pub at: SystemTime,
    /// The body.
    pub body: Bytes,
}

/// The largest body that is kept: what is larger is not worth its place.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How much longer than its body a file may be.
const MAX_HEAD_BYTES: u64 = 16 << 10;

/// How many folders a shelf has.
const BUCKETS: u64 = 256;

/// How often a folder is written to between two looks at how much is in it.
const WRITES_BETWEEN_LOOKS: u32 = 32;

const MAGIC: &str = "stoa-cache 1";

/// Is what a name of a checksum database has in the name of a folder, besides letters and digits. A leading dot
/// is none of it.
const KEPT_IN_NAMES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');

/// How much one folder of a shelf may hold.
#[derive(Debug, Clone, Copy)]
struct Bound {
    entries: usize,
    bytes: u64,
}

impl Shelf<'_> {
    /// Is its folder below `cache`.
    fn folder(self) -> String {
        match self {
            Self::Answers => "answers".to_owned(),
            Self::Records(name) => format!("{SUMDB}/{}/records", folder_name(name)),
            Self::Tiles(name) => format!("{SUMDB}/{}/tiles", folder_name(name)),
        }
    }

    fn bound(self) -> Option<Bound> {
        match self {
            // 65 536 questions, a quarter of a million records.
            Self::Answers => Some(Bound { entries: 256, bytes: (1 << 30) / BUCKETS }),
            Self::Records(_) => Some(Bound { entries: 1024, bytes: (1 << 30) / BUCKETS }),
            Self::Tiles(_) => None,
        }
    }
}

const SUMDB: &str = "sumdb";

fn folder_name(database: &str) -> String {
    let encoded = utf8_percent_encode(database, KEPT_IN_NAMES).to_string();
    match encoded.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => encoded,
    }
}

/// What is remembered of the cache while a store is open: how often its folders were written to since somebody
/// looked at how much is in them.
#[derive(Debug, Default)]
pub(crate) struct Writes(Mutex<HashMap<PathBuf, u32>>);

impl Writes {
    /// Notes that a folder was written to, and says whether it is time to look at it.
    fn note(&self, folder: &Path) -> bool {
        let mut writes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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

impl Store {
    /// Finds an entry of the cache. `None` if there is none, or none that can be believed.
    pub fn cached(&self, shelf: Shelf<'_>, key: &str) -> Option<Cached> {
        let path = self.cached_at(shelf, key);
        match read(&path, key) {
            Ok(entry) => entry,
            Err(error) => {
                log::debug!("the cache is of no use: {error}");
                None
            }
        }
    }

    /// Keeps an entry in the cache, in place of the one of this key. What is too large is not kept.
    pub fn cache(&self, shelf: Shelf<'_>, key: &str, entry: &Cached) -> Result<(), StoreError> {
        if entry.body.len() > MAX_BODY_BYTES || key.contains('\n') {
            return Ok(());
        }
        let fresh = self.staging()?.fresh();
        let path = self.cached_at(shelf, key);
        let folder = path.parent().unwrap_or(&path);
        staging::write_unsynced(&self.durable, &fresh, &encode(key, entry))?;
        let placed = self.place_cached(&fresh, &path);
        if placed.is_err() {
            // Ours alone; if this fails too it is swept with the rest.
            let _ = durable::remove_file(&fresh);
        }
        placed?;
        match shelf.bound() {
            Some(bound) if self.cache_writes.note(folder) => Ok(make_room(folder, bound)?),
            _ => Ok(()),
        }
    }

    /// Drops an entry of the cache. One that is not there is no error.
    pub fn uncache(&self, shelf: Shelf<'_>, key: &str) -> Result<(), StoreError> {
        self.staging()?;
        match durable::remove_file(&self.cached_at(shelf, key)) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Says whether anything lies on a shelf.
    pub fn has_cached(&self, shelf: Shelf<'_>) -> bool {
        let folder = self.paths.cache().join(shelf.folder());
        let Ok(buckets) = fs::read_dir(folder) else { return false };
        buckets
            .flatten()
            .any(|bucket| fs::read_dir(bucket.path()).is_ok_and(|mut entries| entries.next().is_some()))
    }

    /// Lists the names of the checksum databases of which records are in the cache, sorted.
    pub fn cached_databases(&self) -> Vec<String> {
        let Ok(folders) = fs::read_dir(self.paths.cache().join(SUMDB)) else { return Vec::new() };
        let mut names: Vec<String> = folders
            .flatten()
            .filter_map(|folder| {
                let name = folder.file_name().into_string().ok()?;
                let name = percent_decode_str(&name).decode_utf8().ok()?.into_owned();
                self.has_cached(Shelf::Records(&name)).then_some(name)
            })
            .collect();
        names.sort();
        names
    }

    fn cached_at(&self, shelf: Shelf<'_>, key: &str) -> PathBuf {
        let hash = hex(&Sha256::digest(key));
        let (bucket, name) = hash.split_at(2);
        self.paths.cache().join(shelf.folder()).join(bucket).join(name)
    }

    /// Renames a finished file to its place, whatever of the way there is missing or in the way.
    fn place_cached(&self, fresh: &Path, path: &Path) -> Result<(), PathError> {
        use rustix::io::Errno;
        let error = match durable::rename(fresh, path) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.errno() {
            Some(Errno::NOENT) => {
                let folder = path.parent().unwrap_or(path);
                let relative = folder.strip_prefix(self.root()).unwrap_or(folder);
                self.durable.ensure_dirs_unsynced(self.root(), relative)?;
            }
            // A folder at the place of an entry was put there by hand, and whatever is in here may be lost.
            Some(Errno::ISDIR) => durable::remove_tree(path)?,
            _ => return Err(error),
        }
        durable::rename(fresh, path)
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

/// Reads an entry. `None` if it is not whole, or of another key.
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Removes the oldest files of a folder if it holds more than it should, and some more, so that there is room
/// for a while.
fn make_room(folder: &Path, bound: Bound) -> Result<(), PathError> {
    let mut files = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(PathError::new("list", folder, error)),
    };
    for entry in entries {
        let entry = entry.at("list", folder)?;
        // One that has gone since takes no room.
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_dir() {
            files.push((meta.modified().unwrap_or(UNIX_EPOCH), meta.len(), entry.path()));
        }
    }
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    let mut left = files.len();
    if left <= bound.entries && bytes <= bound.bytes {
        return Ok(());
    }
    files.sort();
    for (_, size, path) in files {
        if left <= bound.entries / 8 * 7 && bytes <= bound.bytes / 8 * 7 {
            break;
        }
        match durable::remove_file(&path) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {
                left -= 1;
                bytes -= size;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use stoa_layout::gate::Mode;

    use super::*;
    use crate::testing::{Fixture, open, staged};

    fn entry(body: &str) -> Cached {
        let at = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        Cached { at, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_dropped() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        assert_eq!(store.cached(Shelf::Answers, "a"), None);
        store.cache(Shelf::Answers, "a", &entry("one\n\ntwo")).unwrap();
        store.cache(Shelf::Answers, "b", &entry("")).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "a"), Some(entry("one\n\ntwo")));
        assert_eq!(store.cached(Shelf::Answers, "b"), Some(entry("")));
        assert_eq!(store.cached(Shelf::Records("sum.example"), "a"), None);
        store.cache(Shelf::Answers, "a", &entry("three")).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "a"), Some(entry("three")));
        store.uncache(Shelf::Answers, "a").unwrap();
        store.uncache(Shelf::Answers, "a").unwrap();
        assert_eq!(store.cached(Shelf::Answers, "a"), None);
        assert_eq!(staged(fixture.dir.path()), Vec::<String>::new());
    }

    #[test]
    fn databases_are_known_by_their_records() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        for name in ["sum.example/sub", "..", "db.example"] {
            assert!(!store.has_cached(Shelf::Records(name)));
            store.cache(Shelf::Records(name), "k", &entry("x")).unwrap();
            assert!(store.has_cached(Shelf::Records(name)), "{name}");
        }
        store.cache(Shelf::Tiles("tiles.example"), "k", &entry("x")).unwrap();
        assert_eq!(store.cached_databases(), ["..", "db.example", "sum.example/sub"]);
        let mut below: Vec<_> = fs::read_dir(fixture.dir.path().join("cache/sumdb"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        below.sort();
        assert_eq!(below, ["%2E.", "db.example", "sum.example%2Fsub", "tiles.example"]);
    }

    #[test]
    fn what_is_damaged_is_as_none_and_mended_by_the_next_one() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        let (good, path) = (entry("v1.0.0\n"), store.cached_at(Shelf::Answers, "k"));
        store.cache(Shelf::Answers, "k", &good).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut damages: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
        damages.extend((0..whole.len()).map(|at| {
            let mut turned = whole.clone();
            turned[at] ^= 1;
            turned
        }));
        damages.push(vec![0; whole.len()]);
        damages.push([whole.as_slice(), b"more"].concat());
        damages.push(vec![b'x'; MAX_BODY_BYTES + MAX_HEAD_BYTES as usize + 1]);
        for damage in damages {
            fs::write(&path, &damage).unwrap();
            assert_eq!(store.cached(Shelf::Answers, "k"), None, "{:?}", String::from_utf8_lossy(&damage));
        }
        let elsewhere = store.cached_at(Shelf::Answers, "other");
        fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
        fs::write(&elsewhere, &whole).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "other"), None, "the answer to another question");
        store.cache(Shelf::Answers, "k", &good).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "k"), Some(good));
    }

    #[test]
    fn what_is_no_file_is_as_none_and_gives_way() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        let (good, path) = (entry("v1.0.0\n"), store.cached_at(Shelf::Answers, "k"));
        store.cache(Shelf::Answers, "k", &good).unwrap();
        let elsewhere = fixture.dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "k"), None, "a symlink");
        store.cache(Shelf::Answers, "k", &good).unwrap();
        assert!(elsewhere.is_file() && store.cached(Shelf::Answers, "k").is_some());
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("deeper")).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "k"), None, "a folder");
        store.cache(Shelf::Answers, "k", &good).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "k"), Some(good.clone()));
        fs::remove_dir_all(fixture.dir.path().join("cache")).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "k"), None, "nothing");
        store.cache(Shelf::Answers, "k", &good).unwrap();
        assert_eq!(store.cached(Shelf::Answers, "k"), Some(good));
    }

    #[test]
    fn a_store_that_is_read_only_is_read_only() {
        let fixture = Fixture::new();
        fixture.store.cache(Shelf::Answers, "k", &entry("x")).unwrap();
        let store = open(fixture.dir.path(), Mode::ReadOnly);
        assert_eq!(store.cached(Shelf::Answers, "k"), Some(entry("x")));
        assert!(matches!(store.cache(Shelf::Answers, "k", &entry("y")), Err(StoreError::ReadOnly(_))));
        assert!(matches!(store.uncache(Shelf::Answers, "k"), Err(StoreError::ReadOnly(_))));
        assert_eq!(store.cached(Shelf::Answers, "k"), Some(entry("x")));
    }

    #[test]
    fn the_oldest_give_way() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, age: u64, bytes: usize| {
            let path = dir.path().join(name);
            fs::write(&path, vec![0; bytes]).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        let names = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for age in 0..10 {
            put(&format!("{age}"), 100 * age, 10);
        }
        make_room(dir.path(), Bound { entries: 10, bytes: 100 }).unwrap();
        assert_eq!(names().len(), 10);
        make_room(dir.path(), Bound { entries: 8, bytes: 100 }).unwrap();
        assert_eq!(names(), ["0", "1", "2", "3", "4", "5", "6"]);
        put("large", 1, 100);
        make_room(dir.path(), Bound { entries: 80, bytes: 160 }).unwrap();
        assert_eq!(names(), ["0", "1", "2", "3", "large"]);
        make_room(&dir.path().join("none"), Bound { entries: 1, bytes: 1 }).unwrap();
    }

    #[test]
    fn a_shelf_does_not_grow_without_end() {
        let fixture = Fixture::new();
        let (store, bound) = (&fixture.store, Shelf::Answers.bound().unwrap());
        // All of one folder, which is what is bounded.
        let keys: Vec<String> = (0..)
            .map(|n| n.to_string())
            .filter(|key| hex(&Sha256::digest(key)).starts_with("00"))
            .take(bound.entries + 2 * WRITES_BETWEEN_LOOKS as usize)
            .collect();
        for key in &keys {
            store.cache(Shelf::Answers, key, &entry("x")).unwrap();
        }
        let held = fs::read_dir(fixture.dir.path().join("cache/answers/00")).unwrap().count();
        assert!(held <= bound.entries + WRITES_BETWEEN_LOOKS as usize, "{held}");
        assert!(store.cached(Shelf::Answers, keys.last().unwrap()).is_some());
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let fixture = Fixture::new();
        let large = Cached { at: SystemTime::now(), body: vec![b'x'; MAX_BODY_BYTES + 1].into() };
        fixture.store.cache(Shelf::Answers, "k", &large).unwrap();
        assert_eq!(fixture.store.cached(Shelf::Answers, "k"), None);
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_written(key in "[ -~]{0,20}", nanoseconds in any::<u64>(), body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let entry = Cached { at: UNIX_EPOCH + Duration::from_nanos(nanoseconds), body: body.into() };
            prop_assert_eq!(decode(encode(&key, &entry).into(), &key), Some(entry));
        }

        #[test]
        fn any_bytes_get_an_answer(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(body.into(), "k"), None);
        }
    }
}
