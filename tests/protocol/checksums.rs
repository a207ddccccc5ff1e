//! Checksum databases: passed on, kept, and answered from what is kept.

use std::time::{Duration, SystemTime};

use stoa::server::ServeOptions;
use stoa_gomod::private::Patterns;
use stoa_layout::gate::Mode;
use stoa_store::{Cached, Shelf};

use super::site::{self, Site, TTL};
use testkit::upstream::{Script, Upstream};

const BASE: &str = "/sumdb/sum.example";
const PARTIAL: &str = "/sumdb/sum.example/tile/8/0/x001/234.p/5";
const LOOKUP: &str = "/sumdb/sum.example/lookup/example.com/!m@v1.0.0";
const LATEST: &str = "/sumdb/sum.example/latest";
const SUPPORTED: &str = "/sumdb/sum.example/supported";

fn body(text: &str) -> Script {
    Script::Body(text.as_bytes().to_vec())
}

/// A tree head with a signature; what it says nobody here checks.
fn head(size: u64) -> String {
    let hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    format!("go.sum database tree\n{size}\n{hash}\n\n\u{2014} sum.example c2lnbmF0dXJl\n")
}

fn record(module: &str, version: &str) -> String {
    format!("5\n{module} {version} h1:a=\n{module} {version}/go.mod h1:b=\n\n{}", head(9))
}

fn hashes(count: u8) -> Vec<u8> {
    (0..count).flat_map(|n| [n; 32]).collect()
}

/// An upstream with a database.
fn database() -> Upstream {
    let upstream = Upstream::start();
    upstream.set(SUPPORTED, body(""));
    upstream.set(LATEST, Script::Status(200, "text/plain; charset=UTF-8", LATEST_HEAD.as_bytes()));
    upstream.set(LOOKUP, body(&record("example.com/M", "v1.0.0")));
    upstream.set(PARTIAL, Script::Body(hashes(5)));
    upstream
}

const LATEST_HEAD: &str =
    "go.sum database tree\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} sum.example c2ln\n";

fn with(root: &std::path::Path, list: &str, options: ServeOptions) -> Site {
    let options = ServeOptions { sumdbs: vec!["sum.example".to_owned()], ..options };
    Site::with(site::open(root, Mode::ReadWrite), site::upstream(list), options)
}

fn start(root: &std::path::Path, list: &str) -> Site {
    with(root, list, site::with_list_ttl(TTL))
}

fn asking_each_time(root: &std::path::Path, list: &str) -> Site {
    with(root, list, site::asking_each_time())
}

#[test]
fn a_database_that_the_upstream_forwards_is_forwarded() {
    let folder = site::folder();
    let upstream = database();
    let gone = "/sumdb/sum.example/lookup/example.com/gone@v1.0.0";
    upstream.set(gone, Script::Status(410, "text/html", b"gone"));
    upstream.set("/sumdb/other.example/supported", body(""));
    let site = start(folder.path(), upstream.url());
    let record = record("example.com/M", "v1.0.0");
    let tile = hashes(5);
    // First as it came, then as it is kept.
    for latest_type in ["text/plain; charset=UTF-8", "text/plain; charset=utf-8"] {
        for (path, status, content_type, cache, bytes) in [
            (SUPPORTED, 200, "text/plain; charset=utf-8", "max-age=86400", b"".as_slice()),
            (LATEST, 200, latest_type, "max-age=3600", LATEST_HEAD.as_bytes()),
            (LOOKUP, 200, "text/plain; charset=utf-8", "max-age=86400", record.as_bytes()),
            (gone, 410, "text/plain; charset=utf-8", "max-age=60", b"gone"),
            (PARTIAL, 200, "application/octet-stream", "max-age=86400", &tile),
        ] {
            let reply = site.get(path);
            assert_eq!((reply.status, reply.body.as_slice()), (status, bytes), "{path}");
            assert_eq!(reply.header("content-type"), Some(content_type), "{path}");
            assert_eq!(reply.header("cache-control"), Some(cache), "{path}");
        }
    }
    let asked = [LATEST, LOOKUP, PARTIAL, gone].map(|path| upstream.count(path));
    assert_eq!(asked, [1, 1, 1, 2], "what was answered well is kept, and nothing else");
    for path in [
        "/sumdb/sum.example/lookup/example.com/m@master",
        "/sumdb/sum.example/tile/8/0/1",
        "/sumdb/sum.example/../other.example/supported",
        "/sumdb/sum.example",
        "/sumdb/other.example/supported",
        "/sumdb/other.example/latest",
    ] {
        assert_eq!(site.get(path).status, 404, "{path}");
    }
    assert_eq!(
        upstream.requests().iter().filter(|request| request.path.contains("other.example")).count(),
        0
    );
}

