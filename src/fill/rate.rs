//! The average rate of a transfer over a window of time, for example the last minute.

use std::time::{Duration, Instant};

/// The number of intervals in a window.
const INTERVALS: u32 = 12;

/// The minimum rate of transfers, and the window of the average.
#[derive(Debug, Clone, Copy)]
pub(super) struct MinRate {
    /// In bytes per second.
    pub(super) bytes: u64,
    pub(super) window: Duration,
}

/// A measurement of a transfer's rate.
#[derive(Debug)]
pub(super) struct Rate {
    began: Instant,
    window: Duration,
    intervals: Intervals,
}

/// The bytes of the latest intervals, including the current one, in a ring.
#[derive(Debug, Default)]
struct Intervals {
    bytes: [u64; INTERVALS as usize + 1],
    current: u64,
}

impl Rate {
    /// Starts a measurement over windows of a length.
    pub(super) fn start(window: Duration) -> Self {
        Self { began: Instant::now(), window, intervals: Intervals::default() }
    }

    /// Counts bytes that arrived at a time.
    pub(super) fn count(&mut self, bytes: usize, now: Instant) {
        self.intervals.advance(self.interval(now));
        self.intervals.add(bytes as u64);
    }

    /// Returns the average rate over the window before a time in bytes per second. Returns `None` in the first window.
    pub(super) fn average(&mut self, now: Instant) -> Option<u64> {
        let current = self.interval(now);
        if current < u64::from(INTERVALS) {
            return None;
        }
        self.intervals.advance(current);
        let nanos = self.window.as_nanos().max(1);
        let rate = u128::from(self.intervals.complete()) * Duration::from_secs(1).as_nanos() / nanos;
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Returns the number of the interval that contains an instant.
    fn interval(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began).as_nanos();
        let interval = (self.window / INTERVALS).as_nanos().max(1);
        u64::try_from(since / interval).unwrap_or(u64::MAX)
    }
}

impl Intervals {
    /// Begins the interval of a number, if it is later than the current one.
    fn advance(&mut self, to: u64) {
        let skipped = to.saturating_sub(self.current).min(self.bytes.len() as u64);
        self.current = self.current.max(to);
        for number in (0..skipped).map(|back| self.current.saturating_sub(back)) {
            if let Some(bytes) = self.bytes.get_mut(slot(number)) {
                *bytes = 0;
            }
        }
    }

    fn add(&mut self, bytes: u64) {
        if let Some(current) = self.bytes.get_mut(slot(self.current)) {
            *current = current.saturating_add(bytes);
        }
    }

    /// Returns the bytes of all intervals but the current one, which is not over.
    fn complete(&self) -> u64 {
        let current = self.bytes.get(slot(self.current)).copied().unwrap_or(0);
        self.bytes.iter().sum::<u64>().saturating_sub(current)
    }
}

fn slot(interval: u64) -> usize {
    (interval % (u64::from(INTERVALS) + 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let mut rate = Rate::start(MINUTE);
        let began = rate.began;
        let at = |second: u32| began + SECOND * second;
        for second in 0..300 {
            // From 100 to 20 bytes per second after two minutes, and nothing after four.
            rate.count(
                if second < 120 {
                    100
                } else if second < 240 {
                    20
                } else {
                    0
                },
                at(second),
            );
            let expected = match second {
                ..60 => None,
                60..120 => Some(100),
                120..185 => Some((100 * 60 - 80 * (u64::from(second) / 5 * 5 - 120).min(60)) / 60),
                185..240 => Some(20),
                240.. => Some((20 * 60 - 20 * (u64::from(second) / 5 * 5 - 240).min(60)) / 60),
            };
            assert_eq!(rate.average(at(second)), expected, "{second}");
        }
    }

    #[test]
    fn a_pause_clears_the_measurement() {
        let mut rate = Rate::start(MINUTE);
        let began = rate.began;
        let at = |second: u32| began + SECOND * second;
        rate.count(6000, at(1));
        assert_eq!((rate.average(at(59)), rate.average(at(60))), (None, Some(100)));
        assert_eq!(rate.average(at(65)), Some(0));
        rate.count(600, at(100_000));
        assert_eq!(rate.average(at(100_000)), Some(0), "this interval is not over");
        assert_eq!(rate.average(at(100_005)), Some(10));
        assert_eq!(rate.average(at(200_000)), Some(0));
    }

    #[test]
    fn an_older_instant_is_counted_now() {
        let mut rate = Rate::start(MINUTE);
        let began = rate.began;
        rate.count(10, began + SECOND * 7);
        rate.count(50, began);
        assert_eq!(rate.average(began + SECOND * 61), Some(1));
    }
}
