//! Answers that change with time, from the real programs: in an outage, after a kill, offline, and by a real `go`
//! client that has nothing of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use testkit::Case;

use testkit::go::Go;
use testkit::server::{self, Server};
use testkit::sumdb;
use testkit::upstream::{Module, Upstream};
use testkit::{create, missing_tool, trial};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("the last answers stand in an outage, after a kill", None, outage),
        trial("many clients of two servers ask once each", None, crowd),
        trial("an offline server lists stored versions only", None, offline),
        trial(
            "private module paths are not sent to a checksum database, with or without capitals",
            None,
            private,
        ),
        trial("hashes that a fill verified are kept for clients", None, verified_by_a_fill),
        trial("records that the database has not signed are not kept", None, unsigned),
        trial(
            "a fresh client verifies offline with the hashes of earlier fills",
            missing_tool("go", &["version"]),
            offline_checksums,
        )
        .slow(),
    ]
}

const ASKED: &str = "/example.com/!cap/m/@v/list";
const LATEST: &str = "/example.com/!cap/m/@latest";
const MAIN: &str = "/example.com/!cap/m/@v/main.info";
const INFO: &str = r#"{"Version":"v1.1.0","Time":"2024-01-02T03:04:05Z"}"#;

/// An upstream that knows a module with two versions and a branch.
fn upstream() -> Upstream {
    let upstream = Upstream::start();
    upstream.offer("example.com/Cap/m@v1.0.0", 1000);
    upstream.offer("example.com/Cap/m@v1.1.0", 1000);
    upstream.put(LATEST, INFO);
    upstream.put(MAIN, INFO);
    upstream
}

/// Begins a server that asks each time.
fn asking_each_time(store: &Path, upstream: &str) -> std::process::Command {
    let mut command = server::command(store);
    command.args(["--upstream", upstream, "--fill-list-ttl", "0"]);
    command
}

fn outage() {
    let dir = testkit::tempdir();
    let (store, upstream) = (dir.path().join("store"), upstream());
    let server = Server::start_with(&mut asking_each_time(&store, upstream.url()));
    let paths = [ASKED, LATEST, MAIN];
    let said = paths.map(|path| server.get(path));
    assert_eq!(said[0], (200, b"v1.0.0\nv1.1.0\n".to_vec()));
    assert_eq!(said[1], (200, INFO.as_bytes().to_vec()));
    assert_eq!(said[2], said[1]);
    for status in ["500 Broken", "503 Unavailable", "429 Slowly", "403 Forbidden"] {
        upstream.fail(Some(status));
        assert_eq!(paths.map(|path| server.get(path)), said, "{status}");
    }
    // Dropped is killed.
    drop(server);
    let server = Server::start_with(&mut asking_each_time(&store, upstream.url()));
    assert_eq!(paths.map(|path| server.get(path)), said);
    upstream.fail(Some("410 Gone"));
    assert_eq!(paths.map(|path| server.get(path).0), [404; 3], "the upstream's word");
    upstream.fail(Some("500 Broken"));
    assert_eq!(paths.map(|path| server.get(path).0), [502; 3], "what was taken back does not come back");
    drop(server);
    let module = Module::new("example.com/Cap/m@v0.9.0", 100);
    module.put_unsealed(&store);
    for status in ["410 Gone", "404 Not Found", "500 Broken"] {
        upstream.fail(Some(status));
        let server = Server::start_with(&mut asking_each_time(&store, upstream.url()));
        assert_eq!(server.get(ASKED), (200, b"v0.9.0\n".to_vec()), "{status}");
        assert_eq!(server.get(LATEST), (200, module.info.clone()), "{status}");
    }
}

fn crowd() {
    let dir = testkit::tempdir();
    let (store, upstream) = (dir.path().join("store"), upstream());
    create(&store);
    let servers = [0, 1].map(|_| Arc::new(Server::start(&store, upstream.url())));
    let clients: Vec<_> = (0..40)
        .map(|n| {
            let server = Arc::clone(&servers[n % 2]);
            std::thread::spawn(move || server.get(ASKED))
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), (200, b"v1.0.0\nv1.1.0\n".to_vec()));
    }
    let asked = upstream.asked("/list");
    assert!((1..=2).contains(&asked), "{asked} requests");
    // What one of them knows the others need not ask.
    let third = Server::start(&store, upstream.url());
    assert_eq!(third.get(ASKED).0, 200);
    assert_eq!(upstream.asked("/list"), asked);
}

