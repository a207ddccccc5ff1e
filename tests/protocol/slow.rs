//! Slow downloads: they give way to downloads that wait, and otherwise take their time.

use std::time::Duration;

use stoa::server::ServeOptions;
use stoa::services::{FlightOptions, ServiceOptions};
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::client::Conversation;
use testkit::upstream::{Module, Script, Upstream};

/// Makes a download as slow as 20 KiB/s.
fn slow(module: &Module) -> Script {
    Script::Paced(module.zip.clone(), 1024, Duration::from_millis(50))
}

/// A proxy with one slot, in which the rate of a download is known after a short time.
fn site(folder: &std::path::Path, upstream: &Upstream, max_concurrent: usize) -> Site {
    let rate_window = Duration::from_millis(500);
    let flights = FlightOptions { max_concurrent, rate_window, ..FlightOptions::default() };
    let services = ServiceOptions { flights, ..ServiceOptions::default() };
    let options = ServeOptions { services, ..ServeOptions::default() };
    Site::with(site::open(folder, Mode::ReadWrite), site::upstream(upstream.url()), options)
}

fn offer(upstream: &Upstream, pair: &str, bytes: usize) -> Module {
    let module = Module::new(pair, bytes);
    upstream.serve(&module);
    module
}

/// Begins a slow download and waits for its first bytes.
fn begin(site: &Site, module: &Module) -> Conversation {
    let mut client = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    assert_eq!(client.head().status, 200);
    client
}

#[test]
fn a_slow_download_gives_its_slot_to_a_waiting_one() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let (dripping, other) = (
        offer(&upstream, "example.com/slow@v1.0.0", 2_000_000),
        offer(&upstream, "example.com/m@v1.0.0", 1000),
    );
    upstream.set(&dripping.path("zip"), slow(&dripping));
    let site = site(folder.path(), &upstream, 1);
    let mut client = Conversation::begin(site.address, "GET", &dripping.path("zip"), "HTTP/1.1", &[]);
    upstream.wait_until_asked("/slow/@v/v1.0.0.zip", 1);
    let reply = site.get(&other.path("zip"));
    assert!(reply.status == 200 && reply.is_whole && reply.body == other.zip, "{}", reply.text());
    let ended = client.head();
    let ended = client.body(ended);
    if ended.status != 200 {
        assert!(ended.status == 504 && ended.text().contains("fill.min_rate"), "{}", ended.text());
    }
    assert!(!ended.is_whole || ended.status == 504);
    assert!(!site.has(&dripping.version));
}

#[test]
fn only_one_slow_download_ends_for_each_waiting_one() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let dripping: Vec<_> =
        (0..3).map(|number| offer(&upstream, &format!("example.com/slow@v1.{number}.0"), 80_000)).collect();
    for module in &dripping {
        upstream.set(&module.path("zip"), slow(module));
    }
    let other = offer(&upstream, "example.com/m@v1.0.0", 1000);
    let site = site(folder.path(), &upstream, 3);
    let replies: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            dripping.iter().map(|module| scope.spawn(|| site.get(&module.path("zip")))).collect();
        upstream.wait_until_asked(".zip", dripping.len());
        assert_eq!(site.get(&other.path("zip")).body, other.zip);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let whole = replies.iter().filter(|reply| reply.status == 200 && reply.is_whole).count();
    assert_eq!(whole, 2, "{:?}", replies.iter().map(|reply| reply.status).collect::<Vec<_>>());
}

#[test]
fn a_slow_download_finishes_if_no_other_waits() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let dripping = offer(&upstream, "example.com/slow@v1.0.0", 80_000);
    upstream.set(&dripping.path("zip"), slow(&dripping));
    let other = offer(&upstream, "example.com/m@v1.0.0", 1000);
    let site = site(folder.path(), &upstream, 2);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| site.get(&dripping.path("zip")));
        // It has a slot of its own.
        assert_eq!(site.get(&other.path("zip")).body, other.zip);
        let reply = client.join().unwrap();
        assert!(reply.status == 200 && reply.is_whole && reply.body == dripping.zip);
    });
    assert_eq!(upstream.count(&dripping.path("zip")), 1);
}

#[test]
fn a_slow_download_ends_if_no_client_waits_for_it() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let dripping = offer(&upstream, "example.com/slow@v1.0.0", 2_000_000);
    let zip = dripping.zip.clone();
    // Fast at first, so that the client gets its answer.
    upstream.set(&dripping.path("zip"), Script::FastThenSlow(zip, 200_000, 1024, Duration::from_millis(50)));
    let site = site(folder.path(), &upstream, 1);
    drop(begin(&site, &dripping));
    // All of the zip would take more than a minute.
    while !site.drafts().is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!site.has(&dripping.version));
    // The next request starts anew.
    upstream.set(&dripping.path("zip"), Script::Body(dripping.zip.clone()));
    assert_eq!(site.get(&dripping.path("zip")).body, dripping.zip);
}

#[test]
fn a_download_that_is_not_slow_keeps_its_slot() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let steady = offer(&upstream, "example.com/steady@v1.0.0", 1_000_000);
    let zip = steady.zip.clone();
    // About 200 KiB/s.
    upstream.set(&steady.path("zip"), Script::Paced(zip, 10 * 1024, Duration::from_millis(50)));
    let other = offer(&upstream, "example.com/m@v1.0.0", 1000);
    let site = site(folder.path(), &upstream, 1);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| site.get(&steady.path("zip")));
        upstream.wait_until_asked("/steady/@v/v1.0.0.zip", 1);
        assert_eq!(site.get(&other.path("zip")).body, other.zip);
        let reply = client.join().unwrap();
        assert!(reply.status == 200 && reply.is_whole && reply.body == steady.zip);
    });
}
