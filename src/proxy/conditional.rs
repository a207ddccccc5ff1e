//! What a client wants to have only if, and only a part of (RFC 9110, sections 13 and 14).
//!
//! A single range is answered by itself; what asks for more than one is answered with the whole, as is what
//! cannot be read.

use std::ops::Range;
use std::time::SystemTime;

use hyper::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};

/// What a client has to compare with what it knows.
#[derive(Debug, Clone)]
pub(super) struct Validators {
    /// A strong entity tag, quotes included.
    pub(super) etag: HeaderValue,
    /// When it was written last, if that is known.
    pub(super) modified: Option<SystemTime>,
}

/// What a request comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it.
    Whole,
    /// A part: 206.
    Part(Range<u64>),
    /// The client has it: 304.
    NotModified,
    /// It is not what the client wants to have: 412.
    Failed,
    /// No byte of it is in the range: 416.
    Unsatisfiable,
}

/// Says whether anything but the whole may come out.
pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    [RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Judges a request for something of this length.
pub(super) fn judge(headers: &HeaderMap, is_head: bool, validators: &Validators, length: u64) -> Verdict {
    let date = |name: HeaderName| headers.get(name).and_then(read_date);
    if headers.contains_key(IF_MATCH) {
        if !lists(headers, IF_MATCH, &validators.etag, false) {
            return Verdict::Failed;
        }
    } else if let (Some(since), Some(modified)) = (date(IF_UNMODIFIED_SINCE), validators.modified)
        && whole_secs(modified) > whole_secs(since)
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if lists(headers, IF_NONE_MATCH, &validators.etag, true) {
            return Verdict::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (date(IF_MODIFIED_SINCE), validators.modified)
        && whole_secs(modified) <= whole_secs(since)
    {
        return Verdict::NotModified;
    }
    match headers.get(RANGE) {
        // A range of a HEAD means nothing.
        Some(range) if !is_head && is_same_still(headers, validators) => judge_range(range, length),
        _ => Verdict::Whole,
    }
}

fn judge_range(range: &HeaderValue, length: u64) -> Verdict {
    let Some(range) = range.to_str().ok().and_then(read_range) else { return Verdict::Whole };
    let (start, end) = match range {
        Asked::From(first, last) => (first, last.map_or(length, |last| last.saturating_add(1).min(length))),
        Asked::Last(count) => (length.saturating_sub(count), length),
    };
    if start < end { Verdict::Part(start..end) } else { Verdict::Unsatisfiable }
}

enum Asked {
    /// From the first to the last byte, or to the end.
    From(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

fn read_range(text: &str) -> Option<Asked> {
    let (unit, range) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let asked = match (first, last) {
        ("", count) => Asked::Last(read_number(count)?),
        (first, "") => Asked::From(read_number(first)?, None),
        (first, last) => Asked::From(read_number(first)?, Some(read_number(last)?)),
    };
    match asked {
        Asked::From(first, Some(last)) if last < first => None,
        asked => Some(asked),
    }
}

/// Reads digits and nothing else; what is beyond all lengths is the largest number.
fn read_number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Says whether what the client has a part of is what we have (`If-Range`).
fn is_same_still(headers: &HeaderMap, validators: &Validators) -> bool {
    let Some(condition) = headers.get(IF_RANGE) else { return true };
    match read_date(condition) {
        Some(date) => validators.modified.is_some_and(|modified| whole_secs(modified) == whole_secs(date)),
        None => condition.as_bytes() == validators.etag.as_bytes(),
    }
}

/// Says whether a header lists an entity tag, or all by `*`.
fn lists(headers: &HeaderMap, name: HeaderName, etag: &HeaderValue, weakly: bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        // No tag of ours has a comma in it.
        value.split(',').map(str::trim).any(|tag| {
            let tag = if weakly { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
            tag == "*" || tag.as_bytes() == etag.as_bytes()
        })
    })
}

fn read_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// Is a time as `Last-Modified` can say it.
fn whole_secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn judge_get(pairs: &[(HeaderName, &str)], length: u64) -> Verdict {
        let validators = Validators {
            etag: HeaderValue::from_static("\"a\""),
            modified: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500)),
        };
        let headers =
            pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        judge(&headers, false, &validators, length)
    }

    #[test]
    fn a_tag_that_is_known_is_not_sent_again() {
        for known in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert_eq!(judge_get(&[(IF_NONE_MATCH, known)], 9), Verdict::NotModified, "{known}");
        }
        assert_eq!(judge_get(&[(IF_NONE_MATCH, "\"b\"")], 9), Verdict::Whole);
    }

    #[test]
    fn a_tag_goes_before_a_date() {
        let later = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(2000));
        let same = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        let earlier = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(999));
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &later)], 9), Verdict::NotModified);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &same)], 9), Verdict::NotModified);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &earlier)], 9), Verdict::Whole);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, &later), (IF_NONE_MATCH, "\"b\"")], 9), Verdict::Whole);
        assert_eq!(judge_get(&[(IF_UNMODIFIED_SINCE, &earlier)], 9), Verdict::Failed);
        assert_eq!(judge_get(&[(IF_UNMODIFIED_SINCE, &same)], 9), Verdict::Whole);
        assert_eq!(judge_get(&[(IF_MODIFIED_SINCE, "yesterday")], 9), Verdict::Whole);
    }

    #[test]
    fn what_must_match_matches_strongly() {
        assert_eq!(judge_get(&[(IF_MATCH, "\"a\"")], 9), Verdict::Whole);
        assert_eq!(judge_get(&[(IF_MATCH, "W/\"a\"")], 9), Verdict::Failed);
    }

    #[test]
    fn one_range_is_a_part() {
        for (range, length, verdict) in [
            ("bytes=0-0", 9, Verdict::Part(0..1)),
            ("bytes=2-", 9, Verdict::Part(2..9)),
            ("bytes=2-100", 9, Verdict::Part(2..9)),
            ("bytes=-3", 9, Verdict::Part(6..9)),
            ("bytes=-99999999999999999999999", 9, Verdict::Part(0..9)),
            ("bytes=9-", 9, Verdict::Unsatisfiable),
            ("bytes=99999999999999999999999-", 9, Verdict::Unsatisfiable),
            ("bytes=-0", 9, Verdict::Unsatisfiable),
            ("bytes=0-", 0, Verdict::Unsatisfiable),
            ("bytes=0-1,4-5", 9, Verdict::Whole),
            ("bytes=5-4", 9, Verdict::Whole),
            ("bytes=+1-4", 9, Verdict::Whole),
            ("bytes=-", 9, Verdict::Whole),
            ("lines=1-2", 9, Verdict::Whole),
            ("", 9, Verdict::Whole),
        ] {
            assert_eq!(judge_get(&[(RANGE, range)], length), verdict, "{range}");
        }
    }

    #[test]
    fn a_range_of_something_else_is_the_whole() {
        let same = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        let later = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1001));
        for (condition, verdict) in [
            ("\"a\"", Verdict::Part(1..2)),
            ("W/\"a\"", Verdict::Whole),
            ("\"b\"", Verdict::Whole),
            (same.as_str(), Verdict::Part(1..2)),
            (later.as_str(), Verdict::Whole),
        ] {
            assert_eq!(judge_get(&[(RANGE, "bytes=1-1"), (IF_RANGE, condition)], 9), verdict, "{condition}");
        }
    }
}
