//! Logs of more events than one answer has, and an index that is rebuilt in the middle of such a log.
//!
//! The pulling deployment accepts a few of the modules, so that a test downloads few versions and reads many events.

use std::fs;

use serde_json::Value;
use testkit::link::Link;
use testkit::upstream::Module;
use testkit::{Case, create, trial};

use super::{OFTEN, Site};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("an index that is rebuilt between two pages of a pull loses no version", None, between_pages),
        trial("an index that is rebuilt in the middle of an answer loses no version", None, inside_an_answer),
    ]
}

/// More events than fit into an answer.
pub(super) const MANY: usize = 2_300;

/// The number of versions of a module.
const A_MODULE: usize = 100;

/// The modules that the pulling deployment accepts.
pub(super) const ACCEPT: &str = "accept = [\"example.com/*/kept\"]";

const OFFER: &str = "offer = [\"*\"]";
const EVENTS: &str = "/sync/v1/events";
const NOTIFY: &str = "/sync/v1/notify";

/// Returns the versions of the log. One of each hundred is accepted.
pub(super) fn many() -> impl Iterator<Item = Module> {
    (0..MANY).map(|n| {
        let name = if n % A_MODULE == 0 { "kept" } else { "other" };
        Module::new(&format!("example.com/m{:02}/{name}@v1.{}.0", n / A_MODULE, n % A_MODULE), 1)
    })
}

/// Returns whether the pulling deployment accepts a version.
pub(super) fn is_kept(module: &Module) -> bool {
    module.version.path().as_str().ends_with("/kept")
}

/// Returns the pointers in all requests for events, in their order.
pub(super) fn pointers(line: &Link) -> Vec<(String, u64)> {
    let requests = line.requests().into_iter().filter(|request| request.path == EVENTS);
    let of_request = |body: Vec<u8>| -> Vec<(String, u64)> {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let pointers = body["pointers"].as_object().into_iter().flatten();
        pointers.map(|(index, seq)| (index.clone(), seq.as_u64().unwrap())).collect()
    };
    requests.flat_map(|request| of_request(request.body)).collect()
}

/// Starts the deployment m with a long log, and makes its peer a. Notifications are lost.
fn long_log() -> (Site, Site, Link, Vec<Module>) {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    let (to_a, to_m) = (Link::to(a.address), Link::to(m.address));
    m.add_peer("a", to_a.url(), &[OFFER, OFTEN]);
    a.add_peer("m", to_m.url(), &[OFFER, OFTEN, ACCEPT]);
    to_a.lose(NOTIFY);
    create(&m.store());
    for module in many() {
        module.put_unsealed(&m.store());
    }
    m.start();
    testkit::until("the index has all versions", || {
        let reply = m.signer("a").post(m.address, EVENTS, "{\"pointers\":{}}");
        reply.text().contains(&format!("\"current\":{MANY},"))
    });
    // They are the last events of this index, and among the first of the next index.
    let late = (0..3).map(|n| m.publish(&format!("example.com/a/kept@v1.{n}.0")));
    let kept = late.collect::<Vec<_>>().into_iter().chain(many().filter(is_kept)).collect();
    (m, a, to_m, kept)
}

/// Rebuilds the index of a deployment whose server was killed.
fn rebuild(m: &mut Site) {
    fs::remove_dir_all(m.store().join("index")).unwrap();
    m.start();
}

/// Checks that everything arrives, once, and that A follows the new index.
fn assert_all_arrive(m: &Site, a: &Site, to_m: &Link, kept: &[Module], old: &Value) {
    for module in kept {
        a.wait_for(module);
    }
    testkit::until("A follows the new index", || a.peer("m")["index"] != *old);
    a.wait_until_current("m");
    // A goes on at the end of the new log.
    let last = m.publish("example.com/a/kept@v1.9.0");
    a.wait_for(&last);
    for module in kept.iter().chain([&last]) {
        assert_eq!(to_m.delivered(&module.path("zip")), 1, "{}", module.version);
    }
    let state = a.peer("m");
    assert_eq!((&state["queued"], &state["parked"], &state["conflicts"]), (&0.into(), &0.into(), &0.into()));
}

fn between_pages() {
    let (mut m, mut a, to_m, kept) = long_log();
    // The first request names no pointer, and the second one gets the first page.
    to_m.hold_after(EVENTS, 2);
    a.start();
    to_m.wait_until_asked(EVENTS, 3);
    let (old, seq) = pointers(&to_m).pop().unwrap();
    assert!(0 < seq && seq < MANY as u64, "the pull is not between two pages: {seq}");
    // The versions of the first page are here, and are not downloaded again.
    testkit::until("the queue is empty", || a.peer("m")["queued"] == 0);
    m.kill();
    rebuild(&mut m);
    to_m.release();
    assert_all_arrive(&m, &a, &to_m, &kept, &old.into());
}

fn inside_an_answer() {
    let (mut m, mut a, to_m, kept) = long_log();
    // About half a megabyte, of which the first part moves the pointer.
    to_m.slow(Some(60_000));
    // No download begins before the index is rebuilt.
    to_m.lose("/@v/");
    a.start();
    let pointer = || a.peer("m")["pointer"].as_u64().unwrap_or_default();
    testkit::until("A has taken in a part of an answer", || pointer() > 0);
    let (state, pages) = (a.peer("m"), pointers(&to_m).len());
    assert_eq!(pages, 1, "the first page has ended");
    to_m.cut();
    m.kill();
    rebuild(&mut m);
    to_m.slow(None);
    to_m.heal();
    let old = pointers(&to_m)[0].0.clone();
    assert!(state["pointer"].as_u64() < Some(MANY as u64), "{state}");
    assert_all_arrive(&m, &a, &to_m, &kept, &old.into());
}