#[test]
fn a_database_that_no_upstream_forwards_is_not_supported() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = start(folder.path(), upstream.url());
    assert_eq!(site.get(SUPPORTED).status, 404);
    assert_eq!(site.get(LATEST).status, 404);
    drop(site);
    upstream.set(SUPPORTED, Script::Status(500, "text/plain", b"no"));
    let site = start(folder.path(), upstream.url());
    let reply = site.get(SUPPORTED);
    assert_eq!((reply.status, reply.header("cache-control")), (502, Some("no-store")));
    upstream.set(SUPPORTED, body(""));
    assert_eq!(site.get(SUPPORTED).status, 200);
}

#[test]
fn offline_and_in_an_outage_what_is_kept_answers() {
    let folder = site::folder();
    let upstream = database();
    let site = start(folder.path(), "off");
    assert_eq!(site.get(SUPPORTED).status, 404, "nothing is kept, so nothing is promised");
    drop(site);
    let site = asking_each_time(folder.path(), upstream.url());
    let known = [LATEST, LOOKUP, PARTIAL];
    let first = known.map(|path| site.get(path).body);
    for path in known {
        upstream.set(path, Script::Status(500, "text/plain", b"no"));
    }
    assert_eq!(known.map(|path| site.get(path).body), first);
    drop(site);
    upstream.set(SUPPORTED, Script::Status(500, "text/plain", b"no"));
    let unknown =
        ["/sumdb/sum.example/lookup/example.com/n@v1.0.0", "/sumdb/sum.example/tile/8/0/x001/234.p/6"];
    for (list, status) in [(upstream.url(), 502), ("off", 404)] {
        let site = asking_each_time(folder.path(), list);
        assert_eq!(site.get(SUPPORTED).status, 200, "{list}");
        for (path, first) in known.iter().zip(&first) {
            let reply = site.get(path);
            assert_eq!((reply.status, &reply.body), (200, first), "{list} {path}");
        }
        for path in unknown {
            let reply = site.get(path);
            assert_eq!((reply.status, reply.header("cache-control")), (status, Some("no-store")), "{path}");
        }
    }
}

#[test]
fn who_wants_nothing_fetched_gets_what_is_kept() {
    let folder = site::folder();
    let upstream = database();
    let site = start(folder.path(), upstream.url());
    let ask = |path: &str| site.ask("GET", path, &[("Disable-Module-Fetch", "true")]);
    for path in [SUPPORTED, LATEST, LOOKUP, PARTIAL] {
        let reply = ask(path);
        assert_eq!((reply.status, reply.header("cache-control")), (404, Some("no-store")), "{path}");
    }
    assert_eq!(upstream.requests().len(), 0);
    for path in [LATEST, LOOKUP, PARTIAL] {
        assert_eq!(site.get(path).status, 200);
        assert_eq!(ask(path).status, 200, "{path}");
    }
    assert_eq!(ask(SUPPORTED).status, 200);
}

#[test]
fn the_widest_tile_that_was_seen_answers_for_all_narrower_ones() {
    let folder = site::folder();
    let upstream = database();
    let tile = |width: usize| match width {
        256 => format!("{BASE}/tile/8/0/007"),
        _ => format!("{BASE}/tile/8/0/007.p/{width}"),
    };
    let whole = hashes(255).into_iter().chain([255; 32]).collect::<Vec<u8>>();
    for width in [3, 9, 256] {
        upstream.set(&tile(width), Script::Body(whole[..width * 32].to_vec()));
    }
    let site = start(folder.path(), upstream.url());
    for (width, is_asked) in [(9, true), (3, false), (9, false), (256, true), (3, false), (200, false)] {
        let before = upstream.requests().len();
        let reply = site.get(&tile(width));
        assert_eq!((reply.status, reply.body.as_slice()), (200, &whole[..width * 32]), "{width}");
        assert_eq!(
            upstream.count(&tile(width)) > 0 && upstream.requests().len() > before,
            is_asked,
            "{width}"
        );
    }
    drop(site);
    let offline = start(folder.path(), "off");
    assert_eq!(offline.get(&tile(17)).body, whole[..17 * 32]);
}

#[test]
fn what_nobody_has_proved_is_asked_for_anew_after_ten_minutes() {
    let folder = site::folder();
    let upstream = database();
    let record = record("example.com/M", "v1.0.0");
    let older = record.replace("h1:a=", "h1:z=");
    let (tile, wrong) = (hashes(5), [9; 32 * 5].to_vec());
    let remember = |site: &Site, ending: &str, minutes: u64| {
        let at = SystemTime::now() - Duration::from_secs(minutes * 60);
        let cache = |shelf, path: &str, body: &[u8]| {
            let body = body.to_vec().into();
            site.store.cache().put(shelf, &format!("{path}{ending}"), &Cached { at, body }).unwrap();
        };
        cache(Shelf::Records("sum.example"), "lookup/example.com/!m@v1.0.0", older.as_bytes());
        cache(Shelf::Tiles("sum.example"), "tile/8/0/x001/234", &wrong);
    };
    for (ending, minutes, is_asked) in [("", 9, false), ("", 11, true), (" proved", 60_000, false)] {
        let site = start(folder.path(), upstream.url());
        remember(&site, ending, minutes);
        let before = upstream.count(LOOKUP) + upstream.count(PARTIAL);
        // Once asked for it is as new.
        for _ in 0..2 {
            let said = (site.get(LOOKUP).body, site.get(PARTIAL).body);
            let (record, tile) = if is_asked { (&record, &tile) } else { (&older, &wrong) };
            assert_eq!(said, (record.clone().into_bytes(), tile.clone()), "{ending} {minutes}");
        }
        let asked = upstream.count(LOOKUP) + upstream.count(PARTIAL) - before;
        assert_eq!(asked, if is_asked { 2 } else { 0 }, "{ending} {minutes}");
    }
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    let site = start(folder.path(), "off");
    remember(&site, "", 60_000);
    assert_eq!(site.get(LOOKUP).body, older.as_bytes(), "nobody can be asked");
    assert_eq!(site.get(PARTIAL).body, wrong);
}

