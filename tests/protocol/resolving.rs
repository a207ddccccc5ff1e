//! Lists, `@latest` and queries with several upstreams, with trees of files, and with newer versions in the store.

use stoa_gomod::private::Patterns;
use stoa_layout::gate::Mode;
use stoa_store::{Record, Tombstone};

use super::site::{self, Site};
use testkit::ports;
use testkit::upstream::{Module, Script, Upstream};

const LIST: &str = "/example.com/m/@v/list";
const LATEST: &str = "/example.com/m/@latest";
const MAIN: &str = "/example.com/m/@v/main.info";

fn body(text: &str) -> Script {
    Script::Body(text.as_bytes().to_vec())
}

fn info(version: &str) -> String {
    format!(r#"{{"Version":"{version}","Time":"2024-01-02T03:04:05Z"}}"#)
}

/// An address where nobody listens.
fn nobody() -> String {
    format!("http://{}", ports::closed())
}

/// Serves the info of a version, and a go.mod that was made up or not.
fn serve_version(upstream: &Upstream, version: &str, has_gomod: bool) {
    upstream.set(&format!("/example.com/m/@v/{version}.info"), body(&info(version)));
    let requirement = if has_gomod { "\ngo 1.20\n" } else { "" };
    let modfile = format!("module example.com/m\n{requirement}");
    upstream.set(&format!("/example.com/m/@v/{version}.mod"), body(&modfile));
}

#[test]
fn an_unknown_module_is_absent_if_a_later_upstream_cannot_be_reached() {
    let (folder, mirror, nobody) = (site::folder(), Upstream::start(), nobody());
    let host = nobody.trim_start_matches("http://");
    let site = Site::start(folder.path(), &format!("{},{nobody}", mirror.url()));
    for status in [404, 410] {
        for path in [LIST, LATEST, MAIN, "/example.com/m/@v/v1.info"] {
            mirror.set(path, Script::Status(status, "text/plain", b"no such module"));
            let reply = site.get(path);
            assert_eq!((reply.status, reply.header("cache-control")), (404, Some("no-store")), "{path}");
            let text = reply.text();
            assert!(text.contains(&format!("{host} could not be reached")), "{text}");
            assert!(text.contains("no such module"), "{text}");
        }
    }
    for extension in ["info", "mod", "zip"] {
        assert_eq!(site.get(&format!("/example.com/m/@v/v1.0.0.{extension}")).status, 502, "{extension}");
    }
}

#[test]
fn a_module_that_may_exist_is_never_absent_during_an_outage() {
    let (mirror, nobody) = (Upstream::start(), nobody());
    let list = format!("{},{nobody}", mirror.url());
    let is_failure = |site: &Site| {
        for path in [LIST, LATEST, MAIN] {
            assert_eq!(site.get(path).status, 502, "{path}");
        }
    };

    // Private, by GOPRIVATE.
    let folder = site::folder();
    let mut options = site::asking_each_time();
    options.services.answers.private = Patterns::parse("example.com/*");
    let site = Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream(&list), options);
    is_failure(&site);
    assert_eq!(site.get("/example.org/m/@v/list").status, 404, "a public module");

    // Removed for good.
    let folder = site::folder();
    let site = Site::start(folder.path(), &list);
    let claim = site.store.claim(&Module::new("example.com/m@v1.0.0", 1).version).unwrap();
    let tombstone = Some(Tombstone::now(None));
    site.store.records().write(&claim, &Record { tombstone, ..Record::default() }).unwrap();
    drop(claim);
    is_failure(&site);

    // Stored.
    let folder = site::folder();
    let site = Site::start(folder.path(), &list);
    site.publish(&Module::new("example.com/m@v1.0.0", 1));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    assert_eq!(site.get(LATEST).status, 200);
    assert_eq!(site.get(MAIN).status, 502);

    // Only the info and the go.mod of a version are cached.
    let folder = site::folder();
    let site = Site::start(folder.path(), &list);
    serve_version(&mirror, "v1.0.0", false);
    assert_eq!(site.get("/example.com/m/@v/v1.0.0.info").status, 200);
    is_failure(&site);

    // Once answered.
    let folder = site::folder();
    let site = Site::start(folder.path(), &list);
    mirror.set(LIST, body("v1.0.0\n"));
    assert_eq!(site.get(LIST).status, 200);
    mirror.set(LIST, Script::Status(404, "text/plain", b"gone"));
    assert_eq!([LIST, LATEST].map(|path| site.get(path).status), [200, 502]);

    // Reached, and broken. Or not asked, since the first upstream failed.
    for (lists, statuses) in [(",", (404, 500)), ("|", (500, 404)), (",", (500, 404))] {
        let (first, second) = (Upstream::start(), Upstream::start());
        for path in [LIST, LATEST, MAIN] {
            first.set(path, Script::Status(statuses.0, "text/plain", b"no"));
            second.set(path, Script::Status(statuses.1, "text/plain", b"no"));
        }
        let folder = site::folder();
        is_failure(&Site::start(folder.path(), &format!("{}{lists}{}", first.url(), second.url())));
    }
}

