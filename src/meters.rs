//! The counters of a server, and their text form for Prometheus.
//!
//! A part of the server that has something to count calls a function of [`Meters`]. Everything else, such as the number of
//! open connections, is read from the parts at the scrape, by collectors that the server registers.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use stoa_gomod::ModuleVersion;

use crate::words::words;

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// Maximum number of values of the label `upstream`. Further upstreams are counted as `other`.
const MAX_UPSTREAMS: usize = 64;

/// Number of fills that are remembered.
const RECENT: usize = 100;

words! {
    /// The end of a fill.
    pub enum Outcome {
        /// The version is in the store, or its info and go.mod are in the cache.
        Stored = "stored",
        /// No upstream has the version.
        Absent = "absent",
        /// The upstream or a rule refused the request.
        Refused = "refused",
        /// The files are wrong, or differ from a known hash.
        Wrong = "wrong",
        /// Another failure, of an upstream or of the store.
        Failed = "failed",
        /// All clients disconnected, or the server shut down.
        Cancelled = "cancelled",
    }
}

words! {
    /// The reason why a request was refused.
    pub enum Refusal {
        /// The request has no credentials.
        Unauthenticated = "unauthenticated",
        /// The credentials are wrong.
        WrongCredentials = "wrong_credentials",
        /// The user has no access.
        Forbidden = "forbidden",
        /// Too many passwords wait to be checked.
        HashingBusy = "hashing_busy",
        /// The host of the request is not that of the server.
        Host = "host",
        /// The client has too many requests in progress.
        TooMany = "too_many",
        /// A rule denies the module.
        Denied = "denied",
    }
}

words! {
    /// The reason why the server closed a connection.
    pub enum ClosedFor {
        /// It was idle, and its place was needed.
        Idle = "idle",
        /// Its client read slowly, and its place was needed.
        Slow = "slow",
        /// Its address has too many connections.
        AddressLimit = "address_limit",
        /// Its client read or sent nothing for too long.
        Stalled = "stalled",
    }
}

