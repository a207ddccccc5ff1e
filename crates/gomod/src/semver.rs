//! Semantic versions in Go's form: a leading `v`, prefixes such as `v1.2`, and an order without build
//! metadata.
//!
//! The rules are those of `golang.org/x/mod/semver` and of `module.CanonicalVersion`. Numbers have no upper
//! bound, so they stay text: the longer number is greater, and numbers of equal length compare byte by
//! byte. Invalid versions have empty results and sort first, as in Go.

use std::cmp::Ordering;

/// The parts of a valid version, as slices of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) major: &'a str,
    /// `"0"` if it is missing.
    pub(crate) minor: &'a str,
    /// `"0"` if it is missing.
    pub(crate) patch: &'a str,
    /// With its `-`, or empty.
    pub(crate) prerelease: &'a str,
    /// With its `+`, or empty.
    pub(crate) build: &'a str,
    /// Number of numbers, 1 to 3.
    pub(crate) numbers: u8,
}

/// Parses a version. Returns `None` if it is invalid.
pub(crate) fn parse(version: &str) -> Option<Parts<'_>> {
    let (major, rest) = number(version.strip_prefix('v')?)?;
    let mut parts = Parts { major, minor: "0", patch: "0", prerelease: "", build: "", numbers: 1 };
    if rest.is_empty() {
        return Some(parts);
    }
    let (minor, rest) = number(rest.strip_prefix('.')?)?;
    parts.minor = minor;
    parts.numbers = 2;
    if rest.is_empty() {
        return Some(parts);
    }
    let (patch, rest) = number(rest.strip_prefix('.')?)?;
    parts.patch = patch;
    parts.numbers = 3;
    let (prerelease, build) = rest.split_at(rest.find('+').unwrap_or(rest.len()));
    if let Some(identifiers) = prerelease.strip_prefix('-') {
        if !identifiers.split('.').all(|id| is_identifier(id) && !has_leading_zero(id)) {
            return None;
        }
    } else if !prerelease.is_empty() {
        return None;
    }
    if !build.is_empty() && !build[1..].split('.').all(is_identifier) {
        return None;
    }
    parts.prerelease = prerelease;
    parts.build = build;
    Some(parts)
}

/// Splits a decimal number without leading zeros off the front.
fn number(text: &str) -> Option<(&str, &str)> {
    let (digits, rest) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let valid = !digits.is_empty() && (digits == "0" || !digits.starts_with('0'));
    valid.then_some((digits, rest))
}

fn is_identifier(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_numeric(id: &str) -> bool {
    id.bytes().all(|b| b.is_ascii_digit())
}

fn has_leading_zero(id: &str) -> bool {
    id.len() > 1 && id.starts_with('0') && is_numeric(id)
}

/// Returns whether a text is a version or a prefix (`v1`, `v1.2`).
pub fn is_valid(version: &str) -> bool {
    parse(version).is_some()
}

/// Returns the canonical form: all three numbers, and no build metadata but `+incompatible`. Empty if invalid.
pub fn canonical_version(version: &str) -> String {
    let Some(parts) = parse(version) else { return String::new() };
    let mut filled = version[..version.len() - parts.build.len()].to_owned();
    for _ in parts.numbers..3 {
        filled.push_str(".0");
    }
    if parts.build == "+incompatible" {
        filled.push_str(parts.build);
    }
    filled
}

/// Returns whether a version is valid and canonical.
pub fn is_canonical(version: &str) -> bool {
    parse(version).is_some_and(|p| p.numbers == 3 && matches!(p.build, "" | "+incompatible"))
}

/// Returns the major version, `v1` of `v1.2.3`. Empty if invalid.
pub fn major(version: &str) -> &str {
    parse(version).map_or("", |parts| &version[..1 + parts.major.len()])
}

/// Returns the major and minor version, `v1.2` of `v1.2.3`. Empty if invalid.
pub fn major_minor(version: &str) -> String {
    parse(version).map(|parts| format!("v{}.{}", parts.major, parts.minor)).unwrap_or_default()
}

/// Returns the pre-release with its `-`. Empty if there is none.
pub fn prerelease(version: &str) -> &str {
    parse(version).map_or("", |parts| parts.prerelease)
}

/// Returns the build metadata with its `+`. Empty if there is none.
pub fn build(version: &str) -> &str {
    parse(version).map_or("", |parts| parts.build)
}

/// Compares by precedence. Build metadata is ignored, and invalid versions come first.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => compare_number(a.major, b.major)
            .then_with(|| compare_number(a.minor, b.minor))
            .then_with(|| compare_number(a.patch, b.patch))
            .then_with(|| compare_prerelease(a.prerelease, b.prerelease)),
    }
}

/// Compares by precedence, then byte by byte, so that only identical texts are equal.
pub fn compare_total(a: &str, b: &str) -> Ordering {
    compare(a, b).then_with(|| a.cmp(b))
}

fn compare_number(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn compare_prerelease(a: &str, b: &str) -> Ordering {
    match (a.strip_prefix('-'), b.strip_prefix('-')) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        // A list that is a prefix of the other comes first, as iterators compare.
        (Some(a), Some(b)) => a.split('.').map(Identifier::of).cmp(b.split('.').map(Identifier::of)),
    }
}

/// An identifier of a pre-release, ordered: numbers by length and digits, then words.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Identifier<'a> {
    Number(usize, &'a str),
    Word(&'a str),
}

impl<'a> Identifier<'a> {
    fn of(id: &'a str) -> Self {
        if is_numeric(id) { Self::Number(id.len(), id) } else { Self::Word(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_version() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "v(0|[1-9][0-9]{0,2})(\\.(0|[1-9][0-9]?)(\\.(0|[1-9])(-[0-9a-b.-]{1,5})?(\\+[a0.]{1,3})?)?)?",
            1 => "v[0-9.+-]{0,6}",
        ]
    }

    #[test]
    fn numbers_have_no_upper_bound() {
        let (small, large) = ("v1.18446744073709551616.0", "v1.99999999999999999999999999999999.0");
        assert_eq!(compare(small, large), Ordering::Less);
        assert!(is_canonical(large));
    }

    proptest! {
        #[test]
        fn canonical_is_idempotent_and_equal_in_precedence(version in any_version()) {
            let form = canonical_version(&version);
            prop_assert_eq!(is_valid(&version), !form.is_empty());
            prop_assert_eq!(compare(&version, &form), Ordering::Equal);
            if !form.is_empty() {
                prop_assert_eq!(canonical_version(&form), form.as_str());
                prop_assert!(is_canonical(&form));
            }
            prop_assert_eq!(is_canonical(&version), is_valid(&version) && canonical_version(&version) == version);
        }

        #[test]
        fn the_order_is_total(a in any_version(), b in any_version(), c in any_version()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare_total(&a, &b) == Ordering::Equal, a == b);
            if compare_total(&a, &b).is_le() && compare_total(&b, &c).is_le() {
                prop_assert!(compare_total(&a, &c).is_le());
            }
            if compare(&a, &b).is_eq() {
                prop_assert_eq!(compare(&a, &c), compare(&b, &c));
            }
        }

        #[test]
        fn the_parts_make_up_the_version(version in any_version()) {
            if let Some(parts) = parse(&version) {
                let whole = canonical_version(&version).trim_end_matches(parts.build).to_owned() + parts.build;
                let again = format!(
                    "v{}.{}.{}{}{}", parts.major, parts.minor, parts.patch, parts.prerelease, parts.build
                );
                prop_assert_eq!(whole, again);
            }
        }
    }
}
