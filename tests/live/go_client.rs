//! A real `go` client builds a real program through the real proxy, then again with the upstream cut off.
//!
//! Needs a go toolchain and the upstream that it is set up with.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::Case;

use testkit::server::{self, Server};
use testkit::upstream::{Script, Upstream};
use testkit::{STOA, go::Go, missing_tool, program, trial};

pub(crate) fn cases() -> Vec<Case> {
    let missing = missing_tool("go", &["version"]);
    vec![
        trial("a real program builds through the proxy, and again offline", missing.clone(), build),
        trial("versions that are not there, queries and lists", missing.clone(), questions),
        trial("go gets a zip from an upstream that sends 20 KiB/s", missing, slow_upstream),
    ]
}

fn build() {
    let dir = testkit::tempdir();
    let (store, folder) = (dir.path().join("store"), dir.path().join("program"));
    program::write(&folder);
    // From before module graphs were pruned: it needs every module that one of its own ever named.
    program::add(&folder, "github.com/spf13/viper", "github.com/spf13/viper v1.7.1");

    // The upstream is what the go command is set up with: nothing is named here.
    let mut command = server::command(&store);
    if let Some(list) = std::env::var_os("GOPROXY") {
        command.env("GOPROXY", list);
    }
    let online = Server::start_with(&mut command);
    let go = Go::new(dir.path(), &online.url);
    go.run(&folder, "graph", &["mod", "graph"]);
    let zips = || walk(&store.join("modules")).into_iter().filter(|path| path.ends_with("zip")).count();
    assert_eq!(zips(), 0, "a graph needs no zip");
    go.run(&folder, "first", &["mod", "tidy"]);
    let sums = fs::read_to_string(folder.join("go.sum")).unwrap();
    go.run(&folder, "first", &["mod", "download", "all"]);
    go.run(&folder, "first", &["mod", "verify"]);
    go.run(&folder, "first", &["build", "-trimpath", "-o", "program", "."]);
    let said = Command::new(folder.join("program")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "built\n");
    let modules = go.run(&folder, "first", &["list", "-m", "all"]).stdout;
    let modules = String::from_utf8_lossy(&modules).lines().count() - 1;
    assert!(modules >= 200, "the program has {modules} dependencies");
    // Warm: nothing is fetched that is there already.
    let filled = walk(&store.join("modules")).len();
    go.run(&folder, "warm", &["mod", "download", "all"]);
    go.run(&folder, "warm", &["build", "-trimpath", "-o", "warm", "."]);
    assert_eq!(walk(&store.join("modules")).len(), filled, "a warm build has filled something");
    assert!(online.stop().success());

    let zips = zips();
    assert!(zips >= 200, "{zips} versions are stored");
    println!("{modules} modules in the build list, {zips} versions stored");

    let offline = Server::start(&store, "off");
    let go = Go::new(dir.path(), &offline.url);
    go.run(&folder, "tidied", &["mod", "tidy"]);
    assert!(fs::read_to_string(folder.join("go.sum")).unwrap() == sums, "tidied offline");
    go.run(&folder, "second", &["mod", "download", "all"]);
    go.run(&folder, "second", &["mod", "verify"]);
    go.run(&folder, "second", &["build", "-trimpath", "-o", "again", "."]);
    let same = fs::read(folder.join("program")).unwrap() == fs::read(folder.join("again")).unwrap();
    assert!(same, "the program built offline is another one");
    let path = Command::new(STOA)
        .args(["path", "github.com/BurntSushi/toml@v1.3.2", "--store"])
        .arg(&store)
        .output()
        .unwrap();
    let path = String::from_utf8(path.stdout).unwrap();
    assert!(Path::new(path.trim()).is_file(), "{path}");
    assert!(offline.stop().success());
}

