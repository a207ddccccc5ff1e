//! Missing versions are fetched once, streamed to clients while they arrive, and stored.

use std::sync::Arc;
use std::time::Duration;

use stoa::fill::{Expected, Places, Want};
use stoa::server::ServeOptions;
use stoa::services::{FlightOptions, ServiceOptions, Services};
use stoa::upstream::Via;
use stoa_layout::gate::Mode;

use super::site::{self, INSTANCE, Site};
use testkit::client::Conversation;
use testkit::upstream::{Gate, Module, Script, Upstream};

const LARGE: usize = 2_000_000;
/// The number of bytes that no client gets before the zip is published.
const KEPT_BACK: usize = 64 * 1024;

/// Offers a version whose zip stops after some bytes, until the gate is opened.
fn gated(upstream: &Upstream, module: &Module, sent: usize) -> Gate {
    upstream.serve(module);
    let gate = Gate::default();
    upstream.set(&module.path("zip"), Script::Gated(module.zip.clone(), sent, gate.clone()));
    gate
}

/// The options of services with two downloads of zips at a time.
fn services_of_two() -> ServiceOptions {
    let flights = FlightOptions { max_concurrent: 2, ..FlightOptions::default() };
    ServiceOptions { flights, ..ServiceOptions::default() }
}

/// A site that also downloads the zip when it is asked for an info or a go.mod.
fn eager_site(root: &std::path::Path, upstream: &Upstream, max_concurrent: usize) -> Site {
    let flights = FlightOptions { max_concurrent, is_eager: true, ..FlightOptions::default() };
    let services = ServiceOptions { flights, ..ServiceOptions::default() };
    let options = ServeOptions { services, ..ServeOptions::default() };
    Site::with(site::open(root, Mode::ReadWrite), site::upstream(upstream.url()), options)
}

#[test]
fn many_clients_of_one_version_cause_one_download() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    let gate = gated(&upstream, &module, 100_000);
    std::thread::scope(|scope| {
        let mut asking = Vec::new();
        for number in 0..50 {
            let (site, module) = (&site, &module);
            asking.push(scope.spawn(move || {
                let extension = ["zip", "zip", "mod", "zip", "info"][number % 5];
                let reply = site.get(&module.path(extension));
                let expected = match extension {
                    "zip" => &module.zip,
                    "mod" => &module.modfile,
                    _ => &module.info,
                };
                assert!(reply.status == 200 && reply.is_whole && &reply.body == expected, "{number}");
            }));
        }
        gate.open();
        for asking in asking {
            asking.join().unwrap();
        }
    });
    for extension in ["info", "mod", "zip"] {
        assert_eq!(upstream.count(&module.path(extension)), 1, "{extension}");
    }
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
    assert_eq!(upstream.requests().len(), 3);
    assert!(
        upstream.requests().iter().all(|request| {
            request.headers.to_ascii_lowercase().contains(&format!("via: 1.1 {INSTANCE}"))
        })
    );
}

#[test]
fn two_servers_on_one_store_download_a_version_once() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let sites = [Site::start(folder.path(), upstream.url()), Site::start(folder.path(), upstream.url())];
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    let gate = gated(&upstream, &module, 100_000);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn({
                    let (sites, module) = (&sites, &module);
                    move || sites[number % 2].get(&module.path("zip"))
                })
            })
            .collect();
        gate.open();
        for asking in asking {
            let reply = asking.join().unwrap();
            assert!(reply.status == 200 && reply.is_whole && reply.body == module.zip);
        }
    });
    assert_eq!(upstream.count(&module.path("zip")), 1);
}

#[test]
fn who_dies_over_a_fill_is_succeeded() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    upstream.serve(&module);
    // Another process's claim, as far as this one can tell.
    let store = site::open(folder.path(), Mode::ReadWrite);
    let claim = store.claim(&module.version).unwrap();
    let site = Site::start(folder.path(), upstream.url());
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| site.get(&module.path("zip")));
        assert!(upstream.requests().is_empty());
        drop(claim);
        assert_eq!(asking.join().unwrap().body, module.zip);
    });
}

