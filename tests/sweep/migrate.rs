//! `stoa-migrate` killed at every system call that changes the store, failed at each and at each that only reads, and
//! stopped by signals at each, on stores with every odd case: from v0 and from a tree to v2, and from v2 back; and its `leftovers move`.
//!
//! After each the marker tells the truth about the tree and nothing is lost; a second run ends with the tree of
//! an undisturbed one, and a run in the other direction with the tree that it began with. Each sweep prints the
//! calls found, the calls hit and the number of distinct trees, and fails if it hit fewer than it found, or none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Case;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::stores::{self, Files, Plan, Shape, copy, difference, files, folders, markers};
use testkit::sweep::{self, At, Observed, READ_FAULTS, at_each_call, faults, is_kill, only_stderr};
use testkit::tracer::{self, Act, Traced};
use testkit::{MIGRATE, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let mut tests = Vec::new();
    for way in [V0_UP, TREE_UP, BACK] {
        for (fault, act) in faults() {
            let name = format!("{}: {fault}", way.name);
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, way, "1", act)));
        }
        // Both signals take the same way.
        let signals = [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)];
        for (signal, code) in signals.into_iter().take(if sweep::tries_all() { 2 } else { 1 }) {
            let name = format!("{}: {signal}", way.name);
            tests.push(trial(&name.clone(), tracer::missing(), move || stop(&name, way, signal, code)));
        }
        let name = format!("{}: the order of barriers", way.name);
        tests.push(trial(&name, tracer::missing(), move || barriers(way)));
    }
    for way in [PLAIN_UP, BACK_TO_TREE] {
        for (fault, act) in faults() {
            let name = format!("{}: {fault}", way.name);
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, way, "1", act)));
        }
    }
    for (fault, act) in faults() {
        let name = format!("leftovers move: {fault}");
        tests.push(trial(&name.clone(), tracer::missing(), move || leftovers(&name, act)));
    }
    for (fault, act) in faults() {
        let name = format!("restore the marker: {fault}");
        tests.push(trial(&name.clone(), tracer::missing(), move || restore(&name, act)));
    }
    // A read that fails stops the run, or nothing is skipped.
    for way in [SMALL_UP, SMALL_BACK] {
        for (fault, act) in &READ_FAULTS[..2] {
            let name = format!("{}: {fault}", way.name);
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, way, "1", *act)));
        }
    }
    for way in [V0_UP, TREE_UP, BACK, BACK_TO_TREE].into_iter().filter(|_| sweep::tries_all()) {
        for (fault, act) in READ_FAULTS {
            let name = format!("{}: {fault}", way.name);
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, way, "1", act)));
        }
    }
    let name = "v0 to v2, four threads: SIGKILL";
    tests.push(trial(name, tracer::missing(), move || sweep(name, V0_UP, "4", Act::Kill)));
    tests
}

/// A way through the layouts.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    plan: fn() -> Plan,
    /// The layouts on the way.
    layouts: [&'static str; 3],
}

const V0_UP: Way = Way { name: "v0 to v2", plan: stores::v0, layouts: ["v0", "v1", "v2"] };
const TREE_UP: Way = Way { name: "tree to v2", plan: tree, layouts: ["tree", "v1", "v2"] };
const BACK: Way = Way { name: "v2 to v0", plan: stores::v0, layouts: ["v2", "v1", "v0"] };

const PLAIN_UP: Way = Way { name: "unescaped tree to v2", plan: plain_tree, layouts: ["tree", "v1", "v2"] };
const SMALL_UP: Way = Way { name: "small v0 to v2", plan: small, layouts: ["v0", "v1", "v2"] };
const SMALL_BACK: Way = Way { name: "small v2 to v0", plan: small, layouts: ["v2", "v1", "v0"] };
const BACK_TO_TREE: Way = Way { name: "v2 to tree", plan: tree, layouts: ["v2", "v1", "tree"] };

fn tree() -> Plan {
    stores::tree(Shape::Tree)
}

/// Two versions, an alias and a stray file.
fn small() -> Plan {
    let mut plan = Plan::default();
    plan.version(Shape::V0, "github.com/Azure/sdk", "v1.1.0").version(Shape::V0, "example.com/m", "v1.0.0");
    plan.stray("example.com/notes.txt", "notes");
    plan.left("example.com/m/master", "alias").file("example.com/m/master/master.info", "{}");
    plan
}

fn plain_tree() -> Plan {
    stores::tree(Shape::Plain)
}

