//! Cases that a review of the design found.

use std::fs;
use std::thread;

use serde_json::Value;

use testkit::client;
use testkit::link::Link;
use testkit::upstream::Upstream;
use testkit::{Case, trial};

use super::{NEVER, OFTEN, Site, connect};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("an index that is rebuilt between two pulls costs no second download", None, rebuilt),
        trial("both announce a version that neither has any more", None, neither_has_it),
        trial("a module outside of offer is 404 on every route", None, outside_of_offer),
        trial("a request of a peer downloads nothing", None, no_fill),
        trial("a tombstone that is set and lifted at two ends has one result", None, tombstones),
        trial("a tombstone of a peer without accept_tombstones changes nothing", None, unaccepted_tombstone),
        trial("a version that is announced without content is never the latest", None, without_content),
        trial("a version is listed and served before its turn in the queue", None, metadata_first),
        trial("with interval 0 the peer holds a pull until there is an event", None, long_poll),
        trial("a server that stops answers the peers that wait for an event", None, stops_at_once),
        trial("a version that was removed here comes back on request only", None, removed),
        trial("an event in a ring of three goes no further than once round", None, ring_of_three),
    ]
}

const OFFER: &str = "offer = [\"*\"]";
const EVENTS: &str = "/sync/v1/events";
const NOTIFY: &str = "/sync/v1/notify";

fn rebuilt() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    let (to_a, to_m) = connect(&mut m, &mut a, &[OFFER, OFTEN]);
    to_a.lose(NOTIFY);
    m.start();
    let before: Vec<_> = (0..5).map(|n| m.publish(&format!("example.com/m@v1.{n}.0"))).collect();
    a.start();
    for module in &before {
        a.wait_for(module);
    }
    let index = a.peer("m")["index"].clone();
    m.kill();
    fs::remove_dir_all(m.store().join("index")).unwrap();
    m.start();
    let after: Vec<_> = (5..10).map(|n| m.publish(&format!("example.com/m@v1.{n}.0"))).collect();
    for module in &after {
        a.wait_for(module);
    }
    testkit::until("A follows the new index", || a.peer("m")["index"] != index);
    a.wait_until_current("m");
    for module in before.iter().chain(&after) {
        assert_eq!(to_m.asked(&module.path("zip")), 1, "{}", module.version);
    }
    // The comparison also finds what was lost here.
    a.kill();
    fs::remove_dir_all(a.store().join("cache/peers")).unwrap();
    fs::remove_dir_all(a.store().join("modules/example.com/m/@v/v1.3.0")).unwrap();
    a.start();
    a.wait_for(&before[3]);
    assert_eq!(to_m.asked(&before[0].path("zip")), 1);
}

/// Returns a notification of a version.
fn notification(pair: &str) -> String {
    let (module, version) = pair.split_once('@').unwrap();
    format!(
        r#"{{"index":"i","events":[{{"seq":1,"module":"{module}","version":"{version}","kind":"published","time":1,"bytes":1}}]}}"#
    )
}

fn neither_has_it() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    let (to_b, to_a) = connect(&mut a, &mut b, &[OFFER, OFTEN]);
    a.start();
    b.start();
    for (site, from) in [(&a, "b"), (&b, "a")] {
        let reply = site.signer(from).post(site.address, NOTIFY, &notification("example.com/gone@v1.0.0"));
        assert_eq!(reply.status, 202, "{}", reply.text());
    }
    // Neither waits for the other: both are asked, and answer.
    for (line, site) in [(&to_a, &a), (&to_b, &b)] {
        line.wait_until_asked("/example.com/gone/", 1);
        let (status, _) = site.server().get("/example.com/gone/@v/v1.0.0.zip");
        assert_eq!(status, 404, "{}", site.name);
    }
    // Both go on, and the version comes when somebody has it.
    let module = a.publish("example.com/m@v1.0.0");
    b.wait_for(&module);
    let found = b.upstream.offer("example.com/gone@v1.0.0", 1000);
    testkit::until("B asks its upstream again", || b.server().get(&found.path("zip")).0 == 200);
    a.wait_for(&found);
}

