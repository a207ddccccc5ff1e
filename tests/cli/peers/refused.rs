//! Requests that are not those of a peer, or not for it: forged, replayed, stale, oversized and misdirected ones change
//! nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use testkit::client::{self, Reply};
use testkit::signing::Signer;
use testkit::upstream::Upstream;
use testkit::{Case, trial};

use super::{NEVER, Site, connect, secret};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("a forged, misdirected or unsigned request is refused", None, forged),
        trial("a replayed request is refused, also after a restart", None, replayed),
        trial("clocks may differ by hours, and a stale request is refused", None, stale),
        trial("an oversized or malformed request is refused", None, oversized),
        trial("the bodies of the requests of a peer are bounded in number", None, bodies),
        trial("a notification that is reflected to its sender is refused", None, reflected),
        trial("a peer with the secret of another peer gets its own modules only", None, secret_of_another),
    ]
}

const NOTIFY: &str = "/sync/v1/notify";
const MODULE: &str = "example.com/announced";

/// Returns a notification of a version.
fn notification(version: &str) -> String {
    format!(
        r#"{{"index":"0123456789abcdef0123456789abcdef","events":[{{"seq":1,"module":"{MODULE}","version":"{version}","kind":"published","time":1795858800000000000,"bytes":1000}}]}}"#
    )
}

/// Returns the deployment b with the peer a, which is an upstream that has nothing.
fn with_peer() -> (Site, Upstream) {
    let (mut site, peer) = (Site::new("b"), Upstream::start());
    site.add_peer("a", peer.url(), &["offer = []", NEVER]);
    site.start();
    (site, peer)
}

