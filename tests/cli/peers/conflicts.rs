//! The same version at both ends: with the same bytes it is stored once, with other bytes it is a conflict.

use serde_json::Value;
use stoa_gomod::zip;
use testkit::upstream::Module;
use testkit::{Case, trial};

use super::{OFTEN, Site, connect};

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("the same version at both ends at the same moment is no conflict", None, crossing),
        trial("different bytes for a version are a conflict at both ends", None, different),
        trial("different bytes whose pushes and pulls cross are a conflict at both ends", None, differently),
        trial("an operator settles a conflict", None, settled),
    ]
}

const OFFER: &str = "offer = [\"*\"]";

fn h1(module: &Module) -> String {
    zip::examine(&module.zip, &module.version).unwrap().h1.to_string()
}

fn crossing() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    let (to_b, to_a) = connect(&mut a, &mut b, &[OFFER, OFTEN]);
    a.start();
    b.start();
    // Each of the two may have it from its upstream or from the other.
    let modules: Vec<Module> = (0..20)
        .map(|n| {
            let pair = format!("example.com/m@v1.{n}.0");
            let (here, there) = (a.upstream.offer(&pair, 1000), b.upstream.offer(&pair, 1000));
            assert!(here.zip == there.zip);
            std::thread::scope(|scope| {
                for site in [&a, &b] {
                    scope.spawn(|| {
                        let (status, body) = site.server().get(&here.path("zip"));
                        assert!(status == 200 && body == here.zip, "{status}");
                    });
                }
            });
            here
        })
        .collect();
    for module in &modules {
        a.wait_for(module);
        b.wait_for(module);
    }
    a.wait_until_current("b");
    b.wait_until_current("a");
    assert!(a.conflicts().is_empty() && b.conflicts().is_empty());
    for (site, line) in [(&a, &to_b), (&b, &to_a)] {
        assert_eq!(site.peer(if site.name == "a" { "b" } else { "a" })["queued"], 0);
        for module in &modules {
            let fetched = site.upstream.count(&module.path("zip")) + line.asked(&module.path("zip"));
            assert_eq!(fetched, 1, "{} of {}", module.version, site.name);
        }
    }
}

/// Publishes a version with different bytes at two deployments that cannot reach each other meanwhile.
fn publish_differently(a: &Site, b: &Site, pair: &str) -> [Module; 2] {
    let (here, there) = (Module::new(pair, 1000), Module::new(pair, 2000));
    for (site, module) in [(a, &here), (b, &there)] {
        site.upstream.serve(module);
        assert_eq!(site.server().get(&module.path("zip")).0, 200);
        site.wait_for(module);
    }
    [here, there]
}

fn is_conflict(conflict: &Value, peer: &str, ours: &Module, theirs: &Module) -> bool {
    conflict["peer"] == peer
        && conflict["module"] == ours.version.path().as_str()
        && conflict["version"] == ours.version.version().as_str()
        && conflict["h1_here"] == h1(ours)
        && conflict["h1_there"] == h1(theirs)
}

fn different() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    let (to_b, to_a) = connect(&mut a, &mut b, &[OFFER, OFTEN]);
    to_a.cut();
    to_b.cut();
    a.start();
    b.start();
    let [here, there] = publish_differently(&a, &b, "example.com/moved@v1.0.0");
    to_a.heal();
    to_b.heal();
    for (site, peer, ours, theirs) in [(&a, "b", &here, &there), (&b, "a", &there, &here)] {
        testkit::until("a conflict at both ends", || site.conflicts().len() == 1);
        assert!(is_conflict(&site.conflicts()[0], peer, ours, theirs), "{:?}", site.conflicts());
        // Nothing is overwritten.
        assert!(site.server().get(&ours.path("zip")) == (200, ours.zip.clone()));
    }
    // Both go on, in both directions.
    let (one, other) = (a.publish("example.com/m@v1.0.0"), b.publish("example.com/m@v1.1.0"));
    b.wait_for(&one);
    a.wait_for(&other);
    a.wait_until_current("b");
    b.wait_until_current("a");
    assert_eq!((a.peer("b")["conflicts"].as_u64(), b.peer("a")["conflicts"].as_u64()), (Some(1), Some(1)));
    for (site, ours) in [(&a, &here), (&b, &there)] {
        assert!(site.stored(ours).as_ref() == Some(&ours.zip));
    }
}

