//! Upstreams that compress although Stoa asks for `identity`.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use stoa::server::ServeOptions;
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::upstream::{Module, Script, Upstream, head};

const LARGE: usize = 300_000;

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn encoded(encoding: &str, body: &[u8]) -> Script {
    let headers = format!("Content-Encoding: {encoding}\r\nContent-Length: {}\r\n", body.len());
    Script::Raw([head(200, &headers).as_slice(), body].concat())
}

/// Serves a version compressed.
fn serve(upstream: &Upstream, module: &Module) {
    for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
        upstream.set(&module.path(extension), encoded("gzip", &gzip(body)));
    }
}

#[test]
fn every_answer_of_an_upstream_that_compresses_is_decoded() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let options = ServeOptions { sumdbs: vec!["sum.example".to_owned()], ..site::asking_each_time() };
    let site =
        Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream(upstream.url()), options);
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    serve(&upstream, &module);
    let head = "go.sum database tree\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} sum.example c2ln\n";
    for (path, body) in [
        ("/example.com/m/@v/list", b"v1.0.0\n".as_slice()),
        ("/example.com/m/@latest", &module.info),
        ("/example.com/m/@v/main.info", &module.info),
        ("/sumdb/sum.example/supported", b""),
        ("/sumdb/sum.example/latest", head.as_bytes()),
    ] {
        upstream.set(path, encoded("gzip", &gzip(body)));
        let reply = site.get(path);
        assert_eq!((reply.status, reply.body.as_slice()), (200, body), "{path}");
    }
    let zip = site.get(&module.path("zip"));
    assert!(zip.status == 200 && zip.is_whole && zip.body == module.zip, "{}", zip.status);
    assert_eq!(zip.header("content-length"), None, "the length of the zip was not known");
    assert_eq!(site.get(&module.path("info")).body, module.info);
    assert_eq!(site.get(&module.path("mod")).body, module.modfile);
    assert!(upstream.requests().iter().all(|request| request.header("accept-encoding") == Some("identity")));
}

#[test]
fn a_text_of_absence_may_be_compressed() {
    let folder = site::folder();
    let body = gzip(b"not found: the tag was removed");
    let headers = "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n";
    let bytes = [head(404, headers).as_slice(), &body].concat();
    let upstream = Upstream::with(move |_| Script::Raw(bytes.clone()));
    let reply = Site::start(folder.path(), upstream.url()).get("/example.com/m/@v/v1.0.0.info");
    assert!(reply.status == 404 && reply.text().contains("the tag was removed"), "{}", reply.text());
}

#[test]
fn a_small_body_that_becomes_too_large_is_refused() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 1 << 20);
    let module = Module::new("example.com/m@v1.0.0", 10);
    for path in ["/example.com/m/@v/list".to_owned(), "/example.com/m/@latest".to_owned(), module.path("mod")]
    {
        serve(&upstream, &module);
        upstream.set(&path, encoded("gzip", &bomb));
        let reply = site.get(&path);
        assert!(
            reply.status == 502 && reply.text().contains("exceeds the limit"),
            "{path}: {}",
            reply.text()
        );
    }
    // Each member is empty, so the decoded body never grows.
    let empty = gzip(b"").repeat(1 << 18);
    upstream.set(&module.path("info"), encoded("gzip", &empty));
    let reply = site.get(&module.path("info"));
    assert!(reply.status == 502 && reply.text().contains("exceeds the limit"), "{}", reply.text());
    site.assert_holds_nothing();
}

#[test]
fn a_body_that_cannot_be_decoded_is_refused_by_name() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    let cut = gzip(&module.zip);
    let (cut, damaged) = (&cut[..cut.len() - 100], [&cut[..1000], b"damaged", &cut[1007..]].concat());
    for (file, answer, words) in [
        ("info", encoded("br", b"\x0b\x02"), "cannot decode its content encoding \"br\""),
        ("mod", encoded("deflate", b"x"), "cannot decode its content encoding \"deflate\""),
        ("zip", encoded("gzip, gzip", &gzip(&gzip(&module.zip))), "cannot decode its content encoding"),
        ("mod", encoded("gzip", &module.modfile), "cannot decompress it"),
    ] {
        serve(&upstream, &module);
        upstream.set(&module.path(file), answer);
        let reply = site.get(&module.path(file));
        assert!(reply.status == 502 && reply.text().contains(words), "{file}: {}", reply.text());
    }
    for zip in [cut, &damaged] {
        serve(&upstream, &module);
        upstream.set(&module.path("zip"), encoded("gzip", zip));
        let reply = site.get(&module.path("zip"));
        assert!(reply.status != 200 || !reply.is_whole, "a clean end");
    }
    site.assert_holds_nothing();
}
