//! `stoa status`: what it says of a store in every state.

use std::fs;

use stoa_layout::SharedLock;

use super::lines;
use testkit::programs::Programs;
use testkit::tree::snapshot;
use testkit::upstream::Module;

pub(crate) fn status_works_on_every_state() {
    let programs = Programs::next();
    let root = programs.store();
    let status = || {
        let before = root.exists().then(|| snapshot(&root));
        let human = programs.stoa(["status"]);
        let json = programs.stoa(["status", "--format", "json"]);
        assert_eq!((human.code, json.code), (0, 0), "{human:?} {json:?}");
        assert_eq!(root.exists().then(|| snapshot(&root)), before);
        let value = lines(&json.out).pop().unwrap();
        let mut keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        keys.sort();
        let expected = [
            "bytes",
            "format",
            "holders",
            "last_migration",
            "layout",
            "leftovers",
            "modules",
            "program_layout",
            "quarantined",
            "quarantined_bytes",
            "state",
            "store",
            "unverified",
            "versions",
        ];
        assert_eq!(keys, expected);
        assert_eq!((&value["format"], &value["program_layout"]), (&1.into(), &"v3".into()));
        assert!(human.out.contains(value["state"].as_str().unwrap()), "{human:?}");
        (value["state"].as_str().unwrap().to_owned(), value["layout"].as_str().map(str::to_owned))
    };
    let is = |state: &str, layout: Option<&str>| {
        assert_eq!(status(), (state.to_owned(), layout.map(str::to_owned)));
    };
    fs::create_dir(&root).unwrap();
    is("empty", None);
    for (marker, state, layout) in [
        ("creating.v3", "migrating", None),
        ("creating.v2", "migrating", None),
        ("layout.v2", "old", Some("v2")),
        ("migrating.v2-v3", "migrating", Some("v2")),
        ("migrating.v3-v2", "migrating", Some("v3")),
        ("migrating.v3-v3", "migrating", Some("v3")),
        ("layout.v3", "current", Some("v3")),
        ("layout.v4", "newer", Some("v4")),
        ("migrating.v3-v4", "newer", Some("v3")),
        ("creating.v4", "newer", None),
    ] {
        fs::write(root.join(marker), "").unwrap();
        is(state, layout);
        fs::remove_file(root.join(marker)).unwrap();
    }
    fs::write(root.join("notes.txt"), "mine").unwrap();
    is("foreign", None);
    fs::write(root.join("layout.v2"), "").unwrap();
    fs::write(root.join("layout.v3"), "").unwrap();
    is("conflict", None);
}

pub(crate) fn status_counts_versions() {
    let programs = Programs::next();
    let root = programs.store();
    Programs::current().migrate(["--store", root.to_str().unwrap()]);
    for pair in ["example.org/a@v1.0.0", "example.org/a@v1.1.0", "example.org/B@v0.1.0"] {
        Module::new(pair, 10).put_unsealed(&root);
    }
    fs::write(root.join("notes.txt"), "mine").unwrap();
    assert_eq!(programs.migrate::<&str>([]).code, 0);
    let value = lines(&programs.stoa(["status", "--format", "json"]).out).pop().unwrap();
    for (key, number) in
        [("versions", 3), ("modules", 2), ("leftovers", 1), ("quarantined", 0), ("quarantined_bytes", 0)]
    {
        assert_eq!(value[key], number, "{key}: {value}");
    }
    let last = &value["last_migration"];
    assert_eq!((&last["from"], &last["to"]), (&"v2".into(), &"v3".into()), "{value}");
    assert!(last["finished"].as_str().unwrap().ends_with('Z'), "{value}");
    let human = programs.stoa(["status"]).out;
    assert!(human.contains("3 of 2 modules") && human.contains("v2 to v3"), "{human}");
}

pub(crate) fn status_names_the_processes_that_use_the_store() {
    let programs = Programs::current();
    let root = programs.make_store();
    let _user = SharedLock::acquire(&root).unwrap();
    let value = lines(&programs.stoa(["status", "--format", "json"]).out).pop().unwrap();
    let holder = &value["holders"][0];
    assert_eq!(holder["pid"], std::process::id(), "{value}");
    let mut keys: Vec<&String> = holder.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["pid", "program", "since"]);
}
