//! `/metrics`: the counters and states of the server.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;

use super::Proxy;
use super::answer::{self, Response};
use super::body::Body;
use super::problem::Problem;
use crate::meters::CONTENT_TYPE;

impl Proxy {
    /// Answers with all metrics. The states are read now, off the runtime because some are on the disk.
    pub(super) async fn metrics(&self) -> Response {
        // The semaphore is never closed.
        let _turn = self.metrics_turn.acquire().await;
        let meters = Arc::clone(&self.services.meters);
        match tokio::task::spawn_blocking(move || meters.encode()).await {
            Ok(text) => {
                let content_type = HeaderValue::from_static(CONTENT_TYPE);
                let body = Body::Whole(Bytes::from(text));
                answer::plain(StatusCode::OK, content_type, answer::NO_STORE, body)
            }
            // The runtime shuts down.
            Err(_) => Problem::NotReady.answer(),
        }
    }
}
