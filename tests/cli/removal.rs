//! Versions that are removed, forbidden or pruned: the real programs, with servers and an upstream
//! beside them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::{Case, cases};

use rusqlite::Connection;
use testkit::client;
use testkit::commands::{json, run};
use testkit::programs::Programs;
use testkit::server::{self, Server};
use testkit::tree::{shape, snapshot};
use testkit::upstream::{Module, Upstream};
use testkit::{create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        a_removed_version_is_downloaded_again_and_must_be_identical,
        a_zip_that_differs_from_its_record_is_not_downloaded_again_until_the_record_changes,
        a_go_mod_that_differs_from_its_record_is_served_to_nobody,
        a_tombstone_is_reported_for_every_file_until_it_is_lifted,
        a_lifted_tombstone_clears_what_a_running_server_remembers_as_absent,
        a_module_means_its_own_versions_and_a_dry_run_changes_nothing,
        clients_read_whole_files_while_versions_are_removed,
        the_least_recently_used_go_by_size_and_by_time,
        notes_of_last_use_outlive_a_restart_and_their_loss_makes_nothing_old,
        a_prune_beside_servers_leaves_what_they_fill,
        a_damaged_record_blocks_the_version_and_the_error_says_how_to_fix_it,
    ]
}

const PAIR: &str = "example.com/Cap/m@v1.0.0";
const FOLDER: &str = "modules/example.com/!cap/m/@v/v1.0.0";
const URL: &str = "/example.com/!cap/m/@v/v1.0.0";
const RECORD: &str = "records/example.com/!cap/m/@v/v1.0.0.toml";

