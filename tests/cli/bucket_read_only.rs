//! `stoa serve --read-only` with a bucket, on a double of an object store.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use testkit::client::{Conversation, Reply, address};
use testkit::gcs::{Asked, Failing, Gcs};
use testkit::server::Server;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, MIGRATE, cases, sumdb, transcript, tree};

use super::bucket_serve::{manifest, remove, serve, whole, with_bucket};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        a_read_only_server_serves_versions_in_the_bucket,
        parts_and_conditions_are_answered_as_for_stored_files,
        lists_and_queries_of_a_read_only_server_name_the_versions_in_the_bucket,
        versions_of_athens_are_verified_before_they_are_served,
        versions_of_athens_are_refused_for_now_without_temporary_space,
        corrupt_versions_of_athens_are_not_served,
        the_verification_of_a_version_of_athens_ends_with_its_last_client,
        removed_and_quarantined_versions_are_not_served_by_a_read_only_server,
        an_outage_is_no_absence_for_the_clients_of_a_read_only_server,
        a_zip_that_was_replaced_is_not_served,
        a_zip_whose_transfer_breaks_is_continued_and_never_mixed_with_another,
        a_read_only_server_uses_a_service_that_ignores_conditions,
        a_read_only_server_needs_a_verdict_where_the_policy_demands_one,
        a_read_only_server_refuses_a_bucket_without_a_layout,
        slow_clients_of_a_read_only_server_take_little_memory_and_leave_no_files_open,
    ]
}

/// Prepares an empty store.
pub(super) fn prepare(store: &Path) {
    let output = Command::new(MIGRATE).arg("--store").arg(store).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
}

/// Fills the bucket by another server.
fn fill(gcs: &Gcs, upstream: &Upstream, modules: &[Module]) {
    let dir = testkit::tempdir();
    let server = serve(gcs, dir.path(), Some(upstream.url()));
    modules.iter().for_each(|module| whole(&server, module));
    assert!(server.stop().success());
}

fn read_only(gcs: &Gcs, store: &Path) -> Server {
    prepare(store);
    Server::start_with(with_bucket(gcs, store, None).arg("--read-only"))
}

fn zip_key(gcs: &Gcs, module: &Module) -> String {
    let manifest = manifest(gcs, module).unwrap();
    format!("go/{}", manifest["content"]["zip"]["key"].as_str().unwrap())
}

fn a_read_only_server_serves_versions_in_the_bucket() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let pairs = [
        "example.com/Small@v1.0.0-Beta",
        "example.com/m@v0.0.0-20240102030405-0123456789ab",
        "example.com/m/v2@v2.0.0",
        "example.com/big@v1.0.0",
    ];
    let modules: Vec<Module> = pairs
        .iter()
        .map(|pair| upstream.offer(pair, if pair.contains("big") { 20 << 20 } else { 500 }))
        .collect();
    fill(&gcs, &upstream, &modules);
    let server = read_only(&gcs, dir.path());
    let before = tree::shape(dir.path());
    gcs.take_asked();
    for _ in 0..2 {
        modules.iter().for_each(|module| whole(&server, module));
    }
    // A client that must not cause a download gets them too.
    let local = server.ask("GET", &modules[3].path("zip"), &[("Disable-Module-Fetch", "true")]);
    assert!(local.status == 200 && local.body == modules[3].zip);
    // HTTP/1.0 knows no chunks.
    let old =
        Conversation::begin(address(&server.url), "GET", &modules[3].path("zip"), "HTTP/1.0", &[]).finish();
    assert!(old.status == 200 && old.is_whole && old.body == modules[3].zip);
    assert!(old.header("content-length").is_some());
    assert_eq!(server.get("/example.com/m/@v/v1.7.0.zip").0, 404);
    assert!(server.stop().success());
    let changes: Vec<Asked> = gcs.take_asked().into_iter().filter(Asked::is_change).collect();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(tree::shape(dir.path()), before);
}

