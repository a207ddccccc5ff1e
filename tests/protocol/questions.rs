//! Lists, `@latest` and queries, where nothing is kept as new.

use std::time::Duration;

use stoa_layout::gate::Mode;
use stoa_store::{Record, Tombstone};

use super::site::{self, Site};
use testkit::ports;
use testkit::upstream::{Gate, Module, Script, Upstream};

const LIST: &str = "/example.com/m/@v/list";
const LATEST: &str = "/example.com/m/@latest";
const PSEUDO: &str = "v0.0.0-20191109021931-daa7c04131f5";

fn body(text: &str) -> Script {
    Script::Body(text.as_bytes().to_vec())
}

/// An address where nobody listens.
fn nobody() -> String {
    format!("http://{}", ports::closed())
}

#[test]
fn a_list_merges_upstream_and_store() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    site.publish(&Module::new("example.com/m@v1.10.0", 10));
    site.publish(&Module::new("example.com/m@v1.2.0", 10));
    site.publish(&Module::new(&format!("example.com/m@{PSEUDO}"), 10));
    upstream
        .set(LIST, body(&format!("v1.9.0\nv1.2.0 2020-01-02T03:04:05Z\n{PSEUDO}\nnonsense\nv1.0.0-rc.1")));
    let reply = site.get(LIST);
    assert_eq!(reply.text(), "v1.0.0-rc.1\nv1.2.0\nv1.9.0\nv1.10.0\n");
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("public, max-age=60"));
    assert_eq!(reply.header("vary"), Some("Disable-Module-Fetch"));
    let head = site.ask("HEAD", LIST, &[]);
    assert_eq!((head.status, head.is_whole), (200, true));
    assert_eq!(head.lasting_headers(), reply.lasting_headers());
}

#[test]
fn an_unknown_module_is_no_empty_list() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let reply = site.get(LIST);
    assert_eq!((reply.status, reply.header("cache-control")), (404, Some("max-age=60")));
    assert!(reply.text().starts_with("not found: "));
    upstream.set(LIST, Script::Status(410, "text/plain", b"removed"));
    assert_eq!(site.get(LIST).status, 404);
    upstream.set(LIST, body(""));
    let known = site.get(LIST);
    assert_eq!((known.status, known.text(), known.header("content-length")), (200, "", Some("0")));
}

#[test]
fn an_outage_hides_no_stored_version() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", 10);
    for (status, answered) in [(500, 502), (404, 404), (403, 403), (504, 504), (508, 508)] {
        for path in [LIST, LATEST, "/example.com/m/@v/v1.info", "/example.com/m/@v/master.info"] {
            upstream.set(path, Script::Status(status, "text/plain", b"no"));
        }
        for path in [LIST, LATEST, "/example.com/m/@v/v1.info"] {
            let reply = site.get(path);
            assert_eq!(reply.status, answered, "{path}");
            assert_eq!(reply.header("cache-control") == Some("no-store"), status != 404, "{path}");
        }
    }
    site.publish(&module);
    for status in [500, 404, 403] {
        for path in [LIST, LATEST, "/example.com/m/@v/v1.info", "/example.com/m/@v/master.info"] {
            upstream.set(path, Script::Status(status, "text/plain", b"no"));
        }
        assert_eq!(site.get(LIST).text(), "v1.0.0\n", "{status}");
        assert_eq!(site.get(LATEST).body, module.info, "{status}");
        assert_eq!(site.get("/example.com/m/@v/v1.info").body, module.info, "{status}");
        assert_ne!(site.get("/example.com/m/@v/master.info").status, 200, "{status}");
    }
    let site = Site::start(folder.path(), &nobody());
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    assert_eq!(site.get("/example.com/n/@v/list").status, 502);
}

#[test]
fn latest_matches_the_upstream_or_the_choice_of_go() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    assert_eq!(site.get(LATEST).status, 404);
    let pseudo = Module::new(&format!("example.com/m@{PSEUDO}"), 10);
    site.publish(&pseudo);
    assert_eq!(site.get(LATEST).body, pseudo.info);
    let older = Module::new("example.com/m@v0.0.0-20181109021931-daa7c04131f5", 10);
    site.publish(&older);
    assert_eq!(site.get(LATEST).body, pseudo.info);
    let rc = Module::new("example.com/m@v2.0.0-rc.1+incompatible", 10);
    site.publish(&rc);
    assert_eq!(site.get(LATEST).body, rc.info);
    let release = Module::new("example.com/m@v1.0.0", 10);
    site.publish(&release);
    site.publish(&Module::new("example.com/m@v1.1.0-rc.1", 10));
    let reply = site.get(LATEST);
    assert_eq!(reply.body, release.info);
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("public, max-age=60"));
    let answer = r#"{"Version":"v1.7.0","Time":"2024-01-02T03:04:05Z","Origin":{"VCS":"git"}}"#;
    upstream.set(LATEST, body(answer));
    assert_eq!(site.get(LATEST).text(), answer);
}