#[test]
fn the_latest_version_comes_from_the_upstream_of_the_list() {
    let (folder, first, second) = (site::folder(), Upstream::start(), Upstream::start());
    let site = Site::start(folder.path(), &format!("{},{},{}", first.url(), second.url(), nobody()));
    first.set(LIST, body("v1.0.0\n"));
    serve_version(&first, "v1.0.0", true);
    second.set(LATEST, body(&info("v1.5.0")));
    assert_eq!(site.get(LIST).text(), "v1.0.0\n");
    assert_eq!(site.get(LATEST).text(), info("v1.0.0"));
    assert_eq!(second.asked("@latest"), 0);
    // A pre-release is better than a pseudo-version, and a release is better than both.
    let pseudo = "v0.0.0-20191109021931-daa7c04131f5";
    let newer = "v0.0.0-20201109021931-daa7c04131f5";
    for (versions, latest) in [
        (format!("{newer}\n{pseudo}\n"), newer),
        (format!("v2.0.0\n{pseudo}\n"), pseudo),
        (format!("{newer}\nv1.0.0-rc.1\nv1.0.0-rc.2\n"), "v1.0.0-rc.2"),
        (format!("{newer}\nv1.0.0\nv1.1.0-rc.1\n"), "v1.0.0"),
    ] {
        first.set(LIST, body(&versions));
        serve_version(&first, latest, true);
        assert_eq!(site.get(LATEST).text(), info(latest), "{versions}");
    }
    // Without a version, the next one is asked.
    first.set(LIST, body(""));
    assert_eq!(site.get(LATEST).text(), info("v1.5.0"));
    // A list that cannot be read is a failure.
    let folder = site::folder();
    let site = Site::start(folder.path(), &format!("{},{}", first.url(), second.url()));
    first.set(LIST, Script::Status(500, "text/plain", b"no"));
    assert_eq!(site.get(LATEST).status, 502);
}

#[test]
fn incompatible_versions_of_a_tree_count_unless_the_last_compatible_one_has_a_go_mod() {
    for (has_gomod, latest) in [(true, "v1.1.0"), (false, "v2.0.0+incompatible")] {
        let (folder, upstream) = (site::folder(), Upstream::start());
        let site = Site::start(folder.path(), upstream.url());
        upstream.set(LIST, body("v1.0.0\nv1.1.0\nv2.0.0+incompatible\n"));
        serve_version(&upstream, "v1.1.0", has_gomod);
        serve_version(&upstream, "v2.0.0+incompatible", false);
        assert_eq!(site.get(LATEST).text(), info(latest));
    }
}

#[test]
fn prefixes_and_comparisons_are_resolved_from_the_list_of_an_upstream() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::start(folder.path(), upstream.url());
    let versions = ["v1.0.0", "v1.1.0", "v1.2.0-rc.1", "v1.5.0"];
    upstream.set(LIST, body(&versions.join("\n")));
    for version in versions {
        serve_version(&upstream, version, true);
    }
    site.publish(&Module::new("example.com/m@v1.0.0", 10));
    let ask = |query: &str| site.get(&format!("/example.com/m/@v/{query}.info"));
    for (query, version) in [
        ("v1", "v1.5.0"),
        ("v1.1", "v1.1.0"),
        ("%3Cv1.5.0", "v1.1.0"),
        ("%3C=v1.5.0", "v1.5.0"),
        ("%3E=v1.1.0", "v1.1.0"),
        ("%3Ev1.1.0", "v1.5.0"),
    ] {
        assert_eq!(ask(query).text(), info(version), "{query}");
    }
    for query in ["v2", "v1.3", "%3Cv1.0.0", "%3C=v1.2", "main"] {
        assert_eq!(ask(query).status, 404, "{query}");
    }
    assert_eq!(upstream.asked_at("@v/%3"), 0, "the protocol has no comparisons");
    // The answer of an upstream that answers counts.
    upstream.set("/example.com/m/@v/v1.info", body(&info("v1.4.0")));
    assert_eq!(ask("v1").text(), info("v1.4.0"));
    // Newer versions in the store count, too.
    let newer = Module::new("example.com/m@v1.6.0", 10);
    site.publish(&newer);
    assert_eq!(ask("v1").body, newer.info);
    assert_eq!(ask("%3E=v1.1.0").text(), info("v1.1.0"));
    assert_eq!(ask("%3Cv1.6.0").text(), info("v1.5.0"));
}

