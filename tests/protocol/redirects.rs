//! Redirects of upstreams, and the texts of errors.

use stoa::server::ServeOptions;
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::upstream::{Script, Upstream, head};

const INFO: &str = "/example.com/m/@v/v1.0.0.info";

fn redirect(status: u16, location: &str) -> Script {
    Script::Raw(head(status, &format!("Location: {location}\r\nContent-Length: 0\r\n")))
}

#[test]
fn a_redirect_leads_to_http_and_https_only() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    for location in ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:application/json,{}"] {
        upstream.set(INFO, redirect(302, location));
        let reply = site.get(INFO);
        assert!(
            reply.status == 502 && reply.text().contains("redirected to a URL of the scheme"),
            "{}",
            reply.text()
        );
    }
}

#[test]
fn a_redirect_to_an_invalid_url_is_not_repeated() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    for (n, location) in ["http://[::1".to_owned(), format!("/{}", "x".repeat(70_000))].iter().enumerate() {
        let path = format!("/example.com/m/@v/v1.{n}.0.info");
        upstream.set(&path, redirect(302, location));
        let reply = site.get(&path);
        assert!(
            reply.status == 502 && reply.text().contains("redirected to an invalid URL"),
            "{}",
            reply.text()
        );
        assert_eq!(upstream.count(&path), 1);
    }
}

#[test]
fn an_upstream_in_a_private_network_may_redirect_there() {
    let folder = site::folder();
    let (upstream, storage) = (Upstream::start(), Upstream::start());
    let site = Site::start(folder.path(), upstream.url());
    let module = storage.offer("example.com/m@v1.0.0", 100_000);
    for (extension, status) in [("info", 301), ("mod", 307), ("zip", 308)] {
        let path = module.path(extension);
        upstream.set(&path, redirect(status, &format!("{}{path}", storage.url())));
    }
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
    site.wait_for(&module.version);
    upstream.set("/example.com/m/@v/list", redirect(303, "list/all"));
    upstream.set("/example.com/m/@v/list/all", Script::Body(b"v1.1.0\n".to_vec()));
    assert_eq!(site.get("/example.com/m/@v/list").text(), "v1.0.0\nv1.1.0\n");
}

#[test]
fn clients_get_no_text_from_behind_a_redirect_or_of_an_internal_error() {
    let folder = site::folder();
    let (upstream, internal) = (Upstream::start(), Upstream::start());
    let options = ServeOptions { sumdbs: vec!["sum.example".to_owned()], ..site::asking_each_time() };
    let site =
        Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream(upstream.url()), options);
    let latest = "/sumdb/sum.example/latest";
    upstream.put("/sumdb/sum.example/supported", "");
    for status in [400, 403, 404, 410, 500, 504] {
        internal.set("/admin", Script::Status(status, "text/plain", b"the password is secret"));
        for path in [INFO, "/example.com/m/@v/list", latest] {
            upstream.set(path, redirect(302, &format!("{}/admin", internal.url())));
            let reply = site.get(path);
            assert!(
                reply.status >= 400 && !reply.text().contains("secret"),
                "{path} {status}: {}",
                reply.text()
            );
        }
    }
    upstream.set(INFO, Script::Status(501, "text/plain", b"panic at /srv/secret"));
    let reply = site.get(INFO);
    assert!(reply.status == 502 && reply.text().contains("status 501"), "{}", reply.text());
    assert!(!reply.text().contains("secret"), "{}", reply.text());
    upstream.set(INFO, Script::Status(404, "text/plain", b"no such tag"));
    assert!(site.get(INFO).text().contains("no such tag"));
}

#[test]
fn an_error_of_a_checksum_database_is_a_text() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let options = ServeOptions { sumdbs: vec!["sum.example".to_owned()], ..site::asking_each_time() };
    let site =
        Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream(upstream.url()), options);
    upstream.put("/sumdb/sum.example/supported", "");
    let paths = ["latest", "lookup/example.com/m@v1.0.0", "tile/8/0/000"];
    for (path, status) in paths.iter().flat_map(|path| [404, 410, 403, 501].map(|status| (path, status))) {
        let path = format!("/sumdb/sum.example/{path}");
        upstream.set(&path, Script::Status(status, "text/html", b"<script>alert(1)</script>"));
        let reply = site.get(&path);
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (status, Some("text/plain; charset=utf-8")),
            "{path}"
        );
    }
}
