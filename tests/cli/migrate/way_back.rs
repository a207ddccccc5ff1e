//! The way back: what it keeps, what it says, what it refuses before it begins, and what it removes if asked.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::Case;

use super::preflight::{Flag, refuses, store_at};
use super::refused::unchanged;
use super::{migrate, small};
use testkit::programs::{Ended, Programs};
use testkit::stores::{MOD, Plan, Shape, files, markers};
use testkit::tree::snapshot;
use testkit::{missing_tool, trial};

pub(crate) fn cases() -> Vec<Case> {
    let traces = missing_tool("strace", &["-o", "/dev/null", "true"]);
    vec![
        trial("the answers of checksum databases survive the way down and up", None, answers_are_kept),
        trial("a downgrade that cannot end does not begin", None, refused_at_once),
        trial("a refusal after a step names the layout of the store", None, refused_later),
        trial("the way back says what stays", None, what_stays_is_said),
        trial("what stays is removed by clean", None, clean),
        trial("a clean that is killed is finished by another", traces, killed_clean),
        trial("clean is for layouts of other programs", None, clean_of_v1),
        trial("clean removes nothing of another program", None, clean_of_another_program),
        trial("clean removes only files of the store", None, clean_keeps_foreign_files),
        trial("the dry run of clean agrees with the run", None, clean_without_lock),
        trial(
            "an error of clean names the layout of the store",
            missing_tool("sh", &["-c", "command -v chattr"]),
            clean_is_refused,
        ),
        trial("an upgrade does not adopt files of another program", None, foreign_files_are_refused),
        trial("an interrupted downgrade can be turned", None, interrupted_downgrade_is_turned),
    ]
}

/// Makes a store at v2 that has something in each folder that a downgrade keeps.
fn store_with_remains(programs: &Programs) {
    let root = programs.store();
    small(&root);
    assert_eq!(migrate(programs, &[]).code, 0);
    let hash = format!("ab/{}", "c".repeat(62));
    for path in [
        &format!("cache/sumdb/sum.example.org/records/{hash}"),
        &format!("cache/sumdb/sum.example.org/tiles/{hash}"),
        &format!("cache/answers/{hash}"),
        "quarantine/20260102T030405Z-1-0/reason.toml",
        "quarantine/20260102T030405Z-1-0/version/any/file",
        "records/example.com/!cap/@v/v9.0.0-!r!c1.toml",
        "records/audit/current",
        "records/audit/1",
        "records/audit/.shared.a1B2c3",
        "records/sumdb/sum.example.org%2Fx/latest",
        "records/sumdb/sum.example.org%2Fx/lock",
        "records/sumdb/sum.example.org%2Fx/fork-20260102T030405Z",
        "staging/run-dead/zip",
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "kept").unwrap();
    }
}

fn answers_are_kept() {
    let programs = Programs::current();
    let root = programs.store();
    store_with_remains(&programs);
    let kept = |root: &Path| {
        let mut files = files(root);
        files.retain(|path, _| path.starts_with("cache"));
        files.into_keys().collect::<Vec<_>>()
    };
    let before = kept(&root);
    assert_eq!(before.len(), 3);
    for layout in ["v1", "v0", "v2"] {
        let done = migrate(&programs, &["--to", layout]);
        assert_eq!(done.code, 0, "{layout}: {done:?}");
        let expected: Vec<_> =
            before.iter().filter(|path| path.starts_with("cache/sumdb")).cloned().collect();
        assert_eq!(kept(&root), expected, "{layout}");
    }
    assert_eq!(markers(&root), ["layout.v2"]);
}

/// Puts a file where the version goes at v0.
fn take_place(root: &Path) {
    let mut plan = Plan::default();
    plan.parts(Shape::V0, "example.com/m", "v1.0.0", &[MOD], |_, _| {}).write(root);
}