#[track_caller]
fn done(root: &Path, arguments: &[&str]) -> String {
    let output = run(root, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", transcript(&output));
    transcript(&output)
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// A folder for a store, and the store.
pub(crate) fn store() -> (tempfile::TempDir, PathBuf) {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    create(&root);
    (dir, root)
}

/// The versions whose info is in the tree.
pub(crate) fn versions(root: &Path) -> BTreeSet<String> {
    let names = shape(&root.join("modules")).into_keys().filter(|path| path.ends_with("info"));
    names
        .map(|path| {
            let escaped = path.parent().unwrap().to_str().unwrap().replace("/@v/", "@");
            escaped.replace("!cap", "Cap")
        })
        .collect()
}

/// The versions that have a row in the index.
fn indexed(root: &Path) -> BTreeSet<String> {
    let connection = Connection::open(root.join("index/1/index.sqlite")).unwrap();
    let mut ask = connection.prepare("SELECT module || '@' || version FROM versions").unwrap();
    ask.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn a_zip_that_differs_from_its_record_is_not_downloaded_again_until_the_record_changes() {
    let (_dir, root) = store();
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 1000);
    let server = Server::start(&root, upstream.url());
    let get = || client::get(client::address(&server.url), &format!("{URL}.zip"));
    assert_eq!(get().body, module.zip);
    done(&root, &["remove", PAIR]);
    let other = upstream.offer(PAIR, 2000);
    let first = get();
    assert_eq!((first.status, first.header("retry-after")), (403, None), "{}", first.text());
    for _ in 0..5 {
        let again = get();
        assert_eq!((again.status, again.text()), (403, first.text()));
        assert!(again.header("retry-after").is_some());
    }
    assert_eq!(upstream.asked(".zip"), 2);
    done(&root, &["remove", "--forget", PAIR]);
    assert_eq!(get().body, other.zip);
    assert_eq!(upstream.asked(".zip"), 3);
}

fn a_removed_version_is_downloaded_again_and_must_be_identical() {
    let (_dir, root) = store();
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 50_000);
    let server = Server::start(&root, upstream.url());
    assert_eq!(server.get(&format!("{URL}.zip")), (200, module.zip.clone()));
    testkit::until("the version has its row", || indexed(&root).contains(PAIR));
    let (code, lines) = json(&root, &["remove", PAIR]);
    assert_eq!(code, 0, "{lines:?}");
    let bytes = (module.zip.len() + module.modfile.len() + module.info.len()) as u64;
    assert_eq!((&lines[0]["event"], &lines[0]["bytes"]), (&"removed".into(), &bytes.into()), "{lines:?}");
    assert_eq!((&lines[1]["removed"], &lines[1]["bytes"]), (&1.into(), &bytes.into()), "{lines:?}");
    assert!(!root.join(FOLDER).exists() && indexed(&root).is_empty());
    let record = fs::read_to_string(root.join(RECORD)).unwrap();
    assert!(record.contains(lines[0]["h1"].as_str().unwrap()), "{record}");
    assert_eq!(run(&root, &["remove", PAIR]).status.code(), Some(1), "it is not there");

    // It is asked for again, by its zip as a cold one, and by a server that has its small files in memory.
    assert_eq!(server.get(&format!("{URL}.zip")), (200, module.zip.clone()));
    testkit::until("it is in the store", || root.join(FOLDER).is_dir());
    assert_eq!(upstream.asked(".zip"), 2);
    done(&root, &["remove", "example.com/Cap/m"]);

    // Whoever moved the tag meanwhile is not believed.
    let other = Module::new(PAIR, 40_000);
    assert_ne!(other.zip, module.zip);
    upstream.offer(PAIR, 40_000);
    // A transfer that has begun is broken off; who waits for the whole is told why.
    if let Ok((status, body)) = server::get(&server.url, &format!("{URL}.zip")) {
        assert!(status == 403, "{status} and {} bytes", body.len());
    }
    let (status, answer) = in_part(&server.url, &format!("{URL}.zip"));
    assert_eq!(status, 403, "{answer}");
    assert_eq!(answer.matches("h1:").count(), 2, "both hashes are told: {answer}");
    assert!(!root.join(FOLDER).exists(), "nothing of it is stored");
    assert!(!shape(&root).keys().any(|path| path.starts_with("quarantine") && path.iter().count() > 1));
    upstream.offer(PAIR, 50_000);
    testkit::until("the same one is taken", || {
        server.get(&format!("{URL}.zip")) == (200, module.zip.clone())
    });
    assert!(server.stop().success());
}

fn a_go_mod_that_differs_from_its_record_is_served_to_nobody() {
    let (dir, root) = store();
    let tree = dir.path().join("tree");
    let mut module = Module::new(PAIR, 2000);
    module.put_flat(&tree);
    let server = Server::start(&root, &format!("file://{}", tree.display()));
    assert_eq!(server.get(&format!("{URL}.mod")), (200, module.modfile.clone()));
    assert!(server.get(&format!("{URL}.zip")) == (200, module.zip.clone()));
    done(&root, &["remove", PAIR]);
    module.modfile.extend_from_slice(b"// moved\n");
    module.put_flat(&tree);
    testkit::until("the look at what was there is over", || {
        let (status, body) = server.get(&format!("{URL}.mod"));
        assert!(status != 200 || body != module.modfile, "what differs is served");
        status == 403 && text(&body).contains("its mod has h1:") && text(&body).matches("h1:").count() == 2
    });
    assert!(!root.join(FOLDER).exists());
}

/// Asks for a part of a file: that is answered once all of it is stored.
fn in_part(url: &str, path: &str) -> (u16, String) {
    ask(url, path, "Range: bytes=0-99")
}

/// Asks for what is in the store only.
fn without_fetch(url: &str, path: &str) -> (u16, String) {
    ask(url, path, "Disable-Module-Fetch: true")
}

fn ask(url: &str, path: &str, header: &str) -> (u16, String) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{header}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = text(&answer);
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn a_tombstone_is_reported_for_every_file_until_it_is_lifted() {
    let (_dir, root) = store();
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 20_000);
    let never = upstream.offer("example.com/never@v1.0.0", 2000);
    upstream.offer("example.com/Cap/m@v0.9.0", 2000);
    let server = Server::start(&root, upstream.url());
    assert_eq!(server.get(&format!("{URL}.zip")).0, 200);
    done(&root, &["remove", "--tombstone", "--reason", "a key is in it", PAIR, "example.com/never@v1.0.0"]);
    testkit::until("the look at it is over", || server.get(&format!("{URL}.info")).0 == 410);
    // The upstream lists it still.
    let list = |server: &Server| text(&server.get("/example.com/!cap/m/@v/list").1);
    assert_eq!(list(&server), "v0.9.0\n");
    let (_, latest) = server.get("/example.com/!cap/m/@latest");
    assert!(!text(&latest).contains("v1.0.0"), "{}", text(&latest));
    let asked = upstream.asked("");
    let gone = |server: &Server, why: &str| {
        for ending in ["info", "mod", "zip"] {
            for (url, pair) in [(URL, PAIR), ("/example.com/never/@v/v1.0.0", "example.com/never@v1.0.0")] {
                let (status, body) = server.get(&format!("{url}.{ending}"));
                let body = text(&body);
                assert_eq!(status, 410, "{why} {url}.{ending}: {body}");
                assert!(body.contains("a key is in it") && body.contains(pair), "{body}");
            }
        }
    };
    gone(&server, "online");
    assert_eq!(upstream.asked(""), asked, "no upstream is asked");
    // Another process, that fetches nothing; and one that may not write.
    for options in [&["--upstream", "off"][..], &["--upstream", upstream.url(), "--read-only"]] {
        gone(&Server::start_with(server::command(&root).args(options)), "otherwise");
    }
    for ending in ["info", "mod", "zip"] {
        let (status, head) = without_fetch(&server.url, &format!("{URL}.{ending}"));
        assert_eq!(status, 410, "{head}");
        let (status, head) =
            without_fetch(&server.url, &format!("{}.{ending}", URL.replace("v1.0.0", "v1.0.9")));
        assert_eq!(status, 404, "{head}");
    }
    assert!(!root.join(FOLDER).exists() && !root.join("modules/example.com/never").exists());

    // It comes in by no other door.
    let tree = root.parent().unwrap().join("tree");
    module.put_flat(&tree);
    Module::new("example.com/welcome@v1.0.0", 100).put_flat(&tree);
    let (code, lines) = json(&root, &["import", tree.to_str().unwrap()]);
    assert_eq!(code, 0, "{lines:?}");
    let forbidden = lines.iter().find(|line| line["event"] == "forbidden").unwrap();
    assert!(forbidden["reason"].as_str().unwrap().contains("a key is in it"), "{lines:?}");
    assert_eq!(
        (&lines.last().unwrap()["forbidden"], &lines.last().unwrap()["imported"]),
        (&1.into(), &1.into())
    );
    let entry = root.join("quarantine/20260102T030405Z-1-0");
    fs::create_dir_all(&entry).unwrap();
    fs::rename(module.put_unsealed(&root), entry.join("version")).unwrap();
    let reason = format!(
        "module = 'example.com/Cap/m'\nversion = 'v1.0.0'\npath = '{FOLDER}'\nat = '2026-01-02T03:04:05Z'\nreason = 'x'\n"
    );
    fs::write(entry.join("reason.toml"), reason).unwrap();
    let output = run(&root, &["quarantine", "restore", "20260102T030405Z-1-0"]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    assert!(transcript(&output).contains("a key is in it") && entry.join("version/zip").is_file());
    assert!(!entry.join("version/ziphash").exists(), "a refused restore changes nothing");
    let audit = fs::read_to_string(root.join("records/audit/current")).unwrap();
    assert!(audit.contains("\"act\":\"tombstone\"") && !audit.contains("\"act\":\"restore\""), "{audit}");
    done(&root, &["quarantine", "purge", "--all"]);

    let (code, lines) = json(&root, &["remove", "--lift", "example.com/Cap/m", "example.com/never@v1.0.0"]);
    assert_eq!((code, &lines.last().unwrap()["lifted"]), (0, &2.into()), "{lines:?}");
    assert_eq!(list(&server), "v0.9.0\nv1.0.0\n");
    assert_eq!(server.get(&format!("{URL}.zip")), (200, module.zip));
    assert_eq!(server.get("/example.com/never/@v/v1.0.0.zip"), (200, never.zip));
    assert_eq!(run(&root, &["remove", "--lift", PAIR]).status.code(), Some(1), "it is not forbidden");
}

fn a_lifted_tombstone_clears_what_a_running_server_remembers_as_absent() {
    let (_dir, root) = store();
    let upstream = Upstream::start();
    let server = Server::start_with(
        server::command(&root).args(["--upstream", upstream.url()]).env("STOA_FILL_ABSENT_TTL", "1h"),
    );
    let status = |path: &str| server.get(path).0;
    let paths = ["info", "mod", "zip"].map(|ending| format!("{URL}.{ending}"));
    let list = "/example.com/!cap/m/@v/list";
    for path in paths.iter().map(String::as_str).chain([list]) {
        assert_eq!([status(path), status(path)], [404; 2], "{path}");
    }
    done(&root, &["remove", "--tombstone", PAIR]);
    assert_eq!(status(&paths[0]), 410);
    let module = upstream.offer(PAIR, 2000);
    done(&root, &["remove", "--lift", PAIR]);
    assert_eq!(server.get(&paths[2]), (200, module.zip));
    assert_eq!(server.get(&paths[0]), (200, module.info));
    assert_eq!(server.get(list), (200, b"v1.0.0\n".to_vec()));
}

fn a_module_means_its_own_versions_and_a_dry_run_changes_nothing() {
    let (_dir, root) = store();
    for pair in [
        "example.com/m@v1.0.0",
        "example.com/m@v1.1.0",
        "example.com/m/sub@v1.0.0",
        "example.com/m/v2@v2.0.0",
    ] {
        Module::new(pair, 1000).put_unsealed(&root);
    }
    drop(Server::start(&root, "off"));
    let before = snapshot(&root);
    for arguments in [
        &["remove", "example.com/m", "--dry-run"][..],
        &["remove", "example.com/m", "example.com/other@v1.0.0", "--tombstone", "--dry-run"],
        &["prune", "--max-size", "0", "--dry-run"],
        &["prune", "--unused-since", "0d", "--dry-run"],
    ] {
        let (code, lines) = json(&root, arguments);
        assert_eq!(code, 0, "{lines:?}");
        assert_eq!(lines.last().unwrap()["dry_run"], true);
        assert_eq!(snapshot(&root), before, "{arguments:?} changed something");
    }
    let (_, lines) = json(&root, &["prune", "--max-size", "0", "--dry-run"]);
    assert_eq!(lines.last().unwrap()["removed"], 4);
    assert_eq!(run(&root, &["remove", "example.com/m@v1.7.0", "--dry-run"]).status.code(), Some(1));

    let said = done(&root, &["remove", "example.com/m"]);
    assert!(said.contains("example.com/m@v1.1.0") && said.contains("2 versions removed"), "{said}");
    assert_eq!(
        versions(&root),
        ["example.com/m/sub@v1.0.0", "example.com/m/v2@v2.0.0"].map(str::to_owned).into()
    );
    assert_eq!(run(&root, &["remove", "example.com/m"]).status.code(), Some(1));
    let output = run(&root, &["remove", "example.com/m", "example.com/m/sub"]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    assert_eq!(versions(&root).len(), 1, "what is there goes all the same");
    for arguments in
        [&["remove"][..], &["remove", "no module"], &["remove", "example.com/m@latest"], &["prune"]]
    {
        assert_eq!(run(&root, arguments).status.code(), Some(64), "{arguments:?}");
    }
}

fn clients_read_whole_files_while_versions_are_removed() {
    let (_dir, root) = store();
    let upstream = Upstream::start();
    let modules: Vec<Module> =
        (0..4).map(|n| upstream.offer(&format!("example.com/m{n}@v1.0.0"), 300_000)).collect();
    let servers = [Server::start(&root, upstream.url()), Server::start(&root, upstream.url())];
    let (is_over, whole, broken) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (n, server) in servers.iter().cycle().take(4).enumerate() {
            let (modules, is_over, whole, broken) = (&modules, &is_over, &whole, &broken);
            scope.spawn(move || {
                for at in n.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let module = &modules[at % modules.len()];
                    let path = format!("/{}/@v/v1.0.0.zip", module.version.path());
                    match server::get(&server.url, &path) {
                        Ok((200, body)) => {
                            assert!(body == module.zip, "wrong bytes of {path}");
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok((status, body)) => panic!("{path}: {status} {}", text(&body)),
                        Err(_) => drop(broken.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        for round in 0..12 {
            let pair = modules[round % modules.len()].version.to_string();
            testkit::until("it is there", || {
                root.join(format!("modules/{}", pair.replace('@', "/@v/"))).is_dir()
            });
            let code = run(&root, &["remove", &pair]).status.code();
            assert_eq!(code, Some(0), "{pair}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(whole.into_inner() > 12);
    assert_eq!(broken.into_inner(), 0, "no transfer is broken off");
    for server in servers {
        assert!(server.stop().success());
    }
    let (code, lines) = json(&root, &["verify", "--again"]);
    assert_eq!((code, &lines.last().unwrap()["broken"]), (0, &0.into()), "{lines:?}");
    let is_kept = |path: &PathBuf| path.starts_with("reserve") || path.iter().count() < 2;
    assert!(shape(&root.join("staging")).keys().all(is_kept), "staging is empty");
}

/// Opens the notes of last use.
fn notes(root: &Path) -> Connection {
    let connection = Connection::open(root.join("cache/last-use/last-use.sqlite")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

/// Sets back by so many days when notes began, when versions were published, and what is noted.
fn age(root: &Path, days: i64) {
    for table in ["uses", "began"] {
        notes(root).execute(&format!("UPDATE {table} SET day = day - ?1"), [days]).unwrap();
    }
    let past = Duration::from_secs(days.cast_unsigned() * 24 * 60 * 60);
    for path in snapshot(&root.join("modules")).into_keys().filter(|path| path.ends_with("info")) {
        let file = fs::File::open(root.join("modules").join(path)).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.set_modified(modified - past).unwrap();
    }
}

pub(crate) fn noted(root: &Path) -> BTreeSet<String> {
    if !root.join("cache/last-use/last-use.sqlite").is_file() {
        return BTreeSet::new();
    }
    let connection = notes(root);
    let Ok(mut ask) = connection.prepare("SELECT module || '@' || version FROM uses") else {
        // It is being made.
        return BTreeSet::new();
    };
    let rows = ask.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap);
    rows.collect()
}

/// A store with versions of one size that were all published long ago, and notes that began then.
pub(crate) fn with_old_versions(root: &Path, count: usize) -> u64 {
    let server = Server::start_with(server::command(root).args(["--upstream", "off"]));
    assert!(server.stop().success());
    let mut bytes = 0;
    for n in 0..count {
        let module = Module::new(&format!("example.com/m{n}@v1.0.0"), 50_000);
        bytes = (module.zip.len() + module.info.len() + module.modfile.len()) as u64;
        module.put_unsealed(root);
    }
    age(root, 100);
    bytes
}

fn the_least_recently_used_go_by_size_and_by_time() {
    let (_dir, root) = store();
    let bytes = with_old_versions(&root, 6);
    let server =
        Server::start_with(server::command(&root).args(["--upstream", "off", "--last-use-interval", "1"]));
    for (n, ending) in [(1, "zip"), (3, "mod"), (4, "info")] {
        assert_eq!(server.get(&format!("/example.com/m{n}/@v/v1.0.0.{ending}")).0, 200);
    }
    let used: BTreeSet<String> = [1, 3, 4].map(|n| format!("example.com/m{n}@v1.0.0")).into();
    // It is killed, without a chance to write anything more.
    testkit::until("the uses are noted", || noted(&root) == used);
    drop(server);
    let (code, lines) = json(&root, &["prune", "--unused-since", "101d"]);
    assert_eq!((code, &lines.last().unwrap()["removed"]), (0, &0.into()), "{lines:?}");
    let (code, lines) = json(&root, &["prune", "--max-size", &(bytes * 5).to_string()]);
    assert_eq!((code, &lines.last().unwrap()["removed"]), (0, &1.into()), "{lines:?}");
    assert_eq!(lines.last().unwrap()["bytes_left"], bytes * 5);
    let left = versions(&root);
    assert!(left.len() == 5 && left.is_superset(&used), "{left:?}");
    let kept = left.difference(&used).next().unwrap().clone();
    let module = kept.split('@').next().unwrap();
    let (_, lines) = json(&root, &["prune", "--unused-since", "30d", "--keep", module]);
    assert_eq!(lines.last().unwrap()["removed"], 1, "{lines:?}");
    assert!(versions(&root).contains(&kept));
    let said = done(&root, &["prune", "--unused-since", "99d"]);
    assert!(said.contains("not used since the recording of uses began (20"), "{said}");
    assert!(said.contains("1 version, "), "{said}");
    assert_eq!(versions(&root), used);
    for n in [0, 2, 5] {
        let record =
            fs::read_to_string(root.join(format!("records/example.com/m{n}/@v/v1.0.0.toml"))).unwrap();
        assert!(record.contains("h1 = \"h1:"), "{record}");
    }
    // Larger than it may be, by what must stay.
    let output = run(&root, &["prune", "--max-size", "1k", "--keep", "example.com/m3,example.com/m4"]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    assert_eq!(versions(&root), [3, 4].map(|n| format!("example.com/m{n}@v1.0.0")).into());
    assert_eq!(noted(&root).len(), 2, "what is gone is not noted any more");
    done(&root, &["prune", "--max-size", "0"]);
    assert!(versions(&root).is_empty());
    let server = Server::start(&root, "off");
    testkit::until("the index says the same", || root.join("index/1").is_dir() && indexed(&root).is_empty());
    assert!(server.stop().success());
}

fn notes_of_last_use_outlive_a_restart_and_their_loss_makes_nothing_old() {
    let (_dir, root) = store();
    with_old_versions(&root, 3);
    // Stopped at once: what it has in mind is written at the end.
    let server = Server::start(&root, "off");
    assert_eq!(server.get("/example.com/m1/@v/v1.0.0.zip").0, 200);
    assert!(server.stop().success());
    let server = Server::start(&root, "off");
    assert_eq!(server.get("/example.com/m1/@v/v1.0.0.zip").0, 200);
    assert_eq!(server.get("/example.com/m2/@v/v1.0.0.zip").0, 200);
    assert!(server.stop().success());
    assert_eq!(noted(&root).len(), 2);
    let (_, lines) = json(&root, &["prune", "--unused-since", "50d", "--dry-run"]);
    assert_eq!(lines[0]["module"], "example.com/m0", "{lines:?}");
    assert_eq!(lines.last().unwrap()["removed"], 1);
    let began = lines.last().unwrap()["noted_since"].as_str().unwrap();
    // It was never used, so it counts as unused since uses are recorded.
    assert_eq!(
        (&lines[0]["last_use"], &lines[0]["unused_since"]),
        (&serde_json::Value::Null, &began.into()),
        "{lines:?}"
    );
    let plan = done(&root, &["prune", "--unused-since", "50d", "--dry-run"]);
    let text = format!("not used since the recording of uses began ({began}))");
    assert!(plan.contains(&text) && !plan.contains("last used"), "{plan}");

    // One that is running, and the cache goes: nothing counts as unused for as long as nothing is known.
    let server =
        Server::start_with(server::command(&root).args(["--upstream", "off", "--last-use-interval", "1"]));
    // The server may put something into it meanwhile.
    testkit::until("it is gone", || fs::remove_dir_all(root.join("cache")).is_ok());
    let said = done(&root, &["prune", "--unused-since", "1d"]);
    // The server may have begun a new file of notes by then.
    let nothing_is_known = ["no version counts as unused", "uses are recorded only since"];
    assert!(
        said.contains("0 versions, 0 B removed") && nothing_is_known.iter().any(|text| said.contains(text)),
        "{said}"
    );
    assert_eq!(server.get("/example.com/m0/@v/v1.0.0.zip").0, 200);
    testkit::until("it is noted again", || noted(&root).contains("example.com/m0@v1.0.0"));
    fs::write(root.join("cache/last-use/last-use.sqlite"), "damaged".repeat(1000)).unwrap();
    assert_eq!(server.get("/example.com/m1/@v/v1.0.0.zip").0, 200);
    testkit::until("it is noted in another", || {
        let file = fs::read(root.join("cache/last-use/last-use.sqlite")).unwrap_or_default();
        file.starts_with(b"SQLite format 3") && noted(&root).contains("example.com/m1@v1.0.0")
    });
    assert!(server.stop().success());
    done(&root, &["prune", "--unused-since", "1d"]);
    assert_eq!(versions(&root).len(), 3);

    // Nothing is written for a store that is only read.
    let before = snapshot(&root.join("cache"));
    let server = Server::start_with(server::command(&root).args(["--upstream", "off", "--read-only"]));
    assert_eq!(server.get("/example.com/m2/@v/v1.0.0.zip").0, 200);
    assert!(server.stop().success());
    assert_eq!(snapshot(&root.join("cache")), before);
}

fn a_prune_beside_servers_leaves_what_they_fill() {
    let (_dir, root) = store();
    let upstream = Upstream::start();
    let modules: Vec<Module> =
        (0..12).map(|n| upstream.offer(&format!("example.com/m{n}@v1.0.0"), 100_000)).collect();
    let server = Server::start(&root, upstream.url());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for half in modules.chunks(6) {
            let (server, is_over) = (&server, &is_over);
            scope.spawn(move || {
                for module in half.iter().cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let path = format!("/{}/@v/v1.0.0.zip", module.version.path());
                    assert_eq!(server.get(&path), (200, module.zip.clone()), "{path}");
                }
            });
        }
        for _ in 0..6 {
            done(&root, &["prune", "--max-size", "400k"]);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(server.stop().success());
    let said = done(&root, &["prune", "--max-size", "400k"]);
    assert!(versions(&root).len() <= 4, "{said}");
    assert_eq!(run(&root, &["verify", "--again"]).status.code(), Some(0));
}

fn a_damaged_record_blocks_the_version_and_the_error_says_how_to_fix_it() {
    let programs = Programs::current();
    let root = programs.make_store();
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 5000);
    fs::create_dir_all(root.join(RECORD).parent().unwrap()).unwrap();
    fs::write(root.join(RECORD), "tombst").unwrap();
    let server = Server::start(&root, upstream.url());
    let (status, body) = server.get(&format!("{URL}.zip"));
    assert_eq!(status, 500, "{}", text(&body));
    assert!(!text(&body).contains("records/"), "a client learns no path");
    let output = run(&root, &["remove", "--tombstone", PAIR]);
    assert_eq!(output.status.code(), Some(74), "{}", transcript(&output));
    assert!(
        transcript(&output).contains(RECORD) && transcript(&output).contains("help: fix the file"),
        "{}",
        transcript(&output)
    );
    assert!(!root.join(FOLDER).exists());
    // A version that is there is served whatever its record is.
    module.put_unsealed(&root);
    assert_eq!(server.get(&format!("{URL}.info")).0, 200);
    fs::remove_file(root.join(RECORD)).unwrap();
    assert_eq!(server.get(&format!("{URL}.zip")), (200, module.zip));
}
