//! Upstreams that lie, break off and fail: the right status or a transfer that is broken off, never the whole
//! of a wrong body, and nothing in the store.

use super::site::{self, Site};
use testkit::client::BROKEN_OFF;
use testkit::upstream::{Module, Script, Upstream};

/// More than what is kept back, so that clients get some of it before it is known to be wrong.
const LARGE: usize = 1_000_000;
const SMALL: usize = 1000;

/// Asks for a zip that must not be had, and sees that a good upstream is believed afterwards.
fn refused(what: &str, bytes: usize, spoil: impl Fn(&Upstream, &Module)) {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", bytes);
    upstream.serve(&module);
    spoil(&upstream, &module);
    // One that gets it as it arrives, one that waits for the whole.
    let reply = site.get(&module.path("zip"));
    match reply.status {
        200 | BROKEN_OFF => assert!(!reply.is_whole, "{what}: a whole body of {} bytes", reply.body.len()),
        status => assert_eq!(status, 502, "{what}: {}", reply.text()),
    }
    if bytes == SMALL {
        assert_eq!(reply.status, 502, "{what}");
    }
    let head = site.ask("HEAD", &module.path("zip"), &[]);
    assert_eq!((head.status, head.header("cache-control")), (502, Some("no-store")), "{what}");
    assert!(!site.has(&module.version), "{what}");
    site.assert_holds_nothing();

    upstream.serve(&module);
    let healed = site.get(&module.path("zip"));
    assert!(healed.status == 200 && healed.is_whole && healed.body == module.zip, "{what}: not healed");
    site.wait_for(&module.version);
}

#[test]
fn a_zip_that_breaks_off_is_no_zip() {
    for bytes in [SMALL, LARGE] {
        for missing in [1, 500, 70_000] {
            refused("cut", bytes, |upstream, module| {
                let sent = module.zip.len().saturating_sub(missing);
                upstream.set(&module.path("zip"), Script::Cut(module.zip.clone(), sent));
            });
        }
    }
}

#[test]
fn a_zip_that_is_shorter_than_it_ought_to_be_is_no_zip() {
    for bytes in [SMALL, LARGE] {
        refused("short under its own length", bytes, |upstream, module| {
            let short = module.zip[..module.zip.len() - 30].to_vec();
            upstream.set(&module.path("zip"), Script::Body(short.clone()));
        });
        refused("short in chunks", bytes, |upstream, module| {
            let short = module.zip[..module.zip.len() - 30].to_vec();
            upstream.set(&module.path("zip"), Script::Chunked(short));
        });
    }
}

#[test]
fn a_zip_with_a_wrong_checksum_is_no_zip() {
    for bytes in [SMALL, LARGE] {
        refused("crc", bytes, |upstream, module| {
            upstream.set(&module.path("zip"), Script::Body(module.clone().with_bad_crc().zip));
        });
        refused("crc in chunks", bytes, |upstream, module| {
            upstream.set(&module.path("zip"), Script::Chunked(module.clone().with_bad_crc().zip));
        });
    }
}

#[test]
fn a_zip_of_another_version_is_no_zip() {
    for bytes in [SMALL, LARGE] {
        refused("prefix", bytes, |upstream, module| {
            let other = Module::new("example.com/m@v1.0.1", bytes);
            upstream.set(&module.path("zip"), Script::Body(other.zip));
        });
    }
}

#[test]
fn a_mod_that_is_not_the_zips_is_none() {
    refused("mod", SMALL, |upstream, module| {
        upstream.set(&module.path("mod"), Script::Body(b"module example.com/m\n\ngo 1.22\n".to_vec()));
    });
}

#[test]
fn a_page_is_neither_info_nor_mod_nor_zip() {
    for extension in ["info", "mod", "zip"] {
        refused(extension, SMALL, |upstream, module| {
            let page = Script::Status(200, "text/html", b"<!DOCTYPE html><html>Please log in</html>");
            upstream.set(&module.path(extension), page);
        });
    }
}

#[test]
fn an_info_of_another_version_is_none() {
    for info in
        [r#"{"Version":"v1.0.1"}"#, r#"{"Version":"v1.0"}"#, "{}", "", "null", "[", r#"{"Version":1}"#]
    {
        refused(info, SMALL, |upstream, module| {
            upstream.set(&module.path("info"), Script::Body(info.as_bytes().to_vec()));
        });
    }
}

#[test]
fn the_answer_of_the_upstream_decides_the_status() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", SMALL);
    for (status, answered, cache) in [
        (404, 404, "max-age=600"),
        (410, 404, "max-age=600"),
        (400, 502, "no-store"),
        (401, 403, "no-store"),
        (403, 403, "no-store"),
        (500, 502, "no-store"),
        (206, 502, "no-store"),
        (504, 504, "no-store"),
        (508, 508, "no-store"),
    ] {
        for spoilt in ["info", "mod", "zip"] {
            upstream.serve(&module);
            upstream.set(&module.path(spoilt), Script::Status(status, "text/plain", b"no"));
            let reply = site.get(&module.path("zip"));
            assert_eq!(
                (reply.status, reply.header("cache-control")),
                (answered, Some(cache)),
                "{spoilt} {status}"
            );
            assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
            if answered == 404 {
                assert!(reply.text().starts_with("not found: "), "{}", reply.text());
            }
            assert!(reply.text().contains("example.com/m@v1.0.0"), "{}", reply.text());
        }
    }
    site.assert_holds_nothing();
}

#[test]
fn a_redirect_in_a_circle_ends() {
    refused("redirect", SMALL, |upstream, module| {
        // Without a Location a redirect is an answer like any other that is no success.
        upstream.set(&module.path("zip"), Script::Status(302, "text/plain", b""));
    });
}

#[test]
fn a_store_that_fails_is_our_fault() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", SMALL);
    upstream.serve(&module);
    std::fs::remove_dir_all(folder.path().join("staging")).unwrap();
    std::fs::write(folder.path().join("staging"), "in the way").unwrap();
    let reply = site.get(&module.path("zip"));
    assert_eq!((reply.status, reply.header("cache-control")), (500, Some("no-store")), "{}", reply.text());
    assert!(!reply.text().contains(folder.path().to_str().unwrap()), "{}", reply.text());
    site.assert_holds_nothing();
}

#[test]
fn a_broken_zip_in_the_store_is_never_served() {
    for (list_is_off, expected) in [(true, 404), (false, 200)] {
        let folder = site::folder();
        let upstream = Upstream::start();
        let site = Site::start(folder.path(), if list_is_off { "off" } else { upstream.url() });
        let module = Module::new("example.com/m@v1.0.0", LARGE);
        upstream.serve(&module);
        site.put_unsealed(&module.clone().with_bad_crc());
        let reply = site.get(&module.path("zip"));
        assert_eq!(reply.status, expected);
        assert!(reply.status != 200 || reply.body == module.zip);
        let quarantined = std::fs::read_dir(folder.path().join("quarantine")).unwrap().count();
        assert_eq!(quarantined, 1);
    }
}

#[test]
fn a_good_zip_is_sealed_before_it_is_served() {
    let folder = site::folder();
    let site = Site::start(folder.path(), "off");
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    let place = site.put_unsealed(&module);
    assert_eq!(site.get(&module.path("mod")).body, module.modfile);
    assert!(!place.join("ziphash").exists());
    let replies: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| site.get(&module.path("zip")))).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == module.zip));
    let seal = std::fs::read_to_string(place.join("ziphash")).unwrap();
    assert_eq!(
        replies[0].header("etag"),
        Some(format!("\"{}-{:x}\"", seal.trim(), replies[0].body.len()).as_str())
    );
}