/// How often the second run is killed, too.
const KILLED_AGAIN_EVERY: usize = 5;

/// The content of a derived file, which a downgrade removes by design.
const DERIVED: &[u8] = b"h1:derived";

/// The store at each layout of a way, undisturbed.
struct Undisturbed {
    way: Way,
    plan: Plan,
    dir: TempDir,
    at: BTreeMap<&'static str, (Files, Vec<PathBuf>)>,
}

impl Undisturbed {
    fn new(way: Way) -> Self {
        let dir = testkit::tempdir();
        let (root, first) = (dir.path().join("walk"), way.layouts[0]);
        let plan = (way.plan)();
        plan.write(&root);
        if first == "v2" {
            migrate(&root, "v2");
            // A version that is sealed, what was used, and what is kept for good.
            let paths = Shape::V2.paths("github.com/Azure/sdk", "v1.1.0");
            fs::write(root.join(paths[0].with_file_name("ziphash")), DERIVED).unwrap();
            fs::create_dir(root.join("staging/run-dead")).unwrap();
            fs::write(root.join("staging/run-dead/zip"), DERIVED).unwrap();
            fs::create_dir(root.join("quarantine/20260102T030405Z-1-0")).unwrap();
            fs::write(root.join("quarantine/20260102T030405Z-1-0/reason.toml"), "why").unwrap();
        }
        copy(&root, &dir.path().join("first"));
        let mut at = BTreeMap::new();
        for layout in way.layouts {
            migrate(&root, layout);
            at.insert(layout, (files(&root), folders(&root)));
        }
        Self { way, plan, dir, at }
    }

    /// Makes the store as it is before.
    fn fresh(&self, dir: &Path) -> PathBuf {
        let root = dir.join("store");
        copy(&self.dir.path().join("first"), &root);
        root
    }

    /// The marker names a layout that the store is at, whole, or a step whose two sides hold all there is.
    fn judge(&self, root: &Path, what: &str) {
        let (found, markers) = (files(root), markers(root));
        assert!(markers.len() <= 1, "{markers:?} {what}");
        let untagged =
            self.way.layouts.iter().find(|layout| !layout.starts_with('v') || **layout == "v0").unwrap();
        match markers.first().map(|marker| marker.split_once('.').unwrap()) {
            None => self.is_at(untagged, &found, "no marker", what),
            Some(("layout", layout)) => self.is_at(layout, &found, layout, what),
            Some(("migrating", step)) => {
                let (from, to) = step.split_once('-').unwrap();
                let mut sides = vec![self.at[from].0.clone(), self.at[to].0.clone()];
                if [from, to].contains(&"tree") {
                    // What a way back wrote is escaped.
                    sides.push(self.plan.escaped(self.at["tree"].0.clone()));
                }
                for (path, kept) in &found {
                    let known = sides.iter().any(|side| side.get(path) == Some(kept));
                    assert!(known, "{} is on no side of {step}, {what}", path.display());
                }
            }
            Some(other) => panic!("{other:?} {what}"),
        }
        let (had, has) = (multiset(&self.at[self.way.layouts[0]].0), multiset(&found));
        assert!(
            had == has,
            "lost, or twice: {what}\n{}",
            difference(&self.at[self.way.layouts[0]].0, &found)
        );
    }

    fn is_at(&self, layout: &str, found: &Files, says: &str, what: &str) {
        let (expected, found) = (self.comparable(layout, &self.at[layout].0), self.comparable(layout, found));
        // Seals do not survive a way back that was turned around.
        assert!(sealless(&expected) == sealless(&found), "{says} {what}:\n{}", difference(&expected, &found));
    }

    /// A way back to a tree writes the escaped spelling.
    fn comparable(&self, layout: &str, files: &Files) -> Files {
        if layout == "tree" { self.plan.escaped(files.clone()) } else { files.clone() }
    }

    /// Runs to a layout and compares with the undisturbed store there.
    fn ends(&self, root: &Path, layout: &'static str, with_seals: bool, what: &str) {
        migrate(root, layout);
        let (expected, expected_folders) = &self.at[layout];
        let (expected, found) = (self.comparable(layout, expected), self.comparable(layout, &files(root)));
        let same = if with_seals { expected == found } else { sealless(&expected) == sealless(&found) };
        assert!(same, "to {layout} {what}:\n{}", difference(&expected, &found));
        let below = |folders: &[PathBuf]| -> BTreeSet<PathBuf> {
            let kept = folders.iter().filter(|folder| !folder.starts_with("staging"));
            kept.map(|folder| if layout == "tree" { unspelled(folder) } else { folder.clone() }).collect()
        };
        assert_eq!(below(&folders(root)), below(expected_folders), "to {layout} {what}");
        let markers = markers(root);
        let expected =
            if layout == "v0" || layout == "tree" { vec![] } else { vec![format!("layout.{layout}")] };
        assert_eq!(markers, expected, "to {layout} {what}");
    }
}