fn parts_and_conditions_are_answered_as_for_stored_files() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 300_000);
    let stored = serve(&gcs, &dir.path().join("stored"), Some(upstream.url()));
    whole(&stored, &module);
    let server = read_only(&gcs, &dir.path().join("read-only"));
    let length = module.zip.len();
    let beyond = format!("bytes={length}-");
    for extension in ["info", "mod", "zip"] {
        let path = module.path(extension);
        let tag = server.ask("HEAD", &path, &[]).header("etag").unwrap().to_owned();
        let requests: [(&str, &[(&str, &str)]); 9] = [
            ("GET", &[]),
            ("HEAD", &[]),
            ("GET", &[("Range", "bytes=10-19")]),
            ("GET", &[("Range", "bytes=-7")]),
            ("GET", &[("Range", &beyond)]),
            ("GET", &[("If-None-Match", &tag)]),
            ("GET", &[("If-None-Match", "\"other\"")]),
            ("GET", &[("If-Match", "\"other\"")]),
            ("GET", &[("Range", "bytes=5-9"), ("If-Range", &tag)]),
        ];
        for (method, headers) in requests {
            let [ours, theirs] = [&server, &stored].map(|server| server.ask(method, &path, headers));
            let about = |reply: &Reply| {
                let mut headers = reply.lasting_headers();
                // The store and the bucket were written at other times.
                headers.retain(|(name, _)| name != "last-modified");
                (reply.status, headers, reply.is_whole)
            };
            assert_eq!(about(&ours), about(&theirs), "{method} {extension} {headers:?}");
            assert!(ours.body == theirs.body, "{method} {extension} {headers:?}");
            assert_eq!(ours.header("last-modified").is_some(), theirs.header("last-modified").is_some());
        }
        let modified = server.ask("HEAD", &path, &[]).header("last-modified").unwrap().to_owned();
        assert_eq!(server.ask("GET", &path, &[("If-Modified-Since", &modified)]).status, 304);
    }
}

fn lists_and_queries_of_a_read_only_server_name_the_versions_in_the_bucket() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules = ["v1.0.0", "v1.1.0", "v2.0.0+incompatible"]
        .map(|version| upstream.offer(&format!("example.com/m@{version}"), 500));
    fill(&gcs, &upstream, &modules);
    let server = read_only(&gcs, dir.path());
    let list = b"v1.0.0\nv1.1.0\nv2.0.0+incompatible\n".to_vec();
    assert_eq!(server.get("/example.com/m/@v/list"), (200, list));
    assert_eq!(server.get("/example.com/m/@latest"), (200, modules[1].info.clone()));
    assert_eq!(server.get("/example.com/m/@v/v1.0.info"), (200, modules[0].info.clone()));
    assert_eq!(server.get("/example.com/m/@v/%3Cv1.1.0.info"), (200, modules[0].info.clone()));
    for path in ["/example.com/other/@v/list", "/example.com/other/@latest", "/example.com/m/@v/main.info"] {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
}

fn versions_of_athens_are_verified_before_they_are_served() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let module = Module::new("example.com/Mod@v1.0.0", 200_000);
    gcs.save("go/", &module);
    drop(serve(&gcs, &dir.path().join("upgrades"), None));
    let server = read_only(&gcs, &dir.path().join("read-only"));
    gcs.take_asked();
    for _ in 0..3 {
        whole(&server, &module);
    }
    let zips = gcs.take_asked().into_iter().filter(|asked| asked.key.ends_with(".zip")).count();
    // One to verify it, and then one for each client.
    assert_eq!(zips, 4);
    assert!(manifest(&gcs, &module).unwrap()["content"]["zip"]["h1"].is_null());
    // Athens saves another one in its place: the server knows nothing of that.
    let other = Module::new("example.com/Mod@v1.0.0", 199_999);
    gcs.save("go/", &other);
    let (status, body) = server.get(&module.path("zip"));
    assert!(status == 404 && body != module.zip, "{status}");
}

fn versions_of_athens_are_refused_for_now_without_temporary_space() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let (saved, own) =
        (Module::new("example.com/a@v1.0.0", 500), upstream.offer("example.com/m@v1.0.0", 500));
    gcs.save("go/", &saved);
    fill(&gcs, &upstream, std::slice::from_ref(&own));
    prepare(dir.path());
    let mut command = with_bucket(&gcs, dir.path(), None);
    command.arg("--read-only").env("TMPDIR", dir.path().join("missing"));
    let server = Server::start_with(&mut command);
    let reply = server.ask("GET", &saved.path("zip"), &[]);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("30")), "{}", reply.text());
    assert_eq!(server.get(&saved.path("info")), (200, saved.info.clone()));
    // It is no outage of the bucket.
    whole(&server, &own);
    assert_eq!(server.get("/readyz"), (200, b"ready\n".to_vec()));
}

fn corrupt_versions_of_athens_are_not_served() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let module = Module::new("example.com/m@v1.0.0", 200_000).with_bad_crc();
    gcs.save("go/", &module);
    drop(serve(&gcs, &dir.path().join("upgrades"), None));
    let server = read_only(&gcs, &dir.path().join("read-only"));
    gcs.take_asked();
    for _ in 0..3 {
        let reply = server.ask("GET", &module.path("zip"), &[]);
        assert_eq!(reply.status, 404);
        assert!(!reply.text().contains("gs://"), "{}", reply.text());
    }
    // It is not read again for each client.
    assert_eq!(gcs.take_asked().iter().filter(|asked| asked.key.ends_with(".zip")).count(), 1);
}

