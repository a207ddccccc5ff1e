//! Versions carried into a bucket and out of it, and the removal of unreferenced objects, on a double of an object store.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use testkit::gcs::{Asked, Failing, Gcs};
use testkit::server::{Server, command as server};
use testkit::stores::{self, Shape};
use testkit::tree::snapshot;
use testkit::upstream::Module;
use testkit::{Case, cases, transcript};

use super::bucket_commands::{bucket, command, ended, json, stoa};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        a_folder_of_athens_is_imported_into_a_bucket,
        a_tree_is_imported_into_a_bucket,
        an_import_keeps_what_the_bucket_has,
        an_import_verifies_versions_of_athens_before_it_compares_them,
        an_import_replaces_content_that_is_gone,
        an_import_creates_and_upgrades_the_bucket_first,
        an_import_in_an_outage_names_it_and_the_next_run_ends_the_rest,
        the_bucket_of_the_configuration_gets_an_import_unless_local_is_given,
        an_export_of_a_bucket_equals_that_of_a_store,
        an_export_reads_only_and_leaves_corrupt_versions_out,
        an_export_of_a_bucket_goes_on_where_it_stopped,
        unreferenced_objects_are_removed_after_a_day,
        a_bucket_is_pruned_by_the_uses_of_all_servers,
        a_bucket_is_not_pruned_while_a_server_records_no_uses,
        prune_works_on_the_bucket_of_the_configuration_unless_local_is_given,
        many_versions_are_pruned_with_one_thread_and_past_a_damaged_manifest,
        removals_are_announced_before_anything_is_printed,
        the_state_and_the_leftovers_of_the_configured_bucket_are_shown,
    ]
}

/// Returns the last event.
#[track_caller]
fn done(lines: &[Value]) -> &Value {
    lines.iter().rfind(|line| line["event"] == "done").unwrap_or_else(|| panic!("{lines:?}"))
}

#[track_caller]
fn counts<const N: usize>(lines: &[Value], names: [&str; N]) -> [u64; N] {
    names.map(|name| done(lines)[name].as_u64().unwrap_or_else(|| panic!("{name}: {lines:?}")))
}

const IMPORTED: [&str; 6] = ["imported", "skipped", "differ", "forbidden", "broken", "failed"];

fn import(gcs: &Gcs, source: &Path, more: &[&str]) -> (i32, Vec<Value>) {
    json(gcs, &[&["import", source.to_str().unwrap()][..], more].concat())
}

/// Returns the content of all objects.
fn objects(gcs: &Gcs) -> BTreeMap<String, (u64, Vec<u8>)> {
    let object = |key: String| {
        let object = gcs.get(&key)?;
        Some((key, (object.generation, object.data)))
    };
    gcs.keys("").into_iter().filter_map(object).collect()
}

/// Starts a server that has no version but those of the bucket.
fn serve(gcs: &Gcs, store: &Path) -> Server {
    let mut command = server(store);
    command.envs(gcs.environment()).env("STOA_BUCKET_URL", gcs.bucket("")).env("GOSUMDB", "off");
    Server::start_with(command.arg("--offline"))
}

/// Checks that a server without a version of its own serves these files.
fn served(gcs: &Gcs, expected: &[Module]) {
    let dir = testkit::tempdir();
    let server = serve(gcs, dir.path());
    for module in expected {
        for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            let (status, found) = server.get(&module.path(extension));
            let text = String::from_utf8_lossy(&found);
            assert!(status == 200 && found == *body, "{} {extension}: {status} {text}", module.version);
        }
    }
}

