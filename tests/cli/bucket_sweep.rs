//! Faults at every request that changes a bucket, on each service: the process is killed or suspended, the request or its
//! answer is lost, or the service answers with an error. Afterwards nothing is lost, nothing wrong is served, and a second
//! run ends whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use testkit::bucket::{Service, TestBucket, athens_key};
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::gcs::Asked;
use testkit::request_sweep::{self, Scenario};
use testkit::server::{Server, command};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, MIGRATE, STOA, slow, transcript, trial};

/// Makes a scenario.
pub(super) type Make = fn() -> Scenario;

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
            let run =
                move || request_sweep::sweep(&service.start_here(), &scenario(), &faults(service), lasts);
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

/// Returns whether a request changes something that lasts. The checks of the service and the objects of running servers do not.
pub(super) fn lasts(asked: &Asked) -> bool {
    !["/probe/", "/servers/"].iter().any(|part| asked.key.contains(part))
}

/// Takes the lease and the claims away, as the time would that a waiting process must let pass.
pub(super) fn let_time_pass(bucket: &TestBucket) {
    for key in bucket.keys("~stoa/").into_iter().filter(|key| key.contains("/claims/")) {
        bucket.delete(&key);
    }
    let Some(state) = bucket.get(STATE) else { return };
    let text = String::from_utf8(state).unwrap();
    if let Some((head, rest)) = text.split_once("[lease]") {
        let rest = rest.split_once("\n[").map_or(String::new(), |(_, rest)| format!("[{rest}"));
        bucket.put(STATE, format!("{head}{rest}"));
    }
}

/// The marker and the lease.
pub(super) const STATE: &str = "~stoa/state";

/// The variables by which a program finds the service, directly or behind the proxy.
pub(super) type Environment = Vec<(String, String)>;

pub(super) fn behind(bucket: &TestBucket, proxy: &FaultProxy) -> Environment {
    bucket.environment_at(proxy.url())
}

pub(super) fn migrate(bucket: &TestBucket, environment: Environment, to: &str) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["--bucket", bucket.url(), "--to", to]).envs(environment).env_remove("STOA_LOG");
    command
}

pub(super) fn stoa(bucket: &TestBucket, environment: Environment, arguments: &[&str]) -> Command {
    let mut command = Command::new(STOA);
    command.args(arguments).args(["--bucket", bucket.url()]).envs(environment).env_remove("STOA_LOG");
    command
}

/// Runs a program that a fault may stop.
pub(super) fn disturbed(proxy: &FaultProxy, command: &mut Command) {
    let mut child = proxy.spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let status = child.wait().unwrap();
    assert_ne!(status.code(), Some(101), "it has panicked");
}

#[track_caller]
pub(super) fn succeeds(command: &mut Command, what: &str) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{what}: {}", transcript(&output));
}

pub(super) fn upgrade_now(bucket: &TestBucket, what: &str) {
    succeeds(&mut migrate(bucket, bucket.environment(), "b1"), what);
}

pub(super) fn modules() -> Vec<Module> {
    (0..3).map(|n| Module::new(&format!("example.com/Mod@v1.0.{n}"), 500)).collect()
}

/// Fills a bucket as Athens does.
fn athens(bucket: &TestBucket) {
    modules().iter().for_each(|module| bucket.save(module));
}

pub(super) fn upgraded(bucket: &TestBucket) {
    athens(bucket);
    upgrade_now(bucket, "the first upgrade");
}

/// Returns the objects that an Athens leaves of some versions.
pub(super) fn as_athens(modules: &[Module]) -> BTreeMap<String, Vec<u8>> {
    let files = |module: &Module| {
        let files = [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)];
        files.map(|(suffix, data)| (athens_key(module, suffix), data.clone()))
    };
    modules.iter().flat_map(files).collect()
}

