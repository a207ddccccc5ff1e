//! Ranges of versions, for rules that allow or deny versions.
//!
//! A range is a list of conditions, separated by spaces, all of which must hold: `v1.2.3` (this version),
//! `v1.2.*` and `v1.*` (all with this prefix; also written `v1.2` and `v1`, as in queries of the go
//! command), `*` (any), and `<`, `<=`, `>`, `>=` before a version, which may be a prefix. The order is that
//! of versions: `v2.0.0-rc.1` and the pseudo-versions before `v2.0.0` are lower than it, and
//! `+incompatible` is ignored.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::{Version, semver};

/// A range of versions.
#[derive(Clone, PartialEq, Eq)]
pub struct VersionRange {
    text: String,
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Eq)]
enum Condition {
    Any,
    Major(String),
    MajorMinor(String),
    /// The allowed orderings relative to a version.
    Compare(&'static [Ordering], String),
}

/// The reason why a text is not a range of versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionRangeError {
    /// It is empty.
    #[error("empty range of versions; `*` means any version")]
    Empty,
    /// A condition is invalid.
    #[error(
        "invalid condition on versions {0:?}; use v1.2.3, v1.2.*, v1.*, *, or <, <=, >, >= before a version"
    )]
    Condition(String),
}

impl VersionRange {
    /// Returns whether the range contains a version.
    pub fn contains(&self, version: &Version) -> bool {
        let version = version.as_str();
        self.conditions.iter().all(|condition| match condition {
            Condition::Any => true,
            Condition::Major(major) => semver::major(version) == major,
            Condition::MajorMinor(prefix) => semver::major_minor(version) == *prefix,
            Condition::Compare(allowed, bound) => allowed.contains(&semver::compare(version, bound)),
        })
    }

    /// Returns whether the range contains every version.
    pub fn is_any(&self) -> bool {
        self.conditions.iter().all(|condition| *condition == Condition::Any)
    }
}

impl FromStr for VersionRange {
    type Err = VersionRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let conditions = text.split_ascii_whitespace().map(condition).collect::<Result<Vec<_>, _>>()?;
        match conditions.is_empty() {
            true => Err(VersionRangeError::Empty),
            false => Ok(Self { text: text.to_owned(), conditions }),
        }
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

fn condition(text: &str) -> Result<Condition, VersionRangeError> {
    use Ordering::{Equal, Greater, Less};
    let wrong = || VersionRangeError::Condition(text.to_owned());
    // Longer signs first, since `<=` starts with `<`.
    const SIGNS: [(&str, &[Ordering]); 4] =
        [("<=", &[Less, Equal]), (">=", &[Greater, Equal]), ("<", &[Less]), (">", &[Greater])];
    if let Some((sign, allowed)) = SIGNS.iter().find(|(sign, _)| text.starts_with(sign)) {
        let bound = &text[sign.len()..];
        return match semver::is_valid(bound) {
            true => Ok(Condition::Compare(allowed, bound.to_owned())),
            false => Err(wrong()),
        };
    }
    if text == "*" {
        return Ok(Condition::Any);
    }
    let (version, is_prefix) = match text.strip_suffix(".*") {
        Some(prefix) => (prefix, true),
        None => (text, false),
    };
    if !semver::is_valid(version) {
        return Err(wrong());
    }
    match (version.matches('.').count(), is_prefix) {
        (0, _) => Ok(Condition::Major(version.to_owned())),
        (1, _) => Ok(Condition::MajorMinor(version.to_owned())),
        (_, false) => Ok(Condition::Compare(&[Equal], version.to_owned())),
        (_, true) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contains(range: &str, version: &str) -> bool {
        range.parse::<VersionRange>().unwrap().contains(&Version::new(version).unwrap())
    }

    #[test]
    fn ranges_contain_matching_versions() {
        for (range, within, without) in [
            ("*", &["v0.0.0-20200101000000-abcdefabcdef", "v3.0.0+incompatible"][..], &[][..]),
            ("v1.2.3", &["v1.2.3"], &["v1.2.4", "v1.2.3-pre"]),
            ("v2.0.0", &["v2.0.0", "v2.0.0+incompatible"], &["v2.0.1"]),
            ("v1.2.*", &["v1.2.0", "v1.2.9-rc.1"], &["v1.3.0", "v1.20.0"]),
            ("v1.2", &["v1.2.7"], &["v1.20.0"]),
            ("v1.*", &["v1.0.0", "v1.99.0"], &["v10.0.0", "v0.1.0"]),
            ("v1", &["v1.5.0"], &["v2.0.0+incompatible"]),
            ("<v2", &["v1.9.9", "v2.0.0-rc.1"], &["v2.0.0", "v2.1.0"]),
            ("<=v1.4.0", &["v1.4.0"], &["v1.4.1", "v1.4.1-0.20200101000000-abcdefabcdef"]),
            (">=v1.2.0 <v1.4.0", &["v1.2.0", "v1.3.9"], &["v1.4.0", "v1.2.0-rc.1"]),
            (">v1.2.3", &["v1.2.4", "v1.2.4-pre"], &["v1.2.3"]),
        ] {
            for version in within {
                assert!(contains(range, version), "{version} lies within {range}");
            }
            for version in without {
                assert!(!contains(range, version), "{version} lies outside of {range}");
            }
        }
    }

    #[test]
    fn invalid_ranges_are_rejected() {
        assert_eq!("  ".parse::<VersionRange>(), Err(VersionRangeError::Empty));
        for text in
            ["1.2.3", "v1.2.3.*", "^v1.2.3", "< v1.0.0", "=v1.0.0", "v1.2.3 or", "latest", "v01", "v1-pre.*"]
        {
            assert!(text.parse::<VersionRange>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn two_complementary_ranges_contain_every_version(a in 0u32..4, b in 0u32..4, c in 0u32..4, bound in "v[0-3]\\.[0-3]\\.[0-3](-rc\\.[0-3])?") {
            let version = format!("v{a}.{b}.{c}");
            prop_assert_ne!(contains(&format!("<{bound}"), &version), contains(&format!(">={bound}"), &version));
            prop_assert_ne!(contains(&format!("<={bound}"), &version), contains(&format!(">{bound}"), &version));
        }
    }
}