/// A path in whatever spelling.
fn unspelled(path: &Path) -> PathBuf {
    PathBuf::from(path.to_string_lossy().to_lowercase().replace('!', ""))
}

fn sealless(files: &Files) -> Files {
    files
        .iter()
        .filter(|(_, kept)| kept.content != DERIVED)
        .map(|(path, kept)| (path.clone(), kept.clone()))
        .collect()
}

/// The files, wherever they are.
fn multiset(files: &Files) -> Vec<&stores::Kept> {
    let mut all: Vec<_> = files.values().filter(|kept| kept.content != DERIVED).collect();
    all.sort();
    all
}

fn command(root: &Path, to: &str, threads: &str) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["--to", to, "--threads", threads, "--progress", "never", "--store"]).arg(root);
    command
}

fn migrate(root: &Path, to: &str) {
    let output = command(root, to, "1").output().unwrap();
    assert!(output.status.success(), "to {to}: {}", transcript(&output));
}

fn traced(root: &Path, to: &str, threads: &str, act: Act) -> (Traced, Observed) {
    tracer::run(&mut command(root, to, threads), root, act, only_stderr)
}

/// Runs the whole way from the prepared store.
fn whole_way(undisturbed: &Undisturbed, threads: &str, act: Act) -> (Traced, (TempDir, PathBuf, Observed)) {
    let dir = testkit::tempdir();
    let root = undisturbed.fresh(dir.path());
    let (run, observed) = traced(&root, undisturbed.way.layouts[2], threads, act);
    (run, (dir, root, observed))
}

/// Returns a key that distinguishes trees.
fn tree_of(root: &Path) -> (Vec<String>, Vec<PathBuf>) {
    (markers(root), files(root).into_keys().collect())
}

fn sweep(name: &str, way: Way, threads: &str, act: At) {
    let undisturbed = Undisturbed::new(way);
    let [first, _, last] = way.layouts;
    let (mut killed_again, mut stopped) = (0, 0);
    at_each_call(
        name,
        act,
        |act| whole_way(&undisturbed, threads, act),
        |n, run, (dir, root, observed)| {
            let what = format!("after {:?} (call {n})", run.hit);
            undisturbed.judge(&root, &what);
            let tree = tree_of(&root);
            if is_kill(act) {
                assert_eq!(run.code, -9, "{what}");
                let turned = dir.path().join("turned");
                copy(&root, &turned);
                undisturbed.ends(&turned, first, false, &what);
                if n % KILLED_AGAIN_EVERY == 0 {
                    killed_again += usize::from(kill_again(&undisturbed, &root, n, &what));
                }
            } else {
                failed_clearly(&root, run, &observed, &what);
                stopped += usize::from(run.code != 0);
                if run.code == 0 {
                    undisturbed.is_at(last, &files(&root), "success", &what);
                }
                remove_kept_folders(&observed, &what);
            }
            undisturbed.ends(&root, last, true, &what);
            tree
        },
    );
    println!("{name}: {stopped} runs stopped with an error, {killed_again} second runs killed");
    assert!(is_kill(act) || stopped > 0, "{name}: no error stopped a run");
    assert!(!is_kill(act) || killed_again > 0, "{name}: no second run was killed");
}

