//! What who asks for a version knows of it beforehand, as by a go.sum.

use stoa_gomod::H1;

/// The hashes that a version is to have; any of them is right, and where there is none, so is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Of its zip.
    pub zip: Vec<H1>,
    /// Of its go.mod.
    pub modfile: Vec<H1>,
}

impl Expected {
    /// Says what is wrong with a zip of this hash.
    pub fn fault_of_zip(&self, h1: &H1) -> Option<String> {
        fault("zip", h1, &self.zip)
    }

    /// Says what is wrong with a go.mod of this hash.
    pub fn fault_of_mod(&self, h1: &H1) -> Option<String> {
        fault("go.mod", h1, &self.modfile)
    }
}

fn fault(file: &str, h1: &H1, expected: &[H1]) -> Option<String> {
    if expected.is_empty() || expected.contains(h1) {
        return None;
    }
    let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
    Some(format!("its {file} has {h1}, and should have {}", expected.join(" or ")))
}
