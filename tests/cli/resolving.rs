//! Lists, `@latest` and queries for a real `go` client and for `stoa fetch`, where upstreams do not answer them or cannot
//! be reached.

use std::fs;
use std::path::Path;
use std::process::Command;

use stoa_gomod::{ModuleVersion, zip};
use testkit::go::Go;
use testkit::ports;
use testkit::server::{self, Server};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, STOA, missing_tool, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let missing = || missing_tool("go", &["version"]);
    vec![
        trial("go mod tidy works with a mirror, and direct behind a firewall", missing(), behind_a_firewall),
        trial("go finds the latest version of a tree before direct is asked", missing(), tree_before_direct),
        trial("go gets prefixes, comparisons and newer stored versions", missing(), newer_versions),
        trial("go shows why an answer for another major is refused", missing(), another_major),
        trial("stoa fetch resolves prefixes and comparisons from the list", None, fetched),
    ]
}

const MODULE: &str = "unreachable.invalid/sync";
const PACKAGE: &str = "unreachable.invalid/sync/errgroup";

/// Makes a module with a package in a folder.
fn module_with_folder() -> Module {
    let version = ModuleVersion::parse(&format!("{MODULE}@v0.1.0")).unwrap();
    let modfile = format!("module {MODULE}\n\ngo 1.21\n").into_bytes();
    let files = [
        ("go.mod", modfile.as_slice()),
        ("errgroup/errgroup.go", b"package errgroup\n\nconst Answer = 42\n".as_slice()),
    ];
    let zip = zip::create(&version, files).unwrap();
    Module { info: br#"{"Version":"v0.1.0","Time":"2024-01-02T03:04:05Z"}"#.to_vec(), version, modfile, zip }
}

fn write_program(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("go.mod"), "module example.com/program\n\ngo 1.21\n").unwrap();
    let source = format!("package main\n\nimport _ \"{PACKAGE}\"\n\nfunc main() {{}}\n");
    fs::write(folder.join("main.go"), source).unwrap();
}

/// Begins a server that has no way to the outside but its upstream.
fn behind_firewall(store: &Path, upstream: &str) -> Command {
    let closed = format!("http://{}", ports::closed());
    let mut command = server::command(store);
    command.args(["--upstream", &format!("{upstream},direct")]);
    command.env("HTTPS_PROXY", &closed).env("HTTP_PROXY", &closed);
    command.env_remove("NO_PROXY").env_remove("no_proxy").env("GOSUMDB", "off");
    command.env_remove("GOPRIVATE").env("GOENV", "off");
    command
}

fn behind_a_firewall() {
    let dir = testkit::tempdir();
    let mirror = Upstream::start();
    let module = module_with_folder();
    mirror.serve(&module);
    mirror.put(&format!("/{MODULE}/@v/list"), "v0.1.0\n");
    let program = dir.path().join("program");
    write_program(&program);

    let server = Server::start_with(&mut behind_firewall(&dir.path().join("store"), mirror.url()));
    let go = Go::new(dir.path(), &server.url).unverified();
    go.run(&program, "modules", &["mod", "tidy"]);
    let required = fs::read_to_string(program.join("go.mod")).unwrap();
    assert!(required.contains(&format!("require {MODULE} v0.1.0")), "{required}");
    let reply = server.ask("GET", &format!("/{PACKAGE}/@v/list"), &[]);
    assert_eq!((reply.status, reply.header("cache-control")), (404, Some("no-store")));
    assert!(reply.text().contains("unreachable.invalid could not be reached"), "{}", reply.text());
    let named = server.ask("GET", &format!("/{PACKAGE}/@v/v1.0.0.info"), &[]);
    assert_eq!(named.status, 502, "{}", named.text());

    // A private module may be any prefix of the path, and direct is the only upstream that knows it.
    let again = dir.path().join("again");
    write_program(&again);
    let mut command = behind_firewall(&dir.path().join("private"), mirror.url());
    let server = Server::start_with(command.env("GOPRIVATE", "unreachable.invalid"));
    let go = Go::new(dir.path(), &server.url).unverified();
    let tidied = go.command(&again, "other-modules", &["mod", "tidy"]).output().unwrap();
    assert!(!tidied.status.success() && transcript(&tidied).contains("502"), "{}", transcript(&tidied));
    let reply = server.ask("GET", &format!("/{PACKAGE}/@v/list"), &[]);
    assert_eq!(reply.status, 502, "{}", reply.text());
}

