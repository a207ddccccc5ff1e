//! How a name is spelled in URLs and file names: each upper-case letter as `!` and its lower case.
//!
//! File systems that fold case would otherwise mix up two modules. The decoder is strict, so a name has
//! exactly one escaped spelling. The rule is that of `golang.org/x/mod/module` (`EscapePath`,
//! `UnescapePath`); what the decoded name must look like is said by [`ModulePath`](crate::ModulePath),
//! [`Version`](crate::Version) and [`Revision`](crate::Revision).

use crate::path::PathError;
use crate::revision::RevisionError;
use crate::version::VersionError;
use std::borrow::Cow;

/// An escaped name that cannot be decoded, or that stands for no valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EscapeError {
    /// The spelling itself is wrong: an upper-case letter, a byte beyond ASCII, or `!` without a letter.
    #[error("{0:?} is not an escaped name")]
    Spelling(String),
    /// It stands for something that is no module path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It stands for something that is no canonical version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// It stands for something that no version element can be.
    #[error(transparent)]
    Revision(#[from] RevisionError),
}

/// Encodes a valid name, which has neither `!` nor anything beyond ASCII.
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

/// Decodes an escaped name; what has nothing to decode is lent as it is.
pub(crate) fn decode(escaped: &str) -> Result<Cow<'_, str>, EscapeError> {
    decode_quietly(escaped).ok_or_else(|| EscapeError::Spelling(escaped.to_owned()))
}

/// Decodes an escaped name without a word on what is wrong.
pub(crate) fn decode_quietly(escaped: &str) -> Option<Cow<'_, str>> {
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
    fn what_needs_no_decoding_is_lent() {
        assert!(matches!(decode_quietly("example.com/a"), Some(Cow::Borrowed("example.com/a"))));
    }

    proptest! {
        #[test]
        fn encoding_and_decoding_gives_the_name(name in "[a-zA-Z0-9./_~+ -]{0,30}") {
            let escaped = encode(&name);
            prop_assert_eq!(decode_quietly(&escaped), Some(Cow::Borrowed(name.as_str())));
        }

        #[test]
        fn decoding_and_encoding_gives_the_spelling(escaped in "[a-zA-Z!./é-]{0,12}") {
            if let Some(name) = decode_quietly(&escaped) {
                prop_assert_eq!(encode(&name), escaped);
            }
        }

        #[test]
        fn two_names_never_share_a_spelling_even_folded(a in "[a-cA-C]{0,5}", b in "[a-cA-C]{0,5}") {
            prop_assert_eq!(a == b, encode(&a).eq_ignore_ascii_case(&encode(&b)));
        }
    }
}
