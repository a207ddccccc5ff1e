//! The form of a checksum database's answers, so that an HTML page is not taken for an answer.
//!
//! Signatures and proofs are checked elsewhere, with the database's key.

use stoa_gomod::sumdb::{self, Level};

use super::question::{SumdbQuestion, tile_bytes};

/// Returns the fault in the form of an answer, if it has one.
pub(super) fn fault(database: &str, question: &SumdbQuestion, body: &[u8]) -> Option<String> {
    match question {
        SumdbQuestion::Latest if is_tree_head(database, body) => None,
        SumdbQuestion::Latest => Some(format!("it is not a tree head signed by {database}")),
        SumdbQuestion::Lookup(module) => {
            let begin = format!("{} {} ", module.path(), module.version());
            match sumdb::parse_record(body) {
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
        SumdbQuestion::Tile(tile) if tile.level == Level::Data => {
            let records = records(body);
            (records != Some(tile.width)).then(|| format!("it is not a tile of {} records", tile.width))
        }
        SumdbQuestion::Tile(tile) => {
            let wanted = tile_bytes(tile);
            (body.len() != wanted).then(|| format!("it has {} bytes, expected {wanted}", body.len()))
        }
    }
}

/// Returns whether a text has the form of a tree head with a signature of the database.
fn is_tree_head(database: &str, note: &[u8]) -> bool {
    let Some((text, signatures)) = std::str::from_utf8(note).ok().and_then(|note| note.rsplit_once("\n\n"))
    else {
        return false;
    };
    let text = format!("{text}\n");
    let by = format!("\u{2014} {database} ");
    sumdb::parse_tree(text.as_bytes()).is_some()
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
    use stoa_gomod::ModuleVersion;
    use stoa_gomod::sumdb::Tile;

    use super::*;

    const HEAD: &str =
        "go.sum database tree\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} db.example c2ln\n";

    fn lookup(body: &str) -> Option<String> {
        let module = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        fault("db.example", &SumdbQuestion::Lookup(module), body.as_bytes())
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
        assert_eq!(fault("db.example", &SumdbQuestion::Latest, HEAD.as_bytes()), None);
        assert!(fault("db.example", &SumdbQuestion::Latest, b"<html>").is_some());
    }

    #[test]
    fn a_tile_has_the_size_of_its_width() {
        let tile = |path: &str, body: &[u8]| {
            fault("db.example", &SumdbQuestion::Tile(Tile::parse(path).unwrap()), body)
        };
        assert_eq!(tile("tile/8/0/000", &[7; 8192]), None);
        assert_eq!(tile("tile/8/0/000.p/3", &[7; 96]), None);
        for size in [0, 95, 97, 8192] {
            assert!(tile("tile/8/0/000.p/3", &vec![7; size]).is_some(), "{size}");
        }
        assert_eq!(tile("tile/2/data/000.p/2", b"a\nb\n\nc\n\n"), None);
        for bad in ["", "\n\n", "a\n\n", "a\n\nb\n", "a\n\nb\n\nc\n\n", "<html>"] {
            assert!(tile("tile/2/data/000.p/2", bad.as_bytes()).is_some(), "{bad:?}");
        }
    }
}
