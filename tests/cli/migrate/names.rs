//! Files and symlinks in the place of the store's folders, and in the place of folders that versions enter: they are refused
//! before a step begins, and when it is resumed. Nothing outside of the store is moved or removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use testkit::Case;
use testkit::programs::Programs;
use testkit::stores::{MOD, Plan, Shape, markers};
use testkit::tree::snapshot;
use testkit::trial;

use super::migrate;
use super::preflight::{refuses, store_at};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("a downgrade removes nothing behind a symlink", None, symlinks_on_the_way_back),
        trial("a resumed step removes nothing behind a symlink", None, symlinks_on_resumption),
        trial("a symlink in cache does not keep the files beside it", None, symlink_in_the_cache),
        trial("a file or symlink in the place of a folder is 73 before v2", None, names_taken_at_v1),
        trial("a file in the place of a version is 73 before v2", None, versions_taken_at_v1),
    ]
}

const NAMES: [&str; 6] = ["modules", "staging", "quarantine", "index", "cache", "records"];

/// Moves a folder out of the store, with files of a person in it, and puts a symlink in its place.
fn link(programs: &Programs, name: &str) -> (PathBuf, PathBuf) {
    let (link, elsewhere) = (programs.store().join(name), programs.folder().join("elsewhere"));
    fs::rename(&link, &elsewhere).or_else(|_| fs::create_dir(&elsewhere)).unwrap();
    for path in ["sumdb/sum.example.org/mine", "precious", "1/precious", "run-mine/precious"] {
        let path = elsewhere.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "mine").unwrap();
    }
    fs::create_dir(elsewhere.join("empty")).unwrap();
    symlink(&elsewhere, &link).unwrap();
    (link, elsewhere)
}

fn symlinks_on_the_way_back() {
    for name in NAMES {
        for way in [&["--to", "v1"][..], &["--to", "v0"], &["--to", "v0", "--clean"]] {
            let programs = Programs::current();
            let root = store_at(&programs, "v2");
            let (link, elsewhere) = link(&programs, name);
            let before = snapshot(&elsewhere);
            refuses(&root, way, (73, &[link.to_str().unwrap(), "it is a symlink"]), |arguments| {
                migrate(&programs, arguments)
            });
            assert!(snapshot(&elsewhere) == before, "{name} {way:?}");
            // The way out that the message names.
            fs::remove_file(&link).unwrap();
            if name == "modules" {
                fs::rename(&elsewhere, &link).unwrap();
            }
            assert_eq!(migrate(&programs, way).code, 0, "{name} {way:?}");
        }
    }
}

fn symlinks_on_resumption() {
    for (layout, step, way) in [
        ("v2", "migrating.v2-v1", &["--to", "v1"][..]),
        ("v1", "migrating.v1-v2", &[]),
        ("v1", "migrating.v1-v0", &["--to", "v0"]),
    ] {
        for name in NAMES {
            let programs = Programs::current();
            let root = store_at(&programs, layout);
            fs::rename(root.join(format!("layout.{layout}")), root.join(step)).unwrap();
            let (link, elsewhere) = link(&programs, name);
            let before = snapshot(&elsewhere);
            let refused = migrate(&programs, way);
            assert_eq!(refused.code, 73, "{step} {name} {refused:?}");
            assert!(refused.out.contains(link.to_str().unwrap()), "{step} {name} {refused:?}");
            assert!(snapshot(&elsewhere) == before, "{step} {name}");
            assert_eq!(markers(&root), [step]);
        }
    }
}

fn symlink_in_the_cache() {
    let programs = Programs::current();
    let root = store_at(&programs, "v2");
    let elsewhere = programs.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("precious"), "mine").unwrap();
    symlink(&elsewhere, root.join("cache/sumdb")).unwrap();
    let before = snapshot(&elsewhere);
    assert_eq!(migrate(&programs, &["--to", "v1"]).code, 0);
    assert!(snapshot(&elsewhere) == before);
    // Nothing is left that the next upgrade would refuse.
    assert_eq!(migrate(&programs, &[]).code, 0);
}

fn names_taken_at_v1() {
    for name in NAMES {
        for is_link in [false, true] {
            if name == "modules" && !is_link {
                continue;
            }
            let programs = Programs::current();
            let root = store_at(&programs, "v1");
            let path = root.join(name);
            if is_link {
                link(&programs, name);
            } else {
                fs::write(&path, "mine").unwrap();
            }
            let outside = snapshot(programs.folder());
            refuses(&root, &[], (73, &[path.to_str().unwrap()]), |arguments| migrate(&programs, arguments));
            assert_eq!(markers(&root), ["layout.v1"]);
            let mut after = snapshot(programs.folder());
            after.retain(|path, _| !path.starts_with("store"));
            assert!(after.iter().all(|(path, entry)| path == Path::new("") || outside[path] == *entry));
        }
    }
}

fn versions_taken_at_v1() {
    for is_link in [false, true] {
        let programs = Programs::current();
        let root = store_at(&programs, "v1");
        let versions = root.join("modules/example.com/m/@v");
        let place = versions.join("v1.0.0");
        if is_link {
            let elsewhere = programs.folder().join("elsewhere");
            fs::create_dir(&elsewhere).unwrap();
            symlink(&elsewhere, &place).unwrap();
        } else {
            fs::write(&place, "mine").unwrap();
        }
        refuses(&root, &[], (73, &[place.to_str().unwrap(), "out of the store"]), |arguments| {
            migrate(&programs, arguments)
        });
        // A version that stays anyway forbids nothing.
        fs::remove_file(&place).unwrap();
        let mut plan = Plan::default();
        plan.parts(Shape::Tree, "modules/example.com/m", "v1.1.0", &[MOD], |_, _| {}).write(&root);
        fs::write(versions.join("v1.1.0"), "mine").unwrap();
        let done = migrate(&programs, &[]);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(fs::read(versions.join("v1.1.0")).unwrap(), b"mine");
    }
}
