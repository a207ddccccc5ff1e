//! Which module paths, import paths and file paths are valid, and how a major suffix is split off.
//!
//! The rules are those of `golang.org/x/mod/module` (`CheckPath`, `CheckImportPath`, `CheckFilePath`,
//! `SplitPathVersion`, `CheckPathMajor`). The three checks share one skeleton; they differ in the characters
//! that an element may hold and in a few extra rules. Whether a path leads anywhere is not asked here.

use crate::escape::{self, EscapeError};
use crate::semver;
use crate::text::as_text;
use std::sync::Arc;
use unicode_general_category::{GeneralCategory, get_general_category};

/// A valid module path, plain (not escaped).
///
/// - every element has ASCII letters, digits and `-._~` only, is no name reserved by Windows, does not begin
///   or end with a dot;
/// - the first element is a host name: lower case, with a dot, not beginning with `-`;
/// - the major suffix, if any, is one that Go knows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModulePath(Arc<str>);

impl ModulePath {
    /// Checks a plain path.
    pub fn new(path: &str) -> Result<Self, PathError> {
        check_module(path)?;
        Ok(Self(Arc::from(path)))
    }

    /// Decodes an escaped path, as it stands in URLs and file names, and checks it.
    pub fn unescape(escaped: &str) -> Result<Self, EscapeError> {
        let plain = escape::decode(escaped)?;
        Ok(Self::new(&plain)?)
    }

    /// Checks a plain path without a word on what is wrong, for callers that would drop it.
    pub(crate) fn accept(path: &str) -> Option<Self> {
        module_reason(path).is_none().then(|| Self(Arc::from(path)))
    }

    /// Returns the plain path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path as it stands in URLs and file names: each upper-case letter as `!` and its lower case.
    pub fn escaped(&self) -> String {
        escape::encode(&self.0)
    }

    /// Returns the path without its major suffix, and the suffix (`""`, `/v2`, `.v3`, `.v3-unstable`).
    pub fn split_major(&self) -> (&str, &str) {
        split_path_major(&self.0).unwrap_or((&self.0, ""))
    }
}

as_text!(ModulePath, PathError);

/// A path that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} path {path:?}: {reason}")]
pub struct PathError {
    /// Which rules were asked.
    pub kind: PathKind,
    /// The path, with replacement characters where it is not UTF-8.
    pub path: String,
    /// The first rule that it breaks.
    pub reason: PathReason,
}

/// The three sets of rules for paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A module path.
    Module,
    /// An import path.
    Import,
    /// A path of a file within a module.
    File,
}

impl std::fmt::Display for PathKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Module => "module",
            Self::Import => "import",
            Self::File => "file",
        })
    }
}

/// The rule of paths that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathReason {
    /// The path is not UTF-8.
    #[error("it is not UTF-8")]
    InvalidUtf8,
    /// The path has no character.
    #[error("it is empty")]
    Empty,
    /// The path begins with `-`.
    #[error("it begins with a dash")]
    LeadingDash,
    /// The path has two slashes in a row.
    #[error("it has a double slash")]
    DoubleSlash,
    /// The path ends with a slash.
    #[error("it ends with a slash")]
    TrailingSlash,
    /// An element has no character.
    #[error("it has an empty element")]
    EmptyElement,
    /// An element is `.`, `..` or more dots.
    #[error("it has an element of dots only")]
    DotsOnlyElement,
    /// An element begins with a dot.
    #[error("it has an element that begins with a dot")]
    LeadingDot,
    /// An element ends with a dot.
    #[error("it has an element that ends with a dot")]
    TrailingDot,
    /// A character is not allowed.
    #[error("it has a character that is not allowed")]
    InvalidChar,
    /// An element is a device name of Windows.
    #[error("it has an element that is a reserved name on Windows")]
    WindowsReserved,
    /// An element looks like a short name of Windows.
    #[error("it has an element that ends with a tilde and digits")]
    TildeDigits,
    /// The first element of a module path has no dot.
    #[error("its first element has no dot")]
    FirstNoDot,
    /// The first element of a module path has something else than `a-z0-9.-`.
    #[error("its first element has a character that is not allowed there")]
    FirstInvalidChar,
    /// The major suffix of a module path is none that Go knows.
    #[error("its major version suffix is not valid")]
    BadMajorSuffix,
}

