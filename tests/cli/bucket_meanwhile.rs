//! A process is suspended at each request that changes a bucket, before and after it, and another one acts meanwhile: on
//! the double of GCS and on a real S3 server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stoa_bucket::{
    Bucket, BucketError, BucketMarker, BucketState, BucketUrl, ConnectOptions, LAYOUT, LeaseTaker,
    LeaseTimes, Sweep, Verdict, Versions,
};
use stoa_gomod::ModuleVersion;
use testkit::bucket::{Service, TestBucket};
use testkit::fault_proxy::Fault;
use testkit::request_sweep::{self, Make, Scenario, lasts};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, slow, trial};

use super::bucket_programs::{
    STATE, all_contents_exist, as_athens, asked_for, behind, disturbed, downgrade_now, let_time_pass,
    manifests, migrate, mixed, others, serve, served, stoa, succeeds, upgrade_now,
};

const SCENARIOS: [(&str, Make); 5] = [
    ("a downgrade during a publication", downgrade_during_publication),
    ("a sweep during a publication", sweep_during_publication),
    ("a removal during a publication", removal_during_publication),
    ("a change during a publication", change_during_publication),
    ("a removal after a downgrade was undone", removal_after_undone_downgrade),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, scenario) in SCENARIOS {
        for service in [Service::Gcs, Service::S3] {
            let faults = [Fault::Suspend, Fault::SuspendAfter];
            let run = move || request_sweep::sweep(&service.start_here(), scenario, &faults, lasts);
            cases.push(
                trial(&format!("{name} harms nothing on {service}"), None, run).needs(service.needs_here()),
            );
        }
    }
    slow(cases)
}

/// Whether something has happened in the present run.
type Flag = Arc<AtomicBool>;

/// A publication by a server, something that happens while the server is suspended, and the check of the result. The
/// check learns whether the client has got the whole zip, and whether the server was suspended.
fn during_publication(
    happens: impl Fn(&TestBucket) + Send + Sync + 'static,
    judge: impl Fn(&TestBucket, &Upstream, &Module, (bool, bool), &str) + 'static,
) -> Scenario {
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let (is_served, is_late) = (Flag::default(), Flag::default());
    let (url, asked, served_now) = (upstream.url().to_owned(), module.clone(), Arc::clone(&is_served));
    let (begun, suspended) = (Arc::clone(&is_late), Arc::clone(&is_late));
    Scenario {
        prepare: Box::new(move |bucket| {
            begun.store(false, Ordering::SeqCst);
            upgrade_now(bucket, "creation");
        }),
        run: Box::new(move |bucket, proxy| {
            let is_served = asked_for(bucket, proxy, &asked, Some(&url));
            served_now.store(is_served, Ordering::SeqCst);
            is_served
        }),
        // It depends on what has happened.
        promise: None,
        meanwhile: Arc::new(move |bucket| {
            happens(bucket);
            suspended.store(true, Ordering::SeqCst);
        }),
        judge: Box::new(move |bucket, what| {
            let happened = (is_served.load(Ordering::SeqCst), is_late.load(Ordering::SeqCst));
            judge(bucket, &upstream, &module, happened, what);
        }),
    }
}

/// Deletes the objects of running servers, as the time would that a downgrade must let pass.
fn forget_servers(bucket: &TestBucket) {
    for key in bucket.keys("~stoa/").iter().filter(|key| key.contains("/servers/")) {
        bucket.delete(key);
    }
}

/// Returns the versions of a bucket, past the programs.
pub(super) async fn versions(bucket: &TestBucket) -> (Versions, LeaseTaker, BucketState) {
    let variables = bucket.environment();
    let endpoint = variables.iter().find(|(name, _)| name == "STOA_BUCKET_ENDPOINT");
    let endpoint = endpoint.map(|(_, url)| url.clone());
    let options = ConnectOptions { endpoint, variables, ..ConnectOptions::default() };
    let url: BucketUrl = bucket.url().parse().unwrap();
    let connected = Bucket::connect(&url, &options).unwrap();
    let state = BucketState::read(&connected).await.unwrap().unwrap().document;
    let taker = LeaseTaker {
        bucket: connected.clone(),
        program: "test".to_owned(),
        owner: "test".to_owned(),
        times: LeaseTimes::default(),
    };
    (Versions::new(connected, state.keys()), taker, state)
}

pub(super) fn wait(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

/// Deletes all contents that nothing names, as if all of them were older than a day.
fn sweep(bucket: &TestBucket) {
    wait(async {
        let (versions, taker, state) = versions(bucket).await;
        let held = BucketState::read(&taker.bucket).await.unwrap();
        let lease = taker.take(held.as_ref(), state, "sweep").await.unwrap().unwrap();
        let sweep = Sweep { lease: Some(&lease), min_age: time::Duration::days(-1), at_once: 4 };
        versions.sweep::<BucketError>(sweep, |_| Ok(())).await.unwrap();
        lease.end(BucketMarker::At(LAYOUT), None).await.unwrap();
    });
}

/// An acknowledged version is among those of Athens afterwards, and none is there in part.
fn downgrade_during_publication() -> Scenario {
    let happens = |bucket: &TestBucket| {
        forget_servers(bucket);
        downgrade_now(bucket, "a downgrade meanwhile");
    };
    during_publication(happens, |bucket, upstream, module, (is_served, is_late), what| {
        forget_servers(bucket);
        downgrade_now(bucket, what);
        let all = as_athens(std::slice::from_ref(module));
        let given = others(bucket);
        assert!(given == all || (is_late && !is_served && given.is_empty()), "{what}: {:?}", given.keys());
        upgrade_now(bucket, what);
        let dir = testkit::tempdir();
        let server = serve(bucket, bucket.environment(), dir.path(), Some(upstream.url()));
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()), "{what}");
    })
}

