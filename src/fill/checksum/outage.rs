//! What is remembered of a database that could not be asked, so that not every fill waits for it as long.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fill::ChecksumPolicy;

/// How long a lookup may take, all of its tiles included, where the database must vouch.
const MUST: Duration = Duration::from_secs(30);

/// How long where it may: as long as nothing is known against it, and while it could not be asked a moment ago.
const MAY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// How long a moment is. Whoever is only slow gets all the time again after it.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Since when a database cannot be asked.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// Is how long a lookup may take now.
    pub(super) fn patience(&self, policy: ChecksumPolicy, now: Instant) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            _ if policy == ChecksumPolicy::Require => MUST,
            Some(since) if now.saturating_duration_since(since) < REMEMBERED => MAY.1,
            _ => MAY.0,
        }
    }

    /// Notes whether it could be asked. An outage begins once: what fails within it does not make it longer.
    pub(super) fn note(&self, could_be_asked: bool, now: Instant) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = since.is_some_and(|since| now.saturating_duration_since(since) < REMEMBERED);
        if could_be_asked {
            *since = None;
        } else if !is_known {
            *since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_could_not_be_asked_is_waited_for_less_for_a_while() {
        let (outage, began) = (Outage::default(), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        let may = |seconds| outage.patience(ChecksumPolicy::Auto, after(seconds));
        assert_eq!(may(0), MAY.0);
        outage.note(false, began);
        assert_eq!((may(1), may(59), may(60)), (MAY.1, MAY.1, MAY.0));
        outage.note(false, after(50));
        assert_eq!((may(59), may(60)), (MAY.1, MAY.0));
        outage.note(false, after(61));
        assert_eq!(may(100), MAY.1);
        assert_eq!(outage.patience(ChecksumPolicy::Require, after(100)), MUST);
        outage.note(true, after(101));
        assert_eq!(may(102), MAY.0);
    }
}
