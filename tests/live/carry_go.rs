//! A module cache that a real `go` client filled is imported; the same program builds from the store without a
//! network, and from an export of it, served by nginx and as `file://`.
//!
//! Needs a go toolchain, for the first test the upstream that it is set up with and nginx.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use testkit::Case;

use serde_json::Value;
use testkit::go::Go;
use testkit::nginx::Nginx;
use testkit::server::Server;
use testkit::upstream::Upstream;
use testkit::{STOA, missing_tool, program, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let missing = missing_tool("go", &["version"]);
    let both = missing.clone().or_else(|| missing_tool("nginx", &["-v"]));
    vec![
        trial("a program of 100 modules builds from what was imported and exported", both, program_builds),
        trial("a module cache with what go leaves in it", missing, cache_of_go),
    ]
}

/// Further packages of the program, so that it has more than 100 dependencies.
const MORE: [[&str; 2]; 3] = [
    ["github.com/prometheus/client_golang/prometheus", "github.com/prometheus/client_golang v1.17.0"],
    ["github.com/gin-gonic/gin", "github.com/gin-gonic/gin v1.9.1"],
    ["github.com/go-playground/validator/v10", "github.com/go-playground/validator/v10 v10.15.5"],
];

fn stoa(store: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(STOA);
    command.args(arguments).args(["--format", "json", "--store"]).arg(store);
    for name in ["STOA_STORE", "STOA_UPSTREAM", "GOPROXY"] {
        command.env_remove(name);
    }
    command.output().expect("stoa runs")
}

/// The last line of a run that must succeed.
fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", transcript(output));
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

fn program_builds() {
    let dir = testkit::tempdir();
    let (store, folder, tree) =
        (dir.path().join("store"), dir.path().join("program"), dir.path().join("tree"));
    program::write(&folder);
    for [package, required] in MORE {
        program::add(&folder, package, required);
    }
    let proxy = Command::new("go").args(["env", "GOPROXY"]).output().expect("go runs").stdout;
    let go = Go::new(dir.path(), String::from_utf8_lossy(&proxy).trim());
    go.run(&folder, "filled", &["mod", "tidy"]);
    go.run(&folder, "filled", &["mod", "download", "all"]);
    go.run(&folder, "filled", &["build", "-trimpath", "-o", "program", "."]);
    let modules = go.run(&folder, "filled", &["list", "-m", "all"]).stdout;
    let modules = String::from_utf8_lossy(&modules).lines().count() - 1;
    assert!(modules >= 100, "the program has {modules} dependencies");
    let cache = dir.path().join("filled");
    let zips = files(&cache.join("cache/download")).into_iter().filter(|path| ends_in(path, "zip"));
    // What go looked into and never asked the info of is not whole.
    let (whole, bare): (Vec<PathBuf>, Vec<PathBuf>) =
        zips.partition(|path| path.with_extension("info").exists());
    let (zips, bare) = (whole.len(), bare.len());

    let imported = done(&stoa(&store, &["import", cache.to_str().unwrap()]));
    assert_eq!((&imported["imported"], &imported["skipped"]), (&zips.into(), &0.into()), "{imported}");
    assert_eq!(imported["leftovers"], bare, "{imported}");
    assert!(imported["without_zip"].as_u64().unwrap() > 0, "go.mod files alone are nothing odd: {imported}");
    let again = done(&stoa(&store, &["import", cache.join("cache/download").to_str().unwrap()]));
    assert_eq!((&again["imported"], &again["skipped"]), (&0.into(), &zips.into()), "{again}");
    let exported = done(&stoa(&store, &["export", tree.to_str().unwrap()]));
    assert_eq!(exported["exported"], zips, "{exported}");
    println!("{modules} modules in the build list, {zips} versions imported: {imported}");

    let built = fs::read(folder.join("program")).unwrap();
    let builds_from = |proxy: &str, name: &str| {
        let go = Go::new(dir.path(), proxy);
        let mut build = go.command(&folder, name, &["build", "-trimpath", "-o", name, "."]);
        // As it is with a go.sum: nothing is looked for that the program does not need.
        let output = build.env("GOFLAGS", "-modcacherw -mod=readonly -buildvcs=false").output().unwrap();
        assert!(output.status.success(), "{name}: {}", transcript(&output));
        assert!(fs::read(folder.join(name)).unwrap() == built, "{name}: the program is another one");
    };
    let offline = Server::start(&store, "off");
    builds_from(&offline.url, "from-store");
    assert!(offline.stop().success());
    let nginx = Nginx::start(dir.path(), &tree);
    builds_from(&nginx.url, "from-nginx");
    builds_from(&format!("file://{}", tree.display()), "from-files");
}

