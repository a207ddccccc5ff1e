//! Pseudo-versions, which name a commit without a tag.
//!
//! A pseudo-version consists of a base, the commit's time in UTC and its revision. The rules are those of
//! `golang.org/x/mod/module` (`IsPseudoVersion`, `PseudoVersionTime`). Whether a commit exists is known to its
//! repository only.

use crate::semver;
use time::OffsetDateTime;

/// Returns whether a text is a pseudo-version.
pub fn is_pseudo(version: &str) -> bool {
    version.bytes().filter(|&b| b == b'-').count() >= 2
        && timestamp(version).is_some()
        && semver::is_valid(version)
}

/// Returns the commit's time of a pseudo-version. `None` for other versions, and if the time is not in the calendar.
pub fn time(version: &str) -> Option<OffsetDateTime> {
    if !is_pseudo(version) {
        return None;
    }
    let timestamp = timestamp(version)?;
    let field = |range: std::ops::Range<usize>| timestamp[range].parse::<u16>().ok();
    let small = |range: std::ops::Range<usize>| timestamp[range].parse::<u8>().ok();
    let month = time::Month::try_from(small(4..6)?).ok()?;
    let date = time::Date::from_calendar_date(i32::from(field(0..4)?), month, small(6..8)?).ok()?;
    let time = time::Time::from_hms(small(8..10)?, small(10..12)?, small(12..14)?).ok()?;
    Some(OffsetDateTime::new_utc(date, time))
}

/// Returns the 14 digits of the time if a text has the shape of a pseudo-version.
///
/// The shape is `vX.` and then `0.0-`, or `Y.Z-`, text that ends in a dot, `0.`; 14 digits; `-`; revision.
fn timestamp(version: &str) -> Option<&str> {
    let unbuilt = version.split('+').next()?;
    let (rest, revision) = unbuilt.rsplit_once('-')?;
    let (front, timestamp) = rest.split_at_checked(rest.len().checked_sub(14)?)?;
    if revision.is_empty()
        || !revision.bytes().all(|b| b.is_ascii_alphanumeric())
        || !timestamp.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let (_, after_major) = front.split_once('.')?;
    let has_base =
        || after_major.split_once('-').is_some_and(|(_, text)| text == "0." || text.ends_with(".0."));
    (after_major == "0.0-" || has_base()).then_some(timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_time_of_a_pseudo_version_is_its_timestamp(
            base in "v1\\.0\\.0-|v[0-9]\\.(0|[1-9][0-9]?)\\.([0-9]|[1-9][0-9]{1,30})-([a-z]{1,3}\\.)?0\\.",
            seconds in 0i64..253_402_300_799,
            end in "-[0-9a-f]{12}(\\+incompatible)?",
        ) {
            let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let timestamp = format!(
                "{:04}{:02}{:02}{:02}{:02}{:02}",
                time.year(), u8::from(time.month()), time.day(), time.hour(), time.minute(), time.second()
            );
            prop_assert_eq!(super::time(&format!("{base}{timestamp}{end}")), Some(time));
        }

        #[test]
        fn no_input_panics(text in ".{0,40}") {
            let _ = time(&text);
        }
    }
}
