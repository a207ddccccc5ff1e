//! `/metrics` of the real server: each metric moves by the expected amount.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use testkit::metrics::Scrape;
use testkit::server::{self, Server};
use testkit::upstream::{Script, Upstream};
use testkit::{Case, cases};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        requests_are_counted,
        sources_of_answers_are_counted,
        every_metric_moves,
        a_migrated_store_with_peers,
        files_name_only_metrics_that_exist,
    ]
}

/// Names of metrics whose amounts a test of this file checks.
const CHECKED: &[&str] = &[
    "stoa_checksums_total",
    "stoa_claim_waits",
    "stoa_connections",
    "stoa_fill_bytes_total",
    "stoa_fill_duration_seconds",
    "stoa_fills_total",
    "stoa_flights",
    "stoa_index_age_seconds",
    "stoa_last_migration_timestamp_seconds",
    "stoa_max_open_files",
    "stoa_open_files",
    "stoa_peer_events_total",
    "stoa_peer_lag_seconds",
    "stoa_peer_queue",
    "stoa_peer_up",
    "stoa_permits",
    "stoa_permits_in_use",
    "stoa_quarantine_entries",
    "stoa_refused_total",
    "stoa_request_duration_seconds",
    "stoa_requests_aborted_total",
    "stoa_requests_in_progress",
    "stoa_requests_total",
    "stoa_resident_memory_bytes",
    "stoa_response_bytes_total",
    "stoa_store_bytes",
    "stoa_store_free_bytes",
    "stoa_store_info",
    "stoa_store_modules",
    "stoa_store_size_bytes",
    "stoa_store_versions",
    "stoa_transfers_aborted_total",
    "stoa_upstream_last_success_timestamp_seconds",
    "stoa_upstream_limited",
    "stoa_versions_unverified",
];

/// Names of metrics whose amounts are checked elsewhere, and the test.
const CHECKED_ELSEWHERE: &[(&str, &str)] = &[
    ("stoa_access_log_dropped_total", "access_log::lines_that_do_not_fit_are_counted"),
    ("stoa_certificate_expiry_timestamp_seconds", "meters::tests"),
    ("stoa_bucket_up", "none: the outage of a bucket is tested with /readyz"),
    ("stoa_checksum_forks_total", "none: it is the number in the log at the shutdown"),
    ("stoa_connections_closed_total", "meters::tests"),
    ("stoa_evicted_bytes_total", "meters::tests"),
    ("stoa_evicted_versions_total", "meters::tests"),
    ("stoa_eviction_last_run_timestamp_seconds", "meters::tests"),
    ("stoa_reloads_total", "meters::tests"),
];

