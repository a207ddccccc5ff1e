//! Faults at every request that changes a bucket, on each service: the process is killed or suspended, the request or its
//! answer is lost, or the service answers with an error. Afterwards nothing is lost, nothing wrong is served, and a second
//! run ends whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use testkit::bucket::{Service, TestBucket};
use testkit::fault_proxy::Fault;
use testkit::request_sweep::{self, Make, Scenario, lasts};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, slow, transcript, trial};

use super::bucket_programs::{
    Environment, STATE, all_contents_exist, as_athens, asked_for, athens, behind, disturbed, downgrade_now,
    folder, let_time_pass, manifests, migrate, mixed, modules, others, serve, served, stoa, succeeds,
    upgrade_now, upgraded, zips,
};

/// The scenarios. Together they make each kind of request.
const SCENARIOS: [(&str, Make); 4] = [
    ("an upgrade", upgrade),
    ("a downgrade", downgrade),
    ("a publication", publication),
    ("a removal", removal),
];

/// More scenarios, with the same requests. Azure's emulator is slow.
const MORE_SCENARIOS: [(&str, Make); 5] = [
    ("an undone downgrade", undone_downgrade),
    ("an adoption", adoption),
    ("a verification", verification),
    ("an import", import),
    ("a purge of the quarantine", purge),
];

/// The scenarios that only the double can prepare, which makes objects old.
const SCENARIOS_OF_THE_DOUBLE: [(&str, Make); 1] = [("a removal of unreferenced objects", prune)];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let of_all = SCENARIOS.map(|scenario| (scenario, &Service::ALL[..]));
    let of_two = MORE_SCENARIOS.map(|scenario| (scenario, &[Service::Gcs, Service::S3][..]));
    let of_the_double = SCENARIOS_OF_THE_DOUBLE.map(|scenario| (scenario, &[Service::Gcs][..]));
    for ((name, scenario), services) in of_all.into_iter().chain(of_two).chain(of_the_double) {
        for &service in services {
            let run = move || request_sweep::sweep(&service.start_here(), scenario, &faults(service), lasts);
            let name = format!("{name} survives every fault on {service}");
            cases.push(trial(&name, None, run).needs(service.needs_here()));
        }
    }
    slow(cases)
}

/// Returns the faults to try on a service. The double is fast; the others show that it behaves as they do.
fn faults(service: Service) -> Vec<Fault> {
    if service == Service::Gcs { request_sweep::all_faults() } else { request_sweep::faults() }
}

fn upgrade() -> Scenario {
    Scenario {
        prepare: Box::new(athens),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut migrate(bucket, behind(bucket, proxy), "b1")) == Some(0)
        }),
        promise: Some(Box::new(|bucket, what| {
            let state = bucket.text(STATE);
            assert!(state.contains("\"layout.b1\"") && !state.contains("[lease]"), "{what}: {state}");
            assert_eq!(all_contents_exist(bucket, what), modules().len(), "{what}");
        })),
        meanwhile: Arc::new(|bucket| {
            let_time_pass(bucket);
            upgrade_now(bucket, "another upgrade meanwhile");
        }),
        judge: Box::new(|bucket, what| {
            assert_eq!(others(bucket), as_athens(&modules()), "{what}");
            let_time_pass(bucket);
            upgrade_now(bucket, what);
            assert_eq!(others(bucket), as_athens(&modules()), "{what}");
            served(bucket, &modules(), what);
        }),
    }
}

/// Checks that the bucket has the files of Athens of all versions, and nothing else of this program than its state.
fn is_left(bucket: &TestBucket, all: &[Module], what: &str) {
    assert_eq!(others(bucket), as_athens(all), "{what}");
    assert_eq!(bucket.keys("~stoa/"), [STATE], "{what}");
    let state = bucket.text(STATE);
    assert!(state.contains("\"left.athens\"") && !state.contains("[lease]"), "{what}: {state}");
}

/// A downgrade. Another process runs in its middle, and after it.
fn downgrade_and(other: fn(&TestBucket, &str), judge: fn(&TestBucket, &[Module], &str)) -> Scenario {
    let (prepare, all) = mixed();
    let all: Arc<[Module]> = all.into();
    let expected = Arc::clone(&all);
    let has_other_run = Arc::new(AtomicBool::new(false));
    let [begun, checked, suspended] = std::array::from_fn(|_| Arc::clone(&has_other_run));
    Scenario {
        prepare: Box::new(move |bucket| {
            begun.store(false, Ordering::SeqCst);
            prepare(bucket);
        }),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut migrate(bucket, behind(bucket, proxy), "athens")) == Some(0)
        }),
        promise: Some(Box::new(move |bucket, what| {
            // The other process may have been the last one, and have undone the downgrade.
            let is_undone = bucket.text(STATE).contains("\"layout.b1\"");
            match is_undone && checked.load(Ordering::SeqCst) {
                true => assert_eq!(all_contents_exist(bucket, what), expected.len(), "{what}"),
                false => is_left(bucket, &expected, what),
            }
        })),
        meanwhile: Arc::new(move |bucket| {
            let_time_pass(bucket);
            other(bucket, "another process meanwhile");
            suspended.store(true, Ordering::SeqCst);
        }),
        judge: Box::new(move |bucket, what| {
            let_time_pass(bucket);
            other(bucket, what);
            judge(bucket, &all, what);
        }),
    }
}

