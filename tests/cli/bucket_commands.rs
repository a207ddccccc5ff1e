//! Commands on a bucket, on a double of an object store.

use std::process::{Command, Output};

use serde_json::Value;
use testkit::gcs::Gcs;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, MIGRATE, STOA, cases, transcript};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        list_shows_the_versions_of_a_bucket,
        a_version_of_a_bucket_is_removed_forbidden_and_allowed_again,
        verify_seals_intact_versions_and_moves_corrupt_ones_to_quarantine,
        commands_refuse_a_bucket_that_is_not_at_the_current_layout,
        the_bucket_of_the_configuration_is_meant_unless_local_is_given,
        fetch_publishes_in_the_bucket,
    ]
}

pub(crate) fn command(gcs: &Gcs, arguments: &[&str]) -> Command {
    let mut command = Command::new(STOA);
    command.args(arguments).env_remove("STOA_STORE").env_remove("STOA_LOG").envs(gcs.environment());
    command
}

pub(crate) fn stoa(gcs: &Gcs, arguments: &[&str]) -> Output {
    command(gcs, &[arguments, &["--bucket", &gcs.bucket("")]].concat()).output().unwrap()
}

pub(crate) fn json(gcs: &Gcs, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = stoa(gcs, &[arguments, &["--format", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}", transcript(&output)))
    });
    (output.status.code().unwrap(), lines.collect())
}

#[track_caller]
pub(crate) fn ended(output: &Output, code: i32, part: &str) {
    let text = transcript(output);
    assert!(
        output.status.code() == Some(code) && text.contains(part),
        "expected {code} and {part:?}: {text}"
    );
}

/// Makes a bucket with these versions.
pub(crate) fn bucket(pairs: &[&str]) -> (Gcs, Vec<Module>) {
    let gcs = Gcs::start();
    let modules: Vec<_> = pairs.iter().map(|pair| Module::new(pair, 1000)).collect();
    for module in &modules {
        gcs.save("", module);
    }
    let mut migrate = Command::new(MIGRATE);
    let output = migrate.args(["--bucket", &gcs.bucket("")]).envs(gcs.environment()).output().unwrap();
    ended(&output, 0, "layout b1");
    (gcs, modules)
}

fn list_shows_the_versions_of_a_bucket() {
    let (gcs, modules) = bucket(&["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.org/B@v0.1.0"]);
    let (code, lines) = json(&gcs, &["list"]);
    assert_eq!((code, lines.len()), (0, 4), "{lines:?}");
    let size = modules[0].info.len() + modules[0].modfile.len() + modules[0].zip.len();
    assert_eq!((&lines[0]["module"], &lines[0]["bytes"]), (&"example.com/a".into(), &size.into()));
    assert_eq!((&lines[3]["versions"], &lines[3]["modules"]), (&3.into(), &2.into()));
    let (_, lines) = json(&gcs, &["list", "example.org/*"]);
    assert_eq!((lines.len(), &lines[0]["module"]), (2, &"example.org/B".into()));
}

fn a_version_of_a_bucket_is_removed_forbidden_and_allowed_again() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/b@v1.0.0"]);
    ended(&stoa(&gcs, &["remove", "--dry-run", "example.com/a"]), 0, "2 versions would be removed");
    assert_eq!(json(&gcs, &["list"]).1.len(), 4);
    ended(&stoa(&gcs, &["remove", "example.com/a@v1.0.0"]), 0, "removed example.com/a@v1.0.0");
    assert!(gcs.keys("example.com/a/@v/v1.0.0").is_empty());
    ended(&stoa(&gcs, &["remove", "example.com/a@v1.0.0"]), 1, "is not in gs://modules");
    let reason = ["--tombstone", "--reason", "bad"];
    ended(&stoa(&gcs, &[&["remove", "example.com/a@v1.1.0"][..], &reason].concat()), 0, "and forbade it");
    ended(
        &stoa(&gcs, &[&["remove", "example.com/c@v0.9.0"][..], &reason].concat()),
        0,
        "forbade example.com/c@v0.9.0",
    );
    let (_, lines) = json(&gcs, &["remove", "--list"]);
    assert_eq!((lines.len(), &lines[0]["reason"]), (3, &"bad".into()), "{lines:?}");
    ended(
        &stoa(&gcs, &["remove", "--lift", "example.com/a"]),
        0,
        "lifted the tombstone of example.com/a@v1.1.0",
    );
    assert_eq!(json(&gcs, &["remove", "--list"]).1.len(), 2);
    let (_, lines) = json(&gcs, &["list"]);
    assert_eq!((lines.len(), &lines[0]["module"]), (2, &"example.com/b".into()));
    // The list of removals has all of them, before and after the change.
    let gone = gcs.keys("~stoa/").into_iter().find(|key| key.ends_with("/gone")).unwrap();
    let gone: Value = serde_json::from_str(&gcs.text(&gone)).unwrap();
    assert_eq!(gone["next"], 8, "{gone}");
}

