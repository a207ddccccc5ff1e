//! `stoa-migrate --bucket`, on a double of an object store.

use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use testkit::gcs::{Asked, Failing, Gcs};
use testkit::upstream::Module;
use testkit::{Case, MIGRATE, cases, transcript};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        an_empty_bucket_is_prepared_once,
        a_bucket_of_athens_is_upgraded_in_place_and_given_back,
        half_saved_versions_and_foreign_keys_stay_and_are_reported,
        versions_that_athens_is_saving_are_left_for_later,
        versions_that_athens_has_locked_are_left_for_later,
        many_locks_do_not_hide_the_versions_of_athens,
        an_automatic_upgrade_prints_one_line_with_the_way_back,
        an_upgrade_works_on_as_many_versions_at_the_same_time_as_there_are_threads,
        buckets_that_are_no_stores_are_refused_unchanged,
        a_dry_run_writes_nothing_and_states_requests_and_price,
        an_interrupted_upgrade_is_resumed_or_undone,
        a_service_that_ignores_conditions_is_refused,
        a_service_whose_writes_are_not_atomic_is_refused,
        a_downgrade_waits_until_servers_have_ended,
        a_downgrade_ends_before_it_deletes_anything_if_a_key_differs,
        status_names_the_state_of_a_bucket,
        derived_objects_are_written_again,
        options_that_mean_nothing_for_a_bucket_are_refused,
    ]
}

fn migrate(gcs: &Gcs, arguments: &[&str]) -> Output {
    command(gcs, arguments).output().unwrap()
}

fn command(gcs: &Gcs, arguments: &[&str]) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["--bucket", &gcs.bucket("go")]).args(arguments);
    command.env_remove("STOA_STORE").env_remove("STOA_LOG").envs(gcs.environment());
    command
}

/// Runs with JSON lines; the exit code and the lines.
fn json(gcs: &Gcs, arguments: &[&str]) -> (i32, Vec<Value>) {
    let output = migrate(gcs, &[arguments, &["--format", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}", transcript(&output)))
    });
    (output.status.code().unwrap(), lines.collect())
}

#[track_caller]
fn ended(output: &Output, code: i32, part: &str) {
    let text = transcript(output);
    assert!(
        output.status.code() == Some(code) && text.contains(part),
        "expected {code} and {part:?}: {text}"
    );
}

fn athens(count: usize) -> (Gcs, Vec<Module>) {
    let gcs = Gcs::start();
    let modules: Vec<_> =
        (0..count).map(|n| Module::new(&format!("example.com/Mod{}@v1.0.{n}", n % 3), 1000)).collect();
    for module in &modules {
        gcs.save("go/", module);
    }
    (gcs, modules)
}

