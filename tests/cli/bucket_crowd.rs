//! Fifty real processes that upgrade one bucket at the same time, with the real times of the lease.

use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::gcs::Gcs;
use testkit::upstream::Module;
use testkit::{Case, MIGRATE, cases, slow, transcript};

pub(crate) fn cases() -> Vec<Case> {
    slow(cases![fifty_processes_replace_one_that_was_suspended_and_it_changes_nothing_afterwards])
}

/// Number of versions.
const VERSIONS: usize = 20;

fn start(gcs: &Gcs) -> Child {
    let mut command = Command::new(MIGRATE);
    command.args(["--bucket", &gcs.bucket("go"), "--auto"]).envs(gcs.environment()).env_remove("STOA_LOG");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Returns all objects, with the number of writes before each.
fn objects(gcs: &Gcs) -> Vec<(String, u64)> {
    gcs.keys("").into_iter().map(|key| (key.clone(), gcs.get(&key).unwrap().generation)).collect()
}

fn fifty_processes_replace_one_that_was_suspended_and_it_changes_nothing_afterwards() {
    let gcs = Gcs::start();
    for n in 0..VERSIONS {
        gcs.save("go/", &Module::new(&format!("example.com/m@v1.0.{n}"), 500));
    }
    // The first one is suspended in the middle of its work: when it writes its fifth manifest.
    let first = Arc::<Mutex<Option<Pid>>>::default();
    let (suspended, mut manifests) = (Arc::clone(&first), 0);
    gcs.fail(move |asked| {
        manifests += usize::from(asked.is_change() && asked.key.ends_with(".json"));
        if manifests == 5
            && let Some(pid) = suspended.lock().unwrap().take()
        {
            kill(pid, Signal::SIGSTOP).unwrap();
        }
        None
    });
    let holder = {
        let mut first = first.lock().unwrap();
        let holder = start(&gcs);
        *first = Some(pid(&holder));
        holder
    };
    testkit::until("the first process is suspended", || first.lock().unwrap().is_none());
    let others: Vec<Child> = (0..49).map(|_| start(&gcs)).collect();
    let outputs: Vec<Output> = others.into_iter().map(|other| other.wait_with_output().unwrap()).collect();
    for output in &outputs {
        assert!(output.status.success(), "{}", transcript(output));
    }
    let upgraded = outputs.iter().filter(|output| transcript(output).contains("upgraded gs://"));
    assert_eq!(upgraded.count(), 1);
    let before = objects(&gcs);
    kill(pid(&holder), Signal::SIGCONT).unwrap();
    let output = holder.wait_with_output().unwrap();
    let text = transcript(&output);
    assert!(output.status.code() == Some(75) && text.contains("cannot keep the lease of gs://"), "{text}");
    assert_eq!(objects(&gcs), before);
    let state = gcs.text("go/~stoa/state");
    assert!(state.contains("layout.b1") && !state.contains("[lease]"), "{state}");
    assert_eq!(state.matches("[[history]]").count(), 1, "{state}");
    let is_manifest = |key: &&(String, u64)| key.0.ends_with(".json");
    assert_eq!(before.iter().filter(is_manifest).count(), VERSIONS);
}