fn downgrade() -> Scenario {
    downgrade_and(downgrade_now, is_left)
}

/// A downgrade after which, or in the middle of which, somebody wants the layout of this program again.
fn undone_downgrade() -> Scenario {
    downgrade_and(upgrade_now, served)
}

fn publication() -> Scenario {
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let (published, other) = (module.clone(), module.clone());
    let urls: [String; 3] = std::array::from_fn(|_| upstream.url().to_owned());
    let [first, second, third] = urls;
    Scenario {
        prepare: Box::new(|bucket| upgrade_now(bucket, "creation")),
        run: Box::new(move |bucket, proxy| asked_for(bucket, proxy, &published, Some(&first))),
        // A client has the whole zip: every server has it from now on.
        promise: Some(Box::new(|bucket, what| assert_eq!(all_contents_exist(bucket, what), 1, "{what}"))),
        meanwhile: Arc::new(move |bucket| {
            let_time_pass(bucket);
            let dir = testkit::tempdir();
            let server = serve(bucket, bucket.environment(), dir.path(), Some(&second));
            assert_eq!(server.get(&other.path("zip")), (200, other.zip.clone()));
        }),
        judge: Box::new(move |bucket, what| {
            let_time_pass(bucket);
            let dir = testkit::tempdir();
            let server = serve(bucket, bucket.environment(), dir.path(), Some(&third));
            assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()), "{what}");
            drop(server);
            served(bucket, std::slice::from_ref(&module), what);
        }),
    }
}

fn adoption() -> Scenario {
    let adopted = || modules().remove(0);
    Scenario {
        prepare: Box::new(move |bucket| {
            bucket.save(&Module::new("example.com/first@v1.0.0", 500));
            upgrade_now(bucket, "the first upgrade");
            bucket.save(&adopted());
        }),
        run: Box::new(move |bucket, proxy| asked_for(bucket, proxy, &adopted(), None)),
        promise: Some(Box::new(|bucket, what| assert_eq!(all_contents_exist(bucket, what), 2, "{what}"))),
        meanwhile: Arc::new(move |bucket| served(bucket, &[adopted()], "by another server meanwhile")),
        judge: Box::new(move |bucket, what| {
            let_time_pass(bucket);
            served(bucket, &[adopted()], what);
        }),
    }
}

fn removal() -> Scenario {
    const FORBID: [&str; 3] = ["remove", "--tombstone", "example.com/Mod@v1.0.0"];
    Scenario {
        prepare: Box::new(upgraded),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &FORBID)) == Some(0)
        }),
        promise: Some(Box::new(|bucket, what| {
            let absent: Vec<_> =
                manifests(bucket).into_iter().filter(|manifest| manifest["state"] == "absent").collect();
            assert_eq!(absent.len(), 1, "{what}");
            assert!(absent[0]["record"]["tombstone"].is_object(), "{what}: {}", absent[0]);
            let gone = bucket.keys("~stoa/").into_iter().find(|key| key.ends_with("/gone"));
            let gone = bucket.text(&gone.expect(what));
            assert!(gone.contains("example.com/Mod@v1.0.0"), "{what}: {gone}");
            assert!(others(bucket) == as_athens(&modules()[1..]), "{what}: {:?}", others(bucket).keys());
        })),
        meanwhile: Arc::new(|bucket| {
            succeeds(&mut stoa(bucket, bucket.environment(), &FORBID), "another removal meanwhile");
        }),
        judge: Box::new(|bucket, what| {
            succeeds(&mut stoa(bucket, bucket.environment(), &FORBID), what);
            let dir = testkit::tempdir();
            let server = serve(bucket, bucket.environment(), dir.path(), None);
            assert_eq!(server.get(&modules()[0].path("zip")).0, 410, "{what}");
            drop(server);
            served(bucket, &modules()[1..], what);
        }),
    }
}

