//! A limit of the bytes per second that are downloaded from one server, shared by its downloads.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// The time of unused bandwidth that may be used later. Timers are not exact, so waits are often a little too long.
const CREDIT: Duration = Duration::from_millis(100);

/// The limit of a server.
#[derive(Debug)]
pub(super) struct Bandwidth {
    bytes_per_second: u64,
    /// The time at which all bytes so far have arrived at this bandwidth.
    spent_until: Mutex<Instant>,
}

impl Bandwidth {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), spent_until: Mutex::new(Instant::now()) }
    }

    /// Spends the time of some bytes. Returns the time to wait before more bytes are read.
    fn spend(&self, bytes: usize, now: Instant) -> Duration {
        let nanos = bytes as u128 * Duration::from_secs(1).as_nanos() / u128::from(self.bytes_per_second);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut spent_until = lock(&self.spent_until);
        let from = now.checked_sub(CREDIT).map_or(now, |earliest| earliest.max(*spent_until));
        *spent_until = from.checked_add(time).unwrap_or(from);
        spent_until.saturating_duration_since(now)
    }
}

/// The limit as one download sees it.
#[derive(Debug)]
pub(super) struct Throttle {
    bandwidth: Arc<Bandwidth>,
    waits: Arc<Waits>,
}

impl Throttle {
    pub(super) fn new(bandwidth: &Arc<Bandwidth>) -> Self {
        Self { bandwidth: Arc::clone(bandwidth), waits: Arc::default() }
    }

    /// Waits until more bytes may be read after some bytes. Returns the time of the wait.
    pub(super) async fn wait_after(&self, bytes: usize) -> Duration {
        let began = Instant::now();
        let wait = self.bandwidth.spend(bytes, began);
        if !wait.is_zero() {
            lock(&self.waits.0).1 = Some(began);
            // Also if the download is dropped meanwhile.
            let _ended = Ended(&self.waits);
            tokio::time::sleep(wait).await;
        }
        began.elapsed()
    }

    pub(super) fn waits(&self) -> Arc<Waits> {
        Arc::clone(&self.waits)
    }
}

/// The time that a download waits because of the limit: that of all earlier waits, and the start of the current one.
#[derive(Debug, Default)]
pub struct Waits(Mutex<(Duration, Option<Instant>)>);

impl Waits {
    /// Returns the time until now.
    pub fn total(&self) -> Duration {
        let (earlier, since) = *lock(&self.0);
        earlier + since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

struct Ended<'w>(&'w Waits);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut waits = lock(&self.0.0);
        let since = waits.1.take();
        waits.0 += since.map_or(Duration::ZERO, |since| since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_share_the_bandwidth() {
        let bandwidth = Bandwidth::new(1000);
        let now = Instant::now() + Duration::from_secs(10);
        let wait = |bytes, at: u64| bandwidth.spend(bytes, now + Duration::from_millis(at)).as_millis();
        assert_eq!(wait(600, 0), 500, "100 ms of the time before were not used");
        assert_eq!(wait(200, 0), 700, "a second download waits for the first");
        assert_eq!(wait(1000, 700), 1000);
        assert_eq!(wait(100, 1750), 50, "50 ms were not used");
        assert_eq!(wait(100, 60_000), 0);
        assert_eq!(wait(100, 60_000), 100, "unused time is lost after 100 ms");
    }

    #[tokio::test]
    async fn the_time_of_waits_is_known() {
        let throttle = Throttle::new(&Arc::new(Bandwidth::new(1)));
        let waits = throttle.waits();
        assert_eq!(waits.total(), Duration::ZERO);
        let waiting = throttle.wait_after(1000);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(5), waiting.as_mut()).await.is_err());
        assert!(waits.total() > Duration::ZERO, "a wait counts before its end");
    }
}
