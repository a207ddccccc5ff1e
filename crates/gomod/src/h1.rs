//! The `h1:` hash of a module's files, as in go.sum and the checksum database.
//!
//! The rule is that of `golang.org/x/mod/sumdb/dirhash`: a line for each name, in byte order, with the
//! SHA-256 of its content in hex, two spaces, the name and a newline. The hash is the SHA-256 of these
//! lines. The names of a zip are those of all its entries, including the prefix `path@version/`. A go.mod
//! has the single name `go.mod`. The entries of a zip are read by [`zip`](crate::zip).

use crate::text::as_text;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// An `h1:` hash: the prefix and the base64 of 32 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct H1(String);

impl H1 {
    /// Parses a hash as in go.sum, without surrounding white space.
    pub fn new(text: &str) -> Result<Self, H1Error> {
        let bytes = text.strip_prefix("h1:").and_then(|base64| STANDARD.decode(base64).ok());
        match bytes.is_some_and(|bytes| bytes.len() == 32) {
            true => Ok(Self(text.to_owned())),
            false => Err(H1Error::Form(text.to_owned())),
        }
    }

    /// Returns the hash as in go.sum.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

as_text!(H1, H1Error);

/// The reason why a hash is invalid or cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum H1Error {
    /// The text is not `h1:` and the base64 of 32 bytes.
    #[error("{0:?} is not a hash of the form h1:BASE64")]
    Form(String),
    /// A name has a newline, which would make the hashed text ambiguous.
    #[error("cannot hash the file name {0:?}: it has a newline")]
    NewlineInName(String),
}

/// Collects files with the SHA-256 of their contents, in any order, and hashes them.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    files: Vec<(String, [u8; 32])>,
}

impl Builder {
    /// Creates an empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file by the SHA-256 of its content. A name may be added more than once.
    pub fn add(&mut self, name: impl Into<String>, sha256: [u8; 32]) -> Result<(), H1Error> {
        let name = name.into();
        if name.contains('\n') {
            return Err(H1Error::NewlineInName(name));
        }
        self.files.push((name, sha256));
        Ok(())
    }

    /// Returns the hash.
    pub fn finish(&self) -> H1 {
        let mut sorted: Vec<_> = self.files.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut hasher = Sha256::new();
        for (name, sha256) in sorted {
            hasher.update(hex(sha256));
            hasher.update("  ");
            hasher.update(name);
            hasher.update("\n");
        }
        H1(format!("h1:{}", STANDARD.encode(hasher.finalize())))
    }
}

fn hex(sha256: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (digits, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(sha256) {
        *digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    text
}

/// Hashes a go.mod, as a single file with the name `go.mod`.
pub fn hash_mod(body: &[u8]) -> H1 {
    Builder { files: vec![("go.mod".to_owned(), Sha256::digest(body).into())] }.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "h1:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=";

    #[test]
    fn the_example_of_the_reference_has_its_hash() {
        assert_eq!(hash_mod(b"module example.org/w\n").as_str(), EXAMPLE);
    }

    #[test]
    fn other_forms_are_rejected() {
        assert_eq!(H1::new(EXAMPLE).unwrap().to_string(), EXAMPLE);
        for bad in
            ["", "h1:", "h2:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=", "h1:dJme", &format!("{EXAMPLE}\n")]
        {
            assert!(H1::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_files_does_not_matter(mut names in proptest::collection::vec("[a-zA-Z/é]{1,4}", 0..8)) {
            let hash = |names: &[String]| {
                let mut builder = Builder::new();
                names.iter().for_each(|name| builder.add(name, Sha256::digest(name).into()).unwrap());
                builder.finish()
            };
            let first = hash(&names);
            names.reverse();
            prop_assert_eq!(first, hash(&names));
        }
    }
}
