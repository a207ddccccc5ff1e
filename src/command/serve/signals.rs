//! The signals of a server.

use std::future::pending;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::hangup::Hangup;

/// The signals of a server.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    meaning: Hangup,
}

/// The meaning of a signal.
pub(super) enum Event {
    /// The server stops.
    Stop(SignalKind),
    /// The server reads its configuration again.
    Reload,
}

impl Signals {
    pub(super) fn new(meaning: Hangup) -> io::Result<Self> {
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        let hangup = match meaning {
            Hangup::Ignored => None,
            Hangup::Stops | Hangup::Reloads(_) => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self { interrupt: signal(interrupt)?, terminate: signal(terminate)?, hangup, meaning })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Event {
        if self.meaning.came_early() {
            return Event::Reload;
        }
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Event::Stop(SignalKind::interrupt()),
            _ = self.terminate.recv() => Event::Stop(SignalKind::terminate()),
            () = hangup => match &self.meaning {
                Hangup::Reloads(_) => {
                    // The flag is set by the same signal.
                    self.meaning.came_early();
                    Event::Reload
                }
                Hangup::Stops | Hangup::Ignored => Event::Stop(SignalKind::hangup()),
            },
        }
    }

    /// Waits for the next signal that stops the server.
    pub(super) async fn next_stop(&mut self) -> SignalKind {
        loop {
            if let Event::Stop(kind) = self.next().await {
                return kind;
            }
        }
    }
}

/// Returns the name of a signal that stops the server.
pub(super) fn name(signal: SignalKind) -> &'static str {
    match signal {
        signal if signal == SignalKind::interrupt() => "SIGINT",
        signal if signal == SignalKind::hangup() => "SIGHUP",
        _ => "SIGTERM",
    }
}
