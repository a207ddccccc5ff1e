//! The sight of an operator: what is counted about requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::request::RequestInfo;

/// Observes all requests of a server.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    in_progress: AtomicUsize,
}

/// A request in progress. Its end is noted when this value is dropped.
#[derive(Debug)]
pub(crate) struct Observed {
    /// The request.
    pub(crate) info: RequestInfo,
    /// The status of its answer.
    pub(crate) status: u16,
    /// The number of bytes of the body that were sent.
    pub(crate) bytes: u64,
    /// Whether these are all.
    pub(crate) is_whole: bool,
    observer: Arc<Observer>,
}

/// The status of a request whose client gave up before there was an answer, as other servers log it.
const GAVE_UP: u16 = 499;

impl Observer {
    /// Counts a request that has begun.
    pub(crate) fn begin(self: &Arc<Self>, info: RequestInfo) -> Observed {
        self.in_progress.fetch_add(1, Ordering::Relaxed);
        Observed { info, status: GAVE_UP, bytes: 0, is_whole: false, observer: Arc::clone(self) }
    }

    /// Returns the number of requests in progress.
    pub(crate) fn in_progress(&self) -> usize {
        self.in_progress.load(Ordering::Relaxed)
    }

    /// Notes the end of a request.
    fn ended(&self, _request: &Observed) {
        self.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.observer.ended(self);
    }
}
