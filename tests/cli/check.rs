//! Damaged versions: `stoa verify`, `stoa quarantine` and a server, on versions that a test damages.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};
use testkit::{Case, cases};

use serde_json::Value;
use testkit::commands::{json, run, stoa};
use testkit::server::Server;
use testkit::tree::snapshot;
use testkit::upstream::{Module, Upstream};
use testkit::{create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = testkit::slow(cases![no_damage_is_ever_served]);
    cases.extend(cases![
        verify_finds_every_damage,
        what_changed_without_a_trace_is_found_again,
        the_last_line_says_where_to_look,
        verify_beside_a_server_lets_the_next_request_fetch_again,
        only_what_is_named_is_looked_at,
        two_verifies_share_the_work,
        verify_beside_fills_disturbs_none,
        a_repaired_version_is_restored,
        a_restore_yields_to_what_is_there,
        only_what_is_named_is_purged,
        the_list_works_on_every_state_and_changes_nothing,
    ]);
    cases
}

const PAIR: &str = "example.com/Cap/m@v1.0.0";
const FOLDER: &str = "modules/example.com/!cap/m/@v/v1.0.0";
const URL: &str = "/example.com/!cap/m/@v/v1.0.0";

/// Runs `verify`; the exit code and the counts at the end.
fn verify(root: &Path, arguments: &[&str]) -> (i32, [u64; 3]) {
    let (code, lines) = json(root, &[&["verify"], arguments].concat());
    let last = lines.last().unwrap();
    assert_eq!(last["event"], "done", "{lines:?}");
    (code, ["verified", "skipped", "broken"].map(|key| last[key].as_u64().unwrap()))
}

fn quarantined(root: &Path) -> Vec<Value> {
    let (code, mut lines) = json(root, &["quarantine"]);
    let last = lines.pop().unwrap();
    assert_eq!(
        (code, &last["event"], &last["entries"]),
        (0, &"done".into(), &lines.len().into()),
        "{lines:?}"
    );
    lines
}

/// The state of a version after a damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// A version that is broken.
    Broken,
    /// Files without an info: no version.
    Leftover,
    /// A whole version without a seal.
    Whole,
}

struct Damage {
    name: String,
    leaves: Leaves,
    act: Box<dyn Fn(&Path)>,
}

/// Returns the offset of the first directory entry.
fn directory(zip: &[u8]) -> usize {
    zip.windows(4).position(|four| four == b"PK\x01\x02").unwrap()
}

fn damages(module: &Module) -> Vec<Damage> {
    let mut all = Vec::new();
    let mut add =
        |name: String, leaves: Leaves, act: Box<dyn Fn(&Path)>| all.push(Damage { name, leaves, act });
    for file in ["info", "mod", "zip", "ziphash"] {
        let leaves = if file == "ziphash" { Leaves::Whole } else { Leaves::Broken };
        let removed = if file == "info" { Leaves::Leftover } else { leaves };
        add(format!("{file} removed"), removed, Box::new(move |at| drop(fs::remove_file(at.join(file)))));
        add(format!("{file} emptied"), leaves, Box::new(move |at| fs::write(at.join(file), "").unwrap()));
        add(
            format!("{file} cut"),
            leaves,
            Box::new(move |at| {
                let content = fs::read(at.join(file)).unwrap_or_default();
                fs::write(at.join(file), &content[..content.len().saturating_sub(5)]).unwrap();
            }),
        );
    }
    let zip = &module.zip;
    let places = [
        ("the first header", 8),
        ("the data", zip.len() / 2),
        ("the directory", directory(zip) + 17),
        ("the end record", zip.len() - 8),
    ];
    for (place, at) in places {
        let mut flipped = zip.clone();
        flipped[at] ^= 1;
        let act = move |folder: &Path| fs::write(folder.join("zip"), &flipped).unwrap();
        add(format!("a bit flipped in {place}"), Leaves::Broken, Box::new(act));
    }
    let other = Module::new("example.com/other@v1.0.0", 5000).zip;
    let act = move |folder: &Path| fs::write(folder.join("zip"), &other).unwrap();
    add("the zip of another module".to_owned(), Leaves::Broken, Box::new(act));
    let act = |folder: &Path| fs::write(folder.join("mod"), "module example.com/Cap/m\n\ngo 1.22\n").unwrap();
    add("another go.mod".to_owned(), Leaves::Broken, Box::new(act));
    let act = |folder: &Path| fs::write(folder.join("info"), "{\"Version\":\"v1.0.1\"}").unwrap();
    add("the info of another version".to_owned(), Leaves::Broken, Box::new(act));
    all
}

