//! The times of the passes: when a request begins one, and how long it waits for it.

use std::time::{Duration, Instant};

/// The time after which a request begins another pass.
const FRESH: Duration = Duration::from_secs(60);

/// The time after a pass that failed until a request begins the next pass.
const PAUSE: Duration = Duration::from_secs(10);

/// The age of the last pass from which a request waits for the next one. Versions of other servers may be missing, and
/// their times would be before the time that a follower of the feed has reached.
const OLD: Duration = Duration::from_secs(120);

/// Time limit for a request that waits for a pass.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct State {
    /// The end of the last pass, and whether it succeeded.
    ended: Option<(Instant, bool)>,
    /// The begin of the pass in progress.
    running: Option<Instant>,
    /// Whether the last pass does not count as fresh.
    is_stale: bool,
    /// Whether versions were removed since the last pass that this server does not know.
    is_unsure: bool,
}

impl State {
    /// Returns whether a request begins a pass now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match self.ended {
            None => true,
            Some((at, true)) => self.is_stale || now.saturating_duration_since(at) >= FRESH,
            Some((at, false)) => now.saturating_duration_since(at) >= PAUSE,
        }
    }

    /// Asks for a pass if the last one is too old. Returns how long a request waits for a pass.
    pub(super) fn ask(&mut self, is_complete: bool, now: Instant) -> Wait {
        // The index may have been rebuilt since the last pass.
        self.is_stale |= !is_complete && self.running.is_none();
        let is_old =
            self.is_unsure || self.ended.is_none_or(|(at, _)| now.saturating_duration_since(at) >= OLD);
        let limit = match self.running {
            _ if is_complete && !is_old => Duration::ZERO,
            // Requests wait for a long pass only at its begin, because the index can answer.
            Some(began) if is_complete => REQUEST_LIMIT.saturating_sub(now.saturating_duration_since(began)),
            _ => REQUEST_LIMIT,
        };
        match self.running {
            Some(_) => Wait { begins: false, limit },
            None if self.is_due(now) => Wait { begins: true, limit },
            None => Wait { begins: false, limit: Duration::ZERO },
        }
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.running = Some(now);
        self.is_stale = false;
    }

    pub(super) fn end(&mut self, now: Instant, is_success: bool) {
        self.ended = Some((now, is_success));
        self.running = None;
        // The pass may have read the bucket before removals that were noticed during the pass.
        self.is_unsure &= !is_success || self.is_stale;
    }

    /// Notes that the rows are not up to date.
    pub(super) fn outdate(&mut self) {
        self.is_stale = true;
    }

    /// Notes that versions were removed that this server does not know.
    pub(super) fn doubt(&mut self) {
        self.is_stale = true;
        self.is_unsure = true;
    }
}

/// The way of a request to an index that is up to date.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Whether it begins a pass.
    pub(super) begins: bool,
    pub(super) limit: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wait(begins: bool, limit: Duration) -> Wait {
        Wait { begins, limit }
    }

    #[test]
    fn a_request_waits_if_the_rows_are_old() {
        let (mut state, now) = (State::default(), Instant::now());
        assert_eq!(state.ask(true, now), wait(true, REQUEST_LIMIT), "the first one of the process");
        state.begin(now);
        assert_eq!(
            state.ask(true, now + SECOND),
            wait(false, REQUEST_LIMIT - SECOND),
            "the pass is in progress"
        );
        assert_eq!(state.ask(true, now + REQUEST_LIMIT), wait(false, Duration::ZERO), "it is long");
        state.end(now, true);
        assert_eq!(state.ask(true, now + FRESH - SECOND), wait(false, Duration::ZERO));
        assert_eq!(state.ask(true, now + FRESH), wait(true, Duration::ZERO));
        assert_eq!(state.ask(true, now + OLD), wait(true, REQUEST_LIMIT));
    }

    #[test]
    fn an_incomplete_index_is_always_waited_for() {
        let (mut state, now) = (State::default(), Instant::now());
        state.begin(now);
        assert_eq!(state.ask(false, now + OLD), wait(false, REQUEST_LIMIT), "also in a long pass");
        state.end(now, true);
        assert_eq!(state.ask(false, now), wait(true, REQUEST_LIMIT), "the index was rebuilt");
        state.begin(now);
        state.end(now, false);
        assert_eq!(state.ask(false, now), wait(false, Duration::ZERO), "a pass failed a moment ago");
        assert_eq!(state.ask(false, now + PAUSE), wait(true, REQUEST_LIMIT));
    }

    #[test]
    fn unknown_removals_are_waited_for_until_a_pass_succeeds() {
        let (mut state, now) = (State::default(), Instant::now());
        state.begin(now);
        state.end(now, true);
        state.outdate();
        assert_eq!(state.ask(true, now), wait(true, Duration::ZERO), "the rows of known removals are gone");
        state.begin(now);
        state.doubt();
        state.end(now, true);
        assert_eq!(state.ask(true, now), wait(true, REQUEST_LIMIT), "the pass began before");
        state.begin(now);
        state.end(now, false);
        assert_eq!(state.ask(true, now + PAUSE), wait(true, REQUEST_LIMIT), "it failed");
        state.begin(now + PAUSE);
        state.end(now + PAUSE, true);
        assert_eq!(state.ask(true, now + PAUSE), wait(false, Duration::ZERO));
    }
}
