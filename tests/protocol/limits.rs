//! Upstreams that limit requests.

use stoa::serve::ServeOptions;
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
            429 => assert_eq!(upstream.requests().len(), asked),
            // It may concern one file.
            _ => assert!(upstream.requests().len() > asked),
        }
    }
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
