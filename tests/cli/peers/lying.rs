//! A peer that lies harms nobody: not the store, not the other peers, not the clients, and not the memory of the server.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use stoa_gomod::zip;
use testkit::upstream::{Module, Request, Script, Upstream, head};
use testkit::{Case, trial};

use super::{OFTEN, Site};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("a wrong h1 is not stored under any name", None, wrong_h1),
        trial("a wrong zip of a peer is not stored", None, wrong_zip),
        trial("an endless answer is ended", None, endless),
        trial("a pointer that goes back is refused", None, backwards),
        trial("a peer that answers garbage disturbs no other peer", None, garbage),
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