/// No manifest names a content that the sweep has deleted.
fn sweep_during_publication() -> Scenario {
    during_publication(sweep, |bucket, upstream, module, (is_served, _), what| {
        let present = all_contents_exist(bucket, what);
        assert!(!is_served || present == 1, "{what}");
        let_time_pass(bucket);
        let dir = testkit::tempdir();
        let server = serve(bucket, bucket.environment(), dir.path(), Some(upstream.url()));
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()), "{what}");
        assert_eq!(server.get("/example.com/m/@v/list"), (200, b"v1.0.0\n".to_vec()), "{what}");
        drop(server);
        sweep(bucket);
        assert_eq!(all_contents_exist(bucket, what), 1, "{what}");
        served(bucket, std::slice::from_ref(module), what);
    })
}

const FORBID: [&str; 3] = ["remove", "--tombstone", "example.com/m@v1.0.0"];

/// A version that was removed stays removed, on every server.
fn removal_during_publication() -> Scenario {
    let happens = |bucket: &TestBucket| {
        succeeds(&mut stoa(bucket, bucket.environment(), &FORBID), "a removal meanwhile")
    };
    during_publication(happens, |bucket, upstream, module, (is_served, is_late), what| {
        if !is_late {
            assert!(is_served, "{what}");
            return served(bucket, std::slice::from_ref(module), what);
        }
        assert_eq!(all_contents_exist(bucket, what), 0, "{what}");
        let dir = testkit::tempdir();
        for upstream in [Some(upstream.url()), None] {
            let server = serve(bucket, bucket.environment(), dir.path(), upstream);
            for extension in ["info", "mod", "zip"] {
                assert_eq!(server.get(&module.path(extension)).0, 410, "{what}: {extension}");
            }
            // Without a version the answer depends on the upstream.
            let list = server.get("/example.com/m/@v/list").1;
            assert!(!String::from_utf8_lossy(&list).contains("v1.0.0"), "{what}");
        }
    })
}

/// A manifest that was changed again before its writer knew that it was written is still one manifest.
fn change_during_publication() -> Scenario {
    let happens = |bucket: &TestBucket| {
        wait(async {
            let (versions, _, _) = versions(bucket).await;
            let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
            if versions.manifest(&version).await.unwrap().is_some() {
                let verdict = Verdict {
                    database: "sum.example.com".to_owned(),
                    tree_size: 7,
                    at: "2026-01-02T03:04:05Z".to_owned(),
                };
                versions.record(&version, |record| record.verdict = Some(verdict.clone())).await.unwrap();
            }
        });
    };
    during_publication(happens, |bucket, _, module, (is_served, _), what| {
        assert!(is_served, "{what}");
        assert_eq!(all_contents_exist(bucket, what), 1, "{what}");
        assert!(bucket.keys("~stoa/").iter().all(|key| !key.contains("/q/")), "{what}");
        served(bucket, std::slice::from_ref(module), what);
    })
}

/// A downgrade was suspended and undone. When it goes on, it deletes nothing that is in use again.
fn removal_after_undone_downgrade() -> Scenario {
    let (prepare, all) = mixed();
    let is_late = Flag::default();
    let (begun, suspended) = (Arc::clone(&is_late), Arc::clone(&is_late));
    let removed = format!("{}", all[1].version);
    Scenario {
        prepare: Box::new(move |bucket| {
            begun.store(false, Ordering::SeqCst);
            prepare(bucket);
        }),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut migrate(bucket, behind(bucket, proxy), "athens")) == Some(0)
        }),
        // It depends on what has happened.
        promise: None,
        meanwhile: Arc::new(move |bucket| {
            let_time_pass(bucket);
            upgrade_now(bucket, "the downgrade is undone meanwhile");
            let forbid = ["remove", "--tombstone", &removed];
            succeeds(&mut stoa(bucket, bucket.environment(), &forbid), "a removal meanwhile");
            suspended.store(true, Ordering::SeqCst);
        }),
        judge: Box::new(move |bucket, what| {
            if !is_late.load(Ordering::SeqCst) {
                return assert_eq!(others(bucket), as_athens(&all), "{what}");
            }
            let state = bucket.text(STATE);
            let rest = [all[0].clone(), all[2].clone()];
            if state.contains("\"left.athens\"") {
                // It was suspended before its first write, so it began after the removal.
                return assert_eq!(others(bucket), as_athens(&rest), "{what}");
            }
            assert!(state.contains("\"layout.b1\"") && !state.contains("[lease]"), "{what}: {state}");
            assert_eq!(manifests(bucket).len(), all.len(), "{what}");
            let dir = testkit::tempdir();
            let server = serve(bucket, bucket.environment(), dir.path(), None);
            assert_eq!(server.get(&all[1].path("zip")).0, 410, "{what}");
            drop(server);
            served(bucket, &rest, what);
        }),
    }
}
