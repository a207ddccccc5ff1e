//! Golden stores: one of each layout, made once of our own modules and never edited. Each comes up to the
//! golden store at the current layout, file by file, and goes back; and so is a fresh store that is filled with
//! the same modules.
//!
//! `STOA_MAKE_GOLDEN=1 cargo test --test cli golden` makes the stores that are missing. It never edits an existing store.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use testkit::{Case, cases, trial};

use stoa_gomod::ModuleVersion;
use stoa_layout::gate::Mode;
use stoa_layout::{Gate, LayoutId, Migrator};
use stoa_store::Store;
use testkit::programs::Programs;
use testkit::stores::{self, Plan, Shape, contents, copy, markers};

pub(crate) fn cases() -> Vec<Case> {
    let is_asked = std::env::var_os("STOA_MAKE_GOLDEN").is_some();
    let mut cases = vec![
        trial("make_what_is_missing", None, make_what_is_missing)
            .unless((!is_asked).then(|| "STOA_MAKE_GOLDEN is not set".to_owned())),
    ];
    cases.extend(cases![
        the_list_is_the_folder,
        the_generator_still_makes_them,
        each_comes_up_and_goes_back,
        a_fresh_store_is_equal,
    ]);
    cases
}

/// Every golden store, with the shape of its versions. A new layout adds one here.
const GOLDEN: [(&str, Shape); 4] =
    [("v0", Shape::V0), ("tree", Shape::Tree), ("v1", Shape::V1), ("v2", Shape::V2)];

const MODULES: [(&str, &str); 8] = [
    ("github.com/Azure/sdk", "v1.0.0-RC1"),
    ("github.com/Azure/sdk", "v1.1.0"),
    ("github.com/Azure/sdk/v2", "v2.0.1"),
    ("example.com/old", "v2.0.0+incompatible"),
    ("example.com/old", "v0.0.0-20240102030405-abcdefabcdef"),
    ("gopkg.in/yaml.v2", "v2.4.0"),
    ("example.com/x", "v1.2.3"),
    ("example.com/x/v1.2.3/sub", "v1.0.0"),
];

/// The names and bytes of a folder, which is all that a checkout keeps.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn plan(shape: Shape) -> Plan {
    let mut plan = Plan::default();
    for (module, version) in MODULES {
        plan.version(shape, module, version);
    }
    if shape == Shape::V0 {
        // Of the odd cases those that a checkout keeps: what stays where it is.
        plan.stray("home.html", "<p>athens\n").stray("example.com/x/v1.2.3/v1.2.3.zip", "prefilled\n");
        plan.left("example.com/half/v1.0.0", "incomplete")
            .file("example.com/half/v1.0.0/go.mod", "module example.com/half\n");
        plan.left("example.com/x/master", "alias").file("example.com/x/master/master.info", "{}\n");
    }
    plan
}

/// Makes a store as the release that introduced its layout left it.
fn make(name: &str, shape: Shape, root: &Path) {
    plan(shape).write(root);
    if matches!(shape, Shape::V1 | Shape::V2) {
        let marker = "written_by = \"stoa-migrate 0.1.0\"\nwritten_at = \"2024-01-02T03:04:05Z\"\n";
        fs::write(root.join(format!("layout.{name}")), marker).unwrap();
    }
}

fn tree(root: &Path) -> Tree {
    stores::files(root).into_iter().map(|(path, kept)| (path, kept.content)).collect()
}

fn assert_same(expected: &Tree, found: &Tree, what: &str) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(found), "{what}");
    for (path, content) in expected {
        assert!(found[path] == *content, "{what}: {} differs", path.display());
    }
}

fn make_what_is_missing() {
    for (name, shape) in GOLDEN {
        let root = folder().join(name);
        if !root.exists() {
            make(name, shape, &root);
        }
    }
}

fn the_list_is_the_folder() {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut listed: Vec<&str> = GOLDEN.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(names, listed);
    assert!(listed.contains(&stoa_store::LAYOUT.as_str()), "the current layout has no golden store");
    for layout in stoa_migrations::steps().iter().flat_map(|step| [step.from(), step.to()]) {
        assert!(listed.contains(&layout.as_str()), "the layout {layout} has no golden store");
    }
}

