//! Parts that the events of several commands share.

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_store::Day;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::report::Reporter;

/// A version in an event: `module` and `version` in JSON, `MODULE@VERSION` for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct VersionKeys<'a> {
    pub(crate) module: &'a str,
    pub(crate) version: &'a str,
}

impl<'a> From<&'a ModuleVersion> for VersionKeys<'a> {
    fn from(version: &'a ModuleVersion) -> Self {
        Self { module: version.path().as_str(), version: version.version().as_str() }
    }
}

impl Display for VersionKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.module, self.version)
    }
}

/// The name of the event of a corrupt version. People read "corrupt".
pub(crate) const CORRUPT: &str = "broken";

/// The result for one version. A result with a reason is a problem.
#[derive(Serialize)]
pub(crate) struct VersionResult<'a> {
    pub(crate) event: &'static str,
    #[serde(flatten)]
    pub(crate) version: VersionKeys<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
}

impl VersionResult<'_> {
    /// Prints a problem always, and any other result with `--verbose`.
    pub(crate) fn report(&self, reporter: &Reporter) {
        if self.reason.is_some() { reporter.problem(self) } else { reporter.detail(self) }
    }
}

impl Display for VersionResult<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = if self.event == CORRUPT { "corrupt" } else { self.event };
        write!(f, "{event} {}", self.version)?;
        self.reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Writes a day as `2026-01-31`. Empty for a day after 9999, which only a wrong clock records.
pub(crate) fn date(day: Day) -> String {
    utc(day.begin()).map(|time| time.date().to_string()).unwrap_or_default()
}

/// Writes a time in whole seconds, as in RFC 3339. Empty for a time that has no such form, as files may have.
pub(crate) fn seconds(time: SystemTime) -> String {
    let whole = utc(time).and_then(|time| time.replace_nanosecond(0).ok());
    whole.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Returns a time as a date, unless it is too far from today. The conversion of the library panics then.
fn utc(time: SystemTime) -> Option<OffsetDateTime> {
    let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).ok();
    let since = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => nanos(after)?,
        Err(before) => -nanos(before.duration())?,
    };
    OffsetDateTime::from_unix_timestamp_nanos(since).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(date(Day(0)), "1970-01-01");
        assert_eq!(date(Day(20_484)), "2026-01-31");
    }

    #[test]
    fn times_of_files_do_not_panic() {
        let of = |seconds: i64| {
            let duration = Duration::from_secs(seconds.unsigned_abs());
            super::seconds(match seconds < 0 {
                true => SystemTime::UNIX_EPOCH - duration,
                false => SystemTime::UNIX_EPOCH + duration,
            })
        };
        assert_eq!(of(-1), "1969-12-31T23:59:59Z");
        assert_eq!(of(253_402_300_799), "9999-12-31T23:59:59Z");
        for seconds in [253_402_300_800, 1 << 50, -(1 << 50), i64::MAX, -i64::MAX] {
            assert_eq!(of(seconds), "", "{seconds}");
        }
        assert_eq!(date(Day(i64::MAX)), "");
    }
}