/// Returns all objects that are not of this program.
pub(super) fn others(bucket: &TestBucket) -> BTreeMap<String, Vec<u8>> {
    let keys = bucket.keys("").into_iter().filter(|key| !key.starts_with("~stoa/"));
    keys.map(|key| (key.clone(), bucket.get(&key).unwrap())).collect()
}

pub(super) fn serve(
    bucket: &TestBucket,
    environment: Environment,
    store: &Path,
    upstream: Option<&str>,
) -> Server {
    let mut command = command(store);
    command.envs(environment).env("STOA_BUCKET_URL", bucket.url()).env("GOSUMDB", "off");
    match upstream {
        Some(url) => command.args(["--upstream", url]),
        None => command.arg("--offline"),
    };
    Server::start_with(&mut command)
}

/// Serves all versions from the bucket alone, by a server that has none of them.
pub(super) fn served(bucket: &TestBucket, modules: &[Module], what: &str) {
    let dir = testkit::tempdir();
    let server = serve(bucket, bucket.environment(), dir.path(), None);
    for module in modules {
        for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            let (status, found) = server.get(&module.path(extension));
            let text = String::from_utf8_lossy(&found);
            assert!(
                status == 200 && found == *body,
                "{what}: {} {extension}: {status} {text}",
                module.version
            );
        }
    }
}

/// Asks a server behind the proxy for a zip. A client that gets all of it gets the right one.
pub(super) fn asked_for(
    bucket: &TestBucket,
    proxy: &FaultProxy,
    module: &Module,
    upstream: Option<&str>,
) -> bool {
    let dir = testkit::tempdir();
    let server = serve(bucket, behind(bucket, proxy), dir.path(), upstream);
    proxy.set_process(server.pid());
    let reply = server.ask("GET", &module.path("zip"), &[]);
    // It ends what it does in the background. A killed one has ended.
    server.stop();
    let is_served = reply.status == 200 && reply.is_whole;
    assert!(!is_served || reply.body == module.zip);
    is_served
}

fn upgrade() -> Scenario {
    Scenario {
        prepare: Box::new(athens),
        run: Box::new(|bucket, proxy| disturbed(proxy, &mut migrate(bucket, behind(bucket, proxy), "b1"))),
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

/// Returns what fills a bucket with one version of Athens and two that a server has filled, and these three.
pub(super) fn mixed() -> (impl Fn(&TestBucket), Vec<Module>) {
    let upstream = Upstream::start();
    let filled: Vec<_> =
        (0..2).map(|n| upstream.offer(&format!("example.com/filled@v1.0.{n}"), 500)).collect();
    let all = [&modules()[..1], &filled].concat();
    let prepare = move |bucket: &TestBucket| {
        bucket.save(&modules()[0]);
        let dir = testkit::tempdir();
        let server = serve(bucket, bucket.environment(), dir.path(), Some(upstream.url()));
        for module in &filled {
            assert_eq!(server.get(&module.path("zip")).0, 200);
        }
        assert!(server.stop().success());
    };
    (prepare, all)
}

pub(super) fn downgrade_now(bucket: &TestBucket, what: &str) {
    succeeds(&mut migrate(bucket, bucket.environment(), "athens"), what);
}

fn downgrade() -> Scenario {
    let (prepare, all) = mixed();
    Scenario {
        prepare: Box::new(prepare),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut migrate(bucket, behind(bucket, proxy), "athens"))
        }),
        meanwhile: Arc::new(|bucket| {
            let_time_pass(bucket);
            downgrade_now(bucket, "another downgrade meanwhile");
        }),
        judge: Box::new(move |bucket, what| {
            let_time_pass(bucket);
            downgrade_now(bucket, what);
            assert_eq!(others(bucket), as_athens(&all), "{what}");
            assert_eq!(bucket.keys("~stoa/"), [STATE], "{what}");
        }),
    }
}