/// Imports a folder in which every odd case lies: whole versions are published, and everything else is named.
fn imports_whole_versions(plan: &stores::Plan) {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    plan.write(dir.path());
    let before = snapshot(dir.path());
    // One zip is whole outside and corrupt inside.
    let whole = plan.whole.iter().filter(|(module, ..)| *module != "example.com/hole");
    let whole: Vec<Module> = whole
        .map(|(module, version, _)| {
            let [modfile, zip, info] = stores::contents(module, version);
            Module { modfile, zip, info, ..Module::new(&format!("{module}@{version}"), 0) }
        })
        .collect();
    let count = whole.len() as u64;
    let (code, lines) = import(&gcs, dir.path(), &["--dry-run"]);
    assert_eq!((code, counts(&lines, IMPORTED)), (0, [count + 1, 0, 0, 0, 0, 0]), "{lines:?}");
    assert!(gcs.keys("").is_empty(), "a dry run wrote");

    let (code, lines) = import(&gcs, dir.path(), &[]);
    assert_eq!((code, counts(&lines, IMPORTED)), (1, [count, 0, 0, 0, 1, 0]), "{lines:?}");
    let leftovers = done(&lines)["leftovers"].as_u64().unwrap();
    assert!(leftovers > 0 && lines.iter().filter(|line| line["event"] == "leftover").count() > 0);
    let manifests: Vec<_> = gcs.keys("~stoa/").into_iter().filter(|key| key.contains("/m/")).collect();
    assert_eq!(manifests.len() as u64, count);
    for manifest in manifests {
        let manifest: Value = serde_json::from_str(&gcs.text(&manifest)).unwrap();
        assert_eq!((&manifest["origin"], &manifest["state"]), (&"imported".into(), &"present".into()));
        assert!(manifest["content"]["zip"]["h1"].as_str().unwrap().starts_with("h1:"));
    }
    served(&gcs, &whole);

    let stood = objects(&gcs);
    let (code, lines) = import(&gcs, dir.path(), &[]);
    assert_eq!((code, counts(&lines, IMPORTED)), (1, [0, count, 0, 0, 1, 0]), "{lines:?}");
    assert_eq!(done(&lines)["leftovers"], leftovers);
    let differ: Vec<_> = objects(&gcs)
        .into_iter()
        .filter(|(key, found)| stood.get(key) != Some(found))
        .map(|(key, _)| key)
        .collect();
    assert!(differ.iter().all(|key| key.contains("/servers/")), "a second run wrote {differ:?}");
    assert_eq!(snapshot(dir.path()), before, "the source was changed");
}

fn a_folder_of_athens_is_imported_into_a_bucket() {
    imports_whole_versions(&stores::v0());
}

fn a_tree_is_imported_into_a_bucket() {
    imports_whole_versions(&stores::tree(Shape::Tree));
}

/// Writes versions as Athens does, and returns them.
fn athens(root: &Path, pairs: &[&str]) -> Vec<Module> {
    let modules: Vec<_> = pairs.iter().map(|pair| Module::new(pair, 1000)).collect();
    for module in &modules {
        module.put_v0(root);
    }
    modules
}

fn an_import_keeps_what_the_bucket_has() {
    let (gcs, dir, other) = (Gcs::start(), testkit::tempdir(), testkit::tempdir());
    let pairs = ["same", "zip", "mod", "forbidden", "removed", "refilled"]
        .map(|name| format!("example.com/{name}@v1.0.0"));
    let pairs = pairs.each_ref().map(String::as_str);
    let modules = athens(dir.path(), &pairs);
    assert_eq!(import(&gcs, dir.path(), &[]).0, 0);
    ended(&stoa(&gcs, &["remove", "--tombstone", "--reason", "bad", pairs[3]]), 0, "forbade it");
    for pair in &pairs[4..] {
        ended(&stoa(&gcs, &["remove", pair]), 0, "removed");
    }
    // The other folder has another zip of two of them, and another mod of one.
    let others = athens(other.path(), &pairs);
    let larger = [1, 5].map(|at| Module::new(pairs[at], 2000));
    larger.iter().for_each(|module| drop(module.put_v0(other.path())));
    let path = others[2].put_v0(other.path()).join("go.mod");
    assert!(path.is_file(), "{}", path.display());
    fs::write(&path, [&others[2].modfile[..], b"// other\n"].concat()).unwrap();

    let (code, lines) = import(&gcs, other.path(), &["--dry-run"]);
    assert_eq!(
        (code, counts(&lines, ["imported", "skipped", "forbidden", "differ"])),
        (1, [2, 1, 1, 2]),
        "{lines:?}"
    );
    let (code, lines) = import(&gcs, other.path(), &[]);
    assert_eq!((code, counts(&lines, IMPORTED)), (1, [1, 1, 3, 1, 0, 0]), "{lines:?}");
    let reason = |pair: &str| {
        let (module, _) = pair.split_once('@').unwrap();
        let line = lines.iter().find(|line| line["module"] == module && line["reason"].is_string());
        line.unwrap_or_else(|| panic!("{module}: {lines:?}"))["reason"].as_str().unwrap().to_owned()
    };
    assert!(reason(pairs[1]).contains("the zip in the bucket has h1:"), "{}", reason(pairs[1]));
    assert!(reason(pairs[2]).contains("its go.mod differs"), "{}", reason(pairs[2]));
    assert!(reason(pairs[3]).contains("forbidden since") && reason(pairs[3]).ends_with(": bad"));
    // The hash of a removed version is still known.
    assert!(reason(pairs[5]).contains("h1:"), "{}", reason(pairs[5]));
    served(&gcs, &[modules[0].clone(), modules[1].clone(), modules[2].clone(), modules[4].clone()]);
}

