//! Faults at every request that changes a bucket: the process is killed, the request or its answer is lost, or the
//! service answers with an error. Afterwards nothing is lost, nothing wrong is served, and a second run ends whole.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::gcs::{Asked, Failing, Gcs};
use testkit::server::{Server, command};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, MIGRATE, STOA, cases, slow, transcript};

pub(crate) fn cases() -> Vec<Case> {
    slow(cases![
        an_upgrade_survives_every_fault,
        a_downgrade_survives_every_fault,
        a_downgrade_is_undone_after_every_fault,
        a_publication_survives_every_fault,
        an_adoption_survives_every_fault,
        a_removal_survives_every_fault,
        a_verification_survives_every_fault,
    ])
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    KillAfter,
    Fails(Failing),
}

const FAULTS: [Fault; 10] = [
    Fault::Kill,
    Fault::KillAfter,
    Fault::Fails(Failing::Closed),
    Fault::Fails(Failing::LostAnswer),
    Fault::Fails(Failing::DoneBut(500)),
    Fault::Fails(Failing::Status(500)),
    Fault::Fails(Failing::Status(503)),
    Fault::Fails(Failing::Status(409)),
    Fault::Fails(Failing::Status(412)),
    Fault::Fails(Failing::Late(Duration::from_millis(200))),
];

/// Injects a fault into the n-th change of an object. Returns the counter of the changes.
fn inject(gcs: &Gcs, n: u32, fault: Fault, pid: Arc<Mutex<Option<u32>>>) -> Arc<Mutex<u32>> {
    let count = Arc::<Mutex<u32>>::default();
    let counted = Arc::clone(&count);
    let mut is_dead = false;
    gcs.fail(move |asked| {
        if !is_change(asked) {
            return is_dead.then_some(Failing::Closed);
        }
        let mut count = counted.lock().unwrap();
        *count += 1;
        if *count != n {
            // A killed process may have sent requests that are still on their way.
            return is_dead.then_some(Failing::Closed);
        }
        let die = || {
            if let Some(pid) = *pid.lock().unwrap() {
                let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
            }
        };
        match fault {
            Fault::Kill => {
                die();
                is_dead = true;
                Some(Failing::Closed)
            }
            Fault::KillAfter => {
                die();
                is_dead = true;
                Some(Failing::LostAnswer)
            }
            Fault::Fails(failing) => Some(failing),
        }
    });
    count
}

/// Returns whether a request changes something that lasts. The checks of the service, the signs of life and the claims
/// do not.
fn is_change(asked: &Asked) -> bool {
    let passing = ["/probe/", "/servers/"];
    asked.is_change() && !passing.iter().any(|part| asked.key.contains(part))
}

/// Takes the lease and the claims away, as the time would that a waiting process must let pass.
fn let_time_pass(gcs: &Gcs) {
    for key in gcs.keys("go/~stoa/").into_iter().filter(|key| key.contains("/claims/")) {
        gcs.delete(&key);
    }
    if gcs.get("go/~stoa/state").is_some() {
        let text = gcs.text("go/~stoa/state");
        if let Some((head, rest)) = text.split_once("[lease]") {
            let rest = rest.split_once("\n[").map_or(String::new(), |(_, rest)| format!("[{rest}"));
            gcs.change("go/~stoa/state", |object| object.data = format!("{head}{rest}").into_bytes());
        }
    }
}

/// Runs a scenario once without a fault, and then with each fault at each change.
fn sweep(
    name: &str,
    prepare: impl Fn() -> Gcs,
    run: impl Fn(&Gcs, &Arc<Mutex<Option<u32>>>),
    judge: impl Fn(&Gcs, &str),
) {
    let gcs = prepare();
    let count = inject(&gcs, u32::MAX, Fault::Kill, Arc::default());
    run(&gcs, &Arc::default());
    gcs.recover();
    judge(&gcs, &format!("{name} without a fault"));
    let total = *count.lock().unwrap();
    assert!(total > 0, "{name} changes nothing");
    for n in 1..=total {
        for fault in FAULTS {
            let gcs = prepare();
            let pid = Arc::default();
            inject(&gcs, n, fault, Arc::clone(&pid));
            run(&gcs, &pid);
            gcs.recover();
            let_time_pass(&gcs);
            judge(&gcs, &format!("{name}, {fault:?} at change {n} of {total}"));
        }
    }
}

