//! The formats of a checksum database (tile paths, signed tree heads, records) and its proofs.
//!
//! The formats are those of `golang.org/x/mod/sumdb`. A proxy forwards them unchanged and clients verify
//! them. This module lets a proxy reject malformed requests and verify what it stores.

mod note;
mod proof;
mod sums;
mod tile;

pub use note::{KeyError, NoteError, Verifier, key_hash};
pub use proof::{Proof, ProofError, TILE_HEIGHT};
pub use sums::Sums;
pub use tile::{Level, Tile};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// A hash of the tree.
pub type Hash = [u8; 32];

/// The head of a tree: its number of records and the hash of its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The number of records.
    pub size: u64,
    /// The hash of the root.
    pub hash: Hash,
}

/// Parses the text of a tree head. Further lines are ignored, for later versions of the format.
pub fn parse_tree(text: &[u8]) -> Option<Tree> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.strip_prefix("go.sum database tree\n")?.split('\n');
    let size = lines.next().filter(|size| *size == "0" || !size.starts_with('0'))?;
    let (size, hash) = (number(size)?, lines.next()?);
    lines.next()?; // The hash ends in a newline, too.
    Some(Tree { size, hash: STANDARD.decode(hash).ok()?.try_into().ok()? })
}

/// A record of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// The number of the record.
    pub id: u64,
    /// The text, which ends in a newline.
    pub text: &'a str,
    /// The rest of the message.
    pub rest: &'a [u8],
}

/// Parses the record at the start of a message.
pub fn parse_record(message: &[u8]) -> Option<Record<'_>> {
    let id_end = message.iter().position(|&b| b == b'\n')?;
    let id = number(std::str::from_utf8(&message[..id_end]).ok()?)?;
    let body = &message[id_end + 1..];
    let end = body.windows(2).position(|pair| pair == b"\n\n")?;
    let text = std::str::from_utf8(&body[..end + 1]).ok()?;
    is_record_text(text).then(|| Record { id, text, rest: &body[end + 2..] })
}

/// Returns the message for a record, as a database sends it. `None` if the text is invalid.
pub fn format_record(id: u64, text: &str) -> Option<String> {
    is_record_text(text).then(|| format!("{id}\n{text}\n"))
}

/// Returns the hash of a record as a leaf of the tree.
pub fn record_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// Returns the hash of an inner node of the tree.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

fn is_record_text(text: &str) -> bool {
    text.ends_with('\n') && !text.contains("\n\n") && has_no_control_but_newline(text)
}

fn has_no_control_but_newline(text: &str) -> bool {
    text.bytes().all(|b| b >= 0x20 || b == b'\n')
}

/// Parses a decimal number in the range of Go's `int64`.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&n| digits && i64::try_from(n).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_formatted_record_parses_to_the_same_record(id in 0..=i64::MAX as u64, text in "([a-zé ]{1,5}\n){1,3}", rest in "[\na]{0,4}") {
            let message = format_record(id, &text).unwrap() + &rest;
            let expected = Record { id, text: &text, rest: rest.as_bytes() };
            prop_assert_eq!(parse_record(message.as_bytes()), Some(expected));
        }

        #[test]
        fn no_input_panics(message in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse_record(&message), parse_tree(&message));
        }
    }
}
