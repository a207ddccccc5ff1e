//! The real programs, killed at every system call that changes something while they import and export, and with
//! each of these calls failing.
//!
//! After each: no version is visible that is not whole, in the store or in the exported tree, the source of an
//! import is as it was, and a second run ends with the tree of an undisturbed one. Each sweep prints the calls
//! found, the calls hit and the number of distinct trees that they left, and fails if it hit fewer than it found,
//! or found none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Case;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use testkit::sweep::{
    At, Observed, anonymous, at_each_call, ended_as_documented, faults, is_kill, only_stderr,
};
use testkit::tracer::{self, Act, Traced};
use testkit::tree::{shape, snapshot};
use testkit::upstream::Module;
use testkit::{MIGRATE, STOA, create, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let mut tests = Vec::new();
    for scenario in [IMPORT_V0, IMPORT_CACHE, EXPORT, EXPORT_MORE] {
        for (fault, act) in faults() {
            let name = format!("{}: {fault}", scenario.name);
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, &scenario, act)));
        }
    }
    tests.push(trial(
        "an import stops at a signal and goes on",
        tracer::missing(),
        an_import_stops_and_goes_on,
    ));
    tests
}

/// A disturbed command and its checks. All of it happens below one folder: `store`, and `source` or `tree`.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    prepare: fn(&Path),
    command: fn(&Path) -> Command,
    /// The check after a program stopped.
    check: fn(&Scenario, &Path, &str),
    /// The version whose info a hand removed from the tree, so that it is listed until the next run.
    removed: Option<&'static str>,
}

const IMPORT_V0: Scenario = Scenario {
    name: "import of an Athens store",
    prepare: |dir| {
        let source = dir.join("source");
        modules().iter().for_each(|module| drop(module.put_v0(&source)));
        fs::create_dir_all(source.join("example.com/half/v1.0.0")).unwrap();
        fs::write(source.join("example.com/half/v1.0.0/go.mod"), "module example.com/half\n").unwrap();
        create(&dir.join("store"));
    },
    command: import,
    check: imported,
    removed: None,
};

const IMPORT_CACHE: Scenario = Scenario {
    name: "import of a module cache",
    prepare: |dir| {
        let cache = dir.join("source/cache/download");
        for module in modules() {
            let folder = module.put_flat(&cache);
            let stem = module.version.version().escaped();
            fs::write(folder.join(format!("{stem}.lock")), "").unwrap();
            fs::write(folder.join(format!("{stem}.ziphash")), "h1:not looked at").unwrap();
            fs::write(folder.join("list"), "").unwrap();
        }
        fs::write(cache.join("example.com/m/@v/v1.9.0.mod"), "module example.com/m\n").unwrap();
        create(&dir.join("store"));
        // One is there already, and of another there is something in the way.
        modules()[0].put_unsealed(&dir.join("store"));
        let folder = modules()[1].put_unsealed(&dir.join("store"));
        fs::remove_file(folder.join("info")).unwrap();
    },
    command: import,
    check: imported,
    removed: None,
};

const EXPORT: Scenario = Scenario {
    name: "export",
    prepare: |dir| {
        create(&dir.join("store"));
        modules().iter().for_each(|module| drop(module.put_unsealed(&dir.join("store"))));
    },
    command: export,
    check: exported,
    removed: None,
};

const EXPORT_MORE: Scenario = Scenario {
    name: "export once more",
    prepare: |dir| {
        create(&dir.join("store"));
        let modules = modules();
        modules[..1].iter().for_each(|module| drop(module.put_unsealed(&dir.join("store"))));
        let output = export(dir).output().unwrap();
        assert!(output.status.success(), "{}", transcript(&output));
        modules[1..].iter().for_each(|module| drop(module.put_unsealed(&dir.join("store"))));
        // As a run that was killed leaves it.
        fs::write(dir.join("tree/.stoa-export/7"), "half").unwrap();
        fs::remove_file(dir.join("tree/example.com/m/@v/v1.0.0.info")).unwrap();
    },
    command: export,
    check: exported,
    removed: Some("v1.0.0"),
};