fn requests_are_counted() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let server = Server::start(&dir.path().join("store"), upstream.url());
    let none = Scrape::of(&server.url);
    assert_eq!(none.sum("stoa_requests_total", &[]), 0.0);
    assert_eq!(none.sum("stoa_requests_in_progress", &[]), 1.0, "the scrape itself");
    let first = Scrape::of(&server.url);
    let metrics = [r#"kind="metrics""#, r#"status="200""#, r#"cache="-""#];
    assert_eq!(first.sum("stoa_requests_total", &metrics), 1.0, "the earlier scrape");

    for _ in 0..3 {
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    }
    assert_eq!(server.get("/example.com/none/@v/v1.0.0.mod").0, 404);
    assert_eq!(server.get("/nothing").0, 404);
    let hit = [r#"kind="zip""#, r#"status="200""#, r#"cache="hit""#];
    let zip = [r#"kind="zip""#];
    let mut now = Scrape::of(&server.url);
    // A client may see the last byte before the server notes it.
    testkit::until("the requests are counted", || {
        now = Scrape::of(&server.url);
        now.since(&first, "stoa_requests_total", &zip) == 3.0
    });
    assert_eq!(now.since(&first, "stoa_requests_total", &hit), 2.0);
    assert_eq!(now.since(&first, "stoa_requests_total", &[zip[0], r#"cache="miss""#]), 1.0);
    assert_eq!(now.since(&first, "stoa_request_duration_seconds_count", &zip), 3.0);
    assert_eq!(now.since(&first, "stoa_request_duration_seconds_count", &[zip[0], hit[2]]), 2.0);
    assert!(now.sum("stoa_request_duration_seconds_sum", &zip) > 0.0);
    assert_eq!(now.since(&first, "stoa_response_bytes_total", &zip), 3.0 * module.zip.len() as f64);
    assert_eq!(now.sum("stoa_requests_aborted_total", &zip), 0.0);
    assert_eq!(now.sum("stoa_requests_total", &[r#"kind="mod""#, r#"status="404""#]), 1.0);
    assert_eq!(now.sum("stoa_requests_total", &[r#"kind="other""#, r#"status="404""#]), 1.0);
}

fn sources_of_answers_are_counted() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 1000);
    let list = "/example.com/m/@v/list";
    let mut command = server::command(&dir.path().join("store"));
    command.args(["--upstream", upstream.url(), "--fill-list-ttl", "1ms"]);
    let server = Server::start_with(&mut command);
    let lists = |cache: &str| {
        Scrape::of(&server.url).sum("stoa_requests_total", &[r#"kind="list""#, &format!("cache=\"{cache}\"")])
    };
    assert_eq!(server.get(list).0, 200);
    testkit::until("the first list is a miss", || lists("miss") == 1.0);
    // Much older than the TTL, so the client waits for the upstream, which fails.
    upstream.fail(Some("503 Unavailable"));
    assert_eq!(server.get(list).0, 200);
    testkit::until("the second list is stale", || lists("stale") == 1.0);
    upstream.fail(None);
    upstream.hold(".zip");
    std::thread::scope(|scope| {
        let ask = || assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
        scope.spawn(ask);
        upstream.wait_until_asked(".zip", 1);
        scope.spawn(ask);
        let waiting = || Scrape::of(&server.url).sum("stoa_requests_in_progress", &[]) == 3.0;
        testkit::until("both requests wait", waiting);
        let during = Scrape::of(&server.url);
        assert_eq!(during.sum("stoa_flights", &[]), 1.0);
        assert_eq!(during.sum("stoa_permits_in_use", &[r#"permits="zips""#]), 1.0);
        assert!(during.sum("stoa_connections", &[]) >= 3.0);
        upstream.release();
    });
    let zips = |cache: &str| {
        Scrape::of(&server.url).sum("stoa_requests_total", &[r#"kind="zip""#, &format!("cache=\"{cache}\"")])
    };
    testkit::until("one asked and one waited", || (zips("miss"), zips("wait")) == (1.0, 1.0));
    // The flight ends after its clients.
    testkit::until("nothing is in use", || {
        let after = Scrape::of(&server.url);
        after.sum("stoa_flights", &[]) + after.sum("stoa_permits_in_use", &[]) == 0.0
    });
}

fn every_metric_moves() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 200_000);
    upstream.set("/example.com/bad/@v/v1.0.0.info", Script::Body(b"<html>".to_vec()));
    let config = dir.path().join("stoa.toml");
    fs::write(&config, "[[module]]\npattern = \"example.com/denied\"\ndeny = [\"*\"]\n").unwrap();
    let mut command = server::command(&root);
    command.arg("--config").arg(&config).args(["--upstream", upstream.url(), "--index-interval", "1s"]);
    let server = Server::start_with(&mut command);
    let host = upstream.url().strip_prefix("http://").unwrap();
    let of_host = format!("upstream=\"{host}\"");
    let labels = |outcome: &str| format!("upstream=\"{host}\",outcome=\"{outcome}\"");

    assert_eq!(server.get(&module.path("zip")).0, 200);
    assert_eq!(server.get("/example.com/none/@v/v1.0.0.zip").0, 404);
    assert_eq!(server.get("/example.com/bad/@v/v1.0.0.info").0, 502);
    assert_eq!(server.get("/example.com/denied/@v/v1.0.0.info").0, 403);
    let mut now = Scrape::default();
    testkit::until("the version is counted", || {
        now = Scrape::of(&server.url);
        now.sum("stoa_store_versions", &[]) == 1.0 && now.has("stoa_versions_unverified")
    });
    assert_eq!(now.sum("stoa_fills_total", &[&labels("stored")]), 1.0);
    assert_eq!(now.sum("stoa_fills_total", &[&labels("absent")]), 1.0);
    assert_eq!(now.sum("stoa_fills_total", &[&labels("failed")]), 1.0);
    assert_eq!(now.sum("stoa_fill_duration_seconds_count", &[]), 3.0);
    assert_eq!(now.sum("stoa_fill_bytes_total", &[&labels("stored")]), module.zip.len() as f64);
    assert!(now.sum("stoa_upstream_last_success_timestamp_seconds", &[&of_host]) > 1.7e9);
    assert_eq!(now.sum("stoa_upstream_limited", &[&of_host]), 0.0);
    assert_eq!(now.sum("stoa_refused_total", &[r#"cause="denied""#]), 1.0);
    assert_eq!(now.sum("stoa_permits", &[r#"permits="zips""#]), 16.0);
    assert_eq!(now.sum("stoa_transfers_aborted_total", &[]), 0.0);
    assert_eq!(now.sum("stoa_claim_waits", &[]), 0.0);
    assert_eq!(now.sum("stoa_store_modules", &[]), 1.0);
    assert!(now.sum("stoa_store_bytes", &[]) >= module.zip.len() as f64);
    assert!(now.sum("stoa_store_size_bytes", &[]) >= now.sum("stoa_store_free_bytes", &[]));
    assert_eq!(now.sum("stoa_store_info", &[r#"layout="v2""#]), 1.0);
    assert_eq!(now.sum("stoa_versions_unverified", &[]), 1.0);
    assert_eq!(now.sum("stoa_quarantine_entries", &[]), 0.0);
    assert_eq!(now.sum("stoa_checksums_total", &[r#"result="unverified""#]), 1.0);
    assert_eq!(now.sum("stoa_checksums_total", &[]), 1.0);
    assert!(now.has("stoa_index_age_seconds"));
    assert!(now.sum("stoa_open_files", &[]) > 3.0);
    assert!(now.sum("stoa_max_open_files", &[]) > now.sum("stoa_open_files", &[]));
    assert!(now.sum("stoa_resident_memory_bytes", &[]) > 1e6);
    assert!(!now.has("stoa_bucket_up"), "there is no bucket");

    let known = CHECKED.iter().chain(CHECKED_ELSEWHERE.iter().map(|(name, _)| name));
    let known: BTreeSet<String> = known.map(|name| (*name).to_owned()).collect();
    let unknown: Vec<_> = now.names().difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "add a case for {unknown:?}");
    let page = fs::read_to_string("docs/metrics.md").unwrap();
    for name in &known {
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md does not name {name}");
    }
}

fn a_migrated_store_with_peers() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    testkit::old::athens(&root, 3);
    let secret = dir.path().join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let config = dir.path().join("stoa.toml");
    let peer = format!(
        "[peers]\nname = \"a\"\n\n[[peer]]\nname = \"b\"\nurl = \"http://{}\"\nsecret_file = \"secret\"\noffer = []\n",
        testkit::ports::closed()
    );
    fs::write(&config, peer).unwrap();
    let mut command = server::command(&root);
    let server = Server::start_with(command.arg("--config").arg(&config).args(["--upstream", "off"]));
    let now = Scrape::of(&server.url);
    assert!(now.sum("stoa_last_migration_timestamp_seconds", &[r#"to="v2""#]) > 1.7e9);
    let of_b = [r#"peer="b""#];
    for name in ["stoa_peer_queue", "stoa_peer_lag_seconds", "stoa_peer_up"] {
        assert!(now.has(name), "{name}");
        assert_eq!(now.sum(name, &of_b), 0.0, "{name}");
    }
    assert!(now.has("stoa_peer_events_total"));
    testkit::until("the versions are counted", || {
        Scrape::of(&server.url).sum("stoa_store_versions", &[]) == 3.0
    });
}

/// The dashboard and the rules name metrics that exist.
fn files_name_only_metrics_that_exist() {
    let known = || CHECKED.iter().chain(CHECKED_ELSEWHERE.iter().map(|(name, _)| name));
    for file in ["monitoring/grafana-dashboard.json", "monitoring/prometheus-rules.yml", "docs/metrics.md"] {
        let text = fs::read_to_string(file).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<_> = words.filter(|word| word.starts_with("stoa_")).collect();
        assert!(named.len() > 5, "{file} names no metrics");
        for name in named {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_known = known().any(|known| *known == name || family == Some(known));
            assert!(is_known, "{file}: there is no metric {name}");
        }
    }
}
