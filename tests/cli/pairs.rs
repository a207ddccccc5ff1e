//! Requests for metadata bring metadata: the info and the go.mod of a version are cached without its zip, also for a
//! restart, an outage and a real `go` client. The zip must belong to them when it comes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::Case;

use testkit::client::Reply;
use testkit::go::Go;
use testkit::server::{self, Server};
use testkit::upstream::{Module, Script, Upstream};
use testkit::{STOA, missing_tool, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let proc_missing = (!Path::new("/proc/self/status").exists()).then(|| "there is no /proc".to_owned());
    vec![
        trial("an info and a mod are cached without the zip", None, without_zip),
        trial("fill.eager downloads the zip for an info", None, eager),
        trial("a client that must not download starts no zip with fill.eager", None, eager_for_local),
        trial("a go.mod that is larger than fill.metadata_max is served", None, larger_than_the_bound),
        trial("a zip client joins a download of metadata", None, joined),
        trial("a zip with another go.mod than the cached one is refused", None, other_mod),
        trial("a cached pair of another upstream is not served", None, other_upstream),
        trial("tombstones, removals and rules cover cached pairs", None, forbidden),
        trial("cached pairs are evicted above fill.metadata_max", None, evicted),
        trial("two servers on one store keep to fill.metadata_max", None, evicted_by_two_servers),
        trial(
            "go lists, tidies and graphs without zips, and again offline",
            missing_tool("go", &["version"]),
            real_go,
        ),
        trial("many large go.mod files stay within a bound of memory", proc_missing, large_mods).slow(),
    ]
}

const PAIR: &str = "example.com/Cap@v1.0.0";

/// Returns the files of the cached pairs.
fn pairs(root: &Path) -> Vec<PathBuf> {
    let list =
        |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    list(root.join("cache/pairs")).flat_map(list).collect()
}

/// Waits until a number of pairs is cached: clients get their files earlier.
fn until_cached(root: &Path, count: usize) {
    testkit::until("that many pairs are cached", || pairs(root).len() == count);
}

fn start(root: &Path, upstream: &Upstream, variables: &[(&str, &str)]) -> Server {
    let mut command = server::command(root);
    command.args(["--upstream", upstream.url(), "--gosumdb", "off"]);
    Server::start_with(command.envs(variables.iter().copied()))
}

fn offline(root: &Path) -> Server {
    Server::start_with(server::command(root).arg("--offline"))
}

fn stoa(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(STOA);
    command.env_remove("STOA_STORE").args(arguments).arg("--store").arg(root);
    command.output().unwrap()
}

#[track_caller]
fn assert_pair(server: &Server, module: &Module) {
    for (extension, body) in [("info", &module.info), ("mod", &module.modfile)] {
        let reply = server.ask("GET", &module.path(extension), &[("Disable-Module-Fetch", "true")]);
        assert!(reply.status == 200 && reply.body == *body, "{extension}: {}", reply.text());
        assert_eq!(reply.header("cache-control"), Some("public, max-age=60"));
        let tag = reply.header("etag").unwrap().to_owned();
        let known = server.ask("GET", &module.path(extension), &[("If-None-Match", &tag)]);
        assert_eq!(known.status, 304);
    }
}

fn without_zip() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let modules = [PAIR, "example.com/Cap@v1.1.0"].map(|pair| upstream.offer(pair, 1000));
    let server = start(&root, &upstream, &[]);
    assert_eq!(server.get(&modules[0].path("info")), (200, modules[0].info.clone()));
    assert_eq!(server.get(&modules[1].path("mod")), (200, modules[1].modfile.clone()));
    until_cached(&root, 2);
    for module in &modules {
        assert_pair(&server, module);
    }
    for extension in [".info", ".mod"] {
        assert_eq!(upstream.asked(extension), 2, "{extension}");
    }
    assert_eq!(upstream.asked(".zip"), 0);
    // A pair is not a stored version.
    assert_eq!(text(&stoa(&root, &["list"]).stdout), "");
    assert!(!text(&server.get("/catalog").1).contains("v1.0.0"));
    assert!(server.stop().success());

    let server = offline(&root);
    assert_pair(&server, &modules[0]);
    assert_eq!(server.get(&modules[0].path("zip")).0, 404);
    assert_eq!(server.get("/example.com/!cap/@v/list").0, 404);
    assert!(server.stop().success());

    // The zip comes alone, and the pair is not needed any more.
    let server = start(&root, &upstream, &[]);
    assert!(server.get(&modules[0].path("zip")) == (200, modules[0].zip.clone()));
    assert_eq!((upstream.asked(".info"), upstream.asked(".mod"), upstream.asked(".zip")), (2, 2, 1));
    assert_eq!(pairs(&root).len(), 1);
    assert_eq!(server.get(&modules[0].path("info")), (200, modules[0].info.clone()));
    assert_eq!(fs::read(root.join("modules/example.com/!cap/@v/v1.0.0/mod")).unwrap(), modules[0].modfile);
    // A damaged pair counts as absent.
    let pair = pairs(&root).remove(0);
    let mut bytes = fs::read(&pair).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&pair, bytes).unwrap();
    assert_eq!(server.get(&modules[1].path("mod")), (200, modules[1].modfile.clone()));
    assert_eq!(upstream.asked(".mod"), 3);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn eager() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let module = upstream.offer(PAIR, 1000);
    let server = start(&root, &upstream, &[("STOA_FILL_EAGER", "true")]);
    assert_eq!(server.get(&module.path("info")).0, 200);
    upstream.wait_until_asked(".zip", 1);
    let zip = root.join("modules/example.com/!cap/@v/v1.0.0/zip");
    testkit::until("the zip is stored", || zip.exists());
    assert!(pairs(&root).is_empty());
    assert!(server.stop().success());
}