/// One that takes more than one write, one with capitals, and a module without a tagged version.
fn modules() -> Vec<Module> {
    vec![
        Module::new("example.com/m@v1.0.0", 100),
        Module::new("example.com/Cap/n@v1.0.0-RC1", 300_000),
        Module::new("example.com/p@v0.0.0-20240102030405-abcdefabcdef", 100),
    ]
}

fn import(dir: &Path) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["import", "--progress", "never"]).arg(dir.join("source"));
    command.arg("--store").arg(dir.join("store"));
    command
}

fn export(dir: &Path) -> Command {
    let mut command = Command::new(STOA);
    command.args(["export", "--progress", "never"]).arg(dir.join("tree"));
    command.arg("--store").arg(dir.join("store"));
    command
}

/// The source is as it was, and what is visible in the store is whole.
fn imported(scenario: &Scenario, dir: &Path, when: &str) {
    let fresh = testkit::tempdir();
    let source = |dir: &Path| {
        let mut source = snapshot(&dir.join("source"));
        source.values_mut().for_each(|entry| entry.modified = (0, 0));
        source
    };
    (scenario.prepare)(fresh.path());
    assert_eq!(source(dir), source(fresh.path()), "the source was changed after {when}");
    in_the_store(dir, when);
}

fn in_the_store(dir: &Path, when: &str) {
    for module in modules() {
        let (path, version) = (module.version.path().escaped(), module.version.version().escaped());
        let folder = dir.join("store/modules").join(path).join("@v").join(version);
        if !folder.join("info").exists() {
            continue;
        }
        for (name, content) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            let is =
                fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name} after {when}: {error}"));
            assert!(is == *content, "{} {name} is not whole after {when}", module.version);
        }
    }
}

/// Whatever has its name in the tree is whole, and what is listed is there.
fn exported(scenario: &Scenario, dir: &Path, when: &str) {
    in_the_store(dir, when);
    let tree = dir.join("tree");
    for module in modules() {
        let folder = tree.join(module.version.path().escaped()).join("@v");
        let name = module.version.version().escaped();
        let files = [("mod", &module.modfile), ("zip", &module.zip), ("info", &module.info)];
        let mut there = 0;
        for (ending, content) in files {
            match fs::read(folder.join(format!("{name}.{ending}"))) {
                Ok(is) => assert!(is == *content, "{name}.{ending} is not whole after {when}"),
                Err(_) => continue,
            }
            there += 1;
        }
        let has_info = folder.join(format!("{name}.info")).exists();
        assert!(!has_info || there == 3, "an info without the rest after {when}");
        let list = fs::read_to_string(folder.join("list")).unwrap_or_default();
        let is_listed = list.lines().any(|line| line == module.version.version().as_str());
        let was_removed = scenario.removed == Some(name.as_str());
        assert!(!is_listed || has_info || was_removed, "{name} is listed and not there after {when}");
    }
}

/// The result of a run: the store and the tree.
fn ends(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut whole = shape(&dir.join("store"));
    whole.extend(
        shape(&dir.join("tree")).into_iter().map(|(path, content)| (Path::new("tree").join(path), content)),
    );
    whole
}

/// Returns whether a path is a left-over file that the next run removes.
fn is_swept(path: &Path) -> bool {
    let name = |at: usize| path.iter().nth(at).and_then(|name| name.to_str()).unwrap_or_default();
    name(0) == "staging" && name(1).starts_with("run-")
        || name(1) == ".stoa-export" && !["", "lock"].contains(&name(2))
}

fn assert_same(expected: &BTreeMap<PathBuf, Vec<u8>>, found: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    let differ = |one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
        let missing =
            one.iter().filter(|(path, content)| !is_swept(path) && other.get(*path) != Some(content));
        missing.map(|(path, _)| path.clone()).collect()
    };
    let (missing, more) = (differ(expected, found), differ(found, expected));
    assert!(
        missing.is_empty() && more.is_empty(),
        "{what}: missing or other {missing:?}, more or other {more:?}"
    );
}

fn prepared(scenario: &Scenario) -> tempfile::TempDir {
    let dir = testkit::tempdir();
    (scenario.prepare)(dir.path());
    dir
}