/// Checks that nothing was queued, and that the site still takes a right notification of its peer.
#[track_caller]
fn assert_nothing_changed(site: &Site, peer: &Upstream) {
    let state = site.peer("a");
    assert_eq!((&state["queued"], &state["parked"]), (&0.into(), &0.into()), "{state}");
    assert_eq!(peer.asked_at(MODULE), 0);
    let right = site.signer("a").post(site.address, NOTIFY, &notification("v1.9.0"));
    assert_eq!((right.status, right.text().trim()), (202, r#"{"queued":1}"#));
    testkit::until("the peer is asked for the version", || peer.asked_at(MODULE) > 0);
}

#[track_caller]
fn assert_refused(reply: &Reply) {
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert!(!reply.text().contains("queued"));
}

fn forged() {
    let (site, peer) = with_peer();
    let (right, body) = (site.signer("a"), notification("v1.0.0"));
    let post = |authorization: &str, target: &str, body: &str| {
        client::send(site.address, "POST", target, &[("Authorization", authorization)], body.as_bytes())
    };
    let signed = |signer: &Signer| signer.sign("POST", NOTIFY, body.as_bytes());
    // Without a signature, and with one of no known form.
    let unsigned = client::send(site.address, "POST", NOTIFY, &[], body.as_bytes());
    assert!(matches!(unsigned.status, 401 | 404 | 405), "{}", unsigned.status);
    for malformed in ["Stoa-Peer", "Stoa-Peer from=\"a\"", "Stoa-Peer x"] {
        assert_refused(&post(malformed, NOTIFY, &body));
    }
    let value = signed(&right);
    let mac = value.trim_end_matches('"').rsplit_once('"').unwrap().1;
    assert_refused(&post(&value.replace(mac, &"0".repeat(64)), NOTIFY, &body));
    // Another secret, another sender, another receiver.
    for (from, to, secret) in [
        ("a", "b", "a secret that somebody has guessed wrongly"),
        ("c", "b", &secret("a", "b")),
        ("b", "a", &secret("a", "b")),
        ("a", "c", &secret("a", "b")),
        ("a", "c", &secret("a", "c")),
        ("b", "b", &secret("a", "b")),
    ] {
        assert_refused(&post(&signed(&Signer::new(from, to, secret)), NOTIFY, &body));
    }
    // The signature of another request.
    assert_refused(&post(&right.sign("GET", NOTIFY, body.as_bytes()), NOTIFY, &body));
    assert_refused(&post(&right.sign("POST", "/sync/v1/events", body.as_bytes()), NOTIFY, &body));
    assert_refused(&post(&signed(&right), NOTIFY, &notification("v1.0.1")));
    assert_refused(&post(&signed(&right), "/sync/v1/notify?x", &body));
    assert_nothing_changed(&site, &peer);
}

fn replayed() {
    let (mut site, peer) = with_peer();
    let empty = r#"{"index":"0123456789abcdef0123456789abcdef","events":[]}"#;
    let value = site.signer("a").sign("POST", NOTIFY, empty.as_bytes());
    let send = |site: &Site| {
        client::send(site.address, "POST", NOTIFY, &[("Authorization", &value)], empty.as_bytes())
    };
    assert_eq!(send(&site).status, 202);
    assert_refused(&send(&site));
    // A server that has forgotten the nonce refuses what was signed before its start.
    site.kill();
    site.start();
    assert_refused(&send(&site));
    assert_nothing_changed(&site, &peer);
}

fn stale() {
    let (site, peer) = with_peer();
    let body = notification("v1.0.0");
    let mut signer = site.signer("a");
    for hours in [-5, 5] {
        signer.offset_ms = hours * 3_600_000;
        let value = signer.sign("POST", NOTIFY, body.as_bytes());
        let refused =
            client::send(site.address, "POST", NOTIFY, &[("Authorization", &value)], body.as_bytes());
        assert_refused(&refused);
        // The server names its time, and signs it for this request.
        let mut learned = signer.clone();
        learned.learn_time(&value, &refused);
        let again = learned.post(site.address, NOTIFY, r#"{"index":"i","events":[]}"#);
        assert_eq!(again.status, 202, "{}", again.text());
        assert_refused(&signer.post(site.address, NOTIFY, &body));
    }
    // A stranger learns no time.
    let stranger = Signer { offset_ms: 5 * 3_600_000, ..Signer::new("a", "b", "a secret that is wrong") };
    let refused = stranger.post(site.address, NOTIFY, &body);
    assert_refused(&refused);
    assert_eq!(refused.header("stoa-peer-time"), None);
    assert_nothing_changed(&site, &peer);
}

fn bodies() {
    let mut site = Site::new("b");
    site.add_peer("a", "http://127.0.0.1:1", &["offer = [\"*\"]", NEVER]);
    site.start();
    let signer = site.signer("a");
    let body = vec![b' '; 1000];
    let begin = || {
        let authorization = signer.sign("POST", NOTIFY, &body);
        let mut stream = TcpStream::connect(site.address).unwrap();
        let head = format!(
            "POST {NOTIFY} HTTP/1.1\r\nHost: b\r\nAuthorization: {authorization}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body[1..]).unwrap();
        stream
    };
    let mut held: Vec<_> = (0..40).map(|_| begin()).collect();
    // Those beyond the limit are answered at once, and the others wait for their last byte.
    let refused = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).is_ok_and(|()| answer.ends_with(b"503"))
    };
    let mut count = 0;
    testkit::until("all but 16 are refused", || {
        held.retain_mut(|stream| {
            let is_refused = refused(stream);
            count += usize::from(is_refused);
            !is_refused
        });
        count == 24
    });
    assert_eq!(site.server().get("/healthz").0, 200);
    drop(held);
    testkit::until("the places are free again", || {
        signer.post(site.address, NOTIFY, r#"{"index":"i","events":[]}"#).status == 202
    });
}

fn oversized() {
    let (site, peer) = with_peer();
    let signer = site.signer("a");
    let huge = format!("{}{}", notification("v1.0.0"), " ".repeat(1 << 20));
    let reply = signer.post(site.address, NOTIFY, &huge);
    assert_eq!(reply.status, 413, "{}", reply.text());
    let event = |n: u32| {
        format!(
            r#"{{"seq":{n},"module":"{MODULE}","version":"v1.0.{n}","kind":"published","time":1,"bytes":1}}"#
        )
    };
    let events: Vec<String> = (1..1002).map(event).collect();
    let many = format!(r#"{{"index":"i","events":[{}]}}"#, events.join(","));
    assert_eq!(signer.post(site.address, NOTIFY, &many).status, 400);
    for malformed in ["", "{", "[]", r#"{"index":"i","events":[{"seq":"x"}]}"#, r#"{"events":5,"index":"i"}"#]
    {
        assert_eq!(signer.post(site.address, NOTIFY, malformed).status, 400, "{malformed}");
        assert_eq!(signer.post(site.address, "/sync/v1/events", malformed).status, 400, "{malformed}");
    }
    // Names that are no module or version mean nothing.
    for (module, version) in [("../../etc", "v1.0.0"), ("example.com/announced", "../v1"), ("", "")] {
        let body = format!(
            r#"{{"index":"i","events":[{{"seq":1,"module":"{module}","version":"{version}","kind":"published","time":1,"bytes":1}}]}}"#
        );
        let reply = signer.post(site.address, NOTIFY, &body);
        assert_eq!((reply.status, reply.text().trim()), (202, r#"{"queued":0}"#), "{module}");
    }
    assert_eq!(signer.post(site.address, "/sync/v2/notify", "{}").status, 404);
    assert_nothing_changed(&site, &peer);
}

fn reflected() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    let (to_b, _) = connect(&mut a, &mut b, &["offer = [\"*\"]", NEVER]);
    a.start();
    b.start();
    b.wait_until_current("a");
    let module = a.publish("example.com/m@v1.0.0");
    b.wait_for(&module);
    let notified = to_b.requests().into_iter().find(|request| request.path == NOTIFY).unwrap();
    // As it was sent, to its sender and again to its receiver.
    assert_refused(&notified.send_to(a.address));
    assert_refused(&notified.send_to(b.address));
    // With the names exchanged.
    let mut swapped = notified.clone();
    swapped.authorization = swapped.authorization.replace("from=\"a\", to=\"b\"", "from=\"b\", to=\"a\"");
    assert_refused(&swapped.send_to(a.address));
    // The version is stored a moment before its event is done.
    testkit::until("nothing is queued", || a.peer("b")["queued"] == 0 && b.peer("a")["queued"] == 0);
    assert!(
        a.stored(&module).is_some() && to_b.asked("/example.com/m/") == 0,
        "A has asked for its own version"
    );
}

fn secret_of_another() {
    let mut site = Site::new("b");
    let peer = Upstream::start();
    site.add_peer("a", peer.url(), &["offer = [\"example.com/for-a\"]", NEVER]);
    site.add_peer("c", peer.url(), &["offer = [\"example.com/for-c\"]", NEVER]);
    site.start();
    let of_a = site.publish("example.com/for-a@v1.0.0");
    let of_c = site.publish("example.com/for-c@v1.0.0");
    // c signs as a with its own secret.
    let stolen = Signer::new("a", "b", &secret("b", "c"));
    for path in [of_a.path("zip"), of_c.path("info")] {
        assert_refused(&stolen.ask(site.address, "GET", &path, b""));
    }
    assert_refused(&stolen.post(site.address, "/sync/v1/digests", "{}"));
    // Each gets its own modules, and nothing of the other.
    for (name, own, other) in [("a", &of_a, &of_c), ("c", &of_c, &of_a)] {
        let signer = site.signer(name);
        assert!(signer.ask(site.address, "GET", &own.path("zip"), b"").body == own.zip);
        assert_eq!(signer.ask(site.address, "GET", &other.path("zip"), b"").status, 404);
        let digests = signer.post(site.address, "/sync/v1/digests", "{}");
        let (own, other) = (own.version.path().as_str(), other.version.path().as_str());
        assert!(digests.text().contains(own) && !digests.text().contains(other), "{}", digests.text());
        let modules = format!(r#"{{"modules":["{own}","{other}"]}}"#);
        let events = signer.post(site.address, "/sync/v1/events", &modules);
        assert!(events.text().contains(own) && !events.text().contains(other), "{}", events.text());
    }
}