/// Removes the folders that the system did not let a run remove. They hold no file.
fn remove_kept_folders(observed: &Observed, what: &str) {
    for warning in observed.stderr.split("cannot remove the empty folder ").skip(1) {
        let folder = warning.split_once(": ").unwrap().0;
        // The next step may have removed it.
        if Path::new(folder).exists() {
            assert!(files(Path::new(folder)).is_empty(), "{folder} holds files {what}");
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

/// Kills the second run as well, in one direction or the other, and says whether it got so far.
fn kill_again(undisturbed: &Undisturbed, root: &Path, n: usize, what: &str) -> bool {
    let [first, _, last] = undisturbed.way.layouts;
    let to = if n.is_multiple_of(2) { last } else { first };
    let (run, _) = traced(root, to, "1", Act::Kill(n % 23 + 3));
    let what = format!("{what} and again, to {to}, {:?}", run.hit);
    undisturbed.judge(root, &what);
    // Seals do not survive a way back to v0.
    if to == first && undisturbed.way.layouts[2] == "v0" {
        let seal = Shape::V2.paths("github.com/Azure/sdk", "v1.1.0")[0].with_file_name("ziphash");
        let flat = Shape::V1.paths("github.com/Azure/sdk", "v1.1.0")[0].with_extension("ziphash");
        assert!([seal, flat].iter().filter(|seal| root.join(seal).exists()).count() <= 1, "{what}");
    }
    run.hit.is_some()
}

/// An exit of a program whose call failed: documented, and with a message that names a path and what to do.
fn failed_clearly(root: &Path, run: &Traced, observed: &Observed, what: &str) {
    sweep::ended_as_documented(run, observed);
    let stderr = &observed.stderr;
    if run.code != 0 {
        assert!(stderr.contains(root.to_str().unwrap()), "no path in the message {what}: {stderr}");
        assert!(stderr.contains("run again"), "no next step in the message {what}: {stderr}");
    }
}

fn stop(name: &str, way: Way, signal: Signal, code: i32) {
    let undisturbed = Undisturbed::new(way);
    let [first, _, last] = way.layouts;
    let (mut tried, mut stopped) = (0, 0);
    at_each_call(
        name,
        |at| Act::Signal(at, signal),
        |act| whole_way(&undisturbed, "1", act),
        |n, run, (dir, root, observed)| {
            let what = format!("after {signal} at {:?} (call {n})", run.hit);
            undisturbed.judge(&root, &what);
            let tree = tree_of(&root);
            if run.code == 0 {
                undisturbed.is_at(last, &files(&root), "success", &what);
            } else {
                assert_eq!(run.code, code, "{what}: {}", observed.stderr);
                assert!(observed.stderr.contains("run again"), "{what}: {}", observed.stderr);
                stopped += 1;
            }
            tried += 1;
            let turned = dir.path().join("turned");
            copy(&root, &turned);
            undisturbed.ends(&turned, first, false, &what);
            undisturbed.ends(&root, last, true, &what);
            tree
        },
    );
    println!("{name}: {stopped} stopped");
    // What comes when all is moved no longer stops it.
    assert!(stopped * 4 > tried * 3, "only {stopped} of {tried} were stopped");
}

/// Moves the leftovers of a store out of it: each is in the store or outside, whole, and a second run takes the
/// rest.
fn leftovers(name: &str, act: At) {
    let undisturbed = Undisturbed::new(V0_UP);
    let command = |dir: &Path| {
        let mut command = Command::new(MIGRATE);
        command.arg("--store").arg(dir.join("store")).args(["leftovers", "move"]).arg(dir.join("out/of/it"));
        command
    };
    let fresh = || {
        let dir = testkit::tempdir();
        let root = undisturbed.fresh(dir.path());
        migrate(&root, "v2");
        (dir, root)
    };
    // A move that is repeated has two lines in the audit log.
    let files = |root: &Path| {
        let mut files = files(root);
        files.remove(Path::new("records/audit/current"));
        files
    };
    let outside = |dir: &Path| {
        let out = dir.join("out/of/it");
        if out.exists() { files(&out) } else { Files::default() }
    };
    let both = |dir: &Path| {
        let (mut inside, outside) = (files(&dir.join("store")), outside(dir));
        for (path, kept) in outside {
            let twice = inside.insert(path.clone(), kept);
            assert_eq!(twice, None, "{} is at both places", path.display());
        }
        inside
    };
    let (dir, root) = fresh();
    let before = files(&root);
    let output = command(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    let expected = (files(&root), outside(dir.path()));
    assert!(!expected.1.is_empty() && both(dir.path()) == before);
    let run = |act: Act| {
        let (dir, root) = fresh();
        let (run, observed) = tracer::run(&mut command(dir.path()), dir.path(), act, only_stderr);
        (run, (dir, root, observed))
    };
    at_each_call(name, act, run, |n, run, (dir, root, observed)| {
        let what = format!("after {:?} (call {n})", run.hit);
        assert_eq!(markers(&root), ["layout.v2"], "{what}");
        assert!(both(dir.path()) == before, "{what}: {}", difference(&before, &both(dir.path())));
        let tree = tree_of(&root);
        if is_kill(act) {
            assert_eq!(run.code, -9, "{what}");
        } else {
            failed_clearly(dir.path(), run, &observed, &what);
        }
        let output = command(dir.path()).output().unwrap();
        assert!(output.status.success(), "{what}: {}", self::transcript(&output));
        assert!((files(&root), outside(dir.path())) == expected, "{what}");
        tree
    });
}

/// Restores the lost marker of a store: after each fault the marker is missing or complete, no version is changed, and
/// a second run ends with the marker.
fn restore(name: &str, act: At) {
    let undisturbed = Undisturbed::new(V0_UP);
    let command = |root: &Path| {
        let mut command = Command::new(MIGRATE);
        command.arg("--store").arg(root).args(["--from", "v2", "--threads", "1", "--progress", "never"]);
        command
    };
    let fresh = || {
        let dir = testkit::tempdir();
        let root = undisturbed.fresh(dir.path());
        migrate(&root, "v2");
        fs::remove_file(root.join("layout.v2")).unwrap();
        // A backup may leave out empty folders.
        fs::remove_dir(root.join("quarantine")).unwrap();
        (dir, root)
    };
    let expected = undisturbed.at["v2"].0.clone();
    let run = |act: Act| {
        let (dir, root) = fresh();
        let (run, observed) = tracer::run(&mut command(&root), &root, act, only_stderr);
        (run, (dir, root, observed))
    };
    at_each_call(name, act, run, |n, run, (_dir, root, observed)| {
        let what = format!("after {:?} (call {n})", run.hit);
        let found = markers(&root);
        assert!(found.is_empty() || found == ["layout.v2"], "{found:?} {what}");
        assert!(files(&root) == expected, "{what}: {}", difference(&expected, &files(&root)));
        let tree = tree_of(&root);
        if is_kill(act) {
            assert_eq!(run.code, -9, "{what}");
        } else {
            failed_clearly(&root, run, &observed, &what);
        }
        if found.is_empty() {
            let output = command(&root).output().unwrap();
            assert!(output.status.success(), "{what}: {}", self::transcript(&output));
        }
        assert_eq!(markers(&root), ["layout.v2"], "{what}");
        assert!(root.join("quarantine").is_dir(), "{what}");
        assert!(files(&root) == expected, "{what}: {}", difference(&expected, &files(&root)));
        tree
    });
}

/// The begin is on disk before the first move, all moves before the end, and the end before anything else.
fn barriers(way: Way) {
    let undisturbed = Undisturbed::new(way);
    let dir = testkit::tempdir();
    let root = undisturbed.fresh(dir.path());
    let (run, _) = traced(&root, way.layouts[2], "4", Act::Record);
    assert_eq!(run.code, 0);
    let calls: Vec<(&str, &str)> = run.calls.iter().map(|call| call.split_once(' ').unwrap()).collect();
    let is_marker = |path: &str| {
        path.is_empty()
            || path == "store.lock"
            || [".marker.", "migrating.", "layout."].iter().any(|form| path.starts_with(form))
    };
    let is_move = |call: &(&str, &str)| !is_marker(call.1) && !call.0.contains("sync");
    let mut at = 0;
    for step in way.layouts.windows(2) {
        let begin = format!("migrating.{}-{}", step[0], step[1]);
        let begun =
            at + calls[at..].iter().position(|call| *call == ("renameat", &begin)).expect("it begins");
        assert!(!calls[at..begun].iter().any(is_move), "something moves before {begin}");
        let first = begun + calls[begun..].iter().position(is_move).expect("something moves");
        assert!(
            calls[begun..first].contains(&("fsync", "")),
            "the root is not synced before the first move of {begin}"
        );
        let end = match step[1] {
            "v0" | "tree" => ("unlink", begin.clone()),
            layout => ("renameat", format!("layout.{layout}")),
        };
        let is_end = |call: &(&str, &str)| call.0.starts_with(end.0) && call.1 == end.1;
        let ended = first + calls[first..].iter().position(is_end).expect("it ends");
        let last = first + calls[first..ended].iter().rposition(is_move).unwrap();
        assert!(
            calls[last..ended].contains(&("syncfs", "")),
            "the moves of {begin} are not synced before its end"
        );
        assert_eq!(calls[ended + 1], ("fsync", ""), "the root is not synced right after the end of {begin}");
        at = ended + 1;
    }
    assert!(!calls[at..].iter().any(is_move), "something moves after the end");
}