fn eager_for_local() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let module = upstream.offer(PAIR, 1000);
    let server = start(&root, &upstream, &[]);
    assert_eq!(server.get(&module.path("info")).0, 200);
    until_cached(&root, 1);
    assert!(server.stop().success());
    let eager = [("STOA_FILL_EAGER", "true")];
    let server = start(&root, &upstream, &eager);
    for extension in ["info", "mod"] {
        let reply = server.ask("GET", &module.path(extension), &[("Disable-Module-Fetch", "true")]);
        assert_eq!(reply.status, 200);
    }
    assert!(server.stop().success());
    assert_eq!(upstream.asked(".zip"), 0);
    let server = start(&root, &upstream, &eager);
    assert_eq!(server.get(&module.path("info")).0, 200);
    upstream.wait_until_asked(".zip", 1);
}

fn larger_than_the_bound() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let mut module = upstream.offer(PAIR, 1000);
    module.modfile.extend(b"// a long comment\n".repeat(10_000));
    upstream.set(&module.path("mod"), Script::Body(module.modfile.clone()));
    let server = start(&root, &upstream, &[("STOA_FILL_METADATA_MAX", "4KiB")]);
    assert!(server.get(&module.path("mod")) == (200, module.modfile.clone()));
    assert_eq!(upstream.asked(".mod"), 1);
}

fn joined() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let module = upstream.offer(PAIR, 100_000);
    upstream.hold(".mod");
    let server = start(&root, &upstream, &[]);
    // The info is there before the mod, so the download goes on.
    assert_eq!(server.get(&module.path("info")).0, 200);
    std::thread::scope(|scope| {
        let zip = scope.spawn(|| server.get(&module.path("zip")));
        upstream.wait_until_asked(".mod", 1);
        upstream.release();
        assert!(zip.join().unwrap() == (200, module.zip.clone()));
    });
    for extension in [".info", ".mod", ".zip"] {
        assert_eq!(upstream.asked(extension), 1, "{extension}");
    }
    // The client has the zip before the version is stored and its pair removed.
    until_cached(&root, 0);
}

fn other_mod() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let module = upstream.offer(PAIR, 1000);
    let lie = b"module example.com/Cap\n\nrequire evil.example/x v1.0.0\n".to_vec();
    upstream.set(&module.path("mod"), Script::Body(lie.clone()));
    let server = start(&root, &upstream, &[("STOA_FILL_WRONG_PAUSE", "0")]);
    assert_eq!(server.get(&module.path("mod")), (200, lie));
    until_cached(&root, 1);
    let (status, body) = server.get(&module.path("zip"));
    assert!(
        status == 502 && text(&body).contains("the go.mod in the zip differs"),
        "{status} {}",
        text(&body)
    );
    assert!(pairs(&root).is_empty());
    assert!(!root.join("modules/example.com/!cap/@v/v1.0.0").exists());
    // From now on it is asked for again.
    upstream.serve(&module);
    assert_eq!(server.get(&module.path("mod")), (200, module.modfile.clone()));
    assert!(server.get(&module.path("zip")) == (200, module.zip.clone()));
}

fn other_upstream() {
    let dir = testkit::tempdir();
    let (root, first, second) = (dir.path().join("store"), Upstream::start(), Upstream::start());
    let module = first.offer(PAIR, 1000);
    let server = start(&root, &first, &[]);
    assert_eq!(server.get(&module.path("mod")).0, 200);
    until_cached(&root, 1);
    assert!(server.stop().success());
    let server = start(&root, &second, &[]);
    assert_eq!(server.get(&module.path("mod")).0, 404);
    assert_eq!(second.count(&module.path("mod")), 1);
    assert!(server.stop().success());
    // The first upstream is configured again, and does not answer.
    first.fail(Some("503 Unavailable"));
    let server = start(&root, &first, &[]);
    assert_pair(&server, &module);
}

