//! `stoa peers`, without a server.

use std::fs;

use testkit::{Case, trial};

use super::Site;

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("stoa peers lists the peers of the configuration", None, listed),
        trial("stoa peers needs a peer in the configuration", None, without_peer),
    ]
}

fn with_peers() -> Site {
    let mut site = Site::new("b");
    site.add_peer("a", "http://127.0.0.1:1", &["offer = []"]);
    site.add_peer("c", "http://127.0.0.1:1", &["offer = []", "pull = false"]);
    testkit::create(&site.store());
    site
}

fn listed() {
    let site = with_peers();
    let lines = site.json(&["peers"]);
    let states: Vec<_> = lines.iter().filter_map(|line| line["state"].as_str()).collect();
    assert_eq!(states, ["new", "not_pulled"]);
    assert_eq!(lines.last().unwrap()["peers"], 2);
    let text = site.done(&["peers"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(site.conflicts().is_empty());
    // It needs no secret.
    fs::remove_file(site.folder.path().join("secret-a")).unwrap();
    assert_eq!(site.json(&["peers"]).len(), 3);
}

fn without_peer() {
    let site = Site::new("b");
    testkit::create(&site.store());
    let output = site.stoa(&["peers"]);
    assert_eq!(output.status.code(), Some(64), "{}", testkit::transcript(&output));
}
