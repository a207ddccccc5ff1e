//! Faults at the requests of rarer work on a bucket: a download after a removal, the takeover of a claim, versions that
//! only a store has, and derived objects.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use testkit::bucket::{Service, TestBucket};
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::request_sweep::{self, Make, Scenario, lasts};
use testkit::server::{self, Server, command};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, cases, slow, trial};

use super::bucket_programs::{
    asked_for, behind, disturbed, let_time_pass, migrate, modules, serve, served, stoa, succeeds,
    upgrade_now, upgraded,
};

const SCENARIOS: [(&str, Make); 3] = [
    ("a download after a removal", download_after_removal),
    ("the publication of stored versions", stored_versions),
    ("a regeneration", regeneration),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![the_takeover_of_a_claim_survives_every_fault];
    for (name, scenario) in SCENARIOS {
        for service in [Service::Gcs, Service::S3] {
            let run = move || request_sweep::sweep(&service.start_here(), scenario, &faults(), lasts);
            let name = format!("{name} survives every fault on {service}");
            cases.push(trial(&name, None, run).needs(service.needs_here()));
        }
    }
    slow(cases)
}

/// Returns the faults to try. The manifests of other work are written by the same code, which the other sweeps disturb
/// in every way.
fn faults() -> Vec<Fault> {
    let mut faults = request_sweep::faults();
    if !faults.contains(&Fault::SuspendAfter) {
        faults.push(Fault::SuspendAfter);
    }
    faults
}

fn asked_now(bucket: &TestBucket, module: &Module, upstream: &str, what: &str) {
    let dir = testkit::tempdir();
    let server = serve(bucket, bucket.environment(), dir.path(), Some(upstream));
    let (status, found) = server.get(&module.path("zip"));
    assert!(status == 200 && found == module.zip, "{what}: {status} {}", String::from_utf8_lossy(&found));
    // A killed one leaves its claim, which another would wait for.
    server.stop();
}

/// A version that was removed without a tombstone is downloaded again: its manifest is replaced, not created.
fn download_after_removal() -> Scenario {
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let modules: [Module; 5] = std::array::from_fn(|_| module.clone());
    let urls: [String; 4] = std::array::from_fn(|_| upstream.url().to_owned());
    let ([first, second, acknowledged, third, fourth], [one, two, three, four]) = (modules, urls);
    Scenario {
        prepare: Box::new(move |bucket| {
            upgrade_now(bucket, "creation");
            asked_now(bucket, &first, &one, "the first download");
            let remove = ["remove", "example.com/m@v1.0.0"];
            succeeds(&mut stoa(bucket, bucket.environment(), &remove), "the removal");
        }),
        run: Box::new(move |bucket, proxy| asked_for(bucket, proxy, &second, Some(&two))),
        promise: Some(Box::new(move |bucket, what| {
            served(bucket, std::slice::from_ref(&acknowledged), what);
        })),
        meanwhile: Arc::new(move |bucket| {
            let_time_pass(bucket);
            asked_now(bucket, &third, &three, "another server meanwhile");
        }),
        judge: Box::new(move |bucket, what| {
            let_time_pass(bucket);
            asked_now(bucket, &fourth, &four, what);
            served(bucket, std::slice::from_ref(&fourth), what);
        }),
    }
}

/// Copies a store that no server uses.
fn copied(store: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(store).arg(to).output().unwrap();
    assert!(output.status.success());
}

/// A store that was filled before it got a bucket: the server publishes its versions.
fn stored_versions() -> Scenario {
    let upstream = Upstream::start();
    let all: Arc<[Module]> =
        (0..2).map(|n| upstream.offer(&format!("example.com/m@v1.0.{n}"), 500)).collect();
    let dir = Arc::new(testkit::tempdir());
    let store = dir.path().join("store");
    {
        let mut command = command(&store);
        let alone = Server::start_with(command.args(["--upstream", upstream.url()]).env("GOSUMDB", "off"));
        all.iter().for_each(|module| assert_eq!(alone.get(&module.path("zip")).0, 200));
        assert!(alone.stop().success());
    }
    // Asks a server with a copy of the store for all versions, so that each is compared with the bucket.
    let ask = {
        let (all, dir) = (Arc::clone(&all), Arc::clone(&dir));
        move |bucket: &TestBucket, proxy: Option<&FaultProxy>| {
            let copy = testkit::tempdir();
            let copy = copy.path().join("store");
            copied(&dir.path().join("store"), &copy);
            let environment = proxy.map_or_else(|| bucket.environment(), |proxy| behind(bucket, proxy));
            let server = serve(bucket, environment, &copy, None);
            if let Some(proxy) = proxy {
                proxy.set_process(server.pid());
            }
            // A fault may have killed it.
            let is_served = all.iter().all(|module| {
                server::get(&server.url, &module.path("zip"))
                    .is_ok_and(|(status, body)| status == 200 && body == module.zip)
            });
            assert!(is_served || proxy.is_some());
            server.stop();
            fs::remove_dir_all(&copy).unwrap();
            is_served
        }
    };
    let (run, meanwhile, judge) = (ask.clone(), ask.clone(), ask);
    Scenario {
        prepare: Box::new(|bucket| upgrade_now(bucket, "creation")),
        run: Box::new(move |bucket, proxy| run(bucket, Some(proxy))),
        // It serves what it has stored, also if it cannot publish it yet.
        promise: None,
        meanwhile: Arc::new(move |bucket| assert!(meanwhile(bucket, None))),
        judge: Box::new(move |bucket, what| {
            judge(bucket, None);
            served(bucket, &all, what);
        }),
    }
}