/// Both ends publish other bytes for some versions and the same bytes for others at the same moment, while both pull and
/// push.
fn differently() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    let (to_b, to_a) = connect(&mut a, &mut b, &[OFFER, OFTEN]);
    a.start();
    b.start();
    let pairs = (0..12).map(|n| format!("example.com/crossing@v1.{n}.0"));
    // Each third version has the same content at both ends.
    let versions: Vec<[Module; 2]> = pairs
        .enumerate()
        .map(|(n, pair)| [Module::new(&pair, 1000), Module::new(&pair, if n % 3 == 0 { 1000 } else { 2000 })])
        .collect();
    for site in [&a, &b] {
        // Both download everything before either has announced anything.
        site.upstream.hold(".zip");
    }
    std::thread::scope(|scope| {
        for [here, there] in &versions {
            for (site, module) in [(&a, here), (&b, there)] {
                site.upstream.serve(module);
                scope.spawn(move || {
                    let (status, body) = site.server().get(&module.path("zip"));
                    assert!(
                        status == 200 && body == module.zip,
                        "{} at {}: {status}",
                        module.version,
                        site.name
                    );
                });
            }
        }
        for site in [&a, &b] {
            site.upstream.wait_until_asked(".zip", versions.len());
        }
        for site in [&a, &b] {
            site.upstream.release();
        }
    });
    let differing: Vec<_> = versions.iter().filter(|[here, there]| here.zip != there.zip).collect();
    for (site, peer) in [(&a, "b"), (&b, "a")] {
        testkit::until(&format!("{} has noted all conflicts", site.name), || {
            site.conflicts().len() >= differing.len()
        });
        site.wait_until_current(peer);
    }
    // The exchange goes on, and brings no other content.
    let (one, other) = (a.publish("example.com/m@v1.0.0"), b.publish("example.com/m@v1.1.0"));
    b.wait_for(&one);
    a.wait_for(&other);
    for (site, peer, at) in [(&a, "b", 0), (&b, "a", 1)] {
        site.done(&["peers", "sync", peer, "--compare"]);
        site.wait_until_current(peer);
        let conflicts = site.conflicts();
        assert_eq!(conflicts.len(), differing.len(), "{conflicts:?}");
        for modules in &differing {
            let (ours, theirs) = (&modules[at], &modules[1 - at]);
            let is_noted = conflicts.iter().any(|conflict| is_conflict(conflict, peer, ours, theirs));
            assert!(is_noted, "{} at {}: {conflicts:?}", ours.version, site.name);
        }
        for modules in &versions {
            let ours = &modules[at];
            assert!(site.stored(ours).as_ref() == Some(&ours.zip), "{} at {}", ours.version, site.name);
            assert!(site.server().get(&ours.path("zip")) == (200, ours.zip.clone()), "{}", ours.version);
        }
        assert_eq!(site.peer(peer)["queued"], 0);
    }
    // The pushes and the pulls of both have arrived.
    for line in [&to_a, &to_b] {
        assert!(line.delivered("/sync/v1/notify") > 0 && line.delivered("/sync/v1/events") > 0);
    }
}

fn settled() {
    let (mut a, mut b) = (Site::new("a"), Site::new("b"));
    let (to_b, to_a) = connect(&mut a, &mut b, &[OFFER, OFTEN]);
    to_a.cut();
    to_b.cut();
    a.start();
    b.start();
    let [right, _] = publish_differently(&a, &b, "example.com/moved@v1.0.0");
    to_a.heal();
    to_b.heal();
    for site in [&a, &b] {
        testkit::until("a conflict at both ends", || site.conflicts().len() == 1);
    }
    // B was wrong, and its upstream has no such version any more.
    b.upstream.fail(Some("404 Not Found"));
    b.done(&["remove", "--forget", "--yes", "example.com/moved@v1.0.0"]);
    testkit::until("the right bytes come from the peer", || {
        b.server().get(&right.path("zip")) == (200, right.zip.clone())
    });
    b.wait_for(&right);
    a.done(&["peers", "sync", "b"]);
    b.done(&["peers", "sync", "a"]);
    testkit::until("no conflict is left", || a.conflicts().is_empty() && b.conflicts().is_empty());
}
