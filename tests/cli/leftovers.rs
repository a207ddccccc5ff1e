//! Leftovers in a store: listed in every state, moved out, and counted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::{Case, cases};

use serde_json::Value;
use stoa_layout::SharedLock;

use testkit::programs::{Ended, Programs};
use testkit::tree::{shape, snapshot};
use testkit::upstream::Module;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        they_are_the_same_before_and_after_a_migration,
        they_are_moved_out_and_the_rest_stays,
        odd_names_in_a_current_store_are_found,
        in_the_middle_of_a_step_they_are_listed_and_not_moved,
        a_place_that_will_not_do_is_refused,
        named_paths_are_checked_before_the_first_is_moved,
        nothing_behind_a_symlink_is_moved,
        the_folders_of_the_store_stay_when_they_are_emptied,
        what_is_no_store_is_refused_untouched,
    ]
}

/// Three whole versions, one of them in a folder that is also the beginning of another's path, and with
/// capitals.
const WHOLE: [&str; 3] =
    ["example.org/Upper/m@v1.0.0", "example.org/x@v1.2.3", "example.org/x/v1.2.3/sub@v0.1.0"];

/// Leftovers of a v0 store, with the beginning of each reason.
const ODD: [(&str, &str); 7] = [
    ("example.org/half/v1.0.0", "incomplete: it has no zip"),
    ("example.org/empty/v1.0.0", "incomplete: its go.mod is empty"),
    ("example.org/x/master", "alias: master"),
    ("example.org/pre/v1.0.0", "prefilled"),
    ("example.org/link/v1.0.0", "symlink"),
    ("example.org/x/v1.2.3/notes.txt", "foreign: it belongs to no version"),
    ("home.html", "foreign: it belongs to no version"),
];

fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A v0 store with whole versions and with every odd one.
fn make_v0(root: &Path) {
    for pair in WHOLE {
        Module::new(pair, 10).put_v0(root);
    }
    put(root, "example.org/half/v1.0.0/go.mod", "module example.org/half\n");
    let empty = Module::new("example.org/empty@v1.0.0", 10).put_v0(root);
    fs::write(empty.join("go.mod"), "").unwrap();
    let alias = Module::new("example.org/x@v1.9.9", 10).put_v0(root);
    fs::rename(&alias, alias.with_file_name("master")).unwrap();
    fs::rename(root.join("example.org/x/master/v1.9.9.info"), root.join("example.org/x/master/master.info"))
        .unwrap();
    let pre = Module::new("example.org/pre@v1.0.0", 10).put_v0(root);
    fs::rename(pre.join("source.zip"), pre.join("v1.0.0.zip")).unwrap();
    let link = Module::new("example.org/link@v1.0.0", 10).put_v0(root);
    fs::rename(link.join("go.mod"), link.join("real")).unwrap();
    std::os::unix::fs::symlink("real", link.join("go.mod")).unwrap();
    put(root, "example.org/x/v1.2.3/notes.txt", "notes");
    put(root, "home.html", "<p>");
}

