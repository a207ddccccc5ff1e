//! New stores, and interrupted creations.

use std::fs;
use std::path::Path;

use stoa_layout::Exit;

use crate::run::{self, auto, done, markers, to};
use crate::support::{homes, tree};

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const FRESH: [&str; 4] = ["bin", "layout.v2", "store.lock", "toolchains"];

#[test]
fn a_missing_folder_becomes_a_store_with_its_parents() {
    let dir = testkit::tempdir();
    let root = dir.path().join("a/b/home");
    assert_eq!(run::run(&root, &auto()), done("v2"));
    assert_eq!(names(&root), FRESH);
}

#[test]
fn names_that_desktops_create_do_not_count() {
    let dir = testkit::tempdir();
    for name in [".DS_Store", "store.lock", ".marker.old"] {
        homes::file(&dir.path().join(name), "", 0o644);
    }
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert_eq!(run::run(dir.path(), &auto()), done("v2"));
    assert_eq!(
        names(dir.path()),
        [".DS_Store", "bin", "layout.v2", "lost+found", "store.lock", "toolchains"]
    );
}

#[test]
fn a_new_store_is_created_at_the_current_layout_only() {
    let dir = testkit::tempdir();
    let root = dir.path().join("home");
    run::run(&root, &to("v1")).assert_failed(Exit::USAGE, &["home", "--to v1"]);
    assert!(!root.exists());
}

#[test]
fn an_interrupted_creation_is_finished() {
    // A creation at an older layout is finished too: the store is still empty.
    for marker in ["creating.v2", "creating.v1"] {
        for folders in [&[][..], &["bin"], &["toolchains", "bin"]] {
            let dir = testkit::tempdir();
            homes::file(&dir.path().join(marker), "", 0o644);
            for folder in folders {
                fs::create_dir(dir.path().join(folder)).unwrap();
            }
            assert_eq!(run::run(dir.path(), &auto()), done("v2"), "{marker} {folders:?}");
            assert_eq!(names(dir.path()), FRESH);
        }
    }
}

#[test]
fn fresh_equals_migrated() {
    let dir = testkit::tempdir();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    homes::v0_with(&old, &[("node", "1.0")]);
    assert_eq!(run::run(&old, &auto()), done("v2"));
    // A new root has a mode of its own, and an old root keeps its mode.
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&old).unwrap().permissions());
    assert_eq!(run::run(&new, &run::Options { mode, ..auto() }), done("v2"));
    // Toolchains of the user are then at the same place.
    for folder in ["bin/node", "share/doc"] {
        let from = old.join("toolchains/node/1.0").join(folder);
        let content = fs::read_to_string(&from).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&from).unwrap().permissions());
        let to = new.join("toolchains/node/1.0").join(folder);
        homes::file(&to, &content, mode & 0o7777);
        fs::File::open(&to).unwrap().set_modified(fs::metadata(&from).unwrap().modified().unwrap()).unwrap();
    }
    let regenerate = run::Options { regenerate: true, ..to("v2") };
    assert_eq!(run::run(&new, &regenerate), done("v2"));
    run::assert_same(&tree::settled(&old), &tree::settled(&new), "fresh equals migrated");
    assert_eq!(markers(&new), ["layout.v2"]);
}
