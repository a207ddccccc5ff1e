//! The real programs, killed at every system call that changes something while they import and export, and with
//! each of these calls failing.
//!
//! After each: no version is visible that is not whole, in the store or in the exported tree, the source of an
//! import is as it was, and a second run ends with the tree of an undisturbed one. Each sweep prints the calls
//! found, the calls hit and the number of distinct trees that they left, and fails if it hit fewer than it found,
//! or found none.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use libtest_mimic::Arguments;
use nix::errno::Errno;
use support::tracer::{self, Act, Traced};
use support::tree::{shape, snapshot};
use support::upstream::Module;
use support::{MIGRATE, STOA, create, stores, told, trial};

fn main() {
    let mut tests = Vec::new();
    for (scenario, is_like_another) in
        [(IMPORT_V0, false), (IMPORT_CACHE, true), (EXPORT, false), (EXPORT_MORE, true)]
    {
        for (fault, act) in
            FAULTS.into_iter().filter(|(fault, _)| !is_like_another || BRIEFLY.contains(fault))
        {
            let name = format!("{}: {fault}", scenario.name);
            tests.push(trial(&name.clone(), tracer::missing(), move || sweep(&name, &scenario, act)));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

/// Is what happens at the Nth call.
type At = fn(usize) -> Act;

const FAULTS: [(&str, At); 5] = [
    ("SIGKILL", Act::Kill),
    ("ENOSPC once", |at| Act::Fail { at, errno: Errno::ENOSPC, sticky: false }),
    ("ENOSPC from then on", |at| Act::Fail { at, errno: Errno::ENOSPC, sticky: true }),
    ("EIO", |at| Act::Fail { at, errno: Errno::EIO, sticky: false }),
    ("EACCES", |at| Act::Fail { at, errno: Errno::EACCES, sticky: false }),
];

/// What is tried where the program does much the same as in another scenario.
const BRIEFLY: [&str; 1] = ["SIGKILL"];

/// What is disturbed. All of it happens below one folder: `store`, and `source` or `tree`.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    prepare: fn(&Path),
    command: fn(&Path) -> Command,
    /// What must be so whenever a program stopped.
    check: fn(&Path, &str),
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
};

const EXPORT: Scenario = Scenario {
    name: "export",
    prepare: |dir| {
        create(&dir.join("store"));
        modules().iter().for_each(|module| drop(module.put_unsealed(&dir.join("store"))));
    },
    command: export,
    check: exported,
};

const EXPORT_MORE: Scenario = Scenario {
    name: "export once more",
    prepare: |dir| {
        create(&dir.join("store"));
        let modules = modules();
        modules[..1].iter().for_each(|module| drop(module.put_unsealed(&dir.join("store"))));
        let output = export(dir).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        modules[1..].iter().for_each(|module| drop(module.put_unsealed(&dir.join("store"))));
        // As a run that was killed leaves it.
        fs::write(dir.join("tree/.stoa-export/7"), "half").unwrap();
        fs::remove_file(dir.join("tree/example.com/m/@v/v1.0.0.info")).unwrap();
    },
    command: export,
    check: exported,
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
fn imported(dir: &Path, when: &str) {
    let fresh = tempfile::tempdir().unwrap();
    let source = |dir: &Path| {
        let mut source = snapshot(&dir.join("source"));
        source.values_mut().for_each(|entry| entry.modified = (0, 0));
        source
    };
    let scenario = if dir.join("source/cache").exists() { IMPORT_CACHE } else { IMPORT_V0 };
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
fn exported(dir: &Path, when: &str) {
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
        // An info that a hand removed is listed until the next run.
        let was_removed = name == "v1.0.0" && dir.join("tree/.stoa-export").exists();
        assert!(!is_listed || has_info || was_removed, "{name} is listed and not there after {when}");
    }
}

/// What a run ends with: the store and the tree.
fn ends(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut whole = shape(&dir.join("store"));
    whole.extend(
        shape(&dir.join("tree")).into_iter().map(|(path, content)| (Path::new("tree").join(path), content)),
    );
    whole
}

/// What a run could not remove is left to the next one.
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

fn sweep(name: &str, scenario: &Scenario, act: At) {
    let prepared = || {
        let dir = stores::scratch();
        (scenario.prepare)(dir.path());
        dir
    };
    let undisturbed = {
        let dir = prepared();
        again(scenario, dir.path());
        (scenario.check)(dir.path(), "nothing");
        ends(dir.path())
    };
    let is_kill = matches!(act(1), Act::Kill(_));
    let found = {
        let dir = prepared();
        let count = if is_kill { Act::Count } else { act(usize::MAX) };
        let (traced, said) = tracer::run(&mut (scenario.command)(dir.path()), dir.path(), count, stderr);
        assert_eq!(traced.code, 0, "{said}");
        traced.calls.len()
    };
    assert!(found > 0, "{name}: no call was found");
    let (mut hit, mut trees) = (0, BTreeSet::new());
    for n in 1.. {
        // Threads interleave: a run may be a call shorter than another.
        let reached = (0..3).any(|_| {
            let dir = prepared();
            let dir = dir.path();
            let (traced, said) = tracer::run(&mut (scenario.command)(dir), dir, act(n), stderr);
            let Some(call) = &traced.hit else { return false };
            trees.insert(ends(dir).keys().map(|path| anonymous(path)).collect::<Vec<_>>());
            (scenario.check)(dir, call);
            if !is_kill {
                failed_clearly(&traced, call, &said);
                if traced.code == 0 {
                    assert_same(&undisturbed, &ends(dir), &format!("{name}: success was told after {call}"));
                }
            }
            again(scenario, dir);
            (scenario.check)(dir, call);
            let ended = ends(dir);
            assert!(
                !ended.keys().any(|path| is_swept(path)),
                "{name}: not swept after {call}: {:?}",
                ended.keys()
            );
            assert_same(
                &undisturbed,
                &ended,
                &format!("{name}: the second run after {call} ended otherwise"),
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

fn again(scenario: &Scenario, dir: &Path) {
    let output = (scenario.command)(dir).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
}

fn stderr(child: &mut Child) -> String {
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || drop(out.read_to_end(&mut Vec::new())));
    let mut said = String::new();
    err.read_to_string(&mut said).unwrap();
    reader.join().expect("it reads");
    said
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

/// An exit of a program whose call failed: documented, and with a message that names a path and what to do.
fn failed_clearly(traced: &Traced, call: &str, said: &str) {
    assert!(!said.contains("panicked"), "{said}");
    if traced.code == 0 {
        return;
    }
    assert!([73, 74, 77].contains(&traced.code), "exit code {} after {call}: {said}", traced.code);
    assert!(
        said.contains("cannot ") && (said.contains("/store") || said.contains("/tree")),
        "after {call}: {said}"
    );
    assert!(said.contains("run again"), "after {call}: {said}");
}