fn outside_of_offer() {
    let mut site = Site::new("b");
    let peer = Upstream::start();
    site.add_peer("a", peer.url(), &["offer = [\"example.com/open\"]", NEVER]);
    site.start();
    let (open, closed) = (site.publish("example.com/open@v1.0.0"), site.publish("example.com/closed@v1.0.0"));
    let signer = site.signer("a");
    let ask = |path: &str| signer.ask(site.address, "GET", path, b"");
    for extension in ["info", "mod", "zip"] {
        assert_eq!(ask(&open.path(extension)).status, 200, "{extension}");
        let refused = ask(&closed.path(extension));
        assert_eq!(refused.status, 404, "{extension}");
        // An ordinary client gets it.
        assert_eq!(site.server().get(&closed.path(extension)).0, 200, "{extension}");
        // The answer is that for a version that is not there.
        let absent = ask("/example.com/absent/@v/v1.0.0.info");
        assert_eq!(absent.status, 404);
        assert!(!refused.text().contains("offer"), "{}", refused.text());
    }
    // Peers have no other path, not even for a module that is offered.
    for path in ["/example.com/open/@v/list", "/example.com/open/@latest", "/catalog", "/index", "/"] {
        assert_eq!(ask(path).status, 404, "{path}");
    }
    for (target, body) in [
        ("/sync/v1/digests", r#"{"after":""}"#),
        ("/sync/v1/events", r#"{"modules":["example.com/open","example.com/closed"]}"#),
    ] {
        let reply = signer.post(site.address, target, body);
        assert!(reply.status == 200 && reply.text().contains("example.com/open"), "{}", reply.text());
        assert!(!reply.text().contains("example.com/closed"), "{}", reply.text());
    }
}

fn no_fill() {
    let mut site = Site::new("b");
    let peer = Upstream::start();
    site.add_peer("a", peer.url(), &[OFFER, NEVER]);
    site.start();
    let module = site.upstream.offer("example.com/m@v1.0.0", 1000);
    let signer = site.signer("a");
    for extension in ["info", "mod", "zip"] {
        assert_eq!(signer.ask(site.address, "GET", &module.path(extension), b"").status, 404, "{extension}");
    }
    for path in ["@v/list", "@latest", "@v/main.info"] {
        let reply = signer.ask(site.address, "GET", &format!("/example.com/m/{path}"), b"");
        assert!(!reply.text().contains("v1.0.0"), "{path}: {}", reply.text());
    }
    assert!(site.upstream.requests().is_empty(), "{:?}", site.upstream.requests());
}

fn tombstones() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    let (to_b, to_a) = connect(&mut a, &mut b, &[OFFER, OFTEN, "accept_tombstones = true"]);
    a.start();
    b.start();
    let pair = "example.com/m@v1.0.0";
    let module = a.publish(pair);
    b.wait_for(&module);
    let status = |site: &Site| site.server().get(&module.path("info")).0;
    // Both ends decide while they cannot reach each other: B has decided more often.
    to_a.cut();
    to_b.cut();
    a.done(&["remove", "--tombstone", "--reason", "contains a key", pair]);
    b.done(&["remove", "--tombstone", pair]);
    b.done(&["remove", "--lift", pair]);
    testkit::until("A forbids the version", || status(&a) == 410);
    to_a.heal();
    to_b.heal();
    testkit::until("the lifting arrives at A", || status(&a) != 410);
    a.wait_until_current("b");
    b.wait_until_current("a");
    assert_ne!(status(&b), 410);
    // A later tombstone reaches both, with its reason.
    a.done(&["remove", "--tombstone", "--reason", "contains a key", pair]);
    testkit::until("the tombstone arrives at B", || status(&b) == 410);
    assert_eq!(status(&a), 410);
    let listed = b.done(&["remove", "--list"]);
    assert!(listed.contains("contains a key"), "{listed}");
    assert!(b.stored(&module).is_none());
}

fn unaccepted_tombstone() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    connect(&mut a, &mut b, &[OFFER, OFTEN]);
    a.start();
    b.start();
    let module = a.publish("example.com/m@v1.0.0");
    b.wait_for(&module);
    a.done(&["remove", "--tombstone", "example.com/m@v1.0.0"]);
    testkit::until("A forbids the version", || a.server().get(&module.path("info")).0 == 410);
    let later = a.publish("example.com/m@v1.1.0");
    b.wait_for(&later);
    b.wait_until_current("a");
    assert!(b.server().get(&module.path("zip")) == (200, module.zip.clone()));
    // It does not come back to A, which has forbidden it.
    a.wait_until_current("b");
    assert_eq!(a.server().get(&module.path("zip")).0, 410);
}