#[test]
fn a_page_is_neither_a_tile_nor_a_record() {
    let folder = site::folder();
    let upstream = database();
    let site = start(folder.path(), upstream.url());
    let page = "<html>\n\n<body>please log in</body>\n\n</html>\n";
    let short = String::from_utf8(hashes(4)).unwrap();
    for (path, bad) in [
        (LOOKUP, page),
        (LOOKUP, ""),
        (LOOKUP, &record("example.com/N", "v1.0.0")),
        (PARTIAL, page),
        (PARTIAL, ""),
        (PARTIAL, &short),
        (LATEST, page),
    ] {
        upstream.set(path, body(bad));
        let reply = site.get(path);
        assert_eq!((reply.status, reply.header("cache-control")), (502, Some("no-store")), "{path} {bad}");
    }
    drop(site);
    let upstream = database();
    let site = start(folder.path(), upstream.url());
    assert_eq!(site.get(LOOKUP).text(), record("example.com/M", "v1.0.0"));
    assert_eq!(site.get(PARTIAL).body, hashes(5));
}

#[test]
fn private_modules_are_not_sent_to_a_checksum_database() {
    let folder = site::folder();
    let upstream = database();
    for path in ["corp.example/!secret/x", "corp.example/open", "github.com/!our!co/x", "github.com/other"] {
        let (module, _) = (path.replace("!s", "S").replace("!o", "O").replace("!c", "C"), ());
        upstream.set(&format!("{BASE}/lookup/{path}@v1.0.0"), body(&record(&module, "v1.0.0")));
    }
    let refuse = "corp.example/Secret,github.com/OurCo,*.intern.example/*/deep";
    let options = || {
        let mut options = ServeOptions::default();
        options.services.sumdb.private = Patterns::parse(refuse);
        options
    };
    let site = with(folder.path(), upstream.url(), options());
    for (path, status) in [
        ("corp.example/!secret/x", 403),
        ("corp.example/!secret", 403),
        ("github.com/!our!co/x", 403),
        ("github.com/!our!co/x/v2", 404),
        ("git.intern.example/a/deep/er", 403),
        ("git.intern.example/a/b", 404),
        ("corp.example/open", 200),
        ("github.com/other", 200),
    ] {
        let version = if path.ends_with("/v2") { "v1.9.0" } else { "v1.0.0" };
        let reply = site.get(&format!("{BASE}/lookup/{path}@{version}"));
        assert_eq!(reply.status, status, "{path} {}", reply.text());
        if status == 403 {
            assert!(reply.text().starts_with("refused: "), "{}", reply.text());
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
    for name in ["secret", "our", "deep"] {
        assert!(!upstream.requests().iter().any(|request| request.path.contains(name)), "{name}");
    }
    // What was kept before somebody thought of it is refused as well.
    drop(site);
    let site = start(folder.path(), upstream.url());
    assert_eq!(site.get(&format!("{BASE}/lookup/corp.example/!secret/x@v1.0.0")).status, 200);
    drop(site);
    let site = with(folder.path(), "off", options());
    assert_eq!(site.get(&format!("{BASE}/lookup/corp.example/!secret/x@v1.0.0")).status, 403);
}

#[test]
fn at_most_64_requests_for_checksums_are_sent_at_the_same_time() {
    let folder = site::folder();
    let upstream = database();
    let site = start(folder.path(), upstream.url());
    upstream.hold("-held");
    std::thread::scope(|scope| {
        let site = &site;
        let path = |n| format!("/sumdb/sum.example/lookup/example.com/m@v1.{n}.0-held");
        let replies: Vec<_> = (0..80).map(|n| scope.spawn(move || site.get(&path(n)).status)).collect();
        upstream.wait_until_asked("-held", 64);
        // The other requests have arrived long before these.
        for _ in 0..20 {
            assert_eq!(site.get("/example.com/m/@v/list").status, 404);
        }
        assert_eq!(upstream.asked("-held"), 64);
        upstream.release();
        assert!(replies.into_iter().all(|reply| reply.join().unwrap() == 404));
    });
    assert_eq!(upstream.asked("-held"), 80);
}
