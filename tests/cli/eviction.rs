//! A server that keeps its store within limits.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::commands::run;
use testkit::server::{self, Server};
use testkit::tree::shape;
use testkit::{Case, cases, transcript};

use crate::removal::{noted, store, versions, with_old_versions};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        a_server_removes_the_least_recently_used,
        a_server_removes_unused_versions_except_pinned_and_private_ones,
        a_kill_during_a_run_loses_no_version_that_stays,
        the_table_of_the_store_has_its_folder_and_its_limits,
        a_limit_of_the_store_beside_a_bucket_is_an_error,
    ]
}

fn names(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|n| format!("example.com/m{n}@v1.0.0")).collect()
}

/// An upstream that could send every version again, and is never asked.
const UPSTREAM: &str = "http://127.0.0.1:9";

fn command(root: &Path, limits: &[&str]) -> Command {
    let mut command = server::command(root);
    command.args(["--upstream", UPSTREAM, "--checksum", "off"]).args(limits);
    command
}

/// Uses some versions, and returns when that is recorded.
fn make_used(root: &Path, used: &[usize]) {
    let server = Server::start_with(command(root, &["--last-use-interval", "1"]).env("GOSUMDB", "off"));
    for n in used {
        assert_eq!(server.get(&format!("/example.com/m{n}/@v/v1.0.0.zip")).0, 200);
    }
    testkit::until("the uses are recorded", || noted(root) == names(used.iter().copied()));
    assert!(server.stop().success());
}

fn evictions(root: &Path) -> Vec<Value> {
    let text = fs::read_to_string(root.join("records/audit/current")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["act"] == "evict").collect()
}

fn a_server_removes_the_least_recently_used() {
    let (_dir, root) = store();
    let bytes = with_old_versions(&root, 6);
    make_used(&root, &[1, 3, 4]);
    // Five percent less than the maximum stay, so three versions go.
    let max = (bytes * 4 - 1).to_string();
    let server = Server::start_with(&mut command(&root, &["--store-max-size", &max]));
    testkit::until("a run has ended", || !evictions(&root).is_empty());
    assert_eq!(versions(&root), names([1, 3, 4]));
    let [line] = &evictions(&root)[..] else { panic!("one line per run") };
    assert_eq!(
        (&line["path"], &line["command"], &line["reason"]),
        (
            &"modules".into(),
            &"serve".into(),
            &format!("3 versions, {} bytes: store.max_size", bytes * 3).into()
        )
    );
    // The version was removed with its hash.
    let record = fs::read_to_string(root.join("records/example.com/m0/@v/v1.0.0.toml")).unwrap();
    assert!(record.contains("h1 = \"h1:"), "{record}");
    assert_eq!(server.get("/example.com/m4/@v/v1.0.0.zip").0, 200);
    assert!(server.stop().success());
}

fn a_server_removes_unused_versions_except_pinned_and_private_ones() {
    let (_dir, root) = store();
    with_old_versions(&root, 6);
    make_used(&root, &[1]);
    let limits =
        ["--store-unused-for", "14w", "--store-keep", "example.com/m2", "--sumdb-refuse", "example.com/m3"];
    let server = Server::start_with(&mut command(&root, &limits));
    testkit::until("a run has ended", || !evictions(&root).is_empty());
    assert_eq!(versions(&root), names([1, 2, 3]));
    assert!(evictions(&root)[0]["reason"].as_str().unwrap().ends_with(": store.unused_for"));
    assert!(server.stop().success());
    // Without recorded uses, no version counts as unused.
    let limits = ["--store-unused-for", "1d", "--last-use-interval", "0"];
    let server = Server::start_with(&mut command(&root, &limits));
    assert_eq!(server.get("/example.com/m1/@v/v1.0.0.zip").0, 200);
    assert!(server.stop().success());
    // A reader changes nothing.
    let server = Server::start_with(&mut command(&root, &["--store-max-size", "1k", "--read-only"]));
    assert_eq!(server.get("/example.com/m1/@v/v1.0.0.zip").0, 200);
    assert!(server.stop().success());
    assert_eq!(versions(&root), names([1, 2, 3]));
}

fn a_kill_during_a_run_loses_no_version_that_stays() {
    let (_dir, root) = store();
    let bytes = with_old_versions(&root, 40);
    make_used(&root, &[7, 8]);
    // Above the limit as long as three are left.
    let max = (bytes * 5 / 2).to_string();
    for round in 0.. {
        let server = Server::start_with(&mut command(&root, &["--store-max-size", &max]));
        let before = versions(&root).len();
        testkit::until("the run goes on or has ended", || {
            versions(&root).len() < before || versions(&root).len() == 2
        });
        let is_over = versions(&root).len() == 2;
        // It is killed in the middle of the run.
        drop(server);
        let verified = run(&root, &["verify", "--again"]);
        assert!(verified.status.success(), "round {round}: {}", transcript(&verified));
        if is_over {
            break;
        }
    }
    assert_eq!(versions(&root), names([7, 8]));
    let left = shape(&root.join("staging"));
    assert!(left.keys().all(|path| path.starts_with("reserve") || path.iter().count() < 2), "{left:?}");
}

fn the_table_of_the_store_has_its_folder_and_its_limits() {
    let dir = testkit::tempdir();
    let file = dir.path().join("stoa.toml");
    let show = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = Command::new(testkit::STOA);
        command.env_remove("STOA_STORE").args(["config", "show", "--config"]).arg(&file);
        let output = command.output().unwrap();
        (output.status.code(), transcript(&output))
    };
    let (code, text) = show("[store]\npath = \"modules\"\nmax_size = \"200G\"\nkeep = [\"example.org/*\"]\n");
    assert_eq!(code, Some(0), "{text}");
    let folder = dir.path().join("modules").display().to_string();
    for part in [&folder, "200G", "example.org/*"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for wrong in [
        "store = \"a\"\n[store]\npath = \"b\"\n",
        "[store]\nmax_sice = \"1G\"\n",
        "[store]\nmin_free = \"100%\"\n",
    ] {
        let (code, text) = show(wrong);
        assert_eq!(code, Some(64), "{wrong}: {text}");
    }
    let (_, text) = show("[store]\nmax_sice = \"1G\"\n");
    assert!(text.contains("store.max_size"), "{text}");
}

fn a_limit_of_the_store_beside_a_bucket_is_an_error() {
    let (_dir, root) = store();
    for limit in [["--store-max-size", "1G"], ["--store-min-free", "5%"], ["--store-unused-for", "9d"]] {
        let output = command(&root, &limit).args(["--bucket-url", "s3://modules"]).output().unwrap();
        let text = transcript(&output);
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains("bucket.max_local_size") && text.contains(limit[0]), "{text}");
    }
}