fn tree_before_direct() {
    let dir = testkit::tempdir();
    let tree = dir.path().join("tree");
    let pseudo = "v0.0.0-20191109021931-daa7c04131f5";
    let folder = Module::new(&format!("{MODULE}@{pseudo}"), 10).put_flat(&tree);
    fs::write(folder.join("list"), format!("{pseudo}\n")).unwrap();
    let upstream = format!("file://{}", tree.display());
    let server = Server::start_with(&mut behind_firewall(&dir.path().join("store"), &upstream));
    let go = Go::new(dir.path(), &server.url).unverified();
    let found = go.run(dir.path(), "modules", &["list", "-m", &format!("{MODULE}@latest")]);
    assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), format!("{MODULE} {pseudo}"));
}

fn newer_versions() {
    let dir = testkit::tempdir();
    let (store, first, second) = (dir.path().join("store"), Upstream::start(), Upstream::start());
    for version in ["v1.0.0", "v1.1.0", "v1.5.0"] {
        first.offer(&format!("example.com/m@{version}"), 10);
    }
    second.offer("example.com/m@v1.6.0", 10);
    let mut fetch = Command::new(STOA);
    fetch.args(["fetch", "example.com/m@v1.6.0", "--upstream", second.url(), "--store"]).arg(&store);
    let fetched = fetch.env("GOSUMDB", "off").output().unwrap();
    assert!(fetched.status.success(), "{}", transcript(&fetched));
    let server = Server::start(&store, first.url());
    let go = Go::new(dir.path(), &server.url).unverified();
    for (query, version) in
        [("latest", "v1.6.0"), ("v1.1", "v1.1.0"), ("<v1.5.0", "v1.1.0"), (">v1.1.0", "v1.5.0")]
    {
        let found = go.run(dir.path(), "modules", &["list", "-m", &format!("example.com/m@{query}")]);
        assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), format!("example.com/m {version}"));
    }
    for (path, version) in [("@latest", "v1.6.0"), ("@v/v1.info", "v1.6.0"), ("@v/%3Cv1.6.0.info", "v1.5.0")]
    {
        let (status, info) = server.get(&format!("/example.com/m/{path}"));
        let info = String::from_utf8(info).unwrap();
        assert!(status == 200 && info.contains(version), "{path}: {info}");
    }
}

fn another_major() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.put("/example.com/m/@v/main.info", r#"{"Version":"v2.0.0","Time":"2024-01-02T03:04:05Z"}"#);
    let server = Server::start(&dir.path().join("store"), upstream.url());
    let go = Go::new(dir.path(), &server.url).unverified();
    let refused = go.command(dir.path(), "modules", &["list", "-m", "example.com/m@main"]).output().unwrap();
    let text = transcript(&refused);
    let reason = "the info has version v2.0.0, which does not match the major version suffix";
    assert!(!refused.status.success() && text.contains(reason), "{text}");
}

fn fetched() {
    let dir = testkit::tempdir();
    let (store, upstream) = (dir.path().join("store"), Upstream::start());
    for version in ["v1.0.0", "v1.1.0", "v1.5.0"] {
        upstream.offer(&format!("example.com/m@{version}"), 10);
    }
    let fetch = |version: &str| {
        let mut fetch = Command::new(STOA);
        fetch.args(["fetch", &format!("example.com/m@{version}"), "--upstream", upstream.url(), "--store"]);
        let output = fetch.arg(&store).env("GOSUMDB", "off").output().unwrap();
        assert!(output.status.success(), "{version}: {}", transcript(&output));
        transcript(&output)
    };
    fetch("v1.0.0");
    for (query, version) in
        [("v1", "v1.5.0"), ("v1.1", "v1.1.0"), ("<v1.5.0", "v1.1.0"), (">=v1.0.0", "v1.0.0")]
    {
        let text = fetch(query);
        assert!(text.contains(&format!("example.com/m@{version}")), "{query}: {text}");
    }
}
