//! `stoa serve` with a bucket that fails, is slow, or has lost an object.

use std::thread;
use std::time::Duration;

use testkit::gcs::{Failing, Gcs};
use testkit::server::Server;
use testkit::upstream::Upstream;
use testkit::{Case, cases, transcript};

use super::bucket_read_only::prepare;
use super::bucket_serve::{serve, whole, with_bucket};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        in_an_outage_stored_versions_are_served_and_nothing_is_downloaded,
        a_server_starts_in_an_outage_if_it_knows_the_bucket,
        a_module_that_no_upstream_has_is_not_absent_in_an_outage,
        a_slow_list_is_no_outage_and_comes_with_a_later_request,
        a_client_that_must_not_cause_a_download_causes_none_if_the_bucket_cannot_be_read,
    ]
}

fn in_an_outage_stored_versions_are_served_and_nothing_is_downloaded() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let (known, missing) =
        (upstream.offer("example.com/m@v1.0.0", 1000), upstream.offer("example.com/m@v1.1.0", 1000));
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    whole(&server, &known);
    gcs.fail(|_| Some(Failing::Status(503)));
    let reply = server.ask("GET", &missing.path("zip"), &[]);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("30")), "{}", reply.text());
    assert!(
        reply.text().contains("cannot get example.com/m@v1.1.0: the bucket of this proxy cannot be used"),
        "{}",
        reply.text()
    );
    let reply = server.ask("GET", &missing.path("zip"), &[("Disable-Module-Fetch", "true")]);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("30")), "{}", reply.text());
    whole(&server, &known);
    let ready = String::from_utf8(server.get("/readyz").1).unwrap();
    assert!(ready.contains("degraded: the bucket cannot be used"), "{ready}");
    assert_eq!(upstream.asked_at("v1.1.0"), 0);
    assert_eq!(server.get("/example.com/m/@v/list"), (200, b"v1.0.0\nv1.1.0\n".to_vec()));
    gcs.recover();
    whole(&server, &missing);
    assert_eq!(server.get("/readyz"), (200, b"ready\n".to_vec()));
}

fn a_server_starts_in_an_outage_if_it_knows_the_bucket() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let (known, missing) =
        (upstream.offer("example.com/m@v1.0.0", 1000), upstream.offer("example.com/m@v1.1.0", 1000));
    gcs.fail(|_| Some(Failing::Closed));
    let refused = with_bucket(&gcs, dir.path(), Some(upstream.url())).output().unwrap();
    assert_eq!(refused.status.code(), Some(69), "{}", transcript(&refused));
    gcs.recover();
    whole(&serve(&gcs, dir.path(), Some(upstream.url())), &known);
    gcs.fail(|_| Some(Failing::Closed));
    let server = serve(&gcs, dir.path(), Some(upstream.url()));
    whole(&server, &known);
    assert_eq!(server.get(&missing.path("zip")).0, 503);
    gcs.recover();
    whole(&server, &missing);
}

fn a_module_that_no_upstream_has_is_not_absent_in_an_outage() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 500);
    whole(&serve(&gcs, &dir.path().join("first"), Some(upstream.url())), &module);
    let other = Upstream::start();
    let server = serve(&gcs, &dir.path().join("second"), Some(other.url()));
    gcs.fail(|_| Some(Failing::Status(403)));
    let names = ["/example.com/m/@v/list", "/example.com/m/@latest", "/example.com/m/@v/v1.info"];
    for path in names {
        let reply = server.ask("GET", path, &[]);
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (503, Some("30")),
            "{path}: {}",
            reply.text()
        );
    }
    gcs.recover();
    for path in names {
        testkit::until("the bucket is used again", || server.get(path).0 == 200);
    }
    assert_eq!(server.get("/example.com/none/@v/list").0, 404);
}

