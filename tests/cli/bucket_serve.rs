//! `stoa serve` with a bucket, on a double of an object store.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use testkit::bucket::TestBucket;
use testkit::gcs::{Asked, Failing, Gcs};
use testkit::server::{Server, command};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, MIGRATE, STOA, cases, slow, transcript};

use super::bucket_meanwhile::{versions, wait};

pub(crate) fn cases() -> Vec<Case> {
    let mut all = cases![
        a_version_that_one_server_downloaded_is_read_by_the_others,
        servers_that_are_asked_at_the_same_time_download_a_version_once,
        a_bucket_of_athens_is_upgraded_and_serves_what_athens_saves_later,
        half_saved_versions_heal_by_the_next_request,
        a_corrupt_version_in_the_bucket_is_replaced,
        a_store_that_had_versions_before_keeps_them,
        a_forbidden_version_is_gone_for_every_server,
        a_bucket_that_must_not_be_upgraded_is_refused,
        a_removal_covers_cached_infos_and_mods,
        a_read_only_server_writes_nothing_to_the_bucket,
        of_two_servers_with_other_bytes_one_stands_and_the_other_is_in_quarantine,
        a_version_in_the_bucket_is_sent_at_once_in_every_mode,
        latest_and_queries_know_the_versions_in_the_bucket,
        a_zip_that_disappears_from_the_bucket_is_downloaded_again,
    ];
    all.extend(slow(cases![
        a_removal_is_noticed_by_a_running_server_within_a_minute,
        a_removal_is_noticed_whose_command_was_killed_before_its_second_announcement,
        the_least_recently_used_versions_leave_a_store_that_is_too_large,
        the_download_of_a_killed_server_is_taken_over,
        a_server_writes_nothing_to_a_bucket_that_was_taken_to_another_layout,
        a_version_that_is_quarantined_while_it_is_read_is_not_served_afterwards,
    ]));
    all
}

pub(super) fn with_bucket(gcs: &Gcs, store: &Path, upstream: Option<&str>) -> Command {
    let mut command = command(store);
    command.envs(gcs.environment()).env("STOA_BUCKET_URL", gcs.bucket("go")).env("GOSUMDB", "off");
    command.env("STOA_FILL_LIST_TTL", "0");
    match upstream {
        Some(url) => command.args(["--upstream", url]),
        None => command.arg("--offline"),
    };
    command
}

pub(super) fn serve(gcs: &Gcs, store: &Path, upstream: Option<&str>) -> Server {
    Server::start_with(&mut with_bucket(gcs, store, upstream))
}

#[track_caller]
pub(super) fn whole(server: &Server, module: &Module) {
    for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
        let (status, found) = server.get(&module.path(extension));
        assert!(status == 200 && found == *body, "{extension}: {status} {}", String::from_utf8_lossy(&found));
    }
}

pub(super) fn manifest(gcs: &Gcs, module: &Module) -> Option<serde_json::Value> {
    let name = format!("/m/{}/@v/{}.json", module.version.path(), module.version.version());
    let key = gcs.keys("go/~stoa/").into_iter().find(|key| key.ends_with(&name))?;
    Some(serde_json::from_str(&gcs.text(&key)).unwrap())
}

fn a_version_that_one_server_downloaded_is_read_by_the_others() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules = [
        upstream.offer("example.com/Small@v1.0.0", 500),
        upstream.offer("example.com/Small@v1.1.0", 20 << 20),
    ];
    let first = serve(&gcs, &dir.path().join("first"), Some(upstream.url()));
    for module in &modules {
        whole(&first, module);
        testkit::until("the version is in the bucket", || manifest(&gcs, module).is_some());
        let manifest = manifest(&gcs, module).unwrap();
        assert_eq!((&manifest["state"], &manifest["origin"]), (&"present".into(), &"filled".into()));
        assert!(manifest["content"]["zip"]["h1"].as_str().unwrap().starts_with("h1:"));
    }
    let second = serve(&gcs, &dir.path().join("second"), None);
    gcs.take_asked();
    for module in &modules {
        // Manifest and zip, and no more.
        assert_eq!(second.get(&module.path("zip")), (200, module.zip.clone()));
        let asked = gcs.take_asked().into_iter().filter(|asked| asked.key.contains("example.com"));
        let asked: Vec<Asked> = asked.collect();
        assert!(asked.len() <= 3 && !asked.iter().any(Asked::is_change), "{asked:?}");
        whole(&second, module);
    }
    assert_eq!(second.get("/example.com/!small/@v/list"), (200, b"v1.0.0\nv1.1.0\n".to_vec()));
    // Without the bucket both have it.
    gcs.fail(|_| Some(Failing::Closed));
    for server in [&first, &second] {
        whole(server, &modules[1]);
    }
}