fn marker(gcs: &Gcs) -> String {
    let text = gcs.text("go/~stoa/state");
    let line = text.lines().find(|line| line.starts_with("marker")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

fn manifests(gcs: &Gcs) -> usize {
    gcs.keys("go/~stoa/").iter().filter(|key| key.ends_with(".json") && key.contains("/m/")).count()
}

/// Returns all objects that are not of this program.
fn others(gcs: &Gcs) -> Vec<(String, Vec<u8>)> {
    let keys = gcs.keys("").into_iter().filter(|key| !key.starts_with("go/~stoa/"));
    keys.map(|key| (key.clone(), gcs.get(&key).unwrap().data)).collect()
}

fn an_empty_bucket_is_prepared_once() {
    let gcs = Gcs::start();
    ended(&migrate(&gcs, &["--no-create"]), 0, "is empty; nothing to do");
    assert!(gcs.keys("").is_empty());
    ended(&migrate(&gcs, &[]), 0, "prepared the bucket at layout b1");
    assert_eq!((marker(&gcs).as_str(), gcs.keys("")), ("layout.b1", vec!["go/~stoa/state".to_owned()]));
    let before = gcs.text("go/~stoa/state");
    ended(&migrate(&gcs, &[]), 0, "already at layout b1; nothing to do");
    assert_eq!(gcs.text("go/~stoa/state"), before);
}

fn a_bucket_of_athens_is_upgraded_in_place_and_given_back() {
    let (gcs, modules) = athens(30);
    gcs.set_page(7);
    let before = others(&gcs);
    let (code, lines) = json(&gcs, &[]);
    assert_eq!(code, 0, "{lines:?}");
    let done = lines.last().unwrap();
    assert_eq!((&done["layout"], &done["changed"]), (&"b1".into(), &true.into()));
    assert_eq!((marker(&gcs).as_str(), manifests(&gcs)), ("layout.b1", modules.len()));
    assert_eq!(others(&gcs), before);
    let name = format!("/m/{}/@v/{}.json", modules[0].version.path(), modules[0].version.version());
    let key = gcs.keys("go/~stoa/").into_iter().find(|key| key.ends_with(&name)).unwrap();
    let manifest: Value = serde_json::from_str(&gcs.text(&key)).unwrap();
    assert_eq!((&manifest["state"], &manifest["origin"]), (&"present".into(), &"adopted".into()));
    assert!(gcs.text("go/~stoa/state").contains("from = \"athens\""));

    ended(&migrate(&gcs, &["--to", "athens"]), 0, "is at layout athens");
    assert_eq!((marker(&gcs).as_str(), others(&gcs)), ("left.athens", before.clone()));
    assert_eq!(gcs.keys("go/~stoa/"), ["go/~stoa/state"]);
    // A new upgrade has a new ID.
    ended(&migrate(&gcs, &[]), 0, "is at layout b1");
    assert_eq!((manifests(&gcs), others(&gcs)), (modules.len(), before));
    assert!(!gcs.keys("go/~stoa/").contains(&key));
}

fn half_saved_versions_and_foreign_keys_stay_and_are_reported() {
    let (gcs, modules) = athens(9);
    for (module, suffix) in modules.iter().zip(["info", "mod", "zip"]) {
        gcs.delete(&format!("go/{}/@v/{}.{suffix}", module.version.path(), module.version.version()));
    }
    gcs.put("go/example.com/Mod0/@v/list", "v1.0.0\n");
    gcs.put("go/lease/example.com/m@v1.0.0", "x");
    gcs.put("go/parts/example.com/m/v1.0.0/1", "x");
    gcs.put("go/a//c", "x");
    gcs.put("go/example.com/Mod0/@v/master.info", "{}");
    // Sorts between the files of a version.
    gcs.put("go/example.com/Mod0/@v/v1.0.6.mod/x", "x");
    let broken = Module::new("example.com/broken@v1.0.0", 1000);
    gcs.save("go/", &broken);
    gcs.put("go/example.com/broken/@v/v1.0.0.zip", &broken.zip[..500]);
    let before = others(&gcs);
    let (code, lines) = json(&gcs, &[]);
    assert_eq!(code, 0, "{lines:?}");
    let leftovers: Vec<String> = lines
        .iter()
        .filter(|line| line["event"] == "leftover")
        .map(|line| format!("{} {}", line["path"].as_str().unwrap(), line["reason"].as_str().unwrap()))
        .collect();
    for (part, reason) in [
        ("Mod0/@v/v1.0.0", "it has no info"),
        ("Mod1/@v/v1.0.1", "it has no mod"),
        ("Mod2/@v/v1.0.2", "it has no zip"),
        ("Mod0/@v/list", "not a file of a version"),
        ("lease/", "a lock of Athens"),
        ("parts/", "a part of an upload"),
        ("a//c", "Stoa cannot request a key of this form"),
        ("Mod0/@v/master.info", "alias: master is not a canonical version"),
        ("Mod0/@v/v1.0.6.mod/x", "not a file of a version"),
        ("broken/@v/v1.0.0", "its zip"),
    ] {
        let named: Vec<_> = leftovers.iter().filter(|line| line.contains(part)).collect();
        assert!(named.len() == 1 && named[0].contains(reason), "{part}: {leftovers:?}");
    }
    assert_eq!((leftovers.len(), manifests(&gcs)), (10, 6));
    let step = lines.iter().find(|line| line["event"] == "step" && line["state"] == "done").unwrap();
    assert_eq!((&step["versions"], &step["leftovers"]), (&6.into(), &10.into()));
    assert_eq!(others(&gcs), before);
    let (code, lines) = json(&gcs, &["leftovers"]);
    assert_eq!((code, lines.iter().filter(|line| line["event"] == "leftover").count()), (0, 10));
    assert_eq!(lines.last().unwrap()["leftovers"], 10);
}

fn versions_that_athens_is_saving_are_left_for_later() {
    let (gcs, modules) = athens(4);
    let zip = format!("go/{}/@v/{}.zip", modules[0].version.path(), modules[0].version.version());
    let info = zip.replace(".zip", ".info");
    gcs.delete(&zip);
    gcs.change(&info, |object| object.modified = SystemTime::now());
    let output = migrate(&gcs, &[]);
    ended(&output, 0, "Athens is still saving 1 version, Stoa adopts each of them on the first request");
    assert_eq!(manifests(&gcs), 3);
    // An hour later it is incomplete.
    gcs.change(&info, |object| object.modified = SystemTime::now() - Duration::from_secs(3600));
    ended(&migrate(&gcs, &["leftovers"]), 0, "it has no zip");
}

fn versions_that_athens_has_locked_are_left_for_later() {
    let (gcs, modules) = athens(4);
    let version = &modules[0].version;
    // An earlier save was interrupted long ago, and Athens has just begun another one.
    gcs.delete(&format!("go/{}/@v/{}.zip", version.path(), version.version()));
    let lock = format!("go/lock/{version}");
    gcs.put(&lock, "x");
    gcs.change(&lock, |object| object.modified = SystemTime::now());
    ended(&migrate(&gcs, &["--dry-run"]), 0, "3 versions to adopt");
    let output = migrate(&gcs, &[]);
    ended(&output, 0, "Athens is still saving 1 version,");
    assert!(!transcript(&output).contains("leftover "), "{}", transcript(&output));
    assert_eq!(manifests(&gcs), 3);
    gcs.change(&lock, |object| object.modified = SystemTime::now() - Duration::from_secs(901));
    let (_, lines) = json(&gcs, &["leftovers"]);
    let reasons: Vec<_> = lines.iter().filter_map(|line| line["reason"].as_str()).collect();
    assert_eq!(reasons, ["foreign: a lock of Athens", "incomplete: it has no zip"]);
}

fn many_locks_do_not_hide_the_versions_of_athens() {
    let gcs = Gcs::start();
    // Athens never deletes its leases, and these sort before the module.
    for n in 0..6000 {
        gcs.put(&format!("go/lease/stash.example.com/m@v1.0.{n}"), "x");
    }
    gcs.save("go/", &Module::new("stash.example.com/m@v1.0.0", 1000));
    gcs.take_asked();
    ended(&migrate(&gcs, &["--quiet", "--dry-run"]), 0, "");
    // The folder is skipped once, and then read once, in pages of 1000 keys.
    let lists = gcs.take_asked().iter().filter(|asked| asked.method == "LIST").count();
    assert!(lists < 20, "{lists} listings");
    // A service that cannot begin a listing in the middle.
    gcs.ignore_starts();
    ended(&migrate(&gcs, &["--quiet"]), 0, "");
    assert_eq!((marker(&gcs).as_str(), manifests(&gcs)), ("layout.b1", 1));
}

fn an_automatic_upgrade_prints_one_line_with_the_way_back() {
    let (gcs, _) = athens(3);
    let output = migrate(&gcs, &["--auto"]);
    let url = gcs.bucket("go");
    let expected = format!(
        "upgraded {url} from layout athens to b1: 3 versions adopted\n\
         help: to go back, stop all servers and run `stoa-migrate --bucket {url} --to athens`"
    );
    ended(&output, 0, &expected);
}

fn status_names_the_state_of_a_bucket() {
    let (gcs, _) = athens(9);
    let status = |arguments: &[&str]| {
        let mut command = Command::new(testkit::STOA);
        command.args(["status", "--bucket", &gcs.bucket("go")]).args(arguments);
        command.env_remove("STOA_STORE").env_remove("STOA_LOG").envs(gcs.environment()).output().unwrap()
    };
    gcs.take_asked();
    ended(&status(&[]), 0, "state           old: ");
    assert!(!gcs.take_asked().iter().any(testkit::gcs::Asked::is_change));
    ended(&migrate(&gcs, &[]), 0, "layout b1");
    ended(&status(&[]), 0, "versions        9 of 3 modules");
    let found: Value = serde_json::from_slice(&status(&["--format", "json"]).stdout).unwrap();
    assert_eq!((&found["state"], &found["layout"]), (&"current".into(), &"b1".into()));
    assert_eq!((&found["versions"], &found["last_migration"]["moved"]), (&9.into(), &9.into()));
    assert!(gcs.text("go/~stoa/state").contains(found["id"].as_str().unwrap()));
    let text = gcs.text("go/~stoa/state").replace("layout.b1", "migrating.athens-b1");
    let lease = "\n[lease]\nowner = \"host (process 7)\"\nwork = \"upgrade\"\nbeat = 3\n";
    gcs.put("go/~stoa/state", format!("{text}{lease}"));
    ended(&status(&[]), 0, "in use by       host (process 7): upgrade");
    gcs.put("go/~stoa/state", text.replace("migrating.athens-b1", "layout.b2"));
    ended(&status(&[]), 0, "newer than this program");
    gcs.put("go/~stoa/state", "x = ");
    ended(&status(&[]), 0, "foreign: neither of Stoa nor of Athens");
    ended(&status(&["--store", "/tmp"]), 64, "--store cannot be used with --bucket");
}

fn an_upgrade_works_on_as_many_versions_at_the_same_time_as_there_are_threads() {
    let (gcs, _) = athens(9);
    gcs.take_asked();
    ended(&migrate(&gcs, &["--threads", "1"]), 0, "layout b1");
    let version_of = |asked: Asked| {
        let (module, name) = asked.key.rsplit_once("/@v/")?;
        let module = &module[module.find("example.com/")?..];
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        Some(format!("{module}@{stem}"))
    };
    let asked = gcs.take_asked().into_iter().filter(|asked| asked.method != "LIST");
    let mut versions: Vec<String> = asked.filter_map(version_of).collect();
    versions.dedup();
    assert_eq!(versions.len(), 9, "{versions:?}");
}

fn buckets_that_are_no_stores_are_refused_unchanged() {
    type Fill = fn(&Gcs);
    let cases: [(i32, &str, Fill); 6] = [
        (65, "it has photos/cat.jpg", |gcs| gcs.put("go/photos/cat.jpg", "x")),
        (65, "the key format of the minio storage of Athens", |gcs| {
            gcs.put("go/example.com/m/v1.0.0/go.mod", "module example.com/m\n");
        }),
        (65, "but not the object ~stoa/state", |gcs| {
            gcs.put("go/~stoa/x/m/example.com/m/@v/v1.0.0.json", "{}")
        }),
        (65, "invalid content", |gcs| gcs.put("go/~stoa/state", "x = ")),
        (78, "does not know its marker layout.b2", |gcs| {
            ended(&migrate(gcs, &[]), 0, "prepared");
            let newer = gcs.text("go/~stoa/state").replace("layout.b1", "layout.b2");
            gcs.put("go/~stoa/state", newer);
        }),
        (65, "\"a//c\"", |gcs| gcs.put("go/a//c", "x")),
    ];
    for (code, part, fill) in cases {
        let gcs = Gcs::start();
        fill(&gcs);
        let before: Vec<_> = gcs.keys("").into_iter().map(|key| gcs.get(&key).unwrap().generation).collect();
        for arguments in [&[][..], &["--dry-run"], &["--auto"]] {
            gcs.take_asked();
            ended(&migrate(&gcs, arguments), code, part);
            assert!(!gcs.take_asked().iter().any(testkit::gcs::Asked::is_change), "{part}");
        }
        let after: Vec<_> = gcs.keys("").into_iter().map(|key| gcs.get(&key).unwrap().generation).collect();
        assert_eq!(after, before, "{part}");
    }
}

fn a_dry_run_writes_nothing_and_states_requests_and_price() {
    let (gcs, _) = athens(12);
    let keys = gcs.keys("");
    gcs.take_asked();
    let output = migrate(&gcs, &["--dry-run"]);
    ended(&output, 0, "12 versions to adopt");
    // Three GET and one PUT per version, and a few for each run.
    ended(&output, 0, "about 42 GET, 28 PUT and 8 LIST requests: less than $0.01 at the list prices of S3");
    let (_, lines) = json(&gcs, &["--dry-run"]);
    let requests = lines.iter().find(|line| line["event"] == "requests").unwrap();
    assert_eq!(
        (&requests["gets"], &requests["puts"], &requests["lists"]),
        (&42.into(), &28.into(), &8.into())
    );
    assert!(!gcs.take_asked().iter().any(testkit::gcs::Asked::is_change));
    assert_eq!(gcs.keys(""), keys);
}

fn an_interrupted_upgrade_is_resumed_or_undone() {
    for target in ["b1", "athens"] {
        let (gcs, modules) = athens(40);
        let before = others(&gcs);
        let mut left = 25;
        gcs.fail(move |asked| {
            left -= i32::from(asked.is_change());
            (left < 0 && asked.is_change()).then_some(Failing::Status(403))
        });
        let help = "\nhelp: check the credentials, and allow them to list, read, write and delete objects below the \
                    prefix, or use --to athens to go back\n";
        ended(&migrate(&gcs, &[]), 77, help);
        assert_eq!(marker(&gcs), "migrating.athens-b1");
        gcs.recover();
        // The lease could not be given back. Its holder counts as dead after a minute without a beat.
        let text = gcs.text("go/~stoa/state");
        let (head, rest) = text.split_once("[lease]").unwrap();
        let rest = rest.split_once("\n[").map_or(String::new(), |(_, rest)| format!("[{rest}"));
        gcs.change("go/~stoa/state", |object| object.data = format!("{head}{rest}").into_bytes());
        ended(&migrate(&gcs, &["--to", target]), 0, &format!("is at layout {target}"));
        assert_eq!(manifests(&gcs), if target == "b1" { modules.len() } else { 0 });
        assert_eq!(others(&gcs), before);
    }
}

fn a_service_that_ignores_conditions_is_refused() {
    let (gcs, _) = athens(3);
    gcs.ignore_conditions();
    let output = migrate(&gcs, &[]);
    ended(&output, 78, "the service ignored If-None-Match and replaced an object");
    assert!(gcs.keys("go/~stoa/").is_empty());
}

fn a_service_whose_writes_are_not_atomic_is_refused() {
    let (gcs, modules) = athens(3);
    // One after the other, all writes are right.
    gcs.write_late(Duration::from_millis(100));
    ended(&migrate(&gcs, &[]), 78, "of 8 parallel creations of one object succeeded");
    assert_eq!(gcs.keys("").len(), 3 * modules.len());
}

fn a_downgrade_waits_until_servers_have_ended() {
    let (gcs, _) = athens(3);
    ended(&migrate(&gcs, &[]), 0, "layout b1");
    let state = gcs.text("go/~stoa/state");
    let id = state.lines().find(|line| line.starts_with("id")).unwrap().split('"').nth(1).unwrap();
    let server = format!("go/~stoa/{id}/servers/0123");
    let other = format!("go/~stoa/{id}/servers/4567");
    for (key, name) in [(&server, "proxy-1 (process 7)"), (&other, "proxy-2 (process 9)\n")] {
        gcs.put(key, name);
        gcs.change(key, |object| object.modified = SystemTime::now());
    }
    let refused = migrate(&gcs, &["--to", "athens"]);
    ended(&refused, 75, "in use by proxy-1 (process 7), proxy-2 (process 9)\n");
    gcs.delete(&other);
    assert_eq!((marker(&gcs).as_str(), manifests(&gcs)), ("layout.b1", 3));
    gcs.change(&server, |object| object.modified = SystemTime::now() - Duration::from_secs(130));
    ended(&migrate(&gcs, &["--to", "athens"]), 0, "layout athens");
}

fn a_downgrade_ends_before_it_deletes_anything_if_a_key_differs() {
    let (gcs, _) = athens(3);
    ended(&migrate(&gcs, &[]), 0, "layout b1");
    // A version that a server has filled, and another one that Athens has saved meanwhile.
    let state = gcs.text("go/~stoa/state");
    let id = state.lines().find(|line| line.starts_with("id")).unwrap().split('"').nth(1).unwrap();
    let module = Module::new("example.com/filled@v1.0.0", 1000);
    let zip = format!("~stoa/{id}/c/example.com/filled/@v/v1.0.0/0.zip");
    gcs.put(&format!("go/{zip}"), module.zip.clone());
    let manifest = serde_json::json!({
        "format": 1, "version": "example.com/filled@v1.0.0", "state": "present",
        "nonce": "0123456789abcdef0123456789abcdef", "published_at": "2026-01-01T00:00:00Z", "origin": "filled",
        "content": {
            "info": {"text": String::from_utf8(module.info.clone()).unwrap()},
            "mod": {"text": String::from_utf8(module.modfile.clone()).unwrap()},
            "zip": {"key": zip, "size": module.zip.len()},
        },
    });
    gcs.put(&format!("go/~stoa/{id}/m/example.com/filled/@v/v1.0.0.json"), manifest.to_string());
    gcs.put("go/example.com/filled/@v/v1.0.0.zip", "other");
    ended(&migrate(&gcs, &["--to", "athens"]), 73, "the object exists and differs");
    assert_eq!((marker(&gcs).as_str(), manifests(&gcs)), ("migrating.b1-athens", 4));
    gcs.delete("go/example.com/filled/@v/v1.0.0.zip");
    gcs.put("go/example.com/filled/@v/v1.0.0.mod", [&module.modfile[..], b"// longer"].concat());
    ended(&migrate(&gcs, &["--to", "athens"]), 73, "v1.0.0.mod: the object exists and differs");
    assert_eq!((marker(&gcs).as_str(), manifests(&gcs)), ("migrating.b1-athens", 4));
    gcs.delete("go/example.com/filled/@v/v1.0.0.mod");
    ended(&migrate(&gcs, &["--to", "athens"]), 0, "layout athens");
    for (suffix, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
        assert_eq!(gcs.get(&format!("go/example.com/filled/@v/v1.0.0.{suffix}")).unwrap().data, *body);
    }
    assert_eq!(gcs.keys("go/~stoa/"), ["go/~stoa/state"]);
}

fn derived_objects_are_written_again() {
    let (gcs, _) = athens(3);
    ended(&migrate(&gcs, &["--regenerate"]), 0, "layout b1");
    ended(&migrate(&gcs, &["--regenerate"]), 0, "no derived object is missing");
    let mut remove = Command::new(testkit::STOA);
    remove.args(["remove", "example.com/Mod0@v1.0.0", "--bucket", &gcs.bucket("go")]).envs(gcs.environment());
    ended(&remove.env_remove("STOA_STORE").output().unwrap(), 0, "removed");
    let keys = gcs.keys("go/~stoa/");
    let derived: Vec<_> = keys.iter().filter(|key| key.contains("/x/") || key.ends_with("/gone")).collect();
    assert_eq!(derived.len(), 2);
    derived.iter().for_each(|key| gcs.delete(key));
    let text = "1 note about removed versions, and the list of the last removals";
    ended(&migrate(&gcs, &["--regenerate", "--dry-run"]), 0, &format!("would write {text}"));
    assert_eq!(gcs.keys("go/~stoa/").len(), keys.len() - 2);
    ended(&migrate(&gcs, &["--regenerate"]), 0, &format!("wrote {text}"));
    assert_eq!(gcs.keys("go/~stoa/"), keys);
    ended(&migrate(&gcs, &["--regenerate"]), 0, "no derived object is missing");
}

fn options_that_mean_nothing_for_a_bucket_are_refused() {
    let gcs = Gcs::start();
    for arguments in [
        &["--from", "v0"][..],
        &["--to", "v0"],
        &["--to", "b1", "--clean"],
        &["--verify", "new"],
        &["--lock-timeout", "1s"],
        &["--store-mode", "0700"],
        &["--store", "/tmp/x"],
        &["leftovers", "move", "/tmp/x"],
    ] {
        let output = migrate(&gcs, arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", transcript(&output));
    }
    let output = Command::new(MIGRATE).args(["--bucket", "modules"]).output().unwrap();
    ended(&output, 64, "is not the URL of a bucket");
}