fn an_import_verifies_versions_of_athens_before_it_compares_them() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let modules = athens(dir.path(), &["example.com/good@v1.0.0", "example.com/bad@v1.0.0"]);
    gcs.save("", &modules[0]);
    gcs.save("", &modules[1].clone().with_bad_crc());
    // The bucket of Athens is upgraded first.
    let (code, lines) = import(&gcs, dir.path(), &[]);
    assert_eq!((code, counts(&lines, IMPORTED)), (0, [1, 1, 0, 0, 0, 0]), "{lines:?}");
    assert_eq!(json(&gcs, &["verify"]).1.last().unwrap()["skipped"], 2);
    assert_eq!(json(&gcs, &["quarantine"]).1[0]["module"], "example.com/bad");
    served(&gcs, &modules);
}

fn an_import_replaces_content_that_is_gone() {
    let (gcs, modules) = bucket(&["example.com/a@v1.0.0", "example.com/b@v1.0.0", "example.com/c@v1.0.0"]);
    let dir = testkit::tempdir();
    modules.iter().for_each(|module| drop(module.put_v0(dir.path())));
    gcs.delete("example.com/a/@v/v1.0.0.zip");
    // A mod of this size is in the manifest.
    gcs.delete("example.com/b/@v/v1.0.0.mod");
    let (code, lines) = import(&gcs, dir.path(), &[]);
    assert_eq!((code, counts(&lines, IMPORTED)), (0, [1, 2, 0, 0, 0, 0]), "{lines:?}");
    served(&gcs, &modules);
}

fn an_import_creates_and_upgrades_the_bucket_first() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let modules = athens(dir.path(), &["example.com/a@v1.0.0"]);
    let source = dir.path().to_str().unwrap();
    for more in [&[][..], &["--dry-run"]] {
        let arguments = [&["import", source, "--no-create"][..], more].concat();
        ended(&stoa(&gcs, &arguments), 0, "is empty; nothing to do");
    }
    assert!(gcs.keys("").is_empty());
    ended(&stoa(&gcs, &["import", "/nonexistent"]), 65, "no such folder");
    for (more, text) in [(&["--to", "b1"][..], "unexpected argument"), (&["--local"], "cannot be used with")]
    {
        ended(&stoa(&gcs, &[&["import", source][..], more].concat()), 64, text);
    }
    assert!(gcs.keys("").is_empty());
    gcs.put("notes.txt", "foreign");
    ended(&stoa(&gcs, &["import", source]), 65, "notes.txt");
    gcs.delete("notes.txt");
    ended(&stoa(&gcs, &["import", source]), 0, "into gs://modules: imported 1 version");
    served(&gcs, &modules);
}

