//! Files of versions that are in the store, addresses, methods, and what a request may ask for besides.

use stoa::server::ServeOptions;
use stoa_layout::gate::Mode;

use super::site::{self, INSTANCE, Site};
use testkit::client::Conversation;
use testkit::ports;
use testkit::upstream::{Module, Upstream};

fn offline(root: &std::path::Path) -> Site {
    Site::start(root, "off")
}

#[test]
fn a_stored_version_is_served_with_its_headers() {
    let folder = site::folder();
    let site = offline(folder.path());
    let module = Module::new("example.com/Some/mod@v1.2.3-RC1", 700_000);
    site.publish(&module);
    for (extension, content_type, bytes) in [
        ("info", "application/json; charset=utf-8", &module.info),
        ("mod", "text/plain; charset=utf-8", &module.modfile),
        ("zip", "application/zip", &module.zip),
    ] {
        let reply = site.get(&module.path(extension));
        assert_eq!(reply.status, 200, "{extension}");
        assert!(reply.is_whole && &reply.body == bytes, "{extension}");
        assert_eq!(reply.header("content-type"), Some(content_type));
        assert_eq!(reply.header("content-length"), Some(bytes.len().to_string().as_str()));
        assert_eq!(reply.header("cache-control"), Some("public, max-age=604800"));
        assert_eq!(reply.header("vary"), Some("Disable-Module-Fetch"));
        assert_eq!(reply.header("accept-ranges"), Some("bytes"));
        let etag = reply.header("etag").unwrap();
        assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 20, "{etag}");
        assert!(httpdate(reply.header("last-modified").unwrap()));
        assert!(httpdate(reply.header("date").unwrap()));

        let head = site.ask("HEAD", &module.path(extension), &[]);
        assert_eq!((head.status, head.is_whole), (200, true));
        assert_eq!(head.lasting_headers(), reply.lasting_headers());
    }
    let seal = site.store.open_zip(&module.version).unwrap().unwrap().seal.unwrap();
    assert_eq!(
        site.get(&module.path("zip")).header("etag"),
        Some(format!("\"{seal}-{:x}\"", module.zip.len()).as_str())
    );
}

fn httpdate(text: &str) -> bool {
    text.ends_with(" GMT") && text.len() == "Sun, 06 Nov 1994 08:49:37 GMT".len()
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    let folder = site::folder();
    let site = offline(folder.path());
    let module = Module::new("example.com/m@v1.0.0", 1000);
    site.publish(&module);
    for extension in ["info", "mod", "zip"] {
        let path = module.path(extension);
        let reply = site.get(&path);
        let (etag, modified) = (reply.header("etag").unwrap(), reply.header("last-modified").unwrap());
        for condition in [("If-None-Match", etag), ("If-Modified-Since", modified)] {
            for method in ["GET", "HEAD"] {
                let again = site.ask(method, &path, &[condition]);
                assert_eq!((again.status, again.is_whole), (304, true), "{method} {condition:?}");
                assert_eq!(again.header("etag"), Some(etag));
                assert_eq!(again.header("cache-control"), reply.header("cache-control"));
                assert_eq!(again.header("vary"), reply.header("vary"));
                assert_eq!(again.header("content-type"), None);
            }
        }
        let other =
            site.ask("GET", &path, &[("If-None-Match", "\"other\""), ("If-Modified-Since", modified)]);
        assert_eq!((other.status, other.body), (200, reply.body));
        assert_eq!(site.ask("GET", &path, &[("If-Match", "\"other\"")]).status, 412);
    }
}

#[test]
fn a_part_is_sent_by_itself() {
    let folder = site::folder();
    let site = offline(folder.path());
    let module = Module::new("example.com/m@v1.0.0", 900_000);
    site.publish(&module);
    let (path, length) = (module.path("zip"), module.zip.len());
    let etag = site.get(&path).header("etag").unwrap().to_owned();
    let last = length - 1;
    for (range, part) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=100000-600000".to_owned(), 100_000..600_001),
        (format!("bytes={last}-"), last..length),
        ("bytes=-10".to_owned(), length - 10..length),
        ("bytes=5-99999999".to_owned(), 5..length),
    ] {
        let reply = site.ask("GET", &path, &[("Range", &range), ("If-Range", &etag)]);
        assert_eq!((reply.status, reply.is_whole), (206, true), "{range}");
        let told = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        assert_eq!(reply.header("content-range"), Some(told.as_str()));
        assert!(reply.body == module.zip[part], "{range}");
    }
    let none = site.ask("GET", &path, &[("Range", &format!("bytes={length}-"))]);
    assert_eq!((none.status, none.body.len()), (416, 0));
    assert_eq!(none.header("content-range"), Some(format!("bytes */{length}").as_str()));
    for whole in [("bytes=0-1,3-4", etag.as_str()), ("bytes=0-1", "\"other\""), ("pages=1-2", etag.as_str())]
    {
        let reply = site.ask("GET", &path, &[("Range", whole.0), ("If-Range", whole.1)]);
        assert_eq!((reply.status, reply.body.len()), (200, length), "{whole:?}");
    }
    let head = site.ask("HEAD", &path, &[("Range", "bytes=0-0")]);
    assert_eq!((head.status, head.header("content-length")), (200, Some(length.to_string().as_str())));
    let small = site.ask("GET", &module.path("mod"), &[("Range", "bytes=0-5")]);
    assert_eq!((small.status, small.text()), (206, "module"));
}

