//! `/metrics` of the real server: each metric moves by the expected amount.

use testkit::metrics::Scrape;
use testkit::server::Server;
use testkit::upstream::Upstream;
use testkit::{Case, cases};

pub(crate) fn cases() -> Vec<Case> {
    cases![requests_are_counted]
}

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
    assert_eq!(now.since(&first, "stoa_request_duration_seconds_count", &zip), 3.0);
    assert_eq!(now.since(&first, "stoa_request_duration_seconds_count", &[zip[0], hit[2]]), 2.0);
    assert!(now.sum("stoa_request_duration_seconds_sum", &zip) > 0.0);
    assert_eq!(now.since(&first, "stoa_response_bytes_total", &zip), 3.0 * module.zip.len() as f64);
    assert_eq!(now.sum("stoa_requests_aborted_total", &zip), 0.0);
    assert_eq!(now.sum("stoa_requests_total", &[r#"kind="mod""#, r#"status="404""#]), 1.0);
    assert_eq!(now.sum("stoa_requests_total", &[r#"kind="other""#, r#"status="404""#]), 1.0);
}