fn an_import_in_an_outage_names_it_and_the_next_run_ends_the_rest() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let pairs: Vec<String> = (0..6).map(|n| format!("example.com/m@v1.0.{n}")).collect();
    let modules = athens(dir.path(), &pairs.iter().map(String::as_str).collect::<Vec<_>>());
    let mut manifests = 0;
    gcs.fail(move |asked: &Asked| {
        manifests += usize::from(asked.is_change() && asked.key.ends_with(".json"));
        // The credentials are taken away in the middle.
        (manifests > 3).then_some(Failing::Status(403))
    });
    let source = dir.path().to_str().unwrap();
    let output = stoa(&gcs, &["import", source, "--threads", "1"]);
    ended(&output, 77, "imported 3 versions from");
    assert!(transcript(&output).contains("check the credentials"), "{}", transcript(&output));
    gcs.recover();
    let (code, lines) = import(&gcs, dir.path(), &[]);
    assert_eq!((code, counts(&lines, IMPORTED)), (0, [3, 3, 0, 0, 0, 0]), "{lines:?}");
    served(&gcs, &modules);
}

fn the_bucket_of_the_configuration_gets_an_import_unless_local_is_given() {
    let (gcs, dir, store) = (Gcs::start(), testkit::tempdir(), testkit::tempdir());
    athens(dir.path(), &["example.com/a@v1.0.0"]);
    let root = store.path().join("store");
    let run = |more: &[&str]| {
        let mut command = command(&gcs, &[&["import", dir.path().to_str().unwrap()][..], more].concat());
        command.env("STOA_BUCKET_URL", gcs.bucket("")).env("STOA_STORE", &root).output().unwrap()
    };
    ended(&run(&["--local"]), 0, "imported 1 version");
    assert!(gcs.keys("").is_empty() && root.join("layout.v2").exists());
    ended(&run(&["--store", root.to_str().unwrap()]), 0, "1 already in the store");
    assert!(gcs.keys("").is_empty());
    ended(&run(&[]), 0, "into gs://modules: imported 1 version");
}

const EXPORTED: [&str; 5] = ["exported", "kept", "differ", "broken", "unreadable"];

fn export(gcs: &Gcs, to: &Path, more: &[&str]) -> (i32, Vec<Value>) {
    json(gcs, &[&["export", to.to_str().unwrap()][..], more].concat())
}

/// Returns the content of the files of an export.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = stores::files(root).into_iter();
    let files = files.map(|(path, file)| (path.to_string_lossy().into_owned(), file.content));
    files.filter(|(path, _)| !path.starts_with(".stoa-export")).collect()
}

fn an_export_of_a_bucket_equals_that_of_a_store() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let source = dir.path().join("source");
    let pairs = [
        "example.com/m@v1.10.0",
        "example.com/m@v1.9.0",
        "github.com/Cap/c@v1.0.0-RC1",
        "example.com/m/v2@v2.0.0",
        "example.com/p@v0.0.0-20240102030405-abcdefabcdef",
    ];
    athens(&source, &pairs);
    let [local, there, back] = ["local", "there", "back"].map(|name| dir.path().join(name));
    let store = dir.path().join("store");
    let run = |arguments: &[&str]| {
        let mut command = command(&gcs, arguments);
        ended(&command.env("STOA_STORE", &store).output().unwrap(), 0, "");
    };
    run(&["import", source.to_str().unwrap()]);
    run(&["export", local.to_str().unwrap()]);
    assert_eq!(import(&gcs, &source, &[]).0, 0);
    // A removed version is not exported.
    ended(&stoa(&gcs, &["remove", "--tombstone", "example.com/gone@v1.0.0"]), 0, "");
    let (code, lines) = export(&gcs, &there, &[]);
    assert_eq!((code, counts(&lines, EXPORTED)), (0, [5, 0, 0, 0, 0]), "{lines:?}");
    assert_eq!(files(&there), files(&local));
    // The way back: to the store of another machine.
    let other = dir.path().join("other");
    let mut command = command(&gcs, &["import", there.to_str().unwrap()]);
    ended(&command.env("STOA_STORE", &other).output().unwrap(), 0, "imported 5 versions");
    let mut command = super::bucket_commands::command(&gcs, &["export", back.to_str().unwrap()]);
    ended(&command.env("STOA_STORE", &other).output().unwrap(), 0, "5 versions exported");
    assert_eq!(files(&back), files(&local));

    let before = snapshot(&there);
    gcs.take_asked();
    let (_, lines) = export(&gcs, &there, &["--threads", "1"]);
    assert_eq!(counts(&lines, EXPORTED), [0, 5, 0, 0, 0], "{lines:?}");
    assert_eq!(snapshot(&there), before, "a second run wrote");
    assert!(!gcs.take_asked().iter().any(|asked| asked.key.ends_with(".zip")), "a second run read a zip");
    // The files of the other export have other times: they are compared by their hashes.
    let (_, lines) = export(&gcs, &local, &[]);
    assert_eq!(counts(&lines, EXPORTED), [0, 5, 0, 0, 0], "{lines:?}");
    ended(&stoa(&gcs, &["export", source.to_str().unwrap()]), 73, "nothing was written");
}

