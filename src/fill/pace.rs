//! Slow transfers, which give their slot up.
//!
//! A transfer is slow if its average rate over a minute is below a minimum. It is ended if another download waits for its
//! slot, one slow transfer for each waiting download. It is also ended if no client waits for it. Otherwise it may take
//! its time: a slow upstream may be the only one that has the version.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::rate::{MinRate, Rate};
use super::slots::Slot;
use super::task::Fetch;
use crate::unavailable::Unavailable;
use crate::upstream::{UpstreamError, ZipDownload};

/// How often a transfer is checked within the window of its rate.
const CHECKS: u32 = 60;

/// The pace of the download of a zip, over all attempts.
pub(super) struct Pace {
    min: MinRate,
    rate: Rate,
    checks: Interval,
    /// The time for which earlier parts waited because of a limit of this server for the upstream.
    waited: Duration,
}

impl Pace {
    pub(super) fn new(min: MinRate) -> Self {
        let mut checks = interval((min.window / CHECKS).max(Duration::from_millis(1)));
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { min, rate: Rate::start(min.window), checks, waited: Duration::ZERO }
    }

    /// Counts bytes that arrived now. `waited` is the time for which they waited.
    fn count(&mut self, bytes: usize, waited: Duration) {
        self.waited += waited;
        let now = self.now(Duration::ZERO);
        self.rate.count(bytes, now);
    }

    /// Returns the rate if it is below the minimum. `waiting` is the time for which the next part has waited so far.
    fn slow(&mut self, waiting: Duration) -> Option<u64> {
        let now = self.now(waiting);
        self.rate.average(now).filter(|rate| *rate < self.min.bytes)
    }

    /// Returns the time at which a transfer without a limit would be now.
    fn now(&self, waiting: Duration) -> Instant {
        let now = Instant::now();
        now.checked_sub(self.waited + waiting).unwrap_or(now)
    }
}

impl Fetch {
    /// Waits for the next part of a download. Returns an error of the upstream if the download is slow and a second download
    /// waits for its slot.
    pub(super) async fn next_chunk(
        &self,
        download: &mut ZipDownload,
        pace: &mut Pace,
        slot: &Slot,
    ) -> Result<Result<Option<Bytes>, UpstreamError>, Unavailable> {
        let waits = download.waits();
        let total = || waits.as_ref().map_or(Duration::ZERO, |waits| waits.total());
        let before = total();
        let rate = {
            let chunk = download.chunk();
            tokio::pin!(chunk);
            loop {
                tokio::select! {
                    biased;
                    received = &mut chunk => {
                        if let Ok(Some(chunk)) = &received {
                            pace.count(chunk.len(), total().saturating_sub(before));
                        }
                        return Ok(received);
                    }
                    _ = pace.checks.tick() => {}
                }
                let Some(rate) = pace.slow(total().saturating_sub(before)) else { continue };
                if self.is_abandoned() {
                    return Err(Unavailable::Abandoned(self.version.to_string()));
                }
                if slot.promise() {
                    break rate;
                }
            }
        };
        Ok(Err(UpstreamError::Slow { url: download.url().to_owned(), rate, min_rate: pace.min.bytes }))
    }
}
