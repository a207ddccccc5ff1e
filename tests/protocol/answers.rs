//! Lists, `@latest` and queries over time: fresh, stale, in an outage, after a restart.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use stoa::server::ServeOptions;
use stoa_layout::gate::Mode;

use super::site::{self, Site, TTL};
use testkit::ports;
use testkit::upstream::{Gate, Module, Script, Upstream};

const LIST: &str = "/example.com/m/@v/list";
const LATEST: &str = "/example.com/m/@latest";
const MAIN: &str = "/example.com/m/@v/main.info";
const KEY: &str = "example.com/m/@v/list";
const PSEUDO: &str = "v0.0.0-20191109021931-daa7c04131f5";
const COMMIT: &str = "/example.com/m/@v/daa7c04131f5daa7c04131f5daa7c04131f5daa7.info";

fn body(text: &str) -> Script {
    Script::Body(text.as_bytes().to_vec())
}

fn failure(status: u16) -> Script {
    Script::Status(status, "text/plain", b"no")
}

fn info(version: &str) -> String {
    format!(r#"{{"Version":"{version}","Time":"2024-01-02T03:04:05Z","Origin":{{"VCS":"git"}}}}"#)
}

/// Removes or spoils what is kept of answers.
fn spoil(root: &Path, with: impl Fn(&Path)) {
    let mut spoilt = 0;
    for bucket in fs::read_dir(root.join("cache/answers")).unwrap() {
        for entry in fs::read_dir(bucket.unwrap().path()).unwrap() {
            with(&entry.unwrap().path());
            spoilt += 1;
        }
    }
    assert!(spoilt > 0, "nothing is kept");
}

/// Returns every file of a store with its content, without locks of open stores.
fn snapshot(root: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = site::files_below(root)
        .into_iter()
        .filter(|path| !path.starts_with(root.join("staging")) && !path.ends_with("store.lock"))
        .map(|path| {
            let content = fs::read(&path).unwrap();
            (path, content)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_fresh_answer_causes_no_request_to_the_upstream() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    upstream.set(LIST, body("v1.0.0\n"));
    upstream.set(LATEST, body(&info("v1.0.0")));
    upstream.set(MAIN, body(&info(PSEUDO)));
    upstream.set(COMMIT, body(&info(PSEUDO)));
    let paths = [LIST, LATEST, MAIN, COMMIT];
    let first = paths.map(|path| site.get(path).body);
    assert_eq!(first[2], info(PSEUDO).into_bytes(), "as it came");
    for path in paths {
        upstream.set(path, failure(500));
    }
    assert_eq!(paths.map(|path| site.get(path).body), first);
    drop(site);
    let site = Site::with_ttl(folder.path(), upstream.url());
    assert_eq!(paths.map(|path| site.get(path).body), first, "also after a restart");
    assert_eq!(paths.map(|path| upstream.count(path)), [1; 4]);
}

#[test]
fn what_was_published_a_moment_ago_is_in_a_fresh_list() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    upstream.set(LIST, body("v1.0.0\n"));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    let module = Module::new("example.com/m@v1.1.0", 10);
    upstream.serve(&module);
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.1.0\n");
    site.publish(&Module::new("example.com/m@v1.0.1", 10));
    site.publish(&Module::new(&format!("example.com/m@{PSEUDO}"), 10));
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.0.1\nv1.1.0\n");
    assert_eq!(upstream.count(LIST), 1);
}

#[test]
fn lists_are_merged_and_sorted() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    for version in ["v1.0.0", "v1.0.1", "v1.0.2"] {
        site.publish(&Module::new(&format!("example.com/m@{version}"), 10));
    }
    upstream.set(LIST, body("v1.0.3\nv1.0.0\nv1.0.2\n"));
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.0.1\nv1.0.2\nv1.0.3\n");
    // Stored is nothing, or the module has no tags: what upstream says, be it empty.
    upstream.set("/example.com/n/@v/list", body("v1.0.0\nv1.0.1\n"));
    assert_eq!(site.get("/example.com/n/@v/list").text(), "v1.0.0\nv1.0.1\n");
    // What could not be had below this path is not named.
    upstream.set("/example.com/p/@v/list", body("v1.0.0\nv2.0.0\nv2.0.0+incompatible\n"));
    assert_eq!(site.get("/example.com/p/@v/list").text(), "v1.0.0\nv2.0.0+incompatible\n");
    upstream.set("/example.com/o/@v/list", body(""));
    let untagged = site.get("/example.com/o/@v/list");
    assert_eq!((untagged.status, untagged.text()), (200, ""));
}

#[test]
fn latest_is_the_highest_tag_or_a_commit() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    upstream.set(LATEST, body(&info(PSEUDO)));
    assert_eq!(site.get(LATEST).text(), info(PSEUDO), "with its time, as it came");
    upstream.set("/example.com/n/@latest", body(&info("v1.7.0")));
    assert_eq!(site.get("/example.com/n/@latest").text(), info("v1.7.0"));
}