#[test]
fn only_reading_is_allowed() {
    let folder = site::folder();
    let site = offline(folder.path());
    for path in ["/example.com/m/@v/list", "/nothing", "/", "/healthz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let reply = site.ask(method, path, &[]);
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.header("allow"), Some("GET, HEAD"));
            assert_eq!(reply.header("cache-control"), Some("public, max-age=86400"));
        }
    }
}

#[test]
fn an_address_has_one_spelling() {
    let folder = site::folder();
    let site = offline(folder.path());
    let module = Module::new("example.com/Azure/sdk@v1.0.0-RC1", 10);
    site.publish(&module);
    for good in [
        "/example.com/!azure/sdk/@v/v1.0.0-!r!c1.info",
        "/example.com/%21azure/sdk/@v/v1.0.0-%21r%21c1.info",
        "/example.com/%21azure/sdk/%40v/v1.0.0-!r!c1%2einfo?a=b",
    ] {
        let reply = site.get(good);
        assert_eq!((reply.status, &reply.body), (200, &module.info), "{good}");
    }
    for bad in [
        "/example.com/%2521azure/sdk/@v/v1.0.0-!r!c1.info",
        "/example.com/Azure/sdk/@v/v1.0.0-!r!c1.info",
        "/example.com/!azure/sdk/@v/v1.0.0-RC1.info",
        "/example.com/x/../!azure/sdk/@v/v1.0.0-!r!c1.info",
        "/example.com/x/%2e%2e/!azure/sdk/@v/v1.0.0-!r!c1.info",
        "/example.com//!azure/sdk/@v/v1.0.0-!r!c1.info",
        "/example.com/!azure/sdk/@v/v1.0.0-!r!c1.info/",
        "/example.com/!azure/sdk/@v/v1.0.0-!r!c1.info%00",
        "/example.com/!azure/sdk/@v/v1.0.0-!r!c1.ziphash",
        "/example.com/!azure/sdk/@v/v1.0.0-!r!c1",
        "/example.com/!azure/sdk/@v/../../../../layout.v2",
        "/modules/example.com/!azure/sdk/@v/v1.0.0-!r!c1/info",
        "/example.com/!azure/sdk/@v/latest.info",
        "/example.com/!azure/sdk/@v/%zz.info",
        "/store.lock",
    ] {
        let reply = site.get(bad);
        assert_eq!(reply.status, 404, "{bad}");
        assert!(reply.text().starts_with("not found: "), "{bad}");
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        // Without a host, it may be a page of another configuration.
        let cache = if bad.starts_with("/modules/") { "no-store" } else { "public, max-age=86400" };
        assert_eq!(reply.header("cache-control"), Some(cache), "{bad}");
    }
}

#[test]
fn modules_are_served_only_below_the_base_path() {
    let folder = site::folder();
    let options = ServeOptions { base_path: "/go/".to_owned(), ..ServeOptions::default() };
    let site = Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream("off"), options);
    let module = Module::new("example.com/m@v1.0.0", 10);
    site.publish(&module);
    assert_eq!(site.get(&format!("/go{}", module.path("mod"))).body, module.modfile);
    assert_eq!(site.get(&module.path("mod")).status, 404);
    for path in ["/healthz", "/go/healthz", "/go/version", "/go", "/go/", "/"] {
        assert_eq!(site.get(path).status, 200, "{path}");
    }
}

#[test]
fn the_start_page_health_and_version_are_served() {
    let folder = site::folder();
    let site = offline(folder.path());
    assert_eq!(site.get("/healthz").text(), "ok\n");
    assert_eq!(site.get("/readyz").text(), "ready\n");
    assert!(site.get("/").text().contains("GOPROXY"));
    let version = site.get("/version");
    assert_eq!(version.header("content-type"), Some("application/json; charset=utf-8"));
    let version: serde_json::Value = serde_json::from_slice(&version.body).unwrap();
    assert_eq!((&version["program"], &version["layout"]), (&"stoa".into(), &"v2".into()));

    std::fs::rename(folder.path().join("layout.v2"), folder.path().join("away")).unwrap();
    let lost = site.get("/readyz");
    assert_eq!(lost.status, 503);
    assert!(!lost.text().contains(folder.path().to_str().unwrap()), "{}", lost.text());
    assert_eq!(site.get("/healthz").status, 200);
}