/// Puts the version into a new store, sealed or not, with files of a minute ago.
fn store_with(module: &Module, is_sealed: bool, root: &Path) {
    create(root);
    let folder = module.put_unsealed(root);
    if is_sealed {
        assert_eq!(verify(root, &[]), (0, [1, 0, 0]));
    }
    let past = SystemTime::now() - Duration::from_secs(60);
    for entry in fs::read_dir(folder).unwrap() {
        fs::File::open(entry.unwrap().path()).unwrap().set_modified(past).unwrap();
    }
}

fn each_damage(mut check: impl FnMut(&str, &Damage, &Path)) {
    let module = Module::new(PAIR, 20_000);
    for damage in damages(&module) {
        for is_sealed in [true, false] {
            let dir = testkit::tempdir();
            store_with(&module, is_sealed, dir.path());
            testkit::next_write_time();
            (damage.act)(&dir.path().join(FOLDER));
            let name =
                format!("{}, {}", damage.name, if is_sealed { "sealed before" } else { "never sealed" });
            check(&name, &damage, dir.path());
        }
    }
}

fn no_damage_is_ever_served() {
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 20_000);
    each_damage(|name, damage, root| {
        let server = Server::start(root, upstream.url());
        for (ending, content) in [(".zip", &module.zip), (".info", &module.info), (".mod", &module.modfile)] {
            let (status, body) = server.get(&format!("{URL}{ending}"));
            assert_eq!((status, body == *content), (200, true), "{name}: {ending}");
        }
        let kept = quarantined(root);
        assert_eq!(kept.len(), usize::from(damage.leaves != Leaves::Whole), "{name}: {kept:?}");
        assert!(server.stop().success());
        assert_eq!(verify(root, &["--again"]), (0, [1, 0, 0]), "{name}");
        assert_eq!(quarantined(root), kept, "{name}: it stays until it is purged");
    });
}

fn verify_finds_every_damage() {
    each_damage(|name, damage, root| {
        let expected = match damage.leaves {
            Leaves::Whole => (0, [1, 0, 0]),
            Leaves::Broken | Leaves::Leftover => (1, [0, 0, 1]),
        };
        assert_eq!(verify(root, &[]), expected, "{name}");
        let kept = quarantined(root);
        assert_eq!(kept.len(), usize::from(damage.leaves == Leaves::Broken), "{name}: {kept:?}");
        assert_eq!(root.join(FOLDER).exists(), damage.leaves != Leaves::Broken, "{name}");
        let after = match damage.leaves {
            Leaves::Whole => (0, [0, 1, 0]),
            Leaves::Broken => (0, [0, 0, 0]),
            Leaves::Leftover => (1, [0, 0, 1]),
        };
        assert_eq!(verify(root, &[]), after, "{name}: again");
    });
}

