//! The sight of an operator: the metrics and the log of requests, and the states of the server for a scrape.

mod access_log;
mod census;
mod collect;
mod process;
mod requests;

use std::sync::Arc;

use hyper::Request;
use prometheus_client::registry::Registry;

pub(crate) use self::access_log::AccessLog;
use self::access_log::Head;
pub use self::access_log::{AccessLogFormat, AccessLogOptions, AccessLogTarget};
pub(crate) use self::collect::States;
use self::requests::Requests;
use crate::request::RequestInfo;

/// Observes all requests of a server.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    requests: Requests,
    access_log: Option<AccessLog>,
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
    /// The head of the request, for the log.
    head: Option<Box<Head>>,
    observer: Arc<Observer>,
}

/// The status of a request whose client gave up before there was an answer, as other servers log it.
const GAVE_UP: u16 = 499;

impl Observer {
    /// Makes an observer with the log of requests.
    pub(crate) fn new(access_log: Option<AccessLog>) -> Self {
        Self { requests: Requests::default(), access_log }
    }

    /// Registers the metrics of requests.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.requests.register(registry);
        if let Some(access_log) = &self.access_log {
            access_log.register(registry);
        }
    }

    /// Keeps the head of a request for the log, if there is one.
    pub(crate) fn note_head<B>(&self, observed: &mut Observed, request: &Request<B>) {
        observed.head = self.access_log.as_ref().map(|_| Box::new(Head::of(request)));
    }

    /// Writes what remains of the log. No request may be in progress.
    pub(crate) async fn close(&self) {
        if let Some(access_log) = &self.access_log {
            access_log.close().await;
        }
    }

    /// Counts a request that has begun.
    pub(crate) fn begin(self: &Arc<Self>, info: RequestInfo) -> Observed {
        self.requests.begin();
        Observed { info, status: GAVE_UP, bytes: 0, is_whole: false, head: None, observer: Arc::clone(self) }
    }

    /// Returns the number of requests in progress.
    pub(crate) fn in_progress(&self) -> usize {
        self.requests.in_progress()
    }

    /// Notes the end of a request.
    fn ended(&self, request: &Observed) {
        self.requests.end(request);
        if let Some(access_log) = &self.access_log {
            access_log.log(request);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.observer.ended(self);
    }
}