fn an_export_reads_only_and_leaves_corrupt_versions_out() {
    let pairs = ["whole", "corrupt", "gone", "mod", "other"].map(|name| format!("example.com/{name}@v1.0.0"));
    let (gcs, modules) = bucket(&pairs.each_ref().map(String::as_str));
    let dir = testkit::tempdir();
    let to = dir.path().join("tree");
    ended(&stoa(&gcs, &["export", to.to_str().unwrap()]), 0, "5 versions exported");
    fs::remove_dir_all(to.join("example.com/corrupt")).unwrap();
    fs::remove_dir_all(to.join("example.com/gone")).unwrap();
    fs::write(to.join("example.com/mod/@v/v1.0.0.mod"), "module example.com/other\n").unwrap();
    // The same size.
    let mut zip = modules[4].zip.clone();
    let at = zip.len() / 3;
    zip[at] ^= 1;
    fs::write(to.join("example.com/other/@v/v1.0.0.zip"), zip).unwrap();
    let generation = gcs.get("example.com/corrupt/@v/v1.0.0.zip").unwrap().generation;
    gcs.change("example.com/corrupt/@v/v1.0.0.zip", |object| object.data[at] ^= 1);
    gcs.set_generation("example.com/corrupt/@v/v1.0.0.zip", generation);
    gcs.delete("example.com/gone/@v/v1.0.0.zip");
    let stood = objects(&gcs);
    let (code, lines) = export(&gcs, &to, &[]);
    assert_eq!((code, counts(&lines, EXPORTED)), (1, [0, 1, 2, 2, 0]), "{lines:?}");
    assert_eq!(objects(&gcs), stood, "the export wrote to the bucket");
    for name in ["corrupt", "gone"] {
        assert!(!to.join("example.com").join(name).join("@v/v1.0.0.info").exists());
    }
    let text = transcript(&stoa(&gcs, &["export", to.to_str().unwrap()]));
    assert!(text.contains("corrupt example.com/gone@v1.0.0: its content is gone"), "{text}");
    assert!(text.contains("corrupt example.com/corrupt@v1.0.0: its zip: "), "{text}");
    assert!(
        text.contains("`stoa verify --bucket gs://modules example.com/corrupt@v1.0.0 --again`"),
        "{text}"
    );
}

fn an_export_of_a_bucket_goes_on_where_it_stopped() {
    let pairs: Vec<String> = (0..6).map(|n| format!("example.com/m@v1.0.{n}")).collect();
    let (gcs, _) = bucket(&pairs.iter().map(String::as_str).collect::<Vec<_>>());
    let dir = testkit::tempdir();
    gcs.fail(|asked| asked.key.ends_with("v1.0.4.zip").then_some(Failing::Status(403)));
    let to = dir.path().join("tree");
    let output = stoa(&gcs, &["export", to.to_str().unwrap(), "--threads", "1"]);
    ended(&output, 77, "exported versions stay in");
    gcs.recover();
    let (code, lines) = export(&gcs, &to, &[]);
    let [exported, kept] = counts(&lines, ["exported", "kept"]);
    assert_eq!((code, exported + kept), (0, 6), "{lines:?}");
    let list = fs::read_to_string(to.join("example.com/m/@v/list")).unwrap();
    assert_eq!(list.lines().count(), 6);
    // Only the lock is left of the work.
    assert_eq!(fs::read_dir(to.join(".stoa-export")).unwrap().count(), 1);
}

