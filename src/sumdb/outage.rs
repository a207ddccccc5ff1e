//! The timeout of lookups, which is short while the database is unreachable.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::ChecksumPolicy;

/// Timeout of a lookup, including all tiles, if the policy is `require`.
const REQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeouts of a lookup if the policy is `auto`: normally, and while the database is unreachable.
const AUTO_TIMEOUT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// How long a database counts as unreachable. A database that is only slow gets the full timeout again
/// afterwards.
const OUTAGE_TTL: Duration = Duration::from_secs(60);

/// The start of a database's outage.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// Returns the timeout for a lookup that starts now.
    pub(super) fn timeout(&self, policy: ChecksumPolicy, now: Instant) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            _ if policy == ChecksumPolicy::Require => REQUIRE_TIMEOUT,
            Some(since) if now.saturating_duration_since(since) < OUTAGE_TTL => AUTO_TIMEOUT.1,
            _ => AUTO_TIMEOUT.0,
        }
    }

    /// Returns whether the last lookup could not reach the database.
    pub(super) fn is_ongoing(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Notes whether the database was reachable. Further failures within an outage do not extend it.
    pub(super) fn note(&self, is_reachable: bool, now: Instant) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ongoing = since.is_some_and(|since| now.saturating_duration_since(since) < OUTAGE_TTL);
        if is_reachable {
            *since = None;
        } else if !is_ongoing {
            *since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_database_gets_a_short_timeout_for_a_minute() {
        let (outage, began) = (Outage::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        let may = |seconds| outage.timeout(ChecksumPolicy::Auto, after(seconds));
        assert_eq!(may(0), AUTO_TIMEOUT.0);
        outage.note(false, began);
        assert_eq!((may(1), may(59), may(60)), (AUTO_TIMEOUT.1, AUTO_TIMEOUT.1, AUTO_TIMEOUT.0));
        outage.note(false, after(50));
        assert_eq!((may(59), may(60)), (AUTO_TIMEOUT.1, AUTO_TIMEOUT.0));
        outage.note(false, after(61));
        assert_eq!(may(100), AUTO_TIMEOUT.1);
        assert_eq!(outage.timeout(ChecksumPolicy::Require, after(100)), REQUIRE_TIMEOUT);
        assert!(outage.is_ongoing());
        outage.note(true, after(101));
        assert!(!outage.is_ongoing());
        assert_eq!(may(102), AUTO_TIMEOUT.0);
    }
}
