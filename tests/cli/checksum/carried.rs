//! Answers of the database in an export, for a real go command without a network.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::process::Output;

use testkit::commands;
use testkit::go::Go;
use testkit::server::{self, Server};
use testkit::sumdb;
use testkit::transcript;
use testkit::upstream::Module;

use super::bench::{Bench, another};

/// A network without Internet: its store, and what was carried to it.
struct Inside {
    dir: tempfile::TempDir,
    media: &'static str,
}

impl Inside {
    fn new() -> Self {
        Self { dir: testkit::tempdir(), media: "media" }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("inside")
    }

    fn media(&self) -> PathBuf {
        self.dir.path().join(self.media)
    }

    fn export(&self, bench: &Bench) -> Output {
        succeeded(bench.stoa(&["export", self.media().to_str().unwrap()]).output().unwrap())
    }

    fn import(&self) -> Output {
        let mut command = commands::stoa(&self.store(), &["import", self.media().to_str().unwrap()]);
        command.env("STOA_GOSUMDB", sumdb::verifier_key()).env("STOA_UPSTREAM", "off").output().unwrap()
    }

    fn serve(&self) -> Server {
        let mut command = server::command(&self.store());
        Server::start_with(command.env("STOA_OFFLINE", "true").env("STOA_GOSUMDB", sumdb::verifier_key()))
    }

    /// Downloads versions with a go command that knows nothing yet, in this order.
    fn go(&self, proxy: &str, modules: &[&Module]) -> Output {
        let home = testkit::tempdir();
        go_with(home.path(), proxy, modules)
    }
}

/// Downloads versions with the go command whose files are in a folder.
fn go_with(home: &Path, proxy: &str, modules: &[&Module]) -> Output {
    let go = Go::new(home, proxy);
    let pairs: Vec<String> = modules.iter().map(|module| module.version.to_string()).collect();
    let mut last = None;
    // One run for each, so that the order is this one.
    for pair in &pairs {
        let mut command = go.command(home, "modules", &["mod", "download", pair]);
        let output = command.env("GOSUMDB", sumdb::verifier_key()).output().unwrap();
        let is_last = !output.status.success();
        last = Some(output);
        if is_last {
            break;
        }
    }
    last.unwrap()
}

fn succeeded(output: Output) -> Output {
    assert!(output.status.success(), "{}", transcript(&output));
    output
}

/// Stores versions that the database knows, each under a head of its own.
fn store_known(bench: &Bench, pairs: &[&str]) -> Vec<Module> {
    let server = bench.serve("auto");
    let modules = pairs.iter().map(|pair| {
        let module = bench.site.offer(pair);
        bench.site.record(&module);
        bench.site.add_others(100);
        bench.assert_filled(&server, &module);
        module
    });
    let modules = modules.collect();
    assert!(server.stop().success());
    modules
}

fn heads(media: &Path) -> Vec<String> {
    let (mut open, mut heads) = (vec![media.join("sumdb").join(sumdb::NAME).join("lookup")], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let body = fs::read_to_string(path).unwrap();
            heads.push(body.split_once("\n\n").unwrap().1.to_owned());
        }
    }
    heads
}

/// Random orders. The seed is printed, and `STOA_SEED` repeats them.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("STOA_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one("seed"));
        println!("STOA_SEED={seed}");
        Self(seed)
    }

    fn shuffled<'a>(&mut self, modules: &'a [Module]) -> Vec<&'a Module> {
        let mut all: Vec<_> = modules.iter().collect();
        for end in (1..all.len()).rev() {
            // Knuth's generator. Its upper bits are the random ones.
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (self.0 >> 33) % (end as u64 + 1);
            all.swap(end, usize::try_from(at).unwrap());
        }
        all
    }
}

