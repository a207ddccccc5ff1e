//! Pairs: the info and the go.mod of versions whose zip was not downloaded. A part of the cache, so they may be lost at
//! any time.
//!
//! ```text
//! cache/pairs/HASH/VERSION  one pair; HASH is the SHA-256 of the module path, and VERSION is escaped
//! ```
//!
//! A pair is written in staging under the claim of its version, and renamed to its place. Nothing is synced, so a pair
//! counts only if its hash matches. The hash is checked once for each state of the file (device, inode, change time). A
//! stored version always wins: readers look for it first.
//!
//! A hit renews the time of a file that is older than an hour, so the pairs with the oldest times are those that were not
//! used for the longest time. They are removed first if all pairs together are too large.

mod bound;
mod format;

use std::fs::File;
use std::io::Write;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use stoa_gomod::{H1, ModulePath, ModuleVersion, Version, h1};
use stoa_layout::error::PathContext;
use stoa_layout::{PathError, durable};

pub(crate) use self::bound::KnownBytes;
pub(crate) use self::format::{KnownPair, PairWeight};
use crate::cache::{hex, is_below, place};
use crate::files::{Stamp, list, metadata, open_file};
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
                let read = format::read(&file, meta.len(), path, version)?;
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
                let Some(version) = format::version_of(&path)? else { continue };
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
        let head = format::encode(version, pair);
        store.staging()?.place_file(|staged| {
            let mut file = store.durable.create_file(staged)?;
            for part in [head.as_bytes(), &pair.info, &pair.modfile] {
                file.write_all(part).at("write", staged)?;
            }
            place(store, staged, &path)
        })?;
        let written = (head.len() + pair.info.len() + pair.modfile.len()) as u64;
        self.keep_within(max_bytes, written, &path)
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
}

#[cfg(test)]
mod tests;