fn unreferenced_objects_are_removed_after_a_day() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let modules = athens(
        dir.path(),
        &["example.com/first@v1.0.0", "example.com/second@v1.0.0", "example.com/third@v1.0.0"],
    );
    assert_eq!(import(&gcs, dir.path(), &[]).0, 0);
    let contents =
        || -> Vec<String> { gcs.keys("~stoa/").into_iter().filter(|key| key.contains("/c/")).collect() };
    let zips = contents();
    assert_eq!(zips.len(), 3);
    // One goes to quarantine. Of another, an upload was interrupted, and of a third that was never published.
    gcs.change(&zips[2], |object| object.data[700] ^= 1);
    ended(&stoa(&gcs, &["verify", "--again"]), 1, "");
    assert_eq!(json(&gcs, &["quarantine"]).1.len(), 1, "its ETag differs");
    let root = zips[0].split_once("/c/").unwrap().0;
    let nonce = "0123456789abcdef0123456789abcdef";
    let [young, old, never] = [
        format!("{root}/c/example.com/first/@v/v1.0.0/{nonce}.zip"),
        format!("{root}/c/example.com/first/@v/v1.0.0/1{}.zip", &nonce[1..]),
        format!("{root}/c/example.com/fourth/@v/v1.0.0/{nonce}.zip"),
    ];
    for key in [&young, &old, &never] {
        gcs.put(key, "1234567");
    }
    for key in gcs.keys(root).into_iter().filter(|key| *key != young) {
        gcs.age(&key);
    }
    let stood = objects(&gcs);
    let prune = ["prune", "--unreferenced"];
    let (code, lines) = json(&gcs, &[&prune[..], &["--dry-run"]].concat());
    assert_eq!((code, counts(&lines, ["objects", "bytes"])), (0, [2, 14]), "{lines:?}");
    assert_eq!(objects(&gcs), stood, "a dry run wrote");
    let (code, lines) = json(&gcs, &prune);
    assert_eq!((code, counts(&lines, ["objects", "bytes"])), (0, [2, 14]), "{lines:?}");
    let removed: Vec<_> = lines.iter().filter_map(|line| line["object"].as_str()).collect();
    assert_eq!(removed, [old.as_str(), &never]);
    assert_eq!(contents(), [&[young], &zips[..]].concat());
    ended(&stoa(&gcs, &prune), 0, "gs://modules: 0 unreferenced objects, 0 B removed");
    // The lease was given back.
    assert!(!gcs.text("~stoa/state").contains("[lease]"));
    ended(&stoa(&gcs, &["status"]), 0, "current");
    served(&gcs, &modules[..2]);
}

/// Makes everything in the bucket older: the days of the recorded uses, and the publications.
fn let_a_year_pass(gcs: &Gcs) {
    for key in gcs.keys("~stoa/") {
        if let Some((folder, name)) = key.split_once("/used/") {
            let (_, server) = name.split_once('/').unwrap();
            let data = gcs.get(&key).unwrap().data;
            gcs.delete(&key);
            gcs.put(&format!("{folder}/used/2020-01-01/{server}"), data);
        } else if key.ends_with(".json") && key.contains("/m/") {
            let mut manifest: Value = serde_json::from_str(&gcs.text(&key)).unwrap();
            manifest["published_at"] = "2020-01-01T00:00:00Z".into();
            gcs.put(&key, serde_json::to_vec(&manifest).unwrap());
        }
    }
}