fn cache_of_go() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    for pair in ["example.com/one@v1.0.0", "example.com/one@v1.1.0", "example.com/Cap/two@v0.1.0-RC1"] {
        upstream.offer(pair, 2000);
    }
    upstream.offer("example.com/three@v0.0.0-20240102030405-abcdefabcdef", 2000);
    let go = Go::new(dir.path(), upstream.url()).unverified();
    let download = |name: &str, pair: &str| drop(go.run(dir.path(), name, &["mod", "download", pair]));
    for pair in ["example.com/one@v1.0.0", "example.com/Cap/two@v0.1.0-RC1"] {
        download("cache", pair);
    }
    download("cache", "example.com/three@v0.0.0-20240102030405-abcdefabcdef");
    go.run(dir.path(), "cache", &["list", "-m", "example.com/one@v1.1.0"]);
    let at = dir.path().join("cache/cache/download/example.com/one/@v");
    // As it is where go was stopped, and where a branch was asked for.
    fs::write(at.join("v1.1.0.partial"), "").unwrap();
    fs::write(at.join("v1.1.0.zip123.tmp"), "half").unwrap();
    fs::write(at.join("main.info"), r#"{"Version":"v1.0.0"}"#).unwrap();
    fs::write(at.join("notes.txt"), "mine").unwrap();
    let store = dir.path().join("store");
    for (source, imported, skipped) in [("cache", 3, 0), ("cache/cache/download", 0, 3)] {
        let output = stoa(&store, &["import", dir.path().join(source).to_str().unwrap()]);
        let sum = done(&output);
        let counts =
            ["imported", "skipped", "leftovers", "without_zip"].map(|name| sum[name].as_u64().unwrap());
        assert_eq!(counts, [imported, skipped, 1, 1], "{}", transcript(&output));
        assert!(transcript(&output).contains("notes.txt"));
    }

    // The export is one that go reads: lists, versions, and the latest of what was never tagged.
    let tree = dir.path().join("tree");
    done(&stoa(&store, &["export", tree.to_str().unwrap()]));
    let go = Go::new(dir.path(), &format!("file://{}", tree.display())).unverified();
    let listed = |arguments: &[&str]| {
        let output = go.run(dir.path(), "clean", arguments).stdout;
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    assert_eq!(listed(&["list", "-m", "-versions", "example.com/one"]), "example.com/one v1.0.0");
    assert_eq!(listed(&["list", "-m", "example.com/Cap/two@latest"]), "example.com/Cap/two v0.1.0-RC1");
    let three = "example.com/three v0.0.0-20240102030405-abcdefabcdef";
    assert_eq!(listed(&["list", "-m", "example.com/three@latest"]), three);
    listed(&["mod", "download", "example.com/Cap/two@v0.1.0-RC1"]);

    // And one that can be imported from, with nothing in it that is odd.
    let other = dir.path().join("other");
    let output = stoa(&other, &["import", tree.to_str().unwrap()]);
    let sum = done(&output);
    assert_eq!((&sum["imported"], &sum["leftovers"]), (&3.into(), &0.into()), "{}", transcript(&output));
}

fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|own| own == ending)
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