fn servers_that_are_asked_at_the_same_time_download_a_version_once() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules: Vec<_> =
        (0..6).map(|n| upstream.offer(&format!("example.com/m@v1.0.{n}"), 300_000)).collect();
    let servers: Vec<_> =
        (0..3).map(|n| serve(&gcs, &dir.path().join(n.to_string()), Some(upstream.url()))).collect();
    thread::scope(|scope| {
        for server in &servers {
            for module in &modules {
                for _ in 0..2 {
                    scope.spawn(move || {
                        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()))
                    });
                }
            }
        }
    });
    for module in &modules {
        assert_eq!(upstream.count(&module.path("zip")), 1, "{}", module.version);
    }
}

fn a_bucket_of_athens_is_upgraded_and_serves_what_athens_saves_later() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let modules = ["example.com/Mod@v1.0.0", "example.com/Mod@v1.1.0"].map(|pair| Module::new(pair, 50_000));
    gcs.save("go/", &modules[0]);
    let server = serve(&gcs, dir.path(), None);
    whole(&server, &modules[0]);
    // Its zip was verified, and is sealed now.
    testkit::until("the version is sealed", || {
        manifest(&gcs, &modules[0]).unwrap()["content"]["zip"]["h1"].is_string()
    });
    assert_eq!(server.get(&modules[1].path("info")).0, 404);
    gcs.save("go/", &modules[1]);
    for extension in ["info", "mod", "zip"] {
        gcs.age(&format!("go/example.com/Mod/@v/v1.1.0.{extension}"));
    }
    whole(&server, &modules[1]);
    assert_eq!(manifest(&gcs, &modules[1]).unwrap()["origin"], "adopted");
    // A client that follows the feed has read past the time at which Athens saved it.
    let [first, second] = [0, 1].map(|n| manifest(&gcs, &modules[n]).unwrap()["published_at"].to_string());
    assert!(first <= second, "{first} {second}");
    assert_eq!(server.get("/example.com/!mod/@v/list"), (200, b"v1.0.0\nv1.1.0\n".to_vec()));
}

fn half_saved_versions_heal_by_the_next_request() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let (whole_one, half) =
        (upstream.offer("example.com/m@v1.0.0", 1000), upstream.offer("example.com/m@v1.1.0", 1000));
    for module in [&whole_one, &half] {
        gcs.save("go/", module);
    }
    gcs.delete("go/example.com/m/@v/v1.1.0.zip");
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    whole(&server, &half);
    whole(&server, &whole_one);
    assert_eq!([&half, &whole_one].map(|module| upstream.count(&module.path("zip"))), [1, 0]);
    assert_eq!(manifest(&gcs, &half).unwrap()["origin"], "filled");
    assert!(gcs.get("go/example.com/m/@v/v1.1.0.zip").is_none());
}

fn a_corrupt_version_in_the_bucket_is_replaced() {
    for damage in ["a bit", "gone"] {
        let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
        let module = upstream.offer("example.com/m@v1.0.0", 200_000);
        whole(&serve(&gcs, &dir.path().join("first"), Some(upstream.url())), &module);
        let manifest_of = || manifest(&gcs, &module).unwrap();
        let zip = format!("go/{}", manifest_of()["content"]["zip"]["key"].as_str().unwrap());
        if damage == "gone" {
            gcs.delete(&zip);
        } else {
            let generation = gcs.get(&zip).unwrap().generation;
            gcs.change(&zip, |object| object.data[100_000] ^= 1);
            gcs.set_generation(&zip, generation);
        }
        let second = serve(&gcs, &dir.path().join("second"), Some(upstream.url()));
        // A client that has received a part of the corrupt zip is disconnected, and asks again.
        let _ = second.ask("GET", &module.path("zip"), &[]);
        whole(&second, &module);
        assert_eq!(upstream.count(&module.path("zip")), 2, "{damage}");
        let now = format!("go/{}", manifest_of()["content"]["zip"]["key"].as_str().unwrap());
        assert!(now != zip && gcs.get(&now).unwrap().data == module.zip, "{damage}");
        let quarantined = gcs.keys("go/~stoa/").iter().filter(|key| key.contains("/q/")).count();
        assert_eq!(quarantined, usize::from(damage != "gone"), "{damage}");
    }
}