fn verify_seals_intact_versions_and_moves_corrupt_ones_to_quarantine() {
    let (gcs, modules) = bucket(&["example.com/a@v1.0.0", "example.com/b@v1.0.0"]);
    let (code, lines) = json(&gcs, &["verify"]);
    assert_eq!((code, &lines.last().unwrap()["verified"]), (0, &2.into()), "{lines:?}");
    assert_eq!(json(&gcs, &["verify"]).1.last().unwrap()["skipped"], 2);
    // A bit of the content, with the same size and the same ETag.
    let generation = gcs.get("example.com/a/@v/v1.0.0.zip").unwrap().generation;
    gcs.change("example.com/a/@v/v1.0.0.zip", |object| {
        let at = object.data.len() / 3;
        object.data[at] ^= 1;
    });
    gcs.set_generation("example.com/a/@v/v1.0.0.zip", generation);
    let output = stoa(&gcs, &["verify", "--again"]);
    ended(&output, 1, "corrupt example.com/a@v1.0.0: its zip");
    let (_, lines) = json(&gcs, &["quarantine"]);
    assert_eq!(lines[0]["module"], "example.com/a", "{lines:?}");
    let id = lines[0]["id"].as_str().unwrap();
    assert_eq!(json(&gcs, &["list"]).1.len(), 2);
    ended(&stoa(&gcs, &["quarantine", "restore", id]), 1, "it is still corrupt");
    // Athens would serve the corrupt zip.
    let downgrade = || {
        let mut migrate = Command::new(MIGRATE);
        let arguments = ["--bucket", &gcs.bucket(""), "--to", "athens"];
        migrate.args(arguments).envs(gcs.environment()).output().unwrap()
    };
    let refused = downgrade();
    ended(&refused, 73, "Athens would serve 1 corrupt version of the quarantine");
    ended(&refused, 73, "stoa quarantine purge --bucket gs://modules --all");
    assert!(gcs.text("~stoa/state").contains("layout.b1"));
    gcs.put("example.com/a/@v/v1.0.0.zip", modules[0].zip.clone());
    gcs.set_generation("example.com/a/@v/v1.0.0.zip", generation);
    ended(&stoa(&gcs, &["quarantine", "restore", id]), 0, "restored example.com/a@v1.0.0");
    ended(&stoa(&gcs, &["quarantine", "restore", id]), 1, "no such entry in quarantine");
    assert_eq!((json(&gcs, &["list"]).1.len(), json(&gcs, &["quarantine"]).1.len()), (3, 1));
    ended(&stoa(&gcs, &["verify", "example.com/c"]), 1, "example.com/c is not in gs://modules");
    ended(&stoa(&gcs, &["verify", "--checksums"]), 64, "cannot ask the checksum database");
}

fn commands_refuse_a_bucket_that_is_not_at_the_current_layout() {
    let gcs = Gcs::start();
    gcs.save("", &Module::new("example.com/a@v1.0.0", 1000));
    for arguments in
        [&["list"][..], &["verify"], &["quarantine"], &["remove", "example.com/a"], &["remove", "--list"]]
    {
        ended(&stoa(&gcs, arguments), 78, "then `stoa-migrate --bucket gs://modules` to upgrade the bucket");
    }
    assert_eq!(gcs.keys("").len(), 3);
}

fn the_bucket_of_the_configuration_is_meant_unless_local_is_given() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0"]);
    let dir = testkit::tempdir();
    testkit::create(dir.path());
    let run = |more: &[&str]| {
        let mut command = command(&gcs, &[&["list"][..], more].concat());
        command.env("STOA_BUCKET_URL", gcs.bucket("")).env("STOA_STORE", dir.path()).output().unwrap()
    };
    ended(&run(&[]), 0, "gs://modules: 1 version of 1 module");
    ended(&run(&["--local"]), 0, ": 0 versions of 0 modules");
    ended(&run(&["--local", "--bucket", "gs://modules"]), 64, "cannot be used with");
}

fn fetch_publishes_in_the_bucket() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let pairs = ["example.com/m@v1.0.0", "example.com/m@v1.1.0"];
    pairs.iter().for_each(|pair| drop(upstream.offer(pair, 1000)));
    let fetch = |pairs: &[&str], more: &[&str]| {
        let mut command = command(&gcs, &[&["fetch"][..], pairs, more].concat());
        command.args(["--upstream", upstream.url(), "--store"]).arg(dir.path()).env("GOSUMDB", "off");
        command.output().unwrap()
    };
    ended(&fetch(&pairs[..1], &["--local"]), 0, "");
    assert!(gcs.keys("").is_empty());
    // One is in the store already, and the other is downloaded.
    ended(&fetch(&pairs, &["--bucket", "gs://modules"]), 0, "");
    assert_eq!(json(&gcs, &["list"]).1.len(), 3);
    assert_eq!(upstream.asked("v1.0.0.zip"), 1);
}
