//! All odd cases of stores without markers: versions that move, leftovers with their reasons, and the step back, which restores
//! the first tree.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::stores::{self, Plan, Shape, assert_same, files, folders, markers};
use support::{Report, reported, run};

/// Goes up and back, and checks each side.
fn up_and_back(plan: &Plan, old: &str, back_to: Shape) {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    plan.write(&root);
    let (before, folders_before) = (files(&root), folders(&root));
    let reported = reported(&root, "v2").unwrap();
    compare_leftovers(plan, &root, &reported);
    assert_eq!(markers(&root), ["layout.v2"]);
    assert_same(&plan.expected(&before, Shape::V2), &files(&root), "at v2");
    run(&root, old).unwrap();
    assert_eq!(markers(&root), [] as [&str; 0]);
    let escaped = plan.expected(&before, back_to);
    assert_same(&escaped, &files(&root), "back");
    if back_to == plan.whole[0].2 && plan.whole.iter().all(|version| version.2 == back_to) {
        assert_eq!(folders(&root), folders_before);
    }
    run(&root, "v2").unwrap();
    assert_same(&plan.expected(&before, Shape::V2), &files(&root), "at v2 again");
}

fn compare_leftovers(plan: &Plan, root: &Path, reported: &Report) {
    let mut expected: BTreeMap<PathBuf, &str> = plan.left.iter().cloned().collect();
    let mut faults = Vec::new();
    for (path, reason) in &reported.leftovers {
        let path = path.strip_prefix(root).unwrap();
        match expected.remove(path) {
            Some(begins) if reason.starts_with(begins) => {}
            Some(begins) => faults.push(format!("{}: {reason:?}, not {begins:?}", path.display())),
            None => {
                faults.push(format!("{}: {reason:?} was not expected, or reported twice", path.display()))
            }
        }
    }
    faults.extend(expected.keys().map(|path| format!("{} was not reported", path.display())));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(reported.moved, plan.whole.len() as u64);
}

#[test]
fn v0() {
    up_and_back(&stores::v0(), "v0", Shape::V0);
}

#[test]
fn an_escaped_tree() {
    up_and_back(&stores::tree(Shape::Tree), "tree", Shape::Tree);
}

#[test]
fn a_tree_that_is_not_escaped() {
    up_and_back(&stores::tree(Shape::Plain), "tree", Shape::Tree);
}