fn spawn(command: &mut Command, pid: &Arc<Mutex<Option<u32>>>) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    *pid.lock().unwrap() = Some(child.id());
    child
}

fn migrate(gcs: &Gcs, to: &str) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["--bucket", &gcs.bucket("go"), "--to", to]).envs(gcs.environment());
    command.env_remove("STOA_LOG");
    command
}

fn stoa(gcs: &Gcs, arguments: &[&str]) -> Command {
    let mut command = Command::new(STOA);
    command.args(arguments).args(["--bucket", &gcs.bucket("go")]).envs(gcs.environment());
    command.env_remove("STOA_LOG");
    command
}

#[track_caller]
fn succeeds(command: &mut Command, what: &str) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{what}: {}", transcript(&output));
}

fn modules() -> Vec<Module> {
    (0..3).map(|n| Module::new(&format!("example.com/Mod@v1.0.{n}"), 500)).collect()
}

fn athens() -> Gcs {
    let gcs = Gcs::start();
    modules().iter().for_each(|module| gcs.save("go/", module));
    gcs
}

/// Returns all objects that are not of this program.
fn others(gcs: &Gcs) -> BTreeMap<String, Vec<u8>> {
    let keys = gcs.keys("").into_iter().filter(|key| !key.starts_with("go/~stoa/"));
    keys.map(|key| (key.clone(), gcs.get(&key).unwrap().data)).collect()
}

fn serve(gcs: &Gcs, store: &std::path::Path, upstream: Option<&str>) -> Command {
    let mut command = command(store);
    command.envs(gcs.environment()).env("STOA_BUCKET_URL", gcs.bucket("go")).env("GOSUMDB", "off");
    match upstream {
        Some(url) => command.args(["--upstream", url]),
        None => command.arg("--offline"),
    };
    command
}

/// Serves all versions from the bucket alone, by a server that has none of them.
fn served(gcs: &Gcs, modules: &[Module], what: &str) {
    let dir = testkit::tempdir();
    let server = Server::start_with(&mut serve(gcs, dir.path(), None));
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

fn an_upgrade_survives_every_fault() {
    let before = others(&athens());
    let run = |gcs: &Gcs, pid: &_| drop(spawn(&mut migrate(gcs, "b1"), pid).wait());
    sweep("upgrade", athens, run, |gcs, what| {
        assert_eq!(others(gcs), before, "{what}");
        succeeds(&mut migrate(gcs, "b1"), what);
        assert_eq!(others(gcs), before, "{what}");
        served(gcs, &modules(), what);
    });
}

/// Makes a bucket with one version of Athens, and two that a server has filled. Returns all three.
fn filled(upstream: &Upstream) -> (impl Fn() -> Gcs, Vec<Module>) {
    let filled: Vec<_> =
        (0..2).map(|n| upstream.offer(&format!("example.com/filled@v1.0.{n}"), 500)).collect();
    let saved = modules().swap_remove(0);
    let all = [std::slice::from_ref(&saved), &filled].concat();
    let url = upstream.url().to_owned();
    let prepare = move || {
        let gcs = Gcs::start();
        gcs.save("go/", &saved);
        let dir = testkit::tempdir();
        let server = Server::start_with(&mut serve(&gcs, dir.path(), Some(&url)));
        for module in &filled {
            assert_eq!(server.get(&module.path("zip")).0, 200);
        }
        drop(server);
        for key in gcs.keys("go/~stoa/").into_iter().filter(|key| key.contains("/servers/")) {
            gcs.delete(&key);
        }
        gcs
    };
    (prepare, all)
}

fn a_downgrade_survives_every_fault() {
    let upstream = Upstream::start();
    let (prepare, all) = filled(&upstream);
    let run = |gcs: &Gcs, pid: &_| drop(spawn(&mut migrate(gcs, "athens"), pid).wait());
    sweep("downgrade", prepare, run, |gcs, what| {
        succeeds(&mut migrate(gcs, "athens"), what);
        let expected = Gcs::start();
        all.iter().for_each(|module| expected.save("go/", module));
        assert_eq!(others(gcs), others(&expected), "{what}");
        assert_eq!(gcs.keys("go/~stoa/"), ["go/~stoa/state"], "{what}");
    });
}

fn a_downgrade_is_undone_after_every_fault() {
    let upstream = Upstream::start();
    let (prepare, all) = filled(&upstream);
    let run = |gcs: &Gcs, pid: &_| drop(spawn(&mut migrate(gcs, "athens"), pid).wait());
    sweep("undone downgrade", prepare, run, |gcs, what| {
        succeeds(&mut migrate(gcs, "b1"), what);
        served(gcs, &all, what);
    });
}

fn empty() -> Gcs {
    let gcs = Gcs::start();
    succeeds(&mut migrate(&gcs, "b1"), "creation");
    gcs
}

fn a_publication_survives_every_fault() {
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 100_000);
    let run = |gcs: &Gcs, pid: &Arc<Mutex<Option<u32>>>| {
        let dir = testkit::tempdir();
        let server = Server::start_with(&mut serve(gcs, dir.path(), Some(upstream.url())));
        *pid.lock().unwrap() = Some(server.pid());
        let reply = server.ask("GET", &module.path("zip"), &[]);
        if reply.status == 200 && reply.is_whole {
            assert_eq!(reply.body, module.zip);
            // A client that has the whole zip: every server has it from now on.
            testkit::until("the version is in the bucket", || {
                gcs.keys("go/~stoa/").iter().any(|key| key.ends_with("/@v/v1.0.0.json"))
            });
        }
    };
    sweep("publication", empty, run, |gcs, what| {
        let dir = testkit::tempdir();
        let server = Server::start_with(&mut serve(gcs, dir.path(), Some(upstream.url())));
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()), "{what}");
        drop(server);
        served(gcs, std::slice::from_ref(&module), what);
    });
}

