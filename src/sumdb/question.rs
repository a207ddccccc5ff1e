//! Requests to a checksum database, and their keys in the cache.

use bytes::Bytes;
use stoa_gomod::sumdb::{Level, Tile, parse_record};
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::Shelf;

/// A request to a checksum database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SumdbQuestion {
    /// The latest tree head.
    Latest,
    /// The record of a version.
    Lookup(ModuleVersion),
    /// A tile of the tree.
    Tile(Tile),
}

impl SumdbQuestion {
    /// Parses the path below the name of the database.
    pub(super) fn parse(path: &str) -> Option<Self> {
        if let Some(pair) = path.strip_prefix("lookup/") {
            let (module, version) = pair.split_once('@')?;
            let (module, version) = (ModulePath::unescape(module).ok()?, Version::unescape(version).ok()?);
            return Some(Self::Lookup(ModuleVersion::new(module, version).ok()?));
        }
        match path {
            "latest" => Some(Self::Latest),
            _ => Tile::parse(path).map(Self::Tile),
        }
    }

    /// Returns the path below the name of the database.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Lookup(module) => {
                format!("lookup/{}@{}", module.path().escaped(), module.version().escaped())
            }
            Self::Tile(tile) => tile.path(),
        }
    }

    /// Returns the shelf and the key of the cached answer, proved or not. All widths of a tile share the
    /// key of the full tile.
    pub(super) fn cache_key<'n>(&self, database: &'n str, is_proved: bool) -> (Shelf<'n>, String) {
        let (shelf, path) = match self {
            Self::Latest | Self::Lookup(_) => (Shelf::Records(database), self.path()),
            Self::Tile(tile) => {
                let whole = Tile { width: 1 << tile.height, ..*tile };
                (Shelf::Tiles(database), whole.path())
            }
        };
        (shelf, if is_proved { path + " proved" } else { path })
    }

    /// Extracts the answer from a cached body.
    pub(super) fn answer(&self, cached: Bytes) -> Option<Bytes> {
        match self {
            Self::Latest | Self::Lookup(_) => Some(cached),
            Self::Tile(Tile { level: Level::Data, .. }) if !self.is_cacheable() => None,
            Self::Tile(Tile { level: Level::Data, .. }) => Some(cached),
            Self::Tile(tile) => {
                let wanted = tile_bytes(tile);
                (cached.len() >= wanted).then(|| cached.slice(..wanted))
            }
        }
    }

    /// Returns the signed note in an answer, if it has one.
    pub(super) fn note<'b>(&self, body: &'b [u8]) -> Option<&'b [u8]> {
        match self {
            Self::Latest => Some(body),
            Self::Lookup(_) => Some(parse_record(body).map_or(&[], |record| record.rest)),
            Self::Tile(_) => None,
        }
    }

    /// Returns whether an answer may be cached: it never changes, or the newer of two answers is recognizable.
    pub(super) fn is_cacheable(&self) -> bool {
        match self {
            Self::Latest | Self::Lookup(_) => true,
            // No client requests a part of a tile of records.
            Self::Tile(tile) => tile.is_whole() || tile.level != Level::Data,
        }
    }
}

const HASH_BYTES: usize = 32;

/// Returns the size of a tile of hashes in bytes.
pub(super) fn tile_bytes(tile: &Tile) -> usize {
    usize::try_from(tile.width).unwrap_or(usize::MAX).saturating_mul(HASH_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(path: &str) -> SumdbQuestion {
        SumdbQuestion::Tile(Tile::parse(path).unwrap())
    }

    #[test]
    fn a_wider_tile_answers_requests_for_a_narrower_one() {
        let whole = Bytes::from_iter((0..256 * 32).map(|n| (n / 32) as u8));
        let narrow = tile("tile/8/0/001.p/3");
        assert_eq!(narrow.cache_key("db", false), tile("tile/8/0/001").cache_key("db", false));
        assert_eq!(narrow.answer(whole.clone()).unwrap(), whole.slice(..96));
        assert_eq!(narrow.answer(whole.slice(..96)).unwrap(), whole.slice(..96));
        assert_eq!(narrow.answer(whole.slice(..64)), None);
        assert_eq!(tile("tile/8/0/001").answer(whole.clone()).unwrap(), whole);
        assert_eq!(tile("tile/8/0/001").answer(whole.slice(..96)), None);
        assert_ne!(tile("tile/8/1/001").cache_key("db", false), narrow.cache_key("db", false));
        assert_ne!(narrow.cache_key("db", true), narrow.cache_key("db", false));
    }

    #[test]
    fn only_full_tiles_of_records_are_cached() {
        let kept = Bytes::from_static(b"records");
        assert!(tile("tile/8/data/000").is_cacheable() && !tile("tile/8/data/000.p/3").is_cacheable());
        assert_eq!(tile("tile/8/data/000").answer(kept.clone()), Some(kept.clone()));
        assert_eq!(tile("tile/8/data/000.p/3").answer(kept), None);
    }

    #[test]
    fn paths_are_escaped() {
        let module = ModuleVersion::parse("example.com/Cap@v1.0.0-RC1").unwrap();
        assert_eq!(SumdbQuestion::Lookup(module).path(), "lookup/example.com/!cap@v1.0.0-!r!c1");
        for path in
            ["latest", "lookup/example.com/!cap@v1.0.0-!r!c1", "tile/8/0/x001/234.p/5", "tile/8/data/000"]
        {
            assert_eq!(SumdbQuestion::parse(path).unwrap().path(), path);
        }
        for path in ["supported", "lookup/example.com/Cap@v1.0.0", "lookup/example.com", "tile/8/0/1", ""] {
            assert_eq!(SumdbQuestion::parse(path), None, "{path}");
        }
    }
}
