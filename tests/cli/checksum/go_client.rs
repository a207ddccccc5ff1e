//! A real go command gets the content that is vouched for, whatever was stored before.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use testkit::go::Go;
use testkit::server::Server;
use testkit::sumdb;
use testkit::transcript;
use testkit::upstream::Module;

use super::bench::{Bench, another, h1_of_zip};

const PAIR: &str = "example.com/m@v1.0.0";

/// A go command without any cache, and a program that imports the module.
struct Client {
    dir: tempfile::TempDir,
}

impl Client {
    fn new() -> Self {
        let dir = testkit::tempdir();
        let gomod = "module example.org/program\n\ngo 1.21\n\nrequire example.com/m v1.0.0\n";
        fs::write(dir.path().join("go.mod"), gomod).unwrap();
        let main = "package main\n\nimport _ \"example.com/m\"\n\nfunc main() {}\n";
        fs::write(dir.path().join("main.go"), main).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a go command in the folder of the program, which asks the checksum database.
    fn go(&self, server: &Server, cache: &str, args: &[&str]) -> Command {
        let mut command = Go::new(self.path(), &server.url).command(self.path(), cache, args);
        command.env("GOSUMDB", sumdb::verifier_key());
        command
    }

    /// Returns a download of the module, with its result as JSON and each request on stderr.
    fn download(&self, server: &Server) -> Command {
        self.go(server, "modules", &["mod", "download", "-json", "-x", PAIR])
    }
}

/// Leaves the verification of the module to Stoa.
fn without_verification(command: &mut Command) -> &mut Command {
    command.env("GONOSUMDB", "example.com")
}

fn assert_has(output: &Output, module: &Module) {
    assert!(output.status.success(), "{}", transcript(output));
    let downloaded: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(downloaded["Sum"], h1_of_zip(module).as_str(), "{}", transcript(output));
}

fn assert_fails(output: &Output, words: &str) {
    assert!(!output.status.success() && transcript(output).contains(words), "{}", transcript(output));
}

/// Downloads the module with a new client that verifies it.
fn download(server: &Server) -> Output {
    Client::new().download(server).output().unwrap()
}

/// Stores the module while the database does not know it.
fn store_unknown(bench: &Bench) -> Module {
    let module = bench.site.offer(PAIR);
    let server = bench.serve("auto");
    let client = Client::new();
    assert_has(&without_verification(&mut client.download(&server)).output().unwrap(), &module);
    assert_eq!(bench.record(&module.version), None);
    assert!(bench.folder(&module.version).join("zip").is_file());
    assert!(server.stop().success());
    module
}

pub(super) fn corrected() {
    for in_background in [true, false] {
        let bench = Bench::new();
        store_unknown(&bench);
        let server = bench.serve("auto");
        testkit::until("the background has asked", || bench.log().contains("asked the checksum database"));
        assert_fails(&download(&server), "verifying");
        let right = another(PAIR, 10_000, None);
        bench.site.put(&right);
        bench.site.record(&right);
        let server = if in_background {
            assert!(server.stop().success());
            let server = bench.serve("auto");
            testkit::until("the verdict is recorded", || bench.record(&right.version).is_some());
            server
        } else {
            let output = bench.stoa(&["verify", "--checksums"]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
            server
        };
        assert_has(&download(&server), &right);
    }
}

pub(super) fn waits() {
    for is_same in [true, false] {
        let bench = Bench::new();
        let stored = store_unknown(&bench);
        let vouched = if is_same { stored } else { another(PAIR, 10_000, None) };
        bench.site.put(&vouched);
        bench.site.record(&vouched);
        bench.site.hold("/lookup/");
        let server = bench.serve("require");
        let client = Client::new();
        let mut command = client.download(&server);
        // If the client asked the database too, it would reject the wrong content by itself.
        without_verification(&mut command).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut go = command.spawn().unwrap();
        let mut lines = BufReader::new(go.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.by_ref().any(|line| line.contains("/example.com/m/@v/")), "go asked for nothing");
        assert!(go.try_wait().unwrap().is_none(), "{:?}", lines.collect::<Vec<_>>());
        bench.site.release();
        let rest = lines.collect::<Vec<_>>();
        let output = go.wait_with_output().unwrap();
        assert!(output.status.success(), "{rest:?}");
        assert_has(&output, &vouched);
    }
}

pub(super) fn go_sum() {
    let bench = Bench::new();
    let module = bench.site.offer(PAIR);
    let client = Client::new();
    let server = bench.serve("auto");
    let output = without_verification(&mut client.go(&server, "first", &["mod", "tidy"])).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    assert!(server.stop().success());
    let mut command = bench.command("require", &sumdb::verifier_key());
    let server = Server::start_with(command.env("STOA_OFFLINE", "true"));
    let download =
        |cache: &str| client.go(&server, cache, &["mod", "download", "-json", "-x"]).output().unwrap();
    assert_fails(&download("second"), "stoa fetch --from go.sum");
    let sums = client.path().join("go.sum");
    let mut fetch = bench.stoa(&["fetch", "--from", sums.to_str().unwrap()]);
    let output = fetch.env("STOA_OFFLINE", "true").env("STOA_CHECKSUM", "require").output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    assert_has(&download("third"), &module);
}

pub(super) fn moved_tag() {
    let bench = Bench::new();
    store_unknown(&bench);
    let output = bench.stoa(&["remove", PAIR]).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    let moved = another(PAIR, 0, Some("module example.com/m\n\ngo 1.20\n"));
    bench.site.put(&moved);
    let server = bench.serve("auto");
    // Nothing vouches for the new content, so the removal binds.
    let unverified = without_verification(&mut Client::new().download(&server)).output().unwrap();
    assert_fails(&unverified, "the hash recorded when it was removed is h1:");
    bench.site.record(&moved);
    assert_has(&download(&server), &moved);
}
