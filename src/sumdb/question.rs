//! Requests to a checksum database: their keys in the cache, and the form of their answers.
//!
//! The form is checked so that an HTML page is not taken for an answer. Signatures and proofs are checked elsewhere, with
//! the database's key.

use bytes::Bytes;
use stoa_gomod::sumdb::{Level, Tile, parse_record, parse_tree};
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

    /// Returns the fault in the form of an answer, if it has one.
    pub(super) fn fault(&self, database: &str, body: &[u8]) -> Option<String> {
        match self {
            Self::Latest if is_tree_head(database, body) => None,
            Self::Latest => Some(format!("it is not a tree head signed by {database}")),
            Self::Lookup(module) => {
                let begin = format!("{} {} ", module.path(), module.version());
                match parse_record(body) {
                    None => Some("it is not a record".to_owned()),
                    Some(record) if !record.text.starts_with(&begin) => {
                        Some(format!("it is not the record of {module}"))
                    }
                    Some(record) if !is_tree_head(database, record.rest) => {
                        Some(format!("it has no tree head signed by {database}"))
                    }
                    Some(_) => None,
                }
            }
            Self::Tile(tile) if tile.level == Level::Data => {
                let records = records(body);
                (records != Some(tile.width)).then(|| format!("it is not a tile of {} records", tile.width))
            }
            Self::Tile(tile) => {
                let wanted = tile_bytes(tile);
                (body.len() != wanted).then(|| format!("it has {} bytes, expected {wanted}", body.len()))
            }
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
fn tile_bytes(tile: &Tile) -> usize {
    usize::try_from(tile.width).unwrap_or(usize::MAX).saturating_mul(HASH_BYTES)
}

/// Returns whether a text has the form of a tree head with a signature of the database.
fn is_tree_head(database: &str, note: &[u8]) -> bool {
    let Some((text, signatures)) = std::str::from_utf8(note).ok().and_then(|note| note.rsplit_once("\n\n"))
    else {
        return false;
    };
    let text = format!("{text}\n");
    let by = format!("\u{2014} {database} ");
    parse_tree(text.as_bytes()).is_some()
        && signatures.ends_with('\n')
        && signatures
            .lines()
            .any(|line| line.strip_prefix(&by).is_some_and(|signature| !signature.is_empty()))
}

/// Counts the records of a tile, each of which ends in a blank line.
fn records(body: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(body).ok()?;
    let records = text.strip_suffix("\n\n")?.split("\n\n");
    u32::try_from(records.count()).ok()
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

    const HEAD: &str =
        "go.sum database tree\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} db.example c2ln\n";

    fn lookup(body: &str) -> Option<String> {
        let module = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        SumdbQuestion::Lookup(module).fault("db.example", body.as_bytes())
    }

    #[test]
    fn a_record_belongs_to_the_requested_version_and_has_a_tree_head() {
        let record = "5\nexample.com/m v1.0.0 h1:a=\nexample.com/m v1.0.0/go.mod h1:b=\n\n";
        assert_eq!(lookup(&format!("{record}{HEAD}")), None);
        for (bad, why) in [
            ("<html>\n\n<body>\n\n</html>".to_owned(), "not a record"),
            (String::new(), "not a record"),
            (record.to_owned(), "no tree head"),
            (format!("{record}{}", HEAD.replace("db.example", "x.example")), "no tree head"),
            (format!("{record}{}", HEAD.replace("7\n", "seven\n")), "no tree head"),
            (format!("{record}{}", HEAD.trim_end()), "no tree head"),
            (format!("{}{HEAD}", record.replace("v1.0.0", "v1.0.00")), "not the record of"),
            (format!("{}{HEAD}", record.replace("example.com/m ", "example.com/n ")), "not the record of"),
        ] {
            assert!(lookup(&bad).is_some_and(|fault| fault.contains(why)), "{bad}");
        }
        assert_eq!(SumdbQuestion::Latest.fault("db.example", HEAD.as_bytes()), None);
        assert!(SumdbQuestion::Latest.fault("db.example", b"<html>").is_some());
    }

    #[test]
    fn a_tile_has_the_size_of_its_width() {
        let fault = |path: &str, body: &[u8]| {
            SumdbQuestion::Tile(Tile::parse(path).unwrap()).fault("db.example", body)
        };
        assert_eq!(fault("tile/8/0/000", &[7; 8192]), None);
        assert_eq!(fault("tile/8/0/000.p/3", &[7; 96]), None);
        for size in [0, 95, 97, 8192] {
            assert!(fault("tile/8/0/000.p/3", &vec![7; size]).is_some(), "{size}");
        }
        assert_eq!(fault("tile/2/data/000.p/2", b"a\nb\n\nc\n\n"), None);
        for bad in ["", "\n\n", "a\n\n", "a\n\nb\n", "a\n\nb\n\nc\n\n", "<html>"] {
            assert!(fault("tile/2/data/000.p/2", bad.as_bytes()).is_some(), "{bad:?}");
        }
    }
}
