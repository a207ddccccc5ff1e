//! A zip that proved wrong is not downloaded again for each request.

use std::time::Duration;

use stoa::server::ServeOptions;
use stoa::services::{FlightOptions, ServiceOptions};
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::upstream::{Module, Upstream};

fn site(folder: &std::path::Path, upstream: &Upstream, wrong_pause: Duration) -> Site {
    let flights = FlightOptions { wrong_pause, ..FlightOptions::default() };
    let services = ServiceOptions { flights, ..ServiceOptions::default() };
    let options = ServeOptions { services, ..ServeOptions::default() };
    Site::with(site::open(folder, Mode::ReadWrite), site::upstream(upstream.url()), options)
}

#[test]
fn requests_soon_after_a_wrong_zip_get_the_same_error_without_a_download() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let module = Module::new("example.com/m@v1.0.0", 1000).with_bad_crc();
    upstream.serve(&module);
    let site = site(folder.path(), &upstream, Duration::from_secs(500));
    let first = site.get(&module.path("zip"));
    assert_eq!((first.status, first.header("retry-after")), (502, None), "{}", first.text());
    let requests = upstream.requests().len();
    for _ in 0..20 {
        let again = site.get(&module.path("zip"));
        assert_eq!((again.status, again.text()), (502, first.text()));
        let seconds: u64 = again.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=500).contains(&seconds), "{seconds}");
    }
    assert_eq!(upstream.requests().len(), requests, "the upstream was asked again");
    // Its info and go.mod are not wrong.
    assert_eq!(site.get(&module.path("mod")).body, module.modfile);
    assert_eq!(upstream.count(&module.path("zip")), 1);
    // Other versions are downloaded, and so is this one after a restart.
    let other = Module::new("example.com/m@v1.1.0", 1000);
    upstream.serve(&other);
    assert_eq!(site.get(&other.path("zip")).body, other.zip);
    drop(site);
    let right = Module::new("example.com/m@v1.0.0", 1000);
    upstream.serve(&right);
    let site = Site::start(folder.path(), upstream.url());
    assert_eq!(site.get(&right.path("zip")).body, right.zip);
}

#[test]
fn a_wrong_zip_is_downloaded_again_after_a_pause() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let right = Module::new("example.com/m@v1.0.0", 1000);
    let wrong = right.clone().with_bad_crc();
    upstream.serve(&wrong);
    let site = site(folder.path(), &upstream, Duration::from_millis(50));
    assert_eq!(site.get(&wrong.path("zip")).status, 502);
    upstream.serve(&right);
    loop {
        let reply = site.get(&right.path("zip"));
        if reply.status == 200 {
            assert_eq!(reply.body, right.zip);
            break;
        }
        assert_eq!(reply.status, 502, "{}", reply.text());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(upstream.count(&right.path("zip")), 2);
}
