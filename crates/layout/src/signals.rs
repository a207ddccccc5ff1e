//! Cancellation by signals at the next safe place.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

/// Lets a write beyond the limit of the size of files (`ulimit -f`) fail like a write to a full disk. By default it ends
/// the process.
pub fn survive_file_size_limit() {
    // A handler, not SIG_IGN, which programs that this process runs would inherit. If it fails, the default stays.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// A request to stop, shared by all threads, with the signal that made it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicUsize>);

/// The work was stopped by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped by {}", name(*.0))]
pub struct Cancelled(pub i32);

fn name(signal: i32) -> String {
    match signal {
        SIGINT => "Ctrl-C".to_owned(),
        SIGTERM => "SIGTERM".to_owned(),
        signal => format!("signal {signal}"),
    }
}

impl Cancel {
    /// Returns a value that only [`Cancel::cancel`] can cancel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a value that SIGINT and SIGTERM cancel, for the life of the process.
    pub fn on_signals() -> io::Result<Self> {
        Self::on(&[SIGINT, SIGTERM])
    }

    /// Returns a value that these signals cancel, for the life of the process.
    pub fn on(signals: &[i32]) -> io::Result<Self> {
        let cancel = Self::default();
        for &signal in signals {
            signal_hook::flag::register_usize(
                signal,
                Arc::clone(&cancel.0),
                usize::try_from(signal).unwrap_or(1),
            )?;
        }
        Ok(cancel)
    }

    /// Lets a second SIGINT end the process at once. Every write to a store survives that.
    ///
    /// A program that gets each SIGINT twice must not call this: a migrator gets it from the terminal and from the
    /// program that waits for it.
    pub fn end_on_second_interrupt(&self) -> io::Result<()> {
        let armed = Arc::new(AtomicBool::new(false));
        // In this order: the first signal must not find the flag that it sets itself.
        let code = i32::from(crate::Exit::signal(SIGINT).code());
        signal_hook::flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&armed))?;
        signal_hook::flag::register(SIGINT, armed)?;
        Ok(())
    }

    /// Cancels the work as if by this signal.
    pub fn cancel(&self, signal: i32) {
        self.0.store(usize::try_from(signal).unwrap_or(1), Ordering::SeqCst);
    }

    /// Fails if the work is cancelled.
    pub fn check(&self) -> Result<(), Cancelled> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Cancelled(i32::try_from(signal).unwrap_or(SIGTERM))),
        }
    }
}