fn what_changed_without_a_trace_is_found_again() {
    let module = Module::new(PAIR, 20_000);
    let dir = testkit::tempdir();
    store_with(&module, true, dir.path());
    let zip = dir.path().join(FOLDER).join("zip");
    let before = fs::metadata(&zip).unwrap().modified().unwrap();
    let mut rotten = module.zip;
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    testkit::next_write_time();
    fs::write(&zip, rotten).unwrap();
    fs::File::open(&zip).unwrap().set_modified(before).unwrap();
    assert_eq!(verify(dir.path(), &[]), (0, [0, 1, 0]), "it looks as it did when it was sealed");
    let output = run(dir.path(), &["verify", "--again"]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    let text = transcript(&output);
    assert!(
        text.contains("corrupt example.com/Cap/m@v1.0.0: its zip: ") && text.contains("stoa quarantine list"),
        "{text}"
    );
}

fn the_last_line_says_where_to_look() {
    let dir = testkit::tempdir();
    let root = dir.path();
    create(root);
    let folder = Module::new(PAIR, 100).put_unsealed(root);
    fs::remove_file(folder.join("info")).unwrap();
    let last = || {
        let output = run(root, &["verify"]);
        assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
        let text = transcript(&output);
        let is_verdict = |line: &str| line.contains(" is corrupt") || line.contains(" are corrupt");
        let lines: Vec<&str> = text.lines().skip_while(|line| !is_verdict(line)).collect();
        assert_eq!(lines.len(), 2, "{text}");
        lines.join("\n")
    };
    let line = last();
    assert!(line.contains("`stoa leftovers`") && !line.contains("quarantine"), "{line}");
    let listed = transcript(&run(root, &["leftovers"]));
    assert!(listed.contains(FOLDER), "{listed}");
    let mut broken = Module::new("example.com/a@v1.0.0", 100);
    broken.zip.clear();
    broken.put_unsealed(root);
    let line = last();
    assert!(line.contains("2 versions") && line.contains("`stoa leftovers`"), "{line}");
    assert!(line.contains("`stoa quarantine list`"), "{line}");
}

fn verify_beside_a_server_lets_the_next_request_fetch_again() {
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 20_000);
    let dir = testkit::tempdir();
    store_with(&module, true, dir.path());
    let server = Server::start(dir.path(), upstream.url());
    assert_eq!(server.get(&format!("{URL}.zip")), (200, module.zip.clone()), "warm");
    fs::write(dir.path().join(FOLDER).join("mod"), "").unwrap();
    assert_eq!(verify(dir.path(), &[]), (1, [0, 0, 1]));
    let status = json(dir.path(), &["status"]).1.remove(0);
    assert_eq!((&status["versions"], &status["quarantined"]), (&0.into(), &1.into()), "{status}");
    assert!(status["quarantined_bytes"].as_u64().unwrap() > 20_000, "{status}");
    assert_eq!(status["holders"][0]["pid"], server.pid(), "{status}");
    assert_eq!(status["holders"][0]["program"], "stoa serve", "{status}");
    assert_eq!(server.get(&format!("{URL}.zip")), (200, module.zip), "filled again");
    assert_eq!(server.get(&format!("{URL}.mod")), (200, module.modfile));
    assert!(server.stop().success());
}

fn only_what_is_named_is_looked_at() {
    let dir = testkit::tempdir();
    let root = dir.path();
    create(root);
    for pair in ["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/a/b@v1.0.0"] {
        Module::new(pair, 100).put_unsealed(root);
    }
    assert_eq!(verify(root, &["example.com/a@v1.1.0"]), (0, [1, 0, 0]));
    assert_eq!(verify(root, &["example.com/a", "--threads", "1"]), (0, [1, 1, 0]));
    assert_eq!(verify(root, &["example.com/a", "example.com/a/b"]), (0, [1, 2, 0]));
    for absent in ["example.com/none", "example.com/a@v1.2.0"] {
        let output = run(root, &["verify", absent, "example.com/a"]);
        assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
        assert!(transcript(&output).contains(&format!("{absent} is not in ")), "{}", transcript(&output));
        assert!(transcript(&output).contains("2 already verified"), "{}", transcript(&output));
    }
    for bad in ["example.com/a@latest", "a b", "--threads=0"] {
        assert_eq!(run(root, &["verify", bad]).status.code(), Some(64), "{bad}");
    }
}

