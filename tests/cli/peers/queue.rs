//! The queue: which events mean work, and whose turn it is.

use std::fs;

use stoa_gomod::zip;
use testkit::sumdb;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, trial};

use super::{NEVER, OFTEN, Site, connect};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("a peer that answers slowly delays no other peer", None, slow_peer),
        trial("a version that comes with the lifting of its tombstone is taken over", None, lifted),
        trial("a version that a rule denied comes after the rule has gone", None, denied),
        trial("nothing is kept of a peer that is not configured any more", None, forgotten_peer),
        trial("a version that the checksum database knows is listed before it is here", None, known),
        trial(
            "a server that does not keep its index builds a missing one for its peers",
            None,
            missing_index,
        ),
    ]
}

const OFFER: &str = "offer = [\"*\"]";
const NOTIFY: &str = "/sync/v1/notify";

fn slow_peer() {
    let (mut site, mut honest) = (Site::new("b"), Site::new("c"));
    let slow = Upstream::start();
    slow.hold(".info");
    site.add_peer("a", slow.url(), &[OFFER, NEVER]);
    connect(&mut site, &mut honest, &[OFFER, OFTEN]);
    site.variables.push(("STOA_PEERS_MAX_CONCURRENT".to_owned(), "3".to_owned()));
    honest.start();
    site.start();
    let events: Vec<_> = (0..50)
        .map(|n| {
            format!(
                r#"{{"seq":{n},"module":"example.com/slow","version":"v1.{n}.0","kind":"published","time":1,"bytes":1}}"#
            )
        })
        .collect();
    let body = format!(r#"{{"index":"i","events":[{}]}}"#, events.join(","));
    let reply = site.signer("a").post(site.address, NOTIFY, &body);
    assert_eq!(reply.status, 202, "{}", reply.text());
    slow.wait_until_asked(".info", 2);
    for n in 0..3 {
        let module = honest.publish(&format!("example.com/m@v1.{n}.0"));
        site.wait_for(&module);
    }
    assert_eq!(slow.asked(".info"), 2, "one of three places is for the other peer");
    slow.release();
}

fn lifted() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    let (to_a, to_m) = connect(&mut m, &mut a, &[OFFER, OFTEN, "accept_tombstones = true"]);
    m.start();
    a.start();
    let pair = "example.com/m@v1.0.0";
    let module = m.publish(pair);
    a.wait_for(&module);
    m.done(&["remove", "--tombstone", pair]);
    testkit::until("A forbids the version", || a.server().get(&module.path("info")).0 == 410);
    to_a.cut();
    to_m.cut();
    m.done(&["remove", "--lift", pair]);
    testkit::until("M serves the version", || m.server().get(&module.path("zip")).0 == 200);
    to_a.heal();
    to_m.heal();
    a.wait_for(&module);
}

fn denied() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    connect(&mut m, &mut a, &[OFFER, OFTEN]);
    m.start();
    let (denied, other) = (m.publish("example.com/denied@v1.0.0"), m.publish("example.com/m@v1.0.0"));
    let peers = a.peers.clone();
    a.peers.push_str("\n[[module]]\npattern = \"example.com/denied\"\ndeny = [\"*\"]\n");
    a.start();
    a.wait_for(&other);
    a.wait_until_current("m");
    assert_eq!(a.server().get(&denied.path("zip")).0, 403);
    a.kill();
    a.peers = peers;
    a.start();
    a.done(&["peers", "sync", "m", "--compare"]);
    a.wait_for(&denied);
}

fn forgotten_peer() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    connect(&mut m, &mut a, &[OFFER, OFTEN]);
    m.start();
    let module = m.publish("example.com/m@v1.0.0");
    a.start();
    a.wait_for(&module);
    a.wait_until_current("m");
    assert!(a.peer("m")["pointer"].is_u64());
    a.kill();
    let peers = std::mem::take(&mut a.peers);
    a.add_peer("other", "http://127.0.0.1:1", &["offer = []", "pull = false"]);
    a.start();
    // The command reads the configuration again, and the server does not.
    a.peers = peers;
    testkit::until("the state of the peer is removed", || a.peer("m")["pointer"].is_null());
}

fn known() {
    let (mut site, peer, database) = (Site::new("b"), Upstream::start(), sumdb::Site::start(10));
    site.add_peer("a", peer.url(), &[OFFER, NEVER]);
    site.variables.push(("STOA_UPSTREAM".to_owned(), database.url().to_owned()));
    site.variables.push(("STOA_GOSUMDB".to_owned(), sumdb::verifier_key()));
    site.start();
    let [known, unknown, other] =
        ["v1.0.0", "v1.1.0", "v1.2.0"].map(|version| Module::new(&format!("example.com/m@{version}"), 1000));
    database.record(&known);
    // The database has other content for this version than the peer.
    database.record(&Module::new("example.com/m@v1.2.0", 2000));
    let mut events = Vec::new();
    for module in [&unknown, &other, &known] {
        let (path, version) = (module.version.path(), module.version.version());
        let h1 = zip::examine(&module.zip, &module.version).unwrap().h1;
        events.push(format!(
            r#"{{"seq":1,"module":"{path}","version":"{version}","kind":"published","time":1,"h1":"{h1}","bytes":1}}"#
        ));
    }
    let body = format!(r#"{{"index":"i","events":[{}]}}"#, events.join(","));
    let reply = site.signer("a").post(site.address, NOTIFY, &body);
    assert_eq!(reply.status, 202, "{}", reply.text());
    testkit::until("the known version is listed", || site.list(&known) == ["v1.0.0"]);
    for module in [&unknown, &other] {
        peer.wait_until_asked(&module.path("info"), 2);
    }
    assert_eq!(site.list(&known), ["v1.0.0"]);
    assert!(site.stored(&known).is_none());
}

fn missing_index() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    connect(&mut m, &mut a, &[OFFER, OFTEN]);
    m.start();
    let module = m.publish("example.com/m@v1.0.0");
    m.kill();
    fs::remove_dir_all(m.store().join("index")).unwrap();
    m.variables.push(("STOA_INDEX_INTERVAL".to_owned(), "0".to_owned()));
    m.start();
    a.start();
    a.wait_for(&module);
}
