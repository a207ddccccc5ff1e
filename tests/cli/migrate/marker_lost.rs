//! Stores that lost only their marker.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::programs::Programs;
use testkit::stores::{self, INFO, MOD, Plan, Shape, ZIP, files, markers};
use testkit::tree::snapshot;
use testkit::{Case, cases};

use super::small;

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_store_without_its_marker_is_recognised_and_restored,
        a_marker_is_restored_only_where_the_structure_fits,
        other_layouts_are_not_taken_for_a_lost_marker,
        an_empty_store_without_its_marker_is_recognised,
    ]
}

/// Makes a store at layout v2 with every odd case, and removes its marker.
fn without_marker(programs: &Programs) -> PathBuf {
    let root = programs.store();
    stores::v0().write(&root);
    assert_eq!(programs.migrate::<&str>([]).code, 0);
    fs::remove_file(root.join("layout.v2")).unwrap();
    root
}

fn a_store_without_its_marker_is_recognised_and_restored() {
    let programs = Programs::current();
    let root = without_marker(&programs);
    let before = snapshot(&root);
    for arguments in [&[][..], &["--dry-run"], &["--auto"]] {
        let refused = programs.migrate(arguments);
        assert_eq!(refused.code, 65, "{refused:?}");
        for part in [
            "without its marker layout.v2",
            "nothing was changed",
            "help: ",
            "stoa-migrate --store",
            "--from v2",
        ] {
            assert!(refused.err.contains(part), "{part}: {refused:?}");
        }
    }
    let gate = programs.stoa(["path", "example.com/m@v1.0.0"]);
    assert_eq!((gate.code, gate.err.contains("--from v2")), (65, true), "{gate:?}");
    let status = programs.stoa(["status", "--format", "json"]);
    assert!(status.out.contains("\"state\":\"unmarked\""), "{status:?}");
    assert!(snapshot(&root) == before, "a refusal changed the store");

    let planned = programs.migrate(["--from", "v2", "--dry-run"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    assert!(planned.out.contains("would restore the marker of layout v2"), "{planned:?}");
    assert!(snapshot(&root) == before, "a dry run changed the store");

    // The store is also a source of an import, and is not changed by it.
    let other = programs.folder().join("other");
    let other = other.to_str().unwrap();
    let refused = programs.stoa(["import", root.to_str().unwrap(), "--store", other]);
    assert_eq!((refused.code, refused.err.contains("--from v2")), (65, true), "{refused:?}");
    let imported = programs.stoa([
        "import",
        root.to_str().unwrap(),
        "--store",
        other,
        "--from",
        "v2",
        "--format",
        "json",
    ]);
    assert!(imported.out.contains("\"event\":\"imported\""), "{imported:?}");
    assert!(snapshot(&root) == before, "an import changed its source");

    let versions = files(&root);
    let restored = programs.migrate(["--from", "v2"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert!(restored.out.contains("restored the marker of layout v2"), "{restored:?}");
    assert_eq!(markers(&root), ["layout.v2"]);
    assert!(files(&root) == versions, "a version was changed");
    let status = programs.stoa(["status", "--format", "json"]);
    assert!(status.out.contains("\"state\":\"current\""), "{status:?}");
    assert_eq!(programs.migrate(["--verify", "structure"]).code, 0);
}

fn a_marker_is_restored_only_where_the_structure_fits() {
    // A version that lost a file.
    let programs = Programs::current();
    let root = without_marker(&programs);
    let zip = root.join(&Shape::V2.paths("github.com/Azure/sdk", "v1.1.0")[ZIP]);
    fs::remove_file(&zip).unwrap();
    refused(&programs, 65, &["github.com/!azure/sdk", "it has no zip", "nothing was changed"]);

    // A file in the place of a folder.
    let programs = Programs::current();
    let root = without_marker(&programs);
    fs::remove_dir_all(root.join("staging")).unwrap();
    fs::write(root.join("staging"), "x").unwrap();
    refused(&programs, 73, &["staging", "not a folder", "nothing was changed"]);

    // A store in the middle of the step from v1.
    let programs = Programs::current();
    without_marker(&programs);
    let mut plan = Plan::default();
    plan.parts(Shape::V1, "example.com/flat", "v1.0.0", &[MOD, ZIP, INFO], |_, _| {});
    plan.write(&programs.store());
    refused(&programs, 65, &["example.com/flat", "layout v1", "nothing was changed"]);
}

#[track_caller]
fn refused(programs: &Programs, code: i32, parts: &[&str]) {
    let before = snapshot(&programs.store());
    for arguments in [&["--from", "v2"][..], &["--from", "v2", "--dry-run"]] {
        let refused = programs.migrate(arguments);
        assert_eq!(refused.code, code, "{refused:?}");
        for part in parts {
            assert!(refused.err.contains(part), "{part}: {refused:?}");
        }
        assert_eq!(markers(&programs.store()), [] as [&str; 0]);
        let after = snapshot(&programs.store());
        for (path, entry) in before.iter().filter(|(path, _)| *path != Path::new("store.lock")) {
            assert!(after.get(path) == Some(entry), "{} was changed", path.display());
        }
    }
}

fn other_layouts_are_not_taken_for_a_lost_marker() {
    for (layout, make) in [
        ("v0", (|root: &Path| small(root)) as fn(&Path)),
        ("tree", |root: &Path| Plan::default().version(Shape::Tree, "example.com/m", "v1.0.0").write(root)),
    ] {
        let programs = Programs::current();
        make(&programs.store());
        let status = programs.stoa(["status", "--format", "json"]);
        assert!(status.out.contains(&format!("\"layout\":\"{layout}\"")), "{status:?}");
        let refused = programs.migrate(["--from", "v2"]);
        assert_eq!(refused.code, 65, "{refused:?}");
        assert_eq!(markers(&programs.store()), [] as [&str; 0]);
        assert_eq!(programs.migrate::<&str>([]).code, 0);
        assert_eq!(markers(&programs.store()), ["layout.v2"]);
    }
    // A store at v1 that lost its marker is not recognised, and not taken for v2.
    let programs = Programs::current();
    small(&programs.store());
    assert_eq!(programs.migrate(["--to", "v1"]).code, 0);
    fs::remove_file(programs.store().join("layout.v1")).unwrap();
    for arguments in [&[][..], &["--from", "v2"]] {
        let refused = programs.migrate(arguments);
        assert_eq!((refused.code, refused.err.contains("not a store")), (65, true), "{refused:?}");
    }
    assert_eq!(markers(&programs.store()), [] as [&str; 0]);
}

fn an_empty_store_without_its_marker_is_recognised() {
    let programs = Programs::current();
    let root = programs.make_store();
    fs::remove_file(root.join("layout.v2")).unwrap();
    let refused = programs.migrate::<&str>([]);
    assert_eq!((refused.code, refused.err.contains("--from v2")), (65, true), "{refused:?}");
    assert_eq!(programs.migrate(["--from", "v2"]).code, 0);
    assert_eq!(markers(&root), ["layout.v2"]);
}
