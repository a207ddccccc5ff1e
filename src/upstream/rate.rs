//! The rate of a transfer over the last minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The length of one interval, and the number of intervals in a minute.
const INTERVAL: Duration = Duration::from_secs(5);
const INTERVALS: usize = 12;

/// A measurement of a transfer's rate. Clones belong to the same transfer.
#[derive(Debug, Clone)]
pub struct Rate {
    began: Instant,
    intervals: Arc<Mutex<Intervals>>,
}

/// The bytes of the latest intervals, including the current one, in a ring.
#[derive(Debug, Default)]
struct Intervals {
    bytes: [u64; INTERVALS + 1],
    current: u64,
}

impl Rate {
    /// Starts a measurement.
    pub fn start() -> Self {
        Self { began: Instant::now(), intervals: Arc::default() }
    }

    /// Counts bytes that arrived now.
    pub fn count(&self, bytes: usize) {
        self.count_at(bytes, Instant::now());
    }

    /// Returns the average rate over the last minute in bytes per second. Returns `None` in the first minute.
    pub fn of_last_minute(&self) -> Option<u64> {
        self.of_minute_before(Instant::now())
    }

    fn count_at(&self, bytes: usize, now: Instant) {
        let mut intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        intervals.advance(self.interval(now));
        intervals.add(bytes as u64);
    }

    fn of_minute_before(&self, now: Instant) -> Option<u64> {
        let current = self.interval(now);
        if current < INTERVALS as u64 {
            return None;
        }
        let mut intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        intervals.advance(current);
        Some(intervals.complete() / (INTERVAL.as_secs() * INTERVALS as u64))
    }

    /// Returns the number of the interval that contains an instant.
    fn interval(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / INTERVAL.as_secs()
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
    (interval % (INTERVALS as u64 + 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let rate = Rate::start();
        let at = |second: u32| rate.began + SECOND * second;
        for second in 0..300 {
            // From 100 to 20 bytes per second after two minutes, and nothing after four.
            rate.count_at(
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
            assert_eq!(rate.of_minute_before(at(second)), expected, "{second}");
        }
    }

    #[test]
    fn a_pause_clears_the_measurement() {
        let rate = Rate::start();
        let at = |second: u32| rate.began + SECOND * second;
        rate.count_at(6000, at(1));
        assert_eq!((rate.of_minute_before(at(59)), rate.of_minute_before(at(60))), (None, Some(100)));
        assert_eq!(rate.of_minute_before(at(65)), Some(0));
        rate.count_at(600, at(100_000));
        assert_eq!(rate.of_minute_before(at(100_000)), Some(0), "this interval is not over");
        assert_eq!(rate.clone().of_minute_before(at(100_005)), Some(10));
        assert_eq!(rate.of_minute_before(at(200_000)), Some(0));
    }

    #[test]
    fn an_older_instant_is_counted_now() {
        let rate = Rate::start();
        rate.count_at(10, rate.began + SECOND * 7);
        rate.count_at(50, rate.began);
        assert_eq!(rate.of_minute_before(rate.began + SECOND * 61), Some(1));
    }
}
