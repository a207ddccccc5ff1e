//! The name of a layout.

use std::borrow::Cow;
use std::fmt;

/// The name of a layout, as in the name of a marker: `v2`, or a word for a layout without markers.
///
/// * It begins with a lower-case ASCII letter.
/// * The rest is lower-case ASCII letters and digits.
/// * It has at most 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayoutId(Cow<'static, str>);

/// A text that is not the name of a layout.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the name of a layout: expected a lower-case letter, then letters and digits, as in v2")]
pub struct BadLayoutId(String);

impl LayoutId {
    /// Returns the numbered layout `vN`.
    pub fn numbered(n: u64) -> Self {
        Self(Cow::Owned(format!("v{n}")))
    }

    /// Returns the layout of a name in the program's own code.
    ///
    /// # Panics
    /// If the text is not the name of a layout. In a constant this fails at compile time.
    pub const fn fixed(name: &'static str) -> Self {
        assert!(is_valid(name.as_bytes()), "not the name of a layout");
        Self(Cow::Borrowed(name))
    }

    /// Parses the name of a layout.
    pub fn parse(text: &str) -> Result<Self, BadLayoutId> {
        if is_valid(text.as_bytes()) {
            Ok(Self(Cow::Owned(text.to_owned())))
        } else {
            Err(BadLayoutId(text.to_owned()))
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the name is `v` followed by a number without leading zeros.
    pub fn is_numbered(&self) -> bool {
        let digits = &self.0.as_bytes()[1..];
        self.0.starts_with('v')
            && !digits.is_empty()
            && digits.iter().all(u8::is_ascii_digit)
            && (digits.len() == 1 || digits[0] != b'0')
    }
}

const fn is_valid(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > 32 || !name[0].is_ascii_lowercase() {
        return false;
    }
    let mut i = 1;
    while i < name.len() {
        if !name[i].is_ascii_lowercase() && !name[i].is_ascii_digit() {
            return false;
        }
        i += 1;
    }
    true
}

impl fmt::Display for LayoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for LayoutId {
    type Err = BadLayoutId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["v0", "v1", "v23", "tree"] {
            assert_eq!(LayoutId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "V1", "v-1", "2", "v1.0", "a b", "é", "v1234567890123456789012345678901234"] {
            assert!(LayoutId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbered() {
        for (name, expected) in [("v0", true), ("v10", true), ("v01", false), ("v", false), ("tree", false)] {
            assert_eq!(LayoutId::parse(name).unwrap().is_numbered(), expected, "{name}");
        }
    }
}