fn a_store_that_had_versions_before_keeps_them() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules: Vec<_> = (0..5).map(|n| upstream.offer(&format!("example.com/m@v1.0.{n}"), 1000)).collect();
    {
        let alone = Server::start_with(
            command(dir.path()).args(["--upstream", upstream.url()]).env("GOSUMDB", "off"),
        );
        for module in &modules {
            whole(&alone, module);
        }
    }
    let server = serve(&gcs, dir.path(), None);
    testkit::until("all versions are in the bucket", || {
        modules.iter().all(|module| manifest(&gcs, module).is_some())
    });
    let other = testkit::tempdir();
    let second = serve(&gcs, other.path(), None);
    for module in &modules {
        whole(&server, module);
        whole(&second, module);
    }
}

fn a_forbidden_version_is_gone_for_every_server() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 1000);
    whole(&serve(&gcs, dir.path(), Some(upstream.url())), &module);
    remove(&gcs, &["--tombstone", "--reason", "bad", "example.com/m@v1.0.0"]);
    let other = testkit::tempdir();
    // One that has it stored, and one that has not.
    for store in [dir.path(), other.path()] {
        let server = serve(&gcs, store, Some(upstream.url()));
        let (status, text) = server.get(&module.path("zip"));
        assert_eq!(status, 410, "{}", String::from_utf8_lossy(&text));
        assert!(String::from_utf8_lossy(&text).contains("bad"));
        assert_eq!(server.get("/example.com/m/@v/list").1, b"");
        assert_eq!(server.get("/example.com/m/@latest").0, 410);
    }
    remove(&gcs, &["--lift", "example.com/m@v1.0.0"]);
    for store in [dir.path(), other.path()] {
        let server = serve(&gcs, store, Some(upstream.url()));
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    }
}

fn a_removal_covers_cached_infos_and_mods() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 1000);
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    assert_eq!(server.get(&module.path("info")), (200, module.info.clone()));
    assert_eq!(server.get(&module.path("mod")), (200, module.modfile.clone()));
    assert_eq!(upstream.count(&module.path("info")), 1);
    assert!(server.stop().success());
    remove(&gcs, &["--tombstone", "example.com/m@v1.0.0"]);
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    for extension in ["info", "mod", "zip"] {
        assert_eq!(server.get(&module.path(extension)).0, 410, "{extension}");
    }
}

fn a_read_only_server_writes_nothing_to_the_bucket() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let [shared, local] =
        ["example.com/m@v1.0.0", "example.com/m@v1.1.0"].map(|pair| upstream.offer(pair, 1000));
    let of_athens = ["example.com/a@v1.0.0", "example.com/a@v1.1.0"].map(|pair| Module::new(pair, 1000));
    gcs.save("go/", &of_athens[0]);
    whole(&serve(&gcs, dir.path(), Some(upstream.url())), &shared);
    whole(
        &Server::start_with(command(dir.path()).args(["--upstream", upstream.url()]).env("GOSUMDB", "off")),
        &local,
    );
    // Other servers adopt it.
    gcs.save("go/", &of_athens[1]);
    gcs.take_asked();
    let server = Server::start_with(with_bucket(&gcs, dir.path(), None).arg("--read-only"));
    let mut asked = Vec::new();
    // The first thing that a server writes comes before the list of removals that it reads.
    testkit::until("the list of removals is read", || {
        asked.extend(gcs.take_asked());
        asked.iter().any(|asked: &Asked| asked.key.ends_with("/gone"))
    });
    for module in [&shared, &local] {
        whole(&server, module);
    }
    assert_eq!(server.get(&of_athens[1].path("info")).0, 404);
    // It names only what it serves.
    assert_eq!(server.get("/example.com/a/@latest"), (200, of_athens[0].info.clone()));
    assert_eq!(server.get("/example.com/a/@v/list"), (200, b"v1.0.0\n".to_vec()));
    assert!(server.stop().success());
    asked.extend(gcs.take_asked());
    assert!(asked.iter().any(|asked| asked.key.ends_with("/m/example.com/m/@v/v1.1.0.json")), "{asked:?}");
    let changes: Vec<_> = asked.iter().filter(|asked| asked.is_change()).collect();
    assert!(changes.is_empty(), "{changes:?}");
}

pub(super) fn remove(gcs: &Gcs, arguments: &[&str]) {
    let mut command = Command::new(STOA);
    command.arg("remove").args(arguments).args(["--bucket", &gcs.bucket("go")]).envs(gcs.environment());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
}

