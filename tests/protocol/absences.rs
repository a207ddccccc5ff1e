//! Items that the upstream does not have, and questions that no client waits for any more.

use std::thread;
use std::time::Duration;

use stoa_layout::gate::Mode;
use testkit::client::Conversation;
use testkit::upstream::{Module, Script, Upstream};

use super::site::{self, Site};

const LIST: &str = "/example.com/m/@v/list";
const LATEST: &str = "/example.com/m/@latest";
const MAIN: &str = "/example.com/m/@v/main.info";
const INFO: &str = "/example.com/m/@v/v1.0.0.info";
const ZIP: &str = "/example.com/m/@v/v1.0.0.zip";

#[test]
fn an_absent_item_is_asked_for_once() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::with_ttl(folder.path(), upstream.url());
    for path in [LIST, LATEST, MAIN, INFO, ZIP] {
        upstream.set(path, Script::Status(410, "text/plain", b"removed"));
        for _ in 0..200 {
            let reply = site.get(path);
            assert_eq!(reply.status, 404, "{path}");
            assert!(reply.text().contains("removed"), "{path}: {}", reply.text());
        }
    }
    // The latest version is looked for in the list, too. The zip is known to be absent with its info.
    let counts = [LIST, LATEST, MAIN, INFO].map(|path| upstream.count(path));
    assert_eq!(counts, [2, 1, 1, 1]);
    assert!(upstream.count(ZIP) <= 1);
    // A publication of the module clears what is remembered.
    let newer = Module::new("example.com/m@v1.1.0", 10);
    upstream.serve(&newer);
    assert_eq!(site.get(&newer.path("zip")).body, newer.zip);
    upstream.put(MAIN, r#"{"Version":"v1.1.0"}"#);
    upstream.serve(&Module::new("example.com/m@v1.0.0", 10));
    for path in [MAIN, INFO, ZIP] {
        assert_eq!(site.get(path).status, 200, "{path}");
    }
}

#[test]
fn absence_is_forgotten_after_a_while_and_at_a_restart() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let mut options = site::with_list_ttl(site::TTL);
    options.services.absent_ttl = Duration::from_millis(20);
    let site =
        Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream(upstream.url()), options);
    assert_eq!(site.get(LIST).status, 404);
    upstream.put(LIST, "v1.0.0\n");
    while site.get(LIST).status == 404 {
        thread::sleep(Duration::from_millis(2));
    }
    drop(site);
    let site = Site::with_ttl(folder.path(), upstream.url());
    assert_eq!(site.get(MAIN).status, 404);
    drop(site);
    upstream.put(MAIN, r#"{"Version":"v1.0.0"}"#);
    assert_eq!(Site::with_ttl(folder.path(), upstream.url()).get(MAIN).status, 200);
}

#[test]
fn a_failure_is_never_remembered_as_absence() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::with_ttl(folder.path(), upstream.url());
    for path in [LIST, MAIN, INFO] {
        upstream.set(path, Script::Status(403, "text/plain", b"no"));
        assert_eq!([site.get(path).status, site.get(path).status], [403; 2], "{path}");
        assert_eq!(upstream.count(path), 2, "{path}");
    }
}

#[test]
fn a_missing_zip_hides_no_info() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::with_ttl(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", 10);
    for (extension, body) in [("info", &module.info), ("mod", &module.modfile)] {
        upstream.set(&module.path(extension), Script::Body(body.clone()));
    }
    for _ in 0..3 {
        assert_eq!(site.get(ZIP).status, 404);
        assert_eq!(site.get(INFO).body, module.info);
    }
    assert_eq!(site.get(&module.path("mod")).body, module.modfile);
}

#[test]
fn a_question_ends_when_no_client_waits_for_it() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::start(folder.path(), upstream.url());
    for path in [LIST, LATEST, MAIN] {
        upstream.set(path, Script::Stall(Vec::new()));
        let ask = || Conversation::try_begin(site.address, "GET", path, "HTTP/1.1", &[]).unwrap();
        drop(ask());
        // A client that joins the question of the first one causes no second request.
        let mut tries = 0;
        while upstream.count(path) < 2 {
            tries += 1;
            assert!(tries < 1000, "{path} is still asked for");
            let client = ask();
            thread::sleep(Duration::from_millis(5));
            drop(client);
        }
    }
}

#[test]
fn a_refresh_in_the_background_needs_no_client() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::with_ttl(folder.path(), upstream.url());
    site.remember("example.com/m/@v/list", 2, "v1.0.0\n");
    upstream.put(LIST, "v1.0.0\nv1.1.0\n");
    upstream.hold("list");
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    upstream.wait_until_asked("list", 1);
    upstream.release();
    while site.get(LIST).text() != "v1.0.0\nv1.1.0\n" {
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(upstream.asked("list"), 1);
}
