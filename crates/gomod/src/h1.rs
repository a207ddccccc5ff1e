//! The `h1:` hash of a module's files, which go.sum and the checksum database hold.
//!
//! The rule is that of `golang.org/x/mod/sumdb/dirhash`: names in byte order, for each the SHA-256 of its
//! content in hex, two spaces, the name and a newline; the SHA-256 of that text is the hash. For a zip the
//! names are those of all its entries, with the `path@version/` in front; for a go.mod the one name is
//! `go.mod`. Reading the entries of a zip is [`zip`](crate::zip)'s.

use crate::text::as_text;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// An `h1:` hash: the prefix and the base64 of 32 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct H1(String);

impl H1 {
    /// Checks a hash as it stands in go.sum; white space around it makes it invalid.
    pub fn new(text: &str) -> Result<Self, H1Error> {
        let bytes = text.strip_prefix("h1:").and_then(|base64| STANDARD.decode(base64).ok());
        match bytes.is_some_and(|bytes| bytes.len() == 32) {
            true => Ok(Self(text.to_owned())),
            false => Err(H1Error::Form(text.to_owned())),
        }
    }

    /// Checks a hash as it stands in go.sum; the same as [`H1::new`].
    pub fn parse(text: &str) -> Result<Self, H1Error> {
        Self::new(text)
    }

    /// Returns the hash as it stands in go.sum.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

as_text!(H1, H1Error);

/// A text that is no hash, or a name that cannot be hashed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum H1Error {
    /// The text is not `h1:` and the base64 of 32 bytes.
    #[error("{0:?} is not a hash of the form h1:BASE64")]
    Form(String),
    /// The name has a newline, which would make the hashed text ambiguous.
    #[error("file name {0:?} has a newline and cannot be hashed")]
    NewlineInName(String),
}

/// Gathers files and their contents' SHA-256, in any order, and hashes them.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    files: Vec<(String, [u8; 32])>,
}

impl Builder {
    /// Begins without a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file by the SHA-256 of its content; one name may be added more than once.
    pub fn add(&mut self, name: impl Into<String>, sha256: [u8; 32]) -> Result<(), H1Error> {
        let name = name.into();
        if name.contains('\n') {
            return Err(H1Error::NewlineInName(name));
        }
        self.files.push((name, sha256));
        Ok(())
    }

    /// Adds a file by its content.
    pub fn add_content(&mut self, name: impl Into<String>, content: &[u8]) -> Result<(), H1Error> {
        self.add(name, Sha256::digest(content).into())
    }

    /// Returns the text that is hashed.
    pub fn summary(&self) -> String {
        let mut summary = String::new();
        self.lines(|line| summary.push_str(line));
        summary
    }

    /// Returns the hash.
    pub fn finish(&self) -> H1 {
        let mut hasher = Sha256::new();
        self.lines(|line| hasher.update(line));
        H1(format!("h1:{}", STANDARD.encode(hasher.finalize())))
    }

    fn lines(&self, mut write: impl FnMut(&str)) {
        let mut sorted: Vec<_> = self.files.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut line = String::new();
        for (name, sha256) in sorted {
            line.clear();
            push_hex(&mut line, sha256);
            line.push_str("  ");
            line.push_str(name);
            line.push('\n');
            write(&line);
        }
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Hashes the body of a `.mod` file, which is hashed as the one file `go.mod`.
pub fn hash_mod(body: &[u8]) -> H1 {
    Builder { files: vec![("go.mod".to_owned(), Sha256::digest(body).into())] }.finish()
}

/// Hashes a list of names with the SHA-256 of their contents.
pub fn hash_files<N: Into<String>>(files: impl IntoIterator<Item = (N, [u8; 32])>) -> Result<H1, H1Error> {
    let mut builder = Builder::new();
    for (name, sha256) in files {
        builder.add(name, sha256)?;
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "h1:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=";

    #[test]
    fn the_worked_example_of_the_reference_holds() {
        assert_eq!(hash_mod(b"module example.org/w\n").as_str(), EXAMPLE);
    }

    #[test]
    fn only_the_exact_form_is_a_hash() {
        assert_eq!(H1::new(EXAMPLE).unwrap().to_string(), EXAMPLE);
        for bad in
            ["", "h1:", "h2:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=", "h1:dJme", &format!("{EXAMPLE}\n")]
        {
            assert!(H1::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_order_of_adding_does_not_count(mut names in proptest::collection::vec("[a-zA-Z/é]{1,4}", 0..8)) {
            let hash = |names: &[String]| {
                hash_files(names.iter().map(|name| (name.clone(), Sha256::digest(name).into()))).unwrap()
            };
            let first = hash(&names);
            names.reverse();
            prop_assert_eq!(first, hash(&names));
        }
    }
}