fn a_removal_is_noticed_by_a_running_server_within_a_minute() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 1000);
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    whole(&server, &module);
    remove(&gcs, &["--tombstone", "example.com/m@v1.0.0"]);
    testkit::until("the removal is noticed", || server.get(&module.path("zip")).0 == 410);
}

fn a_removal_is_noticed_whose_command_was_killed_before_its_second_announcement() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 1000);
    let other = upstream.offer("example.com/m@v1.1.0", 1000);
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    whole(&server, &module);
    whole(&server, &other);
    remove(&gcs, &["example.com/m@v1.1.0"]);
    let stored = dir.path().join("modules/example.com/m/@v/v1.1.0");
    testkit::until("the other removal is noticed", || !stored.exists());
    let key = gcs.keys("go/~stoa/").into_iter().find(|key| key.ends_with("/gone")).unwrap();
    let mut gone: Value = serde_json::from_slice(&gcs.get(&key).unwrap().data).unwrap();
    gone["next"] = (gone["next"].as_u64().unwrap() + 1).into();
    gone["versions"].as_array_mut().unwrap().push("example.com/m@v1.0.0".into());
    let announced = gone.to_string();
    gcs.take_asked();
    gcs.put(&key, announced.as_str());
    let generation = gcs.get(&key).unwrap().generation;
    let is_read = |asked: Vec<Asked>| asked.iter().any(|asked| asked.key.ends_with("/v1.0.0.json"));
    testkit::until("the announced version is compared", || is_read(gcs.take_asked()));
    // The manifest changes after that look, and the list stays as it was.
    remove(&gcs, &["--tombstone", "example.com/m@v1.0.0"]);
    gcs.put(&key, announced.as_str());
    gcs.set_generation(&key, generation);
    testkit::until("the removal is noticed", || server.get(&module.path("zip")).0 == 410);
}

fn a_bucket_that_must_not_be_upgraded_is_refused() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    gcs.save("go/", &Module::new("example.com/m@v1.0.0", 1000));
    let keys = gcs.keys("");
    let output = with_bucket(&gcs, dir.path(), None).arg("--no-migrate").output().unwrap();
    // The store itself does not exist.
    assert_eq!(output.status.code(), Some(78), "{}", transcript(&output));
    let created = Command::new(MIGRATE).arg("--store").arg(dir.path()).output().unwrap();
    assert!(created.status.success());
    let output = with_bucket(&gcs, dir.path(), None).arg("--no-migrate").output().unwrap();
    let text = transcript(&output);
    assert!(output.status.code() == Some(78) && text.contains("auto_migrate = false forbids it"), "{text}");
    assert_eq!(gcs.keys(""), keys);
    gcs.put("go/~stoa/state", "marker = \"layout.b9\"\nid = \"0123456789abcdef0123456789abcdef\"\nepoch = 1\nnonce = \"0123456789abcdef0123456789abcdef\"\nwritten_by = \"x\"\nwritten_at = \"x\"\n");
    let output = with_bucket(&gcs, dir.path(), None).output().unwrap();
    let text = transcript(&output);
    assert!(
        output.status.code() == Some(78) && text.contains("does not know its marker layout.b9"),
        "{text}"
    );
}

/// Starts a server with six versions, which are more than its store may hold.
pub(super) fn too_large(gcs: &Gcs, store: &Path, upstream: &Upstream) -> (Server, Vec<Module>) {
    let offer = |n| upstream.offer(&format!("example.com/m@v1.0.{n}"), 300_000);
    let modules: Vec<_> = (0..6).map(offer).collect();
    let mut command = with_bucket(gcs, store, Some(upstream.url()));
    let server = Server::start_with(command.env("STOA_BUCKET_MAX_LOCAL_SIZE", "1MiB"));
    modules.iter().for_each(|module| whole(&server, module));
    (server, modules)
}

fn the_least_recently_used_versions_leave_a_store_that_is_too_large() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let (server, modules) = too_large(&gcs, dir.path(), &upstream);
    let stored = || std::fs::read_dir(dir.path().join("modules/example.com/m/@v")).unwrap().count();
    assert_eq!(stored(), 6);
    testkit::until("the store is smaller", || stored() <= 3);
    modules.iter().for_each(|module| whole(&server, module));
    assert!(modules.iter().all(|module| upstream.count(&module.path("zip")) == 1));
}

