//! Random stores go up and back and are equal. Any mixture of the two sides of a step ends right in both directions.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use stoa_gomod::ModuleVersion;
use support::stores::{self, INFO, MOD, Plan, Shape, ZIP, assert_same, files, folders};
use support::{run, run_from};

/// The path elements of modules. There are few, so that modules are nested.
const ELEMENTS: [&str; 9] = ["a", "Abc", "aBC", "v1.0.0", "v2", "v3", "x.info", "yaml.v2", "Z_z~z"];
const HOSTS: [&str; 4] = ["example.com", "gopkg.in", "a.b", "nodot"];
const VERSIONS: [&str; 10] = [
    "v0.1.0",
    "v1.0.0",
    "v1.0.0-RC1",
    "v2.0.0",
    "v2.0.0+incompatible",
    "v3.1.4",
    "v0.0.0-20240102030405-abcdefabcdef",
    "v1",
    "v1.2",
    "master",
];

/// The files of a version.
#[derive(Debug, Clone)]
struct Part {
    host: usize,
    elements: Vec<usize>,
    version: usize,
    /// The existing files, as bits.
    has: u8,
    /// The fault of one of the files.
    fault: Option<usize>,
    extra: bool,
}

fn part() -> impl Strategy<Value = Part> {
    let has = prop_oneof![4 => Just(7u8), 1 => 0u8..8];
    let fault = prop_oneof![4 => Just(None), 1 => (0usize..4).prop_map(Some)];
    let host = prop_oneof![8 => Just(0usize), 1 => 0..HOSTS.len()];
    (host, vec(0..ELEMENTS.len(), 0..4), 0..VERSIONS.len(), has, fault, prop::bool::weighted(0.2)).prop_map(
        |(host, elements, version, has, fault, extra)| Part { host, elements, version, has, fault, extra },
    )
}

fn plan(shape: Shape, parts: &[Part]) -> Plan {
    let mut plan = Plan::default();
    let mut seen: Vec<(String, &str)> = Vec::new();
    for part in parts {
        let mut module = HOSTS[part.host].to_owned();
        for element in &part.elements {
            module.push('/');
            module.push_str(ELEMENTS[*element]);
        }
        let version = VERSIONS[part.version];
        if seen.contains(&(module.clone(), version)) {
            continue;
        }
        seen.push((module.clone(), version));
        if part.extra {
            // In a v0 version folder this is a prefilled zip.
            let name = if shape == Shape::V0 { format!("{version}.zip") } else { "extra".to_owned() };
            plan.file(shape.paths(&module, version)[MOD].with_file_name(name), "mine");
        }
        let has: Vec<usize> = [MOD, ZIP, INFO].into_iter().filter(|at| part.has & (1 << at) != 0).collect();
        if has.is_empty() && shape == Shape::V0 {
            plan.made.push((format!("{module}/{version}").into(), stores::Made::Folder));
        }
        plan.parts(shape, &module, version, &has, |at, content| match part.fault {
            Some(3) if at == INFO => *content = b"{}".to_vec(),
            Some(fault) if at == fault => content.truncate(content.len() / 3),
            _ => {}
        });
        // The first third of a go.mod may or may not contain `module`.
        let is_valid = ModuleVersion::parse(&format!("{module}@{version}")).is_ok();
        if part.has == 7 && part.fault.is_none() && is_valid {
            plan.whole.push((module.leak(), version, shape));
        } else if part.has == 7 && part.fault == Some(MOD) && is_valid {
            let body = stores::contents(&module, version)[MOD].clone();
            if stoa_gomod::modfile::has_module_directive(&body[..body.len() / 3]) {
                plan.whole.push((module.leak(), version, shape));
            }
        }
    }
    plan
}

fn name(shape: Shape) -> &'static str {
    match shape {
        Shape::V0 => "v0",
        Shape::Tree | Shape::Plain => "tree",
        Shape::V1 => "v1",
        Shape::V2 => "v2",
    }
}

/// Returns the shape of versions after the way back.
fn back(shape: Shape) -> Shape {
    if shape == Shape::Plain { Shape::Tree } else { shape }
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![2 => Just(Shape::V0), 1 => Just(Shape::Tree), 1 => Just(Shape::Plain)]
}

/// The progress of the move of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Far {
    NotYet,
    /// Linked at the new place and not yet unlinked at the old place, on a file system that cannot rename without overwriting.
    Linked,
    Moved,
}

fn far() -> impl Strategy<Value = Far> {
    prop_oneof![4 => Just(Far::NotYet), 1 => Just(Far::Linked), 4 => Just(Far::Moved)]
}

