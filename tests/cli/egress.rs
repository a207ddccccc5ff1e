//! `direct` for modules that neither a rule nor `GOPRIVATE` covers: what their go-import meta tags may lead to.
//!
//! The real go command and git run. Nothing outside of this machine is asked: all names lead to an HTTPS server here,
//! through a forward proxy here.
//!
//! Needs go, git and openssl.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use testkit::programs::install_script;
use testkit::server::Server;
use testkit::upstream::Module;
use testkit::{Case, missing_tool, trial};

use super::direct::World;
use super::https::{Https, header, reply};

pub(crate) fn cases() -> Vec<Case> {
    let missing = || {
        missing_tool("go", &["version"])
            .or_else(|| missing_tool("git", &["--version"]))
            .or_else(|| missing_tool("openssl", &["version"]))
    };
    vec![
        trial("a module that nobody named is fetched over https", missing(), over_https),
        trial("only a covered module gets the credentials for a repository", missing(), credentials),
        trial("a meta tag that changes to a private address is refused", missing(), changing),
        trial("a meta tag may name a module proxy over https", missing(), module_proxy),
        trial("a meta tag may name git or a module proxy over https and nothing else", missing(), other_tags),
        trial("a denied repository is denied by the name of another module", missing(), denied).slow(),
        trial(
            "denied versions of a repository are denied by the name of another module",
            missing(),
            denied_versions,
        ),
        trial(
            "denied versions behind a redirect are denied in a clone that exists",
            missing(),
            denied_versions_behind_a_redirect,
        ),
        trial("the clones of a covered module are not used for another", missing(), clones),
        trial("a command whose files grow too large is ended", missing(), too_large),
        trial("commands see no variable of Stoa, and git no secret unless covered", missing(), variables),
    ]
}

const CREDENTIALS: &str = "Basic bWU6aGlkZGVu";

/// Pages and repositories at names that lead here.
struct Net {
    world: World,
    pages: Arc<Pages>,
    https: Https,
}

/// The contents of the HTTPS server.
struct Pages {
    root: PathBuf,
    /// The meta tags by host and path, one after another. The last one stays.
    tags: Mutex<HashMap<String, Vec<String>>>,
    /// The heads of all requests.
    requests: Mutex<Vec<String>>,
    /// Whether repositories below `moved` are redirected. Otherwise only their refs are there.
    redirects: AtomicBool,
}

impl Net {
    fn new() -> Self {
        let world = World::new();
        fs::write(world.path("home/.netrc"), "machine git.example login me password hidden\n").unwrap();
        fs::write(
            world.path("gitconfig"),
            "[user]\nname = a\nemail = a@b.example\n[init]\ndefaultBranch = main\n",
        )
        .unwrap();
        let pages = Arc::new(Pages {
            root: world.path("served"),
            tags: Mutex::default(),
            requests: Mutex::default(),
            redirects: AtomicBool::new(true),
        });
        let (folder, served) = (world.path("."), Arc::clone(&pages));
        let names = ["vanity.example", "private.example", "git.example"];
        let https = Https::start(&folder, &names, move |head| served.answer(head));
        Self { world, pages, https }
    }