#[test]
fn a_stale_answer_is_given_at_once_and_asked_for_anew_once() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    let gate = Gate::default();
    site.remember(KEY, 2, "v1.0.0\n");
    upstream.set(LIST, Script::Gated(b"v1.0.0\nv1.1.0\n".to_vec(), 0, gate.clone()));
    for _ in 0..5 {
        assert_eq!(site.get(LIST).text(), "v1.0.0\n", "nobody waits for the upstream");
    }
    testkit::until("the list is requested", || upstream.count(LIST) == 1);
    gate.open();
    testkit::until("the answer is fresh", || site.get(LIST).text() == "v1.0.0\nv1.1.0\n");
    assert_eq!(upstream.count(LIST), 1);
}

#[test]
fn what_is_asked_behind_the_clients_back_does_not_hold_up_the_end() {
    let folder = site::folder();
    let upstream = Upstream::start();
    // If it were waited for the test would not end.
    let options = ServeOptions { grace: Duration::from_secs(3600), ..site::with_list_ttl(TTL) };
    let store = site::open(folder.path(), Mode::ReadWrite);
    let site = Site::with(store, site::upstream_with(upstream.url(), Duration::from_secs(3600)), options);
    site.remember(KEY, 2, "v1.0.0\n");
    upstream.set(LIST, Script::Gated(b"v1.1.0\n".to_vec(), 0, Gate::default()));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    testkit::until("the list is requested", || upstream.count(LIST) == 1);
    drop(site);
    let site = Site::with_ttl(folder.path(), upstream.url());
    let local = site.ask("GET", LIST, &[("Disable-Module-Fetch", "true")]);
    assert_eq!(local.text(), "v1.0.0\n", "the old answer is still there");
}

#[test]
fn an_old_answer_is_asked_for_anew_before_it_is_given() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    site.remember(KEY, 11, "v1.0.0\n");
    upstream.set(LIST, body("v1.0.0\nv1.1.0\n"));
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.1.0\n");
    // What a commit stands for grows old more slowly.
    let key = COMMIT.trim_start_matches('/');
    site.remember(key, 1000, &info(PSEUDO));
    upstream.set(COMMIT, body(&info("v1.1.0")));
    assert_eq!(site.get(COMMIT).text(), info(PSEUDO));
    site.remember("example.com/m/@v/main.info", 1000, &info(PSEUDO));
    upstream.set(MAIN, body(&info("v1.1.0")));
    assert_eq!(site.get(MAIN).text(), info("v1.1.0"));
}

#[test]
fn nobody_waits_for_ever_who_can_be_answered() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    site.remember(KEY, 11, "v1.0.0\n");
    let gate = Gate::default();
    upstream.set(LIST, Script::Gated(b"v1.0.0\nv1.1.0\n".to_vec(), 0, gate.clone()));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n", "the upstream keeps still");
    gate.open();
    // It was still waited for, by nobody in particular.
    testkit::until("the answer is fresh", || site.get(LIST).text() == "v1.0.0\nv1.1.0\n");
    assert_eq!(upstream.count(LIST), 1);
}

#[test]
fn many_who_ask_the_same_are_one_request() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    let gate = Gate::default();
    upstream.set(LIST, Script::Gated(b"v1.0.0\n".to_vec(), 3, gate.clone()));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..24).map(|_| scope.spawn(|| site.get(LIST))).collect();
        testkit::until("the list is requested", || upstream.count(LIST) == 1);
        gate.open();
        for client in clients {
            assert_eq!(client.join().unwrap().text(), "v1.0.0\n");
        }
    });
    assert_eq!(upstream.count(LIST), 1);
}