#[test]
fn a_zip_is_sent_on_while_it_arrives() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    let arrived = 1_000_000;
    let gate = gated(&upstream, &module, arrived);

    let mut client = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let mut head = client.head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), Some(module.zip.len().to_string().as_str()));
    assert_eq!(head.header("content-type"), Some("application/zip"));
    // The upstream has not sent the rest, and does not before the gate is opened below.
    head.body = client.raw(arrived - KEPT_BACK);
    assert_eq!(head.body, module.zip[..arrived - KEPT_BACK]);
    assert!(!site.has(&module.version));

    // What came before the zip is to be had meanwhile.
    assert_eq!(site.get(&module.path("info")).body, module.info);
    assert_eq!(site.get(&module.path("mod")).body, module.modfile);
    gate.open();
    let reply = client.body(head);
    assert!(reply.is_whole && reply.body == module.zip);
    site.wait_for(&module.version);
}

#[test]
fn a_zip_without_a_length_is_sent_in_chunks() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    upstream.serve(&module);
    upstream.set(&module.path("zip"), Script::Chunked(module.zip.clone()));
    let reply = site.get(&module.path("zip"));
    assert!(reply.is_whole && reply.body == module.zip);
    site.wait_for(&module.version);
    assert_eq!(
        site.get(&module.path("zip")).header("content-length"),
        Some(module.zip.len().to_string().as_str())
    );
}

#[test]
fn who_wants_a_part_or_only_the_head_waits_for_the_whole() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    for (number, (method, headers, status)) in [
        ("HEAD", [("X", "y")], 200),
        ("GET", [("Range", "bytes=10-19")], 206),
        ("GET", [("If-None-Match", "*")], 304),
    ]
    .into_iter()
    .enumerate()
    {
        let module = Module::new(&format!("example.com/m@v1.0.{number}"), LARGE);
        upstream.serve(&module);
        let reply = site.ask(method, &module.path("zip"), &headers);
        assert_eq!((reply.status, reply.is_whole), (status, true), "{method} {headers:?}");
        assert!(site.has(&module.version));
        match status {
            206 => assert_eq!(reply.body, module.zip[10..20]),
            200 => assert_eq!(reply.header("content-length"), Some(module.zip.len().to_string().as_str())),
            _ => {}
        }
    }
}

#[test]
fn an_eager_proxy_downloads_the_zip_for_an_info_or_a_mod() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let modules = [Module::new("example.com/m@v1.0.0", LARGE), Module::new("example.com/m@v1.1.0", LARGE)];
    let site = eager_site(folder.path(), &upstream, 16);
    for (module, extension) in modules.iter().zip(["info", "mod"]) {
        let gate = gated(&upstream, module, 0);
        // Answered although the zip is not there.
        assert_eq!(site.get(&module.path(extension)).status, 200);
        assert!(!site.has(&module.version));
        gate.open();
        site.wait_for(&module.version);
    }
    drop(site);
    let site = Site::start(folder.path(), "off");
    for module in &modules {
        assert_eq!(site.get(&module.path("zip")).body, module.zip);
    }
    assert_eq!(site.get("/example.com/m/@v/list").text(), "v1.0.0\nv1.1.0\n");
}

#[test]
fn downloads_without_a_waiting_client_are_limited() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = eager_site(folder.path(), &upstream, 2);
    let gate = Gate::default();
    let modules: Vec<_> =
        (0..6).map(|number| Module::new(&format!("example.com/m@v1.{number}.0"), 1000)).collect();
    for module in &modules {
        upstream.serve(module);
        upstream.set(&module.path("zip"), Script::Gated(module.zip.clone(), 0, gate.clone()));
        assert_eq!(site.get(&module.path("mod")).body, module.modfile);
    }
    let zips = || upstream.requests().iter().filter(|request| request.path.ends_with(".zip")).count();
    // One of the two slots is for those whom somebody waits for.
    assert!(zips() <= 1, "{}", zips());
    let wanted = Module::new("example.com/m@v2.0.0+incompatible", 1000);
    upstream.serve(&wanted);
    assert_eq!(site.get(&wanted.path("zip")).body, wanted.zip);
    upstream.serve(&modules[5]);
    assert_eq!(site.get(&modules[5].path("zip")).body, modules[5].zip);
    gate.open();
    for module in &modules {
        site.wait_for(&module.version);
        assert_eq!(upstream.count(&module.path("zip")), 1);
    }
}

#[test]
fn a_download_continues_without_its_client() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let module = Module::new("example.com/m@v1.0.0", LARGE);
    let gate = gated(&upstream, &module, 500_000);
    let mut client = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    client.head();
    client.raw(1000);
    drop(client);
    gate.open();
    site.wait_for(&module.version);
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
    assert_eq!(upstream.count(&module.path("zip")), 1);
}

