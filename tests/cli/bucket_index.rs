//! `/catalog` and `/index` of servers with a bucket, on a double of an object store.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testkit::gcs::{Failing, Gcs};
use testkit::server::Server;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, cases, slow};

use super::bucket_serve::{manifest, remove, serve, too_large, whole, with_bucket};

pub(crate) fn cases() -> Vec<Case> {
    let mut all = cases![
        a_server_lists_versions_of_the_bucket_that_it_does_not_have,
        only_changed_manifests_are_read_again,
        the_rows_of_the_bucket_outlive_a_restart_in_an_outage,
        a_part_of_the_bucket_is_not_listed,
        a_damaged_manifest_is_read_once,
        an_index_that_was_deleted_gets_the_versions_of_the_bucket_again,
        many_versions_of_a_bucket_are_paged_in_order,
        a_server_that_is_killed_during_a_pass_continues_with_what_it_has_read,
        rows_of_a_bucket_go_with_the_bucket,
        a_tombstone_of_the_store_hides_a_version_of_the_bucket,
        a_read_only_server_lists_what_the_index_has,
    ];
    all.extend(slow(cases![a_running_server_notices_additions_and_removals, evicted_versions_stay_listed,]));
    all
}

/// Follows the catalog to its end.
fn catalog(server: &Server, size: usize) -> Vec<String> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let (status, body) = server.get(&format!("/catalog?pagesize={size}&token={token}"));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let page: Value = serde_json::from_slice(&body).unwrap();
        for entry in page["modules"].as_array().unwrap() {
            found.push(format!(
                "{}@{}",
                entry["module"].as_str().unwrap(),
                entry["version"].as_str().unwrap()
            ));
        }
        match page.get("next") {
            Some(next) => token = next.as_str().unwrap().replace('|', "%7C"),
            None => return found,
        }
    }
}

