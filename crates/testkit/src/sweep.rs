//! A program that is disturbed at every system call that changes the store: killed there, or with that call
//! failing.
//!
//! After each: the marker tells the truth, no version is visible that is not whole, and a second run ends
//! with the tree of an undisturbed one. Each sweep prints the calls found, the calls hit and the number of
//! distinct trees at the end, and fails if it hit fewer than it found, or found none.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};

use nix::errno::Errno;

use super::tracer::{self, Act, Later, Traced};
use super::tree::shape;
use super::{Case, trial};

/// Makes a scenario.
pub type Start = fn() -> Scenario;

/// Makes the tests of some scenarios: kills, and with `STOA_SWEEP_ALL` every fault.
pub fn trials(scenarios: &[(&str, Start)]) -> Vec<Case> {
    under(scenarios, &faults())
}

/// Makes the tests of some scenarios under every fault, always.
pub fn trials_of_all_faults(scenarios: &[(&str, Start)]) -> Vec<Case> {
    under(scenarios, &FAULTS)
}

fn under(scenarios: &[(&str, Start)], faults: &[(&'static str, At)]) -> Vec<Case> {
    let mut tests = Vec::new();
    for (scenario, start) in scenarios.iter().copied() {
        for (fault, act) in faults.iter().copied() {
            let name = format!("{scenario}: {fault}");
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, &start(), act)));
        }
    }
    tests
}

/// Makes the fault for the Nth call.
pub type At = fn(usize) -> Act;

/// A kill, and the errors of calls that change something.
pub const FAULTS: [(&str, At); 7] = [
    ("SIGKILL", Act::Kill),
    ("ENOSPC once", |at| Act::Fail { at, errno: Errno::ENOSPC, sticky: false }),
    ("ENOSPC from then on", |at| Act::Fail { at, errno: Errno::ENOSPC, sticky: true }),
    ("EIO", |at| Act::Fail { at, errno: Errno::EIO, sticky: false }),
    ("EACCES", |at| Act::Fail { at, errno: Errno::EACCES, sticky: false }),
    ("EMFILE", |at| Act::Fail { at, errno: Errno::EMFILE, sticky: false }),
    ("ESTALE", |at| Act::Fail { at, errno: Errno::ESTALE, sticky: false }),
];

/// The errors of calls that only look at something, none of which says that a version is not whole: a bad sector, a limit
/// that is reached, and a short outage of a file server.
pub const READ_FAULTS: [(&str, At); 3] = [
    ("EIO of a path", |at| Act::FailRead { at, errno: Errno::EIO, later: Later::SamePath }),
    ("EMFILE from then on", |at| Act::FailRead { at, errno: Errno::EMFILE, later: Later::All }),
    ("ESTALE of a read", |at| Act::FailRead { at, errno: Errno::ESTALE, later: Later::None }),
];

/// Returns the faults to try: a kill, and all others too if the variable `STOA_SWEEP_ALL` is set.
pub fn faults() -> Vec<(&'static str, At)> {
    FAULTS[..if tries_all() { FAULTS.len() } else { 1 }].to_vec()
}

/// Returns whether the full matrix of faults is asked for.
pub fn tries_all() -> bool {
    std::env::var_os("STOA_SWEEP_ALL").is_some()
}

/// Disturbs a program at each of its calls in turn. `run` begins afresh each time and runs it whole; `judge` looks at
/// a run in which the Nth call was hit, and is what tells the tree that it left from others.
pub fn at_each_call<R, T: Ord>(
    name: &str,
    act: impl Fn(usize) -> Act,
    run: impl Fn(Act) -> (Traced, R),
    mut judge: impl FnMut(usize, &Traced, R) -> T,
) {
    // Counted the way they are hit: a fault may strike a sync, a kill at one is a kill at the next call.
    let count = match act(usize::MAX) {
        Act::Fail { .. } | Act::FailRead { .. } => act(usize::MAX),
        _ => Act::Count,
    };
    // Threads interleave: a run may be a call shorter than another, and the shortest is what must be hit whole.
    let found = (0..3).map(|_| run(count).0.calls.len()).min().unwrap_or(0);
    assert!(found > 0, "{name}: no call was found");
    let (mut hit, mut trees) = (0, BTreeSet::new());
    for n in 1.. {
        let reached = (0..5).any(|_| {
            let (traced, left) = run(act(n));
            let is_hit = traced.hit.is_some();
            if is_hit {
                trees.insert(judge(n, &traced, left));
            }
            is_hit
        });
        if !reached {
            break;
        }
        hit += 1;
    }
    println!("{name}: {found} calls found, {hit} hit, {} distinct trees", trees.len());
    assert!(hit >= found, "{name}: {found} calls were found and only {hit} were hit");
}

