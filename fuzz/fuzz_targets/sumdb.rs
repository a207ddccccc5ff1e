//! Any bytes as answers of a checksum database.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoa_gomod::ModuleVersion;
use stoa_gomod::sumdb::{Proof, Sums, TILE_HEIGHT, Tile, Verifier, format_record, parse_record, parse_tree};

fuzz_target!(|bytes: &[u8]| {
    let tree = parse_tree(bytes);
    if let Some(tree) = &tree {
        for proof in [
            Proof::of_record(tree, tree.size / 3, TILE_HEIGHT),
            Proof::of_prefix(tree, tree.size / 3, TILE_HEIGHT),
        ] {
            if let Some(proof) = proof {
                let tiles: Vec<_> =
                    proof.tiles().iter().map(|tile| vec![7; tile.width as usize * 32]).collect();
                assert!(tiles.len() < 50);
                let _ = proof.hash(&tiles);
            }
        }
    }
    if let Some(record) = parse_record(bytes) {
        assert!(format_record(record.id, record.text).is_some());
    }
    let key = "sum.example.org/v2+2f82912d+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
    let verifier = Verifier::parse(key).expect("the key is valid");
    assert!(verifier.verify(bytes).is_err() || bytes.len() > 100);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Verifier::parse(text);
        let version = ModuleVersion::parse("example.com/m@v1.0.0").expect("the pair is valid");
        let _ = Sums::parse(text, &version);
        if let Some(tile) = Tile::parse(text) {
            assert_eq!(tile.path(), text);
        }
    }
});