    /// Makes a repository with a module, whose path is that of another name, and some versions.
    fn repository(&self, path: &str, module: &str, versions: &[&str]) {
        let name = path.replace('/', "-");
        for version in versions {
            let text = format!("package x\n\nconst Version = {version:?}\n");
            self.world
                .commit(&name, &[("go.mod", &format!("module {module}\n\ngo 1.20\n")), ("x.go", &text)]);
            self.world.tag(&name, version);
        }
        let bare = self.pages.root.join(path);
        fs::create_dir_all(bare.parent().unwrap()).unwrap();
        self.world.git(&name, &["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
        self.world.git(&name, &["--git-dir", bare.to_str().unwrap(), "update-server-info"]);
    }

    /// Sets the meta tags of a module. Each request gets the next one.
    fn tags(&self, module: &str, tags: &[&str]) {
        let tags = tags.iter().map(|tag| format!("{module} {tag}")).collect();
        self.pages.tags.lock().unwrap().insert(module.to_owned(), tags);
    }

    /// Prepares a proxy that reaches the network here.
    fn command(&self, private: &str) -> Command {
        let mut command = self.world.proxy();
        command.args(["--gosumdb", "off"]).env("GOPRIVATE", private);
        self.https.lead_here(&mut command);
        command
    }

    fn start(&self, private: &str) -> Server {
        Server::start_with(&mut self.command(private))
    }

    /// Starts a proxy with a config file.
    fn start_with(&self, private: &str, config: &str) -> Server {
        let path = self.world.path("config.toml");
        fs::write(&path, config).unwrap();
        Server::start_with(self.command(private).arg("--config").arg(path))
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.pages.requests.lock().unwrap())
    }

    fn targets(&self) -> Vec<String> {
        std::mem::take(&mut *self.https.targets.lock().unwrap())
    }
}

impl Pages {
    fn answer(&self, head: &str) -> Vec<u8> {
        self.requests.lock().unwrap().push(head.to_owned());
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let header = |name| header(head, name);
        if query == "go-get=1" {
            let mut tags = self.tags.lock().unwrap();
            let Some(tags) = tags.get_mut(&format!("{}{path}", header("Host"))) else {
                return reply("404 Not Found", "", b"");
            };
            let tag = if tags.len() > 1 { tags.remove(0) } else { tags[0].clone() };
            let page = format!("<html><head><meta name=\"go-import\" content=\"{tag}\"></head></html>");
            return reply("200 OK", "", page.as_bytes());
        }
        if path.starts_with("/private/") && header("Authorization") != CREDENTIALS {
            return reply("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", b"");
        }
        let mut path = path.trim_start_matches('/').to_owned();
        if let Some(rest) = target.strip_prefix("/moved/").filter(|_| self.redirects.load(Ordering::SeqCst)) {
            return reply(
                "301 Moved Permanently",
                &format!("Location: https://git.example/evil/{rest}\r\n"),
                b"",
            );
        }
        if path.ends_with("/info/refs") {
            path = path.replacen("moved/", "evil/", 1);
        }
        match fs::read(self.root.join(path)) {
            Ok(body) => reply("200 OK", "Content-Type: text/plain\r\n", &body),
            Err(_) => reply("404 Not Found", "", b""),
        }
    }
}

fn get(server: &Server, path: &str) -> (u16, String) {
    let (status, body) = server.get(path);
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn over_https() {
    let net = Net::new();
    net.repository("open/x.git", "vanity.example/x", &["v1.0.0", "v1.1.0"]);
    net.tags("vanity.example/x", &["git https://git.example/open/x.git"]);
    let server = net.start("");
    let (status, list) = get(&server, "/vanity.example/x/@v/list");
    assert_eq!((status, list.as_str()), (200, "v1.0.0\nv1.1.0\n"));
    let (status, body) = get(&server, "/vanity.example/x/@latest");
    assert!(status == 200 && body.contains("v1.1.0"), "{status} {body}");
    let (status, zip) = server.get("/vanity.example/x/@v/v1.0.0.zip");
    assert!(status == 200 && zip.starts_with(b"PK"), "{status} {}", String::from_utf8_lossy(&zip));
    // An absent module is absent, and an unknown one may be looked for elsewhere.
    assert_eq!(get(&server, "/vanity.example/x/@v/v9.9.9.info").0, 404);
    assert_eq!(get(&server, "/vanity.example/unknown/@v/list").0, 404);
    for request in net.requests() {
        assert!(!request.to_lowercase().contains("authorization"), "{request}");
    }
    let targets = net.targets();
    assert!(
        targets.contains(&"vanity.example:443".to_owned()) && targets.contains(&"git.example:443".to_owned())
    );
    assert!(server.stop().success());
}

fn credentials() {
    let net = Net::new();
    net.repository("private/x.git", "vanity.example/x", &["v1.0.0"]);
    net.tags("vanity.example/x", &["git https://git.example/private/x.git"]);
    let server = net.start("");
    for path in ["/vanity.example/x/@v/v1.0.0.zip", "/vanity.example/x/@latest", "/vanity.example/x/@v/list"]
    {
        let (status, body) = get(&server, path);
        assert!(
            status == 403 && body.contains("neither a rule nor GOPRIVATE covers"),
            "{path}: {status} {body}"
        );
    }
    let requests = net.requests();
    assert!(requests.iter().any(|request| request.contains("/private/x.git")), "{requests:?}");
    assert!(!requests.iter().any(|request| request.contains(CREDENTIALS)), "{requests:?}");
    assert_eq!(net.world.stored(), 0);
    assert!(server.stop().success());

    for (private, rule, is_covered) in [
        ("", "pattern = '*'\nupstream = 'direct'", false),
        ("", "pattern = 'vanity.example/*'\ndeny = ['v2.0.0']", false),
        ("", "pattern = 'vanity.example/y'\nupstream = 'direct'", false),
        ("", "pattern = 'vanity.example/*'\nupstream = 'direct'", true),
        ("", "pattern = 'vanity.example/x'\nchecksum = 'off'", true),
        ("*.example", "pattern = 'other.test'", true),
    ] {
        let server = net.start_with(private, &format!("[[module]]\n{rule}\n"));
        let (status, body) = get(&server, "/vanity.example/x/@v/v1.0.0.zip");
        assert_eq!(status, if is_covered { 200 } else { 403 }, "{private:?} {rule}: {body}");
        assert_eq!(net.requests().iter().any(|request| request.contains(CREDENTIALS)), is_covered, "{rule}");
        assert!(server.stop().success());
        fs::remove_dir_all(net.world.path("store")).unwrap();
    }
}

/// The first answer leads to a public repository, and the second to an address of this machine.
fn changing() {
    let net = Net::new();
    net.repository("open/x.git", "vanity.example/x", &["v1.0.0"]);
    let private = TcpListener::bind("127.0.0.2:0").unwrap();
    private.set_nonblocking(true).unwrap();
    let there = format!("git https://{}/x.git", private.local_addr().unwrap());
    let open = "git https://git.example/open/x.git";
    let asked = |server: &Server, second: &str| {
        net.tags("vanity.example/x", &[open, second]);
        assert_eq!(get(server, "/vanity.example/x/@v/list").0, 200);
        get(server, "/vanity.example/x/@v/v1.0.0.zip")
    };
    // Lists are kept over a restart.
    let forget = || fs::remove_dir_all(net.world.path("store")).unwrap();
    let server = net.start("");
    let (status, body) = asked(&server, &there);
    assert!(status == 403 && body.contains("127.0.0.2 is not a public address"), "{status} {body}");
    assert!(private.accept().is_err(), "it was reached");
    assert!(server.stop().success());
    forget();

    // A name is resolved here, unless a forward proxy does that.
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    local.set_nonblocking(true).unwrap();
    let port = local.local_addr().unwrap().port();
    let server = net.start("");
    let (status, body) = asked(&server, &format!("git https://localhost:{port}/x.git"));
    assert!(status == 403 && body.contains("localhost has no public address"), "{status} {body}");
    assert!(local.accept().is_err(), "it was reached");
    assert!(server.stop().success());
    assert_eq!(net.world.stored(), 0);
    forget();

    // An address that the configuration allows is reached.
    private.set_nonblocking(false).unwrap();
    let reached = std::thread::spawn(move || private.accept().is_ok());
    let server = Server::start_with(net.command("").args(["--direct-allow-addresses", "127.0.0.2"]));
    let (status, body) = asked(&server, &there);
    assert!(status == 502, "it speaks no TLS: {status} {body}");
    assert!(reached.join().unwrap());
    assert!(server.stop().success());
}

fn module_proxy() {
    let net = Net::new();
    let module = Module::new("vanity.example/x@v1.2.0", 3000);
    let folder = net.pages.root.join("proxy/vanity.example/x/@v");
    fs::create_dir_all(&folder).unwrap();
    for (name, body) in [
        ("list", b"v1.2.0\n".as_slice()),
        ("v1.2.0.info", &module.info),
        ("v1.2.0.mod", &module.modfile),
        ("v1.2.0.zip", &module.zip),
    ] {
        fs::write(folder.join(name), body).unwrap();
    }
    net.tags("vanity.example/x", &["mod https://git.example/proxy"]);
    let server = net.start("");
    assert_eq!(get(&server, "/vanity.example/x/@v/list"), (200, "v1.2.0\n".to_owned()));
    let (status, body) = get(&server, "/vanity.example/x/@latest");
    assert!(status == 200 && body.contains("v1.2.0"), "{status} {body}");
    let (status, zip) = server.get("/vanity.example/x/@v/v1.2.0.zip");
    assert!(status == 200 && zip == module.zip, "{status} {}", String::from_utf8_lossy(&zip));
    let (status, body) = get(&server, "/vanity.example/x/@v/v1.3.0.info");
    assert_eq!(status, 404, "{body}");
    // The proxy of a tag is at a public address.
    let private = TcpListener::bind("127.0.0.2:0").unwrap();
    private.set_nonblocking(true).unwrap();
    net.tags("vanity.example/y", &[&format!("mod https://{}/proxy", private.local_addr().unwrap())]);
    let (status, body) = get(&server, "/vanity.example/y/@v/v1.0.0.info");
    assert!(status == 403 && body.contains("127.0.0.2, which is not a public address"), "{status} {body}");
    assert!(private.accept().is_err(), "it was reached");
    assert!(server.stop().success());
    // A rule about its place holds.
    let config = "[[module]]\npattern = 'git.example/proxy'\ndeny = ['*']\n";
    fs::remove_dir_all(net.world.path("store")).unwrap();
    let server = net.start_with("", config);
    let (status, body) = get(&server, "/vanity.example/x/@v/v1.2.0.zip");
    assert!(status == 403 && body.contains("a rule denies git.example/proxy"), "{status} {body}");
    assert!(server.stop().success());
}

fn other_tags() {
    let net = Net::new();
    let server = net.start("");
    for (tag, words) in [
        ("git http://git.example/open/x.git", "a URL of http instead of https"),
        ("git ssh://git@git.example/open/x.git", "a URL of ssh instead of https"),
        ("hg https://git.example/open/x", "names hg instead of git"),
        ("mod http://git.example/open", "a URL of http instead of https"),
    ] {
        net.tags("vanity.example/x", &[tag]);
        let (status, body) = get(&server, "/vanity.example/x/@v/v1.0.0.info");
        assert!(status == 403 && body.contains(words), "{tag}: {status} {body}");
    }
    let targets = net.targets();
    assert!(!targets.iter().any(|target| target.starts_with("git.example")), "{targets:?}");
    // The go command would ask a loopback address without any proxy.
    let (status, body) = get(&server, "/127.0.0.1/x/@v/list");
    assert!(status == 403 && body.contains("the host is an address"), "{status} {body}");
    assert!(server.stop().success());
}

fn denied() {
    let net = Net::new();
    net.repository("evil/x.git", "vanity.example/x", &["v1.0.0"]);
    net.tags("vanity.example/x", &["git https://git.example/evil/x.git"]);
    net.repository("evil/y.git", "vanity.example/y", &["v1.0.0"]);
    net.tags("vanity.example/y", &["git https://git.example/moved/y.git"]);
    let commit = net.world.git("evil-y.git", &["rev-parse", "HEAD"]);
    let config = "[[module]]\npattern = 'git.example/Evil/*'\ndeny = ['*']\n";
    for (private, reaches_it) in [("", false), ("vanity.example", true)] {
        let server = net.start_with(private, config);
        for path in ["list", "v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip", "main.info"] {
            let (status, body) = get(&server, &format!("/vanity.example/x/@v/{path}"));
            assert!(
                status == 403 && body.contains("a rule denies git.example/evil/x"),
                "{path}: {status} {body}"
            );
        }
        let is_reached = net.targets().iter().any(|target| target.starts_with("git.example"));
        assert_eq!(is_reached, reaches_it, "{private}");
        // Neither does a redirect lead to it, nor a clone that git made before it was noticed or in a run that failed.
        let (status, body) = get(&server, "/vanity.example/y/@v/abcdefabcdef.info");
        assert!(status == 403 || status == 404, "{status} {body}");
        net.pages.redirects.store(false, Ordering::SeqCst);
        let (status, body) = get(&server, "/vanity.example/y/@v/v1.0.0.zip");
        assert_eq!(status, 403, "a server that redirects once: {body}");
        net.pages.redirects.store(true, Ordering::SeqCst);
        for path in ["v1.0.0.zip", "v1.0.0.info", "list", &format!("{commit}.info")] {
            let (status, body) = get(&server, &format!("/vanity.example/y/@v/{path}"));
            assert!(
                status == 403 && body.contains("a rule denies git.example/evil/y"),
                "{path}: {status} {body}"
            );
        }
        assert_eq!(net.world.stored(), 0);
        assert!(server.stop().success());
    }
}

fn denied_versions() {
    let net = Net::new();
    net.repository("some/x.git", "vanity.example/x", &["v1.0.0", "v1.1.0"]);
    net.tags("vanity.example/x", &["git https://git.example/some/x.git"]);
    let config = "[[module]]\npattern = 'git.example/some'\ndeny = ['v1.1.0']\n";
    for private in ["", "vanity.example"] {
        let server = net.start_with(private, config);
        // The store has one of them after the first round.
        let (status, list) = get(&server, "/vanity.example/x/@v/list");
        assert_eq!((status, list.as_str()), (200, "v1.0.0\n"), "{private}");
        for path in ["v1.1.0.zip", "v1.1.0.info", "main.info"] {
            let (status, body) = get(&server, &format!("/vanity.example/x/@v/{path}"));
            assert!(
                status == 403 && body.contains("a rule denies git.example/some/x"),
                "{path}: {status} {body}"
            );
        }
        assert_eq!(get(&server, "/vanity.example/x/@v/v1.0.0.zip").0, 200);
        assert_eq!(net.world.stored(), 1);
        assert!(server.stop().success());
    }
}

/// A server redirects git only while it clones.
fn denied_versions_behind_a_redirect() {
    let net = Net::new();
    net.repository("evil/x.git", "vanity.example/x", &["v1.0.0", "v1.1.0"]);
    net.tags("vanity.example/x", &["git https://git.example/moved/x.git"]);
    let server = net.start_with("", "[[module]]\npattern = 'git.example/evil'\ndeny = ['v1.0.0']\n");
    assert_eq!(get(&server, "/vanity.example/x/@v/abcdefabcdef.info").0, 404);
    assert_eq!(get(&server, "/vanity.example/x/@v/v1.1.0.zip").0, 200);
    net.pages.redirects.store(false, Ordering::SeqCst);
    let (status, body) = get(&server, "/vanity.example/x/@v/v1.0.0.zip");
    assert!(status == 403 && body.contains("a rule denies git.example/evil/x"), "{status} {body}");
    assert_eq!(net.world.stored(), 1);
    assert!(server.stop().success());
}

/// A repository that was cloned with credentials is not given to a module that leads to it without.
fn clones() {
    let net = Net::new();
    net.repository("private/x.git", "private.example/x", &["v1.0.0"]);
    net.tags("private.example/x", &["git https://git.example/private/x.git"]);
    net.tags("vanity.example/x", &["git https://git.example/private/x.git"]);
    let server = net.start("private.example");
    assert_eq!(get(&server, "/private.example/x/@v/v1.0.0.zip").0, 200);
    let commit = net.world.git("private-x.git", &["rev-parse", "HEAD"]);
    for path in ["v1.0.0.zip", &format!("{commit}.info")] {
        let (status, body) = get(&server, &format!("/vanity.example/x/@v/{path}"));
        assert_eq!(status, 403, "{path}: {body}");
    }
    assert_eq!(net.world.stored(), 1);
    assert!(server.stop().success());
}

/// Puts a git of its own in front of the real one, and returns the value for `PATH`.
fn wrapped_git(world: &World, script: &str) -> String {
    let output = Command::new("sh").args(["-c", "command -v git"]).output().unwrap();
    let real = String::from_utf8(output.stdout).unwrap();
    let folder = world.path("wrapper");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("git");
    install_script(&path, &format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", real.trim()));
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

fn too_large() {
    let net = Net::new();
    net.tags("vanity.example/x", &["git https://git.example/open/x.git"]);
    let path = wrapped_git(&net.world, "head -c 3000000 /dev/zero > \"$TMPDIR/large\"; exec sleep 600");
    let log = net.world.path("log");
    let mut command = net.command("");
    command.env("PATH", path).args(["--direct-max-size", "1MiB"]).stderr(fs::File::create(&log).unwrap());
    let server = Server::start_with(&mut command);
    let (status, body) = get(&server, "/vanity.example/x/@v/v1.0.0.zip");
    assert_eq!(status, 502, "{body}");
    testkit::until("its commands are ended", || net.world.children().is_empty());
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("exceed the limit of 1048576 bytes (direct.max_size)"), "{log}");
    assert!(server.stop().success());
    assert_eq!(net.world.scratch(), Vec::<PathBuf>::new());
}

fn variables() {
    let net = Net::new();
    net.repository("open/x.git", "vanity.example/x", &["v1.0.0"]);
    net.tags("vanity.example/x", &["git https://git.example/open/x.git"]);
    let seen = net.world.path("seen");
    let path = wrapped_git(&net.world, &format!("env >> {}", seen.display()));
    for private in ["", "vanity.example"] {
        let _ = fs::remove_file(&seen);
        let mut command = net.command(private);
        command
            .env("PATH", &path)
            .env("STOA_GRACE", "20s")
            .env("SSH_AUTH_SOCK", "/agent")
            .env("TOKEN_OF_CI", "hidden");
        let server = Server::start_with(&mut command);
        assert_eq!(get(&server, "/vanity.example/x/@v/list").0, 200, "{private:?}");
        let seen: Vec<String> =
            BufReader::new(fs::File::open(&seen).unwrap()).lines().map(Result::unwrap).collect();
        let has = |start: &str| seen.iter().any(|line| line.starts_with(start));
        assert!(has("GOPROXY=direct") && has("DIRECT_RUN_OF_STOA=") && !has("STOA_"), "{seen:#?}");
        let is_covered = !private.is_empty();
        assert_eq!(has("SSH_AUTH_SOCK=/agent"), is_covered, "{seen:#?}");
        assert_eq!(has("TOKEN_OF_CI"), is_covered, "{seen:#?}");
        assert_eq!(has(&format!("HOME={}", net.world.path("home").display())), is_covered, "{seen:#?}");
        assert_eq!(has("GIT_ALLOW_PROTOCOL=https"), !is_covered, "{seen:#?}");
        assert_eq!(has("GIT_SSH_COMMAND=false"), !is_covered, "{seen:#?}");
        assert!(has("GIT_HTTP_LOW_SPEED_LIMIT=") && has("GIT_HTTP_LOW_SPEED_TIME="), "{seen:#?}");
        assert!(server.stop().success());
        fs::remove_dir_all(net.world.path("store")).unwrap();
    }
}
