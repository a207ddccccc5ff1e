//! A program that is disturbed at every system call that changes the store: killed there, or with that call
//! failing.
//!
//! After each: the marker tells the truth, no version is visible that is not whole, and a second run ends
//! with the tree of an undisturbed one. Each sweep prints the calls found, the calls hit and the number of
//! distinct trees at the end, and fails if it hit fewer than it found, or found none.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use libtest_mimic::Trial;
use nix::errno::Errno;

use super::tracer::{self, Act, Traced};
use super::tree::shape;
use super::trial;

/// Makes a scenario.
pub type Start = fn() -> Scenario;

/// Makes the tests of some scenarios, each under every fault.
pub fn trials(scenarios: &[(&str, Start)]) -> Vec<Trial> {
    let mut tests = Vec::new();
    for (scenario, start) in scenarios.iter().copied() {
        for (fault, act) in FAULTS {
            let name = format!("{scenario}: {fault}");
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, &start(), act)));
        }
    }
    tests
}

/// Is what happens at the Nth call.
pub type At = fn(usize) -> Act;

pub const FAULTS: [(&str, At); 5] = [
    ("SIGKILL", Act::Kill),
    ("ENOSPC once", |at| Act::Fail { at, errno: Errno::ENOSPC, sticky: false }),
    ("ENOSPC from then on", |at| Act::Fail { at, errno: Errno::ENOSPC, sticky: true }),
    ("EIO", |at| Act::Fail { at, errno: Errno::EIO, sticky: false }),
    ("EACCES", |at| Act::Fail { at, errno: Errno::EACCES, sticky: false }),
];

/// What a program is made to do, and what must be so afterwards.
pub struct Scenario {
    /// Brings the folder that the root will be in to its state before.
    pub prepare: Prepare,
    /// Is the command that is disturbed.
    pub command: Box<dyn Fn(&Path) -> Command>,
    /// Runs beside it.
    pub drive: Box<dyn Fn(&mut Child) -> Told + Sync>,
    /// Checks what a disturbed run left, and what it said.
    pub check: Check,
    /// Does the same undisturbed.
    pub again: Box<dyn Fn(&Path)>,
}

pub type Prepare = Box<dyn Fn(&Path)>;
pub type Check = Box<dyn Fn(&Path, &Traced, &Told, bool)>;

#[derive(Debug, Default)]
pub struct Told {
    pub stderr: String,
    pub answers: Vec<Result<(u16, Vec<u8>), String>>,
}

pub fn sweep(name: &str, scenario: &Scenario, act: fn(usize) -> Act) {
    let undisturbed = {
        let dir = tempfile::tempdir().unwrap();
        let root = prepare(scenario, dir.path());
        (scenario.again)(&root);
        shape(&root)
    };
    let is_kill = matches!(act(1), Act::Kill(_));
    let found = {
        let dir = tempfile::tempdir().unwrap();
        let root = prepare(scenario, dir.path());
        // Counted the way they are hit: a fault may strike a sync, a kill at one is a kill at the next call.
        let count = if is_kill { Act::Count } else { act(usize::MAX) };
        let (traced, _) = tracer::run(&mut (scenario.command)(&root), &root, count, &scenario.drive);
        traced.calls.len()
    };
    assert!(found > 0, "{name}: no call was found");
    let (mut hit, mut trees) = (0, BTreeSet::new());
    for n in 1.. {
        // Threads interleave: a run may be a call shorter than another.
        let reached = (0..3).any(|_| {
            let dir = tempfile::tempdir().unwrap();
            let root = prepare(scenario, dir.path());
            let (traced, told) = tracer::run(&mut (scenario.command)(&root), &root, act(n), &scenario.drive);
            if traced.hit.is_none() {
                return false;
            }
            markers_tell_the_truth(&root, &traced);
            trees
                .insert(format!("{:?}", shape(&root).keys().map(|path| anonymous(path)).collect::<Vec<_>>()));
            (scenario.check)(&root, &traced, &told, is_kill);
            (scenario.again)(&root);
            assert_eq!(
                shape(&root),
                undisturbed,
                "{name}: the second run after {:?} ended otherwise",
                traced.hit
            );
            true
        });
        if !reached {
            break;
        }
        hit += 1;
    }
    println!("{name}: {found} calls found, {hit} hit, {} distinct trees", trees.len());
    assert!(hit >= found, "{name}: {found} calls were found and only {hit} were hit");
}

fn prepare(scenario: &Scenario, dir: &Path) -> PathBuf {
    (scenario.prepare)(dir);
    dir.join("store")
}

/// A path without the random parts of names.
fn anonymous(path: &Path) -> String {
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
pub fn failed_clearly(traced: &Traced, told: &Told) {
    if traced.code == 0 {
        return;
    }
    assert!(
        [73, 74, 77].contains(&traced.code),
        "exit code {} after {:?}: {}",
        traced.code,
        traced.hit,
        told.stderr
    );
    assert!(told.stderr.contains("store"), "no path in the message after {:?}: {}", traced.hit, told.stderr);
    assert!(!told.stderr.contains("panicked"), "{}", told.stderr);
}

pub fn only_stderr(child: &mut Child) -> Told {
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Told { stderr, answers: Vec::new() }
}
