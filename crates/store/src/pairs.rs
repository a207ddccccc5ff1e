//! Pairs: the info and the go.mod of versions whose zip was not downloaded. A part of the cache, so they may be lost at
//! any time.
//!
//! ```text
//! cache/pairs/HASH/VERSION  one pair; HASH is the SHA-256 of the module path, and VERSION is escaped
//!
//! stoa-pair 1               the content: six lines, then both files
//! MODULE@VERSION
//! TAG                       identifies the list of upstreams
//! ORIGIN                    the upstream that sent both files, without credentials
//! INFO-BYTES MOD-BYTES
//! SHA-256                   of the four lines above and both files
//! INFO MOD
//! ```
//!
//! A pair is written in staging under the claim of its version, and renamed to its place. Nothing is synced, so a pair
//! counts only if its hash matches. The hash is checked once for each state of the file (device, inode, change time). A
//! stored version always wins: readers look for it first.
//!
//! **Bound.** The total size is bounded, and files count in blocks of 4 KiB. A hit renews the time of a file that is
//! older than an hour, and a writer that finds too much removes the files with the oldest times. Its own pair stays, since
//! clients wait for it. Other processes write pairs, too. So a process counts the files on disk again after it has
//! written 1/16 of the bound.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quick_cache::Weighter;
use sha2::{Digest, Sha256};
use stoa_gomod::{H1, ModulePath, ModuleVersion, Version, h1};
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, durable};

use crate::cache::{dated_files, hex, is_below, is_hex, place, remove_oldest};
use crate::files::{SMALL_LIMIT, Stamp, list, lock, metadata, open_file};
use crate::list::has_settled;
use crate::metadata::Metadata;
use crate::read::ZipFile;
use crate::{Claim, Store, StoreError};

/// An info and a go.mod, as one upstream sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The tag of the list of upstreams.
    pub tag: String,
    /// The upstream that sent both files, without credentials.
    pub origin: String,
    /// The info.
    pub info: Bytes,
    /// The go.mod.
    pub modfile: Bytes,
}

/// A pair in the cache. Its go.mod is read on demand, since it may be large.
#[derive(Debug)]
pub struct CachedPair {
    /// The tag of the list of upstreams.
    pub tag: String,
    /// The upstream that sent both files, without credentials.
    pub origin: String,
    /// The info.
    pub info: Bytes,
    /// The SHA-256 of the go.mod.
    pub mod_sha256: [u8; 32],
    /// The place of the go.mod in the file.
    pub mod_range: Range<u64>,
    file: File,
    path: PathBuf,
    modified: SystemTime,
}

/// The pairs of a store.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a>(&'a Store);

/// The total size of the pairs, as far as this process knows. `None` before the first write.
#[derive(Debug, Default)]
pub(crate) struct KnownBytes(Mutex<Option<Counted>>);

#[derive(Debug, Clone, Copy)]
struct Counted {
    /// The total size.
    bytes: u64,
    /// The part that this process has written since it counted the files on disk.
    since: u64,
}

/// The content of a file whose hash matches, without its go.mod.
#[derive(Debug, Clone)]
pub(crate) struct KnownPair {
    version: ModuleVersion,
    tag: String,
    origin: String,
    info: Bytes,
    mod_sha256: [u8; 32],
    mod_range: Range<u64>,
}

/// Weighs a known pair in bytes of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairWeight;

impl Weighter<Stamp, KnownPair> for PairWeight {
    fn weight(&self, _: &Stamp, known: &KnownPair) -> u64 {
        known.info.len() as u64 + 512
    }
}

const MAGIC: &str = "stoa-pair 1\n";

/// The maximum size of the lines before the files in bytes.
const MAX_HEAD_BYTES: u64 = 16 << 10;

/// The unit in which files count.
const BLOCK: u64 = 4096;

/// A process counts the files on disk again after it has written this part of the bound.
const RECOUNTED_PART: u64 = 16;

/// The age from which a hit renews the time of a file.
const RENEWED_AFTER: Duration = Duration::from_secs(3600);

impl Store {
    /// Returns the pairs of the store.
    pub fn pairs(&self) -> Pairs<'_> {
        Pairs(self)
    }
}