fn offline() {
    let dir = testkit::tempdir();
    let (store, upstream) = (dir.path().join("store"), upstream());
    let server = Server::start(&store, upstream.url());
    assert_eq!(server.get(ASKED).1, b"v1.0.0\nv1.1.0\n");
    assert_eq!(server.get("/example.com/!cap/m/@v/v1.0.0.zip").0, 200);
    assert_eq!(server.get(MAIN).0, 200);
    assert!(server.stop().success());
    let asked = upstream.asked("");
    let mut command = server::command(&store);
    let server = Server::start_with(command.args(["--offline", "--upstream", upstream.url()]));
    assert_eq!(server.get(ASKED), (200, b"v1.0.0\n".to_vec()));
    let (status, info) = server.get(LATEST);
    assert!(status == 200 && String::from_utf8_lossy(&info).contains("v1.0.0"), "the highest that is stored");
    assert_eq!(server.get(MAIN).0, 404, "it was a version that is not stored");
    assert_eq!(server.get("/example.com/none/@v/list").0, 404);
    assert_eq!(upstream.asked(""), asked);
}

fn private() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    upstream.put("/sumdb/sum.example/supported", "");
    let lookup = |path: &str| format!("/sumdb/sum.example/lookup/{path}@v1.0.0");
    let head = "go.sum database tree\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u{2014} sum.example c2ln\n";
    for (path, module) in
        [("github.com/!my!co/x", "github.com/MyCo/x"), ("github.com/other", "github.com/other")]
    {
        upstream.put(&lookup(path), &format!("0\n{module} v1.0.0 h1:a=\n\n{head}"));
    }
    let cases = [
        (vec!["--sumdb-refuse", "github.com/MyCo"], None),
        (vec![], Some(("GONOSUMDB", "corp.example,github.com/MyCo/*"))),
        (vec![], Some(("GOPRIVATE", "github.com/MyCo"))),
    ];
    for (options, variable) in cases {
        let mut command = server::command(&dir.path().join("store"));
        command.args(["--upstream", upstream.url(), "--sumdbs", "sum.example"]).args(options);
        command.env_remove("GONOSUMDB").env_remove("GOPRIVATE").envs(variable);
        let server = Server::start_with(&mut command);
        let (status, told) = server.get(&lookup("github.com/!my!co/x"));
        assert_eq!(status, 403, "{}", String::from_utf8_lossy(&told));
        assert_eq!(server.get(&lookup("github.com/other")).0, 200);
    }
    assert_eq!(upstream.asked("github.com/!my!co/x@v1.0.0"), 0);
    assert_eq!(upstream.asked("github.com/other@v1.0.0"), 1, "and then it was kept");
}

fn verified_by_a_fill() {
    let dir = testkit::tempdir();
    let (store, site) = (dir.path().join("store"), sumdb::Site::start(300));
    let module = site.offer("example.com/Cap/m@v1.0.0");
    site.record(&module);
    let lookup = format!("/sumdb/{}/lookup/example.com/!cap/m@v1.0.0", sumdb::NAME);
    let mut command = server::command(&store);
    command.args(["--upstream", site.url()]).env_remove("GONOSUMDB").env_remove("GOPRIVATE");
    command.env("STOA_CHECKSUM", "require").env("STOA_GOSUMDB", sumdb::verifier_key());
    let server = Server::start_with(&mut command);
    assert_eq!(server.get("/example.com/!cap/m/@v/v1.0.0.zip"), (200, module.zip));
    assert_eq!(site.asked("/lookup/"), 1);
    let (status, record) = server.get(&lookup);
    assert_eq!((status, site.asked("/lookup/")), (200, 1));
    assert!(server.stop().success());
    let mut command = server::command(&store);
    let offline = Server::start_with(command.arg("--offline").env_remove("GOSUMDB"));
    assert_eq!(offline.get(&lookup), (200, record));
    assert_eq!(offline.get(&format!("/sumdb/{}/supported", sumdb::NAME)).0, 200);
}