#[test]
fn a_client_that_takes_nothing_holds_up_nobody() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    // More than the sockets on the way can hold.
    let module = Module::new("example.com/m@v1.0.0", 16_000_000);
    upstream.serve(&module);
    let mut slow = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let head = slow.head();
    let quick = site.get(&module.path("zip"));
    assert!(quick.is_whole && quick.body == module.zip);
    let late = slow.body(head);
    assert!(late.is_whole && late.body == module.zip);
    assert_eq!(upstream.count(&module.path("zip")), 1);
}

#[test]
fn all_files_of_a_version_come_from_one_upstream() {
    let folder = site::folder();
    let (first, second) = (Upstream::start(), Upstream::start());
    let site = Site::start(folder.path(), &format!("{},{}", first.url(), second.url()));
    // The same names, other bytes; the first has no zip.
    let (mut wrong, right) =
        (Module::new("example.com/m@v1.0.0", 100), Module::new("example.com/m@v1.0.0", 5000));
    wrong.info = br#"{"Version":"v1.0.0","Time":"2001-01-01T00:00:00Z"}"#.to_vec();
    first.serve(&wrong);
    first.set(&wrong.path("zip"), Script::Status(404, "text/plain", b"no"));
    second.serve(&right);
    assert_eq!(site.get(&right.path("zip")).body, right.zip);
    assert_eq!(site.get(&right.path("info")).body, right.info);
}

#[test]
fn a_mod_that_was_told_is_not_replaced_by_that_of_another_upstream() {
    let folder = site::folder();
    let (first, second) = (Upstream::start(), Upstream::start());
    let site = Site::start(folder.path(), &format!("{},{}", first.url(), second.url()));
    let (mut told, other) =
        (Module::new("example.com/m@v1.0.0", 100), Module::new("example.com/m@v1.0.0", 5000));
    told.modfile = b"module example.com/m\n\nrequire example.com/other v1.0.0\n".to_vec();
    first.serve(&told);
    first.set(&told.path("zip"), Script::Status(404, "text/plain", b"no"));
    second.serve(&other);
    assert_eq!(site.get(&told.path("mod")).body, told.modfile);
    let refused = site.get(&other.path("zip"));
    let text = String::from_utf8_lossy(&refused.body);
    assert!(
        refused.status == 502 && text.contains("two upstreams have different go.mod files"),
        "{} {text}",
        refused.status
    );
    site.assert_holds_nothing();
    assert_eq!(site.get(&told.path("mod")).body, told.modfile);
}

/// Two upstreams that have one version, each with an info of its own. The zip of the first has other bytes and never
/// comes whole: `spoil` makes of it what is answered.
fn zip_that_fails(bytes: usize, spoil: impl Fn(Vec<u8>) -> Script) -> (Upstream, Upstream, Module) {
    let (first, second) = (Upstream::start(), Upstream::start());
    let module = Module::new("example.com/m@v1.0.0", bytes);
    second.serve(&module);
    let mut spoilt = module.clone();
    spoilt.info = br#"{"Version":"v1.0.0","Time":"2001-01-01T00:00:00Z"}"#.to_vec();
    spoilt.zip[2..].fill(0);
    first.serve(&spoilt);
    first.set(&module.path("zip"), spoil(spoilt.zip));
    (first, second, module)
}

const SMALL: usize = 5000;

fn cut(zip: Vec<u8>) -> Script {
    Script::Cut(zip, 3000)
}

#[test]
fn behind_a_bar_another_upstream_takes_over_from_one_that_breaks_off() {
    for (method, headers, status) in
        [("GET", [("X", "y")], 200), ("HEAD", [("X", "y")], 200), ("GET", [("Range", "bytes=10-19")], 206)]
    {
        let folder = site::folder();
        let (first, second, module) = zip_that_fails(SMALL, cut);
        let site = Site::start(folder.path(), &format!("{}|{}", first.url(), second.url()));
        let reply = site.ask(method, &module.path("zip"), &headers);
        assert_eq!((reply.status, reply.is_whole), (status, true), "{method} {headers:?}");
        match (method, status) {
            (_, 206) => assert_eq!(reply.body, module.zip[10..20]),
            ("HEAD", _) => {
                assert_eq!(reply.header("content-length"), Some(module.zip.len().to_string().as_str()));
            }
            _ => assert_eq!(reply.body, module.zip),
        }
        assert_eq!((first.count(&module.path("zip")), second.count(&module.path("zip"))), (2, 1));
        // All of what is stored is from the second.
        for (extension, expected) in [("zip", &module.zip), ("info", &module.info), ("mod", &module.modfile)]
        {
            assert_eq!(&site.get(&module.path(extension)).body, expected, "{extension}");
        }
        assert_eq!(second.count(&module.path("zip")), 1);
        assert!(site.drafts().is_empty(), "{:?}", site.drafts());
    }
}

