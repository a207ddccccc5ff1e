//! The phases of the shutdown.

use tokio::sync::watch;

/// The phase of the process, as far as tasks need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everything runs.
    Running,
    /// Tasks without waiting clients do not start any more.
    Closing,
    /// All tasks are dropped.
    Ending,
}

/// The shutdown that the tasks of a process share. Each task holds a receiver of the phase while it runs.
#[derive(Debug)]
pub(crate) struct Shutdown(watch::Sender<Phase>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Shutdown {
    /// Returns a receiver of the phase, which delays the shutdown until it is dropped. Returns `None` from the phase
    /// `until` on.
    ///
    /// A caller that registers its task in a map must call this under the lock of the map, so that no task starts
    /// after [`end`](Self::end).
    pub(crate) fn enter(&self, until: Phase) -> Option<watch::Receiver<Phase>> {
        let phase = self.0.subscribe();
        let is_open = *phase.borrow() < until;
        is_open.then_some(phase)
    }

    /// Starts the shutdown: tasks that wait for their turn and have no waiting client are dropped.
    pub(crate) fn close(&self) {
        self.0.send_replace(Phase::Closing);
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Drops the remaining tasks and waits until they are gone.
    pub(crate) async fn end(&self) {
        self.0.send_replace(Phase::Ending);
        self.0.closed().await;
    }
}
