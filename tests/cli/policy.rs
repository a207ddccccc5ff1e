//! Rules for modules: modes, allowed and denied versions, upstreams of their own.

use std::net::TcpListener;
use std::path::Path;
use testkit::go::Go;
use testkit::{Case, cases, missing_tool, transcript, trial};

use testkit::server::{self, Server};
use testkit::upstream::Upstream;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        a_missing_version_may_be_fetched_in_the_background,
        a_missing_version_may_be_redirected,
        what_is_not_there_may_stay_away,
        denied_versions_are_served_to_nobody,
        the_reason_of_a_denial_reaches_the_developer,
        a_rule_may_ignore_the_case_of_letters,
        what_is_denied_is_named_by_no_query_that_was_answered_before,
        modules_have_upstreams_of_their_own,
        modules_that_a_rule_makes_private_are_not_sent_to_a_checksum_database,
        a_version_is_looked_up_where_its_module_comes_from,
        answers_of_a_former_upstream_are_forgotten,
        an_upstream_that_hangs_leaves_room_for_others,
    ];
    let no_go = || missing_tool("go", &["version"]);
    cases.push(trial("go prints the reason of a denial", None, go_prints_the_reason).needs(no_go));
    cases
}

/// A server with a config file, whose store is beside it.
fn serve(folder: &Path, config: &str) -> Server {
    let file = folder.join("config.toml");
    std::fs::write(&file, config).unwrap();
    Server::start_with(server::command(&folder.join("store")).arg("--config").arg(file))
}

fn text((status, body): (u16, Vec<u8>)) -> (u16, String) {
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Waits until a path is answered with a status.
fn until(server: &Server, path: &str, status: u16) {
    testkit::until(path, || server.get(path).0 == status);
}

fn a_missing_version_may_be_fetched_in_the_background() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    let module = upstream.offer("example.org/m@v1.0.0", 1000);
    let config = format!("upstream = '{}'\nmode = 'async'\nchecksum = 'off'\n", upstream.url());
    let server = serve(folder.path(), &config);
    let (status, body) = text(server.get("/example.org/m/@v/v1.0.0.info"));
    assert_eq!(status, 404);
    assert!(body.starts_with("temporarily unavailable: this proxy downloads the version in the"), "{body}");
    until(&server, "/example.org/m/@v/v1.0.0.info", 200);
    assert_eq!(server.get("/example.org/m/@v/v1.0.0.zip"), (200, module.zip));
    assert_eq!(upstream.asked(".zip"), 1);
}

fn a_missing_version_may_be_redirected() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.offer("example.org/Acme/m@v1.0.0", 1000);
    upstream.offer("example.org/Acme/later@v1.0.0", 1000);
    let config = format!(
        "upstream = '{0}'\nbase_path = '/go'\n[[module]]\npattern = 'example.org/Acme/later'\nmode = 'async_redirect'\n\
         redirect_url = '{0}'\n[[module]]\npattern = 'example.org/Acme'\nmode = 'redirect'\n\
         redirect_url = 'http://elsewhere.example:8/mod/'\n",
        upstream.url()
    );
    let server = serve(folder.path(), &config);
    for file in ["info", "mod", "zip"] {
        let head = server.ask("HEAD", &format!("/go/example.org/!acme/m/@v/v1.0.0.{file}"), &[]);
        let location = format!("http://elsewhere.example:8/mod/example.org/!acme/m/@v/v1.0.0.{file}");
        assert_eq!((head.status, head.header("location")), (302, Some(location.as_str())), "{head:?}");
        assert_eq!(head.header("cache-control"), Some("no-store"), "{head:?}");
    }
    assert_eq!(upstream.asked(".zip"), 0);
    let later = server.ask("HEAD", "/go/example.org/!acme/later/@v/v1.0.0.mod", &[]);
    let location = format!("{}/example.org/!acme/later/@v/v1.0.0.mod", upstream.url());
    assert_eq!((later.status, later.header("location")), (302, Some(location.as_str())), "{later:?}");
    until(&server, "/go/example.org/!acme/later/@v/v1.0.0.mod", 200);
    // A name in other letters is another module's.
    assert_eq!(server.get("/go/example.org/acme/m/@v/v1.0.0.mod").0, 404);
    // Questions are not redirected: they are answered from upstream and store.
    assert_eq!(text(server.get("/go/example.org/!acme/m/@v/list")), (200, "v1.0.0\n".to_owned()));
}

