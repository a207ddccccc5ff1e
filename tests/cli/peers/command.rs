//! `stoa peers`, without a server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testkit::{Case, STOA, transcript, trial};

use super::Site;

pub(super) fn cases() -> Vec<Case> {
    vec![
        trial("stoa peers lists the peers of the configuration", None, listed),
        trial("stoa peers needs a peer in the configuration", None, without_peer),
        trial("the configurations in the documentation are valid", None, documented),
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

fn documented() {
    let page = fs::read_to_string(testkit::project("docs/several-deployments.md")).unwrap();
    let blocks: Vec<&str> =
        page.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    // Two peers, a hub with two spokes, a ring of three, three on the way through a DMZ, and a rule for private modules.
    assert_eq!(blocks.len(), 2 + 3 + 3 + 3 + 1);
    for block in blocks {
        let site = Site::new("documented");
        fs::create_dir(site.folder.path().join("secrets")).unwrap();
        let named =
            |line: &str| Some(line.trim().strip_prefix("secret_file = \"")?.split_once('"')?.0.to_owned());
        for name in block.lines().filter_map(named) {
            let path = site.folder.path().join(&name);
            fs::write(&path, format!("{name}, which is not really a secret")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let path = site.folder.path().join("config.toml");
        fs::write(&path, block).unwrap();
        let output = Command::new(STOA).args(["config", "check", "--config"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{block}\n{}", transcript(&output));
    }
}
