//! The places from which a version that peers have named comes, and who is asked about it.

use testkit::sumdb;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, transcript, trial};

use super::{NEVER, Site};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("a peer cannot make a server ask its upstream", None, only_the_peer),
        trial("a request tries two peers and then the upstream", None, two_peers),
        trial("an outage of the peer is no 404 for a client", None, offline),
        trial("a 404 of a peer says nothing about the upstream, nor the reverse", None, absences),
        trial("the checksum database is asked about a version of a peer, but not through it", None, database),
        trial("a request of a peer under require asks no checksum database", None, required),
    ]
}

const PAIR: &str = "example.com/m@v1.0.0";

/// Returns the deployment b with some peers, which are upstreams that have nothing.
fn with_peers<const N: usize>(names: [&str; N]) -> (Site, [Upstream; N]) {
    let mut site = Site::new("b");
    let peers = names.map(|name| {
        let peer = Upstream::start();
        site.add_peer(name, peer.url(), &["offer = [\"*\"]", NEVER]);
        peer
    });
    (site, peers)
}

/// Lets a peer name a version.
#[track_caller]
fn name(site: &Site, peer: &str, pair: &str) {
    let (module, version) = pair.split_once('@').unwrap();
    let body = format!(
        r#"{{"index":"i","events":[{{"seq":1,"module":"{module}","version":"{version}","kind":"published","time":1,"bytes":1}}]}}"#
    );
    let reply = site.signer(peer).post(site.address, "/sync/v1/notify", &body);
    assert_eq!(reply.status, 202, "{}", reply.text());
}

fn only_the_peer() {
    let (mut site, [peer]) = with_peers(["a"]);
    site.set("STOA_FILL_ABSENT_TTL", "0");
    site.start();
    let module = site.upstream.offer(PAIR, 1000);
    name(&site, "a", PAIR);
    // The second attempt begins after the end of the first.
    peer.wait_until_asked(&module.path("info"), 2);
    assert!(site.upstream.requests().is_empty(), "{:?}", site.upstream.requests());
    assert!(site.stored(&module).is_none());
    assert!(site.server().get(&module.path("zip")) == (200, module.zip.clone()));
    assert_eq!(site.upstream.count(&module.path("zip")), 1);
    testkit::until("the queue is empty", || site.peer("a")["queued"] == 0);
}

fn two_peers() {
    let (mut site, peers) = with_peers(["a", "c", "d"]);
    let [a, c, d] = &peers;
    site.start();
    let module = Module::new(PAIR, 1000);
    for (peer, of) in ["a", "c", "d"].into_iter().zip(&peers) {
        of.serve(&module);
        name(&site, peer, PAIR);
    }
    site.wait_for(&module);
    for peer in ["a", "c", "d"] {
        testkit::until("the queue is empty", || site.peer(peer)["queued"] == 0);
    }
    // The rows that are done tell who has the version.
    site.done(&["remove", PAIR]);
    let asked = || peers.each_ref().map(|peer| peer.asked_at("/@v/"));
    let before = asked();
    a.fail(Some("404 Not Found"));
    assert!(site.server().get(&module.path("zip")) == (200, module.zip.clone()));
    let after = asked();
    assert!(after[0] > before[0] && after[1] > before[1] && after[2] == before[2], "{before:?} {after:?}");
    assert!(site.upstream.requests().is_empty(), "{:?}", site.upstream.requests());
    site.done(&["remove", PAIR]);
    c.fail(Some("404 Not Found"));
    for ending in ["info", "zip"] {
        assert_eq!(site.server().get(&module.path(ending)).0, 404, "{ending}");
    }
    assert!(site.upstream.asked_at("/@v/") > 0);
    assert_eq!(d.asked_at("/@v/"), before[2], "a third peer was asked");
}

fn offline() {
    let (mut site, [peer]) = with_peers(["a"]);
    site.set("STOA_UPSTREAM", "off");
    peer.fail(Some("503 Unavailable"));
    site.start();
    name(&site, "a", PAIR);
    let module = Module::new(PAIR, 1000);
    for ending in ["info", "zip"] {
        let (status, body) = site.server().get(&module.path(ending));
        assert_eq!(status, 502, "{ending}: {}", String::from_utf8_lossy(&body));
    }
    peer.fail(None);
    testkit::until("the peer does not have it", || site.server().get(&module.path("zip")).0 == 404);
    peer.serve(&module);
    testkit::until("the peer has it", || site.server().get(&module.path("zip")).0 == 200);
}

fn absences() {
    let (mut site, [peer]) = with_peers(["a"]);
    site.set("STOA_FILL_ABSENT_TTL", "1h");
    site.start();
    let (ours, theirs) = (Module::new(PAIR, 1000), Module::new("example.com/other@v1.0.0", 1000));
    assert_eq!(site.server().get(&theirs.path("zip")).0, 404);
    let asked = site.upstream.count(&theirs.path("info"));
    assert_eq!(site.server().get(&theirs.path("zip")).0, 404);
    assert_eq!(site.upstream.count(&theirs.path("info")), asked, "the absence is remembered");
    peer.serve(&theirs);
    name(&site, "a", "example.com/other@v1.0.0");
    site.wait_for(&theirs);
    name(&site, "a", PAIR);
    peer.wait_until_asked(&ours.path("info"), 1);
    site.upstream.serve(&ours);
    assert!(site.server().get(&ours.path("zip")) == (200, ours.zip.clone()));
    assert_eq!(peer.count(&ours.path("info")), 1, "the absence is remembered");
}

fn with_database(site: &mut Site) -> sumdb::Site {
    let database = sumdb::Site::start(5);
    site.set("STOA_UPSTREAM", database.url());
    site.set("STOA_GOSUMDB", &sumdb::verifier_key());
    database
}

fn database() {
    let (mut site, [peer]) = with_peers(["a"]);
    let database = with_database(&mut site);
    site.start();
    let module = peer.offer(PAIR, 1000);
    database.record(&module);
    name(&site, "a", PAIR);
    site.wait_for(&module);
    let listed = site.json(&["list"]);
    assert_eq!(listed[0]["verified_by"], sumdb::NAME, "{listed:?}");
    assert_eq!((peer.asked_at("/sumdb/"), database.asked("/@v/")), (0, 0));
    // The database has another hash.
    let (wrong, right) =
        (peer.offer("example.com/m@v1.1.0", 1000), Module::new("example.com/m@v1.1.0", 2000));
    database.record(&right);
    name(&site, "a", "example.com/m@v1.1.0");
    peer.wait_until_asked(&wrong.path("info"), 2);
    assert!(site.stored(&wrong).is_none());
}

fn required() {
    let (mut site, [_peer]) = with_peers(["a"]);
    let database = with_database(&mut site);
    let module = database.offer(PAIR);
    database.record(&module);
    let mut fetch = site.command(&["fetch", PAIR]);
    let output = fetch.env("STOA_CHECKSUM", "off").output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    site.set("STOA_CHECKSUM", "require");
    database.hold("/sumdb/");
    site.start();
    let signer = site.signer("a");
    let ask = |ending: &str| signer.ask(site.address, "GET", &module.path(ending), b"");
    for ending in ["info", "mod", "zip"] {
        let reply = ask(ending);
        assert!(reply.status == 403 && reply.text().contains("no checksum database"), "{}", reply.text());
    }
    database.release();
    testkit::until("a client gets it", || site.server().get(&module.path("zip")).0 == 200);
    database.hold("/sumdb/");
    for ending in ["info", "mod", "zip"] {
        assert_eq!(ask(ending).status, 200, "{ending}");
    }
    database.release();
}
