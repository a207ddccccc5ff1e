//! Any bytes as what a checksum database says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::sumdb::{Tile, Verifier, format_record, parse_record, parse_tree};

fuzz_target!(|bytes: &[u8]| {
    parse_tree(bytes);
    if let Some(record) = parse_record(bytes) {
        assert!(format_record(record.id, record.text).is_some());
    }
    let key = "sum.example.org/v2+2f82912d+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
    let verifier = Verifier::parse(key).expect("the key is valid");
    assert!(verifier.verify(bytes).is_err() || bytes.len() > 100);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Verifier::parse(text);
        if let Some(tile) = Tile::parse(text) {
            assert_eq!(tile.path(), text);
        }
    }
});