words! {
    /// The result of a reload.
    pub enum ReloadResult {
        /// The new configuration is in use.
        Ok = "ok",
        /// The old configuration stays in use.
        Failed = "failed",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FillLabels {
    upstream: String,
    outcome: Outcome,
}

/// A label set with one label.
macro_rules! one_label {
    ($name:ident, $label:ident: $of:ty) => {
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name {
            $label: $of,
        }
    };
}

one_label!(UpstreamLabels, upstream: String);
one_label!(RefusalLabels, cause: Refusal);
one_label!(ClosedLabels, cause: ClosedFor);
one_label!(ReloadLabels, result: ReloadResult);

/// The label set of a gauge that has no value at the start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Once {}

/// A fill that has ended.
#[derive(Debug, Clone)]
pub struct EndedFill {
    /// The time of its end.
    pub at: SystemTime,
    /// The version.
    pub version: ModuleVersion,
    /// The host of the upstream, `direct`, `file`, `bucket`, or `none` if none answered.
    pub upstream: String,
    /// Its end.
    pub outcome: Outcome,
    /// The size of the zip in bytes. Zero without one.
    pub bytes: u64,
    /// Its duration.
    pub elapsed: Duration,
    /// The reason of a failure, as clients get it.
    pub reason: Option<String>,
}

/// The counters. Parts share them.
#[derive(Debug)]
pub struct Meters {
    registry: Mutex<Registry>,
    fills: Family<FillLabels, Counter>,
    fill_seconds: Family<FillLabels, Histogram, fn() -> Histogram>,
    fill_bytes: Family<FillLabels, Counter>,
    all_fill_bytes: Counter,
    upstreams: Mutex<HashSet<String>>,
    recent: Mutex<VecDeque<EndedFill>>,
    refused: Family<RefusalLabels, Counter>,
    closed: Family<ClosedLabels, Counter>,
    upstream_success: Family<UpstreamLabels, Gauge>,
    connections: Gauge,
    evicted_versions: Counter,
    evicted_bytes: Counter,
    last_eviction: Family<Once, Gauge>,
    reloads: Family<ReloadLabels, Counter>,
    certificate_expiry: Family<Once, Gauge>,
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The buckets of durations in seconds, for requests and fills.
pub(crate) const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Makes a histogram of durations.
pub(crate) fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Meters {
    fn default() -> Self {
        let meters = Self {
            registry: Mutex::new(Registry::with_prefix("stoa")),
            fills: Family::default(),
            fill_seconds: Family::new_with_constructor(seconds),
            fill_bytes: Family::default(),
            all_fill_bytes: Counter::default(),
            upstreams: Mutex::default(),
            recent: Mutex::default(),
            refused: Family::default(),
            closed: Family::default(),
            upstream_success: Family::default(),
            connections: Gauge::default(),
            evicted_versions: Counter::default(),
            evicted_bytes: Counter::default(),
            last_eviction: Family::default(),
            reloads: Family::default(),
            certificate_expiry: Family::default(),
        };
        meters.register(|registry| meters.register_own(registry));
        meters
    }
}

impl Meters {
    fn register_own(&self, registry: &mut Registry) {
        registry.register("fills", "Fills that have ended", self.fills.clone());
        registry.register("fill_duration_seconds", "Duration of fills", self.fill_seconds.clone());
        registry.register("fill_bytes", "Bytes of the zips that were stored", self.fill_bytes.clone());
        registry.register("refused", "Requests that were refused", self.refused.clone());
        registry.register(
            "connections_closed",
            "Connections that the server closed to protect itself",
            self.closed.clone(),
        );
        registry.register("connections", "Open connections of clients", self.connections.clone());
        registry.register(
            "upstream_last_success_timestamp_seconds",
            "Time of the last fill from the upstream that succeeded",
            self.upstream_success.clone(),
        );
        let (versions, bytes) = (self.evicted_versions.clone(), self.evicted_bytes.clone());
        registry.register("evicted_versions", "Versions that eviction removed", versions);
        registry.register("evicted_bytes", "Bytes that eviction removed", bytes);
        registry.register(
            "eviction_last_run_timestamp_seconds",
            "Time of the last run of eviction",
            self.last_eviction.clone(),
        );
        registry.register("reloads", "Reloads of the configuration", self.reloads.clone());
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "Time at which the certificate of the server expires",
            self.certificate_expiry.clone(),
        );
    }

    /// Registers further metrics and collectors.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut locked(&self.registry));
    }

    /// Returns all metrics in the text format of Prometheus. It may wait for the disk.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string never fails, and a collector that fails ends the text early.
        if prometheus_text::encode(&mut text, &locked(&self.registry)).is_err() {
            log::warn!("cannot write all metrics");
        }
        text
    }

    /// Counts a fill, and remembers it for [`recent`](Self::recent).
    pub fn fill_ended(&self, fill: EndedFill) {
        let labels = FillLabels { upstream: self.upstream_label(&fill.upstream), outcome: fill.outcome };
        self.fills.get_or_create(&labels).inc();
        self.fill_seconds.get_or_create(&labels).observe(fill.elapsed.as_secs_f64());
        if fill.outcome == Outcome::Stored {
            self.fill_bytes.get_or_create(&labels).inc_by(fill.bytes);
            self.all_fill_bytes.inc_by(fill.bytes);
            let upstream = UpstreamLabels { upstream: labels.upstream };
            self.upstream_success.get_or_create(&upstream).set(unix_seconds(fill.at));
        }
        let mut recent = locked(&self.recent);
        recent.truncate(RECENT - 1);
        recent.push_front(fill);
    }

    /// Returns the last fills, the newest first.
    pub fn recent(&self) -> Vec<EndedFill> {
        locked(&self.recent).iter().cloned().collect()
    }

    /// Returns the number of bytes that fills have stored since the start.
    pub fn stored_bytes(&self) -> u64 {
        self.all_fill_bytes.get()
    }

    /// Counts a refused request.
    pub fn refused(&self, cause: Refusal) {
        self.refused.get_or_create(&RefusalLabels { cause }).inc();
    }

    /// Counts an open connection until the result is dropped.
    pub fn connected(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// Counts a connection that the server closed.
    pub fn closed(&self, cause: ClosedFor) {
        self.closed.get_or_create(&ClosedLabels { cause }).inc();
    }

    /// Counts a run of eviction that has ended now, and the versions and bytes that it removed.
    pub fn evicted(&self, versions: u64, bytes: u64) {
        self.evicted_versions.inc_by(versions);
        self.evicted_bytes.inc_by(bytes);
        self.last_eviction.get_or_create(&Once {}).set(unix_seconds(SystemTime::now()));
    }

    /// Counts a reload.
    pub fn reloaded(&self, result: ReloadResult) {
        self.reloads.get_or_create(&ReloadLabels { result }).inc();
    }

    /// Notes the time at which the certificate in use expires.
    pub fn set_certificate_expiry(&self, time: SystemTime) {
        self.certificate_expiry.get_or_create(&Once {}).set(unix_seconds(time));
    }

    /// Returns the value of the label for an upstream. Their number is bounded, because upstreams may have any names.
    fn upstream_label(&self, upstream: &str) -> String {
        let mut known = locked(&self.upstreams);
        if known.len() < MAX_UPSTREAMS || known.contains(upstream) {
            known.insert(upstream.to_owned());
            return upstream.to_owned();
        }
        "other".to_owned()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a time in seconds since 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(upstream: &str) -> EndedFill {
        EndedFill {
            at: SystemTime::now(),
            version: ModuleVersion::parse("example.com/m@v1.0.0").unwrap(),
            upstream: upstream.to_owned(),
            outcome: Outcome::Stored,
            bytes: 7,
            elapsed: Duration::from_millis(3),
            reason: None,
        }
    }

    #[test]
    fn the_number_of_labels_and_of_remembered_fills_is_bounded() {
        let meters = Meters::default();
        for n in 0..200 {
            meters.fill_ended(fill(&format!("h{n}.example")));
        }
        let text = meters.encode();
        let fills = text.lines().filter(|line| line.starts_with("stoa_fills_total{"));
        assert_eq!(fills.count(), MAX_UPSTREAMS + 1);
        assert!(text.contains("stoa_fills_total{upstream=\"other\",outcome=\"stored\"} 136\n"), "{text}");
        let recent = meters.recent();
        assert_eq!((recent.len(), recent[0].upstream.as_str()), (RECENT, "h199.example"));
        assert_eq!(meters.stored_bytes(), 1400);
    }

    #[test]
    fn a_gauge_of_an_event_has_no_value_before_it() {
        let meters = Meters::default();
        assert!(!meters.encode().contains("\nstoa_eviction_last_run_timestamp_seconds "));
        meters.evicted(2, 10);
        let text = meters.encode();
        assert!(text.contains("\nstoa_eviction_last_run_timestamp_seconds "), "{text}");
        assert!(
            text.contains("stoa_evicted_versions_total 2\n")
                && text.contains("stoa_evicted_bytes_total 10\n")
        );
    }
}
