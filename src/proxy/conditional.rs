//! Conditional requests and ranges (RFC 9110, sections 13 and 14).
//!
//! A request for a single range gets that range. A request for several ranges, or with a range that cannot be parsed, gets
//! the whole file.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use hyper::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

/// The validators of a file, which a client compares with those of its copy.
#[derive(Debug, Clone)]
pub(super) struct Validators {
    /// A strong entity tag, quotes included.
    pub(super) etag: HeaderValue,
    /// The time of the last change, if it is known and HTTP can express it.
    pub(super) modified: Option<SystemTime>,
}

impl Validators {
    pub(super) fn new(etag: HeaderValue, modified: Option<SystemTime>) -> Self {
        Self { etag, modified: modified.filter(|time| is_http_date(*time)) }
    }
}

/// Returns whether HTTP can express a time: the years 1970 to 9999. The conversion of the library panics for others.
fn is_http_date(time: SystemTime) -> bool {
    const END: Duration = Duration::from_secs(253_402_300_800);
    time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < END)
}

/// The part of a file that a request gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The whole file: 200.
    Whole,
    /// A range of bytes: 206.
    Range(Range<u64>),
    /// Nothing, since the client has a current copy: 304.
    NotModified,
    /// Nothing, since the file is not the one that the client means: 412.
    PreconditionFailed,
    /// Nothing, since no byte is in the range: 416.
    Unsatisfiable,
}

impl Part {
    /// Returns the bytes of a file of this length that the answer has. `None` if it has none.
    pub(super) fn range(&self, length: u64) -> Option<Range<u64>> {
        match self {
            Self::Whole => Some(0..length),
            Self::Range(range) => Some(range.clone()),
            Self::NotModified | Self::PreconditionFailed | Self::Unsatisfiable => None,
        }
    }
}

