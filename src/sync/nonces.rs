//! The nonces of accepted requests, so that no request is accepted twice.
//!
//! Nonces are kept in two generations. A new generation begins when the current one is as old as the time for which a
//! nonce must be remembered, so every nonce is remembered for that time at least, and for less than three times that time
//! while requests arrive. A generation has a maximum size.

use std::collections::HashSet;
use std::time::Duration;

use super::signature::Nonce;

/// Maximum number of nonces of a generation.
const MAX_NONCES: usize = 250_000;

/// The nonces of one peer.
#[derive(Debug)]
pub(super) struct Nonces {
    current: HashSet<Nonce>,
    previous: HashSet<Nonce>,
    /// The start of the current generation, in milliseconds.
    began_ms: i64,
    keep_ms: i64,
    max: usize,
}

/// The reason why a nonce is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It was used before.
    Used,
    /// There are too many nonces to remember another. The time is that until there is space.
    Full(Duration),
}

impl Nonces {
    /// Remembers each nonce for this time.
    pub(super) fn new(keep_ms: i64) -> Self {
        Self::with_max(keep_ms, MAX_NONCES)
    }

    fn with_max(keep_ms: i64, max: usize) -> Self {
        Self { current: HashSet::new(), previous: HashSet::new(), began_ms: i64::MIN, keep_ms, max }
    }

    /// Remembers a nonce that was not used before.
    pub(super) fn use_up(&mut self, nonce: Nonce, now_ms: i64) -> Result<(), Unusable> {
        let age = now_ms.saturating_sub(self.began_ms);
        if age >= self.keep_ms {
            // New sets, so that the memory of many nonces is freed.
            let ended = std::mem::take(&mut self.current);
            self.previous = if age >= self.keep_ms.saturating_mul(2) { HashSet::new() } else { ended };
            self.began_ms = now_ms;
        }
        if self.current.contains(&nonce) || self.previous.contains(&nonce) {
            return Err(Unusable::Used);
        }
        if self.current.len() >= self.max {
            let left = self.began_ms.saturating_add(self.keep_ms).saturating_sub(now_ms);
            return Err(Unusable::Full(Duration::from_millis(u64::try_from(left).unwrap_or_default())));
        }
        self.current.insert(nonce);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: i64 = 1000;

    fn nonce(number: u64) -> Nonce {
        format!("{number:032x}").parse().unwrap()
    }

    #[test]
    fn a_nonce_is_used_once_for_as_long_as_it_must_be_remembered() {
        for first in [0, 1, KEEP / 2, KEEP - 1, KEEP, 5 * KEEP] {
            let mut nonces = Nonces::new(KEEP);
            nonces.use_up(nonce(1), 0).unwrap();
            nonces.use_up(nonce(2), first).unwrap();
            for (n, later) in [0, 1, KEEP / 2, KEEP - 1, KEEP].into_iter().enumerate() {
                // Other requests arrive, too.
                nonces.use_up(nonce(100 + n as u64), first + later).unwrap();
                assert_eq!(nonces.use_up(nonce(2), first + later), Err(Unusable::Used), "{first} {later}");
            }
        }
    }

    #[test]
    fn old_nonces_are_forgotten() {
        let mut nonces = Nonces::new(KEEP);
        for n in 0..20 {
            nonces.use_up(nonce(n), n as i64 * KEEP).unwrap();
            assert!(nonces.current.len() + nonces.previous.len() <= 2);
        }
        nonces.use_up(nonce(100), 100 * KEEP).unwrap();
        assert!(nonces.previous.is_empty(), "nothing of it must still be remembered");
    }

    #[test]
    fn the_number_of_nonces_is_bounded() {
        let mut nonces = Nonces::with_max(KEEP, 3);
        for n in 0..3 {
            nonces.use_up(nonce(n), 100).unwrap();
        }
        assert_eq!(nonces.use_up(nonce(3), 300), Err(Unusable::Full(Duration::from_millis(800))));
        assert_eq!(nonces.use_up(nonce(2), 300), Err(Unusable::Used));
        for n in 3..6 {
            nonces.use_up(nonce(n), 1100).unwrap();
        }
        assert_eq!(nonces.use_up(nonce(0), 1100), Err(Unusable::Used));
        assert_eq!(nonces.use_up(nonce(6), 1100), Err(Unusable::Full(Duration::from_millis(1000))));
    }
}