fn what_is_not_there_may_stay_away() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.offer("git.corp.example/m@v1.0.0", 1000);
    let stored = upstream.offer("git.corp.example/m@v1.1.0", 1000);
    let base = format!("upstream = '{}'\n", upstream.url());
    let server = serve(folder.path(), &base);
    assert_eq!(server.get("/git.corp.example/m/@v/v1.1.0.zip"), (200, stored.zip.clone()));
    assert!(server.stop().success());

    let server =
        serve(folder.path(), &format!("{base}[[module]]\npattern = '*.corp.example'\nmode = 'none'\n"));
    let asked = upstream.asked("");
    let (status, body) = text(server.get("/git.corp.example/m/@v/v1.0.0.mod"));
    assert_eq!(status, 404);
    assert!(body.contains("the configuration forbids downloading it"), "{body}");
    assert_eq!(server.get("/git.corp.example/m/@v/v1.1.0.zip"), (200, stored.zip));
    assert_eq!(text(server.get("/git.corp.example/m/@v/list")), (200, "v1.1.0\n".to_owned()));
    assert_eq!(upstream.asked(""), asked, "the upstream was asked");
}

fn the_reason_of_a_denial_reaches_the_developer() {
    const REASON: &str = "CVE-2024-0001, use v1.2.0: it is fixed there";
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    for version in ["v1.0.0", "v1.1.0"] {
        upstream.offer(&format!("example.org/m@{version}"), 100);
    }
    upstream.offer("example.org/all@v1.0.0", 100);
    let config = format!(
        "upstream = '{}'\n[[module]]\npattern = 'example.org/m'\ndeny = ['v1.1.0']\nreason = '{REASON}'\n\
         [[module]]\npattern = 'example.org/all'\ndeny = ['*']\nreason = '{REASON}'\n",
        upstream.url()
    );
    let server = serve(folder.path(), &config);
    for path in ["m/@v/v1.1.0.info", "m/@v/v1.1.0.mod", "m/@v/v1.1.0.zip", "all/@v/list", "all/@v/v1.0.0.zip"]
    {
        let (status, body) = text(server.get(&format!("/example.org/{path}")));
        assert_eq!(status, 403, "{path}");
        assert!(body.starts_with("refused: example.org/"), "{path}: {body}");
        assert!(
            body.ends_with(&format!(" is denied by the configuration of this proxy: {REASON}\n")),
            "{path}: {body}"
        );
    }
    assert_eq!(server.get("/example.org/m/@v/v1.0.0.mod").0, 200);
    let wrong = folder.path().join("wrong.toml");
    for (line, part) in [
        ("reason = 'x'", "a reason needs deny or allow"),
        ("deny = ['*']\nreason = \"a\\nb\"", "expected one line"),
        ("deny = ['*']\nreason = ''", "expected one line"),
    ] {
        std::fs::write(&wrong, format!("[[module]]\npattern = 'a.b'\n{line}\n")).unwrap();
        let output = testkit::commands::bare(&["config", "check", "--config"]).arg(&wrong).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(64) && error.contains(part), "{line}: {error}");
    }
}

fn go_prints_the_reason() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.offer("example.org/m@v1.0.0", 100);
    let config = format!(
        "upstream = '{}'\n[[module]]\npattern = 'example.org/m'\ndeny = ['v1.0.0']\nreason = 'use v1.1.0 or later'\n",
        upstream.url()
    );
    let server = serve(folder.path(), &config);
    let go = Go::new(folder.path(), &format!("{},direct", server.url)).unverified();
    let output =
        go.command(folder.path(), "modules", &["mod", "download", "example.org/m@v1.0.0"]).output().unwrap();
    let printed = transcript(&output);
    assert!(
        !output.status.success() && printed.contains("the configuration of this proxy: use v1.1.0 or later"),
        "{printed}"
    );
}

fn a_rule_may_ignore_the_case_of_letters() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.offer("github.com/acme/m@v1.0.0", 100);
    upstream.offer("github.com/other/m@v1.0.0", 100);
    let rule = "[[module]]\npattern = 'github.com/Acme/*'\ndeny = ['*']\n";
    for (config, status) in [(rule.to_owned(), 200), (format!("{rule}ignore_case = true\n"), 403)] {
        let server = serve(folder.path(), &format!("upstream = '{}'\n{config}", upstream.url()));
        assert_eq!(server.get("/github.com/acme/m/@v/v1.0.0.mod").0, status, "{config}");
        assert_eq!(server.get("/github.com/!acme/m/@v/v1.0.0.mod").0, 403, "{config}");
        assert_eq!(server.get("/github.com/other/m/@v/v1.0.0.mod").0, 200, "{config}");
    }
}

