//! `direct`: private modules from git repositories made here, through a real proxy, for a real `go` client.
//!
//! Nothing outside of this machine is asked: git's own configuration leads every URL to a folder or to loopback.
//!
//! Needs go and git.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::Case;

use tempfile::TempDir;
use testkit::server::{self, Server};
use testkit::upstream::{Script, Upstream, announced};
use testkit::{missing_tool, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let missing = || missing_tool("go", &["version"]).or_else(|| missing_tool("git", &["--version"]));
    vec![
        trial("a private module is fetched by branch, commit and version", missing(), by_every_name),
        trial("a module in a folder, a later major and a module without go.mod", missing(), odd_modules),
        trial("one go command serves all files of a version", missing(), one_command),
        trial("errors of version control become a status", missing(), statuses),
        trial("a git that hangs is a timeout and is killed", missing(), hanging),
        trial("a git that hangs does not block other upstreams", missing(), hanging_beside),
        trial("version control takes over from a proxy whose zip is aborted", missing(), takes_over),
        trial("a version of another commit than its cached info is refused", missing(), other_commit),
        trial("a missing or old go command is reported", missing(), no_go),
        trial("a stopped server leaves nothing behind", missing(), stopped),
        trial("the next start removes what a killed server left", missing(), killed),
    ]
}

/// The host in the paths of the test modules; git is configured to use local folders instead.
const HOST: &str = "github.com/stoa-test";

