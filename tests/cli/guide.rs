//! The guide to a new layout: its example is the code that is compiled, and it takes golden stores up and back.

use std::fs;
use std::path::Path;
use testkit::{Case, cases};

use testkit::programs::Programs;
use testkit::tree::{copy, shape};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        the_guide_shows_the_code_that_is_compiled,
        the_golden_stores_go_up_and_back,
        what_is_in_the_way_of_the_example_is_refused,
    ]
}

fn project(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn the_guide_shows_the_code_that_is_compiled() {
    let guide = fs::read_to_string(project("docs/adding-a-layout.md")).unwrap();
    let mut shown = Vec::new();
    for part in guide.split("<!-- ").skip(1) {
        let (path, rest) = part.split_once(" -->").expect("a comment that ends");
        let code = rest.split_once("```rust\n").and_then(|(_, code)| code.split_once("\n```\n"));
        let (code, _) = code.expect("code below the comment");
        assert!(
            format!("{code}\n") == fs::read_to_string(project(path)).unwrap(),
            "{path} is not what the guide shows"
        );
        shown.push(path.rsplit('/').next().unwrap().to_owned());
    }
    let mut there: Vec<String> = fs::read_dir(project("tests/next-layout/src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".rs"))
        .collect();
    shown.sort();
    there.sort();
    assert_eq!(shown, there);
}

fn the_golden_stores_go_up_and_back() {
    let programs = Programs::next();
    let root = programs.store();
    let golden = |layout: &str| project("tests/next-layout/golden").join(layout);
    // Folders that hold nothing are not kept with the sources.
    let files = |root: &Path| {
        let mut shape = shape(root);
        shape.retain(|path, _| root.join(path).is_file() && !path.ends_with("store.lock"));
        shape
    };
    copy(&golden("v2"), &root);
    let up = programs.migrate::<&str>([]);
    assert_eq!(up.code, 0, "{up:?}");
    assert!(up.out.contains("1 version moved"), "{up:?}");
    assert_eq!(files(&root), files(&golden("v3")));
    assert!(root.join("labels").is_dir());
    let listed = programs.stoa(["leftovers"]);
    assert_eq!((listed.code, listed.out.as_str()), (0, ""), "{listed:?}");
    let back = programs.migrate(["--to", "v2"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(files(&root), files(&golden("v2")));
    assert!(!root.join("labels").exists());
}

fn what_is_in_the_way_of_the_example_is_refused() {
    let programs = Programs::next();
    let root = programs.store();
    copy(&project("tests/next-layout/golden/v3"), &root);
    let place = root.join("records/example.org/!upper/@v/v1.0.0.toml");
    fs::write(&place, "mine").unwrap();
    let back = programs.migrate(["--to", "v2"]);
    assert_eq!(back.code, 73, "{back:?}");
    assert!(back.err.contains(place.to_str().unwrap()), "{back:?}");
    assert!(root.join("layout.v3").is_file());
}