fn denied_versions_are_served_to_nobody() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    for version in ["v1.0.0", "v1.1.0", "v1.2.0"] {
        upstream.offer(&format!("example.org/m@{version}"), 100);
    }
    upstream.offer("example.org/other@v1.1.0", 100);
    let base = format!("upstream = '{}'\n", upstream.url());
    let server = serve(folder.path(), &base);
    assert_eq!(server.get("/example.org/m/@v/v1.1.0.zip").0, 200);
    assert!(server.stop().success());

    let rule = "[[module]]\npattern = 'example.org/m'\nallow = ['v1.*']\ndeny = ['v1.1.0', '>=v1.2.0']\n";
    let server = serve(folder.path(), &format!("{base}{rule}"));
    for file in ["info", "mod", "zip"] {
        // Stored or not.
        for version in ["v1.1.0", "v1.2.0"] {
            let (status, body) = text(server.get(&format!("/example.org/m/@v/{version}.{file}")));
            assert_eq!(status, 403, "{version}.{file}");
            assert!(body.starts_with(&format!("refused: example.org/m@{version} ")), "{body}");
        }
        assert_eq!(server.get(&format!("/example.org/m/@v/v1.0.0.{file}")).0, 200);
    }
    assert_eq!(server.get("/example.org/other/@v/v1.1.0.zip").0, 200);
    assert_eq!(text(server.get("/example.org/m/@v/list")), (200, "v1.0.0\n".to_owned()));
    let (status, latest) = text(server.get("/example.org/m/@latest"));
    assert_eq!(status, 200, "{latest}");
    assert!(latest.contains("\"v1.0.0\""), "{latest}");
    assert!(server.stop().success());

    // A name in other letters is another module's.
    let rule = "[[module]]\npattern = 'example.org/M'\ndeny = ['*']\n[[module]]\npattern = 'example.org/m'\ndeny = ['*']\n";
    let server = serve(folder.path(), &format!("{base}{rule}"));
    for path in ["list", "v1.0.0.info", "v1.0.0.zip", "main.info"] {
        assert_eq!(server.get(&format!("/example.org/m/@v/{path}")).0, 403, "{path}");
    }
    assert_eq!(server.get("/example.org/m/@latest").0, 403);
    assert_eq!(server.get("/example.org/other/@v/list").0, 200);
}

fn what_is_denied_is_named_by_no_query_that_was_answered_before() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.offer("example.org/m@v1.0.0", 100);
    upstream.offer("example.org/m@v1.1.0", 100);
    upstream.put("/example.org/m/@v/main.info", r#"{"Version":"v1.1.0","Time":"2024-01-02T03:04:05Z"}"#);
    let base = format!("upstream = '{}'\nchecksum = 'off'\n", upstream.url());
    let server = serve(folder.path(), &base);
    for path in ["v1.0.0.zip", "v1.1.0.zip", "main.info"] {
        assert_eq!(server.get(&format!("/example.org/m/@v/{path}")).0, 200);
    }
    assert!(server.stop().success());
    let offline = serve(folder.path(), "offline = true\n");
    assert!(text(offline.get("/example.org/m/@v/main.info")).1.contains("v1.1.0"));
    assert!(offline.stop().success());

    let rule = "[[module]]\npattern = 'example.org/m'\ndeny = ['v1.1.0']\n";
    let offline = serve(folder.path(), &format!("offline = true\n{rule}"));
    assert_eq!(offline.get("/example.org/m/@v/main.info").0, 403);
    assert!(text(offline.get("/example.org/m/@v/v1.info")).1.contains("v1.0.0"));
    assert!(offline.stop().success());
}

fn modules_have_upstreams_of_their_own() {
    let folder = testkit::tempdir();
    let (public, private) = (Upstream::start(), Upstream::start());
    let open = public.offer("example.org/m@v1.0.0", 100);
    let closed = private.offer("git.corp.example/m@v1.0.0", 100);
    let config = format!(
        "upstream = '{}'\n[[module]]\npattern = '*.corp.example'\nupstream = '{}'\n",
        public.url(),
        private.url()
    );
    let server = serve(folder.path(), &config);
    assert_eq!(server.get("/example.org/m/@v/v1.0.0.zip"), (200, open.zip));
    assert_eq!(server.get("/git.corp.example/m/@v/v1.0.0.zip"), (200, closed.zip));
    assert_eq!(server.get("/git.corp.example/m/@v/list").0, 200);
    assert_eq!(server.get("/git.corp.example/absent/@v/list").0, 404);
    assert_eq!((public.asked_at("git.corp.example"), private.asked_at("example.org")), (0, 0));
}

