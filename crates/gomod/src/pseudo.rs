//! Pseudo-versions, which name a commit that has no tag.
//!
//! A pseudo-version is a base, the commit's time in UTC and its revision. The rules are those of
//! `golang.org/x/mod/module` (`PseudoVersion`, `IsPseudoVersion`, `PseudoVersionBase`). Whether commit, time
//! and base are true is for whoever has the repository.

use crate::semver;
use time::{OffsetDateTime, UtcOffset};

/// What a pseudo-version says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pseudo {
    /// The tag that the commit follows, if any, or why the base names none.
    pub base: Result<Option<String>, BaseError>,
    /// The commit's time as 14 digits, `yyyymmddhhmmss`; need not be a date of the calendar.
    pub timestamp: String,
    /// The revision, 12 hex digits for git.
    pub revision: String,
}

impl Pseudo {
    /// Returns the commit's time, if it is one of the calendar.
    pub fn time(&self) -> Option<OffsetDateTime> {
        time_of(&self.timestamp)
    }
}

/// Why the base of a pseudo-version names no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// There is build metadata, and no base that it could belong to.
    #[error("it has build metadata without a base version")]
    BuildWithoutBase,
    /// The patch that precedes the base is below zero.
    #[error("the version before its base would have a negative patch number")]
    NegativePatch,
}

/// Says whether the text is a pseudo-version.
pub fn is_pseudo(version: &str) -> bool {
    version.bytes().filter(|&b| b == b'-').count() >= 2 && has_shape(version) && semver::is_valid(version)
}

/// Tells the shape: `vX.` and then `0.0-`, or `Y.Z-`, text that ends in a dot, `0.`; 14 digits; `-`; revision.
fn has_shape(version: &str) -> bool {
    let unbuilt = version.split('+').next().unwrap_or_default();
    let Some((rest, revision)) = unbuilt.rsplit_once('-') else { return false };
    let Some((front, timestamp)) = rest.len().checked_sub(14).and_then(|at| rest.split_at_checked(at)) else {
        return false;
    };
    if revision.is_empty()
        || !revision.bytes().all(|b| b.is_ascii_alphanumeric())
        || !timestamp.bytes().all(|b| b.is_ascii_digit())
    {
        return false;
    }
    let Some((_, after_major)) = front.split_once('.') else { return false };
    if after_major == "0.0-" {
        return true;
    }
    let Some((_, text)) = after_major.split_once('-') else { return false };
    text == "0." || text.ends_with(".0.")
}

/// Takes a pseudo-version apart; `None` if it is none.
pub fn parse(version: &str) -> Option<Pseudo> {
    if !is_pseudo(version) {
        return None;
    }
    let build = semver::build(version);
    let unbuilt = &version[..version.len() - build.len()];
    let (rest, revision) = unbuilt.rsplit_once('-')?;
    let (front, timestamp) = match (rest.rfind('.'), rest.rfind('-')) {
        (Some(dot), Some(dash)) if dash > dot => (&rest[..dash], &rest[dash + 1..]),
        (Some(dot), _) => (&rest[..dot], &rest[dot + 1..]),
        (None, _) => return None,
    };
    Some(Pseudo {
        base: base_of(front, build),
        timestamp: timestamp.to_owned(),
        revision: revision.to_owned(),
    })
}

fn base_of(front: &str, build: &str) -> Result<Option<String>, BaseError> {
    match semver::prerelease(front) {
        "" if build.is_empty() => Ok(None),
        "" => Err(BaseError::BuildWithoutBase),
        "-0" => {
            let release = front.strip_suffix("-0").unwrap_or(front);
            let (front, patch) = release.rsplit_once('.').unwrap_or((release, "0"));
            let patch = decrement(patch).ok_or(BaseError::NegativePatch)?;
            Ok(Some(format!("{front}.{patch}{build}")))
        }
        _ => Ok(Some(format!("{}{build}", front.strip_suffix(".0").unwrap_or(front)))),
    }
}

/// Returns the commit's time of a pseudo-version, if it is one and the time is of the calendar.
pub fn time(version: &str) -> Option<OffsetDateTime> {
    parse(version)?.time()
}

/// Returns the revision of a pseudo-version, if it is one.
pub fn revision(version: &str) -> Option<String> {
    Some(parse(version)?.revision)
}