/// A downgrade after which, or in the middle of which, somebody wants the layout of this program again.
fn undone_downgrade() -> Scenario {
    let (prepare, all) = mixed();
    Scenario {
        prepare: Box::new(prepare),
        run: Box::new(|bucket, proxy| {
            disturbed(proxy, &mut migrate(bucket, behind(bucket, proxy), "athens"))
        }),
        meanwhile: Arc::new(|bucket| {
            let_time_pass(bucket);
            upgrade_now(bucket, "the downgrade is undone meanwhile");
        }),
        judge: Box::new(move |bucket, what| {
            let_time_pass(bucket);
            upgrade_now(bucket, what);
            served(bucket, &all, what);
        }),
    }
}

fn publication() -> Scenario {
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let (published, other) = (module.clone(), module.clone());
    let urls: [String; 3] = std::array::from_fn(|_| upstream.url().to_owned());
    let [first, second, third] = urls;
    Scenario {
        prepare: Box::new(|bucket| upgrade_now(bucket, "creation")),
        run: Box::new(move |bucket, proxy| {
            if asked_for(bucket, proxy, &published, Some(&first)) {
                // A client has the whole zip: every server has it from now on.
                testkit::until("the version is in the bucket", || {
                    bucket.keys("~stoa/").iter().any(|key| key.ends_with("/@v/v1.0.0.json"))
                });
            }
        }),
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
        run: Box::new(move |bucket, proxy| {
            asked_for(bucket, proxy, &adopted(), None);
        }),
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
        run: Box::new(|bucket, proxy| disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &FORBID))),
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
            disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &["verify"]))
        }),
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

/// Writes versions into a folder as Athens does.
fn folder(modules: &[Module]) -> tempfile::TempDir {
    let dir = testkit::tempdir();
    modules.iter().for_each(|module| drop(module.put_v0(dir.path())));
    dir
}

fn import() -> Scenario {
    let dir = Arc::new(folder(&modules()));
    let import = move |bucket: &TestBucket, environment: Environment| {
        stoa(bucket, environment, &["import", dir.path().to_str().unwrap()])
    };
    let (other, again) = (import.clone(), import.clone());
    Scenario {
        prepare: Box::new(|bucket| upgrade_now(bucket, "creation")),
        run: Box::new(move |bucket, proxy| disturbed(proxy, &mut import(bucket, behind(bucket, proxy)))),
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
        run: Box::new(|bucket, proxy| disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &PURGE))),
        meanwhile: Arc::new(|bucket| {
            succeeds(&mut stoa(bucket, bucket.environment(), &PURGE), "another purge meanwhile");
        }),
        judge: Box::new(|bucket, what| {
            succeeds(&mut stoa(bucket, bucket.environment(), &PURGE), what);
            assert!(!bucket.keys("~stoa/").iter().any(|key| key.contains("/q/")), "{what}");
            assert_eq!(others(bucket), as_athens(&modules()[1..]), "{what}");
            served(bucket, &modules()[1..], what);
        }),
    }
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
        run: Box::new(|bucket, proxy| disturbed(proxy, &mut stoa(bucket, behind(bucket, proxy), &PRUNE))),
        meanwhile: Arc::new(|bucket| {
            let_time_pass(bucket);
            succeeds(&mut stoa(bucket, bucket.environment(), &PRUNE), "another prune meanwhile");
        }),
        judge: Box::new(|bucket, what| {
            let_time_pass(bucket);
            succeeds(&mut stoa(bucket, bucket.environment(), &PRUNE), what);
            assert_eq!(zips(bucket).len(), 3, "{what}");
            assert!(!bucket.text(STATE).contains("[lease]"), "{what}");
            served(bucket, &modules(), what);
        }),
    }
}

/// Returns the keys of the zips that are not of Athens.
fn zips(bucket: &TestBucket) -> Vec<String> {
    bucket.keys("~stoa/").into_iter().filter(|key| key.ends_with(".zip")).collect()
}