pub(super) fn without_network() {
    let (bench, inside) = (Bench::new(), Inside::new());
    let modules = store_known(
        &bench,
        &["example.com/Upper@v1.0.0", "example.com/m@v1.2.3", "example.com/n@v0.1.0", "example.com/o@v1.0.0"],
    );
    // The database never learns about this version, so no client can verify it.
    let unknown = bench.site.offer("example.com/unknown@v1.0.0");
    bench.assert_filled(&bench.serve("auto"), &unknown);
    let output = inside.export(&bench);
    assert!(transcript(&output).contains("4 records of the checksum database"), "{}", transcript(&output));
    let all = heads(&inside.media());
    assert!(all.len() == 4 && all.iter().all(|head| *head == all[0]), "{all:?}");
    let output = succeeded(inside.import());
    assert!(transcript(&output).contains("4 records of the checksum database"), "{}", transcript(&output));
    let server = inside.serve();
    let media = format!("file://{}", inside.media().display());
    let home = testkit::tempdir();
    let mut random = Random::new();
    for _ in 0..3 {
        let modules = random.shuffled(&modules);
        for proxy in [&server.url, &media] {
            succeeded(inside.go(proxy, &modules));
        }
    }
    succeeded(go_with(home.path(), &server.url, &[&modules[2]]));
    let output = inside.go(&server.url, &[&unknown]);
    assert!(!output.status.success() && transcript(&output).contains("verifying"), "{}", transcript(&output));
    assert!(server.stop().success());
    // Later the database has grown, and more is carried.
    bench.site.add_others(1000);
    let later = store_known(&bench, &["example.com/later@v1.0.0"]);
    inside.export(&bench);
    let all = heads(&inside.media());
    assert!(all.len() == 5 && all.iter().all(|head| *head == all[0]), "{all:?}");
    succeeded(inside.import());
    let server = inside.serve();
    for order in [[&modules[0], &later[0]], [&later[0], &modules[3]]] {
        succeeded(inside.go(&server.url, &order));
    }
    // A client that knows the old head proves that the new one extends it.
    succeeded(go_with(home.path(), &server.url, &[&later[0], &modules[1]]));
}

pub(super) fn other_folder() {
    let (bench, mut inside) = (Bench::new(), Inside::new());
    let first = store_known(&bench, &["example.com/m@v1.0.0", "example.com/n@v1.0.0"]);
    inside.export(&bench);
    succeeded(inside.import());
    let server = inside.serve();
    let home = testkit::tempdir();
    succeeded(go_with(home.path(), &server.url, &[&first[0]]));
    let never_imported = testkit::tempdir();
    inside.media = "skipped";
    bench.site.add_others(1000);
    store_known(&bench, &["example.com/o@v1.0.0"]);
    inside.export(&bench);
    let media = format!("file://{}", inside.media().display());
    succeeded(go_with(never_imported.path(), &media, &[&first[0]]));
    // The third export has the proofs for both heads.
    inside.media = "later";
    bench.site.add_others(1000);
    let later = store_known(&bench, &["example.com/later@v1.0.0"]);
    inside.export(&bench);
    let media = format!("file://{}", inside.media().display());
    succeeded(go_with(never_imported.path(), &media, &[&later[0], &first[1]]));
    let output = succeeded(inside.import());
    assert!(transcript(&output).contains("4 records of the checksum database"), "{}", transcript(&output));
    assert!(!transcript(&output).contains("cannot"), "{}", transcript(&output));
    succeeded(go_with(home.path(), &server.url, &[&later[0], &first[1]]));
    succeeded(inside.go(&server.url, &[&first[1], &later[0]]));
    // Another store does not know the earlier exports.
    fs::remove_dir_all(bench.store()).unwrap();
    bench.site.add_others(1000);
    store_known(&bench, &["example.com/p@v1.0.0"]);
    inside.media = "other-store";
    inside.export(&bench);
    let output = succeeded(inside.import());
    let text = transcript(&output);
    assert!(
        text.contains("cannot import 1 record") && text.contains("no proof that the tree head of"),
        "{text}"
    );
}