fn time_of(timestamp: &str) -> Option<OffsetDateTime> {
    if timestamp.len() != 14 || !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let field = |range: std::ops::Range<usize>| timestamp[range].parse::<u16>().ok();
    let small = |range: std::ops::Range<usize>| timestamp[range].parse::<u8>().ok();
    let month = time::Month::try_from(small(4..6)?).ok()?;
    let date = time::Date::from_calendar_date(i32::from(field(0..4)?), month, small(6..8)?).ok()?;
    let time = time::Time::from_hms(small(8..10)?, small(10..12)?, small(12..14)?).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

/// Makes a pseudo-version for a commit.
///
/// `older` is the highest tag that precedes the commit; without one (empty or not valid) the base is `major`
/// (empty for `v0`) followed by `.0.0`. A time outside the years 0 to 9999 has no such form; it gives a text
/// that is no pseudo-version.
pub fn make(major: &str, older: &str, time: OffsetDateTime, revision: &str) -> String {
    let time = time.to_offset(UtcOffset::UTC);
    let timestamp = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    let Some(parts) = semver::parse(older) else {
        let major = if major.is_empty() { "v0" } else { major };
        return format!("{major}.0.0-{timestamp}-{revision}");
    };
    let (numbers, build) = (format!("v{}.{}", parts.major, parts.minor), parts.build);
    match parts.prerelease {
        "" => format!("{numbers}.{}-0.{timestamp}-{revision}{build}", increment(parts.patch)),
        pre => format!("{numbers}.{}{pre}.0.{timestamp}-{revision}{build}", parts.patch),
    }
}

/// Adds one to a decimal number of any length.
fn increment(number: &str) -> String {
    let mut digits = number.as_bytes().to_vec();
    for digit in digits.iter_mut().rev() {
        if *digit == b'9' {
            *digit = b'0';
        } else {
            *digit += 1;
            return digits.into_iter().map(char::from).collect();
        }
    }
    format!("1{}", "0".repeat(digits.len()))
}

/// Takes one from a decimal number of any length; `None` at zero.
fn decrement(number: &str) -> Option<String> {
    let kept = number.trim_end_matches('0');
    let last = kept.bytes().last()?;
    let zeros = number.len() - kept.len();
    let mut less = kept[..kept.len() - 1].to_owned();
    // A leading one becomes a zero only where nothing else is left of the number.
    if !(less.is_empty() && last == b'1' && zeros > 0) {
        less.push(char::from(last - 1));
    }
    less.push_str(&"9".repeat(zeros));
    Some(less)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_any_length_are_counted() {
        assert_eq!(increment("99999999999999999999999"), "100000000000000000000000");
        assert_eq!(decrement("100000000000000000000000").unwrap(), "99999999999999999999999");
        assert_eq!(decrement("1").unwrap(), "0");
        assert_eq!(decrement("0"), None);
    }

    proptest! {
        #[test]
        fn one_more_and_one_less_is_the_same(n in any::<u64>()) {
            prop_assert_eq!(increment(&n.to_string()), (u128::from(n) + 1).to_string());
            prop_assert_eq!(decrement(&increment(&n.to_string())), Some(n.to_string()));
        }

        #[test]
        fn what_is_made_can_be_taken_apart(
            older in "|v[0-9]\\.[0-9]{1,2}\\.([0-9]|[1-9][0-9]{1,30})(-[a-z]{1,3}(\\.[1-9])?)?(\\+incompatible)?",
            seconds in 0i64..253_402_300_799,
            revision in "[0-9a-f]{12}",
        ) {
            prop_assume!(older.is_empty() || semver::is_valid(&older));
            let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let version = make("v1", &older, time, &revision);
            let pseudo = parse(&version).unwrap();
            prop_assert_eq!(pseudo.time(), Some(time));
            prop_assert_eq!(pseudo.revision, revision);
            prop_assert_eq!(pseudo.base, Ok(Some(older.clone()).filter(|base| !base.is_empty())));
            prop_assert!(semver::is_canonical(&version));
            if !older.is_empty() {
                prop_assert!(semver::compare(&older, &version).is_lt());
            }
        }

        #[test]
        fn any_text_gets_an_answer(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
