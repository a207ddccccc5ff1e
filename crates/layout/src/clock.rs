//! The time of day, as it is written into files.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Returns the current time in RFC 3339, UTC, in whole seconds.
pub fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}