/// Somebody has deleted what follows from the manifests.
fn regeneration() -> Scenario {
    let regenerate = |bucket: &TestBucket, environment| {
        let mut command = migrate(bucket, environment, "b1");
        command.arg("--regenerate");
        command
    };
    Scenario {
        prepare: Box::new(|bucket| {
            upgraded(bucket);
            let remove = ["remove", "--tombstone", "example.com/Mod@v1.0.0"];
            succeeds(&mut stoa(bucket, bucket.environment(), &remove), "the removal");
            let is_derived = |key: &&String| key.contains("/x/") || key.ends_with("/gone");
            bucket.keys("~stoa/").iter().filter(is_derived).for_each(|key| bucket.delete(key));
        }),
        run: Box::new(move |bucket, proxy| {
            disturbed(proxy, &mut regenerate(bucket, behind(bucket, proxy))) == Some(0)
        }),
        promise: Some(Box::new(is_regenerated)),
        meanwhile: Arc::new(move |bucket| {
            succeeds(&mut regenerate(bucket, bucket.environment()), "another regeneration meanwhile");
        }),
        judge: Box::new(move |bucket, what| {
            succeeds(&mut regenerate(bucket, bucket.environment()), what);
            is_regenerated(bucket, what);
            let dir = testkit::tempdir();
            let server = serve(bucket, bucket.environment(), dir.path(), None);
            assert_eq!(server.get("/example.com/!mod/@v/list").1, b"v1.0.1\nv1.0.2\n", "{what}");
            assert_eq!(server.get(&modules()[0].path("zip")).0, 410, "{what}");
            drop(server);
            served(bucket, &modules()[1..], what);
        }),
    }
}

/// Checks that the note of the removed version and the list of removals are there.
fn is_regenerated(bucket: &TestBucket, what: &str) {
    let keys = bucket.keys("~stoa/");
    for part in ["/x/example.com/Mod/@v/v1.0.0", "/gone"] {
        assert_eq!(keys.iter().filter(|key| key.ends_with(part)).count(), 1, "{what}: {keys:?}");
    }
}

/// The claim of a server that has died is replaced after half a minute. The faults strike at that request, each in a
/// bucket of its own, at the same time.
fn the_takeover_of_a_claim_survives_every_fault() {
    let (service, upstream) = (Service::Gcs.start_here(), Upstream::start());
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let counts = |asked: &testkit::gcs::Asked| asked.key.contains("/claims/");
    thread::scope(|scope| {
        for fault in request_sweep::all_faults() {
            let (bucket, module, upstream) = (Arc::new(service.bucket()), &module, upstream.url());
            scope.spawn(move || {
                let what = format!("{fault} at the takeover of a claim");
                upgrade_now(&bucket, &what);
                abandoned_claim(&bucket, module, upstream);
                let proxy = FaultProxy::start(&bucket, counts);
                let other = Arc::clone(&bucket);
                let (again, url) = (module.clone(), upstream.to_owned());
                // The first request that counts tries to make a claim, and the second one takes the other one over.
                proxy.inject(2, fault, move || {
                    let_time_pass(&other);
                    asked_now(&other, &again, &url, "another server meanwhile");
                });
                asked_for(&bucket, &proxy, module, Some(upstream));
                assert!(proxy.is_hit(), "{what}");
                assert_eq!(proxy.counted()[1].method, "PUT", "{what}");
                let_time_pass(&bucket);
                asked_now(&bucket, module, upstream, &what);
                served(&bucket, std::slice::from_ref(module), &what);
            });
        }
    });
}

/// Leaves the claim of a server that was killed during a download.
fn abandoned_claim(bucket: &TestBucket, module: &Module, upstream: &str) {
    let proxy = FaultProxy::start(bucket, |asked| asked.key.contains("/claims/"));
    proxy.inject(1, Fault::KillAfter, || {});
    assert!(!asked_for(bucket, &proxy, module, Some(upstream)));
    assert!(proxy.is_hit() && bucket.keys("~stoa/").iter().any(|key| key.contains("/claims/")));
}