pub(super) fn forged_media() {
    let (bench, inside) = (Bench::new(), Inside::new());
    let modules = store_known(&bench, &["example.com/m@v1.0.0", "example.com/n@v1.0.0"]);
    inside.export(&bench);
    let lookup = inside.media().join("sumdb").join(sumdb::NAME).join("lookup/example.com/m@v1.0.0");
    let body = fs::read_to_string(&lookup).unwrap();
    let other = super::bench::h1_of_zip(&another("example.com/m@v1.0.0", 10, None));
    let own = super::bench::h1_of_zip(&modules[0]);
    fs::write(&lookup, body.replace(own.as_str(), other.as_str())).unwrap();
    let output = succeeded(inside.import());
    assert!(transcript(&output).contains("cannot import 1 record"), "{}", transcript(&output));
    let record =
        |name: &str| fs::read(inside.store().join(format!("records/example.com/{name}/@v/v1.0.0.toml")));
    assert!(record("m").is_err() && record("n").is_ok());
    // A version that differs from its proved record is not kept.
    fs::write(&lookup, body).unwrap();
    fs::remove_dir_all(inside.store()).unwrap();
    another("example.com/m@v1.0.0", 10, None).put_flat(&inside.media());
    let output = inside.import();
    let text = transcript(&output);
    assert!(output.status.code() == Some(1) && text.contains(super::RECORDED), "{text}");
    assert!(!inside.store().join("modules/example.com/m/@v/v1.0.0").exists());
}

pub(super) fn database_down() {
    let (bench, inside) = (Bench::new(), Inside::new());
    store_known(&bench, &["example.com/m@v1.0.0", "example.com/n@v1.0.0"]);
    fs::remove_dir_all(bench.store().join("cache")).unwrap();
    bench.site.state().is_down = true;
    let output = inside.export(&bench);
    assert!(transcript(&output).contains("cannot export 2 records"), "{}", transcript(&output));
    assert!(inside.media().join("example.com/m/@v/v1.0.0.zip").is_file());
    bench.site.state().is_down = false;
    inside.export(&bench);
    assert_eq!(heads(&inside.media()).len(), 2);
}

pub(super) fn toolchain() {
    let (bench, inside) = (Bench::new(), Inside::new());
    let platform = go_platform(inside.dir.path());
    let files = [
        ("bin/go", b"#!/bin/sh\necho the carried toolchain\n".as_slice()),
        ("bin/gofmt", b"#!/bin/sh\n".as_slice()),
        ("src/go.mod", b"module std\n".as_slice()),
        ("src/_go.mod", b"module std\n".as_slice()),
        ("pkg/tool/compile", b"#!/bin/sh\n".as_slice()),
        ("lib/time/README", b"none\n".as_slice()),
    ];
    let toolchains = ["go1.99.0", "go1.99.1"].map(|name| {
        let mut toolchain = Module::new(&format!("golang.org/toolchain@v0.0.1-{name}.{platform}"), 10);
        toolchain.zip = stoa_gomod::zip::create(&toolchain.version, files).unwrap();
        toolchain.modfile = b"module golang.org/toolchain\n".to_vec();
        bench.site.put(&toolchain);
        bench.site.record(&toolchain);
        toolchain
    });
    let gomod = inside.dir.path().join("go.mod");
    fs::write(&gomod, "module example.com/me\n\ngo 1.99.0\n\ntoolchain go1.99.1\n").unwrap();
    succeeded(bench.stoa(&["fetch", "--from", gomod.to_str().unwrap()]).output().unwrap());
    for toolchain in &toolchains {
        assert!(bench.folder(&toolchain.version).join("zip").is_file(), "{}", toolchain.version);
    }
    inside.export(&bench);
    succeeded(inside.import());
    let server = inside.serve();
    let home = testkit::tempdir();
    for name in ["go1.99.1", "go1.99.0"] {
        let mut command = Go::new(home.path(), &server.url).command(home.path(), "modules", &["version"]);
        command.env("GOSUMDB", sumdb::verifier_key()).env("GOTOOLCHAIN", name);
        let output = succeeded(command.output().unwrap());
        assert!(transcript(&output).contains("the carried toolchain"), "{}", transcript(&output));
    }
    // Another platform is fetched if it is named.
    let mut command = bench.stoa(&["fetch", "--from", gomod.to_str().unwrap(), "--platform", "plan9-arm"]);
    let output = command.output().unwrap();
    let text = transcript(&output);
    assert!(output.status.code() == Some(1) && text.contains("v0.0.1-go1.99.1.plan9-arm"), "{text}");
}

fn go_platform(folder: &Path) -> String {
    let go = Go::new(folder, "off");
    let output = go.run(folder, "modules", &["env", "GOOS", "GOARCH"]);
    String::from_utf8(output.stdout).unwrap().trim().replace('\n', "-")
}