#[test]
fn a_newer_stored_version_is_the_latest_at_once() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::with_ttl(folder.path(), upstream.url());
    upstream.set(LATEST, body(&info("v1.1.0")));
    assert_eq!(site.get(LATEST).text(), info("v1.1.0"));
    for version in ["v1.0.0", "v1.2.0-rc.1", "v2.0.0-20191109021931-daa7c04131f5+incompatible"] {
        site.publish(&Module::new(&format!("example.com/m@{version}"), 10));
        assert_eq!(site.get(LATEST).text(), info("v1.1.0"), "{version}");
    }
    let newer = Module::new("example.com/m@v1.2.0", 10);
    site.publish(&newer);
    for headers in [&[][..], &[("Disable-Module-Fetch", "true")]] {
        assert_eq!(site.ask("GET", LATEST, headers).body, newer.info);
    }
    assert_eq!(upstream.asked("@latest"), 1);
    let claim = site.store.claim(&newer.version).unwrap();
    let tombstone = Some(Tombstone::now(None));
    site.store.records().write(&claim, &Record { tombstone, ..Record::default() }).unwrap();
    drop(claim);
    assert_eq!(site.get(LATEST).text(), info("v1.1.0"), "removed for good");
}

#[test]
fn a_stored_incompatible_version_is_ranked_as_the_go_command_ranks_it() {
    for (has_gomod, is_latest) in [(true, false), (false, true)] {
        let (folder, upstream) = (site::folder(), Upstream::start());
        let site = Site::with_ttl(folder.path(), upstream.url());
        upstream.set(LATEST, body(&info("v1.1.0")));
        serve_version(&upstream, "v1.1.0", has_gomod);
        let newer = Module::new("example.com/m@v2.0.0+incompatible", 10);
        site.publish(&newer);
        assert_eq!(site.get(LATEST).body == newer.info, is_latest, "{}", site.get(LATEST).text());
    }
}

#[test]
fn an_answer_that_names_another_major_is_refused() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::start(folder.path(), upstream.url());
    for path in [LATEST, MAIN, "/example.com/m/@v/v2.0.0.info"] {
        upstream.set(path, body(&info("v2.0.0")));
        let reply = site.get(path);
        assert_eq!((reply.status, reply.header("cache-control")), (502, Some("no-store")), "{path}");
        let text = reply.text();
        assert!(text.contains("v2.0.0, which does not match the major version suffix"), "{text}");
        upstream.set(path, body(&info("v2.0.0+incompatible")));
        assert_eq!(site.get(path).status, 200, "{path}");
    }
    for (path, version, status) in [
        ("/example.com/m/v2/@latest", "v1.0.0", 502),
        ("/example.com/m/v2/@latest", "v2.0.0", 200),
        ("/gopkg.in/m.v3/@latest", "v2.1.0", 502),
        ("/gopkg.in/m.v3/@latest", "v3.1.0", 200),
    ] {
        upstream.set(path, body(&info(version)));
        assert_eq!(site.get(path).status, status, "{path} {version}");
    }
    // An answer that an older release cached.
    let folder = site::folder();
    let site = Site::with_ttl(folder.path(), upstream.url());
    site.remember("example.com/m/@latest", 0, &info("v2.0.0"));
    assert_eq!(site.get(LATEST).status, 502);
}

#[test]
fn a_mistaken_path_is_answered_with_the_right_one() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/Cap/m@v1.0.0", 10);
    site.publish(&module);
    for (path, mistake) in [
        ("/example.com/Cap/m/@v/v1.0.0.info", "a capital letter"),
        ("//example.com/!cap/m/@v/v1.0.0.info", "an empty element (//)"),
        ("/example.com/!cap/m/v1.0.0.info", "no element @v"),
        ("/example.com//Cap/m/v1.0.0.info", "(//), and the path has no element @v"),
    ] {
        let reply = site.get(path);
        assert_eq!(reply.status, 404, "{path}");
        let text = reply.text();
        assert!(text.contains(mistake), "{path}: {text}");
        let help = text.lines().find_map(|line| line.strip_prefix("help: request ")).unwrap();
        assert_eq!(site.get(help).body, module.info, "{path}: {help}");
    }
    assert!(upstream.requests().is_empty());
}
