//! The hashes that a caller expects, for example from a go.sum.

use stoa_gomod::H1;

/// The accepted hashes of a version. An empty list accepts everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The hashes of its zip.
    pub zip: Vec<H1>,
    /// The hashes of its go.mod.
    pub modfile: Vec<H1>,
}

impl Expected {
    /// Returns the hashes of the zip and the go.mod, if exactly one is accepted for each.
    pub(super) fn both(&self) -> Option<(H1, H1)> {
        match (&self.zip[..], &self.modfile[..]) {
            ([zip], [modfile]) => Some((zip.clone(), modfile.clone())),
            _ => None,
        }
    }

    /// Returns a message if a zip's hash is not accepted.
    pub fn fault_of_zip(&self, h1: &H1) -> Option<String> {
        fault("zip", h1, &self.zip)
    }

    /// Returns a message if a go.mod's hash is not accepted.
    pub fn fault_of_mod(&self, h1: &H1) -> Option<String> {
        fault("go.mod", h1, &self.modfile)
    }
}

fn fault(file: &str, h1: &H1, expected: &[H1]) -> Option<String> {
    if expected.is_empty() || expected.contains(h1) {
        return None;
    }
    let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
    Some(format!("checksum mismatch: its {file} has {h1}, expected {}", expected.join(" or ")))
}
