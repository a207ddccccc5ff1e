//! Commands on a bucket with a damaged manifest: each names it, does the rest of the work, and ends with code 74.

use std::process::{Command, Output};

use serde_json::Value;
use testkit::gcs::Gcs;
use testkit::{Case, MIGRATE, cases, transcript};

use super::bucket_commands::{bucket, ended, json, stoa};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        one_damaged_manifest_is_reported_and_the_other_versions_are_listed,
        the_other_versions_of_a_module_are_removed_past_a_damaged_manifest,
        the_other_tombstones_of_a_module_are_lifted_past_a_damaged_manifest,
        objects_that_a_damaged_manifest_may_name_are_kept,
        derived_objects_are_written_again_past_a_damaged_manifest,
    ]
}

const DAMAGED: &str = "/m/example.com/a/@v/v1.0.0.json";

/// Damages the manifest of example.com/a@v1.0.0.
fn damage(gcs: &Gcs) {
    let damaged = gcs.keys("~stoa/").into_iter().find(|key| key.ends_with(DAMAGED));
    gcs.put(&damaged.unwrap(), "{broken");
}

/// Checks that a command named the damaged manifest once, and ended with code 74.
#[track_caller]
fn names_it(output: &Output) {
    let text = transcript(output);
    let named = format!("{DAMAGED}: invalid content");
    assert_eq!(text.matches(&named).count(), 1, "{text}");
    ended(output, 74, "cannot read 1 version in gs://modules");
}

/// Returns the versions of the events of a kind.
fn versions(lines: &[Value], event: &str) -> Vec<String> {
    let found = lines.iter().filter(|line| line["event"] == event);
    found.map(|line| line["version"].as_str().unwrap().to_owned()).collect()
}

fn one_damaged_manifest_is_reported_and_the_other_versions_are_listed() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/b@v1.0.0"]);
    ended(&stoa(&gcs, &["remove", "--tombstone", "example.com/b@v1.0.0"]), 0, "forbade");
    damage(&gcs);
    for (arguments, event) in
        [(&["list"][..], "version"), (&["verify"], "verified"), (&["remove", "--list"], "tombstone")]
    {
        let (code, lines) = json(&gcs, arguments);
        let found: Vec<_> = lines.iter().filter(|line| line["event"] == event).collect();
        assert_eq!((code, found.len()), (74, 1), "{arguments:?}: {lines:?}");
        let text = transcript(&stoa(&gcs, arguments));
        assert!(text.contains("/m/example.com/a/@v/v1.0.0.json: invalid content"), "{arguments:?}: {text}");
    }
    names_it(&stoa(&gcs, &["list"]));
    assert_eq!(json(&gcs, &["verify"]).1.last().unwrap()["unreadable"], 1);
}

fn the_other_versions_of_a_module_are_removed_past_a_damaged_manifest() {
    for forget in [&[][..], &["--forget"]] {
        let (gcs, _) = bucket(&["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/a@v1.2.0"]);
        damage(&gcs);
        let remove = |more: &[&'static str]| [&["remove", "example.com/a"], forget, more].concat();
        names_it(&stoa(&gcs, &remove(&["--dry-run"])));
        let keys = gcs.keys("");
        let (code, lines) = json(&gcs, &remove(&[]));
        assert_eq!((code, versions(&lines, "removed")), (74, vec!["v1.1.0".into(), "v1.2.0".into()]));
        assert_eq!(lines.last().unwrap()["unreadable"], 1, "{lines:?}");
        // Its files stay, and servers learn of no removal.
        let left: Vec<_> = gcs.keys("example.com/");
        assert_eq!(left.len(), 3, "{left:?} of {keys:?}");
        assert!(!gcs.keys("~stoa/").iter().any(|key| key.contains("/x/") && key.ends_with("v1.0.0")));
        // It may be there.
        names_it(&stoa(&gcs, &remove(&[])));
    }
}

fn the_other_tombstones_of_a_module_are_lifted_past_a_damaged_manifest() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0", "example.com/a@v1.1.0"]);
    ended(&stoa(&gcs, &["remove", "--tombstone", "example.com/a"]), 0, "2 forbidden");
    damage(&gcs);
    // It was removed before the damage, so a list reads it.
    let (code, lines) = json(&gcs, &["verify", "example.com/a"]);
    assert_eq!((code, versions(&lines, "unreadable")), (74, vec!["v1.0.0".into()]), "{lines:?}");
    let (code, lines) = json(&gcs, &["remove", "--lift", "example.com/a"]);
    assert_eq!((code, versions(&lines, "lifted")), (74, vec!["v1.1.0".into()]), "{lines:?}");
    names_it(&stoa(&gcs, &["remove", "--lift", "example.com/a"]));
}

fn objects_that_a_damaged_manifest_may_name_are_kept() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0", "example.com/b@v1.0.0"]);
    let root = gcs.keys("~stoa/").into_iter().find_map(|key| Some(key.strip_suffix(DAMAGED)?.to_owned()));
    let objects = ["a", "b"].map(|module| {
        let key =
            format!("{}/c/example.com/{module}/@v/v1.0.0/{}.zip", root.as_ref().unwrap(), "0".repeat(32));
        gcs.put(&key, "1234567");
        gcs.age(&key);
        key
    });
    damage(&gcs);
    let prune = ["prune", "--unreferenced"];
    names_it(&stoa(&gcs, &[&prune[..], &["--dry-run"]].concat()));
    let (code, lines) = json(&gcs, &prune);
    let removed = lines.iter().filter(|line| line["event"] == "removed");
    let removed: Vec<_> = removed.map(|line| line["object"].as_str().unwrap()).collect();
    assert_eq!((code, removed), (74, vec![&*objects[1]]), "{lines:?}");
    assert_eq!(lines.last().unwrap()["unreadable"], 1, "{lines:?}");
    assert!(gcs.get(&objects[0]).is_some() && gcs.get(&objects[1]).is_none());
    names_it(&stoa(&gcs, &prune));
    assert!(!gcs.text("~stoa/state").contains("[lease]"));
}

fn derived_objects_are_written_again_past_a_damaged_manifest() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0", "example.com/b@v1.0.0"]);
    ended(&stoa(&gcs, &["remove", "example.com/b@v1.0.0"]), 0, "removed");
    damage(&gcs);
    let keys = gcs.keys("~stoa/");
    keys.iter().filter(|key| key.contains("/x/")).for_each(|key| gcs.delete(key));
    assert!(gcs.keys("~stoa/").len() < keys.len());
    let regenerate = |more: &[&str]| {
        let mut migrate = Command::new(MIGRATE);
        migrate.args(["--regenerate", "--bucket", &gcs.bucket("")]).args(more).envs(gcs.environment());
        migrate.output().unwrap()
    };
    let planned = regenerate(&["--dry-run"]);
    names_it(&planned);
    ended(&planned, 74, "would write 1 note");
    let written = regenerate(&[]);
    names_it(&written);
    ended(&written, 74, "wrote 1 note");
    assert_eq!(gcs.keys("~stoa/"), keys);
    names_it(&regenerate(&[]));
}
