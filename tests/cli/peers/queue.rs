//! The queue: which events mean work, and whose turn it is.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rusqlite::Connection;
use serde_json::{Value, json};
use stoa_gomod::zip;
use testkit::sumdb;
use testkit::upstream::{Module, Script, Upstream};
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
        trial("a lifting is repeated until the events of its module are here", None, lifted_in_two_attempts),
        trial("a queue that is full of parked versions does not stop a peer", None, full_of_parked),
        trial("a comparison ends when the queue is full, and is repeated", None, full_during_comparison),
        trial("a pointer behind the end of a log is not known", None, behind_the_end),
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
    slow.wait_until_asked(".info", 3);
    for n in 0..3 {
        let module = honest.publish(&format!("example.com/m@v1.{n}.0"));
        site.wait_for(&module);
    }
    assert_eq!(slow.asked(".info"), 3, "the other peer has a place of its own");
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

const EVENTS: &str = "/sync/v1/events";
const INDEX: &str = "0123456789abcdef0123456789abcdef";
const OTHER_INDEX: &str = "fedcba9876543210fedcba9876543210";

/// Returns an answer with events and without more, of an index with one event.
fn page(index: &str, events: &str, is_known: bool) -> Script {
    let text = format!(
        "{{\"index\":\"{index}\",\"current\":1,\"known\":{is_known}}}\n{events}{{\"end\":true,\"seq\":1,\"more\":false}}\n"
    );
    Script::Body(text.into_bytes())
}

/// Returns an event of a version.
fn published(pair: &str) -> String {
    let (module, version) = pair.split_once('@').unwrap();
    format!(
        "{{\"seq\":1,\"module\":\"{module}\",\"version\":\"{version}\",\"kind\":\"published\",\"time\":1,\"bytes\":1}}\n"
    )
}