/// Follows the feed to its end. Returns versions and times.
fn feed(server: &Server, limit: usize) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    loop {
        let since = found.last().map_or("", |(_, time)| time);
        let (status, body) = server.get(&format!("/index?limit={limit}&since={since}"));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let before = found.len();
        for line in String::from_utf8(body).unwrap().lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| entry[key].as_str().unwrap();
            let entry = (format!("{}@{}", text("Path"), text("Version")), text("Timestamp").to_owned());
            if found.last() != Some(&entry) {
                found.push(entry);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Returns the versions of the catalog, which are those of the feed.
fn listed(server: &Server) -> Vec<String> {
    let (feed, catalog) = (feed(server, 1000), catalog(server, 1000));
    let sorted: BTreeSet<&String> = feed.iter().map(|(pair, _)| pair).collect();
    assert_eq!(catalog.iter().collect::<BTreeSet<_>>(), sorted);
    assert_eq!((catalog.len(), feed.len()), (sorted.len(), sorted.len()), "without duplicates");
    catalog
}

fn becomes(server: &Server, expected: &[&str]) {
    testkit::until("the catalog is up to date", || catalog(server, 1000) == expected);
}

/// Returns the keys of the manifests that were read since the last call.
fn manifests_read(gcs: &Gcs) -> Vec<String> {
    let asked = gcs.take_asked().into_iter().filter(|asked| asked.method == "GET");
    asked.map(|asked| asked.key).filter(|key| key.contains("/m/") && key.ends_with(".json")).collect()
}

/// Puts the manifests of many versions into a bucket. Returns the versions in the order of the catalog.
fn put_many(gcs: &Gcs, count: usize) -> Vec<String> {
    let key = gcs.keys("go/~stoa/").into_iter().find(|key| key.contains("/m/")).unwrap();
    let folder = &key[..key.find("/m/").unwrap() + 3];
    let mut manifest: Value = serde_json::from_str(&gcs.text(&key)).unwrap();
    let mut pairs = Vec::new();
    for n in 0..count {
        // Keys and pairs of module and version have different orders.
        let module = ["example.com/many", "example.com/many/v2", "example.com/many-x"][n % 3];
        let major = 1 + usize::from(module.ends_with("v2"));
        let pre = if n % 2 == 0 { "" } else { "-pre" };
        let version = format!("v{major}.{}.0{pre}", n / 6);
        manifest["version"] = format!("{module}@{version}").into();
        manifest["published_at"] = "2020-01-01T00:00:00Z".into();
        gcs.put(&format!("{folder}{module}/@v/{version}.json"), manifest.to_string());
        pairs.push((module, version));
    }
    pairs.sort();
    pairs.iter().map(|(module, version)| format!("{module}@{version}")).collect()
}

/// Fills a bucket with a version, so that it has a manifest.
fn filled(gcs: &Gcs, dir: &Path, pairs: &[&str]) -> Vec<Module> {
    let upstream = Upstream::start();
    let modules: Vec<_> = pairs.iter().map(|pair| upstream.offer(pair, 1000)).collect();
    let server = serve(gcs, dir, Some(upstream.url()));
    modules.iter().for_each(|module| whole(&server, module));
    assert!(server.stop().success());
    modules
}

/// Starts a server that lists two versions, which another one has filled.
fn listing(gcs: &Gcs, dir: &Path, store: &Path) -> (Server, [&'static str; 2]) {
    let pairs = ["example.com/a@v1.0.0", "example.com/b@v1.0.0"];
    filled(gcs, &dir.join("first"), &pairs);
    let server = serve(gcs, store, None);
    assert_eq!(listed(&server), pairs);
    (server, pairs)
}

fn a_server_lists_versions_of_the_bucket_that_it_does_not_have() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let pairs = ["example.com/Cap@v1.0.0", "example.com/Cap@v1.1.0", "example.com/m@v1.0.0"];
    let modules = pairs.map(|pair| upstream.offer(pair, 1000));
    // A version that only the store of the second server has, and that it may not publish yet.
    Module::new("example.com/old@v1.0.0", 1000).put_unsealed(&{
        testkit::create(&dir.path().join("second"));
        dir.path().join("second")
    });
    let first = serve(&gcs, &dir.path().join("first"), Some(upstream.url()));
    for (n, module) in modules.iter().enumerate() {
        whole(&first, module);
        // Own publications are listed at once.
        assert_eq!(listed(&first), &pairs[..=n]);
    }
    gcs.fail(|asked| (asked.is_change() && asked.key.contains("/c/")).then_some(Failing::Status(503)));
    let second = serve(&gcs, &dir.path().join("second"), None);
    assert_eq!(listed(&second), ["example.com/Cap@v1.0.0", pairs[1], pairs[2], "example.com/old@v1.0.0"]);
    gcs.recover();
    assert!(!dir.path().join("second/modules/example.com/m").exists(), "it has none of them");
    for (pair, time) in feed(&second, 2) {
        let Some(module) = modules.iter().find(|module| module.version.to_string() == pair) else { continue };
        let published = manifest(&gcs, module).unwrap()["published_at"].as_str().unwrap().to_owned();
        assert_eq!(time[..19], published[..19], "{pair}: {time}");
    }
    // All servers list the same times.
    let of = |server: &Server| -> BTreeSet<_> {
        feed(server, 100).into_iter().filter(|(pair, _)| pair != "example.com/old@v1.0.0").collect()
    };
    assert_eq!(of(&first), of(&second));
    // Also after they have downloaded the versions.
    modules.iter().for_each(|module| whole(&second, module));
    assert_eq!(of(&first), of(&second));
}

fn only_changed_manifests_are_read_again() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let pairs = ["example.com/a@v1.0.0", "example.com/b@v1.0.0", "example.com/c@v1.0.0"];
    filled(&gcs, &dir.path().join("first"), &pairs);
    let store = dir.path().join("second");
    let server = serve(&gcs, &store, None);
    gcs.take_asked();
    assert_eq!(listed(&server), pairs);
    assert_eq!(manifests_read(&gcs).len(), 3);
    // Another request makes no pass.
    listed(&server);
    assert_eq!(gcs.take_asked().iter().filter(|asked| asked.method == "LIST").count(), 0);
    assert!(server.stop().success());
    filled(&gcs, &dir.path().join("first"), &["example.com/b@v1.1.0"]);
    remove(&gcs, &["example.com/c@v1.0.0"]);
    remove(&gcs, &["--tombstone", "example.com/never@v1.0.0"]);
    let server = serve(&gcs, &store, None);
    testkit::until("the server watches", || gcs.take_asked().iter().any(|asked| asked.key.contains("/gone")));
    // The first request of a process waits, because the rows may be old.
    assert_eq!(listed(&server), ["example.com/a@v1.0.0", "example.com/b@v1.0.0", "example.com/b@v1.1.0"]);
    let mut read = manifests_read(&gcs);
    read.iter_mut().for_each(|key| *key = key[key.find("/m/").unwrap() + 3..].to_owned());
    read.sort();
    let expected = ["b/@v/v1.1.0", "c/@v/v1.0.0", "never/@v/v1.0.0"];
    assert_eq!(read, expected.map(|key| format!("example.com/{key}.json")));
    assert!(server.stop().success());
    // Versions that do not exist are not read again either.
    let server = serve(&gcs, &store, None);
    testkit::until("the server watches", || gcs.take_asked().iter().any(|asked| asked.key.contains("/gone")));
    listed(&server);
    let mut asked = Vec::new();
    testkit::until("a pass was made", || {
        asked.extend(gcs.take_asked());
        asked.iter().any(|asked| asked.method == "LIST")
    });
    assert!(server.stop().success());
    asked.extend(gcs.take_asked());
    assert!(!asked.iter().any(|asked| asked.key.contains("/m/example")), "{asked:?}");
}

fn the_rows_of_the_bucket_outlive_a_restart_in_an_outage() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let store = dir.path().join("second");
    let (server, pairs) = listing(&gcs, dir.path(), &store);
    assert!(server.stop().success());
    gcs.fail(|_| Some(Failing::Closed));
    let server = serve(&gcs, &store, None);
    assert_eq!(listed(&server), pairs);
    // An index that has never had all versions of the bucket lists none.
    assert!(server.stop().success());
    std::fs::remove_dir_all(store.join("index")).unwrap();
    let server = serve(&gcs, &store, None);
    assert_eq!([server.get("/catalog").0, server.get("/index").0], [503, 503]);
}