fn a_bucket_is_pruned_by_the_uses_of_all_servers() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    let modules: Vec<_> = (0..4).map(|n| Module::new(&format!("example.com/m@v1.0.{n}"), 5000)).collect();
    modules.iter().for_each(|module| gcs.save("", module));
    assert!(serve(&gcs, &dir.path().join("first")).stop().success());
    let prune = ["prune", "--unused-since", "30d"];
    let (code, lines) = json(&gcs, &prune);
    assert_eq!((code, counts(&lines, ["removed", "versions_left"])), (0, [0, 4]));
    let_a_year_pass(&gcs);
    // Two servers use two of them.
    for (name, module) in [("second", &modules[1]), ("third", &modules[3])] {
        let server = serve(&gcs, &dir.path().join(name));
        assert_eq!(server.get(&module.path("zip")).0, 200);
        assert!(server.stop().success());
    }
    let before = objects(&gcs);
    let (code, lines) = json(&gcs, &[&prune[..], &["--dry-run"]].concat());
    assert_eq!((code, counts(&lines, ["removed", "versions_left"])), (0, [2, 2]));
    assert!(objects(&gcs) == before);
    assert_eq!(done(&lines)["noted_since"], "2020-01-01");
    let (code, lines) = json(&gcs, &[&prune[..], &["--keep", "example.org"]].concat());
    assert_eq!((code, counts(&lines, ["removed", "versions_left"])), (0, [2, 2]));
    let removed = lines.iter().filter(|line| line["event"] == "removed");
    let mut removed: Vec<_> = removed.map(|line| line["version"].as_str().unwrap()).collect();
    removed.sort_unstable();
    assert_eq!(removed, ["v1.0.0", "v1.0.2"]);
    let server = serve(&gcs, &dir.path().join("fourth"));
    let found: Vec<_> = modules.iter().map(|module| server.get(&module.path("zip")).0).collect();
    assert_eq!(found, [404, 200, 404, 200]);
    drop(server);
    // By size: as many as it takes.
    let (code, lines) = json(&gcs, &["prune", "--max-size", "8000"]);
    assert_eq!((code, counts(&lines, ["removed", "versions_left"])), (0, [1, 1]));
}

fn many_versions_are_pruned_with_one_thread_and_past_a_damaged_manifest() {
    // More than wait for a thread.
    let names: Vec<String> = (0..300).map(|n| format!("example.com/m@v1.0.{n}")).collect();
    let (gcs, _) = bucket(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let damaged = gcs.keys("~stoa/").into_iter().find(|key| key.ends_with("/m/example.com/m/@v/v1.0.7.json"));
    gcs.put(&damaged.unwrap(), "{broken");
    gcs.take_asked();
    let (code, lines) = json(&gcs, &["prune", "--max-size", "0", "--yes", "--threads", "1"]);
    let found = counts(&lines, ["removed", "versions_left", "unreadable", "failed"]);
    assert_eq!((code, found), (74, [299, 0, 1, 0]), "{lines:?}");
    // In ten batches, each with a write before and a write after it.
    let is_of_list = |asked: &&Asked| asked.method == "PUT" && asked.key.ends_with("/gone");
    assert_eq!(gcs.take_asked().iter().filter(is_of_list).count(), 20);
}

fn removals_are_announced_before_anything_is_printed() {
    let commands = [&["prune", "--max-size", "0", "--threads", "1"][..], &["remove", "example.com/m"]];
    for arguments in commands {
        let (gcs, _) = bucket(&["example.com/m@v1.0.0", "example.com/m@v1.1.0", "example.com/m@v1.2.0"]);
        let dir = testkit::tempdir();
        let path = dir.path().join("output");
        let output = fs::File::create(&path).unwrap();
        let sizes = Arc::<Mutex<Vec<u64>>>::default();
        let (noted, at) = (Arc::clone(&sizes), path.clone());
        gcs.fail(move |asked| {
            if asked.method == "PUT" && asked.key.ends_with("/gone") {
                noted.lock().unwrap().push(fs::metadata(&at).unwrap().len());
            }
            None
        });
        let url = gcs.bucket("");
        let mut command = command(&gcs, &[arguments, &["--bucket", &url]].concat());
        assert!(command.stdout(output).status().unwrap().success(), "{arguments:?}");
        assert_eq!(*sizes.lock().unwrap(), [0, 0], "{arguments:?}");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("removed example.com/m@").count(), 3, "{arguments:?}: {text}");
    }
}