/// Moves files without the engine.
fn mix(root: &Path, moves: &[(PathBuf, PathBuf)], how_far: &[Far]) {
    for ((from, to), far) in moves.iter().zip(how_far.iter().cycle()).filter(|(_, far)| **far != Far::NotYet)
    {
        let (from, to) = (root.join(from), root.join(to));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        if *far == Far::Linked {
            fs::hard_link(&from, &to).unwrap();
        } else {
            fs::rename(&from, &to).unwrap();
        }
    }
}

fn moves(plan: &Plan, from: Shape, to: Shape) -> Vec<(PathBuf, PathBuf)> {
    let of = |module: &str, version: &str, own: Shape| {
        let from = if from == Shape::V0 { own } else { from };
        from.paths(module, version).into_iter().zip(to.paths(module, version))
    };
    plan.whole.iter().flat_map(|(module, version, own)| of(module, version, *own)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn up_and_down_is_the_same(shape in shapes(), parts in vec(part(), 1..12)) {
        let dir = testkit::tempdir();
        let (root, plan) = (dir.path().join("store"), plan(shape, &parts));
        plan.write(&root);
        let (before, folders_before) = (files(&root), folders(&root));
        if !(before.is_empty() && folders_before.is_empty()) {
            run_from(&root, name(shape), "v2").unwrap();
            assert_same(&plan.expected(&before, Shape::V2), &files(&root), "at v2");
            run(&root, name(shape)).unwrap();
            assert_same(&plan.expected(&before, back(shape)), &files(&root), "back");
            if shape != Shape::Plain {
                prop_assert_eq!(folders(&root), folders_before);
            }
        }
    }

    #[test]
    fn a_mixture_with_v1_ends_right(
        shape in shapes(),
        parts in vec(part(), 1..10),
        how_far in vec(far(), 1..30),
        is_back: bool,
    ) {
        let dir = testkit::tempdir();
        let (root, plan) = (dir.path().join("store"), plan(shape, &parts));
        plan.write(&root);
        let (before, folders_before) = (files(&root), folders(&root));
        mix(&root, &moves(&plan, Shape::V0, Shape::V1), &how_far);
        let old = name(shape);
        let marker = if is_back { format!("migrating.v1-{old}") } else { format!("migrating.{old}-v1") };
        fs::write(root.join(marker), "").unwrap();
        let turned = dir.path().join("turned");
        stores::copy(&root, &turned);
        run(&root, "v2").unwrap();
        assert_same(&plan.expected(&before, Shape::V2), &files(&root), "up");
        run(&turned, old).unwrap();
        let expected = plan.expected(&before, back(shape));
        assert_same(&expected, &plan.escaped(files(&turned)), "back");
        if shape != Shape::Plain {
            prop_assert_eq!(folders(&turned), folders_before);
        }
    }

    #[test]
    fn a_mixture_of_v1_and_v2_ends_right(
        parts in vec(part(), 1..10),
        how_far in vec(far(), 1..30),
        sealed in vec(any::<bool>(), 1..10),
        is_back: bool,
    ) {
        let dir = testkit::tempdir();
        let (root, plan) = (dir.path().join("store"), plan(Shape::V0, &parts));
        plan.write(&root);
        let before = files(&root);
        if before.is_empty() && folders(&root).is_empty() {
            return Ok(());
        }
        run_from(&root, "v0", "v1").unwrap();
        let mut seals = Vec::new();
        for (module, version, _) in plan.whole.iter().zip(sealed.iter().cycle()).filter(|(_, is)| **is).map(|(one, _)| one) {
            let at = |shape: Shape, name: &str| shape.paths(module, version)[INFO].with_file_name(name);
            let flat = at(Shape::V1, &format!("{}.ziphash", stores::escape(version)));
            fs::write(root.join(&flat), "h1:seal").unwrap();
            seals.push((flat, at(Shape::V2, "ziphash")));
        }
        let at_v1 = files(&root);
        let mut expected = plan.expected(&before, Shape::V2);
        expected.extend(seals.iter().map(|(flat, own)| (own.clone(), at_v1[flat].clone())));
        let mut all = moves(&plan, Shape::V1, Shape::V2);
        all.extend(seals);
        mix(&root, &all, &how_far);
        fs::rename(root.join("layout.v1"), root.join(if is_back { "migrating.v2-v1" } else { "migrating.v1-v2" })).unwrap();
        let turned = dir.path().join("turned");
        stores::copy(&root, &turned);
        run(&root, "v2").unwrap();
        assert_same(&expected, &files(&root), "up");
        run(&turned, "v1").unwrap();
        assert_same(&at_v1, &files(&turned), "back");
    }
}
