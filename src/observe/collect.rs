//! The states of a server, read at the scrape.
//!
//! Nothing is counted here: each value is read from the part that has it. A scrape never walks the store. The number of
//! stored versions comes from the index, at most once a minute, and the rest from a [`Census`] in the background.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use stoa_layout::marker::{Content, HistoryEntry, Marker};
use stoa_store::{Store, Totals};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::census::Census;
use super::process;
use crate::lock::lock;
use crate::meters::unix_seconds;
use crate::services::Services;
use crate::sync::Replication;
use crate::upkeep::Upkeep;
use crate::upstream::place_label;

/// The time for which the totals of the index are remembered.
const TOTALS_VALID: Duration = Duration::from_secs(60);

/// Reads the states of the parts of a server.
#[derive(Debug)]
pub(crate) struct States {
    // The counters of the services own this value.
    services: Weak<Services>,
    replication: Option<Weak<Replication>>,
    upkeep: Arc<Upkeep>,
    census: Arc<Census>,
    totals: Mutex<Option<(Instant, Totals)>>,
    last_migration: Option<HistoryEntry>,
}

/// Label and value of the series of a family.
type Series = Vec<(String, f64)>;

impl States {
    /// Makes the reader for the parts of a server.
    pub(crate) fn new(
        services: &Arc<Services>,
        replication: Option<&Arc<Replication>>,
        upkeep: &Arc<Upkeep>,
    ) -> Self {
        Self {
            services: Arc::downgrade(services),
            replication: replication.map(Arc::downgrade),
            upkeep: Arc::clone(upkeep),
            census: Arc::default(),
            totals: Mutex::default(),
            last_migration: last_migration(&services.store),
        }
    }

    /// Returns the counts of the stored versions, which are at most a minute old. `None` without a usable index.
    fn totals(&self, store: &Store) -> Option<Totals> {
        let mut known = lock(&self.totals);
        if let Some((at, totals)) = *known
            && at.elapsed() < TOTALS_VALID
        {
            return Some(totals);
        }
        match store.index().totals() {
            Ok(totals) => {
                *known = Some((Instant::now(), totals));
                Some(totals)
            }
            Err(error) => {
                log::debug!(reason:% = error; "cannot count the stored versions");
                None
            }
        }
    }

    fn of_store(&self, store: &Arc<Store>, out: &mut Writer<'_>) -> fmt::Result {
        let layout = store.layout().to_string();
        out.gauges(
            "store_info",
            "Version of the program and layout of the store",
            &[(&[("version", env!("CARGO_PKG_VERSION")), ("layout", &layout)], 1.0)],
        )?;
        if let Some(totals) = self.totals(store) {
            out.gauge("store_versions", "Stored versions", totals.versions as f64)?;
            out.gauge("store_modules", "Modules with a stored version", totals.modules as f64)?;
            out.gauge("store_bytes", "Size of the stored versions", totals.bytes as f64)?;
        }
        if let Some((free, size)) = process::space(store.root()) {
            out.gauge("store_free_bytes", "Free space of the file system of the store", free as f64)?;
            out.gauge("store_size_bytes", "Size of the file system of the store", size as f64)?;
        }
        if let Some(age) = self.upkeep.index_age() {
            out.gauge(
                "index_age_seconds",
                "Time since the index was last compared with the store",
                age.as_secs_f64(),
            )?;
        }
        if let Some(migration) = &self.last_migration
            && let Ok(at) = OffsetDateTime::parse(&migration.finished, &Rfc3339)
        {
            let labels: &[(&str, &str)] = &[("from", &migration.from), ("to", &migration.to)];
            out.gauges(
                "last_migration_timestamp_seconds",
                "Time of the last change of the layout of the store",
                &[(labels, unix_seconds(at.into()) as f64)],
            )?;
        }
        Ok(())
    }

