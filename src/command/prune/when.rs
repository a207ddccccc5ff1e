//! A day on the command line: an age, or a date.

use std::time::SystemTime;

use stoa_store::Day;
use time::{Date, Month, Time};

/// Parses `90d` or `12w`, an age, or a date.
pub(super) fn parse(text: &str) -> Result<Day, String> {
    let wrong = || format!("{text:?} is neither an age, as in 90d and 12w, nor a date, as in 2026-01-31");
    let days = |number: &str, days: i64| {
        let number: u32 = number.parse().map_err(|_| wrong())?;
        Ok(Day(Day::today().0 - i64::from(number) * days))
    };
    if let Some(number) = text.strip_suffix('d') {
        return days(number, 1);
    }
    if let Some(number) = text.strip_suffix('w') {
        return days(number, 7);
    }
    let date = date(text).ok_or_else(wrong)?;
    let day = Day::of(SystemTime::from(date.with_time(Time::MIDNIGHT).assume_utc()));
    match day <= Day::today() {
        true => Ok(day),
        false => Err(format!("{text} is in the future")),
    }
}

/// Parses `2026-01-31`.
fn date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let mut part = |digits: usize| parts.next().filter(|part| part.len() == digits);
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    let is_end = parts.next().is_none();
    let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
    Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok().filter(|_| is_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_dates_are_parsed() {
        let today = Day::today().0;
        assert_eq!(parse("0d"), Ok(Day(today)));
        assert_eq!(parse("90d"), Ok(Day(today - 90)));
        assert_eq!(parse("2w"), Ok(Day(today - 14)));
        assert_eq!(parse("2026-01-31"), Ok(Day(20_484)));
        for text in [
            "",
            "d",
            "3",
            "-1d",
            "+",
            "1h",
            "2026-02-30",
            "yesterday",
            "2026-1-31",
            "2026-01-31-",
            "2026-01-31T00:00:00Z",
            "2999-01-31",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