fn refused_at_once() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    assert_eq!(migrate(&programs, &[]).code, 0);
    take_place(&root);
    let before = snapshot(&root);
    for arguments in [&["--to", "v0"][..], &["--to", "v0", "--dry-run"]] {
        let refused = migrate(&programs, arguments);
        assert_eq!(refused.code, 73, "{refused:?}");
        assert!(refused.out.contains("example.com/m@v1.0.0"), "{refused:?}");
        assert!(refused.out.contains("nothing was changed"), "{refused:?}");
        unchanged(&before, &root);
    }
    // At v1 it is a leftover.
    assert_eq!(migrate(&programs, &["--to", "v1"]).code, 0);
}

fn refused_later() {
    let programs = Programs::next();
    let root = programs.store();
    let current = Programs::current();
    small(&current.store());
    assert_eq!(migrate(&current, &["--to", "v1"]).code, 0);
    testkit::stores::copy(&current.store(), &root);
    fs::write(root.join("labels"), "a file, found when the second step begins").unwrap();
    let refused = migrate(&programs, &[]);
    assert_eq!(refused.code, 73, "{refused:?}");
    assert_eq!(markers(&root), ["layout.v2"]);
    assert!(refused.out.contains("the store is at layout v2 now"), "{refused:?}");
    assert!(!refused.out.contains("nothing was changed"), "{refused:?}");
}