/// A task for a program, and the checks of its result.
pub struct Scenario {
    /// Brings the folder that the root will be in to its state before.
    pub prepare: Prepare,
    /// Makes the command that is disturbed.
    pub command: Box<dyn Fn(&Path) -> Command>,
    /// Runs beside it.
    pub drive: Box<dyn Fn(&mut Child) -> Observed + Sync>,
    /// Checks what a disturbed run left, and what it said.
    pub check: Check,
    /// Does the same undisturbed.
    pub again: Box<dyn Fn(&Path)>,
}

pub type Prepare = Box<dyn Fn(&Path)>;
pub type Check = Box<dyn Fn(&Path, &Traced, &Observed, bool)>;

/// The messages of a program, and the answers of the server that it is.
#[derive(Debug, Default)]
pub struct Observed {
    pub stderr: String,
    pub answers: Vec<Result<(u16, Vec<u8>), String>>,
}

pub fn sweep(name: &str, scenario: &Scenario, act: At) {
    let prepared = || {
        let dir = crate::tempdir();
        (scenario.prepare)(dir.path());
        let root = dir.path().join("store");
        (dir, root)
    };
    let undisturbed = {
        let (_dir, root) = prepared();
        (scenario.again)(&root);
        shape(&root)
    };
    let is_kill = is_kill(act);
    let run = |act| {
        let (dir, root) = prepared();
        let (traced, observed) = tracer::run(&mut (scenario.command)(&root), &root, act, &scenario.drive);
        (traced, (dir, root, observed))
    };
    at_each_call(name, act, run, |_, traced, (_dir, root, observed)| {
        markers_tell_the_truth(&root, traced);
        let tree: Vec<_> = shape(&root).keys().map(|path| anonymous(path)).collect();
        (scenario.check)(&root, traced, &observed, is_kill);
        (scenario.again)(&root);
        assert_eq!(
            shape(&root),
            undisturbed,
            "{name}: the second run after {:?} ended otherwise",
            traced.hit
        );
        tree
    });
}

/// Whether the program is killed.
pub fn is_kill(act: At) -> bool {
    matches!(act(1), Act::Kill(_))
}

/// A path without the random parts of names.
pub fn anonymous(path: &Path) -> String {
    let parts = path.iter().map(|part| {
        let part = part.to_string_lossy();
        match ["run-", ".marker."].into_iter().find(|prefix| part.starts_with(prefix)) {
            Some(prefix) => prefix.to_owned(),
            None => part.into_owned(),
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Exactly one marker once the store has begun, and `layout.v2` only on a complete one.
fn markers_tell_the_truth(root: &Path, traced: &Traced) {
    let names: Vec<String> = match fs::read_dir(root) {
        Ok(entries) => entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
        Err(_) => return,
    };
    let markers: Vec<&String> = names
        .iter()
        .filter(|name| {
            name.starts_with("layout.") || name.starts_with("creating.") || name.starts_with("migrating.")
        })
        .collect();
    assert!(markers.len() <= 1, "{markers:?} after {:?}", traced.hit);
    let has_folders = stoa_store::FOLDERS.iter().all(|folder| root.join(folder).is_dir());
    if markers.iter().any(|name| *name == "layout.v2") {
        assert!(has_folders, "layout.v2 on an incomplete store after {:?}", traced.hit);
    }
    if markers.is_empty() {
        let others = names.iter().filter(|name| *name != "store.lock" && !name.starts_with(".marker."));
        assert_eq!(others.count(), 0, "no marker and {names:?} after {:?}", traced.hit);
    }
}

/// An exit of a program whose call failed: documented, and with a message that names a path.
pub fn failed_clearly(traced: &Traced, observed: &Observed) {
    ended_as_documented(traced, observed);
    assert!(
        traced.code == 0 || observed.stderr.contains("store"),
        "no path in the message after {:?}: {}",
        traced.hit,
        observed.stderr
    );
}

/// An exit of a program whose call failed, by a code for what the disk said. What is said must name a path, too:
/// that is for the caller to look at, who knows which.
pub fn ended_as_documented(traced: &Traced, observed: &Observed) {
    assert!(!observed.stderr.contains("panicked"), "{}", observed.stderr);
    assert!(
        [0, 73, 74, 77].contains(&traced.code),
        "exit code {} after {:?}: {}",
        traced.code,
        traced.hit,
        observed.stderr
    );
}

/// Reads what it writes, to its end.
pub fn only_stderr(child: &mut Child) -> Observed {
    // Both pipes are read: one that is full would stop the program.
    let drained = child
        .stdout
        .take()
        .map(|mut out| std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink())));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    if let Some(drained) = drained {
        drained.join().unwrap().unwrap();
    }
    Observed { stderr, answers: Vec::new() }
}