fn lines(ended: &Ended) -> Vec<Value> {
    ended.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The leftovers that are listed: path below the root, and the reason. Listing changes nothing.
fn listed(programs: &Programs) -> BTreeMap<String, String> {
    let root = programs.store();
    let before = snapshot(&root);
    let human = programs.stoa(["leftovers"]);
    let json = programs.migrate(["leftovers", "list", "--format", "json"]);
    assert_eq!((human.code, json.code), (0, 0), "{human:?} {json:?}");
    assert_eq!(snapshot(&root), before);
    let lines = lines(&json);
    let (done, found) = lines.split_last().unwrap();
    assert_eq!((&done["event"], &done["leftovers"]), (&"done".into(), &found.len().into()), "{done}");
    assert_eq!(human.out.lines().count(), found.len(), "{human:?}");
    let status = status(programs);
    assert_eq!(status["leftovers"], found.len(), "{status} {found:?}");
    let mut listed = BTreeMap::new();
    for line in found {
        let path = Path::new(line["path"].as_str().unwrap()).strip_prefix(&root).unwrap();
        assert!(root.join(path).symlink_metadata().is_ok(), "{line}");
        assert!(human.out.contains(line["path"].as_str().unwrap()), "{line}");
        let again =
            listed.insert(path.to_str().unwrap().to_owned(), line["reason"].as_str().unwrap().to_owned());
        assert_eq!(again, None, "told twice: {line}");
    }
    listed
}

fn status(programs: &Programs) -> Value {
    let ended = programs.stoa(["status", "--format", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    lines(&ended).pop().unwrap()
}

#[track_caller]
fn assert_listed(listed: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    let paths: Vec<&str> = listed.keys().map(String::as_str).collect();
    for (path, reason) in expected {
        let found = listed.get(*path).unwrap_or_else(|| panic!("{path} is not in {paths:?}"));
        assert!(found.starts_with(reason), "{path}: {found}");
    }
    assert_eq!(listed.len(), expected.len(), "{listed:#?}");
}

/// The odd ones, and what lies in the folders of two of them.
fn all_odd() -> Vec<(&'static str, &'static str)> {
    let mut odd = ODD.to_vec();
    odd.push(("example.org/pre/v1.0.0/v1.0.0.zip", "foreign: it belongs to no version"));
    odd.push(("example.org/link/v1.0.0/real", "foreign: it belongs to no version"));
    odd
}

fn they_are_the_same_before_and_after_a_migration() {
    let programs = Programs::current();
    let root = programs.store();
    make_v0(&root);
    let state = status(&programs);
    assert_eq!((&state["state"], &state["layout"]), (&"old".into(), &"v0".into()));
    assert_eq!((&state["versions"], &state["modules"]), (&3.into(), &3.into()), "{state}");
    let odd = all_odd();
    assert_listed(&listed(&programs), &odd);

    let dry = lines(&programs.migrate(["--dry-run", "--format", "json"]));
    let up = lines(&programs.migrate(["--format", "json"]));
    let transcript = |lines: &[Value]| {
        let told = lines.iter().filter(|line| line["event"] == "leftover");
        let mut told: Vec<String> = told.map(|line| line["path"].as_str().unwrap().to_owned()).collect();
        told.sort();
        told
    };
    assert_eq!(transcript(&dry).len(), odd.len());
    assert_eq!(transcript(&dry), transcript(&up));
    let plan = |lines: &[Value]| lines.iter().find(|line| line["event"] == "plan").unwrap()["steps"].clone();
    let first = &plan(&dry)[0];
    assert_eq!((&first["versions"], &first["leftovers"]), (&3.into(), &odd.len().into()), "{first}");
    assert_eq!(first["bytes"], state["bytes"]);
    // A run counts roughly before it begins, and exactly while it moves.
    let names = |steps: &Value| -> Vec<String> {
        steps.as_array().unwrap().iter().map(|step| format!("{} {}", step["from"], step["to"])).collect()
    };
    assert_eq!(names(&plan(&up)), names(&plan(&dry)));
    assert!(plan(&up)[0]["versions"].as_u64().unwrap() >= 3);
    let ends: Vec<&Value> = up.iter().filter(|line| line["state"] == "done").collect();
    let moved = |step: &Value| (step["versions"].as_u64(), step["leftovers"].as_u64());
    assert_eq!([moved(ends[0]), moved(ends[1])], [(Some(3), Some(odd.len() as u64)), (Some(3), Some(0))]);

    assert_listed(&listed(&programs), &odd);
    let state = status(&programs);
    assert_eq!(
        (&state["state"], &state["versions"], &state["modules"]),
        (&"current".into(), &3.into(), &3.into())
    );
    assert_eq!(state["last_migration"]["moved"], 3, "{state}");

    let back = lines(&programs.migrate(["--to", "v1", "--format", "json"]));
    assert_eq!(back.iter().find(|line| line["event"] == "plan").unwrap()["steps"][0]["versions"], 3);
    assert_listed(&listed(&programs), &odd);
    let state = status(&programs);
    assert_eq!(
        (&state["layout"], &state["versions"], &state["modules"]),
        (&"v1".into(), &3.into(), &3.into())
    );
    assert_eq!(programs.migrate(["--to", "v0"]).code, 0);
    assert_listed(&listed(&programs), &odd);
}

/// The files and symlinks below a folder.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = shape(root);
    files.retain(|path, _| !root.join(path).is_dir() || root.join(path).is_symlink());
    files.remove(Path::new("store.lock"));
    files
}

fn they_are_moved_out_and_the_rest_stays() {
    for layout in ["v0", "v1", "v2"] {
        let programs = Programs::current();
        let root = programs.store();
        make_v0(&root);
        if layout != "v0" {
            assert_eq!(programs.migrate(["--to", layout]).code, 0);
        }
        let before = files(&root);
        let out = programs.folder().join("out/of/it");
        let moved = programs.stoa(["leftovers", "move", "out/of/it"]);
        assert_eq!(moved.code, 0, "{moved:?}");
        assert_eq!(moved.out.lines().count(), all_odd().len(), "{moved:?}");
        assert_listed(&listed(&programs), &[]);
        // Together they are what was there, each file at its path.
        let mut together = files(&out);
        assert!(together.contains_key(Path::new("example.org/link/v1.0.0/go.mod")));
        together.extend(files(&root));
        // At the layouts without records there is no log.
        let log = together.remove(Path::new("records/audit/current"));
        assert_eq!(log.is_some(), layout == "v2");
        assert!(together == before, "{layout}");
        assert!(!root.join("example.org/half").exists(), "{layout}: an emptied folder stays");
        assert_eq!(programs.stoa(["leftovers", "move", "out/of/it"]).code, 0);
        assert_eq!(programs.migrate::<&str>([]).code, 0);
        assert_eq!(status(&programs)["versions"], 3);
    }
}

fn odd_names_in_a_current_store_are_found() {
    let programs = Programs::current();
    let root = programs.make_store();
    Module::new("example.org/m@v1.0.0", 10).put_unsealed(&root);
    let flat = Module::new("example.org/flat@v1.0.0", 10).put_flat(&root.join("modules"));
    let base = "modules/example.org/m/@v";
    put(&root, &format!("{base}/v1.1.0/zip"), "zip");
    put(&root, &format!("{base}/master/info"), "{}");
    put(&root, &format!("{base}/v1.0.0/extra"), "x");
    put(&root, &format!("{base}/V1.0.0/info"), "{}");
    put(&root, "modules/README", "read");
    put(&root, "quarantine/1/version/info", "{}");
    put(&root, "staging/x/info", "{}");
    put(&root, ".DS_Store", "");
    Module::new("github.com/a/b@v1.0.0", 10).put_v0(&root);
    put(&root, "github.com/a/b/@v/v1.1.0.zip", "zip");
    let expected = [
        ("modules/example.org/flat/@v/v1.0.0.info", "complete, but not at the layout"),
        ("modules/example.org/m/@v/v1.1.0", "incomplete: it has no info"),
        ("modules/example.org/m/@v/master", "foreign"),
        ("modules/example.org/m/@v/v1.0.0/extra", "foreign: it belongs to no version"),
        ("modules/example.org/m/@v/V1.0.0", "foreign"),
        ("modules/README", "foreign: it belongs to no version"),
        ("github.com/a/b/v1.0.0", "complete, but not at the layout"),
        ("github.com/a/b/@v/v1.1.0.zip", "incomplete: it has no go.mod"),
    ];
    assert_listed(&listed(&programs), &expected);
    let moved = programs.migrate(["leftovers", "move", "out"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    assert_listed(&listed(&programs), &[]);
    assert!(!flat.exists() && !root.join("github.com").exists());
    assert!(programs.folder().join("out/github.com/a/b/v1.0.0/source.zip").is_file());
    assert_eq!(programs.stoa(["path", "example.org/m@v1.0.0"]).code, 0);
    let other = programs.store().join("quarantine/1/version/info");
    assert!(other.is_file() && root.join("modules").is_dir());
}

fn in_the_middle_of_a_step_they_are_listed_and_not_moved() {
    let programs = Programs::current();
    let root = programs.store();
    make_v0(&root);
    // The state that a kill leaves: one version has arrived, another is half there.
    fs::create_dir(root.join("modules")).unwrap();
    put(&root, "migrating.v0-v1", "");
    Module::new("example.org/arrived@v1.0.0", 10).put_flat(&root.join("modules"));
    let half = root.join("modules/example.org/!upper/m/@v");
    fs::create_dir_all(&half).unwrap();
    fs::rename(root.join("example.org/Upper/m/v1.0.0/go.mod"), half.join("v1.0.0.mod")).unwrap();
    assert_listed(&listed(&programs), &all_odd());
    let state = status(&programs);
    assert_eq!((&state["state"], &state["versions"]), (&"migrating".into(), &4.into()), "{state}");
    assert_eq!(state["modules"], Value::Null);
    let before = snapshot(&root);
    let moved = programs.stoa(["leftovers", "move", "out"]);
    assert_eq!(moved.code, 78, "{moved:?}");
    assert!(moved.err.contains("migrating.v0-v1") && moved.err.contains("stoa-migrate"), "{moved:?}");
    assert_eq!(snapshot(&root), before);
    assert!(!programs.folder().join("out").exists());
    assert_eq!(programs.migrate::<&str>([]).code, 0);
    assert_eq!(status(&programs)["versions"], 4);
    assert_listed(&listed(&programs), &all_odd());
}

fn a_place_that_will_not_do_is_refused() {
    let programs = Programs::current();
    let root = programs.store();
    make_v0(&root);
    assert_eq!(programs.migrate::<&str>([]).code, 0);
    put(programs.folder(), "taken/home.html", "mine");
    put(programs.folder(), "file", "mine");
    let before = shape(programs.folder());
    for (place, word) in [
        ("store", "the store itself"),
        ("store/staging/out", "inside the store"),
        (".", "the store is inside it"),
        ("taken", "taken/home.html"),
        ("file", "not a folder"),
        ("/dev/shm/stoa-leftovers", "another file system"),
    ] {
        if place.starts_with("/dev") && is_same_file_system(Path::new("/dev/shm"), &root) {
            continue;
        }
        let ended = programs.stoa(["leftovers", "move", place]);
        assert_eq!(ended.code, 73, "{place}: {ended:?}");
        assert!(ended.err.contains(word), "{place}: {ended:?}");
        assert_eq!(shape(programs.folder()), before, "{place}");
    }
    let _user = SharedLock::acquire(&root).unwrap();
    let busy = programs.stoa(["leftovers", "move", "out", "--lock-timeout", "0"]);
    assert_eq!(busy.code, 75, "{busy:?}");
    assert!(
        busy.err.contains(&format!("process {}", std::process::id())) && busy.err.contains("store.lock"),
        "{busy:?}"
    );
}

fn is_same_file_system(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    device(a).is_none() || device(a) == device(b)
}

fn what_is_no_store_is_refused_untouched() {
    let programs = Programs::current();
    let root = programs.store();
    for arguments in [&["leftovers"][..], &["leftovers", "move", "out"]] {
        let missing = programs.stoa(arguments);
        assert_eq!((missing.code, missing.out.as_str()), (65, ""), "{missing:?}");
        assert!(missing.err.contains("there is no store in"), "{missing:?}");
    }
    assert!(!root.exists());
    put(&root, "letter.txt", "dear");
    let before = snapshot(&root);
    for arguments in [&["leftovers"][..], &["leftovers", "move", "out"]] {
        assert_eq!(programs.stoa(arguments).code, 65);
    }
    assert_eq!(snapshot(&root), before);
    assert_eq!(programs.stoa(["leftovers", "burn"]).code, 64);
}

fn nothing_behind_a_symlink_is_moved() {
    let programs = Programs::current();
    let root = programs.make_store();
    let (to, elsewhere) = (programs.folder().join("out"), programs.folder().join("elsewhere"));
    put(&elsewhere, "example.org/mine", "mine");
    let before = snapshot(&elsewhere);
    std::os::unix::fs::symlink(&elsewhere, root.join("modules/link")).unwrap();
    let inside = root.join("modules/link/example.org");
    let refused = programs.stoa(["leftovers", "move", to.to_str().unwrap(), inside.to_str().unwrap()]);
    assert_eq!(refused.code, 73, "{refused:?}");
    assert!(refused.err.contains("modules/link is a symlink"), "{refused:?}");
    assert!(snapshot(&elsewhere) == before && !to.exists());
    // The symlink itself may be moved.
    let moved = programs.stoa(["leftovers", "move", to.to_str().unwrap()]);
    assert_eq!(moved.code, 0, "{moved:?}");
    assert!(to.join("modules/link").is_symlink());
    // Nor what is found behind a symlink in the place of a folder of the store.
    fs::remove_dir_all(root.join("modules")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, root.join("modules")).unwrap();
    let other = programs.folder().join("other");
    let refused = programs.stoa(["leftovers", "move", other.to_str().unwrap()]);
    assert_eq!(refused.code, 73, "{refused:?}");
    assert!(snapshot(&elsewhere) == before && !other.exists());
}

fn named_paths_are_checked_before_the_first_is_moved() {
    let programs = Programs::current();
    let root = programs.make_store();
    put(&root, "a/f", "a");
    put(&root, "b/f", "b");
    let before = shape(programs.folder());
    for (paths, code, word) in [
        (["store/a/f", "store/a", "store/b/f"], 64, "it moves with"),
        (["store/b/f", "store/a/f", "store/a/f"], 64, "it moves with"),
        (["store/a/f", "store/b/f", "store/no"], 74, "it does not exist"),
    ] {
        let ended = programs.stoa([&["leftovers", "move", "out"], &paths[..]].concat());
        assert_eq!(ended.code, code, "{paths:?}: {ended:?}");
        assert!(ended.err.contains(word) && ended.err.contains("help: "), "{paths:?}: {ended:?}");
        assert_eq!(shape(programs.folder()), before, "{paths:?}");
    }
    // A name that another name begins with is not above it.
    put(&root, "a.txt", "c");
    assert_eq!(programs.stoa(["leftovers", "move", "out", "store/a", "store/a.txt"]).code, 0);
    assert!(programs.folder().join("out/a/f").is_file() && programs.folder().join("out/a.txt").is_file());
}

fn the_folders_of_the_store_stay_when_they_are_emptied() {
    let programs = Programs::current();
    let root = programs.make_store();
    put(&root, "quarantine/1/version/info", "{}");
    put(&root, "modules/notes", "n");
    assert_eq!(
        programs.stoa(["leftovers", "move", "out", "store/quarantine/1", "store/modules/notes"]).code,
        0
    );
    assert!(root.join("quarantine").is_dir() && root.join("modules").is_dir());
}