fn what_stays_is_said() {
    let programs = Programs::current();
    let root = programs.store();
    store_with_remains(&programs);
    let back = programs.migrate(["--to", "v0"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert!(back.out.contains("cache, quarantine, records and store.lock stay in place"), "{back:?}");
    assert!(back.out.contains("--to v0 --clean"), "{back:?}");
    assert_eq!(migrate(&programs, &[]).code, 0);
    let back = migrate(&programs, &["--to", "v0"]);
    let event = back.out.lines().find(|line| line.contains("\"event\":\"remains\"")).expect("an event");
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["removed"], false);
    for path in event["paths"].as_array().unwrap() {
        assert!(Path::new(path.as_str().unwrap()).starts_with(&root), "{event}");
    }
    assert_eq!(event["paths"].as_array().unwrap().len(), 4);
}

fn clean() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    let before = snapshot(&root);
    fs::remove_dir_all(&root).unwrap();
    store_with_remains(&programs);
    let planned = programs.migrate(["--to", "v0", "--clean", "--dry-run"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    assert!(planned.out.contains("would remove cache, quarantine, records and store.lock"), "{planned:?}");
    assert!(root.join("records").exists());
    let back = programs.migrate(["--to", "v0", "--clean"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert!(back.out.contains("removed cache, quarantine, records and store.lock"), "{back:?}");
    let names =
        |tree: &std::collections::BTreeMap<std::path::PathBuf, _>| tree.keys().cloned().collect::<Vec<_>>();
    let after = snapshot(&root);
    assert_eq!(names(&before), names(&after));
    let again = programs.migrate(["--to", "v0", "--clean"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(names(&before), names(&snapshot(&root)));
}

fn killed_clean() {
    let mut number = 1;
    loop {
        let programs = Programs::current();
        let root = programs.store();
        store_with_remains(&programs);
        assert_eq!(migrate(&programs, &["--to", "v0"]).code, 0);
        let inner = programs.command("stoa-migrate", ["--to", "v0", "--clean"]);
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", "trace=unlink,unlinkat,rmdir"]);
        command.args(["-e", &format!("inject=unlink,unlinkat,rmdir:signal=KILL:when={number}")]);
        command.arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let killed = Ended::of(command);
        let is_killed = killed.code != 0;
        assert!(!is_killed || killed.code == -9, "{killed:?}");
        assert!(root.join("example.com/m/v1.0.0/v1.0.0.info").is_file());
        let again = migrate(&programs, &["--to", "v0", "--clean"]);
        assert_eq!(again.code, 0, "{again:?}");
        let names: Vec<_> = fs::read_dir(&root).unwrap().map(|name| name.unwrap().file_name()).collect();
        assert_eq!(names, ["example.com"], "killed at call {number}");
        if !is_killed {
            break;
        }
        number += 1;
    }
    assert!(number > 5, "{number}");
}

fn clean_of_v1() {
    let programs = Programs::current();
    let root = programs.store();
    store_with_remains(&programs);
    let before = snapshot(&root);
    for arguments in [&["--to", "v1", "--clean"][..], &["--clean"]] {
        let refused = programs.migrate(arguments);
        assert_eq!(refused.code, 64, "{refused:?}");
    }
    assert!(before == snapshot(&root));
}

fn clean_of_another_program() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    let mut plan = Plan::default();
    plan.parts(Shape::V0, "records", "v1.0.0", &[0, 1, 2], |_, _| {}).write(&root);
    fs::create_dir_all(root.join("quarantine/notes")).unwrap();
    fs::write(root.join("quarantine/notes/mine"), "mine").unwrap();
    let before = snapshot(&root);
    // This folder was never a store.
    let cleaned = migrate(&programs, &["--to", "v0", "--clean"]);
    assert_eq!(cleaned.code, 0, "{cleaned:?}");
    let mut after = snapshot(&root);
    after.insert("".into(), before[Path::new("")].clone());
    assert!(after == before);
    // It was one, but these names belong to another program.
    fs::remove_dir_all(root.join("quarantine")).unwrap();
    fs::create_dir(root.join("cache")).unwrap();
    fs::write(root.join("cache/mine"), "mine").unwrap();
    fs::write(root.join("store.lock"), "").unwrap();
    let cleaned = migrate(&programs, &["--to", "v0", "--clean"]);
    assert_eq!(cleaned.code, 0, "{cleaned:?}");
    assert!(root.join("cache/mine").exists() && root.join("records/v1.0.0/go.mod").exists());
    assert!(!root.join("store.lock").exists());
}

/// Files of a person in the folders that a downgrade keeps. Some names resemble those of the store.
const FOREIGN: [&str; 11] = [
    "cache/sumdb/sum.example.org/notes",
    "quarantine/notes/mine",
    "quarantine/notes/reason.toml",
    "quarantine/20260102T030405Z-1-0/mine",
    "records/budget.xls",
    "records/audit/2025.pdf",
    "records/audit/.shared.notes",
    "records/example.com/!cap/@v/v9.0.0.txt",
    "records/example.com/!cap/@v/master.toml",
    "records/sumdb/sum.example.org%2Fx/mine",
    "records/sumdb/sum.example.org%2Fx/.lock.a1B2c3",
];

fn put_foreign(root: &Path, path: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "mine").unwrap();
}

fn clean_keeps_foreign_files() {
    // The second run cleans a store that was downgraded before.
    for is_down_already in [false, true] {
        let programs = Programs::current();
        let root = programs.store();
        small(&root);
        let mut expected: Vec<_> = files(&root).into_keys().collect();
        fs::remove_dir_all(&root).unwrap();
        store_with_remains(&programs);
        FOREIGN.iter().for_each(|path| put_foreign(&root, path));
        std::os::unix::fs::symlink("/etc", root.join("records/link")).unwrap();
        if is_down_already {
            assert_eq!(migrate(&programs, &["--to", "v0"]).code, 0);
        }
        let planned = programs.migrate(["--to", "v0", "--clean", "--dry-run"]);
        let cleaned = programs.migrate(["--to", "v0", "--clean"]);
        for ended in [&planned, &cleaned] {
            assert_eq!(ended.code, 0, "{ended:?}");
            for path in FOREIGN.iter().chain(&["records/link"]) {
                // A folder with nothing of the store is named once.
                let path = if path.starts_with("quarantine/notes") { "quarantine/notes" } else { path };
                let line = format!("{} stays: ", root.join(path).display());
                assert!(ended.err.contains(&line), "{path}: {ended:?}");
            }
        }
        assert!(cleaned.out.contains("removed store.lock"), "{cleaned:?}");
        assert_eq!(fs::read_link(root.join("records/link")).unwrap(), Path::new("/etc"));
        fs::remove_file(root.join("records/link")).unwrap();
        expected.extend(FOREIGN.map(Into::into));
        expected.sort();
        assert_eq!(files(&root).into_keys().collect::<Vec<_>>(), expected);
    }
}

fn foreign_files_are_refused() {
    for layout in ["v0", "v1"] {
        for path in FOREIGN.iter().chain(&["index/notes.txt", "staging/notes.txt", "cache/mine/a"]) {
            let programs = Programs::current();
            let root = store_at(&programs, layout);
            put_foreign(&root, path);
            refuses(&root, &[], (73, &[path]), |arguments| migrate(&programs, arguments));
            assert_eq!(markers(&root), if layout == "v1" { vec!["layout.v1"] } else { vec![] });
        }
    }
    // A downgrade leaves only files that the next upgrade adopts.
    let programs = Programs::current();
    store_with_remains(&programs);
    for layout in ["v1", "v0"] {
        assert_eq!(migrate(&programs, &["--to", layout]).code, 0);
        assert_eq!(migrate(&programs, &[]).code, 0);
    }
}

/// The folders still hold what only the newer layout has.
fn interrupted_downgrade_is_turned() {
    let programs = Programs::current();
    let root = programs.store();
    store_with_remains(&programs);
    fs::rename(root.join("layout.v2"), root.join("migrating.v2-v1")).unwrap();
    let ended = migrate(&programs, &["--to", "v2"]);
    assert_eq!((ended.code, markers(&root)), (0, vec!["layout.v2".to_owned()]), "{ended:?}");
}

fn clean_without_lock() {
    let programs = Programs::current();
    let root = programs.store();
    store_with_remains(&programs);
    assert_eq!(migrate(&programs, &["--to", "v0"]).code, 0);
    // Without it nothing shows that this was a store.
    fs::remove_file(root.join("store.lock")).unwrap();
    let kept = files(&root);
    let planned = programs.migrate(["--to", "v0", "--clean", "--dry-run"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    assert!(!planned.out.contains("would remove"), "{planned:?}");
    assert_eq!(programs.migrate(["--to", "v0", "--clean"]).code, 0);
    assert_eq!(files(&root).into_keys().collect::<Vec<_>>(), kept.into_keys().collect::<Vec<_>>());
    // A refused upgrade leaves a lock file, which proves nothing about other files.
    for path in ["staging/f", "records/mine/a", "records/tree/@v/v1.0.0.zip", "quarantine/bad.zip"] {
        put_foreign(&root, path);
    }
    fs::write(root.join("store.lock"), "").unwrap();
    assert_eq!(programs.migrate::<&str>([]).code, 73);
    assert_eq!(programs.migrate(["--to", "v0", "--clean"]).code, 0);
    for path in ["staging/f", "records/mine/a", "records/tree/@v/v1.0.0.zip", "quarantine/bad.zip"] {
        assert!(root.join(path).is_file(), "{path}");
    }
}

fn clean_is_refused() {
    let programs = Programs::current();
    let root = programs.store();
    store_with_remains(&programs);
    let record = root.join("records/audit/1");
    let flag = Flag::set("i", &record);
    if fs::OpenOptions::new().append(true).open(&record).is_ok() {
        // Only root may set the flag, and not every file system has it.
        return;
    }
    let refused = programs.migrate(["--to", "v0", "--clean"]);
    assert_eq!(refused.code, 77, "{refused:?}");
    assert!(refused.err.contains("records/audit/1"), "{refused:?}");
    assert!(refused.err.contains("the store is at layout v0 now"), "{refused:?}");
    assert!(refused.err.contains("--to v0 --clean"), "{refused:?}");
    drop(flag);
    assert_eq!(programs.migrate(["--to", "v0", "--clean"]).code, 0);
    assert!(!root.join("records").exists() && !root.join("store.lock").exists());
}