    fn of_fills(services: &Services, out: &mut Writer<'_>) -> fmt::Result {
        let flights = &services.flights;
        out.gauge("flights", "Versions that are being downloaded or wait for it", flights.count() as f64)?;
        out.gauge(
            "claim_waits",
            "Downloads that wait for a version which another process has claimed",
            flights.claim_waits() as f64,
        )?;
        out.counter(
            "transfers_aborted",
            "Transfers to clients that were aborted because the zip was wrong or incomplete",
            flights.aborted_transfers(),
        )?;
        let mut permits: Vec<_> = flights.permits().into();
        let policy = services.policy.load();
        let (questions, all) = services.answers.permits();
        permits.push(("questions", questions, all));
        let direct = policy.upstreams().find_map(crate::upstream::Upstream::direct_permits);
        permits.extend(direct.map(|(used, all)| ("direct", used, all)));
        let (mut used, mut all): (Series, Series) = Default::default();
        for (name, in_use, count) in permits {
            used.push((name.to_owned(), in_use as f64));
            all.push((name.to_owned(), count as f64));
        }
        out.gauges_by("permits_in_use", "Permits in use for work that is limited", "permits", &used)?;
        out.gauges_by("permits", "Permits for work that is limited", "permits", &all)?;
        let mut limited = BTreeMap::new();
        for (place, is_limited) in
            policy.upstreams().flat_map(|upstream| upstream.limited().collect::<Vec<_>>())
        {
            *limited.entry(place_label(&place).to_owned()).or_insert(false) |= is_limited;
        }
        let limited: Series =
            limited.into_iter().map(|(place, is)| (place, f64::from(u8::from(is)))).collect();
        out.gauges_by(
            "upstream_limited",
            "Whether the upstream accepts no requests now because it got too many",
            "upstream",
            &limited,
        )?;
        match &services.tier {
            Some(tier) => {
                let is_up = f64::from(u8::from(tier.outage().is_none()));
                out.gauge("bucket_up", "Whether the bucket can be used", is_up)
            }
            None => Ok(()),
        }
    }

    fn of_checksums(services: &Services, out: &mut Writer<'_>) -> fmt::Result {
        let counts = services.sumdb.counts();
        out.counters_by(
            "checksums",
            "Versions that were compared with checksum databases",
            "result",
            &[
                ("verified", counts.verified),
                ("unverified", counts.unverified),
                ("mismatch", counts.mismatches),
                ("refused", counts.refused),
            ],
        )?;
        out.counter("checksum_forks", "Forks of checksum databases that were found", counts.forks)
    }

    fn of_peers(replication: &Replication, store: &Store, out: &mut Writer<'_>) -> fmt::Result {
        let now = unix_seconds(SystemTime::now()) * 1000;
        let (mut queue, mut lag, mut up): (Series, Series, Series) = Default::default();
        for name in replication.peers() {
            let Ok(state) = store.peers().state(name) else { continue };
            queue.push((name.to_owned(), state.queued as f64));
            let oldest = state.oldest_queued_at.map_or(0, |at| (now - at).max(0));
            lag.push((name.to_owned(), oldest as f64 / 1000.0));
            let is_up = state.contact_at.is_some() && state.contact_at >= state.error_at;
            up.push((name.to_owned(), f64::from(u8::from(is_up))));
        }
        out.gauges_by("peer_queue", "Events of the peer that wait to be worked on", "peer", &queue)?;
        out.gauges_by("peer_lag_seconds", "Age of the oldest event that waits", "peer", &lag)?;
        out.gauges_by("peer_up", "Whether the last request to the peer succeeded", "peer", &up)?;
        let counts = replication.counts();
        out.counters_by(
            "peer_events",
            "Events of all peers",
            "result",
            &[
                ("queued", counts.queued),
                ("notified", counts.notified),
                ("done", counts.done),
                ("failed", counts.failed),
                ("push_failed", counts.push_failures),
            ],
        )
    }
}

impl Collector for States {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        process::write(&mut out)?;
        // The server shuts down.
        let Some(services) = self.services.upgrade() else { return Ok(()) };
        self.of_store(&services.store, &mut out)?;
        if let Some((unverified, quarantined)) = self.census.last(&services) {
            out.gauge(
                "versions_unverified",
                "Stored versions of public modules that no checksum database has confirmed",
                unverified as f64,
            )?;
            out.gauge("quarantine_entries", "Entries in the quarantine", quarantined as f64)?;
        }
        Self::of_fills(&services, &mut out)?;
        Self::of_checksums(&services, &mut out)?;
        match self.replication.as_ref().and_then(Weak::upgrade) {
            Some(replication) => Self::of_peers(&replication, &services.store, &mut out),
            None => Ok(()),
        }
    }
}

/// Returns the last change of the layout in the history of a store. Its creation does not count.
fn last_migration(store: &Store) -> Option<HistoryEntry> {
    let (content, _) = Content::read(store.root(), &Marker::At(store.layout().clone()), "");
    content.history.into_iter().rev().find(HistoryEntry::is_migration)
}

/// Writes metrics.
pub(super) struct Writer<'e>(DescriptorEncoder<'e>);

impl Writer<'_> {
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, &[(&[], value)])
    }

    fn gauges_by(&mut self, name: &str, help: &str, label: &str, series: &[(String, f64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (text, value) in series {
            let labels = [(label, text.as_str())];
            ConstGauge::new(*value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, series: &[(&[(&str, &str)], f64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)
    }

    fn counters_by(&mut self, name: &str, help: &str, label: &str, series: &[(&str, u64)]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (text, value) in series {
            let labels = [(label, *text)];
            ConstCounter::new(*value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