fn run(scenario: &Scenario, act: Act) -> (Traced, (tempfile::TempDir, Observed)) {
    let dir = prepared(scenario);
    let (traced, observed) = tracer::run(&mut (scenario.command)(dir.path()), dir.path(), act, only_stderr);
    assert!(traced.hit.is_some() || traced.code == 0, "{}", observed.stderr);
    (traced, (dir, observed))
}

fn sweep(name: &str, scenario: &Scenario, act: At) {
    let undisturbed = {
        let dir = prepared(scenario);
        again(scenario, dir.path());
        (scenario.check)(scenario, dir.path(), "nothing");
        ends(dir.path())
    };
    at_each_call(
        name,
        act,
        |act| run(scenario, act),
        |n, traced, (dir, observed)| {
            let dir = dir.path();
            let call = traced.hit.as_deref().unwrap();
            let tree: Vec<_> = ends(dir).keys().map(|path| anonymous(path)).collect();
            (scenario.check)(scenario, dir, call);
            if !is_kill(act) {
                failed_clearly(traced, &observed, act(n));
                if traced.code == 0 {
                    assert_same(
                        &undisturbed,
                        &ends(dir),
                        &format!("{name}: success was reported after {call}"),
                    );
                }
            }
            ends_alike(&undisturbed, scenario, dir, &format!("{name}: after {call}"));
            tree
        },
    );
}

/// Runs once more, and compares with what an undisturbed run ends with.
fn ends_alike(undisturbed: &BTreeMap<PathBuf, Vec<u8>>, scenario: &Scenario, dir: &Path, what: &str) {
    again(scenario, dir);
    (scenario.check)(scenario, dir, what);
    let ended = ends(dir);
    assert!(!ended.keys().any(|path| is_swept(path)), "not swept, {what}: {:?}", ended.keys());
    assert_same(undisturbed, &ended, &format!("the second run ended otherwise, {what}"));
}

fn again(scenario: &Scenario, dir: &Path) {
    let output = (scenario.command)(dir).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
}

/// An exit of a program whose call failed: documented, and with a message that names a path and what to do.
fn failed_clearly(traced: &Traced, observed: &Observed, act: Act) {
    let (call, said) = (traced.hit.as_deref().unwrap(), &observed.stderr);
    if traced.code == 1 {
        // Of one version: it is named, and the others are carried.
        assert!(matches!(act, Act::Fail { errno: Errno::EACCES, .. }), "after {call}: {said}");
        assert!(said.contains("failed ") && !said.contains("panicked"), "after {call}: {said}");
    } else {
        ended_as_documented(traced, observed);
    }
    if traced.code != 0 {
        assert!(
            said.contains("cannot ") && (said.contains("/store") || said.contains("/tree")),
            "after {call}: {said}"
        );
        assert!(said.contains("run again"), "after {call}: {said}");
    }
}

fn an_import_stops_and_goes_on() {
    let undisturbed = {
        let dir = prepared(&IMPORT_V0);
        again(&IMPORT_V0, dir.path());
        ends(dir.path())
    };
    let (mut stopped, mut dropped) = (0, 0);
    at_each_call(
        "an import stops",
        |at| Act::Signal(at, Signal::SIGTERM),
        |act| run(&IMPORT_V0, act),
        |_, traced, (dir, observed)| {
            let (dir, call, said) = (dir.path(), traced.hit.as_deref().unwrap(), &observed.stderr);
            let tree: Vec<_> = ends(dir).keys().map(|path| anonymous(path)).collect();
            imported(&IMPORT_V0, dir, call);
            match traced.code {
                0 => assert_same(&undisturbed, &ends(dir), &format!("success was reported after {call}")),
                // Before it begins a signal ends it as it ends any program.
                -15 => {}
                code => {
                    assert_eq!(code, 143, "after {call}: {said}");
                    assert!(said.contains("run again"), "after {call}: {said}");
                    stopped += 1;
                    dropped += usize::from(said.contains(" and discarded "));
                }
            }
            ends_alike(&undisturbed, &IMPORT_V0, dir, &format!("after {call}"));
            tree
        },
    );
    println!("stopped at {stopped} calls, with something to drop at {dropped}");
    assert!(stopped > 10 && dropped > 0, "stopped at {stopped} calls, with something to drop at {dropped}");
}