fn the_verification_of_a_version_of_athens_ends_with_its_last_client() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let module = Module::new("example.com/m@v1.0.0", 4 << 20);
    gcs.save("go/", &module);
    drop(serve(&gcs, &dir.path().join("upgrades"), None));
    let temporary = dir.path().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let store = dir.path().join("read-only");
    prepare(&store);
    let mut command = with_bucket(&gcs, &store, None);
    let server = Server::start_with(command.arg("--read-only").env("TMPDIR", &temporary));
    let folder = format!("/proc/{}/fd", server.pid());
    let copies = || {
        let files =
            fs::read_dir(&folder).unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        files.filter(|file| file.starts_with(&temporary)).count()
    };
    // The transfer breaks, and the rest takes so long that no client waits for it.
    let mut count = 0;
    gcs.fail(move |asked| {
        let is_zip = asked.method == "GET" && asked.key.ends_with(".zip");
        count += usize::from(is_zip);
        is_zip.then_some(if count == 1 {
            Failing::Cut(1 << 20)
        } else {
            Failing::Late(Duration::from_secs(20))
        })
    });
    let ask = || Conversation::begin(address(&server.url), "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let clients = [ask(), ask()];
    testkit::until("the zip is copied", || copies() == 1);
    drop(clients);
    testkit::until("the copy is gone", || copies() == 0);
    gcs.recover();
    whole(&server, &module);
}

fn removed_and_quarantined_versions_are_not_served_by_a_read_only_server() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules = ["v1.0.0", "v1.1.0", "v1.2.0"].map(|v| upstream.offer(&format!("example.com/m@{v}"), 500));
    fill(&gcs, &upstream, &modules);
    let server = read_only(&gcs, dir.path());
    remove(&gcs, &["--tombstone", "--reason", "bad", "example.com/m@v1.0.0"]);
    remove(&gcs, &["example.com/m@v1.1.0"]);
    for extension in ["info", "mod", "zip"] {
        let (status, text) = server.get(&modules[0].path(extension));
        assert!(status == 410 && String::from_utf8_lossy(&text).contains("bad"), "{extension}: {status}");
        assert_eq!(server.get(&modules[1].path(extension)).0, 404, "{extension}");
    }
    whole(&server, &modules[2]);
    assert_eq!(server.get("/example.com/m/@v/list"), (200, b"v1.2.0\n".to_vec()));
}

fn an_outage_is_no_absence_for_the_clients_of_a_read_only_server() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 500);
    fill(&gcs, &upstream, std::slice::from_ref(&module));
    let server = read_only(&gcs, dir.path());
    whole(&server, &module);
    let names = [
        module.path("zip"),
        module.path("info"),
        "/example.com/m/@v/list".into(),
        "/example.com/m/@latest".into(),
    ];
    gcs.fail(|_| Some(Failing::Status(403)));
    for _ in 0..2 {
        for path in &names {
            let reply = server.ask("GET", path, &[]);
            assert_eq!((reply.status, reply.header("retry-after")), (503, Some("30")), "{path}");
            assert!(!reply.text().contains("gs://"), "{}", reply.text());
        }
    }
    gcs.recover();
    // For some seconds after a failure, the server does not ask the bucket.
    testkit::until("the bucket is used again", || server.get(&names[0]).0 == 200);
    whole(&server, &module);
    assert!(names.iter().all(|path| server.get(path).0 == 200));
}

fn a_zip_that_was_replaced_is_not_served() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    fill(&gcs, &upstream, std::slice::from_ref(&module));
    let server = read_only(&gcs, dir.path());
    let key = zip_key(&gcs, &module);
    gcs.fail(|asked| {
        (asked.method == "GET" && asked.key.ends_with(".zip"))
            .then_some(Failing::Late(Duration::from_secs(2)))
    });
    gcs.take_asked();
    thread::scope(|scope| {
        let reply = scope.spawn(|| server.ask("GET", &module.path("zip"), &[]));
        testkit::until("the zip is asked for", || gcs.take_asked().iter().any(|asked| asked.key == key));
        gcs.change(&key, |object| object.data[50_000] ^= 1);
        assert_eq!(reply.join().unwrap().status, 404);
    });
}

fn a_zip_whose_transfer_breaks_is_continued_and_never_mixed_with_another() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 4 << 20);
    fill(&gcs, &upstream, std::slice::from_ref(&module));
    let server = read_only(&gcs, dir.path());
    let key = zip_key(&gcs, &module);
    for is_replaced in [false, true] {
        let mut count = 0;
        gcs.fail(move |asked| {
            let is_zip = asked.method == "GET" && asked.key.ends_with(".zip");
            count += usize::from(is_zip);
            match count {
                1 if is_zip => Some(Failing::Cut(1 << 20)),
                2 if is_zip => Some(Failing::Late(Duration::from_secs(2))),
                _ => None,
            }
        });
        gcs.take_asked();
        thread::scope(|scope| {
            let reply = scope.spawn(|| server.ask("GET", &module.path("zip"), &[]));
            let mut asked = 0;
            testkit::until("the rest of the zip is asked for", || {
                asked += gcs.take_asked().iter().filter(|asked| asked.key == key).count();
                asked == 2
            });
            if is_replaced {
                gcs.change(&key, |object| object.data.fill(0));
            }
            let reply = reply.join().unwrap();
            assert_eq!((reply.status, reply.is_whole), (200, !is_replaced));
            assert!(module.zip.starts_with(&reply.body));
        });
        assert_eq!(server.get("/example.com/m/@v/list").0, 200, "it is no outage");
    }
}