fn an_adoption_survives_every_fault() {
    let [module, _, _] = &modules()[..] else { panic!("three modules") };
    let prepare = || {
        let gcs = Gcs::start();
        gcs.save("go/", &Module::new("example.com/first@v1.0.0", 500));
        succeeds(&mut migrate(&gcs, "b1"), "upgrade");
        gcs.save("go/", module);
        gcs
    };
    let run = |gcs: &Gcs, pid: &Arc<Mutex<Option<u32>>>| {
        let dir = testkit::tempdir();
        let server = Server::start_with(&mut serve(gcs, dir.path(), None));
        *pid.lock().unwrap() = Some(server.pid());
        let reply = server.ask("GET", &module.path("zip"), &[]);
        if reply.status == 200 && reply.is_whole {
            assert_eq!(reply.body, module.zip);
        }
    };
    sweep("adoption", prepare, run, |gcs, what| served(gcs, std::slice::from_ref(module), what));
}

fn a_removal_survives_every_fault() {
    let prepare = || {
        let gcs = athens();
        succeeds(&mut migrate(&gcs, "b1"), "upgrade");
        gcs
    };
    let forbid = ["remove", "--tombstone", "example.com/Mod@v1.0.0"];
    let run = |gcs: &Gcs, pid: &_| drop(spawn(&mut stoa(gcs, &forbid), pid).wait());
    sweep("removal", prepare, run, |gcs, what| {
        succeeds(&mut stoa(gcs, &forbid), what);
        let dir = testkit::tempdir();
        let server = Server::start_with(&mut serve(gcs, dir.path(), None));
        assert_eq!(server.get(&modules()[0].path("zip")).0, 410, "{what}");
        drop(server);
        served(gcs, &modules()[1..], what);
    });
}

fn a_verification_survives_every_fault() {
    // One intact version, and one whose zip is corrupt.
    let prepare = || {
        let gcs = athens();
        succeeds(&mut migrate(&gcs, "b1"), "upgrade");
        let zip = "go/example.com/Mod/@v/v1.0.0.zip";
        let generation = gcs.get(zip).unwrap().generation;
        gcs.change(zip, |object| {
            let at = object.data.len() / 3;
            object.data[at] ^= 1;
        });
        gcs.set_generation(zip, generation);
        gcs
    };
    let run = |gcs: &Gcs, pid: &_| drop(spawn(&mut stoa(gcs, &["verify"]), pid).wait());
    sweep("verification", prepare, run, |gcs, what| {
        let output = stoa(gcs, &["verify"]).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {}", transcript(&output));
        let output = stoa(gcs, &["verify"]).output().unwrap();
        let text = transcript(&output);
        assert!(output.status.success() && text.contains("2 already verified; 0 corrupt"), "{what}: {text}");
        let quarantined = gcs.keys("go/~stoa/").iter().filter(|key| key.contains("/q/")).count();
        assert!((1..=2).contains(&quarantined), "{what}: {quarantined}");
        served(gcs, &modules()[1..], what);
    });
}