fn forbidden() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let modules = [PAIR, "example.com/Cap@v1.1.0"].map(|pair| upstream.offer(pair, 1000));
    let server = start(&root, &upstream, &[]);
    let cache = || {
        for module in &modules {
            assert_eq!(server.get(&module.path("mod")).0, 200);
        }
        until_cached(&root, 2);
    };
    cache();
    let remove = |arguments: &[&str]| {
        let output = stoa(&root, &[&["remove"], arguments].concat());
        assert!(output.status.success(), "{}", transcript(&output));
        text(&output.stdout)
    };
    assert!(remove(&["--tombstone", PAIR]).contains("forbade"));
    assert_eq!(pairs(&root).len(), 1);
    let get = |extension| -> Reply { server.ask("GET", &modules[0].path(extension), &[]) };
    assert_eq!((get("info").status, get("mod").status, get("zip").status), (410, 410, 410));
    remove(&["--lift", PAIR]);
    cache();
    // A removal works without a stored version, of one version and of a module.
    assert!(remove(&["--dry-run", PAIR]).contains("would remove"));
    assert!(remove(&[PAIR]).contains("removed"));
    assert_eq!(pairs(&root).len(), 1);
    assert_eq!(stoa(&root, &["remove", PAIR]).status.code(), Some(1));
    cache();
    assert_eq!(remove(&["example.com/Cap"]).lines().count(), 2);
    assert!(pairs(&root).is_empty());
    cache();
    assert!(server.stop().success());
    let config = dir.path().join("config.toml");
    fs::write(&config, "[[module]]\npattern = \"example.com/Cap\"\ndeny = [\"v1.0.0\"]\n").unwrap();
    let mut command = server::command(&root);
    let server = Server::start_with(command.args(["--offline", "--config"]).arg(&config));
    assert_eq!((server.get(&modules[0].path("mod")).0, server.get(&modules[1].path("mod")).0), (403, 200));
}

fn evicted() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let modules: Vec<_> = (0..6).map(|n| upstream.offer(&format!("example.com/m@v1.{n}.0"), 10)).collect();
    let server = start(&root, &upstream, &[("STOA_FILL_METADATA_MAX", "16KiB")]);
    for (n, module) in modules.iter().enumerate() {
        assert_eq!(server.get(&module.path("mod")).0, 200);
        let name = root.join("cache/pairs");
        // Each takes a block of 4 KiB, and a fifth makes room down to 14 KiB.
        testkit::until("the pair is cached", || {
            assert!(name.exists() || n == 0);
            pairs(&root).iter().any(|path| path.ends_with(format!("v1.{n}.0")))
        });
    }
    until_cached(&root, 4);
    assert!(server.stop().success());
    let server = offline(&root);
    let found: Vec<_> = modules.iter().map(|module| server.get(&module.path("mod")).0).collect();
    assert_eq!(found, [404, 404, 200, 200, 200, 200]);
}

/// Offers a version with a go.mod of this text and a package.
fn evicted_by_two_servers() {
    let dir = testkit::tempdir();
    let (root, upstream) = (dir.path().join("store"), Upstream::start());
    let variables = [("STOA_FILL_METADATA_MAX", "16KiB")];
    let servers = [start(&root, &upstream, &variables), start(&root, &upstream, &variables)];
    for n in 0..12 {
        let module = upstream.offer(&format!("example.com/m@v1.{n}.0"), 10);
        assert_eq!(servers[n % 2].get(&module.path("mod")).0, 200);
        let is_cached = || pairs(&root).iter().any(|path| path.ends_with(format!("v1.{n}.0")));
        // Each takes a block of 4 KiB.
        testkit::until("the new pair and at most three others are cached", || {
            is_cached() && pairs(&root).len() <= 4
        });
    }
}

fn offer(upstream: &Upstream, pair: &str, requires: &str) -> Module {
    let mut module = upstream.offer(pair, 10);
    module.modfile = format!("module {}\n\ngo 1.16\n{requires}", module.version.path()).into_bytes();
    let files = [("go.mod", module.modfile.as_slice()), ("m.go", b"package m\n".as_slice())];
    module.zip = stoa_gomod::zip::create(&module.version, files).unwrap();
    upstream.serve(&module);
    let latest = format!("/{}/@latest", module.version.path().escaped());
    upstream.set(&latest, Script::Body(module.info.clone()));
    module
}