fn a_bucket_is_not_pruned_while_a_server_records_no_uses() {
    let (gcs, dir) = (Gcs::start(), testkit::tempdir());
    gcs.save("", &Module::new("example.com/m@v1.0.0", 500));
    let mut command = server(&dir.path().join("store"));
    command.envs(gcs.environment()).env("STOA_BUCKET_URL", gcs.bucket("")).env("GOSUMDB", "off");
    let server = Server::start_with(command.env("STOA_LAST_USE_INTERVAL", "0").arg("--offline"));
    testkit::until("the server is known", || gcs.keys("~stoa/").iter().any(|key| key.contains("/servers/")));
    ended(&stoa(&gcs, &["prune", "--max-size", "0"]), 75, "no uses are recorded by");
    assert!(server.stop().success());
    ended(&stoa(&gcs, &["prune", "--max-size", "0"]), 0, "1 version, ");
}

fn prune_works_on_the_bucket_of_the_configuration_unless_local_is_given() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0"]);
    let dir = testkit::tempdir();
    testkit::create(dir.path());
    let run = |arguments: &[&str]| {
        let mut command = command(&gcs, &[&["prune"][..], arguments].concat());
        command.env("STOA_BUCKET_URL", gcs.bucket("")).env("STOA_STORE", dir.path()).output().unwrap()
    };
    ended(&run(&["--max-size", "1M"]), 0, "gs://modules: 0 versions, 0 B removed; 1 version, ");
    ended(&run(&["--max-size", "1M", "--local"]), 0, "0 versions");
    let store = dir.path().to_str().unwrap();
    ended(&run(&["--max-size", "1M", "--store", store]), 0, "0 versions");
    ended(&run(&["--max-size", "1M", "--store", store, "--bucket", "gs://x"]), 64, "cannot be used with");
    ended(&run(&["--unreferenced", "--local"]), 64, "--unreferenced needs a bucket");
    ended(&run(&["--unreferenced", "--keep", "example.com"]), 64, "cannot be used with");
    ended(&run(&[]), 64, "--unreferenced");
    ended(&run(&["--unreferenced"]), 0, "gs://modules: 0 unreferenced objects");
}

fn the_state_and_the_leftovers_of_the_configured_bucket_are_shown() {
    let (gcs, _) = bucket(&["example.com/a@v1.0.0"]);
    gcs.put("example.com/half/@v/v1.0.0.info", "{}");
    let dir = testkit::tempdir();
    testkit::create(dir.path());
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let run = |arguments: &[&str]| {
        let mut command = command(&gcs, arguments);
        command.env("STOA_BUCKET_URL", gcs.bucket("")).env("STOA_STORE", dir.path()).output().unwrap()
    };
    let both = run(&["status", "--format", "json"]);
    let lines: Vec<Value> = String::from_utf8_lossy(&both.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{}", transcript(&both));
    assert_eq!((&lines[0]["layout"], &lines[0]["leftovers"]), (&"v2".into(), &1.into()));
    assert_eq!((&lines[1]["store"], &lines[1]["layout"]), (&"gs://modules".into(), &"b1".into()));
    let text = String::from_utf8(run(&["status"]).stdout).unwrap();
    assert!(text.starts_with("store ") && text.contains("\n\nbucket          gs://modules\n"), "{text}");
    let text = String::from_utf8(run(&["status", "--local"]).stdout).unwrap();
    assert!(text.starts_with("store ") && !text.contains("bucket"), "{text}");
    ended(&run(&["leftovers"]), 0, "gs://modules/example.com/half/@v/v1.0.0 (2 B): incomplete");
    ended(&run(&["leftovers", "--local"]), 0, "notes.txt");
    ended(&run(&["leftovers", "--store", dir.path().to_str().unwrap()]), 0, "notes.txt");
    ended(&run(&["leftovers", "move", "/nonexistent"]), 64, "--local");
    // The store is shown also if the bucket cannot be reached.
    gcs.fail(|_| Some(Failing::Status(403)));
    let output = run(&["status"]);
    ended(&output, 77, "check the credentials");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("store "));
}
