//! A deployment that takes over versions, a tombstone and a lifting of a peer, disturbed at every system call that changes
//! its store: while it pulls, compares, works off its queue and moves its pointer, while it begins to follow another index
//! of the peer, and while it takes a notification.
//!
//! Nothing is lost: after a second run everything is there, the pointer is at the end, the queue is empty, and the
//! conflict is noted once. Nothing is done twice: a version that is stored is not downloaded again.

mod bucket;
mod partner;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use testkit::server::{self, Server};
use testkit::sweep::{
    FAULTS, Observed, READ_FAULTS, Scenario, anonymous, at_each_call, only_stderr, trials, tries_all,
};
use testkit::tracer::{self, Act, Traced};
use testkit::tree::shape;
use testkit::{Case, transcript, trial, until};

use self::partner::{Partner, stoa};

pub(crate) fn cases() -> Vec<Case> {
    let mut tests =
        trials(&[("pull", pull), ("another index", another_index), ("notification", notification)]);
    tests.extend(bucket::cases());
    for (fault, act) in FAULTS.into_iter().chain(READ_FAULTS) {
        if OF_DISK.contains(&fault) || tries_all() && fault != "SIGKILL" {
            let name = format!("database of the peers: {fault}");
            tests.push(trial(&name.clone(), tracer::missing(), move || database(&name, act)));
        }
    }
    tests
}

/// The faults of the database that are always tried: a full disk, and a broken one.
const OF_DISK: [&str; 2] = ["ENOSPC from then on", "EIO"];

/// The arguments of a synchronisation with everything that a server does in turn.
const SYNC: [&str; 4] = ["peers", "sync", "m", "--compare"];

/// The arguments of a synchronisation that compares only if it must.
const PULL: [&str; 3] = ["peers", "sync", "m"];

/// Takes over everything, undisturbed.
fn sync(root: &Path, arguments: &[&str]) {
    let output = stoa(root, arguments).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
}

/// An exit whose message names a path, and tells of success only after it.
fn judge(partner: &Partner, root: &Path, traced: &Traced, observed: &Observed) {
    let (hit, stderr) = (traced.hit.as_deref().unwrap_or_default(), &observed.stderr);
    assert!(!stderr.contains("panicked"), "after {hit}: {stderr}");
    assert!([0, 69, 73, 74, 77].contains(&traced.code), "exit code {} after {hit}: {stderr}", traced.code);
    // A failure of the work for one version is a verdict, and its reason is in the log.
    let has_reason = ["cannot ", "could not be fetched"].iter().any(|part| stderr.contains(part));
    assert!(traced.code == 0 || has_reason, "no reason after {hit}: {stderr}");
    assert!(traced.code != 0 || partner.is_done(root), "success was reported after {hit}: {stderr}");
}

fn pull() -> Scenario {
    let partner = Partner::start();
    let template = partner.template();
    // The first synchronisation creates the database.
    fs::remove_dir_all(template.path().join("store/cache/peers")).unwrap();
    synchronisation(partner, template, &SYNC)
}

/// A peer that answers from another index than before. Its events come by a comparison, and no later pull or comparison
/// brings them again.
fn another_index() -> Scenario {
    let partner = Partner::start();
    partner.be_earlier(true);
    let template = partner.template();
    partner.be_earlier(false);
    synchronisation(partner, template, &PULL)
}

fn synchronisation(
    partner: Partner,
    template: tempfile::TempDir,
    arguments: &'static [&'static str],
) -> Scenario {
    partner.be_silent(false);
    let (of_prepare, of_check) = (partner.clone(), partner.clone());
    Scenario {
        prepare: Box::new(move |folder| of_prepare.prepare(template.path(), folder)),
        command: Box::new(|root| stoa(root, arguments)),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            of_check.note(root, traced.hit.as_deref().unwrap_or_default());
            if !is_kill {
                judge(&of_check, root, traced, observed);
            }
        }),
        again: Box::new(move |root| {
            sync(root, arguments);
            partner.check(root);
        }),
    }
}

/// A failing call at the database of the peers: while it is used, and while it is created.
fn database(name: &str, act: fn(usize) -> Act) {
    let partner = Partner::start();
    let template = partner.template();
    partner.be_silent(false);
    let run = |place: &'static str, act| {
        let folder = testkit::tempdir();
        partner.prepare(template.path(), folder.path());
        let root = folder.path().join("store");
        let (traced, observed) = tracer::run(&mut stoa(&root, &SYNC), &root.join(place), act, only_stderr);
        (traced, (folder, root, observed))
    };
    let undisturbed = {
        let (_, (_folder, root, _)) = run("cache/peers", Act::Count);
        partner.check(&root);
        shape(&root)
    };
    at_each_call(
        name,
        act,
        |act| run("cache/peers", act),
        |_, traced, (_folder, root, observed)| {
            partner.note(&root, traced.hit.as_deref().unwrap_or_default());
            judge(&partner, &root, traced, &observed);
            let tree: Vec<_> = shape(&root).keys().map(|path| anonymous(path)).collect();
            sync(&root, &SYNC);
            partner.check(&root);
            assert_eq!(
                shape(&root),
                undisturbed,
                "{name}: the second run after {:?} ended otherwise",
                traced.hit
            );
            tree
        },
    );
}

/// A server that gets a notification.
///
/// Half of the accepted notifications must be worked off by the next server, whose peer names nothing again. The other
/// half is lost with the whole queue, and comes with the next pull.
fn notification() -> Scenario {
    let partner = Partner::start();
    let template = partner.template();
    let serve = |root: &Path| stoa(root, &["serve", "--listen", "127.0.0.1:0", "--index-interval", "0"]);
    let is_accepted = Arc::new(AtomicBool::new(false));
    let was_accepted = Arc::clone(&is_accepted);
    let turns = AtomicUsize::new(0);
    let (of_prepare, of_drive, of_check) = (partner.clone(), partner.clone(), partner.clone());
    Scenario {
        prepare: Box::new(move |folder| of_prepare.prepare(template.path(), folder)),
        command: Box::new(serve),
        drive: Box::new(move |child| {
            let mut observed = Observed::default();
            is_accepted.store(false, Ordering::SeqCst);
            if let Some(url) = server::listening(child) {
                is_accepted.store(of_drive.notify(&url), Ordering::SeqCst);
                let began = Instant::now();
                // Until the process is gone, or has no work left.
                let has_work = || server::get(&url, "/healthz").is_ok() && of_drive.has_work();
                while began.elapsed() < Duration::from_secs(20) && has_work() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut observed.stderr).unwrap();
            observed
        }),
        check: Box::new(move |root, traced, observed, is_kill| {
            of_check.note(root, traced.hit.as_deref().unwrap_or_default());
            assert!(is_kill || !observed.stderr.contains("panicked"), "{}", observed.stderr);
        }),
        again: Box::new(move |root| {
            let is_accepted = was_accepted.swap(false, Ordering::SeqCst);
            let is_lost = is_accepted && turns.fetch_add(1, Ordering::SeqCst) % 2 == 1;
            if is_lost {
                fs::remove_dir_all(root.join("cache/peers")).unwrap();
            }
            partner.be_silent(is_accepted && !is_lost);
            let server = Server::start_with(&mut serve(root));
            until("the server has done its work", || !partner.has_work());
            assert!(server.stop().success());
            partner.check(root);
            partner.be_silent(true);
        }),
    }
}