fn a_slow_list_is_no_outage_and_comes_with_a_later_request() {
    let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
    let [slow, other] =
        ["example.com/slow@v1.0.0", "example.com/m@v1.0.0"].map(|pair| upstream.offer(pair, 500));
    let first = serve(&gcs, &dir.path().join("first"), Some(upstream.url()));
    [&slow, &other].into_iter().for_each(|module| whole(&first, module));
    drop(first);
    prepare(&dir.path().join("second"));
    let mut command = with_bucket(&gcs, &dir.path().join("second"), None);
    let server = Server::start_with(command.arg("--read-only").env("STOA_FILL_LIST_TTL", "60"));
    gcs.fail(|asked| {
        let is_slow = asked.method == "LIST" && asked.key.contains("/m/example.com/slow/");
        is_slow.then_some(Failing::Late(Duration::from_secs(12)))
    });
    gcs.take_asked();
    let list = || server.ask("GET", "/example.com/slow/@v/list", &[]);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(list)).collect();
        for client in waiting {
            let reply = client.join().unwrap();
            assert_eq!((reply.status, reply.header("retry-after")), (503, Some("30")), "{}", reply.text());
        }
    });
    // The bucket is used meanwhile.
    for path in ["/example.com/m/@v/list", "/example.com/m/@latest", "/example.com/slow/@v/v1.0.0.info"] {
        assert_eq!(server.get(path).0, 200, "{path}");
    }
    assert_eq!(server.get("/readyz"), (200, b"ready\n".to_vec()));
    testkit::until("the list is there", || list().status == 200);
    assert_eq!(list().body, b"v1.0.0\n");
    let listings = gcs
        .take_asked()
        .into_iter()
        .filter(|asked| asked.method == "LIST" && asked.key.contains("/m/example.com/slow/"));
    assert_eq!(listings.count(), 1);
}

fn a_client_that_must_not_cause_a_download_causes_none_if_the_bucket_cannot_be_read() {
    for damage in ["a bit", "gone"] {
        let (gcs, upstream, dir) = (Gcs::start(), Upstream::start(), testkit::tempdir());
        let module = upstream.offer("example.com/m@v1.0.0", 200_000);
        let first = serve(&gcs, &dir.path().join("first"), Some(upstream.url()));
        whole(&first, &module);
        assert!(first.stop().success());
        let asked = upstream.asked_at("v1.0.0");
        let zip = gcs.keys("go/~stoa/").into_iter().find(|key| key.ends_with(".zip")).unwrap();
        match damage {
            "gone" => gcs.delete(&zip),
            _ => {
                let generation = gcs.get(&zip).unwrap().generation;
                gcs.change(&zip, |object| object.data[100_000] ^= 1);
                gcs.set_generation(&zip, generation);
            }
        }
        let log = dir.path().join("log");
        let start = |store: &str, mode: &str| {
            let mut command = with_bucket(&gcs, &dir.path().join(store), Some(upstream.url()));
            command.env("STOA_MODE", mode).env("STOA_REDIRECT_URL", "http://elsewhere.example");
            command.stderr(std::fs::File::create(&log).unwrap());
            Server::start_with(&mut command)
        };
        let server = start("local", "sync");
        let local = || server.ask("GET", &module.path("zip"), &[("Disable-Module-Fetch", "true")]);
        // The beginning of a zip is sent before its end is verified.
        let reply = local();
        assert!(reply.status == 404 || !reply.is_whole, "{damage}: {}", reply.status);
        assert_eq!(local().status, 404, "{damage}");
        let logged = std::fs::read_to_string(&log).unwrap();
        assert!(!logged.contains("the upstream sent"), "{logged}");
        if damage == "a bit" {
            assert!(logged.contains("the bucket gs://modules/go has an invalid version"), "{logged}");
        }
        drop(server);
        let server = start("redirect", "redirect");
        let reply = server.ask("GET", &module.path("zip"), &[]);
        assert_eq!((reply.status, upstream.asked_at("v1.0.0")), (302, asked), "{damage}");
        drop(server);
        // Another client heals it.
        whole(&start("sync", "sync"), &module);
        assert!(upstream.asked_at("v1.0.0") > asked);
    }
}