fn without_content() {
    for (accept, is_listed) in [("accept = [\"*\"]", false), ("accept = [\"*\", \"example.com\"]", true)] {
        let mut site = Site::new("b");
        let peer = Upstream::start();
        site.add_peer("a", peer.url(), &[OFFER, NEVER, accept]);
        site.start();
        let module = site.publish("example.com/m@v1.0.0");
        let reply = site.signer("a").post(site.address, NOTIFY, &notification("example.com/m@v99.0.0"));
        assert_eq!(reply.status, 202, "{}", reply.text());
        // The path has no /v99, so the version is none of this module.
        let reply = site.signer("a").post(site.address, NOTIFY, &notification("example.com/m@v1.99.0"));
        assert_eq!(reply.status, 202, "{}", reply.text());
        peer.wait_until_asked("/example.com/m/@v/v1.99.0.info", 1);
        assert_eq!(site.list(&module).contains(&"v1.99.0".to_owned()), is_listed, "{accept}");
        assert!(!site.list(&module).contains(&"v99.0.0".to_owned()));
        let latest = site.server().get("/example.com/m/@latest");
        let text = String::from_utf8_lossy(&latest.1).into_owned();
        assert!(!text.contains("99"), "{text}");
        for query in ["v1", "%3E=v1.0.0"] {
            let (_, body) = site.server().get(&format!("/example.com/m/@v/{query}.info"));
            assert!(!String::from_utf8_lossy(&body).contains("99"), "{query}");
        }
        assert_eq!(site.server().get("/example.com/m/@v/v1.99.0.zip").0, 404);
        assert!(site.server().get(&module.path("zip")) == (200, module.zip));
    }
}

fn metadata_first() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    let (_, to_m) = connect(&mut m, &mut a, &[OFFER, NEVER, "accept = [\"example.com\"]"]);
    m.start();
    let module = m.publish("example.com/m@v1.0.0");
    // The workers find no files, but the events.
    to_m.lose("/@v/");
    a.start();
    to_m.wait_until_asked("/@v/", 1);
    assert_eq!(a.list(&module), ["v1.0.0"]);
    assert!(a.stored(&module).is_none());
    to_m.heal();
    // A request does not wait for the next attempt of the workers.
    assert!(a.server().get(&module.path("zip")) == (200, module.zip.clone()));
    a.wait_for(&module);
    testkit::until("the queue is empty", || a.peer("m")["queued"] == 0);
}

