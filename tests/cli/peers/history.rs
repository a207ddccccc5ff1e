//! The history that the designers of Athens wrote down for a push and pull synchronisation, step by step.

use std::time::Duration;

use testkit::link::{Link, Recorded};
use testkit::upstream::Module;
use testkit::{Case, trial};

use super::{NEVER, Site, connect};

pub(super) fn cases() -> Vec<Case> {
    vec![trial("a deployment joins, misses a push, gets one, and pulls the rest", None, t0_to_t7)]
}

/// Returns whether a notification names a version.
fn names(request: &Recorded, module: &Module) -> bool {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    request.path == "/sync/v1/notify" && body.contains(&format!("\"{}\"", module.version.version()))
}

/// Publishes versions until one is pushed, which is returned. The others have not been announced to anybody.
fn publish_until_pushed(site: &Site, line: &Link, others: &mut Vec<Module>) -> Module {
    loop {
        let next = site.publish(&format!("example.com/private@v1.{}.0", others.len() + 1));
        // The push follows at once, unless the server pauses.
        std::thread::sleep(Duration::from_millis(300));
        if line.requests().iter().any(|request| names(request, &next)) {
            return next;
        }
        others.push(next);
        assert!(others.len() < 200, "nothing is pushed");
    }
}

fn t0_to_t7() {
    let (mut m, mut a) = (Site::new("m"), Site::new("a"));
    // A pulls only when the test says so.
    let (to_a, to_m) = connect(&mut m, &mut a, &["offer = [\"*\"]", NEVER]);

    // T0: M has X.
    m.start();
    let x = m.publish("example.com/private@v1.0.0");
    // T1: A joins and pulls.
    a.start();
    a.wait_for(&x);
    a.wait_until_current("m");
    let before = a.peer("m");
    // T2: M gets Y, and its push is lost. M may pause after an earlier push, to which A did not listen yet.
    to_a.lose("/sync/v1/notify");
    let mut missed = Vec::new();
    let y = publish_until_pushed(&m, &to_a, &mut missed);
    missed.push(y);
    // T3: M gets Z, and its push arrives. After the failure M pauses, so this may take several versions.
    to_a.heal();
    let z = publish_until_pushed(&m, &to_a, &mut missed);
    a.wait_for(&z);
    // T4: the push has moved no pointer.
    let after = a.peer("m");
    for key in ["index", "pointer"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    for module in &missed {
        assert!(a.stored(module).is_none(), "nobody has announced {}", module.version);
    }
    // T5: the next pull of A begins at its old pointer.
    let pulls = to_m.asked("/sync/v1/events");
    a.done(&["peers", "sync", "m"]);
    let pull = to_m.requests().into_iter().filter(|request| request.path == "/sync/v1/events").nth(pulls);
    let body: serde_json::Value = serde_json::from_slice(&pull.unwrap().body).unwrap();
    assert_eq!(body["pointers"][before["index"].as_str().unwrap()], before["pointer"]);
    // T6: it brings Y and Z, and Z is not downloaded again.
    for module in &missed {
        a.wait_for(module);
    }
    a.wait_until_current("m");
    assert!(a.peer("m")["pointer"].as_u64() > before["pointer"].as_u64());
    // T7: both have X, Y and Z. Each was downloaded once, and A has asked nobody else.
    for module in [&x, &z].into_iter().chain(&missed) {
        assert!(m.stored(module).is_some() && a.stored(module).as_ref() == Some(&module.zip));
        assert_eq!(m.upstream.count(&module.path("zip")), 1, "{}", module.version);
        assert_eq!(to_m.asked(&module.path("zip")), 1, "{}", module.version);
    }
    assert_eq!(a.upstream.asked(".zip"), 0);
    assert_eq!((m.conflicts().len(), a.conflicts().len()), (0, 0));
}