#[test]
fn behind_a_bar_another_upstream_takes_over_from_one_that_stalls() {
    let folder = site::folder();
    let (first, second, module) = zip_that_fails(SMALL, |zip| Script::Gated(zip, 3000, Gate::default()));
    let list = format!("{}|{}", first.url(), second.url());
    let upstream = site::upstream_with(&list, Duration::from_secs(1));
    let site = Site::with(site::open(folder.path(), Mode::ReadWrite), upstream, ServeOptions::default());
    let reply = site.get(&module.path("zip"));
    assert!(reply.status == 200 && reply.is_whole && reply.body == module.zip, "{}", reply.status);
    assert!(site.drafts().is_empty(), "{:?}", site.drafts());
}

#[test]
fn no_client_gets_a_zip_made_of_two() {
    let folder = site::folder();
    let (gate, arrived) = (Gate::default(), 1_000_000);
    let (first, second, module) = zip_that_fails(LARGE, |zip| Script::GatedCut(zip, arrived, gate.clone()));
    let second_gate = Gate::default();
    second.set(&module.path("zip"), Script::Gated(module.zip.clone(), arrived, second_gate.clone()));
    let site = Site::start(folder.path(), &format!("{}|{}", first.url(), second.url()));

    let mut early = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let mut head = early.head();
    assert_eq!(head.status, 200);
    head.body = early.raw(1000);
    gate.open();
    let broken = early.body(head);
    assert!(!broken.is_whole && broken.body.len() <= arrived);
    assert!(broken.body.starts_with(b"PK") && broken.body[2..].iter().all(|byte| *byte == 0));

    // Who comes now joins the same flight.
    let mut late = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let mut head = late.head();
    assert_eq!(head.status, 200);
    head.body = late.raw(arrived - KEPT_BACK);
    assert!(!site.has(&module.version));
    assert_eq!(site.drafts().len(), 1, "that of the first is gone");
    second_gate.open();
    let reply = late.body(head);
    assert!(reply.is_whole && reply.body == module.zip);
    // The first is asked to continue, too.
    assert_eq!((first.count(&module.path("zip")), second.count(&module.path("zip"))), (2, 1));
    site.wait_for(&module.version);
    assert_eq!(site.get(&module.path("zip")).body, module.zip);
    assert!(site.drafts().is_empty(), "{:?}", site.drafts());
}

#[test]
fn behind_a_comma_a_zip_that_breaks_off_is_no_absence() {
    let folder = site::folder();
    let (first, second, module) = zip_that_fails(SMALL, cut);
    let site = Site::start(folder.path(), &format!("{},{}", first.url(), second.url()));
    let reply = site.get(&module.path("zip"));
    assert_eq!((reply.status, reply.header("cache-control")), (502, Some("no-store")), "{}", reply.text());
    assert_eq!(first.count(&module.path("zip")), 2);
    assert!(second.requests().is_empty());
    site.assert_holds_nothing();
}

#[test]
fn a_zip_that_breaks_off_is_asked_for_once_more() {
    let folder = site::folder();
    let (upstream, gate) = (Upstream::start(), Gate::default());
    let module = Module::new("example.com/m@v1.0.0", SMALL);
    upstream.serve(&module);
    upstream.set(&module.path("zip"), Script::GatedCut(module.zip.clone(), 3000, gate.clone()));
    let site = Site::start(folder.path(), upstream.url());
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| site.get(&module.path("zip")));
        upstream.wait_until_asked(&module.path("zip"), 1);
        upstream.set(&module.path("zip"), Script::Body(module.zip.clone()));
        gate.open();
        let reply = asking.join().unwrap();
        assert!(reply.status == 200 && reply.is_whole && reply.body == module.zip, "{}", reply.status);
    });
    assert_eq!(upstream.count(&module.path("zip")), 2);
    assert!(site.drafts().is_empty(), "{:?}", site.drafts());
}