fn a_part_of_the_bucket_is_not_listed() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    filled(&gcs, &dir.path().join("first"), &["example.com/a@v1.0.0"]);
    let mut expected = put_many(&gcs, 1200);
    expected.insert(0, "example.com/a@v1.0.0".to_owned());
    let mut left = 700;
    gcs.fail(move |asked| {
        let is_manifest = asked.method == "GET" && asked.key.contains("/m/");
        left -= i32::from(is_manifest);
        (left < 0 && is_manifest).then_some(Failing::Status(403))
    });
    let server = serve(&gcs, &dir.path().join("second"), None);
    // Also after the pass has failed.
    for path in ["/catalog", "/index", "/catalog"] {
        let (status, body) = server.get(path);
        assert_eq!(status, 503, "{path}: {}", String::from_utf8_lossy(&body));
    }
    assert!(manifests_read(&gcs).len() > 700, "the pass has failed");
    gcs.recover();
    testkit::until("the index is complete", || server.get("/catalog").0 == 200);
    assert_eq!(listed(&server), expected);
}

fn a_damaged_manifest_is_read_once() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let pairs = ["example.com/a@v1.0.0", "example.com/b@v1.0.0"];
    filled(&gcs, &dir.path().join("first"), &pairs);
    let store = dir.path().join("second");
    let server = serve(&gcs, &store, None);
    assert_eq!(listed(&server), pairs);
    assert!(server.stop().success());
    let key = gcs.keys("go/~stoa/").into_iter().find(|key| key.ends_with("/m/example.com/b/@v/v1.0.0.json"));
    let key = key.unwrap();
    let whole = gcs.text(&key);
    gcs.put(&key, "{}");
    for reads in [1, 0] {
        let server = serve(&gcs, &store, None);
        gcs.take_asked();
        assert_eq!(listed(&server), &pairs[..1]);
        assert_eq!(manifests_read(&gcs).len(), reads);
        assert!(server.stop().success());
    }
    gcs.put(&key, whole);
    let server = serve(&gcs, &store, None);
    assert_eq!(listed(&server), pairs, "after the repair");
}

