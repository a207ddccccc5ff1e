//! The sight of an operator: what is counted about requests.

mod requests;

use std::sync::Arc;

use prometheus_client::registry::Registry;

use self::requests::Requests;
use crate::request::RequestInfo;

/// Observes all requests of a server.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    requests: Requests,
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
    /// Registers the metrics of requests.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.requests.register(registry);
    }

    /// Counts a request that has begun.
    pub(crate) fn begin(self: &Arc<Self>, info: RequestInfo) -> Observed {
        self.requests.begin();
        Observed { info, status: GAVE_UP, bytes: 0, is_whole: false, observer: Arc::clone(self) }
    }

    /// Returns the number of requests in progress.
    pub(crate) fn in_progress(&self) -> usize {
        self.requests.in_progress()
    }

    /// Notes the end of a request.
    fn ended(&self, request: &Observed) {
        self.requests.end(request);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.observer.ended(self);
    }
}
