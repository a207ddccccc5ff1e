//! Versions carried into a store, from whatever holds them, and out of it again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use testkit::{Case, cases};

use serde_json::Value;
use stoa_layout::SharedLock;

use testkit::programs::{Ended, Programs};
use testkit::stores::{self, Plan, Shape};
use testkit::tree::{shape, snapshot};
use testkit::upstream::Module;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        from_an_athens_store,
        from_a_tree,
        from_another_store_at_every_layout,
        from_a_store_in_the_middle_of_a_step,
        a_source_may_be_read_only,
        what_is_there_already_stands,
        a_store_is_made_or_upgraded_first,
        where_there_is_no_store_and_none_is_to_be_made_it_says_so,
        a_folder_above_a_module_cache_is_refused_with_the_right_path,
        leftovers_are_summed_up_by_reason_and_named_with_v,
        one_that_cannot_be_written_is_named_and_the_rest_imported,
        what_is_no_source_is_refused_untouched,
        an_export_is_a_tree_that_grows,
        nothing_in_an_export_is_overwritten_and_nothing_broken_goes_out,
        a_folder_that_is_no_export_is_refused_untouched,
        beside_a_running_server,
    ]
}

fn lines(ended: &Ended) -> Vec<Value> {
    ended.out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

fn done(lines: &[Value]) -> &Value {
    of(lines, "done").pop().expect("a last line")
}

fn counts(lines: &[Value], names: &[&str]) -> Vec<u64> {
    names
        .iter()
        .map(|name| done(lines)[name].as_u64().unwrap_or_else(|| panic!("{name}: {lines:?}")))
        .collect()
}

const COUNTS: [&str; 6] = ["imported", "skipped", "leftovers", "without_zip", "differ", "broken"];

fn import(programs: &Programs, source: &Path, more: &[&str]) -> Ended {
    let mut arguments = vec!["import", source.to_str().unwrap(), "--format", "json"];
    arguments.extend(more);
    programs.stoa(arguments)
}

/// The versions in a store, each with its files, of which all must be whole and sealed.
fn versions(root: &Path) -> BTreeMap<String, [Vec<u8>; 3]> {
    let mut found = BTreeMap::new();
    let base = root.join("modules");
    let mut open = vec![base.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.join("info").is_file() {
                open.push(path);
                continue;
            }
            let relative = path.strip_prefix(&base).unwrap().to_str().unwrap();
            let names = ["info", "mod", "zip", "ziphash"];
            let [info, modfile, zip, seal] =
                names.map(|name| fs::read(path.join(name)).expect("a sealed version"));
            assert!(seal.starts_with(b"h1:"));
            found.insert(relative.to_owned(), [modfile, zip, info]);
        }
    }
    found
}

/// Returns the whole versions of a plan as a store holds them, without those whose zip is corrupt inside.
fn expected(plan: &Plan) -> BTreeMap<String, [Vec<u8>; 3]> {
    let whole = plan.whole.iter().filter(|(module, ..)| *module != "example.com/hole");
    whole
        .map(|(module, version, _)| {
            let name = format!("{}/@v/{}", stores::escape(module), stores::escape(version));
            (name, stores::contents(module, version))
        })
        .collect()
}

/// An import of a folder in which every odd case lies: what is whole comes over and is sealed, the rest is named,
/// the source stays as it is, and a second run finds nothing to do.
fn imports_what_is_whole(plan: &Plan, named: usize, aside: usize) {
    let programs = Programs::current();
    let source = programs.folder().join("source");
    plan.write(&source);
    imports(&programs, &source, &expected(plan), [named, aside, 1]);
}