fn verification() -> Scenario {
    let verify = |bucket: &TestBucket, what: &str| {
        let output = stoa(bucket, bucket.environment(), &["verify"]).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {}", transcript(&output));
        transcript(&output)
    };
    Scenario {
        // Two intact versions, and one whose zip is corrupt.
        prepare: Box::new(|bucket| {
            bucket.save(&modules().remove(0).with_bad_crc());
            modules()[1..].iter().for_each(|module| bucket.save(module));
            upgrade_now(bucket, "the first upgrade");
        }),
        run: Box::new(|bucket, proxy| {
            // One version is corrupt.
            disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &["verify"])) == Some(1)
        }),
        promise: Some(Box::new(|bucket, what| {
            assert_eq!(all_contents_exist(bucket, what), 2, "{what}");
            let is_sealed = |manifest: &serde_json::Value| manifest["content"]["zip"]["h1"].is_string();
            assert_eq!(manifests(bucket).iter().filter(|one| is_sealed(one)).count(), 2, "{what}");
            assert!(bucket.keys("~stoa/").iter().any(|key| key.contains("/q/")), "{what}");
        })),
        meanwhile: Arc::new(move |bucket| drop(verify(bucket, "another verification meanwhile"))),
        judge: Box::new(move |bucket, what| {
            verify(bucket, what);
            let text = verify(bucket, what);
            assert!(text.contains("2 already verified; 0 corrupt"), "{what}: {text}");
            let quarantined = bucket.keys("~stoa/").iter().filter(|key| key.contains("/q/")).count();
            assert!((1..=2).contains(&quarantined), "{what}: {quarantined}");
            served(bucket, &modules()[1..], what);
        }),
    }
}

fn import() -> Scenario {
    let dir = Arc::new(folder(&modules()));
    let import = move |bucket: &TestBucket, environment: Environment| {
        stoa(bucket, environment, &["import", dir.path().to_str().unwrap()])
    };
    let (other, again) = (import.clone(), import.clone());
    Scenario {
        prepare: Box::new(|bucket| upgrade_now(bucket, "creation")),
        run: Box::new(move |bucket, proxy| {
            disturbed(proxy, &mut import(bucket, behind(bucket, proxy))) == Some(0)
        }),
        promise: Some(Box::new(|bucket, what| {
            assert_eq!(all_contents_exist(bucket, what), modules().len(), "{what}");
        })),
        meanwhile: Arc::new(move |bucket| {
            succeeds(&mut other(bucket, bucket.environment()), "another import meanwhile");
        }),
        judge: Box::new(move |bucket, what| {
            succeeds(&mut again(bucket, bucket.environment()), what);
            assert!(!bucket.keys("~stoa/").iter().any(|key| key.contains("/q/")), "{what}");
            served(bucket, &modules(), what);
        }),
    }
}

fn purge() -> Scenario {
    const PURGE: [&str; 3] = ["quarantine", "purge", "--all"];
    Scenario {
        prepare: Box::new(|bucket| {
            bucket.save(&modules().remove(0).with_bad_crc());
            modules()[1..].iter().for_each(|module| bucket.save(module));
            upgrade_now(bucket, "the first upgrade");
            let output = stoa(bucket, bucket.environment(), &["verify"]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
        }),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &PURGE)) == Some(0)
        }),
        promise: Some(Box::new(is_purged)),
        meanwhile: Arc::new(|bucket| {
            succeeds(&mut stoa(bucket, bucket.environment(), &PURGE), "another purge meanwhile");
        }),
        judge: Box::new(|bucket, what| {
            succeeds(&mut stoa(bucket, bucket.environment(), &PURGE), what);
            is_purged(bucket, what);
            served(bucket, &modules()[1..], what);
        }),
    }
}

/// Checks that nothing is in quarantine, and that the corrupt version is gone.
fn is_purged(bucket: &TestBucket, what: &str) {
    assert!(!bucket.keys("~stoa/").iter().any(|key| key.contains("/q/")), "{what}");
    assert_eq!(others(bucket), as_athens(&modules()[1..]), "{what}");
}

/// The contents of three versions are old, and three objects that nothing refers to.
fn prune() -> Scenario {
    const PRUNE: [&str; 2] = ["prune", "--unreferenced"];
    let dir = folder(&modules());
    Scenario {
        prepare: Box::new(move |bucket| {
            upgrade_now(bucket, "creation");
            let import = ["import", dir.path().to_str().unwrap()];
            succeeds(&mut stoa(bucket, bucket.environment(), &import), "the import");
            for key in zips(bucket) {
                let (folder, _) = key.rsplit_once('/').unwrap();
                bucket.put(&format!("{folder}/{}.zip", "0".repeat(32)), "left");
            }
            bucket.age();
        }),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &PRUNE)) == Some(0)
        }),
        promise: Some(Box::new(is_pruned)),
        meanwhile: Arc::new(|bucket| {
            let_time_pass(bucket);
            succeeds(&mut stoa(bucket, bucket.environment(), &PRUNE), "another prune meanwhile");
        }),
        judge: Box::new(|bucket, what| {
            let_time_pass(bucket);
            succeeds(&mut stoa(bucket, bucket.environment(), &PRUNE), what);
            is_pruned(bucket, what);
            assert!(!bucket.text(STATE).contains("[lease]"), "{what}");
            served(bucket, &modules(), what);
        }),
    }
}

/// Checks that the bucket has the contents of all versions and no others. A lease that could not be given back ends by
/// itself.
fn is_pruned(bucket: &TestBucket, what: &str) {
    assert_eq!(all_contents_exist(bucket, what), modules().len(), "{what}");
    assert_eq!(zips(bucket).len(), modules().len(), "{what}");
}