fn a_read_only_server_uses_a_service_that_ignores_conditions() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let modules = ["v1.0.0", "v1.1.0"].map(|v| upstream.offer(&format!("example.com/m@{v}"), 100_000));
    fill(&gcs, &upstream, &modules);
    gcs.ignore_conditions();
    let writes = dir.path().join("writes");
    let refused = with_bucket(&gcs, &writes, None).output().unwrap();
    assert_eq!(refused.status.code(), Some(78), "{}", transcript(&refused));
    let server = read_only(&gcs, &dir.path().join("read-only"));
    gcs.change(&zip_key(&gcs, &modules[0]), |object| object.data[50_000] ^= 1);
    for method in ["HEAD", "GET"] {
        assert_eq!(server.ask(method, &modules[0].path("zip"), &[]).status, 404, "{method}");
    }
    whole(&server, &modules[1]);
}

fn a_read_only_server_needs_a_verdict_where_the_policy_demands_one() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 500);
    fill(&gcs, &upstream, std::slice::from_ref(&module));
    prepare(dir.path());
    let mut command = with_bucket(&gcs, dir.path(), None);
    command.arg("--read-only").env("STOA_CHECKSUM", "require").env("GOSUMDB", sumdb::verifier_key());
    let server = Server::start_with(&mut command);
    for extension in ["info", "mod", "zip"] {
        let reply = server.ask("GET", &module.path(extension), &[]);
        assert_eq!(reply.status, 403, "{extension}: {}", reply.text());
        assert!(reply.text().contains("no checksum database has confirmed it"), "{}", reply.text());
    }
    let key = gcs.keys("go/~stoa/").into_iter().find(|key| key.ends_with("/m/example.com/m/@v/v1.0.0.json"));
    let key = key.unwrap();
    let mut now = manifest(&gcs, &module).unwrap();
    now["record"] = serde_json::json!({
        "h1": now["content"]["zip"]["h1"],
        "gomod_h1": stoa_gomod::h1::hash_mod(&module.modfile).to_string(),
        "verdict": { "database": "sum.example.com", "tree_size": 7, "at": "2024-01-02T03:04:05Z" },
    });
    gcs.put(&key, now.to_string());
    whole(&server, &module);
    // Hashes that were confirmed decide, whatever the seal says.
    now["record"]["h1"] = now["record"]["gomod_h1"].clone();
    gcs.put(&key, now.to_string());
    for extension in ["info", "mod", "zip"] {
        assert_eq!(server.get(&module.path(extension)).0, 403, "{extension}");
    }
}

fn a_read_only_server_refuses_a_bucket_without_a_layout() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    prepare(dir.path());
    let output = with_bucket(&gcs, dir.path(), None).arg("--read-only").output().unwrap();
    let text = transcript(&output);
    assert!(output.status.code() == Some(78) && text.contains("it needs an upgrade"), "{text}");
    assert_eq!(gcs.keys(""), [""; 0]);
}

fn slow_clients_of_a_read_only_server_take_little_memory_and_leave_no_files_open() {
    const CLIENTS: usize = 40;
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 24 << 20);
    fill(&gcs, &upstream, std::slice::from_ref(&module));
    let server = read_only(&gcs, dir.path());
    whole(&server, &module);
    let files = || fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let (files_before, memory_before) = (files(), memory());
    // One after the other, so that few connections to the bucket are kept for a later request.
    let begin = |_| {
        let mut client =
            Conversation::begin(address(&server.url), "GET", &module.path("zip"), "HTTP/1.1", &[]);
        assert_eq!(client.head().status, 200);
        client.raw(1000);
        client
    };
    let slow: Vec<Conversation> = (0..CLIENTS).map(begin).collect();
    // Until nothing flows any more, the buffers of the system fill.
    thread::sleep(Duration::from_secs(2));
    let grown = memory().saturating_sub(memory_before);
    assert!(grown < CLIENTS as u64 * 1536, "{grown} KiB for {CLIENTS} clients");
    drop(slow);
    let are_closed = || files() < files_before + CLIENTS / 2;
    testkit::until("the connections to the bucket are closed", are_closed);
    whole(&server, &module);
}