/// The download takes longer than the minute in which its rate is measured, and ends well, since no other waits.
fn slow_upstream() {
    const PAIR: &str = "example.com/slow@v1.0.0";
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 1_700_000);
    upstream.set(&module.path("zip"), Script::Paced(module.zip.clone(), 1024, Duration::from_millis(50)));
    let mut command = server::command(&dir.path().join("store"));
    let server = Server::start_with(command.args(["--upstream", upstream.url(), "--gosumdb", "off"]));
    let go = Go::new(dir.path(), &server.url).unverified();
    go.run(dir.path(), "cache", &["mod", "download", PAIR]);
    let zip = dir.path().join("cache/cache/download/example.com/slow/@v/v1.0.0.zip");
    assert!(fs::read(zip).unwrap() == module.zip, "go has another zip");
    assert_eq!(upstream.count(&module.path("zip")), 1);
    assert_eq!(server.get(&module.path("zip")), (200, module.zip));
}

fn questions() {
    let dir = testkit::tempdir();
    let upstream = testkit::upstream::Upstream::start();
    for pair in [
        "example.com/one@v1.0.0",
        "example.com/one@v1.1.0",
        "example.com/one@v1.2.0-rc.1",
        "example.com/Cap/two@v0.1.0",
    ] {
        upstream.offer(pair, 2000);
    }
    // Its zip breaks off again and again.
    let broken = upstream.offer("example.com/broken@v1.0.0", 500_000);
    let (body, validator) = (broken.zip.clone(), "ETag: \"one\"");
    upstream.set(&broken.path("zip"), Script::Ranged { body, validator, at_most: 90_000 });
    let server = Server::start(&dir.path().join("store"), upstream.url());
    let go = Go::new(dir.path(), &server.url);
    let run = |arguments: &[&str]| {
        let mut command = go.command(dir.path(), "cache", arguments);
        command.env("GONOSUMDB", "example.com").env("GOFLAGS", "-modcacherw");
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            testkit::transcript(&output),
        )
    };
    let (good, out, told) = run(&["list", "-m", "-versions", "example.com/one"]);
    assert!(good && out.trim() == "example.com/one v1.0.0 v1.1.0 v1.2.0-rc.1", "{told}");
    let (good, out, told) = run(&["list", "-m", "example.com/one@latest"]);
    assert!(good && out.trim() == "example.com/one v1.1.0", "{told}");
    let (good, _, told) = run(&["mod", "download", "example.com/Cap/two@v0.1.0"]);
    assert!(good, "{told}");
    let (good, _, told) = run(&["mod", "download", "example.com/broken@v1.0.0"]);
    assert!(good && upstream.count(&broken.path("zip")) == 6, "{told}");
    let folder = dir.path().join("small");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("go.mod"),
        "module example.com/small\n\ngo 1.21\n\nrequire example.com/one v1.0.0\n",
    )
    .unwrap();
    fs::write(folder.join("main.go"), "package main\n\nimport _ \"example.com/one\"\n\nfunc main() {}\n")
        .unwrap();
    let run_in = |arguments: &[&str]| {
        let mut command = go.command(&folder, "cache", arguments);
        testkit::transcript(&command.env("GONOSUMDB", "example.com").output().unwrap())
    };
    let required = || fs::read_to_string(folder.join("go.mod")).unwrap();
    let told = run_in(&["get", "-u", "./..."]);
    assert!(required().contains("require example.com/one v1.1.0\n"), "{told}");
    let told = run_in(&["get", "example.com/one@v1.2.0-rc.1"]);
    assert!(required().contains("require example.com/one v1.2.0-rc.1\n"), "{told}");
    let told = run_in(&["mod", "verify"]);
    assert!(told.contains("all modules verified"), "{told}");

    let (good, _, told) = run(&["mod", "download", "example.com/one@v9.9.9"]);
    assert!(!good && told.contains("404"), "{told}");
    let (good, _, told) = run(&["mod", "download", "example.com/none@v1.0.0"]);
    assert!(!good && told.contains("404"), "{told}");
}

fn walk(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}