/// Repositories, and an environment in which they are found.
pub(crate) struct World {
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { dir: testkit::tempdir() };
        for name in ["home", "repositories", "tmp", "client"] {
            fs::create_dir(world.path(name)).unwrap();
        }
        let repositories = world.path("repositories").display().to_string();
        fs::write(
            world.path("gitconfig"),
            format!(
                "[user]\nname = a\nemail = a@b.example\n[init]\ndefaultBranch = main\n\
                 [url \"file://{repositories}/\"]\ninsteadOf = https://{HOST}/\n"
            ),
        )
        .unwrap();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Leads what is below a URL to another.
    fn lead(&self, from: &str, to: &str) {
        let path = self.path("gitconfig");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}[url \"{to}\"]\ninsteadOf = {from}\n")).unwrap();
    }

    fn at_home<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for name in ["GOFLAGS", "GOPRIVATE", "GONOPROXY", "GOINSECURE", "GOVCS", "GIT_DIR"] {
            command.env_remove(name);
        }
        command
            .env("HOME", self.path("home"))
            .env("GIT_CONFIG_GLOBAL", self.path("gitconfig"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("TMPDIR", self.path("tmp"))
            .env("GOENV", "off")
    }

    pub(crate) fn git(&self, repository: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(self.path("repositories").join(repository));
        let output = self.at_home(&mut command).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", transcript(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits files to a repository, which is made if it is not there, and returns the commit.
    pub(crate) fn commit(&self, repository: &str, files: &[(&str, &str)]) -> String {
        let folder = self.path("repositories").join(repository);
        if !folder.exists() {
            fs::create_dir(&folder).unwrap();
            self.git(repository, &["init", "-q"]);
        }
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        self.git(repository, &["add", "."]);
        self.git(repository, &["commit", "-q", "-m", "a change"]);
        self.git(repository, &["rev-parse", "HEAD"])
    }

    pub(crate) fn tag(&self, repository: &str, tag: &str) {
        self.git(repository, &["tag", tag]);
    }

    /// Prepares a proxy that has only version control to ask.
    pub(crate) fn proxy(&self) -> Command {
        let mut command = server::command(&self.path("store"));
        command.args(["--upstream", "direct"]);
        // The repositories of these modules are in folders and on loopback.
        self.at_home(&mut command).env("GOPRIVATE", "github.com,*.test");
        command
    }

    fn start(&self) -> Server {
        Server::start_with(&mut self.proxy())
    }

    /// Runs a go client in its own folder.
    fn go(&self, server: &Server, arguments: &[&str]) -> String {
        let mut command = Command::new("go");
        self.at_home(&mut command)
            .args(arguments)
            .current_dir(self.path("client"))
            .env("GOPROXY", &server.url)
            .env("GOSUMDB", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-modcacherw -mod=mod")
            .env("GOPATH", self.path("gopath"))
            .env("GOCACHE", testkit::go::build_cache());
        let output = command.output().unwrap();
        assert!(output.status.success(), "go {arguments:?}: {}", transcript(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn client(&self) {
        fs::write(self.path("client").join("go.mod"), "module example.com/client\n\ngo 1.20\n").unwrap();
    }

    /// Returns the entries of the server's folder for temporary files.
    pub(crate) fn scratch(&self) -> Vec<PathBuf> {
        fs::read_dir(self.path("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// The processes that work for a proxy of ours, by the folder that their environment names.
    pub(crate) fn children(&self) -> Vec<u32> {
        let wanted = format!("DIRECT_RUN_OF_STOA={}", self.path("tmp").display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            if environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(wanted.as_bytes())) {
                found.push(pid);
            }
        }
        found
    }

    /// Nothing of a version is in the store, and none of its work is left.
    pub(crate) fn stored(&self) -> usize {
        let modules = self.path("store/modules");
        let mut open = vec![modules];
        let mut versions = 0;
        while let Some(path) = open.pop() {
            for entry in fs::read_dir(&path).unwrap().flatten() {
                match entry.file_name() == "info" {
                    true => versions += 1,
                    false if entry.path().is_dir() => open.push(entry.path()),
                    false => {}
                }
            }
        }
        versions
    }
}

fn plain(world: &World) -> (String, String) {
    let modfile = format!("module {HOST}/plain\n\ngo 1.20\n");
    world.commit("plain", &[("go.mod", &modfile), ("plain.go", "package plain\n\nconst N = 1\n")]);
    world.tag("plain", "v1.0.0");
    world.commit("plain", &[("plain.go", "package plain\n\nconst N = 2\n")]);
    world.tag("plain", "v1.2.3");
    world.git("plain", &["checkout", "-q", "-b", "feature"]);
    let feature = world.commit("plain", &[("feature.go", "package plain\n\nconst F = true\n")]);
    world.git("plain", &["checkout", "-q", "main"]);
    let untagged = world.commit("plain", &[("plain.go", "package plain\n\nconst N = 3\n")]);
    (feature, untagged)
}

fn by_every_name() {
    let world = World::new();
    let (feature, untagged) = plain(&world);
    world.client();
    let server = world.start();
    let module = format!("{HOST}/plain");
    let at = |version: &str| format!("{module}@{version}");
    let required = || fs::read_to_string(world.path("client/go.mod")).unwrap();

    world.go(&server, &["get", &at("feature")]);
    assert!(required().contains(&feature[..12]), "{}", required());
    world.go(&server, &["get", &at(&untagged)]);
    assert!(required().contains(&untagged[..12]), "{}", required());
    world.go(&server, &["get", &at(&untagged[..12])]);
    world.go(&server, &["get", &at("v1.2.3")]);
    assert!(required().contains("v1.2.3"), "{}", required());
    world.go(&server, &["get", &at("v1.0")]);
    assert!(required().contains("v1.0.0"), "{}", required());
    let listed = world.go(&server, &["list", "-m", "-versions", &module]);
    assert_eq!(listed.trim(), format!("{module} v1.0.0 v1.2.3"));
    let latest = world.go(&server, &["list", "-m", &at("latest")]);
    assert_eq!(latest.trim(), format!("{module} v1.2.3"));

    let source = format!("package main\n\nimport {module:?}\n\nfunc main() {{ println(plain.N) }}\n");
    fs::write(world.path("client/main.go"), source).unwrap();
    world.go(&server, &["build", "-o", "program", "."]);
    world.go(&server, &["mod", "verify"]);
    testkit::until("four versions are stored", || world.stored() == 4);

    // What was got once is there when version control is not.
    assert!(server.stop().success());
    assert_eq!(world.scratch(), Vec::<PathBuf>::new());
    let offline = Server::start(&world.path("store"), "off");
    assert_eq!(offline.get(&format!("/{module}/@v/v1.2.3.zip")).0, 200);
}

fn odd_modules() {
    let world = World::new();
    let (within, later) = (format!("module {HOST}/odd/within\n"), format!("module {HOST}/odd/v2\n"));
    world.commit("odd", &[("within/go.mod", &within), ("within/w.go", "package within\n")]);
    world.tag("odd", "within/v0.1.0");
    world.commit("odd", &[("go.mod", &later), ("o.go", "package odd\n")]);
    world.tag("odd", "v2.0.0");
    world.commit("bare", &[("b.go", "package bare\n")]);
    world.tag("bare", "v0.1.0");
    world.commit("bare", &[("b.go", "package bare // again\n")]);
    world.tag("bare", "v2.0.0");
    world.client();
    let server = world.start();
    for pair in ["odd/within@v0.1.0", "odd/v2@v2.0.0", "bare@v0.1.0", "bare@v2.0.0+incompatible"] {
        world.go(&server, &["mod", "download", &format!("{HOST}/{pair}")]);
    }
    let (status, list) = server.get(&format!("/{HOST}/bare/@v/list"));
    assert_eq!((status, list.as_slice()), (200, b"v0.1.0\nv2.0.0+incompatible\n".as_slice()));
    let (status, modfile) = server.get(&format!("/{HOST}/bare/@v/v0.1.0.mod"));
    assert_eq!((status, modfile), (200, format!("module {HOST}/bare\n").into_bytes()));
    // A folder that is no module is not an empty one.
    assert_eq!(server.get(&format!("/{HOST}/bare/nothing/@v/list")).0, 404);
    assert!(server.stop().success());
}

fn one_command() {
    let world = World::new();
    plain(&world);
    let mut proxy = world.proxy();
    let log = world.path("log");
    // The helper of the test sets another level.
    let mut child = proxy
        .env("STOA_LOG", "stoa=debug")
        .stdout(std::process::Stdio::piped())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let url = server::listening(&mut child).unwrap();
    for ending in ["info", "mod", "zip"] {
        let got = server::get(&url, &format!("/{HOST}/plain/@v/v1.2.3.{ending}")).unwrap();
        assert_eq!(got.0, 200, "{ending}");
    }
    server::terminate(&child);
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(log).unwrap();
    let runs: Vec<&str> = log.lines().filter(|line| line.contains("running the go command")).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
}

fn statuses() {
    let world = World::new();
    plain(&world);
    world.lead("https://github.com/nowhere/", "git://127.0.0.1:1/");
    let refusing = refusing_server();
    world.lead("https://github.com/refused/", &format!("{refusing}/"));
    let too_new = format!("module {HOST}/new\n\ngo 1.999\n");
    world.commit("new", &[("go.mod", &too_new), ("n.go", "package n\n")]);
    world.tag("new", "v1.0.0");
    let log = world.path("log");
    let server = Server::start_with(world.proxy().stderr(fs::File::create(&log).unwrap()));
    for (path, status, words) in [
        (format!("{HOST}/plain/@v/v1.9.9.info"), 404, "unknown revision"),
        (format!("{HOST}/plain/@v/v1.9.9.zip"), 404, "unknown revision"),
        (format!("{HOST}/plain/@v/nobranch.info"), 404, "unknown revision"),
        (format!("{HOST}/plain/@v/v9.info"), 404, "no matching versions"),
        // It may be there, for others.
        (format!("{HOST}/missing/@v/list"), 403, "does not appear to be a git repository"),
        (format!("{HOST}/missing/@latest"), 403, "does not appear to be a git repository"),
        ("github.com/@v/list".to_owned(), 404, "invalid github.com import path"),
        ("github.com/nowhere/x/@v/list".to_owned(), 502, "Connection refused"),
        ("github.com/nowhere/x/@v/v1.0.0.zip".to_owned(), 502, "Connection refused"),
        ("github.com/refused/x/@latest".to_owned(), 403, "403"),
        (format!("{HOST}/new/@v/v1.0.0.zip"), 502, "see the server log"),
        (format!("{HOST}/new/@v/v1.0.0.info"), 502, "see the server log"),
    ] {
        let (got, body) = server.get(&format!("/{path}"));
        let body = String::from_utf8_lossy(&body);
        assert_eq!(got, status, "{path}: {body}");
        assert!(body.contains(words), "{path}: {body}");
        let here = world.dir.path().to_str().unwrap();
        assert!(!body.contains("stoa-direct-") && !body.contains(here), "{path}: {body}");
    }
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("requires go >= 1.999"), "{log}");
    assert_eq!(world.stored(), 0);
    testkit::until("no call is left", || world.children().is_empty());
    assert!(server.stop().success());
    assert_eq!(world.scratch(), Vec::<PathBuf>::new());
}

/// Starts a server that refuses everything; its URL.
fn refusing_server() -> String {
    Upstream::with(|_| Script::Status(403, "text/plain", b"")).url().to_owned()
}

/// The slot that the zip of the proxy had is the only one, and version control is asked without.
fn takes_over() {
    let world = World::new();
    plain(&world);
    let proxy = Upstream::with(|request| match request.path.rsplit_once('.') {
        Some((_, "info")) => Script::Body(br#"{"Version":"v1.0.0"}"#.to_vec()),
        Some((_, "mod")) => Script::Body(format!("module {HOST}/plain\n\ngo 1.20\n").into_bytes()),
        _ => Script::Raw(announced(1002, b"PK")),
    });
    let mut command = server::command(&world.path("store"));
    command.args([
        "--upstream",
        &format!("{}|direct", proxy.url()),
        "--fill-max-concurrent",
        "1",
        "--gosumdb",
        "off",
    ]);
    let server = Server::start_with(world.at_home(&mut command).env("GOPRIVATE", "github.com"));
    let (status, zip) = server.get(&format!("/{HOST}/plain/@v/v1.0.0.zip"));
    assert!(status == 200 && zip.starts_with(b"PK"), "{status} {}", String::from_utf8_lossy(&zip));
    let (_, info) = server.get(&format!("/{HOST}/plain/@v/v1.0.0.info"));
    assert!(String::from_utf8(info).unwrap().contains("Time"), "that of version control");
    assert_eq!(world.stored(), 1);
    assert!(server.stop().success());
    assert_eq!(world.scratch(), Vec::<PathBuf>::new());
}

/// The info and the mod come from a proxy that names another commit than version control has for the tag.
fn other_commit() {
    let world = World::new();
    plain(&world);
    let commit = world.git("plain", &["rev-parse", "v1.0.0^{commit}"]);
    let modfile = fs::read(world.path("repositories/plain/go.mod")).unwrap();
    for (named, status) in [("0123456789012345678901234567890123456789", 502), (commit.as_str(), 200)] {
        let (info, modfile) =
            (format!(r#"{{"Version":"v1.0.0","Origin":{{"VCS":"git","Hash":"{named}"}}}}"#), modfile.clone());
        let proxy = Upstream::with(move |request| match request.path.rsplit_once('.') {
            Some((_, "info")) => Script::Body(info.clone().into_bytes()),
            Some((_, "mod")) => Script::Body(modfile.clone()),
            _ => Script::Status(404, "text/plain", b"no zip"),
        });
        let mut command = server::command(&world.path("store"));
        command.args(["--upstream", &format!("{},direct", proxy.url()), "--gosumdb", "off"]);
        let server = Server::start_with(world.at_home(&mut command).env("GOPRIVATE", "github.com"));
        assert_eq!(server.get(&format!("/{HOST}/plain/@v/v1.0.0.mod")).0, 200);
        let pairs = || fs::read_dir(world.path("store/cache/pairs")).into_iter().flatten().count();
        testkit::until("the info and the mod are cached", || pairs() == 1);
        let (answered, body) = server.get(&format!("/{HOST}/plain/@v/v1.0.0.zip"));
        let body = String::from_utf8_lossy(&body);
        assert_eq!(answered, status, "{body}");
        if status == 502 {
            assert!(body.contains(&commit) && body.contains(named), "{body}");
            assert_eq!((world.stored(), proxy.count(&format!("/{HOST}/plain/@v/v1.0.0.mod"))), (0, 1));
            assert!(
                fs::read_dir(world.path("store/cache/pairs"))
                    .unwrap()
                    .all(|folder| { fs::read_dir(folder.unwrap().path()).unwrap().count() == 0 })
            );
        }
        assert!(server.stop().success());
    }
    assert_eq!(world.stored(), 1);
}

/// Leads a host to a listener that takes connections and never answers.
fn mute(world: &World) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    world.lead("https://github.com/mute/", &format!("git://{}/", listener.local_addr().unwrap()));
    listener
}

fn hanging() {
    let world = World::new();
    plain(&world);
    let listener = mute(&world);
    let server = Server::start_with(world.proxy().args(["--direct-timeout", "2"]));
    for path in ["/github.com/mute/x/@v/v1.0.0.zip", "/github.com/mute/x/@v/list"] {
        let (status, body) = server.get(path);
        let body = String::from_utf8_lossy(&body);
        assert_eq!(status, 504, "{body}");
        assert!(body.contains("did not end within 2s"), "{body}");
    }
    drop(listener);
    testkit::until("what hung is ended", || world.children().is_empty());
    // The clones that the killed one had are not used again, and the rest works.
    assert_eq!(server.get(&format!("/{HOST}/plain/@v/v1.0.0.zip")).0, 200);
    assert_eq!(world.stored(), 1);
    assert!(server.stop().success());
    assert_eq!(world.scratch(), Vec::<PathBuf>::new());
}

/// As many versions of one host hang as there are places for one, with the slot for a zip among them.
fn hanging_beside() {
    let (world, upstream) = (World::new(), Upstream::start());
    world.commit("bare", &[("b.go", "package bare\n")]);
    world.tag("bare", "v0.1.0");
    world.lead("https://other.test/", &format!("file://{}/", world.path("repositories").display()));
    let module = upstream.offer("example.com/well@v1.0.0", 200_000);
    let listener = mute(&world);
    let list = format!("{},direct", upstream.url());
    let mut command = server::command(&world.path("store"));
    command.args([
        "--upstream",
        &list,
        "--fill-max-concurrent",
        "1",
        "--direct-max-concurrent",
        "8",
        "--grace",
        "0",
    ]);
    let server = Server::start_with(world.at_home(&mut command).env("GOPRIVATE", "github.com,*.test"));
    let ask = |path: String| {
        let (url, (tell, told)) = (server.url.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || tell.send(server::get(&url, &path)));
        told
    };
    // Not of one module: the go command works on a repository once at a time.
    let hanging: Vec<_> = (0..8).map(|n| ask(format!("/github.com/mute/x{n}/@v/v1.0.0.zip"))).collect();
    let _held: Vec<_> = (0..6).map(|_| listener.accept().unwrap()).collect();
    // One host has no more than three quarters of the places, so another host has the rest.
    assert_eq!(server.get("/other.test/bare.git/@v/v0.1.0.zip").0, 200);
    let told = ask("/example.com/well/@v/v1.0.0.zip".to_owned());
    // Else who is well waits for those who are not.
    let got = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(got.unwrap(), (200, module.zip));
    assert!(hanging.iter().all(|told| told.try_recv().is_err()), "they still hang");
    assert!(server.stop().success());
}

fn no_go() {
    let world = World::new();
    plain(&world);
    let path = format!("/{HOST}/plain/@v/v1.0.0.info");
    // What is wrong is for who runs the proxy: its clients learn no more than that.
    let asked = |directory: &Path| {
        let log = world.path("log");
        let mut proxy = world.proxy();
        let server = Server::start_with(proxy.env("PATH", directory).stderr(fs::File::create(&log).unwrap()));
        let (status, body) = server.get(&path);
        let body = String::from_utf8(body).unwrap();
        assert!(status == 502 && body.contains("see the server log"), "{status} {body}");
        assert!(!body.contains("PATH") && !body.contains("install Go"), "{body}");
        fs::read_to_string(&log).unwrap()
    };
    let empty = world.path("empty");
    fs::create_dir(&empty).unwrap();
    let log = asked(&empty);
    assert!(log.contains("cannot run go") && log.contains("install Go"), "{log}");

    // With go, and without git.
    let output = Command::new("go").args(["env", "GOROOT"]).output().unwrap();
    let root = String::from_utf8(output.stdout).unwrap();
    let log = asked(&Path::new(root.trim()).join("bin"));
    assert!(log.contains("git") && log.contains("not found in $PATH"), "{log}");
    assert_eq!(world.stored(), 0);
}

fn stopped() {
    let world = World::new();
    let listener = mute(&world);
    let server = Server::start_with(world.proxy().args(["--grace", "0"]));
    let asked = ask_in_vain(&server);
    let _held = listener.accept().unwrap();
    assert!(!world.children().is_empty());
    assert!(server.stop().success());
    asked.join().unwrap();
    testkit::until("its commands are ended", || world.children().is_empty());
    assert_eq!(world.scratch(), Vec::<PathBuf>::new());
}

fn killed() {
    let world = World::new();
    plain(&world);
    let listener = mute(&world);
    let server = world.start();
    let asked = ask_in_vain(&server);
    let _held = listener.accept().unwrap();
    assert_eq!(world.scratch().len(), 1);
    // Killed, as by the kernel.
    drop(server);
    asked.join().unwrap();
    assert_eq!(world.scratch().len(), 1);
    let server = world.start();
    assert_eq!(world.scratch(), Vec::<PathBuf>::new());
    testkit::until("what the killed one started is ended", || world.children().is_empty());
    assert_eq!(server.get(&format!("/{HOST}/plain/@v/v1.0.0.zip")).0, 200);
    assert!(server.stop().success());
    assert_eq!(world.scratch(), Vec::<PathBuf>::new());
}

/// Asks for what is never answered.
fn ask_in_vain(server: &Server) -> std::thread::JoinHandle<()> {
    let url = server.url.clone();
    std::thread::spawn(move || {
        let got = server::get(&url, "/github.com/mute/x/@v/v1.0.0.zip");
        assert!(!matches!(got, Ok((200, _))), "{got:?}");
    })
}
