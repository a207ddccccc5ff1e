//! Escaped names in URLs and file names: each upper-case letter is written as `!` and its lower case.
//!
//! File systems that ignore case would otherwise confuse two modules. The decoder is strict, so a name has
//! exactly one escaped form. The rule is that of `golang.org/x/mod/module` (`EscapePath`, `UnescapePath`).
//! The decoded names are validated by [`ModulePath`](crate::ModulePath), [`Version`](crate::Version) and
//! [`Revision`](crate::Revision).

use crate::path::PathError;
use crate::revision::RevisionError;
use crate::version::VersionError;
use std::borrow::Cow;

/// The reason why an escaped name is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EscapeError {
    /// The escaping is wrong: an upper-case letter, a byte beyond ASCII, or a `!` without a letter.
    #[error("{0:?} is not an escaped name")]
    Escaping(String),
    /// The decoded name is not a module path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The decoded name is not a canonical version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The decoded name is not a version element.
    #[error(transparent)]
    Revision(#[from] RevisionError),
}

/// Escapes a valid name, which is ASCII without `!`.
pub(crate) fn encode(plain: &str) -> String {
    let mut escaped = String::with_capacity(plain.len() + 8);
    for c in plain.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    escaped
}

/// Decodes an escaped name. Borrows it if there is nothing to decode.
pub(crate) fn decode(escaped: &str) -> Result<Cow<'_, str>, EscapeError> {
    try_decode(escaped).ok_or_else(|| EscapeError::Escaping(escaped.to_owned()))
}

/// Decodes an escaped name. Returns `None` if it is invalid.
pub(crate) fn try_decode(escaped: &str) -> Option<Cow<'_, str>> {
    if !escaped.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return None;
    }
    if !escaped.contains('!') {
        return Some(Cow::Borrowed(escaped));
    }
    let mut plain = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => plain.push(chars.next().filter(char::is_ascii_lowercase)?.to_ascii_uppercase()),
            _ => plain.push(c),
        }
    }
    Some(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_without_escapes_are_borrowed() {
        assert!(matches!(try_decode("example.com/a"), Some(Cow::Borrowed("example.com/a"))));
    }

    proptest! {
        #[test]
        fn decoding_an_encoded_name_returns_the_name(name in "[a-zA-Z0-9./_~+ -]{0,30}") {
            let escaped = encode(&name);
            prop_assert_eq!(try_decode(&escaped), Some(Cow::Borrowed(name.as_str())));
        }

        #[test]
        fn encoding_a_decoded_name_returns_its_escaped_form(escaped in "[a-zA-Z!./é-]{0,12}") {
            if let Some(name) = try_decode(&escaped) {
                prop_assert_eq!(encode(&name), escaped);
            }
        }

        #[test]
        fn escaped_names_differ_even_without_case(a in "[a-cA-C]{0,5}", b in "[a-cA-C]{0,5}") {
            prop_assert_eq!(a == b, encode(&a).eq_ignore_ascii_case(&encode(&b)));
        }
    }
}
