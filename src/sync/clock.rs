//! The time that requests between peers are signed with.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that starts with the time of the system and then only moves forward, also if somebody sets the clock of the
/// system back. Otherwise a request would be accepted again after its nonce was forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
    began_ms: i64,
}

impl Clock {
    /// Starts a clock with the time of the system.
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), began_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
    }

    /// Returns the time of the start in milliseconds since 1970.
    pub fn began_ms(&self) -> i64 {
        self.began_ms
    }

    /// Returns the time in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        let since = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.began_ms.saturating_add(since)
    }
}