#[test]
fn latest_of_a_plain_tree_is_found_in_its_list() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let pseudo = Module::new(&format!("example.com/m@{PSEUDO}"), 10);
    upstream.serve(&pseudo);
    upstream.set(LIST, body(&format!("{PSEUDO}\n")));
    assert_eq!(site.get(LIST).text(), "");
    assert_eq!(site.get(LATEST).body, pseudo.info);
    let tagged = Module::new("example.com/m@v1.0.0", 10);
    upstream.serve(&tagged);
    upstream.set(LIST, body(&format!("v1.0.0\n{PSEUDO}\n")));
    assert_eq!(site.get(LATEST).body, tagged.info);
}

#[test]
fn a_query_is_answered_by_a_canonical_version() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let path = "/example.com/m/@v/!h!e!a!d^2.info";
    upstream.set("/example.com/m/@v/!h!e!a!d%5E2.info", body(r#"{"Version":"v1.0.0"}"#));
    upstream.set(path, body(r#"{"Version":"v1.0.0"}"#));
    let reply = site.get("/example.com/m/@v/!h!e!a!d%5e2.info");
    assert_eq!((reply.status, reply.text()), (200, r#"{"Version":"v1.0.0"}"#));
    assert_eq!(reply.header("cache-control"), Some("public, max-age=60"));
    let path = "/example.com/m/@v/master.info";
    for bad in ["<html>", r#"{"Version":"master"}"#, "{}", ""] {
        upstream.set(path, body(bad));
        assert_eq!(site.get(path).status, 502, "{bad}");
    }
    // A version of another major is a query.
    upstream.set("/example.com/m/@v/v2.0.0.info", body(r#"{"Version":"v2.0.0+incompatible"}"#));
    assert_eq!(site.get("/example.com/m/@v/v2.0.0.info").status, 200);
    assert_eq!(site.get("/example.com/m/@v/v2.0.0.mod").status, 404);
    assert_eq!(site.get("/example.com/m/@v/master.zip").status, 404);
    site.assert_holds_nothing();
}

#[test]
fn an_upstream_that_is_silent_is_a_timeout() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let patience = Duration::from_millis(100);
    let store = site::open(folder.path(), Mode::ReadWrite);
    let site = Site::with(store, site::upstream_with(upstream.url(), patience), site::asking_each_time());
    let gate = Gate::default();
    let module = Module::new("example.com/m@v1.0.0", 10);
    upstream.set(LIST, Script::Gated(b"v1.0.0\n".to_vec(), 3, gate.clone()));
    upstream.set(&module.path("info"), Script::Gated(module.info.clone(), 0, gate.clone()));
    for path in [LIST, &module.path("info"), &module.path("zip")] {
        let reply = site.get(path);
        assert_eq!((reply.status, reply.header("cache-control")), (504, Some("no-store")), "{path}");
    }
    gate.open();
    upstream.serve(&module);
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
}

/// Makes the folder of a module's records one that nobody can read, whoever he is.
fn spoil_records(root: &std::path::Path) {
    let folder = root.join("records/example.com/m");
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("@v", folder.join("@v")).unwrap();
}

#[test]
fn where_nobody_knows_what_is_forbidden_nothing_is_said() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let info = r#"{"Version":"v1.1.0","Time":"2024-01-02T03:04:05Z"}"#;
    upstream.set(LIST, body("v1.1.0\n"));
    upstream.set(LATEST, body(info));
    upstream.set("/example.com/m/@v/main.info", body(info));
    let site = Site::start(folder.path(), upstream.url());
    site.publish(&Module::new("example.com/m@v1.0.0", 10));
    spoil_records(folder.path());
    for path in [LIST, LATEST, "/example.com/m/@v/main.info", "/example.com/m/@v/v1.info"] {
        for headers in [&[][..], &[("Disable-Module-Fetch", "true")]] {
            let reply = site.ask("GET", path, headers);
            assert_eq!((reply.status, reply.header("cache-control")), (500, Some("no-store")), "{path}");
        }
    }
}

#[test]
fn what_names_only_what_was_removed_for_good_is_gone() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let module = Module::new("example.com/m@v1.1.0", 10);
    let info = r#"{"Version":"v1.1.0","Time":"2024-01-02T03:04:05Z"}"#;
    upstream.set(LIST, body("v1.1.0\n"));
    let main = "/example.com/m/@v/main.info";
    for path in [LATEST, main] {
        upstream.set(path, body(info));
    }
    let site = Site::start(folder.path(), upstream.url());
    assert_eq!([LATEST, main].map(|path| site.get(path).status), [200; 2]);
    let claim = site.store.claim(&module.version).unwrap();
    let tombstone = Some(Tombstone::now(Some("a key is in it".to_owned())));
    site.store.records().write(&claim, &Record { tombstone, ..Record::default() }).unwrap();
    for path in [LATEST, main] {
        for headers in [&[][..], &[("Disable-Module-Fetch", "true")]] {
            let reply = site.ask("GET", path, headers);
            assert_eq!(reply.status, 410, "{path}");
            assert!(reply.text().contains("a key is in it"), "{}", reply.text());
        }
    }
    assert_eq!(site.get(LIST).text(), "");
    upstream.set(LIST, body("v1.0.0\nv1.1.0\n"));
    upstream.set("/example.com/m/@v/v1.0.0.info", body(&info.replace("v1.1.0", "v1.0.0")));
    assert!(site.get(LATEST).text().contains("v1.0.0"), "another one is the latest");
}
