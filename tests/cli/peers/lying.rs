//! A peer that lies harms nobody: not the store, not the other peers, not the clients, and not the memory of the server.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use stoa_gomod::zip;
use testkit::upstream::{Module, Request, Script, Upstream, head};
use testkit::{Case, transcript, trial};

use super::{NEVER, OFTEN, Site};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("a wrong h1 is not stored under any name", None, wrong_h1),
        trial("a wrong zip of a peer is not stored", None, wrong_zip),
        trial("an endless answer is ended", None, endless),
        trial("a pointer that goes back is refused", None, backwards),
        trial("a peer that answers garbage disturbs no other peer", None, garbage),
        trial("a place in a log above 2^63 is refused", None, too_high),
        trial("a mark with a huge origin goes no further", None, huge_mark),
        trial("a long line that ends is refused, and so are long digests", None, too_long),
        trial("a synchronisation with a peer that always has more ends", None, always_more),
        trial("control characters of a peer reach no terminal", None, control_characters),
    ]
}

const INDEX: &str = "0123456789abcdef0123456789abcdef";

/// Returns the line of an event of a version.
fn event(seq: u64, pair: &str, h1: Option<&str>) -> String {
    let (module, version) = pair.split_once('@').unwrap();
    let h1 = h1.map(|h1| format!(r#","h1":"{h1}""#)).unwrap_or_default();
    format!(
        "{{\"seq\":{seq},\"module\":\"{module}\",\"version\":\"{version}\",\"kind\":\"published\",\"time\":1{h1},\"bytes\":1000}}\n"
    )
}

fn h1(module: &Module) -> String {
    zip::examine(&module.zip, &module.version).unwrap().h1.to_string()
}

/// Returns the pointer in a request for events.
fn pointer(request: &Request) -> Option<u64> {
    serde_json::from_slice::<Value>(&request.body).ok()?["pointers"][INDEX].as_u64()
}

/// Returns an answer with events up to `last`.
fn page(events: &str, last: u64) -> Vec<u8> {
    format!(
        "{{\"index\":\"{INDEX}\",\"current\":{last},\"known\":true}}\n{events}{{\"end\":true,\"seq\":{last},\"more\":false}}\n"
    )
    .into_bytes()
}

/// Starts a peer that announces some events, the last of which has the number `last`, and then nothing more.
fn announcing(events: String, last: u64) -> Upstream {
    answering(move |pointer| match pointer {
        Some(seq) if seq >= last => Script::Body(page("", last)),
        _ => Script::Body(page(&events, last)),
    })
}

/// Starts a peer that answers requests for events from a known pointer by a function.
fn answering(answer: impl Fn(Option<u64>) -> Script + Send + Sync + 'static) -> Upstream {
    Upstream::with(move |request| {
        match request.path.as_str() {
        "/sync/v1/events" => match pointer(request) {
            None => Script::Body(
                format!(
                    "{{\"index\":\"{INDEX}\",\"current\":0,\"known\":false}}\n{{\"end\":true,\"seq\":0,\"more\":false}}\n"
                )
                .into_bytes(),
            ),
            known => answer(known),
        },
        "/sync/v1/digests" => Script::Body(b"{\"end\":true,\"more\":false}\n".to_vec()),
        "/sync/v1/notify" => Script::Status(202, "application/json", b"{\"queued\":0}"),
        _ => Script::Status(404, "text/plain", b"not found\n"),
    }
    })
}

/// Starts the deployment b with a lying peer a and an honest peer c.
fn between(liar: &Upstream) -> (Site, Site) {
    let (mut site, mut honest) = (Site::new("b"), Site::new("c"));
    site.add_peer("a", liar.url(), &["offer = [\"*\"]", OFTEN]);
    super::connect(&mut site, &mut honest, &["offer = [\"*\"]", OFTEN]);
    honest.start();
    site.start();
    (site, honest)
}

/// Checks that the exchange with the honest peer works.
#[track_caller]
fn assert_others_go_on(site: &Site, honest: &Site) {
    let module = honest.publish("example.com/honest@v1.0.0");
    site.wait_for(&module);
    let own = site.publish("example.com/own@v1.0.0");
    honest.wait_for(&own);
    assert_eq!(site.server().get("/healthz").0, 200);
}

/// The liar names the hash of other bytes than it sends. The upstream of b has what the liar sends.
fn wrong_h1() {
    let right = Module::new("example.com/m@v1.0.0", 1000);
    let other = Module::new("example.com/m@v1.0.0", 2000);
    let liar = announcing(event(1, "example.com/m@v1.0.0", Some(&h1(&other))), 1);
    liar.serve(&right);
    let (site, honest) = between(&liar);
    liar.wait_until_asked(".zip", 1);
    assert_others_go_on(&site, &honest);
    assert!(site.stored(&right).is_none());
    // A client gets the version from the upstream, and the liar's hash is a conflict.
    site.upstream.serve(&right);
    testkit::until("the version comes from the upstream", || {
        site.server().get(&right.path("zip")) == (200, right.zip.clone())
    });
    site.wait_for(&right);
    testkit::until("the hash of the liar is a conflict", || site.conflicts().len() == 1);
    let conflict = &site.conflicts()[0];
    assert_eq!((&conflict["peer"], &conflict["module"]), (&"a".into(), &"example.com/m".into()));
    assert_eq!([&conflict["h1_here"], &conflict["h1_there"]], [&h1(&right), &h1(&other)]);
    assert!(site.stored(&right).as_ref() == Some(&right.zip), "the content is another after the conflict");
    assert!(honest.upstream.asked("m/@v/v1.0.0.zip") == 0);
}

fn wrong_zip() {
    let right = Module::new("example.com/m@v1.0.0", 200_000);
    let wrong = right.clone().with_bad_crc();
    let unannounced = Module::new("example.com/m@v1.1.0", 1000);
    let other = Module::new("example.com/other@v1.0.0", 1000);
    let events =
        [event(1, "example.com/m@v1.0.0", Some(&h1(&right))), event(2, "example.com/m@v1.1.0", None)];
    let liar = announcing(events.concat(), 2);
    liar.serve(&wrong);
    // The zip of another module, under the name of this one.
    liar.serve(&Module { zip: other.zip, ..unannounced.clone() });
    let (site, honest) = between(&liar);
    liar.wait_until_asked(&right.path("zip"), 1);
    liar.wait_until_asked(&unannounced.path("zip"), 1);
    assert_others_go_on(&site, &honest);
    for module in [&right, &unannounced] {
        assert!(site.stored(module).is_none(), "{}", module.version);
        // The beginning of a large zip is sent before its end is known.
        let reply = site.server().ask("GET", &module.path("zip"), &[]);
        assert!(reply.status >= 400 || !reply.is_whole, "{}", reply.status);
    }
    // Once the peer has the right bytes, the version comes from it or on request.
    site.upstream.serve(&right);
    testkit::until("the right zip is stored", || {
        let reply = site.server().ask("GET", &right.path("zip"), &[]);
        reply.status == 200 && reply.body == right.zip
    });
}

/// Returns how much memory a server had at most, in KiB.
fn most_resident(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.server().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn endless() {
    // A line without an end, and more events than fit into an answer.
    let header = format!("{{\"index\":\"{INDEX}\",\"current\":9,\"known\":true}}\n");
    let chunk = format!("{:x}\r\n{header}\r\n", header.len());
    let mut endless = head(200, "Transfer-Encoding: chunked\r\n");
    endless.extend(chunk.into_bytes());
    let many: String = (1..=60_000).map(|n| event(n, &format!("example.com/{n}@v1.0.0"), None)).collect();
    let turn = Mutex::new(0_usize);
    let many = Arc::new(page(&many, 60_000));
    let liar = answering(move |_| {
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        if *turn % 2 == 1 { Script::Flood(endless.clone()) } else { Script::Body(many.to_vec()) }
    });
    let (site, honest) = between(&liar);
    testkit::until("the liar is found out", || site.peer("a")["last_error"].is_string());
    liar.wait_until_asked("/sync/v1/events", 3);
    assert_others_go_on(&site, &honest);
    let kib = most_resident(&site);
    println!("{kib} KiB were resident");
    assert!(kib < 128 << 10, "{kib} KiB were resident");
}

fn backwards() {
    let turn = Mutex::new(0_usize);
    let liar = answering(move |_| {
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        Script::Body(match *turn {
            1 => page(&event(100, "example.com/m@v1.0.0", None), 100),
            n if n % 3 == 0 => page(&event(50, "example.com/m@v1.0.0", None), 50),
            n if n % 3 == 1 => page("", 7),
            _ => page(&event(200, "example.com/m@v1.0.0", None), 150),
        })
    });
    let (site, honest) = between(&liar);
    testkit::until("the pointer moves", || site.peer("a")["pointer"] == 100);
    testkit::until("the liar is found out", || site.peer("a")["last_error"].is_string());
    liar.wait_until_asked("/sync/v1/events", 6);
    let pointer = site.peer("a")["pointer"].as_u64().unwrap();
    assert!(pointer >= 100, "the pointer went back to {pointer}");
    assert_others_go_on(&site, &honest);
}

fn garbage() {
    let turn = Mutex::new(0_usize);
    let liar = answering(move |_| {
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        match *turn % 6 {
            0 => Script::Body(b"<html>".to_vec()),
            1 => Script::Body(Vec::new()),
            2 => Script::Status(500, "text/plain", b"out of order"),
            3 => Script::Body(page(&event(u64::MAX, "example.com/m@v1.0.0", None), u64::MAX)),
            4 => Script::Body(page("{\"seq\":-5}\n", 5)),
            _ => Script::Cut(page(&event(5, "example.com/m@v1.0.0", None), 5), 100),
        }
    });
    let (site, honest) = between(&liar);
    testkit::until("the liar is found out", || site.peer("a")["last_error"].is_string());
    liar.wait_until_asked("/sync/v1/events", 4);
    assert_others_go_on(&site, &honest);
    assert_eq!(site.peer("a")["conflicts"], 0);
}

const NOTIFY: &str = "/sync/v1/notify";

fn too_high() {
    for place in [1 << 63, u64::MAX] {
        let liar = announcing(event(place, "example.com/m@v1.0.0", None), place);
        let (site, honest) = between(&liar);
        testkit::until("the liar is found out", || site.peer("a")["last_error"].is_string());
        assert_eq!(site.peer("a")["pointer"], 0);
        let body = format!("{{\"index\":\"i\",\"events\":[{}]}}", event(place, "example.com/m@v1.0.0", None));
        let reply = site.signer("a").post(site.address, NOTIFY, &body);
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert_eq!(site.peer("a")["queued"], 0);
        assert_others_go_on(&site, &honest);
    }
}

/// The log of b would carry the mark to c, whose limit for a line is lower than that for a notification.
fn huge_mark() {
    let marks = "accept_tombstones = true";
    let (mut site, mut honest, liar) = (Site::new("b"), Site::new("c"), announcing(String::new(), 0));
    site.add_peer("a", liar.url(), &["offer = [\"*\"]", NEVER, marks]);
    let (to_honest, _) = super::connect(&mut site, &mut honest, &["offer = [\"*\"]", OFTEN, marks]);
    // Without notifications, each event comes by a pull.
    to_honest.lose(NOTIFY);
    honest.start();
    site.start();
    let mark = |version: &str, origin: &str, at: &str, reason: &str| {
        format!(
            r#"{{"seq":1,"module":"example.com/m","version":"{version}","kind":"tombstoned","origin":"{origin}","counter":1,"at":"{at}","reason":"{reason}"}}"#
        )
    };
    let at = "2026-01-02T03:04:05Z";
    let long = "x".repeat(900_000);
    for (mark, queued) in [
        (mark("v1.0.0", &long, at, "r"), 0),
        (mark("v1.1.0", "a", &long, "r"), 0),
        (mark("v1.2.0", "a", "soon", "r"), 0),
        (mark("v1.3.0", "a", at, &long), 1),
    ] {
        let reply =
            site.signer("a").post(site.address, NOTIFY, &format!(r#"{{"index":"i","events":[{mark}]}}"#));
        assert_eq!((reply.status, reply.text().trim()), (202, format!("{{\"queued\":{queued}}}").as_str()));
    }
    testkit::until("the valid mark arrives at c", || {
        honest.server().get("/example.com/m/@v/v1.3.0.info").0 == 410
    });
    let module = site.publish("example.com/own@v1.0.0");
    honest.wait_for(&module);
    honest.wait_until_current("b");
}

fn too_long() {
    let long = "x".repeat(9000);
    let line =
        event(1, "example.com/m@v1.0.0", None).replace("\"time\"", &format!("\"more\":\"{long}\",\"time\""));
    let liar = announcing(line, 1);
    let (site, honest) = between(&liar);
    testkit::until("the liar is found out", || {
        site.peer("a")["last_error"].as_str().is_some_and(|error| error.contains("a line of more than"))
    });
    assert_others_go_on(&site, &honest);
    let digest =
        |module: &str, digest: &str| format!("{{\"module\":\"{module}\",\"digest\":\"{digest}\"}}\n");
    let valid = "0".repeat(64);
    let many: String = (10_000..15_000).map(|n| digest(&format!("example.com/{n}"), &valid)).collect();
    for (digests, reason) in [
        (digest("example.com/m", &"0".repeat(7000)), "is not valid"),
        (digest(&format!("example.com/{}!", "m".repeat(7000)), &valid), "is not valid"),
        (many, "more than 4000 digests"),
    ] {
        let mut site = Site::new("b");
        let liar = Upstream::with(move |request| match request.path.as_str() {
            "/sync/v1/digests" => {
                Script::Body(format!("{digests}{{\"end\":true,\"more\":false}}\n").into_bytes())
            }
            _ => Script::Body(page("", 0)),
        });
        site.add_peer("a", liar.url(), &["offer = [\"*\"]", NEVER]);
        site.start();
        let output = site.stoa(&["peers", "sync", "a", "--compare"]);
        assert!(!output.status.success());
        assert!(transcript(&output).contains(reason), "{}", transcript(&output));
    }
}

/// Each answer has one event, and says that there are more. The last one ends the test if nothing else does.
fn always_more() {
    for step in [1, 30_000] {
        let liar = answering(move |pointer| {
            let seq = pointer.unwrap_or_default() + step;
            let more = seq < 500 * step;
            let event = if step == 1 { event(seq, "github.com/x/y@v1.0.0", None) } else { String::new() };
            let current = step * 20;
            Script::Body(
                format!(
                    "{{\"index\":\"{INDEX}\",\"current\":{current},\"known\":true}}\n{event}{{\"end\":true,\"seq\":{seq},\"more\":{more}}}\n"
                )
                .into_bytes(),
            )
        });
        let mut site = Site::new("b");
        site.add_peer("a", liar.url(), &["offer = []", "accept = [\"*.corp.example\"]"]);
        testkit::create(&site.store());
        site.done(&["peers", "sync", "a"]);
        let asked = liar.asked("/sync/v1/events");
        // With little in an answer the first one ends it, else the last event at the time of the first.
        let expected = if step == 1 { 2 } else { 1 + 20 };
        assert_eq!(asked, expected, "step {step}");
    }
}

fn control_characters() {
    let liar = answering(|_| {
        Script::Status(500, "text/plain", "\u{1b}[2Jall is \u{202e}well\u{2028}again\u{9b}\n".as_bytes())
    });
    let (site, honest) = between(&liar);
    testkit::until("the liar is found out", || site.peer("a")["last_error"].is_string());
    let hidden = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{2028}');
    for text in [site.done(&["peers"]), transcript(&site.stoa(&["peers", "sync", "a"]))] {
        assert!(text.contains("all is") && !text.contains(hidden), "{text:?}");
    }
    assert_others_go_on(&site, &honest);
}