/// Returns whether a request may get anything but the whole file.
pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    [RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Returns the part that a request gets of a file of this length.
pub(super) fn judge(headers: &HeaderMap, is_head: bool, validators: &Validators, length: u64) -> Part {
    let date = |name: HeaderName| headers.get(name).and_then(read_date);
    if headers.contains_key(IF_MATCH) {
        if !lists(headers, IF_MATCH, &validators.etag, false) {
            return Part::PreconditionFailed;
        }
    } else if let (Some(since), Some(modified)) = (date(IF_UNMODIFIED_SINCE), validators.modified)
        && whole_secs(modified) > whole_secs(since)
    {
        return Part::PreconditionFailed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if lists(headers, IF_NONE_MATCH, &validators.etag, true) {
            return Part::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date(IF_MODIFIED_SINCE), validators.modified)
        && whole_secs(modified) <= whole_secs(since)
    {
        return Part::NotModified;
    }
    match headers.get(RANGE) {
        // Ranges apply to GET only.
        Some(range) if !is_head && has_same_copy(headers, validators) => judge_range(range, length),
        _ => Part::Whole,
    }
}

fn judge_range(range: &HeaderValue, length: u64) -> Part {
    let Some(range) = range.to_str().ok().and_then(read_range) else { return Part::Whole };
    let (start, end) = match range {
        ByteRange::From(first, last) => {
            (first, last.map_or(length, |last| last.saturating_add(1).min(length)))
        }
        ByteRange::Last(count) => (length.saturating_sub(count), length),
    };
    if start < end { Part::Range(start..end) } else { Part::Unsatisfiable }
}

enum ByteRange {
    /// From the first to the last byte, or to the end.
    From(u64, Option<u64>),
    /// The last bytes, by their number.
    Last(u64),
}

fn read_range(text: &str) -> Option<ByteRange> {
    let (unit, range) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let range = match (first, last) {
        ("", count) => ByteRange::Last(read_number(count)?),
        (first, "") => ByteRange::From(read_number(first)?, None),
        (first, last) => ByteRange::From(read_number(first)?, Some(read_number(last)?)),
    };
    match range {
        ByteRange::From(first, Some(last)) if last < first => None,
        range => Some(range),
    }
}

/// Parses a number that consists of digits only. A number that is too large becomes the largest one.
fn read_number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Returns whether the client has a part of this very file (`If-Range`).
fn has_same_copy(headers: &HeaderMap, validators: &Validators) -> bool {
    let Some(condition) = headers.get(IF_RANGE) else { return true };
    match read_date(condition) {
        Some(date) => validators.modified.is_some_and(|modified| whole_secs(modified) == whole_secs(date)),
        None => condition.as_bytes() == validators.etag.as_bytes(),
    }
}

/// Returns whether a header lists an entity tag, or all tags by `*`.
fn lists(headers: &HeaderMap, name: HeaderName, etag: &HeaderValue, weakly: bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        // Our tags contain no comma.
        value.split(',').map(str::trim).any(|tag| {
            let tag = if weakly { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
            tag == "*" || tag.as_bytes() == etag.as_bytes()
        })
    })
}

fn read_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// Returns a time with the precision of `Last-Modified`.
fn whole_secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn judge_get(pairs: &[(HeaderName, &str)], length: u64) -> Part {
        let validators = Validators {
            etag: HeaderValue::from_static("\"a\""),
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500)),
        };
        let headers =
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        judge(&headers, false, &validators, length)
    }

    #[test]
    fn a_time_that_http_cannot_express_is_no_validator() {
        let tag = || HeaderValue::from_static("\"a\"");
        let of = |time| Validators::new(tag(), Some(time)).modified;
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
        assert_eq!(of(SystemTime::UNIX_EPOCH - Duration::from_nanos(1)), None);
        assert_eq!(of(end), None);
        for time in [SystemTime::UNIX_EPOCH, end - Duration::from_nanos(1)] {
            assert_eq!(of(time), Some(time));
            httpdate::fmt_http_date(time);
        }
    }

    #[test]
    fn a_client_with_the_current_tag_gets_not_modified() {
        for known in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert_eq!(judge_get(&[(IF_NONE_MATCH, known)], 9), Part::NotModified, "{known}");
        }
        assert_eq!(judge_get(&[(IF_NONE_MATCH, "\"b\"")], 9), Part::Whole);
    }

    #[test]
    fn a_tag_takes_precedence_over_a_date() {
        let later = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(2000));
        let same = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        let earlier = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(999));
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &later)], 9), Part::NotModified);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &same)], 9), Part::NotModified);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &earlier)], 9), Part::Whole);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &later), (IF_NONE_MATCH, "\"b\"")], 9), Part::Whole);
        assert_eq!(judge_get(&[(IF_UNMODIFIED_SINCE, &earlier)], 9), Part::PreconditionFailed);
        assert_eq!(judge_get(&[(IF_UNMODIFIED_SINCE, &same)], 9), Part::Whole);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, "yesterday")], 9), Part::Whole);
    }

    #[test]
    fn if_match_compares_strongly() {
        assert_eq!(judge_get(&[(IF_MATCH, "\"a\"")], 9), Part::Whole);
        assert_eq!(judge_get(&[(IF_MATCH, "W/\"a\"")], 9), Part::PreconditionFailed);
    }

    #[test]
    fn a_single_range_is_served_and_other_ranges_get_the_whole_file() {
        for (range, length, part) in [
            ("bytes=0-0", 9, Part::Range(0..1)),
            ("bytes=2-", 9, Part::Range(2..9)),
            ("bytes=2-100", 9, Part::Range(2..9)),
            ("bytes=-3", 9, Part::Range(6..9)),
            ("bytes=-99999999999999999999999", 9, Part::Range(0..9)),
            ("bytes=9-", 9, Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", 9, Part::Unsatisfiable),
            ("bytes=-0", 9, Part::Unsatisfiable),
            ("bytes=0-", 0, Part::Unsatisfiable),
            ("bytes=0-1,4-5", 9, Part::Whole),
            ("bytes=5-4", 9, Part::Whole),
            ("bytes=+1-4", 9, Part::Whole),
            ("bytes=-", 9, Part::Whole),
            ("lines=1-2", 9, Part::Whole),
            ("", 9, Part::Whole),
        ] {
            assert_eq!(judge_get(&[(RANGE, range)], length), part, "{range}");
        }
    }

    #[test]
    fn a_range_of_another_file_gets_the_whole_file() {
        let same = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        let later = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1001));
        for (condition, part) in [
            ("\"a\"", Part::Range(1..2)),
            ("W/\"a\"", Part::Whole),
            ("\"b\"", Part::Whole),
            (same.as_str(), Part::Range(1..2)),
            (later.as_str(), Part::Whole),
        ] {
            assert_eq!(judge_get(&[(RANGE, "bytes=1-1"), (IF_RANGE, condition)], 9), part, "{condition}");
        }
    }
}