fn stops_at_once() {
    let mut site = Site::new("b");
    site.add_peer("a", "http://127.0.0.1:1", &["offer = []", NEVER]);
    // Without an answer, the request is aborted after this time.
    site.variables.push(("STOA_GRACE".to_owned(), "1s".to_owned()));
    site.start();
    let (address, signer) = (site.address, site.signer("a"));
    let known = signer.post(address, EVENTS, r#"{"pointers":{}}"#);
    let header: Value = serde_json::from_str(known.text().lines().next().unwrap()).unwrap();
    let body = format!(r#"{{"pointers":{{{}:{}}},"wait":60}}"#, header["index"], header["current"]);
    let send = |authorization: &str, body: &str| {
        client::send(address, "POST", EVENTS, &[("Authorization", authorization)], body.as_bytes())
    };
    thread::scope(|scope| {
        let waiting = loop {
            let authorization = signer.sign("POST", EVENTS, body.as_bytes());
            let waiting = scope.spawn({
                let (authorization, body) = (authorization.clone(), body.clone());
                move || send(&authorization, &body)
            });
            // The server has the request if it knows its nonce. The other body is refused in any case.
            if send(&authorization, "{}").text().contains("received before") {
                break waiting;
            }
            assert_eq!(waiting.join().unwrap().status, 401);
        };
        assert!(site.server.take().unwrap().stop().success());
        let reply = waiting.join().unwrap();
        assert!(reply.status == 200 && reply.text().contains("\"end\":true"), "{reply:?}");
    });
}

fn long_poll() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    let (to_a, to_m) = connect(&mut m, &mut a, &[OFFER, "interval = 0"]);
    to_a.lose(NOTIFY);
    m.start();
    let first = m.publish("example.com/m@v1.0.0");
    a.start();
    a.wait_for(&first);
    let holds = || {
        let requests = to_m.requests();
        let last = requests.iter().rfind(|request| request.path == "/sync/v1/events").unwrap();
        let pointer = a.peer("m")["pointer"].clone();
        let body: serde_json::Value = serde_json::from_slice(&last.body).unwrap();
        body["wait"].as_u64().is_some_and(|seconds| seconds > 1)
            && body["pointers"].as_object().is_some_and(|all| all.values().any(|seq| *seq == pointer))
    };
    testkit::until("A waits at M for the next event", holds);
    let second = m.publish("example.com/m@v1.1.0");
    a.wait_for(&second);
    m.wait_until_current("a");
}

fn removed() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    connect(&mut m, &mut a, &[OFFER, OFTEN]);
    m.start();
    a.start();
    let module = m.publish("example.com/m@v1.0.0");
    a.wait_for(&module);
    a.done(&["remove", "example.com/m@v1.0.0"]);
    // Later events do not bring it back, and neither does the peer lose it.
    let later = m.publish("example.com/m@v1.1.0");
    a.wait_for(&later);
    a.wait_until_current("m");
    m.wait_until_current("a");
    assert!(a.stored(&module).is_none() && m.stored(&module).is_some());
}

fn ring_of_three() {
    let mut sites = ["a", "b", "c"].map(Site::new);
    let mut lines = Vec::new();
    for one in 0..3 {
        for other in (0..3).filter(|other| *other != one) {
            let (line, name) = (Link::to(sites[other].address), sites[other].name.clone());
            sites[one].add_peer(&name, line.url(), &[OFFER, OFTEN]);
            lines.push((one, line));
        }
    }
    for site in &mut sites {
        site.start();
    }
    let wait_until_quiet = || {
        for site in &sites {
            for other in sites.iter().filter(|other| other.name != site.name) {
                site.wait_until_current(&other.name);
            }
        }
    };
    let modules: Vec<_> = (0..9).map(|n| sites[n % 3].publish(&format!("example.com/m@v1.{n}.0"))).collect();
    for site in &sites {
        for module in &modules {
            site.wait_for(module);
        }
    }
    wait_until_quiet();
    // Two neighbours announce the same version: it is downloaded from one of them.
    for (number, site) in sites.iter().enumerate() {
        for module in &modules {
            let of_peers = lines.iter().filter(|(at, _)| *at == number);
            let count: usize = of_peers.map(|(_, line)| line.asked(&module.path("zip"))).sum();
            assert_eq!(
                count + site.upstream.count(&module.path("zip")),
                1,
                "{} of {}",
                module.version,
                site.name
            );
        }
    }
    // A version is one event in each log: nothing goes round.
    let current = |site: &Site, of: &str| site.peer(of)["current"].as_u64().unwrap();
    let before = [current(&sites[0], "b"), current(&sites[1], "c"), current(&sites[2], "a")];
    let last = sites[0].publish("example.com/m@v1.9.0");
    for site in &sites {
        site.wait_for(&last);
    }
    wait_until_quiet();
    testkit::until("all logs have the event", || {
        [current(&sites[0], "b"), current(&sites[1], "c"), current(&sites[2], "a")]
            == before.map(|seq| seq + 1)
    });
    wait_until_quiet();
    assert_eq!(
        [current(&sites[0], "b"), current(&sites[1], "c"), current(&sites[2], "a")],
        before.map(|seq| seq + 1)
    );
}