fn real_go() {
    let dir = testkit::tempdir();
    let (root, folder, upstream) = (dir.path().join("store"), dir.path().join("program"), Upstream::start());
    // Only a package of `used` is imported. The others are in the graph.
    offer(&upstream, "example.com/deep@v1.0.0", "");
    offer(&upstream, "example.com/unused@v1.0.0", "\nrequire example.com/deep v1.0.0\n");
    offer(&upstream, "example.com/used@v1.2.0", "\nrequire example.com/unused v1.0.0\n");
    fs::create_dir(&folder).unwrap();
    let source = "package main\n\nimport _ \"example.com/used\"\n\nfunc main() {}\n";
    fs::write(folder.join("main.go"), source).unwrap();
    let modfile = "module example.com/program\n\ngo 1.16\n\nrequire example.com/used v1.2.0\n";
    fs::write(folder.join("go.mod"), modfile).unwrap();

    let server = start(&root, &upstream, &[]);
    let go = Go::new(dir.path(), &server.url).unverified();
    let said = |go: &Go, cache: &str, arguments: &[&str]| text(&go.run(&folder, cache, arguments).stdout);
    assert_eq!(said(&go, "a", &["list", "-m", "-versions", "example.com/deep"]), "example.com/deep v1.0.0\n");
    let graph = said(&go, "b", &["mod", "graph"]);
    assert!(graph.contains("example.com/unused@v1.0.0 example.com/deep@v1.0.0"), "{graph}");
    assert_eq!(upstream.asked(".zip"), 0);
    go.run(&folder, "c", &["mod", "tidy"]);
    let sums = fs::read_to_string(folder.join("go.sum")).unwrap();
    assert_eq!(upstream.asked(".zip"), 1, "only that of the imported package");
    assert!(server.stop().success());

    // The network is off, and the module caches are empty.
    upstream.fail(Some("503 Unavailable"));
    for server in [start(&root, &upstream, &[]), offline(&root)] {
        let go = Go::new(dir.path(), &server.url).unverified();
        let cache = format!("modules-{}", server.pid());
        assert_eq!(said(&go, &cache, &["mod", "graph"]), graph);
        fs::remove_file(folder.join("go.sum")).unwrap();
        go.run(&folder, &cache, &["mod", "tidy"]);
        assert_eq!(fs::read_to_string(folder.join("go.sum")).unwrap(), sums);
        go.run(&folder, &cache, &["build", "-o", "built", "."]);
        assert!(server.stop().success());
    }
}

/// The number of versions, the size of each go.mod, and the maximum resident memory.
const LARGE_MODS: usize = 400;
const MOD_BYTES: usize = 15 << 20;
const MOST_RESIDENT_MIB: u64 = 128;

/// Serves any version with a large go.mod, which all answers share. Returns the URL and the number of sent mods.
fn upstream_of_large_mods() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut modfile = b"module example.com/large\n\n//".to_vec();
    modfile.resize(MOD_BYTES, b'x');
    modfile.push(b'\n');
    let (modfile, sent) = (Arc::new(modfile), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&sent);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (modfile, sent) = (Arc::clone(&modfile), Arc::clone(&counted));
            std::thread::spawn(move || answer(&stream, &modfile, &sent));
        }
    });
    (url, sent)
}

fn answer(mut stream: &TcpStream, modfile: &[u8], sent: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let path = line.split(' ').nth(1)?.to_owned();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).ok()?;
        }
        let (version, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
        let info = format!("{{\"Version\":\"{version}\"}}");
        let body = if extension == "mod" { modfile } else { info.as_bytes() };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
        stream.write_all(body).ok()?;
        sent.fetch_add(usize::from(extension == "mod"), Ordering::Relaxed);
    }
}

fn large_mods() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    let (url, sent) = upstream_of_large_mods();
    let mut command = server::command(&root);
    command.args(["--upstream", &url, "--gosumdb", "off"]).env("STOA_FILL_METADATA_MAX", "64MiB");
    let server = Server::start_with(&mut command);
    // Clients get a large go.mod piece by piece, and parts of it.
    let path = "/example.com/large/@v/v1.9999.0.mod";
    let (status, body) = server.get(path);
    assert!(status == 200 && body.len() > MOD_BYTES && body.ends_with(b"xx\n"), "{status} {}", body.len());
    let part = server.ask("GET", path, &[("Range", "bytes=7-23")]);
    assert_eq!((part.status, part.text()), (206, "example.com/large"));
    std::thread::scope(|scope| {
        for n in 0..LARGE_MODS {
            let server = &server;
            scope.spawn(move || {
                let (status, _) = server.get(&format!("/example.com/large/@v/v1.{n}.0.info"));
                assert_eq!(status, 200, "{n}");
            });
        }
    });
    // All downloads have begun by now, and the others wait for memory.
    testkit::until("downloads begin", || sent.load(Ordering::Relaxed) >= LARGE_MODS / 8);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let mib = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024;
    println!("the server had {mib} MiB resident at most");
    assert!(mib < MOST_RESIDENT_MIB, "{mib} MiB were resident");
    assert!(server.stop().success());
}