#[test]
fn in_an_outage_the_last_answer_is_served_at_any_age_and_after_a_restart() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    upstream.set(LIST, body("v1.0.0\nv1.1.0\n"));
    upstream.set(LATEST, body(&info("v1.1.0")));
    upstream.set(MAIN, body(&info(PSEUDO)));
    let paths = [LIST, LATEST, MAIN];
    let last = paths.map(|path| site.get(path).body);
    for status in [500, 502, 503, 504, 429, 403, 508] {
        for path in paths {
            upstream.set(path, failure(status));
        }
        assert_eq!(paths.map(|path| site.get(path).body), last, "{status}");
    }
    upstream.set(LIST, body("<html>please log in</html>"));
    upstream.set(LATEST, body("<html>please log in</html>"));
    assert_eq!(paths.map(|path| site.get(path).body), last, "a page is no answer");
    // What is stored is merged in, as ever.
    let newer = Module::new("example.com/m@v1.2.0", 10);
    site.publish(&newer);
    let last = [last[0].clone(), newer.info.to_vec(), last[2].clone()];
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.1.0\nv1.2.0\n");
    drop(site);
    let site = Site::start(folder.path(), upstream.url());
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.1.0\nv1.2.0\n");
    assert_eq!([LATEST, MAIN].map(|path| site.get(path).body), last[1..]);
    drop(site);
    let nobody = format!("http://{}", ports::closed());
    let site = Site::with_ttl(folder.path(), &nobody);
    site.remember(KEY, 100_000, "v0.9.0\n");
    assert_eq!(site.get(LIST).text(), "v0.9.0\nv1.2.0\n");
}

#[test]
fn a_404_from_the_upstream_hides_no_stored_version() {
    let folder = site::folder();
    let upstream = Upstream::start();
    for status in [404, 410] {
        let site = Site::start(folder.path(), upstream.url());
        upstream.set(LIST, body("v1.0.0\n"));
        upstream.set(LATEST, body(&info("v1.0.0")));
        assert_eq!([LIST, LATEST].map(|path| site.get(path).status), [200, 200]);
        upstream.set(LIST, failure(status));
        upstream.set(LATEST, failure(status));
        assert_eq!([LIST, LATEST].map(|path| site.get(path).status), [404, 404]);
        drop(site);
        // It does not come back in the next outage.
        upstream.set(LIST, failure(500));
        upstream.set(LATEST, failure(500));
        let site = Site::start(folder.path(), upstream.url());
        assert_eq!([LIST, LATEST].map(|path| site.get(path).status), [502, 502]);
    }
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v0.1.0", 10);
    site.publish(&module);
    for status in [404, 410, 500] {
        upstream.set(LIST, failure(status));
        upstream.set(LATEST, failure(status));
        assert_eq!(site.get(LIST).text(), "v0.1.0\n");
        assert_eq!(site.get(LATEST).body, module.info);
    }
}

#[test]
fn an_absence_is_cached_briefly_and_a_failure_is_not() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    let begun = Instant::now();
    for _ in 0..3 {
        let reply = site.get(LIST);
        assert_eq!((reply.status, reply.header("cache-control")), (404, Some("max-age=60")));
    }
    // It hides nothing that comes meanwhile, and does not outlive the process.
    site.publish(&Module::new("example.com/m@v1.0.0", 10));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    let asked = upstream.count(LIST);
    assert!(asked == 1 || begun.elapsed() > Duration::from_secs(60), "asked {asked} times within a minute");
    drop(site);
    let site = Site::with_ttl(folder.path(), upstream.url());
    upstream.set(LIST, body("v1.1.0\n"));
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.1.0\n");
    upstream.set("/example.com/n/@v/list", failure(500));
    assert_eq!(site.get("/example.com/n/@v/list").status, 502);
    upstream.set("/example.com/n/@v/list", body("v1.0.0\n"));
    assert_eq!(site.get("/example.com/n/@v/list").status, 200);
}

#[test]
fn a_folder_in_a_module_has_no_list() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    upstream.set(LIST, body("v1.0.0\n"));
    thread::scope(|scope| {
        let module = scope.spawn(|| site.get(LIST));
        let below = scope.spawn(|| site.get("/example.com/m/pkg/@v/list"));
        assert_eq!(module.join().unwrap().status, 200);
        assert_eq!(below.join().unwrap().status, 404);
    });
}

#[test]
fn an_unreadable_store_hides_no_version_of_the_upstream() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    std::os::unix::fs::symlink("example.com", folder.path().join("modules/example.com")).unwrap();
    upstream.set(LIST, body("v1.0.0\n"));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    upstream.set("/example.com/n/@v/list", failure(500));
    let reply = site.get("/example.com/n/@v/list");
    assert_eq!((reply.status, reply.header("cache-control")), (500, Some("no-store")));
}