/// The generator has not drifted from what it made: names and small files are the same. The bytes of a zip
/// depend on the release of the library that compresses, so those of the modules are compared by their hash.
fn the_generator_still_makes_them() {
    for (name, shape) in GOLDEN {
        let dir = testkit::tempdir();
        let root = dir.path().join(name);
        make(name, shape, &root);
        let (made, golden) = (tree(&root), tree(&folder().join(name)));
        assert_eq!(made.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>(), "{name}");
        assert_eq!(markers(&root), markers(&folder().join(name)), "{name}");
        let zips: BTreeMap<PathBuf, ModuleVersion> = MODULES
            .iter()
            .map(|(module, version)| {
                let pair = ModuleVersion::parse(&format!("{module}@{version}")).unwrap();
                (shape.paths(module, version)[stores::ZIP].clone(), pair)
            })
            .collect();
        for (path, content) in &golden {
            match zips.get(path) {
                Some(pair) => {
                    let h1 = |zip: &Vec<u8>| stoa_gomod::zip::examine(zip.as_slice(), pair).unwrap().h1;
                    assert_eq!(h1(&made[path]), h1(content), "{name}: {}", path.display());
                }
                None => assert!(made[path] == *content, "{name}: {} differs", path.display()),
            }
        }
    }
}

fn each_comes_up_and_goes_back() {
    let current = tree(&folder().join(stoa_store::LAYOUT.as_str()));
    for (name, shape) in GOLDEN {
        let programs = Programs::current();
        let root = programs.store();
        copy(&folder().join(name), &root);
        let before = tree(&root);
        let up = programs.migrate::<&str>([]);
        assert_eq!(up.code, 0, "{name}: {up:?}");
        assert_eq!(markers(&root), [format!("layout.{}", stoa_store::LAYOUT)], "{name}");
        let mut modules = tree(&root);
        modules.retain(|path, _| path.starts_with("modules"));
        assert_same(&current, &modules, name);
        // Besides the modules there is what was left.
        let strays: Vec<PathBuf> =
            tree(&root).into_keys().filter(|path| !path.starts_with("modules")).collect();
        let expected: Vec<PathBuf> = plan(shape).made.iter().map(|(path, _)| path.clone()).collect();
        assert!(strays.iter().all(|stray| expected.contains(stray)), "{name}: {strays:?}");
        let back = programs.migrate(["--to", name]);
        assert_eq!(back.code, 0, "{name}: {back:?}");
        assert_same(&before, &tree(&root), name);
    }
}

fn a_fresh_store_is_equal() {
    let programs = Programs::current();
    let root = programs.make_store();
    {
        let current: LayoutId = stoa_store::LAYOUT;
        let gate = Gate { root: &root, current: &current, migrator: &Migrator::Forbidden { name: "none" } };
        let pass = gate.pass().unwrap();
        let store = Store::open(gate.hold(pass, Mode::ReadWrite).unwrap(), Mode::ReadWrite).unwrap();
        for (module, version) in MODULES {
            let pair = ModuleVersion::parse(&format!("{module}@{version}")).unwrap();
            let [modfile, _, info] = contents(module, version);
            // The zip that the golden store has, whatever the compressing library makes of it today.
            let zip = folder().join("v2").join(&Shape::V2.paths(module, version)[stores::ZIP]);
            let mut draft = store.draft(&pair).unwrap();
            (&**draft.zip()).write_all(&fs::read(zip).unwrap()).unwrap();
            draft.set_mod(&modfile);
            let draft = draft.seal(&info).unwrap();
            let claim = store.claim(&pair).unwrap();
            store.publish(draft, &claim).unwrap();
        }
    }
    let mut fresh = tree(&root);
    let sealed = fresh.keys().filter(|path| path.ends_with("ziphash")).count();
    assert_eq!(sealed, MODULES.len());
    fresh.retain(|path, _| path.starts_with("modules") && !path.ends_with("ziphash"));
    assert_same(&tree(&folder().join("v2")), &fresh, "fresh and migrated");
    // The folders of a fresh store are those of a migrated one.
    let migrated = Programs::current();
    copy(&folder().join("v0"), &migrated.store());
    assert_eq!(migrated.migrate::<&str>([]).code, 0);
    let ours = |root: &Path| -> Vec<PathBuf> {
        let is_ours = |path: &PathBuf| stoa_store::FOLDERS.iter().any(|folder| path.starts_with(folder));
        let is_work = |path: &PathBuf| path.starts_with("staging") && path.components().count() > 1;
        stores::folders(root).into_iter().filter(|path| is_ours(path) && !is_work(path)).collect()
    };
    assert_eq!(ours(&root), ours(&migrated.store()));
}
