//! The metrics of requests.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Observed;
use crate::meters::seconds;
use crate::request::{Kind, Source};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: Kind,
    status: u16,
    cache: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    kind: Kind,
    cache: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: Kind,
}

/// Counts requests.
#[derive(Debug)]
pub(super) struct Requests {
    in_progress: Gauge,
    ended: Family<Labels, Counter>,
    seconds: Family<DurationLabels, Histogram, fn() -> Histogram>,
    bytes: Family<KindLabels, Counter>,
    aborted: Family<KindLabels, Counter>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            in_progress: Gauge::default(),
            ended: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            bytes: Family::default(),
            aborted: Family::default(),
        }
    }
}

impl Requests {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests_in_progress",
            "Requests whose answer is not complete",
            self.in_progress.clone(),
        );
        registry.register("requests", "Requests that have ended", self.ended.clone());
        registry.register(
            "request_duration_seconds",
            "Time from the head of a request to the last byte of its answer",
            self.seconds.clone(),
        );
        registry.register("response_bytes", "Bytes of the bodies of answers", self.bytes.clone());
        registry.register(
            "requests_aborted",
            "Requests whose client did not get the whole answer",
            self.aborted.clone(),
        );
    }

    pub(super) fn begin(&self) {
        self.in_progress.inc();
    }

    pub(super) fn in_progress(&self) -> usize {
        usize::try_from(self.in_progress.get()).unwrap_or_default()
    }

    pub(super) fn end(&self, request: &Observed) {
        self.in_progress.dec();
        let (kind, cache) = (request.info.kind(), request.info.source());
        self.ended.get_or_create(&Labels { kind, status: request.status, cache }).inc();
        let seconds = request.info.began.elapsed().as_secs_f64();
        self.seconds.get_or_create(&DurationLabels { kind, cache }).observe(seconds);
        self.bytes.get_or_create(&KindLabels { kind }).inc_by(request.bytes);
        if !request.is_whole {
            self.aborted.get_or_create(&KindLabels { kind }).inc();
        }
    }
}
