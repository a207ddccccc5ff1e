//! The part of a zip that arrived before its download was interrupted, and the answers that continue it.
//!
//! A proxy is asked for the rest with `Range` and `If-Range`. An answer with the rest (206) continues the zip if it
//! starts at the right byte and belongs to the same content. Any other answer starts at the first byte of a zip, and
//! the caller compares it with the part that it has.

use super::encoding::Encoding;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};

/// The first part of a zip, and the answer that it came from.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    /// The entry of the list that answered.
    pub(super) entry: usize,
    /// The number of bytes.
    pub(super) size: u64,
    /// The length of the whole zip, if it is known.
    pub(super) length: Option<u64>,
    /// `None` if the rest cannot be requested.
    pub(super) validator: Option<Validator>,
}

/// The value that identifies the content of an answer: a strong `ETag`, or else `Last-Modified`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validator(HeaderName, HeaderValue);

impl Validator {
    pub(super) fn of(headers: &HeaderMap, encoding: Encoding) -> Option<Self> {
        // A range of a compressed answer is not a range of the zip.
        if encoding != Encoding::Identity {
            return None;
        }
        let is_strong = |value: &&HeaderValue| value.as_bytes().starts_with(b"\"");
        let strong = headers.get(ETAG).filter(is_strong).map(|value| Self(ETAG, value.clone()));
        strong.or_else(|| headers.get(LAST_MODIFIED).map(|value| Self(LAST_MODIFIED, value.clone())))
    }

    /// Returns the value for `If-Range`.
    pub(super) fn value(&self) -> &HeaderValue {
        &self.1
    }

    /// Returns whether two answers with these validators have different content.
    pub(super) fn contradicts(&self, other: &Self) -> bool {
        self.0 == other.0 && self.1 != other.1
    }
}

/// The part of the content that an answer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The whole content.
    Whole,
    /// The content from a byte to its end.
    From { first: u64, total: Option<u64> },
    /// Another part, or an unknown one.
    Other,
}

impl Extent {
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, encoding: Encoding) -> Self {
        if status != StatusCode::PARTIAL_CONTENT {
            return Self::Whole;
        }
        let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        match range.filter(|_| encoding == Encoding::Identity).and_then(rest) {
            Some((first, total)) => Self::From { first, total },
            None => Self::Other,
        }
    }

    /// Returns the first byte.
    pub(super) fn first(self) -> u64 {
        match self {
            Self::From { first, .. } => first,
            Self::Whole | Self::Other => 0,
        }
    }

    /// Returns whether an answer with this part and this validator can be used by a caller that has a beginning.
    pub(super) fn is_usable(self, validator: Option<&Validator>, beginning: Option<&Beginning>) -> bool {
        let Self::From { first, total } = self else { return self == Self::Whole };
        let Some(beginning) = beginning else { return false };
        let is_other = |validator: &Validator| {
            beginning.validator.as_ref().is_some_and(|before| before.contradicts(validator))
        };
        first == beginning.size && !differs(total, beginning.length) && !validator.is_some_and(is_other)
    }
}

impl Beginning {
    /// Returns whether an answer of an entry may be the same zip, as far as its headers say.
    pub(super) fn may_be_of(&self, entry: usize, length: Option<u64>, validator: Option<&Validator>) -> bool {
        let is_other = match (&self.validator, validator) {
            (Some(before), Some(now)) => self.entry == entry && before.contradicts(now),
            _ => false,
        };
        !is_other && !differs(length, self.length)
    }
}

fn differs(one: Option<u64>, other: Option<u64>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

/// Parses a `Content-Range` that reaches to the end. Returns its first byte and the length of the whole content.
fn rest(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse::<u64>().ok()?);
    let total = if total == "*" { None } else { Some(total.parse::<u64>().ok()?) };
    let reaches_the_end = total.is_none_or(|total| last.checked_add(1) == Some(total));
    (first <= last && reaches_the_end).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn validator(pairs: &[(HeaderName, &'static str)]) -> Option<Validator> {
        Validator::of(&headers(pairs), Encoding::Identity)
    }

    fn beginning() -> Beginning {
        Beginning { entry: 1, size: 10, length: Some(30), validator: validator(&[(ETAG, "\"a\"")]) }
    }

    #[test]
    fn a_validator_is_a_strong_etag_or_a_date() {
        let date = "Thu, 01 Jan 2026 00:00:00 GMT";
        let value = |pairs: &[_]| validator(pairs).map(|validator| validator.value().clone());
        assert_eq!(value(&[(ETAG, "\"a\""), (LAST_MODIFIED, date)]).unwrap(), "\"a\"");
        assert_eq!(value(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, date)]).unwrap(), date);
        assert_eq!(value(&[(ETAG, "W/\"a\"")]), None);
        assert_eq!(Validator::of(&headers(&[(ETAG, "\"a\"")]), Encoding::Gzip), None);
    }

    #[test]
    fn only_the_rest_of_the_same_content_continues_a_zip() {
        let usable = |range: &'static str, etag: &'static str| {
            let headers = headers(&[(CONTENT_RANGE, range), (ETAG, etag)]);
            let extent = Extent::of(StatusCode::PARTIAL_CONTENT, &headers, Encoding::Identity);
            extent.is_usable(Validator::of(&headers, Encoding::Identity).as_ref(), Some(&beginning()))
        };
        for range in ["bytes 10-29/30", "bytes 10-29/*"] {
            assert!(usable(range, "\"a\""), "{range}");
            assert!(!usable(range, "\"b\""), "{range}");
        }
        for range in [
            "bytes 9-29/30",
            "bytes 11-29/30",
            "bytes 10-28/30",
            "bytes 10-39/40",
            "bytes 10-9/30",
            "bytes 10-29",
            "bytes 10-18446744073709551615/0",
            "lines 10-29/30",
            "bytes */30",
            "",
        ] {
            assert!(!usable(range, "\"a\""), "{range}");
        }
        assert!(Extent::Whole.is_usable(None, Some(&beginning())) && Extent::Whole.is_usable(None, None));
        assert!(!Extent::From { first: 10, total: Some(30) }.is_usable(None, None));
    }

    #[test]
    fn another_length_or_validator_is_another_zip() {
        let other = validator(&[(ETAG, "\"b\"")]);
        assert!(beginning().may_be_of(1, Some(30), beginning().validator.as_ref()));
        assert!(beginning().may_be_of(1, None, None));
        assert!(!beginning().may_be_of(1, Some(31), None));
        assert!(!beginning().may_be_of(1, Some(30), other.as_ref()));
        assert!(beginning().may_be_of(2, Some(30), other.as_ref()), "each upstream has its own validators");
    }
}
