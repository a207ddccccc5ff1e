//! A background thread of a server.

use std::io;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lock::lock;

/// Time limit for the thread to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A thread that may not run: it may not be needed, or it could not be started.
#[derive(Debug)]
pub(crate) struct Background {
    name: &'static str,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Background {
    /// Starts a thread, if `work` is there.
    pub(crate) fn start(name: &'static str, work: Option<impl FnOnce() + Send + 'static>) -> Self {
        let spawned = work.map(|work| thread::Builder::new().name(name.to_owned()).spawn(work)).transpose();
        let handle = spawned.unwrap_or_else(|error: io::Error| {
            log::warn!(thread = name, reason:% = error; "cannot start a background thread");
            None
        });
        Self { name, handle: Mutex::new(handle) }
    }

    /// Returns whether the thread was started and not yet ended.
    pub(crate) fn is_running(&self) -> bool {
        lock(&self.handle).is_some()
    }

    /// Waits up to a limit until the thread has ended, since it may wait for the disk.
    pub(crate) async fn end(&self) {
        let Some(thread) = lock(&self.handle).take() else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if !matches!(tokio::time::timeout(END_LIMIT, joined).await, Ok(Ok(Ok(())))) {
            log::warn!(thread = self.name, limit:? = END_LIMIT; "a background thread did not end");
        }
    }
}