impl CachedPair {
    /// Returns the hash of the go.mod.
    pub fn gomod_h1(&self) -> H1 {
        let mut builder = h1::Builder::new();
        // The name has no newline.
        let _ = builder.add("go.mod", self.mod_sha256);
        builder.finish()
    }

    /// Reads the go.mod.
    pub fn modfile(&self) -> Result<Bytes, StoreError> {
        let length = self.mod_range.end - self.mod_range.start;
        let mut body = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file.read_exact_at(&mut body, self.mod_range.start).at("read", &self.path)?;
        Ok(body.into())
    }

    /// Returns the file, to be read piece by piece. The go.mod is at [`mod_range`](Self::mod_range).
    pub fn into_file(self) -> ZipFile {
        ZipFile::unsealed(self.file, self.mod_range.end, self.modified)
    }
}

impl Pairs<'_> {
    /// Returns the pair of a version. `None` if there is no pair, or if it is damaged.
    pub fn get(&self, version: &ModuleVersion) -> Option<CachedPair> {
        let path = self.path(version);
        match self.read(&path, version) {
            Ok(pair) => {
                if let Some(pair) = &pair
                    && !self.0.is_read_only()
                    && pair.modified.elapsed().is_ok_and(|age| age > RENEWED_AFTER)
                {
                    // Without a new time the pair is only evicted earlier. A copy of the store may share the file.
                    if metadata(&path).is_ok_and(|meta| meta.is_some_and(|meta| meta.links == 1))
                        && is_below(self.0, &self.folder(version.path())).is_ok_and(|is_below| is_below)
                    {
                        let _ = durable::touch(&path);
                    }
                }
                pair
            }
            Err(error) => {
                log::debug!(reason:% = error; "cannot read the cache");
                None
            }
        }
    }

    /// Opens a pair. Its hash is checked only if the file is new or has changed.
    fn read(&self, path: &Path, version: &ModuleVersion) -> Result<Option<CachedPair>, PathError> {
        let Some((file, meta)) = open_file(path)? else { return Ok(None) };
        let (stamp, modified) = (Stamp::of(&meta), meta.modified().at("stat", path)?);
        let known = match self.0.known_pairs.get(&stamp) {
            Some(known) => Some(known).filter(|known| known.version == *version),
            None => {
                let read = read(&file, meta.len(), path, version)?;
                if let Some(known) = &read
                    && has_settled(modified)
                {
                    self.0.known_pairs.insert(stamp, known.clone());
                }
                read
            }
        };
        let pair = known.map(|KnownPair { tag, origin, info, mod_sha256, mod_range, .. }| CachedPair {
            tag,
            origin,
            info,
            mod_sha256,
            mod_range,
            path: path.to_owned(),
            modified,
            file,
        });
        Ok(pair)
    }

    /// Visits the versions that have a pair, until `visit` breaks. Reads the first lines of each pair.
    pub fn each(&self, mut visit: impl FnMut(ModuleVersion) -> ControlFlow<()>) -> Result<(), StoreError> {
        for folder in list(&self.root())? {
            for path in list(&folder)? {
                let Some(version) = version_of(&path)? else { continue };
                if visit(version).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Returns the size of the pair of a version in bytes. `None` if there is no pair.
    pub fn size(&self, version: &ModuleVersion) -> Result<Option<u64>, StoreError> {
        let meta = metadata(&self.path(version))?;
        Ok(meta.filter(Metadata::is_file).map(|meta| meta.len()))
    }

    /// Returns the versions of a module that have a pair, sorted.
    pub fn versions(&self, module: &ModulePath) -> Result<Vec<Version>, StoreError> {
        let folder = self.folder(module);
        let names = list(&folder)?;
        let name = |path: &PathBuf| Version::unescape(path.file_name()?.to_str()?).ok();
        let mut versions: Vec<_> = names.iter().filter_map(name).collect();
        versions.sort();
        Ok(versions)
    }

    /// Stores the pair of the claimed version and replaces an older pair. Removes the least recently used pairs if all
    /// pairs together exceed `max_bytes`. The new pair stays, even if it is larger.
    pub fn put(&self, claim: &Claim, pair: &Pair, max_bytes: u64) -> Result<(), StoreError> {
        let (version, store) = (claim.version(), self.0);
        let path = self.path(version);
        let head = encode(version, pair);
        store.staging()?.place_file(|staged| {
            let mut file = store.durable.create_file(staged)?;
            for part in [head.as_bytes(), &pair.info, &pair.modfile] {
                file.write_all(part).at("write", staged)?;
            }
            place(store, staged, &path)
        })?;
        let written = charged((head.len() + pair.info.len() + pair.modfile.len()) as u64);
        let mut known = lock(&store.pair_bytes.0);
        let counted =
            known.map(|Counted { bytes, since }| Counted { bytes: bytes + written, since: since + written });
        let is_counted =
            |counted: &Counted| counted.bytes <= max_bytes && counted.since <= max_bytes / RECOUNTED_PART;
        *known = Some(match counted.filter(is_counted) {
            Some(counted) => counted,
            None => Counted { bytes: self.make_room(max_bytes, &path)?, since: 0 },
        });
        Ok(())
    }

    /// Removes the pair of a version. Returns its size in bytes, or `None` if there was none.
    pub fn remove(&self, version: &ModuleVersion) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.size(version)? else { return Ok(None) };
        self.0.check_writable()?;
        if !is_below(self.0, &self.folder(version.path()))? {
            return Ok(None);
        }
        match durable::remove_file(&self.path(version)) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Some(bytes)),
        }
    }

    fn root(&self) -> PathBuf {
        self.0.paths.cache().join("pairs")
    }

    fn folder(&self, module: &ModulePath) -> PathBuf {
        self.root().join(hex(&Sha256::digest(module.as_str())))
    }

    fn path(&self, version: &ModuleVersion) -> PathBuf {
        self.folder(version.path()).join(version.version().escaped())
    }

    /// Removes the least recently used pairs except one until 7/8 of the bound is left. Returns the size of the rest.
    fn make_room(&self, max_bytes: u64, kept: &Path) -> Result<u64, StoreError> {
        let mut files = Vec::new();
        for folder in list(&self.root())? {
            let is_ours =
                folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_hex(name, 64));
            match is_below(self.0, &folder) {
                Ok(true) if is_ours => {
                    files.append(&mut dated_files(&folder, |name| Version::unescape(name).is_ok())?);
                }
                // Files that a symlink leads to belong to somebody else.
                Err(error) => log::debug!(reason:% = error; "cannot remove pairs from the cache"),
                Ok(_) => {}
            }
        }
        for file in &mut files {
            file.bytes = charged(file.bytes);
        }
        let bytes = files.iter().map(|file| file.bytes).sum();
        if bytes <= max_bytes {
            return Ok(bytes);
        }
        files.retain(|file| file.path != kept);
        Ok(remove_oldest(files, bytes, |_, bytes| bytes <= max_bytes / 8 * 7)?)
    }
}