fn modules_that_a_rule_makes_private_are_not_sent_to_a_checksum_database() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.put("/sumdb/sum.example/supported", "");
    let config = format!(
        "upstream = '{}'\nsumdbs = ['sum.example']\nsumdb_refuse = ['listed.example']\nchecksum = 'off'\n\
         [[module]]\npattern = 'denied.example'\ndeny = ['*']\n[[module]]\npattern = 'kept.example'\nmode = 'none'\n\
         [[module]]\npattern = 'own.example'\nchecksum = 'off'\n[[module]]\npattern = 'some.example'\ndeny = ['v1.1.0']\n",
        upstream.url()
    );
    let server = serve(folder.path(), &config);
    for (module, status) in [
        ("listed.example/m", 403),
        ("denied.example/m", 403),
        ("kept.example/m", 403),
        ("own.example/m", 403),
        // What is said of all modules, or of some versions, makes nothing private.
        ("some.example/m", 404),
        ("public.example/m", 404),
    ] {
        let path = format!("/sumdb/sum.example/lookup/{module}@v1.0.0");
        assert_eq!(server.get(&path).0, status, "{module}");
        assert_eq!(upstream.asked(&path), usize::from(status == 404), "{module}");
    }
}

fn a_version_is_looked_up_where_its_module_comes_from() {
    let folder = testkit::tempdir();
    let (one, other) = (Upstream::start(), Upstream::start());
    for upstream in [&one, &other] {
        upstream.put("/sumdb/sum.example/supported", "");
    }
    let config = format!(
        "upstream = '{}'\nmode = 'none'\nsumdbs = ['sum.example']\nchecksum = 'off'\n\
         [[module]]\npattern = 'a.example'\nupstream = '{0}'\nmode = 'sync'\n\
         [[module]]\npattern = 'b.example'\nupstream = '{}'\nmode = 'sync'\n",
        one.url(),
        other.url()
    );
    let server = serve(folder.path(), &config);
    assert_eq!(server.get("/sumdb/sum.example/supported").0, 200);
    for module in ["a.example/m", "b.example/m", "c.example/m"] {
        assert_eq!(server.get(&format!("/sumdb/sum.example/lookup/{module}@v1.0.0")).0, 404);
    }
    assert_eq!(server.get("/sumdb/sum.example/tile/8/0/000").0, 404);
    let asked = |upstream: &Upstream| {
        ["lookup/a.example", "lookup/b.example", "lookup/c.example", "tile/"]
            .map(|part| upstream.asked_at(part))
    };
    assert_eq!((asked(&one), asked(&other)), ([1, 0, 0, 1], [0, 1, 0, 0]));
}

fn answers_of_a_former_upstream_are_forgotten() {
    let folder = testkit::tempdir();
    let (public, private) = (Upstream::start(), Upstream::start());
    public.offer("git.corp.example/m@v1.9.9", 100);
    private.offer("git.corp.example/m@v1.0.0", 100);
    let base = format!("upstream = '{}'\nchecksum = 'off'\n", public.url());
    let server = serve(folder.path(), &base);
    let list = "/git.corp.example/m/@v/list";
    assert_eq!(text(server.get(list)), (200, "v1.9.9\n".to_owned()));
    assert!(server.stop().success());

    let rule = format!("[[module]]\npattern = '*.corp.example'\nupstream = '{}'\n", private.url());
    let server = serve(folder.path(), &format!("{base}{rule}"));
    assert_eq!(text(server.get(list)), (200, "v1.0.0\n".to_owned()));
    assert!(server.stop().success());
    // What it said itself it need not be asked for again.
    let asked = private.asked("/list");
    let server = serve(folder.path(), &format!("{base}{rule}"));
    assert_eq!(text(server.get(list)), (200, "v1.0.0\n".to_owned()));
    assert_eq!(private.asked("/list"), asked);
}

fn an_upstream_that_hangs_leaves_room_for_others() {
    let folder = testkit::tempdir();
    let upstream = Upstream::start();
    let module = upstream.offer("example.org/m@v1.0.0", 1000);
    // It takes connections, and says nothing.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "upstream = '{}'\nupstream_idle_timeout = 3600\nchecksum = 'off'\n[fill]\nmax_concurrent = 4\n[[module]]\n\
         pattern = 'bad.example'\nupstream = 'http://{}'\n",
        upstream.url(),
        hangs.local_addr().unwrap()
    );
    let server = serve(folder.path(), &config);
    let ask = |n: usize| {
        let path = format!("/bad.example/m{n}/@v/v1.0.0.zip");
        let url = server.url.clone();
        std::thread::spawn(move || server::get(&url, &path))
    };
    let asking: Vec<_> = (0..40).map(ask).collect();
    // Three quarters of what there is: three slots, where a version has its info, mod and zip asked for, and twenty-one
    // turns more for the info and mod of others.
    let held: Vec<_> = (0..3 * 3 + 21 * 2).map(|_| hangs.accept().unwrap()).collect();
    assert_eq!(server.get("/example.org/m/@v/v1.0.0.zip"), (200, module.zip));
    drop(held);
    drop(server);
    asking.into_iter().for_each(|asking| drop(asking.join().unwrap()));
}