#[test]
fn a_slow_module_delays_no_other_module() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    let (gate, stored) = (Gate::default(), Module::new("example.com/stored@v1.0.0", 1000));
    site.publish(&stored);
    let (slow_list, slow_latest) = ("/example.com/slow/@v/list", "/example.com/slow/@latest");
    upstream.set(slow_list, Script::Gated(b"v1.0.0\n".to_vec(), 0, gate.clone()));
    upstream.set(slow_latest, Script::Gated(info("v1.0.0").into_bytes(), 0, gate.clone()));
    upstream.set(LIST, body("v1.0.0\n"));
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..64)
            .map(|n| {
                scope.spawn({
                    let site = &site;
                    move || site.get(if n % 2 == 0 { slow_list } else { slow_latest }).status
                })
            })
            .collect();
        testkit::until("both are requested", || {
            upstream.count(slow_list) == 1 && upstream.count(slow_latest) == 1
        });
        // All of this is answered while the gate is closed.
        for _ in 0..10 {
            assert_eq!(site.get(&stored.path("zip")).body, stored.zip);
            assert_eq!(site.get(&stored.path("info")).body, stored.info);
            assert_eq!(site.get(LIST).text(), "v1.0.0\n");
        }
        assert_eq!(site.get("/example.com/stored/@v/list").text(), "v1.0.0\n");
        gate.open();
        assert!(waiting.into_iter().all(|client| client.join().unwrap() == 200));
    });
}

#[test]
fn who_wants_nothing_fetched_has_the_last_answer() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let ask = |path: &str| site.ask("GET", path, &[("Disable-Module-Fetch", "true")]);
    for path in [LIST, LATEST, MAIN] {
        let reply = ask(path);
        assert_eq!((reply.status, reply.header("cache-control")), (404, Some("no-store")), "{path}");
        let text = "temporarily unavailable: the answer is not in the store, and the request forbids downloading it\n";
        assert!(reply.text().starts_with(text), "{}", reply.text());
    }
    assert_eq!(upstream.requests().len(), 0);
    upstream.set(LIST, body("v1.1.0\n"));
    upstream.set(LATEST, body(&info("v1.1.0")));
    upstream.set(MAIN, body(&info(PSEUDO)));
    let said = [LIST, LATEST, MAIN].map(|path| site.get(path).body);
    let asked = upstream.requests().len();
    assert_eq!([LIST, LATEST, MAIN].map(|path| ask(path).body), said);
    site.publish(&Module::new("example.com/m@v1.0.0", 10));
    assert_eq!(ask(LIST).text(), "v1.0.0\nv1.1.0\n");
    // Where the upstream has said nothing the store does.
    let stored = Module::new("example.com/n@v1.0.0", 10);
    site.publish(&stored);
    assert_eq!(ask("/example.com/n/@v/list").text(), "v1.0.0\n");
    assert_eq!(ask("/example.com/n/@latest").body, stored.info);
    assert_eq!(ask("/example.com/n/@v/v1.info").body, stored.info);
    assert_eq!(upstream.requests().len(), asked);
}

#[test]
fn an_offline_server_names_stored_versions_only() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    upstream.set(LIST, body("v1.0.0\nv1.9.0\n"));
    upstream.set(LATEST, body(&info("v1.9.0")));
    upstream.set(MAIN, body(&info(PSEUDO)));
    upstream.set("/example.com/m/@v/other.info", body(&info("v1.9.0")));
    for path in [LIST, LATEST, MAIN, "/example.com/m/@v/other.info"] {
        assert_eq!(site.get(path).status, 200);
    }
    let stored = Module::new("example.com/m@v1.0.0", 10);
    site.publish(&stored);
    site.publish(&Module::new("example.com/m@v1.1.0-rc.1", 10));
    site.publish(&Module::new(&format!("example.com/m@{PSEUDO}"), 10));
    drop(site);
    let asked = upstream.requests().len();
    let check = |site: &Site| {
        assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.1.0-rc.1\n");
        assert_eq!(site.get(LATEST).body, stored.info, "the highest release");
        assert_eq!(site.get(MAIN).text(), info(PSEUDO), "what it was last is stored");
        assert_eq!(site.get("/example.com/m/@v/other.info").status, 404, "what it was last is not");
        for path in ["/example.com/n/@v/list", "/example.com/n/@latest", "/example.com/m/@v/v2.info"] {
            let reply = site.get(path);
            assert_eq!((reply.status, reply.header("cache-control")), (404, Some("no-store")), "{path}");
        }
        let reply = site.ask("GET", LIST, &[("Disable-Module-Fetch", "true")]);
        assert_eq!(reply.text(), "v1.0.0\nv1.1.0-rc.1\n");
    };
    check(&Site::start(folder.path(), "off"));
    // A store that may not be written to can get nothing either, whatever it has as its upstream.
    let before = snapshot(folder.path());
    let store = site::open(folder.path(), Mode::ReadOnly);
    check(&Site::with(store, site::upstream(upstream.url()), site::asking_each_time()));
    assert_eq!(snapshot(folder.path()), before, "nothing is written");
    assert_eq!(upstream.requests().len(), asked);
}

