//! SIGHUP: what it means for this process.
//!
//! A service manager sends it to have the configuration read again. A terminal sends it when it closes, and then the server stops.
//! `nohup` has it ignored.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGHUP;

/// The meaning of SIGHUP.
#[derive(Debug, Clone)]
pub(super) enum Hangup {
    /// None: it was ignored when the process started.
    Ignored,
    /// It stops the server, as SIGTERM does.
    Stops,
    /// It has the configuration read again. The flag notes a signal before the server listens.
    Reloads(Arc<AtomicBool>),
}

impl Hangup {
    /// Finds the meaning. From now on, the signal does not end a process that is to read its configuration again.
    pub(super) fn prepare() -> io::Result<Self> {
        if is_ignored() {
            return Ok(Self::Ignored);
        }
        // Only a process with a controlling terminal can open it.
        if std::fs::File::open("/dev/tty").is_ok() {
            return Ok(Self::Stops);
        }
        let came = Arc::<AtomicBool>::default();
        signal_hook::flag::register(SIGHUP, Arc::clone(&came))?;
        Ok(Self::Reloads(came))
    }

    /// Returns whether the signal came before the server listened, once.
    pub(super) fn came_early(&self) -> bool {
        matches!(self, Self::Reloads(came) if came.swap(false, Ordering::SeqCst))
    }
}

/// Returns whether this process ignores SIGHUP.
fn is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("SigIgn:").is_some_and(has_hangup))
}

/// Returns whether a mask of signals, in hexadecimal digits, has SIGHUP.
fn has_hangup(mask: &str) -> bool {
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 << (SIGHUP - 1) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_has_hangup() {
        for (mask, expected) in [("\t0000000000001001", true), ("\t0000000000001000", false), ("", false)] {
            assert_eq!(has_hangup(mask), expected, "{mask}");
        }
    }
}
