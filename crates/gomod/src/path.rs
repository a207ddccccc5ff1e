//! The rules for module paths and file paths, and for major version suffixes.
//!
//! The rules are those of `golang.org/x/mod/module` (`CheckPath`, `CheckFilePath`, `SplitPathVersion`,
//! `CheckPathMajor`). The checks share one skeleton and differ in the allowed characters and a few extra
//! rules.

use crate::escape::{self, EscapeError};
use crate::semver;
use crate::text::as_text;
use std::sync::Arc;
use unicode_general_category::{GeneralCategory, get_general_category};

/// A valid, unescaped module path.
///
/// - Every element has ASCII letters, digits and `-._~` only, is not a name reserved by Windows, and does
///   not start or end with a dot.
/// - The first element is a host name: lower case, with a dot, not starting with `-`.
/// - The major suffix, if there is one, is valid in Go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModulePath(Arc<str>);

impl ModulePath {
    /// Parses an unescaped path.
    pub fn new(path: &str) -> Result<Self, PathError> {
        check_module(path)?;
        Ok(Self(Arc::from(path)))
    }

    /// Parses an escaped path, as in URLs and file names.
    pub fn unescape(escaped: &str) -> Result<Self, EscapeError> {
        let plain = escape::decode(escaped)?;
        Ok(Self::new(&plain)?)
    }

    /// Parses an unescaped path. Returns `None` if it is invalid.
    pub(crate) fn accept(path: &str) -> Option<Self> {
        module_reason(path).is_none().then(|| Self(Arc::from(path)))
    }

    /// Returns the unescaped path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the escaped path, as in URLs and file names: each upper-case letter as `!` and its lower case.
    pub fn escaped(&self) -> String {
        escape::encode(&self.0)
    }

    /// Returns the path without its major suffix, and the suffix (`""`, `/v2`, `.v3`, `.v3-unstable`).
    pub fn split_major(&self) -> (&str, &str) {
        split_path_major(&self.0).unwrap_or((&self.0, ""))
    }
}

as_text!(ModulePath, PathError);

/// The reason why a path is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} path {path:?}: {reason}")]
pub struct PathError {
    /// The set of rules.
    pub kind: PathKind,
    /// The path, with replacement characters for invalid UTF-8.
    pub path: String,
    /// The first broken rule.
    pub reason: PathReason,
}

/// A set of rules for paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A module path.
    Module,
    /// A path of a file within a module.
    File,
}

impl std::fmt::Display for PathKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Module => "module",
            Self::File => "file",
        })
    }
}

/// A broken rule of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathReason {
    /// The path is not UTF-8.
    #[error("it is not UTF-8")]
    InvalidUtf8,
    /// The path is empty.
    #[error("it is empty")]
    Empty,
    /// The path starts with `-`.
    #[error("it starts with a dash")]
    LeadingDash,
    /// The path has two slashes in a row.
    #[error("it has a double slash")]
    DoubleSlash,
    /// The path ends with a slash.
    #[error("it ends with a slash")]
    TrailingSlash,
    /// An element is empty.
    #[error("it has an empty element")]
    EmptyElement,
    /// An element consists of dots.
    #[error("it has an element that consists of dots")]
    DotsOnlyElement,
    /// An element starts with a dot.
    #[error("it has an element that starts with a dot")]
    LeadingDot,
    /// An element ends with a dot.
    #[error("it has an element that ends with a dot")]
    TrailingDot,
    /// A character is not allowed.
    #[error("it has an invalid character")]
    InvalidChar,
    /// An element is a reserved name on Windows.
    #[error("it has an element that is a reserved name on Windows")]
    WindowsReserved,
    /// An element looks like a Windows short name.
    #[error("it has an element that ends with a tilde and digits")]
    TildeDigits,
    /// The first element of a module path has no dot.
    #[error("its first element has no dot")]
    FirstNoDot,
    /// The first element of a module path has a character other than `a-z0-9.-`.
    #[error("its first element has an invalid character")]
    FirstInvalidChar,
    /// The major suffix of a module path is invalid.
    #[error("its major version suffix is invalid")]
    BadMajorSuffix,
}