fn charged(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// Returns the lines before the files.
fn encode(version: &ModuleVersion, Pair { tag, origin, info, modfile }: &Pair) -> String {
    let mut head =
        format!("{version}\n{tag}\n{}\n{} {}\n", origin.replace('\n', " "), info.len(), modfile.len());
    let hash = Sha256::new().chain_update(&head).chain_update(info).chain_update(modfile).finalize();
    let _ = writeln!(head, "{}", hex(&hash));
    format!("{MAGIC}{head}")
}

/// Returns the version that a pair names. `None` if the file is no pair.
fn version_of(path: &Path) -> Result<Option<ModuleVersion>, PathError> {
    let Some((file, _)) = open_file(path)? else { return Ok(None) };
    let mut head = Vec::new();
    let mut reader = BufReader::new(file.take(MAX_HEAD_BYTES));
    for _ in 0..2 {
        reader.read_until(b'\n', &mut head).at("read", path)?;
    }
    let name = std::str::from_utf8(&head).ok().and_then(|head| head.strip_prefix(MAGIC));
    Ok(name.and_then(|name| ModuleVersion::parse(name.trim_end()).ok()))
}

/// Reads and checks a pair, with bounded memory.
fn read(
    file: &File,
    length: u64,
    path: &Path,
    version: &ModuleVersion,
) -> Result<Option<KnownPair>, PathError> {
    let mut reader = BufReader::new(file);
    let mut at = 0;
    let mut line = || -> Result<Option<String>, PathError> {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_HEAD_BYTES).read_until(b'\n', &mut line).at("read", path)?;
        at += read as u64;
        Ok(String::from_utf8(line).ok().filter(|line| line.ends_with('\n')))
    };
    if line()?.as_deref() != Some(MAGIC) {
        return Ok(None);
    }
    let (Some(name), Some(tag), Some(origin), Some(lengths), Some(hash)) =
        (line()?, line()?, line()?, line()?, line()?)
    else {
        return Ok(None);
    };
    let Some((info_length, mod_length)) = lengths.trim_end().split_once(' ').and_then(|(info, modfile)| {
        let limited = |text: &str| text.parse().ok().filter(|length| *length <= SMALL_LIMIT);
        Some((limited(info)?, limited(modfile)?))
    }) else {
        return Ok(None);
    };
    if name.trim_end() != version.to_string() || length != at + info_length + mod_length {
        return Ok(None);
    }
    let mut whole =
        Sha256::new().chain_update(&name).chain_update(&tag).chain_update(&origin).chain_update(&lengths);
    let mut info = Vec::new();
    (&mut reader).take(info_length).read_to_end(&mut info).at("read", path)?;
    whole.update(&info);
    let mut of_mod = Sha256::new();
    loop {
        let piece = reader.fill_buf().at("read", path)?;
        if piece.is_empty() {
            break;
        }
        whole.update(piece);
        of_mod.update(piece);
        let read = piece.len();
        reader.consume(read);
    }
    if hash.trim_end() != hex(&whole.finalize()) {
        return Ok(None);
    }
    let start = at + info_length;
    let trimmed = |line: &str| line.trim_end_matches('\n').to_owned();
    Ok(Some(KnownPair {
        version: version.clone(),
        tag: trimmed(&tag),
        origin: trimmed(&origin),
        info: info.into(),
        mod_sha256: of_mod.finalize().into(),
        mod_range: start..start + mod_length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fixture, damages, info, modfile, put_unsealed, staged, version, zip};
    use crate::{Published, Restored};
    use std::fs;

    fn pair(version: &ModuleVersion) -> Pair {
        Pair {
            tag: "0123456789abcdef".to_owned(),
            origin: "https://proxy.example/".to_owned(),
            info: info(version).into(),
            modfile: modfile(version).into(),
        }
    }

    #[test]
    fn a_version_that_enters_the_store_has_no_pair() {
        let fixture = Fixture::new();
        let (store, v) = (&fixture.store, version("example.com/m@v1.0.0"));
        let bytes = zip(&v, "package m\n");
        put(&fixture, &v, 1 << 20);
        assert!(matches!(fixture.publish(&v, &bytes), Published::Ours(_)));
        assert!(store.pairs().get(&v).is_none(), "a fill");

        store.quarantine_version(&store.claim(&v).unwrap(), "for the test").unwrap();
        put(&fixture, &v, 1 << 20);
        let entry = fs::read_dir(fixture.dir.path().join("quarantine")).unwrap().next().unwrap().unwrap();
        let restored = store.quarantine().restore(&entry.file_name()).unwrap();
        assert!(matches!(restored, Restored::Done(_)), "{restored:?}");
        assert!(store.pairs().get(&v).is_none(), "a restore");

        store.remove(&store.claim(&v).unwrap(), None).unwrap();
        put(&fixture, &v, 1 << 20);
        let batch = store.batch().unwrap();
        let mut draft = store.draft(&v).unwrap();
        (&**draft.zip()).write_all(&bytes).unwrap();
        draft.set_mod(modfile(&v).as_bytes());
        let drafts = batch.settle(vec![draft.seal_unsynced(info(&v).as_bytes()).unwrap()]).unwrap();
        for draft in drafts {
            let claim = store.claim(&v).unwrap();
            assert!(matches!(batch.publish(draft, &claim).unwrap(), Published::Ours(_)));
        }
        batch.finish().unwrap();
        assert!(store.pairs().get(&v).is_none(), "an import");

        // Another process stored the version first.
        put(&fixture, &v, 1 << 20);
        assert_eq!(fixture.publish(&v, &bytes), Published::Theirs { same: true });
        assert!(store.pairs().get(&v).is_none(), "a version that was there before");
    }

    fn put(fixture: &Fixture, version: &ModuleVersion, max_bytes: u64) {
        let claim = fixture.store.claim(version).unwrap();
        fixture.store.pairs().put(&claim, &pair(version), max_bytes).unwrap();
    }

    #[test]
    fn a_pair_is_found_until_it_is_removed() {
        let fixture = Fixture::new();
        let v = version("example.com/Cap@v1.0.0-RC1");
        let pairs = fixture.store.pairs();
        assert!(pairs.get(&v).is_none());
        put(&fixture, &v, 1 << 20);
        put(&fixture, &v, 1 << 20);
        let (found, expected) = (pairs.get(&v).unwrap(), pair(&v));
        assert_eq!(
            (&found.tag, &found.origin, &found.info),
            (&expected.tag, &expected.origin, &expected.info)
        );
        assert_eq!(found.modfile().unwrap(), expected.modfile);
        assert_eq!(found.gomod_h1(), h1::hash_mod(&expected.modfile));
        assert_eq!(pairs.versions(v.path()).unwrap(), [v.version().clone()]);
        assert!(pairs.get(&version("example.com/Cap@v1.0.0")).is_none());
        assert!(pairs.remove(&v).unwrap().is_some());
        assert_eq!(pairs.remove(&v).unwrap(), None);
        assert!(pairs.get(&v).is_none() && staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn a_pair_goes_with_its_version() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put(&fixture, &v, 1 << 20);
        put_unsealed(&fixture.store, &v, b"no zip");
        assert_eq!(fixture.store.seal(&v).unwrap(), None);
        assert!(fixture.store.pairs().get(&v).is_none(), "the version is in quarantine");
        put(&fixture, &v, 1 << 20);
        let removed = fixture.store.remove(&fixture.store.claim(&v).unwrap(), None).unwrap();
        assert!(removed.bytes.is_some() && fixture.store.pairs().get(&v).is_none());
    }

    #[test]
    fn a_damaged_pair_counts_as_absent_and_can_be_replaced() {
        let fixture = Fixture::new();
        let v = version("example.com/m@v1.0.0");
        put(&fixture, &v, 1 << 20);
        let path = fixture.store.pairs().path(&v);
        let whole = fs::read(&path).unwrap();
        for damage in damages(&whole) {
            fs::write(&path, &damage).unwrap();
            assert!(fixture.store.pairs().get(&v).is_none(), "{:?}", String::from_utf8_lossy(&damage));
        }
        let other = version("example.com/m@v1.0.1");
        fs::write(fixture.store.pairs().path(&other), &whole).unwrap();
        assert!(fixture.store.pairs().get(&other).is_none(), "a pair under another name");
        put(&fixture, &v, 1 << 20);
        assert!(fixture.store.pairs().get(&v).is_some());
    }

    #[test]
    fn the_hash_of_a_pair_is_checked_once_for_each_state_of_its_file() {
        let fixture = Fixture::new();
        let (store, v) = (&fixture.store, version("example.com/m@v1.0.0"));
        put(&fixture, &v, 1 << 20);
        let path = store.pairs().path(&v);
        assert!(store.pairs().get(&v).is_some() && store.known_pairs.is_empty(), "it changed a moment ago");
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        let found = store.pairs().get(&v).unwrap();
        // A known pair is not read again, or the other origin would not be found here.
        let stamp = Stamp::of(&Metadata::of_file(&file).unwrap());
        let known = store.known_pairs.get(&stamp).unwrap();
        store.known_pairs.insert(stamp, KnownPair { origin: "from memory".to_owned(), ..known });
        let again = store.pairs().get(&v).unwrap();
        assert_eq!(
            (again.origin.as_str(), again.modfile().unwrap()),
            ("from memory", found.modfile().unwrap())
        );
        // Another version in the place of the file is not taken for it.
        let other = version("example.com/m@v1.0.1");
        fs::hard_link(&path, store.pairs().path(&other)).unwrap();
        assert!(store.pairs().get(&other).is_none());
        let whole = fs::read(&path).unwrap();
        file.write_all_at(b"x", whole.len() as u64 - 1).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        assert!(store.pairs().get(&v).is_none(), "the damage is found");
    }

    #[test]
    fn every_version_with_a_pair_is_visited() {
        let fixture = Fixture::new();
        let versions =
            ["example.com/a@v1.0.0", "example.com/Cap@v1.0.0-RC1", "example.com/Cap@v1.1.0"].map(version);
        assert!(fixture.store.pairs().each(|_| panic!("there is none")).is_ok());
        for v in &versions {
            put(&fixture, v, 1 << 20);
        }
        fs::write(fixture.store.pairs().folder(versions[0].path()).join("v1.9.0"), "not a pair").unwrap();
        let mut visited = Vec::new();
        let mut visit = |v| {
            visited.push(v);
            ControlFlow::Continue(())
        };
        fixture.store.pairs().each(&mut visit).unwrap();
        visited.sort_by_key(ModuleVersion::to_string);
        let mut expected = versions.to_vec();
        expected.sort_by_key(ModuleVersion::to_string);
        assert_eq!(visited, expected);
        let mut count = 0;
        let stop = |_| {
            count += 1;
            ControlFlow::Break(())
        };
        fixture.store.pairs().each(stop).unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn nothing_is_removed_through_a_symlink() {
        let fixture = Fixture::new();
        let (v, other) = (version("example.com/m@v1.0.0"), version("example.com/other@v1.0.0"));
        let pairs = fixture.store.pairs();
        put(&fixture, &v, 1 << 20);
        put(&fixture, &other, 1 << 20);
        let elsewhere = testkit::tempdir();
        let (folder, moved) = (pairs.folder(v.path()), elsewhere.path().join("pairs"));
        fs::rename(&folder, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &folder).unwrap();
        let foreign = pairs.folder(other.path()).join("notes.txt");
        fs::write(&foreign, "").unwrap();
        put(&fixture, &version("example.com/new@v1.0.0"), 0);
        assert!(moved.join("v1.0.0").exists() && foreign.exists() && !pairs.path(&other).exists());
        let failed = pairs.remove(&v).unwrap_err();
        assert!(matches!(&failed, StoreError::Path(error) if error.is_symlink_on_the_way()), "{failed}");
        let claim = fixture.store.claim(&v).unwrap();
        assert!(pairs.put(&claim, &pair(&v), 1 << 20).is_err() && moved.join("v1.0.0").exists());
        assert!(staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn the_least_recently_used_pairs_are_removed_above_the_bound() {
        let fixture = Fixture::new();
        let versions: Vec<_> = (0..8).map(|n| version(&format!("example.com/m{}@v1.{n}.0", n % 3))).collect();
        let day = Duration::from_secs(86_400);
        for (n, v) in versions.iter().enumerate() {
            put(&fixture, v, 8 * BLOCK);
            let file = File::open(fixture.store.pairs().path(v)).unwrap();
            file.set_modified(SystemTime::now() - day * (20 - u32::try_from(n).unwrap())).unwrap();
        }
        let pairs = fixture.store.pairs();
        let present = |v: &ModuleVersion| pairs.path(v).exists();
        assert!(versions.iter().all(present), "nothing is removed up to the bound");
        // A hit renews the time, so the next two are the oldest.
        assert!(pairs.get(&versions[0]).is_some());
        let new = version("example.com/new@v1.0.0");
        put(&fixture, &new, 8 * BLOCK);
        let left: Vec<bool> = versions.iter().map(present).collect();
        assert_eq!(left, [true, false, false, true, true, true, true, true]);
        assert!(present(&new));
        let last = version("example.com/last@v1.0.0");
        put(&fixture, &last, 0);
        assert!(!versions.iter().any(present) && !present(&new) && present(&last));
        assert_eq!(fs::read_dir(fixture.dir.path().join("cache/pairs")).unwrap().count(), 1);
    }
}