#[test]
fn what_is_damaged_in_the_cache_is_as_none() {
    let folder = site::folder();
    let upstream = Upstream::start();
    upstream.set(LIST, body("v1.0.0\n"));
    let site = Site::with_ttl(folder.path(), upstream.url());
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    drop(site);
    let damages: [&dyn Fn(&Path); 4] = [
        &|path| fs::write(path, "").unwrap(),
        &|path| fs::write(path, "<html>").unwrap(),
        &|path| {
            let whole = fs::read(path).unwrap();
            fs::write(path, &whole[..whole.len() - 1]).unwrap();
        },
        &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
    ];
    for damage in damages {
        spoil(folder.path(), damage);
        upstream.set(LIST, failure(500));
        let site = Site::with_ttl(folder.path(), upstream.url());
        assert_eq!(site.get(LIST).status, 502);
        upstream.set(LIST, body("v1.0.0\n"));
        assert_eq!(site.get(LIST).text(), "v1.0.0\n");
        drop(site);
        upstream.set(LIST, failure(500));
        let site = Site::with_ttl(folder.path(), upstream.url());
        assert_eq!(site.get(LIST).text(), "v1.0.0\n", "it is kept again");
    }
}

#[test]
fn the_cache_may_be_removed_at_any_time() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    upstream.set(LIST, body("v1.0.0\n"));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    fs::remove_dir_all(folder.path().join("cache")).unwrap();
    upstream.set(LATEST, body(&info("v1.0.0")));
    assert_eq!([LIST, LATEST].map(|path| site.get(path).status), [200, 200]);
    drop(site);
    upstream.set(LIST, failure(500));
    let site = Site::start(folder.path(), upstream.url());
    assert_eq!(site.get(LIST).text(), "v1.0.0\n", "what was answered since is kept");
    // Where it cannot be kept it is answered all the same.
    drop(site);
    let site = Site::start(folder.path(), upstream.url());
    // What a server that has just begun keeps there may come in between.
    let cache = folder.path().join("cache");
    while fs::remove_dir_all(&cache).and_then(|()| fs::write(&cache, "")).is_err() {}
    upstream.set(LIST, body("v1.0.0\nv1.1.0\n"));
    assert_eq!(site.get(LIST).text(), "v1.0.0\nv1.1.0\n");
}

#[test]
fn two_names_of_one_version_are_written_once() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::with_ttl(folder.path(), upstream.url());
    let module = Module::new(&format!("example.com/m@{PSEUDO}"), 100_000);
    upstream.serve(&module);
    upstream.set(MAIN, Script::Body(module.info.clone()));
    upstream.set(COMMIT, Script::Body(module.info.clone()));
    thread::scope(|scope| {
        let paths =
            [MAIN.to_owned(), COMMIT.to_owned(), module.path("info"), module.path("mod"), module.path("zip")];
        let clients: Vec<_> = paths.into_iter().map(|path| scope.spawn(|| site.get(&{ path }))).collect();
        let replies: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(replies.iter().all(|reply| reply.status == 200));
        assert_eq!(replies[0].body, module.info);
        assert_eq!(replies[4].body, module.zip);
    });
    let asked = ["info", "mod", "zip"].map(|file| upstream.count(&module.path(file)));
    assert_eq!(asked, [1, 1, 1]);
    site.wait_for(&module.version);
    let versions = fs::read_dir(folder.path().join("modules/example.com/m/@v")).unwrap();
    let versions: Vec<_> = versions.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(versions, [PSEUDO]);
}