fn unsigned() {
    let dir = testkit::tempdir();
    let (store, site) = (dir.path().join("store"), sumdb::Site::start(300));
    site.record(&site.offer("example.com/Cap/m@v1.0.0"));
    let lookup = format!("/sumdb/{}/lookup/example.com/!cap/m@v1.0.0", sumdb::NAME);
    let mut command = server::command(&store);
    command.args(["--upstream", site.url()]).env_remove("GONOSUMDB").env_remove("GOPRIVATE");
    command.env("STOA_GOSUMDB", sumdb::verifier_key());
    let server = Server::start_with(&mut command);
    site.state().forges_signatures = true;
    let forged = server.get(&lookup);
    assert_eq!((forged.0, site.asked("/lookup/")), (200, 1), "it is passed on for the client to see");
    site.state().forges_signatures = false;
    let signed = server.get(&lookup);
    assert_eq!((signed.0, site.asked("/lookup/")), (200, 2), "and not kept");
    assert_ne!(signed, forged);
    assert_eq!((server.get(&lookup), site.asked("/lookup/")), (signed, 2));
}

/// Writes a program whose build needs little but checksums.
fn write_program(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let packages = [
        ("github.com/Masterminds/semver/v3", "v3.2.1"),
        ("github.com/cespare/xxhash/v2", "v2.2.0"),
        ("github.com/golang/snappy", "v0.0.4"),
        ("github.com/pkg/errors", "v0.9.1"),
        ("gopkg.in/yaml.v3", "v3.0.1"),
    ];
    let required: String = packages.iter().map(|(path, version)| format!("\t{path} {version}\n")).collect();
    let imported: String = packages.iter().map(|(path, _)| format!("\t_ \"{path}\"\n")).collect();
    let modfile = format!("module example.com/program\n\ngo 1.21\n\nrequire (\n{required})\n");
    fs::write(folder.join("go.mod"), modfile).unwrap();
    let source = format!("package main\n\nimport (\n{imported})\n\nfunc main() {{ println(\"built\") }}\n");
    fs::write(folder.join("main.go"), source).unwrap();
}

fn offline_checksums() {
    let dir = testkit::tempdir();
    let (store, folder) = (dir.path().join("store"), dir.path().join("program"));
    write_program(&folder);
    // The upstream and the database are what the go command is set up with.
    let mut command = server::command(&store);
    if let Some(list) = std::env::var_os("GOPROXY") {
        command.env("GOPROXY", list);
    }
    let online = Server::start_with(&mut command);
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let go = Go::new(&first, &online.url);
    go.run(&folder, "modules", &["mod", "tidy"]);
    go.run(&folder, "modules", &["build", "-trimpath", "-o", "built", "."]);
    assert!(first.join("gopath/pkg/sumdb").is_dir(), "the database was asked through the proxy");
    let sums = fs::read_to_string(folder.join("go.sum")).unwrap();
    assert!(sums.lines().count() >= 10, "{sums}");
    assert!(online.stop().success());

    // Nothing is named: the databases are those of which something is kept.
    let mut command = server::command(&store);
    command.env_remove("GOSUMDB");
    let offline = Server::start_with(command.arg("--offline"));
    fs::remove_file(folder.join("go.sum")).unwrap();
    fs::create_dir(&second).unwrap();
    let go = Go::new(&second, &offline.url);
    go.run(&folder, "modules", &["build", "-trimpath", "-o", "again", "."]);
    assert!(second.join("gopath/pkg/sumdb").is_dir(), "the database was asked through the proxy");
    let again = fs::read_to_string(folder.join("go.sum")).unwrap();
    assert!(again.lines().count() >= 10 && again.lines().all(|line| sums.contains(line)), "{again}");
    go.run(&folder, "modules", &["mod", "verify"]);
    assert!(fs::read(folder.join("built")).unwrap() == fs::read(folder.join("again")).unwrap());
    // Where nothing is kept nothing is promised: a client that reads yes would ask nobody else.
    let database = fs::read_dir(store.join("cache/sumdb")).unwrap().next().unwrap().unwrap().file_name();
    let supported = format!("/sumdb/{}/supported", database.to_str().unwrap());
    assert_eq!(offline.get(&supported).0, 200);
    fs::remove_dir_all(store.join("cache")).unwrap();
    assert_eq!(offline.get(&supported).0, 404);
    assert!(offline.stop().success());
}