#[test]
fn a_zip_that_breaks_off_is_not_absent_since_the_next_upstream_has_none() {
    let folder = site::folder();
    let (first, second, module) = zip_that_fails(SMALL, cut);
    second.set(&module.path("zip"), Script::Status(404, "text/plain", b"no"));
    let site = Site::start(folder.path(), &format!("{}|{}", first.url(), second.url()));
    let reply = site.get(&module.path("zip"));
    assert!(reply.status == 502 && reply.text().contains(first.url()), "{} {}", reply.status, reply.text());
    assert_eq!(second.count(&module.path("zip")), 1);
    site.assert_holds_nothing();
}

#[test]
fn a_transfer_that_differs_from_the_stored_zip_is_aborted() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let (ours, theirs) =
        (Module::new("example.com/m@v1.0.0", LARGE), Module::new("example.com/m@v1.0.0", 5000));
    let gate = gated(&upstream, &ours, 500_000);
    let mut client = Conversation::begin(site.address, "GET", &ours.path("zip"), "HTTP/1.1", &[]);
    let head = client.head();
    // Somebody who holds no claim: a hand, a restored backup.
    site.put_unsealed(&theirs);
    gate.open();
    let broken = client.body(head);
    assert!(!broken.is_whole && broken.body.len() < ours.zip.len());
    let stored = site.get(&ours.path("zip"));
    assert!(stored.is_whole && stored.body == theirs.zip);
}

/// As many versions as may be begun at a time with two fills, none of which gets on before the gate opens.
fn crowd(upstream: &Upstream, gate: &Gate) -> Vec<Module> {
    let crowd: Vec<_> =
        (0..16).map(|number| Module::new(&format!("example.com/crowd@v1.{number}.0"), 1000)).collect();
    for module in &crowd {
        upstream.serve(module);
        upstream.set(&module.path("info"), Script::Gated(module.info.clone(), 0, gate.clone()));
    }
    crowd
}

#[test]
fn what_waits_for_its_turn_holds_no_claim() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let gate = Gate::default();
    let crowd = crowd(&upstream, &gate);
    let late = Module::new("example.com/late@v1.0.0", 1000);
    upstream.serve(&late);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = site::open(folder.path(), Mode::ReadWrite);
    runtime.block_on(async {
        let options = services_of_two();
        let services = Services::new(Arc::clone(&store), site::upstream(upstream.url()), options);
        let join = |module: &Module| {
            let policy = services.policy.load();
            let permit = policy.permit(&module.version).unwrap();
            services.flights.join(permit, &Via::none(), Want::Zip, Places::All, &Expected::default()).unwrap()
        };
        let waiting: Vec<_> = crowd.iter().map(join).collect();
        while crowd.iter().any(|module| upstream.count(&module.path("info")) == 0) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let late_one = join(&late);
        let abandoned = Module::new("example.com/abandoned@v1.0.0", 1000);
        upstream.serve(&abandoned);
        drop(join(&abandoned));
        // Another process has a go in between.
        for module in [&late, &abandoned] {
            assert!(store.try_claim(&module.version).unwrap().is_some());
        }
        gate.open();
        for waiter in waiting {
            waiter.stored().await.unwrap();
        }
        late_one.stored().await.unwrap();
        // Nobody waited for this one when its turn came.
        assert_eq!(upstream.count(&abandoned.path("info")), 0);
        join(&abandoned).stored().await.unwrap();
        assert_eq!(upstream.count(&abandoned.path("info")), 1);
        services.end().await;
    });
}

#[test]
fn a_name_that_no_file_can_have_is_absent() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let site = Site::start(folder.path(), upstream.url());
    let long = "a".repeat(300);
    let deep = "x/".repeat(2100);
    for name in [format!("example.com/{long}"), format!("example.com/{deep}y")] {
        for file in ["@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/list", "@latest"] {
            let reply = site.get(&format!("/{name}/{file}"));
            assert_eq!(reply.status, 404, "{file} {}", reply.text());
        }
    }
    let reply = site.get(&format!("/example.com/m/@v/v1.0.0-{long}.zip"));
    assert_eq!(reply.status, 404, "{}", reply.text());
    assert!(!upstream.requests().iter().any(|request| request.path.ends_with(".zip")));
}