/// Checks a module path.
pub fn check_module(path: impl AsRef<[u8]>) -> Result<(), PathError> {
    check(PathKind::Module, path.as_ref())
}

/// Checks the path of a file within a module.
pub fn check_file(path: impl AsRef<[u8]>) -> Result<(), PathError> {
    check(PathKind::File, path.as_ref())
}

fn check(kind: PathKind, path: &[u8]) -> Result<(), PathError> {
    let broken = match (std::str::from_utf8(path), kind) {
        (Err(_), _) => Some(PathReason::InvalidUtf8),
        (Ok(path), PathKind::Module) => module_reason(path),
        (Ok(path), _) => shared_reason(kind, path),
    };
    match broken {
        None => Ok(()),
        Some(reason) => Err(PathError { kind, path: String::from_utf8_lossy(path).into_owned(), reason }),
    }
}

fn module_reason(path: &str) -> Option<PathReason> {
    if let Some(reason) = shared_reason(PathKind::Module, path) {
        return Some(reason);
    }
    let first = path.split('/').next().unwrap_or_default();
    if !first.contains('.') {
        return Some(PathReason::FirstNoDot);
    }
    if !first.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')) {
        return Some(PathReason::FirstInvalidChar);
    }
    split_path_major(path).is_none().then_some(PathReason::BadMajorSuffix)
}

fn shared_reason(kind: PathKind, path: &str) -> Option<PathReason> {
    if path.is_empty() {
        return Some(PathReason::Empty);
    }
    if kind != PathKind::File && path.starts_with('-') {
        return Some(PathReason::LeadingDash);
    }
    if path.contains("//") {
        return Some(PathReason::DoubleSlash);
    }
    if path.ends_with('/') {
        return Some(PathReason::TrailingSlash);
    }
    path.split('/').find_map(|element| element_reason(kind, element))
}

/// Returns the first rule that one element of a path breaks.
pub(crate) fn element_reason(kind: PathKind, element: &str) -> Option<PathReason> {
    if element.is_empty() {
        return Some(PathReason::EmptyElement);
    }
    if element.bytes().all(|b| b == b'.') {
        return Some(PathReason::DotsOnlyElement);
    }
    if kind == PathKind::Module && element.starts_with('.') {
        return Some(PathReason::LeadingDot);
    }
    if element.ends_with('.') {
        return Some(PathReason::TrailingDot);
    }
    if !element.chars().all(|c| is_allowed(kind, c)) {
        return Some(PathReason::InvalidChar);
    }
    let stem = element.split('.').next().unwrap_or_default();
    if is_windows_reserved(stem) {
        return Some(PathReason::WindowsReserved);
    }
    if kind != PathKind::File
        && let Some((_, digits)) = stem.rsplit_once('~')
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
    {
        return Some(PathReason::TildeDigits);
    }
    None
}

fn is_allowed(kind: PathKind, c: char) -> bool {
    if c.is_ascii() {
        let common = c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
        return match kind {
            PathKind::Module => common,
            PathKind::File => common || " !#$%&()+,=@[]^{}".contains(c),
        };
    }
    kind == PathKind::File && is_letter(c)
}

fn is_letter(c: char) -> bool {
    matches!(
        get_general_category(c),
        GeneralCategory::UppercaseLetter
            | GeneralCategory::LowercaseLetter
            | GeneralCategory::TitlecaseLetter
            | GeneralCategory::ModifierLetter
            | GeneralCategory::OtherLetter
    )
}

/// Returns whether Windows reserves a name, given up to the first dot of an element.
fn is_windows_reserved(stem: &str) -> bool {
    const NAMES: [&str; 4] = ["con", "prn", "aux", "nul"];
    match stem.len() {
        3 => NAMES.iter().any(|name| stem.eq_ignore_ascii_case(name)),
        4 => {
            let (name, digit) = stem.as_bytes().split_at(3);
            (name.eq_ignore_ascii_case(b"com") || name.eq_ignore_ascii_case(b"lpt"))
                && matches!(digit, [b'1'..=b'9'])
        }
        _ => false,
    }
}