fn of_two_servers_with_other_bytes_one_stands_and_the_other_is_in_quarantine() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let upstreams = [Upstream::start(), Upstream::start()];
    let modules = [1, 2].map(|n| {
        let mut module = Module::new("example.com/m@v1.0.0", 100_000 * n);
        // Only the zips differ.
        module.info = Module::new("example.com/m@v1.0.0", 1).info;
        module
    });
    upstreams.iter().zip(&modules).for_each(|(upstream, module)| upstream.serve(module));
    let servers: Vec<_> = upstreams
        .iter()
        .enumerate()
        .map(|(n, upstream)| serve(&gcs, &dir.path().join(n.to_string()), Some(upstream.url())))
        .collect();
    let path = modules[0].path("zip");
    upstreams[0].hold("v1.0.0.zip");
    thread::scope(|scope| {
        let first = scope.spawn(|| servers[0].ask("GET", &path, &[]));
        upstreams[0].wait_until_asked("v1.0.0.zip", 1);
        // As if the first server had been suspended for longer than its claim lasts.
        gcs.keys("go/~stoa/").iter().filter(|key| key.contains("/claims/")).for_each(|key| gcs.delete(key));
        assert_eq!(servers[1].get(&path), (200, modules[1].zip.clone()));
        upstreams[0].release();
        let first = first.join().unwrap();
        assert!(!first.is_whole || first.body == modules[1].zip, "{}", first.status);
    });
    for server in &servers {
        assert_eq!(server.get(&path), (200, modules[1].zip.clone()));
    }
    let quarantined: Vec<_> = gcs
        .keys("go/~stoa/")
        .into_iter()
        .filter(|key| key.contains("/q/"))
        .map(|key| gcs.text(&key))
        .collect();
    assert!(
        quarantined.len() == 1 && quarantined[0].contains("the zip published first has"),
        "{quarantined:?}"
    );
}

fn the_download_of_a_killed_server_is_taken_over() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let path = module.path("zip");
    let [first, second] =
        ["first", "second"].map(|name| serve(&gcs, &dir.path().join(name), Some(upstream.url())));
    upstream.hold("v1.0.0.zip");
    thread::scope(|scope| {
        scope.spawn(|| {
            let reply = first.ask("GET", &path, &[]);
            assert!(!reply.is_whole || reply.status != 200);
        });
        upstream.wait_until_asked("v1.0.0.zip", 1);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(first.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        upstream.release();
        assert_eq!(second.get(&path), (200, module.zip.clone()));
    });
    assert_eq!(upstream.count(&path), 2);
}

fn a_version_in_the_bucket_is_sent_at_once_in_every_mode() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 500);
    let absent = upstream.offer("example.com/m@v1.1.0", 500);
    whole(&serve(&gcs, &dir.path().join("first"), Some(upstream.url())), &module);
    for mode in ["sync", "none", "async", "redirect", "async_redirect"] {
        let store = dir.path().join(mode);
        let mut command = with_bucket(&gcs, &store, Some(upstream.url()));
        command.env("STOA_MODE", mode);
        if mode.contains("redirect") {
            command.env("STOA_REDIRECT_URL", upstream.url());
        }
        let server = Server::start_with(&mut command);
        let asked = upstream.count(&module.path("zip"));
        whole(&server, &module);
        assert_eq!(upstream.count(&module.path("zip")), asked, "{mode}");
        // A client that must not cause a download gets it too, and nothing else.
        drop(server);
        std::fs::remove_dir_all(&store).unwrap();
        let server = Server::start_with(&mut command);
        let local = |module: &Module| {
            server.ask("GET", &module.path("zip"), &[("Disable-Module-Fetch", "true")]).status
        };
        assert_eq!((local(&module), local(&absent)), (200, 404), "{mode}");
    }
}

fn latest_and_queries_know_the_versions_in_the_bucket() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules: Vec<Module> = ["v1.0.0", "v1.1.0", "v2.0.0+incompatible"]
        .iter()
        .map(|version| upstream.offer(&format!("example.com/m@{version}"), 500))
        .collect();
    let first = serve(&gcs, &dir.path().join("first"), Some(upstream.url()));
    modules.iter().for_each(|module| whole(&first, module));
    drop(first);
    // Offline, and with an upstream that does not know them.
    let other = Upstream::start();
    other.offer("example.com/m@v1.0.0", 500);
    for upstream in [None, Some(other.url())] {
        let store = dir.path().join(if upstream.is_some() { "online" } else { "offline" });
        let server = serve(&gcs, &store, upstream);
        // The newest compatible version has a go.mod, so incompatible ones do not count.
        assert_eq!(server.get("/example.com/m/@latest"), (200, modules[1].info.clone()));
        assert_eq!(server.get("/example.com/m/@v/v1.info"), (200, modules[1].info.clone()));
        assert_eq!(server.get("/example.com/m/@v/%3Cv1.1.0.info"), (200, modules[0].info.clone()));
    }
}