fn an_index_that_was_deleted_gets_the_versions_of_the_bucket_again() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let store = dir.path().join("second");
    let (server, pairs) = listing(&gcs, dir.path(), &store);
    std::fs::remove_dir_all(store.join("index")).unwrap();
    assert_eq!(listed(&server), pairs, "in the running server");
    assert!(server.stop().success());
    // An index of an earlier release.
    let database = store.join("index/1/index.sqlite");
    assert!(database.exists());
    rusqlite::Connection::open(&database).unwrap().pragma_update(None, "user_version", 1).unwrap();
    let server = serve(&gcs, &store, None);
    assert_eq!(listed(&server), pairs);
    assert!(store.join("index/2").exists());
}

fn many_versions_of_a_bucket_are_paged_in_order() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    filled(&gcs, &dir.path().join("first"), &["example.com/a@v1.0.0"]);
    let mut expected = put_many(&gcs, 3000);
    expected.insert(0, "example.com/a@v1.0.0".to_owned());
    gcs.set_page(700);
    let server = serve(&gcs, &dir.path().join("second"), None);
    testkit::until("the index is complete", || server.get("/catalog").0 == 200);
    for size in [170, 1000, 10_000] {
        assert_eq!(catalog(&server, size), expected, "pages of {size}");
    }
    let all = feed(&server, 2000);
    assert_eq!(feed(&server, 250), all);
    assert_eq!(all.iter().map(|(_, time)| time).collect::<BTreeSet<_>>().len(), 3001);
    assert_eq!(all.iter().filter(|(_, time)| time.starts_with("2020-01-01T00:00:00")).count(), 3000);
    assert_eq!(listed(&server).len(), 3001);
}

fn a_server_that_is_killed_during_a_pass_continues_with_what_it_has_read() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    filled(&gcs, &dir.path().join("first"), &["example.com/a@v1.0.0"]);
    let mut expected = put_many(&gcs, 2000);
    expected.insert(0, "example.com/a@v1.0.0".to_owned());
    let store = dir.path().join("second");
    // Another number of manifests each time, and then no answer.
    for answers in [300, 700, 1300] {
        let mut left = answers;
        gcs.fail(move |asked| {
            let is_manifest = asked.method == "GET" && asked.key.contains("/m/");
            left -= i32::from(is_manifest);
            (left < 0 && is_manifest).then_some(Failing::Late(Duration::from_secs(600)))
        });
        let server = serve(&gcs, &store, None);
        assert_eq!(server.get("/catalog").0, 503, "the pass is in progress");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        server.stop();
    }
    gcs.recover();
    gcs.take_asked();
    let server = serve(&gcs, &store, None);
    testkit::until("the index is complete", || server.get("/catalog").0 == 200);
    let read = manifests_read(&gcs).len();
    assert!(read < 1600, "{read} manifests were read again");
    assert_eq!(catalog(&server, 1000), expected);
    assert_eq!(listed(&server), expected);
}

fn rows_of_a_bucket_go_with_the_bucket() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let pairs = ["example.com/a@v1.0.0", "example.com/b@v1.0.0"];
    let modules = filled(&gcs, &dir.path().join("first"), &pairs);
    let store = dir.path().join("second");
    let server = serve(&gcs, &store, None);
    assert_eq!(listed(&server), pairs);
    whole(&server, &modules[0]);
    assert!(server.stop().success());
    // Another bucket.
    let other = || {
        let mut command = with_bucket(&gcs, &store, None);
        command.env("STOA_BUCKET_URL", gcs.bucket("other"));
        Server::start_with(&mut command)
    };
    let server = other();
    becomes(&server, &pairs[..1]);
    assert!(server.stop().success());
    let server = serve(&gcs, &store, None);
    assert_eq!(listed(&server), pairs);
    assert!(server.stop().success());
    // No bucket.
    let server = Server::start_with(testkit::server::command(&store).arg("--offline"));
    becomes(&server, &pairs[..1]);
}