fn imports(
    programs: &Programs,
    source: &Path,
    expected: &BTreeMap<String, [Vec<u8>; 3]>,
    [named, aside, broken]: [usize; 3],
) {
    let before = snapshot(source);
    let whole = expected.len() as u64;
    let (named, aside, broken) = (named as u64, aside as u64, broken as u64);
    let code = i32::from(broken > 0);

    let dry = import(programs, source, &["--dry-run"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(!programs.store().exists(), "a dry run wrote");
    assert_eq!(counts(&lines(&dry), &COUNTS), [whole + broken, 0, named, aside, 0, 0], "{dry:?}");

    let first = import(programs, source, &[]);
    assert_eq!(first.code, code, "{first:?}");
    let told = lines(&first);
    assert_eq!(counts(&told, &COUNTS), [whole, 0, named, aside, 0, broken], "{first:?}");
    assert_eq!(of(&told, "imported").len() as u64, whole);
    for line in of(&told, "leftover") {
        assert!(line["path"].as_str().unwrap().starts_with(source.to_str().unwrap()), "{line}");
        assert!(!line["reason"].as_str().unwrap().is_empty(), "{line}");
    }
    let bytes = of(&told, "imported").iter().map(|line| line["bytes"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(done(&told)["bytes"], bytes);
    assert_eq!(versions(&programs.store()), *expected);
    assert_eq!(snapshot(source), before, "the source was changed");

    let stood = shape(&programs.store());
    let second = import(programs, source, &[]);
    assert_eq!(second.code, code, "{second:?}");
    assert_eq!(counts(&lines(&second), &COUNTS), [0, whole, named, aside, 0, broken], "{second:?}");
    assert_eq!(shape(&programs.store()), stood, "a second run wrote");
    assert_eq!(snapshot(source), before, "the source was changed");
    let human = programs.stoa(["import", source.to_str().unwrap()]);
    assert_eq!(human.code, code);
    assert!(human.out.contains(&format!("{whole} already in the store")), "{human:?}");
}

fn from_an_athens_store() {
    let plan = stores::v0();
    imports_what_is_whole(&plan, plan.left.len(), 0);
}

fn from_a_tree() {
    for spelling in [Shape::Tree, Shape::Plain] {
        let plan = stores::tree(spelling);
        let programs = Programs::current();
        let source = programs.folder().join("source");
        plan.write(&source);
        // What a tree keeps beside versions is not named, and what has no zip is only counted.
        let is_kept_beside = |path: &Path, reason: &str| {
            reason == "alias"
                || path.ends_with("list")
                || path.extension().is_some_and(|ending| ending == "ziphash")
        };
        let has_no_zip = |path: &Path, reason: &str| {
            reason == "incomplete" && !source.join(path).with_extension("zip").exists()
        };
        let aside = plan.left.iter().filter(|(path, reason)| has_no_zip(path, reason)).count();
        let beside = plan.left.iter().filter(|(path, reason)| is_kept_beside(path, reason)).count();
        assert!(aside > 1 && beside > 1);
        imports(&programs, &source, &expected(&plan), [plan.left.len() - aside - beside, aside, 1]);
    }
}

fn from_another_store_at_every_layout() {
    for layout in ["v1", "v2"] {
        let programs = Programs::current();
        let source = programs.folder().join("source");
        let mut plan = Plan::default();
        for (module, version) in [("github.com/Azure/sdk", "v1.0.0-RC1"), ("example.com/x", "v1.2.3")] {
            plan.version(Shape::V0, module, version);
        }
        plan.stray("home.html", "<p>");
        plan.write(&source);
        let upgraded = programs.migrate(["--store", source.to_str().unwrap(), "--to", layout]);
        assert_eq!(upgraded.code, 0, "{upgraded:?}");
        // Nobody waits for whoever uses it.
        let _user = SharedLock::acquire(&source).unwrap();
        imports(&programs, &source, &expected(&plan), [1, 0, 0]);
    }
}

fn from_a_store_in_the_middle_of_a_step() {
    let programs = Programs::current();
    let source = programs.folder().join("source");
    let mut plan = Plan::default();
    let pairs = [("example.com/a", "v1.0.0"), ("example.com/b", "v1.0.0"), ("example.com/c", "v1.0.0")];
    for (module, version) in pairs {
        plan.version(Shape::V0, module, version);
    }
    plan.write(&source);
    fs::create_dir(source.join("modules")).unwrap();
    fs::write(source.join("migrating.v0-v1"), "").unwrap();
    // One has arrived, and of another the first file.
    for (module, parts) in [("example.com/a", 3), ("example.com/b", 1)] {
        let (old, new) = (Shape::V0.paths(module, "v1.0.0"), Shape::V1.paths(module, "v1.0.0"));
        for (old, new) in old.iter().zip(&new).take(parts) {
            fs::create_dir_all(source.join(new).parent().unwrap()).unwrap();
            fs::rename(source.join(old), source.join(new)).unwrap();
        }
    }
    imports(&programs, &source, &expected(&plan), [0, 0, 0]);
}

fn a_source_may_be_read_only() {
    let programs = Programs::current();
    let source = programs.folder().join("source");
    let mut plan = Plan::default();
    plan.version(Shape::Tree, "example.com/a", "v1.0.0");
    plan.write(&source);
    let chmod = |mode| {
        for path in snapshot(&source).keys() {
            let path = source.join(path);
            let mode = if path.is_dir() { mode } else { mode & 0o666 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    chmod(0o555);
    imports(&programs, &source, &expected(&plan), [0, 0, 0]);
    chmod(0o755);
}

/// The same files, packed otherwise.
fn repacked(module: &Module) -> Vec<u8> {
    let scratch = testkit::tempdir();
    fs::write(scratch.path().join("a.zip"), &module.zip).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).current_dir(scratch.path()).output();
        assert!(output.expect("it runs").status.success(), "{program} {arguments:?}");
    };
    run("python3", &["-c", REPACK]);
    fs::read(scratch.path().join("b.zip")).unwrap()
}

/// Stores every entry of a.zip in b.zip without packing it.
const REPACK: &str = "import zipfile
a, b = zipfile.ZipFile('a.zip'), zipfile.ZipFile('b.zip', 'w', zipfile.ZIP_STORED)
for name in a.namelist(): b.writestr(zipfile.ZipInfo(name), a.read(name))
b.close()";

fn what_is_there_already_stands() {
    let programs = Programs::current();
    let root = programs.make_store();
    let source = programs.folder().join("source");
    let pairs =
        ["same", "packed", "zip", "mod", "broken", "half"].map(|name| format!("example.com/{name}@v1.0.0"));
    let [_, packed, zip, modfile, broken, half] = pairs.each_ref().map(|pair| {
        let module = Module::new(pair, 5000);
        module.put_flat(&source);
        module.put_unsealed(&root)
    });
    let module = Module::new(&pairs[1], 5000);
    fs::write(packed.join("zip"), repacked(&module)).unwrap();
    // As somebody who forged it would have it: whole, and other bytes.
    let forged = Module::new(&pairs[2], 4000);
    fs::write(zip.join("zip"), &forged.zip).unwrap();
    fs::write(modfile.join("mod"), "module example.com/mod // another\n").unwrap();
    // These are none, and make way.
    fs::write(broken.join("zip"), &Module::new(&pairs[4], 5000).zip[..2000]).unwrap();
    fs::remove_file(half.join("zip")).unwrap();
    let before = snapshot(&source);

    let dry = import(&programs, &source, &["--dry-run"]);
    assert_eq!(counts(&lines(&dry), &COUNTS), [2, 2, 0, 0, 2, 0], "{dry:?}");
    let ended = import(&programs, &source, &[]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let told = lines(&ended);
    assert_eq!(counts(&told, &COUNTS), [2, 2, 0, 0, 2, 0], "{ended:?}");
    let differs: Vec<&str> =
        of(&told, "differs").iter().map(|line| line["module"].as_str().unwrap()).collect();
    assert!(differs.contains(&"example.com/zip") && differs.contains(&"example.com/mod"), "{differs:?}");
    assert!(
        of(&told, "differs").iter().all(|line| line["reason"].as_str().unwrap().contains("in the store"))
    );
    assert_eq!(fs::read(zip.join("zip")).unwrap(), forged.zip, "what is there stands");
    assert_eq!(fs::read(broken.join("zip")).unwrap(), Module::new(&pairs[4], 5000).zip);
    assert!(half.join("zip").is_file());
    assert_eq!(snapshot(&source), before);
    let human = programs.stoa(["import", "source", "-q"]);
    assert_eq!((human.code, human.out.as_str()), (1, ""), "{human:?}");
    assert!(
        human.err.contains("differs example.com/zip@v1.0.0") && human.err.contains("2 versions"),
        "{human:?}"
    );
}

fn a_store_is_made_or_upgraded_first() {
    let programs = Programs::current();
    let source = programs.folder().join("source");
    Module::new("example.com/new@v1.0.0", 10).put_flat(&source);
    Module::new("example.com/old@v1.0.0", 10).put_v0(&programs.store());
    let dry = import(&programs, &source, &["--dry-run"]);
    assert_eq!((dry.code, programs.store().join("modules").exists()), (0, false), "{dry:?}");
    assert_eq!(of(&lines(&dry), "plan").len(), 1, "{dry:?}");
    let ended = import(&programs, &source, &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for pair in ["example.com/new@v1.0.0", "example.com/old@v1.0.0"] {
        assert_eq!(programs.stoa(["path", pair]).code, 0);
    }

    // A step back that was interrupted is a person's business.
    let programs = Programs::current();
    let root = programs.make_store();
    fs::rename(root.join("layout.v2"), root.join("migrating.v2-v1")).unwrap();
    let before = snapshot(&root);
    let refused = import(&programs, &source, &[]);
    assert_eq!(refused.code, 78, "{refused:?}");
    assert_eq!(snapshot(&root), before);
}

fn where_there_is_no_store_and_none_is_to_be_made_it_says_so() {
    let programs = Programs::current();
    let source = programs.folder().join("source");
    Module::new("example.com/m@v1.0.0", 10).put_flat(&source);
    for more in [&["--no-create"][..], &["--no-create", "--dry-run"]] {
        let ended = import(&programs, &source, more);
        assert_eq!(ended.code, 0, "{ended:?}");
        let told = lines(&ended);
        assert!(done(&told)["layout"].is_null() && done(&told)["changed"] == false, "{ended:?}");
        assert!(of(&told, "imported").is_empty(), "{ended:?}");
        let human = programs.stoa(["import", "source"].iter().chain(more));
        assert_eq!(human.code, 0, "{human:?}");
        assert!(human.out.contains("there is no store in"), "{human:?}");
        assert!(!human.out.contains("imported"), "{human:?}");
        assert!(!programs.store().exists());
    }
    programs.make_store();
    let ended = import(&programs, &source, &["--no-create"]);
    assert_eq!(counts(&lines(&ended), &["imported"]), [1], "{ended:?}");
}

fn one_that_cannot_be_written_is_named_and_the_rest_imported() {
    let programs = Programs::current();
    let root = programs.make_store();
    let source = programs.folder().join("source");
    for name in ["a", "taken", "z"] {
        Module::new(&format!("example.com/{name}@v1.0.0"), 100).put_flat(&source);
    }
    // Where a folder must come.
    fs::create_dir_all(root.join("modules/example.com")).unwrap();
    let taken = root.join("modules/example.com/taken");
    fs::write(&taken, "").unwrap();
    for imported in [2, 0] {
        let ended = import(&programs, &source, &[]);
        assert_eq!(ended.code, 1, "{ended:?}");
        let told = lines(&ended);
        assert_eq!(
            counts(&told, &["imported", "skipped", "failed"]),
            [imported, 2 - imported, 1],
            "{ended:?}"
        );
        let failed = of(&told, "failed").pop().unwrap();
        assert_eq!(failed["module"], "example.com/taken", "{failed}");
        assert!(failed["reason"].as_str().unwrap().contains(taken.to_str().unwrap()), "{failed}");
    }
    let human = programs.stoa(["import", "source"]);
    assert_eq!(human.code, 1, "{human:?}");
    assert!(human.err.contains("failed example.com/taken@v1.0.0: cannot "), "{human:?}");
    assert!(human.err.contains("cannot write 1 version of "), "{human:?}");
    assert!(human.out.contains("2 already in the store, 1 failed"), "{human:?}");
    fs::remove_file(&taken).unwrap();
    let ended = import(&programs, &source, &[]);
    assert_eq!((ended.code, versions(&root).len()), (0, 3), "{ended:?}");
}

/// A module cache of the go command, with one version.
fn module_cache(folder: &Path) {
    let download = folder.join("cache/download");
    Module::new("example.com/m@v1.0.0", 100).put_flat(&download);
    for name in ["v1.0.0.lock", "v1.0.0.ziphash", "list"] {
        fs::write(download.join("example.com/m/@v").join(name), "").unwrap();
    }
}

fn a_folder_above_a_module_cache_is_refused_with_the_right_path() {
    let programs = Programs::current();
    let gopath = programs.folder().join("home/go");
    module_cache(&gopath.join("pkg/mod"));
    let before = snapshot(&gopath);
    let cache = gopath.join("pkg/mod");
    for above in [gopath.join("pkg"), gopath.clone(), programs.folder().join("home")] {
        for more in [&[][..], &["--dry-run"]] {
            let ended = programs.stoa(["import", above.to_str().unwrap()].iter().chain(more));
            assert_eq!(ended.code, 65, "{ended:?}");
            let help = format!("help: did you mean {}?", cache.display());
            assert!(ended.err.contains(&help), "{ended:?}");
        }
    }
    assert!(!programs.store().exists());
    for folder in [cache.clone(), cache.join("cache/download")] {
        let ended = import(&programs, &folder, &[]);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    assert_eq!(versions(&programs.store()).len(), 1);
    assert_eq!(snapshot(&gopath), before);
}

fn leftovers_are_summed_up_by_reason_and_named_with_v() {
    let programs = Programs::current();
    let source = programs.folder().join("source");
    Module::new("example.com/m@v1.0.0", 100).put_flat(&source);
    for name in ["a", "b"] {
        fs::write(source.join("example.com/m/@v").join(format!("v1.{name}.0.foreign")), "x").unwrap();
        fs::write(source.join("example.com/m/@v").join(format!("v1.2.0-{name}.zip")), "x").unwrap();
        fs::write(source.join("example.com/m/@v").join(format!("v1.2.0-{name}.info")), "x").unwrap();
    }
    let few = programs.stoa(["import", "source"]);
    assert_eq!(few.code, 0, "{few:?}");
    assert!(few.out.contains("4 leftovers not imported: 2 foreign, 2 incomplete"), "{few:?}");
    assert!(few.err.contains("run with -v to list the leftovers"), "{few:?}");
    assert!(!few.out.contains("v1.2.0-a") && !few.err.contains("v1.2.0-a"), "{few:?}");
    let all = programs.stoa(["import", "source", "-v"]);
    for name in ["v1.a.0.foreign", "v1.b.0.foreign", "v1.2.0-a.info", "v1.2.0-b.info"] {
        let line = all.out.lines().find(|line| line.starts_with("leftover ") && line.contains(name));
        assert!(line.is_some(), "{name}: {all:?}");
    }
    assert!(!all.err.contains("run with -v"), "{all:?}");
}

fn what_is_no_source_is_refused_untouched() {
    let programs = Programs::current();
    let root = programs.make_store();
    let put = |path: &str| {
        let path = programs.folder().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    };
    put("letters/letter.txt");
    put("file");
    put("newer/layout.v99");
    put("two/layout.v1");
    put("two/layout.v2");
    fs::create_dir(programs.folder().join("empty")).unwrap();
    Module::new("example.com/in@v1.0.0", 10).put_flat(&root.join("staging/tree"));
    Module::new("example.com/around@v1.0.0", 10).put_flat(programs.folder());
    let before = snapshot(programs.folder());
    for (source, code, word) in [
        ("letters", 65, "not a store of Stoa or Athens"),
        ("file", 65, "not a folder"),
        ("missing", 65, "no such folder"),
        ("empty", 65, "is empty"),
        ("newer", 78, "newer"),
        ("two", 65, "2 markers"),
        ("store", 64, "the store itself"),
        ("store/staging/tree", 64, "inside the store"),
        (".", 64, "the store is inside it"),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let ended = programs.stoa(["import", source].iter().chain(more));
            assert_eq!(ended.code, code, "{source}: {ended:?}");
            assert!(ended.err.contains(word), "{source}: {ended:?}");
        }
    }
    assert_eq!(snapshot(programs.folder()), before);
    for arguments in [&["import"][..], &["import", "letters", "--to", "v1"]] {
        assert_eq!(programs.migrate(arguments).code, 64, "{arguments:?}");
    }
    let help = programs.stoa(["import", "--help"]);
    assert!(help.code == 0 && help.out.contains("SOURCE") && help.out.contains("--dry-run"), "{help:?}");
}

/// Everything below an export but its own folder, by path.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let whole = shape(root).into_iter().filter(|(path, _)| root.join(path).is_file());
    let named = whole.map(|(path, content)| (path.to_str().unwrap().to_owned(), content));
    named.filter(|(path, _)| !path.starts_with(".stoa-export")).collect()
}

const EXPORTED: [&str; 4] = ["exported", "kept", "differ", "broken"];

fn export(programs: &Programs, more: &[&str]) -> Ended {
    let mut arguments = vec!["export", "tree", "--format", "json"];
    arguments.extend(more);
    programs.stoa(arguments)
}

fn an_export_is_a_tree_that_grows() {
    let programs = Programs::current();
    let root = programs.make_store();
    let to = programs.folder().join("tree");
    let pairs = ["example.com/m@v1.10.0", "example.com/m@v1.9.0", "github.com/Cap/c@v1.0.0-RC1"];
    let mut expected = BTreeMap::new();
    let mut put = |pair: &str| {
        let module = Module::new(pair, 1000);
        module.put_unsealed(&root);
        let (path, name) = (module.version.path().escaped(), module.version.version().escaped());
        for (ending, content) in [("mod", &module.modfile), ("zip", &module.zip), ("info", &module.info)] {
            expected.insert(format!("{path}/@v/{name}.{ending}"), content.clone());
        }
        expected.clone()
    };
    pairs.iter().for_each(|pair| drop(put(pair)));
    let info = |pair: &str| Module::new(pair, 0).info;
    let untagged = Module::new("example.com/p@v0.0.0-20240102030405-abcdefabcdef", 10);
    let mut files = put("example.com/p@v0.0.0-20240102030405-abcdefabcdef");
    files.insert("example.com/p/@v/list".to_owned(), Vec::new());
    files.insert("example.com/p/@latest".to_owned(), untagged.info);
    files.insert("example.com/m/@latest".to_owned(), info(pairs[0]));
    files.insert("github.com/!cap/c/@latest".to_owned(), info(pairs[2]));
    files.insert("example.com/m/@v/list".to_owned(), b"v1.9.0\nv1.10.0\n".to_vec());
    files.insert("github.com/!cap/c/@v/list".to_owned(), b"v1.0.0-RC1\n".to_vec());
    let first = export(&programs, &[]);
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(counts(&lines(&first), &EXPORTED), [4, 0, 0, 0], "{first:?}");
    assert_eq!(of(&lines(&first), "exported").len(), 4);
    assert!(tree(&to) == files, "{:?}", tree(&to).keys());

    let before = snapshot(&to);
    let second = export(&programs, &["--threads", "1"]);
    assert_eq!(counts(&lines(&second), &EXPORTED), [0, 4, 0, 0], "{second:?}");
    assert_eq!(snapshot(&to), before, "a second run wrote");

    // A new version, and the first that is tagged where none was.
    put("example.com/m@v1.11.0");
    let mut files: BTreeMap<_, _> = files.into_iter().chain(put("example.com/p@v0.1.0")).collect();
    files.insert("example.com/m/@v/list".to_owned(), b"v1.9.0\nv1.10.0\nv1.11.0\n".to_vec());
    files.insert("example.com/p/@v/list".to_owned(), b"v0.1.0\n".to_vec());
    files.insert("example.com/p/@latest".to_owned(), info("example.com/p@v0.1.0"));
    files.insert("example.com/m/@latest".to_owned(), info("example.com/m@v1.11.0"));
    let third = export(&programs, &[]);
    assert_eq!(counts(&lines(&third), &EXPORTED), [2, 4, 0, 0], "{third:?}");
    assert!(tree(&to) == files, "{:?}", tree(&to).keys());
    // No file is two: what happens to the tree does not happen to the store.
    for path in snapshot(&to).keys().map(|path| to.join(path)).filter(|path| path.is_file()) {
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&fs::metadata(path).unwrap()), 1);
    }
}

fn nothing_in_an_export_is_overwritten_and_nothing_broken_goes_out() {
    let programs = Programs::current();
    let root = programs.make_store();
    let to = programs.folder().join("tree");
    let pairs = ["kept", "other", "same", "broken"].map(|name| format!("example.com/{name}@v1.0.0"));
    let folders = pairs.each_ref().map(|pair| Module::new(pair, 1000).put_unsealed(&root));
    let broken = fs::read(folders[3].join("zip")).unwrap();
    testkit::next_write_time();
    fs::write(folders[3].join("zip"), &broken[..500]).unwrap();
    let first = export(&programs, &[]);
    assert_eq!(first.code, 1, "{first:?}");
    assert_eq!(counts(&lines(&first), &EXPORTED), [3, 0, 0, 1], "{first:?}");
    assert!(!to.join("example.com/broken").exists());
    assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 1);

    // Somebody changed one, without changing its size, and looked at another. A third has its info from elsewhere,
    // which says the same.
    let info = to.join("example.com/kept/@v/v1.0.0.info");
    let said: Value = serde_json::from_slice(&fs::read(&info).unwrap()).unwrap();
    fs::write(&info, serde_json::to_vec_pretty(&said).unwrap()).unwrap();
    let other = to.join("example.com/other/@v/v1.0.0.zip");
    let mut forged = fs::read(&other).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    fs::write(&other, &forged).unwrap();
    fs::File::open(to.join("example.com/same/@v/v1.0.0.zip"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    let second = export(&programs, &[]);
    assert_eq!(second.code, 1, "{second:?}");
    assert_eq!(counts(&lines(&second), &EXPORTED), [0, 2, 1, 0], "{second:?}");
    assert_eq!(fs::read(&other).unwrap(), forged, "what is there stands");
    let human = programs.stoa(["export", "tree"]);
    assert!(human.code == 1 && human.err.contains("differs example.com/other@v1.0.0"), "{human:?}");
    fs::remove_file(&other).unwrap();
    let third = export(&programs, &[]);
    assert_eq!((third.code, counts(&lines(&third), &EXPORTED)), (0, vec![1, 2, 0, 0]), "{third:?}");
}

fn a_folder_that_is_no_export_is_refused_untouched() {
    let programs = Programs::current();
    let root = programs.make_store();
    Module::new("example.com/m@v1.0.0", 10).put_unsealed(&root);
    fs::create_dir_all(programs.folder().join("letters")).unwrap();
    fs::write(programs.folder().join("letters/letter.txt"), "dear").unwrap();
    Module::new("example.com/m@v1.0.0", 10).put_flat(&programs.folder().join("other"));
    fs::create_dir_all(programs.folder().join("busy/.stoa-export")).unwrap();
    let lock = fs::File::create(programs.folder().join("busy/.stoa-export/lock")).unwrap();
    lock.try_lock().unwrap();
    let before = shape(programs.folder());
    for (place, code, word) in [
        ("letters", 73, "letter.txt"),
        ("other", 73, "example.com"),
        ("letters/letter.txt", 73, "letter.txt: it is not a folder"),
        ("store", 73, "the store itself"),
        ("store/cache/x", 73, "it is inside the store"),
        (".", 73, "the store is inside it"),
        ("busy", 75, "another export"),
    ] {
        let ended = programs.stoa(["export", place]);
        assert_eq!(ended.code, code, "{place}: {ended:?}");
        assert!(ended.err.contains(word), "{place}: {ended:?}");
        assert!(shape(programs.folder()) == before, "{place}");
    }
    assert_eq!(programs.stoa(["export"]).code, 64);
}

/// Two that fill and import the same versions at the same time end with each version once.
fn beside_a_running_server() {
    let programs = Programs::current();
    let root = programs.make_store();
    let source = programs.folder().join("source");
    let upstream = testkit::upstream::Upstream::start();
    let pairs: Vec<String> = (0..40).map(|n| format!("example.com/m{n}@v1.0.0")).collect();
    let modules: Vec<Module> = pairs.iter().map(|pair| upstream.offer(pair, 5000)).collect();
    modules.iter().for_each(|module| drop(module.put_flat(&source)));
    let server = testkit::server::Server::start(&root, upstream.url());
    let ended = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            for (n, module) in modules.iter().enumerate().rev() {
                let (status, body) = server.get(&format!("/example.com/m{n}/@v/v1.0.0.zip"));
                assert!(status == 200 && body == module.zip, "{n}");
            }
        });
        let ended = import(&programs, &source, &[]);
        asked.join().expect("all are served");
        ended
    });
    assert_eq!(ended.code, 0, "{ended:?}");
    let told = lines(&ended);
    let sums = counts(&told, &COUNTS);
    assert_eq!((sums[0] + sums[1], &sums[2..]), (40, &[0, 0, 0, 0][..]), "{ended:?}");
    assert_eq!(versions(&root).len(), 40);
    assert!(server.stop().success());
    assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 0);
}