fn a_zip_that_disappears_from_the_bucket_is_downloaded_again() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 500);
    whole(&serve(&gcs, &dir.path().join("first"), Some(upstream.url())), &module);
    let zip = gcs.keys("go/~stoa/").into_iter().find(|key| key.ends_with(".zip")).unwrap();
    gcs.delete(&zip);
    whole(&serve(&gcs, &dir.path().join("second"), Some(upstream.url())), &module);
    assert!(!gcs.keys("go/~stoa/").iter().any(|key| key.contains("/q/")));
    // It is in the bucket again.
    whole(&serve(&gcs, &dir.path().join("third"), None), &module);
}

/// Deletes the objects of running servers, as the time would that a downgrade must let pass.
pub(super) fn forget_servers(gcs: &Gcs) {
    gcs.keys("go/~stoa/").iter().filter(|key| key.contains("/servers/")).for_each(|key| gcs.delete(key));
}

pub(super) fn downgrade(gcs: &Gcs) {
    let mut command = Command::new(MIGRATE);
    command.args(["--to", "athens", "--bucket", &gcs.bucket("go")]).envs(gcs.environment());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
}

fn a_server_writes_nothing_to_a_bucket_that_was_taken_to_another_layout() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let [known, filling, missing] =
        ["v1.0.0", "v1.1.0", "v1.2.0"].map(|v| upstream.offer(&format!("example.com/m@{v}"), 100_000));
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    whole(&server, &known);
    upstream.hold("v1.1.0.zip");
    thread::scope(|scope| {
        let late = scope.spawn(|| server.ask("GET", &filling.path("zip"), &[]));
        upstream.wait_until_asked("v1.1.0.zip", 1);
        forget_servers(&gcs);
        downgrade(&gcs);
        // It notices by the next request.
        assert_eq!(server.get(&missing.path("zip")).0, 503);
        gcs.take_asked();
        // Longer than the pauses between two writes of the object of a running server, and of its download.
        thread::sleep(SIGNS);
        upstream.release();
        let late = late.join().unwrap();
        assert!(late.status != 200 || !late.is_whole, "{}", late.status);
        whole(&server, &known);
    });
    assert!(server.stop().success());
    let changes: Vec<Asked> = gcs.take_asked().into_iter().filter(Asked::is_change).collect();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(gcs.keys("go/~stoa/"), ["go/~stoa/state"]);
    assert_eq!(upstream.count(&missing.path("zip")), 0);
}

/// More than the pause between two writes of the object of a running server.
const SIGNS: Duration = Duration::from_secs(65);

fn a_version_that_is_quarantined_while_it_is_read_is_not_served_afterwards() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    whole(&serve(&gcs, &dir.path().join("first"), Some(upstream.url())), &module);
    gcs.take_asked();
    let server = serve(&gcs, &dir.path().join("second"), None);
    let is_look = |asked: &Asked| asked.key.ends_with("/gone");
    let looks =
        || testkit::until("the server reads the list of removals", || gcs.take_asked().iter().any(is_look));
    // It does so every 30 seconds, and waits no longer for an answer: so its next look comes while it waits for the zip.
    looks();
    thread::sleep(Duration::from_secs(15));
    gcs.fail(|asked| {
        let is_zip = asked.method == "GET" && asked.key.ends_with(".zip");
        is_zip.then_some(Failing::Held)
    });
    thread::scope(|scope| {
        let reply = scope.spawn(|| server.ask("GET", &module.path("zip"), &[]));
        let is_zip = |asked: &Asked| asked.key.ends_with(".zip");
        testkit::until("the zip is asked for", || gcs.take_asked().iter().any(is_zip));
        wait(async {
            let (versions, _, _) = versions(&TestBucket::of(&gcs, "go")).await;
            versions.quarantine(&module.version, None, "a test").await.unwrap().unwrap();
        });
        gcs.take_asked();
        looks();
        // The zip comes after the list. If the list is late, the server deletes what it has stored.
        thread::sleep(Duration::from_secs(1));
        gcs.recover();
        // It had the right bytes when it was asked for.
        assert!(reply.join().unwrap().body == module.zip);
    });
    testkit::until("the version is not served", || server.get(&module.path("zip")).0 == 404);
}