fn a_tombstone_of_the_store_hides_a_version_of_the_bucket() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let pairs = ["example.com/a@v1.0.0", "example.com/b@v1.0.0", "example.com/c@v1.0.0"];
    let modules = filled(&gcs, &dir.path().join("first"), &pairs);
    let store = dir.path().join("second");
    let server = serve(&gcs, &store, None);
    assert_eq!(listed(&server), pairs);
    let mut expected: Vec<String> = feed(&server, 1000).into_iter().map(|(pair, _)| pair).collect();
    // A client that follows the feed must get past it.
    let hidden = expected.remove(1);
    let mut command = Command::new(testkit::STOA);
    command.args(["remove", "--local", "--tombstone", &hidden, "--store"]).arg(&store);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", testkit::transcript(&output));
    let module = modules.iter().find(|module| module.version.to_string() == hidden).unwrap();
    assert_eq!(server.get(&module.path("info")).0, 410);
    for limit in [2, 3, 1000] {
        let found: Vec<String> = feed(&server, limit).into_iter().map(|(pair, _)| pair).collect();
        assert_eq!(found, expected, "{limit} in an answer");
    }
    expected.sort();
    assert_eq!(listed(&server), expected);
    // A page that has no listed version is not the end.
    assert_eq!(catalog(&server, 1), expected);
}

fn a_read_only_server_lists_what_the_index_has() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let pairs = ["example.com/a@v1.0.0", "example.com/b@v1.0.0"];
    filled(&gcs, &dir.path().join("first"), &pairs[..1]);
    filled(&gcs, &dir.path().join("second"), &pairs[1..]);
    let server = Server::start_with(with_bucket(&gcs, &dir.path().join("first"), None).arg("--read-only"));
    assert_eq!(listed(&server), &pairs[..1]);
    assert!(!gcs.take_asked().iter().any(|asked| asked.method == "LIST" && asked.key.ends_with("/m/")));
}

fn a_running_server_notices_additions_and_removals() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules = ["example.com/a@v1.0.0", "example.com/b@v1.0.0"].map(|pair| upstream.offer(pair, 1000));
    let first = serve(&gcs, &dir.path().join("first"), Some(upstream.url()));
    let second = serve(&gcs, &dir.path().join("second"), None);
    whole(&first, &modules[0]);
    becomes(&second, &["example.com/a@v1.0.0"]);
    whole(&first, &modules[1]);
    let noticed = || {
        // The last pass counts as fresh for a minute.
        std::thread::sleep(Duration::from_secs(60));
        becomes(&second, &["example.com/a@v1.0.0", "example.com/b@v1.0.0"]);
    };
    noticed();
    remove(&gcs, &["example.com/a@v1.0.0"]);
    becomes(&second, &["example.com/b@v1.0.0"]);
    becomes(&first, &["example.com/b@v1.0.0"]);
    // A version that comes back is listed at once by the server that publishes it.
    whole(&first, &modules[0]);
    assert_eq!(listed(&first), ["example.com/a@v1.0.0", "example.com/b@v1.0.0"]);
    noticed();
}

fn evicted_versions_stay_listed() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let (server, modules) = too_large(&gcs, dir.path(), &upstream);
    let all: Vec<String> = modules.iter().map(|module| module.version.to_string()).collect();
    assert_eq!(listed(&server), all);
    let stored = || std::fs::read_dir(dir.path().join("modules/example.com/m/@v")).unwrap().count();
    testkit::until("the store is smaller", || {
        assert_eq!(listed(&server), all);
        stored() <= 3
    });
    assert_eq!(listed(&server), all);
}