impl PathReason {
    /// Returns the short name of the rule, for machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Empty => "empty",
            Self::LeadingDash => "leading_dash",
            Self::DoubleSlash => "double_slash",
            Self::TrailingSlash => "trailing_slash",
            Self::EmptyElement => "empty_element",
            Self::DotsOnlyElement => "dots_only_element",
            Self::LeadingDot => "leading_dot",
            Self::TrailingDot => "trailing_dot",
            Self::InvalidChar => "invalid_char",
            Self::WindowsReserved => "windows_reserved",
            Self::TildeDigits => "tilde_digits",
            Self::FirstNoDot => "first_no_dot",
            Self::FirstInvalidChar => "first_invalid_char",
            Self::BadMajorSuffix => "bad_major_suffix",
        }
    }
}

/// Checks a module path.
pub fn check_module(path: impl AsRef<[u8]>) -> Result<(), PathError> {
    check(PathKind::Module, path.as_ref())
}

/// Checks an import path.
pub fn check_import(path: impl AsRef<[u8]>) -> Result<(), PathError> {
    check(PathKind::Import, path.as_ref())
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
            PathKind::Import => common || c == '+',
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

/// Says whether Windows keeps this name, up to the first dot of an element, for a device.
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

/// Splits the major suffix off a path; `None` if it looks like one and is none that Go allows.
///
/// Prefix and suffix together are always the path. The path need not be valid otherwise.
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

/// Splits a path of gopkg.in, where every path needs a suffix of the form `.vN`.
fn split_gopkg_in(path: &str) -> Option<(&str, &str)> {
    let tagged = path.strip_suffix("-unstable").unwrap_or(path);
    let stem = tagged.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &tagged[stem.len()..];
    if number.is_empty() || !stem.ends_with(".v") {
        return None;
    }
    // `.v0` alone may begin with a zero, and has no unstable twin.
    let valid = !number.starts_with('0') || (number == "0" && tagged.len() == path.len());
    valid.then(|| path.split_at(stem.len() - 2))
}

/// Says whether a version agrees with a major suffix as [`split_path_major`] returns it.
pub fn path_major_matches(version: &str, path_major: &str) -> bool {
    let path_major = match path_major.strip_suffix("-unstable") {
        Some(stable) if path_major.starts_with(".v") => stable,
        _ => path_major,
    };
    // gopkg.in's v1 modules had pseudo-versions before Go knew better; only the text is looked at.
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
        assert_eq!(error.to_string(), r#"module path "example": its first element has no dot"#);
    }

    #[test]
    fn gopkg_in_without_a_number_is_refused() {
        assert_eq!(split_path_major("gopkg.in/yaml.v-unstable"), None);
        assert_eq!(split_path_major("gopkg.in/yaml.v0-unstable"), None);
        assert_eq!(split_path_major("gopkg.in/yaml.v10"), Some(("gopkg.in/yaml", ".v10")));
    }

    proptest! {
        #[test]
        fn a_split_path_is_the_path(path in "(gopkg\\.in/|a\\.b/)?[a-z/]{0,6}[./]?v?[0-9.]{0,4}(-unstable)?") {
            if let Some((prefix, major)) = split_path_major(&path) {
                prop_assert_eq!(format!("{prefix}{major}"), path);
            }
        }

        #[test]
        fn a_module_path_is_an_import_path_and_a_file_path(path in "[a-z]\\.[a-z]{1,3}(/[a-zA-Z0-9.~_-]{1,5}){0,3}") {
            if check_module(&path).is_ok() {
                prop_assert!(check_import(&path).is_ok());
                prop_assert!(check_file(&path).is_ok());
            }
        }

        #[test]
        fn any_bytes_get_an_answer(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (check_module(&path), check_import(&path), check_file(&path));
        }
    }
}