fn lifted_in_two_attempts() {
    let module = Module::new("example.com/m@v1.0.0", 1000);
    let failures = AtomicUsize::new(0);
    let peer = Upstream::with(move |request| match request.path.as_str() {
        EVENTS => {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            match body["modules"].is_array() {
                // The peer is out of order at the first attempt.
                true if failures.fetch_add(1, Ordering::SeqCst) == 0 => {
                    Script::Status(500, "text/plain", b"out of order\n")
                }
                true => page(INDEX, &published("example.com/m@v1.0.0"), true),
                false => page(INDEX, "", true),
            }
        }
        _ => Script::Body(b"{\"end\":true,\"more\":false}\n".to_vec()),
    });
    peer.serve(&module);
    let mut site = Site::new("b");
    site.add_peer("a", peer.url(), &[OFFER, NEVER, "accept_tombstones = true"]);
    site.start();
    let client_sees = |status| site.server().get(&module.path("info")).0 == status;
    let mark = |kind: &str, counter: u64| {
        let mark = format!(
            r#"{{"seq":1,"module":"example.com/m","version":"v1.0.0","kind":"{kind}","origin":"a","counter":{counter},"at":"2026-01-02T03:04:05Z"}}"#
        );
        let reply =
            site.signer("a").post(site.address, NOTIFY, &format!(r#"{{"index":"i","events":[{mark}]}}"#));
        assert_eq!(reply.status, 202, "{}", reply.text());
    };
    mark("tombstoned", 1);
    testkit::until("the version is forbidden", || client_sees(410));
    mark("lifted", 2);
    site.wait_for(&module);
}

/// Puts rows into the queue for the peer a, and makes a comparison due.
fn fill_queue(site: &Site, count: i64, is_parked: bool) {
    let folder = site.store().join("cache/peers");
    let number = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().file_name();
    let database = Connection::open(folder.join(number).join("peers.sqlite")).unwrap();
    let due = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let due = i64::try_from(due).unwrap() + 20 * 60 * 60 * 1000;
    let sql = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
        INSERT INTO queue (peer, module, version, is_mark, bytes, is_listed, queued_at, attempts, due, is_parked)
            SELECT 'a', 'example.com/invented/m' || n, 'v1.0.0', 0, 1, 0, 1, 5, ?2, ?3 FROM n";
    database.execute(sql, (count, due, is_parked)).unwrap();
    database.execute("UPDATE peers SET compared_at = NULL", ()).unwrap();
}

fn full_of_parked() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    connect(&mut a, &mut b, &[OFFER, OFTEN]);
    a.start();
    b.start();
    let before = a.publish("example.com/m@v1.0.0");
    b.wait_for(&before);
    b.wait_until_current("a");
    b.kill();
    fill_queue(&b, 200_000, true);
    assert_eq!(b.peer("a")["parked"], 200_000);
    let after = a.publish("example.com/m@v1.1.0");
    b.start();
    b.wait_for(&after);
    testkit::until("the parked versions are forgotten", || b.peer("a")["parked"] == 0);
}

fn full_during_comparison() {
    const MODULES: u64 = 100;
    let is_new = Arc::new(AtomicBool::new(false));
    let module = |n: u64| format!("github.com/new/m{n:04}");
    let peer = Upstream::with({
        let is_new = Arc::clone(&is_new);
        move |request| match request.path.as_str() {
            EVENTS => {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                if body["modules"].is_array() {
                    let count = |n| (0..100).map(|v| published(&format!("{}@v1.{v}.0", module(n)))).collect();
                    return page(
                        OTHER_INDEX,
                        &(0..MODULES).map(count).collect::<Vec<String>>().concat(),
                        true,
                    );
                }
                match is_new.load(Ordering::SeqCst) {
                    true => page(OTHER_INDEX, "", !body["pointers"][OTHER_INDEX].is_null()),
                    false => page(INDEX, "", true),
                }
            }
            "/sync/v1/digests" if is_new.load(Ordering::SeqCst) => {
                let digest = |n| json!({"module": module(n), "digest": "0".repeat(64)}).to_string() + "\n";
                let digests: String = (0..MODULES).map(digest).collect();
                Script::Body(format!("{digests}{{\"end\":true,\"more\":false}}\n").into_bytes())
            }
            "/sync/v1/digests" => Script::Body(b"{\"end\":true,\"more\":false}\n".to_vec()),
            _ => Script::Status(404, "text/plain", b"not found\n"),
        }
    });
    let mut site = Site::new("b");
    site.add_peer("a", peer.url(), &[OFFER, OFTEN]);
    site.start();
    site.wait_until_current("a");
    testkit::until("a comparison is noted", || site.peer("a")["last_comparison"].is_string());
    site.kill();
    fill_queue(&site, 199_500, false);
    // The peer has another index, and 10,000 events in one answer about modules.
    is_new.store(true, Ordering::SeqCst);
    site.start();
    testkit::until("the queue is full", || site.peer("a")["queued"].as_u64().unwrap() >= 200_000);
    peer.wait_until_asked("/sync/v1/digests", 3);
    let state = site.peer("a");
    let held = state["queued"].as_u64().unwrap() + state["parked"].as_u64().unwrap();
    assert!(held < 202_000, "{state}");
    assert!(state["last_comparison"].is_null(), "it was not complete");
    assert_eq!(state["index"], INDEX, "the other index is followed after a comparison only");
}

fn behind_the_end() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    connect(&mut m, &mut a, &[OFFER, NEVER]);
    m.start();
    m.publish("example.com/m@v1.0.0");
    let header = |pointers: Value| {
        let body = json!({ "pointers": pointers }).to_string();
        let reply = m.signer("a").post(m.address, EVENTS, &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_str::<Value>(reply.text().lines().next().unwrap()).unwrap()
    };
    let first = header(json!({}));
    let index = first["index"].as_str().unwrap();
    let current = first["current"].as_u64().unwrap();
    for (place, is_known) in [(0, true), (current, true), (current + 1, false), (u64::MAX, false)] {
        assert_eq!(header(json!({ index: place }))["known"], is_known, "{place} of {current}");
    }
}