/// Splits the major suffix off a path. Returns `None` if the suffix is invalid.
///
/// The two parts always make up the path. The path may be invalid otherwise.
pub fn split_path_major(path: &str) -> Option<(&str, &str)> {
    if path.starts_with("gopkg.in/") {
        return split_gopkg_in(path);
    }
    let stem = path.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &path[stem.len()..];
    if number.is_empty() || !stem.ends_with("/v") {
        return Some((path, ""));
    }
    let valid = !number.contains('.') && !number.starts_with('0') && number != "1";
    valid.then(|| path.split_at(stem.len() - 2))
}

/// Splits a path of gopkg.in, where every path has a suffix of the form `.vN`.
fn split_gopkg_in(path: &str) -> Option<(&str, &str)> {
    let tagged = path.strip_suffix("-unstable").unwrap_or(path);
    let stem = tagged.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &tagged[stem.len()..];
    if number.is_empty() || !stem.ends_with(".v") {
        return None;
    }
    // Only `.v0` may start with a zero, and it has no unstable variant.
    let valid = !number.starts_with('0') || (number == "0" && tagged.len() == path.len());
    valid.then(|| path.split_at(stem.len() - 2))
}

/// Returns whether a version agrees with a major suffix from [`split_path_major`].
pub fn path_major_matches(version: &str, path_major: &str) -> bool {
    let path_major = match path_major.strip_suffix("-unstable") {
        Some(stable) if path_major.starts_with(".v") => stable,
        _ => path_major,
    };
    // Old v1 modules on gopkg.in have v0.0.0 pseudo-versions.
    if path_major == ".v1" && version.starts_with("v0.0.0-") {
        return true;
    }
    let major = semver::major(version);
    match path_major.as_bytes() {
        [] => matches!(major, "v0" | "v1") || semver::build(version) == "+incompatible",
        [b'/' | b'.', ..] => major == &path_major[1..],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn module_paths_are_compared_as_text() {
        let a = ModulePath::new("example.com/a").unwrap();
        let b = ModulePath::new("example.com/b").unwrap();
        assert!(a < b);
        assert_eq!(a.to_string(), "example.com/a");
        assert_eq!(serde_json::to_string(&a).unwrap(), r#""example.com/a""#);
        assert_eq!(serde_json::from_str::<ModulePath>(r#""example.com/a""#).unwrap(), a);
        assert!(serde_json::from_str::<ModulePath>(r#""example""#).is_err());
    }

    #[test]
    fn the_message_names_path_and_rule() {
        let error = ModulePath::new("example").unwrap_err();
        assert_eq!(error.to_string(), r#"invalid module path "example": its first element has no dot"#);
    }

    #[test]
    fn gopkg_in_without_a_number_is_rejected() {
        assert_eq!(split_path_major("gopkg.in/yaml.v-unstable"), None);
        assert_eq!(split_path_major("gopkg.in/yaml.v0-unstable"), None);
        assert_eq!(split_path_major("gopkg.in/yaml.v10"), Some(("gopkg.in/yaml", ".v10")));
    }

    proptest! {
        #[test]
        fn the_parts_of_a_split_path_make_up_the_path(path in "(gopkg\\.in/|a\\.b/)?[a-z/]{0,6}[./]?v?[0-9.]{0,4}(-unstable)?") {
            if let Some((prefix, major)) = split_path_major(&path) {
                prop_assert_eq!(format!("{prefix}{major}"), path);
            }
        }

        #[test]
        fn a_module_path_is_a_file_path(path in "[a-z]\\.[a-z]{1,3}(/[a-zA-Z0-9.~_-]{1,5}){0,3}") {
            if check_module(&path).is_ok() {
                prop_assert!(check_file(&path).is_ok());
            }
        }

        #[test]
        fn no_input_panics(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (check_module(&path), check_file(&path));
        }
    }
}