fn two_verifies_share_the_work() {
    let dir = testkit::tempdir();
    let root = dir.path();
    create(root);
    for n in 0..30 {
        let mut module = Module::new(&format!("example.com/m@v1.{n}.0"), 3000);
        if n % 5 == 0 {
            module.zip.truncate(2000);
        }
        module.put_unsealed(root);
    }
    let start =
        || stoa(root, &["verify", "--format", "json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let both = [start().unwrap(), start().unwrap()].map(|child| child.wait_with_output().unwrap());
    let mut sum = [0; 2];
    for output in &both {
        assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(output));
        let text = String::from_utf8_lossy(&output.stdout);
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        sum[0] += last["verified"].as_u64().unwrap();
        sum[1] += last["broken"].as_u64().unwrap();
    }
    assert_eq!(sum, [24, 6], "each version is read once: {both:?}");
    assert_eq!(quarantined(root).len(), 6);
    assert_eq!(verify(root, &[]), (0, [0, 24, 0]));
}

fn verify_beside_fills_disturbs_none() {
    let upstream = Upstream::start();
    let modules: Vec<Module> =
        (0..30).map(|n| upstream.offer(&format!("example.com/m@v1.{n}.0"), 30_000)).collect();
    let dir = testkit::tempdir();
    create(dir.path());
    let server = Server::start(dir.path(), upstream.url());
    std::thread::scope(|scope| {
        let verifying = scope.spawn(|| {
            while !dir.path().join("modules/example.com/m/@v/v1.29.0/info").exists() {
                let (code, [_, _, broken]) = verify(dir.path(), &["--again"]);
                assert_eq!((code, broken), (0, 0));
            }
        });
        for (n, module) in modules.iter().enumerate() {
            let (status, body) = server.get(&format!("/example.com/m/@v/v1.{n}.0.zip"));
            assert_eq!((status, body == module.zip), (200, true), "{n}");
        }
        verifying.join().unwrap();
    });
    assert_eq!(verify(dir.path(), &[]), (0, [0, 30, 0]));
    assert!(quarantined(dir.path()).is_empty());
}

/// A store with one broken version in quarantine; its name there.
fn with_a_broken_one(module: &Module, root: &Path) -> String {
    create(root);
    let folder = module.put_unsealed(root);
    testkit::next_write_time();
    fs::write(folder.join("zip"), &module.zip[..module.zip.len() - 20]).unwrap();
    assert_eq!(verify(root, &[]), (1, [0, 0, 1]));
    quarantined(root)[0]["id"].as_str().unwrap().to_owned()
}

fn a_repaired_version_is_restored() {
    let dir = testkit::tempdir();
    let root = dir.path();
    let module = Module::new(PAIR, 5000);
    let id = with_a_broken_one(&module, root);
    let kept = quarantined(root).remove(0);
    assert_eq!((&kept["module"], &kept["version"]), (&"example.com/Cap/m".into(), &"v1.0.0".into()));
    assert_eq!((&kept["path"], kept["bytes"].as_u64() > Some(4000)), (&FOLDER.into(), true));
    let list = run(root, &["quarantine", "list"]);
    assert!(
        transcript(&list).contains(&id) && transcript(&list).contains("example.com/Cap/m@v1.0.0: its zip: "),
        "{}",
        transcript(&list)
    );
    let before = snapshot(&root.join("quarantine"));
    let output = run(root, &["quarantine", "restore", &id]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    assert!(transcript(&output).contains("still corrupt: its zip: "), "{}", transcript(&output));
    assert_eq!(snapshot(&root.join("quarantine")), before);

    fs::write(root.join("quarantine").join(&id).join("version/zip"), &module.zip).unwrap();
    let server = Server::start(root, "off");
    assert_eq!(server.get(&format!("{URL}.zip")).0, 404);
    let (code, lines) = json(root, &["quarantine", "restore", &id]);
    assert_eq!(
        (code, &lines[0]["event"], &lines[0]["module"]),
        (0, &"restored".into(), &"example.com/Cap/m".into())
    );
    assert_eq!(server.get(&format!("{URL}.zip")), (200, module.zip.clone()), "beside a server");
    assert!(server.stop().success());
    assert!(quarantined(root).is_empty());
    assert_eq!(verify(root, &["--again"]), (0, [1, 0, 0]));
    assert_eq!(json(root, &["quarantine", "restore", &id]).0, 1, "there is none any more");
}

fn a_restore_yields_to_what_is_there() {
    for (content, code) in [(5000, 0), (6000, 73)] {
        let dir = testkit::tempdir();
        let root = dir.path();
        let module = Module::new(PAIR, 5000);
        let id = with_a_broken_one(&module, root);
        fs::write(root.join("quarantine").join(&id).join("version/zip"), &module.zip).unwrap();
        let theirs = Module::new(PAIR, content);
        theirs.put_unsealed(root);
        let output = run(root, &["quarantine", "restore", &id]);
        assert_eq!(output.status.code(), Some(code), "{}", transcript(&output));
        assert!(transcript(&output).contains("is in the store with "), "{}", transcript(&output));
        assert_eq!(fs::read(root.join(FOLDER).join("zip")).unwrap(), theirs.zip);
        assert_eq!(quarantined(root).len(), 1);
        if code == 73 {
            // As the message says.
            assert!(
                transcript(&output).contains(&format!("stoa remove --forget {PAIR}")),
                "{}",
                transcript(&output)
            );
            let removed = run(root, &["remove", "--yes", "--forget", PAIR]);
            assert!(removed.status.success(), "{}", transcript(&removed));
            let output = run(root, &["quarantine", "restore", &id]);
            assert!(output.status.success(), "{}", transcript(&output));
            assert_eq!(fs::read(root.join(FOLDER).join("zip")).unwrap(), module.zip);
        }
    }
}

fn only_what_is_named_is_purged() {
    let dir = testkit::tempdir();
    let root = dir.path();
    let id = with_a_broken_one(&Module::new(PAIR, 5000), root);
    let old = root.join("quarantine/old");
    fs::create_dir_all(old.join("version")).unwrap();
    fs::write(old.join("version/zip"), "old").unwrap();
    fs::write(
        old.join("reason.toml"),
        "module = 'example.com/old'\nversion = 'v1.0.0'\npath = ''\nat = '2020-01-02T03:04:05Z'\nreason = ''\n",
    )
    .unwrap();
    fs::create_dir(root.join("quarantine/damaged")).unwrap();
    let damaged = quarantined(root).into_iter().find(|entry| entry["id"] == "damaged").unwrap();
    assert_eq!((&damaged["module"], &damaged["bytes"]), (&Value::Null, &Value::Null));
    assert_eq!(quarantined(root).len(), 3);
    for bad in
        [&["quarantine", "purge"][..], &["quarantine", "purge", "--all", "x"], &["quarantine", "remove"]]
    {
        assert_eq!(run(root, bad).status.code(), Some(64), "{bad:?}");
    }
    for unknown in ["x", "..", "../modules", ".", "old/version"] {
        let output = run(root, &["quarantine", "purge", unknown]);
        assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    }
    assert_eq!(quarantined(root).len(), 3);
    let server = Server::start(root, "off");
    let (code, lines) = json(root, &["quarantine", "purge", "--older-than", "1"]);
    assert_eq!((code, &lines[0]["id"], &lines[1]["entries"]), (0, &"old".into(), &1.into()), "{lines:?}");
    let (code, lines) = json(root, &["quarantine", "purge", &id, "unknown"]);
    assert_eq!((code, &lines[0]["event"], &lines[1]["event"]), (1, &"purged".into(), &"error".into()));
    assert_eq!(run(root, &["quarantine", "purge", "--all"]).status.code(), Some(0));
    assert!(quarantined(root).is_empty());
    assert!(server.stop().success());
    let mut left: Vec<_> =
        fs::read_dir(root.join("staging")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["claims", "reserve"]);
}

fn the_list_works_on_every_state_and_changes_nothing() {
    let dir = testkit::tempdir();
    let missing = dir.path().join("missing");
    let (code, lines) = json(&missing, &["quarantine"]);
    assert!(code == 65 && !missing.exists(), "{lines:?}");
    for marker in ["layout.v1", "layout.v9", "migrating.v1-v2", "creating.v2", "notes"] {
        let root = dir.path().join(marker);
        fs::create_dir_all(root.join("quarantine/one/version")).unwrap();
        fs::write(root.join(marker), "").unwrap();
        let before = snapshot(&root);
        assert_eq!(quarantined(&root).len(), 1, "{marker}");
        assert_eq!(snapshot(&root), before);
    }
    // What changes something passes the gate.
    let root = dir.path().join("layout.v9");
    for arguments in [&["quarantine", "purge", "one"][..], &["quarantine", "restore", "one"], &["verify"]] {
        let output = run(&root, arguments);
        assert_eq!(output.status.code(), Some(78), "{}", transcript(&output));
    }
}
