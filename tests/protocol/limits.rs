//! Upstreams that limit requests.

use stoa::server::ServeOptions;
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::client::Reply;
use testkit::upstream::{Module, Script, Upstream, head};

const LIST: &str = "/example.com/m/@v/list";

fn limiting(status: u16, retry_after: &str) -> Script {
    let text = "slow down\n";
    let headers = format!(
        "Content-Type: text/plain\r\nRetry-After: {retry_after}\r\nContent-Length: {}\r\n",
        text.len()
    );
    Script::Raw([head(status, &headers).as_slice(), text.as_bytes()].concat())
}

/// Returns the `Retry-After` of an answer in seconds.
fn retry_after(reply: &Reply) -> u64 {
    reply.header("retry-after").expect("a limit names its end").parse().unwrap()
}

#[test]
fn a_limit_is_passed_on_and_the_upstream_gets_no_more_requests() {
    let module = Module::new("example.com/m@v1.0.0", 10);
    for status in [429, 503] {
        let folder = site::folder();
        let upstream = Upstream::with(move |_| limiting(status, "3000"));
        let options = ServeOptions { sumdbs: vec!["sum.example".to_owned()], ..site::asking_each_time() };
        let site =
            Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream(upstream.url()), options);
        let first = site.get(&module.path("zip"));
        assert_eq!((first.status, first.header("cache-control")), (status, Some("no-store")));
        assert!((2900..=3000).contains(&retry_after(&first)), "{first:?}");
        assert!(first.text().contains("slow down"), "{}", first.text());
        // Those of the first flight are sent side by side, and none is repeated: the time is too long.
        let asked = upstream.requests().len();
        assert!(asked <= 3, "{asked}");
        for path in [
            LIST,
            "/example.com/m/@latest",
            "/example.com/m/@v/main.info",
            "/example.com/m/@v/v1.0.0.zip",
            "/example.com/other/@v/v1.0.0.mod",
            "/sumdb/sum.example/supported",
            "/sumdb/sum.example/latest",
        ] {
            let reply = site.get(path);
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
            assert!((2900..=3000).contains(&retry_after(&reply)), "{path}");
        }
        match status {
            // The upstream may note the last of the first requests only now.
            429 => assert!(upstream.requests().len() <= 3),
            // It may concern one file.
            _ => assert!(upstream.requests().len() > asked),
        }
    }
}

#[test]
fn one_request_probes_an_upstream_that_is_known_to_limit() {
    let folder = site::folder();
    let upstream = Upstream::with(|_| limiting(429, "1"));
    let site = Site::start(folder.path(), upstream.url());
    let get = |pair: &str| {
        let before = upstream.requests().len();
        assert_eq!(site.get(&Module::new(pair, 10).path("zip")).status, 429);
        upstream.requests().split_off(before)
    };
    // The first three are sent side by side, and one of them is repeated.
    let first = get("example.com/m@v1.0.0");
    let count = |path: &str| first.iter().filter(|request| request.path == path).count();
    let repeated = ["info", "mod", "zip"]
        .map(|ending| count(&format!("/example.com/m/@v/v1.0.0.{ending}")))
        .into_iter()
        .filter(|count| *count > 1);
    assert!(first.len() <= 5 && repeated.count() <= 1, "{first:?}");
    for n in 1..3 {
        let probes = get(&format!("example.com/m@v1.{n}.0"));
        assert_eq!(probes.len(), 1, "{probes:?}");
    }
}

#[test]
fn a_limit_ends_the_other_requests_for_the_version() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let patient = site::upstream_with(upstream.url(), std::time::Duration::from_secs(3600));
    let store = site::open(folder.path(), Mode::ReadWrite);
    let site = Site::with(store, patient, site::asking_each_time());
    let module = upstream.offer("example.com/m@v1.0.0", 10);
    upstream.set(&module.path("info"), limiting(429, "3000"));
    for ending in ["mod", "zip"] {
        upstream.set(&module.path(ending), Script::Stall(Vec::new()));
    }
    assert_eq!(site.get(&module.path("zip")).status, 429);
}

#[test]
fn an_upstream_that_limited_requests_is_asked_for_one_file_after_the_other() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    upstream.set(LIST, limiting(429, "0"));
    assert_eq!(site.get(LIST).status, 429);
    // It answers again.
    let module = upstream.offer("example.com/m@v1.0.0", 10);
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
    let limited = Module::new("example.com/m@v1.1.0", 10);
    for ending in ["info", "mod", "zip"] {
        upstream.set(&limited.path(ending), limiting(429, "3000"));
    }
    let before = upstream.requests().len();
    assert_eq!(site.get(&limited.path("zip")).status, 429);
    let asked = upstream.requests().split_off(before);
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[test]
fn a_limit_is_not_passed_on_if_something_else_serves() {
    let folder = site::folder();
    let (limited, other) = (Upstream::start(), Upstream::start());
    let module = other.offer("example.com/m@v1.0.0", 10);
    let site = Site::start(folder.path(), &format!("{}|{}", limited.url(), other.url()));
    let before = Module::new("example.com/m@v0.9.0", 10);
    site.publish(&before);
    limited.set(LIST, Script::Body(b"v0.1.0\n".to_vec()));
    assert_eq!(site.get(LIST).text(), "v0.1.0\nv0.9.0\n");
    for path in [LIST.to_owned(), module.path("info"), module.path("mod"), module.path("zip")] {
        limited.set(&path, limiting(429, "3000"));
    }
    assert_eq!(site.get(&before.path("zip")).body, before.zip, "it is stored");
    assert_eq!(site.get(&module.path("zip")).body, module.zip, "the other upstream has it");
    // The limit counts more than the absence at the other upstream.
    assert_eq!(site.get("/example.com/n/@v/v1.0.0.info").status, 429);
    drop(site);
    let alone = Site::start(folder.path(), limited.url());
    let asked = limited.requests().len();
    let list = alone.get(LIST);
    assert_eq!((list.status, list.text()), (200, "v0.9.0\nv1.0.0\n"), "the stored versions");
    assert_eq!(limited.requests().len(), asked + 1);
}

#[test]
fn the_last_answer_is_served_while_the_upstream_limits_requests() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    upstream.set(LIST, Script::Body(b"v1.0.0\n".to_vec()));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    upstream.set(LIST, limiting(503, "3000"));
    for _ in 0..6 {
        let list = site.get(LIST);
        assert_eq!((list.status, list.text()), (200, "v1.0.0\n"));
    }
    assert_eq!(upstream.count(LIST), 7, "no attempt is repeated");
}

#[test]
fn a_short_limit_is_waited_out_and_probed_once() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = upstream.offer("example.com/m@v1.0.0", 10);
    upstream.set(LIST, limiting(429, "2"));
    std::thread::scope(|scope| {
        let list = scope.spawn(|| site.get(LIST));
        upstream.wait_until_asked(LIST, 1);
        upstream.set(LIST, Script::Body(b"v1.0.0\n".to_vec()));
        let zips: Vec<_> = (0..3).map(|_| scope.spawn(|| site.get(&module.path("zip")))).collect();
        for zip in zips {
            assert_eq!(zip.join().unwrap().body, module.zip);
        }
        assert_eq!(list.join().unwrap().text(), "v1.0.0\n");
    });
    assert_eq!(upstream.count(LIST), 2);
    assert_eq!(upstream.count(&module.path("info")), 1);
}