#[test]
fn a_request_that_comes_back_is_a_loop() {
    let folder = site::folder();
    let site = offline(folder.path());
    let module = Module::new("example.com/m@v1.0.0", 10);
    site.publish(&module);
    for path in [module.path("info"), "/example.com/m/@v/list".to_owned(), module.path("zip")] {
        let reply = site.ask("GET", &path, &[("Via", &format!("1.1 other, 1.1 {INSTANCE}"))]);
        assert_eq!((reply.status, reply.header("cache-control")), (508, Some("no-store")));
        assert_eq!(site.ask("GET", &path, &[("Via", "1.1 other")]).status, 200);
    }
}

#[test]
fn a_circle_of_upstreams_ends() {
    let folder = site::folder();
    let address = ports::free();
    // The address of a proxy is known before it is started, so that it can be its own upstream.
    let store = site::open(folder.path(), Mode::ReadWrite);
    let upstream = site::upstream(&format!("http://{address}"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let shutdown = async {
            let _ = stopped.await;
        };
        stoa::server::run(listener, store, upstream, ServeOptions::default(), shutdown).await
    });
    testkit::until("it listens", || std::net::TcpStream::connect(address).is_ok());
    for path in ["/example.com/m/@v/v1.0.0.zip", "/example.com/m/@v/list", "/example.com/m/@latest"] {
        assert_eq!(testkit::client::get(address, path).status, 508, "{path}");
    }
    stop.send(()).unwrap();
    runtime.block_on(serving).unwrap().unwrap();
}

#[test]
fn who_wants_no_fetch_gets_what_is_stored() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let (stored, other) = (Module::new("example.com/m@v1.0.0", 10), Module::new("example.com/m@v1.1.0", 10));
    site.publish(&stored);
    upstream.serve(&other);
    let local = |path: &str, value: &str| site.ask("GET", path, &[("Disable-Module-Fetch", value)]);
    for extension in ["info", "mod", "zip"] {
        assert_eq!(local(&stored.path(extension), "true").status, 200);
    }
    assert_eq!(local("/example.com/m/@v/list", "1").text(), "v1.0.0\n");
    assert_eq!(local("/example.com/m/@latest", "t").body, stored.info);
    assert_eq!(local("/example.com/m/@v/v1.info", "T").body, stored.info);
    for path in [
        other.path("info"),
        other.path("mod"),
        other.path("zip"),
        "/example.com/n/@v/list".to_owned(),
        "/example.com/n/@latest".to_owned(),
        "/example.com/m/@v/master.info".to_owned(),
    ] {
        let reply = local(&path, "True");
        assert_eq!(reply.status, 404, "{path}");
        // Other tools recognise these words.
        let text = "temporarily unavailable: the answer is not in the store, and the request forbids downloading it\n";
        assert!(reply.text().starts_with(text), "{path}: {}", reply.text());
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("vary"), Some("Disable-Module-Fetch"));
    }
    assert!(upstream.requests().is_empty());
    assert_eq!(local(&other.path("zip"), "yes").status, 200);
}

#[test]
fn offline_a_miss_is_no_absence() {
    let folder = site::folder();
    let module = Module::new("example.com/m@v1.0.0", 10);
    for (mode, list) in [(Mode::ReadWrite, "off"), (Mode::ReadOnly, "http://127.0.0.1:9")] {
        let site = Site::with(site::open(folder.path(), mode), site::upstream(list), ServeOptions::default());
        for extension in ["info", "mod", "zip"] {
            let reply = site.get(&module.path(extension));
            assert_eq!(reply.status, 404);
            assert!(reply.text().contains("offline"), "{}", reply.text());
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
}

#[test]
fn an_old_client_is_answered_with_a_length() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", 300_000);
    upstream.serve(&module);
    upstream.set(&module.path("zip"), testkit::upstream::Script::Chunked(module.zip.clone()));
    let reply = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.0", &[]).finish();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-length"), Some(module.zip.len().to_string().as_str()));
    assert!(reply.is_whole && reply.body == module.zip);
}

#[test]
fn many_requests_go_through_one_connection() {
    use std::io::{Read, Write};
    let folder = site::folder();
    let site = offline(folder.path());
    let module = Module::new("example.com/m@v1.0.0", 10);
    site.publish(&module);
    let mut stream = std::net::TcpStream::connect(site.address).unwrap();
    for path in [module.path("mod"), module.path("info"), "/none".to_owned(), module.path("zip")] {
        write!(stream, "HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    write!(stream, "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", module.path("mod")).unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).unwrap();
    let text = String::from_utf8_lossy(&answers);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 4, "{text}");
    assert_eq!(text.matches("HTTP/1.1 404").count(), 1, "{text}");
    assert!(answers.ends_with(&module.modfile));
}
